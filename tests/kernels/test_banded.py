import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.kernels import banded


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def random_band(n, width, seed=0):
    rng = np.random.default_rng(seed)
    dense = np.zeros((n, n))
    for k in range(width + 1):
        dense += np.diag(rng.normal(size=n - k), -k)
    dense = dense @ dense.T + 0.1 * np.eye(n)
    band = np.array([np.pad(np.diag(dense, -k), (0, k)) for k in range(width + 1)])
    return dense, band


@pytest.mark.parametrize(("n", "width"), [(5, 0), (30, 3), (200, 70), (129, 64)])
def test_against_the_dense_matrix(n, width):
    dense, band = random_band(n, width)
    factor = banded.factorise(band)
    right = np.random.default_rng(1).normal(size=(2, 3, n))
    np.testing.assert_allclose(
        banded.solve(factor, right), np.linalg.solve(dense, right[..., None])[..., 0], rtol=1e-7
    )
    assert banded.log_determinant(factor) == pytest.approx(np.linalg.slogdet(dense)[1])
    inverse = np.linalg.inv(dense)
    found = banded.inverse_band(factor)
    for k in range(width + 1):
        np.testing.assert_allclose(
            found[k, : n - k], np.diag(inverse, -k), atol=1e-9 * np.abs(inverse).max()
        )


def test_a_singular_matrix_is_lifted_and_an_indefinite_one_refused():
    _, band = random_band(20, 0)
    band[0, 3] = -1e-30
    assert not banded.is_positive(np.array([[1.0, 1.0], [1.0 + 1e-15, 0.0]]))
    assert np.isfinite(banded.factorise(np.array([[1.0, 1.0], [1.0 + 1e-15, 0.0]]))).all()
    with pytest.raises(np.linalg.LinAlgError, match="positive definite"):
        banded.factorise(band)


def test_derivatives_and_batches_of_solutions():
    dense, band = random_band(30, 3)
    factor = jnp.asarray(banded.factorise(band))
    right = np.random.default_rng(2).normal(size=30)

    def found(scale, b):
        return banded.solve_with(factor, lambda x: x @ (scale * jnp.asarray(dense)), b)

    plain = np.linalg.solve(dense, right)
    np.testing.assert_allclose(found(1.0, jnp.asarray(right)), plain, rtol=1e-8)
    # the matrix times a number: its derivative is that of one over it
    slope = jax.jvp(lambda s: found(s, jnp.asarray(right)), (1.0,), (1.0,))[1]
    np.testing.assert_allclose(slope, -plain, rtol=1e-8)
    many = jnp.asarray(np.stack([right, 2 * right, -right]))
    mapped = jax.jit(jax.vmap(lambda b: found(1.0, b)))(many)
    np.testing.assert_allclose(mapped, np.outer([1, 2, -1], plain), rtol=1e-8)
    factors = jnp.stack([factor, factor * np.sqrt(2.0)])
    each = jax.vmap(lambda f: banded.solve_with(f, lambda x: x, jnp.asarray(right)))(factors)
    np.testing.assert_allclose(each, np.outer([1, 0.5], plain), rtol=1e-8)
