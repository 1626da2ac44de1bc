"""Published files, official and flight products among them, are opened as what they are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.errors import InputError
from spec2fn.io import open_exposure, open_product, save
from spec2fn.refs import open_reference
from spec2fn.slits import Slits
from spec2fn.steps.extract_1d import extract_1d

SMACS = "round2/nirspec_mos_smacs/jw02736-o007_s06355_nirspec_f290lp-g395m"
CEERS = "nirspec_mos/jw01345062001_03101_00001_nrs2_phot.138.1345_933.fits"
CUBE = "round2/mrs_s3d/jw01022-o023_t001_miri_ch2-short_s3d_nav.fits"
# sizes of the products; all else in the folder is none
PRODUCTS = {
    "miri_lrs/ERS_NGTS10_2022_new_drift_041_jwst201_calints.fits": (4, 416, 72),
    "miri_lrs/ERS_NGTS10_2022_new_drift_041_rateints.fits": (4, 416, 72),
    "miri_mrs/miri_mrs_template_12A_cal.fits.gz": (1024, 1032),
    "miri_mrs/miri_mrs_template_34B_cal.fits.gz": (1024, 1032),
    "nirspec_fs/nirspec_fs_g140h_nod1_cal.fits": [(10, 10)] * 5,
    CEERS: [(25, 341)],
    CUBE: (625, 35, 35),
    f"{SMACS}_s2d.fits": [(41, 1215)],
    f"{SMACS}_x1d.fits": (1, 1215),
    "round2/wfss/jw42424001001_01101_00001_nrca5_GRISMR_F356W_rate.fits.gz": (2048, 2048),
}


def realdata():
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    return Path(folder)


def shapes(product):
    if isinstance(product, Slits):
        return [ds["sci"].shape for ds in product]
    return product["sci" if "sci" in product else "flux"].shape


def wcs_of(product):
    wcs = product.attrs["meta"].wcs
    return list(wcs.values()) if hasattr(wcs, "values") else [] if wcs is None else [wcs]


def open_or_say(path):
    """The product of a file; None if one line names the file and says what it holds instead."""
    try:
        return open_product(path)
    except InputError as error:
        said = str(error)
    held = [h.name for h in fits.open(path)[1:]]
    assert "\n" not in said
    assert str(path) in said
    assert "EXP_TYPE" in said or (held or ["nothing"])[0] in said
    with pytest.raises(InputError, match=path.name.replace(".", r"\.")):
        open_exposure(path)
    return None


def test_every_file_is_a_product_or_one_line_says_what_it_holds():
    root = realdata()
    files = [p for p in root.rglob("*") if p.name.endswith((".fits", ".fits.gz"))]
    assert len(files) > len(PRODUCTS)
    opened = {}
    for path in files:
        product = open_or_say(path)
        if product is None:
            continue
        opened[str(path.relative_to(root))] = shapes(product)
        for part in product.buckets if isinstance(product, Slits) else (product,):
            part.load()
        for wcs in wcs_of(product):
            gwcs = wcs.load()
            assert gwcs is None or gwcs.available_frames
    references = [p for p in opened if p.startswith(("crds", "niriss_soss", "residual"))]
    assert {p: s for p, s in opened.items() if p not in references} == PRODUCTS


def test_spectrum_of_a_resampled_flight_slit_is_the_official_one(tmp_path):
    """Its BUNIT says DN/s although it is calibrated."""
    root = realdata()
    path = tmp_path / "extract1d.json"
    entry = {"id": "ANY", "extract_width": 8}
    path.write_text(json.dumps({"reftype": "EXTRACT1D", "apertures": [entry]}))
    slits = open_product(root / f"{SMACS}_s2d.fits")
    assert slits.names == ("72",)
    (warning,) = slits.attrs["meta"].records["warnings"]
    assert "BUNIT is 'DN/s'" in warning
    assert "MJy/sr" in warning
    ours = extract_1d(slits, open_reference(path, "extract1d"))
    theirs = open_product(root / f"{SMACS}_x1d.fits")
    assert ours["flux"].attrs["units"] == "Jy"
    np.testing.assert_allclose(ours["wavelength"], theirs["wavelength"], rtol=1e-12)
    flux, official = ours["flux"].values, theirs["flux"].values
    both = np.isfinite(flux) & (official != 0)
    assert both.sum() == 1142
    # one column holds a NaN, which was left out of the sum in another way
    close = np.isclose(flux[both], official[both], rtol=1e-9, atol=0)
    assert close.sum() >= 1141
    again = open_product(save(slits, tmp_path / "again.fits"))
    assert "warnings" not in again.attrs["meta"].records
    assert again.slit("72")["sci"].attrs["units"] == "MJy/sr"


def test_spectrum_of_one_flight_slit():
    """All rows, the wavelengths of the slit's own WCS, and no quadrant that nobody knows."""
    path = realdata() / CEERS
    slits = open_product(path)
    assert slits.names == ("138",)
    slit = slits.slit("138")
    assert int(slit["quadrant"]) == 0
    assert slit["sci"].attrs["units"] == "MJy/sr"
    ours = extract_1d(slits)
    with fits.open(path) as hdus:
        sci, dq = hdus["SCI"].data.astype(float), hdus["DQ"].data
        good = np.isfinite(sci) & (dq & 1 == 0)
        known = np.where(good, sci, 0.0).sum(axis=0) * hdus["SCI"].header["PIXAR_SR"] * 1e6
        plane = hdus["WAVELENGTH"].data
    held = good.any(axis=0)
    assert held.sum() > 300
    np.testing.assert_allclose(ours["flux"].values[0][held], known[held], rtol=1e-9)
    middle = np.nanmean(np.where(plane > 0, plane, np.nan), axis=0)
    assert np.nanmax(np.abs(ours["wavelength"].values[0] - middle)) < 0.005


