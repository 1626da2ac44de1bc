"""A small exposure of two overlapping orders and a third, for tests of ATOCA."""

import numpy as np

from spec2fn.host.atoca import DetectorOrder
from spec2fn.host.atoca_kernel import SpectralKernel

ROWS, COLUMNS = 60, 160
SETTINGS = {"separation": (1.0, 1.25), "oversampling": 2, "grid_size": 3000, "rtol": 1e-3}


def spectral_kernel():
    half, fine, wave = 5, 10, np.linspace(0.5, 3.2, 30)
    taps = fine * 2 * half + 1
    places = np.linspace(-half, half, taps)
    values = np.exp(-0.5 * (places[:, None] / (0.7 + 0.1 * wave)) ** 2)
    values = np.maximum(values / values.sum(axis=0), 1e-8)
    return SpectralKernel(2 * half + 1, np.tile(wave, (taps, 1)), values)


def flux(wave):
    line = 0.3 * np.exp(-0.5 * ((wave - 1.6) / 0.02) ** 2)
    return 2000.0 * wave**-1.2 * (1 - line)


def orders(profiles=None):
    x = np.arange(COLUMNS)
    waves = [2.8 - 0.011 * x - 2e-6 * x**2, 1.47 - 0.0045 * x, 0.95 - 0.0028 * x]
    centres = [20 + 0.02 * x, 27 + 0.10 * x, 33 + 0.16 * x]
    peaks = [(1.7, 0.7, 1.0), (1.1, 0.4, 0.5), (0.75, 0.3, 0.2)]
    y = np.arange(ROWS)[:, None]
    out = []
    for i, (wave, centre, (peak, width, top)) in enumerate(zip(waves, centres, peaks, strict=True)):
        profile = np.exp(-0.5 * ((y - centre) / 3.0) ** 2) + 1e-4 * np.exp(-abs(y - centre) / 8)
        profile /= profile.sum(axis=0)
        if profiles is not None:
            profile = profiles[i]
        aperture = np.clip(8.5 - abs(y - centre), 0.0, 1.0)
        table = np.linspace(0.4, 3.3, 400)
        throughput = top * np.exp(-0.5 * ((table - peak) / width) ** 2)
        out.append(
            DetectorOrder(
                wave,
                np.where(x < COLUMNS - 10 * i, wave, np.nan),
                profile,
                aperture,
                np.array([table, throughput]),
                spectral_kernel(),
            )
        )
    return out
