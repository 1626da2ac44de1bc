import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.cli import main
from spec2fn.errors import InputError
from spec2fn.io import open_product, save_pixel_table
from spec2fn.plans.cubes.pixel_table import COLUMNS, pixel_table
from spec2fn.schema import Meta
from spec2fn.slits import Slits


@pytest.fixture
def exposure():
    shape = (6, 8)
    label = np.zeros(shape, np.int32)
    label[:, 1:4], label[:, 5:7] = 101, 102
    y, x = np.mgrid[:6, :8].astype(float)
    nan = np.where(label > 0, 1.0, np.nan)
    data = {
        "sci": (("y", "x"), (10 * y + x).astype(np.float32), {"units": "MJy/sr"}),
        "err": (("y", "x"), np.full(shape, 0.5, np.float32)),
        "dq": (("y", "x"), (y == 2).astype(np.uint32)),
        "ra": (("y", "x"), (30 + x / 3600) * nan),
        "dec": (("y", "x"), (40 + y / 3600) * nan),
        "wavelength": (("y", "x"), (5 + y / 100) * nan),
        "slice_id": (("y", "x"), label),
    }
    primary = fits.Header({"EXP_TYPE": "MIR_MRS", "INSTRUME": "MIRI"})
    meta = Meta(primary, fits.Header(), "foo_cal.fits")
    return xr.Dataset(data, attrs={"exp_type": "MIR_MRS", "instrument": "MIRI", "meta": meta})


def test_a_row_for_each_pixel_of_a_slice(exposure):
    table = pixel_table(exposure)
    assert list(table.data_vars) == list(COLUMNS)
    assert table.sizes["pixel"] == 6 * 5
    np.testing.assert_array_equal(table["flux"], 10 * table["y"] + table["x"])
    np.testing.assert_array_equal(table["slice"], np.where(table["x"] < 4, 101, 102))
    np.testing.assert_allclose(table["ra"], 30 + table["x"] / 3600)
    np.testing.assert_array_equal(table["dq"] == 1, table["y"] == 2)
    assert table["flux"].attrs["units"] == "MJy/sr"


def test_integrations_are_columns(exposure):
    many = exposure.drop_vars(["sci", "err", "dq"]).assign(
        {n: (("integration", "y", "x"), np.stack([exposure[n].values] * 3)) for n in ("sci", "err")}
    )
    many["dq"] = (("integration", "y", "x"), np.stack([exposure["dq"].values] * 3))
    table = pixel_table(many)
    assert table["flux"].dims == ("integration", "pixel")
    assert table["ra"].dims == ("pixel",)


def test_fits_table(exposure, tmp_path):
    table = pixel_table(exposure)
    path = save_pixel_table(table, tmp_path / "t.fits")
    with fits.open(path) as hdus:
        held = hdus["PIXELS"].data
        assert hdus["PIXELS"].columns["wavelength"].unit == "um"
        assert hdus[0].header["EXP_TYPE"] == "MIR_MRS"
        for name in COLUMNS:
            np.testing.assert_array_equal(held[name], table[name].values)


def test_netcdf_table(exposure, tmp_path):
    table = pixel_table(exposure)
    back = open_product(save_pixel_table(table, tmp_path / "t.nc"))
    for name in COLUMNS:
        np.testing.assert_array_equal(back[name].values, table[name].values)


def test_parquet_table(exposure, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    table = pixel_table(exposure)
    back = pq.read_table(save_pixel_table(table, tmp_path / "t.parquet"))
    np.testing.assert_array_equal(back["flux"].to_numpy(), table["flux"].values)


def test_what_cannot_be_is_said(exposure, tmp_path, capsys):
    with pytest.raises(InputError, match=r"\.fits, \.nc and \.parquet"):
        save_pixel_table(pixel_table(exposure), tmp_path / "t.csv")
    with pytest.raises(InputError, match="run assign_wcs"):
        pixel_table(exposure.drop_vars("ra"))
    other = exposure.assign_attrs(exp_type="MIR_LRS-FIXEDSLIT")
    with pytest.raises(InputError, match="got Slits; pass a _cal product of MIR_MRS or NRS_IFU"):
        pixel_table(Slits(()))
    with pytest.raises(InputError, match="found EXP_TYPE MIR_LRS-FIXEDSLIT; pass a _cal product"):
        pixel_table(other)
    assert main(["pixel-table", str(tmp_path / "none.fits"), "-o", str(tmp_path / "t.fits")]) == 2
    assert "none.fits" in capsys.readouterr().err
