"""The angle of the pupil wheel from an image."""

import numpy as np
import pytest

from spec2fn.forward import scenes
from spec2fn.forward.niriss import instrument as nis
from spec2fn.forward.niriss.instrument import ORDERS, Strip
from spec2fn.forward.niriss.operator import orders_operator, profiles
from spec2fn.host.trace_position import fit_position, profile_position

STRIP = Strip("SUBSTRIP256", 256, columns=768)
COLUMN = np.arange(768.0)


def traces(wheel):
    """Rows of the orders; NaN where one has left the detector."""
    angle = wheel - nis.WHEEL_COMMANDED
    rows = np.stack([nis.trace(o, COLUMN, 768, angle) for o in ORDERS])
    return np.where(rows < 280, rows, np.nan)


def exposed(wheel, seed=0, shift=0):
    op = orders_operator(STRIP, scenes.NEAR_GRID, wheel=wheel)
    image = np.roll(op(scenes.star(scenes.NEAR_GRID, 0.2)), shift, axis=0)
    error = np.sqrt(np.abs(image) / 16 + 0.25)
    return image + error * np.random.default_rng(seed).standard_normal(image.shape), error


def test_profiles_tell_the_angle_they_were_made_at():
    angle, shift = profile_position(profiles(STRIP, 245.81), traces, 245.7)
    assert angle == pytest.approx(245.81, abs=2e-4)
    assert shift == pytest.approx(0.0, abs=3e-3)


@pytest.mark.parametrize("wheel", [245.60, 245.79, 245.85])
def test_the_angle_comes_back_within_its_error(wheel):
    pulls = []
    for seed in range(5):
        found = fit_position(*exposed(wheel, seed), profiles(STRIP), traces, 245.79)
        assert found.converged
        assert found.angle_error < 5e-4
        pulls.append(((found.angle - wheel) / found.angle_error, found.shift / found.shift_error))
    assert np.abs(np.mean(pulls, axis=0)).max() < 1.5
    assert np.sqrt(np.mean(np.square(pulls))) < 1.6


def test_a_shift_is_told_from_a_turn():
    found = fit_position(*exposed(245.82, shift=1), profiles(STRIP), traces, 245.79)
    assert found.angle == pytest.approx(245.82, abs=1e-3)
    assert found.shift == pytest.approx(1.0, abs=5e-3)


def test_background_and_bad_pixels_do_not_matter():
    image, error = exposed(245.82)
    plain = fit_position(image, error, profiles(STRIP), traces, 245.79)
    rng = np.random.default_rng(5)
    spoiled = image + rng.standard_normal(768)
    spoiled[rng.random(image.shape) < 2e-3] = 1e4
    spoiled[rng.random(image.shape) < 2e-3] = np.nan
    found = fit_position(spoiled, error, profiles(STRIP), traces, 245.79)
    assert found.converged
    assert abs(found.angle - plain.angle) < plain.angle_error
    assert abs(found.shift - plain.shift) < plain.shift_error
    assert found.chi2 == pytest.approx(1.0, abs=0.05)
