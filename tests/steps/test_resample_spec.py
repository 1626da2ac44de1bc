"""resample_spec on a generated slit: values, errors, masks, integrations, transformations."""

import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import ICRS
from astropy.io import fits
from astropy.modeling.models import Mapping, Polynomial2D
from gwcs import WCS
from gwcs import coordinate_frames as cf

from spec2fn import transforms
from spec2fn.errors import HostOnlyError, InputError, ParameterError
from spec2fn.schema import Meta, meta_of, replace_data, with_attrs, with_meta
from spec2fn.steps.resample_spec import resample_spec

SHAPE = (70, 40)
VARIANCES = ("var_poisson", "var_rnoise", "var_flat")


def make_wcs():
    """Slit along x, dispersion against y, both tilted by a fraction of a pixel."""
    step = 0.11 / 3600
    ra = Polynomial2D(1, c0_0=10.0, c1_0=0.8 * step, c0_1=0.02 * step)
    dec = Polynomial2D(1, c0_0=5.0, c1_0=0.6 * step, c0_1=0.01 * step)
    wave = Polynomial2D(2, c0_0=14.0, c1_0=6e-4, c0_1=-0.02, c0_2=1e-5)
    sky = cf.CelestialFrame(name="sky", axes_order=(0, 1), reference_frame=ICRS())
    spectral = cf.SpectralFrame(name="spectral", axes_order=(2,), unit=("um",))
    world = cf.CompositeFrame([sky, spectral], name="world")
    transform = Mapping((0, 1, 0, 1, 0, 1)) | (ra & dec & wave)
    out = WCS([(cf.Frame2D(name="detector"), transform), (world, None)])
    out.bounding_box = ((7.5, 31.5), (5.8, 60.4))
    return out


@pytest.fixture(scope="module")
def wcs():
    return make_wcs()


@pytest.fixture
def ds(wcs):
    rng = np.random.default_rng(4)
    sci = rng.normal(50, 5, SHAPE).astype("f4")
    planes = {
        "sci": sci,
        "var_poisson": rng.uniform(1, 3, SHAPE).astype("f4"),
        "var_rnoise": rng.uniform(0.5, 2, SHAPE).astype("f4"),
        "var_flat": rng.uniform(0.1, 0.2, SHAPE).astype("f4"),
    }
    planes["err"] = np.sqrt(sum(planes[v] for v in VARIANCES))
    dq = np.zeros(SHAPE, dtype="u4")
    dq[20:23, 15] = 1
    dq[40, 20] = 512
    dq[41, 22] = 4
    planes["sci"][30, 12] = np.nan
    header = fits.Header({"DISPAXIS": 2, "DURATION": 90.0, "EFFEXPTM": 80.0})
    return xr.Dataset(
        {
            **{n: (("y", "x"), p, {"units": "MJy/sr"}) for n, p in planes.items()},
            "dq": (("y", "x"), dq),
            "pixar_sr": ((), np.float64(2.8e-13)),
            "pixar_a2": ((), np.float64(0.0121)),
            "source_xpos": ((), np.float64(20.0)),
            "source_ypos": ((), np.float64(30.0)),
        },
        attrs={
            "exp_type": "MIR_LRS-FIXEDSLIT",
            "instrument": "MIRI",
            "dispaxis": 2,
            "s_region": "POLYGON ICRS  10.0 5.0 10.001 5.0 10.001 5.0001 10.0 5.0001",
            "meta": Meta(science=header, wcs=wcs),
        },
    )


def integrations(ds, n=3):
    rng = np.random.default_rng(9)
    cube = {}
    for name, var in ds.variables.items():
        if var.dims == ("y", "x"):
            data = np.stack([var.data] * n)
            if name == "sci":
                data = data + rng.normal(0, 1, data.shape).astype("f4")
            if name == "var_rnoise":
                data = data * rng.uniform(0.5, 2, data.shape).astype("f4")
            cube[name] = (("integration", "y", "x"), data, var.attrs)
    return ds.assign(cube)


