"""The geometry of slitless spectra: of the exposure as arrays, and as gwcs for its products.

:class:`GrismGeometry` computes, for NumPy and JAX alike and for any number of sources at once;
the gwcs (:class:`GrismWcs` of an exposure, :class:`GrismSlits` of cut-outs) are made when somebody
asks for them, or when a product is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.deferred import DeferredWcs
from spec2fn.errors import InputError
from spec2fn.kernels.grism import (
    evaluate,
    field_coefficients,
    from_samples,
    rotated,
    solve,
    to_nearest_sample,
)
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Plan, array, labels
from spec2fn.typing import Array, HostArray, Number
from spec2fn.wcs.invert import invert
from spec2fn.wcs.lowered import Lowered

if TYPE_CHECKING:
    from astropy.modeling import Model
    from gwcs import WCS
    from gwcs.coordinate_frames import Frame2D

__all__ = [
    "MIRI",
    "NIRCAM",
    "NIRISS",
    "Approximation",
    "GrismGeometry",
    "GrismSlits",
    "GrismWcs",
    "Imaging",
    "constant",
]

_REFINEMENTS = 4  # the inverse of a distortion is good to 0.01 pixel, and Newton squares that
_CLOSE = 1e-9  # pixel


@dataclass(frozen=True, eq=False)
class Imaging:
    """The world coordinates of the undispersed image, in steps.

    Attributes
    ----------
    distortion, undistortion : Lowered
        From pixels (x, y) of the exposure to V2, V3 [arcsec], and roughly back.
    to_sky, from_sky : Lowered
        From there to right ascension and declination [deg], and back.
    """

    distortion: Lowered
    undistortion: Lowered
    to_sky: Lowered
    from_sky: Lowered


@dataclass(frozen=True)
class Approximation:
    """How a trace is inverted if not exactly.

    Attributes
    ----------
    samples : int
        Number of samples along the trace.
    extrapolate : bool
        Whether the samples are continued beyond both ends.
    between : bool
        Of a wavelength, too, the place is interpolated between samples.
    """

    samples: int
    extrapolate: bool
    between: bool = False


NIRISS = MIRI = Approximation(10, extrapolate=True)
NIRCAM = Approximation(40, extrapolate=False)
"""How the transforms of stdatamodels invert the traces of the instruments."""


class GrismGeometry(Plan):
    """Where the light of every source falls, order by order, and where it comes from.

    Pixels are zero-indexed in the exposure. Coordinates broadcast against each other: for many
    sources at once, give ``x0`` and ``y0`` the shape (source, 1, 1). For the orders see
    :mod:`spec2fn.kernels.grism`.

    Attributes
    ----------
    dx, dy : array (order, power, i, j)
        Coefficients of the offsets [pixel] from the source.
    wave : array (order, power, i, j)
        Coefficients of the wavelength [um] that the telescope sees.
    angle : array, ()
        By which the grism, and with it every trace, is turned counter-clockwise [deg].
    doppler : array, ()
        Wavelength at the barycentre over wavelength at the telescope.
    orders : tuple of int
    disp_axis : int
        1 if spectra run along x, 2 along y.
    origin : (float, float)
        Pixel of the exposure's first pixel (x, y) in the frame that the coefficients are given
        for.
    imaging : Imaging, optional
        Of traces alone, None.
    folded : tuple of bool
        Orders whose traces turn back along the dispersion, so that two wavelengths fall on a
        pixel: that one counts whose trace is nearer across the dispersion.
    source : array, (2,), optional
        Pixel (x0, y0) of the one source of a time series.
    turned : bool
        Whether `angle` counts.
    mirrored : bool
        :meth:`wavelength` turns the traces by the negative angle, unlike :meth:`disperse`.
    approximation : Approximation, optional
        Traces and distortion are inverted by what follows instead of exactly.
    inverse_wave : array (order, power, i, j), optional
        Coefficients of t in the wavelength.
    inverse_along : array (order, power, i, j), optional
        Coefficients of t in the offset along the dispersion.
    """

    dx: Array = array("order power _ _")
    dy: Array = array("order power _ _")
    wave: Array = array("order _ _ _")
    angle: Array = array("")
    doppler: Array = array("")
    orders: tuple[int, ...] = labels("order")
    folded: tuple[bool, ...] = labels("order")
    disp_axis: int
    origin: tuple[float, float]
    imaging: Imaging | None
    source: Array | None = array("2", default=None)
    turned: bool = False
    mirrored: bool = False
    approximation: Approximation | None = None
    inverse_wave: Array | None = array("order _ _ _", default=None)
    inverse_along: Array | None = array("order _ _ _", default=None)

    def index(self, order: int) -> int:
        """Return the position of an order in the arrays.

        Raises
        ------
        InputError
            If the reference ``specwcs`` does not know it.
        """
        if order not in self.orders:
            listed = ", ".join(map(str, sorted(self.orders)))
            msg = (
                f"spectral order {order} is not among those of the reference 'specwcs' ({listed});"
                " ask for one of these"
            )
            raise InputError(msg)
        return self.orders.index(order)

    def detector_to_world(self, x: Number, y: Number) -> tuple[Array, Array]:
        """Return right ascension and declination [deg] of pixels of the undispersed image."""
        assert self.imaging is not None
        ra, dec = self.imaging.to_sky(*self.imaging.distortion(x, y))
        return ra, dec

    def world_to_detector(self, ra: Number, dec: Number) -> tuple[Array, Array]:
        """Return the pixels (x, y) of the undispersed image at which places [deg] are seen."""
        assert self.imaging is not None
        v2v3 = self.imaging.from_sky(ra, dec)
        guess = self.imaging.undistortion(*v2v3)
        if self.approximation is not None:
            return guess[0], guess[1]
        x, y = invert(
            self.imaging.distortion, v2v3, guess, iterations=_REFINEMENTS, tolerance=_CLOSE
        )
        return x, y

    def disperse(
        self, x0: Number, y0: Number, wavelength: Number, order: int
    ) -> tuple[Array, Array]:
        """Return the pixels to which an order sends light.

        Parameters
        ----------
        x0, y0 : array or float
            Pixel of the undispersed image.
        wavelength : array or float
            At the barycentre [um].
        order : int

        Returns
        -------
        x, y : array
            NaN where no trace has the wavelength.

        Raises
        ------
        InputError
            For an order that is not known.
        """
        k, at = self.index(order), self._field(x0, y0)
        observed = wavelength / self.doppler
        wave = field_coefficients(self.wave[k], *at)
        if self.approximation is None:
            t = solve(wave, observed)
        elif self.inverse_wave is not None:
            t = evaluate(field_coefficients(self.inverse_wave[k], *at), observed)
        elif self.approximation.between:
            t = from_samples(wave, observed, self.approximation.samples, extrapolate=False)
        else:
            t = to_nearest_sample(wave, observed, self.approximation.samples)
        dx, dy = self._offsets(k, at, self.angle)
        return x0 + evaluate(dx, t), y0 + evaluate(dy, t)

    def wavelength(self, x: Number, y: Number, x0: Number, y0: Number, order: int) -> Array:
        """Return the wavelength of the light of a source at pixels.

        Parameters
        ----------
        x, y : array or float
            Pixels. Only the coordinate along the dispersion counts, but for folded orders.
        x0, y0 : array or float
            Pixel of the source in the undispersed image.
        order : int

        Returns
        -------
        array
            At the barycentre [um]; NaN where the trace does not reach.

        Raises
        ------
        InputError
            For an order that is not known.
        """
        k, at = self.index(order), self._field(x0, y0)
        dx, dy = self._offsets(k, at, -self.angle if self.mirrored else self.angle)
        sides = ((dx, x - x0), (dy, y - y0))
        along, offset = sides[self.disp_axis - 1]
        if self.approximation is None:
            t = solve(along, offset)
            if self.folded[k]:
                t = _nearer(t, solve(along, offset, turned_back=True), *sides[2 - self.disp_axis])
        elif self.inverse_along is not None:
            t = evaluate(field_coefficients(self.inverse_along[k], *at), offset)
        else:
            how = self.approximation
            t = from_samples(along, offset, how.samples, extrapolate=how.extrapolate)
        return self.doppler * evaluate(field_coefficients(self.wave[k], *at), t)

    def _field(self, x0: Number, y0: Number) -> tuple[Array, Array]:
        return np.asarray(self.origin[0]) + x0, np.asarray(self.origin[1]) + y0

    def _offsets(
        self, k: int, at: tuple[Array, Array], angle: Array
    ) -> tuple[Sequence[Array], Sequence[Array]]:
        dx, dy = (field_coefficients(c[k], *at) for c in (self.dx, self.dy))
        return rotated(dx, dy, angle) if self.turned else (dx, dy)


def _nearer(t: Array, other: Array, across: Sequence[Array], offset: Array) -> Array:
    """Return the t, of two or one, at which a trace is nearer to an offset."""
    xp = array_namespace(t, other)
    far, near = (abs(evaluate(across, one) - offset) for one in (t, other))
    return xp.where(xp.isnan(t) | (near < far), other, t)


class GrismWcs(DeferredWcs):
    """Stands for the gwcs of an exposure, and knows its geometry.

    Parameters
    ----------
    geometry : GrismGeometry
    make : callable
        Returns the gwcs: (x, y, x0, y0, order), or (x, y, order) of a time series, to (RA, Dec,
        wavelength, order).
    """

    def __init__(self, geometry: GrismGeometry, make: Callable[[], WCS]) -> None:
        super().__init__(make)
        self.geometry = geometry

    def window(self, start: tuple[int, int], shape: tuple[int, int], order: int) -> GrismWcs:
        """Return the gwcs of (x, y) in a cut-out of a time series.

        Parameters
        ----------
        start : (int, int)
            Zero-indexed first pixel (x, y).
        shape : (int, int)
            Rows and columns.
        order : int
        """
        return GrismWcs(self.geometry, lambda: _window(self.load(), start, shape, order))


def constant(value: float) -> Model:
    """Make the model that gives a number, there and back."""
    from astropy.modeling.models import Const1D

    model = Const1D(value)
    model.inverse = Const1D(value)
    return model


def _box(shape: tuple[float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    return (-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5)


def _window(full: WCS, start: tuple[int, int], shape: tuple[int, int], order: int) -> WCS:
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Mapping as Inputs
    from astropy.modeling.models import Shift
    from gwcs.wcs import WCS

    first, *rest = full.pipeline
    shifts = Shift(start[0]) & Shift(start[1])
    model = Inputs((0, 1, 0)) | shifts & constant(order) | first.transform
    bind_bounding_box(model, _box(shape), order="F")
    return WCS([(first.frame, model), *((step.frame, step.transform) for step in rest)])


class GrismSlits(Mapping[int, "WCS"]):
    """The gwcs of cut-outs of sources by id: (x, y) to (RA, Dec, wavelength, order).

    Parameters
    ----------
    full : GrismWcs
        Of the exposure.
    ids : sequence of int
    start, size : int array, shape (slit, 2)
        Zero-indexed first pixel (x, y) of the cut-outs in the exposure, and number of pixels.
    source : float array, shape (slit, 2)
        Pixel (x0, y0) of the source in the undispersed image.
    order : int array, shape (slit,)
    """

    def __init__(  # noqa: PLR0917 - a table, column by column
        self,
        full: GrismWcs,
        ids: Sequence[int],
        start: HostArray,
        size: HostArray,
        source: HostArray,
        order: HostArray,
    ) -> None:
        self.full = full
        self.geometry = full.geometry
        numbers = np.column_stack([start, source, order, size - 0.5]).astype(float)
        self._numbers = dict(zip(map(int, ids), numbers, strict=True))
        self._built: dict[int, DeferredWcs] = {}

    def __getitem__(self, key: int) -> WCS:
        return self.deferred(key).load()

    def deferred(self, key: int) -> DeferredWcs:
        """Return what stands for the gwcs of a cut-out until it is made.

        Raises
        ------
        KeyError
            If there is no such cut-out.
        """
        if key not in self._built:
            numbers = tuple(map(float, self._numbers[key]))
            self._built[key] = DeferredWcs(self._make, numbers, ("trace", self.full))
        return self._built[key]

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def _make(self, *numbers: float) -> WCS:
        from astropy.modeling import bind_bounding_box
        from astropy.modeling.models import Mapping as Inputs
        from astropy.modeling.models import Shift
        from gwcs.wcs import WCS

        *start, x0, y0, order, x_edge, y_edge = numbers
        model = Inputs((0, 1, 0, 0, 0)) | Shift(start[0]) & Shift(start[1]) & constant(
            x0
        ) & constant(y0) & constant(order)
        bind_bounding_box(model, ((-0.5, x_edge), (-0.5, y_edge)), order="F")
        steps = self.full.load().pipeline
        return WCS([(_slit_frame(steps[0].frame), model), *((s.frame, s.transform) for s in steps)])


def _slit_frame(detector: Frame2D) -> Frame2D:
    from gwcs.coordinate_frames import Frame2D

    return Frame2D(
        name="grism_slit",
        axes_order=detector.axes_order,
        unit=detector.unit,
        axes_names=detector.axes_names,
    )
