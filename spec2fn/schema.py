"""Names, dimensions, dtypes and units of every Dataset that flows through spec2fn.

This module is the single place that says what a variable is called, which FITS extension or
keyword it comes from, and which attributes steps may branch on. See ``docs/dataset.md``.

Three kinds of attribute live on a Dataset:

* *mode attributes* (:data:`MODE_ATTRS`): flat and hashable; steps branch on them, so a new value
  means a new trace;
* *status attributes* (``status_<step>``): what each step did, and why;
* one opaque :class:`Meta` under ``"meta"``: headers, file names and gwcs objects, which never
  reach a trace. Numbers that a step needs in a trace are therefore scalar variables
  (:data:`SCALARS`), not header look-ups.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as _replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from spec2fn.errors import DatasetError, InputError, ReferenceError
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.typing import Array, Number

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Header

E = TypeVar("E", bound="Exposure")

__all__ = [
    "ALLOWED",
    "AREA",
    "EXTRACTED",
    "FIELD_FILES",
    "FIELD_KEYWORDS",
    "INT_TIMES",
    "MODE_ATTRS",
    "COMMON_ERROR",
    "COMMON_SHARE",
    "FIXED_SLIT_QUADRANT",
    "SHUTTERS_ACROSS",
    "SHUTTERS_ALONG",
    "MSA_TABLES",
    "NOT_EXTRACTED",
    "PLANES",
    "RESIDUAL_FRINGES",
    "SCALARS",
    "SPECTRUM_COLUMNS",
    "SWITCHED_OFF",
    "VARIANCES",
    "Allowed",
    "Meta",
    "Plane",
    "Scalar",
    "allowed",
    "described",
    "has_value",
    "is_calibrated",
    "meta_of",
    "need",
    "replace_data",
    "require",
    "set_scalars",
    "status_of",
    "validate",
    "warnings_of",
    "with_attrs",
    "with_meta",
    "with_problems",
    "with_status",
    "with_warnings",
]


@dataclass(frozen=True)
class Plane:
    """An array variable of an exposure, a cutout, a cube or a resampled image."""

    hdu: str
    dtype: str
    kind: str  # "value" scales with the data, "variance" with its square; "flag", "aux" do not
    about: str


PLANES: Mapping[str, Plane] = {
    "sci": Plane("SCI", "float32", "value", "count rate, then surface brightness or flux density"),
    "err": Plane("ERR", "float32", "value", "standard error of sci"),
    "dq": Plane("DQ", "uint32", "flag", "data-quality bits (spec2fn.dq)"),
    "mask": Plane("MASK", "uint32", "flag", "1 where a slitless exposure sees background alone"),
    "regions": Plane("REGIONS", "int32", "flag", "regions of an IFU as products hold them"),
    "wavelength": Plane("WAVELENGTH", "float64", "aux", "wavelength [um]"),
    "wavelength_uncorrected": Plane("", "float64", "aux", "wavelength before wavecorr [um]"),
    "barshadow": Plane("BARSHADOW", "float32", "aux", "bar shadow correction, uniform source"),
    "wht": Plane("WHT", "float32", "aux", "drizzle weight"),
    "con": Plane("CON", "int32", "flag", "bit map of the exposures that contribute"),
    "wmap": Plane("WMAP", "float32", "aux", "number of pixels that contribute to a voxel"),
    "trace_model": Plane("TRACEMODEL", "float32", "aux", "model of the trace of a compact source"),
    "var_poisson": Plane("VAR_POISSON", "float32", "variance", "variance by photon noise"),
    "var_rnoise": Plane("VAR_RNOISE", "float32", "variance", "variance by read noise"),
    "var_flat": Plane("VAR_FLAT", "float32", "variance", "variance by the flat field"),
    "flatfield_point": Plane("FLATFIELD_PS", "float32", "aux", "flat field, point source"),
    "flatfield_uniform": Plane("FLATFIELD_UN", "float32", "aux", "flat field, uniform source"),
    "pathloss_ps": Plane("PATHLOSS_PS", "float32", "aux", "pathloss correction, point source"),
    "pathloss_un": Plane("PATHLOSS_UN", "float32", "aux", "pathloss correction, uniform source"),
    "photom_point": Plane("PHOTOM_PS", "float32", "aux", "flux factor, point source"),
    "photom_uniform": Plane("PHOTOM_UN", "float32", "aux", "flux factor, uniform source"),
    "ra": Plane("", "float64", "aux", "right ascension (ICRS) [deg]"),
    "dec": Plane("", "float64", "aux", "declination (ICRS) [deg]"),
    "alpha": Plane("", "float64", "aux", "position along the slice (MRS) [arcsec]"),
    "beta": Plane("", "float64", "aux", "position across the slices (MRS) [arcsec]"),
    "slice_id": Plane("", "int32", "flag", "number of the slice of an integral-field unit, or 0"),
    "slit_y": Plane("", "float64", "aux", "position along a slice of the NIRSpec IFU"),
}
"""Array variables by name, in the order in which their HDUs appear in a product."""

AREA = "area"
"""Variable: relative area of the pixels of the whole detector, dims ``(area_y, area_x)``."""

VARIANCES = tuple(name for name, plane in PLANES.items() if plane.kind == "variance")
"""Names of the variances of an exposure."""


@dataclass(frozen=True)
class Scalar:
    """A number kept as a zero-dimensional variable; written as a FITS keyword."""

    keyword: str
    hdu: str  # "PRIMARY", "SCI" or "" (never written)
    unit: str
    about: str
    read: bool = False  # read from the header when an exposure is opened
    section: str = ""  # title of its section in the PRIMARY header, where it has one


SCALARS: Mapping[str, Scalar] = {
    "mid_time": Scalar("EXPMID", "", "d", "mid time of the exposure [MJD, UTC]", read=True),
    "exposure_time": Scalar("XPOSURE", "", "s", "effective exposure time", read=True),
    "photmjsr": Scalar("PHOTMJSR", "SCI", "MJy/sr", "[MJy/sr] flux density producing 1 cps"),
    "photuja2": Scalar(
        "PHOTUJA2", "SCI", "uJy/arcsec2", "[uJy/arcsec2] flux density producing 1 cps"
    ),
    "pixar_sr": Scalar("PIXAR_SR", "SCI", "sr", "[sr] nominal pixel area"),
    "pixar_a2": Scalar("PIXAR_A2", "SCI", "arcsec2", "[arcsec2] nominal pixel area"),
    "ta_xpos": Scalar("TA_XPOS", "SCI", "pixel", "source x-position in TA verification image"),
    "ta_ypos": Scalar("TA_YPOS", "SCI", "pixel", "source y-position in TA verification image"),
    "source_xpos": Scalar("SRCXPOS", "SCI", "pixel", "source position in slit (x-axis)"),
    "source_ypos": Scalar("SRCYPOS", "SCI", "pixel", "source position in slit (y-axis)"),
    "dithered_ra": Scalar("DITH_RA", "PRIMARY", "deg", "RA of dithered pointing location"),
    "dithered_dec": Scalar("DITH_DEC", "PRIMARY", "deg", "Dec of dithered pointing location"),
    "background_scale": Scalar(
        "BKGD_SCL", "PRIMARY", "", "Background scale factor", section="Background information"
    ),
    **{
        name: Scalar(keyword, "PRIMARY", unit, about, section="NIRISS SOSS Extract1D Parameters")
        for name, keyword, unit, about in (
            ("aperture_width", "SOSSWDTH", "pixel", "Aperture width used in extraction"),
            ("tikhonov_factor", "TIKFACTR", "", "Tikhonov factor used in extraction"),
            ("oversampling", "OVERSAMP", "", "Oversampling used in extraction"),
            ("threshold", "THRESHLD", "", "Threshold used in extraction"),
            ("pupil_wheel_angle", "PWCFIT", "deg", "Angle of the pupil wheel, fitted"),
            ("trace_shift", "TRCSHIFT", "pixel", "Shift of traces across dispersion, fitted"),
        )
    },
}

# name -> (FITS keyword, type); a keyword that is absent leaves the attribute out.
MODE_ATTRS: Mapping[str, tuple[str, type]] = {
    "exp_type": ("EXP_TYPE", str),
    "instrument": ("INSTRUME", str),
    "detector": ("DETECTOR", str),
    "filter": ("FILTER", str),
    "grating": ("GRATING", str),
    "pupil": ("PUPIL", str),
    "channel": ("CHANNEL", str),
    "band": ("BAND", str),
    "module": ("MODULE", str),
    "subarray": ("SUBARRAY", str),
    "lamp_state": ("LAMP", str),
    "lamp_mode": ("OPMODE", str),
    "fixed_slit": ("FXD_SLIT", str),
    "tso": ("TSOVISIT", bool),
    "background_target": ("BKGDTARG", bool),
    "dither_type": ("PATTTYPE", str),
    "dither_optimized_for": ("DITHOPFR", str),
    "source_type_apt": ("SRCTYAPT", str),
    "source_type": ("SRCTYPE", str),
    "xstart": ("SUBSTRT1", int),
    "ystart": ("SUBSTRT2", int),
    "xsize": ("SUBSIZE1", int),
    "ysize": ("SUBSIZE2", int),
    "dispaxis": ("DISPAXIS", int),
}
"""Attributes that steps branch on, with the FITS keyword each is read from.

