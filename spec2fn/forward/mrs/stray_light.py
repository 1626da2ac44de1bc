"""The linear operator of the light that the MRS detector scatters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.kernels.straylight import cross_artifact, row_profiles
from spec2fn.plans.background.straylight import COLUMNS, plan_straylight
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["StrayLight", "stray_light"]

_EDGE = 4  # reference columns, which see no light


@dataclass(frozen=True, eq=False)
class StrayLight:
    """Light of an image that the MRS detector scatters along its rows, added to it.

    The inverse of what ``straylight`` subtracts, to the order of the series.

    Attributes
    ----------
    halves : tuple of (slice, array)
        Columns of the sources of a channel, and the transform of their profile.
    order : int
        Times that light is scattered.
    """

    halves: tuple[tuple[slice, Array], ...]
    order: int = 4

    def __call__(self, image: Array) -> Array:
        """Add the scattered light, image (..., y, x) [DN/s]."""
        return self._series(self._scattered, image)

    def T(self, image: Array) -> Array:  # noqa: N802 - the name arrays use for it
        """Apply the adjoint: image → image."""
        return self._series(self._scattered_adjoint, image)

    def _series(self, scatter: Callable[[Array], Array], image: Array) -> Array:
        total = image
        for _ in range(self.order):
            total = image + scatter(total)
        return total

    def _scattered(self, image: Array) -> Array:
        return self._inner(image) * cross_artifact(image, self.halves)

    def _scattered_adjoint(self, image: Array) -> Array:
        # profiles are even, so that only the order of the masks changes
        seen = self._inner(image) * image
        whole = slice(0, image.shape[-1])
        out = 0.0 * image
        for columns, profile in self.halves:
            part = cross_artifact(seen, [(whole, profile)])
            out = out + self._mask(image, columns) * part
        return out

    @staticmethod
    def _mask(image: Array, columns: slice) -> Array:
        xp = array_namespace(image)
        place = np.arange(image.shape[-1])
        inside = (place >= columns.start) & (place < columns.stop)
        return xp.asarray(inside, dtype=image.dtype)

    def _inner(self, image: Array) -> Array:
        return self._mask(image, slice(_EDGE, image.shape[-1] - _EDGE))


def stray_light(ds: xr.Dataset, mrsxartcorr: xr.Dataset) -> StrayLight:
    """Build the operator of the scattered light of an MRS exposure, of any pixel values."""
    plan = plan_straylight(ds, mrsxartcorr)
    width = ds["sci"].shape[-1]
    halves = []
    for table, first, stop in plan.halves:
        columns = {
            c: np.asarray(mrsxartcorr[f"{table}.{c}"].data).astype(np.float64) for c in COLUMNS
        }
        halves.append((slice(first, stop), row_profiles(**columns, width=width)))
    return StrayLight(tuple(halves))
