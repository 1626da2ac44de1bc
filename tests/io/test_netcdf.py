import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from spec2fn.errors import InputError
from spec2fn.io import open_product, read_netcdf, save, write_netcdf
from spec2fn.io.netcdf import decode, encode
from spec2fn.schema import with_meta


def _identical(a, b):
    assert list(a.data_vars) == list(b.data_vars)
    for name in a.variables:
        assert a[name].dtype == b[name].dtype, name
        xr.testing.assert_identical(a[name].variable.load(), b[name].variable)
    x, y = a.attrs["meta"], b.attrs["meta"]
    assert {k: v for k, v in a.attrs.items() if k != "meta"} == {
        k: v for k, v in b.attrs.items() if k != "meta"
    }
    assert all(type(a.attrs[k]) is type(b.attrs[k]) for k in a.attrs if k != "meta")
    assert x.filename == y.filename
    assert x.primary.tostring() == y.primary.tostring()
    assert x.science.tostring() == y.science.tostring()


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5)])
def test_image_identity(image_product, tmp_path, shape):
    table = np.array([(1, 2.5)], dtype=[("integration_number", "i4"), ("t", "f8")])
    ds = image_product(shape, int_times=table, warnings=("a", "b"), profile=xr.Dataset())
    ds = ds.assign_attrs(nothing=None, on=True, nested={"a": (1, [2.5, None])}, small=np.float32(2))
    got = open_product(save(ds, tmp_path / "p.nc"))
    _identical(ds, got)
    records = dict(ds.attrs["meta"].records)
    records.pop("profile")
    kept = dict(got.attrs["meta"].records)
    np.testing.assert_array_equal(kept.pop("int_times"), records.pop("int_times"))
    assert kept == records
    np.testing.assert_array_equal(got.attrs["meta"].wcs(1.0, 2.0), ds.attrs["meta"].wcs(1.0, 2.0))


@pytest.mark.parametrize("integrations", [None, 3])
def test_spectra_identity(spectra_product, gwcs_object, tmp_path, integrations):
    ds = spectra_product(integrations, wcs={"MIR_LRS": gwcs_object})
    got = read_netcdf(write_netcdf(ds, tmp_path / "p.nc"))
    _identical(ds, got)
    wcs = got.attrs["meta"].wcs["MIR_LRS"]
    np.testing.assert_array_equal(wcs(1.0, 2.0), gwcs_object(1.0, 2.0))


def test_coordinates_stay_coordinates(image_product, tmp_path):
    ds = image_product().assign_coords(integration=[5, 6, 7, 8])
    got = read_netcdf(write_netcdf(ds, tmp_path / "p.nc"))
    assert list(got.coords) == ["integration"]
    np.testing.assert_array_equal(got["integration"], [5, 6, 7, 8])


def test_long_record(image_product, tmp_path):
    ds = image_product(wcs=None, run={"text": "x" * 200_000})
    got = read_netcdf(write_netcdf(ds, tmp_path / "p.nc"))
    assert got.attrs["meta"].records["run"] == {"text": "x" * 200_000}


def test_same_input_gives_the_same_bytes(image_product, tmp_path):
    ds = image_product()
    first = write_netcdf(ds, tmp_path / "a.nc").read_bytes()
    assert write_netcdf(ds, tmp_path / "b.nc").read_bytes() == first
    again = read_netcdf(tmp_path / "a.nc")
    assert write_netcdf(again, tmp_path / "c.nc").read_bytes() == first


def test_xarray_reads_it(image_product, tmp_path):
    path = write_netcdf(image_product(), tmp_path / "p.nc")
    with xr.open_dataset(path, engine="h5netcdf") as ds:
        assert ds["sci"].attrs["units"] == "MJy/sr"
        assert ds.attrs["exp_type"] == "MIR_LRS-SLITLESS"


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "p.nc"
    with pytest.raises(InputError, match="no such file"):
        read_netcdf(path)
    path.write_bytes(b"no netCDF")
    with pytest.raises(InputError, match="cannot be read"):
        read_netcdf(path)
    xr.Dataset({"a": 1}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(InputError, match="not written by spec2fn"):
        read_netcdf(path)


def test_interrupted(image_product, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", stop)
    with pytest.raises(InputError, match="No space"):
        write_netcdf(image_product(wcs=None), tmp_path / "p.nc")
    assert list(tmp_path.iterdir()) == []


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=10,
)


@given(values)
@settings(max_examples=50, deadline=None)
def test_encoding_is_undone(value):
    import json

    got = decode(json.loads(json.dumps(encode(value))))
    assert got == value
    assert type(got) is type(value)


def test_meta_is_optional(tmp_path):
    ds = xr.Dataset({"sci": (("y", "x"), np.ones((2, 2), np.float32))})
    got = read_netcdf(write_netcdf(ds, tmp_path / "p.nc"))
    assert got.attrs["meta"].primary is None
    got = read_netcdf(write_netcdf(with_meta(got, filename="a"), tmp_path / "q.nc"))
    assert got.attrs["meta"].filename == "a"
