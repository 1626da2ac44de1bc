"""The output grid of resampled spectra: rectified in wavelength and along the slit.

A builder makes a gwcs from the WCS of the exposure. :func:`build_tangent_plane` serves long slits
whose WCS goes straight to the sky (MIRI LRS). The grid depends on the WCS and its bounding box
only, never on pixel values.

Source of the algorithm: JWST pipeline documentation, "resample_spec".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from spec2fn.errors import InputError, ParameterError, UnsupportedModelError
from spec2fn.parameters import user_path
from spec2fn.units import ARCSEC2_TO_SR
from spec2fn.wcs.lower import box_of, lower

# An output nobody can want: fewer pixels along the slit, or more than so many to one of the input
# (or of a small image)
_FEWEST, _FINEST, _SMALL = 3, 64, 64

__all__ = [
    "OutputGrid",
    "SlitSamples",
    "box_region",
    "build_tangent_plane",
    "custom_grid",
    "evaluate",
    "evaluate_between",
    "is_celestial",
    "line",
    "load_custom_wcs",
    "sample_slit",
    "slit_region",
    "spatial_scale",
    "with_shape",
]


@dataclass(frozen=True)
class OutputGrid:
    """An output WCS and what is known of its pixels.

    Attributes
    ----------
    wcs : gwcs.WCS
        Pixel (x, y) to (right ascension, declination, wavelength).
    shape : tuple of int
        (y, x).
    ratio : float
        Input over output pixel size along the slit.
    area : float, optional
        Pixel area [sr]; None if that of the input is unknown.
    """

    wcs: Any
    shape: tuple[int, int]
    ratio: float
    area: float | None


@dataclass(frozen=True)
class SlitSamples:
    """World coordinates of the pixels that touch the bounding box of a slit.

    Attributes
    ----------
    origin : tuple of int
        (y, x) of the first pixel.
    box : tuple
        Bounding box ((x0, x1), (y0, y1)).
    ra, dec, wavelength : (y, x) float64
        World coordinates; NaN outside the bounding box. For a WCS that does not reach the sky
        the first two are whatever its first two world axes are.
    """

    origin: tuple[int, int]
    box: tuple[tuple[float, float], tuple[float, float]]
    ra: np.ndarray
    dec: np.ndarray
    wavelength: np.ndarray


def evaluate(wcs: Any, *coordinates: Any, inverse: bool = False) -> tuple[np.ndarray, ...]:
    """Evaluate a gwcs, or its inverse, without its bounding box.

    The lowered form is used where there is one; it agrees with gwcs to round-off.
    """
    coordinates = tuple(np.asarray(c, dtype=float) for c in coordinates)
    names = [getattr(f, "name", f) for f in wcs.available_frames]
    ends = (names[-1], names[0]) if inverse else (names[0], names[-1])
    with np.errstate(invalid="ignore"):
        try:
            out = lower(wcs, *ends)(*coordinates)
        except (UnsupportedModelError, NotImplementedError):
            if inverse:
                out = wcs.invert(*coordinates, with_bounding_box=False)
            else:
                out = wcs(*coordinates, with_bounding_box=False)
    shape = np.broadcast_shapes(*(c.shape for c in coordinates))
    return tuple(np.broadcast_to(np.asarray(v, dtype=float), shape) for v in out)


def evaluate_between(
    wcs: Any, from_frame: str | None, to_frame: str | None, *coordinates: Any
) -> tuple[np.ndarray, ...]:
    """Evaluate a gwcs between two of its frames (None: the first, the last), forwards.

    The lowered form is used where there is one; bounding boxes play no part.
    """
    names = [getattr(f, "name", f) for f in wcs.available_frames]
    ends = (from_frame or names[0], to_frame or names[-1])
    values = tuple(np.asarray(c, dtype=float) for c in coordinates)
    with np.errstate(invalid="ignore"):
        try:
            out = lower(wcs, *ends)(*values)
        except UnsupportedModelError:
            out = wcs.get_transform(*ends)(*values)
    return tuple(np.asarray(v, dtype=float) for v in out)


def bounds(wcs: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the bounding box of a gwcs as ((x0, x1), (y0, y1)), or else the extent of its array.

    Raises
    ------
    InputError
        If the WCS has neither.
    """
    box = box_of(wcs)
    if box is not None:
        return box
    if wcs.array_shape is None:
        msg = "resample_spec: the WCS has no bounding_box; assign_wcs sets one"
        raise InputError(msg)
    ny, nx = wcs.array_shape
    return (-0.5, nx - 0.5), (-0.5, ny - 0.5)


