"""Which slits share a bucket does not matter: products are the same for users and in the tests."""

import numpy as np
import pytest

from spec2fn.engine.run import run
from spec2fn.slits import Slits
from spec2fn.testing import exposures
from tests.buckets import FREE_PADDING


def assert_same(one, other):
    for name, variable in other.variables.items():
        if variable.dtype.kind == "f":
            np.testing.assert_allclose(one[name], variable, rtol=2e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(one[name], variable, err_msg=name)


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NIS_WFSS"])
def test_products_do_not_depend_on_buckets(exp_type, monkeypatch):
    made = []
    for padding in (FREE_PADDING, 0):
        monkeypatch.setattr("spec2fn.buckets.FREE_PADDING", padding)
        observation, refs = exposures.observation(exp_type), exposures.references(exp_type)
        made.append(run(exposures.pipeline(exp_type), observation, refs).products)
    few, many = made
    assert len(few["cal"].buckets) < len(many["cal"].buckets)
    assert set(few) == set(many)
    assert "x1d" in few
    for kind, product in many.items():
        pairs = zip(few[kind], product, strict=True)
        for one, other in pairs if isinstance(product, Slits) else [(few[kind], product)]:
            assert_same(one, other)
