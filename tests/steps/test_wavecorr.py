import jax
import numpy as np
import pytest
import xarray as xr
from astropy.modeling.models import Tabular2D

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.schema import Meta, meta_of, status_of
from spec2fn.steps.wavecorr import wavecorr
from spec2fn.transforms import jit, value_and_grad

WAVES = np.linspace(0.9e-6, 1.5e-6, 7)
POSITIONS = np.linspace(-0.5, 0.5, 5)


def shift(wave, position):
    """Shift in pixels, bilinear: interpolation is exact. Wavelength in m."""
    return position * (1.5 + 1e5 * wave)


def reference(*names, scale=1.0, positions=POSITIONS):
    table = scale * shift(WAVES[:, None], positions)
    model = Tabular2D(points=(WAVES, positions), lookup_table=table)
    apertures = [{"aperture_name": n, "zero_point_offset": model} for n in names or ("MOS",)]
    return xr.Dataset(attrs={"tree": {"apertures": apertures}})


def expected(ds, i):
    """Column by column, with the WCS itself."""
    wcs = ds.attrs["meta"].wcs[int(ds["slit"].values[i])]
    ny, nx = int(ds["ysize"][i]), int(ds["xsize"][i])
    wave = ds["wavelength"].values[i, :ny, :nx]
    y, x = np.mgrid[:ny, :nx].astype(float)
    width = (wcs(x + 0.5, y)[2] - wcs(x - 0.5, y)[2]).mean(axis=0)
    mean = np.nanmean(wave, axis=0)
    points = mean + shift(mean * 1e-6, float(ds["source_xpos"][i])) * width
    slope = np.diff(points) / np.diff(mean)
    out = np.interp(wave, mean, points)
    low, high = wave < mean[0], wave > mean[-1]
    out[low] = (points[0] + slope[0] * (wave - mean[0]))[low]
    out[high] = (points[-1] + slope[-1] * (wave - mean[-1]))[high]
    return np.where(np.isfinite(wave), out, np.nan)


@pytest.mark.parametrize("n", [None, 2])
def test_wavelengths_of_point_sources_are_shifted(slits, n):
    ds = slits(n=n, source_type=["POINT", "EXTENDED", "POINT"])
    out = wavecorr(ds, reference())
    assert status_of(out, "wavecorr") == "COMPLETE"
    assert out["wavelength"].dims == ("slit", "y", "x")
    assert list(out["wavelength_corrected"].values) == [True, False, True]
    np.testing.assert_array_equal(out["wavelength_uncorrected"].values, ds["wavelength"].values)
    np.testing.assert_array_equal(out["wavelength"].values[1], ds["wavelength"].values[1])
    for i in (0, 2):
        ny, nx = int(ds["ysize"][i]), int(ds["xsize"][i])
        ours = out["wavelength"].values[i]
        np.testing.assert_allclose(ours[:ny, :nx], expected(ds, i), rtol=1e-12)
        assert np.isnan(ours[ny:]).all()
        assert np.isnan(ours[:, nx:]).all()
        change = np.nanmedian(ours - ds["wavelength"].values[i])
        assert np.sign(change) == np.sign(ds["source_xpos"].values[i])
    assert (np.diff(out["wavelength"].values[2], axis=-1)[:, :20] > 0).all()


def test_a_centred_source_and_one_in_a_closed_table(slits):
    ds = slits(source_xpos=[0.0, 0.0, 0.7])  # the last beyond the table: extrapolated
    out = wavecorr(ds, reference())
    np.testing.assert_allclose(
        out["wavelength"].values[:2], ds["wavelength"].values[:2], rtol=1e-15
    )
    ny, nx = int(ds["ysize"][2]), int(ds["xsize"][2])
    np.testing.assert_allclose(out["wavelength"].values[2, :ny, :nx], expected(ds, 2), rtol=1e-12)


