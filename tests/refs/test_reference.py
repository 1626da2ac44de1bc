"""Reading reference files into Datasets."""

import json
import subprocess
import sys

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.refs import LazyReference, clear_cache, coerce_reference, open_reference
from spec2fn.refs.reference import standard_dq


def test_import_is_light():
    code = (
        "import sys, spec2fn.refs;"
        "assert not {'crds', 'asdf', 'astropy', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fits_images_tables_and_flags(tmp_path, make_flat):
    ds = open_reference(make_flat(tmp_path / "f.fits", FILTER="P750L", SUBSTRT1=3), "flat")
    assert ds["sci"].dims == ("y", "x")
    assert ds["sci"].dtype == np.dtype("float32")
    assert ds["sci"].dtype.isnative
    assert not ds["sci"].values.flags.writeable
    assert ds["dq"].values[1, 2] == PIXEL["DO_NOT_USE"]
    assert ds["dq"].values[3, 3] == PIXEL["NO_FLAT_FIELD"]  # the unknown flag is dropped
    assert list(ds["dq_def.name"].values) == ["DO_NOT_USE", "NO_FLAT_FIELD", "NOT_A_FLAG"]
    assert ds["dq_def.value"].dims == ("dq_def_row",)
    assert ds.attrs["reftype"] == "flat"
    assert ds.attrs["filter"] == "P750L"
    assert ds.attrs["xstart"] == 3
    assert ds.attrs["meta"].get("REFTYPE") == "FLAT"
    assert ds.attrs["filename"] == "f.fits"


def test_fits_scalars_cubes_and_vector_columns(tmp_path):
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    primary.header["PIXAR_SR"] = 2.5e-13
    primary.header["PIXAR_A2"] = 0.01
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("filter", "12A", array=["P750L", "F770W"]),
            fits.Column("Relresponse", "3E", array=np.arange(6.0).reshape(2, 3)),
            fits.Column("grid", "6D", dim="(3,2)", array=np.arange(12.0).reshape(2, 2, 3)),
            fits.Column("ragged", "PE()", array=np.array([[1.0], [2.0, 3.0]], dtype=object)),
        ],
        name="PHOTOM",
    )
    small = fits.ImageHDU(np.ones((2, 2)), name="SMALL")
    cube = fits.ImageHDU(np.ones((3, 4, 5)), name="CUBE")
    wave = fits.ImageHDU(np.ones(7), name="WAVE")
    second = fits.ImageHDU(np.zeros((4, 5)), name="SCI", ver=2)
    first = fits.ImageHDU(np.ones((4, 5)), name="SCI")
    path = tmp_path / "p.fits"
    fits.HDUList([primary, first, second, cube, small, wave, table]).writeto(path)
    ds = open_reference(path)
    assert float(ds["pixar_sr"]) == 2.5e-13
    assert ds["pixar_a2"].dims == ()
    assert ds["sci"].dims == ds["sci_2"].dims == ("y", "x")
    assert ds["cube"].dims == ("cube_d0", "y", "x")
    assert ds["small"].dims == ("small_y", "small_x")
    assert ds["wave"].dims == ("wave_d0",)
    assert list(ds["photom.filter"].values) == ["P750L", "F770W"]
    assert ds["photom.relresponse"].shape == (2, 3)
    np.testing.assert_array_equal(ds["photom.grid"], np.arange(12.0).reshape(2, 2, 3))
    np.testing.assert_array_equal(ds["photom.ragged"].values, [[1.0, np.nan], [2.0, 3.0]])


def test_asdf_and_json_trees(tmp_path):
    import asdf

    path = tmp_path / "d.asdf"
    tree = {
        "meta": {"reftype": "distortion", "instrument": {"name": "MIRI", "filter": "P750L"}},
        "offsets": np.arange(5.0),
    }
    asdf.AsdfFile(tree).write_to(path)
    ds = open_reference(path, "distortion")
    np.testing.assert_array_equal(ds.attrs["tree"]["offsets"], np.arange(5.0))
    assert ds.attrs["instrument"] == "MIRI"
    assert ds.attrs["meta"].get("FILTER") == "P750L"
    text = tmp_path / "e.json"
    text.write_text(json.dumps({"reftype": "EXTRACT1D", "apertures": [1]}))
    assert open_reference(text, "extract1d").attrs["tree"]["apertures"] == [1]


