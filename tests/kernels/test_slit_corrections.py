import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.kernels.slit_corrections import bilinear_by_slit


def bilinear(cube, column, row):
    place = (jnp.reshape(p, (1,)) for p in (column, row))
    return bilinear_by_slit(cube[None], np.zeros(1, int), *place)[0]


@pytest.mark.parametrize("place", [(1.3, 0.6), (0.0, 0.0), (3.0, 2.0), (2.999, 1.5)])
def test_bilinear_reproduces_a_bilinear_surface(place):
    y, x = np.mgrid[0:3, 0:4].astype(float)
    cube = np.stack([1 + 2 * x + 3 * y + x * y, np.full_like(x, 7.0)]).astype(np.float32)
    column, row = place
    got = bilinear(cube, np.float64(column), np.float64(row))
    np.testing.assert_allclose(got, [1 + 2 * column + 3 * row + column * row, 7], rtol=1e-6)


def test_bilinear_is_differentiable_in_position():
    cube = np.random.default_rng(3).uniform(0, 1, (2, 4, 5))

    def total(c, r):
        return jnp.sum(bilinear(jnp.asarray(cube), c, r))

    g = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.float64(2.3), jnp.float64(1.6))
    h = 1e-4
    np.testing.assert_allclose(g[0], (total(2.3 + h, 1.6) - total(2.3 - h, 1.6)) / 2 / h, rtol=1e-6)
    np.testing.assert_allclose(g[1], (total(2.3, 1.6 + h) - total(2.3, 1.6 - h)) / 2 / h, rtol=1e-6)
