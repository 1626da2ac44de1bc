"""Steps of overlapping orders, on a rendered exposure whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.calibration import calibrate
from spec2fn.engine.pipeline import needed_references
from spec2fn.errors import InputError, ParameterError, ReferenceError
from spec2fn.forward.exposures import START
from spec2fn.forward.niriss import instrument as nis
from spec2fn.forward.niriss.instrument import Strip
from spec2fn.forward.niriss.operator import orders_operator
from spec2fn.forward.renderers import render
from spec2fn.io import open_product, save
from spec2fn.plans.extraction.extract_orders import filled_series
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of, with_meta
from spec2fn.steps.background import background
from spec2fn.steps.extract_soss import extract_soss
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.photom import photom
from spec2fn.testing import exposures

SOSS = exposures.SOSS
FAST = {"soss_n_os": 1, "soss_tikfac": 1e-8, "soss_rtol": 1e-2}
BOX = {"soss_atoca": False}


@pytest.fixture(scope="module")
def given():
    return exposures.step_input("extract_1d", SOSS)


@pytest.fixture(scope="module")
def box(given):
    return extract_soss(given.dataset, **given.references, **BOX)


def changed(ds, **arrays):
    return ds.assign({n: (ds[n].dims, a, dict(ds[n].attrs)) for n, a in arrays.items()})


def with_bad_pixels(ds, share, integrations=slice(None), seed=8):
    """Pixels without value; the same ones in the integrations."""
    rng = np.random.default_rng(seed)
    lost = rng.random(ds["sci"].shape[-2:]) < share
    sci, err, dq = (np.array(ds[n].values) for n in ("sci", "err", "dq"))
    sci[integrations, lost], err[integrations, lost] = np.nan, np.nan
    dq[integrations, lost] |= 1
    return changed(ds, sci=sci, err=err, dq=dq)


# ---- background


def library(ds, seed=2):
    rng = np.random.default_rng(seed)
    y, x = ds.sizes["y"], ds.sizes["x"]
    images = []
    for column in (690, 700, 710):
        step = 1 + 0.6 / (1 + np.exp(-(np.arange(x) - column) / 3.0))
        images.append(step * (1 + 0.1 * rng.random() * np.arange(y)[:, None] / y))
    data = np.stack(images).astype(np.float32)
    return xr.Dataset({"sci": (("sci_d0", "y", "x"), data)}, attrs={"reftype": "bkg"})


def faint(ds, image, left, right, noise, seed=4):
    rng = np.random.default_rng(seed)
    scale = np.where(np.arange(image.shape[1]) < 705, left, right)
    sky = image * scale + noise * rng.standard_normal(ds["sci"].shape)
    sky[:, 100:140] += 500.0  # the source
    return changed(ds, sci=sky.astype(np.float32))


def test_the_template_and_both_scales_are_found(given):
    ds = given.dataset
    ref = library(ds)
    exposed = faint(ds, ref["sci"].values[1], 2.0, 2.5, 1e-3)
    plan = background.plan(exposed, ref, soss_source_percentile=93.0)
    assert plan.template == 1
    np.testing.assert_allclose(plan.scales, [2.0, 2.5], rtol=2e-3)
    official = background.plan(
        exposed, ref, soss_source_percentile=93.0, soss_bkg_percentile=(25.0, 50.0)
    )
    np.testing.assert_array_equal(plan.scales, official.scales)
    others = background.plan(
        exposed, ref, soss_source_percentile=93.0, soss_bkg_percentile=(5.0, 20.0)
    )
    assert (others.scales != plan.scales).all()
    out = background(exposed, ref, soss_source_percentile=93.0)
    away = np.r_[0:650, 750:768]
    assert np.abs(out["sci"].values[:, 200:, away]).max() < 0.02
    assert meta_of(out).records["background_template"][0] == 1
    for name in ("err", "dq", "var_rnoise"):
        np.testing.assert_array_equal(out[name].values, exposed[name].values)


def test_templates_have_to_fit(given):
    ds, ref = given.dataset, library(given.dataset)
    out = background(ds, ref.isel(y=slice(0, 200)))
    assert "200 rows" in out.attrs["status_background"]
    with pytest.raises(ReferenceError, match="needs a library of images"):
        background(ds, ref.isel(x=slice(0, 700)))
    blank = changed(ds, dq=np.ones_like(ds["dq"].values))
    assert "no template fits" in background(blank, ref).attrs["status_background"]


# ---- pathloss


@pytest.fixture(scope="module")
def image():
    return render(SOSS, 1, 1, strip=Strip("SUBSTRIP256", 256, columns=300), series=False)


def test_light_beyond_the_subarray_is_made_up_for(image):
    ds, ref = image.exposure("science"), image.references["pathloss"]
    out = pathloss(ds, ref)
    assert out.attrs["status_pathloss"] == "COMPLETE"
    factor = out["pathloss_ps"].values
    assert (np.ptp(factor, axis=0) == 0).all()
    assert 0 < factor.min() < factor.max() <= 1
    np.testing.assert_allclose(out["sci"].values * factor, ds["sci"].values, rtol=1e-6)
    back = pathloss(out, ref, inverse=True)
    np.testing.assert_allclose(back["sci"].values, ds["sci"].values, rtol=1e-6)


def test_pathloss_says_why_it_does_nothing(image, given):
    ds, ref = image.exposure("science"), image.references["pathloss"]
    series = pathloss(given.dataset.assign_attrs(tso=True), ref)
    assert "time series" in series.attrs["status_pathloss"]
    other = pathloss(ds.assign_attrs(subarray="SUBSTRIP7"), ref)
    assert "no aperture SUBSTRIP7" in other.attrs["status_pathloss"]
    unknown = ds.drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in ds.attrs.items() if k != "tso"}
    )
    header = {k: v for k, v in meta_of(ds).primary.items() if k != "TSOVISIT"}
    with pytest.raises(InputError, match="TSOVISIT is missing"):
        pathloss(with_meta(unknown, primary=header), ref)
    headers = {k: h for k, h in meta_of(ref).records["headers"].items() if k != "ps"}
    bare = ref.assign_attrs(meta=meta_of(ref).replace(records={"headers": headers}))
    with pytest.raises(ReferenceError, match="no apertures"):
        pathloss(ds, bare)


# ---- extraction


def test_a_box_sums_what_it_holds(given, box):
    plan = extract_soss.plan(given.dataset, **given.references, **BOX)
    sci, err = (given.dataset[n].values.astype(float) for n in ("sci", "err"))
    good = np.isfinite(sci) & np.isfinite(err) & (err > 0) & ~plan.masked
    for k, length in enumerate(plan.lengths):
        used = plan.weights[k] * good
        share = (plan.weights[k] * plan.profile[k]).sum(0) / (used * plan.profile[k]).sum(-2)
        flux = (used * np.where(good, sci, 0)).sum(-2) * share
        found = box["flux"].values[:, k]
        lit = np.isfinite(found) & (np.arange(found.shape[-1]) < length)
        np.testing.assert_allclose(found[lit], flux[lit], rtol=1e-9)
        np.testing.assert_allclose(box["npixels"].values[:, k], used.sum(-2), rtol=1e-9)
        error = np.sqrt((used * np.where(good, err, 0) ** 2).sum(-2)) * share
        np.testing.assert_allclose(box["flux_error"].values[:, k][lit], error[lit], rtol=1e-9)
    assert box["flux"].attrs["units"] == "DN/s"
    assert box.attrs["model"] == "TSOMultiSpecModel"


@pytest.mark.parametrize("everywhere", [True, False])
def test_masked_pixels_do_not_lower_the_flux(given, box, everywhere):
    which = slice(None) if everywhere else slice(0, 1)
    bad = with_bad_pixels(given.dataset, 0.05, which)
    kept, lost = (
        extract_soss(bad, **given.references, **BOX, soss_masked_pixels=how)
        for how in ("rescaled", "dropped")
    )
    bright = box["flux"].values[0, 0] > np.nanpercentile(box["flux"].values[0, 0], 30)
    ratio = kept["flux"].values[0, 0][bright] / box["flux"].values[0, 0][bright]
    assert abs(np.median(ratio) - 1) < 0.003
    missing = np.median(lost["flux"].values[0, 0][bright] / box["flux"].values[0, 0][bright])
    # officially only what has never a value is missing: neighbours stand for the rest
    assert abs(missing - (0.95 if everywhere else 1.0)) < 0.01
    assert (kept["npixels"].values[0, 0] < box["npixels"].values[0, 0]).mean() > 0.5


def test_models_stand_for_bad_pixels(given):
    usual = extract_soss(given.dataset, **given.references, **FAST)
    bad = with_bad_pixels(given.dataset, 0.05)
    for how in ("rescaled", "dropped"):
        options = {**FAST, "soss_bad_pix": "model", "soss_masked_pixels": how}
        out = extract_soss(bad, **given.references, **options)
        flux, before = (d["flux"].values[:, 0] for d in (out, usual))
        bright = before > np.nanpercentile(before, 30)
        assert abs(np.median(flux[bright] / before[bright]) - 1) < 0.003
        same = np.abs(out["npixels"].values - usual["npixels"].values)[:, 0] < 1e-6
        assert same[bright].mean() > 0.99


def test_optimal_weights_agree_with_the_box_and_are_less_noisy(given):
    usual = extract_soss(given.dataset, **given.references, **FAST)
    out = extract_soss(given.dataset, **given.references, **FAST, extraction_type="optimal")
    for k in (0, 1):
        a, b = (d["flux"].values[:, k] for d in (usual, out))
        error = usual["flux_error_cov"].values[:, k]
        fine = np.isfinite(a) & np.isfinite(b) & (a > 20 * error)
        assert fine.mean() > 0.2
        assert abs(np.median((b - a)[fine] / error[fine])) < 0.3
        less = out["flux_error_cov"].values[:, k][fine] / error[fine]
        assert np.median(less) < 1.0


def test_the_background_of_columns_is_subtracted(given, box):
    lifted = changed(given.dataset, sci=(given.dataset["sci"].values + 3.0).astype(np.float32))
    out = extract_soss(lifted, **given.references, **BOX, subtract_background=True)
    usual = extract_soss(given.dataset, **given.references, **BOX, subtract_background=True)
    difference = out["background"].values - usual["background"].values
    seen = usual["background"].values != 0  # by pixels that are no reference pixels
    assert seen.mean() > 0.95
    np.testing.assert_allclose(difference[seen], 3.0, atol=1e-3)
    lit = np.isfinite(out["flux"].values)
    np.testing.assert_allclose(
        out["flux"].values[lit], usual["flux"].values[lit], rtol=1e-4, atol=0.1
    )
    assert (box["background"].values == 0).all()


def test_order_3_can_be_left_out(given):
    out = extract_soss(given.dataset, **given.references, **BOX, soss_order_3=False)
    assert out["sporder"].values.tolist() == [1, 2]


def test_a_threshold_says_where_both_orders_are_bright(given):
    usual = extract_soss(given.dataset, **given.references, **FAST)["flux"].values[:, 0]
    # nothing is: pixels where one order has no wavelengths are fitted all the same
    out = extract_soss(given.dataset, **given.references, **FAST, soss_threshold=1.0)
    flux = out["flux"].values[:, 0]
    assert (flux != usual).any()
    bright = usual > np.nanpercentile(usual, 30)
    assert abs(np.median(flux[bright] / usual[bright]) - 1) < 0.02


def test_an_image_is_one_integration(image):
    ds = image.exposure("science")
    refs = {n: image.references[n] for n in ("pastasoss", "specprofile", "speckernel")}
    out = extract_soss(ds, **refs, **BOX)
    assert out.sizes["integration"] == 1
    assert np.isfinite(out["flux"].values).any()


# ---- light of no order


def zeroth_orders(shape):
    """Two field stars upon the traces, and their strengths in two integrations [DN/s]."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    places = [(nis.trace(1, np.array(c), shape[1]) + 4, c) for c in (300, 520)]
    images = np.array([np.exp(-((y - r) ** 2 + (x - c) ** 2) / 8.0) for r, c in places])
    return images, np.array([[900.0, 500.0], [700.0, 800.0]])


