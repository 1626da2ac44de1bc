import jax
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.modeling.models import Tabular2D

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.schema import Meta, status_of
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.wavecorr import wavecorr
from spec2fn.transforms import jit, value_and_grad

DNU = PIXEL["DO_NOT_USE"]
N_WAVE = 8
# wavelengths of the reference [um]
START, STEP = 1.02, 0.04
END = START + (N_WAVE - 1) * STEP


def point_loss(w, x, y, gain):
    """Bilinear in the position, linear in the wavelength: interpolation is exact."""
    return gain * (0.5 + 0.1 * w) * (1 + 0.3 * x + 0.2 * y + 0.1 * x * y)


def uniform_loss(w, gain):
    return gain * (0.7 + 0.05 * w)


def reference(*apertures):
    """``apertures``: (name, number of shutters, gain, half width of the grid)."""
    waves = START + STEP * np.arange(N_WAVE)
    variables, headers = {}, {}
    for k, (name, shutters, gain, half) in enumerate(apertures, start=1):
        suffix = "" if k == 1 else f"_{k}"
        x, y = np.linspace(-0.5, 0.5, 5), np.linspace(-half, half, 7)
        cube = point_loss(waves[:, None, None], x, y[:, None], gain).astype(np.float32)
        variables[f"ps{suffix}"] = ((f"w{k}", f"y{k}", f"x{k}"), cube)
        uniform = uniform_loss(waves, gain).astype(np.float32)
        variables[f"uni{suffix}"] = (f"w{k}", uniform)
        spectral = {"CRPIX": 1.0, "CRVAL": START * 1e-6, "CDELT": STEP * 1e-6}
        headers[f"ps{suffix}"] = fits.Header(
            {
                "APERTURE": name,
                "SHUTTERS": shutters,
                **{f"{q}3": v for q, v in spectral.items()},
                "CRPIX1": 3.0,
                "CRVAL1": 0.0,
                "CDELT1": 0.25,
                "CRPIX2": 1.0,
                "CRVAL2": -half,
                "CDELT2": half / 3,
            }
        )
        headers[f"uni{suffix}"] = fits.Header({f"{q}1": v for q, v in spectral.items()})
    return xr.Dataset(variables, attrs={"meta": Meta(records={"headers": headers})})


MOS = (("MOS1x1", 1, 1.0, 0.5), ("MOS1x3", 3, 0.8, 1.5))
FIXED = (("S200A1", 0, 1.0, 0.5), ("S400A1", 0, 0.9, 0.5))


def covered(wave):
    with np.errstate(invalid="ignore"):
        return (wave > START) & (wave < END)


def assert_factor(out, ds, i, factor, kind):
    factor = np.where(covered(ds["wavelength"].values[i]), factor, np.nan)
    assert np.isfinite(factor).sum() > 50
    assert out["pathloss_correction_type"].values[i] == kind
    extra = (None,) * (ds["sci"].ndim - 3)
    for name, power in (("sci", 1), ("err", 1), ("var_poisson", 2), ("var_rnoise", 2)):
        np.testing.assert_allclose(
            out[name].values[i], ds[name].values[i] / factor[extra] ** power, rtol=2e-6
        )
    name = {"POINT": "pathloss_ps", "UNIFORM": "pathloss_un"}[kind]
    np.testing.assert_allclose(out[name].values[i], factor, rtol=1e-6)


@pytest.mark.parametrize("n", [None, 2])
def test_slitlets_are_divided_by_the_transmission_of_their_source(slits, n):
    ds = slits(n=n, source_type=["POINT", "EXTENDED", "POINT"], shutter_state=["x", "x", "0x0"])
    out = pathloss(ds, reference(*MOS))
    assert status_of(out, "pathloss") == "COMPLETE"
    w = ds["wavelength"].values
    for i in (0, 2):
        x, y = (float(ds[f"source_{k}pos"][i]) for k in "xy")
        assert_factor(out, ds, i, point_loss(w[i], x, y, 1.0), "POINT")
    assert_factor(out, ds, 1, uniform_loss(w[1], 1.0), "UNIFORM")
    # both corrections are there whichever is applied
    assert (np.isfinite(out["pathloss_ps"]) == covered(w)).all()
    assert out["pathloss_un"].dims == ("slit", "y", "x")
    assert out["pathloss_un"].dtype == np.float32
    np.testing.assert_array_equal((out["dq"].values & DNU) > 0, np.isnan(out["sci"].values))


