"""The extensions of a product of many slits, and of a time series through one.

A product of many slits holds the extensions of one slit after those of the other; EXTVER counts
the slits. What an exposure has in common stands in the first SCI header; what the pipeline of the
observatory keeps by slit is repeated in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spec2fn.deferred import as_deferred
from spec2fn.errors import DatasetError
from spec2fn.io.fits.extents import (
    EXTRA_PLANES,
    HDUS,
    Extent,
    extra_cards,
    int_times,
    plane_extent,
)
from spec2fn.io.fits.headers import (
    card,
    cutting_comments,
    heading,
    image_cards,
    is_structure,
    join_sections,
    spectral_range,
    split_sections,
    value_at,
)
from spec2fn.io.fits.keywords import (
    ONLY_MSA,
    PHOTOMETRY,
    SCIENCE_ORDER,
    SLIT_KEYWORDS,
    SLIT_SECTIONS,
)
from spec2fn.modes import mode_of
from spec2fn.schema import AREA, FIXED_SLIT_QUADRANT, SCALARS, meta_of
from spec2fn.slits import Slits
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ordered_wcs", "single_slit", "slit_extents"]

# planes of some slits only: they are NaN in the others
_SOME = (
    "flatfield_point", "flatfield_uniform", "pathloss_ps", "pathloss_un", "photom_point",
    "photom_uniform",
)  # fmt: skip
_REPEATED = {k for keywords in SLIT_SECTIONS.values() for k in keywords}


def single_slit(product: xr.Dataset | Slits) -> xr.Dataset | Slits:
    """Return the one slit of a time series as a Dataset without ``slit``; others as they are.

    A Dataset may be a bucket of slits; without any slit this is a :class:`DatasetError`.
    """
    if not isinstance(product, Slits):
        if "sci" not in product or "slit" not in product.variables["sci"].dims:
            return product
        product = Slits((product,))
    if not len(product):
        raise DatasetError("a product without a slit cannot be written; select at least one slit")
    attrs = product.attrs
    series = mode_of(product).one_slit or attrs.get("model") == "SlitModel"
    if len(product) > 1 or not series:
        return product.assign_attrs({"model": "MultiSlitModel"})
    ds = next(iter(product))
    empty = [n for n in _SOME if n in ds and np.isnan(ds.variables[n].values).all()]
    ds = ds.drop_vars(["slit", *empty], errors="ignore").assign_attrs(model="SlitModel")
    if "bunit" in ds:
        for name in ("sci", "err"):
            ds[name] = ds[name].assign_attrs(units=str(ds["bunit"].values))
    meta = meta_of(ds)
    return ds.assign_attrs(meta=meta.replace(wcs=next(iter(ordered_wcs(product)), None)))


def ordered_wcs(slits: Slits) -> list[Any]:
    """Return the gwcs (or None) of every slit in the order of the product."""
    found: dict[int, Any] = {}
    for bucket in slits.buckets:
        # a step that changes the gwcs of its slits changes those of its own bucket
        wcs = meta_of(bucket).wcs
        for i in map(int, bucket["slit"].values):
            one = wcs if len(slits) == 1 else None
            found[i] = as_deferred(wcs, i) if hasattr(wcs, "keys") else one
    return [found[i] for i in slits.ids]


def slit_extents(slits: Slits, integrations: int | None) -> list[Extent]:
    """Lay out a product of many slits with so many integrations (None: no such dimension).

    Which planes a slit has depends on their content: a correction that is NaN all over a slit has
    not been applied to it.
    """
    first = slits.buckets[0]
    out: list[Extent] = []
    place = {
        int(i): (b, k)
        for b, ds in enumerate(slits.buckets)
        for k, i in enumerate(ds["slit"].values)
    }
    with cutting_comments():
        headers = _Headers(first)
        for version, slit in enumerate(slits.ids, 1):
            b, k = place[slit]
            out += _slit(slits.buckets[b], _Place(b, k, version), integrations, headers)
    times = int_times(first, integrations)
    if times is not None:
        data = times.data
        out.append(replace(times, data=lambda part, rows: data(part.buckets[0], rows)))
    return out


class _Place(NamedTuple):
    """Where a slit stands: bucket, position in the bucket, EXTVER."""

    bucket: int
    k: int
    version: int


def _slit(
    ds: xr.Dataset, place: _Place, integrations: int | None, headers: _Headers
) -> Iterator[Extent]:
    k = place.k
    size = (int(ds.variables["ysize"].values[k]), int(ds.variables["xsize"].values[k]))
    # pixels of the cut-out come first in a product of many slits, then their quality
    names = list(dict.fromkeys(("sci", "dq", "err", *HDUS)))
    names.insert(names.index("wavelength") + 1, AREA)
    for name in names:
        if name == AREA:
            # of the whole detector, which the first slit brings along
            if AREA in ds and place.version == 1:
                yield _area(ds, place, headers)
            continue
        hdu = HDUS[name]
        if name in EXTRA_PLANES and place.version > 1:
            # stdatamodels keeps one extension of each name that its schemas do not know
            hdu = f"{hdu}_{place.version}"
        if name in ds and _applies(ds, name, k, size):
            yield _plane(ds, (name, hdu), place, integrations, headers)


def _area(ds: xr.Dataset, place: _Place, headers: _Headers) -> Extent:
    var = ds.variables[AREA]

    def header(stored: str, shape: tuple[int, ...]) -> list[str]:
        return headers.plane("AREA", place.version, stored, shape, "")

    def values(part: Slits, _rows: slice) -> HostArray:
        return np.asarray(part.buckets[place.bucket].variables[AREA].values)

    return plane_extent(AREA, var.dims, var.shape, var.dtype, None, header=header, values=values)


def _applies(ds: xr.Dataset, name: str, k: int, size: tuple[int, int]) -> bool:
    if name == "barshadow":
        return (
            "quadrant" not in ds or int(ds.variables["quadrant"].values[k]) != FIXED_SLIT_QUADRANT
        )
    if name not in _SOME:
        return True
    return not np.isnan(ds.variables[name].values[k, ..., : size[0], : size[1]]).all()


def _plane(
    ds: xr.Dataset,
    named: tuple[str, str],
    place: _Place,
    integrations: int | None,
    headers: _Headers,
) -> Extent:
    (name, hdu), (b, k, version) = named, place
    var = ds.variables[name]
    dims = var.dims[1:]
    true = {d: int(ds.variables[f"{d}size"].values[k]) for d in ("y", "x")}
    shape = tuple(true.get(str(d), ds.sizes[d]) for d in dims)
    cut = tuple(slice(true.get(str(d))) for d in dims)

    def header(stored: str, shape: tuple[int, ...]) -> list[str]:
        if name == "sci":
            return headers.science(ds, k, version, stored, shape)
        texts = headers.plane(hdu, version, stored, shape, _unit(ds, k) if name == "err" else "")
        extra = extra_cards(dims, var.attrs) if name in EXTRA_PLANES else []
        return [*texts, *(c.image for c in extra)]

    def values(part: Slits, rows: slice) -> HostArray:
        return np.asarray(part.buckets[b].variables[name].values[k])[cut][rows]

    return plane_extent(name, dims, shape, var.dtype, integrations, header=header, values=values)


def _unit(ds: xr.Dataset, k: int) -> str:
    if "bunit" in ds:
        return str(ds.variables["bunit"].values[k])
    return str(ds.variables["sci"].attrs.get("units", ""))


class _Headers:
    """Headers of the slits of a product; cards that many of them share are formatted once."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._images: dict[tuple[str, str, str], str] = {}
        self._headings = {t: [c.image for c in heading(t)] for t in SLIT_SECTIONS}
        # sources without slits have but what is said of each
        self._repeats = mode_of(ds).layout != "traces"
        meta = meta_of(ds)
        kept = [] if meta.science is None else list(meta.science.cards)
        kept = [c for c in kept if not is_structure(c.keyword)]
        common = [c for c in kept if c.keyword in _REPEATED]
        self._common = {c.keyword: (c.value, c.comment, c.image) for c in common}
        own = {*_REPEATED, *SLIT_KEYWORDS, "BUNIT", "EXTNAME", "EXTVER"}
        kind = ds.attrs.get("source_type")
        # with a type of its own the exposure has that keyword where it stands
        own -= {"SRCTYPE"} if kind else set()
        mine = [c for c in kept if c.keyword not in own]
        mine = [card("SRCTYPE", kind, c.comment) if c.keyword == "SRCTYPE" else c for c in mine]
        self._early = any(c.keyword == "SRCTYPE" for c in mine)
        self._exposure = [c.image for c in join_sections(split_sections(mine))]

    def _card(self, keyword: str, value: object, comment: str = "") -> str:
        if hasattr(value, "dtype"):
            value = np.asarray(value).item()
        key = (keyword, repr(value), comment)
        image = self._images.get(key)
        if image is None:
            image = self._images[key] = card(keyword, value, comment).image
        return image

    def plane(
        self, hdu: str, version: int, stored: str, shape: tuple[int, ...], unit: str
    ) -> list[str]:
        """Cards of a plane that carries no metadata of its own."""
        out = image_cards(hdu, stored, shape, make=self._card)
        out[-1] = self._card("EXTVER", version, "extension value")
        if unit:
            out.append(self._card("BUNIT", unit, SCIENCE_ORDER["BUNIT"][0]))
        return out

    def science(
        self, ds: xr.Dataset, k: int, version: int, stored: str, shape: tuple[int, ...]
    ) -> list[str]:
        """Cards of the SCI header of slit `k` of a bucket."""
        *out, last = self.plane("SCI", version, stored, shape, "")
        early = version == 1 and self._early
        if version == 1:
            out += self._exposure
        out.append(last)
        for keyword, value in _slit_values(ds, k).items():
            if keyword == "SRCTYPE" and early:
                place = next(i for i, text in enumerate(out) if text.startswith("SRCTYPE "))
                out[place] = self._card(keyword, value, SLIT_KEYWORDS[keyword][1])
                continue
            out.append(self._card(keyword, value, SLIT_KEYWORDS[keyword][1]))
        unit = _unit(ds, k)
        if unit:
            out.append(self._card("BUNIT", unit, SCIENCE_ORDER["BUNIT"][0]))
        values = _repeated_values(ds, k)
        for title, keywords in SLIT_SECTIONS.items():
            section = [t for t in (self._repeated(n, values) for n in keywords) if t]
            if section:
                out += [*self._headings[title], *section]
        return out

    def _repeated(self, keyword: str, values: dict[str, Any]) -> str:
        old, comment, image = self._common.get(keyword, (None, None, ""))
        value = values.get(keyword)
        if value is None:
            # what is known of one slit does not hold for another
            return image if self._repeats and keyword not in _BY_SLIT else ""
        if type(old) is type(value) and old == value:
            return image
        if comment is None:
            comment = SCIENCE_ORDER.get(keyword, ("", ""))[0]
        return self._card(keyword, value, comment)


