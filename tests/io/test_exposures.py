import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.errors import InputError
from spec2fn.io import open_exposure
from spec2fn.io.fits.fitsfile import FitsFile
from spec2fn.schema import INT_TIMES, validate


def test_planes_are_native_and_equal_to_the_file(exposure, planes):
    ds = open_exposure(exposure())
    assert ds["sci"].dims == ("integration", "y", "x")
    for ext, data in planes().items():
        got = ds[ext.lower()].values
        assert got.dtype == data.dtype
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, data)
    assert ds["sci"].attrs["units"] == "DN/s"
    assert "units" not in ds["dq"].attrs
    validate(ds)


def test_image_dims_and_missing_variances(exposure, planes):
    arrays = planes((6, 5))
    del arrays["VAR_RNOISE"]
    ds = open_exposure(exposure("a_rate.fits", (6, 5), arrays))
    assert ds["sci"].dims == ("y", "x")
    assert "var_rnoise" not in ds
    assert ds.attrs["model"] == "ImageModel"


def test_attributes_scalars_times(exposure):
    ds = open_exposure(exposure(SRCTYPE="POINT", DISPAXIS=2))
    expected = {
        "exp_type": "MIR_LRS-SLITLESS",
        "instrument": "MIRI",
        "tso": True,
        "xstart": 1,
        "ystart": 529,
        "source_type": "POINT",
        "dispaxis": 2,
        "model": "CubeModel",
    }
    assert {k: ds.attrs[k] for k in expected} == expected
    assert "grating" not in ds.attrs
    assert float(ds["mid_time"]) == 60370.5
    assert ds["mid_time"].dtype == np.float64
    assert float(ds["exposure_time"]) == 100
    assert set(INT_TIMES) <= set(ds.data_vars)
    assert ds["integration_number"].dtype == np.int32
    np.testing.assert_array_equal(ds["int_mid_mjd_utc"], 60001 + np.arange(4) / 8)
    assert ds.attrs["meta"].get("V2_REF") == -414.8
    assert ds.attrs["meta"].filename == "jw_test_rateints.fits"


def test_only_the_chosen_integrations_are_read(exposure, planes, monkeypatch):
    read = []
    original = FitsFile.raw

    def spy(self, start, size):
        read.append(size)
        return original(self, start, size)

    ds = open_exposure(exposure())
    monkeypatch.setattr(FitsFile, "raw", spy)
    part = ds[["sci"]].isel(integration=slice(1, 3)).load()
    np.testing.assert_array_equal(part["sci"], planes()["SCI"][1:3])
    assert sum(read) == 2 * 6 * 5 * 4


@pytest.mark.parametrize(
    "key",
    [
        {"integration": 2},
        {"integration": slice(None, None, -1)},
        {"integration": slice(3, 0, -2), "x": slice(1, 3)},
        {"y": 2},
        {"integration": [2, 0], "y": [1, 1, 3]},
        {"integration": slice(2, 2)},
    ],
)
def test_lazy_indexing_equals_numpy(exposure, planes, key):
    import xarray as xr

    ds = open_exposure(exposure())
    whole = xr.DataArray(planes()["DQ"], dims=("integration", "y", "x"))
    np.testing.assert_array_equal(ds["dq"].isel(key).values, whole.isel(key).values)


