"""The step nsclean, on made-up exposures with known noise."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, ParameterError, ReferenceError
from spec2fn.host.line_noise import fit_full_frame, median_stripes
from spec2fn.plans.background.nsclean import dark_pixels, mask_boxes, scene_masks
from spec2fn.schema import Meta, meta_of, status_of
from spec2fn.steps.nsclean import nsclean
from spec2fn.transforms import jit, value_and_grad, vmap

BOX = ((-0.5, 299.5), (24.5, 35.5))


def flicker(lines, n, seed=0, correlation=10):
    """Noise that drifts from line to line: one number per line."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=lines + 4 * correlation)
    kernel = np.exp(-0.5 * (np.arange(-2 * correlation, 2 * correlation + 1) / correlation) ** 2)
    drift = np.convolve(white, kernel, mode="same")[2 * correlation : 2 * correlation + lines]
    return np.repeat(drift[:, None] / drift.std(), n, axis=1)


def exposure(shape=(64, 300), *, source=50.0, seed=0, white=0.1, **attrs):
    """A spectrum in rows 25 to 35, with drifting columns."""
    rng = np.random.default_rng(seed)
    ny, nx = shape[-2:]
    sci = np.zeros(shape, np.float32)
    sci[..., 25:36, :] += source
    sci += rng.normal(0, white, shape).astype(np.float32)
    noise = np.zeros(shape, np.float32)
    for i, image in enumerate(noise.reshape(-1, ny, nx)):
        image[:] = flicker(nx, ny, seed + i).T
    dims = ("integration", "y", "x")[-len(shape) :]
    attrs = {
        "exp_type": "NRS_BRIGHTOBJ",
        "instrument": "NIRSPEC",
        "detector": "NRS1",
        "subarray": "SUB2048",
        **attrs,
    }
    slits = (SimpleNamespace(quadrant=5),)
    meta = Meta(
        primary=fits.Header({"SLOWAXIS": 1}),
        filename="made_up_rate.fits",
        wcs=SimpleNamespace(boxes=np.array([BOX])),
        records={"slits": slits},
    )
    ds = xr.Dataset(
        {"sci": (dims, sci + noise, {"units": "DN/s"}), "dq": (dims, np.zeros(shape, np.uint32))},
        attrs={**attrs, "meta": meta},
    )
    return ds, noise, sci


def residual(out, clean):
    return float(np.std(out["sci"].values - clean))


@pytest.mark.parametrize("method", ["fft", "median"])
@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_noise_is_removed_and_the_spectrum_stays(method, detector):
    ds, noise, clean = exposure(detector=detector)
    out = nsclean(ds, fit_method=method)
    assert residual(out, clean) < 0.35 * noise.std()
    # beside the pixels the noise was fitted to: under the spectrum
    under = (out["sci"].values - clean)[25:36]
    assert under.std() < 0.35 * noise.std()
    assert abs(under.mean()) < 0.05
    assert out["sci"].dtype == np.float32
    assert out["sci"].attrs["units"] == "DN/s"
    assert status_of(out, "nsclean") == "COMPLETE"


def test_integrations_are_independent():
    ds, noise, clean = exposure((3, 64, 300))
    out = nsclean(ds)
    assert residual(out, clean) < 0.35 * noise.std()
    for i in range(3):
        alone = nsclean(ds.isel(integration=[i]))
        np.testing.assert_array_equal(out["sci"][i], alone["sci"][0])


def test_background_comes_back():
    ds, _, clean = exposure()
    shifted = ds.assign(sci=ds["sci"] + 7.0)
    for method in ("median", "model"):
        out = nsclean(shifted, background_method=method)
        assert np.std(out["sci"].values - 7.0 - clean) < 0.4
        assert np.mean(out["sci"].values - clean) == pytest.approx(7.0, abs=0.5)
    out = nsclean(shifted, background_method=None, fit_method="median")
    assert np.mean(out["sci"].values - clean) == pytest.approx(0.0, abs=0.1)


def test_median_image_needs_integrations_and_follows_the_brightness():
    ds, _, _ = exposure()
    out = nsclean(ds, background_method="median_image")
    assert "more than one integration" in status_of(out, "nsclean")
    ds, noise, clean = exposure((5, 64, 300), white=0.01)
    factor = np.array([1.0, 0.9, 1.1, 1.0, 0.95], np.float32)[:, None, None]
    varied = ds.assign(sci=(ds["sci"].dims, clean * factor + noise))
    out = nsclean(
        varied, background_method="median_image", fit_method="median", mask_spectral_regions=False
    )
    changes = out["sci"].values - clean * factor
    common = np.median(changes, axis=0)
    assert np.std(changes - common) < 0.3 * noise.std()