def test_field_stars_are_fitted_and_subtracted(given, tmp_path):
    images, strengths = zeroth_orders(given.dataset["sci"].shape[-2:])
    stars = np.einsum("ik,kyx->iyx", strengths, images)
    lit = changed(given.dataset, sci=(given.dataset["sci"].values + stars).astype(np.float32))
    usual, bad, clean = (
        extract_soss(ds, **given.references, **FAST, soss_contaminants=known)
        for ds, known in ((given.dataset, None), (lit, None), (lit, images))
    )
    error = usual["flux_error_cov"].values[:, 0]
    near = np.r_[297:304, 517:524]
    for out, far in ((bad, True), (clean, False)):
        pull = ((out["flux"] - usual["flux"]).values[:, 0] / error)[:, near]
        assert (np.abs(pull).max() > 30) if far else (np.abs(pull).max() < 2), pull
    assert np.isfinite(clean["flux_error_cov"].values[:, 0, near]).all()
    assert "contaminant_strength" not in usual
    found, doubt = clean["contaminant_strength"], clean["contaminant_error"].values
    assert found.dims == ("integration", "contaminant")
    # of the same exposure without them they would be what the noise makes of them
    alone = extract_soss(given.dataset, **given.references, **FAST, soss_contaminants=images)
    noise = alone["contaminant_strength"].values
    np.testing.assert_allclose(found.values - noise, strengths, rtol=1e-6)
    assert (np.abs(noise) < 4 * doubt).all()
    assert (doubt < 0.02 * strengths).all()
    path = tmp_path / "stars.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(images, name="SCI")]).writeto(path)
    same = extract_soss(lit, **given.references, **FAST, soss_contaminants=str(path))
    for name in ("contaminant_strength", "contaminant_error"):
        np.testing.assert_array_equal(same[name], clean[name])
        saved = open_product(save(clean, tmp_path / f"{name}.fits"))
        np.testing.assert_array_equal(saved[name], clean[name])
        assert saved[name].dims == clean[name].dims
    np.testing.assert_allclose(same["flux"].values, clean["flux"].values, rtol=1e-9)
    one = extract_soss(lit, **given.references, **FAST, soss_contaminants=images[0])
    left = np.abs((one["flux"] - usual["flux"]).values[:, 0] / error)
    assert left[:, 297:304].max() < 2
    assert left[:, 517:524].max() > 30