Set by steps, without a keyword to read: ``model`` (the JWST data model of the next product),
``s_region``, ``specsys``, and ``nominal_range`` [um] where the user chose wavelengths beyond it.
"""


@dataclass(frozen=True)
class Allowed:
    """What a keyword may hold.

    Attributes
    ----------
    kind : type
        float (any finite number), int, bool, or str.
    low, high : float
        Range of a number, both included.
    among : tuple of str
        The texts there are; any if empty.
    like : str
        Regular expression of a text.
    needs : str
        For messages.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    among: tuple[str, ...] = ()
    like: str = ""
    needs: str = ""

    def said(self) -> str:
        """What is needed, in words."""
        if self.needs or self.among:
            return self.needs or f"one of {', '.join(self.among)}"
        if self.kind is bool:
            return "T or F"
        what = "a number" if self.kind is float else "an integer"
        limits = [(self.low, "from"), (self.high, "to")]
        return " ".join([what, *(f"{w} {v:g}" for v, w in limits if math.isfinite(v))])


def _each(keywords: str, allowed: Allowed) -> dict[str, Allowed]:
    return dict.fromkeys(keywords.split(), allowed)


_POSITIVE = Allowed(float, low=sys.float_info.min, needs="a positive number")

ALLOWED: Mapping[str, Allowed] = {
    **_each("RA_REF TARG_RA DITH_RA ROLL_REF V3I_YANG", Allowed(float, -360, 360)),
    **_each("DEC_REF TARG_DEC DITH_DEC", Allowed(float, -90, 90)),
    **_each("V2_REF V3_REF XOFFSET YOFFSET", Allowed(float, -3600, 3600)),
    "VPARITY": Allowed(float, among=("-1", "1")),
    # of a telescope that moves at 30 km/s about the Sun, with a margin
    "VA_SCALE": Allowed(float, 0.99, 1.01),
    "VELOSYS": Allowed(float, -1e6, 1e6),
    "PA_APER": Allowed(float),
    **_each("GWA_XTIL GWA_YTIL", Allowed(float, -10, 10)),
    # of the filter wheel of NIRISS
    "FWCPOS": Allowed(float, -360, 720, needs="an angle [deg]"),
    "PWCFIT": Allowed(float, -360, 720, needs="an angle [deg]"),
    **_each("SOSSWDTH OVERSAMP", _POSITIVE),
    **_each("TIKFACTR THRESHLD", Allowed(float, 0)),
    "TRCSHIFT": Allowed(float),
    # beyond the detector if the target is
    **_each("XREF_SCI YREF_SCI", Allowed(float, -4096, 4096)),
    "GWA_TILT": Allowed(float, sys.float_info.min, 400, needs="a temperature [K] from 0 to 400"),
    "EXPMID": Allowed(float, 5e4, 1e5, needs="a modified Julian date from 50000 to 100000"),
    **_each("XPOSURE TMEASURE EFFEXPTM", Allowed(float, 0)),
    **_each("PIXAR_SR PIXAR_A2", _POSITIVE),
    **_each("PHOTMJSR PHOTUJA2 TA_XPOS TA_YPOS SRCXPOS SRCYPOS BKGD_SCL", Allowed(float)),
    **_each("NINTS INTSTART INTEND", Allowed(int, 1)),
    **_each("SUBSTRT1 SUBSTRT2 SUBSIZE1 SUBSIZE2", Allowed(int, 1, 2048)),
    "DISPAXIS": Allowed(int, 1, 3),
    "SPORDER": Allowed(int, -9, 9),
    **_each("MSAMETID PATT_NUM", Allowed(int, 0)),
    **_each("TSOVISIT BKGDTARG", Allowed(bool)),
    **_each("SRCTYPE SRCTYAPT", Allowed(str, among=("POINT", "EXTENDED", "UNKNOWN"))),
    "INSTRUME": Allowed(str, among=("MIRI", "NIRSPEC", "NIRISS", "NIRCAM", "FGS")),
    "TARGTYPE": Allowed(str, among=("FIXED", "MOVING", "GENERIC", "INTERNAL")),
    "DATAMODL": Allowed(str, like=r"\w+Model", needs="a data model such as ImageModel"),
    "DATE-OBS": Allowed(str, like=r"\d{4}-\d\d-\d\d.*", needs="a date such as 2024-03-01"),
    "TIME-OBS": Allowed(str, like=r"\d\d:\d\d:\d\d.*", needs="a time such as 12:00:00.000"),
}
"""What keywords of exposures may hold, checked whenever one is read (:meth:`Meta.get`)."""