@pytest.mark.parametrize(
    ("state", "gain", "shift"),
    [
        ("x", 1.0, 0),
        ("1x1", 0.8, 0),
        ("1x11", 0.8, 0),
        ("x11", 0.8, -1),
        ("x1", 0.8, -1),
        ("01x", 0.8, 1),
        ("1x0", 0.8, 1),
        ("0x", 1.0, 0),
    ],
)
def test_open_neighbours_choose_aperture_and_region(slits, state, gain, shift):
    ds = slits(shutter_state=["x", state, "x"])
    out = pathloss(ds, reference(*MOS))
    x, y = float(ds["source_xpos"][1]), float(ds["source_ypos"][1])
    assert_factor(out, ds, 1, point_loss(ds["wavelength"].values[1], x, y + shift, gain), "POINT")
    both = pathloss(ds, reference(*MOS), source_type="EXTENDED")
    mean = 0.9 if len(state) == 2 else gain
    assert_factor(both, ds, 1, uniform_loss(ds["wavelength"].values[1], mean), "UNIFORM")


def test_two_shutters_without_the_pair_of_apertures_take_their_own(slits, caplog):
    ds = slits(shutter_state=["x1", "1x", "x1"], source_type=["EXTENDED"] * 3)
    with caplog.at_level("WARNING", "spec2fn"):
        out = pathloss(ds, reference(MOS[1]))
    assert_factor(out, ds, 1, uniform_loss(ds["wavelength"].values[1], 0.8), "UNIFORM")
    assert "no mean of 1x1 and 1x3" in caplog.text


def test_fixed_slits_go_by_name_and_use_the_wavelengths_before_wavecorr(slits):
    names = ["S400A1", "S200A1", "S400A1"]
    ds = slits(
        exp_type="NRS_FIXEDSLIT", slit_name=names, source_type=["POINT", "POINT", "EXTENDED"]
    )
    w = ds["wavelength"].values
    ds = ds.assign(wavelength_uncorrected=(("slit", "y", "x"), w + 0.01))
    out = pathloss(ds, reference(*FIXED))
    for i, gain in ((0, 0.9), (1, 1.0)):
        x, y = (float(ds[f"source_{k}pos"][i]) for k in "xy")
        assert_factor(out, ds, i, point_loss(w[i], x, y, gain), "POINT")
        un = np.where(covered(w[i] + 0.01), uniform_loss(w[i] + 0.01, gain), np.nan)
        np.testing.assert_allclose(out["pathloss_un"].values[i], un, rtol=1e-6)
    assert_factor(out, ds, 2, uniform_loss(w[2], 0.9), "UNIFORM")


def test_slits_without_aperture_or_with_the_source_outside_are_left_alone(slits, caplog):
    ds = slits(
        exp_type="NRS_FIXEDSLIT",
        slit_name=["S200B1", "S200A1", "S400A1"],
        source_xpos=[0.0, 0.51, 0.0],
    )
    with caplog.at_level("WARNING", "spec2fn"):
        out = pathloss(ds, reference(*FIXED))
    assert "no such aperture" in caplog.text
    assert "source outside" in caplog.text
    assert list(out["pathloss_correction_type"].values) == ["", "", "POINT"]
    for name in ("sci", "err", "var_poisson", "dq"):
        np.testing.assert_array_equal(out[name].values[:2], ds[name].values[:2])
    assert np.isnan(out["pathloss_ps"].values[:2]).all()
    assert np.isnan(out["pathloss_un"].values[:2]).all()
    assert np.isfinite(out["pathloss_ps"].values[2]).any()