def test_what_comes_out(ds):
    out = resample_spec(ds)
    assert out.attrs["status_resample_spec"] == "COMPLETE"
    assert out.attrs["model"] == "SlitModel"
    assert out["sci"].dims == ("y", "x")
    assert out["sci"].attrs["units"] == "MJy/sr"
    assert out["con"].dims == ("context", "y", "x")
    assert out["covariance"].dims == ("lag", "y", "x")
    assert "dq" not in out
    for name in ("sci", "err", *VARIANCES, "wht", "variance_cov", "covariance"):
        assert out[name].dtype == np.float32, name
    assert out["con"].dtype == np.int32
    assert out["wavelength"].dtype == np.float64
    grid = meta_of(out).wcs
    assert grid is not meta_of(ds).wcs
    y, x = np.indices(out["sci"].shape)
    np.testing.assert_allclose(out["wavelength"], grid(x, y)[2], rtol=1e-12)
    attrs = {k: v for k, v in out.attrs.items() if k.startswith("resample_")}
    assert attrs == {
        "resample_ndriz": 1,
        "resample_weight_type": "ivm",
        "resample_pixfrac": 1.0,
        "resample_pixel_scale_ratio": 1.0,
    }
    assert out.attrs["s_region"] != ds.attrs["s_region"]
    world = meta_of(ds).wcs(20.0, 30.0)
    back = grid.invert(*world)
    np.testing.assert_allclose((out["source_xpos"], out["source_ypos"]), back, rtol=1e-8)


def test_invalid_where_and_only_where_nothing_contributes(ds):
    out = resample_spec(ds)
    empty = out["wht"].data == 0
    assert 0 < empty.sum() < empty.size / 2
    for name in ("sci", "err", *VARIANCES, "variance_cov"):
        np.testing.assert_array_equal(np.isnan(out[name]), empty, err_msg=name)
    np.testing.assert_array_equal(out["con"].data[0], ~empty)
    assert np.isfinite(out["covariance"]).all()
    assert np.all(out["covariance"].data[:, empty] == 0)


def test_masked_values_change_nothing(ds):
    bad = ((ds["dq"].data & 513) > 0) | np.isnan(ds["sci"].data)
    other = replace_data(ds, sci=np.where(bad, np.float32(1e30), ds["sci"].data))
    other = replace_data(other, dq=np.where(bad, 1, ds["dq"].data).astype("u4"))
    a, b = resample_spec(ds), resample_spec(other)
    for name in ("sci", "err", "wht", "covariance"):
        np.testing.assert_array_equal(a[name], b[name])


def test_input_is_unchanged(ds):
    before = {n: v.data.tobytes() for n, v in ds.variables.items()}
    attrs = dict(ds.attrs)
    resample_spec(ds, pixel_scale_ratio=1.3, output_shape=(9, 30))
    assert before == {n: v.data.tobytes() for n, v in ds.variables.items()}
    assert attrs == ds.attrs
    assert meta_of(ds).wcs.bounding_box is not None


def test_scaling(ds):
    four = replace_data(ds, **{n: ds[n].data * 4 for n in ("sci", "err")})
    four = replace_data(four, **{n: ds[n].data * 16 for n in VARIANCES})
    a, b = resample_spec(ds), resample_spec(four)
    np.testing.assert_allclose(b["sci"], 4 * a["sci"], rtol=1e-6)
    np.testing.assert_allclose(b["err"], 4 * a["err"], rtol=1e-6)
    np.testing.assert_allclose(b["covariance"], 16 * a["covariance"], rtol=1e-5)


@pytest.mark.parametrize("kernel", ["square", "point"])
@pytest.mark.parametrize("weight_type", ["ivm", "exptime", None])
def test_constant_stays_constant(ds, kernel, weight_type):
    flat = replace_data(ds, sci=np.full(SHAPE, 7.25, dtype="f4"))
    out = resample_spec(flat, kernel=kernel, weight_type=weight_type, pixfrac=0.7)
    sampled = out["wht"].data > 0
    np.testing.assert_allclose(out["sci"].data[sampled], 7.25, rtol=1e-6)
    top = {"ivm": None, "exptime": 80.0, None: 1.0}[weight_type]
    if top is not None and kernel == "square":
        assert out["wht"].data.max() == pytest.approx(top, rel=0.5)
    assert out.attrs.get("resample_weight_type") == weight_type


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_pixel_scale_conserves_what_the_units_say(ds, ratio):
    clean = replace_data(ds, dq=np.zeros(SHAPE, "u4"), sci=np.full(SHAPE, 2.0, dtype="f4"))
    bright = resample_spec(clean, pixel_scale_ratio=ratio)
    flux = resample_spec(
        replace_data(clean, units="Jy", sci=clean["sci"].data), pixel_scale_ratio=ratio
    )
    np.testing.assert_allclose(np.nanmedian(bright["sci"]), 2.0, rtol=1e-6)
    np.testing.assert_allclose(np.nanmedian(flux["sci"]), 2.0 / ratio, rtol=1e-6)
    assert bright["pixar_sr"].item() == pytest.approx(2.8e-13 / ratio)
    # per pixel of the input, the total of a row does not depend on the size of output pixels
    total = np.nansum(flux["sci"].data[30])
    one = np.nansum(
        resample_spec(replace_data(clean, units="Jy", sci=clean["sci"].data))["sci"].data[30]
    )
    assert total == pytest.approx(one, rel=0.1)