def test_standard_dq_against_a_loop():
    rng = np.random.default_rng(0)
    names = rng.permutation([n for n, b in PIXEL.items() if b])[:12]
    values = 2 ** rng.permutation(12)
    dq = rng.integers(0, 2**12, (30, 40)).astype(np.uint32)
    expected = np.zeros(dq.shape, np.uint32)
    for index in np.ndindex(dq.shape):
        for value, name in zip(values, names, strict=True):
            if dq[index] & value:
                expected[index] |= np.uint32(PIXEL[name])
    got, unknown = standard_dq(dq, values, names)
    np.testing.assert_array_equal(got, expected)
    assert unknown == ()


def test_read_once_and_again_when_changed(tmp_path, make_flat):
    clear_cache()
    path = make_flat(tmp_path / "f.fits", 2.0)
    first = open_reference(path, "flat")
    again = open_reference(path, "flat")
    assert np.shares_memory(first["sci"].values, again["sci"].values)
    again.attrs["changed"] = True
    again["new"] = 1
    assert "new" not in open_reference(path, "flat")
    assert "changed" not in open_reference(path, "flat").attrs
    import os

    make_flat(path, 3.0)
    os.utime(path, ns=(1, 1))
    assert float(open_reference(path, "flat")["sci"][0, 0]) == 3.0


def test_wrong_type_names_file_found_and_needed(tmp_path, make_flat):
    path = make_flat(tmp_path / "f.fits")
    with pytest.raises(ReferenceError, match=r"f\.fits is a reference of type 'flat'.*PHOTOM"):
        open_reference(path, "photom")


def test_unusable_files(tmp_path, make_flat):
    with pytest.raises(ReferenceError, match=r"'flat'.*nowhere\.fits does not exist"):
        open_reference(tmp_path / "nowhere.fits", "flat")
    path = make_flat(tmp_path / "f.fits")
    whole = path.read_bytes()
    for size in (10, 3000, 6000, len(whole) - 2880):
        path.write_bytes(whole[:size])
        with pytest.raises(ReferenceError, match=r"f\.fits cannot be read") as caught:
            open_reference(path, "flat")
        assert "\n" not in str(caught.value)
    for name, content in (("t.txt", b"hello"), ("t.json", b"{1"), ("t.asdf", b"#ASDF 1.0.0\n%")):
        broken = tmp_path / name
        broken.write_bytes(content)
        with pytest.raises(ReferenceError, match="cannot be read"):
            open_reference(broken, "flat")
    with pytest.raises(ReferenceError, match="cannot be read"):
        open_reference(tmp_path, "flat")


def test_coerce(tmp_path, make_flat):
    path = make_flat(tmp_path / "f.fits", 2.0)
    assert coerce_reference(None, "flat") is None
    assert coerce_reference("N/A", "flat") is None
    ds = open_reference(path)
    assert coerce_reference(ds, "flat") is ds
    lazy = LazyReference(path, "flat")
    assert coerce_reference(lazy, "flat") is lazy.load()
    assert coerce_reference(str(path), "flat")["sci"].shape == (4, 5)
    made = coerce_reference(np.ones((4, 5)), "flat")
    assert made["sci"].dims == ("y", "x")
    assert coerce_reference(ds["sci"], "flat")["sci"].dims == ("y", "x")
    assert coerce_reference({"apertures": []}, "extract1d").attrs["tree"] == {"apertures": []}
    for bad in (3.0, np.ones(3), "x" * 3, np.array([["a"]])):
        with pytest.raises(ReferenceError):
            coerce_reference(bad, "flat")


def test_coerce_traced_array():
    import jax
    import jax.numpy as jnp

    total = jax.grad(lambda a: jnp.sum(coerce_reference(a, "flat")["sci"].data ** 2))
    np.testing.assert_array_equal(total(jnp.ones((2, 3))), 2 * np.ones((2, 3)))
