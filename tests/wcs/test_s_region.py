"""S_REGION of resampled slits."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from spec2fn.wcs.evaluate import sample_slit
from spec2fn.wcs.s_region import slit_region
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
