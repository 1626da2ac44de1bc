"""photom of slitless spectra: the response of an order over the wavelength of a pixel."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.dq import PIXEL
from spec2fn.errors import ReferenceError
from spec2fn.io import save
from spec2fn.plans.flux.grism_photom import dispersion
from spec2fn.schema import Meta
from spec2fn.slits import Slits
from spec2fn.steps.photom import photom

WAVES = np.linspace(1.0, 2.0, 11, dtype=np.float32)
DNU = np.uint32(PIXEL["DO_NOT_USE"])


def reference(rows=(("GR150C", "F200W", 1, 2.0), ("GR150C", "F200W", 2, 5.0)), **header):
    """Relative response 1 + order * wavelength."""
    names = ("filter", "pupil", "order", "photmjsr")
    columns = zip(names, zip(*rows, strict=True), strict=True)
    data = {f"photom.{n}": ("row", np.array(v)) for n, v in columns}
    data["photom.photmjsr"] = ("row", np.array([r[3] for r in rows], np.float32))
    response = np.stack([1 + r[2] * WAVES for r in rows])
    data["photom.wavelength"] = (("row", "wave"), np.stack([WAVES] * len(rows)))
    data["photom.relresponse"] = (("row", "wave"), response.astype(np.float32))
    scalars = {"pixar_sr": 1e-13, "pixar_a2": 0.004}
    meta = Meta(primary=fits.Header(header), filename="photom.fits")
    return xr.Dataset(data | scalars, attrs={"meta": meta, "filename": "photom.fits"})


def planes(shape, wavelength, dims):
    spec = dims if wavelength.ndim == len(dims) else ("y", "x")
    return {
        "sci": (dims, np.full(shape, 3.0, np.float32), {"units": "DN/s"}),
        "err": (dims, np.full(shape, 0.5, np.float32)),
        "dq": (dims, np.zeros(shape, np.uint32)),
        "var_poisson": (dims, np.full(shape, 0.25, np.float32)),
        "wavelength": (spec, wavelength),
    }


def image(wavelength, order=1, **attrs):
    shape = (2, *wavelength.shape)
    meta = Meta(records={"spectral_order": order}, filename="exp.fits")
    elements = {"filter": "GR150C", "pupil": "F200W", "dispaxis": 1}
    mode = {"exp_type": "NRC_TSGRISM", "instrument": "NIRCAM", "meta": meta}
    data = planes(shape, wavelength, ("integration", "y", "x"))
    return xr.Dataset(data, attrs=mode | elements | attrs)


def bucket(wavelength, orders, sizes):
    ds = image(wavelength[0])
    data = planes(wavelength.shape, wavelength, ("slit", "y", "x"))
    data["spectral_order"] = ("slit", np.array(orders))
    data["slit_name"] = ("slit", np.array([str(k) for k in range(len(orders))]))
    data["ysize"], data["xsize"] = (("slit", np.array(s)) for s in zip(*sizes, strict=True))
    attrs = ds.attrs | {"exp_type": "NIS_WFSS", "instrument": "NIRISS"}
    return xr.Dataset(data, coords={"slit": np.arange(len(orders))}, attrs=attrs)


def line(n=20, start=1.05, step=0.01, rows=3):
    return np.broadcast_to(start + step * np.arange(n), (rows, n)).copy()


def test_the_factor_is_response_over_dispersion():
    waves = line()
    out = photom(image(waves), reference())
    expected = 2.0 * (1 + waves) / 0.01
    np.testing.assert_allclose(out["sci"][0], 3.0 * expected, rtol=1e-6)
    np.testing.assert_allclose(out["var_poisson"][1], 0.25 * expected**2, rtol=1e-6)
    assert out["sci"].attrs["units"] == "MJy/sr"
    assert float(out["photmjsr"]) == 2.0
    assert float(out["pixar_sr"]) == 1e-13
    back = photom(out, reference(), inverse=True)
    np.testing.assert_allclose(back["sci"], 3.0, rtol=1e-6)


def test_areas_of_pixels_are_kept_for_the_subarray(tmp_path):
    areas = np.arange(40.0 * 50, dtype=np.float32).reshape(40, 50)
    area = xr.Dataset({"sci": (("y", "x"), areas), "pixar_sr": 2e-13, "pixar_a2": 0.008})
    ds = image(line(), xstart=11, ystart=5, xsize=20, ysize=9)
    out = photom(ds, reference(), area)
    np.testing.assert_array_equal(out["area"], areas[4:13, 10:30])
    assert float(out["pixar_sr"]) == 2e-13
    save(out.assign_attrs(model="SlitModel"), tmp_path / "a_calints.fits")
    with fits.open(tmp_path / "a_calints.fits") as hdus:
        names = [h.name for h in hdus]
        assert names[names.index("WAVELENGTH") + 1] == "AREA"
        np.testing.assert_array_equal(hdus["AREA"].data, areas[4:13, 10:30])


def test_orders_have_rows_of_their_own():
    out = photom(image(line(), order=2), reference())
    np.testing.assert_allclose(out["sci"][0], 3 * 5.0 * (1 + 2 * line()) / 0.01, rtol=1e-6)


def test_along_columns():
    waves = line().T.copy()
    out = photom(image(waves, dispaxis=2), reference())
    np.testing.assert_allclose(out["sci"][0], 3 * 2.0 * (1 + waves) / 0.01, rtol=1e-6)


def test_beyond_the_response_there_is_nothing():
    waves = line(n=30, start=0.9)
    out = photom(image(waves), reference())
    inside = (waves >= 1.0) & (waves <= 2.0)
    np.testing.assert_array_equal(np.isfinite(out["sci"][0]), inside)
    np.testing.assert_array_equal(out["dq"][1], np.where(inside, 0, DNU))


def test_beside_a_gap_the_dispersion_is_one_sided():
    waves = line()
    waves[1, 5] = np.nan
    out = photom(image(waves), reference())
    expected = 3 * 2.0 * (1 + waves) / 0.01
    np.testing.assert_allclose(out["sci"][0], expected, rtol=1e-6)


def test_dispersion_is_that_of_numpy():
    rng = np.random.default_rng(1)
    waves = np.cumsum(rng.uniform(0.5, 1.5, (2, 4, 9)), axis=2)
    found = dispersion(waves, 1, [(4, 9)] * 2)
    np.testing.assert_allclose(found, np.gradient(waves, axis=2), rtol=1e-12)
    sizes = [(4, 9), (3, 7)]
    padded = waves.copy()
    padded[1, 3:], padded[1, :, 7:] = np.nan, np.nan
    for rounded, rtol in ((False, 1e-12), (True, 1e-5)):
        found = dispersion(padded, 2, sizes, rounded=rounded)
        for one, plane, (height, width) in zip(found, padded, sizes, strict=True):
            expected = abs(np.gradient(plane[:height, :width], axis=0))
            np.testing.assert_allclose(one[:height, :width], expected, rtol=rtol)
    # as the official pipeline: -1 where there is no wavelength
    waves[0, 0, 3] = np.nan
    found = dispersion(waves, 1, [(4, 9)] * 2, rounded=True)
    known = np.nan_to_num(waves[0, 0], nan=-1).astype(np.float32)
    np.testing.assert_array_equal(found[0, 0], abs(np.gradient(known)))


def test_one_pixel_has_no_dispersion():
    one = np.full((1, 3, 1), 1.5)
    for rounded in (False, True):
        assert np.isnan(dispersion(one, 1, [(3, 1)], rounded=rounded)).all()


def test_slits_of_several_orders():
    waves = np.stack([line(), line(start=1.3), line(start=1.1)])
    waves[2, :, 15:] = np.nan
    ds = bucket(waves, [1, 2, 1], [(3, 20), (3, 20), (3, 15)])
    ds["sci"][2, :, 15:] = np.nan
    rows = reference(rows=(("GR150C", "F200W", 1, 2.0), ("GR150R", "F200W", 2, 5.0)))
    out = photom(ds, reference())
    for k, (scale, order) in enumerate(((2, 1), (5, 2), (2, 1))):
        expected = 3 * scale * (1 + order * waves[k]) / 0.01
        np.testing.assert_allclose(out["sci"][k], expected, rtol=1e-6)
    np.testing.assert_allclose(out["photmjsr"], [2.0, 5.0, 2.0])
    assert list(out["bunit"].values) == ["MJy/sr"] * 3
    lost = photom(ds, rows)
    assert np.isnan(lost["sci"][1]).all()
    assert "no row for filter GR150C, pupil F200W, order 2" in str(lost["slit_problem"].values[1])
    np.testing.assert_array_equal(lost["sci"][0], out["sci"][0])
    assert np.isnan(lost["photmjsr"][1])
    # a bucket of an order that is missing is not left in counts
    one = photom(Slits((ds.isel(slit=[1]), ds.isel(slit=[0]))), rows)
    assert np.isnan(one.buckets[0]["sci"]).all()
    assert one.buckets[0]["sci"].attrs["units"] == "MJy/sr"


def test_without_any_row_nothing_is_done():
    rows = reference(rows=(("GR150R", "F200W", 1, 2.0),))
    out = photom(image(line()), rows)
    assert out.attrs["status_photom"].startswith("SKIPPED: the photom reference has no row")
    waves = line()[None]
    out = photom(bucket(waves, [1], [(3, 20)]), rows)
    assert out.attrs["status_photom"].startswith("SKIPPED: the photom reference has no row")


def test_units():
    out = photom(image(line()), reference(PHOTUNIT="MJy Angstrom s / (DN sr)"))
    np.testing.assert_allclose(out["sci"][0], 1e-4 * 3 * 2.0 * (1 + line()) / 0.01, rtol=1e-6)
    assert float(out["photmjsr"]) == 2.0
    for bad in ("MJy/sr", "apples"):
        with pytest.raises(ReferenceError, match="PHOTUNIT"):
            photom(image(line()), reference(PHOTUNIT=bad))


def test_a_reference_without_a_column_is_one_line():
    for column in ("wavelength", "relresponse", "photmjsr", "filter"):
        with pytest.raises(ReferenceError, match=f"has no 'photom.{column}'"):
            photom(image(line()), reference().drop_vars(f"photom.{column}"))


def test_gradient_with_respect_to_the_response():
    jax = pytest.importorskip("jax")
    from spec2fn.transforms import value_and_grad

    ds, ref = image(line()), reference()
    plan = photom.plan(ds, ref)

    def total(ds, ref):
        return photom(ds, ref, plan=plan)["sci"].sum()

    with jax.enable_x64(True):
        names = ["photom.photmjsr", "photom.relresponse"]
        value, grads = value_and_grad(total, {1: names})(ds, ref)
        gradient = grads[1]["photom.photmjsr"]
        np.testing.assert_allclose(gradient, [float(value) / 2.0, 0.0], rtol=1e-5)
        slope = np.asarray(grads[1]["photom.relresponse"])
        held = ref["photom.relresponse"].values
        np.testing.assert_allclose((slope * held).sum(), float(value), rtol=1e-4)
