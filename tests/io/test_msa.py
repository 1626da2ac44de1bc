"""Reading MSA metadata files."""

import numpy as np
import pytest

from spec2fn.errors import InputError
from spec2fn.io.msa import read_msa_metadata
from spec2fn.testing import nirspec as toy
from spec2fn.wcs.msa_slitlets import open_slitlets


@pytest.fixture
def write(tmp_path):
    """``write(tables, drop)``: an MSA metadata file with the content of the toy."""

    def make(tables=("shutter_info", "source_info"), drop=(), name="jw01234_01_msa.fits"):
        from astropy.io import fits

        msa = toy.msa_metadata()
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((4, 3)), name="SHUTTER_IMAGE")]
        for table in tables:
            columns = {
                key.split(".")[1]: values.values
                for key, values in msa.data_vars.items()
                if key.startswith(table) and key.split(".")[1] not in drop
            }
            data = np.rec.fromarrays(
                [v.astype("S12") if v.dtype.kind == "U" else v for v in columns.values()],
                names=list(columns),
            )
            hdus.append(fits.BinTableHDU(data, name=table.upper()))
        fits.HDUList(hdus).writeto(tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", ["a_msa.fits", "a_msa.fits.gz"])
def test_round_trip(write, name):
    msa = read_msa_metadata(write(name=name))
    expected = toy.msa_metadata()
    assert set(msa.data_vars) == set(expected.data_vars)
    for key in expected:
        np.testing.assert_array_equal(msa[key].values, expected[key].values)
    assert open_slitlets(msa, 1, 1) == open_slitlets(expected, 1, 1)
    assert msa.attrs["filename"].startswith("a_msa")


def test_unusable_files(write, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_msa_metadata(tmp_path / "nothing_msa.fits")
    with pytest.raises(InputError, match="has no table SOURCE_INFO"):
        read_msa_metadata(write(("shutter_info",), name="b.fits"))
    with pytest.raises(InputError, match="has no column slitlet_id"):
        read_msa_metadata(write(drop=("slitlet_id",), name="c.fits"))
    (tmp_path / "d.fits").write_bytes(b"no FITS file")
    with pytest.raises(InputError, match=r"d\.fits"):
        read_msa_metadata(tmp_path / "d.fits")
    path = write(name="e.fits")
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(InputError, match=r"e\.fits"):
        read_msa_metadata(path)
