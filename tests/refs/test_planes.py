"""Large planes of references: read when used, element by element if wanted."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.errors import ReferenceError
from spec2fn.plans.flux.tables import take
from spec2fn.refs import planes
from spec2fn.refs.reference import clear_cache, open_reference

RNG = np.random.default_rng(4)
SCI = RNG.normal(size=(3, 40, 50)).astype(np.float32)
DQ = RNG.integers(0, 4, size=(3, 40, 50)).astype(np.uint32)


@pytest.fixture
def path(tmp_path):
    # bits of this file: 1 is a hot pixel, 2 a name that does not exist
    table = np.array(
        [(0, 1, "HOT", ""), (1, 2, "WRONG", "")],
        dtype=[("BIT", "i4"), ("VALUE", "i4"), ("NAME", "S16"), ("DESCRIPTION", "S16")],
    )
    primary = fits.PrimaryHDU()
    primary.header["REFTYPE"] = "SFLAT"
    hdus = [
        primary,
        fits.ImageHDU(SCI, name="SCI"),
        fits.ImageHDU(DQ, name="DQ"),
        fits.BinTableHDU(table, name="DQ_DEF"),
    ]
    where = tmp_path / "flat.fits"
    fits.HDUList(hdus).writeto(where)
    clear_cache()
    return where


@pytest.fixture
def all_are_large(monkeypatch):
    monkeypatch.setattr(planes, "LARGE", 1)


def in_memory(ds, name):
    return ds.variables[name]._in_memory


@pytest.mark.usefixtures("all_are_large")
def test_elements_are_read_without_the_rest(path):
    ds = open_reference(path, "sflat")
    where = np.array([0, 5999, 123, 123])
    found = take(ds.variables["sci"], where)
    np.testing.assert_array_equal(found, SCI.reshape(-1)[where])
    assert found.dtype == np.dtype("=f4")
    assert not in_memory(ds, "sci")


@pytest.mark.usefixtures("all_are_large")
def test_flags_get_the_standard_bits_either_way(path):
    ds = open_reference(path)
    expected = np.where(DQ & 1, np.uint32(2**11), np.uint32(0))  # HOT is bit 11
    np.testing.assert_array_equal(
        take(ds.variables["dq"], np.arange(DQ.size)), expected.reshape(-1)
    )
    np.testing.assert_array_equal(ds["dq"].data, expected)
    assert ds["dq"].dtype == np.uint32


@pytest.mark.usefixtures("all_are_large")
def test_data_are_those_of_a_small_plane(path):
    ds = open_reference(path)
    np.testing.assert_array_equal(ds["sci"].data, SCI)
    assert ds["sci"].dtype == np.dtype("=f4")
    with pytest.raises(ValueError, match="read-only"):
        ds["sci"].data[0, 0, 0] = 1.0


@pytest.mark.usefixtures("all_are_large")
def test_what_replaces_the_data_counts(path):
    ds = open_reference(path)
    changed = ds["sci"].copy(data=2 * SCI)
    np.testing.assert_array_equal(take(changed.variable, np.arange(7)), 2 * SCI.reshape(-1)[:7])


@pytest.mark.usefixtures("all_are_large")
def test_reading_one_copy_leaves_the_next_in_the_file(path):
    first = open_reference(path)
    assert first["sci"].data.size == SCI.size
    assert not in_memory(open_reference(path), "sci")


@pytest.mark.usefixtures("all_are_large")
def test_a_file_that_changes_while_in_use_is_an_error(path):
    ds = open_reference(path)
    with path.open("ab") as stream:
        stream.write(b"\0" * 2880)
    with pytest.raises(ReferenceError, match="has changed while it was in use"):
        take(ds.variables["sci"], np.arange(3))


def test_small_and_scaled_planes_are_read_at_once(path, tmp_path, monkeypatch):
    assert in_memory(open_reference(path), "sci")
    monkeypatch.setattr(planes, "LARGE", 1)
    hdu = fits.ImageHDU((SCI * 100).astype(np.int16), name="SCI")
    hdu.scale("int16", bscale=0.5, bzero=3)
    scaled = tmp_path / "scaled.fits"
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(scaled)
    assert in_memory(open_reference(scaled), "sci")
