"""Rectangles around the spectra of the sources of a catalog."""

import numpy as np
import pytest

from spec2fn.errors import InputError, ParameterError
from spec2fn.plans.slits.grism_boxes import chosen_sources, source_boxes
from spec2fn.plans.slits.grism_cutouts import cut_to_image
from spec2fn.testing.fields import StraightTraces, catalog_dataset

RANGES = {1: (1.2, 2.0), 2: (1.2, 1.5), -1: (1.1, 1.4)}
SHAPE = (90, 120)


def geometry(disp_axis=1):
    return StraightTraces((-1, 1, 2), disp_axis)


def field(traces, count=60, seed=0, **columns):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-40, 150, count), rng.uniform(-30, 120, count)
    ra, dec = traces.detector_to_world(x, y)
    columns = {"isophotal_abmag": rng.uniform(18, 25, count), **columns}
    columns.setdefault("is_extended", rng.random(count) < 0.5)
    return catalog_dataset(ra, dec, half_width=4e-4, label=rng.permutation(count) + 10, **columns)


def one_by_one(traces, catalog, ranges, shape, half_height=None):
    """The boxes of each source and order in turn: label, order, x0, x1, y0, y1."""
    out = []
    for k in np.argsort(catalog["isophotal_abmag"].values, kind="stable"):
        one = catalog.isel(source=k)
        corners = traces.world_to_detector(one["corner_ra"].values, one["corner_dec"].values)
        centre = traces.world_to_detector(one["ra"].item(), one["dec"].item())
        for order, (first, last) in ranges.items():
            ends = [traces.disperse(*corners, wave, order) for wave in (first, last)]
            edges = [[f(np.concatenate([e[i] for e in ends])) for f in (min, max)] for i in (0, 1)]
            if half_height is not None and not one["is_extended"]:
                across = 1 if traces.disp_axis == 1 else 0
                middle = traces.disperse(*centre, (first + last) / 2, order)[across]
                edges[across] = [middle - half_height, middle + half_height]
            (x0, x1), (y0, y1) = (np.floor(np.array(e) + 0.5).astype(int) for e in edges)
            along, across = ((x0, x1), (y0, y1)) if traces.disp_axis == 1 else ((y0, y1), (x0, x1))
            n, m = shape[::-1] if traces.disp_axis == 1 else shape
            if along[1] > 0 and along[0] < n - 1 and across[1] >= 0 and across[0] <= m - 1:
                out.append((int(one["label"]), order, x0, x1, y0, y1))
    return out


def listed(catalog, boxes):
    labels = catalog["label"].values[boxes.source].tolist()
    (x0, y0), (x1, y1) = boxes.low.T.tolist(), boxes.high.T.tolist()
    return list(zip(labels, boxes.order.tolist(), x0, x1, y0, y1, strict=True))


@pytest.mark.parametrize("disp_axis", [1, 2])
@pytest.mark.parametrize("half_height", [None, 0, 5])
def test_boxes_are_those_of_each_source_in_turn(disp_axis, half_height):
    traces = geometry(disp_axis)
    catalog = field(traces)
    found = source_boxes(traces, catalog, RANGES, SHAPE, half_height=half_height)
    wanted = one_by_one(traces, catalog, RANGES, SHAPE, half_height)
    assert listed(catalog, found) == wanted
    assert len(wanted) + len(found.off) == 60 * 3
    place = traces.world_to_detector(*(catalog[n].values[found.source] for n in ("ra", "dec")))
    np.testing.assert_allclose(found.centre.T, place, rtol=1e-12)


def test_boxes_do_not_depend_on_the_order_of_the_catalog():
    traces = geometry()
    catalog = field(traces)
    other = catalog.isel(source=np.random.default_rng(9).permutation(60))
    boxes, again = (source_boxes(traces, c, RANGES, SHAPE) for c in (catalog, other))
    assert listed(catalog, boxes) == listed(other, again)


