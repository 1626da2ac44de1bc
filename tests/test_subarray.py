import numpy as np
import pytest
import xarray as xr

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.subarray import subarray_slices


def image(shape, **attrs):
    rows, columns = shape
    sci = np.arange(rows * columns, dtype=np.float32).reshape(shape)
    return xr.Dataset({"sci": (("y", "x"), sci)}, attrs=attrs)


def test_a_subarray_is_cut_at_its_corner():
    ref = image((20, 30), xstart=1, ystart=1)
    ds = image((4, 5), xstart=11, ystart=6)
    rows, columns = subarray_slices(ref, ds, "flat_field", "flat")
    assert (rows, columns) == (slice(5, 9), slice(10, 15))


def test_the_corner_of_the_reference_counts():
    ref = image((10, 10), xstart=8, ystart=3)
    ds = image((4, 5), xstart=11, ystart=6)
    assert subarray_slices(ref, ds, "s", "flat") == (slice(3, 7), slice(3, 8))


def test_a_reference_without_corners_fits_if_it_has_the_shape_of_the_exposure():
    ds = image((4, 5), xstart=11, ystart=6)
    assert subarray_slices(np.ones((4, 5)), ds, "s", "flat") == (slice(0, 4), slice(0, 5))


def test_a_full_frame_without_corners_starts_at_one():
    ds = image((4, 5), xstart=11, ystart=6, instrument="MIRI")
    slices = subarray_slices(np.ones((1024, 1032)), ds, "s", "flat")
    assert slices == (slice(5, 9), slice(10, 15))


@pytest.mark.parametrize(
    ("ref", "attrs"),
    [
        (image((20, 30), xstart=1, ystart=1), {"xstart": 28, "ystart": 1}),
        (image((20, 30), xstart=5, ystart=1), {"xstart": 4, "ystart": 1}),
        (image((3, 3), xstart=1, ystart=1), {"xstart": 1, "ystart": 1}),
        (image((7, 7)), {"xstart": 1, "ystart": 1}),
    ],
)
def test_a_reference_that_does_not_cover_the_exposure_is_named_with_both_sizes(ref, attrs):
    ds = image((4, 5), **attrs)
    with pytest.raises(ReferenceError) as error:
        subarray_slices(ref, ds, "flat_field", "flat")
    text = str(error.value)
    assert text.startswith(
        f"flat_field: reference 'flat' is {ref['sci'].shape} but 'sci' is (4, 5)"
    )
    assert "\n" not in text


def test_an_exposure_without_corners_is_refused_where_they_matter():
    ref = image((20, 30), xstart=1, ystart=1)
    with pytest.raises(DatasetError, match="SUBSTRT1"):
        subarray_slices(ref, image((4, 5)), "flat_field", "flat")


def test_a_reference_without_image_is_refused():
    with pytest.raises(ReferenceError, match="needs a 'sci' image, but holds other"):
        subarray_slices(xr.Dataset({"other": ((), 1.0)}), image((4, 5)), "flat_field", "flat")
