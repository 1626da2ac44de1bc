"""Catalogs of sources, direct images and segmentation maps."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable

from spec2fn.errors import InputError
from spec2fn.io.associations import open_observation
from spec2fn.io.catalogs import (
    find_field_member,
    read_catalog,
    read_direct_image,
    read_segmentation_map,
)
from spec2fn.schema import FIELD_FILES, Meta, meta_of
from spec2fn.testing.fields import catalog_table

ALL = ("label", "xcentroid", "sky_centroid", "isophotal_abmag", "is_extended", "sky_bbox_ur")


def written(table, tmp_path):
    path = tmp_path / "direct_cat.ecsv"
    table.write(path, format="ascii.ecsv", overwrite=True)
    return path


def table():
    return catalog_table([53.1, 53.11, 53.12], [-27.8, -27.81, -27.82], label=[4, 2, 30])


def test_a_catalog_is_read(tmp_path):
    given = table()
    found = read_catalog(written(given, tmp_path))
    assert found["label"].dtype == np.int64
    assert found["label"].values.tolist() == [4, 2, 30]
    np.testing.assert_allclose(found["ra"], [53.1, 53.11, 53.12], rtol=1e-14)
    np.testing.assert_allclose(found["dec"], [-27.8, -27.81, -27.82], rtol=1e-14)
    corners = ("ll", "lr", "ul", "ur")
    for k, corner in enumerate(corners):
        there = given[f"sky_bbox_{corner}"]
        np.testing.assert_allclose(found["corner_ra"][:, k], there.ra.deg, rtol=1e-14)
        np.testing.assert_allclose(found["corner_dec"][:, k], there.dec.deg, rtol=1e-14)
    assert found["is_extended"].dtype == bool
    assert meta_of(found).filename == "direct_cat.ecsv"


def test_positions_of_another_frame_are_those_of_the_icrs(tmp_path):
    given = table()
    given["sky_centroid"] = given["sky_centroid"].transform_to("fk4")
    found = read_catalog(written(given, tmp_path))
    np.testing.assert_allclose(found["ra"], [53.1, 53.11, 53.12], rtol=1e-9)


def test_a_magnitude_that_is_missing_is_nan(tmp_path):
    given = table()
    given["isophotal_abmag"] = MaskedColumn([20.0, 21.0, 22.0], mask=[False, True, False])
    magnitude = read_catalog(written(given, tmp_path))["isophotal_abmag"].values
    np.testing.assert_array_equal(magnitude, [20.0, np.nan, 22.0])


@pytest.mark.parametrize("name", ALL)
def test_a_missing_column_is_named(name, tmp_path):
    given = table()
    given.remove_column(name)
    with pytest.raises(InputError, match=f"has no column {name} "):
        read_catalog(written(given, tmp_path))


@pytest.mark.parametrize(
    ("name", "column", "message"),
    [
        ("label", Column(["a", "b", "c"]), "label of source 1 is 'a', needs an integer"),
        ("label", Column([1.0, 2.5, 3.0]), "label of source 2 is 2.5, needs an integer"),
        ("label", MaskedColumn([1, 2, 3], mask=[0, 0, 1]), "label of source 3 is missing"),
        ("label", Column([7, 8, 7]), "label 7 occurs more than once"),
        ("isophotal_abmag", Column(["x", "y", "z"]), "isophotal_abmag holds"),
        ("is_extended", Column(["perhaps", "no", "yes"]), "is_extended holds"),
        ("sky_centroid", Column([1.0, 2.0, 3.0]), "sky_centroid holds '1.0'"),
        (
            "sky_centroid",
            SkyCoord([53.1, np.nan, 53.1] * units.deg, [0.0] * 3 * units.deg),
            "sky_centroid of source 2 is no position",
        ),
    ],
)
def test_what_a_column_holds_is_checked(name, column, message, tmp_path):
    given = table()
    given[name] = column
    with pytest.raises(InputError, match=message) as error:
        read_catalog(written(given, tmp_path))
    assert "\n" not in str(error.value)
    assert "direct_cat.ecsv" in str(error.value)


def test_a_catalog_without_a_source(tmp_path):
    with pytest.raises(InputError, match="holds no source"):
        read_catalog(written(table()[:0], tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("label ra dec\n1 2 3\n", "is no ECSV table"),
        ("# %ECSV 1.0\n# ---\n# datatype: [\n", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_no_catalog(content, message, tmp_path):
    path = tmp_path / "cat.ecsv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as error:
        read_catalog(path)
    assert "\n" not in str(error.value)


def image(path, data, exp_type="NIS_IMAGE"):
    primary = fits.PrimaryHDU()
    primary.header["EXP_TYPE"] = exp_type
    primary.header["INSTRUME"], primary.header["DETECTOR"] = "NIRISS", "NIS"
    primary.header["FILTER"], primary.header["PUPIL"] = "GR150C", "F115W"
    fits.HDUList([primary, fits.ImageHDU(data, name="SCI")]).writeto(path)
    return path


def test_a_direct_image_and_its_segmentation_map(tmp_path):
    data = np.arange(12.0, dtype="f4").reshape(3, 4)
    found = read_direct_image(image(tmp_path / "direct_i2d.fits", data))
    np.testing.assert_array_equal(found["sci"], data)
    labels = read_segmentation_map(image(tmp_path / "direct_segm.fits", data.astype("i4")))
    np.testing.assert_array_equal(labels["label"], data)


def test_labels_have_to_be_integers(tmp_path):
    with pytest.raises(InputError, match="needs an image of integers"):
        read_segmentation_map(image(tmp_path / "direct_segm.fits", np.zeros((3, 4), "f4")))


def association(tmp_path, *extra):
    image(tmp_path / "exposure_rate.fits", np.ones((3, 4), "f4"), "NIS_WFSS")
    image(tmp_path / "direct_i2d.fits", np.ones((3, 4), "f4"))
    image(tmp_path / "direct_segm.fits", np.ones((3, 4), "i4"))
    written(table(), tmp_path)
    members = [
        ("exposure_rate.fits", "science"),
        ("direct_i2d.fits", "direct_image"),
        ("direct_segm.fits", "segmap"),
        ("direct_cat.ecsv", "sourcecat"),
        *extra,
    ]
    listed = [{"expname": name, "exptype": role} for name, role in members]
    path = tmp_path / "asn.json"
    path.write_text(json.dumps({"products": [{"name": "p", "members": listed}]}))
    return path


def test_members_that_describe_the_field(tmp_path):
    found = open_observation(association(tmp_path))
    assert found.members["sourcecat"][0]["label"].values.tolist() == [4, 2, 30]
    assert found.members["segmap"][0]["label"].shape == (3, 4)
    assert found.members["direct_image"][0]["sci"].shape == (3, 4)
    names = meta_of(found.science).records[FIELD_FILES]
    assert names == {
        "direct_image": "direct_i2d.fits",
        "segmap": "direct_segm.fits",
        "sourcecat": "direct_cat.ecsv",
    }


def test_one_catalog_is_enough(tmp_path):
    path = association(tmp_path, ("direct_cat.ecsv", "sourcecat"))
    with pytest.raises(InputError, match="2 members are of exptype 'sourcecat'"):
        open_observation(path)


def test_the_header_names_the_catalog(tmp_path):
    import xarray as xr

    written(table(), tmp_path)
    header = fits.Header({"SCATFILE": "direct_cat.ecsv"})
    ds = xr.Dataset(attrs={"meta": Meta(primary=header, filename="e_rate.fits")})
    found = find_field_member(ds, "sourcecat", [str(tmp_path)])
    assert found.sizes["source"] == 3
    assert find_field_member(ds, "segmap", [str(tmp_path)]) is None
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(InputError, match=r"Source catalog direct_cat.ecsv .SCATFILE. is not in"):
        find_field_member(ds, "sourcecat", [str(elsewhere)])


def test_tables_keep_their_units(tmp_path):
    given = table()
    assert isinstance(given, QTable)
    given["xcentroid"] = [1.0, 2.0, 3.0] * units.pix
    assert read_catalog(written(given, tmp_path))["xcentroid"].values.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", ["background_test_cat", "step_SourceCatalogStep_cat"])
def test_published_catalogs_are_read(name):
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    found = read_catalog(Path(folder, "round2", "wfss", f"{name}.ecsv"))
    assert found.sizes["source"] >= 4
    for axis in ("ra", "dec"):
        corners = found[f"corner_{axis}"]
        assert (corners.min("corner") < found[axis]).all()
        assert (corners.max("corner") > found[axis]).all()
