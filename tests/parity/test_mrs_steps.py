"""The detector steps of the MRS, each on the peer's own input, and the product they make."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn import calibrate, run
from spec2fn.io import open_exposure, open_product
from spec2fn.pipelines import MIRI_MRS
from spec2fn.refs import open_reference
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.background import background
from spec2fn.steps.badpix_selfcal import badpix_selfcal
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.fringe import fringe
from spec2fn.steps.photom import photom
from spec2fn.steps.srctype import srctype
from spec2fn.steps.straylight import straylight

pytestmark = pytest.mark.parity

PLANES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")
COORDINATES = ("wavelength", "ra", "dec", "slice_id", "alpha", "beta")
PARAMETERS = {
    "badpix_selfcal": {"skip": False},
    "background": {"propagate_variance": False},
    "straylight": {"clean_showers": True},
}


class Case:
    """A scenario: exposures, references, and the peer's output of every step."""

    def __init__(self, folder):
        self.folder = folder
        (peer,) = (folder / "steps").glob("*_00001_*_assign_wcs.fits")
        self.stem = peer.name.removesuffix("_assign_wcs.fits")
        self.science = open_exposure(folder / f"{self.stem}_rate.fits")
        self.other = open_exposure(folder / f"{self.stem.replace('_00001_', '_00002_')}_rate.fits")
        kinds = ("distortion", "regions", "specwcs", "wavelengthrange")
        self.located = assign_wcs(self.science, **{k: self.reference(k) for k in kinds})

    def reference(self, kind):
        crds = self.folder / "crds_cache" / "references" / "jwst" / "miri"
        return open_reference(next(crds.glob(f"*_{kind}_*")), kind)

    def after(self, kind):
        """The peer's exposure after a step, with our coordinates."""
        found = open_product(self.folder / "steps" / f"{self.stem}_{kind}.fits")
        return found.assign({name: self.located[name] for name in COORDINATES})


@pytest.fixture(scope="module", params=["miri_mrs_12short", "miri_mrs_34long"])
def case(request, scenario):
    return Case(scenario(request.param))


@pytest.fixture
def same(allowed):
    def check(ours, theirs, row):
        np.testing.assert_array_equal(ours["dq"], theirs["dq"])
        for name in PLANES:
            assert (name in ours) == (name in theirs), name
            if name in theirs:
                allowed(row).agree(ours[name], theirs[name], name)
                assert str(ours[name].dtype) == "float32"

    return check


def test_badpix_selfcal_and_background(case, same):
    plan = badpix_selfcal.plan(case.located, background=(case.other,))
    flagged = badpix_selfcal(case.located, plan=plan)
    same(flagged, case.after("badpix_selfcal"), "steps")
    other = badpix_selfcal(case.other, plan=plan)
    done = background(flagged, background=(other,), propagate_variance=False)
    same(done, case.after("bsub"), "steps")


def test_srctype(case):
    assert srctype(case.after("bsub")).attrs["source_type"] == case.after("srctype").source_type


def test_straylight(case, same):
    refs = (case.reference("mrsxartcorr"), case.reference("regions"))
    done = straylight(case.after("srctype"), *refs, clean_showers=True)
    same(done, case.after("straylight"), "straylight")


def test_straylight_without_showers(case, allowed):
    from jwst.straylight.straylight import correct_xartifact
    from stdatamodels.jwst import datamodels

    if "34long" in case.folder.name:
        pytest.skip("one exposure will do: the peer takes half a minute")
    before = case.after("srctype")
    table = case.reference("mrsxartcorr").attrs["path"]
    with (
        datamodels.open(case.folder / "steps" / f"{case.stem}_srctype.fits") as model,
        datamodels.MirMrsXArtCorrModel(table) as artifact,
    ):
        theirs = correct_xartifact(model.copy(), artifact).data
    ours = straylight(before, case.reference("mrsxartcorr"))["sci"]
    allowed("cross_artifact").agree(ours, theirs)
    # the correction itself, not only the large image it is small in
    allowed("cross_artifact_alone").agree(before["sci"] - ours, before["sci"] - theirs)


def test_flat_field(case, same):
    done = flat_field(case.after("straylight"), case.reference("flat"))
    same(done, case.after("flat_field"), "steps")


def test_fringe(case, same):
    same(fringe(case.after("flat_field"), case.reference("fringe")), case.after("fringe"), "steps")