def test_pixel_scale_in_arcsec(ds):
    out = resample_spec(ds, pixel_scale=0.055)
    assert out.attrs["resample_pixel_scale_ratio"] == pytest.approx(2, rel=5e-3)
    assert abs(out.sizes["x"] - 2 * resample_spec(ds).sizes["x"]) <= 1


def test_errors_are_honest(ds):
    """Pulls against the truth have unit variance, for single pixels and for sums over the slit."""
    clean = replace_data(ds, dq=np.zeros(SHAPE, "u4"), sci=np.zeros(SHAPE, "f4"))
    plan = resample_spec.plan(clean, pixel_scale_ratio=1.3)
    total = sum(clean[v].data for v in VARIANCES)
    rng = np.random.default_rng(0)
    n = 600
    noise = (rng.normal(size=(n, *SHAPE)) * np.sqrt(total)).astype("f4")
    cube = integrations(clean, n)
    cube = cube.assign({v: (cube[v].dims, np.stack([clean[v].data] * n)) for v in VARIANCES})
    out = resample_spec(replace_data(cube, sci=noise), plan=plan)
    sampled = out["wht"].data[0] > 0
    pull = out["sci"].data[:, sampled] / np.sqrt(out["variance_cov"].data[0, sampled])
    assert np.std(pull) == pytest.approx(1, abs=0.01)

    aperture = slice(8, 14)
    full = sampled[:, aperture].all(axis=1)
    assert full.sum() > 40
    summed = out["sci"].data[:, full, aperture].sum(axis=2)
    variance = out["variance_cov"].data[0, full, aperture].sum(axis=1)
    covariance = out["covariance"].data[0]
    assert covariance.shape[0] == 2
    for lag in (1, 2):
        variance = variance + 2 * covariance[lag - 1, full, 8 : 14 - lag].sum(axis=1)
    assert np.std(summed / np.sqrt(variance)) == pytest.approx(1, abs=0.03)
    # without the covariance the error of a sum is far too small
    naive = out["variance_cov"].data[0, full, aperture].sum(axis=1)
    assert np.std(summed / np.sqrt(naive)) > 1.2


def test_integrations_are_a_loop(ds):
    cube = integrations(ds)
    together = resample_spec(cube)
    assert together["sci"].dims == ("integration", "y", "x")
    assert together["con"].dims == ("integration", "context", "y", "x")
    assert together["covariance"].dims == ("integration", "lag", "y", "x")
    plan = resample_spec.plan(cube)
    for i in range(cube.sizes["integration"]):
        one = resample_spec(cube.isel(integration=i), plan=plan)
        for name in ("sci", "err", *VARIANCES, "wht", "con", "variance_cov", "covariance"):
            np.testing.assert_array_equal(together[name].data[i], one[name].data, err_msg=name)
    assert together["wavelength"].dims == ("y", "x")


def test_integrations_may_be_left_as_they_are(ds):
    cube = integrations(ds)
    left = resample_spec(cube, several="left")
    assert left.attrs["status_resample_spec"] == "SKIPPED: integrations are left as they are"
    assert left["sci"].identical(cube["sci"])
    assert resample_spec(ds, several="left")["sci"].identical(resample_spec(ds)["sci"])


def test_flags(ds):
    out = resample_spec(ds, propagate_dq=True)
    assert out["dq"].dtype == np.uint32
    assert not np.any(out["dq"].data & 513)
    assert 1 <= np.sum(out["dq"].data == 4) <= 9


def test_fill_value(ds):
    filled, empty = resample_spec(ds, fillval="-1.5"), resample_spec(ds)
    np.testing.assert_array_equal(
        filled["sci"], np.where(np.isnan(empty["sci"]), np.float32(-1.5), empty["sci"])
    )
    with pytest.raises(ParameterError, match="NAN, INDEF or a number"):
        resample_spec(ds, fillval="nothing")


def test_output_shape_and_custom_wcs(ds):
    whole = resample_spec(ds)
    part = resample_spec(ds, output_shape=(10, 20))
    assert part["sci"].shape == (20, 10)
    np.testing.assert_array_equal(part["sci"], whole["sci"].data[:20, :10])
    again = resample_spec(ds, output_wcs=meta_of(whole).wcs)
    np.testing.assert_allclose(again["sci"], whole["sci"], rtol=1e-5)
    assert again.attrs["resample_pixel_scale_ratio"] == pytest.approx(1, abs=5e-3)


