"""Linear operators read backwards: <A x, y> = <x, A' y> for every operator of the library."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec2fn.forward.mrs.stray_light import StrayLight
from spec2fn.forward.niriss.operator import OrdersOperator
from spec2fn.forward.operators import SceneOperator, SpectralOperator, SurfaceOperator
from spec2fn.host.contamination import Dispersed, Trace
from spec2fn.kernels import background_fit, cubes, extraction, resampling
from spec2fn.kernels import spectrum_fit as fitting
from spec2fn.kernels.dispersal import Dispersal, OrderGeometry, gather, splat
from spec2fn.kernels.straylight import row_profiles
from spec2fn.testing import operators, strategies
from spec2fn.testing.strategies import integers, masks, numbers, planes

DETECTOR = (5, 7)
AREAS = st.sampled_from([None, 0.25, 1.0])


def signed(*shape):
    return planes(shape, finite=True, dtype=np.float64)


def weights(*shape):
    return planes(shape, finite=True, positive=True, dtype=np.float64)


def places(*shape):
    """Pixels and sixteenths of them, on the detector and beside it."""
    return numbers(shape, -3.0, 9.0, step=1 / 16)


def assert_adjoint(there, back, x, y, near=1e-12):
    """Both sides agree to the rounding of sums of numbers as large as these."""
    forth, home = np.asarray(there(x), float), np.asarray(back(y), float)
    assert forth.shape == y.shape
    assert home.shape == x.shape
    size = np.abs(there(np.abs(x))).max(initial=0.0) * np.abs(y).sum()
    size += np.abs(back(np.abs(y))).max(initial=0.0) * np.abs(x).sum()
    assert abs(np.vdot(forth, y) - np.vdot(x, home)) <= near * size


@given(st.data())
def test_laying_light_on_pixels(data):
    x, y = data.draw(places(2, 6))
    area = data.draw(AREAS)
    assert_adjoint(
        lambda light: splat(x, y, light, DETECTOR, area),
        lambda image: gather(x, y, image, area),
        data.draw(signed(6)),
        data.draw(signed(*DETECTOR)),
    )


def squares(x, y, light):
    """Areas that unit squares share with pixels, one square and one pixel at a time."""
    out = np.zeros(DETECTOR)
    for xs, ys, value in zip(x, y, light, strict=True):
        for j, i in np.ndindex(DETECTOR):
            dx = max(0.0, min(xs, i) + 1 - max(xs, i))
            dy = max(0.0, min(ys, j) + 1 - max(ys, j))
            out[j, i] += value * dx * dy
    return out


@given(places(2, 4), signed(4))
def test_light_falls_on_pixels_by_the_area_they_share(place, light):
    # sixteenths and multiples of powers of two: nothing is rounded
    np.testing.assert_array_equal(splat(*place, light, DETECTOR), squares(*place, light))


@given(st.data())
def test_dispersing_a_field(data):
    pixels, waves, sources = 4, 3, 2
    orders = {
        m: OrderGeometry(
            *data.draw(places(2, waves, pixels)),
            np.arange(1.0, 1.0 + waves),
            data.draw(weights(waves)),
        )
        for m in ("1", "2")
    }
    source = np.sort(data.draw(integers((pixels,), 0, sources - 1)))
    field = Dispersal(orders, source, sources, DETECTOR, area=data.draw(AREAS))
    flux, image = data.draw(signed(pixels)), data.draw(signed(*DETECTOR))
    spectra = {m: data.draw(signed(sources, waves)) for m in orders}
    assert_adjoint(lambda v: field(v, spectra), lambda v: field.adjoint(v, spectra), flux, image)
    assert_adjoint(
        lambda v: field(flux, dict(zip(orders, v, strict=True))),
        lambda v: np.stack(list(field.adjoint_spectra(v, flux).values())),
        np.stack(list(spectra.values())),
        image,
    )


@given(st.data())
def test_simulated_spectra_of_a_slitless_field(data):
    basis = 2
    traces = []
    for i in range(data.draw(st.integers(1, 3))):
        height, width = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
        y = data.draw(st.integers(0, DETECTOR[0] - height))
        x = data.draw(st.integers(0, DETECTOR[1] - width))
        traces.append(Trace(i, 1, y, x, data.draw(signed(basis, height, width))))
    field = Dispersed(traces, DETECTOR, basis)
    spectra = data.draw(signed(len(field), basis))
    assert_adjoint(field.image, field.adjoint, spectra, data.draw(signed(*DETECTOR)))
    weight = data.draw(weights(*DETECTOR))
    image = (field.image(spectra) * weight)[weight > 0]
    np.testing.assert_allclose(field.matrix(weight) @ spectra.ravel(), image, atol=1e-12)


@given(operators.overlaps(), st.data())
def test_resampling(overlap, data):
    coefficient, _ = resampling.coefficients(overlap, data.draw(weights(overlap.n_in)))
    assert_adjoint(
        lambda v: resampling.apply(overlap, coefficient, v),
        lambda v: resampling.apply_adjoint(overlap, coefficient, v),
        data.draw(signed(2, overlap.n_in)),
        data.draw(signed(2, overlap.n_out)),
    )


@given(operators.cube_operators(), st.sampled_from([0, 1, 2]), st.data())
def test_building_a_cube(op, power, data):
    assert_adjoint(
        lambda v: cubes.apply(op, v, power),
        lambda v: cubes.apply_adjoint(op, v, power),
        data.draw(signed(2, op.pixels.size)),
        data.draw(signed(2, op.voxels.size)),
        near=1e-6,  # the operator is of single precision
    )


@st.composite
def spectrum_fits(draw):
    """Two orders whose columns respond to a grid of wavelengths anywhere."""
    orders, disp, taps, wave = 2, 4, 3, 9
    pins = np.unique(draw(integers((2,), 0, wave - 1)))
    size = orders * disp + pins.size
    chain = np.asarray(draw(st.permutations(range(size))))
    listed = chain[: draw(st.integers(2, size))]
    position = np.full(size, listed.size)
    position[listed] = np.arange(listed.size)
    return fitting.SpectrumFit(
        wave=np.arange(1.0, 1.0 + wave),
        response=draw(weights(orders, disp, taps)) + 2.0**-14,
        first=draw(integers((orders, disp), 0, wave - taps)),
        factor=np.array(1.0),
        weight=np.ones((1, disp)),
        covered=np.ones((orders, disp), bool),
        pins=pins,
        chain=listed,
        position=position,
        turn=np.arange(listed.size - 1),
        width=1,
        orders=(0, 1),
    )


@given(spectrum_fits(), st.data())
def test_response_of_overlapping_orders(fit, data):
    pins = fit.pins.size

    def there(spectrum):
        seen = fitting._respond(fit, spectrum)
        return np.concatenate([seen.ravel(), spectrum[fit.pins]])

    def back(both):
        amplitude = both[: both.size - pins].reshape(fit.response.shape[:2])
        return fitting._collect(fit, amplitude, both[both.size - pins :])

    size = fit.response.shape[0] * fit.response.shape[1] + pins
    assert_adjoint(there, back, data.draw(signed(fit.wave.size)), data.draw(signed(size)))


@given(spectrum_fits(), st.data())
def test_differences_of_neighbours_in_wavelength(fit, data):
    chain = fitting._Chain(fit)
    rows = fit.chain.size
    assert_adjoint(
        chain.difference, chain.spread, data.draw(signed(rows)), data.draw(signed(rows - 1))
    )


@st.composite
def sampled(draw, window, kind):
    """A source in a window of the detector, with drawn response."""
    shape = tuple(stop - start for start, stop in window)
    grid = np.arange(5.0)
    cells = {
        "grid": grid,
        "index": draw(integers(shape, 0, grid.size - 2)),
        "fraction": draw(numbers(shape, 0.0, 1.0, step=1 / 16)),
        "gain": draw(weights(*shape)),
        "flat": draw(weights(*shape)),
        "window": window,
    }
    if kind == "surface":
        return SurfaceOperator(**cells, profile=draw(weights(*shape)))
    lower = draw(numbers(shape, -2.0, 2.0, step=1 / 16))
    width = 0.25 + draw(numbers(shape, 0.0, 2.0, step=1 / 16))
    return SpectralOperator(**cells, lower=lower, upper=lower + 1, sigma=width, position=0.3)


@given(sampled(((1, 4), (2, 6)), "point") | sampled(((1, 4), (2, 6)), "surface"), st.data())
def test_exposures_of_a_source(op, data):
    spectrum, image = data.draw(signed(op.grid.size)), data.draw(signed(*op.gain.shape))
    assert_adjoint(op, op.T, spectrum, image)
    matrix = op.dense() @ spectrum
    size = np.abs(op.dense()).max() * np.abs(spectrum).sum()
    np.testing.assert_allclose(op(spectrum).ravel(), matrix, atol=1e-12 * size)


@st.composite
def stray_lights(draw, shape):
    ny, nx = shape
    columns = {
        name: draw(numbers((ny,), 0.0, top, step=top / 16))
        for name, top in {
            "lor_fwhm": 4.0,
            "lor_scale": 0.01,
            "gau_fwhm": 4.0,
            "gau_xoff": 4.0,
            "gau_scale1": 0.01,
            "gau_scale2": 0.01,
        }.items()
    }
    profile = row_profiles(**columns, width=nx)
    edge = draw(st.integers(0, nx))
    return StrayLight(((slice(0, edge), profile), (slice(edge, nx), profile[::-1].copy())))


@given(stray_lights((3, 14)), st.data())
def test_light_that_the_detector_scatters(stray, data):
    assert_adjoint(stray, stray.T, data.draw(signed(3, 14)), data.draw(signed(3, 14)))


@strategies.share(0.25, shrink=True)
@given(st.data())
def test_exposures_of_a_scene(data):
    windows = (((0, 3), (0, 9)), ((1, 4), (5, 14)))
    parts = tuple(
        data.draw(sampled(w, k)) for w, k in zip(windows, ("point", "surface"), strict=True)
    )
    op = SceneOperator(parts, (4, 14), data.draw(stray_lights((4, 14))))
    many = [part.grid.size for part in parts]
    assert_adjoint(
        lambda v: op(np.split(v, np.cumsum(many)[:-1])),
        lambda v: np.concatenate(op.T(v)),
        data.draw(signed(sum(many))),
        data.draw(signed(4, 14)),
    )


@given(st.data())
def test_exposures_of_overlapping_orders(data):
    orders, cross, disp, taps, wave = 2, 3, 4, 2, 6
    op = OrdersOperator(
        grid=np.arange(1.0, 1.0 + wave),
        first=data.draw(integers((orders, disp), 0, wave - taps)),
        weights=data.draw(weights(orders, disp, taps)),
        profile=data.draw(weights(orders, cross, disp)),
        flat=data.draw(weights(cross, disp)),
        orders=(1, 2),
    )
    assert_adjoint(op, op.T, data.draw(signed(wave)), data.draw(signed(cross, disp)))


SPECTRUM = (3, 8)
TERMS = np.vander(np.linspace(-1, 1, SPECTRUM[1]), 3, increasing=True)


def assert_close(a, b, size):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * size)


@given(
    signed(*SPECTRUM),
    masks(SPECTRUM),
    numbers(SPECTRUM, 0.0, 1.0, step=1 / 16),
    masks(SPECTRUM),
    st.sampled_from([None, 1, 3]),
)
def test_a_sum_is_what_its_weights_say(data, good, aperture, region, terms):
    """The weights are the operator: exact errors and covariances follow from them."""
    basis = None if terms is None else TERMS[:, :terms]
    alone = extraction.box_extract(data, good, aperture)
    size = np.abs(data).max() * SPECTRUM[1]
    assert_close(alone.flux, (alone.weights * data).sum(axis=-1), size)
    if terms is None:
        return  # a median is not linear
    out = extraction.box_extract(data, good, aperture, region, basis=basis)
    both = out.weights - out.fitted.weights
    # extrapolated from a few pixels, a polynomial is as large as its weights are
    worst = size * (1 + np.abs(out.fitted.weights).max())
    assert_close(out.flux, (both * data).sum(axis=-1), worst)
    assert not both[~good].any()


@given(signed(*SPECTRUM), masks(SPECTRUM), weights(*SPECTRUM), st.sampled_from([None, 1, 2]))
def test_a_fitted_amplitude_is_what_its_weights_say(data, good, profile, terms):
    basis = None if terms is None else TERMS[:, :terms]
    region = None if terms is None else np.ones(SPECTRUM, bool)
    out = extraction.optimal_extract(data, good, [profile], basis, region)
    size = np.abs(data).max() * np.abs(out.weights).sum(axis=-1).max()
    assert_close(out.flux, (out.weights * data).sum(axis=-1), size)
    assert not out.weights[~good].any()
    # a fit returns the profile that it is given
    again = extraction.optimal_extract(3 * profile, good, [profile], basis, region)
    known = out.weights.any(axis=-1)
    np.testing.assert_allclose(again.flux[known], 3.0, rtol=1e-5)


@given(signed(*SPECTRUM), masks(SPECTRUM), numbers(SPECTRUM, 0.0, 1.0, step=1 / 16))
def test_a_fitted_background_is_what_its_weights_say(data, used, aperture):
    image, (weight,) = background_fit.fit_polynomial(data, used, TERMS[:, :2], (aperture,))
    size = np.abs(data).max() * np.maximum(1.0, np.abs(weight).sum(axis=-1).max())
    assert_close((aperture * image).sum(axis=-1), (weight * data).sum(axis=-1), size)
    assert not weight[~used].any()


@strategies.share(0.05, shrink=True)
@given(st.data())
def test_jax_reads_operators_backwards_alike(data):
    """There it is JAX that transposes them."""
    jnp = pytest.importorskip("jax.numpy")
    source = data.draw(sampled(((1, 4), (2, 6)), "point"))
    orders = OrdersOperator(
        grid=np.arange(6.0),
        first=data.draw(integers((2, 4), 0, 4)),
        weights=data.draw(weights(2, 4, 2)),
        profile=data.draw(weights(2, 3, 4)),
        flat=data.draw(weights(3, 4)),
        orders=(1, 2),
    )
    for op in (source, orders):
        image = data.draw(signed(3, 4))
        expected = op.T(image)
        size = np.abs(expected).max(initial=0.0)
        np.testing.assert_allclose(op.T(jnp.asarray(image)), expected, rtol=1e-9, atol=1e-9 * size)
