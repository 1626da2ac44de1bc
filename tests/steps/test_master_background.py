"""master_background: slitlets lit by a known sky, through made-up corrections."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from scipy.signal import medfilt

from spec2fn import transforms
from spec2fn.dq import PIXEL
from spec2fn.engine.step import Step
from spec2fn.errors import InputError
from spec2fn.plans.background.master_background import (
    Spectrum,
    combine_spectra,
    common_wavelengths,
    place,
    user_spectrum,
    variance_of,
)
from spec2fn.schema import meta_of, replace_data, status_of
from spec2fn.slits import Slits
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.steps.master_background import master_background
from spec2fn.testing import nirspec as toy

DNU = PIXEL["DO_NOT_USE"]
EXTRACT1D = xr.Dataset(
    attrs={"tree": {"apertures": [{"id": "ANY", "region_type": "target", "extract_width": 6}]}}
)
SOURCE = 7.0  # DN/s


def sky(wavelength):
    return 2.0 + 0.5 * wavelength


def gain(bucket):
    """MJy/sr per DN/s, unlike from pixel to pixel."""
    y = np.arange(bucket.sizes["y"])[:, None]
    return (0.5 + 0.2 * bucket["wavelength"].values + 0.05 * np.cos(y)).astype(np.float32)


def _calibrate(ds, *, source_type=None):
    assert source_type == "EXTENDED"
    factor = gain(ds)
    if "integration" in ds.dims:
        factor = factor[:, None]
    planes = {n: ds[n].values * factor for n in ("sci", "err")}
    planes |= {n: ds[n].values * factor**2 for n in ("var_poisson", "var_rnoise")}
    out = replace_data(ds, units="MJy/sr", **planes)
    dq = np.where(np.isnan(factor), out["dq"].values | DNU, out["dq"].values).astype(np.uint32)
    return replace_data(out, dq=dq).assign(bunit=("slit", np.array(["MJy/sr"] * ds.sizes["slit"])))


def _never(ds):
    raise AssertionError("a step that is off was called")


CORRECTIONS = (Step("calibrate", _calibrate), Step("never", _never, skip=True))


def _lit(bucket):
    """Sky in every slitlet, and a source in those that have one."""
    rng = np.random.default_rng(3)
    wave = bucket["wavelength"].values
    is_sky = np.array(["BKG" in str(n) for n in bucket["source_name"].values])
    signal = sky(wave) / gain(bucket) + np.where(is_sky, 0.0, SOURCE)[:, None, None]
    noise = {
        n: np.where(np.isnan(wave), np.nan, rng.uniform(0.1, 0.2, wave.shape)).astype(np.float32)
        for n in ("var_poisson", "var_rnoise")
    }
    dims = ("slit", "y", "x")
    out = replace_data(
        bucket,
        sci=signal.astype(np.float32),
        err=np.sqrt(noise["var_poisson"] + noise["var_rnoise"]),
    )
    out = out.assign({n: (dims, v) for n, v in noise.items()})
    count = bucket.sizes["slit"]
    pixel = {"pixar_sr": 1e-12, "pixar_a2": 0.04}
    out = out.assign({n: ("slit", np.full(count, v)) for n, v in pixel.items()})
    return out.assign(
        exposure_time=((), 80.0), source_type=("slit", np.array(["EXTENDED"] * count))
    )


@pytest.fixture(scope="module")
def slits():
    ds = toy.exposure("NRS_MSASPEC", "PRISM")
    ds = assign_wcs(ds, **toy.references("PRISM"), msa_metadata=(toy.msa_metadata(),))
    return extract_2d(ds).map(_lit)


@pytest.fixture(scope="module")
def slitlets(slits):
    return slits.where(lambda b: b["quadrant"].values != 5)


def run(slits, **parameters):
    parameters = {"corrections": CORRECTIONS, "propagate_variance": False, **parameters}
    return master_background(slits, extract1d=EXTRACT1D, **parameters)


def flat_spectrum(level=3.0, **columns):
    wave = np.linspace(0.1, 9.0, 50)
    columns = {"surf_bright": np.full(50, level), **columns}
    return xr.Dataset({n: ("wave", v) for n, v in {"wavelength": wave, **columns}.items()})


def test_sky_goes_and_sources_stay(slitlets):
    before = [slit.copy(deep=True) for slit in slitlets]
    done = run(slitlets)
    assert {status_of(b, "master_background") for b in done.buckets} == {"COMPLETE"}
    assert done.ids == slitlets.ids
    for slit, old in zip(done, before, strict=True):
        wave, left = old["wavelength"].values, slit["sci"].values
        usable = (slit["dq"].values & DNU) == 0
        np.testing.assert_array_equal(np.isfinite(left), usable)
        assert usable[np.isfinite(wave) & (wave > 1) & (wave < 4)].mean() > 0.9
        source = 0.0 if "BKG" in str(slit["source_name"].values) else SOURCE
        np.testing.assert_allclose(left[usable], source, atol=2e-3)
        for name in ("err", "var_poisson", "var_rnoise"):
            np.testing.assert_array_equal(slit[name], old[name])
    for slit, old in zip(slitlets, before, strict=True):
        xr.testing.assert_identical(slit, old)


def test_outliers_and_bad_pixels_of_the_background_do_not_matter(slitlets):
    def spoil(bucket):
        sci = bucket["sci"].values.copy()
        dq = bucket["dq"].values.copy()
        for i, name in enumerate(bucket["source_name"].values):
            if "BKG" in str(name):
                sci[i, :, 100], dq[i, :, 100] = 1e6, DNU
        return replace_data(bucket, sci=sci, dq=dq)

    plain, spoiled = run(slitlets), run(slitlets.map(spoil))
    for a, b in zip(plain, spoiled, strict=True):
        if "BKG" not in str(a["source_name"].values):
            np.testing.assert_allclose(a["sci"], b["sci"], atol=5e-3)


def test_fixed_slits_are_left_alone(slits, slitlets):
    done, alone = run(slits), run(slitlets)
    assert len(slits) == len(slitlets) + 1
    assert done.ids == slits.ids
    for slit in done:
        key = int(slit["slit"])
        other = slits if int(slit["quadrant"]) == 5 else alone
        np.testing.assert_array_equal(slit["sci"], other.slit(key)["sci"])
        np.testing.assert_array_equal(slit["dq"], other.slit(key)["dq"])


def test_users_background_and_inverse(slitlets, tmp_path):
    path = tmp_path / "background.fits"
    given = flat_spectrum()
    columns = [
        fits.Column(n.upper(), "D", array=given[n].values) for n in ("wavelength", "surf_bright")
    ]
    fits.HDUList(
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="COMBINE1D")]
    ).writeto(path)
    for background in (given, str(path)):
        done = run(slitlets, user_background=background)
        for slit, old in zip(done, slitlets, strict=True):
            usable = np.isfinite(slit["sci"].values)
            taken = (old["sci"].values - slit["sci"].values)[usable]
            np.testing.assert_allclose(taken, (3.0 / gain(old))[usable], rtol=1e-5)
    back = run(done, user_background=given, inverse=True, force_subtract=True)
    for slit, old in zip(back, slitlets, strict=True):
        usable = np.isfinite(slit["sci"].values)
        np.testing.assert_allclose(slit["sci"].values[usable], old["sci"].values[usable], rtol=1e-5)


def test_wavelengths_without_background_are_flagged(slitlets):
    given = flat_spectrum().isel(wave=slice(10, 20))
    low, high = given["wavelength"].values[[0, -1]]
    for slit in run(slitlets, user_background=given):
        wave = slit["wavelength"].values
        with np.errstate(invalid="ignore"):
            inside = (wave >= low) & (wave <= high)
        np.testing.assert_array_equal((slit["dq"].values & DNU) == 0, inside)


def test_variance_of_the_background(slitlets):
    variances = {"sb_var_poisson": 0.3, "sb_var_rnoise": 0.2, "sb_var_flat": 0.1}
    given = flat_spectrum(**{n: np.full(50, v) for n, v in variances.items()})
    done = run(slitlets, user_background=given, propagate_variance=True)
    position = np.interp(slitlets.slit(0)["wavelength"], given["wavelength"], np.arange(50))
    share = position % 1
    slit, old = done.slit(0), slitlets.slit(0)
    usable = np.isfinite(slit["sci"].values)
    # two independent neighbours, weighted by their distance
    weight = (share**2 + (1 - share) ** 2) / gain(old) ** 2
    # weights of resampling are made of the noise that pixels have themselves
    for name, level in (("var_poisson", 0.6), ("var_rnoise", 0.0)):
        added = (slit[name] - old[name]).values
        np.testing.assert_allclose(added[usable], level * weight[usable], rtol=1e-4)
    total = slit["var_poisson"] + slit["var_rnoise"]
    np.testing.assert_allclose(slit["err"].values[usable] ** 2, total.values[usable], rtol=1e-5)
    back = run(
        done, user_background=given, propagate_variance=True, inverse=True, force_subtract=True
    ).slit(0)
    for name in ("err", "var_poisson", "var_rnoise"):
        np.testing.assert_allclose(back[name].values[usable], old[name].values[usable], rtol=1e-4)


def test_noise_of_the_background_is_common_to_a_wavelength(slitlets):
    from spec2fn.kernels.namespace import positive_root

    given = flat_spectrum(sb_error=np.full(50, 0.5))
    done = run(slitlets, user_background=given, propagate_variance=True)
    slit, old = done.slit(0), slitlets.slit(0)
    usable = np.isfinite(slit["sci"].values)
    added = (slit["var_poisson"] - old["var_poisson"]).values
    error = positive_root(slit["common_share"].values * slit["var_poisson"].values)
    np.testing.assert_allclose(error[usable] ** 2, added[usable], rtol=1e-3)
    back = run(
        done, user_background=given, propagate_variance=True, inverse=True, force_subtract=True
    )
    assert "common_share" not in back.slit(0)
    assert "common_share" not in run(slitlets, user_background=given).slit(0)


def test_measured_background_adds_variance(slitlets):
    with_variance, without = run(slitlets, propagate_variance=True), run(slitlets)
    for a, b in zip(with_variance, without, strict=True):
        usable = np.isfinite(a["sci"].values)
        np.testing.assert_array_equal(a["sci"], b["sci"])
        ratio = (a["err"] / b["err"]).values[usable]
        assert (ratio > 1).all()
        assert np.median(ratio) < 1.2  # the spectrum is the mean of many pixels


def test_linear_in_the_data(slitlets):
    plain = run(slitlets)
    doubled = run(slitlets.map(lambda b: replace_data(b, sci=2 * b["sci"].values)))
    nothing = run(slitlets, user_background=flat_spectrum(0.0))
    for a, b, c, old in zip(plain, doubled, nothing, slitlets, strict=True):
        np.testing.assert_allclose(2 * a["sci"], b["sci"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(a["dq"], b["dq"])
        usable = np.isfinite(c["sci"].values)
        np.testing.assert_array_equal(c["sci"].values[usable], old["sci"].values[usable])


def test_integrations(slitlets):
    def twice(bucket):
        planes = ("sci", "err", "dq", "var_poisson", "var_rnoise")
        dims = ("slit", "integration", "y", "x")
        stacked = {n: np.stack([bucket[n].values] * 2, axis=1) for n in planes}
        stacked["sci"][:, 1] += 1
        return bucket.assign({n: (dims, p, bucket[n].attrs) for n, p in stacked.items()})

    given = flat_spectrum(sb_error=np.full(50, 0.1))
    for parameters in ({"user_background": given}, {"sigma_clip": None}):
        one, two = (
            run(s, propagate_variance=True, **parameters) for s in (slitlets, slitlets.map(twice))
        )
        # the mean sky is brighter by half the step, give or take how the gains of rows differ
        more = 0.0 if "user_background" in parameters else 0.5
        for a, b in zip(one, two, strict=True):
            usable = np.isfinite(a["sci"].values)
            for k in range(2):
                left = b["sci"].values[k][usable] - a["sci"].values[usable]
                np.testing.assert_allclose(left, k - more, atol=0.06)
                np.testing.assert_array_equal(b["dq"].values[k], a["dq"])
            assert np.isfinite(b["err"].values[:, usable]).all()


def test_records(slitlets):
    assert "masterbg1d" not in meta_of(run(slitlets).buckets[0]).records
    done = run(slitlets, save_background=True, median_kernel=4)
    records = meta_of(done.buckets[0]).records
    spectrum = records["masterbg1d"]
    assert spectrum.attrs["model"] == "MultiCombinedSpecModel"
    assert (spectrum["weight"].values == 80.0).all()
    wave = spectrum["wavelength"].values[0]
    assert (np.diff(wave) > 0).all()
    np.testing.assert_allclose(spectrum["surf_bright"].values[0][2:-2], sky(wave)[2:-2], rtol=2e-3)
    expanded = records["masterbg2d"]
    assert isinstance(expanded, Slits)
    for slit, background, old in zip(done, expanded, slitlets, strict=True):
        np.testing.assert_array_equal(slit["sci"], old["sci"] - background["sci"])
    assert records["bkgx1d"].sizes["spectrum"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.where(lambda b: ["BKG" not in str(n) for n in b.source_name.values]), "BKG"),
        (lambda s: s.where(lambda b: ["BKG" in str(n) for n in b.source_name.values]), "a source"),
        (lambda s: s.assign_attrs({"status_background": "COMPLETE"}), "force_subtract"),
        (lambda s: s.assign_attrs({"status_master_background": "COMPLETE"}), "force_subtract"),
        (lambda s: s.assign_attrs({"exp_type": "NRS_FIXEDSLIT"}), "NRS_FIXEDSLIT"),
        (lambda s: s.map(lambda b: replace_data(b, sci=b.sci.values * np.nan)), "background"),
    ],
)
def test_skipped(slitlets, change, reason):
    changed = change(slitlets)
    done = run(changed)
    status = status_of(done.buckets[0], "master_background")
    assert status.startswith("SKIPPED: ")
    assert reason in status
    for slit, old in zip(done, changed, strict=True):
        np.testing.assert_array_equal(slit["sci"], old["sci"])


def spectra(grids, level=1.0):
    """Extracted spectra on these grids, padded as those of several buckets."""
    size = max(map(len, grids))
    wave = np.stack([np.pad(g, (0, size - len(g)), constant_values=np.nan) for g in grids])
    flux = np.where(np.isnan(wave), np.nan, level)
    planes = dict.fromkeys(("flux", "surf_bright", "flux_error", "sb_error"), flux)
    planes |= dict.fromkeys(("sb_var_poisson", "sb_var_rnoise", "sb_var_flat"), flux)
    planes |= {"wavelength": wave, "dq": np.zeros(wave.shape, dtype=np.uint32)}
    return xr.Dataset({n: (("spectrum", "wave"), p.copy()) for n, p in planes.items()})


def test_common_wavelengths_are_means_of_groups():
    grid = np.linspace(1.0, 2.0, 21)
    shifts = np.array([-0.004, 0.001, 0.003])
    np.testing.assert_allclose(common_wavelengths([grid + s for s in shifts]), grid, atol=1e-12)
    # order and direction do not matter, nor do parts that only some spectra cover
    np.testing.assert_array_equal(
        common_wavelengths([grid, grid[::-1][3:]]), common_wavelengths([grid[:-3], grid])
    )
    np.testing.assert_array_equal(common_wavelengths([grid]), grid)


def test_combination_is_the_mean_without_outliers():
    grid = np.linspace(1.0, 2.0, 11)
    rng = np.random.default_rng(0)
    ds = spectra([grid, grid, grid, grid[:8], grid[:1]])
    values = ds["flux"].values + rng.normal(0, 0.01, ds["flux"].shape)
    values[1, 3] = 40.0
    values[2, 5] = np.nan
    ds["dq"].values[0, 6] = DNU
    ds["dq"].values[1, 6] = PIXEL["SATURATED"]
    ds = ds.assign(flux=ds["flux"].copy(data=values), surf_bright=ds["flux"].copy(data=5 * values))
    found = combine_spectra(ds, 30.0, exposure_time=10.0)(ds)
    np.testing.assert_allclose(found.wavelength, grid)
    assert "wavelength" not in found.columns  # they would take the place of those above
    used = np.array([4, 4, 4, 3, 4, 3, 3, 4, 3, 3, 3.0])
    np.testing.assert_array_equal(found.columns["n_input"], used)
    np.testing.assert_array_equal(found.columns["weight"], 10 * used)
    kept = values[:4].copy()
    kept[1, 3] = kept[0, 6] = np.nan
    np.testing.assert_allclose(found.surf_bright, 5 * np.nanmean(kept, axis=0))
    np.testing.assert_allclose(found.columns["sb_var_rnoise"], 1 / used)
    np.testing.assert_allclose(found.columns["sb_error"], 1 / np.sqrt(used))
    assert found.columns["dq"][6] == PIXEL["SATURATED"]
    everything = combine_spectra(ds, None)(ds)
    assert everything.surf_bright[3] > 40


def test_derivatives_by_weights_and_spectra_are_those_of_the_mean():
    grid = np.linspace(1.0, 2.0, 11)
    ds = spectra([grid, grid, grid[:8]])
    values = ds["flux"].values + np.arange(3.0)[:, None]
    values[1, 3] = np.nan
    ds = ds.assign({n: ds["flux"].copy(data=values) for n in ("flux", "surf_bright")})
    plan = combine_spectra(ds, None, exposure_time=10.0)
    used, total = plan.weight > 0, plan.weight.sum(axis=0)
    np.testing.assert_array_equal(used, np.isfinite(values))

    def together(plan, ds):
        return plan(ds).surf_bright.sum()

    _, by = transforms.value_and_grad(together, {0: ("weight",), 1: ("surf_bright",)})(plan, ds)
    np.testing.assert_allclose(by[1]["surf_bright"], plan.weight / total)
    expected = (values - np.asarray(plan(ds).surf_bright)) / total
    np.testing.assert_allclose(by[0]["weight"][used], expected[used], atol=1e-15)
    assert np.isfinite(by[0]["weight"]).all()


def test_nothing_to_combine():
    grid = np.linspace(1.0, 2.0, 11)
    assert "order" in combine_spectra(spectra([grid[[0, 2, 1]]]))
    bad = spectra([grid])
    bad["dq"].values[:] = DNU
    assert "left" in combine_spectra(bad)


def test_smoothing():
    grid = np.linspace(1.0, 2.0, 11)
    ds = spectra([grid])
    level = np.array([1, 1, 9, 1, 2, 3, 4, 5, 1, 1, 1.0])
    ds = ds.assign(surf_bright=ds["flux"].copy(data=level[None]))
    # even widths are lowered by one, and beyond the ends there is nothing
    for width, expected in ((2, level), (4, medfilt(level, 3)), (9, medfilt(level, 9))):
        found = combine_spectra(ds, None, median_kernel=width)(ds)
        np.testing.assert_array_equal(found.surf_bright, expected)


def test_spectrum_on_pixels():
    spectrum = Spectrum(np.array([1.0, 2.0]), np.array([10.0, 20.0]), {"sb_error": np.ones(2)})
    at = place(np.array([[0.9, 1.0, 1.25], [2.0, 2.1, np.nan]]), spectrum.wavelength)
    np.testing.assert_array_equal(at.covered, [[False, True, True], [True, False, False]])
    level, variance = at.interpolated(spectrum.surf_bright), variance_of(spectrum)
    np.testing.assert_allclose(level, [[0, 10, 12.5], [20, 0, 0]])
    np.testing.assert_allclose(at.interpolated(variance, 2), [[0, 1, 0.625], [1, 0, 0]])


def test_users_background_must_hold_a_spectrum():
    with pytest.raises(InputError, match="SURF_BRIGHT"):
        user_spectrum(xr.Dataset({"combine1d.wavelength": ("row", np.ones(3))}))
    with pytest.raises(InputError, match="finite"):
        user_spectrum(flat_spectrum(np.nan))
    descending = flat_spectrum().isel(wave=slice(None, None, -1))
    assert (np.diff(user_spectrum(descending).wavelength) > 0).all()


def _pipeline_background(pipeline, params=None):
    """What the step subtracts in a pipeline, by slit."""
    from spec2fn.engine import run as running
    from spec2fn.testing import exposures

    result = running.run(
        pipeline,
        exposures.observation("NRS_MSASPEC"),
        exposures.references("NRS_MSASPEC"),
        params=params,
        save_steps=("mos/master_background",),
    )
    saved = result.saved["mos/master_background"]
    report = {r.name: r for r in result.report}
    return {str(s["slit_name"].item()): s["sci"].values for s in saved}, report


def test_the_corrections_are_those_of_the_pipeline():
    from spec2fn.engine import pipeline as compose
    from spec2fn.pipelines import NIRSPEC_MOS
    from spec2fn.steps.photom import photom

    def halved(ds):
        """As photom, but in other units."""
        return ds.assign(sci=(ds["sci"].dims, ds["sci"].values * np.float32(0.5)))

    def same(ours, theirs):
        assert ours.keys() == theirs.keys()
        for name, sci in ours.items():
            np.testing.assert_allclose(sci, theirs[name], rtol=1e-5, atol=2e-6)

    pipeline = NIRSPEC_MOS[: compose._index(NIRSPEC_MOS, "cal")]
    usual, report = _pipeline_background(pipeline)
    used = [s.name for s in report["mos/master_background"].parameters["corrections"][0]]
    assert used == ["wavecorr", "flat_field", "pathloss", "barshadow", "photom"]
    # a factor common to all slits cancels, whatever step it comes from
    constant = {"photom": {"apply_time_correction": False}}
    changed, report = _pipeline_background(pipeline, constant)
    same(usual, changed)
    *_, last = report["mos/master_background"].parameters["corrections"][0]
    assert last.defaults()["apply_time_correction"] is False
    same(usual, _pipeline_background(compose.replace(pipeline, photom=(photom.with_())))[0])

    # one that is skipped is not applied to the background either
    params = {"barshadow": {"skip": True}}
    without_bars, report = _pipeline_background(pipeline, params)
    assert not np.allclose(without_bars["1"], usual["1"], rtol=1e-3, equal_nan=True)
    same(without_bars, _pipeline_background(compose.without(pipeline, "barshadow"))[0])

    # nor is one that is replaced
    other = compose.replace(pipeline, **{"mos/flat_field": halved})
    replaced, report = _pipeline_background(other)
    used = [s.name for s in report["mos/master_background"].parameters["corrections"][0]]
    assert used == ["wavecorr", "halved", "pathloss", "barshadow", "photom"]
    assert not np.allclose(replaced["1"], usual["1"], rtol=1e-3, equal_nan=True)


def test_corrections_of_the_user_win():
    from spec2fn.engine import pipeline as compose
    from spec2fn.pipelines import NIRSPEC_MOS

    mine = compose.replace(
        NIRSPEC_MOS, master_background=master_background.with_(corrections=CORRECTIONS)
    )
    (step,) = compose.find_steps(compose.with_later_steps(mine), "master_background")
    assert step.defaults()["corrections"] == CORRECTIONS
    assert compose.with_later_steps((master_background,)) == (master_background,)
