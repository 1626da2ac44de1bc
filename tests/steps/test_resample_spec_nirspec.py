"""resample_spec on buckets of slits with a gwcs of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, ParameterError
from spec2fn.schema import Meta, meta_of, status_of
from spec2fn.slits import PADDING
from spec2fn.steps.resample_spec import resample_spec
from spec2fn.transforms import jit, value_and_grad
from spec2fn.wcs.slit_grid import build_slit_grid, source_weights
from tests.buckets import bucketize

SHAPES = ((14, 40), (13, 44), (17, 36))
PIXEL_DEG = 0.1 / 3600
HEIGHT = 9.0  # pixels of a slit
PLANES = ("sci", "err", "var_poisson", "var_rnoise", "wht", "variance_cov")


def slit_gwcs(shape, *, tilt=0.05, bow=0.02, ra=53.1, dec=-27.8, angle=20.0):
    """Tilted and bowed spectrum: frames detector, slit_frame (y in heights, m) and world."""
    import astropy.units as u
    from astropy.coordinates import ICRS
    from astropy.modeling import models as m
    from gwcs import WCS
    from gwcs import coordinate_frames as cf

    ny, nx = shape
    along = m.Polynomial2D(1, c0_0=-0.5 * (ny - 1) / HEIGHT, c1_0=-tilt / HEIGHT, c0_1=1 / HEIGHT)
    wave = m.Polynomial2D(2, c0_0=1e-6, c1_0=2e-8, c2_0=1e-10, c0_1=bow * 2e-8)
    to_slit = m.Mapping((0, 0, 1, 0, 1)) | m.Const1D(0) & along & wave
    turn = m.AffineTransformation2D(
        matrix=PIXEL_DEG
        * HEIGHT
        * np.array([[np.cos(np.deg2rad(angle)), -np.sin(np.deg2rad(angle))],
                    [np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))]])
    )  # fmt: skip
    to_sky = turn | m.Pix2Sky_TAN() | m.RotateNative2Celestial(ra, dec, 180)
    detector = cf.Frame2D(name="detector", axes_order=(0, 1))
    spectral = cf.SpectralFrame(
        name="spectral", axes_order=(2,), unit=(u.micron,), axes_names=("wavelength",)
    )
    within = cf.Frame2D(name="slit_spatial", axes_order=(0, 1), unit=("", ""))
    sky = cf.CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=ICRS())
    slit_frame = cf.CompositeFrame([within, spectral], name="slit_frame")
    world = cf.CompositeFrame([sky, spectral], name="world")
    wcs = WCS([(detector, to_slit), (slit_frame, to_sky & m.Scale(1e6)), (world, None)])
    wcs.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return wcs


def world_of(i, **kwargs):
    y, x = np.indices(SHAPES[i]).astype(float)
    wcs = slit_gwcs(SHAPES[i], **kwargs)
    world = np.array(wcs(x, y))
    _, along, _ = wcs.get_transform("detector", "slit_frame")(x, y)
    world[:, np.abs(along) > 0.5] = np.nan
    return wcs, world, along


def slit(i, n=None, *, truth=None, bunit="MJy/sr", planes=True, **kwargs):
    rng = np.random.default_rng(i)
    wcs, world, along = world_of(i, **kwargs)
    full = SHAPES[i] if n is None else (n, *SHAPES[i])
    dims = ("y", "x") if n is None else ("integration", "y", "x")
    values = {k: rng.uniform(0.5, 1.5, full) for k in PLANES[:4]}
    if truth is not None:
        values = {k: np.ones(full) for k in values}
        values["sci"] = np.broadcast_to(truth(along, world[2]), full)
    dq = np.where(
        rng.random(full) < (0.02 if truth is None else 0.0), PIXEL["DO_NOT_USE"], 0
    ).astype(np.uint32)
    data = {k: (dims, np.where(dq, np.nan, v).astype(np.float32)) for k, v in values.items()}
    if planes:
        names = ("ra", "dec", "wavelength")
        data |= {k: (("y", "x"), w) for k, w in zip(names, world, strict=True)}
    numbers = {"slit": i, "pixar_sr": 1e-13 * (i + 1), "source_ypos": 0.1 * i}
    texts = {"slit_name": f"S{i}", "bunit": bunit, "s_region": ""}
    data |= {k: ((), np.array(v)) for k, v in (numbers | texts).items()}
    return xr.Dataset({**data, "dq": (dims, dq)}), wcs


def bucket(order=(0, 1, 2), n=None, **kwargs):
    made = [slit(i, n, **kwargs) for i in order]
    (out,) = bucketize([s for s, _ in made], most=1).buckets
    wcs = {int(s["slit"]): w for s, w in made}
    return out.assign_attrs(
        exp_type="NRS_MSASPEC",
        instrument="NIRSPEC",
        dispaxis=1,
        meta=Meta(wcs=wcs),
    )


def cut(ds, i):
    one = ds.isel(slit=int(np.flatnonzero(ds["slit"].values == i)[0]))
    return one.isel(y=slice(int(one["ysize"])), x=slice(int(one["xsize"])))


def test_a_tilted_spectrum_is_straightened():
    def scene(along, wavelength):
        return (2 + np.cos(3 * along)) * (3 + np.sin(4 * wavelength))

    ds = bucket(truth=scene)
    out = resample_spec(ds)
    assert status_of(out, "resample_spec") == "COMPLETE"
    for i in range(3):
        one = cut(out, i)
        ny, nx = one["sci"].shape
        wcs = meta_of(out).wcs[i]
        _, along, wave = wcs.get_transform("detector", "slit_frame")(*np.indices((ny, nx))[::-1])
        np.testing.assert_allclose(one["wavelength"], wave, rtol=1e-12)
        assert (np.ptp(one["wavelength"].values, axis=0) == 0).all()
        inner = np.isfinite(one["sci"].values) & (np.abs(along) < 0.35)
        inner[:, [0, -1]] = False
        assert inner.sum() > 0.5 * ny * nx
        # pixels are means over one pixel, which smooths by the curvature of the scene
        np.testing.assert_allclose(one["sci"].values[inner], scene(along, wave)[inner], rtol=0.02)


def test_grid_and_gwcs_say_the_same():
    wcs, world, _ = world_of(0)
    to_slit = wcs.get_transform("world", "slit_frame")
    grid = build_slit_grid(tuple(world), np.ones(SHAPES[0]), to_slit)
    out = grid.gwcs()
    known = np.isfinite(world[0])
    x, y = grid.pixels(*world)
    inside = known & np.isfinite(x)
    back = out.invert(*world[:, inside], with_bounding_box=False)
    np.testing.assert_allclose([x[inside], y[inside]], back, atol=1e-6)
    sky = np.array(out(x[inside], y[inside], with_bounding_box=False))
    np.testing.assert_allclose(sky, world[:, inside], rtol=1e-9)
    # all of the slit is inside, with a margin of half a pixel on either side
    assert y[known].min() >= -0.5
    assert y[known].max() <= grid.shape[0] - 0.5
    _, along, wave = out.get_transform("detector", "slit_frame")(3.0, np.arange(grid.shape[0]))
    expected = to_slit(*grid.sky(np.arange(grid.shape[0])), wave)[1]
    np.testing.assert_allclose(along, expected, atol=1e-7)
    assert out.array_shape == grid.shape
    # half a pixel beyond the last column, and no further
    step = grid.wavelength[-1] - grid.wavelength[-2]
    ra, dec = grid.sky(0.0)
    np.testing.assert_allclose(
        grid.pixels(ra, dec, grid.wavelength[-1] + 0.4 * step)[0], grid.shape[1] - 0.6
    )
    assert np.isnan(grid.pixels(ra, dec, grid.wavelength[-1] + 0.6 * step)[0])


def test_a_slit_across_zero_hours_and_one_at_the_pole():
    for position in ({"ra": 0.0, "dec": 10.0}, {"ra": 200.0, "dec": 89.9999}):
        usual = resample_spec(bucket((0,)))
        out = resample_spec(bucket((0,), **position))
        np.testing.assert_allclose(out["sci"], usual["sci"], rtol=2e-4, equal_nan=True)
    regions = resample_spec(bucket((0,), ra=0.0, dec=10.0, angle=80.0))["s_region"].values
    corners = np.array(regions[0].split()[2:], dtype=float)[::2]
    assert ((corners < 0.01) | (corners > 359.99)).all()


@pytest.mark.parametrize("n", [None, 2])
def test_neither_padding_nor_company_nor_order_matters(n):
    out, turned = (resample_spec(bucket(order, n)) for order in ((0, 1, 2), (2, 0, 1)))
    for i in range(3):
        alone = resample_spec(bucket((i,), n))
        assert (alone["cutout_ysize"].item(), alone["cutout_xsize"].item()) == SHAPES[i]
        assert alone["ysize"].item() == cut(out, i).sizes["y"]
        for name in (*PLANES, "con", "wavelength", "covariance"):
            for other in (out, turned):
                np.testing.assert_array_equal(
                    cut(other, i)[name], cut(alone, i)[name], err_msg=name
                )
        assert str(cut(out, i)["s_region"].item()) == str(alone["s_region"].values[0])
    padded = resample_spec(bucket(n=n), fillval="-7", propagate_dq=True)
    outside = np.arange(padded.sizes["x"]) >= padded["xsize"].values[:, None, None]
    outside = np.broadcast_to(outside, padded["wavelength"].shape)
    if n is not None:
        outside = np.repeat(outside[:, None], n, axis=1)
    assert np.isnan(padded["sci"].values[outside]).all()
    assert (padded["dq"].values[outside] == PADDING).all()
    assert (padded["wht"].values[outside] == 0).all()


def test_every_integration_is_its_own():
    ds = bucket(n=3)
    plan = resample_spec.plan(ds)
    out = resample_spec(ds, plan=plan)
    assert out["sci"].dims == ("slit", "integration", "y", "x")
    assert out["covariance"].dims == ("slit", "integration", "lag", "y", "x")
    assert out["con"].dims == ("slit", "integration", "context", "y", "x")
    for k in range(3):
        one = resample_spec(ds.isel(integration=k), plan=plan)
        for name in (*PLANES, "con", "covariance"):
            np.testing.assert_array_equal(out[name].values[:, k], one[name].values)
    # the grid follows the light, but not so far that it would matter
    other = resample_spec.plan(ds.isel(integration=slice(1)))
    np.testing.assert_allclose(other.overlap.area, plan.overlap.area, atol=1e-7)


def test_world_planes_spare_the_evaluation_of_the_wcs():
    with_planes, without = bucket(tilt=0.0), bucket(planes=False, tilt=0.0)
    # without planes the gwcs decides what is seen, and this one has no edges along the slit
    shown = with_planes.assign(without[["sci"]])
    a, b = resample_spec(without), resample_spec(shown.drop_vars(["ra", "dec"]))
    np.testing.assert_array_equal(a["sci"], b["sci"])
    assert (a["ysize"].values >= resample_spec(with_planes)["ysize"].values).all()


def test_covariance_is_that_of_the_dense_operator():
    ds = bucket((0,))
    plan = resample_spec.plan(ds)
    out = resample_spec(ds, plan=plan)
    o = plan.overlap
    weight = np.where(ds["dq"].values.ravel() == 0, 1 / ds["var_rnoise"].values.ravel(), 0)
    dense = np.zeros((o.n_out, o.n_in))
    dense[o.rows, o.cols] = o.area
    dense *= weight
    total = dense.sum(axis=1, keepdims=True)
    dense /= np.where(total > 0, total, 1)
    variance = np.nan_to_num(sum(ds[n].values.ravel() for n in ("var_poisson", "var_rnoise")))
    full = (dense * variance) @ dense.T
    sampled = total[:, 0] > 0
    np.testing.assert_allclose(
        out["variance_cov"].values.ravel()[sampled], np.diag(full)[sampled], rtol=2e-5
    )
    ny, nx = out["sci"].shape[-2:]
    for lag in range(1, out.sizes["lag"] + 1):
        found = out["covariance"].values[0, lag - 1].ravel()[: (ny - lag) * nx]
        np.testing.assert_allclose(found, np.diag(full, lag * nx), rtol=2e-5, atol=1e-9)


def test_an_error_common_to_all_rows_stays_what_it_is():
    ds = bucket((0, 1), truth=lambda *_: 2.0)
    assert "common_error" not in resample_spec(ds)
    share = np.full(ds["sci"].shape, 0.25, np.float32)
    out = resample_spec(ds.assign(common_share=(ds["sci"].dims, share)))
    known = np.isfinite(out["sci"].values)
    # half of the standard deviation, which is 1 everywhere
    np.testing.assert_allclose(out["common_error"].values[known], 0.5, rtol=1e-5)
    assert np.isnan(out["common_error"].values[~known]).all()


def test_flux_density_follows_the_pixel_size_and_brightness_does_not():
    ds = bucket(truth=lambda *_: 2.0).assign(bunit=("slit", np.array(["MJy", "MJy/sr", "Jy"])))
    out = resample_spec(ds, pixel_scale_ratio=1.25)
    for i, factor in enumerate((0.8, 1.0, 0.8)):
        values = cut(out, i)["sci"].values
        np.testing.assert_allclose(values[np.isfinite(values)], 2 * factor, rtol=1e-5)
        assert cut(out, i)["pixar_sr"] == pytest.approx(1e-13 * (i + 1) / 1.25)
    plain = resample_spec(ds)
    assert (out["ysize"].values > plain["ysize"].values).all()
    assert out.attrs["resample_pixel_scale_ratio"] == 1.25
    finer = resample_spec(ds, pixel_scale=0.08)
    np.testing.assert_array_equal(finer["ysize"], out["ysize"])
    np.testing.assert_array_equal(finer["source_ypos"], ds["source_ypos"])


def test_a_broken_slit_does_not_stop_the_others():
    ds = bucket()
    meta = meta_of(ds)
    broken = dict(meta.wcs)
    broken[1] = "no gwcs"
    out = resample_spec(ds.assign_attrs(meta=meta.replace(wcs=broken)))
    good = resample_spec(ds)
    without = resample_spec(ds.assign_attrs(meta=meta.replace(wcs={0: meta.wcs[0]})))
    assert list(without["slit_problem"].values[1:]) == ["resample_spec: the slit has no WCS"] * 2
    problems = [str(p) for p in out["slit_problem"].values]
    assert problems[0] == problems[2] == ""
    assert problems[1].startswith("resample_spec: ")
    assert np.isnan(out["sci"].values[1]).all()
    assert (out["wht"].values[1] == 0).all()
    assert sorted(meta_of(out).wcs) == [0, 2]
    for i in (0, 2):
        np.testing.assert_array_equal(cut(out, i)["sci"], cut(good, i)["sci"])


@pytest.mark.parametrize("what", ["blind", "one column", "empty"])
def test_slits_without_a_spectrum_never_raise(what):
    ds = bucket()
    wave, size = ds["wavelength"].values.copy(), ds["ysize"].values.copy()
    if what == "blind":
        wave[1] = np.nan
    elif what == "one column":
        wave[1, :, 1:] = np.nan
    else:
        size[1] = 0
    ds = ds.assign(wavelength=(ds["wavelength"].dims, wave), ysize=("slit", size))
    out = resample_spec(ds)
    assert [bool(p) for p in out["slit_problem"].values] == [False, True, False]
    assert np.isfinite(cut(out, 0)["sci"]).any()
    everything = resample_spec(ds.isel(slit=[1]))
    assert everything["sci"].dims == ("slit", "y", "x")


def test_compiled_slits_are_the_same_and_gradients_are_exact():
    ds = bucket(n=2)
    plan = resample_spec.plan(ds)
    eager = resample_spec(ds, plan=plan)
    compiled = jit(lambda plan, d: resample_spec(d, plan=plan))(plan, ds)
    for name in (*PLANES, "con", "covariance"):
        np.testing.assert_allclose(compiled[name], eager[name], rtol=2e-5, atol=1e-7, err_msg=name)

    weights = np.random.default_rng(5).normal(size=eager["sci"].shape)

    @jit
    def total(plan, d):
        sci = resample_spec(d, plan=plan)["sci"].data
        return (jnp.where(jnp.isfinite(sci), sci, 0.0) * weights).sum()

    with jax.enable_x64(True):
        good = ds["dq"].values == 0
        d64 = ds.assign({k: ds[k].astype(np.float64) for k in PLANES[:4]})
        _, grads = jit(value_and_grad(total, {1: ("sci",)}))(plan, d64)
        grad = np.asarray(grads[1]["sci"])
        way = np.where(good, np.random.default_rng(6).normal(size=grad.shape), 0)
        ends = [
            float(total(plan, d64.assign(sci=d64["sci"] + sign * 1e-3 * way))) for sign in (1, -1)
        ]
    assert np.isfinite(grad).all()
    assert (grad[~good] == 0).all()
    np.testing.assert_allclose((grad * way).sum(), (ends[0] - ends[1]) / 2e-3, rtol=1e-5)


def test_outliers_do_not_attract_the_tangent_point():
    image = np.ones((120, 120))
    image[3, 4], image[5, 6] = 1e9, np.nan
    weight = source_weights(image)
    assert weight[3, 4] == weight[5, 6] == 0
    assert not source_weights(np.full((3, 3), np.nan)).any()


def test_custom_grids():
    ds = bucket()
    plain = resample_spec(ds)
    wcs = meta_of(plain).wcs[0]
    out = resample_spec(ds.isel(slit=[0]), output_wcs=wcs)
    np.testing.assert_allclose(out["sci"][0], cut(plain, 0)["sci"], rtol=1e-5)
    shaped = resample_spec(ds, output_shape=(20, 6))
    assert shaped["sci"].shape == (3, 6, 20)
    assert meta_of(shaped).wcs[1].array_shape == (6, 20)
    np.testing.assert_allclose(shaped["sci"][0], plain["sci"][0, :6, :20], rtol=1e-6)


def test_errors():
    ds = bucket()
    with pytest.raises(DatasetError, match="no WCS of slits"):
        resample_spec(ds.assign_attrs(meta=Meta()))
    with pytest.raises(ParameterError, match=r"pixel_scale: needs float above 0\.0"):
        resample_spec(ds, pixel_scale=-1.0)
    with pytest.raises(ParameterError, match="pixel_scale_ratio"):
        resample_spec(ds, pixel_scale_ratio=0.0)
    # what nobody can want is an error of the run, not the problem of a slit
    for ratio in (1e-6, 1e6):
        with pytest.raises(
            ParameterError, match=r"an input pixel make .* correct pixel_scale_ratio"
        ):
            resample_spec(ds, pixel_scale_ratio=ratio)
    with pytest.raises(ParameterError, match="an output of 60000 x 60000 pixels"):
        resample_spec(ds, output_shape=(60000, 60000))
    with pytest.raises(InputError, match="not a file"):
        resample_spec(ds, output_wcs="nowhere.asdf")
    with pytest.raises(InputError, match="exposure time"):
        resample_spec(ds, weight_type="exptime")


def test_one_slit_without_a_bucket():
    ds = bucket((0,))
    single = cut(ds, 0).assign_attrs(meta=Meta(wcs=meta_of(ds).wcs[0]))
    out = resample_spec(single.drop_vars(["slit", "s_region", "bunit", "xsize", "ysize"]))
    assert out["sci"].dims == ("y", "x")
    assert "slit_frame" in [getattr(f, "name", f) for f in meta_of(out).wcs.available_frames]
    blank = resample_spec(ds.drop_vars(["ra", "dec"]))
    np.testing.assert_allclose(out["sci"], cut(blank, 0)["sci"], rtol=1e-4)