def sample_slit(wcs: Any) -> SlitSamples:
    """Evaluate a gwcs at all pixels that touch its bounding box."""
    box = bounds(wcs)
    # a limit on the border between two pixels belongs to the inner one
    x, y = (
        np.arange(math.floor(low + 0.5), max(math.floor(low + 0.5), math.ceil(high - 0.5)) + 1.0)
        for low, high in box
    )
    world = evaluate(wcs, x[None, :], y[:, None])
    (x0, x1), (y0, y1) = box
    inside = ((x >= x0) & (x <= x1))[None, :] & ((y >= y0) & (y <= y1))[:, None]
    ra, dec, wavelength = (np.where(inside, w, np.nan) for w in world)
    return SlitSamples((int(y[0]), int(x[0])), box, ra, dec, wavelength)


def is_celestial(wcs: Any) -> bool:
    """Whether the world coordinates of a spectral WCS include a position on the sky."""
    from gwcs.coordinate_frames import CelestialFrame

    frame = wcs.output_frame
    return any(isinstance(f, CelestialFrame) for f in getattr(frame, "frames", [frame]))


def spatial_scale(wcs: Any, dispaxis: int) -> float:
    """Return the size of a pixel along the slit at the centre of the bounding box [deg].

    Parameters
    ----------
    wcs : gwcs.WCS
    dispaxis : {1, 2}
        Dispersion along x or y.

    Returns
    -------
    float
        NaN if the centre has no position.
    """
    from astropy.coordinates import angular_separation

    (x0, x1), (y0, y1) = bounds(wcs)
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    step = (0.0, 1.0) if dispaxis == 1 else (1.0, 0.0)
    ra, dec, _ = evaluate(wcs, [cx, cx + step[0]], [cy, cy + step[1]])
    ra, dec = np.deg2rad(ra), np.deg2rad(dec)
    return float(np.rad2deg(angular_separation(ra[0], dec[0], ra[1], dec[1])))


def _unwrap(ra: np.ndarray) -> np.ndarray:
    # keep a slit across 0h in one piece
    middle = np.median(ra)
    return ra - 360.0 * np.round((ra - middle) / 360.0)


def line(values: np.ndarray, ratio: float) -> tuple[float, float]:
    """Slope and intercept of the least-squares line through values sampled every `ratio` pixels."""
    index = np.arange(values.size) * ratio
    slope, intercept = np.polyfit(index - index.mean(), values, 1)
    return float(slope), float(intercept - slope * index.mean())


def _wavelength_table(values: np.ndarray) -> Any:
    from astropy.modeling.models import Tabular1D

    pixels = np.arange(values.size)
    options: dict[str, Any] = {"bounds_error": False, "fill_value": None}
    table = Tabular1D(points=pixels, lookup_table=values, name="pix2wavelength", **options)
    # interpolation needs ascending points
    up = slice(None) if values[-1] > values[0] else slice(None, None, -1)
    table.inverse = Tabular1D(
        points=values[up], lookup_table=pixels[up], name="wavelength2pix", **options
    )
    return table