def test_gzip(exposure, planes):
    path = exposure()
    packed = path.with_name("b_rateints.fits.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    ds = open_exposure(packed)
    np.testing.assert_array_equal(ds["sci"], planes()["SCI"])
    assert ds.attrs["meta"].filename == "b_rateints.fits"


@pytest.mark.parametrize("zipped", [False, True])
def test_tile_compressed_images_are_images(exposure, tmp_path, zipped):
    path = exposure()
    with fits.open(path) as hdus:
        plain = [h.copy() for h in hdus]
    tiled = [
        fits.CompImageHDU(h.data, h.header, compression_type="GZIP_2", quantize_level=0)
        if h.is_image and h.data is not None
        else h
        for h in plain
    ]
    made = tmp_path / f"tiled_rateints.fits{'.gz' if zipped else ''}"
    fits.HDUList(tiled).writeto(made)
    ours, theirs = open_exposure(made), open_exposure(path)
    assert sorted(ours.variables) == sorted(theirs.variables)
    for name, var in theirs.variables.items():
        np.testing.assert_array_equal(ours[name], var)
        assert ours[name].dtype == var.dtype
    assert not [k for k in ours.attrs["meta"].science if k.startswith(("Z", "TFORM", "TTYPE"))]


def test_damaged_tiles_are_one_line(exposure, tmp_path):
    path = exposure()
    with fits.open(path) as hdus:
        data = hdus["SCI"].data
    made = tmp_path / "tiled_rateints.fits"
    image = fits.CompImageHDU(data, name="SCI", compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(made)
    content = made.read_bytes()
    at = content.rindex(b"\x1f\x8b")
    made.write_bytes(content[:at] + b"\0\0" + content[at + 2 :])
    with pytest.raises(InputError, match=r"tiled_rateints.*: its tile-compressed images"):
        open_exposure(made)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.uint16])
def test_flags_of_another_integer_type(exposure, planes, dtype):
    arrays = planes()
    arrays["DQ"] = (arrays["DQ"] & 127).astype(dtype)
    dq = open_exposure(exposure(arrays=arrays))["dq"]
    assert dq.dtype == np.uint32
    np.testing.assert_array_equal(dq, arrays["DQ"])


def test_flags_that_are_no_integers(exposure, planes):
    arrays = planes()
    arrays["DQ"] = arrays["DQ"].astype(np.float32)
    with pytest.raises(InputError, match="DQ is float32"):
        open_exposure(exposure(arrays=arrays))


@pytest.mark.parametrize(
    ("instrument", "kind", "bunit", "status", "unit"),
    [
        ("MIRI", "POINT", "DN/s", None, "DN/s"),
        ("MIRI", "POINT", "DN/s", "SKIPPED", "DN/s"),
        ("MIRI", "POINT", "MJy/sr", None, "MJy/sr"),
        ("MIRI", "POINT", None, None, None),
        ("MIRI", "POINT", "DN/s", "COMPLETE", "MJy/sr"),
        ("NIRSPEC", "POINT", "DN/s", "COMPLETE", "MJy"),
        ("NIRSPEC", "EXTENDED", "DN/s", "COMPLETE", "MJy/sr"),
        ("NIRSPEC", "EXTENDED", None, "COMPLETE", "MJy/sr"),
        ("NIRSPEC", "POINT", "MJy/sr", "COMPLETE", "MJy/sr"),
    ],
)
def test_unit_of_calibrated_data(exposure, instrument, kind, bunit, status, unit):
    nirspec = {
        "EXP_TYPE": "NRS_BRIGHTOBJ",
        "DETECTOR": "NRS1",
        "FILTER": "CLEAR",
        "GRATING": "PRISM",
    }
    optics = nirspec if instrument == "NIRSPEC" else {}
    path = exposure(INSTRUME=instrument, SRCTYPE=kind, S_PHOTOM=status, **optics)
    with fits.open(path, mode="update") as hdus:
        if bunit is None:
            del hdus["SCI"].header["BUNIT"]
        else:
            hdus["SCI"].header["BUNIT"] = bunit
    ds = open_exposure(path)
    assert ds["sci"].attrs.get("units") == ds["err"].attrs.get("units") == unit
    warned = ds.attrs["meta"].records.get("warnings", ())
    assert len(warned) == (bunit == "DN/s" and status == "COMPLETE")
    if warned:
        assert "BUNIT" in warned[0]
        assert "S_PHOTOM" in warned[0]


@pytest.mark.parametrize(
    ("bunit", "status", "named"),
    [("MJy/sr", "SKIPPED", "S_PHOTOM"), ("mJy/arcsec^2", "COMPLETE", "BUNIT")],
)
def test_units_that_cannot_be(exposure, bunit, status, named):
    path = exposure(S_PHOTOM=status)
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header["BUNIT"] = bunit
    with pytest.raises(InputError, match=named):
        open_exposure(path)


