from dataclasses import replace

import numpy as np
import pytest

from spec2fn.host.contamination import (
    Cutout,
    DirectPixels,
    Dispersed,
    SpectralGrid,
    cut,
    disperse_source,
    fit_in_turn,
    fit_jointly,
    hat_functions,
    legendre,
    merge,
)
from spec2fn.kernels.dispersal import splat

SHAPE = (120, 260)
ENDS = (1.0, 1.4)
WAVE = np.linspace(*ENDS, 130)
KNOTS = np.linspace(*ENDS, 8)
GAIN = np.where(np.abs(WAVE - 1.2) < 0.18, 0.02, 0.0)


def along(x, y, wave):
    return x + 220 * (wave - 1.2), y + 5 * (wave - 1.2) + 0 * x


def star(label, x, y, flux, half=7):
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    light = flux * np.exp(-0.5 * ((xx - x % 1) ** 2 + (yy - y % 1) ** 2) / 2.5)
    return DirectPixels(
        label, (np.floor(x) + xx).ravel(), (np.floor(y) + yy).ravel(), light.ravel()
    )


STARS = (
    star(7, 100.3, 50.2, 100),
    star(3, 150.1, 55.4, 60),
    star(9, 12.0, 118.5, 50),
    star(1, -40.0, 80.0, 70),
    star(4, 240.7, 2.5, 40),
)


def grid(basis):
    return SpectralGrid(WAVE, GAIN, basis)


def field(basis=None, stars=STARS):
    basis = hat_functions(WAVE, KNOTS) if basis is None else basis
    traces = [disperse_source(s, 1, grid(basis), along, SHAPE) for s in stars]
    return Dispersed([t for t in traces if t is not None], SHAPE, len(basis))


def test_a_source_lights_what_the_kernel_says():
    for source in STARS:
        x, y = along(source.x[None], source.y[None], WAVE[:, None])
        whole = splat(x, y, source.flux * GAIN[:, None] * np.ones_like(x), SHAPE)
        trace = disperse_source(source, 1, grid(np.ones((1, WAVE.size))), along, SHAPE)
        image = np.zeros(SHAPE)
        if trace is not None:
            rows, columns = (
                slice(s, s + n) for s, n in zip(trace.box[:2], trace.box[2:], strict=True)
            )
            image[rows, columns] = trace.images[0]
        np.testing.assert_allclose(image, whole, atol=1e-12)


def test_what_misses_the_detector_is_no_trace():
    assert disperse_source(star(1, 100, 300, 10), 1, grid(np.ones((1, 130))), along, SHAPE) is None


def curved(x, y, wave):
    """A trace whose length, slope and reach change over the field."""
    t = (wave - 1.0) / (0.4 + 2e-5 * x)
    dx = (180 + 0.02 * y) * t - 90 + 3e-5 * (x - 90) ** 2 * t**2
    reached = wave < 1.38 + 0.0 * x
    return np.where(reached, x + dx, np.nan), y + 4 * t + 1e-3 * x * t


def rough(x, y, wave):
    """A trace that changes from pixel to pixel."""
    x1, y1 = curved(x, y, wave)
    return x1, y1 + 1e-3 * (np.round(x) % 2)


