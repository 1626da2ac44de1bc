"""The optics of NIRSpec between detector and sky, as astropy models from the references.

Light passes the fore-optics (``ote``, ``fore``), the slits in the plane of the MSA (``msa``), the
``collimator``, the grating wheel (``disperser``), the ``camera`` and falls on a detector (``fpa``).
The parametric model is described in Dorner et al. (2016, A&A 592, A113) and in the JWST
documentation of assign_wcs for NIRSpec; going backwards from the detector, the angle behind the
grating does not say which slit the light came through, which is why every slit has its own WCS.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.modes import mode_of
from spec2fn.schema import SHUTTERS_ALONG, meta_of
from spec2fn.subarray import subarray_origin
from spec2fn.typing import HostArray
from spec2fn.wcs.assign import References, entry, reference
from spec2fn.wcs.assign.pointing import (
    v2v3_to_sky,
    velocity_aberration,
    velocity_correction,
)
from spec2fn.wcs.lower import lower
from spec2fn.wcs.lowered import Lowered, chain

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model

__all__ = [
    "DETECTOR_SIZE",
    "Optics",
    "check_grating",
    "exceeded_range",
    "msa_to_sky",
    "optics",
    "quadrants",
    "slit_scales",
    "spectral_range",
    "spectrograph",
    "tree",
]

_Step: TypeAlias = "tuple[str, Model | None, str, tuple[str, str], tuple[str, str]]"

_LOG = logging.getLogger("spec2fn.wcs")
_WHO = "assign_wcs"
DETECTOR_SIZE = 2048
_METROLOGY = ("NO", "XC", "YC", "SIZEX", "SIZEY")
_GLASS = ("angle", "kcoef", "lcoef", "tcoef", "tref", "pref")
# wavelengths [m] at which the refraction of the prism is tabulated, to be inverted
_PRISM_GRID = (0.3, 8.005, 0.005)


@dataclass(frozen=True, eq=False)
class Optics:
    """What all slits of an exposure share; angles are direction cosines, wavelengths in m.

    Attributes
    ----------
    to_sca : astropy.modeling.Model
        Pixel (x, y) of the exposure to pixel of the sensor chip, which NRS2 reads upside down.
    sca_to_gwa : astropy.modeling.Model
        Pixel of the sensor chip to the angles behind the grating wheel.
    collimator_to_gwa : astropy.modeling.Model
        Position (x, y) [m] in the plane of the MSA to the angles before the grating wheel.
    wavelength : astropy.modeling.Model
        Angles before (2) and behind (1) the disperser to wavelength.
    angles : astropy.modeling.Model
        Wavelength and angles before (3) to the angles behind the disperser.
    quadrants : mapping of int to (Model, table)
        Position inside a quadrant [m] to position in the plane of the MSA, and the metrology of
        its slits (NO, XC, YC, SIZEX, SIZEY), by quadrant; 5 has the fixed slits.
    to_sky : tuple of (str, Model)
        From the plane of the MSA (or slicer) on: the name of the frame a transform starts from,
        and the transform of (x, y, wavelength).
    order : int
        Spectral order.
    waverange : (float, float)
        Wavelengths that are of interest.
    nominal : (float, float)
        Nominal range of filter and grating; zeros if the reference does not know them.
    on_sky : bool
        Whether light comes from the sky. That of a lamp is followed to the plane of the MSA, and
        its wavelengths are in micron from ``slit_frame`` on.
    """

    to_sca: Model
    sca_to_gwa: Model
    collimator_to_gwa: Model
    wavelength: Model
    angles: Model
    quadrants: Mapping[int, tuple[Model, HostArray]]
    to_sky: tuple[tuple[str, Model], ...]
    order: int
    waverange: tuple[float, float]
    nominal: tuple[float, float]
    on_sky: bool

    @property
    def last_frame(self) -> str:
        """Name of the frame that ends the world coordinates."""
        return "world" if self.on_sky else "msa_frame"

    @cached_property
    def lowered(self) -> _LoweredOptics:
        """The transforms as pure functions."""
        return _LoweredOptics(self)

    @cached_property
    def across_and_along(self) -> Model:
        """Angles behind the disperser (3) to two of those before it, and again the first two."""
        from astropy.modeling.models import Const1D, Identity, Mapping

        turned = (Const1D(0) * Identity(1)) & (Const1D(-1) * Identity(1))
        return Mapping((0, 1, 0, 1), n_inputs=3) | turned & Identity(2)

    @cached_property
    def to_wavelength(self) -> Model:
        """Position in a slit, angles before (3) and behind (2) to position and wavelength."""
        from astropy.modeling.models import Identity, Mapping

        return Mapping((0, 1, 2, 3, 5), n_inputs=7) | Identity(2) & self.wavelength

    @cached_property
    def disperse(self) -> Model:
        """Angles before the disperser (3) and wavelength to the angles behind it."""
        from astropy.modeling.models import Mapping

        return Mapping((3, 0, 1, 2)) | self.angles


@dataclass(frozen=True, eq=False)
class _LoweredOptics:
    """The transforms of :class:`Optics`, lowered when they are first used."""

    optics: Optics

    @cached_property
    def gwa(self) -> Lowered:
        return lower(self.optics.to_sca | self.optics.sca_to_gwa)

    @cached_property
    def detector(self) -> Lowered:
        return lower(self.optics.sca_to_gwa.inverse | self.optics.to_sca.inverse)

    @cached_property
    def entrance(self) -> Lowered:
        return lower(self.optics.collimator_to_gwa)

    @cached_property
    def wavelength(self) -> Lowered:
        return lower(self.optics.wavelength)

    @cached_property
    def angles(self) -> Lowered:
        return lower(self.optics.angles)

    @cached_property
    def sky(self) -> Lowered:
        return reduce(chain, (lower(model) for _, model in self.optics.to_sky))

    @cached_property
    def from_sky(self) -> Lowered:
        return reduce(chain, (lower(m.inverse) for _, m in reversed(self.optics.to_sky)))

    @cached_property
    def from_msa(self) -> dict[int, Lowered]:
        return {q: lower(model.inverse) for q, (model, _) in self.optics.quadrants.items()}


def optics(
    ds: xr.Dataset,
    refs: References,
    wavelength_range: tuple[float, float] | None = None,
    *,
    lamp_velocity: bool = False,
) -> Optics:
    """Put the transforms of an exposure together.

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure with attributes ``detector``, ``filter`` and ``grating``; keywords GWA_XTIL and
        GWA_YTIL (and GWA_TILT for the prism).
    refs : mapping
        ``camera collimator disperser fore fpa msa ote wavelengthrange`` (ASDF); lamps do without
        ``fore`` and ``ote``.
    wavelength_range : (float, float), optional
        Wavelengths [um] of interest instead of those of the reference.
    lamp_velocity : bool
        Correct wavelengths to the barycentre even if the light is that of a lamp.

    Raises
    ------
    InputError
        For a missing keyword, an unknown detector, or a filter and grating that do not go
        together.
    ReferenceError
        For a missing or damaged reference, or one of another grating or filter.
    """
    shared = spectrograph(ds, refs, wavelength_range, lamp_velocity=lamp_velocity)
    names = ("fore", "ote") if shared["on_sky"] else ()
    trees = {name: tree(ds, refs, name) for name in names}
    return Optics(**shared, quadrants=quadrants(ds, refs), to_sky=msa_to_sky(ds, trees))


def quadrants(ds: xr.Dataset, refs: References) -> dict[int, tuple[Model, HostArray]]:
    """Return :attr:`Optics.quadrants`, from the reference ``msa``."""
    msa = tree(ds, refs, "msa")
    return {q: _quadrant(msa, q) for q in range(1, 6)}


def spectrograph(
    ds: xr.Dataset,
    refs: References,
    wavelength_range: tuple[float, float] | None = None,
    *,
    lamp_velocity: bool = False,
) -> dict[str, Any]:
    """Return what does not depend on the aperture: from the collimator to the detector.

    Parameters
    ----------
    ds, refs, wavelength_range, lamp_velocity
        See :func:`optics`; of the references ``camera collimator disperser fpa wavelengthrange``.

    Returns
    -------
    dict
        Fields of :class:`Optics`: all but ``quadrants`` and ``to_sky``.
    """
    from stdatamodels.jwst.transforms.models import Unitless2DirCos

    # first, because CRDS has no references for filters and gratings that do not go together
    order, nominal = spectral_range(ds, refs, any_filter=wavelength_range is not None)
    waverange = nominal if wavelength_range is None else _in_metres(wavelength_range)
    trees = {name: tree(ds, refs, name) for name in ("camera", "collimator", "disperser", "fpa")}
    rotation = _grating_rotation(ds, trees["disperser"])
    on_sky = not mode_of(ds).lamp
    moving = on_sky or lamp_velocity
    wavelength, angles = _disperser(ds, trees["disperser"], order, moving=moving)
    to_sca = _to_sca(ds)
    fpa = entry(trees["fpa"], "reference 'fpa'", f"{ds.attrs['detector'].lower()}_model")
    camera = entry(trees["camera"], "reference 'camera'", "model")
    collimator = entry(trees["collimator"], "reference 'collimator'", "model").inverse

    cosines = [Unitless2DirCos(name="unitless2directional_cosines") for _ in range(2)]
    return {
        "to_sca": to_sca,
        "sca_to_gwa": fpa | camera | cosines[0] | rotation,
        "collimator_to_gwa": collimator | cosines[1] | rotation,
        "wavelength": wavelength,
        "angles": angles,
        "order": order,
        "waverange": waverange,
        "nominal": nominal,
        "on_sky": on_sky,
    }


def tree(ds: xr.Dataset, refs: References, name: str) -> Mapping[str, Any]:
    """Return the content of an ASDF reference.

    Raises
    ------
    ReferenceError
        If there is none, it is no ASDF file, or it is for another grating or filter.
    """
    ref = reference(refs, name, _WHO)
    for key in ("grating", "filter"):
        theirs, ours = ref.attrs.get(key), ds.attrs.get(key)
        if theirs not in (None, "", "N/A", "ANY") and ours is not None and theirs != ours:
            msg = (
                f"{_WHO}: reference {name!r} ({ref.attrs.get('filename', '?')}) is for {key}"
                f" {theirs}, the exposure was taken with {ours}; give the one for {ours}"
            )
            raise ReferenceError(msg)
    content = ref.attrs.get("tree")
    if not isinstance(content, Mapping):
        msg = f"{_WHO}: reference {name!r} ({ref.attrs.get('filename', '?')}) is no ASDF file"
        raise ReferenceError(msg)
    return content


def check_grating(ds: xr.Dataset) -> None:
    """Raise :class:`InputError` for an exposure whose light is not dispersed."""
    if str(ds.attrs.get("grating", "")).upper() in ("", "MIRROR"):
        msg = (
            f"{_WHO}: GRATING is {ds.attrs.get('grating', 'missing')!s}, which disperses no light;"
            " spec2fn calibrates spectra"
        )
        raise InputError(msg)


def _in_metres(wavelength_range: tuple[float, float]) -> tuple[float, float]:
    low, high = wavelength_range
    if not 0 < low < high:
        msg = f"{_WHO}: wavelength_range={wavelength_range} needs 0 < low < high, in micron"
        raise InputError(msg)
    return float(low) * 1e-6, float(high) * 1e-6


def exceeded_range(optics: Optics) -> tuple[float, float] | None:
    """Return the nominal range [um] if the wavelengths of interest go beyond it, else None."""
    low, high = optics.waverange
    if optics.nominal[0] <= low and high <= optics.nominal[1]:
        return None
    return optics.nominal[0] * 1e6, optics.nominal[1] * 1e6


def spectral_range(
    ds: xr.Dataset, refs: References, *, any_filter: bool = False
) -> tuple[int, tuple[float, float]]:
    """Return the spectral order and the nominal range of wavelengths [m] of an exposure.

    Parameters
    ----------
    ds, refs
        See :func:`optics`.
    any_filter : bool
        Accept a filter that the reference does not know with the grating; its range is
        ``(0.0, 0.0)``, its order that of the grating with another filter.

    Raises
    ------
    InputError
        If the reference does not know the filter with the grating.

    Notes
    -----
    Lamps stand in the place of filters. Of one that the reference does not know with the grating,
    order and range are those of the grating with the first filter or lamp, as in the JWST pipeline.
    """
    ref = reference(refs, "wavelengthrange", _WHO)
    tree = ref.attrs.get("tree", {})
    configurations = list(entry(tree, "reference 'wavelengthrange'", "waverange_selector"))
    lamp = bool(mode_of(ds).lamp)
    first, grating = ds.attrs.get("lamp_state" if lamp else "filter"), ds.attrs.get("grating")
    name = f"{first}_{grating}"
    same = [i for i, c in enumerate(configurations) if c.endswith(f"_{grating}")]
    if name not in configurations and any_filter:
        return int(tree["order"][same[0]]) if same else -1, (0.0, 0.0)
    if name not in configurations and lamp and same:
        known = configurations[same[0]]
        _LOG.warning(
            "%s: the reference wavelengthrange does not know %s; order and range are those of %s",
            _WHO,
            name,
            known,
        )
        name = known
    if name not in configurations:
        pairs = ", ".join(sorted(configurations[i] for i in same))
        msg = (
            f"{_WHO}: {'LAMP' if lamp else 'FILTER'} {first} with GRATING {grating} is no"
            f" configuration of {ref.attrs.get('filename', 'the reference wavelengthrange')}"
            f" (it knows {pairs or 'no filter for this grating'});"
            " correct the keywords, or set wavelength_range"
        )
        raise InputError(msg)
    i = configurations.index(name)
    low, high = tree["wavelengthrange"][i]
    return int(tree["order"][i]), (float(low), float(high))


def _to_sca(ds: xr.Dataset) -> Model:
    from astropy.modeling.models import Identity, Scale, Shift

    detector = ds.attrs.get("detector")
    x, y = subarray_origin(ds)
    shift = Shift(float(x)) & Shift(float(y))
    if detector == "NRS1":
        return shift | Identity(2)
    if detector == "NRS2":
        last = 1.0 - DETECTOR_SIZE
        return shift | (Shift(last) & Shift(last) | Scale(-1) & Scale(-1))
    msg = f"{_WHO}: keyword DETECTOR is {detector!r}, needs NRS1 or NRS2"
    raise InputError(msg)


def _grating_rotation(ds: xr.Dataset, disperser: Mapping[str, Any]) -> Model:
    from stdatamodels.jwst.transforms.models import Rotation3DToGWA

    # the sensors read a tilt about one axis of the wheel, which turns the grating about the other
    meta = meta_of(ds)
    theta = {
        axis: float(entry(disperser, "reference 'disperser'", f"theta_{axis}")) for axis in "xyz"
    }
    for keyword, sensor, axis in (("GWA_XTIL", "gwa_tiltx", "y"), ("GWA_YTIL", "gwa_tilty", "x")):
        reading = meta.number(keyword, _WHO)
        calibration = entry(disperser, "reference 'disperser'", sensor)
        tilt = calibration["tilt_model"]
        moved = float(tilt(reading)) - float(tilt(calibration["zeroreadings"][0]))
        theta[axis] += 0.5 * moved / 3600.0
    angles = [
        theta["x"],
        theta["y"],
        theta["z"],
        float(entry(disperser, "reference 'disperser'", "tilt_y")),
    ]
    return Rotation3DToGWA(angles, axes_order="xyzy", name="rotation")


def _disperser(
    ds: xr.Dataset, disperser: Mapping[str, Any], order: int, *, moving: bool
) -> tuple[Model, Model]:
    from astropy.modeling.models import Identity

    prism = str(ds.attrs.get("grating", "")).upper() == "PRISM"
    wavelength, angles = _prism(ds, disperser) if prism else _grating(disperser, order)
    velocity = velocity_correction(meta_of(ds)) if moving else None
    if velocity is not None:
        wavelength = wavelength | velocity
        angles = velocity.inverse & Identity(3) | angles
    return wavelength, angles


def _grating(disperser: Mapping[str, Any], order: int) -> tuple[Model, Model]:
    from astropy.modeling.models import Identity, Mapping, Scale
    from gwcs.spectroscopy import AnglesFromGratingEquation3D, WavelengthFromGratingEquation

    # gwcs counts the angle along the dispersion with the opposite sign
    density = float(entry(disperser, "reference 'disperser'", "groovedensity"))
    wavelength = (
        Mapping((0, 2), n_inputs=3)
        | WavelengthFromGratingEquation(density, order, name="lambda_from_gratingeq")
        | Scale(-1)
    )
    angles = (
        Mapping((0, 1, 2), n_inputs=4)
        | Identity(1) & Scale(-1) & Identity(1)
        | AnglesFromGratingEquation3D(density, order, name="alpha_from_greq")
    )
    return wavelength, angles


def _prism(ds: xr.Dataset, disperser: Mapping[str, Any]) -> tuple[Model, Model]:
    from astropy.modeling.models import Tabular1D
    from stdatamodels.jwst.transforms.models import RefractionIndexFromPrism, Snell

    glass = {key: entry(disperser, "reference 'disperser'", key) for key in _GLASS}
    temperature = meta_of(ds).number("GWA_TILT", _WHO)
    # the glass is in vacuum wherever it is used: there is no reading of the pressure
    law = Snell(**glass, temperature=temperature, pressure=glass["pref"], name="snell_law")
    grid = np.arange(*_PRISM_GRID) * 1e-6
    index = Snell.compute_refraction_index(
        grid,
        temperature,
        glass["tref"],
        glass["pref"],
        glass["pref"],
        *(list(glass[key]) for key in ("kcoef", "lcoef", "tcoef")),
    )
    # the index falls with wavelength, a table needs it to rise
    table = Tabular1D(points=(index[::-1],), lookup_table=grid[::-1], bounds_error=False)
    return RefractionIndexFromPrism(glass["angle"], name="n_prism") | table, law


def _quadrant(msa: Mapping[str, Any], quadrant: int) -> tuple[Model, HostArray]:
    apertures = entry(msa, "reference 'msa'", f"Q{quadrant}")
    data = np.asarray(entry(apertures, "reference 'msa'", "data"))
    if len(data.dtype.names or ()) != len(_METROLOGY):
        msg = f"{_WHO}: quadrant {quadrant} of reference 'msa' needs columns {_METROLOGY}"
        raise ReferenceError(msg)
    if data.dtype.names != _METROLOGY:
        # columns count by position: their names have changed over the years
        data = data.copy()
        data.dtype.names = _METROLOGY
    return entry(apertures, "reference 'msa'", "model"), data


def slit_scales(optics: Optics) -> dict[int, tuple[float, float]]:
    """Pitch of the shutters over the size of their open area (x, y), by quadrant of the MSA."""
    out = {}
    for quadrant in range(1, 5):
        _, data = optics.quadrants[quadrant]
        if len(data) > SHUTTERS_ALONG:
            x = (data["XC"][1] - data["XC"][0]) / data["SIZEX"][0]
            # positions across are counted from the quadrant's first row of shutters
            out[quadrant] = (float(x), float(data["YC"][SHUTTERS_ALONG] / data["SIZEY"][0]))
    return out


def msa_to_sky(
    ds: xr.Dataset, trees: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, Model], ...]:
    """Return the transforms from the MSA or the slicer to the sky, as :attr:`Optics.to_sky`.

    Parameters
    ----------
    ds : xarray.Dataset
    trees : mapping of str to mapping
        Content of the references ``fore`` and ``ote``; of the IFU also of ``ifufore`` and, if
        there is one, ``chromcorr``. Without ``fore`` they end in the plane of the MSA, and
        wavelengths are in micron.
    """
    from astropy.modeling.models import Identity, Mapping, Scale

    on_sky = "fore" in trees

    def chromatic(reftype: str, mapping: str | None = None) -> Model:
        # distortions of the fore-optics depend on wavelength [m], which is passed on as well
        fore = entry(trees[reftype], f"reference {reftype!r}", "model")
        model = Mapping((0, 1, 2, 2), name=mapping)
        inverse = Mapping((0, 1, 2, 2))
        if not on_sky:
            model, inverse = (m | Identity(2) & Scale(1e-6) & Identity(1) for m in (model, inverse))
        model = model | fore & Identity(1)
        model.inverse = inverse | fore.inverse & Identity(1)
        return model

    slicer = chromatic("ifufore") if "ifufore" in trees else None
    if not on_sky:
        return () if slicer is None else _named([_from_slicer(slicer)])
    msa_to_oteip = chromatic("fore", "msa2fore_mapping")
    correction, corrected = None, "oteip"
    if "chromcorr" in trees:
        correction, corrected = (
            entry(trees["chromcorr"], "reference 'chromcorr'", "model"),
            "oteip_chromcorr",
        )
    oteip_to_v2v3 = entry(trees["ote"], "reference 'ote'", "model") & Scale(1e6)
    meta = meta_of(ds)
    steps = [
        _from_slicer(slicer),
        ("msa_frame", msa_to_oteip, "msa2oteip", ("x_msa", "y_msa"), ("x_ote", "y_ote")),
        ("oteip", correction, "chrom_corr", ("x_ote", "y_ote"), ("x_ote", "y_ote")),
        (corrected, oteip_to_v2v3, "oteip2v23", ("x_ote", "y_ote"), ("v2", "v3")),
        ("v2v3", velocity_aberration(meta) & Identity(1), "va_corr", ("v2", "v3"), ("v2", "v3")),
        ("v2v3vacorr", v2v3_to_sky(meta) & Identity(1), "v2v3_to_sky", ("v2", "v3"), ("ra", "dec")),
    ]
    return _named(steps)


def _from_slicer(slicer: Model | None) -> _Step:
    return "slicer", slicer, "slicer2msa", ("x_slice", "y_slice"), ("x_msa", "y_msa")


def _named(steps: Iterable[_Step]) -> tuple[tuple[str, Model], ...]:
    """Give models their names and those of their coordinates; leave out those that are None."""
    out = []
    for frame, model, name, inputs, outputs in steps:
        if model is None:
            continue
        model.name = name
        model.inputs, model.outputs = (*inputs, "lam"), (*outputs, "lam")
        out.append((frame, model))
    return tuple(out)
