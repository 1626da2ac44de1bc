import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spec2fn.host.interpolation import locate
from spec2fn.kernels.photometry import interpolate_planned


@given(st.lists(st.floats(4.0, 13.0) | st.just(float("nan")), min_size=1, max_size=20))
def test_located_pixels_interpolate_as_numpy_does(values):
    table = np.array([5.0, 6.5, 7.0, 12.0])
    response = np.array([1.0, 4.0, -2.0, 0.5])
    wave = np.array([values])
    index, fraction, covered = locate(wave, table)
    expected = np.interp(wave, table, response, left=np.nan, right=np.nan)
    np.testing.assert_array_equal(covered, np.isfinite(expected))
    got = interpolate_planned(response, index, fraction)
    np.testing.assert_allclose(got[covered], expected[covered], rtol=1e-12, atol=1e-12)


def test_ends_of_the_table():
    table = np.array([5.0, 6.0, 7.0], np.float32)
    wave = np.array([[5.0, 7.0, np.nextafter(5.0, 4.0), 7.0 + 1e-9]])
    index, fraction, covered = locate(wave, table)
    # differences below the precision of the table do not count
    np.testing.assert_array_equal(covered, [[True, True, True, True]])
    np.testing.assert_array_equal(index, [[0, 1, 0, 1]])
    np.testing.assert_array_equal(fraction, [[0, 1, 0, 1]])
    assert not locate(wave, table, include_first=False)[2][0, 0]
