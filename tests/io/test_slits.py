"""Products of many slits: round trips, padding, the ASDF extension, laziness, chunks, netCDF."""

import re

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.errors import DatasetError, InputError
from spec2fn.io import (
    ProductStream,
    diff,
    open_exposure,
    open_product,
    read_netcdf,
    save,
    write_product,
)
from spec2fn.io.fits.asdf_tree import TreeWriter, cut_slit
from spec2fn.io.fits.asdf_wcs import asdf_bytes, wcs_of_cut
from spec2fn.io.fits.fitsfile import FitsFile
from spec2fn.schema import Meta, meta_of
from spec2fn.slits import Slits
from tests.buckets import bucketize

SHAPES = [(4, 9), (5, 9), (4, 30), (2, 7)]


def _wcs(k):
    """A gwcs of which only one number is that of slit `k`; it holds a transform that inverts
    itself, and a table."""
    from astropy import units as u
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Const1D, Identity, Mapping, Shift, Tabular1D
    from gwcs import WCS
    from gwcs.coordinate_frames import CoordinateFrame, Frame2D

    swap = Mapping((1, 0))
    swap.inverse = Mapping((1, 0))
    swap.inverse.inverse = swap
    table = Tabular1D(points=(np.arange(40.0),), lookup_table=np.arange(40.0) ** 2 + k)
    table.bounds_error = False
    constant = Const1D(1.5)
    constant.inverse = constant
    model = (
        Shift(1.0 + k) & Shift(2.0)
        | swap
        | swap
        | table & Identity(1)
        | Mapping((1, 1, 0))
        | Identity(1) & constant & Identity(1)
    )
    bind_bounding_box(model, ((-0.5, 8.5 + k), (-0.5, 3.5)), order="F")
    world = CoordinateFrame(
        3, ("SPATIAL",) * 3, (0, 1, 2), unit=(u.deg,) * 3, name="world", axes_names=("a", "b", "c")
    )
    return WCS([(Frame2D(name="detector"), model), (world, None)])


def _slit(k, shape, primary, science, integrations=None):
    rng = np.random.default_rng(k)
    lead = ("y", "x") if integrations is None else ("integration", "y", "x")
    full = shape if integrations is None else (integrations, *shape)
    fixed = k == 2
    data = {
        "sci": (lead, rng.normal(size=full).astype(np.float32)),
        "err": (lead, rng.random(full).astype(np.float32)),
        "dq": (lead, rng.integers(0, 2**32, full, dtype=np.uint32)),
        "var_poisson": (lead, rng.random(full).astype(np.float32)),
        "wavelength": (("y", "x"), rng.random(shape).astype(np.float32).astype(np.float64)),
        "pathloss_ps": (("y", "x"), rng.random(shape).astype(np.float32)),
        "photom_point": (
            ("y", "x"),
            np.full(shape, 2.0 if fixed else np.nan, np.float32),
        ),
        "barshadow": (("y", "x"), np.ones(shape, np.float32)),
    }
    values = {
        "slit_name": "S200A1" if fixed else str(k + 1),
        "source_id": 10 + k,
        "source_name": f"prog_{k}",
        "source_alias": "it" if k else "",
        "stellarity": 0.25 * k,
        "source_type": "POINT" if fixed else "EXTENDED",
        "source_xpos": 0.125,
        "source_ypos": -0.25,
        "source_ra": 53.0 + k,
        "source_dec": -27.0,
        "quadrant": 5 if fixed else 3,
        "slitlet_id": k,
        "shutter_id": 100 + k,
        "shutter_state": "x" if fixed else "1x1",
        "slit_xscale": 1.25,
        "slit_yscale": 1.5,
        "xstart": 7 + k,
        "ystart": 3 * k + 1,
        "wavelength_corrected": fixed,
        "pathloss_correction_type": "POINT" if fixed else "UNIFORM",
        "barshadow_corrected": not fixed,
        "bunit": "MJy" if fixed else "MJy/sr",
        "photmjsr": 1.5 + k,
        "s_region": f"POLYGON ICRS {k}",
    }
    data |= {n: ((), np.asarray(v)) for n, v in values.items()}
    meta = Meta(primary, science, "jw_test_rate.fits")
    attrs = {
        "exp_type": "NRS_MSASPEC",
        "instrument": "NIRSPEC",
        "detector": "NRS1",
        "dispaxis": 1,
        "model": "MultiSlitModel",
        "status_photom": "COMPLETE",
        "meta": meta,
    }
    return xr.Dataset(data, attrs=attrs)