def build_tangent_plane(slit: SlitSamples, dispaxis: int, ratio: float, *, descending: bool) -> Any:
    """Return a gwcs that is linear along the slit and tabulates the wavelength of each row.

    Parameters
    ----------
    slit : SlitSamples
        Of the exposure: right ascension, declination [deg] and wavelength [um].
    dispaxis : {1, 2}
        Dispersion along x or y.
    ratio : float
        Input over output pixel size along the slit.
    descending : bool
        Whether wavelength falls with pixel number (as on the MIRI detector).

    Returns
    -------
    gwcs.WCS or None
        With bounding box and shape; None if no pixel has a wavelength.

    Notes
    -----
    The wavelength of an output row is the median over the input row. Positions on the sky are
    projected to the plane that touches the sky at the centre of the slit in the middle of the
    spectrum; a straight line through them there gives direction and pixel size.
    """
    from astropy.modeling.models import Linear1D, Mapping

    ra, dec, wavelength = slit.ra, slit.dec, slit.wavelength
    if dispaxis == 1:
        ra, dec, wavelength = ra.T, dec.T, wavelength.T
    has_wavelength = np.isfinite(wavelength).any(axis=1)
    on_sky = np.isfinite(ra) & np.isfinite(dec)
    low, high = slit.box[dispaxis - 1]
    middle = int((high - low) / 2)
    if not has_wavelength.any() or on_sky[middle].sum() < 2:
        return None
    waves = np.unique(np.nanmedian(wavelength[has_wavelength], axis=1))
    if waves.size < 2:
        return None
    if descending:
        waves = waves[::-1]

    row = on_sky[middle]
    centre = float(_unwrap(ra[middle, row]).mean()), float(dec[middle, row].mean())
    to_sky = _tangent_plane(*centre)
    tangent = np.full((2, *ra.shape), np.nan)
    tangent[:, on_sky] = to_sky.inverse(ra[on_sky], dec[on_sky])
    lines = [line(t[middle, row], ratio) for t in tangent]
    slopes = np.array([slope for slope, _ in lines])
    # the axis with the larger slope carries the inverse: the other may not vary at all
    main = int(abs(slopes[0]) < abs(slopes[1]))
    extent = np.nanmax(tangent[main]) - np.nanmin(tangent[main])
    n = rows_along(extent, slopes[main], ratio)
    along = Linear1D(slope=slopes[0], intercept=-0.5 * (n - 1) * slopes[0]) & Linear1D(
        slope=slopes[1], intercept=-0.5 * (n - 1) * slopes[1]
    )
    across = 1 if dispaxis == 1 else 0  # pixel axis along the slit: y or x
    mapping = Mapping((across, across, 1 - across))
    mapping.inverse = Mapping((main, 2) if across == 0 else (2, main))
    out = _sky_wcs(mapping | (along | to_sky) & _wavelength_table(waves))
    return with_shape(out, (n, waves.size) if dispaxis == 1 else (waves.size, n))


def _tangent_plane(ra: float, dec: float) -> Any:
    from astropy.modeling.models import Pix2Sky_TAN, RotateNative2Celestial

    return Pix2Sky_TAN() | RotateNative2Celestial(ra, dec, 180)


def _sky_wcs(transform: Any) -> Any:
    import astropy.units as u
    from astropy.coordinates import ICRS
    from gwcs import WCS
    from gwcs import coordinate_frames as cf

    detector = cf.Frame2D(name="detector", axes_order=(0, 1))
    sky = cf.CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=ICRS())
    spectral = cf.SpectralFrame(
        name="spectral", axes_order=(2,), unit=(u.micron,), axes_names=("wavelength",)
    )
    world = cf.CompositeFrame([sky, spectral], name="world")
    return WCS([(detector, transform), (world, None)])


def rows_along(extent: float, slope: float, ratio: float, extra: int = 0) -> int:
    """Number of output pixels along a slit.

    Parameters
    ----------
    extent, slope : float
        Of the slit and of a pixel, in the same units.
    ratio : float
        Input over output pixel size, at which the pixels of the input are counted.
    extra : int
        Pixels to be added.

    Raises
    ------
    ParameterError
        If nobody can want as few, or as many.
    """
    exact = extent / abs(slope)
    before = exact / ratio
    if not min(_FEWEST, before) <= exact <= _FINEST * max(before, _SMALL):
        msg = (
            f"resample_spec: output pixels of 1/{ratio:g} of an input pixel make {exact:.3g} pixels"
            f" along a slit of {before:.3g}; correct pixel_scale_ratio or pixel_scale"
        )
        raise ParameterError(msg)
    return math.ceil(exact) + extra


