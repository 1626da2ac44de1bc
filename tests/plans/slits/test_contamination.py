import dataclasses

import numpy as np
import pytest

from spec2fn.errors import InputError
from spec2fn.host.contamination import Cutout, cut
from spec2fn.plans.slits.contamination import (
    DirectImage,
    OrderResponse,
    Spectra,
    fitted,
    magnitude_limits,
    plan_contamination,
    simulate,
)

SHAPE = (140, 300)
ENDS = {0: (1.0, 1.4), 1: (1.0, 1.4)}
SOURCES = {4: (130.2, 60.3, 90.0), 2: (170.4, 63.9, 60.0), 9: (60.0, 110.0, 40.0)}


@dataclasses.dataclass(frozen=True)
class Straight:
    """A sky that is the detector, and traces without field dependence."""

    angle: float = 0.0

    def world_to_detector(self, ra, dec):
        return ra, dec

    def disperse(self, x0, y0, wavelength, order):
        along, across = 20.0 + 200 * (wavelength - 1.2), 4.0 * (wavelength - 1.2)
        if order == 0:
            along, across = 90.0 + 6 * (wavelength - 1.2), 0.0 * wavelength
        c, s = np.cos(self.angle), np.sin(self.angle)
        return x0 + c * along - s * across, y0 + s * along + c * across


def direct(scale=1.0, rotation=0.0, labels=None):
    """A direct image of other pixels, centred on the detector."""
    size = int(340 / scale)
    y, x = np.mgrid[:size, :size]
    c, s = np.cos(rotation), np.sin(rotation)
    middle = (size - 1) / 2

    def to_world(x, y):
        u, v = scale * (x - middle), scale * (y - middle)
        return SHAPE[1] / 2 + c * u - s * v, SHAPE[0] / 2 + s * u + c * v

    a, b = to_world(x, y)
    image, segments = np.zeros((size, size)), np.zeros((size, size), int)
    for label, (x0, y0, flux) in SOURCES.items():
        r2 = (a - x0) ** 2 + (b - y0) ** 2
        image += flux * np.exp(-0.5 * r2 / 3.0) / (2 * np.pi * 3.0)
        segments[r2 < 80] = (labels or {}).get(label, label)
    return DirectImage(image, segments, to_world)


def responses(orders=(0, 1)):
    wave = np.linspace(0.95, 1.45, 51)
    curve = 0.004 + 0.01 * (wave - 1.2) ** 2
    return [OrderResponse(o, ENDS[o], wave, curve * (1 if o else 30)) for o in orders]


def field(spectra=None, image=None, geometry=None, **how):
    spectra = spectra or Spectra()
    return simulate(image or direct(), geometry or Straight(), responses(), spectra, SHAPE, **how)


def flat(dispersed):
    return dispersed.image(dispersed.flat())


def close(one, other, part=1e-3):
    assert np.abs(one - other).max() < part * np.abs(one).max()


def test_the_light_of_a_source_is_its_flux_times_the_response():
    one = responses((1,))[0]
    wave = np.linspace(*ENDS[1], 20001)
    expected = np.trapezoid(1 / np.interp(wave, one.wavelength, one.conversion), wave)
    dispersed = simulate(direct(), Straight(), [one], Spectra(), SHAPE)
    for label, (_, _, flux) in SOURCES.items():
        total = dispersed.image(dispersed.flat(), [label]).sum()
        np.testing.assert_allclose(total, flux * expected, rtol=2e-4)


@pytest.mark.parametrize(("scale", "rotation"), [(0.5, 0.0), (1.0, 0.7), (1.9, -0.3), (0.7, 2.0)])
def test_direct_images_of_other_scales_and_orientations_tell_the_same(scale, rotation):
    whole, other = field(), field(image=direct(scale, rotation))
    np.testing.assert_allclose(flat(other).sum(), flat(whole).sum(), rtol=2e-3)
    close(flat(whole), flat(other), 0.05 if scale < 1.5 else 0.12)


def test_labels_and_their_order_do_not_matter():
    names = {4: 77, 2: 900, 9: 1}
    whole, other = field(), field(image=direct(labels=names))
    close(flat(whole), flat(other), 1e-12)


