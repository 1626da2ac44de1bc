"""Removal of the light of other sources from slitless spectra."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, as_reference, step
from spec2fn.kernels.namespace import array_namespace, is_traced, safe_divide
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.plans.slits.contaminants import plan_exposure, read_seds
from spec2fn.plans.slits.contamination import BucketContamination, ContaminationPlan
from spec2fn.schema import COMMON_SHARE, replace_data, with_meta, with_warnings
from spec2fn.slits import Slits
from spec2fn.typing import Array

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["wfss_contam"]


def _plan(
    slits: Slits,
    photom: xr.Dataset | None = None,
    wavelengthrange: xr.Dataset | None = None,
    *,
    direct_image: tuple[xr.Dataset, ...] = (),
    segmap: tuple[xr.Dataset, ...] = (),
    sourcecat: tuple[xr.Dataset, ...] = (),
    params: Parameters,
) -> ContaminationPlan | Skip:
    mode = mode_of(slits)
    if mode.layout != "traces" or mode.one_source:
        return Skip(f"EXP_TYPE {mode.exp_type or '(none)'} has no spectra of several sources")
    if not direct_image or not segmap:
        return Skip("there is no direct image with a segmentation map")
    sources = None
    if params.seds is not None:
        given: Any = params.seds
        named = isinstance(given, (str, PathLike))
        sources = read_seds(as_reference(given, "seds") if named else given)
    catalog = sourcecat[0] if sourcecat else None
    plan = plan_exposure(
        slits,
        (photom, wavelengthrange),
        (direct_image[0], segmap[0], catalog),
        sources,
        params,
    )
    return Skip("no source is as bright as magnitude_limit asks") if plan is None else plan


@step(
    refs=("photom", "wavelengthrange"),
    members=("direct_image", "segmap", "sourcecat"),
    reads=("sci", "err", "dq", "wavelength"),
    provides=("common_share",),
    traceable=True,
    planner=_plan,
    skip=True,
    scope="slits",
    needs_members=("direct_image", "segmap"),
)
def wfss_contam(
    slits: Slits,
    photom: xr.Dataset | None = None,
    wavelengthrange: xr.Dataset | None = None,
    *,
    plan: ContaminationPlan = PLANNED,
    direct_image: tuple[xr.Dataset, ...] = (),
    segmap: tuple[xr.Dataset, ...] = (),
    sourcecat: tuple[xr.Dataset, ...] = (),
    orders: tuple[Annotated[int, Range(-9, 9)], ...] | None = None,
    magnitude_limit: Annotated[float, Range(-50.0, 1000.0)] | None = None,
    wl_oversample: Annotated[int, Range(1)] = 2,
    polyfit_degree: Annotated[int, Range(1)] | None = None,
    n_iterations: Annotated[int, Range(1)] = 1,
    l2_alpha: Annotated[float, Range(0.0)] = 0.1,
    rejection_threshold: Annotated[float, Range(0.0, above=True)] = 0.1,
    joint_knots: Annotated[int, Range(2)] | None = None,
    joint_scatter: Annotated[float, Range(0.0, above=True)] | None = None,
    seds: Any = None,  # noqa: ANN401 - whatever a user gives
    flag_above: Annotated[float, Range(0.0)] | None = 1.0,
    propagate_variance: bool = True,
    official_model: bool = False,
    max_pixels_per_chunk: Annotated[int, Range(1)] = 5000,
    maximum_cores: str = "1",
    save_simulated_image: bool = False,
    save_contam_images: bool = False,
) -> Slits:
    """Subtract what other sources and orders contribute to each spectrum.

    All sources of the direct image are dispersed into all orders. The contamination of a spectrum
    is their sum without what its own source contributes in its own order. It is linear in the
    spectra of the sources, which are flat (MJy/sr of the direct image at all wavelengths) unless
    they are given (`seds`) or fitted, one after the other by polynomials (`polyfit_degree`), or
    all at once by piecewise linear functions (`joint_knots`), which leaves least.

    Parameters
    ----------
    slits : Slits
        Cut-outs of a wide-field slitless exposure in DN/s.
    photom : xarray.Dataset
        Response of every order.
    wavelengthrange : xarray.Dataset
        Wavelengths of every order.
    plan : ContaminationPlan
        From ``wfss_contam.plan(slits, ...)``.
    direct_image, segmap, sourcecat : tuple of xarray.Dataset
        Image of the field [MJy/sr], of any scale and orientation; the map of its sources, on the
        same pixels; and their catalog, for `magnitude_limit`.
    orders : tuple of int, optional
        Spectral orders to simulate; all that the references know by default.
    magnitude_limit : float, optional
        Sources with ``isophotal_abmag`` at or beyond it do not contaminate. That of orders other
        than 0 and 1 is brighter by the ratio of the responses.
    wl_oversample : int
        Wavelengths per pixel along the trace.
    polyfit_degree : int, optional
        Degree of the Legendre polynomials fitted to the spectra of sources.
    n_iterations : int
        How often they are fitted.
    l2_alpha : float
        Damping of these fits.
    rejection_threshold : float
        A fit that changes the brightness of a source by a larger part is not used.
    joint_knots : int, optional
        Number of knots of the spectra that are fitted all at once. All orders of a source share
        them.
    joint_scatter : float, optional
        Standard deviation of the spectra about flat ones that is assumed a priori; found from the
        data if None, and told in the report.
    seds : str or mapping, optional
        Spectra of sources: a table (ECSV or FITS) with the columns ``label``, ``wavelength`` [um]
        and ``flux`` (per unit of frequency), or a mapping of labels to pairs of arrays or to
        callables of the wavelength. Only the shape counts: its mean over the passband, as the
        detector weighs it, is that of the direct image. Sources that are left out are flat.
    flag_above : float, optional
        Set FLUX_ESTIMATED in ``dq`` where the contamination is more than its error and more than
        this part of what is left; not at all if None.
    propagate_variance : bool
        Add the variance of fitted spectra to ``var_poisson`` and ``err`` (`joint_knots`). All
        pixels of a wavelength share it, which ``flux_error_cov`` of the spectra knows by
        ``common_share``.
    official_model : bool
        Simulate as the official pipeline: `max_pixels_per_chunk` pixels share a grid of
        wavelengths, pixels are shifted by a half, a model that begins inside a cut-out loses its
        last rows (which count as contamination), and cut-outs of sources without a segment are
        left out.
    max_pixels_per_chunk : int
        Of `official_model`; the default result does not depend on it.
    maximum_cores : str
        Accepted for compatibility; one process does the work.
    save_simulated_image, save_contam_images : bool
        Save the simulated exposure (``simul``) and its part in every cut-out (``simul_slits``);
        the contamination (``contam``).

    Returns
    -------
    Slits
        Skipped without a direct image or its segmentation map.

    Raises
    ------
    InputError
        If no order or source is left, direct image and segmentation map have different sizes, or
        the spectra cannot be read.
    DatasetError
        If assign_wcs has not run.
    ReferenceError
        If a reference lacks an order.

    Notes
    -----
    Algorithm: N. Pirzkal & R. Ryan 2017, WFC3 ISR 2017-01; JWST pipeline documentation,
    wfss_contam step; the joint fit after R. Ryan, S. Casertano & N. Pirzkal 2018, PASP 130,
    034501.
    """
    done, contaminations = [], []
    for bucket, planned, kept in zip(slits.buckets, plan.buckets, plan.kept, strict=True):
        if not kept:
            continue
        chosen = bucket if len(kept) == bucket.sizes["slit"] else bucket.isel(slit=list(kept))
        light = planned.image(plan.coefficients)
        contaminations.append(light)
        done.append(
            _subtract(chosen, light, planned, flag_above=flag_above, variances=propagate_variance)
        )
    out = Slits(tuple(done))
    if plan.note:
        out = out.map(lambda b: with_warnings(b, f"wfss_contam: {plan.note}"))
    if any(is_traced(c) for c in contaminations):
        return out
    records: dict[str, Any] = {}
    if save_contam_images:
        records["contam"] = _images(out, contaminations)
    if save_simulated_image and plan.own is not None:
        records["simul"] = _frame(out, plan.simulated)
        models = [m for m, kept in zip(plan.own, plan.kept, strict=True) if kept]
        shown = [m for m, kept in zip(plan.modelled, plan.kept, strict=True) if kept]
        records["simul_slits"] = _images(out, models, shown)
    return out.map(lambda b: with_meta(b, records=records)) if records else out


def _subtract(
    bucket: xr.Dataset,
    light: Array,
    planned: BucketContamination,
    *,
    flag_above: float | None,
    variances: bool,
) -> xr.Dataset:
    sci, err, dq = (bucket.variables[n].data for n in ("sci", "err", "dq"))
    xp = array_namespace(sci, light)
    light = light.astype(sci.dtype)
    left = sci - light
    new: dict[str, Any] = {"sci": left}
    if planned.variance is not None and variances:
        added = xp.asarray(planned.variance).astype(sci.dtype)
        new["err"] = err = xp.sqrt(err * err + added)
        if "var_poisson" in bucket:
            new["var_poisson"] = total = bucket.variables["var_poisson"].data + added
            share = safe_divide(added, total, total > 0, fill=0.0)
            bucket = bucket.assign({COMMON_SHARE: (bucket["sci"].dims, share)})
    if flag_above is not None:
        much = (light > flag_above * xp.abs(left)) & (light > err)
        new["dq"] = dq | xp.where(much, np.uint32(PIXEL["FLUX_ESTIMATED"]), np.uint32(0))
    return replace_data(bucket, **new)


def _images(
    slits: Slits, images: Sequence[Array], shown: Sequence[Sequence[int]] | None = None
) -> Slits:
    """Images of cut-outs, of all or of some, as a product of their own."""
    out = []
    for k, (bucket, image) in enumerate(zip(slits.buckets, images, strict=True)):
        labels = {n: v for n, v in bucket.variables.items() if v.dims == ("slit",)}
        sci = (bucket["sci"].dims, np.asarray(image, bucket["sci"].dtype), bucket["sci"].attrs)
        one = bucket[["sci"]].assign({**labels, "sci": sci})
        which = range(one.sizes["slit"]) if shown is None else shown[k]
        if which:
            out.append(one.isel(slit=list(which)))
    return Slits(tuple(out))


def _frame(slits: Slits, image: Array | None) -> xr.Dataset:
    """The simulated exposure."""
    import xarray as xr

    first = slits.buckets[0]
    attrs = {**first.attrs, "model": "ImageModel"}
    units = dict(first["sci"].attrs)
    return xr.Dataset({"sci": (("y", "x"), np.asarray(image, np.float32), units)}, attrs=attrs)