@pytest.fixture
def make(primary):
    """``make(integrations=None, n=4)``: slits of different sizes in buckets."""

    def build(integrations=None, n=4, wcs=True):
        header = primary("NRS_MSASPEC", INSTRUME="NIRSPEC", DETECTOR="NRS1")
        science = fits.Header([("MJD-BEG", 60370.5), ("BUNIT", "DN/s"), ("PA_APER", 30.25)])
        science["WCSAXES"], science["RA_REF"], science["S_REGION"] = 3, 53.5, "of the exposure"
        slits = [_slit(k, SHAPES[k % 4], header, science, integrations) for k in range(n)]
        made = bucketize(slits, most=2)
        if integrations is not None:
            numbers = np.arange(1, integrations + 1, dtype=np.int32)
            times = {"integration_number": numbers, "int_mid_mjd_utc": 60000.0 + numbers}
            times = {name: ("integration", column) for name, column in times.items()}
            made = made.map(lambda b: b.assign(times))
        held = {k: _wcs(k) for k in range(n)} if wcs else None
        return made.assign_attrs(meta=made.attrs["meta"].replace(wcs=held))

    return build


def _equal(a, b, *, but=()):
    assert a.ids == b.ids
    for one, two in zip(a, b, strict=True):
        for name, var in one.variables.items():
            if name in but or (name == "barshadow" and one["quadrant"] == 5):
                continue
            # what a slit has nothing of is not written
            if var.dtype.kind == "f" and var.ndim > 1 and np.isnan(var.values).all():
                continue
            assert name in two, name
            assert two[name].dims == var.dims
            np.testing.assert_array_equal(two[name].values, var.values, err_msg=str(name))
            if var.dtype.kind != "U":
                assert two[name].dtype == var.dtype


@pytest.mark.parametrize("integrations", [None, 3])
def test_round_trip(make, tmp_path, integrations):
    slits = make(integrations)
    assert len(slits.buckets) > 1
    assert any(b["sci"].shape[-2:] != (b["ysize"][0], b["xsize"][0]) for b in slits.buckets)
    path = write_product(slits, tmp_path / "a_cal.fits")
    back = open_product(path)
    assert isinstance(back, Slits)
    _equal(slits, back)
    assert back.attrs["model"] == "MultiSlitModel"
    assert back.attrs["status_photom"] == "COMPLETE"
    assert "s_region" not in back.attrs
    again = write_product(back, tmp_path / "b_cal.fits")
    report = diff(path, again, rtol=0)
    assert report.same, str(report)
    assert not report.files[0].keywords
    assert isinstance(open_exposure(path), Slits)


def test_layout(make, tmp_path):
    slits = make()
    with fits.open(write_product(slits, tmp_path / "a.fits")) as hdul:
        hdul.verify("exception")
        assert hdul[0].header["DATAMODL"] == "MultiSlitModel"
        names = [(h.name, h.ver) for h in hdul]
        first = ["SCI", "DQ", "ERR", "WAVELENGTH", "BARSHADOW", "VAR_POISSON", "PATHLOSS_PS"]
        assert names[1:8] == [(n, 1) for n in first]
        assert ("PHOTOM_PS", 3) in names
        assert ("PHOTOM_PS", 1) not in names
        assert ("BARSHADOW", 3) not in names
        for k, shape in enumerate(SHAPES, 1):
            header = hdul["SCI", k].header
            assert hdul["SCI", k].data.shape == shape
            np.testing.assert_array_equal(hdul["DQ", k].data, slits.slit(k - 1)["dq"])
            assert header["BUNIT"] == hdul["ERR", k].header["BUNIT"]
            assert header["BUNIT"] == ("MJy" if k == 3 else "MJy/sr")
            assert (header["SLTSIZE2"], header["SLTSIZE1"]) == shape
            assert header["SOURCEID"] == 9 + k
            assert header["S_REGION"] == f"POLYGON ICRS {k - 1}"
            assert header["RA_REF"] == 53.5
            assert header["PHOTMJSR"] == 0.5 + k
            assert header["SRCTYPE"] == ("POINT" if k == 3 else "EXTENDED")
            assert ("BARSHDW" in header) == (k != 3)
            assert ("SRCALIAS" in header) == (k > 1)
            # what the slits share is said once
            assert ("MJD-BEG" in header) == (k == 1)


