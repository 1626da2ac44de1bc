"""Whole exposures of NIRSpec with known truth: fixed slits, a time series, the MSA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import scenes
from spec2fn.forward.exposures import Setup
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.exposures import nirspec_setup
from spec2fn.forward.nirspec.msa import fixed_slit, msa_metadata, shutter
from spec2fn.forward.nirspec.operators import SlitOperators, open_slits, slit_operators
from spec2fn.forward.nirspec.references import with_true_flat
from spec2fn.forward.operators import SceneOperator
from spec2fn.forward.rendered import Exposed, Rendered, Source, Truth, empty_exposure, with_wcs
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.slits import Slits

__all__ = ["SLITLETS", "Slitlet", "nirspec_bots", "nirspec_fs", "nirspec_mos"]

GRID = scenes.NEAR_GRID
PROGRAM = 1234
_NODS = ((0.12, 0.16), (0.12, -0.16))
"""Positions of the target in S200A1, in units of its width and height."""
_BOTS_PLACE = (0.05, 0.03)
_FIXED_SOURCE = 90  # in the fixed slit of a MOS exposure
_MSA_FILE = "jw01234001001_01_msa.fits"
_ANY_WAVELENGTH = 2.0e-6  # m; the place of a slit hardly depends on it


@dataclass(frozen=True)
class Slitlet:
    """Open shutters of the MSA and what they hold.

    Attributes
    ----------
    number : int
        Of the slitlet and of its source.
    shutter : (int, int, int)
        Quadrant, row and column of the main shutter.
    columns : (int, int)
        Open shutters below and above it.
    kind : {"point", "extended", "empty"}
    spectrum : callable or None
        Flux density [Jy], or surface brightness [MJy/sr], by wavelength [um].
    place : (float, float)
        Position of the source in the main shutter, from its corner (0 to 1).
    size : float
        Standard deviation of an extended source, in units of the height of a shutter.
    """

    number: int
    shutter: tuple[int, int, int]
    columns: tuple[int, int]
    kind: str
    spectrum: Callable[[HostArray], HostArray] | None = None
    place: tuple[float, float] = (0.5, 0.5)
    size: float = 2.5

    @property
    def name(self) -> str:
        """Name of the source."""
        return f"{PROGRAM}_{'BKG' if self.kind == 'empty' else ''}{self.number}"


def _scaled(
    shape: Callable[..., HostArray], flux: float, *args: float
) -> Callable[[HostArray], HostArray]:
    return lambda wave: shape(wave, flux, *args)


SLITLETS: tuple[Slitlet, ...] = (
    Slitlet(1, (3, 120, 20), (1, 1), "point", _scaled(scenes.star, 1.0e-5)),
    Slitlet(2, (3, 210, 38), (1, 1), "point", _scaled(scenes.galaxy, 2.5e-6, 2.1), (0.70, 0.62)),
    Slitlet(3, (3, 300, 78), (1, 1), "extended", _scaled(scenes.galaxy, 0.8, 1.3)),
    Slitlet(4, (3, 90, 96), (2, 2), "point", _scaled(scenes.quasar, 6.0e-6), (0.30, 0.40)),
    Slitlet(5, (3, 260, 118), (1, 1), "point", _scaled(scenes.galaxy, 8.0e-7, 3.2), (0.55, 0.35)),
    Slitlet(6, (3, 160, 140), (2, 2), "empty"),
    Slitlet(7, (4, 280, 14), (0, 1), "extended", _scaled(scenes.star, 1.5)),
    Slitlet(8, (4, 130, 34), (1, 1), "point", _scaled(scenes.star, 3.0e-6, 0.6), (0.45, 0.55)),
    Slitlet(9, (4, 230, 58), (1, 1), "point", _scaled(scenes.galaxy, 4.0e-6, 0.9), (0.25, 0.50)),
    Slitlet(10, (4, 320, 84), (0, 0), "extended", _scaled(scenes.quasar, 1.5, 2.5), size=np.inf),
    Slitlet(11, (4, 110, 110), (1, 1), "point", _scaled(scenes.quasar, 1.2e-6, 3.1), (0.60, 0.70)),
    Slitlet(12, (4, 190, 138), (1, 1), "extended", _scaled(scenes.galaxy, 0.5, 2.6)),
)
"""The slitlets of :func:`nirspec_mos`."""


def nirspec_fs(references: Mapping[str, xr.Dataset], seed: int) -> Rendered:
    """Expose a nod pair of a galaxy in a fixed slit.

    It stands in S200A1, the other slits see the sky, which the nod takes away. Roles are
    ``science`` and ``background`` (the other nod).
    """
    target = Truth(GRID, scenes.galaxy(GRID, 6.0e-6, 1.7))
    nothing = Truth(GRID, np.zeros(len(GRID)))
    true = with_true_flat(references, seed)
    taken = {}
    for number, (role, place) in enumerate(
        zip(("science", "background"), _NODS, strict=True), start=1
    ):
        setup = nirspec_setup(
            "NRS_FIXEDSLIT",
            name=f"jw01234001001_03101_{number:05d}_nrs1_rate.fits",
            shape=(256, 2048),
            integration_time=200.0,
            subarray="ALLSLITS",
            corner=(1, 897),
            number=number,
            positions=len(_NODS),
            fixed_slit="S200A1",
        )
        setup = _aimed(setup, references, place)
        slits = slit_operators(open_slits(empty_exposure(setup), references), true, GRID)
        sources = tuple(
            Source("target", s.name, "point", target)
            if s.name == setup.optics["FXD_SLIT"]
            else Source(f"sky in {s.name}", s.name, "empty", nothing)
            for s in slits
        )
        taken[role] = _exposed(setup, slits, sources)
    return Rendered(taken, target, sources)


def nirspec_bots(
    references: Mapping[str, xr.Dataset], seed: int, integrations: int = 10
) -> Rendered:
    """Expose a star during a transit with the prism, in integrations of 10 s each.

    The sky, far fainter than the star, is left out.
    """
    setup = nirspec_setup(
        "NRS_BRIGHTOBJ",
        name="jw01234001001_04101_00001_nrs1_rateints.fits",
        shape=(integrations, 32, 512),
        integration_time=10.0,
        subarray="SUB512",
        corner=(1137, 961),
        fixed_slit="S1600A1",
    )
    star, depth = scenes.star(GRID, 1.0e-3, 0.1), scenes.near_transit_depth(GRID)
    truth = Truth(GRID, scenes.transit(star, depth, integrations))
    setup = _aimed(setup, references, _BOTS_PLACE)
    slits = open_slits(empty_exposure(setup), references)
    (slit,) = slit_operators(_as_points(slits), with_true_flat(references, seed), GRID)
    science = Exposed(setup, np.zeros(setup.shape[-2:]), slit.point)
    return Rendered({"science": science}, truth, (Source("target", slit.name, "point", truth),))


def nirspec_mos(
    references: Mapping[str, xr.Dataset], seed: int, slitlets: Sequence[Slitlet] = SLITLETS
) -> Rendered:
    """Expose the micro-shutter array with the prism, and a fixed slit. The sky is everywhere.

    A slitlet of kind "empty" measures the background.
    """
    setup = nirspec_setup(
        "NRS_MSASPEC",
        name="jw01234001001_05101_00001_nrs1_rate.fits",
        shape=(2048, 2048),
        integration_time=200.0,
        extra={"MSAMETFL": _MSA_FILE, "MSAMETID": 1},
    )
    fixed = Truth(GRID, scenes.star(GRID, 8.0e-6, 0.2))
    slits = open_slits(empty_exposure(setup), references, _metadata(slitlets))
    operators = slit_operators(slits, with_true_flat(references, seed), GRID)
    by_name = {str(s.number): s for s in slitlets}
    sources = tuple(
        _source(by_name[s.name])
        if s.name in by_name
        else Source(f"{PROGRAM}_{_FIXED_SOURCE}", s.name, "point", fixed)
        for s in operators
    )
    science = _exposed(setup, operators, sources)
    metadata = _metadata(slitlets, _source_positions(slits))
    return Rendered({"science": science}, sources[0].truth, sources, metadata)


def _aimed(setup: Setup, references: Mapping[str, xr.Dataset], place: tuple[float, float]) -> Setup:
    """Point at a slit, so that the target stands at a place in it."""
    from spec2fn.wcs.lower import lower

    wcs: Any = meta_of(with_wcs(setup, references)).wcs
    (i,) = (i for i in wcs if wcs.batch.slits[i].name == setup.optics["FXD_SLIT"])
    to_v2v3 = lower(wcs[i], "slit_frame", "v2v3")
    centre, target = (
        [float(v) for v in to_v2v3(*p, _ANY_WAVELENGTH)[:2]] for p in ((0.0, 0.0), place)
    )
    aperture = setup.aperture._replace(v2=centre[0], v3=centre[1])
    dither = aperture.to_ideal(target[0] - centre[0], target[1] - centre[1])
    return replace(setup, aperture=aperture, dither=dither)


def _as_points(slits: Slits) -> Slits:
    # a single empty image is no time series, whose target would be a point source
    return slits.map(lambda b: b.assign(source_type=("slit", np.full(b.sizes["slit"], "POINT"))))


def _exposed(setup: Setup, slits: Sequence[SlitOperators], sources: Sequence[Source]) -> Exposed:
    """Sky and source of every slit."""
    sky = nrs.background(GRID)
    parts: list[Any] = []
    spectra: list[HostArray] = []
    for slit, source in zip(slits, sources, strict=True):
        parts.append(slit.sky)
        spectra.append(sky)
        if source.kind == "point":
            parts.append(slit.point)
        elif source.profile is not None:
            parts.append(slit.extended(source.profile))
        else:
            continue
        spectra.append(source.truth.flux)
    op = SceneOperator(tuple(parts), (setup.shape[-2], setup.shape[-1]))
    return Exposed(setup, op(spectra), op)


def _source(slitlet: Slitlet) -> Source:
    flux = np.zeros(len(GRID)) if slitlet.spectrum is None else slitlet.spectrum(GRID)
    profile = None
    if slitlet.kind == "extended":
        centre = slitlet.place[1] - 0.5

        def profile(along: HostArray) -> HostArray:
            return np.exp(-0.5 * ((along - centre) / slitlet.size) ** 2)

    return Source(slitlet.name, str(slitlet.number), slitlet.kind, Truth(GRID, flux), profile)


def _metadata(
    slitlets: Sequence[Slitlet], positions: Mapping[int, tuple[float, float]] | None = None
) -> xr.Dataset:
    rows = []
    for s in slitlets:
        quadrant, row, column = s.shutter
        rows += [
            shutter(s.number, quadrant, row, column + k, s.number, main=k == 0, place=s.place)
            for k in range(-s.columns[0], s.columns[1] + 1)
        ]
    rows.append(fixed_slit("S200A1", _FIXED_SOURCE, (0.55, 0.48)))
    numbers = [*(s.number for s in slitlets), _FIXED_SOURCE]
    names = [*(s.name for s in slitlets), f"{PROGRAM}_{_FIXED_SOURCE}"]
    at = [(positions or {}).get(n, (0.0, 0.0)) for n in numbers]
    stellarity = {"point": 1.0, "extended": 0.1, "empty": 0.0}
    sources = {
        "program": np.full(len(numbers), PROGRAM),
        "source_id": np.array(numbers),
        "source_name": np.array(names),
        "alias": np.array(names),
        "catalog_id": np.array(names),
        "preimage_id": np.full(len(numbers), "None"),
        "stellarity": np.array([*(stellarity[s.kind] for s in slitlets), 1.0]),
        "ra": np.array([p[0] for p in at]),
        "dec": np.array([p[1] for p in at]),
    }
    return msa_metadata(rows, sources, _MSA_FILE)


def _source_positions(slits: Slits) -> dict[int, tuple[float, float]]:
    """Right ascension and declination [deg] of the sources."""
    wcs: Any = meta_of(slits.buckets[0]).wcs
    out = {}
    for number, slit in enumerate(wcs.batch.slits):
        place = (slit.source_xpos, slit.source_ypos)
        ra, dec, _ = wcs.batch.sky(np.array(number), *place, _ANY_WAVELENGTH)
        out[slit.source_id] = (float(ra), float(dec))
    return out
