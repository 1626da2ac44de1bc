import numpy as np
import pytest

from spec2fn.errors import ParameterError
from spec2fn.host.fringes_1d import correct_fringes_1d


def spectrum(channel, noise=0.001, seed=0):
    low, high, n = {1: (4.9, 5.74, 1050), 3: (11.55, 13.47, 770)}[channel]
    wave = np.linspace(low, high, n)
    wavenumber = 1e4 / wave
    smooth = 1.0 + 0.3 * np.sin(wave)
    fringes = 0.03 * np.cos(2 * np.pi * wavenumber / 2.8 + 0.3)
    if channel == 3:
        fringes += 0.02 * np.cos(2 * np.pi * wavenumber / 0.42)
    rng = np.random.default_rng(seed)
    return wave, smooth, smooth * (1 + fringes) + noise * rng.normal(size=n)


@pytest.mark.parametrize("channel", [1, 3])
def test_fringes_are_removed(channel):
    wave, smooth, flux = spectrum(channel)
    out = correct_fringes_1d(wave, flux, channel)
    before, after = np.std(flux / smooth - 1), np.std(out.flux / smooth - 1)
    assert after < 0.2 * before
    assert not out.skipped
    assert all(out.number)
    np.testing.assert_allclose(out.flux, flux * out.factor)


def test_a_line_keeps_its_flux():
    wave, smooth, flux = spectrum(1)
    line = 0.8 * np.exp(-0.5 * ((wave - 5.3) / 0.002) ** 2)
    out = correct_fringes_1d(wave, flux + line, 1)
    near = np.abs(wave - 5.3) < 0.008
    recovered = (out.flux - smooth)[near].sum()
    assert recovered == pytest.approx(line[near].sum(), rel=0.02)


def test_unusable_pixels_stay_as_they_are():
    wave, _, flux = spectrum(1)
    flux[[5, 100]], flux[200], flux[300] = np.nan, -1.0, 0.0
    out = correct_fringes_1d(wave, flux, 1)
    bad = [5, 100, 200, 300]
    np.testing.assert_array_equal(out.flux[bad], flux[bad])
    assert np.isfinite(np.delete(out.flux, bad)).all()
    assert (out.factor[bad] == 1.0).all()


def test_brightness_does_not_matter():
    wave, _, flux = spectrum(1)
    one, bright = (correct_fringes_1d(wave, k * flux, 1).flux for k in (1.0, 1024.0))
    np.testing.assert_allclose(bright, 1024.0 * one, rtol=1e-9)


def test_ignored_regions_do_not_steer_the_fit():
    wave, smooth, flux = spectrum(1)
    hump = 0.2 * np.cos(2 * np.pi * 1e4 / wave / 2.0) * (wave > 5.5)
    kept = wave < 5.45
    with_hump = correct_fringes_1d(wave, flux + hump, 1)
    without = correct_fringes_1d(wave, flux + hump, 1, ignore_regions=[(5.5, 6.0)])
    error = [np.std((o.flux / smooth - 1)[kept]) for o in (with_hump, without)]
    assert error[1] < error[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w, f: (w, -f), "positive"),
        (lambda w, f: (w[:20], f[:20]), "shorter"),
        (lambda w, f: (w[::-1], f), "increase"),
    ],
)
def test_spectra_without_correction_say_why(change, reason):
    wave, _, flux = spectrum(1)
    wave, flux = change(wave, flux)
    out = correct_fringes_1d(wave, flux, 1)
    assert reason in out.skipped
    np.testing.assert_array_equal(out.flux, flux)


def test_everything_ignored():
    wave, _, flux = spectrum(1)
    out = correct_fringes_1d(wave, flux, 1, ignore_regions=[(0.0, 30.0)])
    assert "left out" in out.skipped
    np.testing.assert_array_equal(out.flux, flux)


def test_dichroic_fringes_alone():
    wave, smooth, flux = spectrum(3)
    out = correct_fringes_1d(wave, flux, 3, dichroic_only=True)
    assert len(out.number) == 1
    assert np.std(out.flux / smooth) < np.std(flux / smooth)
    with pytest.raises(ParameterError, match="channel 3 or 4"):
        correct_fringes_1d(wave, flux, 1, dichroic_only=True)