def test_pixels_without_value_stay_so_and_do_not_matter():
    ds, _, _ = exposure()
    sci = ds["sci"].values.copy()
    sci[5, 10:20] = np.nan
    sci[50, 100] = np.inf
    out = nsclean(ds.assign(sci=(("y", "x"), sci)))
    np.testing.assert_array_equal(np.isnan(out["sci"]), np.isnan(sci))
    assert np.isinf(out["sci"].values[50, 100])
    rest = np.isfinite(sci)
    np.testing.assert_allclose(out["sci"].values[rest], nsclean(ds)["sci"].values[rest], atol=0.2)


def test_nothing_usable_leaves_the_image():
    ds, _, _ = exposure()
    for method in ("fft", "median"):
        out = nsclean(ds, user_mask=np.zeros((64, 300)), fit_method=method)
        np.testing.assert_array_equal(out["sci"], ds["sci"])


def test_outliers_beyond_n_sigma_are_left_out():
    ds, _, _ = exposure(source=0.0)
    sci = ds["sci"].values.copy()
    sci[40:60, ::7] += 30.0
    bright = ds.assign(sci=(("y", "x"), sci))
    plan = nsclean.plan(bright, mask_spectral_regions=False, n_sigma=5.0)
    assert not scene_masks(sci, plan)[40:60, ::7].any()
    plan = nsclean.plan(bright, mask_spectral_regions=False, n_sigma=0.0)
    assert scene_masks(sci, plan)[40:60, ::7].all()
    histogram = nsclean.plan(bright, mask_spectral_regions=False, fit_histogram=True)
    assert not scene_masks(sci, histogram)[40:60, ::7].any()


def test_single_mask_is_common_to_all_integrations():
    ds, _, _ = exposure((2, 64, 300))
    sci = ds["sci"].values.copy()
    sci[0, 3, 4] = 1e4
    masks = scene_masks(sci, nsclean.plan(ds))
    assert masks.shape == sci.shape
    assert not masks[0, 3, 4]
    assert masks[1, 3, 4]
    common = scene_masks(sci, nsclean.plan(ds, single_mask=True))
    np.testing.assert_array_equal(common, masks.all(axis=0))


def test_regions_of_slits_and_failed_shutters_are_masked():
    ds, _, _ = exposure()
    dq = ds["dq"].values.copy()
    dq[2, 7] = PIXEL["MSA_FAILED_OPEN"]
    dark = dark_pixels(ds.assign(dq=(("y", "x"), dq)), (((-0.5, 299.5, 24.5, 35.5), 5),))
    assert not dark[25:36].any()
    assert dark[24].all()
    assert dark[36].all()
    assert not dark[2, 7]
    assert np.count_nonzero(~dark) == 11 * 300 + 1


def test_boxes_beyond_the_image():
    inside = mask_boxes((4, 5), [(-3.0, 1.6, -2.2, 1.4), (3.5, 9.0, 2.5, 9.0)])
    expected = np.zeros((4, 5), bool)
    expected[:1, :2] = True
    expected[3:, 4:] = True
    np.testing.assert_array_equal(inside, expected)
    assert not mask_boxes((4, 5), [(-9.0, -5.0, 0.0, 4.0)]).any()


@pytest.mark.parametrize(("quadrants", "masked"), [((1, 2), True), ((1, 5), False)])
def test_fixed_slit_region_of_mos(quadrants, masked):
    ds = xr.Dataset(
        {"dq": (("y", "x"), np.zeros((2048, 4), np.uint32))}, attrs={"exp_type": "NRS_MSASPEC"}
    )
    boxes = tuple(((0.5, 1.5, 9.5, 20.5), q) for q in quadrants)
    dark = dark_pixels(ds, boxes)
    assert dark[922:1116].any() != masked
    assert dark[921].all()
    assert dark[1116].all()


