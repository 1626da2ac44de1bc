import errno
import gc
import gzip
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.errors import DatasetError, InputError
from spec2fn.io import ProductStream, open_product, save, write_product
from spec2fn.io.fits.fitsfile import FitsFile
from spec2fn.schema import with_attrs, with_meta


def _same(a, b, *, but=()):
    assert set(a.variables) - set(but) == set(b.variables) - set(but)
    for name in a.variables:
        if name in but:
            continue
        assert a[name].dims == b[name].dims, name
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))
        assert a[name].attrs.get("units", "") == b[name].attrs.get("units", ""), name


@pytest.mark.parametrize("shape", [(6, 5), (4, 6, 5)])
def test_image_round_trip(image_product, tmp_path, shape):
    ds = image_product(shape)
    got = open_product(write_product(ds, tmp_path / "a_cal.fits"))
    wave = ds["wavelength"].astype(np.float32).astype(float)
    # times that the table has to have are NaN where they are not known
    times = [n for n in got.variables if str(n).startswith("int_") and n not in ds]
    scalars = ["mid_time", "exposure_time", "ta_xpos", "photmjsr", "pixar_a2", "dithered_ra"]
    _same(ds.assign(wavelength=wave), got, but=[*times, *scalars])
    assert float(got["photmjsr"]) == 12.5
    assert float(got["dithered_ra"]) == 53.1
    assert "ta_xpos" not in got
    for name in ("model", "s_region", "specsys", "source_type", "dispaxis", "status_photom"):
        assert got.attrs[name] == ds.attrs[name]
    assert got.attrs["status_flat_field"] == "SKIPPED"
    records = got.attrs["meta"].records
    assert records["run"] == ds.attrs["meta"].records["run"]
    assert records["references"]["flat"] == "crds://flat.fits"
    assert records["crds_context"] == "jwst_0001.pmap"
    x, y = np.arange(3.0), np.arange(3.0) + 0.25
    ours, theirs = got.attrs["meta"].wcs(x, y), ds.attrs["meta"].wcs(x, y)
    np.testing.assert_array_equal(ours, theirs)


def test_headers(image_product, tmp_path):
    with fits.open(write_product(image_product((6, 5)), tmp_path / "a_cal.fits")) as hdul:
        hdul.verify("exception")
        primary, sci = hdul[0].header, hdul["SCI"].header
        names = [h.name for h in hdul]
        assert hdul["ERR"].header["BUNIT"] == "MJy/sr"
        assert hdul["DQ"].header["BZERO"] == 2**31
    assert names == [
        "PRIMARY", "SCI", "ERR", "DQ", "WAVELENGTH", "VAR_POISSON", "VAR_RNOISE", "PATHLOSS_PS",
        "SPEC2FN", "ASDF",
    ]  # fmt: skip
    expected = {
        "FILENAME": "a_cal.fits",
        "DATAMODL": "SlitModel",
        "DATE": "2024-01-01T00:00:00.000",
        "ASNTABLE": "asn.json",
        "CRDS_CTX": "jwst_0001.pmap",
        "R_FLAT": "crds://flat.fits",
        "S_RAMP": "COMPLETE",
        "S_WCS": "COMPLETE",
        "S_FLAT": "SKIPPED",
        "S_BARSHA": "SKIPPED",
        "DITH_RA": 53.1,
    }
    assert {k: primary[k] for k in expected} == expected
    assert primary["CAL_VER"].startswith("spec2fn ")
    assert primary.comments["S_FLAT"] == "Flat Field Correction"
    expected = {
        "BUNIT": "MJy/sr",
        "SRCTYPE": "POINT",
        "PHOTMJSR": 12.5,
        "PIXAR_A2": 0.0120955435,
        "SPECSYS": "BARYCENT",
        "DISPAXIS": 2,
        "SLTSTRT2": 529,
        "SLTSIZE1": 5,
        "V2_REF": -414.8,
    }
    assert {k: sci[k] for k in expected} == expected
    assert sci["S_REGION"].endswith("-27.799673132")
    assert "TA_XPOS" not in sci


