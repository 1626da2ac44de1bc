"""S_REGION of resampled slits, exposures and cubes."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from spec2fn.wcs.cube_grid import CubeGrid
from spec2fn.wcs.cube_wcs import footprint
from spec2fn.wcs.evaluate import sample_slit
from spec2fn.wcs.s_region import box_region, polygon, slit_region
from spec2fn.wcs.tangent_grid import build_tangent_plane
from tests.wcs.test_tangent_grid import SCALE, slit_wcs


def test_slit_region():
    wcs = slit_wcs(angle=30)
    out = build_tangent_plane(sample_slit(wcs), 2, 1.0, descending=True)
    width, length = 0.5, 4.0
    centre = SkyCoord(10.0, 5.0, unit="deg")
    corners = []
    for w, s in ((1, 1), (1, -1), (-1, -1), (-1, 1)):
        c = centre.spherical_offsets_by(w * width / 2 * centre.ra.unit / 3600, 0 * centre.ra.unit)
        corners += [c.ra.deg, c.dec.deg + s * length / 2 / 3600]
    region = "POLYGON ICRS  " + " ".join(f"{v:.9f}" for v in corners)
    found = np.array(slit_region(region, out).split()[2:], dtype=float).reshape(4, 2)
    sky = SkyCoord(found, unit="deg")
    sides = [sky[k].separation(sky[(k + 1) % 4]).arcsec for k in range(4)]
    assert min(sides) == pytest.approx(width, rel=1e-3)
    assert max(sides) == pytest.approx(SCALE * (out.array_shape[1] - 1), rel=1e-3)
    assert slit_region("UNKNOWN", out) is None


def corners(region):
    return np.array(region.split()[2:], dtype=float).reshape(4, 2)


@pytest.mark.parametrize("ra", [0.0, 120.0])
def test_footprint_of_a_cube_wherever_it_lies(ra):
    grid = CubeGrid((ra, -60.0), (6.0, 4.0), (0.5, 0.5), 0.0, (7, 11), (-2.5, -1.5))
    found = corners(footprint(grid))
    east = (found[:, 0] - ra + 180) % 360 - 180
    np.testing.assert_allclose(3600 * east, [-5, -5, 5, 5], rtol=1e-4)
    np.testing.assert_allclose(3600 * (found[:, 1] + 60), [-1.5, 1.5, 1.5, -1.5], rtol=1e-3)


def test_box_around_positions_on_both_sides_of_the_meridian():
    ra, dec = np.array([359.5, np.nan, 0.25, 0.0]), np.array([1.0, np.nan, -2.0, 3.0])
    np.testing.assert_allclose(
        corners(box_region(ra, dec)), [(359.5, -2), (0.25, -2), (0.25, 3), (359.5, 3)]
    )
    assert box_region(ra[1:2], dec[1:2]) is None
    assert polygon(ra, dec) is None
