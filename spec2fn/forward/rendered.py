"""Synthetic exposures that know what was put in: what every renderer returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.exposures import Setup, bad_pixels, observe, to_dataset, write_exposure
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.forward.reference_files import ReferenceFile

__all__ = ["Exposed", "Rendered", "Source", "Truth", "empty_exposure", "with_wcs"]


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

    wavelength: HostArray
    flux: HostArray

    def at(self, wavelength: HostArray) -> HostArray:
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
    kind : {"point", "extended", "empty", "lamp"}
        An empty slit sees background alone.
    truth : Truth
        In Jy for a point source, in DN/s for a lamp, else in MJy/sr: without the background.
    profile : callable, optional
        Surface brightness of an extended source relative to the truth, by position along the slit
        in units of its height.
    """

    name: str
    slit: str
    kind: str
    truth: Truth
    profile: Callable[[HostArray], HostArray] | None = None


@dataclass(frozen=True, eq=False)
class Exposed:
    """An exposure before noise.

    Attributes
    ----------
    setup : Setup
        How it was taken.
    rate : array, shape (y, x)
        Expected count rate [DN/s]; of a time series without the source.
    operator : Sampled, SceneOperator or OrdersOperator, optional
        Spectrum to count rate, where it holds one; spectra, if there are several.
    drift : callable, optional
        Count rate (y, x) that an integration has besides, by its number from 0.
    """

    setup: Setup
    rate: HostArray
    operator: Any = None
    drift: Callable[[int], HostArray] | None = None


@dataclass(frozen=True, eq=False)
class Rendered:
    """Exposures with their truth.

    Attributes
    ----------
    exposures : mapping of str to Exposed
        By role: ``science``, ``background``, ``target_acquisition``.
    truth : Truth
        Of the target.
    sources : tuple of Source
        Of every slit, if there are several.
    msa_metadata : xarray.Dataset, optional
    files : mapping of str to (str, bytes)
        Name and content of other files that belong to the exposure, by role.
    seed : int
        Of noise, flat and bad pixels.
    reference_files : sequence of ReferenceFile
    references : mapping of str to Dataset
        The same, opened, by type; those of the fixed slits in an exposure of slitlets as
        ``fs:<type>``.
    """

    exposures: Mapping[str, Exposed]
    truth: Truth
    sources: tuple[Source, ...] = ()
    msa_metadata: xr.Dataset | None = None
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    seed: int = 0
    reference_files: Sequence[ReferenceFile] = ()
    references: Mapping[str, xr.Dataset] = field(default_factory=dict)

    @property
    def setups(self) -> dict[str, Setup]:
        """How each exposure was taken, by role."""
        return {role: e.setup for role, e in self.exposures.items()}

    @property
    def rates(self) -> dict[str, HostArray]:
        """Expected count rate of each exposure, by role."""
        return {role: e.rate for role, e in self.exposures.items()}

    @property
    def operators(self) -> dict[str, Any]:
        """Operators of the exposures that have one, by role."""
        return {role: e.operator for role, e in self.exposures.items() if e.operator is not None}

    @property
    def science(self) -> xr.Dataset:
        """The science exposure, with noise."""
        return self.exposure("science")

    @property
    def members(self) -> dict[str, tuple[xr.Dataset, ...]]:
        """Associated exposures by role, and the MSA metadata."""
        roles = [role for role in self.exposures if role != "science"]
        members: dict[str, tuple[xr.Dataset, ...]] = {r: (self.exposure(r),) for r in roles}
        if self.msa_metadata is not None:
            members["msa_metadata"] = (self.msa_metadata,)
        return members | self._opened()

    def _opened(self) -> dict[str, tuple[xr.Dataset, ...]]:
        """The other files, read."""
        import tempfile

        from spec2fn.io.catalogs import open_field_member

        out: dict[str, tuple[xr.Dataset, ...]] = {}
        for role, (name, content) in self.files.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, name)
                path.write_bytes(content)
                ds = open_field_member(role, path).load()
                wcs = ds.attrs["meta"].wcs
                if wcs is not None:
                    wcs.load()
            out[role] = (ds,)
        return out

    def exposure(self, role: str) -> xr.Dataset:
        """Return an exposure as a Dataset."""
        pieces = list(self.pieces(role))
        setup = self.exposures[role].setup
        if len(setup.shape) == 2:
            return to_dataset(setup, pieces[0])
        return to_dataset(setup, {k: np.stack([p[k] for p in pieces]) for k in pieces[0]})

    def pieces(self, role: str) -> Iterator[dict[str, HostArray]]:
        """Observe an exposure integration by integration."""
        one = self.exposures[role]
        setup, expected = one.setup, one.rate
        number = list(self.exposures).index(role)
        bad = bad_pixels(setup.shape[-2:], self.seed)
        for i in range(setup.integrations):
            if len(setup.shape) == 3:
                spectrum = one.operator(self.truth.flux[i])
                expected = one.rate + one.operator.embed(spectrum, one.rate.shape)
            if one.drift is not None:
                expected = expected + one.drift(i)
            yield observe(
                expected,
                bad,
                setup.integration_time,
                (self.seed, 4, number, i),
                setup.detector,
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
        for role, (name, data) in self.files.items():
            (folder / name).write_bytes(data)
            members.append({"expname": name, "exptype": role})
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


def with_wcs(setup: Setup, references: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Return an exposure without pixels, after ``assign_wcs``."""
    from spec2fn.steps.assign_wcs import assign_wcs

    return assign_wcs(empty_exposure(setup), *(references.get(r) for r in assign_wcs.refs))


def empty_exposure(setup: Setup) -> xr.Dataset:
    """Return an exposure whose pixels are zero, of one integration."""
    zero = np.zeros(setup.shape[-2:], np.float32)
    planes = dict.fromkeys(("sci", "err", "var_poisson", "var_rnoise"), zero)
    one = replace(setup, shape=setup.shape[-2:])
    return to_dataset(one, {**planes, "dq": zero.astype(np.uint32)})