def allowed(keyword: str, value: Any, file: str) -> Any:  # noqa: ANN401 - keywords have values of several types
    """Return the value of a keyword, as the type that :data:`ALLOWED` says.

    Raises
    ------
    InputError
        Naming file, keyword, value and what is needed, if the value makes no sense.
    """
    rule = ALLOWED.get(keyword)
    if rule is None:
        return value
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if rule.kind is str:
        good = isinstance(value, str) and (not rule.among or value.strip().upper() in rule.among)
        if good and re.fullmatch(rule.like or ".*", value.strip()):
            return value
    elif rule.kind is bool:
        # some software writes logical values as text
        value = {"T": True, "TRUE": True, "F": False, "FALSE": False}.get(
            str(value).strip().upper(), value
        )
        if isinstance(value, bool | np.bool_):
            return bool(value)
    elif number:
        listed = not rule.among or f"{float(value):g}" in rule.among
        if math.isfinite(value) and rule.low <= value <= rule.high and listed:
            if rule.kind is float:
                return value
            if value == round(value):
                return round(value)
    msg = f"{file or 'the exposure'}: keyword {keyword} is {value!r}, needs {rule.said()}"
    raise InputError(f"{msg}; correct it")


FIELD_KEYWORDS: Mapping[str, tuple[str, str]] = {
    "sourcecat": ("SCATFILE", "Source catalog"),
    "segmap": ("SEGMFILE", "Segmentation map"),
    "direct_image": ("DIRIMAGE", "WFSS direct image"),
}
"""Files that describe the field of a slitless exposure: keyword and what it is, by role."""

