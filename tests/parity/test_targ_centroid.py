"""targ_centroid against the peer."""

import pytest
from astropy.io import fits

from spec2fn.io import open_exposure
from spec2fn.refs import open_reference
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.targ_centroid import targ_centroid

pytestmark = pytest.mark.parity


def test_positions_are_the_peers(scenario, allowed):
    folder = scenario("miri_lrs_slit")
    (peer,) = (folder / "steps").glob("*_targ_centroid.fits")
    stem = peer.name.removesuffix("_targ_centroid.fits")
    (crds,) = folder.glob("crds_cache/references/jwst/miri")
    types = ("distortion", "specwcs", "filteroffset")
    refs = {k: open_reference(next(crds.glob(f"*_{k}_*"))) for k in types}
    image = open_exposure(folder / f"{stem}_ta_rate.fits", any_exp_type=True)
    ds = assign_wcs(
        open_exposure(folder / f"{stem}_rate.fits"),
        distortion=refs["distortion"],
        specwcs=refs["specwcs"],
    )
    out = targ_centroid(ds, refs["filteroffset"], refs["distortion"], target_acquisition=(image,))
    header = fits.getheader(peer, "SCI")
    pairs = {
        "ta_xpos": "TA_XPOS",
        "ta_ypos": "TA_YPOS",
        "source_xpos": "SRCXPOS",
        "source_ypos": "SRCYPOS",
    }
    for name, keyword in pairs.items():
        allowed("positions").close(float(out[name]), header[keyword])
