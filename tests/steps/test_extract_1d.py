"""extract_1d: apertures, backgrounds, corrections, errors and transformations."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.errors import HostOnlyError, ParameterError, ReferenceError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.schema import EXTRACTED, Meta, meta_of
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.transforms import jit, value_and_grad, vmap

NY, NX = 24, 16
AREA = 2.5e-13
MODE = "MIR_LRS-FIXEDSLIT"


class LinearWCS:
    """x is right ascension, y is wavelength."""

    bounding_box = ((-0.5, NX - 0.5), (-0.5, NY - 0.5))
    available_frames = ("detector", "world")

    def __call__(self, x, y, with_bounding_box=True):
        x, y = np.asarray(x, float), np.asarray(y, float)
        return 10.0 + 1e-4 * x, np.full(x.shape, 0.0), 5.0 + 0.25 * y

    def backward_transform(self, ra, dec, wavelength):
        return (np.asarray(ra) - 10.0) / 1e-4, (np.asarray(wavelength) - 5.0) / 0.25

    def invert(self, ra, dec, wavelength, with_bounding_box=True):
        return self.backward_transform(ra, dec, wavelength)


def exposure(integrations=3, seed=1, bad=0.02, **attrs):
    rng = np.random.default_rng(seed)
    shape = (NY, NX) if integrations is None else (integrations, NY, NX)
    dims = ("integration", "y", "x")[-len(shape) :]
    x = np.arange(NX)
    profile = np.exp(-0.5 * ((x - 7.0) / 1.3) ** 2)
    sci = 40.0 * profile + 5.0 + rng.normal(0.0, 0.5, shape)
    variances = {f"var_{k}": 0.01 + rng.random(shape) for k in ("poisson", "rnoise", "flat")}
    flagged = rng.random(shape) < bad
    planes = {"sci": sci, "err": np.sqrt(sum(variances.values())), **variances}
    data = {k: (dims, np.where(flagged, np.nan, v).astype(np.float32)) for k, v in planes.items()}
    data["dq"] = (dims, flagged.astype(np.uint32))
    wavelength = np.broadcast_to(5.0 + 0.25 * np.arange(NY)[:, None], (NY, NX)).copy()
    wavelength[:2] = wavelength[-1:] = np.nan
    data["wavelength"] = (("y", "x"), wavelength)
    data["pixar_sr"] = ((), np.float64(AREA))
    data["source_xpos"] = ((), np.float64(7.0))
    if integrations:
        data["int_mid_mjd_utc"] = (("integration",), 59000.0 + np.arange(integrations))
    header = fits.Header({"PA_APER": 12.5, "DITH_RA": 10.0 + 7e-4, "DITH_DEC": 0.0})
    attrs = {
        "exp_type": MODE,
        "instrument": "MIRI",
        "detector": "MIRIMAGE",
        "filter": "P750L",
        "subarray": "FULL",
        "source_type": "POINT",
        "dispaxis": 2,
        "meta": Meta(primary=header, science=fits.Header(), wcs=LinearWCS()),
    } | attrs
    ds = xr.Dataset(data, attrs={k: v for k, v in attrs.items() if v is not None})
    ds["sci"].attrs["units"] = "MJy/sr"
    return ds


ORDER_ZERO = Meta(primary=fits.Header({"SPORDER": 0}), science=fits.Header(), wcs=LinearWCS())


def apertures(*entries, **entry):
    entries = entries or ({"id": MODE, "use_source_posn": False, **entry},)
    return xr.Dataset(attrs={"tree": {"apertures": list(entries)}, "meta": Meta()})


def box(**entry):
    return apertures(xstart=5, xstop=9, **entry)


BKG = {"bkg_coeff": [[-0.5], [2.5], [11.5], [15.5]]}


def correction(subarray="FULL", unit="pixels", scale=1.0):
    sizes = np.array([[2.0, 4.0, 6.0, 0.0]]) * scale
    waves = np.array([[4.0, 7.0, 11.0, 0.0]])
    table = np.zeros((1, 4, 4))
    table[0, :3, :3] = 1.0 + 1.0 / np.array([2.0, 4.0, 6.0]) + 0.01 * waves[0, :3, None]
    return xr.Dataset(
        {
            "apcorr.subarray": (("apcorr_row",), np.array([subarray])),
            "apcorr.wavelength": (("apcorr_row", "w"), waves),
            "apcorr.nelem_wl": (("apcorr_row",), np.array([3])),
            "apcorr.size": (("apcorr_row", "s"), sizes),
            "apcorr.nelem_size": (("apcorr_row",), np.array([3])),
            "apcorr.apcorr": (("apcorr_row", "w", "s"), table),
        },
        attrs={"meta": Meta(primary=fits.Header({"SIZEUNIT": unit}))},
    )


def psf_reference(subpixels=4, aperture="ANY"):
    columns = np.arange(20 * subpixels + 1)
    center = 10.0 * subpixels
    line = np.exp(-0.5 * ((columns - center) / (1.3 * subpixels)) ** 2)
    waves = np.linspace(4.0, 12.0, 9)
    keys = {"SUBPIX": subpixels, "CENTCOL": center, "CENTROW": center, "APERTURE": aperture}
    return xr.Dataset(
        {"psf": (("y", "x"), np.tile(line, (9, 1))), "wave": (("wave_d0",), waves)},
        attrs={"meta": Meta(primary=fits.Header(keys))},
    )


def good_sum(ds, weights):
    sci = ds["sci"].values.astype(float)
    return np.nansum(sci * weights, axis=-1)[..., 2:-1]


WEIGHTS = ((np.arange(NX) >= 5) & (np.arange(NX) <= 9)).astype(float)


# ------------------------------------------------------------------------------------- box


def test_box_sums_pixels_and_scales_to_jansky():
    ds = exposure()
    out = extract_1d(ds, box())
    assert out.attrs["model"] == "TSOMultiSpecModel"
    assert out["flux"].dims == ("integration", "spectrum", "wave")
    assert out["flux"].attrs["units"] == "Jy"
    np.testing.assert_allclose(out["flux"][:, 0], good_sum(ds, WEIGHTS) * AREA * 1e6)
    count = (np.isfinite(ds["sci"].values) * WEIGHTS).sum(-1)[..., 2:-1]
    np.testing.assert_allclose(out["npixels"][:, 0], count)
    np.testing.assert_allclose(out["surf_bright"][:, 0], good_sum(ds, WEIGHTS) / count)
    np.testing.assert_allclose(out["wavelength"][0], 5.0 + 0.25 * np.arange(2, NY - 1))
    total = sum(
        np.nansum(ds[f"var_{k}"].values.astype(float) * WEIGHTS, -1)
        for k in ("poisson", "rnoise", "flat")
    )
    np.testing.assert_allclose(out["flux_error"][:, 0], np.sqrt(total[:, 2:-1]) * AREA * 1e6)
    np.testing.assert_allclose(out["flux_error_cov"], out["flux_error"])
    assert not out["background"].values.any()
    assert int(out["n_wave"][0]) == out.sizes["wave"] == NY - 3


def test_metadata_of_the_spectrum():
    out = extract_1d(exposure(), box())
    assert out["sltname"].values[0] == MODE
    assert out["srctype"].values[0] == "POINT"
    limits = [float(out[k][0]) for k in ("extrxstr", "extrxstp", "extrystr", "extrystp")]
    assert limits == [6.0, 10.0, 3.0, NY - 1.0]
    assert float(out["slit_ra"][0]) == pytest.approx(10.0 + 7e-4)
    assert (int(out["sporder"][0]), int(out["dispaxis"][0])) == (1, 2)
    assert float(out["source_xpos"][0]) == 7.0
    np.testing.assert_array_equal(out["int_mid_mjd_utc"], 59000.0 + np.arange(3))
    assert list(out.data_vars)[: len(EXTRACTED)] == list(EXTRACTED)
    wcs = meta_of(out).wcs[MODE]
    np.testing.assert_allclose(wcs(3)[2], out["wavelength"][0, 3])
    assert "sci" not in out


def test_image_gives_a_spectrum_without_integrations():
    ds = exposure(None)
    out = extract_1d(ds, box())
    assert out.attrs["model"] == "MultiSpecModel"
    assert out["flux"].dims == ("spectrum", "wave")


def test_integrations_at_once_equal_one_by_one():
    ds = exposure()
    plan = extract_1d.plan(ds, box(**BKG))
    whole = extract_1d(ds, box(**BKG), plan=plan)
    for k in range(3):
        one = extract_1d(ds.isel(integration=[k]), box(**BKG), plan=plan)
        for name in EXTRACTED:
            if name != "wavelength":
                np.testing.assert_allclose(one[name][0], whole[name][k], rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1e30, -np.inf, np.nan])
def test_value_of_a_flagged_pixel_does_not_matter(value):
    ds = exposure()
    changed = ds.copy(deep=True)
    changed["dq"].values[1, 10, 7] |= 1
    reference = extract_1d(changed, box(**BKG))
    for name in ("sci", "err", "var_poisson", "var_rnoise", "var_flat"):
        changed[name].values[1, 10, 7] = value
    out = extract_1d(changed, box(**BKG))
    xr.testing.assert_equal(out.drop_attrs(), reference.drop_attrs())


def test_input_is_not_modified():
    ds = exposure()
    before = ds.copy(deep=True)
    extract_1d(ds, box(**BKG), correction())
    xr.testing.assert_identical(ds.drop_attrs(), before.drop_attrs())


def test_scaling():
    ds, k = exposure(), 3.0
    scaled = ds.copy()
    for name in ("sci", "err"):
        scaled[name] = (ds[name] * np.float32(k)).assign_attrs(ds[name].attrs)
    for name in ("var_poisson", "var_rnoise", "var_flat"):
        scaled[name] = ds[name] * np.float32(k * k)
    a, b = (extract_1d(d, box(**BKG), correction()) for d in (ds, scaled))
    for name in ("flux", "flux_error", "flux_error_cov", "background", "surf_bright"):
        np.testing.assert_allclose(b[name], k * a[name], rtol=1e-5)
    np.testing.assert_allclose(b["flux_var_rnoise"], k * k * a["flux_var_rnoise"], rtol=1e-5)


def test_fully_masked_element_is_nan_and_flagged():
    ds = exposure(bad=0.0)
    ds["dq"].values[1, 6] = 1
    out = extract_1d(ds, box())
    assert np.isnan(out["flux"][1, 0, 4])
    assert out["dq"][1, 0, 4] == 1
    assert out["npixels"][1, 0, 4] == 0
    assert np.isfinite(out["flux"]).sum() == out["flux"].size - 1


def test_counts_keep_their_unit():
    ds = exposure()
    ds["sci"].attrs["units"] = "DN/s"
    out = extract_1d(ds, box())
    np.testing.assert_allclose(out["flux"][:, 0], good_sum(ds, WEIGHTS))
    assert out["flux"].attrs["units"] == "DN/s"
    assert out["sb_var_flat"].attrs["units"] == "DN^2 / s^2"


def test_dispersion_along_x():
    ds = exposure()
    turned = xr.Dataset(attrs={**ds.attrs, "dispaxis": 1})
    for name, var in ds.variables.items():
        swap = {"y": "x", "x": "y"}
        dims = tuple(swap.get(d, d) for d in var.dims)
        turned[name] = (
            xr.Variable(dims, var.data, var.attrs).transpose(..., "y", "x") if "y" in dims else var
        )
    turned.attrs["meta"] = meta_of(ds).replace(wcs=None)
    a = extract_1d(ds, box(**BKG), correction(), bkg_order=1, smoothing_length=3)
    b = extract_1d(
        turned, apertures(ystart=5, ystop=9, **BKG), correction(), bkg_order=1, smoothing_length=3
    )
    for name in EXTRACTED:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-12, err_msg=name)
    assert float(b["extrystr"][0]) == float(a["extrxstr"][0])
    assert float(b["extrxstp"][0]) == float(a["extrystp"][0])


# ------------------------------------------------------------------------------ apertures


def test_without_reference_the_whole_slit_is_summed():
    ds = exposure()
    out = extract_1d(ds)
    np.testing.assert_allclose(out["flux"][:, 0], good_sum(ds, np.ones(NX)) * AREA * 1e6)


def test_partial_pixels_and_offset():
    ds = exposure()
    out = extract_1d(ds, box(), position_offset=0.25)
    weights = WEIGHTS.copy()
    weights[5], weights[10] = 0.75, 0.25
    np.testing.assert_allclose(out["flux"][:, 0], good_sum(ds, weights) * AREA * 1e6)


def test_polynomial_limits_count_from_the_pixel_centre():
    ds = exposure()
    out = extract_1d(ds, apertures(src_coeff=[[4.5], [9.5]]))
    np.testing.assert_allclose(out["flux"][:, 0], good_sum(ds, WEIGHTS) * AREA * 1e6)


def test_wavelength_dependent_limits():
    ds = exposure()
    entry = {"src_coeff": [[4.5 - 7.5, 1.0], [9.5]], "independent_var": "wavelength"}
    out = extract_1d(ds, apertures(**entry))
    np.testing.assert_allclose(out["npixels"].max("integration")[0, 8], 5.0)
    assert np.isfinite(out["extrxstr"]).all()


def test_aperture_follows_the_source():
    ds = exposure()
    out = extract_1d(ds, apertures(extract_width=5, use_source_posn=True))
    np.testing.assert_allclose(out["flux"][:, 0], good_sum(ds, WEIGHTS) * AREA * 1e6)
    assert float(out["extrxstr"][0]) == pytest.approx(6.0)
    moved = ds.assign(dithered_ra=((), np.float64(10.0 + 8e-4)), dithered_dec=((), np.float64(0)))
    out = extract_1d(moved, box(use_source_posn=True))
    assert float(out["extrxstr"][0]) == pytest.approx(7.0)
    away = ds.assign(dithered_ra=((), np.float64(11.0)), dithered_dec=((), np.float64(0)))
    out = extract_1d(away, box(use_source_posn=True))
    assert float(out["extrxstr"][0]) == pytest.approx(6.0)


def test_extended_source_is_not_centred_unless_asked():
    ds = exposure(source_type="EXTENDED")
    reference = apertures(extract_width=5, use_source_posn=True, xstart=2, xstop=6)
    assert float(extract_1d(ds, reference)["extrxstr"][0]) == pytest.approx(3.0)
    asked = extract_1d(ds, reference, use_source_posn=True)
    assert float(asked["extrxstr"][0]) == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (apertures({"id": "S200A1"}), "S200A1"),
        (apertures({"id": MODE, "region_type": "background"}), "no target aperture"),
        (box(bkg_coeff=[[1.0]]), "lower and upper limits"),
        (box(src_coeff=[]), "lower and upper limits"),
        (box(bkg_coeff=[[1.0], [2.0]], bkg_fit="spline"), "spline"),
    ],
)
def test_unusable_apertures(reference, words):
    with pytest.raises(ReferenceError, match=words):
        extract_1d(exposure(), reference)


@pytest.mark.parametrize(
    ("change", "entry", "words"),
    [
        ({}, {"spectral_order": 2}, "spectral order 1"),
        ({"dispaxis": None}, {}, "DISPAXIS"),
        ({"filter": "F770W", "meta": ORDER_ZERO}, {}, "direct image"),
    ],
)
def test_skips_say_why(change, entry, words):
    out = extract_1d(exposure(**change), box(**entry))
    assert out.attrs["status_extract_1d"].startswith("SKIPPED: ")
    assert words in out.attrs["status_extract_1d"]
    assert "sci" in out


def test_a_prism_has_no_other_order_than_zero():
    out = extract_1d(exposure(meta=ORDER_ZERO), box())
    assert out.attrs["status_extract_1d"] == "COMPLETE"


def test_nothing_in_the_aperture():
    ds = exposure()
    ds["wavelength"] = ds["wavelength"] * np.nan
    assert "wavelength" in extract_1d(ds, box()).attrs["status_extract_1d"]


@pytest.mark.parametrize("bad", [{"bkg_order": -1}, {"bkg_fit": "spline"}, {"smoothing": 3}])
def test_parameters_are_checked(bad):
    with pytest.raises(ParameterError):
        extract_1d(exposure(), box(), **bad)


# ---------------------------------------------------------------------------- background


@pytest.mark.parametrize("fit", ["poly", "mean", "median", None])
def test_constant_background_is_removed(fit):
    ds = exposure(bad=0.05)
    plain = ds.copy()
    plain["sci"] = ds["sci"] + np.float32(100.0)
    plain["sci"].attrs = ds["sci"].attrs
    a = extract_1d(ds, box(**BKG), bkg_fit=fit)
    b = extract_1d(plain, box(**BKG), bkg_fit=fit)
    np.testing.assert_allclose(b["flux"], a["flux"], rtol=1e-5)
    difference = (b["background"] - a["background"]).values
    np.testing.assert_allclose(difference, 100.0, rtol=1e-5)
    off = extract_1d(ds, box(**BKG), subtract_background=False)
    assert not off["background"].values.any()


def test_slope_needs_an_order():
    ds = exposure(None, bad=0.0)
    x = np.arange(NX)
    ds["sci"] = ds["sci"] * 0 + np.float32(1) * (2.0 * x + 0.5).astype(np.float32)
    ds["sci"].attrs["units"] = "MJy/sr"
    reference = box(bkg_coeff=[[-0.5], [2.5]])
    flat = extract_1d(ds, reference)["flux"]
    sloped = extract_1d(ds, reference, bkg_order=1)["flux"]
    assert np.abs(sloped).max() < 1e-6 * np.abs(flat).max()


def test_smoothing_lowers_the_noise_of_the_background_and_its_error():
    ds = exposure(40, bad=0.0)
    a = extract_1d(ds, box(**BKG))
    b = extract_1d(ds, box(**BKG), smoothing_length=5)
    assert b["background"].std() < 0.6 * a["background"].std()
    assert (b["flux_error_cov"] < a["flux_error_cov"]).all()
    np.testing.assert_array_equal(b["flux_error"], a["flux_error"])


@pytest.mark.parametrize(("asked", "used"), [(2, 0), (4, 3), (0, 0), (7, 7)])
def test_smoothing_length_is_odd(asked, used):
    (group,) = extract_1d.plan(exposure(), box(**BKG), smoothing_length=asked).groups
    assert group.smoothing_length == used


def test_reference_defaults_give_way_to_parameters():
    entry = {"bkg_fit": "median", "bkg_order": 2, "smoothing_length": 9}
    (group,) = extract_1d.plan(exposure(), box(**BKG, **entry)).groups
    assert group.basis is None
    assert group.smoothing_length == 9
    options = {"bkg_fit": "poly", "smoothing_length": 0}
    (group,) = extract_1d.plan(exposure(), box(**BKG, **entry), **options).groups
    assert group.basis.shape[1] == 3
    assert group.smoothing_length == 0


# -------------------------------------------------------------------- aperture correction


def test_aperture_correction_follows_size_and_wavelength():
    ds = exposure()
    a, b = extract_1d(ds, box()), extract_1d(ds, box(), correction())
    factor = 1.0 + 0.01 * np.clip(a["wavelength"][0].values, 4.0, 11.0)
    table = np.array([1 / 2, 1 / 4, 1 / 6])
    factor = factor + np.interp(a["npixels"][:, 0].values, [2.0, 4.0, 6.0], table)
    for name in ("flux", "flux_error", "flux_error_cov", "surf_bright", "sb_error"):
        np.testing.assert_allclose(b[name][:, 0], a[name][:, 0] * factor)
    np.testing.assert_allclose(b["sb_var_flat"][:, 0], a["sb_var_flat"][:, 0] * factor**2)
    np.testing.assert_array_equal(b["background"], a["background"])
    for off in (
        extract_1d(ds, box(), correction(), apply_apcorr=False),
        extract_1d(ds.assign_attrs(source_type="EXTENDED"), box(), correction()),
    ):
        np.testing.assert_array_equal(off["flux"], a["flux"])


def test_sizes_in_arcsec():
    ds = exposure()
    scale = 1e-4 * 3600.0
    pixels = extract_1d(ds, box(), correction())
    angles = extract_1d(ds, box(), correction(unit="arcsec", scale=scale))
    np.testing.assert_allclose(angles["flux"], pixels["flux"], rtol=1e-9)


def test_correction_for_another_subarray():
    with pytest.raises(ReferenceError, match="subarray='FULL'"):
        extract_1d(exposure(), box(), correction("SUB64"))


# -------------------------------------------------------------------------------- optimal


def psf_exposure(center=7.0, nod=None, integrations=2, background=0.0):
    ds = exposure(integrations, bad=0.03)
    x = np.arange(NX)

    def line(at):
        p = np.exp(-0.5 * ((x - at) / 1.3) ** 2)
        return p / p.sum()

    image = 100.0 * line(center) + background
    if nod is not None:
        image = image - 60.0 * line(nod)
    image = np.where(np.isnan(ds["sci"].values), np.nan, image).astype(np.float32)
    return ds.assign(sci=(ds["sci"].dims, image, ds["sci"].attrs))


def test_optimal_extraction_finds_the_source():
    """The PSF is half a pixel off before the refinement, as in the peer."""
    ds = psf_exposure(background=3.0)
    reference = apertures(use_source_posn=True, extract_width=5)
    options = {"extraction_type": "optimal", "subtract_background": True}
    out = extract_1d(ds, reference, correction(), psf_reference(), **options)
    np.testing.assert_allclose(out["flux"], 100.0 * AREA * 1e6, rtol=5e-3)
    assert not out["surf_bright"].values.any()
    for name in ("bkgd_error", "flux_error", "flux_error_cov"):
        assert np.isfinite(out[name]).all()
    fixed = extract_1d(ds, reference, None, psf_reference(), **options, optimize_psf_location=False)
    assert np.abs(fixed["flux"] / (100.0 * AREA * 1e6) - 1).max() > 0.01


def test_type_is_chosen_by_source_position():
    ds, psf = psf_exposure(), psf_reference()

    def optimal(reference, psf, extraction_type):
        plan = extract_1d.plan(ds, reference, None, psf, extraction_type=extraction_type)
        return plan.groups[0].optimal

    assert optimal(box(use_source_posn=True), psf, None)
    assert not optimal(box(), psf, None)
    assert not optimal(box(), None, "optimal")


def test_psf_for_another_slit():
    with pytest.raises(ReferenceError, match="S400A1"):
        extract_1d(
            psf_exposure(), box(), None, psf_reference(aperture="S400A1"), extraction_type="optimal"
        )


def test_plan_of_the_first_chunk_serves_the_others():
    ds, psf = psf_exposure(integrations=4), psf_reference()
    reference = apertures(use_source_posn=True)
    options = {"extraction_type": "optimal"}
    whole = extract_1d(ds, reference, None, psf, **options)
    plan = extract_1d.plan(ds.isel(integration=slice(0, 2)), reference, None, psf, **options)
    rest = extract_1d(ds.isel(integration=slice(2, 4)), reference, None, psf, plan=plan, **options)
    np.testing.assert_allclose(rest["flux"], whole["flux"][2:], rtol=1e-12)


def test_images_are_kept_on_request():
    ds = exposure(bad=0.0)
    options = {"save_profile": True, "save_scene_model": True, "save_residual_image": True}
    out = extract_1d(ds, box(**BKG), **options)
    records = meta_of(out).records
    np.testing.assert_array_equal(records["profile"]["sci"][5], WEIGHTS)
    scene, residual = records["scene_model"]["sci"], records["residual"]["sci"]
    assert scene.shape == ds["sci"].shape
    np.testing.assert_allclose(scene + residual, ds["sci"], rtol=1e-5)
    np.testing.assert_allclose(extract_1d(ds, box(**BKG))["flux"], out["flux"], rtol=1e-12)
    plain = meta_of(extract_1d(ds, box())).records
    assert not (set(plain) & set(records)) - {"warnings"}


# ------------------------------------------------------------------------- transformations

VARIANTS = {
    "box": (box(), {}),
    "order": (box(**BKG), {"bkg_order": 1}),
    "smooth": (box(**BKG), {"smoothing_length": 3}),
    "median": (box(**BKG), {"bkg_fit": "median", "smoothing_length": 3}),
    "optimal": (
        box(),
        {"extraction_type": "optimal", "subtract_background": True, "optimize_psf_location": False},
    ),
}


def variant(name):
    reference, options = VARIANTS[name]
    psf = psf_reference() if name == "optimal" else None
    ds = exposure(3, bad=0.05)
    plan = extract_1d.plan(ds, reference, correction(), psf, **options)

    def apply(d):
        return extract_1d(d, reference, correction(), psf, plan=plan, **options)

    return ds, apply


@pytest.mark.parametrize("name", VARIANTS)
def test_jit_equals_eager(name):
    ds, apply = variant(name)
    eager, compiled = apply(ds), jit(apply)(ds)
    assert compiled.attrs["status_extract_1d"] == "COMPLETE"
    assert list(compiled["sltname"].values) == [MODE]
    for column in EXTRACTED:
        np.testing.assert_allclose(
            compiled[column], eager[column], rtol=1e-9, atol=1e-12, err_msg=column
        )


@pytest.mark.parametrize("name", ["median", "smooth"])
def test_vmap_equals_batch(name):
    ds, apply = variant(name)
    batch, mapped = apply(ds), vmap(jit(apply))(ds)
    for column in ("flux", "flux_error", "flux_error_cov", "background", "npixels"):
        np.testing.assert_allclose(mapped[column], batch[column], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["smooth", "median", "optimal"])
def test_gradient_equals_finite_difference(name):
    ds, apply = variant(name)
    weights = np.random.default_rng(3).normal(size=(3, 1, NY - 3))

    def merit(d):
        flux = apply(d)["flux"].data
        xp = array_namespace(flux)
        return xp.sum(xp.where(xp.isnan(flux), xp.zeros_like(flux), flux) * weights) * 1e9

    _, gradient = value_and_grad(jit(merit), wrt=("sci",))(ds)
    gradient = np.asarray(gradient["sci"])
    assert np.isfinite(gradient).all()
    assert not gradient[np.isnan(ds["sci"].values)].any()
    step = np.random.default_rng(4).normal(size=ds["sci"].shape) * 1e-5

    def shifted(sign):
        moved = ds["sci"].values.astype(np.float64) + sign * step
        return merit(ds.assign(sci=(ds["sci"].dims, moved, ds["sci"].attrs)))

    difference = (shifted(1) - shifted(-1)) / 2.0
    expected = np.nansum(gradient.astype(float) * step)
    np.testing.assert_allclose(difference, expected, rtol=1e-4)


def test_gradient_of_errors_is_finite():
    ds, apply = variant("order")

    def merit(d):
        out = apply(d)
        return out["flux_error"].data.sum() + out["flux_error_cov"].data.sum()

    names = ("var_poisson", "var_rnoise", "var_flat")
    _, gradient = value_and_grad(jit(merit), wrt=names)(ds)
    for name in names:
        assert np.isfinite(gradient[name]).all()
        assert np.any(gradient[name])


def test_plan_is_made_outside_of_a_trace():
    with pytest.raises(HostOnlyError, match=r"extract_1d\.plan"):
        jit(lambda d: extract_1d(d, box()))(exposure())


# ---------------------------------------------------------------------------------- errors


def correlated(count, rng):
    """Noise that is correlated over two pixels across the trace, with its covariance."""
    kernel = np.array([0.3, 0.5, 0.2])
    sigma = 0.5 + rng.random((NY, NX + 2))
    white = rng.normal(size=(count, NY, NX + 2)) * sigma
    noise = sum(k * white[..., i : i + NX] for i, k in enumerate(kernel))
    power = sigma**2
    variance = sum(k * k * power[:, i : i + NX] for i, k in enumerate(kernel))
    lags = np.full((2, NY, NX), np.nan)
    for lag in (1, 2):
        m = NX - lag
        lags[lag - 1, :, :m] = sum(
            kernel[i] * kernel[i - lag] * power[:, i : i + m] for i in range(lag, 3)
        )
    return noise, variance, lags


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"subtract_background": False}, 0.98, 1.02),
        ({"bkg_order": 1}, 0.98, 1.02),
        ({"smoothing_length": 5}, 0.98, 1.02),
        ({"bkg_fit": "median"}, 0.85, 1.1),
        ({"extraction_type": "optimal", "optimize_psf_location": False}, 0.98, 1.02),
    ],
)
def test_error_with_covariance_is_honest(options, low, high):
    count = 400
    noise, variance, lags = correlated(count, np.random.default_rng(7))
    ds = exposure(count, bad=0.0)
    lines = {"sci": 5.0 + noise, "var_rnoise": variance, "var_poisson": 0.0, "var_flat": 0.0}
    for name, value in lines.items():
        array = np.broadcast_to(value, ds["sci"].shape).astype(np.float32)
        ds[name] = (ds["sci"].dims, array, ds[name].attrs)
    ds["variance_cov"] = (("y", "x"), variance.astype(np.float32))
    ds["covariance"] = (("lag", "y", "x"), lags.astype(np.float32))
    ds["dq"].values[:, 10, 6] = 1
    entry = {"bkg_coeff": [[-0.5], [5.5], [11.5], [15.5]]}
    out = extract_1d(ds, box(**entry), correction(), psf_reference(), **options)
    pulls = (out["flux"] - out["flux"].mean("integration")) / out["flux_error_cov"]
    assert low < float(pulls.std()) < high
    simple = (out["flux"] - out["flux"].mean("integration")) / out["flux_error"]
    assert abs(float(simple.std()) - 1) > 0.15