@pytest.mark.parametrize(
    ("status", "recorded"),
    [
        ("SKIPPED: switched off", (None, None, "SKIPPED")),
        ("SKIPPED: no slit has a value", ("SKIPPED", "SKIPPED", "SKIPPED")),
        ("COMPLETE", ("COMPLETE", "COMPLETE", "COMPLETE")),
    ],
)
def test_statuses_as_the_official_products_have_them(image_product, tmp_path, status, recorded):
    steps = ("resample_spec", "master_background", "pixel_replace")
    ds = image_product((6, 5)).assign_attrs({f"status_{step}": status for step in steps})
    header = fits.getheader(write_product(ds, tmp_path / "a_cal.fits"))
    assert tuple(header.get(k) for k in ("S_RESAMP", "S_MSBSUB", "S_PXREPL")) == recorded


def test_nsclean_is_recorded_by_the_keyword_of_its_successor(image_product, tmp_path):
    ds = image_product((6, 5))
    for status, recorded in (("COMPLETE", "COMPLETE"), ("SKIPPED: switched off", "SKIPPED")):
        done = ds.assign_attrs(status_nsclean=status, status_photom="COMPLETE")
        done = done.assign_attrs(instrument="NIRSPEC", exp_type="NRS_FIXEDSLIT")
        header = fits.getheader(write_product(done, tmp_path / "a_cal.fits"))
        assert header["S_CLNFNS"] == recorded


def test_models_other_than_slit_have_no_slit_keywords(image_product, tmp_path):
    ds = with_attrs(image_product(), model="CubeModel")
    with fits.open(write_product(ds, tmp_path / "a.fits")) as hdul:
        names = [h.name for h in hdul]
        assert "SLTSTRT1" not in hdul["SCI"].header
    assert names.index("INT_TIMES") < names.index("VAR_POISSON")


def test_resampled(image_product, tmp_path):
    ds = image_product((6, 5)).drop_vars(["dq", "pathloss_ps"])
    ds["wht"] = (("y", "x"), np.ones((6, 5), np.float32))
    ds["con"] = (("context", "y", "x"), np.ones((1, 6, 5), np.int32))
    ds["covariance"] = (("lag", "y", "x"), np.arange(60.0).reshape(2, 6, 5))
    ds = ds.assign_attrs(
        resample_ndriz=1,
        resample_weight_type="ivm",
        resample_pixfrac=1.0,
        resample_pixel_scale_ratio=0.5,
    )
    path = write_product(ds, tmp_path / "a_s2d.fits")
    with fits.open(path) as hdul:
        assert hdul["CON"].data.shape == (1, 6, 5)
        assert hdul[0].header["RESWHT"] == "ivm"
        assert hdul[0].header["PXSCLRT"] == 0.5
        assert hdul["SCI"].header["TELAPSE"] == 100.0
        assert [h.name for h in hdul][-3:] == ["COVAR", "SPEC2FN", "ASDF"]
    got = open_product(path)
    for name in ("wht", "con", "covariance"):
        xr.testing.assert_identical(got[name].variable.load(), ds[name].variable)
    assert got.attrs["resample_weight_type"] == "ivm"


