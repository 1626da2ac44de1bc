"""Steps on wide-field slitless exposures: background, cut-outs, types, electrons, spectra."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError
from spec2fn.io import open_product, save
from spec2fn.schema import Meta, meta_of, status_of, warnings_of
from spec2fn.steps.background import background
from spec2fn.steps.electron_rate import electron_rate
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.steps.photom import photom
from spec2fn.steps.srctype import srctype
from spec2fn.testing.fields import StraightTraces, catalog_dataset

SHAPE = (80, 120)
X = np.array([20.0, 40.0, 70.0, 300.0])
Y = np.array([10.0, 25.0, 38.0, 30.0])


class Field:
    """What stands for the gwcs of an exposure."""

    def __init__(self, geometry):
        self.geometry = geometry


def exposure(disp_axis=1, shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(1.0, 0.1, shape).astype("f4")
    planes = {
        "sci": image,
        "err": np.full(shape, 0.1, "f4"),
        "dq": np.zeros(shape, "u4"),
        "var_poisson": np.full(shape, 0.006, "f4"),
        "var_rnoise": np.full(shape, 0.004, "f4"),
    }
    header = fits.Header({"INSTRUME": "NIRISS", "EXP_TYPE": "NIS_WFSS"})
    meta = Meta(
        primary=header, filename="a_rate.fits", wcs=Field(StraightTraces((1, 2), disp_axis))
    )
    attrs = {
        "exp_type": "NIS_WFSS",
        "instrument": "NIRISS",
        "detector": "NIS",
        "filter": "GR150C",
        "pupil": "F115W",
        "dispaxis": disp_axis,
        "s_region": "POLYGON ICRS 1 2 3 4",
        "xstart": 1,
        "ystart": 1,
        "meta": meta,
    }
    variables = {n: (("y", "x"), p) for n, p in planes.items()}
    for name in ("sci", "err"):
        variables[name] = (*variables[name], {"units": "DN/s"})
    return xr.Dataset(variables, attrs=attrs)


def catalog(**columns):
    ra, dec = StraightTraces().detector_to_world(X, Y)
    columns = {
        "label": [11, 4, 7, 2],
        "isophotal_abmag": [21.0, 20.0, 22.0, 18.0],
        "is_extended": [False, True, False, False],
        **columns,
    }
    return catalog_dataset(ra, dec, half_width=3e-4, **columns)


def wavelengthrange(orders=(1, 2)):
    rows = [[1, "F115W", 1.1, 1.6], [2, "F115W", 1.4, 1.6]]
    tree = {"wavelengthrange": rows, "extract_orders": [["F115W", list(orders)]]}
    return xr.Dataset(attrs={"tree": tree, "reftype": "wavelengthrange"})


def cut(ds=None, orders=(1, 2), sources=None, **how):
    ds = exposure() if ds is None else ds
    sources = catalog() if sources is None else sources
    return extract_2d(ds, wavelengthrange(orders), sourcecat=(sources,), **how)


@pytest.mark.parametrize("disp_axis", [1, 2])
def test_spectra_are_cut_out_by_brightness_and_order(disp_axis):
    ds = exposure(disp_axis)
    slits = cut(ds)
    assert slits.names == ("4", "4", "11", "11", "7", "7")
    assert slits.variable("spectral_order").tolist() == [1, 2] * 3
    assert slits.variable("source_id").tolist() == [4, 4, 11, 11, 7, 7]
    assert slits.variable("is_extended").tolist() == [True, True, False, False, False, False]
    np.testing.assert_allclose(slits.variable("source_xpos")[::2], X[[1, 0, 2]], rtol=1e-9)
    np.testing.assert_allclose(slits.variable("source_ypos")[::2], Y[[1, 0, 2]], rtol=1e-9)
    assert [str(s["s_region"].item()) for s in slits][1:] == [""] * 5
    geometry = StraightTraces((1, 2), disp_axis)
    for slit in slits:
        x0, y0 = int(slit["xstart"]) - 1, int(slit["ystart"]) - 1
        height, width = slit["sci"].shape
        there = (slice(y0, y0 + height), slice(x0, x0 + width))
        for name in ("sci", "err", "dq", "var_poisson", "var_rnoise"):
            np.testing.assert_array_equal(slit[name], ds[name].values[there])
        y, x = np.indices((height, width), float)
        place = float(slit["source_xpos"]), float(slit["source_ypos"])
        waves = geometry.wavelength(x + x0, y + y0, *place, int(slit["spectral_order"]))
        np.testing.assert_allclose(slit["wavelength"], waves, rtol=1e-12)
        if not slit["is_extended"]:
            assert min(height, width) == 11
    assert "ra" not in slits.buckets[0]


def test_the_first_slit_has_the_footprint_of_the_exposure():
    ds = exposure()
    meta = meta_of(ds)
    header = fits.Header({**meta.primary, "S_REGION": "POLYGON ICRS 5 6 7 8"})
    ds = ds.drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in ds.attrs.items() if k != "s_region"}
    )
    slits = cut(ds.assign_attrs(meta=meta.replace(primary=header)))
    regions = [s["s_region"].item() for s in slits]
    assert regions == ["POLYGON ICRS 5 6 7 8"] + [""] * 5


def test_sources_and_orders_are_chosen():
    assert cut(source_ids=(7,)).names == ("7", "7")
    assert cut(slit_names=("11",), source_ids=(7,)).names == ("11", "11", "7", "7")
    assert cut(extract_orders=(2,)).variable("spectral_order").tolist() == [2, 2, 2]
    assert cut(wfss_nbright=1).names == ("4", "4")
    assert cut(wfss_mmag_extract=21.0).names == ("4", "4")
    ra, dec = StraightTraces().detector_to_world(X[0] + 1, Y[0])
    assert cut(source_ra=(ra,), source_dec=(dec,)).names == ("11", "11")
    wide = cut(source_ids=(7,), wfss_extract_half_height=None).slit(0)
    assert wide["sci"].shape[0] == 7


def test_a_spectrum_that_is_asked_for_and_falls_outside_is_a_warning():
    found = cut(source_ids=(2, 7))
    assert found.names == ("7", "7")
    told = warnings_of(found)
    assert "order 1 of source 2 does not fall on the image" in told[0]


def test_slits_do_not_depend_on_the_order_of_the_catalog():
    one, other = cut(), cut(sources=catalog().isel(source=[3, 1, 0, 2]))
    for a, b in zip(one, other, strict=True):
        for name in a.data_vars:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_slit_has_a_wcs_on_demand():
    slits = cut()
    wcs = meta_of(slits.buckets[0]).wcs
    assert sorted(wcs) == list(range(6))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"source_ids": (5,)}, "no source 5"),
        ({"slit_names": ("S200A1",)}, "labels of their sources"),
        ({"extract_orders": (3,)}, "no order 3"),
        ({"wfss_mmag_extract": 19.0}, "brighter than 19 mag falls on the image"),
        ({"source_ids": (2,)}, "falls on the image"),
    ],
)
def test_choices_that_cannot_be_met(how, message):
    with pytest.raises(InputError, match=message) as error:
        cut(**how)
    assert "\n" not in str(error.value)


def objects(slits, kind):
    """The cut-outs of a catalog, as a user gives them."""
    from astropy.coordinates import SkyCoord

    out = {}
    for slit in slits:
        x, y = int(slit["xstart"]) - 1, int(slit["ystart"]) - 1
        box = ((y, y + slit.sizes["y"] - 1), (x, x + slit.sizes["x"] - 1))
        sky = float(slit["source_ra"]), float(slit["source_dec"])
        one = {"sid": int(slit["source_id"]), "order_bounding": {}, "sky_centroid": sky}
        one = out.setdefault(one["sid"], one | {"is_extended": bool(slit["is_extended"])})
        one["order_bounding"][int(slit["spectral_order"])] = box
    if kind == "mapping":
        return list(out.values())
    from stdatamodels.jwst.transforms.models import GrismObject

    for one in out.values():
        one["sky_centroid"] = SkyCoord(*one["sky_centroid"], unit="deg")
    return [GrismObject(**one) for one in out.values()]


@pytest.mark.parametrize("kind", ["mapping", "GrismObject"])
def test_sources_of_the_users_own(kind):
    found = cut()
    given = objects(found, kind)
    made = extract_2d(exposure(), grism_objects=given)
    assert made.names == found.names
    for a, b in zip(found, made, strict=True):
        for name in a.data_vars:
            if a[name].dtype.kind == "f":
                np.testing.assert_allclose(b[name], a[name], rtol=1e-9, err_msg=name)
            else:
                np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    there = [g._replace(xcentroid=1.0, ycentroid=2.0) for g in given] if kind != "mapping" else []
    for slit in extract_2d(exposure(), grism_objects=there) if there else ():
        assert (float(slit["source_xpos"]), float(slit["source_ypos"])) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sid": None}, "needs a whole number as sid, found None"),
        ({"sky_centroid": None}, r"source 4 has sky_centroid None; give a pair \(ra, dec\)"),
        ({"order_bounding": {1: (1, 2)}}, r"source 4 has order_bounding .* give by order"),
        ({"order_bounding": {9: ((1, 5), (1, 5))}}, "knows no order 9; it has"),
        ({"order_bounding": {1: ((900, 905), (1, 5))}}, "no rectangle of the 1 grism_objects has"),
    ],
)
def test_sources_that_lack_something(changes, says):
    one = objects(cut(), "mapping")[0] | changes
    with pytest.raises(InputError, match=says):
        extract_2d(exposure(), grism_objects=[one])
    with pytest.raises(InputError, match=r"needs a list of sources .* got 0 of them"):
        extract_2d(exposure(), grism_objects=[])


def test_a_catalog_and_a_wcs_are_needed():
    with pytest.raises(InputError, match="has no source catalog, needs one"):
        extract_2d(exposure(), wavelengthrange())
    bare = exposure()
    bare = bare.assign_attrs(meta=meta_of(bare).replace(wcs=None))
    with pytest.raises(DatasetError, match="run assign_wcs first"):
        cut(bare)


def test_types_are_those_of_the_catalog():
    typed = srctype(cut())
    kinds = typed.variable("source_type").tolist()
    assert kinds == ["EXTENDED"] * 2 + ["POINT"] * 4
    assert status_of(typed, "srctype") == "COMPLETE"


def reference_image(shape=SHAPE, level=2.0):
    rng = np.random.default_rng(7)
    image = (level + 0.1 * rng.standard_normal(shape)).astype("f4")
    flags = np.zeros(shape, "u4")
    flags[3, 5] = PIXEL["DEAD"]
    planes = {"sci": (("y", "x"), image), "dq": (("y", "x"), flags)}
    return xr.Dataset(planes, attrs={"reftype": "bkg", "meta": Meta()})


def with_background(scale=0.4):
    ds, image = exposure(), reference_image()
    sci = (scale * image["sci"].values + 0.1 * (ds["sci"].values - 1)).astype("f4")
    for order in (1, 2):  # sources are bright where their spectra are
        for slit in cut(ds, (order,), wfss_extract_half_height=None):
            y0, x0 = int(slit["ystart"]) - 1, int(slit["xstart"]) - 1
            sci[y0 : y0 + slit.sizes["y"], x0 : x0 + slit.sizes["x"]] += 50
    return ds.assign(sci=(("y", "x"), sci, {"units": "DN/s"}))


def subtract(ds, image=None, **how):
    image = reference_image() if image is None else image
    return background(ds, image, wavelengthrange((1,)), sourcecat=(catalog(),), **how)


def test_the_background_is_scaled_to_the_pixels_without_sources():
    ds, image = with_background(), reference_image()
    out = subtract(ds)
    scale = float(out["background_scale"])
    assert scale == pytest.approx(0.4, rel=1e-3)
    np.testing.assert_allclose(out["sci"], ds["sci"] - scale * image["sci"], atol=1e-5)
    for name in ("err", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(out[name], ds[name])
    np.testing.assert_array_equal(out["dq"], ds["dq"] | image["dq"])
    mask = out["mask"].values
    assert mask.dtype == np.uint32
    assert 0.3 < mask.mean() < 1
    assert np.abs(out["sci"].values[mask == 1]).max() < 1


def test_orders_that_are_not_extracted_are_kept_clear_of():
    every, some = subtract(with_background()), subtract(with_background(), wfss_all_orders=False)
    more = some["mask"].values.astype(int) - every["mask"].values
    assert more.min() == 0
    assert more.sum() > 100


def test_a_mask_stands_in_for_the_catalog(tmp_path):
    ds = with_background()
    mask = subtract(ds)["mask"].values
    wanted = float(subtract(ds)["background_scale"])
    path = tmp_path / "mask.fits"
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(mask.astype("i4"), name="MASK")])
    hdus.writeto(path)
    for given in (mask, xr.Dataset({"mask": (("y", "x"), mask)}), str(path)):
        out = background(ds, reference_image(), wavelengthrange(), wfss_mask=given)
        assert float(out["background_scale"]) == wanted


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((3, 4)), r"wfss_mask is \(3, 4\), but the exposure is \(80, 120\)"),
        (xr.Dataset({"other": ("a", [1])}), "has no MASK .it holds other."),
    ],
)
def test_a_mask_that_does_not_fit(mask, message):
    with pytest.raises(InputError, match=message):
        background(exposure(), reference_image(), wavelengthrange(), wfss_mask=mask)


def test_without_enough_background_nothing_is_subtracted():
    ds = with_background()
    flagged = ds.assign(dq=(("y", "x"), np.full(SHAPE, PIXEL["DO_NOT_USE"], "u4")))
    out = subtract(flagged)
    assert status_of(out, "background").startswith("FAILED: 0 good pixels see background alone")
    np.testing.assert_array_equal(out["sci"], ds["sci"])
    assert float(out["background_scale"]) == 0
    nothing = background(ds, reference_image(), wavelengthrange(), wfss_mask=np.zeros(SHAPE))
    assert status_of(nothing, "background").startswith("FAILED")
    assert not nothing["mask"].values.any()


def test_a_background_needs_one_image_and_a_reference():
    assert status_of(background(exposure()), "background") == "SKIPPED: no bkg reference"
    many = xr.concat([exposure().drop_attrs()] * 2, "integration").assign_attrs(exposure().attrs)
    with pytest.raises(InputError, match="needs one image"):
        subtract(many)
    with pytest.raises(InputError, match="no source catalog"):
        background(exposure(), reference_image(), wavelengthrange())


def test_the_combined_image_is_kept_on_request():
    out = subtract(with_background(), save_combined_background=True)
    kept = meta_of(out).records["combined_background"]
    scaled = float(out["background_scale"]) * reference_image()["sci"]
    np.testing.assert_allclose(kept["sci"], scaled, rtol=1e-6)


def test_the_result_has_a_gradient_with_respect_to_the_scale():
    jax = pytest.importorskip("jax")
    from dataclasses import replace

    ds, image = with_background(), reference_image()
    given = {"sourcecat": (catalog(),)}
    plan = background.plan(ds, image, wavelengthrange(), **given)
    bare = ds.drop_attrs().assign_attrs({k: v for k, v in ds.attrs.items() if k != "meta"})

    def total(scale):
        return background(bare, plan=replace(plan, scale=scale))["sci"].data.sum()

    slope = jax.grad(total)(np.float64(0.4))
    assert float(slope) == pytest.approx(-float(image["sci"].sum()), rel=1e-5)


def test_the_mask_does_not_follow_the_cut_outs():
    slits = cut(subtract(with_background()))
    assert "mask" not in slits.buckets[0]
    assert float(slits.buckets[0]["background_scale"]) == pytest.approx(0.4, rel=1e-3)


def test_electrons_are_kept_beside_the_exposure():
    values = np.full((20, 20), 1.8)
    values[6, 6], values[7, 7], values[0] = np.nan, -1.0, 100.0
    gain = xr.Dataset({"sci": (("y", "x"), values)}, attrs={"reftype": "gain", "meta": Meta()})
    ds = exposure()
    out = electron_rate(ds, gain)
    np.testing.assert_array_equal(out["sci"], ds["sci"])
    kept = meta_of(out).records["esec"]
    np.testing.assert_allclose(kept["sci"], 1.8 * ds["sci"], rtol=1e-6)
    np.testing.assert_allclose(kept["var_poisson"], 1.8**2 * ds["var_poisson"], rtol=1e-6)
    np.testing.assert_allclose(kept["err"], 0.18, rtol=1e-6)
    blank = ds["var_poisson"].copy(deep=True)
    blank[3, 4] = np.nan
    kept = meta_of(electron_rate(ds.assign(var_poisson=blank), gain)).records["esec"]
    assert np.argwhere(np.isnan(kept["err"].values)).tolist() == [[3, 4]]
    assert electron_rate.skip
    assert status_of(electron_rate(ds), "electron_rate").startswith("SKIPPED: no gain")


def spectra(**how):
    return extract_1d(srctype(cut()), **how)


def test_the_box_is_the_cut_out():
    slits, out = srctype(cut()), spectra()
    assert out.attrs["model"] == "WFSSMultiSpecModel"
    assert out["sporder"].values.tolist() == [1, 2] * 3
    assert out["sourceid"].values.tolist() == [4, 4, 11, 11, 7, 7]
    for k, slit in enumerate(slits):
        n = slit.sizes["x"]
        np.testing.assert_allclose(out["flux"][k, :n], slit["sci"].sum("y"), rtol=1e-6)
        waves = slit["wavelength"].mean("y")
        np.testing.assert_allclose(out["wavelength"][k, :n], waves, rtol=1e-12)
        assert int(out["n_wave"][k]) == n
        assert out["srctype"].values[k] == slit["source_type"].item()
    assert not [w for w in warnings_of(out) if "apcorr" not in w]


def test_tables_have_a_row_for_each_source(tmp_path):
    slits = srctype(cut())
    some = slits.where(
        lambda b: ~((b["source_id"].values == 7) & (b["spectral_order"].values == 2))
    )
    out = extract_1d(some)
    path = tmp_path / "a_x1d.fits"
    save(out, path)
    with fits.open(path) as file:
        tables = [h for h in file if h.name == "EXTRACT1D"]
        assert [t.header["SPORDER"] for t in tables] == [1, 2]
        for table in tables:
            assert table.data["SOURCE_ID"].tolist() == [4, 7, 11]
        second = tables[1].data
        assert second["N_ALONGDISP"].tolist()[1] == 0
        assert np.isnan(second["FLUX"][1]).all()
        assert second["SOURCE_TYPE"].tolist() == ["EXTENDED", "", "POINT"]
        first = tables[0].data
        stop = first["EXTRACT2D_XSTART"] + out["extract2d_xsize"].values[[0, 4, 2]]
        assert first["EXTRACT2D_XSTOP"].tolist() == stop.tolist()
    again = open_product(path)
    assert again.attrs["model"] == "WFSSMultiSpecModel"
    order = [0, 4, 2, 1, 3]
    assert again["sourceid"].values.tolist() == out["sourceid"].values[order].tolist()
    assert again["sporder"].values.tolist() == [1, 1, 1, 2, 2]
    for name in ("wavelength", "flux", "flux_error", "npixels", "srcxpos", "srcra"):
        np.testing.assert_array_equal(again[name], out[name].values[order])
    for name in ("srctype", "n_wave", "extract2d_xstart", "extract2d_ysize"):
        assert again[name].values.tolist() == out[name].values[order].tolist()
    save(again, tmp_path / "b_x1d.fits")
    twice = open_product(tmp_path / "b_x1d.fits")
    np.testing.assert_array_equal(twice["flux"], again["flux"])


def test_cut_outs_are_written_and_read(tmp_path):
    slits = srctype(cut())
    path = tmp_path / "a_cal.fits"
    wcs = dict.fromkeys(slits.ids)
    save(slits.map(lambda b: b.assign_attrs(meta=meta_of(b).replace(wcs=wcs))), path)
    with fits.open(path) as file:
        headers = [h.header for h in file if h.name == "SCI"]
    assert [h["SPORDER"] for h in headers] == [1, 2] * 3
    assert [h["SOURCEID"] for h in headers] == [4, 4, 11, 11, 7, 7]
    assert ["S_REGION" in h for h in headers] == [True] + [False] * 5
    assert all("SRCRA" in h and "SRCXPOS" in h for h in headers)
    again = open_product(path)
    assert again.names == slits.names
    for name in ("spectral_order", "source_id", "source_xpos", "source_ra", "source_type"):
        assert again.variable(name).tolist() == slits.variable(name).tolist()
    one, other = extract_1d(slits), extract_1d(again)
    np.testing.assert_array_equal(one["flux"], other["flux"])


def photom_reference(orders=(1, 2)):
    waves = np.linspace(1.0, 2.0, 20)
    count = len(orders)
    table = {
        "filter": np.array(["GR150C"] * count),
        "pupil": np.array(["F115W"] * count),
        "order": np.array(orders),
        "photmjsr": np.array([0.5 * o for o in orders]),
        "wavelength": np.tile(waves, (count, 1)),
        "relresponse": np.tile(1 + waves, (count, 1)),
    }
    variables = {f"photom.{n}": (("photom_row", "knot")[: v.ndim], v) for n, v in table.items()}
    sizes = {"pixar_sr": 1e-13, "pixar_a2": 0.0043}
    attrs = {"reftype": "photom", "meta": Meta()}
    return xr.Dataset(variables | {n: ((), np.float64(v)) for n, v in sizes.items()}, attrs=attrs)


def test_count_rates_are_divided_by_the_dispersion():
    slits = srctype(cut())
    done = photom(slits, photom_reference())
    for before, after in zip(slits, done, strict=True):
        order = int(before["spectral_order"])
        factor = 0.5 * order * (1 + before["wavelength"]) * 40.0 * order
        np.testing.assert_allclose(after["sci"], factor * before["sci"], rtol=1e-5)
        assert after["bunit"].item() == "MJy/sr"
        assert after["photmjsr"].item() == 0.5 * order


def test_an_order_that_the_reference_does_not_have():
    slits = srctype(cut())
    lost = photom(slits, photom_reference((1,)))
    assert np.isnan(lost.slit(1)["sci"]).all()
    assert "no row for filter GR150C, pupil F115W, order 2" in lost.slit(1)["slit_problem"].item()
    kept = photom(slits, photom_reference((1,)), uncalibrated="kept")
    np.testing.assert_array_equal(kept.slit(1)["sci"], slits.slit(1)["sci"])
    assert kept.variable("bunit").tolist() == ["MJy/sr", "DN/s"] * 3
    assert np.isnan(kept.variable("photmjsr")[1])
    assert status_of(kept, "photom") == "COMPLETE"


def test_the_area_of_the_detector_comes_with_the_first_slit(tmp_path):
    plane = np.full((8, 9), 1.1, "f4")
    area = xr.Dataset({"sci": (("y", "x"), plane)}, attrs={"reftype": "area", "meta": Meta()})
    done = photom(srctype(cut()), photom_reference(), area)
    wcs = dict.fromkeys(done.ids)
    path = tmp_path / "a_cal.fits"
    save(done.map(lambda b: b.assign_attrs(meta=meta_of(b).replace(wcs=wcs))), path)
    with fits.open(path) as file:
        names = [h.name for h in file]
        assert names.count("AREA") == 1
        assert names[1:6] == ["SCI", "DQ", "ERR", "WAVELENGTH", "AREA"]
        np.testing.assert_array_equal(file["AREA"].data, plane)
    again = open_product(path)
    np.testing.assert_array_equal(again.buckets[0]["area"], plane)