def test_photom(case, same, allowed):
    done, theirs = photom(case.after("fringe"), case.reference("photom")), case.after("photom")
    same(done, theirs, "steps")
    assert done["sci"].attrs["units"] == theirs["sci"].attrs["units"] == "MJy/sr"
    meta = theirs.attrs["meta"]
    for name, keyword in {
        "photmjsr": "PHOTMJSR",
        "photuja2": "PHOTUJA2",
        "pixar_sr": "PIXAR_SR",
        "pixar_a2": "PIXAR_A2",
    }.items():
        assert float(done[name]) == allowed("keywords").approx(meta.get(keyword))


def test_without_the_time_dependence(case, crds_cache, allowed):
    from jwst.photom import PhotomStep

    crds_cache(case.folder)
    path = str(case.folder / "steps" / f"{case.stem}_fringe.fits")
    # named, since the CRDS client remembers the references of the first scenario
    named = case.reference("photom").attrs["path"]
    theirs = PhotomStep.call(path, apply_time_correction=False, override_photom=named)
    ours = photom(case.after("fringe"), case.reference("photom"), apply_time_correction=False)
    allowed("photom").close(ours["sci"], theirs.data)
    np.testing.assert_array_equal(ours["dq"], theirs.dq)


# keywords that differ for a reason: other software, other time
OURS = {"CAL_VER", "CAL_VCS", "DATE", "FILENAME", "ASNPOOL", "ASNTABLE", "S_RESFRI", "R_FRIFRQ"}


def test_the_exposure_before_residual_fringes_as_a_product(
    case, same, allowed, crds_cache, tmp_path
):
    crds_cache(case.folder)
    params = PARAMETERS | {"residual_fringe": {"skip": True}}
    calibrate(
        case.folder / "spec2_asn.json",
        params=params,
        output_dir=tmp_path,
        pipeline=MIRI_MRS[: [getattr(e, "kind", "") for e in MIRI_MRS].index("cal") + 1],
    )
    path = tmp_path / f"{case.stem}_cal.fits"
    same(open_product(path), case.after("photom"), "calibrated")
    with (
        fits.open(path) as ours,
        fits.open(case.folder / "steps" / f"{case.stem}_photom.fits") as theirs,
    ):
        names = [hdu.name for hdu in ours if hdu.name != "SPEC2FN"]
        assert names == [hdu.name for hdu in theirs]
        for a, b in zip(ours[:2], theirs[:2], strict=True):
            for keyword in set(b.header) - OURS - {"", "COMMENT"}:
                found, wanted = a.header.get(keyword), b.header[keyword]
                if isinstance(wanted, float):
                    assert found == allowed("keywords").approx(wanted), keyword
                else:
                    assert found == wanted, keyword


def test_the_peer_reads_the_product(case, crds_cache, tmp_path):
    from stdatamodels.jwst import datamodels

    crds_cache(case.folder)
    calibrate(
        case.folder / f"{case.stem}_rate.fits",
        params={"straylight": {"skip": True}, "residual_fringe": {"skip": True}},
        output_dir=tmp_path,
        pipeline=MIRI_MRS[: [getattr(e, "kind", "") for e in MIRI_MRS].index("cal") + 1],
    )
    with (
        datamodels.open(tmp_path / f"{case.stem}_cal.fits") as ours,
        datamodels.open(case.folder / "steps" / f"{case.stem}_photom.fits") as theirs,
    ):
        assert type(ours) is type(theirs)
        x, y = np.meshgrid(np.arange(0.0, 1032, 5), np.arange(0.0, 1024, 61))
        for a, b in zip(ours.meta.wcs(x, y), theirs.meta.wcs(x, y), strict=True):
            np.testing.assert_array_equal(a, b)


def test_integrations_are_calibrated_as_single_exposures(case, allowed):
    kinds = ("distortion", "regions", "specwcs", "wavelengthrange")
    kinds += ("mrsxartcorr", "flat", "fringe", "photom")
    refs = {kind: case.reference(kind) for kind in kinds}
    cut = [getattr(e, "kind", "") for e in MIRI_MRS].index("cal")
    params = {"straylight": {"clean_showers": True}, "residual_fringe": {"skip": True}}
    singles = [case.science, case.other]
    planes = [name for name in (*PLANES, "dq") if name in case.science]
    series = case.science.drop_vars(planes).assign(
        {
            name: (("integration", "y", "x"), np.stack([s[name].values for s in singles]))
            for name in planes
        }
    )
    series.attrs["model"] = "CubeModel"
    done = run(MIRI_MRS[:cut], series, refs, params=params).dataset
    assert done["sci"].dims == ("integration", "y", "x")
    for k, one in enumerate(singles):
        single = run(MIRI_MRS[:cut], one, refs, params=params).dataset
        for name in (*PLANES, "dq"):
            allowed("integrations").agree(done[name][k], single[name], name)