def test_the_strengths_of_field_stars_are_in_the_products(given, tmp_path):
    images, _ = zeroth_orders(given.dataset["sci"].shape[-2:])
    obs, refs = exposures.observation(SOSS), dict(exposures.references(SOSS))
    needed = needed_references(exposures.pipeline(SOSS))
    options = {"parameter_references": False, "overrides": {k: refs.get(k) for k in needed}}
    params = {"extract_1d": {**FAST, "soss_contaminants": images}}
    for name, chunk in (("whole", None), ("cut", 1)):
        calibrate(obs, tmp_path / name, params=params, chunk_integrations=chunk, **options)
    (path,) = (tmp_path / "whole").glob("*_x1d*.fits")
    for name, dims in (
        ("STRENGTH", "integration,contaminant"),
        ("STR_ERR", "contaminant"),
    ):
        with fits.open(path) as a, fits.open(tmp_path / "cut" / path.name) as b:
            assert a[name].header["DIMS"] == dims
            np.testing.assert_array_equal(a[name].data, b[name].data)
    whole, cut = (open_product(tmp_path / n / path.name) for n in ("whole", "cut"))
    assert whole.sizes["contaminant"] == 2
    assert whole["contaminant_strength"].shape == (obs.science.sizes["integration"], 2)
    np.testing.assert_array_equal(cut["contaminant_strength"], whole["contaminant_strength"])


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.ones((3, 4)), r"soss_contaminants is \(3, 4\), but the exposure is \(256, 768\)"),
        (np.full((256, 768), np.nan), "needs finite values, found 196608 others"),
        (np.zeros((1, 256, 768)), "found none in image 1 of 1; leave it out"),
        (xr.Dataset({"mask": ("x", [1.0])}), r"soss_contaminants has no SCI \(it holds mask\)"),
    ],
)
def test_images_of_field_stars_have_to_fit(given, images, says):
    with pytest.raises(InputError, match=says):
        extract_soss.plan(given.dataset, **given.references, **FAST, soss_contaminants=images)