def test_slices_of_the_ifu():
    wavelength = np.full((2048, 3), np.nan)
    wavelength[100:110, 1] = 2.0
    ds = xr.Dataset(
        {
            "dq": (("y", "x"), np.zeros((2048, 3), np.uint32)),
            "wavelength": (("y", "x"), wavelength),
        },
        attrs={"exp_type": "NRS_IFU"},
    )
    dark = dark_pixels(ds, ())
    assert not dark[100:110, 1].any()
    assert not dark[922:1116].any()
    assert np.count_nonzero(~dark) == 10 + 3 * (1116 - 922)


def test_older_name_of_the_mask_wins_if_given():
    ds, _, _ = exposure()
    assert nsclean.plan(ds, mask_science_regions=False).dark.all()
    assert not nsclean.plan(ds, mask_spectral_regions=False, mask_science_regions=True).dark.all()


def test_channels_have_their_own_medians():
    image = np.repeat(np.arange(4.0, dtype=np.float32), 512)[None, :] + np.zeros((3, 1), np.float32)
    mask = np.ones(image.shape, bool)
    np.testing.assert_array_equal(median_stripes(image, mask, 4), image)
    np.testing.assert_array_equal(median_stripes(image, mask), 1.5)
    mask[1] = False
    assert (median_stripes(image, mask, 4)[1] == 0).all()


def test_centred_kernels_do_better():
    # lines that have nothing to do with each other but for a drift over a few of them
    noise = flicker(128, 128, correlation=3).astype(np.float32)
    mask = np.ones(noise.shape, bool)
    left = {
        c: np.std((noise - fit_full_frame(noise, mask, centred=c))[8:-8]) for c in (False, True)
    }
    assert left[True] < 0.7 * left[False]


