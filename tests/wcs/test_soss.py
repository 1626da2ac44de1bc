"""World coordinates of overlapping orders: those of the tables, lowered and as gwcs."""

import jax
import numpy as np
import pytest

from spec2fn.errors import InputError, ReferenceError
from spec2fn.schema import meta_of, with_meta
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.testing import exposures
from spec2fn.wcs.lower import lower

SOSS = exposures.SOSS


@pytest.fixture(scope="module")
def given():
    return exposures.step_input("assign_wcs", SOSS)


@pytest.fixture(scope="module")
def wcs(given):
    out = given()
    assert out.attrs["dispaxis"] == 1
    assert "wavelength" not in out  # a pixel alone has none
    return meta_of(out).wcs


def test_every_order_has_the_wavelengths_of_its_table(given, wcs):
    tree = given.references["specwcs"].attrs["tree"]
    meta = meta_of(given.dataset)
    x, y = np.meshgrid(np.arange(0.0, 700, 50), np.arange(0.0, 250, 50))
    first = np.array([given.dataset.attrs["xstart"], given.dataset.attrs["ystart"]]) - 1
    speed = 1.0
    if meta.get("VELOSYS") is not None:
        speed = 1 / (1 + meta.get("VELOSYS") / 299792458.0)
    for order in (1, 2, 3):
        ra, dec, wave = wcs.forward_transform.get_model(order)(x, y)
        np.testing.assert_allclose(wave, tree[order](y + first[1], x + first[0]) * speed)
        np.testing.assert_allclose(ra, meta.get("TARG_RA"))
        np.testing.assert_allclose(dec, meta.get("TARG_DEC"))


def test_it_is_lowered_and_differentiable(wcs):
    pure = lower(wcs)
    x, y = np.array([10.0, 300.0, 650.0]), np.array([3.0, 100.0, 200.0])
    for order in (1.0, 2.0, 3.0):
        expected = wcs.forward_transform.get_model(int(order))(x, y)
        for a, b in zip(pure(x, y, np.full(3, order)), expected, strict=True):
            np.testing.assert_allclose(np.broadcast_to(a, 3), b)
    slope = jax.grad(lambda x: pure(x, 100.0, 1.0)[2])(300.0)
    ends = [float(pure(x, 100.0, 1.0)[2]) for x in (299.9, 300.1)]
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 0.2, rtol=1e-4)
    assert np.isnan(pure(300.0, 100.0, 7.0)[2])


def test_what_is_missing_is_named(given):
    ref = given.references["specwcs"]
    tree = {k: v for k, v in ref.attrs["tree"].items() if k != 2}
    refs = {**given.references, "specwcs": ref.assign_attrs(tree=tree)}
    with pytest.raises(ReferenceError, match="no wavelengths of order 2"):
        assign_wcs(given.dataset, **refs)
    header = meta_of(given.dataset).primary.copy()
    del header["TARG_RA"]
    with pytest.raises(InputError, match="TARG_RA is missing"):
        assign_wcs(with_meta(given.dataset, primary=header), **given.references)