def test_no_slit_of_a_bucket_has_an_aperture(slits):
    ds = slits(exp_type="NRS_FIXEDSLIT", slit_name=["A", "B", "C"])
    out = pathloss(ds, reference(*FIXED))
    np.testing.assert_array_equal(out["sci"].values, ds["sci"].values)
    assert set(out["pathloss_correction_type"].values) == {""}
    assert status_of(out, "pathloss") == (
        "SKIPPED: no slit is corrected: no such aperture in the reference (3 slits)"
    )


def test_a_slit_without_pixels_is_left_alone(slits):
    ds = slits(((9, 30), (0, 0), (5, 4)), shutter_state=["x"] * 3)
    assert list(pathloss(ds, reference(*MOS))["pathloss_correction_type"].values[:2]) == [
        "POINT",
        "",
    ]


def test_a_source_without_position_counts_as_centred(slits):
    ds = slits(shutter_state=["x"] * 3, source_xpos=[np.nan] * 3, source_ypos=[np.nan] * 3)
    out = pathloss(ds, reference(*MOS))
    assert_factor(out, ds, 1, point_loss(ds["wavelength"].values[1], 0, 0, 1.0), "POINT")


def test_inverse_undoes_the_correction(slits):
    ds, ref = slits(shutter_state=["x", "x1", "1x1"]), reference(*MOS)
    back = pathloss(pathloss(ds, ref), ref, inverse=True)
    good = np.isfinite(back["sci"].values)
    assert good.sum() > 200
    for name in ("sci", "err", "var_poisson"):
        np.testing.assert_allclose(back[name].values[good], ds[name].values[good], rtol=1e-6)


def test_result_depends_neither_on_order_nor_on_padding_nor_on_company(slits, widened):
    ds, ref = slits(shutter_state=["x", "x1", "1x1"]), reference(*MOS)
    names = ("sci", "dq", "pathloss_ps", "pathloss_un")
    out = pathloss(ds, ref)
    turned = pathloss(ds.isel(slit=[2, 0, 1]), ref).isel(slit=[1, 2, 0])
    wide = pathloss(widened(ds), ref)
    for name in names:
        np.testing.assert_array_equal(turned[name].values, out[name].values)
        cut = wide[name].isel(x=slice(ds.sizes["x"]), y=slice(ds.sizes["y"]))
        np.testing.assert_array_equal(cut.values, out[name].values)
        for i in range(3):
            alone = pathloss(ds.isel(slit=[i]), ref)
            np.testing.assert_allclose(alone[name].values[0], out[name].values[i], rtol=1e-6)


def test_reasons_to_skip_and_errors(slits):
    ds = slits(shutter_state=["x"] * 3)
    assert status_of(pathloss(ds, None), "pathloss").startswith("SKIPPED: no pathloss reference")
    with pytest.raises(ReferenceError, match="no apertures"):
        pathloss(ds, xr.Dataset())
    broken = reference(*MOS)
    del broken.attrs["meta"].records["headers"]["ps"]["CDELT2"]
    with pytest.raises(ReferenceError, match="CRPIX2, CRVAL2 or CDELT2"):
        pathloss(ds, broken)
    with pytest.raises(DatasetError, match="run extract_2d"):
        pathloss(ds.isel(slit=0, drop=True), reference(*MOS))


def test_jit_equals_eager(slits):
    ds, ref = slits(n=2, shutter_state=["x", "x1", "1x1"]), reference(*MOS)
    plan = pathloss.plan(ds, ref)
    eager, compiled = pathloss(ds, ref, plan=plan), jit(pathloss)(ds, ref, plan=plan)
    for name in ("sci", "err", "var_poisson", "dq", "pathloss_ps", "pathloss_un"):
        np.testing.assert_allclose(compiled[name].values, eager[name].values, rtol=4e-7)
    assert list(compiled["pathloss_correction_type"].values) == ["POINT"] * 3


