"""NumPy and JAX: kernels are written once and compute the same with both, whatever is drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn.dq import PIXEL
from spec2fn.kernels import (
    background,
    background_fit,
    column_background,
    cube_extraction,
    cubes,
    extraction,
    interpolation_linear,
    nsclean,
    pixel_replace,
    resampling,
    scaling,
    series,
    statistics,
    straylight,
)
from spec2fn.testing import operators, strategies
from spec2fn.testing.strategies import flags, integers, masks, numbers, planes

jax = pytest.importorskip("jax")

ROWS, COLUMNS = SHAPE = (5, 8)
TERMS = np.vander(np.linspace(-1, 1, COLUMNS), 2, increasing=True)
DO_NOT_USE = PIXEL["DO_NOT_USE"]
VARIANCES = ("var_poisson", "var_rnoise")


def signed(shape=SHAPE):
    return planes(shape, finite=True, dtype=np.float64)


def any_value(shape=SHAPE):
    return planes(shape, dtype=np.float64)


def without_infinities(image):
    return np.where(np.isinf(image), np.nan, image)


@st.composite
def exposures(draw):
    """Planes of which NaN and DO_NOT_USE mark the same pixels."""
    values = {"sci": draw(planes(SHAPE))}
    values |= {n: draw(planes(SHAPE, positive=True)) for n in ("err", *VARIANCES)}
    values, dq = scaling.agree_on_invalid(values, draw(flags(SHAPE)), DO_NOT_USE)
    return {**values, "dq": dq}


def rescaled(ds, factor, usable, error):
    return scaling.rescale(
        {"sci": ds["sci"], "err": ds["err"]},
        {n: ds[n] for n in VARIANCES},
        ds["dq"],
        factor,
        usable,
        inverse=True,
        error=error,
        do_not_use=DO_NOT_USE,
    )


def summed(data, good, aperture, region):
    out = extraction.box_extract(data, good, aperture, region, basis=TERMS, smoothing_length=3)
    return out.flux, out.npixels, out.background, out.weights, out.fitted.weights


def fitted(data, good, profile):
    out = extraction.optimal_extract(data, good, [profile], TERMS[:, :1])
    return out.flux, out.npixels, out.background, out.weights


KERNELS = {
    "median of planes": (
        lambda a, m: statistics.masked_median(list(a), list(m)),
        (planes((4, 3, 5), finite=True), masks((4, 3, 5))),
    ),
    "median across": (background_fit.median_across, (signed(), masks(SHAPE))),
    "boxcar": (lambda a, m: background_fit.boxcar(a, m, 3), (signed(), masks(SHAPE))),
    "box sum": (summed, (signed(), masks(SHAPE), numbers(SHAPE, 0, 1, step=1 / 8), masks(SHAPE))),
    "fit of a profile": (fitted, (signed(), masks(SHAPE), numbers(SHAPE, 0, 1, step=1 / 8))),
    "quadrature": (
        background.add_in_quadrature,
        (planes(SHAPE, positive=True), planes(SHAPE, positive=True)),
    ),
    "agreement of flags": (
        lambda a, b, dq: scaling.agree_on_invalid({"sci": a, "err": b}, dq, DO_NOT_USE),
        (planes(SHAPE), planes(SHAPE), flags(SHAPE)),
    ),
    "division by a flat": (
        rescaled,
        (exposures(), planes(SHAPE, finite=True), masks(SHAPE), planes(SHAPE, positive=True)),
    ),
    "gradients of pixels": (pixel_replace.minimum_gradient, (exposures(),)),
    "profile of pixels": (lambda p: pixel_replace.fit_profile(p, 1, 2), (exposures(),)),
    "model of pixels": (
        lambda p, m: pixel_replace.from_model(p, m, 2),
        (exposures(), planes(SHAPE)),
    ),
    "background of columns": (
        lambda a, m: column_background.column_background(a, m, 0.25),
        (any_value().map(without_infinities), masks(SHAPE)),
    ),
    "gaps of a series": (
        lambda a, t: series.from_neighbours(a, t, 3),
        (any_value((5, 2, 3)), signed((2, 3))),
    ),
    "gaps of columns": (
        interpolation_linear.bridge_rows,
        (signed(), masks(SHAPE), numbers((4,), -1, 6, step=1 / 8)),
    ),
    "limits of planes": (
        lambda a, m: cube_extraction.clipping_limits(a, m, 2.0),
        (planes(SHAPE, finite=True), masks(SHAPE)),
    ),
    "percentiles": (
        lambda a, m: straylight.within_percentiles(a, m, 10.0, 80.0),
        (planes(SHAPE, finite=True), masks(SHAPE)),
    ),
    "harmonics": (
        lambda a, w: nsclean.fit_harmonics(a, w, np.arange(3)),
        # fewer samples than unknowns leave it to rounding how the light is shared
        (signed(), numbers(SHAPE, 1.0, 4.0, step=1 / 8)),
    ),
}


# weights of fits are as exact as the condition of small normal matrices lets them be
FITS = ("box sum", "fit of a profile", "harmonics")


def assert_same(made, expected, arguments, near):
    """Equal up to rounding of numbers as large as the largest that went in or came out."""
    size = max(largest_value(expected), largest_value(arguments))
    both = (map(np.asarray, jax.tree.leaves(one)) for one in (made, expected))
    for a, b in zip(*both, strict=True):
        assert a.shape == b.shape
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        finite = np.isfinite(b)
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_array_equal(a[np.isinf(b)], b[np.isinf(b)])
        np.testing.assert_allclose(a[finite], b[finite], rtol=near, atol=near * size)


def largest_value(tree):
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    values = [v[np.isfinite(v)] for v in leaves if v.dtype.kind == "f"]
    return max((float(np.abs(v).max(initial=0.0)) for v in values), default=0.0)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_agree(name):
    kernel, drawn = KERNELS[name]
    compiled = jax.jit(kernel)

    @strategies.share(0.25, shrink=True)
    @given(st.tuples(*drawn))
    def check(arguments):
        with np.errstate(all="ignore"):
            expected = kernel(*arguments)
        precision = max(np.finfo(d).eps for d in floats(arguments))
        near = 1e-9 if name in FITS else 64 * precision
        assert_same(compiled(*arguments), expected, arguments, near)

    check()


def floats(tree):
    return [leaf.dtype for leaf in jax.tree.leaves(tree) if leaf.dtype.kind == "f"]


def largest(strategy):
    """One operator: each has arrays of another size, and would be compiled for itself."""
    found = []

    @strategies.share(0.1)
    @given(strategy)
    def draw(op):
        found.append(op)

    draw()
    return max(found, key=lambda op: op.cols.size)


@pytest.mark.parametrize("kernels", ["square", "point"])
def test_resampling_agrees(kernels):
    overlap = largest(operators.overlaps(kernels=(kernels,)))

    def kernel(weight, data, variance, dq):
        coefficient, total = resampling.coefficients(overlap, weight)
        out = resampling.apply(overlap, coefficient, data)
        return (
            total,
            out,
            resampling.resample_variance(overlap, coefficient, variance),
            resampling.propagate_flags(overlap, coefficient, dq),
            resampling.apply_adjoint(overlap, coefficient, out),
        )

    compiled, many = jax.jit(kernel), overlap.n_in

    @strategies.share(0.25, shrink=True)
    @given(
        planes((many,), finite=True, positive=True),
        planes((many,), finite=True),
        planes((many,), finite=True, positive=True),
        flags((1, many)),
    )
    def check(weight, data, variance, dq):
        given_ = weight, data, variance, dq[0]
        assert_same(compiled(*given_), kernel(*given_), given_, 2e-6)

    check()


@pytest.mark.parametrize("kind", ["overlap", "distance"])
def test_cubes_agree(kind):
    op = largest(operators.cube_operators(kinds=(kind,)))

    def kernel(sci, err, good, back):
        return cubes.combine(op, sci, err, good), cubes.apply_adjoint(op, back)

    compiled = jax.jit(kernel)
    many, voxels = op.pixels.size, op.voxels.size

    @strategies.share(0.25, shrink=True)
    @given(
        planes((many,)),
        planes((many,), positive=True),
        masks((many,)),
        planes((voxels,), finite=True),
    )
    def check(sci, err, good, back):
        good = good & np.isfinite(sci) & np.isfinite(err)
        given_ = sci, err, good, back
        assert_same(compiled(*given_), kernel(*given_), given_, 2e-6)

    check()


@given(integers((3,), 0, 5))
def test_comparisons_notice_a_difference(values):
    with pytest.raises(AssertionError):
        assert_same({"a": values + 1}, {"a": values}, (), 1e-6)
