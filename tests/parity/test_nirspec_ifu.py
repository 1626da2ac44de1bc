"""NIRSpec IFU against the peer: WCS (also of the ground references), every step, the product."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from spec2fn.calibration import calibrate
from spec2fn.io import open_exposure, open_product
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.photom import photom
from spec2fn.testing import nirspec as toy

pytestmark = pytest.mark.parity

OPTICS = (
    "camera",
    "collimator",
    "disperser",
    "fore",
    "fpa",
    "ifufore",
    "ifuslicer",
    "ifupost",
    "ote",
    "wavelengthrange",
)
SCENARIOS = ["nrs_ifu_g395m", "nrs_ifu_prism", "nrs_ifu_g395h_nrs2"]
FLICKER = {
    "fit_method": "median",
    "background_method": "median",
    "single_mask": True,
    "n_sigma": 2,
    "mask_spectral_regions": False,
}
MADE = ("wavelength", "ra", "dec", "slice_id", "slit_y", "regions")


def crds_of(folder):
    return folder / "crds_cache/references/jwst/nirspec"


def reference(folder, kind):
    return open_reference(min(crds_of(folder).glob(f"*_{kind}_*")))


@pytest.fixture(scope="module")
def assigned(scenario):
    """Our exposure of a scenario after assign_wcs, with the folder of the peer's steps."""
    made = {}

    def get(name):
        if name not in made:
            folder = scenario(name)
            peer = sorted((folder / "steps").glob("*_assign_wcs.fits"))[0]
            stem = peer.name.removesuffix("_assign_wcs.fits")
            refs = {k: reference(folder, k) for k in (*OPTICS, "chromcorr")}
            made[name] = assign_wcs(open_exposure(folder / f"{stem}_rate.fits"), **refs), peer
        return made[name]

    return get


def compare_wcs(ours, theirs, regions, allowed):
    """Compare our exposure with a gwcs of the peer that selects slices."""
    assert np.array_equal(ours["regions"].values, regions)
    wcs = meta_of(ours).wcs
    assert wcs.available_frames == theirs.available_frames
    y, x = (v[::173].astype(float) for v in np.nonzero(regions))
    expected = np.array(theirs(x, y))
    found = np.array(wcs(x, y))
    pixel = (y.astype(int), x.astype(int))
    planes = np.array([ours[n].values[pixel] for n in ("ra", "dec", "wavelength")])
    # relative: the glass of the prism amplifies the rounding of the optics
    allowed("world").close(found, expected)
    allowed("world").close(planes, expected)
    allowed("inverse").close(wcs.invert(*expected), theirs.invert(*expected))
    mine, other = (w.pipeline[1].transform for w in (wcs, theirs))
    assert set(mine.selector) == set(other.selector)
    for number, transform in mine.selector.items():
        box = transform.bounding_box.bounding_box(order="F")
        assert box == other.selector[number].bounding_box.bounding_box(order="F")
        at = regions[pixel] == number
        across, along, wavelength = transform(x[at], y[at])
        for a, b in zip(
            (across, along, wavelength), other.selector[number](x[at], y[at]), strict=True
        ):
            allowed("slicer").close(a, b)
    assert set(mine.label_mapper.inverse.mapper) == set(other.label_mapper.inverse.mapper)


@pytest.mark.parametrize("name", SCENARIOS)
def test_wcs(name, assigned, allowed):
    from astropy.io import fits
    from stdatamodels.jwst import datamodels

    ours, peer = assigned(name)
    with fits.open(peer) as hdus, datamodels.open(peer) as model:
        compare_wcs(ours, model.meta.wcs, hdus["REGIONS"].data, allowed)
        corners = (hdus["SCI"].header["S_REGION"], ours.attrs["s_region"])
    theirs, mine = (np.array(s.split()[2:], dtype=float) for s in corners)
    allowed("footprint").close(mine, theirs)


GROUND = [
    ("G395H", "NRS1", "0035", "0022"),
    ("G395H", "NRS2", "0035", "0022"),
    ("G395M", "NRS1", "0036", "0022"),
    ("G235M", "NRS1", "0037", "0027"),
    ("PRISM", "NRS1", "0034", "0028"),
]


@pytest.mark.parametrize("case", GROUND, ids=lambda c: f"{c[0]}-{c[1]}")
def test_wcs_of_the_ground_references(case, allowed, tmp_path):
    import asdf
    from astropy.modeling.models import Identity
    from jwst.assign_wcs.assign_wcs import load_wcs
    from stdatamodels.jwst import datamodels

    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    crds = Path(folder) / "crds/references/nirspec"
    grating, detector, disperser, fore = case
    paths = {k: max(crds.glob(f"*_{k}_*.asdf")) for k in OPTICS if k != "disperser"}
    paths["disperser"] = crds / f"jwst_nirspec_disperser_{disperser}.asdf"
    paths["fore"] = crds / f"jwst_nirspec_fore_{fore}.asdf"
    # the set has none, and the peer cannot do without
    same = Identity(3)
    same.inverse = Identity(3)
    paths["chromcorr"] = tmp_path / "jwst_nirspec_chromcorr_0001.asdf"
    asdf.AsdfFile({"model": same, "meta": _chromcorr_meta()}).write_to(paths["chromcorr"])

    ds = toy.exposure("NRS_IFU", grating, detector=detector)
    ours = assign_wcs(ds, **{k: open_reference(p) for k, p in paths.items()})
    model = datamodels.IFUImageModel(np.zeros((2048, 2048), np.float32))
    meta = meta_of(ds)
    model.meta.instrument.name = "NIRSPEC"
    model.meta.exposure.type = "NRS_IFU"
    for name, keyword in (
        ("instrument.detector", "DETECTOR"),
        ("instrument.grating", "GRATING"),
        ("instrument.filter", "FILTER"),
        ("instrument.gwa_xtilt", "GWA_XTIL"),
        ("instrument.gwa_ytilt", "GWA_YTIL"),
        ("instrument.gwa_tilt", "GWA_TILT"),
        ("wcsinfo.v2_ref", "V2_REF"),
        ("wcsinfo.v3_ref", "V3_REF"),
        ("wcsinfo.v3yangle", "V3I_YANG"),
        ("wcsinfo.vparity", "VPARITY"),
        ("wcsinfo.roll_ref", "ROLL_REF"),
        ("wcsinfo.ra_ref", "RA_REF"),
        ("wcsinfo.dec_ref", "DEC_REF"),
        ("wcsinfo.velosys", "VELOSYS"),
        ("velocity_aberration.scale_factor", "VA_SCALE"),
    ):
        model[f"meta.{name}"] = meta.get(keyword)
    theirs = load_wcs(model, {k: str(p) for k, p in paths.items()}, [-0.55, 0.55])
    compare_wcs(ours, theirs.meta.wcs, theirs.regions, allowed)