def test_gradients_agree_with_finite_differences(slits):
    ds = slits(shutter_state=["x", "x1", "1x1"], source_type=["POINT", "POINT", "EXTENDED"])
    ref = reference(*MOS)
    plan = pathloss.plan(ds, ref)

    def total(d, r):
        out = pathloss(d, r, plan=plan)
        good = (out["dq"].data & np.uint32(DNU)) == 0
        return jax.numpy.sum(jax.numpy.where(good, out["sci"].data, 0.0), dtype=float)

    wrt = {0: ("sci", "source_xpos", "source_ypos", "wavelength"), 1: ("ps", "uni_2")}
    value, grads = jit(value_and_grad(total, wrt))(ds, ref)
    assert all(np.isfinite(np.asarray(g)).all() for by in grads.values() for g in by.values())
    # linear in the data
    data = np.nan_to_num(ds["sci"].values)
    np.testing.assert_allclose((np.asarray(grads[0]["sci"]) * data).sum(), value, rtol=1e-5)

    wide = ds.assign({k: ds[k].astype(np.float64) for k in ("sci", "err")})
    wide = wide.drop_vars(["var_poisson", "var_rnoise"])

    def sum_of(d):
        return np.nansum(pathloss(d, ref, plan=plan)["sci"].values)

    step = 1e-5
    for name, scale in (("source_xpos", 1.0), ("source_ypos", 1.0), ("wavelength", 0.01)):
        for i in range(3):
            delta = np.zeros(3)
            delta[i] = step * scale
            moved = delta.reshape(-1, *(1,) * (ds[name].ndim - 1))
            up, down = (sum_of(wide.assign({name: ds[name] + s * moved})) for s in (1, -1))
            slope = (up - down) / (2 * step * scale)
            found = np.asarray(grads[0][name])[i].sum()
            np.testing.assert_allclose(found, slope, rtol=2e-4, atol=2e-3)


def test_gradient_with_respect_to_position_through_wavecorr_and_pathloss(slits):
    ds = slits(shutter_state=["x", "x1", "1x1"], source_type=["POINT", "EXTENDED", "POINT"])
    wave, place = np.linspace(0.9e-6, 1.5e-6, 4), np.linspace(-0.5, 0.5, 3)
    offsets = Tabular2D(points=(wave, place), lookup_table=place * (0.5 + 4e5 * wave[:, None]))
    shifts = xr.Dataset(
        attrs={"tree": {"apertures": [{"aperture_name": "MOS", "zero_point_offset": offsets}]}}
    )
    ref = reference(*MOS)
    weight = np.random.default_rng(4).normal(size=ds["sci"].shape)

    def loss(d, first, second):
        out = pathloss(wavecorr(d, plan=first), ref, plan=second)
        xp = np if isinstance(out["sci"].data, np.ndarray) else jax.numpy
        plane = out["pathloss_ps"].data.astype(float)
        return xp.sum(xp.where(xp.isfinite(plane), plane * weight, 0.0))

    def plans(d):
        first = wavecorr.plan(d, shifts)
        return first, pathloss.plan(wavecorr(d, plan=first), ref)

    wide = ds.assign(sci=ds["sci"].astype(float))  # corrections have the dtype of the data
    chosen = plans(wide)
    _, grads = jit(value_and_grad(loss, ("source_xpos",)))(wide, *chosen)
    step = 1e-6
    for i in range(3):
        moved = step * np.eye(3)[i]
        ends = [wide.assign(source_xpos=wide["source_xpos"] + s * moved) for s in (1, -1)]
        # planned anew: the gradient is that of the whole calculation
        up, down = (loss(d, *plans(d)) for d in ends)
        np.testing.assert_allclose(grads["source_xpos"][i], (up - down) / (2 * step), rtol=1e-5)
