import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, ReferenceError
from spec2fn.schema import Meta, status_of
from spec2fn.steps.photom import photom
from spec2fn.transforms import jit, value_and_grad
from tests.buckets import bucketize

DNU = PIXEL["DO_NOT_USE"]
A2_TO_SR = (np.pi / 180 / 3600) ** 2
PLANES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")
WAVES = np.linspace(1.0, 4.0, 16).astype(np.float32)
SLITS = ("S200A1", "S400A1", "S1600A1")
LOSS = 1 - 0.1 * (60000.0 - 59635.0) / 365.0


def slit(i, name, shape, kind, n):
    rng = np.random.default_rng(i)
    rows, columns = np.indices(shape)
    wave = 0.95 + 3.1 * columns / shape[1] + 0.01 * rows
    wave[0] = np.nan
    dims, full = ("y", "x"), shape
    if n is not None:
        dims, full = ("integration", *dims), (n, *shape)
    planes = {k: (dims, rng.uniform(1, 2, full).astype(np.float32)) for k in PLANES}
    planes["sci"] = (*planes["sci"], {"units": "DN/s"})
    return xr.Dataset(
        {
            **planes,
            "dq": (dims, np.zeros(full, np.uint32)),
            "wavelength": (("y", "x"), np.float32(wave + 0.01).astype(np.float64)),
            "wavelength_uncorrected": (("y", "x"), np.float32(wave).astype(np.float64)),
            "slit_name": ((), np.array(name)),
            "source_type": ((), np.array(kind)),
            "quadrant": ((), np.array(i + 1)),
            "xcen": ((), np.array(10 + i)),
            "ycen": ((), np.array(20)),
            "slit": ((), np.array(i)),
        },
        attrs={"instrument": "NIRSPEC", "filter": "F290LP", "grating": "G395H", "meta": Meta()},
    )


def bucket(exp_type="NRS_FIXEDSLIT", n=None, order=(0, 1, 2)):
    slits = [
        slit(0, SLITS[0], (4, 12), "POINT", n),
        slit(1, SLITS[1], (5, 12), "EXTENDED", n),
        slit(2, SLITS[2], (4, 11), "UNKNOWN", n),
    ]
    (made,) = bucketize([slits[i] for i in order], most=1).buckets
    return made.assign(mid_time=((), np.float64(60000.0))).assign_attrs(exp_type=exp_type)


def reference(exp_type="NRS_FIXEDSLIT", *, times=True, slits=("S1600A1", "S200A1", "S400A1")):
    rows = len(slits) if exp_type != "NRS_MSASPEC" else 1
    rng = np.random.default_rng(5)
    row, table = "photom_row", {}
    table["photom.filter"] = (row, np.array(["F290LP"] * rows + ["F100LP"]))
    table["photom.grating"] = (row, np.array(["G395H"] * rows + ["G140H"]))
    if exp_type != "NRS_MSASPEC":
        table["photom.slit"] = (row, np.array([*slits, "S200A1"]))
    table["photom.photmj"] = (row, np.linspace(1e-12, 2e-12, rows + 1).astype(np.float32))
    table["photom.nelem"] = (row, np.full(rows + 1, 16, np.int16))
    waves = np.tile(np.append(WAVES, 0).astype(np.float32), (rows + 1, 1))
    table["photom.wavelength"] = ((row, "e"), waves)
    response = rng.uniform(0.5, 1.5, (rows + 1, 17)).astype(np.float32)
    table["photom.relresponse"] = ((row, "e"), response)
    if times:
        table["timecoeff_linear.t0"] = ("t", np.full(rows + 1, 59635.0))
        table["timecoeff_linear.lossperyear"] = ("t", np.full(rows + 1, 0.1))
    table["pixar_a2"] = ((), np.float64(0.05))
    return xr.Dataset(table)


def areas(exp_type="NRS_FIXEDSLIT"):
    values = ("area_row", np.array([0.01, 0.02, 0.04], np.float32))
    if exp_type != "NRS_MSASPEC":
        return xr.Dataset({"area.slit_id": ("area_row", np.array(SLITS)), "area.pixarea": values})
    return xr.Dataset(
        {
            "area.quadrant": ("area_row", np.array([1, 2, 3], np.int16)),
            "area.shutter_x": ("area_row", np.array([10, 11, 12], np.int16)),
            "area.shutter_y": ("area_row", np.array([20, 20, 20], np.int16)),
            "area.pixarea": values,
        }
    )