def test_segment_takes_its_own_times(exposure):
    ds = open_exposure(exposure(times=9, NINTS=9, INTSTART=3, INTEND=6))
    np.testing.assert_array_equal(ds["integration_number"], [3, 4, 5, 6])


def test_times_that_do_not_match_are_left_out_with_a_warning(exposure):
    ds = open_exposure(exposure(times=2))
    assert "int_mid_mjd_utc" not in ds
    (warning,) = ds.attrs["meta"].records["warnings"]
    assert "jw_test_rateints.fits: INT_TIMES has 2 rows" in warning


def test_times_of_another_segment_are_left_out_with_a_warning(exposure):
    ds = open_exposure(exposure(times=4, NINTS=9, INTSTART=5, INTEND=8))
    assert "int_mid_mjd_utc" not in ds
    (warning,) = ds.attrs["meta"].records["warnings"]
    assert "of integrations 1 to 4, not of 5 to 8" in warning


@pytest.mark.parametrize(("times", "what"), [(False, "no INT_TIMES"), (True, "an empty INT_TIMES")])
def test_missing_times_are_a_warning(exposure, times, what):
    path = exposure(times=times)
    if times:
        with fits.open(path, mode="update") as hdul:
            hdul["INT_TIMES"].data = hdul["INT_TIMES"].data[:0]
    (warning,) = open_exposure(path).attrs["meta"].records["warnings"]
    assert f"jw_test_rateints.fits: has {what}" in warning
    assert "4 integrations" in warning


def test_missing_times_are_a_warning_beside_another(exposure):
    ds = open_exposure(exposure(times=False, S_PHOTOM="COMPLETE"))
    times, unit = ds.attrs["meta"].records["warnings"]
    assert "no INT_TIMES" in times
    assert "BUNIT" in unit


def test_a_keyword_without_value_does_not_hide_that_of_the_other_header(exposure):
    path = exposure()
    with fits.open(path, mode="update") as hdul:
        hdul[0].header["V2_REF"] = None
        hdul[0].header["XPOSURE"] = " "
    meta = open_exposure(path).attrs["meta"]
    assert meta.get("V2_REF") == -414.8
    assert meta.get("XPOSURE") == 100


def test_a_column_that_is_missing_from_the_times_is_a_warning(exposure):
    path = exposure()
    with fits.open(path, mode="update") as hdul:
        hdul["INT_TIMES"].columns.del_col("int_mid_BJD_TDB")
    ds = open_exposure(path)
    assert "int_mid_bjd_tdb" not in ds
    assert "int_mid_mjd_utc" in ds
    assert "no column int_mid_BJD_TDB" in ds.attrs["meta"].records["warnings"][0]