def test_noise_of_columns_is_fitted_and_subtracted(given):
    rng = np.random.default_rng(5)
    level = rng.normal(0.0, 3.0, (2, 1, given.dataset.sizes["x"]))
    noisy = changed(given.dataset, sci=(given.dataset["sci"].values + level).astype(np.float32))
    usual, bad, clean = (
        extract_soss(ds, **given.references, **FAST, soss_flicker=sigma)
        for ds, sigma in ((given.dataset, None), (noisy, None), (noisy, 3.0))
    )
    found = clean["background"].values[:, 0]
    seen = found != 0  # by pixels that are no reference pixels
    assert seen.mean() > 0.95
    seen[:, :8] = False  # where the models may begin a column earlier or later
    assert np.std((found - level[:, 0])[seen]) < 0.2 * level.std()
    assert (bad["background"].values == 0).all()
    error = clean["flux_error_cov"].values
    assert (error[np.isfinite(error)] > 0).all()
    more = (error / usual["flux_error_cov"].values)[:, :, 12:-12]
    assert np.nanmax(more) < 3
    for k in range(3):
        known = np.isfinite(usual["flux"].values[:, k]) & seen
        worse, left = ((out["flux"] - usual["flux"]).values[:, k][known] for out in (bad, clean))
        assert np.std(left) < 0.25 * np.std(worse)
        # and the errors say so
        pull = left / clean["flux_error_cov"].values[:, k][known]
        assert np.std(pull) < 1.1


