"""Whole exposures with known truth: fixed slit (nod pair) and slitless (time series)."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward import scenes
from spec2fn.forward.exposures import Setup, bad_pixels, observe, to_dataset, write_exposure
from spec2fn.forward.lrs import instrument as lrs
from spec2fn.forward.lrs.references import (
    SHAPES,
    SUBARRAYS,
    ReferenceFile,
    true_flat,
    write_references,
)
from spec2fn.forward.operators import operator

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Rendered",
    "Source",
    "Truth",
    "empty_exposure",
    "reference_files",
    "render_miri_lrs_slit",
    "render_miri_lrs_slitless",
]

Array = np.ndarray[Any, Any]

NOD = 1.1
"""Offset of the two dither positions along the slit [arcsec]."""
POINTING_ERROR = (0.10, 0.25)
"""Column and row [pixel] by which the target misses its nominal position in the slit."""
_SLIT, _SLITLESS = "MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS"
_SLIT_SECONDS, _SLITLESS_SECONDS = 100.0, 10.0


@dataclass(frozen=True)
class Truth:
    """What was put in.

    Attributes
    ----------
    wavelength : array, shape (n,)
        [um]
    flux : array, shape ([integration,] n)
        Flux density [Jy], linear between the wavelengths.
    """

    wavelength: Array
    flux: Array

    def at(self, wavelength: Array) -> Array:
        """Flux density [Jy] at other wavelengths, shape ([integration,] *wavelength.shape)."""
        flat = self.flux.reshape(-1, len(self.wavelength))
        out = np.stack([np.interp(wavelength, self.wavelength, f) for f in flat])
        return out.reshape(*self.flux.shape[:-1], *np.shape(wavelength))


@dataclass(frozen=True, eq=False)
class Source:
    """What a slit of an exposure of many holds.

    Attributes
    ----------
    name, slit : str
    kind : {"point", "extended", "empty"}
        An empty slit sees background alone.
    truth : Truth
        In Jy for a point source, else in MJy/sr: without the background.
    profile : callable, optional
        Surface brightness of an extended source relative to the truth, by position along the slit
        in units of its height.
    """

    name: str
    slit: str
    kind: str
    truth: Truth
    profile: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Rendered:
    """Exposures with their truth.

    Attributes
    ----------
    setups : mapping of str to Setup
        How each exposure was taken, by role: ``science``, ``background``,
        ``target_acquisition``.
    rates : mapping of str to array
        Expected count rates [DN/s], shape (y, x): without noise, and of the time series without
        the source.
    operators : mapping of str to SpectralOperator or SceneOperator
        Spectrum to count rate, for the exposures that hold one; spectra, if there are several.
    reference_files : list of ReferenceFile
    references : mapping of str to Dataset
        The same, opened, by type.
    truth : Truth
        Of the target.
    seed : int
    sources : tuple of Source
        Of every slit, if there are several.
    msa_metadata : xarray.Dataset, optional
    """

    setups: Mapping[str, Setup]
    rates: Mapping[str, Array]
    operators: Mapping[str, Any]
    reference_files: list[ReferenceFile]
    references: Mapping[str, Any]
    truth: Truth
    seed: int
    sources: tuple[Source, ...] = ()
    msa_metadata: xr.Dataset | None = None

    @property
    def science(self) -> xr.Dataset:
        """The science exposure, with noise."""
        return self.exposure("science")

    @property
    def members(self) -> dict[str, tuple[xr.Dataset, ...]]:
        """Associated exposures by role, and the MSA metadata."""
        found: dict[str, tuple[xr.Dataset, ...]] = {}
        found |= {role: (self.exposure(role),) for role in self.setups if role != "science"}
        if self.msa_metadata is not None:
            found["msa_metadata"] = (self.msa_metadata,)
        return found

    def exposure(self, role: str) -> xr.Dataset:
        """Return an exposure as a Dataset."""
        pieces = list(self.pieces(role))
        setup = self.setups[role]
        if len(setup.shape) == 2:
            return to_dataset(setup, pieces[0])
        return to_dataset(setup, {k: np.stack([p[k] for p in pieces]) for k in pieces[0]})

    def pieces(self, role: str) -> Iterator[dict[str, Array]]:
        """Observe an exposure integration by integration."""
        setup, rate = self.setups[role], self.rates[role]
        number = list(self.setups).index(role)
        bad = bad_pixels(setup.shape[-2:], self.seed)
        for i in range(setup.integrations):
            if len(setup.shape) == 3:
                op = self.operators[role]
                expected = rate + op.embed(op(self.truth.flux[i]), rate.shape)
            else:
                expected = rate
            yield observe(
                expected,
                bad,
                setup.integration_time,
                (self.seed, 4, number, i),
                gain=setup.gain,
                read_noise=setup.read_noise,
            )

    def write(self, folder: Path) -> Path:
        """Write the exposures and a level-2 association; return the path of the association.

        MSA metadata are written beside them.
        """
        members = []
        if self.msa_metadata is not None:
            from spec2fn.forward.nirspec.msa import write_msa_metadata

            write_msa_metadata(folder / self.msa_metadata.attrs["filename"], self.msa_metadata)
        for role, setup in self.setups.items():
            write_exposure(folder / setup.name, setup, self.pieces(role))
            members.append({"expname": setup.name, "exptype": role})
        science = self.setups["science"].name
        content = {
            "asn_type": "spec2",
            "asn_rule": "Asn_Lv2Spec",
            "version_id": "20240302t000000",
            "code_version": "1.0",
            "degraded_status": "No known degraded exposures in association.",
            "program": "01234",
            "constraints": "none",
            "asn_id": "o001",
            "asn_pool": "none",
            "target": "none",
            "products": [{"name": science.rsplit("_", 1)[0], "members": members}],
        }
        path = folder / f"{science.rsplit('_', 1)[0]}_asn.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


def render_miri_lrs_slit(seed: int = 0, *, folder: Path | None = None) -> Rendered:
    """Render a star in the MIRI LRS slit: a nod pair and a target-acquisition image.

    Parameters
    ----------
    seed : int
        Of noise, flat and bad pixels.
    folder : Path, optional
        Where the reference files stay; without it they are deleted after reading.

    Returns
    -------
    Rendered
        Roles ``science``, ``background`` (the other nod), ``target_acquisition``.
    """
    shape = SHAPES[_SLIT]
    flux = scenes.dusty_star(scenes.GRID)
    x0, y0 = lrs.aperture(_SLIT)
    flat = true_flat(_SLIT, seed)
    setups, rates, operators = {}, {}, {}
    with reference_files(folder, _SLIT, lambda p: write_references(p, _SLIT, seed)) as (
        files,
        references,
    ):
        for number, (role, side) in enumerate((("science", 1), ("background", -1)), start=1):
            setup = Setup(
                name=f"jw01234001001_01101_{number:05d}_mirimage_rate.fits",
                exp_type=_SLIT,
                filter="P750L",
                subarray="FULL",
                corner=(1, 1),
                shape=shape,
                integration_time=_SLIT_SECONDS,
                offset=side * NOD,
                number=number,
            )
            where = (x0 + side * NOD / lrs.PIXEL_SCALE + POINTING_ERROR[0], y0 + POINTING_ERROR[1])
            exposure = _with_wcs(setup, references)
            op = operator(exposure, references, scenes.GRID, position=where, flat=flat)
            glow = _background(exposure, flat, slit=(x0, lrs.SLIT_COLUMNS))
            setups[role], operators[role] = setup, op
            rates[role] = glow + op.embed(op(flux), shape)
    offset = lrs.FILTER_OFFSET["F560W"]
    setups["target_acquisition"] = Setup(
        name="jw01234001001_01101_00001_mirimage_ta_rate.fits",
        exp_type="MIR_TACONFIRM",
        filter="F560W",
        subarray="FULL",
        corner=(1, 1),
        shape=shape,
        integration_time=_SLIT_SECONDS,
        offset=NOD,
    )
    column = x0 + NOD / lrs.PIXEL_SCALE + POINTING_ERROR[0] - offset[0]
    rates["target_acquisition"] = 2.0 + _star(shape, (column, y0 + POINTING_ERROR[1] - offset[1]))
    truth = Truth(scenes.GRID, flux)
    return Rendered(setups, rates, operators, files, references, truth, seed)


def render_miri_lrs_slitless(
    seed: int = 0, integrations: int = 10, *, folder: Path | None = None
) -> Rendered:
    """Render a transit observed with MIRI LRS slitless.

    Parameters
    ----------
    seed : int
        Of noise, flat and bad pixels.
    integrations : int
        Number of integrations, of 10 s each.
    folder : Path, optional
        Where the reference files stay; without it they are deleted after reading.

    Returns
    -------
    Rendered
        Role ``science`` only.
    """
    shape = SHAPES[_SLITLESS]
    flat = true_flat(_SLITLESS, seed)
    setup = Setup(
        name="jw01234001001_04101_00001_mirimage_rateints.fits",
        exp_type=_SLITLESS,
        filter="P750L",
        subarray=SUBARRAYS[_SLITLESS],
        corner=lrs.SLITLESS_CORNER,
        shape=(integrations, *shape),
        integration_time=_SLITLESS_SECONDS,
    )
    x, y = lrs.aperture(_SLITLESS)
    where = (x - lrs.SLITLESS_CORNER[0] + 1, y - lrs.SLITLESS_CORNER[1] + 1)
    with reference_files(folder, _SLITLESS, lambda p: write_references(p, _SLITLESS, seed)) as (
        files,
        references,
    ):
        exposure = _with_wcs(setup, references)
        op = operator(exposure, references, scenes.GRID, position=where, flat=flat)
        glow = _background(exposure, flat)
    phase = (np.arange(integrations) + 0.5) / integrations - 0.5
    star = scenes.planet_host(scenes.GRID)
    depth = scenes.light_curve(phase)[:, None] * scenes.transit_depth(scenes.GRID)
    truth = Truth(scenes.GRID, star * (1.0 - depth))
    return Rendered(
        {"science": setup}, {"science": glow}, {"science": op}, files, references, truth, seed
    )


@contextlib.contextmanager
def reference_files(
    folder: Path | None, exp_type: str, write: Callable[[Path], list[ReferenceFile]]
) -> Iterator[tuple[list[ReferenceFile], dict[str, Any]]]:
    """Write reference files, and open them within a ``with`` block.

    Those of the fixed slits in an exposure of slitlets have keys ``fs:<type>``.
    """
    from spec2fn.refs import open_reference

    with contextlib.ExitStack() as stack:
        lasting = folder is not None
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write(folder)
        opened = {}
        for f in files:
            prefix = "fs:" if f.match.get("exp_type", exp_type) != exp_type else ""
            reference = open_reference(f.path, f.reftype)
            opened[prefix + f.reftype] = reference if lasting else reference.load()
        yield files, opened


def _with_wcs(setup: Setup, references: Mapping[str, Any]) -> xr.Dataset:
    """An exposure without pixels, after ``assign_wcs``."""
    from spec2fn.steps.assign_wcs import assign_wcs

    needed = {k: references[k] for k in ("distortion", "specwcs") if k in assign_wcs.refs}
    return assign_wcs(empty_exposure(setup), **needed)


def empty_exposure(setup: Setup) -> xr.Dataset:
    """Return an exposure whose pixels are zero, of one integration."""
    zero = np.zeros(setup.shape[-2:], np.float32)
    planes = dict.fromkeys(("sci", "err", "var_poisson", "var_rnoise"), zero)
    one = replace(setup, shape=setup.shape[-2:])
    return to_dataset(one, {**planes, "dq": zero.astype(np.uint32)})


def _background(
    exposure: xr.Dataset, flat: Array, slit: tuple[float, float] | None = None
) -> Array:
    """Count rate [DN/s] of the background and of the flat, where there is a wavelength."""
    wave = np.asarray(exposure["wavelength"].data)
    factor = lrs.PHOTMJSR * lrs.relative_response(wave)
    factor = factor / lrs.throughput(float(exposure["mid_time"]))
    rate = flat * lrs.background(wave) / factor
    if slit is not None:
        rate = np.where(np.abs(np.arange(wave.shape[1]) - slit[0]) < slit[1] / 2, rate, 0.0)
    return np.where(np.isfinite(rate), rate, 0.0)


def _star(shape: tuple[int, int], center: tuple[float, float], rate: float = 4000.0) -> Array:
    """Undispersed image [DN/s] of a star, integrated over pixels."""
    width = lrs.sigma(5.6)
    x, y = (np.arange(n) - c for n, c in zip(shape[::-1], center, strict=True))
    columns, rows = (lrs.enclosed(u - 0.5, u + 0.5, width) for u in (x, y))
    return rate * rows[:, None] * columns[None, :]