@pytest.mark.parametrize("integrations", [None, 5])
def test_spectra_round_trip(spectra_product, tmp_path, integrations):
    ds = spectra_product(integrations)
    path = write_product(ds, tmp_path / "a_x1d.fits")
    got = open_product(path)
    wave = ds["wavelength"]
    if integrations:
        wave = wave.expand_dims(integration=integrations)
    only_header = ["source_xpos", "srcxpos", "mid_time", "exposure_time", "dispaxis", "detector"]
    _same(ds.assign(wavelength=wave), got, but=[*only_header, "pa_aper"])
    with fits.open(path) as hdul:
        table = hdul["EXTRACT1D"]
        assert table.header["SRCXPOS"] == 39.5
        assert table.header["PA_APER"] == 34.83
        assert table.columns["FLUX"].unit == "Jy"
        assert table.columns["SB_VAR_FLAT"].unit == "MJy^2 / sr^2"
        assert table.columns.names[-1] == "FLUX_ERROR_COV"
        if integrations:
            assert list(table.data["INT_NUM"]) == [1, 2, 3, 4, 5]
            assert list(table.data["N_ALONGDISP"]) == [7] * 5
            assert table.columns["FLUX"].dim == "(7)"
            np.testing.assert_array_equal(table.data["TDB-MID"], ds["int_mid_bjd_tdb"])
    assert got.attrs["meta"].records["run"] == {"a": 1}


def test_spectra_of_different_length(spectra_product, tmp_path):
    one = spectra_product()
    ds = xr.concat([one, one], dim="spectrum", data_vars="minimal")
    ds["n_wave"] = ("spectrum", np.array([7, 4], np.int32))
    ds["sltname"] = ("spectrum", np.array(["A", "B"]))
    got = open_product(write_product(ds.assign_attrs(one.attrs), tmp_path / "a_x1d.fits"))
    assert list(got["n_wave"].values) == [7, 4]
    assert np.isnan(got["flux"].values[1, 4:]).all()
    np.testing.assert_array_equal(got["flux"].values[1, :4], ds["flux"].values[1, :4])
    assert list(got["sltname"].values) == ["A", "B"]


def test_spectral_wcs_is_kept(spectra_product, gwcs_object, tmp_path):
    ds = spectra_product(wcs={"MIR_LRS": gwcs_object})
    got = open_product(write_product(ds, tmp_path / "a_x1d.fits"))
    assert list(got.attrs["meta"].wcs) == ["MIR_LRS"]
    np.testing.assert_array_equal(got.attrs["meta"].wcs["MIR_LRS"](1.0, 2.5), gwcs_object(1.0, 2.5))


def test_same_input_gives_the_same_bytes_in_another_process(image_product, tmp_path):
    ds = image_product()
    (tmp_path / "a").mkdir()
    first = write_product(ds, tmp_path / "a" / "p.fits")
    code = (
        "import sys; from spec2fn.io import open_product, write_product;"
        "write_product(open_product(sys.argv[1]), sys.argv[2])"
    )
    (tmp_path / "b").mkdir()
    second = tmp_path / "b" / "p.fits"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, first, second], check=True, env=env)
    assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("kind", ["image_product", "spectra_product"])
def test_chunks_give_the_bytes_of_the_whole(kind, request, tmp_path):
    ds = request.getfixturevalue(kind)((5, 6, 5) if kind == "image_product" else 5)
    whole = write_product(ds, tmp_path / "p.fits").read_bytes()
    for chunk in (1, 2, 5):
        with ProductStream(tmp_path / "p.fits", ds.isel(integration=slice(0, 1)), 5) as stream:
            for first in range(0, 5, chunk):
                stream.append(ds.isel(integration=slice(first, first + chunk)))
        assert (tmp_path / "p.fits").read_bytes() == whole


def test_integrations_are_numbered_over_chunks_without_times(spectra_product, tmp_path):
    ds = spectra_product(4)
    ds = ds.drop_vars([n for n in ds.variables if str(n).startswith("int")])
    with ProductStream(tmp_path / "p.fits", ds, 4) as stream:
        stream.append(ds.isel(integration=slice(0, 3)))
        stream.append(ds.isel(integration=slice(3, 4)))
    with fits.open(tmp_path / "p.fits") as hdul:
        assert list(hdul[1].data["INT_NUM"]) == [1, 2, 3, 4]
        assert np.isnan(hdul[1].data["MJD-AVG"]).all()