def test_without_variances_or_area(ds):
    out = resample_spec(ds.drop_vars([*VARIANCES, "pixar_sr", "source_xpos"]))
    assert "pixar_sr" not in out
    assert np.nanmax(out["wht"]) == pytest.approx(1, abs=0.5)
    np.testing.assert_array_equal(np.isnan(out["err"]), np.isnan(out["sci"]))
    assert np.nanmax(out["variance_cov"]) == 0


def test_skips(ds):
    other = with_attrs(ds, instrument="NIRSPEC")
    assert "no rule makes an output grid" in resample_spec(other).attrs["status_resample_spec"]
    wcs = make_wcs()
    wcs.bounding_box = ((7.5, 31.5), (200.2, 200.4))
    blind = resample_spec(with_meta(ds, wcs=wcs))
    assert blind.attrs["status_resample_spec"].startswith("SKIPPED: no pixel")
    far = make_wcs()
    far.bounding_box = ((1000.5, 1020.5), (1000.5, 1020.5))
    grid = meta_of(resample_spec(ds)).wcs
    status = resample_spec(with_meta(ds, wcs=far), output_wcs=grid).attrs["status_resample_spec"]
    assert status.startswith("SKIPPED: no pixel")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"wcs": None}, "run assign_wcs first"),
        ({"wcs": {}}, "run assign_wcs first"),
    ],
)
def test_no_wcs(ds, change, match):
    with pytest.raises(InputError, match=match):
        resample_spec(with_meta(ds, **change))


def test_bad_input(ds):
    blank = with_meta(with_attrs(ds, dispaxis=None), science=fits.Header())
    with pytest.raises(InputError, match="DISPAXIS"):
        resample_spec(blank)
    with pytest.raises(InputError, match="positive exposure time"):
        resample_spec(with_meta(ds, science=fits.Header()), weight_type="exptime")
    for bad in ({"pixel_scale_ratio": 0.0}, {"pixel_scale": -1.0}):
        with pytest.raises(ParameterError, match=r"above 0\.0"):
            resample_spec(ds, **bad)
    for ratio in (1e-6, 1e6):
        with pytest.raises(
            ParameterError, match=r"an input pixel make .* correct pixel_scale_ratio"
        ):
            resample_spec(ds, pixel_scale_ratio=ratio)
    with pytest.raises(ParameterError, match="an output of 60000 x 60000 pixels"):
        resample_spec(ds, output_shape=(60000, 60000))
    for bad in ({"pixfrac": 1.2}, {"kernel": "gaussian"}, {"output_shape": (0, 3)}):
        with pytest.raises(ParameterError):
            resample_spec(ds, **bad)


def test_jit_and_vmap(ds):
    plan = resample_spec.plan(ds)
    eager = resample_spec(ds, plan=plan)

    def run(d, p):
        return resample_spec(d, plan=p)

    names = ("sci", "err", *VARIANCES, "wht", "con", "variance_cov", "covariance")
    compiled = transforms.jit(run)(ds, plan)
    for name in names:
        assert compiled[name].dtype == eager[name].dtype, name
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-5, err_msg=name)
    cube = integrations(ds)
    loop = resample_spec(cube, plan=plan)
    mapped = transforms.jit(transforms.vmap(lambda d: resample_spec(d, plan=plan)))(cube)
    for name in names:
        np.testing.assert_allclose(mapped[name], loop[name], rtol=1e-5, err_msg=name)
    with pytest.raises(HostOnlyError, match=r"resample_spec\.plan"):
        transforms.jit(resample_spec)(ds)


def test_gradient(ds):
    import jax
    import jax.numpy as jnp

    plan = resample_spec.plan(ds)
    names = ("sci", "var_rnoise")
    wide = ds.assign({n: ds[n].astype("f8") for n in ("sci", "err", *VARIANCES)})

    def scalar(values, xp=np):
        moved = replace_data(wide, **dict(zip(names, values, strict=True)))
        out = resample_spec(moved, plan=plan)
        return xp.nansum(out["sci"].data[10:20] ** 2) + xp.nansum(out["err"].data[10:20])

    start = tuple(wide[n].data for n in names)
    value, grads = jax.jit(jax.value_and_grad(lambda v: scalar(v, jnp)))(start)
    np.testing.assert_allclose(value, scalar(start), rtol=1e-10)
    for k, grad in enumerate(grads):
        assert np.isfinite(grad).all(), names[k]
        assert grad[21, 15] == 0
        for j, i in ((20, 18), (22, 14)):
            ends = []
            for sign in (1, -1):
                data = start[k].copy()
                data[j, i] += sign * 1e-4
                ends.append(scalar((*start[:k], data, *start[k + 1 :])))
            slope = (ends[0] - ends[1]) / 2e-4
            np.testing.assert_allclose(grad[j, i], slope, rtol=1e-4, atol=1e-7)
