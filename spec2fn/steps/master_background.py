"""Subtraction of the background seen in slitlets that hold no source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import PLANNED, Skip, Step, as_reference, step
from spec2fn.kernels.namespace import array_namespace, is_traced, safe_divide, safe_sqrt
from spec2fn.modes import mode_of
from spec2fn.parameters import Parameters, Range
from spec2fn.pieces import variables_of
from spec2fn.plans.background.master_background import (
    MasterBackgroundPlan,
    Placement,
    Spectrum,
    combine_spectra,
    place,
    user_spectrum,
    variance_of,
)
from spec2fn.schema import (
    COMMON_SHARE,
    EXTRACTED,
    FIXED_SLIT_QUADRANT,
    VARIANCES,
    replace_data,
    status_of,
    with_meta,
)
from spec2fn.slits import Slits, strings
from spec2fn.steps.barshadow import barshadow
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.photom import photom
from spec2fn.steps.resample_spec import resample_spec
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["master_background"]

_REFS = (
    "flat",
    "fflat",
    "sflat",
    "dflat",
    "pathloss",
    "barshadow",
    "photom",
    "area",
    "extract1d",
    "apcorr",
)
_CORRECTIONS = (flat_field, pathloss, barshadow, photom)


def _plan(
    slits: Slits, *given: xr.Dataset | None, params: Parameters
) -> MasterBackgroundPlan | Skip:
    mode = mode_of(slits)
    if not mode.shutters:
        return Skip(f"it applies to slitlets, not to {mode.exp_type or 'no exposure'}")
    if not params.force_subtract and _subtracted(slits):
        return Skip("a background has been subtracted before (force_subtract=True overrules this)")
    slitlets = slits.where(lambda b: ~_is_fixed(b))
    backgrounds = slitlets.where(_is_background)
    given_by_user = params.user_background is not None
    if not given_by_user and not len(backgrounds):
        return Skip("no slitlet holds background only (BKG in the name of its source)")
    if not given_by_user and len(backgrounds) == len(slitlets):
        return Skip("no slitlet holds a source")

    references = dict(zip(_REFS, given, strict=True))
    units, corrections = slitlets.map(_of_ones), []
    for correction, refs in _corrections(params.corrections, references):
        plan = correction.plan(units, *refs, **_extended(correction))
        units = correction(units, *refs, plan=plan, **_extended(correction))
        corrections.append(plan)
    planned: dict[str, Any] = {"corrections": tuple(corrections)}
    if given_by_user:
        spectrum = user_spectrum(as_reference(params.user_background, "user_background"))
        planned["spectrum"] = spectrum
    else:
        lit = _paired(backgrounds, units.where(_is_background), _scaled)
        tables = (references["extract1d"], references["apcorr"])
        planned["resampling"] = resample_spec.plan(lit)
        rectified = resample_spec(lit, plan=planned["resampling"])
        planned["extraction"] = extract_1d.plan(rectified, *tables)
        spectra = extract_1d(rectified, *tables, plan=planned["extraction"])
        if "flux" not in getattr(spectra, "variables", ()):
            reason = status_of(spectra.buckets[0], "extract_1d").removeprefix("SKIPPED: ")
            return Skip(f"no background spectrum could be extracted: {reason}")
        first = backgrounds.buckets[0]
        time = float(first["exposure_time"].values) if "exposure_time" in first else 1.0
        combination = combine_spectra(
            spectra, params.sigma_clip, time if time > 0 else 1.0, params.median_kernel
        )
        if isinstance(combination, str):
            return Skip(combination)
        spectrum = combination(spectra)
        planned["combination"] = combination
    # at the wavelengths that products hold: next to a cosmic ray the spectrum is so steep that
    # the digits they drop would be seen
    planned["places"] = tuple(
        place(b["wavelength"].values.astype(np.float32).astype(np.float64), spectrum.wavelength)
        for b in slitlets.buckets
    )
    variance = variance_of(spectrum) if params.propagate_variance else None
    planned["adds_variance"] = variance is not None and bool(
        any((p.interpolated(variance, 2) > 0).any() for p in planned["places"])
    )
    return MasterBackgroundPlan(**planned)


@step(
    refs=_REFS,
    reads=("sci", "err", "dq", "wavelength"),
    provides=("common_share",),
    traceable=True,
    planner=_plan,
    aliases=("master_background_mos",),
    scope="slits",
    chunkable=False,  # all integrations share one background
)
def master_background(  # noqa: PLR0917 - one for each reference
    slits: Slits,
    flat: xr.Dataset | None = None,
    fflat: xr.Dataset | None = None,
    sflat: xr.Dataset | None = None,
    dflat: xr.Dataset | None = None,
    pathloss: xr.Dataset | None = None,
    barshadow: xr.Dataset | None = None,
    photom: xr.Dataset | None = None,
    area: xr.Dataset | None = None,
    extract1d: xr.Dataset | None = None,
    apcorr: xr.Dataset | None = None,
    *,
    plan: MasterBackgroundPlan = PLANNED,
    sigma_clip: Annotated[float, Range(0.0)] | None = 3.0,
    median_kernel: Annotated[int, Range(1, 4095)] = 1,
    force_subtract: bool = False,
    save_background: bool = False,
    user_background: Any = None,  # noqa: ANN401 - whatever a user gives
    inverse: bool = False,
    propagate_variance: bool = True,
    corrections: Any = None,  # noqa: ANN401 - whatever a user gives
) -> Slits:
    """Subtract the background that slitlets without a source have measured.

    Slitlets whose ``source_name`` contains BKG or BACKGROUND are calibrated as uniformly lit and
    extracted; their spectra are combined into one. It is laid on the pixels of every slitlet by
    wavelength, turned back into count rates, and subtracted. The calibration multiplies every
    pixel by a factor that does not depend on the data; it is found once and used both ways.

    Parameters
    ----------
    slits : Slits
        Slitlets of a micro-shutter exposure in DN/s, before they are calibrated. Fixed slits
        among them are left as they are.
    flat, fflat, sflat, dflat, pathloss, barshadow, photom, area : xarray.Dataset, optional
        References of the corrections; one without its reference is left out.
    extract1d, apcorr : xarray.Dataset, optional
        References of the extraction.
    plan : MasterBackgroundPlan
        From ``master_background.plan(slits, ...)``.
    sigma_clip : float, optional
        Threshold for outliers among the spectra; None clips none. See
        :func:`spec2fn.plans.background.master_background.combine_spectra`.
    median_kernel : int
        Width of the moving median that smooths the combined spectrum; even widths are lowered by
        one, 1 does nothing.
    force_subtract : bool
        Subtract even if a background has been subtracted before.
    save_background : bool
        Keep the combined spectrum (``masterbg1d``), the background of every slitlet in DN/s
        (``masterbg2d``, Slits) and the spectra of the background slitlets (``bkgx1d``) in
        ``meta.records``.
    user_background : str or xarray.Dataset, optional
        Spectrum to be subtracted instead: a file, or its content.
    inverse : bool
        Add the background back.
    propagate_variance : bool
        Add the variance of the background to those of the pixels, and to ``err``. It is that of
        one spectrum, which all pixels of a wavelength share, and does not decrease when they are
        averaged: ``flux_error_cov`` of the extracted spectra says so, other errors take pixels
        for independent. All of it is added to ``var_poisson``: flat_field sets
        ``var_flat`` anew, and ``var_rnoise``, by which resample_spec weighs pixels, has to stay
        that of the pixels themselves (weights that vary from row to row change the sum over an
        undersampled star). Errors of flats in the background are part of it. Slitlets of
        background lose part of their own noise, so that their errors are too large. If false,
        errors stay as they were.
    corrections : tuple of Step, optional
        The steps that calibrate the background; those with ``skip`` are left out. In a pipeline
        these are the steps that follow, with the parameters (and replacements) they have there;
        by default flat_field, pathloss, barshadow and photom.

    Returns
    -------
    Slits
        Pixels that cannot be calibrated, or at wavelengths that the background does not cover,
        are NaN and flagged DO_NOT_USE. ``common_share`` (dims of ``sci``) is the share of
        ``var_poisson`` that pixels of a wavelength have in common. Skipped without slitlets of
        background or of sources, and after another subtraction of a background.

    Raises
    ------
    InputError
        If `user_background` holds no spectrum.
    DatasetError, ReferenceError
        From the steps that calibrate.

    Notes
    -----
    Algorithm: JWST pipeline documentation, master_background step ("NIRSpec MOS").
    """
    given = (flat, fflat, sflat, dflat, pathloss, barshadow, photom, area, extract1d, apcorr)
    references = dict(zip(_REFS, given, strict=True))
    slitlets, fixed = slits.where(lambda b: ~_is_fixed(b)), slits.where(_is_fixed)
    units = slitlets.map(_of_ones)
    planned = zip(_corrections(corrections, references), plan.corrections, strict=True)
    for (correction, refs), its_plan in planned:
        units = correction(units, *refs, plan=its_plan, **_extended(correction))
    extracted, spectrum = None, plan.spectrum
    if plan.combination is not None:
        lit = _paired(slitlets.where(_is_background), units.where(_is_background), _scaled)
        rectified = resample_spec(lit, plan=plan.resampling)
        extracted = extract_1d(rectified, extract1d, apcorr, plan=plan.extraction)
        spectrum = plan.combination(extracted)
    assert spectrum is not None
    variance = variance_of(spectrum) if plan.adds_variance else None
    expanded = Slits(
        tuple(
            _on_pixels(b, u, p.interpolated(spectrum.surf_bright), p, variance)
            for b, u, p in zip(slitlets.buckets, units.buckets, plan.places, strict=True)
        )
    )
    done = _paired(slitlets, expanded, _subtract, inverse=inverse, adds_variance=plan.adds_variance)
    if len(fixed):
        done = done.join(fixed)
    if not save_background or any(is_traced(v.data) for v in variables_of(done)):
        return done
    return _with_records(done, spectrum, expanded, extracted)


def _corrections(
    steps: Sequence[Step] | None, references: Mapping[str, Any]
) -> list[tuple[Step, tuple[Any, ...]]]:
    """The steps that calibrate, each with its references."""
    # wavecorr moves the wavelengths of point sources only
    active = [
        s for s in (_CORRECTIONS if steps is None else steps) if not s.skip and s.name != "wavecorr"
    ]
    return [(s, tuple(references.get(r) for r in s.refs)) for s in active]


def _extended(correction: Step) -> dict[str, str]:
    """What makes a step take all sources for extended ones."""
    return {"source_type": "EXTENDED"} if "source_type" in correction.parameters else {}


def _with_records(
    slits: Slits, spectrum: Spectrum, expanded: Slits, extracted: xr.Dataset | None
) -> Slits:
    """Keep what has been subtracted, and the spectra it was found from."""
    records = {"masterbg1d": _as_dataset(spectrum, slits.attrs), "masterbg2d": expanded}
    if extracted is not None:
        records["bkgx1d"] = extracted
    return slits.map(lambda b: with_meta(b, records=records))


def _paired(
    one: Slits,
    other: Slits,
    function: Callable[..., xr.Dataset],
    *args: object,
    **parameters: object,
) -> Slits:
    """Apply a function to the buckets of two collections of the same slits."""
    pairs = zip(one.buckets, other.buckets, strict=True)
    return Slits(tuple(function(a, b, *args, **parameters) for a, b in pairs))


def _subtracted(slits: Slits) -> bool:
    first = slits.buckets[0]
    names = ("background", "master_background")
    return any(status_of(first, name).startswith("COMPLETE") for name in names)


def _is_fixed(bucket: xr.Dataset) -> HostArray:
    if "quadrant" not in bucket:
        return np.zeros(bucket.sizes["slit"], dtype=bool)
    return bucket["quadrant"].values == FIXED_SLIT_QUADRANT


def _is_background(bucket: xr.Dataset) -> HostArray:
    names = [n.upper() for n in strings(bucket, "source_name")]
    return np.array(["BKG" in n or "BACKGROUND" in n for n in names], dtype=bool)


def _of_ones(bucket: xr.Dataset) -> xr.Dataset:
    """A bucket with unit count rate, and the flags and variances it has."""
    sci = bucket.variables["sci"].data
    xp = array_namespace(sci)
    nan, one = (xp.asarray(v, sci.dtype) for v in (np.nan, 1.0))
    return replace_data(bucket, sci=xp.where(xp.isnan(sci), nan, one))


def _scaled(bucket: xr.Dataset, unit: xr.Dataset) -> xr.Dataset:
    """Calibrate a bucket by its calibrated count rates of one."""
    sci, gain = (ds.variables["sci"].data for ds in (bucket, unit))
    xp = array_namespace(sci, gain)
    good = xp.isfinite(sci) & xp.isfinite(gain)
    nan, one = (xp.asarray(v, sci.dtype) for v in (np.nan, 1.0))
    safe, factor = xp.where(good, sci, one), xp.where(good, gain, one)
    planes = {"sci": xp.where(good, safe * factor, nan)}
    if "var_flat" in unit:
        # proportional to the square of the signal, unlike the others
        variance = unit.variables["var_flat"].data
        planes["var_flat"] = xp.where(good, safe * safe * variance, nan)
    variances = [planes.get(n, unit.variables[n].data) for n in VARIANCES if n in unit]
    if variances:
        planes["err"] = safe_sqrt(sum(variances[1:], variances[0]))
    return replace_data(unit, **planes)


def _on_pixels(
    bucket: xr.Dataset,
    unit: xr.Dataset,
    level: Array,
    placed: Placement,
    variance: Array | None,
) -> xr.Dataset:
    """The background of a bucket in count rates, with its variances and flags."""
    dims, dtype = bucket["sci"].dims, bucket["sci"].dtype
    insert = (slice(None), None) if "integration" in dims else slice(None)
    gain, dq = (unit.variables[n].data for n in ("sci", "dq"))
    xp = array_namespace(gain, dq, level)
    bit = np.uint32(PIXEL["DO_NOT_USE"])
    # what the corrections could not calibrate is NaN and flagged already
    covered = placed.covered[insert] & xp.isfinite(gain) & (gain != 0)
    dq = xp.where(covered, dq, dq | bit)
    usable = (dq & bit) == 0
    safe = xp.where(usable, gain, xp.ones((), dtype))
    nan, zero = xp.asarray(np.nan, dtype), xp.zeros((), dtype)
    planes = {"sci": xp.where(usable, level.astype(dtype)[insert] / safe, nan), "dq": dq}
    added = zero
    if variance is not None:
        added = placed.interpolated(variance, 2).astype(dtype)[insert]
    planes["var_poisson"] = xp.where(usable, added / (safe * safe), nan)
    planes["var_rnoise"] = xp.where(usable, zero, nan)
    planes["err"] = safe_sqrt(planes["var_poisson"])
    return bucket.assign({n: (dims, p, dict(bucket[n].attrs)) for n, p in planes.items()})


def _subtract(
    bucket: xr.Dataset, background: xr.Dataset, *, inverse: bool, adds_variance: bool
) -> xr.Dataset:
    sign = 1 if inverse else -1
    sci, err, dq = (bucket.variables[n].data for n in ("sci", "err", "dq"))
    level, flags, added = (background.variables[n].data for n in ("sci", "dq", "var_poisson"))
    xp = array_namespace(sci, level)
    new = {"sci": sci + level if inverse else sci - level, "dq": dq | flags}
    if adds_variance:
        zero = xp.zeros((), added.dtype)
        added = xp.where(xp.isnan(added), zero, added)
        new["err"] = safe_sqrt(xp.maximum(err * err - sign * added, zero))
        if "var_poisson" in bucket:
            total = xp.maximum(bucket.variables["var_poisson"].data - sign * added, zero)
            new["var_poisson"] = total
            if not inverse:
                share = safe_divide(added, total, total > 0, fill=0.0)
                bucket = bucket.assign({COMMON_SHARE: (bucket["sci"].dims, share)})
    if inverse:
        bucket = bucket.drop_vars(COMMON_SHARE, errors="ignore")
    return replace_data(bucket, **new)


def _as_dataset(spectrum: Spectrum, attrs: Mapping[str, Any]) -> xr.Dataset:
    """The combined spectrum as a product."""
    import xarray as xr

    columns = {
        "wavelength": spectrum.wavelength,
        "surf_bright": spectrum.surf_bright,
        **{n: c for n, c in spectrum.columns.items() if n != "flux_error_cov"},
    }
    data = {}
    for name, column in columns.items():
        units = EXTRACTED[name][1] if name in EXTRACTED else {"weight": "s"}.get(name, "")
        dims = ("spectrum", "wave")
        data[name] = (dims, np.asarray(column)[None], {"units": units} if units else {})
    kept = {k: v for k, v in attrs.items() if k != "meta"}
    meta = attrs.get("meta")
    if meta is not None:
        kept["meta"] = meta.replace(wcs=None)
    return xr.Dataset(data, attrs={**kept, "model": "MultiCombinedSpecModel"})