def test_lazy_product_is_copied_without_loading(exposure, tmp_path):
    path = exposure(EXP_TYPE="MIR_LRS-SLITLESS")
    ds = open_product(path)
    write_product(ds, tmp_path / "copy.fits")
    np.testing.assert_array_equal(
        open_product(tmp_path / "copy.fits")["dq"], open_product(path)["dq"]
    )


def _stream(path, ds, announced, chunks):
    with ProductStream(path, ds, announced) as stream:
        for chunk in chunks:
            stream.append(chunk)


def test_wrong_number_of_integrations(image_product, tmp_path):
    ds = image_product()
    with pytest.raises(DatasetError, match="3 integration"):
        _stream(tmp_path / "p.fits", ds, 4, [ds.isel(integration=slice(0, 3))])
    with pytest.raises(DatasetError, match="8 integration"):
        _stream(tmp_path / "p.fits", ds, 4, [ds, ds])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["image_product", "spectra_product"])
def test_memory_does_not_grow_with_the_number_of_integrations(kind, request, tmp_path):
    import tracemalloc

    def clean(count):
        # CPython keeps up to 2000 freed tuples of each length; a collection gives them back
        for _ in range(count):
            yield chunk
            gc.collect()

    make = request.getfixturevalue(kind)
    chunk = make((10, 6, 5), wcs=None) if kind == "image_product" else make(10)
    _stream(tmp_path / "p.fits", chunk, 10, [chunk])  # imports are not part of it
    peaks = []
    gc.collect()
    gc.freeze()  # so that collecting often is cheap
    try:
        for count in (10, 100):
            tracemalloc.start()
            _stream(tmp_path / "p.fits", chunk, 10 * count, clean(count))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    finally:
        gc.unfreeze()
    assert peaks[1] < 1.1 * peaks[0]
    assert dict(open_product(tmp_path / "p.fits").sizes)["integration"] == 1000


def test_not_a_product(tmp_path):
    with pytest.raises(DatasetError, match="'sci' or 'flux'"):
        write_product(xr.Dataset({"a": 1}), tmp_path / "p.fits")
    with pytest.raises(InputError, match=r"neither .fits nor .nc"):
        save(xr.Dataset(), tmp_path / "p.txt")


@pytest.mark.parametrize("suffix", ["fits", "nc"])
def test_unwritable_folder(image_product, tmp_path, suffix):
    ds = image_product(wcs=None)
    with pytest.raises(InputError, match=r"none/p.*cannot be written"):
        save(ds, tmp_path / "none" / f"p.{suffix}")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save(ds, tmp_path / "file" / f"p.{suffix}")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("when", ["pwrite", "fsync", "ftruncate"])
def test_failure_leaves_the_old_file_and_nothing_else(
    image_product, tmp_path, monkeypatch, error, when
):
    ds = image_product(wcs=None)
    path = tmp_path / "p.fits"
    path.write_text("old")
    calls = []
    original = getattr(os, when)

    def fail(*args):
        calls.append(args)
        if when != "pwrite" or len(calls) > 15:
            raise error
        return original(*args)

    monkeypatch.setattr(os, when, fail)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write_product(ds, path)
    if isinstance(error, OSError):
        assert "p.fits: cannot be written (No space left on device)" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["p.fits"]
    assert path.read_text() == "old"


def test_short_writes_are_continued(image_product, tmp_path, monkeypatch):
    ds = image_product(wcs=None)
    whole = write_product(ds, tmp_path / "p.fits").read_bytes()
    original = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: original(fd, data[:1000], at))
    assert write_product(ds, tmp_path / "p.fits").read_bytes() == whole


def test_killed_process_leaves_no_product(tmp_path):
    code = (
        "import sys, numpy as np, xarray as xr\n"
        "from spec2fn.io import ProductStream\n"
        "chunk = xr.Dataset({'sci': (('integration', 'y', 'x'), np.ones((1, 9, 9), 'f4'))})\n"
        "with ProductStream(sys.argv[1], chunk, 10**6) as stream:\n"
        "    stream.append(chunk)\n"
        "    print('started', flush=True)\n"
        "    while True:\n"
        "        stream.append(chunk)\n"
    )
    path = tmp_path / "p.fits"
    child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"started\n"
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not path.exists()