def expected(one, ref, row, wave, area=None):
    """Factor of every pixel, NaN outside the table."""
    response = ref["photom.relresponse"].values[row, :16]
    factor = np.interp(wave, WAVES, response, left=np.nan, right=np.nan)
    factor = factor * float(ref["photom.photmj"][row])
    return factor if area is None else factor / (area * A2_TO_SR)


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_MSASPEC"])
def test_units_and_factors_by_slit(exp_type):
    n = 2 if exp_type == "NRS_BRIGHTOBJ" else None
    ds, ref, area = bucket(exp_type, n), reference(exp_type), areas(exp_type)
    out = photom(ds, ref, area)
    assert status_of(out, "photom") == "COMPLETE"
    assert list(out.bunit.values) == ["MJy", "MJy/sr", "MJy/sr"]
    assert out.sci.attrs["units"] == "see bunit"
    for i, surface in enumerate([None, 0.02, 0.04]):
        row = 0 if exp_type == "NRS_MSASPEC" else (1, 2, 0)[i]
        one = ds.isel(slit=i)
        factor = expected(one, ref, row, one.wavelength.values, surface) / LOSS
        sci = (one.sci * factor).values
        np.testing.assert_allclose(out.sci[i], sci, rtol=2e-6)
        np.testing.assert_allclose(out.err[i], one.err * factor, rtol=2e-6)
        for name in PLANES[2:]:
            np.testing.assert_allclose(out[name][i], one[name] * factor**2, rtol=2e-6)
        bad = np.isnan(sci) & (np.arange(5) < int(one.ysize))[:, None]
        bad &= np.arange(12) < int(one.xsize)
        assert ((out.dq[i].values & DNU)[..., :4, :11] == bad[..., :4, :11]).all()
        conversion = float(ref["photom.photmj"][row]) / LOSS
        conversion /= 1.0 if surface is None else surface * A2_TO_SR
        np.testing.assert_allclose(out.photmjsr[i], conversion, rtol=1e-6)
    np.testing.assert_allclose(out.pixar_a2, [0.01, 0.02, 0.04], rtol=1e-6)
    np.testing.assert_allclose(out.pixar_sr, out.pixar_a2 * A2_TO_SR)
    np.testing.assert_allclose(out.photuja2, out.photmjsr * 1e12 * A2_TO_SR)


def test_factors_of_point_and_uniform_sources():
    ds, ref, area = bucket(), reference(), areas()
    out = photom(ds, ref, area)
    one = ds.isel(slit=0)
    point = expected(one, ref, 1, one.wavelength.values) / LOSS
    uniform = expected(one, ref, 1, one.wavelength_uncorrected.values, 0.01)
    np.testing.assert_allclose(out.photom_point[0], np.nan_to_num(point), rtol=2e-6)
    np.testing.assert_allclose(out.photom_uniform[0], np.nan_to_num(uniform), rtol=2e-6)
    assert np.isnan(out.photom_point[1:]).all()
    assert np.isnan(out.photom_uniform[1:]).all()
    assert "photom_point" not in photom(bucket("NRS_MSASPEC"), reference("NRS_MSASPEC"))
    # without wavecorr both have the same wavelengths
    same = photom(ds.drop_vars("wavelength_uncorrected"), ref, area, apply_time_correction=False)
    ratio = same.photom_point[0] / same.photom_uniform[0]
    np.testing.assert_allclose(ratio.values[ratio.notnull()], 0.01 * A2_TO_SR, rtol=1e-6)


@pytest.mark.parametrize(("source_type", "units"), [("POINT", "MJy"), ("EXTENDED", "MJy/sr")])
def test_source_type_overrules(source_type, units):
    ds, ref, area = bucket(), reference(), areas()
    out = photom(ds, ref, area, source_type=source_type)
    assert set(out.bunit.values) == {units}
    assert out.sci.attrs["units"] == units
    plain = photom(ds, ref, area)
    i = 0 if source_type == "POINT" else 1
    np.testing.assert_array_equal(out.sci[i], plain.sci[i])
    np.testing.assert_array_equal(out.photom_uniform, plain.photom_uniform)


def test_inverse_undoes():
    ds, ref, area = bucket(), reference(), areas()
    out = photom(ds, ref, area)
    back = photom(out, ref, area, inverse=True)
    assert set(back.bunit.values) == {"DN/s"}
    assert back.sci.attrs["units"] == "DN/s"
    good = np.isfinite(out.sci.values)
    for name in PLANES:
        np.testing.assert_allclose(back[name].values[good], ds[name].values[good], rtol=1e-6)


def test_order_and_selection_do_not_matter():
    ref, area = reference(), areas()
    a, b = photom(bucket(), ref, area), photom(bucket(order=(2, 0, 1)), ref, area)
    c = photom(bucket().isel(slit=[1]), ref, area)
    for name in (*PLANES, "dq", "photmjsr", "bunit", "photom_point"):
        np.testing.assert_array_equal(b[name].sel(slit=[0, 1, 2]), a[name], err_msg=name)
        np.testing.assert_array_equal(c[name], a[name].isel(slit=[1]), err_msg=name)


