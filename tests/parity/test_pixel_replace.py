"""pixel_replace against the peer: on generated exposures, on a real slit, and on noise."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from spec2fn.io import open_exposure
from spec2fn.steps.pixel_replace import pixel_replace

pytestmark = pytest.mark.parity

NAMES = {"sci": "data", "err": "err", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise"}


def peer_result(ds, algorithm, n_adjacent):
    """Planes by name from the peer's class, one integration at a time."""
    peer = pytest.importorskip("jwst.pixel_replace.pixel_replace")
    worker = peer.PixelReplacement(None, algorithm=algorithm, n_adjacent_cols=n_adjacent)
    names = {**NAMES, "var_flat": "var_flat", "dq": "dq"}
    shape = ds["sci"].shape
    frames = {k: ds[k].values.reshape(-1, *shape[-2:]) for k in names if k in ds}
    out = []
    for i in range(len(frames["sci"])):
        planes = {v: frames[k][i].copy() if k in frames else None for k, v in names.items()}
        arrays = peer.PixelReplaceArrays(
            **planes, trace_model=None, dispersion_direction=ds.attrs["dispaxis"]
        )
        out.append(worker.algorithm(arrays))
    return {k: np.stack([getattr(o, names[k]) for o in out]).reshape(shape) for k in frames}


def agree(ours, theirs, row):
    np.testing.assert_array_equal(ours["dq"], theirs["dq"])
    for name, expected in theirs.items():
        if name != "dq":
            row.close(ours[name], expected, err_msg=name)


def least_squares(monkeypatch):
    """Let the peer's simplex converge: in float64, to a tolerance that means something."""
    from scipy.optimize import minimize

    def converged(function, x0, args, method):
        args = tuple(np.asarray(a, dtype=np.float64) for a in args)
        options = {"xatol": 1e-9, "fatol": 1e-16}
        return minimize(function, np.float64(x0), args=args, method=method, options=options)

    monkeypatch.setattr("jwst.pixel_replace.pixel_replace.minimize", converged)


def noisy(dispaxis, shape=(2, 18, 40), seed=0):
    """A bright trace with flags of its own in every integration, and planes as in products."""
    rng = np.random.default_rng(seed)
    profile = np.exp(-0.5 * ((np.arange(shape[1]) - 8.3) / 1.7) ** 2)[:, None]
    sci = profile * (200 + 30 * np.sin(np.arange(shape[2]))) + rng.normal(size=shape)
    sci[:, :, 30:35] = rng.normal(size=sci[:, :, 30:35].shape)
    err = np.sqrt(np.abs(sci) / 10 + 1)
    dq = (rng.random(shape) < 0.08).astype(np.uint32)
    dq[rng.random(shape) < 0.03] |= 512
    dq[0, :, 20:22] |= 1
    dq[1, :3] |= 1
    planes = {"sci": sci, "err": err, "var_poisson": 0.8 * err**2, "var_rnoise": 0.2 * err**2}
    for plane in planes.values():
        plane[(dq & 1) > 0] = np.nan
    planes = {**{k: v.astype(np.float32) for k, v in planes.items()}, "dq": dq}
    if dispaxis == 2:
        planes = {k: v.swapaxes(1, 2) for k, v in planes.items()}
    return xr.Dataset(
        {k: (("integration", "y", "x"), v) for k, v in planes.items()},
        attrs={"dispaxis": dispaxis},
    )


@pytest.mark.parametrize("dispaxis", [1, 2])
@pytest.mark.parametrize(
    ("algorithm", "n"), [("mingrad", 3), ("fit_profile", 1), ("fit_profile", 3)]
)
def test_noise(monkeypatch, allowed, dispaxis, algorithm, n):
    ds = noisy(dispaxis)
    ours = pixel_replace(ds, algorithm=algorithm, n_adjacent_cols=n)
    if algorithm == "mingrad":
        agree(ours, peer_result(ds, algorithm, n), allowed("mingrad"))
        return
    # its default tolerance and float32 arithmetic leave the peer's scale off by up to 1e-3
    rough = peer_result(ds, algorithm, n)
    agree(ours, rough, allowed("fit_profile"))
    least_squares(monkeypatch)
    agree(ours, peer_result(ds, algorithm, n), allowed("fit_profile_converged"))


@pytest.mark.parametrize("name", ["miri_lrs_slit", "miri_lrs_slitless", "miri_lrs_slit_ints"])
def test_scenario(scenario, allowed, name):
    folder = scenario(name) / "steps"
    before, after = (
        open_exposure(next(folder.glob(f"*_{s}.fits"))).load() for s in ("photom", "pixel_replace")
    )
    planes = [n for n in (*NAMES, "var_flat", "dq") if n in after]
    agree(pixel_replace(before), {n: after[n].values for n in planes}, allowed("mingrad"))


@pytest.mark.parametrize(("algorithm", "n"), [("mingrad", 3), ("fit_profile", 3)])
def test_real_slit(monkeypatch, allowed, algorithm, n):
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    pytest.importorskip("jwst.pixel_replace.pixel_replace")
    path = next(Path(folder, "nirspec_mos").glob("*phot*.fits"))
    from astropy.io import fits

    with fits.open(path) as hdus:
        names = [k for k in (*NAMES, "var_flat", "dq") if k.upper() in hdus]
        planes = {k: hdus[k.upper()].data for k in names}
    planes = {k: v.astype(np.uint32 if k == "dq" else np.float32) for k, v in planes.items()}
    ds = xr.Dataset({k: (("y", "x"), v) for k, v in planes.items()}, attrs={"dispaxis": 1})
    if algorithm == "fit_profile":
        least_squares(monkeypatch)
    ours = pixel_replace(ds, algorithm=algorithm, n_adjacent_cols=n)
    agree(ours, peer_result(ds, algorithm, n), allowed("fit_profile_converged"))