def test_forgotten_stream_removes_its_file(image_product, tmp_path):
    stream = ProductStream(tmp_path / "p.fits", image_product(wcs=None))
    assert len(list(tmp_path.iterdir())) == 1
    del stream
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["image_product", "spectra_product"])
@pytest.mark.parametrize("many", [False, True])
def test_datamodels_open_and_validate(kind, many, request, tmp_path, gwcs_object):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    if kind == "image_product":
        ds = request.getfixturevalue(kind)((4, 6, 5) if many else (6, 5))
    else:
        ds = request.getfixturevalue(kind)(4 if many else None, wcs={"MIR_LRS": gwcs_object})
    with datamodels.open(write_product(ds, tmp_path / "p.fits")) as model:
        assert type(model).__name__ == ds.attrs["model"]
        assert model.validate() is None
        if kind == "image_product":
            np.testing.assert_array_equal(model.data, ds["sci"])
            np.testing.assert_array_equal(model.meta.wcs(1.0, 2.0), gwcs_object(1.0, 2.0))
            assert model.meta.photometry.conversion_megajanskys == 12.5
        else:
            np.testing.assert_array_equal(model.spec[0].spec_table["FLUX"], ds["flux"][..., 0, :])
            np.testing.assert_array_equal(model.spec[0].meta.wcs(1.0, 2.0), gwcs_object(1.0, 2.0))
            assert model.spec[0].name == "MIR_LRS"


def test_specutils_reads_the_spectrum(spectra_product, tmp_path):
    specutils = pytest.importorskip("specutils")
    ds = spectra_product()
    ds["flux_error"] = abs(ds["flux_error"])
    path = write_product(ds, tmp_path / "p_x1d.fits")
    spectrum = specutils.Spectrum.read(path)
    np.testing.assert_allclose(spectrum.flux.value, ds["flux"].values[0])
    assert str(spectrum.flux.unit) == "Jy"
    np.testing.assert_allclose(spectrum.spectral_axis.value, ds["wavelength"].values[0])


def test_product_without_headers(tmp_path):
    ds = xr.Dataset({"sci": (("y", "x"), np.ones((3, 4), np.float32))})
    ds = ds.assign_attrs(exp_type="MIR_LRS-FIXEDSLIT", instrument="MIRI", xstart=1)
    got = open_product(write_product(ds, tmp_path / "p.fits"))
    assert got.attrs["exp_type"] == "MIR_LRS-FIXEDSLIT"
    assert got.attrs["xstart"] == 1


def test_writing_does_not_change_the_dataset(image_product, tmp_path):
    ds = image_product()
    before = {n: ds[n].values.tobytes() for n in ds.variables}
    header = ds.attrs["meta"].primary.tostring()
    write_product(with_meta(ds, filename="x"), tmp_path / "p.fits")
    assert before == {n: ds[n].values.tobytes() for n in ds.variables}
    assert ds.attrs["meta"].primary.tostring() == header


def _old_spectra(path, primary, numbers, columns, lengths=None):
    """A file in the layout of products of the years before: one table for each spectrum."""
    rng = np.random.default_rng(3)
    hdus = [
        fits.PrimaryHDU(header=primary(DATAMODL="MultiSpecModel", NINTS=max(numbers, default=1)))
    ]
    for k in range(max(len(numbers), 1)):
        n = 9 if lengths is None else lengths[k]
        made = [fits.Column(c, "D", array=rng.random(n), unit="Jy") for c in columns]
        table = fits.BinTableHDU.from_columns(made, name="EXTRACT1D", ver=k + 1)
        table.header["SLTNAME"] = f"slit {k % 2}"
        if numbers:
            table.header["INT_NUM"] = numbers[k]
        hdus.append(table)
    fits.HDUList(hdus).writeto(path)
    return [h.data for h in hdus[1:]]