FIELD_FILES = "field_files"
"""Record of the names of these files, by role."""

NOT_EXTRACTED = "slits_not_extracted"
"""Record of spectra that could not be extracted: why, by name of the slit."""

INT_TIMES: Mapping[str, tuple[str, str]] = {
    "integration_number": ("integration_number", "int32"),
    "int_start_mjd_utc": ("int_start_MJD_UTC", "float64"),
    "int_mid_mjd_utc": ("int_mid_MJD_UTC", "float64"),
    "int_end_mjd_utc": ("int_end_MJD_UTC", "float64"),
    "int_start_bjd_tdb": ("int_start_BJD_TDB", "float64"),
    "int_mid_bjd_tdb": ("int_mid_BJD_TDB", "float64"),
    "int_end_bjd_tdb": ("int_end_BJD_TDB", "float64"),
}
"""Variables on ``integration``, with the column of the INT_TIMES table each comes from."""

FIXED_SLIT_QUADRANT = 5
"""``quadrant`` of the fixed slits: those of the micro-shutter array are 1 to 4."""

SHUTTERS_ALONG, SHUTTERS_ACROSS = 365, 171
"""Shutters of a quadrant of the MSA, along and across the dispersion."""

COMMON_SHARE = "common_share"
"""Variable: share of ``var_poisson`` that all pixels of a wavelength have in common.

Not a variance, so that steps which scale pixels need not know it. What it becomes when an image
is resampled is :data:`COMMON_ERROR`.
"""
COMMON_ERROR = "common_error"
"""Variable of resampled images: standard error common to all pixels of a wavelength."""

