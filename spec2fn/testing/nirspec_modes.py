"""Observations of the NIRSpec modes, small enough to run every step in a second.

Optics are those of :mod:`spec2fn.testing.nirspec`; a window keeps the middle of the spectra.
"""

from __future__ import annotations

import functools
import tempfile
import zlib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.reference_files import open_references
from spec2fn.forward.renderers import write_references
from spec2fn.testing import nirspec as toy

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["EXP_TYPES", "SLIT_TYPES", "exposure", "metadata", "read_only", "references", "roles"]

SLIT_TYPES = ("NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_MSASPEC")
"""Exposure types of slits."""

EXP_TYPES = (*SLIT_TYPES, "NRS_IFU")
"""Exposure types there are exposures of."""

GRATING = "PRISM"
"""That exposures are taken with."""
# first column and row, one-based, and size
_WINDOWS = {
    "NRS_FIXEDSLIT": (1341, 955, 128, 156),
    "NRS_BRIGHTOBJ": (1341, 945, 128, 64),
    "NRS_MSASPEC": (1341, 1050, 128, 294),
    "NRS_IFU": (1341, 960, 96, 120),
}
_ROLES = {
    "NRS_FIXEDSLIT": ("science", "background"),
    "NRS_BRIGHTOBJ": ("science",),
    "NRS_MSASPEC": ("science", "imprint"),
    "NRS_IFU": ("science", "background", "imprint"),
}
_PRIMARY = {"NRS_FIXEDSLIT": "S200A1", "NRS_BRIGHTOBJ": "S1600A1"}
_STUCK = {"state": "open", "TA state": "open", "Internal state": "normal"}
_TREES: Mapping[str, Any] = {
    "extract1d": {"apertures": [{"id": "ANY", "extract_width": 5}]},
    "msaoper": {"msaoper": [{"Q": 3, "x": 180, "y": y, **_STUCK} for y in (150, 162)]},
}
_LEVEL = {"science": 3.0, "background": 1.0, "imprint": 0.1}  # DN/s