def test_fixed_slits_have_no_keywords_of_shutters(make, tmp_path):
    slits = make().map(
        lambda b: b.assign(
            shutter_state=("slit", np.array([""] * b.sizes["slit"])),
            source_type=("slit", np.array(["UNKNOWN"] * b.sizes["slit"])),
        )
    )
    slits = slits.assign_attrs(exp_type="NRS_FIXEDSLIT", source_type="POINT")
    with fits.open(write_product(slits, tmp_path / "a.fits")) as hdul:
        for k in (1, 2):
            header = hdul["SCI", k].header
            assert {"SLITID", "SRCNAME", "SHUTSTA", "MSAQUAD", "SLTXSCL"}.isdisjoint(header)
            assert header["SHUTTRID"] == 99 + k
            assert "SRCTYPE" not in header


def test_type_of_the_exposure_stands_where_it_stood(make, tmp_path):
    slits = make()
    science = slits.attrs["meta"].science.copy()
    science.insert(0, ("SRCTYPE", "UNKNOWN", "Source type used for calibration"))
    slits = slits.assign_attrs(
        source_type="POINT", meta=slits.attrs["meta"].replace(science=science)
    )
    path = write_product(slits, tmp_path / "a.fits")
    header = fits.getheader(path, "SCI", 1)
    names = list(header)
    assert names.index("SRCTYPE") < names.index("EXTVER")
    assert header["SRCTYPE"] == "EXTENDED"  # that of the slit
    assert names.count("SRCTYPE") == 1
    assert open_product(path).attrs["source_type"] == "EXTENDED"


def test_subset_keeps_the_order_and_the_wcs(make, tmp_path):
    slits = make().select(["4", "2"])
    assert slits.ids == (1, 3)
    back = open_product(write_product(slits, tmp_path / "a.fits"))
    assert back.names == ("2", "4")
    assert back.ids == (0, 1)
    x, y = np.meshgrid(np.arange(9.0), np.arange(4.0))
    np.testing.assert_array_equal(meta_of(back.buckets[0]).wcs[1](x, y), _wcs(3)(x, y))


@pytest.mark.parametrize("suffix", ["fits", "nc"])
def test_wcs_of_a_slit_is_that_of_its_bucket(make, tmp_path, suffix):
    # a step on a bucket leaves the WCS of other slits as they were, or out
    slits = make()
    changed = []
    for n, bucket in enumerate(slits.buckets):
        wcs = {} if n else {k: _wcs(k) for k in range(4)}
        wcs |= {int(i): _wcs(10 + int(i)) for i in bucket["slit"].values}
        changed.append(bucket.assign_attrs(meta=meta_of(bucket).replace(wcs=wcs)))
    back = open_product(save(Slits(tuple(changed)), tmp_path / f"a.{suffix}"))
    x, y = np.meshgrid(np.arange(9.0), np.arange(4.0))
    for k in range(4):
        wcs = meta_of(back.buckets[0]).wcs[k]
        np.testing.assert_array_equal(wcs(x, y), _wcs(10 + k)(x, y))


def test_resampled_slits_keep_the_size_of_their_cut_outs(make, tmp_path):
    slits = make().map(
        lambda b: b.assign(
            cutout_ysize=b["ysize"] + 3,
            cutout_xsize=b["xsize"],
            wht=(("slit", "y", "x"), np.ones(b["sci"].shape, np.float32)),
            con=(("slit", "y", "x"), np.ones(b["sci"].shape, np.int32)),
        ).drop_vars("dq")
    )
    path = write_product(slits, tmp_path / "a_s2d.fits")
    with fits.open(path) as hdul:
        assert [h.name for h in hdul[1:5]] == ["SCI", "ERR", "WAVELENGTH", "BARSHADOW"]
        assert hdul["CON", 2].data.shape == (1, *SHAPES[1])
        assert hdul["SCI", 2].header["SLTSIZE2"] == SHAPES[1][0] + 3
    back = open_product(path)
    assert back.slit(1).sizes["y"] == SHAPES[1][0]
    assert int(back.slit(1)["cutout_ysize"]) == SHAPES[1][0] + 3
    assert diff(path, write_product(back, tmp_path / "b_s2d.fits"), rtol=0).same


