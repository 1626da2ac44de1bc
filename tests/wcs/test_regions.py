"""Transforms that differ from region to region, against gwcs itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.modeling import models
from gwcs.selector import (
    LabelMapper,
    LabelMapperArray,
    LabelMapperDict,
    LabelMapperRange,
    RegionsSelector,
)
from stdatamodels.jwst.transforms.models import MIRI_AB2Slice

from spec2fn.errors import UnsupportedModelError
from spec2fn.wcs.lower import lower

RNG = np.random.default_rng(11)
AXES = ("alpha", "beta", "lam")
NY, NX = 12, 20


def _polynomial():
    model = models.Polynomial2D(3)
    model.parameters = RNG.normal(size=len(model.parameters)) * 0.1
    return model


def _slice(beta):
    shifted = models.Identity(1) & models.Shift(-4.0) | _polynomial()
    wavelength = _polynomial() | models.Scale(0.1) | models.Shift(1.5)
    model = models.Mapping([1, 0, 0, 1, 0]) | shifted & models.Const1D(beta) & wavelength
    model.inverse = models.Mapping([2, 0, 2, 0]) | _polynomial() & _polynomial()
    return model


def _labels():
    labels = np.zeros((NY, NX), dtype=int)
    for row in range(NY):
        for k, number in enumerate((103, 101, 202)):  # curved, touching in places, unsorted
            first = 1 + 6 * k + row // 5
            labels[row, first : first + 5] = number
    return labels


def _selector(labels=None):
    transforms = {101: _slice(-1.0), 102: _slice(0.0), 103: _slice(1.0)}
    mapper = LabelMapperArray(_labels() if labels is None else labels)
    slice_of = LabelMapper(
        AXES, MIRI_AB2Slice(-1.0, 1.0, 1), inputs_mapping=models.Mapping((1,), n_inputs=3)
    )
    mapper.inverse = LabelMapperRange(AXES, {(1.0, 2.0): slice_of}, models.Mapping((2,)))
    return RegionsSelector(("x", "y"), AXES, label_mapper=mapper, selector=transforms)


def _grid():
    return np.arange(float(NX))[None, :], np.arange(float(NY))[:, None]


def test_a_grid_a_list_and_gwcs_agree_bit_for_bit():
    model = _selector()
    x, y = np.broadcast_arrays(*_grid())
    expected = model(x, y)
    grid = lower(model)(*_grid())
    listed = lower(model)(x.ravel(), y.ravel())
    for a, b, c in zip(expected, grid, listed, strict=True):
        np.testing.assert_array_equal(b, a)
        np.testing.assert_array_equal(c, np.ravel(a))
    # label 202 has no transform, and 0 none by definition
    np.testing.assert_array_equal(np.isfinite(grid[0]), np.isin(_labels(), (101, 103)))


def test_positions_off_the_map_belong_to_no_region():
    x, y = np.array([-0.6, NX - 0.5, 2.0, np.nan, 2.0]), np.array([2.0, 2.0, -1.0, 2.0, NY + 3.0])
    for plane in lower(_selector())(x, y):
        assert np.isnan(plane).all()
    assert np.isfinite(lower(_selector())(np.array([2.4]), np.array([2.0]))[0]).all()


def test_the_inverse_finds_the_slice_by_beta():
    inverse = _selector().inverse
    alpha, beta = np.meshgrid(np.linspace(-1, 1, 5), np.array([-1.0, -0.45, 0.2, 1.3, 7.0]))
    lam = np.linspace(0.95, 2.05, alpha.size).reshape(alpha.shape)
    expected = inverse(alpha, beta, lam)
    found = lower(inverse)(alpha, beta, lam)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(b, a)
    assert np.isnan(found[0][4]).all()  # beta 7 is no slice
    assert np.isfinite(found[0][1]).all()


def test_a_range_excludes_its_ends_and_a_dict_wants_its_values():
    key = np.array([1.0, 1.5, 2.0, 3.0, np.nan])
    one = {(1.0, 2.0): models.Const1D(7.0), (2.0, 3.5): models.Const1D(8.0)}
    found = lower(LabelMapperRange(("a",), one))(key)
    np.testing.assert_array_equal(found, [0, 7, 0, 8, 0])
    two = {1.5: models.Const1D(4.0), 3.0: models.Identity(1)}
    np.testing.assert_array_equal(lower(LabelMapperDict(("a",), two))(key), [0, 4, 0, 3, 0])


@pytest.mark.parametrize("alike", [True, False])
def test_gradients_are_those_of_the_transform_of_the_region(alike):
    model = _selector()
    if not alike:
        model.selector[102] = model.selector[102] | models.Identity(3)
    lowered = lower(model)
    x, y = (a.ravel() for a in np.broadcast_arrays(*_grid()))
    jitted = jax.jit(lowered)
    for a, b in zip(lowered(x, y), jitted(jnp.asarray(x), jnp.asarray(y)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)

    def total(params, x, y):
        alpha, _, lam = lowered.function(params, x, y)
        return jnp.where(jnp.isfinite(lam), alpha * lam, 0.0).sum()

    by_params, by_x = jax.grad(total, argnums=(0, 1))(
        lowered.params, jnp.asarray(x), jnp.asarray(y)
    )
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(by_params))
    step = 1e-4
    up, down = (lowered(x + s, y) for s in (step, -step))
    slope = (up[0] * up[2] - down[0] * down[2]) / (2 * step)
    np.testing.assert_allclose(by_x, np.where(np.isfinite(slope), slope, 0), rtol=1e-5, atol=1e-7)


def test_labels_of_text_are_refused():
    with pytest.raises(UnsupportedModelError, match="label regions by numbers"):
        lower(LabelMapperArray(np.array([["a", ""], ["b", "b"]])))