MSA_TABLES: Mapping[str, tuple[str, ...]] = {
    "shutter_info": (
        "slitlet_id",
        "msa_metadata_id",
        "shutter_quadrant",
        "shutter_row",
        "shutter_column",
        "source_id",
        "background",
        "estimated_source_in_shutter_x",
        "estimated_source_in_shutter_y",
        "dither_point_index",
        "primary_source",
    ),
    "source_info": ("source_id", "source_name", "alias", "stellarity", "ra", "dec"),
}
"""Columns of the MSA metadata file by table; variables ``<table>.<column>`` on ``<table>_row``."""

# name -> (FITS column, unit); dims ([integration,] spectrum, wave), float64 except dq (uint32).
_OFFICIAL: Mapping[str, tuple[str, str]] = {
    "wavelength": ("WAVELENGTH", "um"),
    "flux": ("FLUX", "Jy"),
    "flux_error": ("FLUX_ERROR", "Jy"),
    "flux_var_poisson": ("FLUX_VAR_POISSON", "Jy^2"),
    "flux_var_rnoise": ("FLUX_VAR_RNOISE", "Jy^2"),
    "flux_var_flat": ("FLUX_VAR_FLAT", "Jy^2"),
    "surf_bright": ("SURF_BRIGHT", "MJy/sr"),
    "sb_error": ("SB_ERROR", "MJy/sr"),
    "sb_var_poisson": ("SB_VAR_POISSON", "MJy^2 / sr^2"),
    "sb_var_rnoise": ("SB_VAR_RNOISE", "MJy^2 / sr^2"),
    "sb_var_flat": ("SB_VAR_FLAT", "MJy^2 / sr^2"),
    "dq": ("DQ", ""),
    "background": ("BACKGROUND", "MJy/sr"),
    "bkgd_error": ("BKGD_ERROR", "MJy/sr"),
    "bkgd_var_poisson": ("BKGD_VAR_POISSON", "MJy^2 / sr^2"),
    "bkgd_var_rnoise": ("BKGD_VAR_RNOISE", "MJy^2 / sr^2"),
    "bkgd_var_flat": ("BKGD_VAR_FLAT", "MJy^2 / sr^2"),
    "npixels": ("NPIXELS", ""),
}
_OURS: Mapping[str, tuple[str, str]] = {"flux_error_cov": ("FLUX_ERROR_COV", "Jy")}