def check_size(shape: tuple[int, int], shape_in: tuple[int, int]) -> None:
    """Raise :class:`ParameterError` for an output that is much larger than the input."""
    if math.prod(shape) > _FINEST * max(math.prod(shape_in), _SMALL**2):
        msg = (
            f"resample_spec: an output of {shape[1]} x {shape[0]} pixels for an input of"
            f" {shape_in[1]} x {shape_in[0]}; correct output_shape or output_wcs"
        )
        raise ParameterError(msg)


def with_shape(wcs: Any, shape: tuple[int, int]) -> Any:
    """Set shape (y, x) and bounding box of a new gwcs; return it."""
    ny, nx = shape
    wcs.array_shape = (int(ny), int(nx))
    wcs.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return wcs


def load_custom_wcs(source: Any, output_shape: tuple[int, int] | None) -> dict[str, Any]:
    """Return the output WCS given by the user, with a shape, and what is said of its pixels.

    Parameters
    ----------
    source : str or gwcs.WCS
        A gwcs, or the path of an ASDF file that holds one under the key ``wcs`` and, optionally,
        ``pixel_scale`` [arcsec], ``pixel_area`` [arcsec2], ``pixel_shape`` (x, y) or
        ``array_shape`` (y, x).
    output_shape : tuple of int, optional
        (x, y); default is that of the WCS or the file, else the bounding box.

    Returns
    -------
    dict
        ``wcs``, a copy, and the other entries of the file.

    Raises
    ------
    InputError
        If the file cannot be read, holds no gwcs, or the WCS is not spectral.
    ParameterError
        If the size of the output cannot be found.
    """
    from copy import deepcopy

    tree = {"wcs": source} if not isinstance(source, str) else _read_wcs_file(source)
    wcs = deepcopy(tree["wcs"])
    axes = getattr(getattr(wcs, "output_frame", None), "axes_type", ())
    if len(axes) != 3 or "SPECTRAL" not in axes:
        msg = (
            "resample_spec: output_wcs must have three world axes, two of them spatial and one"
            f" spectral, found {tuple(axes) or type(wcs).__name__}"
        )
        raise InputError(msg)
    if output_shape is not None:
        wcs.array_shape = output_shape[::-1]
    elif wcs.array_shape is None:
        wcs.array_shape = _shape_of(tree, wcs)
    return {**tree, "wcs": wcs}


def custom_grid(
    source: Any,
    output_shape: tuple[int, int] | None,
    *,
    dispaxis: int,
    scale_in: float,
    area_in: float | None,
) -> OutputGrid:
    """Return the output grid given by the user.

    Parameters
    ----------
    source : str, gwcs.WCS or dict
        A dict comes from :func:`load_custom_wcs`, which describes the other two.
    output_shape : tuple of int, optional
        (x, y); see there.
    dispaxis : {1, 2}
        Dispersion along x or y.
    scale_in : float
        Size of an input pixel along the slit [deg].
    area_in : float, optional
        Nominal area of an input pixel [sr].

    Returns
    -------
    OutputGrid

    Raises
    ------
    InputError, ParameterError
        See :func:`load_custom_wcs`.
    """
    tree = source if isinstance(source, dict) else load_custom_wcs(source, output_shape)
    wcs = tree["wcs"]
    area, scale = tree.get("pixel_area"), tree.get("pixel_scale")
    if area is not None:
        area = float(area) * ARCSEC2_TO_SR
        ratio = area_in / area if area_in else 1.0
        return OutputGrid(wcs, tuple(wcs.array_shape), float(ratio), area)
    scale_out = float(scale) / 3600 if scale is not None else spatial_scale(wcs, dispaxis)
    ratio = scale_in / scale_out
    if not np.isfinite(ratio):
        return OutputGrid(wcs, tuple(wcs.array_shape), 1.0, None)
    return OutputGrid(
        wcs, tuple(wcs.array_shape), float(ratio), area_in / ratio if area_in else None
    )


