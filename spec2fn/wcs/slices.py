"""Slices of the NIRSpec IFU at any position of a pixel: corners and edges as well as centres."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import DatasetError
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.wcs.lower import Box, box_of, lower
from spec2fn.wcs.lowered import Lowered

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

__all__ = ["IfuSlices", "ifu_slices"]

_SLIT_FRAME = ("x_slit", "y_slit")


@dataclass(frozen=True, eq=False)
class IfuSlices:
    """The transforms of the slices of a NIRSpec IFU exposure.

    Attributes
    ----------
    numbers : tuple of int
        Slices on the detector, as in ``slice_id`` (from 1).
    boxes : mapping of int to ((x_min, x_max), (y_min, y_max))
        Their bounding boxes.
    """

    numbers: tuple[int, ...]
    boxes: dict[int, Box | None]
    _wcs: WCS
    _lowered: dict[int, Lowered] = field(default_factory=dict)

    def slicer(self, number: int, x: HostArray, y: HostArray) -> tuple[HostArray, ...]:
        """Position in the plane of the slicer and wavelength of pixels of a slice.

        Parameters
        ----------
        number : int
        x, y : array
            Zero-indexed pixels, which need not be whole.

        Returns
        -------
        across, along, wavelength : arrays
            In m; NaN outside the slice.
        """
        if number not in self._lowered:
            self._lowered[number] = lower(self._transform(number))
        return self._lowered[number](x, y)

    def located(
        self, number: int, x: HostArray, y: HostArray
    ) -> tuple[HostArray, tuple[HostArray, ...]]:
        """Position along a slice, in units of its length from its middle, and :meth:`slicer`.

        Raises
        ------
        DatasetError
            If the transform of the slice does not pass such a frame.
        """
        whole = self._transform(number)
        inner = getattr(whole, "left", whole)
        if getattr(whole, "op", "") != "|" or tuple(inner.outputs)[:2] != _SLIT_FRAME:
            msg = f"the WCS of slice {number} has no frame of the slice; run assign_wcs again"
            raise DatasetError(msg)
        _, along, wavelength = lower(inner)(x, y)
        return along, lower(whole.right)(np.zeros_like(along), along, wavelength)

    def world(
        self, across: HostArray, along: HostArray, wavelength: HostArray
    ) -> tuple[HostArray, ...]:
        """Right ascension, declination [deg] and wavelength [um] of positions in the slicer.

        Parameters
        ----------
        across, along, wavelength : array
            In m, from :meth:`slicer`; `across` may be moved within the width of a slice.
        """
        return self._sky(across, along, wavelength)

    @cached_property
    def _sky(self) -> Lowered:
        return lower(self._wcs, "slicer", "world")

    def _transform(self, number: int) -> Any:  # noqa: ANN401 - models of astropy have no types
        return self._wcs.pipeline[1].transform.selector[number]


def ifu_slices(ds: xr.Dataset) -> IfuSlices:
    """Return the transforms of the slices of a NIRSpec IFU exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        After ``assign_wcs``; also read from a file.

    Raises
    ------
    DatasetError
        If the exposure has no gwcs of the IFU.
    """
    wcs = meta_of(ds).wcs
    steps: list[Any] = list(getattr(wcs, "pipeline", ()))
    selector = getattr(steps[1].transform, "selector", None) if len(steps) > 1 else None
    if selector is None:
        msg = "the exposure has no WCS that selects slices; run assign_wcs without slice numbers"
        raise DatasetError(msg)
    numbers = tuple(sorted(int(k) for k in selector))
    return IfuSlices(numbers, {k: box_of(selector[k]) for k in numbers}, wcs)
