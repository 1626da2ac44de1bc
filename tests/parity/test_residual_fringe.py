"""Residual fringes of MRS exposures and spectra against the peer."""

import importlib

import numpy as np
import pytest

from spec2fn.plans.residual_fringe_1d import correct_fringes_1d

BANDS = {1: (4.9, 5.74, 0.0008), 2: (7.51, 8.77, 0.0013), 3: (11.55, 13.47, 0.0025)}
BANDS[4] = (17.7, 20.95, 0.006)


@pytest.fixture(scope="module")
def peer(peerbench):
    return importlib.import_module("jwst.residual_fringe.utils")


def spectrum(channel, noise, seed):
    rng = np.random.default_rng(seed)
    wave = np.arange(*BANDS[channel])
    turns = 2 * np.pi * 1e4 / wave
    fringes = 0.03 * np.cos(turns / 2.8 + 0.3) + 0.015 * np.cos(turns / 2.65)
    if channel > 2:
        fringes += 0.02 * np.cos(turns / 0.42)
    flux = (1 + 0.3 * np.sin(wave)) * (1 + fringes) + noise * rng.normal(size=wave.size)
    flux[100:103] *= 1.5
    flux[200], flux[50] = np.nan, -1.0
    return wave, flux


@pytest.mark.parametrize("channel", [1, 2, 3, 4])
@pytest.mark.parametrize("noise", [0.002, 0.02])
def test_spectra(peer, channel, noise):
    wave, flux = spectrum(channel, noise, seed=channel)
    expected = peer.fit_residual_fringes_1d(flux.copy(), wave.copy(), channel=channel)
    out = correct_fringes_1d(wave, flux, channel)
    assert sum(out.number) > 0
    np.testing.assert_allclose(out.flux, expected, rtol=1e-8)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_features": False, "max_line": 0.2},
        {"clip_sigma": 3.0, "max_amp": 0.05},
        {"ignore_regions": [[12.0, 12.2]]},
        {"dichroic_only": True},
    ],
)
def test_options_of_spectra(peer, options):
    wave, flux = spectrum(3, 0.005, seed=0)
    expected = peer.fit_residual_fringes_1d(flux.copy(), wave.copy(), channel=3, **options)
    out = correct_fringes_1d(wave, flux, 3, **options)
    np.testing.assert_allclose(out.flux, expected, rtol=1e-8)
    assert not np.array_equal(out.flux, flux)


def test_several_channels_in_one_spectrum(peer):
    parts = [spectrum(channel, 0.005, seed=0) for channel in (1, 2)]
    wave, flux = (np.concatenate(p) for p in zip(*parts, strict=True))
    expected = peer.fit_residual_fringes_1d(flux.copy(), wave.copy(), channel="")
    np.testing.assert_allclose(correct_fringes_1d(wave, flux, None).flux, expected, rtol=1e-4)
