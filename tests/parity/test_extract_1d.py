"""extract_1d on the peer's own input to the step, against the peer's spectra."""

import json
import logging
import os

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.io import open_product
from spec2fn.refs import open_reference
from spec2fn.schema import EXTRACTED, meta_of
from spec2fn.steps.extract_1d import extract_1d

pytestmark = pytest.mark.parity

SLIT, SLITLESS = "MIR_LRS-FIXEDSLIT", "MIR_LRS-SLITLESS"
KEYWORDS = ("EXTRXSTR", "EXTRXSTP", "EXTRYSTR", "EXTRYSTP", "SLIT_RA", "SLIT_DEC")
BACKGROUND_ERRORS = ("bkgd_error", "bkgd_var_poisson", "bkgd_var_rnoise", "bkgd_var_flat")


def one(folder, kind):
    return sorted((folder / "steps").glob(f"*_{kind}.fits"))[0]


def reference_files(folder):
    base = folder / "crds_cache" / "references" / "jwst" / "miri"
    found = {t: sorted(base.glob(f"*_{t}_*")) for t in ("extract1d", "apcorr", "psf")}
    return {t: str(paths[0]) if paths else None for t, paths in found.items()}


def opened(files):
    return {t: None if path is None else open_reference(path, t) for t, path in files.items()}


def assert_same(ours, table, row, without=()):
    names = [n.lower() for n in table.dtype.names]
    for name, (column, _) in EXTRACTED.items():
        if name in without or column.lower() not in names:
            continue
        theirs = np.asarray(table[column], dtype=float)
        mine = np.broadcast_to(np.squeeze(ours[name].values), theirs.shape)
        row.agree(mine, theirs, name)


@pytest.mark.parametrize(
    ("name", "before", "after", "parameters"),
    [
        ("miri_lrs_slit", "s2d", "x1d", {}),
        ("miri_lrs_slit_pars", "s2d", "x1d", {"smoothing_length": 5}),
        ("miri_lrs_slit_ints", "pixel_replace", "x1dints", {}),
        ("miri_lrs_slitless", "pixel_replace", "x1dints", {}),
    ],
)
def test_pipeline_product(scenario, allowed, name, before, after, parameters):
    folder = scenario(name)
    ds = open_product(one(folder, before))
    ours = extract_1d(ds, **opened(reference_files(folder)), **parameters)
    with fits.open(one(folder, after)) as hdus:
        table, header = hdus["EXTRACT1D"].data, hdus["EXTRACT1D"].header
        assert ours.attrs["model"] == hdus[0].header["DATAMODL"]
        assert_same(ours, table, allowed("spectra"))
        for keyword in KEYWORDS:
            assert float(ours[keyword.lower()][0]) == allowed("keywords").approx(header[keyword])
        for keyword in ("SLTNAME", "SRCTYPE", "SPORDER", "DISPAXIS"):
            assert ours[keyword.lower()].values[0] == header[keyword]
    mine = meta_of(ours).wcs[str(ours["sltname"].values[0])]
    theirs = next(iter(meta_of(open_product(one(folder, after))).wcs.values()))
    at = np.linspace(0.0, 300.0, 41)
    allowed("wcs").close(mine(at), theirs(at))


def extended(scenario, tmp_path):
    """The resampled image of the slit, with a source that fills it."""
    path = tmp_path / "extended_s2d.fits"
    with fits.open(one(scenario("miri_lrs_slit"), "s2d")) as hdus:
        hdus["SCI"].header["SRCTYPE"] = "EXTENDED"
        hdus[0].header["SRCTYPE"] = "EXTENDED"
        hdus.writeto(path)
    return path


def test_an_extended_source_is_extracted_where_the_flight_reference_says(
    scenario, tmp_path, allowed
):
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    flight = f"{folder}/crds/references/miri/jwst_miri_extract1d_0005.json"
    files = reference_files(scenario("miri_lrs_slit")) | {"extract1d": flight}
    path = extended(scenario, tmp_path)
    table, _ = peer(path, files, {})
    ours = extract_1d(open_product(path), **opened(files))
    assert ours.attrs["status_extract_1d"] == "COMPLETE"
    assert ours["srctype"].values[0] == "EXTENDED"
    assert (float(ours["extrxstr"][0]), float(ours["extrxstp"][0])) == (28.0, 35.0)
    assert_same(ours, table, allowed("spectra"))


def test_an_aperture_off_the_image_is_a_reason_where_the_peer_writes_no_spectrum(
    scenario, tmp_path
):
    files = reference_files(scenario("miri_lrs_slit"))
    path = extended(scenario, tmp_path)
    with pytest.raises(IndexError):
        peer(path, files, {})
    status = extract_1d(open_product(path), **opened(files)).attrs["status_extract_1d"]
    assert "x = 316.5 to 323.5 of an image with x = 0 to 44" in status


def peer(path, files, parameters):
    from jwst.extract_1d.extract import run_extract1d
    from stdatamodels.jwst import datamodels

    logging.disable(logging.CRITICAL)
    try:
        with datamodels.open(path) as model:
            out, *images = run_extract1d(
                model.copy(),
                files["extract1d"] or "N/A",
                files["apcorr"] or "N/A",
                files["psf"] or "N/A",
                **{"model_nod_pair": True, **parameters},
                save_profile=True,
                save_scene_model=True,
                save_residual_image=True,
            )
    finally:
        logging.disable(logging.NOTSET)
    return out.spec[0].spec_table, [image.data for image in images]