def test_one_flight_slit_is_written_as_it_was(tmp_path):
    path = realdata() / CEERS
    made = save(open_product(path), tmp_path / "again.fits")
    with fits.open(path) as theirs, fits.open(made) as ours:
        names = [h.name for h in theirs]
        kept = [h.name for h in ours]
        assert set(names) - set(kept) == set()
        for name in names:
            if theirs[name].is_image and name != "PRIMARY":
                np.testing.assert_array_equal(ours[name].data, theirs[name].data)
        # the archive's own layout does not say the quadrant
        assert "MSAQUAD" not in ours["SCI"].header
        for keyword in ("SLTNAME", "SHUTTRID", "SRCRA", "BUNIT", "PIXAR_SR", "SLTSTRT2"):
            assert ours["SCI"].header[keyword] == theirs["SCI"].header[keyword]


def test_linear_cube_without_a_table_of_wavelengths(tmp_path):
    path = realdata() / CUBE
    cube = open_product(path)
    header = fits.getheader(path, "SCI")
    assert cube["sci"].dims == ("wave", "y", "x")
    assert cube["sci"].attrs["units"] == "MJy/sr"
    expected = header["CRVAL3"] + header["CDELT3"] * np.arange(625)
    np.testing.assert_allclose(cube["wavelength"], expected, rtol=1e-14)
    # Jupiter fills the field: an extended source is summed over all of it
    spectrum = extract_1d(cube)
    with fits.open(path) as hdus:
        known = np.nansum(hdus["SCI"].data.astype(float), axis=(1, 2)) * header["PIXAR_SR"] * 1e6
    np.testing.assert_allclose(spectrum["flux"].values[0], known, rtol=1e-6)
    np.testing.assert_allclose(spectrum["wavelength"].values[0], expected, rtol=1e-14)
    assert np.isnan(spectrum["flux_error"].values).all()
    again = open_product(save(cube, tmp_path / "again_s3d.fits"))
    np.testing.assert_array_equal(again["sci"], cube["sci"])
    np.testing.assert_array_equal(again["wavelength"], cube["wavelength"])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("CDELT3", "junk"), ("CRVAL3", None), ("CUNIT3", "Angstrom"), ("CTYPE3", "WAVE-TAB")],
)
def test_wavelengths_of_a_cube_that_are_not_said(tmp_path, keyword, value):
    path = tmp_path / "bad_s3d.fits"
    with fits.open(realdata() / CUBE) as hdus:
        if value is None:
            del hdus["SCI"].header[keyword]
        else:
            hdus["SCI"].header[keyword] = value
        hdus.writeto(path)
    with pytest.raises(InputError, match=keyword):
        open_product(path)
