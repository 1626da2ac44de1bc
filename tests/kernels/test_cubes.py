import numpy as np
import pytest

from spec2fn.host.cube_overlap import assemble, assemble_voxels, paired, roi_entries
from spec2fn.host.quadrilaterals import quad_entries
from spec2fn.kernels import cubes

SHAPE = (5, 4, 6)
N = 40


def operator(kind="product"):
    rng = np.random.default_rng(3)
    first = np.sort(rng.integers(0, 5, N))
    spectral = rng.uniform(0.2, 1.0, (3, N)).astype(np.float32)
    spectral[2, rng.random(N) < 0.5] = -1
    x0, y0 = rng.uniform(-0.5, 5.5, N), rng.uniform(-0.5, 3.5, N)
    options = {}
    if kind == "product":
        x = x0 + np.array([0, 0, 1.3, 1.3])[:, None]
        y = y0 + np.array([0, 1.2, 1.2, 0])[:, None]

        def entries(which):
            return quad_entries(x[:, which], y[:, which], SHAPE[1:])
    else:
        options = {"power": np.full(N, 2.0), "softening": np.full(N, 0.3)}

        def entries(which):
            return roi_entries(
                x0[which], y0[which], np.full(which.size, 1.2), SHAPE[1:], lambda away, _: away
            )

    pixels = np.sort(rng.choice(150, N, replace=False))
    return assemble(first, spectral, pixels, entries, shape=SHAPE, **options)


def dense(op):
    out = np.zeros((op.n_out, op.pixels.size))
    for r, row in enumerate(op.rows):
        for e in range(op.starts[r], op.starts[r + 1]):
            k = op.cols[e]
            for d in range(op.spectral.shape[0]):
                z, voxel = float(op.spectral[d, k]), row + d * op.plane
                if z < 0 or voxel >= op.n_out:
                    continue
                if op.power is None:
                    out[voxel, k] = op.spatial[e] * z
                else:
                    away = (op.spatial[e] + z) ** (op.power[k] / 2)
                    out[voxel, k] = 1 / max(away, op.softening[k])
    return out


def by_voxel():
    """Pixels that reach any voxels, in up to three planes each."""
    rng = np.random.default_rng(12)
    n_out = SHAPE[0] * SHAPE[1] * SHAPE[2]
    flat = rng.choice(N * n_out, 5 * N, replace=False)
    who, voxel = np.divmod(np.sort(flat), n_out)
    pixels = np.sort(rng.choice(150, N, replace=False))
    weights = rng.uniform(0.1, 1.0, flat.size)
    return assemble_voxels(pixels, who, voxel, weights, shape=SHAPE)


@pytest.fixture(params=["product", "shepard", "voxels"])
def op(request):
    return by_voxel() if request.param == "voxels" else operator(request.param)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_sums_are_those_of_the_matrix(op, power):
    values = np.random.default_rng(1).normal(size=op.pixels.size).astype(np.float32)
    matrix = dense(op)
    matrix = (matrix > 0).astype(float) if power == 0 else matrix**power
    found = cubes.to_cube(op, cubes.apply(op, values, power))
    np.testing.assert_allclose(found.ravel(), matrix @ values, rtol=1e-4, atol=1e-5)


def test_adjoint_identity(op):
    rng = np.random.default_rng(2)
    x = rng.normal(size=op.pixels.size).astype(np.float32)
    y = rng.normal(size=op.voxels.size).astype(np.float32)
    forth = float(np.dot(cubes.apply(op, x).astype(float), y))
    back = float(np.dot(x, cubes.apply_adjoint(op, y).astype(float)))
    assert forth == pytest.approx(back, rel=1e-5)


def test_jax_gives_the_same(op):
    jnp = pytest.importorskip("jax.numpy")
    values = np.random.default_rng(4).normal(size=(2, op.pixels.size)).astype(np.float32)
    for power in (0, 1, 2):
        traced = cubes.apply(op, jnp.asarray(values), power)
        np.testing.assert_allclose(traced, cubes.apply(op, values, power), rtol=2e-5, atol=2e-6)
    cube = np.random.default_rng(5).normal(size=(2, op.voxels.size)).astype(np.float32)
    np.testing.assert_allclose(
        cubes.apply_adjoint(op, jnp.asarray(cube)),
        cubes.apply_adjoint(op, cube),
        rtol=2e-5,
        atol=2e-5,
    )


def test_gradient_is_the_adjoint(op):
    jax = pytest.importorskip("jax")
    y = np.random.default_rng(6).normal(size=op.voxels.size).astype(np.float32)
    x = np.ones(op.pixels.size, np.float32)
    gradient = jax.grad(lambda v: (cubes.apply(op, v) * y).sum())(jax.numpy.asarray(x))
    np.testing.assert_allclose(gradient, cubes.apply_adjoint(op, y), rtol=1e-4, atol=1e-5)