def test_magnitudes_limit_the_sources():
    traces = geometry()
    magnitude = np.array([20.0, np.nan, 22.0, 21.0])
    ra, dec = traces.detector_to_world(np.array([40.0, 50, 60, 30]), np.array([10.0, 30, 50, 70]))
    catalog = catalog_dataset(ra, dec, isophotal_abmag=magnitude)

    def sources(**how):
        boxes = source_boxes(traces, catalog, {1: (1.1, 1.4)}, SHAPE, **how)
        return catalog["label"].values[boxes.source].tolist()

    assert sources() == [1, 4, 3, 2]  # who is not known comes last
    assert sources(magnitude_limit=22.0) == [1, 4, 2]  # as bright as the limit is not enough
    assert sources(brightest=2) == [1, 4]
    assert sources(chosen=np.array([False, True, True, False])) == [3, 2]


def test_the_brightest_are_those_on_the_image():
    traces = geometry()
    ra, dec = traces.detector_to_world(np.array([-500.0, 50, 60]), np.array([10.0, 30, 50]))
    catalog = catalog_dataset(ra, dec, isophotal_abmag=[18.0, 20.0, 19.0])
    boxes = source_boxes(traces, catalog, {1: (1.1, 1.4)}, SHAPE, brightest=1)
    assert boxes.source.tolist() == [2]
    assert boxes.off == ((0, 1),)


def test_places_that_no_trace_reaches_are_left_out():
    class Broken(StraightTraces):
        def disperse(self, x0, y0, wavelength, order):
            x, y = super().disperse(x0, y0, wavelength, order)
            lost = np.asarray(x0) > 60
            return np.where(lost, np.nan, x), np.where(lost, np.nan, y)

    traces = Broken()
    ra, dec = traces.detector_to_world(np.array([30.0, 80.0]), np.array([40.0, 40.0]))
    boxes = source_boxes(traces, catalog_dataset(ra, dec), {1: (1.1, 1.4)}, SHAPE)
    assert boxes.source.tolist() == [0]


def test_cut_outs_are_the_parts_inside():
    traces = geometry()
    catalog = field(traces, 300, seed=3)
    boxes = source_boxes(traces, catalog, RANGES, SHAPE, half_height=5)
    cut = cut_to_image(boxes, SHAPE)
    wanted = []
    for label, order, x0, x1, y0, y1 in listed(catalog, boxes):
        left, right = (min(max(v, 0), SHAPE[1]) for v in (x0, x1))
        low, high = (min(max(v, 0), SHAPE[0]) for v in (y0, y1))
        if right > left and high > low:
            height, width = np.zeros(SHAPE)[low : high + 1, left : right + 1].shape
            wanted.append((label, order, left, left + width - 1, low, low + height - 1))
    assert listed(catalog, cut) == wanted
    assert len(wanted) < len(boxes)


def test_sources_are_chosen_by_label_and_by_place():
    traces = geometry()
    ra, dec = traces.detector_to_world(np.array([30.0, 50.0, 70.0]), np.array([40.0, 40.0, 40.0]))
    catalog = catalog_dataset(ra, dec, label=[5, 3, 9])
    assert chosen_sources(catalog, None, None, None, 2.0) == (None, ())
    chosen, told = chosen_sources(catalog, [9], [ra[1] + 1e-4], [dec[1]], 2.0)
    assert chosen.tolist() == [False, True, True]
    assert told == ()
    chosen, told = chosen_sources(catalog, [5], [ra[1] + 0.1], [dec[1]], 2.0)
    assert chosen.tolist() == [True, False, False]
    assert "within 2 arcsec" in told[0]


def test_distances_are_those_on_the_sky():
    catalog = catalog_dataset([0.0001, 10.0], [60.0, 60.0])
    chosen, _ = chosen_sources(catalog, None, [359.9999], [60.0], 0.37)
    assert chosen.tolist() == [True, False]
    with pytest.raises(InputError, match=r"the nearest, 1, is 0\.36"):
        chosen_sources(catalog, None, [359.9999], [60.0], 0.35)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (([77], None, None), InputError, "no source 77"),
        ((None, [1.0], None), ParameterError, "source_ra has 1 values and source_dec 0"),
        ((None, [1.0, 2.0], [3.0]), ParameterError, "source_ra has 2 values and source_dec 1"),
        ((None, [1.0], [3.0]), InputError, "within 2 arcsec"),
        (([], None, None), InputError, "source_ids is empty"),
    ],
)
def test_choices_that_cannot_be_met(given, error, message):
    catalog = catalog_dataset([53.1, 53.2], [-27.8, -27.8])
    with pytest.raises(error, match=message) as caught:
        chosen_sources(catalog, *given, 2.0)
    assert "\n" not in str(caught.value)