EXTRACTED: Mapping[str, tuple[str, str]] = {**_OFFICIAL, **_OURS}
"""Columns of an extracted spectrum; ``flux_error_cov`` (ours) has the covariance of resampling."""

RESIDUAL_FRINGES: Mapping[str, tuple[str, str]] = {
    "rf_flux": ("RF_FLUX", "Jy"),
    "rf_surf_bright": ("RF_SURF_BRIGHT", "MJy/sr"),
    "rf_background": ("RF_BACKGROUND", "MJy/sr"),
}
"""Columns that spectra of the MRS have besides: those without residual fringes."""

SPECTRUM_COLUMNS: Mapping[str, tuple[str, str]] = {**_OFFICIAL, **RESIDUAL_FRINGES, **_OURS}
"""All columns in the order of a table: those of the official products, then ours."""


@dataclass(frozen=True, eq=False)
class Meta:
    """What travels with a Dataset but never enters a trace.

    Attributes
    ----------
    primary, science : astropy.io.fits.Header
        Headers of the PRIMARY and the SCI extension the exposure came with. Treat as read-only.
    filename : str
        Name of the file the exposure came from.
    wcs : gwcs.WCS or mapping of slit id to gwcs.WCS, optional
        Pixel to world, set by ``assign_wcs`` (and ``resample_spec`` for its own grid).
    records : mapping
        Everything else: products of steps that are no array of the exposure, provenance.
    path : str
        Where the file was opened ("" for data in memory); no product records it.
    """

    primary: Header | None = field(default=None, repr=False)
    science: Header | None = field(default=None, repr=False)
    filename: str = ""
    wcs: Any = field(default=None, repr=False)
    records: Mapping[str, Any] = field(default_factory=dict, repr=False)
    path: str = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Meta:
        # xarray deep-copies attributes; this value is immutable and its gwcs is large.
        return self

    def get(self, keyword: str, default: object = None) -> Any:  # noqa: ANN401 - keywords have values of several types
        """Value of a FITS keyword of the PRIMARY or SCI header, or `default`.

        Raises
        ------
        InputError
            If it holds what it may not, see :data:`ALLOWED`. A keyword without value counts as
            absent.
        """
        value = self.raw(keyword)
        return default if value is None else allowed(keyword, value, self.filename)

    def raw(self, keyword: str) -> object:
        """Value of a FITS keyword, whatever it is; None if it is absent or blank."""
        for header in (self.primary, self.science):
            value = None if header is None else header.get(keyword)
            if value is not None and str(value).strip():
                return value
        return None

    def require(self, keyword: str, who: str) -> Any:  # noqa: ANN401 - keywords have values of several types
        """Value of a FITS keyword; :class:`InputError` naming file and keyword if absent."""
        value = self.get(keyword)
        if value is None:
            msg = (
                f"{who}: keyword {keyword} is missing from {self.filename or 'the exposure'};"
                " it is needed here: add it to the SCI or PRIMARY header"
            )
            raise InputError(msg)
        return value

    def number(self, keyword: str, who: str) -> float:
        """Value of a FITS keyword; :class:`InputError` if it is missing or no finite number."""
        value = self.require(keyword, who)
        good = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if good and math.isfinite(value):
            return float(value)
        file = self.filename or "the exposure"
        msg = f"{who}: keyword {keyword} of {file} is {value!r}, needs a number"
        raise InputError(msg)

    def replace(self, *, records: Mapping[str, Any] | None = None, **changes: Any) -> Meta:  # noqa: ANN401 - keywords have values of several types
        """Return a copy with some fields replaced; ``records`` are merged."""
        if records is not None:
            changes["records"] = {**self.records, **records}
        return _replace(self, **changes)


def meta_of(ds: Exposure) -> Meta:
    """Return the :class:`Meta` of a Dataset (an empty one inside a trace)."""
    meta = ds.attrs.get("meta")
    return meta if isinstance(meta, Meta) else Meta()


