"""World coordinates of every mode: from drawn pixels to the sky, and back."""

import functools

import numpy as np
import pytest
from hypothesis import assume, given

from spec2fn.schema import meta_of
from spec2fn.testing import exposures, nirspec_modes, slitless, strategies
from spec2fn.testing.strategies import numbers

GWCS = {
    # all that is inverted in closed form
    "MIR_LRS-FIXEDSLIT": 1e-6,
    "MIR_LRS-SLITLESS": 1e-6,
    "MIR_MRS": 1e-6,
    # the way behind the slicer depends on the wavelength, which the inverse of the instrument's
    # model leaves out
    "NRS_IFU": 0.01,
}
SLITS = nirspec_modes.SLIT_TYPES
GRISMS = slitless.EXP_TYPES
POINTS = 12


def fractions(*shape):
    """Places between one end of a side and the other."""
    return numbers((2, *shape), 0.0, 1.0, step=1 / 256)


@functools.cache
def assigned(exp_type):
    return exposures.step_input("assign_wcs", exp_type)()


def test_every_mode_is_here():
    # all light of SOSS comes from the place of the target: there is no way back
    assert {*GWCS, *SLITS, *GRISMS, exposures.SOSS} == set(exposures.EXP_TYPES)


@functools.cache
def lit(exp_type):
    """Pixels (x, y) that have a wavelength."""
    wave = np.asarray(assigned(exp_type)["wavelength"].data)
    return np.stack(np.nonzero(np.isfinite(wave))[::-1]).astype(float)


@pytest.mark.parametrize("exp_type", GWCS)
def test_from_the_detector_to_the_sky_and_back(exp_type):
    wcs = meta_of(assigned(exp_type)).wcs
    pixels = lit(exp_type)

    @strategies.share(0.05, shrink=True)
    @given(numbers((POINTS,), 0.0, 1.0, step=1 / 4096))
    def check(which):
        x, y = pixels[:, np.rint(which * (pixels.shape[1] - 1)).astype(int)]
        world = wcs(x, y)
        good = np.isfinite(world[-1])
        assume(good.any())
        back = wcs.invert(*(np.asarray(w)[good] for w in world), with_bounding_box=False)
        for there, here in zip(back, (x, y), strict=True):
            np.testing.assert_allclose(there, here[good], rtol=0, atol=GWCS[exp_type])

    check()


@pytest.mark.parametrize("exp_type", SLITS)
def test_from_a_slit_to_the_sky_and_back(exp_type):
    wcs = meta_of(assigned(exp_type)).wcs

    @strategies.share(0.1, shrink=True)
    @given(fractions(POINTS))
    def check(place):
        for slit in wcs:
            (x0, x1), (y0, y1) = wcs.boxes[slit]
            width, height = x1 - x0, y1 - y0
            x, y = place[0] * width, place[1] * height
            world = wcs[slit](x, y)
            good = np.isfinite(world[2])
            back = wcs.pixel(slit, *(w[good] for w in world))
            for there, here in zip(back, (x, y), strict=True):
                # Newton's method ends when it moves by less than a thousandth of a pixel
                np.testing.assert_allclose(there, here[good], rtol=0, atol=1e-3)

    check()


@pytest.mark.parametrize("exp_type", GRISMS)
def test_from_the_direct_image_to_the_sky_and_back(exp_type):
    geometry = meta_of(assigned(exp_type)).wcs.geometry

    @given(numbers((2, POINTS), -500.0, 2500.0, step=1 / 16))
    def check(place):
        world = geometry.detector_to_world(*place)
        np.testing.assert_allclose(geometry.world_to_detector(*world), place, rtol=0, atol=1e-6)

    check()


@pytest.mark.parametrize("exp_type", GRISMS)
def test_from_a_wavelength_to_its_pixel_and_back(exp_type):
    geometry = meta_of(assigned(exp_type)).wcs.geometry

    @given(numbers((2, POINTS), 0.0, 2047.0, step=1 / 16), fractions(POINTS))
    def check(place, share):
        for order in geometry.orders:
            wave = 0.8 + 1.4 * share[0]
            pixel = geometry.disperse(*place, wave, order)
            again = geometry.wavelength(*pixel, *place, order)
            seen = np.isfinite(again)
            there = geometry.disperse(*(p[seen] for p in place), again[seen], order)
            for a, b in zip(there, pixel, strict=True):
                np.testing.assert_allclose(a, np.asarray(b)[seen], rtol=0, atol=1e-8)

    check()