def test_bad_pixels_count_for_nothing(op):
    rng = np.random.default_rng(7)
    sci = rng.normal(size=op.pixels.size).astype(np.float32)
    err = rng.uniform(1, 2, op.pixels.size).astype(np.float32)
    good = rng.random(op.pixels.size) < 0.7
    found = cubes.combine(op, sci, err, good)
    spoiled = np.where(good, sci, np.nan).astype(np.float32)
    again = cubes.combine(op, spoiled, np.where(good, err, np.inf).astype(np.float32), good)
    matrix = dense(op)[op.voxels][:, good]
    total = matrix.sum(axis=1)
    reached = total > 0
    for name in found:
        np.testing.assert_array_equal(found[name], again[name])
    np.testing.assert_allclose(found["weight"], total, rtol=1e-4, atol=1e-6)
    mean = matrix @ sci[good] / np.where(reached, total, 1)
    np.testing.assert_allclose(found["sci"], mean, rtol=1e-3, atol=1e-5)
    var = matrix**2 @ err[good] ** 2 / np.where(reached, total, 1) ** 2
    np.testing.assert_allclose(found["var"], var, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found["wmap"], (matrix > 0).sum(axis=1))


def test_a_constant_stays_the_same(op):
    n = op.pixels.size
    found = cubes.combine(op, np.full(n, 3.0, np.float32), np.ones(n, np.float32), np.ones(n, bool))
    reached = found["weight"] > 0
    np.testing.assert_allclose(found["sci"][reached], 3.0, rtol=1e-6)


def test_variance_inflation_is_that_of_the_covariance_matrix(op):
    rng = np.random.default_rng(9)
    variance = rng.uniform(1, 2, op.pixels.size).astype(np.float32)
    matrix = dense(op)
    total = matrix.sum(axis=1)
    scaled = matrix / np.where(total > 0, total, 1)[:, None]
    full = scaled @ np.diag(variance) @ scaled.T
    true = []
    for plane in range(SHAPE[0]):
        block = full[plane * op.plane :][: op.plane, plane * op.plane :][:, : op.plane]
        true.append(block.sum() / np.trace(block) if np.trace(block) > 0 else 1.0)
    weight = cubes.apply(op, np.ones(op.pixels.size, np.float32))
    var = np.diag(full).astype(np.float32)[op.voxels]
    found = cubes.variance_inflation(op, weight, variance, var, weight > 0)
    np.testing.assert_allclose(found, true, rtol=1e-4)


@pytest.mark.parametrize("offset", [(0, 0, 1), (0, 1, 0), (1, 0, 0)])
def test_covariance_of_neighbours(offset):
    op = operator()
    variance = np.random.default_rng(9).uniform(1, 2, op.pixels.size).astype(np.float32)
    matrix = dense(op)
    total = matrix.sum(axis=1)
    scaled = matrix / np.where(total > 0, total, 1)[:, None]
    full = (scaled @ np.diag(variance) @ scaled.T).reshape(*SHAPE, *SHAPE)
    weight = cubes.apply(op, np.ones(op.pixels.size, np.float32))
    found = cubes.covariance(op, paired(op, offset), weight, variance, offset)
    assert found.shape == SHAPE
    for w, y, x in np.ndindex(SHAPE):
        there = (w + offset[0], y + offset[1], x + offset[2])
        true = 0.0
        if all(i < n for i, n in zip(there, SHAPE, strict=True)):
            true = full[(w, y, x, *there)]
        assert found[w, y, x] == pytest.approx(true, rel=1e-3, abs=1e-6)


def test_planes_are_summed(op):
    values = np.random.default_rng(1).normal(size=(2, op.voxels.size)).astype(np.float32)
    true = cubes.to_cube(op, values).sum(axis=(-2, -1))
    np.testing.assert_allclose(cubes.by_plane(op, values), true, rtol=1e-4, atol=1e-5)


def test_low_coverage_is_measured_by_a_percentile():
    counts = np.array([0, 50, 100, 101, 99, 100, 103, 80, 0, 98])
    held = counts[counts > 0]
    true = (counts > 0) & (counts < 0.75 * np.percentile(held, 3))
    np.testing.assert_array_equal(cubes.low_coverage(counts), true)
    many = np.array([100.0] * 60 + [20.0] + [0.0] * 5)
    assert np.flatnonzero(cubes.low_coverage(many)).tolist() == [60]


def test_low_coverage_without_any_data():
    assert not cubes.low_coverage(np.zeros(6)).any()