def test_chunks_give_the_bytes_of_the_whole(make, tmp_path):
    slits = make(5)
    whole = write_product(slits, tmp_path / "whole.fits")
    with ProductStream(
        tmp_path / "whole2.fits", slits.map(lambda b: b.isel(integration=[0])), 5
    ) as s:
        for part in (slice(0, 2), slice(2, 5)):
            s.append(slits.map(lambda b, part=part: b.isel(integration=part)))
    a, b = (p.read_bytes() for p in (whole, tmp_path / "whole2.fits"))
    assert a == b.replace(b"whole2.fits'", b"whole.fits' ")


def test_time_series_of_one_slit(make, tmp_path):
    slits = make(4, n=1).assign_attrs(exp_type="NRS_BRIGHTOBJ", model="SlitModel")
    path = write_product(slits, tmp_path / "whole.fits")
    with fits.open(path) as hdul:
        names = [h.name for h in hdul]
        assert names[:5] == ["PRIMARY", "SCI", "ERR", "DQ", "WAVELENGTH"]
        assert "INT_TIMES" in names
        assert "PHOTOM_PS" not in names
        assert hdul[0].header["DATAMODL"] == "SlitModel"
        header = hdul["SCI"].header
        assert header["NAXIS3"] == 4
        assert header["SLTNAME"] == "1"
        assert header["SOURCEID"] == 10
        assert header["SLTSTRT1"] == 7
        assert header["BUNIT"] == hdul["ERR"].header["BUNIT"] == "MJy/sr"
        assert list(header).index("EXTVER") < list(header).index("SLTNAME")
    back = open_product(path)
    assert isinstance(back, Slits)
    assert back.dims == ("slit", "integration", "y", "x")
    # what only slits of shutters have
    shutters = {"source_name", "source_alias", "stellarity", "source_ra", "source_dec"}
    shutters |= {"slitlet_id", "shutter_state", "slit_xscale", "slit_yscale", "quadrant"}
    _equal(slits, back, but={*shutters, "barshadow_corrected"})
    x, y = np.meshgrid(np.arange(9.0), np.arange(4.0))
    np.testing.assert_array_equal(meta_of(back.buckets[0]).wcs[0](x, y), _wcs(0)(x, y))
    (bucket,) = slits.buckets
    with ProductStream(tmp_path / "parts.fits", bucket.isel(integration=[0]), 4) as stream:
        stream.append(bucket.isel(integration=slice(0, 3)))
        stream.append(slits.map(lambda b: b.isel(integration=[3])))
    assert diff(path, tmp_path / "parts.fits", rtol=0).same


def test_pixels_and_wcs_are_read_on_use(make, tmp_path, monkeypatch):
    path = write_product(make(), tmp_path / "a.fits")
    read = []
    array = FitsFile.array
    monkeypatch.setattr(FitsFile, "array", lambda *a, **k: read.append(a[1].name) or array(*a, **k))
    monkeypatch.setattr(FitsFile, "raw", _counted(FitsFile.raw, read))
    slits = open_product(path)
    assert read == []
    one = slits.slit(2)["sci"]
    assert one.shape == SHAPES[2]
    assert read == []
    _ = one.values
    assert set(read) == {"SCI"}


def _counted(function, seen):
    def wrapped(self, start, size):
        if size > 20_000:
            seen.append("raw")
        return function(self, start, size)

    return wrapped


def test_padding_of_what_is_read(make, tmp_path):
    back = open_product(write_product(make(), tmp_path / "a.fits"))
    for bucket in back.buckets:
        for k in range(bucket.sizes["slit"]):
            beyond = np.ones(bucket["sci"].shape[-2:], bool)
            beyond[: int(bucket["ysize"][k]), : int(bucket["xsize"][k])] = False
            assert np.isnan(bucket["sci"].values[k][beyond]).all()
            assert (bucket["dq"].values[k][beyond] == 513).all()


def test_bytes_are_reproducible(make, tmp_path):
    a, b = (write_product(make(), tmp_path / n / "a.fits") for n in _folders(tmp_path))
    assert a.read_bytes() == b.read_bytes()


def _folders(base):
    for name in ("one", "two"):
        (base / name).mkdir()
        yield name