_BY_SLIT = (*(SCALARS[name].keyword for name in PHOTOMETRY), "S_REGION")


def _slit_values(ds: xr.Dataset, k: int) -> dict[str, Any]:
    """Keywords of a slit."""
    msa = bool(value_at(ds, "shutter_state", k))
    sky = ("SRCRA", "SRCDEC") if mode_of(ds).layout == "traces" else ()
    fixed = value_at(ds, "quadrant", k) in (None, FIXED_SLIT_QUADRANT)
    out = {}
    for keyword, (name, _) in SLIT_KEYWORDS.items():
        if (keyword in ONLY_MSA and not msa and keyword not in sky) or (
            keyword == "BARSHDW" and fixed
        ):
            continue
        value = value_at(ds, f"cutout_{name}", k) if keyword.startswith("SLTSIZE") else None
        value = value_at(ds, name, k) if value is None else value
        unknown = (keyword, value) in {("SRCTYPE", "UNKNOWN"), ("MSAQUAD", 0)}
        if value is not None and not unknown:
            out[keyword] = value
    return out


def _repeated_values(ds: xr.Dataset, k: int) -> dict[str, Any]:
    out = {
        "S_REGION": value_at(ds, "s_region", k),
        "DISPAXIS": ds.attrs.get("dispaxis"),
        "SPECSYS": ds.attrs.get("specsys"),
        **spectral_range(ds),
    }
    order = value_at(ds, "spectral_order", k)
    out |= {} if order is None else {"SPORDER": order}
    for name in PHOTOMETRY:
        out[SCALARS[name].keyword] = value_at(ds, name, k)
    return {n: None if v is None else np.asarray(v).item() for n, v in out.items()}