def described(ref: xr.Dataset) -> str:
    """Return type and file name of a reference, as messages name it."""
    name = meta_of(ref).filename or ref.attrs.get("filename") or "in memory"
    return f"reference {ref.attrs.get('reftype') or 'of unknown type'!r} ({name})"


def with_meta(ds: E, **changes: Any) -> E:  # noqa: ANN401 - keywords have values of several types
    """Return `ds` with fields of its :class:`Meta` replaced."""
    if isinstance(ds, Pieces):  # each has a WCS of its own
        return ds.map(lambda part: with_meta(part, **changes))
    return ds.assign_attrs(meta=meta_of(ds).replace(**changes))


def with_warnings(ds: E, *warnings: str) -> E:
    """Return `ds` with warnings added to its records: the terminal and every report show them.

    A warning is one line that says what was found, what was done about it, and the remedy. One
    that is recorded already is not repeated.
    """
    known = meta_of(ds).records.get("warnings", ())
    new = tuple(w for w in dict.fromkeys(warnings) if w not in known)
    return with_meta(ds, records={"warnings": (*known, *new)}) if new else ds


def with_problems(bucket: xr.Dataset, problems: Sequence[str], *, lost: bool = True) -> xr.Dataset:
    """Return a bucket with problems of its slits recorded.

    Parameters
    ----------
    bucket : xarray.Dataset
        Problems that it records already are kept.
    problems : sequence of str
        By slit, empty where there is none; nothing is recorded without any text by slit.
    lost : bool
        The slits have no value any more (the variable ``slit_problem``); otherwise they go on,
        and this is a warning (``slit_warning``).
    """
    name = "slit_problem" if lost else "slit_warning"
    if not problems:
        return bucket
    before = [""] * len(problems)
    if name in bucket:
        before = [str(p) for p in bucket.variables[name].data]
    both = ["; ".join(filter(None, pair)) for pair in zip(before, problems, strict=True)]
    return bucket.assign({name: ("slit", np.array(both, dtype=str))})


def warnings_of(ds: Exposure) -> tuple[str, ...]:
    """Return the warnings recorded on a Dataset, slits or cubes, each once."""
    told = (w for part in pieces_of(ds) for w in meta_of(part).records.get("warnings", ()))
    return tuple(dict.fromkeys(told))


def with_attrs(ds: xr.Dataset, **attrs: object) -> xr.Dataset:
    """Return `ds` with mode attributes replaced (None removes one)."""
    out = ds.copy(deep=False)
    kept = {k: v for k, v in {**ds.attrs, **attrs}.items() if v is not None}
    out.attrs = kept
    return out


SWITCHED_OFF = "SKIPPED: switched off"
"""Status of a step that the user, or its default, leaves out."""


def with_status(ds: E, step: str, status: str) -> E:
    """Return `ds` with the status of a step recorded (``COMPLETE``, ``SKIPPED: why``, …)."""
    return ds.assign_attrs({f"status_{step}": status})  # type: ignore[return-value] # mypy joins


def status_of(ds: Exposure, step: str) -> str:
    """Return the recorded status of `step`, or an empty string if it has not been seen."""
    return str(ds.attrs.get(f"status_{step}", ""))


def is_calibrated(ds: xr.Dataset) -> bool:
    """Whether the data are flux calibrated, by their units or the status of ``photom``."""
    units = str(ds["sci"].attrs.get("units", ""))
    if units:
        return "Jy" in units
    status = status_of(ds, "photom") or str(meta_of(ds).get("S_PHOTOM", ""))
    return status.startswith("COMPLETE")