def test_the_wcs_of_corrected_slits_gives_the_corrected_wavelengths(slits):
    ds = slits(source_type=["POINT", "EXTENDED", "POINT"])
    before = dict(ds.attrs["meta"].wcs)
    out = wavecorr(ds, reference())
    wcs = meta_of(out).wcs
    assert ds.attrs["meta"].wcs == before
    assert wcs[1] is before[1]
    for i in (0, 2):
        frames = wcs[i].available_frames
        assert frames[frames.index("slit_frame") + 1] == "wavecorr_frame"
        assert "wavecorr_frame" not in before[i].available_frames
        assert str(wcs[i].bounding_box) == str(before[i].bounding_box)
        y, x = np.mgrid[2 : int(ds["ysize"][i]), : int(ds["xsize"][i])]
        ours = out["wavelength"].values[i, y, x]
        np.testing.assert_allclose(wcs[i](x, y)[2], ours, rtol=1e-13)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"source_xpos": [np.nan, -0.05, 0.2]}, ("MOS",)),
        ({"slit_name": ["S200B1", "S400A1", "S200A1"]}, ("S400A1", "S200A1")),
    ],
)
def test_slits_without_a_position_or_an_aperture_are_left_alone(slits, changes, names, caplog):
    ds = slits(exp_type="NRS_FIXEDSLIT" if "slit_name" in changes else "NRS_MSASPEC", **changes)
    with caplog.at_level("WARNING", "spec2fn"):
        out = wavecorr(ds, reference(*names))
    assert list(out["wavelength_corrected"].values) == [False, True, True]
    assert "is not corrected" in caplog.text
    np.testing.assert_array_equal(out["wavelength"].values[0], ds["wavelength"].values[0])
    assert np.isfinite(out["wavelength"].values[1]).any()


def test_no_corrected_slit_is_a_skipped_step(slits):
    from spec2fn.slits import Slits

    extended = slits(source_type=["EXTENDED", "EXTENDED", "POINT"], source_xpos=[0.1, 0.2, np.nan])
    out = wavecorr(extended, reference())
    assert status_of(out, "wavecorr") == (
        "SKIPPED: no slit is corrected: the source is EXTENDED, the correction is for POINT"
        " (2 slits); no source position"
    )
    np.testing.assert_array_equal(out["wavelength"].values, extended["wavelength"].values)
    # one that is corrected, in whatever bucket, makes the step complete for all
    both = wavecorr(Slits((extended, slits())), reference())
    assert {status_of(b, "wavecorr") for b in both.buckets} == {"COMPLETE"}
    none = wavecorr(Slits((extended, extended)), reference())
    assert "(4 slits)" in status_of(none, "wavecorr")


def test_wavelengths_that_would_not_increase_are_left_alone(slits, caplog):
    ds = slits(source_xpos=[0.3, 0.0, 0.2])
    wild = reference(scale=1.0)
    table = wild.attrs["tree"]["apertures"][0]["zero_point_offset"].lookup_table
    table[::2] *= -200
    with caplog.at_level("WARNING", "spec2fn"):
        out = wavecorr(ds, wild)
    assert list(out["wavelength_corrected"].values) == [False, True, False]
    assert "not invertible" in caplog.text


def test_apertures_with_tables_of_different_length(slits):
    ds = slits(exp_type="NRS_FIXEDSLIT", slit_name=["A", "B", "A"], source_xpos=[0.45, 0.8, -0.7])
    ref = reference("A")
    other = reference("B", positions=np.linspace(-0.6, 0.6, 9)).attrs["tree"]["apertures"]
    ref.attrs["tree"]["apertures"].extend(other)
    out = wavecorr(ds, ref)
    for i in range(3):
        ny, nx = int(ds["ysize"][i]), int(ds["xsize"][i])
        np.testing.assert_allclose(
            out["wavelength"].values[i, :ny, :nx], expected(ds, i), rtol=1e-12
        )


def test_a_broken_slit_is_reported_and_the_others_go_on(slits):
    ds = slits()
    wcs = {**ds.attrs["meta"].wcs, 1: object()}
    out = wavecorr(ds.assign_attrs(meta=Meta(wcs=wcs)), reference())
    assert list(out["wavelength_corrected"].values) == [True, False, True]
    problems = out["slit_warning"].values
    assert [bool(p) for p in problems] == [False, True, False]
    assert problems[1].startswith("wavecorr: ")


