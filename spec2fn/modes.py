"""The observing modes: one row of traits each.

Everything below the pipelines asks for traits of a mode, never for its name, so that a new mode is
a row here, a builder of world coordinates, the planners that are really new, and a tuple of steps
in :mod:`spec2fn.pipelines`. Traits follow the table of modes in the description of the stage-2
spectroscopic pipeline (https://jwst-pipeline.readthedocs.io, "calwebb_spec2").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from spec2fn.pieces import Exposure

__all__ = [
    "ACQUISITION_IMAGE",
    "MODES",
    "Layout",
    "Mode",
    "function_named",
    "known_exp_types",
    "mode_named",
    "mode_of",
    "nothing_to_calibrate",
]

Layout = Literal["image", "slits", "slices", "traces", "orders"]


@dataclass(frozen=True)
class Mode:
    """Traits of an observing mode.

    Attributes
    ----------
    exp_type : str
        Keyword EXP_TYPE.
    instrument : str
        Keyword INSTRUME; empty for a mode nobody knows.
    layout : str
        How the spectra lie on the detector: ``image`` (one, in an image of its own), ``slits`` and
        ``traces`` (cut out, by slit or by source), ``slices`` (of an integral-field unit),
        ``orders`` (of one source, overlapping).
    wcs : str
        Builder of the world coordinates, ``module:function`` below :mod:`spec2fn.wcs.assign` (or
        the full name of a module); empty if there is none yet.
    lamp : str
        OPMODE of an exposure of the internal lamps, whose light enters behind the telescope, so
        that world coordinates end in the plane of the micro-shutter array.
    light : str
        What a lamp shines with, if that decides on the steps: ``LINE`` or ``FLAT``.
    one_source : bool
        The programme names one source for all of the exposure.
    source_type : str
        Type of that source where nothing tells, ``POINT`` or ``EXTENDED``.
    time_series : bool
        Exposures of several integrations are time series even if TSOVISIT does not say so.
    slit : bool
        The one spectrum is that of a slit, in which the source has a position.
    fixed_slits : bool
        Slits have names (S200A1, …) by which references list them.
    one_slit : bool
        Of several fixed slits only the primary one is read out.
    shutters : bool
        Slits are made of micro-shutters: quadrant, row, column, neighbours.
    source_position : bool
        The place of the source across the dispersion follows from the world coordinates, and
        apertures are put there unless told otherwise.
    through_array : bool
        Light can reach the detector through shutters of the micro-shutter array that fail open.
    acquisition : bool
        An image of the target verifies where it stands.
    etalon : bool
        Layers of the detector make fringes and scatter light (MIRI MRS).
    cube_columns : str
        What adds columns to the spectra of cubes, ``module:function`` below :mod:`spec2fn.spectra`;
        empty if they have none of their own.
    unwritten : tuple of str
        Planes that the products do not have, because the gwcs tells.
    surveyed : bool
        What a step plans depends on the pixels of all integrations: the plans of a series that is
        too long to be in memory are made from integrations spread over it.
    spectral : bool
        Exposures hold spectra: all but the images that serve them.
    elements : mapping of str to tuple of str
        Keywords of the optical elements that a countrate exposure must have, with the values
        there are; empty if nothing is asked.
    """

    exp_type: str
    instrument: str = ""
    layout: Layout = "image"
    wcs: str = ""
    lamp: str = ""
    light: str = ""
    one_source: bool = False
    source_type: str = "POINT"
    time_series: bool = False
    slit: bool = False
    fixed_slits: bool = False
    one_slit: bool = False
    shutters: bool = False
    source_position: bool = False
    through_array: bool = False
    acquisition: bool = False
    etalon: bool = False
    cube_columns: str = ""
    unwritten: tuple[str, ...] = ()
    surveyed: bool = False
    spectral: bool = True
    elements: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """EXP_TYPE, and of a lamp OPMODE and light: ``NRS_LAMP:IFU:LINE``."""
        return ":".join(filter(None, (self.exp_type, self.lamp, self.light)))

    @property
    def sliced(self) -> bool:
        """Whether an integral-field unit cuts the field."""
        return self.layout == "slices"

    @property
    def keywords(self) -> Mapping[str, tuple[str, ...]]:
        """Keywords that a countrate exposure must have, with the values there are."""
        return {"INSTRUME": (self.instrument,), **self.elements} if self.elements else {}

    @property
    def several_slits(self) -> bool:
        """Whether one exposure holds the primary fixed slit and others."""
        return self.fixed_slits and not self.one_slit


_MIRI, _NIRSPEC, _NIRISS, _NIRCAM = "MIRI", "NIRSPEC", "NIRISS", "NIRCAM"

ACQUISITION_IMAGE = "MIR_TACONFIRM"
"""EXP_TYPE of the image that verifies where the target of MIRI stands."""


def _elements(**values: str) -> Mapping[str, tuple[str, ...]]:
    return {keyword: tuple(text.split()) for keyword, text in values.items()}


_LRS = _elements(DETECTOR="MIRIMAGE", FILTER="P750L")
_FILTERS = "CLEAR F070LP F100LP F110W F140X F170LP F290LP"
_DISPERSERS = "PRISM G140M G140H G235M G235H G395M G395H"
_SPECTROGRAPH = _elements(DETECTOR="NRS1 NRS2", FILTER=_FILTERS, GRATING=_DISPERSERS)
# light of the lamps does not pass the filters
_BEHIND_FILTERS = _elements(
    DETECTOR="NRS1 NRS2", FILTER=f"OPAQUE {_FILTERS}", GRATING=f"MIRROR {_DISPERSERS}"
)

_FIXED = Mode(
    "NRS_FIXEDSLIT",
    _NIRSPEC,
    "slits",
    "nirspec:slits",
    one_source=True,
    fixed_slits=True,
    source_position=True,
    elements=_SPECTROGRAPH,
)
_BRIGHT = replace(_FIXED, exp_type="NRS_BRIGHTOBJ", one_slit=True, time_series=True)
_MOS = Mode(
    "NRS_MSASPEC",
    _NIRSPEC,
    "slits",
    "nirspec:slits",
    shutters=True,
    source_position=True,
    through_array=True,
    elements=_SPECTROGRAPH,
)
_IFU = Mode(
    "NRS_IFU",
    _NIRSPEC,
    "slices",
    "nirspec_ifu:ifu",
    one_source=True,
    source_type="EXTENDED",
    through_array=True,
    elements=_SPECTROGRAPH,
)


def _lamps() -> dict[str, Mode]:
    """Rows of the lamp exposures, whose optics are those of a mode of the sky."""
    rows = {}
    for exp_type, modes in {
        "NRS_LAMP": ("FIXEDSLIT", "BRIGHTOBJ", "MSASPEC", "IFU"),
        "NRS_AUTOWAVE": ("FIXEDSLIT", "BRIGHTOBJ", "MSASPEC", "IFU"),
        "NRS_AUTOFLAT": ("MSASPEC",),
    }.items():
        for sky in (_FIXED, _BRIGHT, _MOS, _IFU):
            opmode = sky.exp_type.removeprefix("NRS_")
            if opmode in modes:
                row = replace(
                    sky,
                    exp_type=exp_type,
                    lamp=opmode,
                    one_source=False,
                    # lamps shine through all slits that are read out
                    one_slit=False,
                    time_series=False,
                    source_position=False,
                    # any shutter may fail open while a lamp shines
                    through_array=True,
                    elements=_BEHIND_FILTERS,
                )
                rows[row.name] = row
                for light in ("LINE", "FLAT") if exp_type == "NRS_LAMP" else ():
                    lit = replace(row, light=light)
                    rows[lit.name] = lit
    return rows


_TRACES = Mode("", layout="traces")

MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode(
            "MIR_LRS-FIXEDSLIT",
            _MIRI,
            "image",
            "miri:lrs",
            one_source=True,
            slit=True,
            source_position=True,
            acquisition=True,
            elements=_LRS,
        ),
        Mode(
            "MIR_LRS-SLITLESS",
            _MIRI,
            "image",
            "miri:lrs",
            one_source=True,
            acquisition=True,
            elements=_LRS,
        ),
        Mode(
            "MIR_MRS",
            _MIRI,
            "slices",
            "miri_mrs:mrs",
            one_source=True,
            source_type="EXTENDED",
            etalon=True,
            cube_columns="fringe_columns:without_fringes",
            unwritten=("wavelength",),
            elements=_elements(
                DETECTOR="MIRIFUSHORT MIRIFULONG",
                CHANNEL="12 34",
                BAND="SHORT MEDIUM LONG SHORT-MEDIUM SHORT-LONG MEDIUM-SHORT MEDIUM-LONG"
                " LONG-SHORT LONG-MEDIUM",
            ),
        ),
        Mode(
            ACQUISITION_IMAGE,
            _MIRI,
            spectral=False,
            elements=_elements(
                DETECTOR="MIRIMAGE",
                FILTER="F560W F770W F1000W F1130W F1280W F1500W F1800W F2100W F2550W F2550WR FND",
            ),
        ),
        replace(
            _TRACES,
            exp_type="MIR_WFSS",
            instrument=_MIRI,
            wcs="grism:wide_field",
            elements=_elements(DETECTOR="MIRIMAGE", FILTER="P750L"),
        ),
        Mode(
            "NIS_SOSS",
            _NIRISS,
            "orders",
            "soss:soss",
            one_source=True,
            surveyed=True,
            elements=_elements(
                DETECTOR="NIS",
                FILTER="CLEAR F277W",
                PUPIL="GR700XD",
                SUBARRAY="SUBSTRIP256 SUBSTRIP96 FULL SUB17STRIPE_SOSS SUB60STRIPE_SOSS"
                " SUB204STRIPE_SOSS SUB680STRIPE_SOSS",
            ),
        ),
        replace(
            _TRACES,
            exp_type="NIS_WFSS",
            instrument=_NIRISS,
            wcs="grism:wide_field",
            elements=_elements(
                DETECTOR="NIS",
                FILTER="GR150C GR150R",
                PUPIL="F090W F115W F140M F150W F158M F200W",
            ),
        ),
        replace(_TRACES, exp_type="NRC_GRISM", instrument=_NIRCAM),
        replace(
            _TRACES,
            exp_type="NRC_TSGRISM",
            instrument=_NIRCAM,
            wcs="grism:time_series",
            one_source=True,
            time_series=True,
            elements=_elements(
                DETECTOR="NRCALONG", MODULE="A", PUPIL="GRISMR", FILTER="F277W F322W2 F356W F444W"
            ),
        ),
        replace(
            _TRACES,
            exp_type="NRC_WFSS",
            instrument=_NIRCAM,
            wcs="grism:wide_field",
            elements=_elements(
                DETECTOR="NRCALONG NRCBLONG",
                MODULE="A B",
                PUPIL="GRISMR GRISMC",
                FILTER="F250M F277W F300M F322W2 F335M F356W F360M F410M F430M F444W F460M F480M",
            ),
        ),
        _BRIGHT,
        _FIXED,
        _IFU,
        _MOS,
    )
} | _lamps()
"""Traits by name of the mode."""


def known_exp_types() -> tuple[str, ...]:
    """Return the spectroscopic exposure types, without repetition."""
    return tuple(dict.fromkeys(mode.exp_type for mode in MODES.values() if mode.spectral))


def mode_named(exp_type: str, lamp_mode: str = "", lamp_state: str = "") -> Mode:
    """Return the mode of an exposure type.

    Parameters
    ----------
    exp_type : str
        Value of EXP_TYPE.
    lamp_mode : str
        Value of OPMODE, which tells the mode of a lamp exposure.
    lamp_state : str
        Value of LAMP, which tells what the lamp shines with.

    Returns
    -------
    Mode
        One without traits if it is not known: steps say that they do not apply.
    """
    exp_type = exp_type.strip().upper()
    lamp = f"{exp_type}:{lamp_mode.strip().upper()}"
    for name in (exp_type, f"{lamp}:{_light(lamp_state)}", lamp):
        if name in MODES:
            return MODES[name]
    return Mode(exp_type)


def _light(lamp_state: str) -> str:
    state = lamp_state.strip().upper()
    return "LINE" if state.startswith(("LIN", "REF")) else state[:4]


def mode_of(ds: Exposure) -> Mode:
    """Return the mode of an exposure.

    It follows from the attributes ``exp_type``, and of a lamp ``lamp_mode`` and ``lamp_state``.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
    """
    names = ("exp_type", "lamp_mode", "lamp_state")
    return mode_named(*(str(ds.attrs.get(n, "")) for n in names))


def nothing_to_calibrate(ds: Exposure) -> str:
    """Say why there is no spectrum in an exposure of a lamp; "" if there is one.

    Parameters
    ----------
    ds : xarray.Dataset or Slits
    """
    mode = mode_of(ds)
    kinds = [m for m in MODES.values() if m.lamp and m.exp_type == mode.exp_type]
    if not kinds:
        return ""
    said = {n: str(ds.attrs.get(n) or "missing").strip() for n in ("lamp_mode", "lamp_state")}
    grating = str(ds.attrs.get("grating", "")).strip().upper()
    if grating == "MIRROR":
        return "GRATING is MIRROR, which disperses no light"
    if not mode.lamp:
        known = ", ".join(dict.fromkeys(m.lamp for m in kinds))
        return f"OPMODE is {said['lamp_mode']}, spectra of lamps are taken in {known}"
    if not mode.light and any(m.light for m in kinds):
        return f"LAMP is {said['lamp_state']}, neither a line lamp (LINEn, REF) nor FLATn"
    return ""


def function_named(name: str, room: str) -> Callable[..., Any]:
    """Return the function that a trait names ``module:function``, the module below `room`."""
    module, function = name.split(":")
    found: Callable[..., Any] = getattr(import_module(f"{room}.{module}"), function)
    return found
