"""Subtraction of the background seen in slitlets that hold no source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import Skip, Step, as_reference, step
from spec2fn.modes import mode_of
from spec2fn.parameters import Range
from spec2fn.plans.background.master_background import (
    Spectrum,
    combine_spectra,
    expand,
    smooth,
    user_spectrum,
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
from spec2fn.typing import HostArray

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


@step(
    refs=_REFS,
    reads=("sci", "err", "dq", "wavelength"),
    provides=("common_share",),
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
    sigma_clip: Annotated[float, Range(0.0)] | None = 3.0,
    median_kernel: Annotated[int, Range(1, 4095)] = 1,
    force_subtract: bool = False,
    save_background: bool = False,
    user_background: Any = None,  # noqa: ANN401 - whatever a user gives
    inverse: bool = False,
    propagate_variance: bool = True,
    corrections: Any = None,  # noqa: ANN401 - whatever a user gives
) -> Slits | Skip:
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
        undersampled star). If false, errors stay as they were.
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
    mode = mode_of(slits)
    if not mode.shutters:
        return Skip(f"it applies to slitlets, not to {mode.exp_type or 'no exposure'}")
    if not force_subtract and _subtracted(slits):
        return Skip("a background has been subtracted before (force_subtract=True overrules this)")
    slitlets, fixed = slits.where(lambda b: ~_is_fixed(b)), slits.where(_is_fixed)
    backgrounds = slitlets.where(_is_background)
    if user_background is None:
        if not len(backgrounds):
            return Skip("no slitlet holds background only (BKG in the name of its source)")
        if len(backgrounds) == len(slitlets):
            return Skip("no slitlet holds a source")

    steps = _CORRECTIONS if corrections is None else corrections
    units = _calibrated(slitlets.map(_of_ones), references, steps)
    extracted = None
    if user_background is None:
        combined, extracted = _measure(backgrounds, units, references, sigma_clip)
        if isinstance(combined, str):
            return Skip(combined)
        spectrum = smooth(combined, median_kernel)
    else:
        spectrum = user_spectrum(as_reference(user_background, "user_background"))

    expanded = _paired(slitlets, units, _on_pixels, spectrum, variances=propagate_variance)
    done = _paired(slitlets, expanded, _subtract, inverse=inverse)
    if len(fixed):
        done = done.join(fixed)
    return _with_records(done, spectrum, expanded, extracted) if save_background else done


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
    sci = bucket["sci"].values
    return replace_data(bucket, sci=np.where(np.isnan(sci), sci, np.ones((), sci.dtype)))


def _calibrated(slits: Slits, references: Mapping[str, Any], corrections: Sequence[Step]) -> Slits:
    """Calibrate, with all sources taken for extended ones."""
    for correction in corrections:
        # wavecorr moves the wavelengths of point sources only
        if correction.skip or correction.name == "wavecorr":
            continue
        extended = {"source_type": "EXTENDED"} if "source_type" in correction.parameters else {}
        slits = correction(slits, *(references.get(r) for r in correction.refs), **extended)
    return slits


def _measure(
    backgrounds: Slits, units: Slits, references: Mapping[str, Any], sigma_clip: float | None
) -> tuple[Spectrum | str, xr.Dataset | None]:
    """Combine the spectra of the background slitlets; the result, and the spectra."""
    units = units.where(_is_background)
    rectified = resample_spec(_paired(backgrounds, units, _scaled))
    spectra = extract_1d(rectified, references["extract1d"], references["apcorr"])
    if "flux" not in getattr(spectra, "variables", ()):
        reason = status_of(spectra.buckets[0], "extract_1d").removeprefix("SKIPPED: ")
        return f"no background spectrum could be extracted: {reason}", None
    first = backgrounds.buckets[0]
    time = float(first["exposure_time"].values) if "exposure_time" in first else 1.0
    return combine_spectra(spectra, sigma_clip, time if time > 0 else 1.0), spectra


def _scaled(bucket: xr.Dataset, unit: xr.Dataset) -> xr.Dataset:
    """Calibrate a bucket by its calibrated count rates of one."""
    sci = bucket["sci"].values
    planes = {"sci": sci * unit["sci"].values}
    if "var_flat" in unit:
        # proportional to the square of the signal, unlike the others
        planes["var_flat"] = sci * sci * unit["var_flat"].values
    names = [n for n in VARIANCES if n in unit]
    total = sum(planes.get(n, unit[n].values) for n in names)
    planes["err"] = np.sqrt(total) if names else unit["err"].values
    return replace_data(unit, **planes)


def _on_pixels(
    bucket: xr.Dataset, unit: xr.Dataset, spectrum: Spectrum, *, variances: bool
) -> xr.Dataset:
    """The background of a bucket in count rates, with its variances and flags."""
    dtype = bucket["sci"].dtype
    # at the wavelengths that products hold: next to a cosmic ray the spectrum is so steep that
    # the digits they drop would be seen
    wavelength = bucket["wavelength"].values.astype(np.float32).astype(np.float64)
    within, level, variance = expand(spectrum, wavelength, variances=variances)
    insert = (slice(None), None) if "integration" in bucket["sci"].dims else slice(None)
    gain = unit["sci"].values
    bit = np.uint32(PIXEL["DO_NOT_USE"])
    # what the corrections could not calibrate is NaN and flagged already
    covered = within[insert] & np.isfinite(gain) & (gain != 0)
    dq = np.where(covered, unit["dq"].values, unit["dq"].values | bit)
    usable = (dq & bit) == 0
    safe = np.where(usable, gain, np.ones((), dtype))
    nan = np.asarray(np.nan, dtype)
    planes = {"sci": np.where(usable, level.astype(dtype)[insert] / safe, nan), "dq": dq}
    variance = (variance[insert] if variance.ndim else variance).astype(dtype)
    planes["var_poisson"] = np.where(usable, variance / (safe * safe), nan)
    planes["var_rnoise"] = np.where(usable, np.zeros((), dtype), nan)
    planes["err"] = np.sqrt(planes["var_poisson"])
    dims = bucket["sci"].dims
    return bucket.assign({n: (dims, p, dict(bucket[n].attrs)) for n, p in planes.items()})


def _subtract(bucket: xr.Dataset, background: xr.Dataset, *, inverse: bool) -> xr.Dataset:
    sign = 1 if inverse else -1
    sci = bucket["sci"].values
    level = background["sci"].values
    new = {
        "sci": sci + level if inverse else sci - level,
        "dq": bucket["dq"].values | background["dq"].values,
    }
    added = np.nan_to_num(background["var_poisson"].values)
    if added.any():
        err = bucket["err"].values
        new["err"] = np.sqrt(np.maximum(err * err - sign * added, 0))
        if "var_poisson" in bucket:
            total = np.maximum(bucket["var_poisson"].values - sign * added, 0)
            new["var_poisson"] = total
            if not inverse:
                share = np.divide(added, total, out=np.zeros_like(total), where=total > 0)
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