@pytest.mark.parametrize("disperse", [along, curved, rough])
def test_traces_around_a_source_are_those_of_its_pixels(monkeypatch, disperse):
    calls = []

    def counted(x, y, wave):
        calls.append(np.broadcast(x, y, wave).size)
        return disperse(x, y, wave)

    # not on the edges of pixels, on which round-off decides what is lit
    sources = [replace(s, x=s.x + 0.0137, y=s.y + 0.0211) for s in STARS]
    found = [disperse_source(s, 1, grid(legendre(WAVE, ENDS, 1)), counted, SHAPE) for s in sources]
    saved = sum(calls)
    monkeypatch.setattr("spec2fn.host.contamination._FEW_PIXELS", np.inf)
    calls.clear()
    exact = [disperse_source(s, 1, grid(legendre(WAVE, ENDS, 1)), counted, SHAPE) for s in sources]
    assert (saved < 0.2 * sum(calls)) == (disperse is not rough)
    for one, other in zip(found, exact, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.box == other.box
            np.testing.assert_allclose(one.images, other.images, atol=1e-6)


def test_a_source_may_be_cut_into_parts_and_put_together(monkeypatch):
    whole = disperse_source(STARS[0], 1, grid(np.ones((1, 130))), along, SHAPE)
    monkeypatch.setattr("spec2fn.host.contamination._SAMPLES", 130 * 11)
    parts = disperse_source(STARS[0], 1, grid(np.ones((1, 130))), along, SHAPE)
    assert parts.box == whole.box
    np.testing.assert_allclose(parts.images, whole.images, atol=1e-12)


def test_the_order_of_sources_does_not_matter():
    one, other = field(), field(stars=STARS[::-1])
    np.testing.assert_allclose(
        one.image(np.ones((len(one), 8))), other.image(np.ones((len(other), 8))), atol=1e-12
    )


def test_hats_and_polynomials_hold_the_flat_spectrum():
    np.testing.assert_allclose(hat_functions(WAVE, KNOTS).sum(axis=0), 1.0, atol=1e-14)
    basis = legendre(WAVE, ENDS, 3)
    np.testing.assert_array_equal(basis[0], 1.0)
    np.testing.assert_allclose(basis[1, [0, -1]], [-1.0, 1.0], atol=1e-12)


def test_the_operator_is_adjoint_to_itself_read_backwards():
    dispersed, rng = field(), np.random.default_rng(2)
    c, image = rng.normal(size=(len(dispersed), 8)), rng.normal(size=SHAPE)
    ours = (dispersed.image(c) * image).sum()
    np.testing.assert_allclose(ours, (c * dispersed.adjoint(image)).sum(), rtol=1e-12)
    weight = rng.uniform(0.5, 1, SHAPE) * (rng.random(SHAPE) < 0.7)
    by_source = c[[dispersed.sources.index(t.source) for t in dispersed.traces]]
    place = {t.source: c[i] for i, t in enumerate(dispersed.traces)}
    columns = np.concatenate([place[s] for s in dispersed.sources])
    assert by_source.shape == c.shape
    np.testing.assert_allclose(
        dispersed.matrix(weight) @ columns,
        (dispersed.image(c) * weight).ravel()[weight.ravel() > 0],
        atol=1e-10,
    )


def test_one_source_alone_is_what_is_asked_for():
    dispersed = field()
    flat = np.ones((len(dispersed), 8))
    alone = sum(dispersed.image(flat, [s]) for s in dispersed.sources)
    np.testing.assert_allclose(alone, dispersed.image(flat), atol=1e-10)


def truth(dispersed, seed=5):
    rng = np.random.default_rng(seed)
    return 1 + 0.4 * rng.normal(size=(len(dispersed.sources), 8))


def observed(dispersed, coefficients, noise=0.01, seed=6):
    place = [dispersed.sources.index(t.source) for t in dispersed.traces]
    image = dispersed.image(coefficients[place])
    rng = np.random.default_rng(seed)
    return image + noise * rng.normal(size=SHAPE), np.full(SHAPE, noise)


def test_the_spectra_of_all_sources_are_found_at_once():
    dispersed = field()
    true = truth(dispersed)
    fit = fit_jointly([dispersed], *([a] for a in observed(dispersed, true)))
    pulls = (fit.coefficients - true) / np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
    assert 0.9 < fit.chi2 / fit.pixels < 1.1
    assert 0.6 < pulls.std() < 1.5
    assert 0.2 < fit.scatter < 0.8


def test_two_exposures_tell_more_than_one():
    one = field()
    turned = [
        disperse_source(
            s,
            1,
            grid(hat_functions(WAVE, KNOTS)),
            lambda x, y, w: (x + 5 * (w - 1.2) + 0 * y, y + 90 * (w - 1.2)),
            SHAPE,
        )
        for s in STARS
    ]
    two = Dispersed([t for t in turned if t is not None], SHAPE, 8)
    true = dict(zip(one.sources, truth(one), strict=True))
    fields = [one, two]
    made = [observed(f, np.array([true.get(s, np.ones(8)) for s in f.sources])) for f in fields]
    both = fit_jointly(fields, [m[0] for m in made], [m[1] for m in made], 0.4)
    alone = fit_jointly(fields[:1], [made[0][0]], [made[0][1]], 0.4)
    k = sorted(true).index(7)
    assert np.trace(both.covariance[k]) < np.trace(alone.covariance[k])
    np.testing.assert_allclose(both.coefficients[k], true[7], atol=0.05)


def test_pixels_without_an_error_do_not_count():
    dispersed = field()
    image, error = observed(dispersed, truth(dispersed))
    image[40:60, 90:95], error[30:80, 100] = 1e6, np.nan
    error[40:60, 90:95] = 0
    fit = fit_jointly([dispersed], [image], [error])
    assert fit.pixels == np.isfinite(error).sum() - 100
    assert fit.chi2 / fit.pixels < 1.1


def cutouts(dispersed, image, error):
    out = []
    for t in dispersed.traces:
        box = (max(t.y - 3, 0), max(t.x - 4, 0), t.images.shape[1] + 5, t.images.shape[2] + 7)
        box = (*box[:2], min(box[2], SHAPE[0] - box[0]), min(box[3], SHAPE[1] - box[1]))
        parts = (cut(a, (0, 0), box) for a in (image, error))
        out.append(Cutout(t.source, t.order, box, *parts, np.ones(box[2:], bool)))
    return out


def test_polynomials_are_fitted_one_after_the_other():
    dispersed = field(legendre(WAVE, ENDS, 2), STARS[:2])
    true = np.array([[1.0, 0.3, -0.1], [1.0, -0.2, 0.15]])
    rng = np.random.default_rng(8)
    image = dispersed.image(true) + 0.01 * rng.normal(size=SHAPE)
    observed_spectra = cutouts(dispersed, image, np.full(SHAPE, 0.01))
    found, done = fit_in_turn(
        dispersed,
        observed_spectra,
        alpha=0.1,
        threshold=0.1,
        rounds=4,
        own_of=lambda t, c: cut(t.images, (t.y, t.x), c.box),
    )
    assert done == (len(dispersed),) * 4
    np.testing.assert_allclose(found, true, atol=0.01)


def test_a_fit_that_changes_the_brightness_too_much_is_rejected():
    dispersed = field(legendre(WAVE, ENDS, 1))
    image = 1.5 * dispersed.image(dispersed.flat())
    spectra = cutouts(dispersed, image, np.full(SHAPE, 0.01))
    found, done = fit_in_turn(
        dispersed,
        spectra,
        alpha=0.0,
        threshold=0.1,
        rounds=3,
        own_of=lambda t, c: cut(t.images, (t.y, t.x), c.box),
    )
    assert done == (0,)
    np.testing.assert_array_equal(found, dispersed.flat())


@pytest.mark.parametrize("box", [(-3, -2, 5, 6), (118, 255, 6, 9), (10, 10, 3, 3), (200, 0, 4, 4)])
def test_boxes_are_cut_with_zeros_beyond_the_image(box):
    image = np.arange(SHAPE[0] * SHAPE[1], dtype=float).reshape(SHAPE) + 1
    padded = np.pad(image, 300)[300 + box[0] :, 300 + box[1] :][: box[2], : box[3]]
    np.testing.assert_array_equal(cut(image, (0, 0), box), padded)


def test_parts_of_a_trace_on_different_boxes_add_up():
    one = field(np.ones((1, WAVE.size))).traces[0]
    from dataclasses import replace

    moved = replace(one, y=one.y + 4, x=one.x - 3)
    both = merge([one, moved])
    image = np.zeros(SHAPE)
    for t in (one, moved):
        image[t.y : t.y + t.box[2], t.x : t.x + t.box[3]] += t.images[0]
    np.testing.assert_array_equal(cut(image, (0, 0), both.box), both.images[0])
