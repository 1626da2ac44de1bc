"""Output grids of resampled slits."""

import numpy as np
import pytest
from astropy.coordinates import ICRS
from astropy.modeling.models import Mapping, Polynomial2D
from gwcs import WCS
from gwcs import coordinate_frames as cf

from spec2fn.wcs.evaluate import evaluate, is_celestial, pixel_size_deg, sample_slit
from spec2fn.wcs.tangent_grid import build_tangent_plane

SCALE = 0.11  # arcsec


def slit_wcs(ra=10.0, dec=5.0, angle=20.0, dispaxis=2, sky=True):
    """A slit of 21 x 60 pixels at (30, 100), a little curved and tilted in wavelength."""
    across, along = ("y", "x") if dispaxis == 1 else ("x", "y")
    names = {"x": "c1_0", "y": "c0_1"}
    c, s = SCALE / 3600 * np.cos(np.deg2rad(angle)), SCALE / 3600 * np.sin(np.deg2rad(angle))
    c /= np.cos(np.deg2rad(dec))
    zero = {"x": 40 if dispaxis == 2 else 130, "y": 130 if dispaxis == 2 else 40}

    def plane(value, across_slope, along_slope, bend=0.0):
        slopes = {across: across_slope, along: along_slope}
        constant = value - sum(slopes[k] * zero[k] for k in slopes) + bend * zero[along] ** 2
        square = {"x": "c2_0", "y": "c0_2"}[along]
        coefficients = {names[k]: v for k, v in slopes.items()} | {"c0_0": constant, square: bend}
        coefficients[names[along]] -= 2 * bend * zero[along]
        return Polynomial2D(2, **coefficients)

    transform = Mapping((0, 1, 0, 1, 0, 1)) | (
        plane(ra, c, 0.02 * c) & plane(dec, s, 0.02 * s) & plane(9.0, 4e-4, -0.02, 2e-5)
    )
    spectral = cf.SpectralFrame(axes_order=(2,), unit=("um",), name="spectral")
    if sky:
        first = cf.CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=ICRS())
    else:
        first = cf.Frame2D(name="msa", axes_order=(0, 1))
    world = cf.CompositeFrame([first, spectral], name="world")
    out = WCS([(cf.Frame2D(name="detector"), transform), (world, None)])
    box = ((29.5, 50.5), (99.8, 160.3))
    out.bounding_box = box if dispaxis == 2 else box[::-1]
    return out


@pytest.mark.parametrize("dispaxis", [1, 2])
@pytest.mark.parametrize("angle", [0, 20, 90, 200])
def test_grid_is_straight_and_invertible(dispaxis, angle):
    wcs = slit_wcs(angle=angle, dispaxis=dispaxis)
    out = build_tangent_plane(sample_slit(wcs), dispaxis, 1.0, descending=dispaxis == 2)
    n_wave, n_slit = out.array_shape if dispaxis == 2 else out.array_shape[::-1]
    assert (n_wave, n_slit) == (61, 22) or (n_wave, n_slit) == (61, 21)
    y, x = np.indices(out.array_shape, dtype=float)
    ra, dec, wave = out(x, y)
    back = out.invert(ra, dec, wave, with_bounding_box=False)
    np.testing.assert_allclose(back[0], x, atol=1e-6)
    np.testing.assert_allclose(back[1], y, atol=1e-6)
    mine = evaluate(out, ra, dec, wave, inverse=True)
    np.testing.assert_allclose(mine[0], x, atol=1e-6)
    np.testing.assert_allclose(mine[1], y, atol=1e-6)
    along = wave[:, 0] if dispaxis == 2 else wave[0]
    assert np.all(np.diff(along) < 0) if dispaxis == 2 else np.all(np.diff(along) > 0)
    assert np.ptp(wave, axis=1 if dispaxis == 2 else 0).max() == 0
    np.testing.assert_allclose(pixel_size_deg(out, dispaxis) * 3600, SCALE, rtol=1e-4)
    np.testing.assert_allclose(pixel_size_deg(wcs, dispaxis) * 3600, SCALE, rtol=1e-4)


def test_pixel_scale_ratio():
    samples = sample_slit(slit_wcs())
    one = build_tangent_plane(samples, 2, 1.0, descending=True)
    fine = build_tangent_plane(samples, 2, 2.0, descending=True)
    np.testing.assert_allclose(pixel_size_deg(one, 2), 2 * pixel_size_deg(fine, 2), rtol=1e-6)
    assert abs(fine.array_shape[1] - 2 * one.array_shape[1]) <= 1


def test_slit_across_zero_hours():
    away = build_tangent_plane(sample_slit(slit_wcs(ra=180.0)), 2, 1.0, descending=True)
    wcs = slit_wcs(ra=0.0)
    wrapped = WCS([(wcs.pipeline[0].frame, wcs.pipeline[0].transform), (wcs.output_frame, None)])
    wrapped.bounding_box = wcs.bounding_box
    samples = sample_slit(wrapped)
    object.__setattr__(samples, "ra", samples.ra % 360)
    near = build_tangent_plane(samples, 2, 1.0, descending=True)
    assert near.array_shape == away.array_shape
    a, b = near(5.0, 10.0), away(5.0, 10.0)
    np.testing.assert_allclose((a[0] + 180) % 360, b[0] % 360, atol=1e-9)
    np.testing.assert_allclose(a[1:], b[1:], rtol=1e-12)


def test_nothing_to_build_from():
    wcs = slit_wcs()
    wcs.bounding_box = ((29.5, 50.5), (99.8, 100.1))
    assert build_tangent_plane(sample_slit(wcs), 2, 1.0, descending=True) is None
    wcs.bounding_box = ((29.8, 30.1), (99.8, 140.1))
    assert build_tangent_plane(sample_slit(wcs), 2, 1.0, descending=True) is None


def test_is_celestial():
    assert is_celestial(slit_wcs())
    assert not is_celestial(slit_wcs(sky=False))