def _fails(path, *words, **options):
    with pytest.raises(InputError) as caught:
        open_exposure(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert Path(path).name in text
    for word in words:
        assert word in text
    assert caught.value.exit_code == 2


def test_missing_and_foreign_files(tmp_path):
    _fails(tmp_path / "none_rate.fits", "no such file")
    text = tmp_path / "text_rate.fits"
    text.write_text("hello")
    _fails(text, "not a FITS file")
    text.write_text("")
    _fails(text, "empty")
    _fails(tmp_path, "cannot be read")


@pytest.mark.parametrize("kept", [1000, 2880 * 2, 2880 * 4 + 100, -2880, -3000])
def test_truncated(exposure, kept):
    path = exposure()
    content = path.read_bytes()
    path.write_bytes(content[:kept])
    _fails(path, "truncated")


def test_truncated_gzip(exposure, tmp_path):
    packed = tmp_path / "c_rate.fits.gz"
    packed.write_bytes(gzip.compress(exposure().read_bytes())[:-50])
    _fails(packed, "truncated")


def test_file_that_shrinks_while_it_is_used(exposure):
    path = exposure()
    ds = open_exposure(path)
    os.truncate(path, 6000)
    with pytest.raises(InputError, match="shorter"):
        ds["dq"].load()


@pytest.mark.parametrize(
    ("card", "damaged", "named"),
    [
        ("NAXIS   =                    3", "NAXIS   = 'three'", "NAXIS is 'three'"),
        ("NAXIS   =                    3", "NAXIS   =", "NAXIS is missing"),
        ("NAXIS2  =                    6", "NAXIS9  = 6", "NAXIS2 is missing"),
        ("BITPIX  =                  -32", "BITPIX  =                  -33", "BITPIX is -33"),
        ("GCOUNT  =                    1", "GCOUNT  = T", "GCOUNT is True"),
    ],
)
def test_damaged_header(exposure, card, damaged, named):
    path = exposure()
    content = path.read_bytes()
    assert card.encode() in content
    path.write_bytes(content.replace(card.encode(), damaged.ljust(30).encode()))
    _fails(path, "damaged", named)


def test_no_sci(exposure, planes):
    arrays = planes()
    del arrays["SCI"]
    _fails(exposure(arrays=arrays), "no SCI", "ERR, DQ")


def test_several_sci(exposure):
    path = exposure()
    with fits.open(path, mode="append") as hdul:
        hdul.append(fits.ImageHDU(np.zeros((6, 5), np.float32), name="SCI", ver=2))
    _fails(path, "slits", "leading dimensions")


def test_exp_type(exposure):
    _fails(exposure("a.fits", EXP_TYPE=None), "EXP_TYPE is missing")
    image = exposure("b.fits", EXP_TYPE="MIR_IMAGE")
    _fails(image, "MIR_IMAGE", "not spectroscopic", "NRS_IFU")
    assert open_exposure(image, any_exp_type=True).attrs["exp_type"] == "MIR_IMAGE"


def test_shapes_that_do_not_agree(exposure, planes):
    arrays = planes()
    arrays["ERR"] = arrays["ERR"][:, :-1]
    _fails(exposure("a.fits", arrays=arrays), "ERR is (4, 5, 5)", "SCI is (4, 6, 5)")
    _fails(exposure("b.fits", NINTS=7), "4 integrations", "NINTS=7")
    _fails(exposure("c.fits", (2, 2, 6, 5)), "4 dimensions")


def test_keyword_of_the_wrong_type(exposure):
    _fails(exposure("a.fits", SUBSTRT1="one"), "SUBSTRT1", "'one'", "integer from 1 to 2048")
    _fails(exposure("b.fits", TSOVISIT="yes"), "TSOVISIT", "'yes'", "T or F")
    assert open_exposure(exposure("c.fits", TSOVISIT="F")).attrs["tso"] is False


@pytest.mark.parametrize(("text", "value"), [("T", True), ("F", False), ("false", False)])
def test_a_logical_keyword_may_be_text(exposure, text, value):
    ds = open_exposure(exposure(BKGDTARG=text, TSOVISIT=text))
    assert ds.attrs["background_target"] is value
    assert ds.attrs["tso"] is value


def test_importing_io_is_light():
    import subprocess
    import sys

    code = (
        "import sys, spec2fn.io;"
        "print([m for m in ('xarray', 'astropy', 'asdf', 'h5netcdf', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_file():
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    (path,) = Path(folder, "miri_lrs").glob("*_rateints.fits")
    ds = open_exposure(path)
    assert dict(ds.sizes) == {"integration": 4, "y": 416, "x": 72}
    assert ds.attrs["exp_type"] == "MIR_LRS-SLITLESS"
    assert ds.attrs["tso"] is True
    assert len(ds.attrs["meta"].records["int_times"]) == 0
    assert "an empty INT_TIMES" in ds.attrs["meta"].records["warnings"][0]
    with fits.open(path) as hdul:
        for ext in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"):
            np.testing.assert_array_equal(ds[ext.lower()].values, hdul[ext].data)