def test_result_depends_neither_on_order_nor_on_padding_nor_on_company(slits, widened):
    ds = slits()
    out = wavecorr(ds, reference())
    turned = wavecorr(ds.isel(slit=[2, 0, 1]), reference()).isel(slit=[1, 2, 0])
    np.testing.assert_array_equal(turned["wavelength"].values, out["wavelength"].values)
    wide = wavecorr(widened(ds), reference())
    np.testing.assert_array_equal(
        wide["wavelength"].values[:, : ds.sizes["y"], : ds.sizes["x"]], out["wavelength"].values
    )
    alone = wavecorr(ds.isel(slit=[1]), reference())
    np.testing.assert_array_equal(alone["wavelength"].values[0], out["wavelength"].values[1])


def test_reasons_to_skip_and_errors(slits):
    ds = slits()
    assert status_of(wavecorr(ds, None), "wavecorr").startswith("SKIPPED: no wavecorr reference")
    out = wavecorr(ds.assign_attrs(exp_type="NRS_IFU"), reference())
    assert status_of(out, "wavecorr").startswith("SKIPPED: no wavelength correction applies to NRS")
    again = wavecorr(wavecorr(ds, reference()), reference())
    assert status_of(again, "wavecorr") == "SKIPPED: the wavelengths have been corrected already"
    reopened = wavecorr(ds, reference()).drop_vars(["wavelength_corrected"])
    assert status_of(wavecorr(reopened, reference()), "wavecorr").startswith("SKIPPED: the wave")
    with pytest.raises(ReferenceError, match="no apertures"):
        wavecorr(ds, xr.Dataset(attrs={"tree": {}}))
    with pytest.raises(DatasetError, match="run extract_2d"):
        wavecorr(ds.isel(slit=0, drop=True), reference())
    with pytest.raises(DatasetError, match="no WCS of slits"):
        wavecorr(ds.assign_attrs(meta=Meta()), reference())


def test_jit_equals_eager(slits):
    ds = slits(source_type=["POINT", "EXTENDED", "POINT"])
    plan = wavecorr.plan(ds, reference())
    eager = wavecorr(ds, plan=plan)
    compiled = jit(wavecorr)(ds, plan=plan)
    np.testing.assert_allclose(
        compiled["wavelength"].values, eager["wavelength"].values, rtol=1e-14
    )
    assert list(compiled["wavelength_corrected"].values) == [True, False, True]


def test_gradient_with_respect_to_position_and_wavelength(slits):
    ds = slits(source_type=["POINT", "EXTENDED", "POINT"], source_xpos=[-0.3, np.nan, 0.2])
    plan = wavecorr.plan(ds, reference())
    rng = np.random.default_rng(1)
    weight = rng.normal(size=ds["wavelength"].shape)

    def total(d):
        wave = wavecorr(d, plan=plan)["wavelength"].data
        return jax.numpy.sum(jax.numpy.where(jax.numpy.isfinite(wave), wave * weight, 0.0))

    _, grads = jit(value_and_grad(total, ("source_xpos", "wavelength")))(ds)
    assert all(np.isfinite(np.asarray(g)).all() for g in grads.values())
    step = 1e-6
    for i, expected_zero in ((0, False), (1, True), (2, False)):
        values = []
        for sign in (1, -1):
            moved = ds["source_xpos"].values.copy()
            moved[i] += sign * step
            wave = wavecorr(ds.assign(source_xpos=("slit", moved)), reference())["wavelength"]
            values.append(np.nansum(wave.values * weight))
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(grads["source_xpos"][i], slope, rtol=1e-6, atol=1e-9)
        assert (slope == 0) == expected_zero
    by_wave = np.asarray(grads["wavelength"])
    np.testing.assert_allclose(by_wave[1], np.where(np.isnan(ds["wavelength"][1]), 0, weight[1]))
