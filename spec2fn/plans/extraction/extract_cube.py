"""Host-side half of ``extract_1d`` for cubes: where the apertures are, and their corrections.

A point source is summed in a circle and its background in an annulus, whose radii follow the
``extract1d`` reference in wavelength; an extended source is the whole field of view. See the JWST
pipeline documentation (https://jwst-pipeline.readthedocs.io, "Extraction for 3D IFU data").
Nothing in a plan but an automatic centre depends on the values of spaxels, and that looks at the
first integration alone, so that one plan serves every chunk of integrations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from spec2fn.contents import number, numbers, truth
from spec2fn.errors import DatasetError, ParameterError, ReferenceError
from spec2fn.host.star_finder import brightest_source
from spec2fn.kernels.sphere import to_cartesian
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters
from spec2fn.plan_base import Plan, array
from spec2fn.plans.extraction.source_location import aperture_angle
from spec2fn.schema import described, is_calibrated, meta_of
from spec2fn.typing import Array, HostArray, Number

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike

__all__ = ["CubeExtractionPlan", "plan_cube"]

_LOG = logging.getLogger("spec2fn.extract_1d")
_DIM_BEYOND = 26.0  # [um]; hardly any light arrives at the MRS, so a source is not sought there
_CLIP = 3.0  # sigma clipping of the image a source is sought in


class CubeExtractionPlan(Plan):
    """Apertures of every plane of a cube.

    Attributes
    ----------
    centre : array of float64, (2,)
        Position x, y of the source [pixel], zero-indexed. The weights of the spaxels are computed
        from it and from the radii when the plan is applied, so that the spectrum can be
        differentiated with respect to them.
    radius, inner, outer : array of float64, (wave,), optional
        Of the aperture and the annulus [pixel]; none of an extended source. A plane whose annulus
        is not usable has zero for both radii.
    correction : array of float64, (wave,), optional
        Aperture correction.
    wavelength : array of float64, (wave,)
        [um]
    position : array of float64, (2,)
        Right ascension and declination of the middle of the cube [deg].
    angle : array of float64, (1,), optional
        Position angle of the aperture [deg].
    source_type : {"POINT", "EXTENDED"}
    name : str
        What the spectrum is called.
    subpixels : int
        0 for exact overlaps, else subpixels per side of a spaxel.
    sigma_clip : float
        Spaxels farther from the clipped mean have no part in the background.
    covar_scale : float
        Factor on the errors for the covariance of neighbouring spaxels.
    fringes : int
        MRS channel whose residual fringes are removed from the spectrum; 0 for none.
    calibrated : bool
        Whether the data are in MJy/sr.
    warnings : tuple of str
    """

    extracts_from: ClassVar[str] = "cube"
    centre: Array = array("2")
    radius: Array | None = array("wave")
    inner: Array | None = array("wave")
    outer: Array | None = array("wave")
    correction: Array | None = array("wave")
    wavelength: Array = array("wave")
    position: Array = array("2")
    angle: Array | None = array("1")
    source_type: str
    name: str
    subpixels: int
    sigma_clip: float
    covar_scale: float
    fringes: int
    calibrated: bool
    warnings: tuple[str, ...] = ()


def plan_cube(
    ds: xr.Dataset,
    extract1d: xr.Dataset | None,
    apcorr: xr.Dataset | None,
    params: Parameters,
) -> CubeExtractionPlan:
    """Place the apertures in a cube, for which point sources need the ``extract1d`` reference.

    The cube has ``sci`` with dims ([integration,] wave, y, x), ``wavelength`` (wave) [um], and
    ``meta.wcs`` from x, y, plane to right ascension, declination, wavelength.

    Raises
    ------
    DatasetError
        If wavelengths or the size of spaxels are missing.
    ReferenceError
        If a point source has no usable ``extract1d`` reference.
    """
    if "wavelength" not in ds or ds["wavelength"].dims != ("wave",):
        msg = "extract_1d: a cube needs its wavelengths, variable 'wavelength' on dim 'wave'"
        raise DatasetError(msg)
    wavelength = np.asarray(ds["wavelength"].values, dtype=np.float64)
    if not np.isfinite(wavelength).all():
        msg = "extract_1d: some wavelengths of the cube are not finite; build it on another grid"
        raise DatasetError(msg)
    source_type = _source_type(ds, params)
    if is_calibrated(ds) and "pixar_sr" not in ds:
        msg = (
            "extract_1d: the cube does not say which solid angle a spaxel covers; set the"
            " variable 'pixar_sr' [sr] (keyword PIXAR_SR)"
        )
        raise DatasetError(msg)
    ny, nx = (ds.sizes[d] for d in ("y", "x"))
    position = _sky(ds, nx / 2.0, ny / 2.0)
    radius = inner = outer = correction = None
    subpixels = 0
    warnings: tuple[str, ...] = ()
    centre = (nx / 2.0 - 0.5, ny / 2.0 - 0.5)
    if source_type == "POINT":
        if extract1d is None:
            msg = (
                "extract_1d: a point source needs an extract1d reference with the radii of its"
                " aperture, found none; give one, or treat the source as EXTENDED"
            )
            raise ReferenceError(msg)
        _tree(extract1d, "data")
        subpixels = _subpixels(extract1d)
        scale = _spaxel_size(ds)
        radius, inner, outer = _radii(ds, extract1d, wavelength, scale, params)
        wanted = params.subtract_background
        if wanted is None:
            meta = extract1d.attrs["tree"].get("meta", {})
            wanted = truth(
                meta.get("subtract_background"),
                f"extract_1d: {described(extract1d)}: 'meta.subtract_background'",
            )
        if not wanted:
            inner = outer = None
        if params.apply_apcorr and apcorr is not None:
            correction = _correction(apcorr, wavelength, radius, scale)
        centre, warnings = _centre(ds, params)
    return CubeExtractionPlan(
        centre=np.array(centre, dtype=np.float64),
        radius=radius,
        inner=inner,
        outer=outer,
        correction=correction,
        wavelength=wavelength,
        position=position,
        angle=aperture_angle(ds),
        source_type=source_type,
        name=str(ds.attrs.get("exp_type", "")),
        subpixels=subpixels,
        sigma_clip=params.bkg_sigma_clip,
        covar_scale=params.ifu_covar_scale,
        fringes=_fringe_channel(ds, params),
        calibrated=is_calibrated(ds),
        warnings=warnings,
    )


def _source_type(ds: xr.Dataset, params: Parameters) -> str:
    kind = str(ds.attrs.get("source_type") or "").upper()
    if params.ifu_set_srctype is not None and mode_of(ds).etalon:
        kind = params.ifu_set_srctype
    if kind not in ("POINT", "EXTENDED"):
        _LOG.warning(
            "extract_1d: the source type is %s, not POINT or EXTENDED; taken as EXTENDED",
            kind or "not known",
        )
        kind = "EXTENDED"
    return kind


def _fringe_channel(ds: xr.Dataset, params: Parameters) -> int:
    """Channel of the MRS if the cube holds a single band, in which fringes are regular."""
    if not params.ifu_rfcorr or not mode_of(ds).etalon:
        return 0
    channel, band = (str(ds.attrs.get(a, "")).strip().lower() for a in ("channel", "band"))
    single = channel in ("1", "2", "3", "4") and band in ("short", "medium", "long")
    if not single:
        _LOG.info("extract_1d: residual fringes are removed from spectra of single bands only")
    return int(channel) if single else 0


def _tree(reference: xr.Dataset, key: str) -> Mapping[str, Any]:
    branch = reference.attrs.get("tree", {}).get(key)
    if not hasattr(branch, "get"):
        msg = (
            f"extract_1d: {described(reference)} is not one for cubes: its tree has no {key!r};"
            " use the ASDF reference of this instrument mode"
        )
        raise ReferenceError(msg)
    return cast("Mapping[str, Any]", branch)


def _subpixels(extract1d: xr.Dataset) -> int:
    meta = extract1d.attrs["tree"].get("meta", {})
    label = f"extract_1d: {described(extract1d)}"
    method = str(meta.get("method") or "exact").lower()
    if method == "subpixel":
        value = 5 if meta.get("subpixels") is None else meta["subpixels"]
        return int(number(value, f"{label}: 'meta.subpixels'", low=1, whole=True))
    sampled = {"exact": 0, "center": 1}
    if method not in sampled:
        msg = f"{label} asks for method {method!r}; known are {', '.join(sampled)}, subpixel"
        raise ReferenceError(msg)
    return sampled[method]


def _column(reference: xr.Dataset, key: str, name: str) -> HostArray:
    where = f"extract_1d: {described(reference)}: {f'{key}.{name}'!r}"
    value = _tree(reference, key).get(name)
    if value is None:
        msg = f"{where} is missing; use another reference"
        raise ReferenceError(msg)
    return numbers(value, where)


def _line(x: HostArray, knots: HostArray, values: HostArray, reference: xr.Dataset) -> HostArray:
    """Interpolate linearly along the last axis, and go on straight beyond the ends.

    `x` has shape (n,) or, like `values` and `knots`, leading axes.
    """
    order = np.argsort(knots, axis=-1, kind="stable")
    knots = np.take_along_axis(knots, order, axis=-1)
    values = np.take_along_axis(values, order, axis=-1)
    if knots.shape[-1] < 2 or np.any(np.diff(knots, axis=-1) <= 0):
        msg = (
            f"extract_1d: {described(reference)} needs at least two distinct wavelengths and, of"
            " aperture corrections, radii; use another reference"
        )
        raise ReferenceError(msg)
    last = knots.shape[-1] - 2
    cell = np.clip(np.sum(knots[..., None, :] <= x[..., None], axis=-1) - 1, 0, last)

    def pick(array: HostArray, index: HostArray) -> HostArray:
        shape = (*index.shape[:-1], array.shape[-1])
        return np.take_along_axis(np.broadcast_to(array, shape), index, axis=-1)

    k0, k1 = pick(knots, cell), pick(knots, cell + 1)
    v0, v1 = pick(values, cell), pick(values, cell + 1)
    return np.asarray(v0 + (v1 - v0) * (x - k0) / (k1 - k0))


def _radii(
    ds: xr.Dataset,
    extract1d: xr.Dataset,
    wavelength: HostArray,
    scale: float,
    params: Parameters,
) -> tuple[HostArray, HostArray, HostArray]:
    """Radii of aperture and annulus in every plane [pixel]."""
    waves, *columns = (
        _column(extract1d, "data", name).ravel()
        for name in ("wavelength", "radius", "inner_bkg", "outer_bkg")
    )
    _same_length(extract1d, waves, *columns)
    radius, inner, outer = (
        _line(wavelength, waves, column, extract1d) / scale for column in columns
    )
    if not (radius > 0).all():
        msg = (
            f"extract_1d: {described(extract1d)} gives radii from {radius.min() * scale:.3g} arcsec"
            " at the wavelengths of the cube, needs positive ones; use another reference"
        )
        raise ReferenceError(msg)
    if params.ifu_rscale is not None and ds.attrs.get("instrument") == "MIRI":
        # the reference has twice the width of the point spread function
        radius = radius * (params.ifu_rscale / 2.0)
    usable = (inner > 0) & (outer > inner)
    if not usable.all():
        _LOG.info(
            "extract_1d: no background is subtracted in %d planes, whose annulus has no area",
            int((~usable).sum()),
        )
    return radius, np.where(usable, inner, 0.0), np.where(usable, outer, 0.0)


def _correction(
    apcorr: xr.Dataset, wavelength: HostArray, radius: HostArray, scale: float
) -> HostArray:
    """Correction for light beyond the radius in every plane."""
    key = "apcorr_table"
    waves = _column(apcorr, key, "wavelength").ravel()
    sizes, values = (_column(apcorr, key, name) for name in ("radius", "apcorr"))
    _same_length(apcorr, waves, np.atleast_2d(sizes)[0], np.atleast_2d(values)[0])
    if sizes.shape != values.shape or sizes.ndim != 2:
        msg = (
            f"extract_1d: {described(apcorr)}: 'radius' has shape {sizes.shape} and 'apcorr'"
            f" {values.shape}, needs (radii, wavelengths) for both; use another reference"
        )
        raise ReferenceError(msg)
    if str(_tree(apcorr, key).get("radius_units", "")).startswith("arcsec"):
        sizes = sizes / scale
    n = len(sizes)
    knots = np.broadcast_to(waves, (n, len(waves)))
    grid = np.broadcast_to(wavelength, (n, len(wavelength)))
    sizes, values = (_line(grid, knots, v, apcorr) for v in (sizes, values))
    return _line(radius[:, None], sizes.T, values.T, apcorr)[:, 0]


def _same_length(reference: xr.Dataset, *columns: HostArray) -> None:
    lengths = [len(c) for c in columns]
    if len(set(lengths)) > 1:
        msg = (
            f"extract_1d: the columns of {described(reference)} have {lengths} elements, need one"
            " for every wavelength; use another reference"
        )
        raise ReferenceError(msg)


def _sky(ds: xr.Dataset, x: ArrayLike, y: ArrayLike) -> HostArray:
    """Right ascension and declination of positions in the cube [deg]; NaN without a WCS."""
    wcs = meta_of(ds).wcs
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    if wcs is None:
        return np.full((2, *x.shape), np.nan)
    plane = np.full(x.shape, float(ds.sizes["wave"] // 2))
    world = wcs(x, y, plane, with_bounding_box=False)
    return np.array([np.asarray(v, dtype=np.float64) for v in world[:2]])


def _vectors(lon: Number, lat: Number) -> HostArray:
    return np.stack(to_cartesian(np.deg2rad(lon), np.deg2rad(lat)), axis=-1)


def _spaxel_size(ds: xr.Dataset) -> float:
    """Width of a spaxel [arcsec]."""
    x, y = ds.sizes["x"] / 2.0, ds.sizes["y"] / 2.0
    dx, dy = (0.0, 1.0) if ds.attrs.get("dispaxis") == 1 else (1.0, 0.0)
    if meta_of(ds).wcs is not None:
        one, other = _vectors(*_sky(ds, [x, x + dx], [y, y + dy]))
        size = 2.0 * np.arcsin(np.linalg.norm(one - other) / 2.0)
        if size > 0:
            return float(np.rad2deg(size) * 3600.0)
    if "pixar_a2" in ds:
        return float(np.sqrt(ds["pixar_a2"].values))
    msg = (
        "extract_1d: the cube does not say how large a spaxel is; give it a WCS (meta.wcs) or the"
        " variable 'pixar_a2' [arcsec2]"
    )
    raise DatasetError(msg)


def _centre(ds: xr.Dataset, params: Parameters) -> tuple[tuple[float, float], tuple[str, ...]]:
    """Where the point source is, x and y [pixel], and warnings."""
    if params.center_xy is not None:
        size = ds.sizes["x"], ds.sizes["y"]
        if not all(-0.5 <= c <= n - 0.5 for c, n in zip(params.center_xy, size, strict=True)):
            msg = (
                f"extract_1d.center_xy={params.center_xy} is off the cube of {size[0]} x {size[1]}"
                " spaxels; give a position in spaxels, counted from 0"
            )
            raise ParameterError(msg)
        return params.center_xy, ()
    told: tuple[str, ...] = ()
    if params.ifu_autocen:
        place = _automatic_centre(ds)
        if place is not None:
            return place, ()
        told = ("extract_1d: no point source was found; the target's coordinates are used",)
    place, warnings = _target(ds)
    return place, (*told, *warnings)


def _automatic_centre(ds: xr.Dataset) -> tuple[float, float] | None:
    """Position of the brightest point source of the median over wavelength."""
    first = ds["sci"].isel(integration=0) if "integration" in ds["sci"].dims else ds["sci"]
    planes = np.asarray(first.values)[np.asarray(ds["wavelength"].values) < _DIM_BEYOND]
    good = np.isfinite(planes)
    count = good.sum(axis=0)
    image = np.zeros(planes.shape[1:])
    seen = count > 0
    if not seen.any():
        return None
    columns = np.sort(np.where(good, planes, np.inf)[:, seen], axis=0)
    n, k = count[seen], np.arange(int(seen.sum()))
    image[seen] = np.mean([columns[(n - 1) // 2, k], columns[n // 2, k]], axis=0, dtype=np.float64)
    rest = _clipped(image[seen])
    image[seen] -= np.median(rest)
    return brightest_source(image, 3.0 * float(rest.std()))


def _clipped(values: HostArray) -> HostArray:
    """Values within three standard deviations of the median, found in five iterations."""
    for _ in range(5):
        middle, reach = np.median(values), _CLIP * values.std()
        kept = values[(values >= middle - reach) & (values <= middle + reach)]
        if len(kept) == len(values):
            break
        values = kept
    return values


def _target(ds: xr.Dataset) -> tuple[tuple[float, float], tuple[str, ...]]:
    """The spaxel nearest to the target's coordinates, or the middle with a warning."""
    ny, nx = ds.sizes["y"], ds.sizes["x"]
    meta = meta_of(ds)
    middle = (nx / 2.0, ny / 2.0)
    remedy = "the source is taken to be in its middle; set extract_1d.center_xy or ifu_autocen"
    if meta.wcs is None:
        return middle, (f"extract_1d: the cube has no WCS to find the target in: {remedy}",)
    who = "extract_1d (without center_xy or ifu_autocen)"
    target = meta.number("TARG_RA", who), meta.number("TARG_DEC", who)
    y, x = np.indices((ny, nx))
    sky = _vectors(*_sky(ds, x, y))
    distance = np.sum((sky - _vectors(*target)) ** 2, axis=-1)
    distance = np.where(np.isfinite(distance), distance, np.inf)
    j, i = divmod(int(np.argmin(distance)), nx)
    if not (0 < i < nx - 1 and 0 < j < ny - 1):
        where = f"(TARG_RA {target[0]}, TARG_DEC {target[1]}) is at or beyond the edge of the cube"
        return middle, (f"extract_1d: the target {where}: {remedy}",)
    return (float(i), float(j)), ()
