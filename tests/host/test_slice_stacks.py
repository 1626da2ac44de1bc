import numpy as np
import pytest

from spec2fn.host.slice_stacks import make_slices_plan


def curved(shape=(40, 60), count=4):
    """Curved slices of different height, one of them cut by the edge of the image."""
    y, x = np.indices(shape)
    middle = y - 0.004 * (x - 30.0) ** 2
    out = np.zeros(shape, np.int32)
    for k in range(count):
        out[(middle > 9 * k - 1) & (middle < 9 * k + 4 + k)] = 101 + 3 * k
    return out


def test_cutouts_hold_every_pixel_of_every_slice_once():
    slices = curved()
    plan = make_slices_plan(slices)
    image = np.arange(slices.size, dtype=np.int64).reshape(slices.shape)
    cut = plan.cut(image, -1)
    for k, number in enumerate(np.unique(slices[slices > 0])):
        np.testing.assert_array_equal(np.sort(cut[k][cut[k] >= 0]), image[slices == number])
    assert plan.index.shape[0] == 4


@pytest.mark.parametrize("lead", [(), (3,), (2, 2)])
def test_what_is_cut_comes_back(lead):
    slices = curved()
    plan = make_slices_plan(slices)
    image = np.random.default_rng(0).normal(size=(*lead, *slices.shape)).astype(np.float32)
    cut = plan.cut(image, np.nan)
    assert cut.shape[: len(lead)] == lead
    np.testing.assert_array_equal(plan.paste(image, cut), image)
    changed = plan.paste(image, cut + 1)
    np.testing.assert_array_equal(changed[..., slices == 0], image[..., slices == 0])
    np.testing.assert_allclose(changed[..., slices > 0], image[..., slices > 0] + 1)


def test_cutouts_keep_the_neighbourhood_of_pixels():
    slices = curved()
    plan = make_slices_plan(slices)
    y, x = np.indices(slices.shape)
    for k in range(len(plan.index)):
        rows, columns = plan.cut(y, -1)[k], plan.cut(x, -1)[k]
        inside = plan.inside[k]
        both = inside[1:] & inside[:-1]
        np.testing.assert_array_equal((rows[1:] - rows[:-1])[both], 1)
        both = inside[:, 1:] & inside[:, :-1]
        np.testing.assert_array_equal((columns[:, 1:] - columns[:, :-1])[both], 1)


def test_without_slices_nothing_changes():
    slices = np.zeros((6, 7), np.int32)
    plan = make_slices_plan(slices)
    image = np.ones(slices.shape, np.float32)
    np.testing.assert_array_equal(plan.paste(image, plan.cut(image, 0)), image)