def test_integrations_with_tables_of_their_own(primary, tmp_path):
    """Before jwst 1.18 every spectrum of every integration had a table."""
    path = tmp_path / "old_x1dints.fits"
    tables = _old_spectra(path, primary, [1, 1, 2, 2, 3, 3], ["WAVELENGTH", "FLUX", "FLUX_ERROR"])
    ds = open_product(path)
    assert ds["flux"].dims == ("integration", "spectrum", "wave")
    assert ds["flux"].shape == (3, 2, 9)
    assert list(ds["sltname"].values) == ["slit 0", "slit 1"]
    for i in range(3):
        for k in range(2):
            np.testing.assert_array_equal(ds["flux"][i, k], tables[2 * i + k]["FLUX"])
            np.testing.assert_array_equal(ds["wavelength"][i, k], tables[2 * i + k]["WAVELENGTH"])
    again = open_product(save(ds, tmp_path / "new_x1dints.fits"))
    np.testing.assert_array_equal(again["flux"], ds["flux"])


def test_columns_of_a_series_are_read_when_they_are_used(primary, tmp_path, monkeypatch):
    names = ["WAVELENGTH", "FLUX", "FLUX_ERROR", "NPIXELS"]
    _old_spectra(tmp_path / "old.fits", primary, [1, 1, 2, 2, 3, 3], names)
    before = open_product(tmp_path / "old.fits")
    path = save(before, tmp_path / "new_x1dints.fits")
    packed = tmp_path / "packed_x1dints.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    taken = []
    fill = FitsFile._fill

    def watched(self, pieces, starts):
        taken.append(pieces.nbytes)
        return fill(self, pieces, starts)

    monkeypatch.setattr(FitsFile, "_fill", watched)
    ds = open_product(path)
    assert set(taken) == {24}  # times
    taken.clear()
    np.testing.assert_array_equal(ds["flux"][1], before["flux"][1])
    np.testing.assert_array_equal(ds["flux"][:, 1, 2:5], before["flux"][:, 1, 2:5])
    # of two spectra of nine elements, in one integration and in three
    assert taken == [72, 72, 216, 216]
    np.testing.assert_array_equal(open_product(packed)["npixels"], before["npixels"])
    path.write_bytes(path.read_bytes()[:2880])
    with pytest.raises(InputError, match="has become shorter"):
        _ = ds["npixels"].values


def test_integrations_that_do_not_agree(primary, tmp_path):
    path = tmp_path / "old_x1dints.fits"
    _old_spectra(path, primary, [1, 2], ["WAVELENGTH", "FLUX"], lengths=[9, 8])
    with pytest.raises(InputError, match="INT_NUM"):
        open_product(path)


def test_columns_by_their_former_names(primary, tmp_path):
    path = tmp_path / "old_x1d.fits"
    (table,) = _old_spectra(path, primary, [], ["WAVELENGTH", "FLUX", "ERROR", "BERROR"])
    ds = open_product(path)
    np.testing.assert_array_equal(ds["flux_error"][0], table["ERROR"])
    np.testing.assert_array_equal(ds["bkgd_error"][0], table["BERROR"])


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("EXTVER", "junk"), ("TFIELDS", 40), ("TFORM2", "junk"), ("TTYPE1", "LAMBDA")],
)
def test_damaged_tables_are_one_line(primary, tmp_path, keyword, value):
    path = tmp_path / "x1d.fits"
    _old_spectra(path, primary, [], ["WAVELENGTH", "FLUX"])
    content = bytearray(path.read_bytes())
    at = content.index(keyword.ljust(8).encode() + b"= ")
    text = f"'{value:8}'" if isinstance(value, str) else f"{value:20}"
    content[at + 10 : at + 80] = text.ljust(70).encode()
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x1d\.fits") as caught:
        open_product(path)
    assert "\n" not in str(caught.value)