def apertures(tmp_path, **entry):
    path = tmp_path / "extract1d.json"
    path.write_text(json.dumps({"reftype": "EXTRACT1D", "apertures": [entry]}))
    return str(path)


S2D = {
    "id": SLIT,
    "extract_width": 8,
    "bkg_coeff": [[2.0], [10.2], [30.3], [42.0]],
    "use_source_posn": True,
}
PIXELS = {
    "id": SLITLESS,
    "src_coeff": [[32.1, 0.001], [39.2, 0.002], [45.1], [47.3]],
    "bkg_coeff": [[5.0], [14.0], [54.0], [62.0]],
    "bkg_order": 1,
    "ystart": 20,
    "ystop": 300.5,
}
WAVES = {
    "id": SLITLESS,
    "src_coeff": [[32.1, 0.1, 0.01], [39.2, 0.2]],
    "independent_var": "wavelength",
    "bkg_coeff": [[5.0], [14.0, 0.1], [54.0], [62.0, 0.1]],
    "bkg_fit": "median",
}
OPTIMAL = {"extraction_type": "optimal"}


def check(folder, before, files, parameters, allowed, *, row="spectra", without=()):
    path = one(folder, before)
    table, theirs = peer(path, files, parameters)
    saved = {"save_profile": True, "save_scene_model": True, "save_residual_image": True}
    ours = extract_1d(open_product(path), **opened(files), **parameters, **saved)
    assert ours.attrs["status_extract_1d"] == "COMPLETE"
    assert_same(ours, table, allowed(row), without)
    records = meta_of(ours).records
    for name, image in zip(("profile", "scene_model", "residual"), theirs, strict=True):
        allowed("images").agree(records[name]["sci"].values, image, name)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"bkg_fit": "mean"},
        {"bkg_fit": "median"},
        {"bkg_order": 2},
        {"smoothing_length": 31, "bkg_order": 1},
        {"smoothing_length": 6, "bkg_fit": "median"},
        {"subtract_background": False},
        {"position_offset": 1.3},
        {"use_source_posn": False},
    ],
)
def test_backgrounds_of_a_resampled_slit(scenario, allowed, tmp_path, parameters):
    folder = scenario("miri_lrs_slit")
    files = {**reference_files(folder), "extract1d": apertures(tmp_path, **S2D)}
    check(folder, "s2d", files, parameters, allowed)


@pytest.mark.parametrize(
    ("before", "entry", "parameters"),
    [
        ("pixel_replace", WAVES, {}),
        ("pixel_replace", WAVES, {"bkg_fit": "poly", "bkg_order": 2, "smoothing_length": 9}),
        ("pixel_replace", PIXELS, {"bkg_fit": "median", "smoothing_length": 3}),
        ("photom", PIXELS, {}),  # with bad pixels
        ("photom", PIXELS, {"bkg_fit": "median", "smoothing_length": 5}),
        ("photom", PIXELS, {"bkg_fit": "poly", "smoothing_length": 5}),
        ("flat_field", PIXELS, {}),  # not flux calibrated
        ("photom", None, {}),
    ],
)
def test_integrations(scenario, allowed, tmp_path, before, entry, parameters):
    folder = scenario("miri_lrs_slitless")
    files = reference_files(folder)
    files["extract1d"] = None if entry is None else apertures(tmp_path, **entry)
    check(folder, before, files, parameters, allowed)


@pytest.mark.parametrize(
    ("name", "before", "parameters"),
    [
        ("miri_lrs_slit", "s2d", {}),
        ("miri_lrs_slit", "s2d", {"optimize_psf_location": False, "position_offset": 0.7}),
        ("miri_lrs_slit", "s2d", {"subtract_background": True, "bkg_order": 1}),
        ("miri_lrs_slit", "s2d", {"use_source_posn": False}),
        ("miri_lrs_slit_ints", "pixel_replace", {}),  # with a negative nod
        ("miri_lrs_slit_ints", "pixel_replace", {"model_nod_pair": False}),
    ],
)
def test_optimal(scenario, allowed, name, before, parameters):
    """The peer's background errors are NaN at every element with a bad pixel anywhere."""
    folder = scenario(name)
    check(
        folder,
        before,
        reference_files(folder),
        OPTIMAL | parameters,
        allowed,
        row="optimal",
        without=BACKGROUND_ERRORS if "subtract_background" in parameters else (),
    )


def test_corrected_optimal_is_the_peers_oversight(scenario, allowed):
    """extraction_type=None: the peer applies the box's aperture correction to the fit."""
    folder = scenario("miri_lrs_slit")
    files = reference_files(folder)
    options = {"extraction_type": None}
    with pytest.raises(AssertionError, match="flux"):
        check(folder, "s2d", files, options, allowed, row="different_correction")
    check(folder, "s2d", {**files, "apcorr": None}, options, allowed, row="optimal")