def test_what_is_fitted_with_the_orders_needs_them(given):
    for asked in ({"soss_flicker": 1.0}, {"soss_contaminants": np.ones((256, 768))}):
        with pytest.raises(ParameterError, match="set soss_atoca=True"):
            extract_soss.plan(given.dataset, **given.references, **BOX, **asked)


@pytest.mark.parametrize("along", [{}, {"soss_flicker": 0.5}], ids=["plain", "columns"])
def test_errors_are_as_large_as_what_is_missing_to_the_light_of_the_columns(given, along):
    # which has lines as wide as the resolution makes them
    rendered = exposures.rendered(SOSS)
    truth = rendered.truth
    strip = Strip("SUBSTRIP256", 256, columns=768)
    operator = orders_operator(strip, truth.wavelength)
    left = nis.throughput_left(START)
    plan = extract_soss.plan(given.dataset, **given.references, **FAST)
    out = extract_soss(given.dataset, **given.references, **{**FAST, "soss_tikfac": None}, **along)
    box = (plan.weights * operator.profile).sum(axis=1)
    columns = left * operator.columns(truth.flux) * box
    flux, error = (out[n].values for n in ("flux", "flux_error_cov"))
    for k in range(3):
        bright = np.isfinite(flux[:, k]) & (columns[:, k] > 0.05 * columns[:, k].max())
        pull = ((flux - columns)[:, k] / error[:, k])[bright]
        assert abs(pull.mean()) < 0.1
        assert 0.9 < pull.std() < 1.1


# ---- flux calibration


def test_spectra_become_flux_densities(given, box):
    ref = exposures.references(SOSS)["photom"]
    out = photom(box, ref)
    assert out["flux"].attrs["units"] == "Jy"
    assert out["flux_var_poisson"].attrs["units"] == "Jy^2"
    lit = np.isfinite(out["flux"].values)
    factor = (out["flux"].values / box["flux"].values)[lit]
    same = (out["flux_error"].values / box["flux_error"].values)[lit]
    np.testing.assert_allclose(factor, same, rtol=1e-9)
    back = photom(out, ref, inverse=True)
    np.testing.assert_allclose(back["flux"].values[lit], box["flux"].values[lit], rtol=1e-12)
    assert back["flux"].attrs["units"] == "DN/s"
    as_theirs = photom(box, ref, orders_unit="MJy", orders_beyond="zero")
    np.testing.assert_array_equal(as_theirs["flux"].values[lit], out["flux"].values[lit])
    assert as_theirs["flux"].attrs["units"] == "MJy"
    with pytest.raises(InputError, match="already"):
        photom(out, ref)


