"""background and badpix_selfcal against the peer: on generated exposures, and step by step."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.io import open_exposure
from spec2fn.schema import MODE_ATTRS
from spec2fn.steps.background import background
from spec2fn.steps.badpix_selfcal import badpix_selfcal

pytestmark = pytest.mark.parity

PLANES = ("sci", "err", "dq", "var_poisson", "var_rnoise")


def opened(pattern):
    (path,) = pattern
    return open_exposure(path).load()


def agree(ours, theirs, allowed):
    np.testing.assert_array_equal(ours["dq"], theirs["dq"])
    for name in PLANES:
        if name != "dq":
            allowed("planes").close(ours[name], theirs[name])


@pytest.mark.parametrize("name", ["miri_lrs_slit", "miri_lrs_slit_ints"])
def test_scenario(scenario, allowed, name):
    folder = scenario(name)
    ints = name.endswith("_ints")
    science = opened((folder / "steps").glob("*_assign_wcs.fits"))
    nod = opened(folder.glob(f"*_00002_mirimage_rate{'ints' if ints else ''}.fits"))
    if not ints:  # the peer's badpix_selfcal does not take several integrations
        plan = badpix_selfcal.plan(science, background=(nod,))
        science, nod = (badpix_selfcal(ds, plan=plan) for ds in (science, nod))
        agree(science, opened((folder / "steps").glob("*_badpix_selfcal.fits")), allowed)
    out = background(science, background=(nod,), propagate_variance=False)
    suffix = "bsubints" if ints else "bsub"
    agree(out, opened((folder / "steps").glob(f"*_{suffix}.fits")), allowed)


def ours(sci, err, dq, **attrs):
    dims = ("integration", "y", "x")[-sci.ndim :]
    planes = {"sci": sci, "err": err, "dq": dq, "var_poisson": err**2, "var_rnoise": err * 0}
    return xr.Dataset({k: (dims, v.copy()) for k, v in planes.items()}, attrs=attrs)


def model(ds):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    kind = datamodels.CubeModel if ds["sci"].ndim == 3 else datamodels.ImageModel
    out = kind(data=ds["sci"].values.copy())
    out.err, out.dq = ds["err"].values.copy(), ds["dq"].values.copy()
    out.meta.instrument.name = "MIRI"
    for name in ("xstart", "ystart", "xsize", "ysize"):
        assert name in MODE_ATTRS
        setattr(out.meta.subarray, name, ds.attrs[name])
    out.meta.filename = "in_memory.fits"
    return out


def draw(rng, shape, holes=0.05):
    sci = rng.normal(10, 1, shape).astype(np.float32)
    sci[rng.random(shape) < 0.03] *= 30
    sci[rng.random(shape) < holes] = np.nan
    err = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    dq = (np.isnan(sci) * 5 + (rng.random(shape) < 0.1) * 2048).astype(np.uint32)
    size = {"xsize": shape[-1], "ysize": shape[-2], "xstart": 1, "ystart": 1}
    return ours(sci, err, dq, **size)


@pytest.mark.parametrize(
    ("shape", "exposures", "sigma", "maxiters"),
    [
        ((40, 30), 1, 3.0, None),
        ((40, 30), 2, 3.0, None),
        ((40, 30), 8, 3.0, None),
        ((40, 30), 9, 1.5, None),
        ((40, 30), 9, 1.5, 1),
        ((5, 40, 30), 1, 3.0, None),
        ((12, 40, 30), 1, 2.0, None),
        ((12, 40, 30), 4, 2.0, 2),
    ],
)
def test_combination(allowed, shape, exposures, sigma, maxiters):
    peer = pytest.importorskip("jwst.background.background_sub")
    rng = np.random.default_rng(exposures)
    # with all integrations of an exposure invalid the peer averages a zero in: another test
    members = tuple(draw(rng, shape) for _ in range(exposures))
    science = draw(rng, shape)
    combined, result = peer.background_sub(
        model(science), [model(m) for m in members], sigma, maxiters
    )
    out = background(
        science,
        background=members,
        sigma=sigma,
        maxiters=maxiters,
        propagate_variance=False,
        save_combined_background=True,
    )
    image = out.attrs["meta"].records["combined_background"]
    allowed("combined").close(image["sci"], combined.data)
    np.testing.assert_array_equal(out["dq"], result.dq | (image["dq"].values & 1))
    allowed("subtracted").close(out["sci"], result.data)
    if len(shape) == 2:  # else the peer does not divide by the number of integrations
        found = combined.err > 0
        allowed("combined_error").close(image["err"].values[found], combined.err[found])


def test_peer_counts_an_exposure_without_valid_integrations_as_zero(allowed):
    peer = pytest.importorskip("jwst.background.background_sub")
    rng = np.random.default_rng(0)
    members = tuple(draw(rng, (3, 6, 7), holes=0) for _ in range(2))
    members[0]["sci"][:, 2, 3] = np.nan
    science = draw(rng, (3, 6, 7))
    combined, _ = peer.background_sub(model(science), [model(m) for m in members], 3.0, None)
    other = members[1]["sci"].values[:, 2, 3].mean()
    assert combined.data[2, 3] == allowed("mean").approx(other / 2)
    plan = background.plan(science, background=members)
    assert plan.sci[2, 3] == allowed("mean").approx(other)


def test_peer_misplaces_a_background_that_starts_off_the_corner():
    peer = pytest.importorskip("jwst.background.background_sub")
    rng = np.random.default_rng(0)
    science = draw(rng, (6, 8), holes=0).assign_attrs(xstart=11, ystart=11)
    member = draw(rng, (6, 6), holes=0).assign_attrs(xstart=13, ystart=11)
    combined, _ = peer.background_sub(model(science), [model(member)], 3.0, None)
    np.testing.assert_array_equal(combined.data[:, :6], member["sci"])  # two columns too far left
    plan = background.plan(science, background=(member,))
    np.testing.assert_array_equal(plan.sci[:, 2:], member["sci"])


@pytest.mark.parametrize("dispaxis", [1, 2, None])
@pytest.mark.parametrize("kernel_size", [3, 15])
def test_bad_pixels(dispaxis, kernel_size):
    peer = pytest.importorskip("jwst.badpix_selfcal.badpix_selfcal")
    rng = np.random.default_rng(kernel_size)
    exposures = [draw(rng, (60, 50)) for _ in range(3)]
    attrs = {} if dispaxis is None else {"dispaxis": dispaxis}
    science = exposures[0].assign_attrs(attrs)
    low = np.fmin.reduce([e["sci"].values for e in exposures])
    expected = np.zeros(low.shape, dtype=bool)
    expected[peer.badpix_selfcal(low, 0.01, 0.02, kernel_size, dispaxis)] = True
    plan = badpix_selfcal.plan(
        science,
        selfcal=exposures[1:2],
        background=exposures[2:],
        flagfrac_lower=0.01,
        flagfrac_upper=0.02,
        kernel_size=kernel_size,
    )
    np.testing.assert_array_equal(plan.bad, expected)