def read_only(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset after its arrays have been made read-only."""
    for variable in ds.variables.values():
        variable.data.setflags(write=False)
    return ds


def roles(exp_type: str) -> tuple[str, ...]:
    """Return the roles of the exposures of an observation; MSA metadata have none here."""
    return _ROLES[exp_type]


def _empty(
    exp_type: str,
    integrations: int = 0,
    role: str = "science",
    **keywords: Any,  # noqa: ANN401 - of the headers
) -> xr.Dataset:
    return toy.exposure(
        exp_type,
        GRATING,
        subarray="SUB512" if exp_type == "NRS_BRIGHTOBJ" else "ALLSLITS",
        window=_WINDOWS[exp_type],
        integrations=integrations,
        FXD_SLIT=_PRIMARY.get(exp_type, "NONE"),
        SLOWAXIS=2,
        SPORDER=-1,
        **({"DATAMODL": "IFUImageModel"} if exp_type == "NRS_IFU" else {}),
        FILENAME=f"jw01234_{role}_rate.fits",
        **keywords,
    )


@functools.cache
def _pointing(exp_type: str) -> Mapping[str, float]:
    # such that the target of fixed slits lies a little off their middle
    from spec2fn.schema import meta_of
    from spec2fn.steps.assign_wcs import assign_wcs

    if exp_type not in _PRIMARY:
        return {}
    refs: dict[str, Any] = {**toy.references(GRATING)}
    ds = assign_wcs(_empty(exp_type), **refs)
    wcs = meta_of(ds).wcs
    (i,) = (i for i in wcs if wcs.batch.slits[i].name == _PRIMARY[exp_type])
    v2, v3, _ = wcs[i].get_transform("slit_frame", "v2v3")(0.15, -0.1, 2e-6)
    return {"V2_REF": float(v2), "V3_REF": float(v3)}


@functools.cache
def exposure(
    exp_type: str, role: str = "science", seed: int = 0, integrations: int = 2
) -> xr.Dataset:
    """Return an exposure before any step: light everywhere, brighter at every third row.

    `role` is one of :func:`roles`, `seed` that of the noise; only time series have integrations.
    Arrays are read-only.
    """
    series = exp_type == "NRS_BRIGHTOBJ"
    ds = _empty(exp_type, integrations if series else 0, role, **_pointing(exp_type))
    rng = np.random.default_rng([seed, zlib.crc32(role.encode())])
    shape, dims = ds["sci"].shape, ds["sci"].dims
    rows = np.arange(shape[-2])[:, None] % 3 == 0
    noise = rng.normal(0.0, 0.05, shape)
    values = {
        "sci": _LEVEL[role] * np.where(rows, 1.2, 1.0) + noise,
        "err": np.full(shape, 0.05),
        "var_poisson": rng.uniform(1e-3, 2e-3, shape),
        "var_rnoise": rng.uniform(5e-4, 1e-3, shape),
    }
    ds = ds.assign({n: (dims, v.astype(np.float32)) for n, v in values.items()})
    ds["sci"].attrs["units"] = "DN/s"
    return read_only(ds)


@functools.cache
def references(exp_type: str) -> Mapping[str, xr.Dataset]:
    """Return the references of a mode by type; those of fixed slits in the MSA as ``fs:<type>``.

    They are those of :mod:`spec2fn.forward`, with errors and flags, and everything depends on
    place and row in a way that a wrong row, slit or unit would show.
    """
    x, y, nx, ny = _WINDOWS[exp_type]
    with tempfile.TemporaryDirectory() as folder:
        files = write_references(Path(folder), exp_type)
        opened = open_references(files, exp_type, load=True)
    refs: dict[str, xr.Dataset] = {}
    for name, ds in opened.items():
        kind = name.removeprefix("fs:")
        if kind in ("dflat", "sflat"):  # as far as the window goes
            seen = ds.isel(y=slice(y + ny - 1), x=slice(x + nx - 1)).copy(deep=True)
            refs[name] = _told_apart(seen)
        elif kind == "cubepar":  # few planes
            few = {d: slice(None, None, 4) for d in ds.dims if str(d).startswith("multichan")}
            step = 2 * ds["cubepar.spectralstep"]
            refs[name] = ds.isel(few).assign({"cubepar.spectralstep": step})
        elif kind == "msaoper" or (kind == "extract1d" and exp_type != "NRS_IFU"):
            refs[name] = ds.assign_attrs(tree=_TREES[kind])
        else:
            refs[name] = _told_apart(ds)
        # a test may make something else of the exposure
        refs[name] = refs[name].assign_attrs(made_for=())
    return {**refs, **toy.references(GRATING, ifu=exp_type == "NRS_IFU")}


def _told_apart(ds: xr.Dataset) -> xr.Dataset:
    """Return a reference whose rows and images differ, and whose values have errors and flags."""
    rng = np.random.default_rng(5)
    if "sci" in ds and "dq" not in ds:
        ds = ds.assign(dq=(ds["sci"] * 0).astype(np.uint32))
    new: dict[Hashable, xr.Variable] = {}
    for name, variable in ds.variables.items():
        part, _, column = str(name).partition(".")
        kind, _, version = part.partition("_")
        if column in ("photmj", "relresponse", "pixarea"):
            row = np.arange(variable.shape[0]).reshape(-1, *[1] * (variable.ndim - 1)) % 50
            new[name] = variable * (1 + 0.02 * row).astype(np.float32)
        elif column == "error":
            new[name] = variable.copy(data=np.float32(0.01) * ds[f"{part}.data"].values)
        elif kind == "err":
            new[name] = np.float32(0.01) * ds[part.replace("err", "sci")].variable
        elif kind == "dq" and not column and "def" not in part:
            flagged = rng.random(variable.shape) < 1e-3
            new[name] = variable.copy(data=np.where(flagged, np.uint32(1), variable.values))
        elif kind in ("ps", "uni"):
            new[name] = variable * np.float32(1 - 0.02 * int(version or 1))
        elif kind.startswith("data1x"):
            new[name] = variable * np.linspace(0.9, 0.92, variable.shape[1], dtype=np.float32)
    return read_only(ds.assign(new))


def metadata(exp_type: str) -> Mapping[str, tuple[Any, ...]]:
    """Return what an observation holds besides exposures, by role."""
    return {"msa_metadata": (toy.neighbouring_slitlets(),)} if exp_type == "NRS_MSASPEC" else {}
