"""Measure where the target of a MIRI LRS exposure is, in its acquisition verification image."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.errors import ReferenceError
from spec2fn.host.centroid import cut_around, gaussian_centroid
from spec2fn.modes import ACQUISITION_IMAGE, mode_of
from spec2fn.parameters import Parameters
from spec2fn.plans.slits.target_position import TargetPosition, dither_on_detector
from spec2fn.schema import meta_of, set_scalars, with_warnings
from spec2fn.subarray import subarray_origin
from spec2fn.wcs.assign.pointing import uncorrected

if TYPE_CHECKING:
    import xarray as xr

_LOG = logging.getLogger("spec2fn.targ_centroid")
_WHO = "targ_centroid"
_CUTOUT = 20  # pixel
_FEWEST = 10  # finite pixels in the cutout


def _plan(
    ds: xr.Dataset,
    filteroffset: xr.Dataset | None,
    distortion: xr.Dataset | None,
    *,
    target_acquisition: tuple[xr.Dataset, ...] = (),
    params: Parameters,
) -> TargetPosition | Skip:
    """Fit the target in the verification image and carry its position to the science exposure.

    The fitted position is freed of the dither of the image, moved to the subarray and dither of
    the science exposure, and corrected for the offset between the filters.
    """
    mode = mode_of(ds)
    if not mode.acquisition:
        return Skip(f"{mode.exp_type} has no target acquisition verification image")
    if not target_acquisition:
        named = f" (ta_file {params.ta_file!r} has not been opened)" if params.ta_file else ""
        return Skip(f"no target acquisition image{named}")
    if ds.attrs.get("source_type", "POINT") != "POINT":
        source = ds.attrs["source_type"]
        _LOG.warning("%s: fits a point source, but the target is %s", _WHO, source)
    image = target_acquisition[0]
    kind = image.attrs.get("exp_type")
    if kind != ACQUISITION_IMAGE or image["sci"].ndim != 2:
        return Skip(
            f"the target acquisition image needs exposure type {ACQUISITION_IMAGE} and two"
            f" dimensions, not {kind} and {image['sci'].ndim}"
        )
    wcs = meta_of(ds).wcs
    if wcs is None:
        return Skip("the exposure has no WCS; run assign_wcs first")
    try:
        position = _position_in_image(image, filteroffset, distortion)
    except ReferenceError as error:
        return Skip(str(error))
    if isinstance(position, Skip):
        return position
    measured, full_frame = position
    _, offset = dither_on_detector(ds, wcs, _WHO)
    if not np.all(np.isfinite(offset)):
        return Skip("the WCS of the exposure has no wavelength at the middle of the spectrum")
    source_position = [
        p - o + d for p, o, d in zip(full_frame, subarray_origin(ds), offset, strict=True)
    ]
    return TargetPosition(*(np.asarray(v, dtype=np.float64) for v in (*measured, *source_position)))


def _position_in_image(
    image: xr.Dataset, filteroffset: xr.Dataset | None, distortion: xr.Dataset | None
) -> tuple[list[float], list[float]] | Skip:
    # position in the image, and in the full frame of the dispersed filter without dither
    from spec2fn.wcs.assign.miri import filter_offset, imaging

    if filteroffset is None:
        return Skip("no filteroffset reference for the target acquisition image")
    refs = {"filteroffset": filteroffset, "distortion": distortion}
    wcs = meta_of(image).wcs or imaging(image, refs).wcs
    expected, dither = dither_on_detector(image, wcs, _WHO)
    if not np.all(np.isfinite(expected)):
        return Skip("the WCS of the target acquisition image is not finite at the target")
    cutout, corner = cut_around(image["sci"].values, expected, _CUTOUT)
    finite = int(np.isfinite(cutout).sum())
    if finite < _FEWEST:
        return Skip(
            f"only {finite} finite pixels around the target in the acquisition image,"
            f" needs {_FEWEST}"
        )
    centre = gaussian_centroid(cutout)
    if isinstance(centre, str):
        return Skip(f"the fit of the target in the acquisition image failed: {centre}")
    measured = [c + o for c, o in zip(centre, corner, strict=True)]
    shift = filter_offset(filteroffset, str(image.attrs.get("filter")))
    full_frame = [
        m + o - d + s
        for m, o, d, s in zip(measured, subarray_origin(image), dither, shift, strict=True)
    ]
    return measured, full_frame


@step(
    refs=("filteroffset", "distortion"),
    members=("target_acquisition",),
    reads=("sci",),
    provides=("ta_xpos", "ta_ypos", "source_xpos", "source_ypos"),
    traceable=True,
    planner=_plan,
    skip=True,
    needs_members=("target_acquisition",),
    refs_of="target_acquisition",
)
def targ_centroid(
    ds: xr.Dataset,
    filteroffset: xr.Dataset | None = None,
    distortion: xr.Dataset | None = None,
    *,
    plan: TargetPosition = PLANNED,
    target_acquisition: tuple[xr.Dataset, ...] = (),
    ta_file: str | None = None,
) -> xr.Dataset:
    """Record where the target is, as measured in the target acquisition verification image.

    Parameters
    ----------
    ds : xarray.Dataset
        MIRI LRS exposure after ``assign_wcs``.
    filteroffset, distortion : xarray.Dataset
        References of the *acquisition image* (its exposure type, not that of the spectrum,
        selects them).
    plan : TargetPosition
        From ``targ_centroid.plan(ds, ...)``.
    target_acquisition : tuple of xarray.Dataset
        The verification image (MIR_TACONFIRM); of several, the first is used.
    ta_file : str, optional
        File name of the verification image; ``spec2fn.run`` opens it and passes it as member.

    Returns
    -------
    xarray.Dataset
        With the scalars ``ta_xpos``, ``ta_ypos`` (in the image) and ``source_xpos``,
        ``source_ypos`` (in the exposure), zero-indexed pixels of the subarrays.

    Notes
    -----
    The target is fitted with an elliptical Gaussian in a square of 20 pixels around its expected
    position. The step does nothing without image, or if the fit fails; the reason is recorded.
    """
    if "meta" in ds.attrs and target_acquisition:  # which no trace has
        ds = with_warnings(ds, *uncorrected(meta_of(target_acquisition[0]), "VA_SCALE"))
    names = ("ta_xpos", "ta_ypos", "source_xpos", "source_ypos")
    return set_scalars(ds, **{name: getattr(plan, name) for name in names})