def test_a_slit_without_row_is_set_apart():
    ds, area = bucket(), areas()
    out = photom(ds, reference(slits=("S1600A1", "OTHER", "S400A1")), area)
    assert list(out.slit_problem.values) == ["photom: no row for slit S200A1", "", ""]
    assert np.isnan(out.sci[0]).all()
    assert np.isnan(out.photom_uniform[0]).all()
    np.testing.assert_array_equal(out.sci[1:], photom(ds, reference(), area).sci[1:])
    alone = photom(ds.isel(slit=[0]), reference(slits=("S1600A1", "OTHER", "S400A1")), area)
    assert np.isnan(alone.sci).all()


def test_unknown_areas():
    ds, ref = bucket("NRS_MSASPEC"), reference("NRS_MSASPEC")
    out = photom(ds.assign(xcen=("slit", [1, 1, 12])), ref, areas("NRS_MSASPEC"))
    np.testing.assert_allclose(out.pixar_sr[:2], 1.0)
    # a point source needs no area
    assert [bool(p) for p in out.slit_warning.values] == [False, True, False]
    assert "no pixel area for slit S400A1" in str(out.slit_warning.values[1])
    # it goes on, so it is not lost
    assert not any(out.slit_problem.values)
    assert np.isfinite(out.sci.values[1]).any()
    nominal = photom(ds, ref)
    np.testing.assert_allclose(nominal.pixar_a2, 0.05)


@pytest.mark.parametrize("part", [{"x": slice(0)}, {"slit": slice(0)}])
@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_MSASPEC"])
def test_nothing_to_calibrate(part, exp_type):
    ds = bucket(exp_type).isel(part)
    out = photom(ds, reference(exp_type), areas(exp_type))
    assert status_of(out, "photom") == "COMPLETE"
    assert out.sci.shape == ds.sci.shape


def test_reasons_and_errors():
    ds, ref, area = bucket(), reference(), areas()
    other = ds.assign_attrs(grating="G235H")
    assert status_of(photom(other, ref, area), "photom") == (
        "SKIPPED: the photom reference has no row for filter F290LP and grating G235H"
    )
    with pytest.raises(DatasetError, match="run extract_2d"):
        photom(ds.isel(slit=0), ref, area)
    with pytest.raises(ReferenceError, match=r"'photom' .* has no 'photom\.photmj'"):
        photom(ds, ref.drop_vars("photom.photmj"), area)
    with pytest.raises(ReferenceError, match=r"'area' .* has no 'area\.pixarea'"):
        photom(ds, ref, area.drop_vars("area.pixarea"))
    with pytest.raises(InputError, match="mid time"):
        photom(ds.drop_vars("mid_time"), ref, area)


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_MSASPEC"])
def test_compiled_equals_eager(exp_type):
    n = 2 if exp_type == "NRS_BRIGHTOBJ" else None
    ds, ref, area = bucket(exp_type, n), reference(exp_type), areas(exp_type)
    plan = photom.plan(ds, ref, area)
    eager = photom(ds, ref, area, plan=plan)
    compiled = jit(lambda d, p, *refs: photom(d, *refs, plan=p))(ds, plan, ref, area)
    for name in (*PLANES, "dq", "photmjsr"):
        assert compiled[name].dtype == eager[name].dtype
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-6, err_msg=name)
    assert list(compiled.bunit.values) == list(eager.bunit.values)


def test_gradients_agree_with_finite_differences():
    ds, ref, area = bucket(), reference(), areas()
    ds = ds.assign({k: ds[k].astype(np.float64) for k in PLANES})
    ref = ref.assign({k: ref[k].astype(np.float64) for k in ref if ref[k].dtype.kind == "f"})
    plan = photom.plan(ds, ref, area)
    weights = np.random.default_rng(7).normal(size=ds.sci.shape)
    weights[0] *= 1e12  # the point source is in MJy

    @jit
    def total(plan, ds, ref):
        sci = photom(ds, ref, plan=plan).sci.data
        return (jnp.where(jnp.isnan(sci), 0.0, sci) * weights).sum()

    wrt = {
        1: ("sci", "wavelength", "mid_time"),
        2: ("photom.photmj", "photom.relresponse", "timecoeff_linear.lossperyear"),
    }
    args = [plan, ds, ref]
    _, grads = jit(value_and_grad(total, wrt))(*args)
    rng = np.random.default_rng(3)
    for i, names in wrt.items():
        for name in names:
            grad = np.asarray(grads[i][name])
            assert np.isfinite(grad).all(), name
            assert np.any(grad != 0), name
            # differences of float64 sums; the scales differ by many orders of magnitude
            way = rng.normal(size=grad.shape)
            eps = {"photom.photmj": 1e-17, "mid_time": 1e-2}.get(name, 1e-6)
            ends = []
            for sign in (1, -1):
                moved = args[i].assign({name: args[i][name] + sign * eps * way})
                ends.append(float(total(*args[:i], moved, *args[i + 1 :])))
            difference = (ends[0] - ends[1]) / (2 * eps)
            np.testing.assert_allclose((grad * way).sum(), difference, rtol=1e-5, err_msg=name)
