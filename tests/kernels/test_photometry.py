import numpy as np
import pytest

from spec2fn.kernels import photometry


def test_interpolate_planned_is_linear_interpolation():
    table = np.array([1.0, 3.0, 2.0], np.float32)
    index = np.array([[0, 1], [1, 0]], np.int32)
    fraction = np.array([[0.0, 1.0], [0.5, 0.25]])
    np.testing.assert_allclose(
        photometry.interpolate_planned(table, index, fraction), [[1.0, 2.0], [2.5, 1.5]]
    )


def test_changes_of_throughput_have_their_defining_values():
    t0 = 59700.0
    assert photometry.linear_change(t0, t0, 0.1) == 1.0
    assert photometry.linear_change(t0 + 365, t0, 0.1) == pytest.approx(0.9)
    assert photometry.exponential_change(t0, t0, 0.2, 50.0, 0.8) == pytest.approx(1.0)
    assert photometry.exponential_change(t0 + 1e6, t0, 0.2, 50.0, 0.8) == pytest.approx(0.8)
    assert photometry.power_law_change(t0 + 365, t0, 0.93, 10.0, -0.1) == pytest.approx(0.93)
    ratio = photometry.power_law_change(t0 + 740, t0, 1.0, 10.0, -0.1)
    assert ratio == pytest.approx((750 / 375) ** -0.1)
