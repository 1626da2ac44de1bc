"""Steps of slitless spectra that whole runs leave out, on the peer's own input to them."""

import numpy as np
import pytest

from spec2fn.calibration import prepare
from spec2fn.engine.pipeline import steps_of
from spec2fn.io import open_product
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.steps.pixel_replace import pixel_replace

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

PLANES = {"sci": "data", "err": "err", "var_poisson": "var_poisson", "var_rnoise": "var_rnoise"}


@pytest.mark.parametrize("algorithm", ["mingrad", "fit_profile"])
@pytest.mark.parametrize("name", ["niriss_wfss", "miri_wfss"])
def test_replaced_pixels(scenario, allowed, name, algorithm):
    from jwst.pixel_replace import PixelReplaceStep
    from stdatamodels.jwst import datamodels

    folder = scenario(name, without=("wfss_contam",))
    (path,) = (folder / "steps").glob("*_cal.fits")
    before = open_product(path)
    ours = pixel_replace(before, algorithm=algorithm)
    changed = 0
    with datamodels.open(path) as model:
        theirs = PixelReplaceStep(skip=False, algorithm=algorithm).run(model)
        assert len(theirs.slits) == len(ours)
        for i, slit in enumerate(theirs.slits):
            mine = ours.slit(i)
            np.testing.assert_array_equal(mine["dq"], slit.dq)
            for plane, native in PLANES.items():
                allowed(algorithm).agree(mine[plane], getattr(slit, native), slit.name, plane)
            changed += int((mine["sci"] != before.slit(i)["sci"]).sum())
    assert changed > 100


def test_sources_of_the_users_own(scenario, crds_cache, allowed):
    from jwst.assign_wcs.util import create_grism_bbox
    from jwst.extract_2d.grisms import extract_grism_objects
    from stdatamodels.jwst import datamodels

    folder = scenario("niriss_wfss", without=("wfss_contam",))
    crds_cache(folder)
    job = prepare(folder / "spec2_asn.json", compatibility="jwst-3.0")
    refs = {name: job.references.get(name) for name in (*assign_wcs.refs, "wavelengthrange")}
    wcs = next(s for s in steps_of(job.settings.pipeline) if s.name == "assign_wcs")
    ds = wcs(job.observation.science.load(), *(refs[r] for r in wcs.refs))
    (path,) = (folder / "steps").glob("*_flat_field.fits")
    given = {"wavelengthrange": str(job.references.path("wavelengthrange"))}
    with datamodels.open(path) as model:
        (catalog,) = folder.glob("*_cat.ecsv")
        model.meta.source_catalog = str(catalog)
        objects = create_grism_bbox(model, given, wfss_extract_half_height=7, nbright=5)
        theirs = extract_grism_objects(model, grism_objects=objects, reference_files=given)
        ours = extract_2d(ds, grism_objects=objects)
        assert ours.names == tuple(slit.name for slit in theirs.slits)
        assert len(ours) >= 5
        for i, slit in enumerate(theirs.slits):
            mine = ours.slit(i)
            names = ("xstart", "ystart", "xsize", "ysize", "source_id")
            assert [int(mine[n]) for n in names] == [getattr(slit, n) for n in names]
            place = (slit.source_xpos, slit.source_ypos, slit.source_ra, slit.source_dec)
            found = [float(mine[f"source_{n}"]) for n in ("xpos", "ypos", "ra", "dec")]
            assert found == [allowed("keywords").approx(v) for v in place]
            allowed("wavelengths").close(mine["wavelength"], slit.wavelength, equal_nan=True)
