import numpy as np
import pytest

from spec2fn.host.centroid import cut_around, gaussian_centroid
from spec2fn.schema import status_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.targ_centroid import targ_centroid
from spec2fn.transforms import jit


def star(shape, x0, y0, widths=(1.4, 1.1), slant=0.15, amplitude=500.0):
    y, x = np.indices(shape)
    u, v = (x - x0) / widths[0], (y - y0) / widths[1]
    return amplitude * np.exp(-0.5 * (u**2 + v**2 + 2 * slant * u * v))


def image_at(case, place, origin=(1, 1), shape=(60, 48), **header):
    """A verification image (F560W) with a star at a zero-indexed pixel of its subarray."""
    out = case.exposure("MIR_TACONFIRM", shape, origin, **header)
    pixels = star(shape, *place).astype(np.float32)
    return out.assign(sci=(("y", "x"), pixels)).assign_attrs(filter="F560W")


def science(case, exp_type="MIR_LRS-FIXEDSLIT", **kwargs):
    refs = case.references()
    ds = case.exposure(exp_type, **kwargs)
    return assign_wcs(ds, distortion=refs["distortion"], specwcs=refs["specwcs"])


def measure(case, ds, *images, **refs):
    refs = {**case.references(), **refs}
    return targ_centroid(ds, refs["filteroffset"], refs["distortion"], target_acquisition=images)


def skipped(out):
    status = status_of(out, "targ_centroid")
    assert status.startswith("SKIPPED: ")
    assert "ta_xpos" not in out
    return status


def test_the_position_is_carried_to_the_spectrum(lrs_case):
    x0, y0 = lrs_case.reference_point
    dx, dy = lrs_case.filter_offset
    # the star stands 0.3, -0.2 pixel off where the pointing puts it
    out = measure(lrs_case, science(lrs_case), image_at(lrs_case, (x0 + 0.3, y0 - 0.2)))
    assert status_of(out, "targ_centroid") == "COMPLETE"
    assert float(out["ta_xpos"]) == pytest.approx(x0 + 0.3, abs=1e-5)
    assert float(out["ta_ypos"]) == pytest.approx(y0 - 0.2, abs=1e-5)
    assert float(out["source_xpos"]) == pytest.approx(x0 + 0.3 + dx, abs=1e-5)
    assert float(out["source_ypos"]) == pytest.approx(y0 - 0.2 + dy, abs=1e-5)


def test_the_dithers_of_both_exposures_count(lrs_case):
    x0, y0 = lrs_case.reference_point
    plain = science(lrs_case)
    dithered = science(lrs_case, XOFFSET=0.55)
    image = image_at(lrs_case, (x0, y0))
    nominal, moved = (measure(lrs_case, ds, image) for ds in (plain, dithered))
    by = float(moved["source_xpos"] - nominal["source_xpos"])
    # XOFFSET is an angle along the slit, which is turned against V2 by V3I_YANG
    assert abs(by) == pytest.approx(0.55 / lrs_case.scale, rel=0.02)
    # a verification image with the dither of the science exposure: the dithers cancel
    same = image_at(lrs_case, (x0 + by, y0), XOFFSET=0.55)
    both = measure(lrs_case, dithered, same)
    assert float(both["source_xpos"]) == pytest.approx(float(moved["source_xpos"]), abs=1e-3)


def test_subarrays_of_image_and_exposure_may_differ(lrs_case):
    x0, y0 = lrs_case.reference_point
    full = measure(lrs_case, science(lrs_case), image_at(lrs_case, (x0 + 0.3, y0)))
    image = image_at(lrs_case, (x0 + 0.3 - 4, y0 - 7), origin=(5, 8), shape=(50, 40))
    part = measure(lrs_case, science(lrs_case), image)
    assert float(part["ta_xpos"]) == pytest.approx(float(full["ta_xpos"]) - 4, abs=1e-5)
    for name in ("source_xpos", "source_ypos"):
        assert float(part[name]) == pytest.approx(float(full[name]), abs=1e-5)
    slitless = science(lrs_case, "MIR_LRS-SLITLESS", shape=(2, 50, 40), origin=(1, 6))
    moved = measure(lrs_case, slitless, image)
    assert float(moved["source_ypos"]) == pytest.approx(float(full["source_ypos"]) - 5, abs=1e-3)


def test_the_plan_is_traceable(lrs_case):
    ds = science(lrs_case)
    image, refs = image_at(lrs_case, lrs_case.reference_point), lrs_case.references()
    plan = targ_centroid.plan(
        ds, refs["filteroffset"], refs["distortion"], target_acquisition=(image,)
    )
    traced = jit(lambda d: targ_centroid(d, plan=plan))(ds)
    np.testing.assert_allclose(traced["source_xpos"], plan.source_xpos)


def test_the_step_is_off_by_default():
    assert targ_centroid.skip