def test_chunks_of_pixels_matter_in_the_official_way_alone():
    close(flat(field(chunk=50)), flat(field(chunk=5000)), 0.02)
    assert np.abs(flat(field(chunk=50)) - flat(field(chunk=5000))).max() > 0


def test_finer_wavelengths_change_little():
    close(flat(field(oversample=2)), flat(field(oversample=8)), 2e-3)


def test_faint_sources_do_not_contaminate():
    known = {4: 20.0, 2: 21.0, 9: np.inf}
    limits = magnitude_limits(responses(), 20.5, responses((1,))[0])
    assert limits == {0: 20.5, 1: 20.5}
    assert field(magnitudes=known, limits=limits).sources == (4,)


def test_other_orders_need_brighter_sources():
    one = responses((1,))[0]
    second = dataclasses.replace(one, order=2, conversion=10 * one.conversion)
    assert magnitude_limits([one, second], 22.0, one)[2] == pytest.approx(22.0 - 2.5)
    with pytest.raises(InputError, match="order 1"):
        magnitude_limits([second], 22.0, None)


def cutouts(dispersed, image, error, margin=3):
    out = []
    for t in dispersed.traces:
        y, x = max(t.y - margin, 0), max(t.x - margin, 0)
        box = (
            y,
            x,
            min(t.box[2] + 2 * margin, SHAPE[0] - y),
            min(t.box[3] + 2 * margin, SHAPE[1] - x),
        )
        data = cut(image, (0, 0), box)
        out.append(
            Cutout(t.source, t.order, box, data, np.full(data.shape, error), np.ones(box[2:], bool))
        )
    return out


def planned(dispersed, boxes, coefficients, covariance=None, **how):
    shape = max(c.box[2] for c in boxes), max(c.box[3] for c in boxes)
    how = {"official": False, "keep_models": True, **how}
    return plan_contamination(dispersed, [boxes], [shape], coefficients, covariance, **how)


def test_contamination_is_the_light_of_all_others():
    dispersed = field()
    image = flat(dispersed)
    boxes = cutouts(dispersed, image, 0.1)
    plan = planned(dispersed, boxes, dispersed.flat())
    light = plan.buckets[0].image(plan.coefficients)
    for k, c in enumerate(boxes):
        height, width = c.box[2:]
        own = cut(dispersed.image(dispersed.flat(), [c.source]), (0, 0), c.box)
        i = dispersed.index[c.source, c.order]
        trace = dispersed.traces[i]
        mine = cut(trace.images[0], (trace.y, trace.x), c.box)
        # another order of the same source is contamination too
        np.testing.assert_allclose(light[k, :height, :width], c.image - mine, atol=1e-10)
        np.testing.assert_allclose(plan.own[0][k, :height, :width], mine, atol=1e-12)
        assert (own - mine >= -1e-12).all()
        assert not light[k, height:].any()
        assert not light[k, :, width:].any()


def test_a_source_alone_is_not_contaminated():
    image = direct()
    segments = np.where(image.segments == 4, 4, 0)
    alone = dataclasses.replace(image, segments=segments)
    dispersed = simulate(alone, Straight(), responses((1,)), Spectra(), SHAPE)
    boxes = cutouts(dispersed, flat(dispersed), 0.1)
    plan = planned(dispersed, boxes, dispersed.flat())
    assert plan.buckets[0].index.size == 0
    assert not plan.buckets[0].image(plan.coefficients).any()


def test_a_spectrum_without_a_segment_keeps_its_own_light():
    dispersed = field()
    boxes = cutouts(dispersed, flat(dispersed), 0.1)
    stray = dataclasses.replace(boxes[0], source=55)
    segmented = frozenset(SOURCES)
    plan = planned(dispersed, [stray, *boxes], dispersed.flat())
    assert plan.kept == ((*range(len(boxes) + 1),),)
    light = plan.buckets[0].image(plan.coefficients)[0]
    height, width = stray.box[2:]
    np.testing.assert_allclose(light[:height, :width], stray.image, atol=1e-10)
    official = planned(
        dispersed, [stray, *boxes], dispersed.flat(), official=True, segmented=segmented
    )
    assert official.kept == (tuple(range(1, len(boxes) + 1)),)


