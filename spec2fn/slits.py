"""Many slits of different sizes as a few padded stacks.

Compiling one program per slit shape costs more than the work itself, and padding all slits to
the largest wastes memory, so slits of similar size share a *bucket*: one Dataset with dims
``(slit, [integration,] y, x)``, padded at the upper ends with NaN and
``DO_NOT_USE | NON_SCIENCE``. Whatever differs from slit to slit is a variable on ``slit``; the
coordinate ``slit`` is a stable integer id (the position in the product), so that sorting and
selecting cannot misalign anything. ``ysize`` and ``xsize`` hold the true size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, Spec2fnError, nearest
from spec2fn.pieces import Pieces, freeze
from spec2fn.schema import VARIANCES, with_problems
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "PADDING",
    "Slits",
    "apply_by_slit",
    "as_one_slit",
    "padding",
    "strings",
]

PADDING = PIXEL["DO_NOT_USE"] | PIXEL["NON_SCIENCE"]


@dataclass(frozen=True, eq=False)
class Slits(Pieces):
    """An immutable collection of slits in padded buckets.

    Attributes
    ----------
    buckets : tuple of xarray.Dataset
        dims ``(slit, [integration,] y, x)``, coordinate ``slit``, all with the attributes of the
        exposure. Every slit has ``slit_name`` (str), ``xsize`` and ``ysize`` (int).
    """

    buckets: tuple[xr.Dataset, ...]
    of_slits: ClassVar[bool] = True

    def __len__(self) -> int:
        return sum(b.sizes["slit"] for b in self.buckets)

    @property
    def pieces(self) -> tuple[xr.Dataset, ...]:
        """The buckets."""
        return self.buckets

    def with_pieces(self, pieces: tuple[xr.Dataset, ...]) -> Slits:
        """Return the slits of other buckets."""
        return Slits(pieces)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the slits, in the order of the product."""
        return tuple(sorted(int(i) for b in self.buckets for i in b["slit"].values))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the slits, in the order of the product."""
        return tuple(str(n) for n in self.variable("slit_name"))

    def variable(self, name: str) -> HostArray:
        """Values of a variable on ``slit`` alone, in the order of the product."""
        ids = np.concatenate([b["slit"].values for b in self.buckets])
        values = np.concatenate([np.asarray(b[name].data) for b in self.buckets])
        return np.asarray(values[np.argsort(ids, kind="stable")])

    @property
    def problems(self) -> dict[str, str]:
        """Why single slits are lost, by name (the variable ``slit_problem``)."""
        return self._texts("slit_problem")

    @property
    def warnings(self) -> dict[str, str]:
        """What is to be known of slits that go on, by name (the variable ``slit_warning``)."""
        return self._texts("slit_warning")

    def _texts(self, variable: str) -> dict[str, str]:
        held = Slits(tuple(b for b in self.buckets if variable in b))
        if not held.buckets:
            return {}
        texts = zip(held.names, held.variable(variable), strict=True)
        return {name: str(text) for name, text in texts if str(text)}

    @property
    def dims(self) -> tuple[str, ...]:
        """Dims of the pixels, from the outermost."""
        return tuple(map(str, self.buckets[0]["sci"].dims)) if self.buckets else ()

    def slit(self, key: int | str) -> xr.Dataset:
        """Return one slit by id or name, cut to its true size: dims ``([integration,] y, x)``.

        Raises
        ------
        InputError
            If there is no such slit.
        """
        number = isinstance(key, int | np.integer)
        for bucket in self.buckets:
            (places,) = np.nonzero(bucket["slit" if number else "slit_name"].values == key)
            if places.size:
                one = bucket.isel(slit=int(places[0]))
                return one.isel(y=slice(int(one["ysize"])), x=slice(int(one["xsize"])))
        known = self.ids if number else self.names
        msg = f"no slit {key!r}{nearest(str(key), known)}; there are {', '.join(map(str, known))}"
        raise InputError(msg)

    def __iter__(self) -> Iterator[xr.Dataset]:
        """Iterate over the slits in the order of the product, each cut to its true size."""
        for i in self.ids:
            yield self.slit(i)

    def where(self, keep: Callable[[xr.Dataset], Any]) -> Slits:
        """Return the slits for which ``keep(bucket)`` is true (a boolean array on ``slit``)."""
        kept = []
        for bucket in self.buckets:
            mask = np.asarray(keep(bucket), dtype=bool)
            if mask.any():
                kept.append(bucket if mask.all() else bucket.isel(slit=np.flatnonzero(mask)))
        return freeze(Slits(tuple(kept)), self)

    def select(self, names: Iterable[str] = (), source_ids: Iterable[int] = ()) -> Slits:
        """Return the slits with one of these names or source ids; cost is that of the selection.

        Raises
        ------
        InputError
            If a name or an id does not exist.
        """
        wanted, numbers = [str(n) for n in names], [int(i) for i in source_ids]
        for name in wanted:
            if name not in self.names:
                self.slit(name)
        known = self.variable("source_id") if numbers else np.empty(0)
        for number in numbers:
            if number not in known:
                msg = f"no slit holds source {number}; there are {sorted({int(k) for k in known})}"
                raise InputError(msg)

        def keep(bucket: xr.Dataset) -> HostArray:
            mask = np.isin(bucket["slit_name"].values.astype(str), wanted)
            return mask | np.isin(bucket["source_id"].values, numbers) if numbers else mask

        return self.where(keep)

    def join(self, other: Slits) -> Slits:
        """Return these slits and those of `other`, which must not share an id."""
        if set(self.ids) & set(other.ids):
            msg = f"slits to be joined share ids {sorted(set(self.ids) & set(other.ids))}"
            raise DatasetError(msg)
        return Slits((*self.buckets, *other.buckets))

    def tree(self) -> xr.DataTree:
        """Return an :class:`xarray.DataTree` with one node per slit, for looking around."""
        import xarray as xr

        return xr.DataTree.from_dict({str(s["slit_name"].item()): s for s in self})


def as_one_slit(ds: xr.Dataset, names: tuple[str, ...]) -> xr.Dataset:
    """Return planes of an exposure as a bucket with a single slit, which shares their memory.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure, dims ``([integration,] y, x)``.
    names : tuple of str
        The variables to take, as far as there are any.
    """
    planes = {n: ds.variables[n] for n in names if n in ds}
    return ds.drop_vars(list(ds.variables)).assign(
        {n: (("slit", *v.dims), v.data[None], v.attrs) for n, v in planes.items()}
    )


def padding(name: str, dtype: np.dtype[Any]) -> np.generic:
    """Return what a variable of a bucket has beyond a slit: NaN, :data:`PADDING` of dq, or 0."""
    fill = np.nan if dtype.kind == "f" else PADDING if name == "dq" else 0
    value: np.generic = dtype.type(fill)
    return value


def strings(ds: xr.Dataset, name: str) -> list[str]:
    """Return a text variable on ``slit`` (empty texts if there is none)."""
    if name not in ds:
        return [""] * ds.sizes["slit"]
    return [str(v).strip() for v in ds[name].values]


def apply_by_slit(function: Callable[[xr.Dataset], xr.Dataset], slits: Slits) -> Slits | None:
    """Apply a function to slits, without those on which it fails.

    Parameters
    ----------
    function : callable
        Takes and returns a bucket, of whatever slits.
    slits : Slits

    Returns
    -------
    Slits or None
        Slits on which the function fails have NaN for everything that it changes or adds, are
        flagged DO_NOT_USE, and their ``slit_problem`` says why; each is a bucket of its own. None
        if it fails on every slit.

    Raises
    ------
    Spec2fnError
        What the function raises of this kind concerns the input as a whole.
    """
    done: list[xr.Dataset] = []
    failed: list[tuple[xr.Dataset, str]] = []
    for bucket in slits.buckets:
        try:
            done.append(function(bucket))
        except Spec2fnError:
            raise
        except Exception:
            fine = []
            for i in range(bucket.sizes["slit"]):
                one = bucket.isel(slit=[i])
                try:
                    function(one)
                except Exception as error:
                    text = " ".join(str(error).split())
                    failed.append((one, f"{type(error).__name__}: {text}".rstrip(": ")))
                else:
                    fine.append(i)
            if fine:
                done.append(function(bucket.isel(slit=fine)))
    if not done:
        return None
    return Slits((*done, *(_given_up(one, done[0], text) for one, text in failed)))


def _given_up(one: xr.Dataset, model: xr.Dataset, problem: str) -> xr.Dataset:
    """A slit on which a step failed, with all the variables that it should have."""
    new: dict[str, Any] = {}
    sizes = {**model.sizes, **one.sizes}
    for name, var in model.data_vars.items():
        if name in one and one[name].dims == var.dims:
            continue
        kind = var.dtype.kind
        fill: Any = np.nan if kind == "f" else "" if kind == "U" else 0
        shape = tuple(sizes[d] for d in var.dims)
        new[str(name)] = (var.dims, np.full(shape, fill, var.dtype), dict(var.attrs))
    for name in ("sci", "err", *VARIANCES):
        if name in one:
            var = one[name]
            new[name] = (var.dims, np.full(var.shape, np.nan, var.dtype), dict(model[name].attrs))
    new["dq"] = (one["dq"].dims, one["dq"].values | np.uint32(PIXEL["DO_NOT_USE"]))
    attrs = {**model.attrs, "meta": one.attrs["meta"]} if "meta" in one.attrs else model.attrs
    return with_problems(one.assign(new).assign_attrs(attrs), [problem])