@pytest.mark.parametrize("integrations", [None, 3])
def test_netcdf(make, tmp_path, integrations):
    slits = make(integrations)
    back = read_netcdf(save(slits, tmp_path / "a.nc"))
    assert len(back.buckets) == len(slits.buckets)
    for one, two in zip(slits.buckets, back.buckets, strict=True):
        xr.testing.assert_identical(one.drop_attrs(), two.drop_attrs())
        assert {k: v for k, v in one.attrs.items() if k != "meta"} == {
            k: v for k, v in two.attrs.items() if k != "meta"
        }
    meta = back.attrs["meta"]
    assert meta.get("RA_REF") == 53.5
    assert list(meta.wcs) == list(slits.ids)
    x, y = np.meshgrid(np.arange(9.0), np.arange(4.0))
    np.testing.assert_array_equal(meta.wcs[1](x, y), _wcs(1)(x, y))
    assert isinstance(open_product(tmp_path / "a.nc"), Slits)
    fits_file = save(slits, tmp_path / "a.fits")
    assert diff(fits_file, tmp_path / "a.nc", rtol=0).same


def test_diff_matches_slits_by_name(make, tmp_path):
    slits = make()
    a = write_product(slits, tmp_path / "a.fits")
    # another order of the slits in the file
    turned = slits.map(lambda b: b.assign_coords(slit=10 - b["slit"]))
    turned = turned.assign_attrs(
        meta=slits.attrs["meta"].replace(wcs={10 - k: _wcs(k) for k in range(4)})
    )
    assert diff(a, write_product(turned, tmp_path / "b.fits"), rtol=0).same
    fewer = write_product(slits.select(["1", "2", "4"]), tmp_path / "c.fits")
    report = diff(a, fewer, rtol=0)
    assert not report.same
    assert any("S200A1" in p for p in report.problems)


