"""Slits in buckets pass through transformations."""

import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.errors import ContractError
from spec2fn.schema import meta_of
from spec2fn.testing import exposures
from spec2fn.transforms import jit, pack, unpack, value_and_grad


@pytest.fixture(scope="module")
def slits():
    return exposures.step_input("flat_field", "NRS_FIXEDSLIT").dataset


def doubled(slits):
    return slits.map(lambda b: b.assign(sci=(b["sci"].dims, 2 * b["sci"].data)))


def test_taken_apart_and_put_together(slits):
    back = unpack(pack(slits))
    assert len(slits.buckets) == len(back.buckets) == 2
    for a, b in zip(back.buckets, slits.buckets, strict=True):
        assert a.drop_attrs().identical(b.drop_attrs())


def test_compiled_slits_keep_their_headers_and_wcs(slits):
    out = jit(doubled)(slits)
    assert out.names == slits.names
    for a, b in zip(out.buckets, slits.buckets, strict=True):
        np.testing.assert_array_equal(a["sci"], 2 * b["sci"].values)
        assert meta_of(a).wcs is meta_of(b).wcs


def test_gradients_go_by_bucket(slits):
    def loss(slits):
        return sum(jnp.sum(jnp.nan_to_num(b["sci"].data) ** 2) for b in slits.buckets)

    _, found = value_and_grad(loss, wrt=("0/sci", "1/sci"))(slits)
    for i, bucket in enumerate(slits.buckets):
        expected = 2 * np.nan_to_num(bucket["sci"].values)
        np.testing.assert_allclose(found[f"{i}/sci"], expected, rtol=1e-6)
    with pytest.raises(ContractError, match="no numeric variable '7/sci'"):
        value_and_grad(loss, wrt=("7/sci",))(slits)
