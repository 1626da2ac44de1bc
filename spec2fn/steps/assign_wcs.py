"""Build the WCS of an exposure and evaluate it at every pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from spec2fn.engine.step import PLANNED, step
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.assigned import WcsPlan

_REFS = (
    "distortion",
    "filteroffset",
    "specwcs",
    "regions",
    "wavelengthrange",
    "camera",
    "collimator",
    "disperser",
    "fore",
    "fpa",
    "msa",
    "ote",
    "ifupost",
    "ifufore",
    "ifuslicer",
    "chromcorr",
)

_Wavelength = Annotated[float, Range(0.0, above=True)]


def _without(ds: xr.Dataset, _: object) -> dict[str, str]:
    mode = mode_of(ds)
    if not mode.sliced or mode.etalon or mode.lamp:
        return {}
    return {"chromcorr": "shifts of the image with wavelength are not corrected for"}


def _plan(
    ds: xr.Dataset,
    *references: xr.Dataset | None,
    msa_metadata: tuple[xr.Dataset, ...] = (),
    params: Parameters,
) -> WcsPlan:
    from spec2fn.wcs.assigned import plan_wcs

    refs = dict(zip(_REFS, references, strict=True))
    if msa_metadata:
        refs["msa_metadata"] = msa_metadata[0]
    return plan_wcs(ds, refs, params)


@step(
    refs=_REFS,
    without=_without,
    members=("msa_metadata",),
    reads=("sci",),
    provides=("wavelength", "ra", "dec", "slice_id", "alpha", "beta", "slit_y", "regions"),
    traceable=True,
    planner=_plan,
    ordered=(("slit_y_low", "slit_y_high"), ("wavelength_range", "wavelength_range")),
)
def assign_wcs(
    ds: xr.Dataset,
    *references: xr.Dataset | None,
    plan: WcsPlan = PLANNED,
    msa_metadata: tuple[xr.Dataset, ...] = (),
    slit_y_low: Annotated[float, Range(-10.0, 10.0)] = -0.55,
    slit_y_high: Annotated[float, Range(-10.0, 10.0)] = 0.55,
    wavelength_range: tuple[_Wavelength, _Wavelength] | None = None,
    nrs_ifu_slice_wcs: bool = False,
    lamp_velocity: bool = False,
    grism_rotation: Literal["consistent", "opposite"] = "consistent",
    grism_inverse: Literal["exact", "approximate"] = "exact",
    grism_reference: Literal["pixel", "keyword"] = "pixel",
    sip_approx: bool = True,
    sip_max_pix_error: Annotated[float, Range(0.0, above=True)] = 0.01,
    sip_degree: Annotated[int, Range(1, 6)] | None = None,
    sip_max_inv_pix_error: Annotated[float, Range(0.0, above=True)] = 0.01,
    sip_inv_degree: Annotated[int, Range(1, 6)] | None = None,
    sip_npoints: Annotated[int, Range(3, 1000)] = 12,
) -> xr.Dataset:
    """Give an exposure its world coordinate system.

    A gwcs is built from the references and kept in ``meta.wcs``; wavelength, right ascension and
    declination of every pixel become variables. Where a pixel may belong to several slits
    (NIRSpec fixed slits and MOS) every open slit has a gwcs of its own, ``meta.wcs`` is a mapping
    of slit id to gwcs, built on use, and it is ``extract_2d`` that evaluates them. So it does for
    slitless spectra, where a pixel has a place for every source whose light it may hold.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with ``sci`` ([integration,] y, x).
    *references : xarray.Dataset or None
        In the order of ``assign_wcs.refs``; each mode uses some of them (the LRS ``distortion``
        and ``specwcs``; the MRS these, ``regions`` and ``wavelengthrange``; NIRSpec slits
        ``camera collimator disperser fore fpa msa ote wavelengthrange``; the NIRSpec IFU these,
        ``ifufore``, ``ifuslicer``, ``ifupost`` and optionally ``chromcorr``; slitless spectra
        ``distortion``, ``specwcs`` and optionally ``filteroffset``).
    plan : WcsPlan
        From ``assign_wcs.plan(ds, ...)``.
    msa_metadata : tuple of xarray.Dataset
        NIRSpec MOS: the content of the MSA metadata file that MSAMETFL names, from
        :func:`spec2fn.io.msa.read_msa_metadata`.
    slit_y_low, slit_y_high : float
        NIRSpec slits: lower and upper edge, in units of the slit's (or shutter's) height from
        its centre.
    wavelength_range : (float, float), optional
        NIRSpec slits: wavelengths [um] to calibrate, instead of the nominal range of filter and
        grating in ``wavelengthrange``. Beyond the nominal range flat_field, pathloss and photom
        extrapolate their references, and flag what they extrapolate. Other orders, which the
        filter blocks inside the nominal range, are not removed.
    nrs_ifu_slice_wcs : bool
        NIRSpec IFU: a gwcs that takes the number of the slice, from 0, besides the pixel, instead
        of one that finds it.
    lamp_velocity : bool
        NIRSpec lamps: correct wavelengths to the barycentre, as the JWST pipeline does where there
        is the keyword VELOSYS. A lamp moves with the telescope, so that this moves its lines, by
        up to 0.01 %.
    grism_rotation : {"consistent", "opposite"}
        NIRISS grisms: how the traces turn with the filter wheel where wavelengths of pixels are
        looked up. "opposite" turns them against the way in which light is sent to pixels, as the
        JWST pipeline does, so that the two directions do not agree.
    grism_inverse : {"exact", "approximate"}
        Slitless spectra: traces and distortion are inverted by Newton's method, or as the JWST
        pipeline does, by the inverse polynomials of the references and by 10 (NIRISS, MIRI) or
        40 (NIRCam) samples of the trace.
    grism_reference : {"pixel", "keyword"}
        NIRCam grism time series: the source is at the pixel that XREF_SCI and YREF_SCI count from
        1, moved by the dither offsets, or, as the JWST pipeline has it, at the zero-indexed pixel
        of the same numbers.
    sip_approx : bool
        Wide-field slitless spectra: whether headers of full-frame products approximate the world
        coordinates of the undispersed image by polynomials (SIP).
    sip_max_pix_error, sip_max_inv_pix_error : float
        Largest error of the approximation, and of its inverse [pixel]; for MIRI the latter is
        0.02 at least.
    sip_degree, sip_inv_degree : int, optional
        Degrees of the polynomials; by default the lowest that are good enough.
    sip_npoints : int
        Points along each axis to which they are fitted.

    Returns
    -------
    xarray.Dataset
        With ``wavelength`` [um], ``ra`` and ``dec`` [deg, ICRS] (y, x) float64, NaN outside the
        bounding box (not with several slits) or the slices of an integral-field unit. For the
        MRS also ``alpha`` and ``beta`` [arcsec] (y, x) float64, the position in the frame of the
        slices, and ``slice_id`` (y, x) int32, 0 between the slices; for the NIRSpec IFU
        ``slice_id``, ``regions`` and ``slit_y``, the position along the slice. Of a lamp there
        is no ``ra`` and ``dec``, and the gwcs ends in the plane of the MSA [m]. Attributes
        ``dispaxis``, ``specsys``, ``s_region``, and ``nominal_range`` [um] if `wavelength_range`
        exceeds it; for the LRS slit the scalars ``dithered_ra`` and ``dithered_dec``. For
        NIRSpec slits ``meta.records`` holds ``slits``, ``spectral_order`` and ``waverange`` [m].

    Raises
    ------
    InputError
        If the exposure type is missing, not spectroscopic or not supported, a keyword is missing
        or does not fit the others, or no open slit falls on the detector.
    ReferenceError
        If a reference that the mode needs is missing or damaged, or is for another grating.

    Notes
    -----
    Without the keyword VELOSYS wavelengths are not corrected to the barycentre (``specsys`` is
    then TOPOCENT), and without VA_SCALE there is no correction of the velocity aberration; both
    are recorded as warnings.
    """
    return plan.given_to(ds)
