"""What is written is what is read."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn import run
from spec2fn.dq import PIXEL, explain
from spec2fn.io import open_product, read_netcdf, save, write_netcdf
from spec2fn.parameters import Range, parameters_of
from spec2fn.testing import exposures, strategies
from spec2fn.transforms import pack, unpack

KINDS = [("MIR_LRS-FIXEDSLIT", k) for k in ("cal", "s2d", "x1d")]
KINDS += [("MIR_LRS-SLITLESS", k) for k in ("cal", "x1d")]
KINDS += [(e, k) for e in ("NRS_FIXEDSLIT", "NRS_MSASPEC") for k in ("cal", "s2d", "x1d")]
KINDS += [("NRS_BRIGHTOBJ", k) for k in ("cal", "x1d")]


def made(exp_type, seed):
    obs = exposures.observation(exp_type)
    obs = obs.replace(strategies.disturb(obs.science, seed))
    return run(exposures.pipeline(exp_type), obs, exposures.references(exp_type)).products


def assert_equal(back, ours, names):
    for name in names:
        a, b = np.asarray(back[name].data), np.asarray(ours[name].data)
        # the FITS table repeats for every integration what all have in common
        b = np.broadcast_to(b, a.shape) if a.ndim > b.ndim else b
        assert a.shape == b.shape, name
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize(("exp_type", "kind"), KINDS)
@pytest.mark.parametrize("ending", [".fits", ".nc"])
def test_products_come_back(exp_type, kind, ending, tmp_path):
    @strategies.share(0.01)
    @given(seed=st.integers(0, 2**32 - 1))
    def check(seed):
        product = made(exp_type, seed)[kind]
        path = tmp_path / f"a_{kind}{ending}"
        save(product, path)
        back = open_product(path)
        if hasattr(product, "buckets"):
            assert_equal_slits(back, product)
            return
        if kind == "x1d":
            names = [n for n in ("wavelength", "flux", "flux_error", "dq") if n in product]
        else:
            names = [n for n in ("sci", "err", "dq", "var_poisson", "var_rnoise") if n in product]
        assert_equal(back, product, names)

    check()


def assert_equal_slits(back, ours):
    assert back.names == ours.names
    for one, other in zip(back, ours, strict=True):
        names = ("sci", "err", "dq", "var_poisson", "var_rnoise")
        assert_equal(one, other, [n for n in names if n in other])
        # FITS files hold wavelengths in single precision
        np.testing.assert_array_equal(
            np.float32(one["wavelength"].values), np.float32(other["wavelength"].values)
        )


def test_the_same_product_gives_the_same_bytes(tmp_path):
    product = made("MIR_LRS-SLITLESS", 1)["x1d"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(product, tmp_path / name / "x1dints.fits")
    first, second = ((tmp_path / n / "x1dints.fits").read_bytes() for n in ("a", "b"))
    assert first == second


@strategies.share(0.2, shrink=True)
@given(data=st.data(), shape=strategies.shapes())
def test_exposures_of_any_content_survive_netcdf(data, shape, tmp_path_factory):
    import xarray as xr

    dims = ("integration", "y", "x")[-len(shape) :]
    ds = xr.Dataset(
        {
            "sci": (dims, data.draw(strategies.planes(shape))),
            "err": (dims, data.draw(strategies.planes(shape, positive=True))),
            "dq": (dims, data.draw(strategies.flags(shape))),
        },
        attrs={"exp_type": "MIR_LRS-SLITLESS", "instrument": "MIRI", "tso": True},
    )
    path = tmp_path_factory.mktemp("nc") / "a.nc"
    write_netcdf(ds, path)
    assert_equal(read_netcdf(path), ds, ds.data_vars)


@given(data=st.data(), shape=strategies.shapes())
def test_datasets_survive_the_bridge_to_jax(data, shape):
    import xarray as xr

    dims = ("integration", "y", "x")[-len(shape) :]
    ds = xr.Dataset(
        {"sci": (dims, data.draw(strategies.planes(shape)), {"units": "DN/s"})},
        attrs={"exp_type": data.draw(st.sampled_from(exposures.EXP_TYPES))},
    )
    assert unpack(pack(ds)).identical(ds)


@given(value=st.integers(0, 2**32 - 1))
def test_flags_are_explained_completely(value):
    assert sum(PIXEL[name] for name in explain(value)) == value


@given(number=st.integers(-50, 50), flag=st.booleans())
def test_parameters_given_as_text_mean_the_same(number, flag):
    from typing import Annotated

    def step(
        ds, *, n: Annotated[int, Range(-50, 50)] = 0, on: bool = False, t: float | None = None
    ):
        return ds

    known = parameters_of(step)
    assert known["n"].coerce(str(number), "s") == known["n"].coerce(number, "s") == number
    assert known["on"].coerce(str(flag), "s") is flag
    assert known["t"].coerce("None", "s") is None
    assert known["t"].coerce(repr(number / 7), "s") == number / 7
