"""Host-side half of the wavelength correction of sources that are not centred in their slits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.contents import numbers
from spec2fn.errors import ReferenceError
from spec2fn.kernels.slit_corrections import offsets_at
from spec2fn.modes import mode_of
from spec2fn.plan_base import Plan, array, labels
from spec2fn.plans.slits.slit_frame import chosen_types, is_point
from spec2fn.plans.slits.slit_planes import slit_planes
from spec2fn.schema import described, meta_of
from spec2fn.slits import strings
from spec2fn.typing import Array, HostArray
from spec2fn.wcs.frames import spectral, within_slit

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = ["WavecorrPlan", "corrected_wcs", "is_corrected", "plan_wavecorr"]

_LOG = logging.getLogger("spec2fn.slits")


class WavecorrPlan(Plan):
    """Tables of wavelength and its offset by detector column, one for each slit.

    Attributes
    ----------
    applies : array of bool, shape (slit,)
        Slits to be corrected.
    count : array of int, shape (slit,)
        Valid length of the tables.
    points : array of float64, shape (slit, n)
        Mean wavelength of each detector column that has one [m].
    dispersion : array of float64, shape (slit, n)
        Mean width of a pixel there [m].
    offsets : array of float64, shape (slit, n, m)
        Shift of the wavelength in pixels, at each point and position of the source.
    positions : array of float64, shape (slit, m)
        Positions of the source across the slit, in units of its width.
    index : array of int32, shape (slit, y, x)
        Lower end of the cell of `points` each pixel is in.
    left_alone : tuple of str
        By slit: why it is not corrected; empty where it is.
    warnings : tuple of str, optional
        By slit: why it could not be evaluated; None if all could.
    """

    applies: Array = array("slit")
    count: Array = array("slit")
    points: Array = array("slit knot")
    dispersion: Array = array("slit knot")
    offsets: Array = array("slit knot place")
    positions: Array = array("slit place")
    index: Array = array("slit y x")
    left_alone: tuple[str, ...] = labels("slit")
    warnings: tuple[str, ...] | None = labels("slit", default=None)


def plan_wavecorr(ds: xr.Dataset, reference: xr.Dataset) -> WavecorrPlan:
    """Tabulate the zero-point offsets of the point sources in a bucket of slits.

    A slit is left alone if its source is no POINT, has no position, its aperture is not in the
    reference, or the corrected wavelengths would not increase along the detector.

    Parameters
    ----------
    ds : xarray.Dataset
        Bucket with ``wavelength`` [um], ``source_xpos``, ``source_type``, ``slit_name``.
    reference : xarray.Dataset
        With the tree of the reference: ``apertures``, each with ``aperture_name`` and a
        two-dimensional table ``zero_point_offset`` of wavelength [m] and position.

    Raises
    ------
    DatasetError
        If the Dataset holds no WCS of slits.
    ReferenceError
        If the reference holds no apertures.
    """
    tables = _apertures(reference)
    fixed = mode_of(ds).fixed_slits
    names = strings(ds, "slit_name")
    keys = names if fixed else ["MOS"] * len(names)
    position = np.asarray(ds["source_xpos"].data, dtype=np.float64)
    types = chosen_types(ds, None)
    left_alone = [
        f"the source is {kind or 'of unknown type'}, the correction is for POINT"
        if kind != "POINT"
        else f"no aperture {key!r} in the reference"
        if key not in tables
        else ""
        if np.isfinite(x)
        else "no source position"
        for kind, key, x in zip(types, keys, position, strict=True)
    ]
    wanted = np.array([not why for why in left_alone], dtype=bool)

    _, edges, problems = slit_planes(ds, wanted, "wavecorr", between_columns=True)
    width = _mean_of_rows(np.diff(edges, axis=-1))
    centre = _mean_of_rows(np.asarray(ds["wavelength"].data)) * 1e-6

    n, m = ds.sizes["x"], max((len(t[1]) for t in tables.values()), default=2)
    plan = _neutral(ds, max(n, 2), m, tuple(problems))
    for i in np.flatnonzero(wanted).tolist():
        if problems[i]:
            left_alone[i] = problems[i]
            continue
        valid = np.isfinite(centre[i]) & np.isfinite(width[i])
        points = centre[i, valid]
        if len(points) < 2 or np.any(np.diff(points) <= 0):
            left_alone[i] = "no ascending wavelengths"
            continue
        _fill(plan, i, points, width[i, valid], tables[keys[i]])
        one = slice(i, i + 1)
        shift = offsets_at(plan.offsets[one], plan.positions[one], position[one])[0, : len(points)]
        if not np.all(np.diff(points + shift * width[i, valid]) > 0):
            left_alone[i] = "not invertible"
            continue
        plan.applies[i] = True
        wave = np.asarray(ds["wavelength"].data[i]) * 1e-6
        cell = np.searchsorted(points, wave, side="right") - 1
        plan.index[i] = np.where(np.isfinite(wave), np.clip(cell, 0, len(points) - 2), 0)
    for i in np.flatnonzero(is_point(types)).tolist():
        if left_alone[i] and not problems[i]:
            _LOG.warning("wavecorr: slit %s is not corrected: %s", names[i], left_alone[i])
    return replace(plan, left_alone=tuple(left_alone))


def is_corrected(ds: xr.Dataset) -> bool:
    """Whether the wavelengths of a slit in the bucket have been corrected already."""
    if "wavelength_corrected" in ds and bool(np.any(np.asarray(ds["wavelength_corrected"].data))):
        return True
    from spec2fn.wcs.assign.nirspec import SlitWcs

    wcs = meta_of(ds).wcs
    ids = [int(i) for i in ds["slit"].values]
    if isinstance(wcs, SlitWcs):
        ids = [i for i in ids if i in wcs.changes]  # to look at the others, they would be built
    known = [wcs.get(i) for i in ids] if isinstance(wcs, Mapping) else []
    return any("wavecorr_frame" in getattr(w, "available_frames", ()) for w in known)


def corrected_wcs(wcs: WCS, points: HostArray, values: HostArray) -> WCS:
    """Return a slit's gwcs with a correction of the wavelength after ``slit_frame``.

    Parameters
    ----------
    wcs : gwcs.WCS
        With a frame ``slit_frame`` (x, y, wavelength [m]). Not modified.
    points, values : array of float64, shape (n,)
        Wavelength and corrected wavelength [m]; both strictly ascending. Beyond the table it is
        extrapolated.

    Returns
    -------
    gwcs.WCS
        With a further frame ``wavecorr_frame``.
    """
    from astropy.modeling.models import Identity, Tabular1D
    from gwcs import WCS

    table = Tabular1D(
        points=points,
        lookup_table=values,
        bounds_error=False,
        fill_value=None,
        name="wave2wavecorr",
    )
    corrected = within_slit("wavecorr_frame", spectral())
    steps: list[tuple[Any, Any]] = []
    for part in wcs.pipeline:
        if part.frame.name == "slit_frame":
            steps += [(part.frame, Identity(2) & table), (corrected, part.transform)]
        else:
            steps.append((part.frame, part.transform))
    return WCS(steps, name=wcs.name)


class WavelengthChange:
    """The function ``gwcs -> gwcs`` of :func:`corrected_wcs` for a table of wavelengths."""

    def __init__(self, points: HostArray, values: HostArray) -> None:
        self.kind, self.numbers = type(self), (points, values)

    def __call__(self, wcs: WCS) -> WCS:
        """Return the corrected gwcs."""
        return corrected_wcs(wcs, *self.numbers)


def _apertures(reference: xr.Dataset) -> dict[str, tuple[HostArray, HostArray, HostArray]]:
    tree = reference.attrs.get("tree")
    listed = tree.get("apertures") if isinstance(tree, Mapping) else None
    if not listed:
        msg = (
            "wavecorr: the reference holds no apertures; an ASDF file with a list 'apertures' of"
            " zero-point offsets is needed"
        )
        raise ReferenceError(msg)
    out: dict[str, tuple[HostArray, HostArray, HostArray]] = {}
    for i, aperture in enumerate(listed):
        where = f"wavecorr: {described(reference)}: aperture {i}"
        known = isinstance(aperture, Mapping) and "aperture_name" in aperture
        model: Any = aperture.get("zero_point_offset") if known else None
        if not hasattr(model, "points") or not hasattr(model, "lookup_table"):
            msg = f"{where} needs a name and a table 'zero_point_offset'; use another reference"
            raise ReferenceError(msg)
        wave, position = (numbers(p, f"{where}: a grid", 1) for p in model.points)
        # the first of a name counts
        table = np.asarray(model.lookup_table, dtype=np.float64)
        out.setdefault(str(aperture["aperture_name"]), (wave, position, table))
    return out


def _mean_of_rows(planes: HostArray) -> HostArray:
    finite = np.isfinite(planes)
    number = finite.sum(axis=-2)
    total = np.where(finite, planes, 0.0).sum(axis=-2)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _neutral(ds: xr.Dataset, n: int, m: int, problems: tuple[str, ...]) -> WavecorrPlan:
    # ascending tables that shift nothing, so that slits left alone have finite gradients
    slits = ds.sizes["slit"]
    return WavecorrPlan(
        applies=np.zeros(slits, dtype=bool),
        count=np.zeros(slits, dtype=np.int64),
        points=np.tile(np.arange(n, dtype=np.float64), (slits, 1)),
        dispersion=np.zeros((slits, n)),
        offsets=np.zeros((slits, n, m)),
        positions=np.tile(np.arange(m, dtype=np.float64), (slits, 1)),
        index=np.zeros((slits, ds.sizes["y"], ds.sizes["x"]), dtype=np.int32),
        left_alone=("",) * len(problems),
        warnings=problems if any(problems) else None,
    )


def _fill(
    plan: WavecorrPlan, i: int, points: HostArray, width: HostArray, table: tuple[HostArray, ...]
) -> None:
    wave, position, offset = table
    k, m, n = len(points), len(position), plan.points.shape[1]
    cell = np.clip(np.searchsorted(wave, points, side="right") - 1, 0, len(wave) - 2)
    t = ((points - wave[cell]) / (wave[cell + 1] - wave[cell]))[:, None]
    rows = offset[cell] + t * (offset[cell + 1] - offset[cell])
    plan.count[i] = k
    plan.points[i, :k], plan.dispersion[i, :k] = points, width
    step = points[-1] - points[-2]
    plan.points[i, k:] = points[-1] + step * np.arange(1, n - k + 1)
    plan.offsets[i, :k, :m], plan.positions[i, :m] = rows, position
    # positions beyond the end of a shorter table: what extrapolating its last cell gives
    extra = np.arange(1, plan.positions.shape[1] - m + 1)
    plan.positions[i, m:] = position[-1] + (position[-1] - position[-2]) * extra
    plan.offsets[i, :k, m:] = rows[:, -1:] + (rows[:, -1:] - rows[:, -2:-1]) * extra