def _chromcorr_meta():
    return {
        "author": "none",
        "description": "no correction",
        "exposure": {"type": "NRS_IFU", "p_exptype": "NRS_IFU|"},
        "instrument": {"name": "NIRSPEC"},
        "pedigree": "GROUND",
        "reftype": "chromcorr",
        "telescope": "JWST",
        "useafter": "2016-01-01T00:00:00",
        "input_units": "deg",
        "output_units": "deg",
        "title": "none",
        "date": "2016-01-01T00:00:00",
    }


STEPS = {
    # what the peer's step was given, and what it made
    "flat_field": (flat_field, ("flat", "fflat", "sflat", "dflat"), "srctype"),
    "pathloss": (pathloss, ("pathloss",), "flat_field"),
    "photom": (photom, ("photom", "area"), "pathloss"),
}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("step_name", STEPS)
def test_step(name, step_name, assigned, allowed):
    step, kinds, before = STEPS[step_name]
    ours, peer = assigned(name)
    folder, stem = peer.parent, peer.name.removesuffix("_assign_wcs.fits")
    given = open_product(folder / f"{stem}_{before}.fits")
    planes = {n: ours[n] for n in MADE if n not in given}
    refs = {
        k: reference(folder.parent, k)
        for k in kinds
        if list(crds_of(folder.parent).glob(f"*_{k}_*"))
    }
    out = step(given.assign(planes), **refs)
    theirs = open_product(folder / f"{stem}_{step_name}.fits")
    assert np.array_equal(out["dq"].values, theirs["dq"].values)
    names = [n for n in theirs.data_vars if theirs[n].dims[-2:] == ("y", "x") and n != "dq"]
    assert {"sci", "err", "var_poisson", "var_rnoise", "var_flat"} <= set(names)
    for plane in names:
        allowed("steps").agree(out[plane].values, theirs[plane].values, plane)


@pytest.mark.parametrize("name", [*SCENARIOS, "nrs_ifu_members"])
def test_calibrated_exposure(name, scenario, crds_cache, tmp_path, allowed):
    from astropy.io import fits

    folder = scenario(name)
    crds_cache(folder)
    steps = json.loads((folder / "scenario.json").read_text())["steps"]
    assert not steps["clean_flicker_noise"]["skip"]
    parameters = {
        "nsclean": {"skip": False, **FLICKER},
        "background": {"propagate_variance": False},
        "imprint": {"propagate_variance": False},
    }
    calibrate(folder / "spec2_asn.json", tmp_path, params=parameters)
    (peer,) = (folder / "peer_out").glob("*_cal.fits")
    with fits.open(peer) as theirs, fits.open(tmp_path / peer.name) as ours:
        names = [h.name for h in theirs[1:]]
        assert [h.name for h in ours[1:] if h.name in names] == names
        for keyword in ("PHOTMJSR", "PHOTUJA2", "PIXAR_SR", "PIXAR_A2", "WAVSTART", "WAVEND"):
            expected = theirs["SCI"].header[keyword]
            assert ours["SCI"].header[keyword] == allowed("keywords").approx(expected), keyword
        for keyword in ("BUNIT", "SRCTYPE", "DISPAXIS", "SPORDER", "SPECSYS"):
            assert ours["SCI"].header[keyword] == theirs["SCI"].header[keyword], keyword
        assert ours["PRIMARY"].header["DATAMODL"] == theirs["PRIMARY"].header["DATAMODL"]
        for hdu in theirs[1:]:
            if hdu.name in ("DQ", "REGIONS"):
                assert np.array_equal(ours[hdu.name].data, hdu.data), hdu.name
            elif hdu.name != "ASDF":
                allowed("calibrated").agree(ours[hdu.name].data, hdu.data, hdu.name)


def test_product_is_read_by_the_peer(scenario, allowed, crds_cache, tmp_path):
    from stdatamodels.jwst import datamodels

    folder = scenario("nrs_ifu_prism")
    crds_cache(folder)
    calibrate(folder / "spec2_asn.json", tmp_path, skip=("nsclean",))
    (ours,) = tmp_path.glob("*_cal.fits")
    (peer,) = (folder / "peer_out").glob("*_cal.fits")
    with datamodels.open(ours) as mine, datamodels.open(peer) as theirs:
        assert type(mine) is type(theirs)
        y, x = (v[::997].astype(float) for v in np.nonzero(theirs.regions))
        allowed("product").close(mine.meta.wcs(x, y), theirs.meta.wcs(x, y))