def test_elements_beyond_the_response_are_lost_and_flagged(box):
    ref = exposures.references(SOSS)["photom"]
    waves = ref["photom.wavelength"].values
    moved = ref.assign({"photom.wavelength": (ref["photom.wavelength"].dims, waves + 1.0)})
    out = photom(box, moved)
    beyond = box["wavelength"].values < waves[:, 0].min() + 1.0
    assert beyond.any()
    assert np.isnan(out["flux"].values[:, beyond]).all()
    assert (out["dq"].values[:, beyond] & 1).all()
    zero = photom(box, moved, orders_beyond="zero")["flux"].values[:, beyond]
    assert (zero[np.isfinite(box["flux"].values[:, beyond])] == 0).all()


def test_an_order_without_a_row_says_so(box):
    ref = exposures.references(SOSS)["photom"]
    orders = ref["photom.order"].values
    fewer = ref.isel(photom_row=orders < 3)
    out = photom(box, fewer)
    assert np.isnan(out["flux"].values[:, 2]).all()
    assert np.isfinite(out["flux"].values[:, 0]).any()
    assert any("order 3" in w for w in meta_of(out).records["warnings"])
    none = photom(box, ref.isel(photom_row=orders > 3))
    assert "no row" in none.attrs["status_photom"]


def test_an_estimate_says_where_the_grid_is_fine(given, tmp_path):
    wave = np.linspace(0.7, 3.0, 6000)
    smooth = np.stack([wave, 5.0 - wave])
    line = np.stack([wave, 5.0 - wave + 40 * np.exp(-0.5 * ((wave - 1.5) / 0.002) ** 2)])

    def nodes(estimate):
        params = {**FAST, "soss_rtol": 1e-3, "soss_estimate": estimate}
        return extract_soss.plan(given.dataset, **given.references, **params).models.joint.wave

    coarse, fine = nodes(smooth), nodes(line)
    near = [((g > 1.49) & (g < 1.51)).sum() for g in (coarse, fine)]
    assert near[1] > 4 * near[0]
    far = [g[np.abs(g - 1.5) > 0.05] for g in (coarse, fine)]
    np.testing.assert_array_equal(*far)
    # in any order, with gaps, and from files of spectra
    gaps = line[:, ::-1].copy()
    gaps[1, 100] = np.nan
    np.testing.assert_allclose(nodes(gaps), fine, rtol=1e-12)
    table = fits.BinTableHDU.from_columns(
        [fits.Column(n, "D", array=v) for n, v in zip(("WAVELENGTH", "FLUX"), line, strict=True)],
        name="EXTRACT1D",
    )
    path = tmp_path / "estimate.fits"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    np.testing.assert_array_equal(nodes(str(path)), fine)
    np.testing.assert_array_equal(nodes(open_reference(path)), fine)
    table.columns.change_name("FLUX", "LIGHT")
    table.writeto(tmp_path / "light.fits")
    with pytest.raises(InputError, match=r"soss_estimate has no EXTRACT1D\.FLUX"):
        nodes(str(tmp_path / "light.fits"))
    with pytest.raises(InputError, match="four finite values"):
        nodes(np.full((2, 9), np.nan))


def test_a_searched_factor_hardly_depends_on_the_estimate(given, box):
    # an official spectrum, such as the one of the box, is an estimate
    wave, flux = box["wavelength"].values[0], box["flux"].values[0, 0]
    searched = {**FAST, "soss_tikfac": None}
    found = [
        extract_soss.plan(given.dataset, **given.references, **searched, soss_estimate=estimate)
        for estimate in (None, np.stack([wave, 1e4 * flux]))
    ]
    first, second = (float(plan.models.joint.factor) for plan in found)
    assert second == pytest.approx(first, rel=0.05)


# ---- whole runs