def test_the_official_model_loses_its_end_where_it_begins_inside():
    dispersed = field()
    boxes = cutouts(dispersed, flat(dispersed), 0.1, margin=4)
    ours, theirs = (
        planned(dispersed, boxes, dispersed.flat(), official=official, segmented=frozenset(SOURCES))
        for official in (False, True)
    )
    difference = theirs.buckets[0].image(theirs.coefficients) - ours.buckets[0].image(
        ours.coefficients
    )
    k = next(i for i, c in enumerate(boxes) if c.order == 1 and c.source == 9)
    trace = dispersed.traces[dispersed.index[9, 1]]
    y, x = trace.y - boxes[k].box[0], trace.x - boxes[k].box[1]
    height, width = trace.box[2:]
    mine = cut(trace.images[0], (trace.y, trace.x), boxes[k].box)
    lost = mine.copy()
    lost[: min(y + height, height), : min(x + width, width)] = 0
    rows, columns = boxes[k].box[2:]
    np.testing.assert_allclose(difference[k, :rows, :columns], lost, atol=1e-10)
    assert lost.any()


def true_spectra(dispersed, knots):
    rng = np.random.default_rng(3)
    by_source = {s: 1 + 0.3 * rng.normal(size=knots) for s in dispersed.sources}
    return np.array([by_source[t.source] for t in dispersed.traces])


def test_what_a_joint_fit_subtracts_leaves_each_source_alone():
    spectra = Spectra(knots=tuple(np.linspace(1.0, 1.4, 7)))
    dispersed = field(spectra)
    true = true_spectra(dispersed, 7)
    rng = np.random.default_rng(4)
    noise = 0.02
    image = dispersed.image(true) + noise * rng.normal(size=SHAPE)
    boxes = cutouts(dispersed, image, noise)
    how = {"alpha": 0.1, "threshold": 0.1, "rounds": 1, "official": False}
    coefficients, covariance, note = fitted(dispersed, boxes, spectra, scatter=None, **how)
    assert "3 sources" in note
    plan = planned(dispersed, boxes, coefficients, covariance)
    light = plan.buckets[0].image(plan.coefficients)
    pulls = []
    for k, c in enumerate(boxes):
        trace = dispersed.traces[dispersed.index[c.source, c.order]]
        mine = cut(
            np.tensordot(true[dispersed.index[c.source, c.order]], trace.images, 1),
            (trace.y, trace.x),
            c.box,
        )
        height, width = c.box[2:]
        left = c.image - light[k, :height, :width] - mine
        variance = noise**2 + plan.buckets[0].variance[k, :height, :width]
        pulls.append((left / np.sqrt(variance)).ravel())
    assert abs(np.std(np.concatenate(pulls)) - 1) < 0.03
    assert plan.buckets[0].variance.max() > 0


def test_given_spectra_are_used():
    line = {4: lambda w: 1 + 3 * np.exp(-0.5 * ((w - 1.1) / 0.01) ** 2)}
    plain, shaped = field(), field(Spectra(shapes=line))
    # not the same source, not the same place
    close(plain.image(plain.flat(), [2, 9]), shaped.image(shaped.flat(), [2, 9]), 1e-12)
    more = shaped.image(shaped.flat(), [4]) - plain.image(plain.flat(), [4])
    x, _ = Straight().disperse(SOURCES[4][0], SOURCES[4][1], 1.1, 1)
    assert abs(np.argmax(more.sum(axis=0)) - x) < 1.5


def test_the_body_is_differentiable_in_the_spectra():
    jax = pytest.importorskip("jax")
    dispersed = field(Spectra(degree=1))
    boxes = cutouts(dispersed, flat(dispersed), 0.1)
    plan = planned(dispersed, boxes, dispersed.flat())
    weight = np.random.default_rng(1).normal(size=plan.buckets[0].shape)

    def loss(c):
        return (plan.buckets[0].image(c) * weight).sum()

    gradient = jax.grad(loss)(jax.numpy.asarray(plan.coefficients))
    numeric = [
        loss(plan.coefficients + np.eye(plan.coefficients.size)[k]) - loss(plan.coefficients)
        for k in range(plan.coefficients.size)
    ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)
