import numpy as np
import pytest

from spec2fn.host.cube_overlap import (
    assemble,
    assemble_voxels,
    covariance_kernel,
    entries_between,
    paired,
    roi_entries,
)
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


def covariances(op, err, good):
    """Covariance matrix of the voxels, from the matrix of the operator."""
    matrix = dense(op)[:, good]
    total = matrix.sum(axis=1)
    scaled = matrix / np.where(total > 0, total, 1)[:, None]
    return scaled @ np.diag(err[good].astype(float) ** 2) @ scaled.T


def noise(op):
    rng = np.random.default_rng(9)
    return rng.uniform(1, 2, op.pixels.size).astype(np.float32), rng.random(op.pixels.size) < 0.8


def test_covariances_with_the_plane_are_those_of_the_covariance_matrix(op):
    err, good = noise(op)
    full = covariances(op, err, good)
    plane = np.arange(op.n_out) // op.plane
    true = np.where(plane == plane[:, None], full, 0).sum(axis=1) - np.diag(full)
    found = cubes.combine(op, np.zeros_like(err), err, good)["covariance_sum"]
    assert true.max() > 0.1
    np.testing.assert_allclose(found, true[op.voxels], rtol=1e-4, atol=1e-6)
    # each integration has its own
    both = cubes.combine(
        op, np.zeros((2, err.size), np.float32), np.stack([err, 3 * err]), np.stack([good, good])
    )
    np.testing.assert_allclose(both["covariance_sum"][0], found, rtol=1e-6)
    np.testing.assert_allclose(both["covariance_sum"][1], 9 * found, rtol=1e-5, atol=1e-5)


def test_jax_finds_the_same_covariances(op):
    jnp = pytest.importorskip("jax.numpy")
    err, good = noise(op)
    one, other = (
        cubes.combine(op, xp.asarray(err), xp.asarray(err), xp.asarray(good)) for xp in (np, jnp)
    )
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=2e-5, atol=1e-5)


def test_covariances_are_spread_as_in_the_covariance_matrix(op):
    full = covariances(op, np.ones(op.pixels.size), np.ones(op.pixels.size, bool))
    found = covariance_kernel(op)
    ny, nx = SHAPE[1:]
    whole = np.zeros((SHAPE[0], 2 * ny - 1, 2 * nx - 1))
    for v, w in np.argwhere(full > 0):
        if v // op.plane == w // op.plane and v != w:
            _, y, x = np.unravel_index(np.array([v, w]), SHAPE)
            whole[v // op.plane, y[1] - y[0] + ny - 1, x[1] - x[0] + nx - 1] += full[v, w]
    whole /= whole.sum(axis=(1, 2), keepdims=True)
    ry, rx = (n // 2 for n in found.shape[1:])
    inside = whole[:, ny - 1 - ry : ny + ry, nx - 1 - rx : nx + rx]
    # lags left out have less than a hundredth of the largest share
    assert inside.sum() == pytest.approx(whole.sum(), rel=0.01)
    inside = inside / inside.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(found, inside, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), 1, rtol=1e-6)
    assert not found[:, ry, rx].any()


def test_voxels_that_share_no_pixels_have_no_covariance():
    op = assemble_voxels(np.arange(3), np.arange(3), np.array([0, 30, 31]), np.ones(3), shape=SHAPE)
    assert not covariance_kernel(op).any()
    one = np.ones(3, np.float32)
    assert not cubes.combine(op, one, one, one > 0)["covariance_sum"].any()


def test_entries_of_a_range_of_voxels(op):
    voxel, pixel, weight = entries_between(op, op.plane + 2, 3 * op.plane)
    found = np.zeros((op.n_out, op.pixels.size))
    np.add.at(found, (voxel, pixel), weight)
    true = dense(op)
    true[: op.plane + 2] = true[3 * op.plane :] = 0
    np.testing.assert_allclose(found, true, rtol=1e-6)
    assert voxel.size == (true > 0).sum()


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
