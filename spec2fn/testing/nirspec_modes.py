"""Observations of the NIRSpec modes, small enough to run every step in a second.

Optics are those of :mod:`spec2fn.testing.nirspec`; a window keeps the middle of the spectra.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.nirspec import ifu_optics as nirspec_ifu_optics
from spec2fn.testing import nirspec as toy
from spec2fn.testing.nirspec_references import GRATING, calibration_references

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["EXP_TYPES", "SLIT_TYPES", "exposure", "metadata", "references", "roles"]

SLIT_TYPES = ("NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_MSASPEC")
"""Exposure types of slits."""

EXP_TYPES = (*SLIT_TYPES, "NRS_IFU")
"""Exposure types there are exposures of."""

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
_LEVEL = {"science": 3.0, "background": 1.0, "imprint": 0.1}  # DN/s


def roles(exp_type: str) -> tuple[str, ...]:
    """Return the roles of the exposures of an observation; MSA metadata have none here."""
    return _ROLES[exp_type]


def _empty(
    exp_type: str, integrations: int = 0, keywords: Mapping[str, Any] | None = None
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
        **(keywords or {}),
    )


@functools.cache
def _pointing(exp_type: str) -> Mapping[str, float]:
    # such that the target of fixed slits lies a little off their middle
    from spec2fn.schema import meta_of
    from spec2fn.steps.assign_wcs import assign_wcs

    if exp_type not in _PRIMARY:
        return {}
    refs: dict[str, Any] = dict(toy.references(GRATING))
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

    Parameters
    ----------
    exp_type : str
        One of :data:`EXP_TYPES`.
    role : str
        One of :func:`roles`.
    seed : int
        Of the noise.
    integrations : int
        Of the time series; the others have one image.

    Returns
    -------
    xarray.Dataset
        Arrays are read-only.
    """
    series = exp_type == "NRS_BRIGHTOBJ"
    ds = _empty(exp_type, integrations if series else 0, _pointing(exp_type))
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
    for variable in ds.variables.values():
        variable.data.setflags(write=False)
    return ds


@functools.cache
def references(exp_type: str) -> Mapping[str, Any]:
    """Return the references of a mode by type."""
    x, y, nx, ny = _WINDOWS[exp_type]
    frame = (y + ny - 1, x + nx - 1)
    refs = {
        **toy.references(GRATING),
        **(nirspec_ifu_optics.optics(GRATING) if exp_type == "NRS_IFU" else {}),
        **calibration_references(exp_type, frame),
    }
    if exp_type == "NRS_MSASPEC":
        # of the fixed slit among the slitlets
        fixed = calibration_references("NRS_FIXEDSLIT", frame)
        refs |= {f"fs:{k}": v for k, v in fixed.items()}
    return refs


def metadata(exp_type: str) -> Mapping[str, tuple[Any, ...]]:
    """Return what an observation holds besides exposures, by role."""
    return {"msa_metadata": (toy.neighbouring_slitlets(),)} if exp_type == "NRS_MSASPEC" else {}
