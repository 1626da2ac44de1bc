import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.schema import Meta, meta_of, status_of
from spec2fn.steps.flat_field import flat_field
from spec2fn.transforms import jit, value_and_grad
from tests.buckets import bucketize

DNU = PIXEL["DO_NOT_USE"]
NO_FLAT = PIXEL["NO_FLAT_FIELD"]
BAD = DNU | NO_FLAT | PIXEL["UNRELIABLE_FLAT"]
FRAME = (40, 64)
TABLE = np.linspace(1.0, 4.0, 31)
D_WAVES, S_WAVES, F_WAVES = (np.array(w) for w in ([0.9, 2.0, 3.9], [1.0, 3.95], [0.5, 2.5, 4.5]))
PLANES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")


def slit(name, shape, origin, *, kind="EXTENDED", n=None, shift=0.0, seed=0, **more):
    """A slit whose wavelength is tilted, with dark corners and a range beyond the tables."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    wave = 1.2 + 2.4 * columns / shape[1] + 0.01 * rows
    wave[(rows == 0) | (rows + columns < 4)] = np.nan
    wave[:, -1] = 4.05
    dims, full = ("y", "x"), shape
    if n is not None:
        dims, full = ("integration", *dims), (n, *shape)
    data = {k: (dims, rng.uniform(1, 2, full).astype(np.float32)) for k in PLANES[:4]}
    data["sci"] = (*data["sci"], {"units": "DN/s"})
    corrected = np.float32(wave + shift).astype(np.float64)
    scalars = {"slit_name": name, "source_type": kind, "xstart": origin[0], "ystart": origin[1]}
    return xr.Dataset(
        {
            **data,
            "dq": (dims, np.zeros(full, np.uint32)),
            "wavelength": (("y", "x"), corrected),
            "wavelength_uncorrected": (("y", "x"), np.float32(wave).astype(np.float64)),
            **{k: ((), np.array(v)) for k, v in (scalars | more).items()},
        },
        attrs={"instrument": "NIRSPEC", "meta": Meta()},
    )


def bucket(exp_type="NRS_FIXEDSLIT", n=None, order=(0, 1, 2), pad=None):
    shutters = [
        {"quadrant": q, "xcen": x, "ycen": y} for q, x, y in ((1, 2, 3), (3, 5, 1), (1, 6, 4))
    ]
    slits = [
        slit("S200A1", (7, 20), (11, 6), kind="POINT", n=n, shift=0.004, **shutters[0]),
        slit("S400A1", (8, 20), (1, 21), n=n, seed=1, **shutters[1]),
        slit("S1600A1", (7, 19), (40, 33), kind="UNKNOWN", n=n, seed=2, **shutters[2]),
    ]
    slits = [slits[i].assign(slit=((), i)) for i in order]
    if pad:
        slits.append(slit("S200B1", pad, (1, 1), n=n, seed=3, **shutters[0]).assign(slit=((), 9)))
    (made,) = bucketize(slits, most=1).buckets
    return made.assign_attrs(exp_type=exp_type)


def table(suffix="", rows=("ANY",), seed=0):
    rng = np.random.default_rng(seed)
    n, m = len(rows), len(TABLE)
    data = (1.0 + 0.3 * rng.random((n, m + 2))).astype(np.float32)
    waves = np.zeros((n, m + 2), np.float32)
    waves[:, :m] = TABLE
    name = f"fast_variation{suffix}"
    row = (f"{name}_row", f"{name}_e")
    return {
        f"{name}.slit_name": (row[:1], np.array(rows)),
        f"{name}.nelem": (row[:1], np.full(n, m, np.int32)),
        f"{name}.wavelength": (row, waves),
        f"{name}.data": (row, data),
        f"{name}.error": (row, np.full((n, m + 2), 0.01, np.float32)),
    }


def images(waves, shape, suffix="", seed=0, *, flags=2):
    rng = np.random.default_rng(seed)
    z = len(waves)
    cube = rng.uniform(0.8, 1.2, (z, *shape)).astype(np.float32)
    dq = np.zeros((z, *shape)[3 - flags :], np.uint32)
    dims = (f"z{suffix}", f"y{suffix}", f"x{suffix}")
    return {
        f"sci{suffix}": (dims, cube),
        f"err{suffix}": (dims, 0.1 * cube),
        f"dq{suffix}": (dims[3 - flags :], dq),
        f"wavelength{suffix}.wavelength": (dims[:1], np.float32(waves)),
    }


def references(exp_type="NRS_FIXEDSLIT"):
    dflat = xr.Dataset(images(D_WAVES, FRAME, seed=1) | table(seed=2))
    if exp_type == "NRS_MSASPEC":
        sflat = xr.Dataset(images(S_WAVES, FRAME, seed=3, flags=3) | table(seed=4))
        parts = {}
        for quadrant, suffix in enumerate(("", "_2", "_3", "_4")):
            parts |= images(F_WAVES, (5, 8), suffix, seed=10 + quadrant, flags=3)
            parts |= table(suffix, seed=20 + quadrant)
        return xr.Dataset(parts), sflat, dflat
    one = {
        k: (v[0][-2:], v[1][0])
        for k, v in images([1.0], FRAME, seed=3).items()
        if k in {"sci", "err"}
    }
    sflat = xr.Dataset(one | {"dq": (("y", "x"), np.zeros(FRAME, np.uint32))} | table(seed=4))
    fflat = xr.Dataset(table(rows=("S1600A1", "S200A1", "S400A1"), seed=5))
    return fflat, sflat, dflat


def fast(part, suffix, row, wave, width, factor=1.0):
    """Average of a table over a pixel, and its error."""
    values = part[f"fast_variation{suffix}.data"].values[row, :31].astype(float) * factor
    errors = part[f"fast_variation{suffix}.error"].values[row, :31]
    knots = part[f"fast_variation{suffix}.wavelength"].values[row, :31].astype(float)
    half = np.sqrt(0.6) / 2
    points = [wave - half * width, wave, wave + half * width]
    found = [np.interp(p, knots, values, left=np.nan, right=np.nan) for p in points]
    return (5 * found[0] + 8 * found[1] + 5 * found[2]) / 18, np.interp(wave, knots, errors)


def slow(part, y, x, wave):
    knots = part["wavelength.wavelength"].values if "wavelength.wavelength" in part else [1.0]
    planes = [part[n].values.reshape(-1, *FRAME)[:, y, x].astype(float) for n in ("sci", "err")]
    if len(knots) == 1:
        return planes[0][0], planes[1][0], True
    inside = knots[0] <= wave <= knots[-1]
    return *(np.interp(wave, knots, p) for p in planes), inside


def expected(one, parts, wave, exp_type):
    """Flat, error and usable, pixel by pixel."""
    width = wave.shape[1]
    means = [np.nanmean(c) if np.isfinite(c).any() else np.nan for c in wave.T]
    flat, error = np.ones(wave.shape), np.zeros(wave.shape)
    usable = np.zeros(wave.shape, bool)
    rows = {"S1600A1": 0, "S200A1": 1, "S400A1": 2}
    for j, i in zip(*np.nonzero(np.isfinite(wave)), strict=True):
        at = i if i < width - 1 else i - 1
        ends = [wave[j, k] if np.isfinite(wave[j, k]) else means[k] for k in (at, at + 1)]
        step, w = ends[1] - ends[0], wave[j, i]
        y, x = int(one.ystart) - 1 + j, int(one.xstart) - 1 + i
        suffix, factor, shutter = "", 1.0, 0.0
        row = rows[str(one.slit_name.values)]
        if exp_type == "NRS_MSASPEC":
            row, quadrant = 0, int(one.quadrant)
            suffix = "" if quadrant == 1 else f"_{quadrant}"
            place = (slice(None), int(one.ycen) - 1, int(one.xcen) - 1)
            factor = np.interp(TABLE, F_WAVES, parts[0][f"sci{suffix}"].values[place])
            shutter = np.interp(w, F_WAVES, parts[0][f"err{suffix}"].values[place])
        f, f_err = fast(parts[0], suffix, row, w, step, factor)
        s, s_err = fast(parts[1], "", 0, w, step)
        d, d_err = fast(parts[2], "", 0, w, step)
        image_s, err_s, in_s = slow(parts[1], y, x, w)
        image_d, err_d, in_d = slow(parts[2], y, x, w)
        usable[j, i] = in_s and in_d and np.isfinite(f * s * d)
        if usable[j, i]:
            flat[j, i] = f * s * d * image_s * image_d
            terms = (f_err / f, s_err / s, d_err / d, err_s / image_s, err_d / image_d, shutter)
            error[j, i] = flat[j, i] * np.sqrt(np.sum(np.square(terms)))
    return flat, error, usable


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_BRIGHTOBJ", "NRS_MSASPEC"])
def test_flat_of_every_pixel(exp_type):
    n = 2 if exp_type == "NRS_BRIGHTOBJ" else None
    ds, parts = bucket(exp_type, n), references(exp_type)
    out = flat_field(ds, None, *parts)
    assert status_of(out, "flat_field") == "COMPLETE"
    for i in range(3):
        one, before = out.isel(slit=i), ds.isel(slit=i)
        cut = {"y": slice(int(one.ysize)), "x": slice(int(one.xsize))}
        one, before = one.isel(cut), before.isel(cut)
        flat, error, usable = expected(one, parts, before.wavelength.values, exp_type)
        assert 0.5 < usable.mean() < 0.9
        sci = np.where(usable, before.sci / flat, np.nan)
        np.testing.assert_allclose(one.sci, sci, rtol=2e-6)
        variances = [np.where(usable, before[k] / flat**2, np.nan) for k in PLANES[2:4]]
        var_flat = (sci / flat * error) ** 2
        np.testing.assert_allclose(one.var_flat, var_flat, rtol=1e-5)
        np.testing.assert_allclose(one.err, np.sqrt(sum(variances) + var_flat), rtol=1e-5)
        np.testing.assert_array_equal(
            one.dq, np.broadcast_to(np.where(usable, 0, BAD), one.dq.shape)
        )


def test_a_subarray_is_placed_on_the_detector():
    ds, parts = bucket(), references()
    whole = flat_field(ds, None, *parts)
    moved = ds.assign(ystart=ds.ystart - 4).assign_attrs(xstart=1, ystart=5)
    np.testing.assert_array_equal(flat_field(moved, None, *parts).sci, whole.sci)


EMPTY = {
    "no wavelength": lambda ds: ds.assign(wavelength=ds.wavelength * np.nan),
    "no pixels": lambda ds: ds.isel(x=slice(0)).assign(xsize=("slit", [0, 0, 0])),
    "off the detector": lambda ds: ds.assign(xstart=("slit", [-300, 5000, 5000])),
    "no slits": lambda ds: ds.isel(slit=slice(0)),
}


@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_MSASPEC"])
def test_slits_without_light(case, exp_type):
    ds = EMPTY[case](bucket(exp_type))
    out = flat_field(ds, None, *references(exp_type))
    # without pixels there is nothing to lose
    lost = "FAILED: no pixel has a value after it" if out["sci"].size else "COMPLETE"
    assert status_of(out, "flat_field") == lost
    for i in range(out.sizes["slit"]):
        assert not np.isfinite(out.sci[i, : int(ds.ysize[i]), : int(ds.xsize[i])]).any()


def test_flats_of_point_and_uniform_sources():
    ds, parts = bucket(), references()
    out = flat_field(ds, None, *parts)
    one = ds.isel(slit=0, y=slice(7))
    point, _, _ = expected(one, parts, one.wavelength.values, "NRS_FIXEDSLIT")
    uniform, _, _ = expected(one, parts, one.wavelength_uncorrected.values, "NRS_FIXEDSLIT")
    np.testing.assert_allclose(out.flatfield_point[0, :7], point, rtol=2e-6)
    np.testing.assert_allclose(out.flatfield_uniform[0, :7], uniform, rtol=2e-6)
    assert np.abs(point - uniform).max() > 1e-4
    assert np.isnan(out.flatfield_point[1:]).all()
    assert np.isnan(out.flatfield_uniform[1:]).all()
    same = flat_field(ds.drop_vars("wavelength_uncorrected"), None, *parts)
    np.testing.assert_array_equal(same.flatfield_uniform, same.flatfield_point)
    assert "flatfield_point" not in flat_field(bucket("NRS_BRIGHTOBJ"), None, *parts)


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_MSASPEC"])
def test_padding_and_order_do_not_matter(exp_type):
    parts = references(exp_type)
    ds = bucket(exp_type)
    padded = bucket(exp_type, order=(2, 0, 1), pad=(11, 26)) if exp_type == "NRS_MSASPEC" else None
    if padded is None:
        padded = bucket(exp_type, order=(2, 0, 1)).pad(
            y=(0, 3), x=(0, 5), constant_values={"dq": DNU | PIXEL["NON_SCIENCE"]}
        )
        padded["dq"] = padded.dq.astype(np.uint32)
        padded["slit_name"] = padded.slit_name.astype(str)
    a, b = flat_field(ds, None, *parts), flat_field(padded, None, *parts)
    for i in range(3):
        one = a.isel(slit=i)
        cut = {"y": slice(int(one.ysize)), "x": slice(int(one.xsize))}
        other = b.sel(slit=i).isel(cut)
        for name in (*PLANES, "dq"):
            np.testing.assert_array_equal(one[name].isel(cut), other[name], err_msg=name)


def test_flags_of_the_flats():
    ds, (fflat, sflat, dflat) = bucket(), references()
    y, x = 6 - 1 + 3, 11 - 1 + 8
    s_dq, d_dq, image = sflat.dq.values.copy(), dflat.dq.values.copy(), sflat.sci.values.copy()
    s_dq[y, x] = PIXEL["HOT"]
    d_dq[y, x + 1] = NO_FLAT
    image[y, x + 2], image[y, x + 3], image[y, x + 4] = np.nan, 0.0, -1.0
    s_dq[5, 10] = PIXEL["WARM"]
    sflat = sflat.assign(dq=(("y", "x"), s_dq), sci=(("y", "x"), image))
    out = flat_field(ds, None, fflat, sflat, dflat.assign(dq=(("y", "x"), d_dq)))
    found = out.dq[0, 3, 8:14].values
    assert found[0] == PIXEL["HOT"]
    assert (found[1:5] == BAD).all()
    assert found[5] == 0
    assert out.dq[0, 0, 0] == BAD | PIXEL["WARM"]
    np.testing.assert_array_equal(np.isnan(out.sci[0, 3, 8:14]), [False, *[True] * 4, False])


def test_unlit_pixels_keep_a_flat_without_wavelength():
    ds, (_, sflat, _) = bucket(), references()
    out = flat_field(ds, None, None, sflat, None)
    one, before = out.isel(slit=0, y=0, x=slice(19)), ds.isel(slit=0, y=0, x=slice(19))
    np.testing.assert_allclose(one.sci, before.sci / sflat.sci[5, 10:29].values, rtol=1e-6)
    assert (one.dq == 0).all()


def test_inverse_undoes():
    for exp_type in ("NRS_FIXEDSLIT", "NRS_MSASPEC"):
        ds, parts = bucket(exp_type), references(exp_type)
        out = flat_field(ds, None, *parts)
        back = flat_field(out, None, *parts, inverse=True)
        good = np.isfinite(out.sci.values)
        for name in ("sci", "var_poisson", "var_rnoise"):
            np.testing.assert_allclose(
                back[name].values[good], ds[name].values[good], rtol=1e-6, err_msg=name
            )
        assert (back.var_flat.values[good] == 0).all()


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_BRIGHTOBJ"])
def test_the_flat_that_was_kept_can_be_supplied(exp_type):
    n = 2 if exp_type == "NRS_BRIGHTOBJ" else None
    ds, parts = bucket(exp_type, n), references(exp_type)
    out = flat_field(ds, None, *parts, save_interpolated_flat=True)
    kept = meta_of(out).records["interpolatedflat"]
    assert kept.sci.dims == ("slit", "y", "x")
    again = flat_field(bucket(exp_type, n, order=(1, 2, 0)), None, user_supplied_flat=kept)
    for name in (*PLANES, "dq"):
        np.testing.assert_array_equal(again[name].sel(slit=[0, 1, 2]), out[name], err_msg=name)
    assert "flatfield_point" not in again


def test_a_supplied_file_has_an_image_by_slit():
    ds = bucket()
    planes = {}
    for i, suffix in enumerate(("", "_2", "_3")):
        one = ds.isel(slit=i)
        shape = (int(one.ysize), int(one.xsize))
        planes[f"sci{suffix}"] = ((f"y{i}", f"x{i}"), np.full(shape, 2.0 + i, np.float32))
    out = flat_field(ds, None, user_supplied_flat=xr.Dataset(planes))
    for i in range(3):
        cut = {"y": slice(int(ds.ysize[i])), "x": slice(int(ds.xsize[i]))}
        np.testing.assert_allclose(out.sci[i].isel(cut), ds.sci[i].isel(cut) / (2.0 + i))
    with pytest.raises(ReferenceError, match=r"an image of .8, 20. for slit S400A1, but has none"):
        flat_field(ds, None, user_supplied_flat=xr.Dataset({"sci": planes["sci"]}))


def test_a_slit_without_table_is_set_apart():
    ds, (fflat, sflat, dflat) = bucket(), references()
    names = np.array(["S1600A1", "OTHER", "S400A1"])
    fflat = fflat.assign({"fast_variation.slit_name": ("fast_variation_row", names)})
    out = flat_field(ds, None, fflat, sflat, dflat)
    assert list(out.slit_problem.values) == ["flat_field: fflat has no row for slit S200A1", "", ""]
    assert np.isnan(out.sci[0]).all()
    assert ((out.dq[0, :7] & BAD) == BAD).all()
    whole = flat_field(ds, None, *references())
    np.testing.assert_array_equal(out.sci[1:], whole.sci[1:])
    alone = flat_field(ds.isel(slit=[0]), None, fflat, sflat, dflat)
    assert np.isnan(alone.sci).all()
    only_fore = flat_field(ds.isel(slit=[0]), None, fflat)
    assert np.isnan(only_fore.sci).all()


def test_a_shutter_out_of_range_is_set_apart():
    ds = bucket("NRS_MSASPEC")
    ds = ds.assign(xcen=("slit", [2, 9, 6]), quadrant=("slit", [5, 3, 1]))
    out = flat_field(ds, None, *references("NRS_MSASPEC"))
    assert "shutter (2, 3) of quadrant 5" in str(out.slit_problem.values[0])
    assert "shutter (9, 1) of quadrant 3" in str(out.slit_problem.values[1])
    np.testing.assert_array_equal(np.isfinite(out.sci).any(("y", "x")), [False, False, True])


def test_an_unknown_image_of_a_shutter_is_flagged():
    ds, (fflat, sflat, dflat) = bucket("NRS_MSASPEC"), references("NRS_MSASPEC")
    cube = fflat.sci.values.copy()
    cube[2, 2, 1] = np.nan
    out = flat_field(ds, None, fflat.assign(sci=(("z", "y", "x"), cube)), sflat, dflat)
    gone = np.isnan(out.sci[0]).values & np.isfinite(
        flat_field(ds, None, fflat, sflat, dflat).sci[0]
    )
    assert gone.any()
    assert (ds.wavelength[0].values[gone] > 2.3).all()
    assert (out.dq[0].values[gone] == BAD).all()


def test_reasons_and_errors():
    ds, (fflat, sflat, dflat) = bucket(), references()
    out = flat_field(ds)
    assert status_of(out, "flat_field") == (
        "SKIPPED: no fflat, sflat or dflat reference for NRS_FIXEDSLIT"
    )
    one = ds.isel(slit=0)
    with pytest.raises(DatasetError, match="run extract_2d"):
        flat_field(one, None, fflat, sflat, dflat)
    with pytest.raises(DatasetError, match="'source_type'"):
        flat_field(ds.drop_vars("source_type"), None, fflat, sflat, dflat)
    with pytest.raises(ReferenceError, match=r"'dflat' .* has no 'sci'"):
        flat_field(ds, None, fflat, sflat, dflat.drop_vars("sci"))
    with pytest.raises(ReferenceError, match=r"'wavelength\.wavelength'"):
        flat_field(ds, None, fflat, sflat, dflat.drop_vars("wavelength.wavelength"))
    with pytest.raises(ReferenceError, match=r"'fast_variation\.error'"):
        flat_field(ds, None, fflat.drop_vars("fast_variation.error"), sflat, dflat)
    plan = flat_field.plan(ds, None, fflat, sflat, dflat)
    for parts in ((None, sflat, dflat), (fflat, sflat, None)):
        with pytest.raises(ReferenceError, match="needs the reference it was made with"):
            flat_field(ds, None, *parts, plan=plan)


@pytest.mark.parametrize(
    ("exp_type", "n"), [("NRS_FIXEDSLIT", None), ("NRS_BRIGHTOBJ", 2), ("NRS_MSASPEC", None)]
)
def test_compiled_equals_eager(exp_type, n):
    ds, parts = bucket(exp_type, n), references(exp_type)
    plan = flat_field.plan(ds, None, *parts)
    eager = flat_field(ds, None, *parts, plan=plan)
    compiled = jit(lambda d, p, *refs: flat_field(d, None, *refs, plan=p))(ds, plan, *parts)
    for name in (*PLANES, "dq"):
        assert compiled[name].dtype == eager[name].dtype
        np.testing.assert_allclose(compiled[name], eager[name], rtol=3e-6, err_msg=name)


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_MSASPEC"])
def test_gradients_agree_with_finite_differences(exp_type):
    ds, parts = bucket(exp_type), references(exp_type)
    # pixels in float64, so that differences are not rounding
    ds = ds.assign({k: ds[k].astype(np.float64) for k in PLANES[:4]})
    weights = np.random.default_rng(7).normal(size=ds.sci.shape)
    plan = flat_field.plan(ds, None, *parts)

    @jit
    def total(plan, ds, *refs):
        out = flat_field(ds, None, *refs, plan=plan)
        good = ~jnp.isnan(out.sci.data)
        value = jnp.where(good, out.sci.data, 0.0) * weights
        return value.sum() + jnp.where(good, out.var_flat.data, 0.0).sum()

    image = "sci_3" if exp_type == "NRS_MSASPEC" else "fast_variation.error"
    wrt = {
        1: ("sci", "wavelength"),
        2: ("fast_variation.data", image),
        3: ("sci", "err", "fast_variation.data"),
        4: ("sci", "fast_variation.data"),
    }
    refs = [
        p.assign({k: p[k].astype(np.float64) for k in p if p[k].dtype.kind == "f"}) for p in parts
    ]
    args = [plan, ds, *refs]
    _, grads = jit(value_and_grad(total, wrt))(*args)
    rng = np.random.default_rng(3)
    for i, names in wrt.items():
        for name in names:
            grad = np.asarray(grads[i][name])
            assert np.isfinite(grad).all(), (i, name)
            assert np.any(grad != 0), (i, name)
            way = rng.normal(size=grad.shape)
            eps = 1e-6
            ends = []
            for sign in (1, -1):
                moved = args[i].assign({name: args[i][name] + sign * eps * way})
                ends.append(float(total(*args[:i], moved, *args[i + 1 :])))
            np.testing.assert_allclose(
                (grad * way).sum(), (ends[0] - ends[1]) / (2 * eps), rtol=2e-5
            )
