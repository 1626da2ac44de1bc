"""The rectified grid of a slit that a lamp shines through: wavelength along x, offset along y.

Light of a lamp has no place on the sky, so that nothing is projected: rows are places in the plane
of the MSA.

Source of the algorithm: JWST pipeline documentation, "resample_spec" and "NIRSpec Lamp Exposures".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.deferred import DeferredWcs
from spec2fn.kernels.interpolation_linear import interpolate1d
from spec2fn.typing import Array, HostArray, Number
from spec2fn.wcs.frames import plane, spectral, world
from spec2fn.wcs.tangent_grid import (
    column_wavelengths,
    line,
    middle_column,
    rows_along,
    with_shape,
)

if TYPE_CHECKING:
    from gwcs import WCS

__all__ = ["MsaGrid", "build_msa_grid"]


@dataclass(frozen=True, eq=False)
class MsaGrid:
    """A grid that is linear along the slit and tabulated in wavelength.

    Attributes
    ----------
    slope, intercept : tuple of float
        Of the two coordinates in the plane of the MSA [m], per output row.
    main : {0, 1}
        The coordinate that varies more along the slit.
    wavelength : (x,) float64
        Ascending wavelengths of the columns [um].
    rows : int
    """

    slope: tuple[float, float]
    intercept: tuple[float, float]
    main: int
    wavelength: HostArray
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.wavelength.size

    def pixels(self, x_msa: HostArray, y_msa: HostArray, wavelength: HostArray) -> HostArray:
        """Return x and y (stacked in front) of places in the plane of the MSA [m] and wavelengths.

        Columns and rows are extrapolated; NaN of NaN.
        """
        columns = np.arange(self.wavelength.size, dtype=np.float64)
        along = (x_msa, y_msa)[self.main]
        row = (along - self.intercept[self.main]) / self.slope[self.main]
        return np.stack([interpolate1d(self.wavelength, columns, wavelength), row])

    def world(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Return the place in the plane of the MSA [m] and the wavelength [um] of pixels."""
        columns = np.arange(self.wavelength.size, dtype=np.float64)
        x_msa, y_msa = (a + b * y for a, b in zip(self.intercept, self.slope, strict=True))
        return x_msa, y_msa, interpolate1d(columns, self.wavelength, x)

    def sized(self, output_shape: tuple[int, int] | None) -> MsaGrid | WCS:
        """Return this grid, or the gwcs for an output of (x, y) pixels if this is not None."""
        return self if output_shape is None else with_shape(self.gwcs(), output_shape[::-1])

    def gwcs(self) -> WCS:
        """Build the gwcs: frames ``detector`` and ``world``."""
        return self.deferred().load()

    def deferred(self) -> DeferredWcs:
        """Return what stands for the gwcs until it is made."""
        return DeferredWcs(self._build)

    def _build(self) -> WCS:
        from astropy import units
        from astropy.modeling.models import Const1D, Linear1D, Mapping, Tabular1D
        from gwcs import WCS

        columns = np.arange(self.wavelength.size, dtype=np.float64)
        free: dict[str, Number | None] = {"bounds_error": False, "fill_value": None}
        dispersion = Tabular1D(points=columns, lookup_table=self.wavelength, **free)
        dispersion.inverse = Tabular1D(points=self.wavelength, lookup_table=columns, **free)
        x, y = (
            Linear1D(slope=slope, intercept=start)
            for slope, start in zip(self.slope, self.intercept, strict=True)
        )
        for model, slope in zip((x, y), self.slope, strict=True):
            if not slope:
                model.inverse = Const1D(0.0)
        pick = Mapping((1, 1, 0))
        # the inverse takes the coordinate that varies more: the other may not vary at all
        pick.inverse = Mapping((2, self.main))
        place = plane("resampled_msa_frame", units.m, ("x_msa", "y_msa"))
        steps = [(plane("detector"), pick | x & y & dispersion), (world(spectral(), place), None)]
        return with_shape(WCS(steps), self.shape)


def build_msa_grid(world: Sequence[HostArray], ratio: float = 1.0) -> MsaGrid | str:
    """Return the rectified grid of a slit, or why there is none.

    Parameters
    ----------
    world : tuple of (y, x) float64
        Place in the plane of the MSA [m] and wavelength [um] of the pixels; NaN outside.
    ratio : float
        Input over output pixel size along the slit.

    Returns
    -------
    MsaGrid or str

    Raises
    ------
    ParameterError
        If nobody can want pixels of this size.

    Notes
    -----
    The columns have the median wavelengths of the columns of the exposure, the rows are those of a
    straight line through the places of the column in the middle.
    """
    *place, wavelength = world
    known = np.isfinite(wavelength) & np.isfinite(place[0]) & np.isfinite(place[1])
    middle = middle_column(known, known.shape[1] // 2)
    if middle is None:
        return "no column has places from which a direction could be found"
    here = known[:, middle]
    lines = [line(p[here, middle], ratio) for p in place]
    slope = (lines[0][0], lines[1][0])
    if not any(slope):
        return "all pixels look at the same place"
    waves = column_wavelengths(wavelength, known)
    if waves.size < 2:
        return "fewer than two columns have a wavelength"
    return MsaGrid(
        slope=slope,
        intercept=(lines[0][1], lines[1][1]),
        main=int(abs(slope[0]) < abs(slope[1])),
        wavelength=waves,
        rows=rows_along(float(here.sum() * ratio), 1.0, ratio),
    )
