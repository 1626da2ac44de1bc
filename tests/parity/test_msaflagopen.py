"""msaflagopen against the peer."""

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.io import open_exposure
from spec2fn.refs import open_reference
from spec2fn.steps.msaflagopen import msaflagopen

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", ["nrs_mos_prism", "nrs_mos_g395m"])
def test_flags_are_the_peers(scenario, name):
    folder = scenario(name)
    (peer,) = (folder / "steps").glob("*_msa_flagging.fits")
    (path,) = folder.glob(f"{peer.name.removesuffix('_msa_flagging.fits')}_rate.fits")
    crds = folder / "crds_cache/references/jwst/nirspec"
    refs = {k: open_reference(next(crds.glob(f"*_{k}_*"))) for k in msaflagopen.refs}
    out = msaflagopen(open_exposure(path).load(), **refs)
    theirs = open_exposure(peer).load()
    assert (theirs["dq"].values & PIXEL["MSA_FAILED_OPEN"]).any()
    np.testing.assert_array_equal(out["dq"], theirs["dq"])
    np.testing.assert_array_equal(out["sci"], theirs["sci"])