def test_the_spectrum_of_the_truth_and_its_products(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    obs, refs = exposures.observation(SOSS), dict(exposures.references(SOSS))
    needed = needed_references(exposures.pipeline(SOSS))
    options = {"parameter_references": False, "overrides": {k: refs.get(k) for k in needed}}
    named = {**FAST, "soss_modelname": "mine", "soss_wave_grid_out": "grid.fits"}
    done = calibrate(obs, tmp_path / "out", params={"extract_1d": named}, **options)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"mine_SossExtractModel.fits", "mine_AtocaSpectra.fits", "grid.fits"} <= names
    with fits.open(tmp_path / "out" / "mine_SossExtractModel.fits") as models:
        assert [h.name for h in models[1:7]] == [
            *(f"ORDER{o}" for o in (1, 2, 3)),
            *(f"APER{o}" for o in (1, 2, 3)),
        ]
        assert models["ORDER1"].data.shape == obs.science["sci"].shape
        assert models[0].header["DATAMODL"] == "SossExtractModel"
    with fits.open(tmp_path / "out" / "mine_AtocaSpectra.fits") as spectra:
        numbers = [h.header["INT_NUM"] for h in spectra if h.name == "EXTRACT1D"]
        assert sorted(set(numbers)) == [1, 2]
    # a piece at a time gives the same files
    calibrate(obs, tmp_path / "cut", params={"extract_1d": named}, chunk_integrations=1, **options)
    for name in ("mine_SossExtractModel.fits", "mine_AtocaSpectra.fits", "grid.fits"):
        with fits.open(tmp_path / "out" / name) as a, fits.open(tmp_path / "cut" / name) as b:
            assert [h.name for h in a] == [h.name for h in b]
            for one, other in zip(a[1:], b[1:], strict=True):
                if one.name not in ("SPEC2FN", "ASDF"):
                    np.testing.assert_array_equal(one.data, other.data)
    # the grid of one run is that of another
    given_grid = {**FAST, "soss_wave_grid_in": str(tmp_path / "out" / "grid.fits")}
    again = calibrate(obs, params={"extract_1d": given_grid}, **options)
    for name in ("flux", "flux_error"):
        np.testing.assert_array_equal(
            again.products["x1d"][name].values, done.products["x1d"][name].values
        )
    x1d = done.products["x1d"]
    assert float(x1d["tikhonov_factor"]) == 1e-8
    truth = exposures.rendered(SOSS).truth
    flux, error, wave = (x1d[n].values for n in ("flux", "flux_error_cov", "wavelength"))
    expected = np.interp(wave[0], truth.wavelength, np.atleast_2d(truth.flux)[0])
    bright = np.isfinite(flux[0, 0]) & (flux[0, 0] > 20 * error[0, 0])
    assert abs(np.median(flux[0, 0][bright] / expected[bright]) - 1) < 0.01


def test_without_clear_there_is_an_image_and_no_spectrum():
    obs = exposures.observation(SOSS)
    refs = {k: None if r is None else r.copy() for k, r in exposures.references(SOSS).items()}
    needed = needed_references(exposures.pipeline(SOSS))
    science = obs.science.assign_attrs(filter="F277W")
    for ref in refs.values():
        if ref is not None:
            ref.attrs.pop("made_for", None)
    done = calibrate(
        replace(obs, science=science),
        parameter_references=False,
        overrides={k: refs.get(k) for k in needed},
    )
    assert set(done.products) == {"cal"}
    status = {s["step"]: s["status"] for s in done.report["steps"]}
    assert "FILTER CLEAR only" in status["extract_1d"]
    assert status["photom"].startswith("SKIPPED")


def test_an_infinite_value_of_one_integration_is_not_typical(given):
    sci = np.array(given.dataset["sci"].values)
    usual = filled_series(given.dataset)
    sci[0, 100, 300] = np.inf
    found = filled_series(changed(given.dataset, sci=sci))
    assert np.isfinite(found.typical).all()
    assert np.isfinite(found.mean).all()
    assert found.typical[100, 300] == sci[1, 100, 300]
    different = found.typical != usual.typical
    assert different.sum() <= 1