def test_errors(make, tmp_path):
    with pytest.raises(DatasetError, match="without a slit"):
        write_product(Slits(()), tmp_path / "a.fits")
    path = write_product(make(), tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdul:
        hdul["ERR", 2].data = np.zeros((3, 3), np.float32)
    with pytest.raises(InputError, match="ERR 2"):
        open_product(path)
    path = write_product(make(), tmp_path / "b.fits")
    with fits.open(path, mode="update") as hdul:
        hdul["DQ", 3].data = hdul["DQ", 3].data[None]
    with pytest.raises(InputError, match="DQ 3"):
        open_product(path)


@pytest.mark.parametrize("keyword", ["SHUTTRID", "PHOTMJSR", "SRCXPOS", "SLTSTRT1"])
def test_text_where_a_slit_needs_a_number(make, tmp_path, keyword):
    path = write_product(make(), tmp_path / "a.fits")
    with fits.open(path, mode="update") as hdul:
        hdul["SCI", 2].header[keyword] = "junk"
    with pytest.raises(InputError, match=f"{keyword} of SCI 2 is 'junk'"):
        open_product(path)


def test_planes_of_ours_say_their_dimensions(make, tmp_path):
    slits = make().map(lambda b: b.assign(variance_cov=b["var_poisson"] * 2))
    path = write_product(slits, tmp_path / "a.fits")
    with fits.open(path) as hdul:
        names = [h.name for h in hdul if h.name.startswith("VAR_COV")]
    # others keep one extension of each name
    assert names == ["VAR_COV", "VAR_COV_2", "VAR_COV_3", "VAR_COV_4"]
    _equal(slits, open_product(path), but=("cutout_xsize",))
    with fits.open(path, mode="update") as hdul:
        for hdu in hdul:
            if hdu.name.startswith("VAR_COV_"):
                hdu.name = "VAR_COV"  # as it was written before
    _equal(slits, open_product(path))
    with fits.open(path, mode="update") as hdul:
        del hdul["VAR_COV"].header["DIMS"]
    with pytest.raises(InputError, match="DIMS of VAR_COV"):
        open_product(path)


def test_asdf_shares_nodes_and_gives_single_slits():
    wcs = [_wcs(k) for k in range(30)]
    writer = TreeWriter("slits")
    for one in [*wcs, None]:
        writer.add(one)
    content = writer.content("MultiSlitModel")
    text = content.partition(b"\n...")[0]
    assert len(re.findall(rb"name: .?world", text.replace(b'"name"', b"name"))) == 1
    x, y = np.meshgrid(np.arange(9.0), np.arange(4.0))
    for k in (0, 17, 29):
        alone = wcs_of_cut(cut_slit(content, k))
        np.testing.assert_array_equal(alone(x, y), wcs[k](x, y))
        assert alone.bounding_box == wcs[k].bounding_box
        swap = alone.pipeline[0].transform.left.left.left.left.right
        assert swap.inverse.inverse is swap
    assert cut_slit(content, 30) == b""
    assert cut_slit(content, 31) is None
    assert cut_slit(b"#ASDF 1.0.0\n", 0) is None


def test_any_reader_of_asdf_reads_it():
    import io

    import asdf

    content = asdf_bytes("MultiSlitModel", [_wcs(0), _wcs(1)])
    with asdf.open(io.BytesIO(content), memmap=False, lazy_load=False) as file:
        assert file.tree["meta"]["model_type"] == "MultiSlitModel"
        assert len(file.tree["history"]["extensions"]) > 1
        x, y = np.meshgrid(np.arange(9.0), np.arange(4.0))
        for k in (0, 1):
            np.testing.assert_array_equal(file["slits"][k]["meta"]["wcs"](x, y), _wcs(k)(x, y))


@pytest.mark.parametrize("having", [(0, 1, 2, 3), (1, 3), ()])
def test_stdatamodels_writes_it_again(make, tmp_path, having):
    """Slits of equal bounding boxes, and those of which some or all have no WCS."""
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    slits = make(wcs=False)
    held = {k: _wcs(k) for k in having}
    for one in held.values():
        one.bounding_box = ((-0.5, 8.5), (-0.5, 3.5))
    slits = slits.assign_attrs(meta=slits.attrs["meta"].replace(wcs=held or None))
    first = write_product(slits, tmp_path / "first.fits")
    with datamodels.open(first) as model:
        model.save(tmp_path / "again.fits")
    with datamodels.open(tmp_path / "again.fits") as model:
        assert [k for k, s in enumerate(model.slits) if s.meta.hasattr("wcs")] == list(having)
    again = open_product(tmp_path / "again.fits")
    _equal(open_product(first), again)
    for k in range(4):
        wcs = again.attrs["meta"].wcs[k].load()
        assert (wcs is not None) == (k in having)
        if wcs is not None:
            assert wcs(4.0, 2.0) == held[k](4.0, 2.0)
            assert wcs.bounding_box == held[k].bounding_box


def test_asdf_numbers_survive():
    import io

    import asdf
    from astropy.modeling.models import Shift

    values = [1e300, -1e-300, 1e22, 0.1, -0.0, 5.0, 1e16, np.pi]
    writer = TreeWriter("spec")
    for v in values:
        writer.add(Shift(v))
    with asdf.open(io.BytesIO(writer.content("X")), memmap=False, lazy_load=False) as file:
        read = [float(s["meta"]["wcs"].offset.value) for s in file["spec"]]
    assert [v.hex() for v in map(float, values)] == [v.hex() for v in read]


def test_damaged_wcs_is_one_line(make, tmp_path):
    path = write_product(make(), tmp_path / "a.fits")
    content = path.read_bytes()
    at = content.index(b"- {meta: {wcs:")
    path.write_bytes(content[:at] + b"- {meta: {wcs: [" + content[at + 16 :])
    slits = open_product(path)
    with pytest.raises(InputError) as caught:
        slits.attrs["meta"].wcs[0].load()
    assert "a.fits" in str(caught.value)


def test_shutters_come_back(tmp_path):
    from spec2fn.engine import run as running
    from spec2fn.testing import exposures

    pipeline = exposures.pipeline("NRS_MSASPEC")
    names = [getattr(e, "name", "") for e in pipeline]
    slits = running.run(
        pipeline[: names.index("srctype") + 1],
        exposures.observation("NRS_MSASPEC"),
        exposures.references("NRS_MSASPEC"),
    ).dataset
    path = tmp_path / "a_cal.fits"
    save(slits, path)
    again = open_product(path)
    for name in ("xcen", "ycen", "quadrant", "shutter_id", "slit_problem", "shutter_state"):
        np.testing.assert_array_equal(again.variable(name), slits.variable(name), err_msg=name)