def replace_data(ds: xr.Dataset, units: str | None = None, **arrays: Array) -> xr.Dataset:
    """Return `ds` with the data of existing variables replaced, dims and attributes kept.

    Parameters
    ----------
    ds : xarray.Dataset
        Not modified.
    units : str, optional
        New units of the replaced variables whose :class:`Plane` kind is "value".
    **arrays
        New data by variable name.
    """
    new = {}
    for name, array in arrays.items():
        old = ds.variables[name]
        attrs = dict(old.attrs)
        plane = PLANES.get(name)
        if units is not None and plane is not None and plane.kind == "value":
            attrs["units"] = units
        new[name] = (old.dims, array, attrs)
    return ds.assign(new)


def set_scalars(ds: xr.Dataset, **values: Number | None) -> xr.Dataset:
    """Return `ds` with zero-dimensional variables of :data:`SCALARS` set (None removes one)."""
    drop = [k for k, v in values.items() if v is None and k in ds]
    new = {}
    for name, value in values.items():
        if value is None:
            continue
        number = value if hasattr(value, "dtype") else np.float64(value)
        new[name] = ((), number, {"units": SCALARS[name].unit})
    return ds.drop_vars(drop).assign(new)


def has_value(array: object) -> bool:
    """Whether an array holds a finite number; of most arrays it looks at little."""
    values = np.asarray(array)
    return any(np.isfinite(part).any() for part in (values if values.ndim > 1 else (values,)))


def require(ds: xr.Dataset, names: Iterable[str], who: str) -> None:
    """Raise :class:`DatasetError` unless `ds` holds all variables of `names`."""
    missing = [n for n in names if n not in ds]
    if missing:
        msg = (
            f"{who}: needs variable {', '.join(map(repr, missing))}, but the Dataset holds "
            f"{', '.join(sorted(map(str, ds.data_vars))) or 'nothing'}"
        )
        hint = {"wavelength": "; run assign_wcs first"}.get(missing[0], "")
        raise DatasetError(msg + hint)


def need(ref: xr.Dataset | None, names: Iterable[str], who: str) -> xr.Dataset:
    """Return a reference, or raise unless it holds variables.

    Parameters
    ----------
    ref : xarray.Dataset or None
        None where a plan is given without the reference that it was made with.
    names : iterable of str
        Images, or ``<table>.<column>``.
    who : str
        Name of the step, for the message.

    Raises
    ------
    ReferenceError
        Naming the file and all that is missing.
    """
    if ref is None:
        raise ReferenceError(f"{who}: a plan needs the reference it was made with; give both")
    missing = [n for n in names if n not in ref]
    if missing:
        held = sorted(map(str, ref.data_vars))
        listed = ", ".join(held[:12]) + (", …" if len(held) > 12 else "")
        msg = (
            f"{who}: {described(ref)} has no {', '.join(map(repr, missing))} (it holds"
            f" {listed or 'no image and no table'}); use the reference of this instrument mode"
        )
        raise ReferenceError(msg)
    return ref


def validate(ds: xr.Dataset) -> xr.Dataset:
    """Check dims, dtypes and the agreement of shapes of an exposure; return it unchanged.

    Raises
    ------
    DatasetError
        Naming the first variable that does not fit, what was found and what is needed.
    """
    require(ds, ("sci", "err", "dq"), "validate")
    dims = ds["sci"].dims
    if dims[-2:] != ("y", "x"):
        msg = f"validate: 'sci' has dims {dims}; the last two must be ('y', 'x')"
        raise DatasetError(msg)
    for name, plane in PLANES.items():
        if name not in ds:
            continue
        var = ds.variables[name]
        if str(var.dtype) != plane.dtype:
            msg = f"validate: {name!r} is {var.dtype}, needs {plane.dtype}; convert it with astype"
            raise DatasetError(msg)
        if plane.kind in ("value", "variance") and var.dims != dims:
            msg = f"validate: {name!r} has dims {var.dims}, needs those of 'sci' {dims}"
            raise DatasetError(msg)
    for name in ("exp_type", "instrument"):
        if name not in ds.attrs:
            msg = f"validate: attribute {name!r} is missing; set it with ds.assign_attrs"
            raise DatasetError(msg)
    return ds