def test_reasons_for_doing_nothing(lrs_case):
    ds, place = science(lrs_case), lrs_case.reference_point
    image = image_at(lrs_case, place)
    assert "no target acquisition image" in skipped(measure(lrs_case, ds))
    assert "ta.fits" in skipped(targ_centroid(ds, ta_file="ta.fits"))
    assert "run assign_wcs first" in skipped(measure(lrs_case, lrs_case.exposure(), image))
    other = ds.assign_attrs(exp_type="MIR_MRS")
    assert "MIR_MRS has no" in skipped(measure(lrs_case, other, image))
    wrong = image.assign_attrs(exp_type="MIR_IMAGE")
    assert "not MIR_IMAGE and 2" in skipped(measure(lrs_case, ds, wrong))
    assert "no filteroffset" in skipped(measure(lrs_case, ds, image, filteroffset=None))
    assert "'distortion' is missing" in skipped(measure(lrs_case, ds, image, distortion=None))
    assert "no filter 'F770W'" in skipped(measure(lrs_case, ds, image.assign_attrs(filter="F770W")))
    dark = image.assign(sci=image["sci"] * np.float32(np.nan))
    assert "only 0 finite pixels" in skipped(measure(lrs_case, ds, dark))
    flat = image.assign(sci=image["sci"] * np.float32(0))
    assert "fit of the target in the acquisition image failed" in skipped(
        measure(lrs_case, ds, flat)
    )
    outside = image_at(lrs_case, place, XOFFSET=300.0)
    assert "only 0 finite pixels" in skipped(measure(lrs_case, ds, outside))


def test_an_extended_target_is_measured_with_a_warning(lrs_case, caplog):
    ds = science(lrs_case).assign_attrs(source_type="EXTENDED")
    with caplog.at_level("WARNING", "spec2fn"):
        out = measure(lrs_case, ds, image_at(lrs_case, lrs_case.reference_point))
    assert "target is EXTENDED" in caplog.text
    assert "ta_xpos" in out


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_finds_a_slanted_star_between_bad_pixels(seed):
    rng = np.random.default_rng(seed)
    x0, y0 = rng.uniform(7, 13, 2)
    image = star((20, 20), x0, y0, rng.uniform(0.9, 2.5, 2), rng.uniform(-0.5, 0.5))
    image[rng.random(image.shape) < 0.1] = np.nan
    assert gaussian_centroid(image) == pytest.approx((x0, y0), abs=1e-6)
    noisy = gaussian_centroid(image + rng.normal(0, 1.0, image.shape))
    assert noisy == pytest.approx((x0, y0), abs=0.05)


def test_the_fit_refuses_what_is_no_star():
    assert gaussian_centroid(np.full((20, 20), 3.0)) == "the image is flat"
    assert gaussian_centroid(np.full((20, 20), np.nan)) == "the image is flat"
    _, x = np.indices((20, 20))
    assert "no maximum inside" in gaussian_centroid(np.exp(0.4 * x))


def field(seed=1):
    """A star at (10.4, 9.8) on a background of 5, with noise of 0.1."""
    noise = np.random.default_rng(seed).normal(5.0, 0.1, (20, 20))
    return star((20, 20), 10.4, 9.8, (0.9, 0.9), 0.0) + noise


@pytest.mark.parametrize("radius", [1.1, 2.1, 2.6, 3.2])
def test_a_star_without_its_core_is_not_measured(radius):
    # with more than the core lost, the fit takes the background, and its centre may be anywhere
    image = field()
    y, x = np.indices(image.shape)
    image[np.hypot(x - 10.4, y - 9.8) < radius] = np.nan
    reason = gaussian_centroid(image)
    assert "light falls on pixels that are not finite" in reason or "full widths" in reason


def test_one_lost_pixel_is_no_reason():
    image = field()
    image[10, 10] = np.nan
    assert gaussian_centroid(image) == pytest.approx((10.4, 9.8), abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_noise_and_hot_pixels_are_no_stars(seed):
    image = field(seed) - star((20, 20), 10.4, 9.8, (0.9, 0.9), 0.0)
    assert isinstance(gaussian_centroid(image - 5.0), str)
    assert isinstance(gaussian_centroid(image), str)
    image[4, 14] = 200.0
    assert isinstance(gaussian_centroid(image - 5.0), str)


def test_a_saturated_star_leaves_the_position_to_the_pointing(lrs_case):
    ds, place = science(lrs_case), lrs_case.reference_point
    image = image_at(lrs_case, place)
    y, x = np.indices(image["sci"].shape)
    core = np.hypot(x - place[0], y - place[1]) < 2.5
    image = image.assign(sci=image["sci"].where(~core) + np.float32(5.0))
    out = measure(lrs_case, ds, image)
    assert "fit of the target in the acquisition image failed: " in skipped(out)
    assert "source_xpos" not in out


def test_cutouts_stop_at_the_edges():
    image = np.arange(48).reshape(6, 8)
    cut, origin = cut_around(image, (1.2, 4.6), 4)
    assert origin == (0, 3)
    np.testing.assert_array_equal(cut, image[3:6, :3])
    assert cut_around(image, (100.0, 3.0), 4)[0].size == 0
