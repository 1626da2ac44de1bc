"""Slices of the NIRSpec IFU at any position of a pixel: corners and edges as well as centres.

What ``assign_wcs`` has made is used if it is there; of an exposure read from a file the transforms
are those of its gwcs.
"""

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

    from spec2fn.wcs.assign.nirspec_ifu import SliceBatch

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
    _batch: SliceBatch | None = None
    _lowered: dict[int, Lowered] = field(default_factory=dict)
    _split: dict[int, tuple[Lowered, Lowered]] = field(default_factory=dict)

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
        if self._batch is not None:
            x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
            return self._batch.slicer_frame(np.array(number - 1), x, y)
        if number not in self._lowered:
            self._lowered[number] = lower(self._wcs.pipeline[1].transform.selector[number])
        return self._lowered[number](x, y)

    def slit_frame(self, number: int, x: HostArray, y: HostArray) -> tuple[HostArray, ...]:
        """Position along a slice and wavelength of pixels.

        Parameters
        ----------
        number : int
        x, y : array
            Zero-indexed pixels, which need not be whole.

        Returns
        -------
        along, wavelength : arrays
            In units of the slice's length from its middle, and in m; NaN outside the slice.

        Raises
        ------
        DatasetError
            If the transform of the slice does not pass such a frame.
        """
        if self._batch is not None:
            x, y = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float))
            return self._batch.slit_frame(np.array(number - 1), x, y)
        _, along, wavelength = self._parts(number)[0](x, y)
        return along, wavelength

    def slit_to_slicer(
        self, number: int, along: HostArray, wavelength: HostArray
    ) -> tuple[HostArray, ...]:
        """Position in the plane of the slicer and wavelength of positions along a slice.

        Parameters
        ----------
        number : int
        along, wavelength : array
            From :meth:`slit_frame`.

        Returns
        -------
        across, along, wavelength : arrays
            In m; what :meth:`slicer` gives.
        """
        middle = np.zeros_like(along)
        if self._batch is not None:
            return (*self._batch.msa(np.array(number - 1), middle, along), wavelength)
        return self._parts(number)[1](middle, along, wavelength)

    def _parts(self, number: int) -> tuple[Lowered, Lowered]:
        """Transforms of a slice from pixels to its frame, and on to the plane of the slicer."""
        if number not in self._split:
            whole = self._wcs.pipeline[1].transform.selector[number]
            inner = getattr(whole, "left", whole)
            if getattr(whole, "op", "") != "|" or tuple(inner.outputs)[:2] != _SLIT_FRAME:
                msg = f"the WCS of slice {number} has no frame of the slice; run assign_wcs again"
                raise DatasetError(msg)
            self._split[number] = lower(inner), lower(whole.right)
        return self._split[number]

    @cached_property
    def _sky(self) -> Lowered:
        return lower(self._wcs, "slicer", "world")

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
    meta = meta_of(ds)
    wcs = meta.wcs
    steps: list[Any] = list(getattr(wcs, "pipeline", ()))
    selector = getattr(steps[1].transform, "selector", None) if len(steps) > 1 else None
    if selector is None:
        msg = "the exposure has no WCS that selects slices; run assign_wcs without slice numbers"
        raise DatasetError(msg)
    numbers = tuple(sorted(int(k) for k in selector))
    boxes = {k: box_of(selector[k]) for k in numbers}
    return IfuSlices(numbers, boxes, wcs, meta.records.get("slices"))