def test_line_after_an_empty_one_is_not_fitted_to_rounding_errors():
    # whose weights, as published, are those of its predecessor
    rng = np.random.default_rng(2)
    n = 256
    lines = rng.normal(0, 0.1, (n, n)).astype(np.float32) + np.float32(1.0)
    mask = np.ones((n, n), bool)
    mask[99] = False
    model = fit_full_frame(lines, mask).mean(axis=1)
    # no noise is found in line 99, and a Gaussian of 1.5 lines, one line off, carries that on
    around = np.arange(90, 112)
    expected = 1.0 - np.exp(-0.5 * ((around - 100) / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(model[around], expected, atol=0.02)


def test_full_frame_follows_single_lines():
    rng = np.random.default_rng(1)
    n = 128
    lines = rng.normal(size=(n, 1)).astype(np.float32) + np.zeros((1, n), np.float32)
    mask = rng.uniform(size=(n, n)) < 0.8
    model = fit_full_frame(lines, mask, centred=True)
    # a Gaussian of 1.5 lines is all that is between them
    at = np.arange(n) - n // 2
    kernel = np.exp(-0.5 * (at / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi))
    inner = np.where((np.arange(n) < 4) | (np.arange(n) >= n - 4), 0.0, lines[:, 0])
    smooth = np.fft.irfft(np.fft.rfft(inner) * np.fft.rfft(np.roll(kernel, -(n // 2))), n)
    np.testing.assert_allclose(model[:, 5], smooth, atol=1e-4)


def test_user_mask_from_a_file(tmp_path):
    ds, _, _ = exposure()
    mask = np.ones((64, 300), np.float32)
    mask[20:40] = 0
    path = tmp_path / "mask.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(mask, name="SCI")]).writeto(path)
    plan = nsclean.plan(ds, user_mask=str(path))
    np.testing.assert_array_equal(scene_masks(ds["sci"].values, plan), mask != 0)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(mask, name="MASK")]).writeto(
        path, overwrite=True
    )
    with pytest.raises(DatasetError, match="user_mask needs an image"):
        nsclean(ds, user_mask=str(path))


def test_no_open_slit():
    ds, _, _ = exposure()
    meta = meta_of(ds)
    none = ds.assign_attrs(meta=Meta(primary=meta.primary, records={"slits": ()}))
    assert nsclean.plan(none).dark.all()


def test_user_mask():
    ds, noise, clean = exposure(source=0.0)
    mask = np.ones((64, 300), np.float32)
    mask[:20] = 0
    out = nsclean(ds, user_mask=mask)
    assert residual(out, clean) < 0.4 * noise.std()
    plan = nsclean.plan(ds, user_mask=xr.Dataset({"sci": (("y", "x"), mask)}))
    np.testing.assert_array_equal(scene_masks(ds["sci"].values, plan), mask != 0)
    with pytest.raises(DatasetError, match="user_mask"):
        nsclean(ds, user_mask=mask[:5])


def test_flat():
    ds, _, clean = exposure(source=0.0, white=0.01)
    flat = np.ones((64, 300), np.float32)
    flat[:, 150:] = 2.0
    flat[3, 3], flat[4, 4] = 0.0, np.nan
    reference = xr.Dataset({"sci": (("y", "x"), flat)})
    plan = nsclean.plan(ds, reference, apply_flat_field=True)
    assert plan.flat[3, 3] == pytest.approx(1.0, abs=0.3)
    assert np.isfinite(plan.flat).all()
    out = nsclean(ds, reference, apply_flat_field=True, fit_method="median")
    assert residual(out, clean) < 0.2
    with pytest.raises(ReferenceError, match="apply_flat_field"):
        nsclean(ds, apply_flat_field=True)


def test_what_is_saved():
    ds, noise, _ = exposure((2, 64, 300))
    out = nsclean(
        ds, save_mask=True, save_background=True, save_noise=True, background_method="median"
    )
    records = meta_of(out).records
    kept = records["nsclean_noise"]["sci"].values
    np.testing.assert_allclose(kept, out["sci"].values - ds["sci"].values, atol=1e-5)
    assert records["nsclean_background"]["sci"].shape == ds["sci"].shape
    assert set(np.unique(records["nsclean_mask"]["sci"])) == {0.0, 1.0}
    assert records["nsclean_mask"].attrs["model"] == "CubeModel"
    assert "nsclean_noise" not in meta_of(nsclean(ds)).records
    assert noise.std() > 0


def test_parameters_that_need_the_whole_exposure():
    assert nsclean.works_in_pieces
    assert not nsclean.with_(single_mask=True).works_in_pieces
    assert not nsclean.with_(background_method="median_image").works_in_pieces
    assert not nsclean.with_(save_noise=True).works_in_pieces


@pytest.mark.parametrize("exp_type", ["MIR_LRS-FIXEDSLIT", "NRS_LAMP", "NIS_SOSS"])
def test_other_exposures_are_skipped(exp_type):
    ds, _, _ = exposure(exp_type=exp_type)
    out = nsclean(ds)
    assert status_of(out, "nsclean").startswith("SKIPPED: 1/f noise")
    assert out["sci"] is not None
    np.testing.assert_array_equal(out["sci"], ds["sci"])


def test_slits_must_be_known():
    ds, _, _ = exposure()
    bare = ds.assign_attrs(meta=Meta())
    with pytest.raises(DatasetError, match="run assign_wcs"):
        nsclean(bare)
    assert status_of(nsclean(bare, mask_spectral_regions=False), "nsclean") == "COMPLETE"


def test_parameters_are_checked():
    ds, _, _ = exposure()
    with pytest.raises(ParameterError, match="fit_method"):
        nsclean(ds, fit_method="mean")
    with pytest.raises(ParameterError, match="n_sigma"):
        nsclean(ds, n_sigma=-1.0)


def test_under_jax_the_noise_is_constant():
    ds, _, _ = exposure((2, 64, 300))
    plan = nsclean.plan(ds)
    eager = nsclean(ds, plan=plan)
    traced = jit(nsclean)(ds, plan=plan)
    np.testing.assert_allclose(traced["sci"], eager["sci"], atol=1e-5)

    def total(exposure):
        return nsclean(exposure, plan=plan)["sci"].data.sum()

    _, slope = value_and_grad(total)(ds)
    found = slope["sci"] if isinstance(slope, dict) else slope["sci"].data
    np.testing.assert_array_equal(np.asarray(found), 1.0)


def test_vmap_over_exposures():
    first, second = (exposure(seed=s)[0] for s in (0, 5))
    plan = nsclean.plan(first)
    stack = xr.concat([first, second], dim="exposure", combine_attrs="override")
    out = vmap(lambda ds: nsclean(ds, plan=plan), dim="exposure")(stack)
    for i, ds in enumerate((first, second)):
        np.testing.assert_allclose(out["sci"][i], nsclean(ds, plan=plan)["sci"], atol=1e-5)


def test_automatic_parameters_are_for_images_alone():
    ds, *_ = exposure()
    out = nsclean(ds, autoparam=True)
    np.testing.assert_array_equal(out["sci"], nsclean(ds)["sci"])