def _read_wcs_file(path: str) -> dict[str, Any]:
    import asdf

    if not user_path(path).is_file():
        msg = f"resample_spec: output_wcs {path!r} is not a file; give the path of an ASDF file"
        raise InputError(msg)
    try:
        with asdf.open(user_path(path), memmap=False, lazy_load=False) as file:
            tree = dict(file.tree)
    except (OSError, ValueError) as error:
        msg = f"resample_spec: output_wcs {path!r} is not a readable ASDF file ({error})"
        raise InputError(msg) from error
    if "wcs" not in tree:
        msg = f"resample_spec: output_wcs {path!r} holds no WCS; store a gwcs under the key 'wcs'"
        raise InputError(msg)
    return tree


def _shape_of(tree: dict[str, Any], wcs: Any) -> tuple[int, int]:
    if tree.get("array_shape") is not None:
        ny, nx = tree["array_shape"]
    elif tree.get("pixel_shape") is not None:
        nx, ny = tree["pixel_shape"]
    else:
        box = box_of(wcs)
        if box is None:
            msg = (
                "resample_spec: the size of the output is unknown, because output_wcs has neither"
                " array_shape nor bounding_box; give output_shape=(x, y)"
            )
            raise ParameterError(msg)
        nx, ny = (int(high + 0.5) for _, high in box)
    return int(ny), int(nx)


def slit_region(region_in: str, wcs: Any) -> str | None:
    """Return the S_REGION of a resampled slit: its axis in the output, as wide as the slit was.

    Parameters
    ----------
    region_in : str
        S_REGION of the exposure, ``POLYGON ICRS ra1 dec1 … ra4 dec4`` [deg]; its shortest side
        is the width of the slit.
    wcs : gwcs.WCS
        Output WCS.

    Returns
    -------
    str or None
        None if there is no such polygon.
    """
    from astropy.coordinates import angular_separation, offset_by, position_angle

    numbers = [float(v) for v in region_in.split()[2:]]
    if len(numbers) < 8:
        return None
    ra, dec = np.deg2rad(np.reshape(numbers[:8], (4, 2))).T
    width = angular_separation(ra, dec, np.roll(ra, -1), np.roll(dec, -1)).min()
    slit = sample_slit(wcs)
    ends = [np.array([w[0, 0], w[-1, -1]]) for w in (slit.ra, slit.dec)]
    lon, lat = np.deg2rad(ends[0]), np.deg2rad(ends[1])
    across = _radians(position_angle(lon[0], lat[0], lon[1], lat[1])) - np.pi / 2
    corners = [(0, 1), (1, 1), (1, -1), (0, -1)]
    found = [offset_by(lon[i], lat[i], across, side * width / 2) for i, side in corners]
    # offset_by returns Quantities: plain degrees are wanted, right ascension from 0 to 360
    values = np.array([[_radians(a), _radians(b)] for a, b in found])
    values = np.rad2deg(values)
    values[:, 0] %= 360
    if not np.isfinite(values).all():
        return None
    return "POLYGON ICRS  " + " ".join(f"{v:.9f}" for v in values.ravel())


def box_region(ra: np.ndarray, dec: np.ndarray) -> str | None:
    """Return the S_REGION of the box in right ascension and declination around positions [deg]."""
    ra, dec = ra[np.isfinite(ra)], dec[np.isfinite(dec)]
    if not (ra.size and dec.size):
        return None
    ra = _unwrap(ra)
    east, west = ra.max() % 360, ra.min() % 360
    corners = ((west, dec.min()), (east, dec.min()), (east, dec.max()), (west, dec.max()))
    return "POLYGON ICRS  " + " ".join(f"{v:.9f}" for corner in corners for v in corner)


def _radians(angle: Any) -> float:
    return float(angle.to_value("rad")) if hasattr(angle, "to_value") else float(angle)
