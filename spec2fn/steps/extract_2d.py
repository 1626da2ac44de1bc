"""Cut the spectra of the slits out of an exposure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from spec2fn.buckets import group_shapes
from spec2fn.engine.step import PLANNED, Skip, step
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.slits.extract_2d import Extract2dPlan, bucket, chosen, cut_outs, slit_wcs
from spec2fn.plans.slits.grism_cutouts import plan_grism_cutouts
from spec2fn.plans.slits.srctype import is_time_series
from spec2fn.plans.slits.trace_window import WindowPlan, plan_window
from spec2fn.schema import INT_TIMES, meta_of
from spec2fn.slits import Slits

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.assign.nirspec import SlitWcs

_ANY_WAVELENGTH = 2.0  # um; the position in the slit hardly depends on it


def _plan(
    ds: xr.Dataset,
    wavelengthrange: xr.Dataset | None,
    *,
    sourcecat: tuple[xr.Dataset, ...] = (),
    params: Parameters,
) -> Extract2dPlan | WindowPlan | Skip:
    mode = mode_of(ds)
    if mode.layout == "slits":
        return _plan_slits(ds, params)
    if mode.layout == "traces":
        if mode.one_source:
            return plan_window(ds, wavelengthrange, params)
        return plan_grism_cutouts(ds, wavelengthrange, sourcecat, params)
    return Skip(f"EXP_TYPE {mode.exp_type} has no slits to cut out")


def _plan_slits(ds: xr.Dataset, params: Parameters) -> Extract2dPlan:
    whole = slit_wcs(ds)
    ids = chosen(whole.batch.slits, params.slit_names, params.source_ids)
    wcs, left_out = cut_outs(whole, ids, (ds.sizes["x"], ds.sizes["y"]))
    positions = _measured_positions(ds, wcs)
    shapes = [(int(y), int(x)) for x, y in wcs.sizes[list(wcs.ids)]]
    groups = group_shapes(shapes, kinds=[wcs.batch.slits[i].fixed for i in wcs.ids])
    buckets = tuple(bucket(wcs, [wcs.ids[i] for i in group], positions) for group in groups)
    return Extract2dPlan(buckets, wcs, left_out)


@step(
    refs=("wavelengthrange",),
    members=("sourcecat",),
    reads=("sci", "err", "dq"),
    provides=("wavelength", "ra", "dec"),
    traceable=True,
    planner=_plan,
)
def extract_2d(
    ds: xr.Dataset,
    wavelengthrange: xr.Dataset | None = None,
    *,
    plan: Extract2dPlan | WindowPlan = PLANNED,
    sourcecat: tuple[xr.Dataset, ...] = (),
    slit_names: tuple[str, ...] | None = None,
    source_ids: tuple[int, ...] | None = None,
    source_ra: tuple[Annotated[float, Range(-360.0, 360.0)], ...] | None = None,
    source_dec: tuple[Annotated[float, Range(-90.0, 90.0)], ...] | None = None,
    source_max_sep: Annotated[float, Range(0.0)] = 2.0,
    grism_objects: object | None = None,
    extract_orders: tuple[Annotated[int, Range(-9, 9)], ...] | None = None,
    wfss_extract_half_height: Annotated[int, Range(0)] | None = 5,
    wfss_mmag_extract: Annotated[float, Range(-50.0, 1000.0)] | None = None,
    wfss_nbright: Annotated[int, Range(1)] = 1000,
    tsgrism_extract_height: Annotated[int, Range(1)] | None = None,
    tsgrism_window: Literal["source", "fixed"] = "source",
    integration_times: Literal["kept", "time_series"] = "kept",
) -> Slits | xr.Dataset:
    """Cut a rectangle around the spectrum of every slit, or of every source without slits.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of NIRSpec slits, or without slits, after ``assign_wcs``; variables
        ([integration,] y, x).
    wavelengthrange : xarray.Dataset, optional
        Without slits: which orders to extract, and their wavelengths.
    plan : Extract2dPlan or WindowPlan
        From ``extract_2d.plan(ds, ...)``.
    sourcecat : tuple of xarray.Dataset
        Without slits: the catalog of the sources in the field, from
        :func:`spec2fn.io.catalogs.read_catalog`.
    slit_names : tuple of str, optional
        Names of the slits to keep; all by default. Without slits, labels of sources.
    source_ids : tuple of int, optional
        Keep the slits that hold these sources (besides those of `slit_names`).
    source_ra, source_dec : tuple of float, optional
        Without slits: keep (besides) the source nearest to each of these positions [deg].
    source_max_sep : float
        Largest distance between them [arcsec].
    grism_objects : sequence, optional
        Without slits: sources and rectangles of the user's, instead of those of a catalog; see
        :func:`spec2fn.plans.slits.grism_objects.boxes_of_objects`.
    extract_orders : tuple of int, optional
        Without slits: the spectral orders to extract, instead of those of `wavelengthrange`.
    wfss_extract_half_height : int, optional
        Without slits: half the height of the rectangles across the dispersion [pixel], for
        sources that are not extended; None takes it from the catalog as for those that are.
    wfss_mmag_extract : float, optional
        Without slits: leave out sources that are not brighter than this AB magnitude.
    wfss_nbright : int
        Without slits: keep so many sources, the brightest of those on the image.
    tsgrism_extract_height : int, optional
        Time series without slits: rows to cut out; 64 by default.
    tsgrism_window : {"source", "fixed"}
        Time series without slits: cut rows out of which the 34th, counted from 0, is that of the
        source, as far as the image has them; or, as the JWST pipeline does, the first rows of the
        image, and take the source to be in the 34th whatever YREF_SCI says.
    integration_times : {"kept", "time_series"}
        Slits: keep the times of integrations, or, as the JWST pipeline does, those of time series
        alone.

    Returns
    -------
    Slits
        Every variable of the exposure that lies on the image, cut out; ``wavelength`` [um],
        ``ra``, ``dec`` [deg] (slit, y, x) float64, NaN outside the slit (of a lamp ``wavelength``
        alone); and the variables on ``slit`` described in :mod:`spec2fn.slits`. The id of a slit is
        its position among all open slits, whatever is selected. ``xstart``, ``ystart`` are
        one-indexed in the image of the exposure, so that a subarray adds its own origin. Without
        slits, a slit is an order of a source: the name of the slit is the label of the source,
        ``spectral_order`` the order,
        ``source_xpos``, ``source_ypos`` the place of the source in the undispersed image [pixel],
        and ``ra``, ``dec`` are left out; the brightest source comes first. Of a time series
        without slits, the image of the one source, with ``wavelength`` (y, x) and
        zero-dimensional variables instead of those on ``slit``; ``source_xpos``, ``source_ypos``
        are then its place in the cut-out, and ``xref_sci``, ``yref_sci`` the same, from 1.

    Raises
    ------
    InputError
        If a slit, source or order that is asked for does not exist, no slit lies in the image,
        there is no catalog, or a keyword is missing that says where the target is in its fixed
        slit.
    DatasetError
        If assign_wcs has not run.

    Notes
    -----
    The position of the source in the primary fixed slit follows from the dither offsets
    (XOFFSET, YOFFSET, both 0 for a target that is centred) and the orientation of the aperture.
    That of MSA sources is the planned one.
    """
    mode = mode_of(ds)
    forgotten = integration_times == "time_series" and mode.layout == "slits"
    if forgotten and not is_time_series(ds, mode):
        ds = ds.drop_vars(list(INT_TIMES), errors="ignore")
    return plan.cut_out(ds)


def _measured_positions(ds: xr.Dataset, wcs: SlitWcs) -> dict[int, tuple[float, float]]:
    # where the dither offsets put the target, in the fixed slit that it was aimed at
    from spec2fn.wcs.assign.pointing import dithered_v2v3
    from spec2fn.wcs.lower import lower

    primary = ds.attrs.get("fixed_slit")
    if mode_of(ds).shutters or mode_of(ds).lamp:
        return {}
    if mode_of(ds).one_slit:
        primary = "S1600A1"
    target = next((i for i in wcs if wcs.batch.slits[i].name == primary), None)
    if target is None:
        return {}
    v2, v3 = dithered_v2v3(meta_of(ds), "extract_2d")
    x, y, _ = lower(wcs[target], "v2v3", "slit_frame")(v2, v3, _ANY_WAVELENGTH)
    return {target: (float(x), float(y))}
