"""Products of slitless exposures, from files in memory to files."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.calibration import calibrate
from spec2fn.engine.pipeline import Observation, steps_of
from spec2fn.errors import InputError
from spec2fn.io import open_product
from spec2fn.testing import exposures


def calibrated(exp_type, folder, observation=None, **how):
    refs = exposures.references(exp_type)
    electrons = how.get("save_wfss_esec", False)
    steps = [s for s in steps_of(exposures.pipeline(exp_type)) if electrons or not s.skip]
    types = {r for s in steps for r in s.refs}
    return calibrate(
        observation or exposures.observation(exp_type),
        folder,
        overrides={t: refs.get(t) for t in types},
        parameter_references=False,
        **how,
    )


@pytest.mark.parametrize("exp_type", ["NIS_WFSS", "MIR_WFSS"])
@pytest.mark.parametrize("file_format", ["fits", "netcdf"])
def test_everything_is_written(exp_type, file_format, tmp_path):
    done = calibrated(
        exp_type, tmp_path, save_bsub=True, save_wfss_esec=True, file_format=file_format
    )
    assert set(done.files) == {"bsub", "cal", "x1d", "esec"}
    opened = {kind: open_product(path) for kind, path in done.files.items()}
    np.testing.assert_allclose(opened["esec"]["sci"], done.saved["esec"]["sci"], rtol=1e-6)
    assert opened["cal"].names == done.products["cal"].names
    orders = done.products["cal"].variable("spectral_order")
    assert opened["cal"].variable("spectral_order").tolist() == orders.tolist()
    spectra = done.products["x1d"]
    pairs = zip(opened["x1d"]["sourceid"].values, opened["x1d"]["sporder"].values, strict=True)
    assert set(pairs) == set(
        zip(spectra["sourceid"].values, spectra["sporder"].values, strict=True)
    )


def test_electrons_are_written_on_request_only(tmp_path):
    done = calibrated("NIS_WFSS", tmp_path)
    assert set(done.files) == {"cal", "x1d"}


def test_the_background_is_in_the_header(tmp_path):
    done = calibrated("NIS_WFSS", tmp_path, save_bsub=True)
    with fits.open(done.files["bsub"]) as file:
        scale = file[0].header["BKGD_SCL"]
        assert file["MASK"].data.dtype == np.uint32
    assert scale == pytest.approx(0.4, rel=0.02)
    assert fits.getheader(done.files["cal"])["BKGD_SCL"] == scale


def test_a_catalog_is_needed(tmp_path):
    alone = Observation(exposures.exposure("NIS_WFSS"))
    with pytest.raises(InputError, match="no source catalog, needs one"):
        calibrated("NIS_WFSS", tmp_path, alone)
    assert not list(tmp_path.iterdir())
