"""extract_1d of slits: numbers, invariances, isolation, errors and transformations."""

import gwcs
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.modeling import models as m
from gwcs import coordinate_frames as cf
from scipy.interpolate import RectBivariateSpline

from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.kernels.extraction import interpolate_correction
from spec2fn.kernels.namespace import array_namespace
from spec2fn.plans.extraction.apcorr import correction_table
from spec2fn.schema import EXTRACTED, Meta, meta_of
from spec2fn.slits import Slits
from spec2fn.spectra.datasets import join_spectra
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.transforms import jit, value_and_grad
from tests.buckets import bucketize

AREA = 2.5e-13
START, STEP = 1.0, 0.05  # wavelength by column [um]
PITCH = 8.0  # rows in a slit
PLANES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat")


def slit_wcs(height, width):
    """Wavelength along x, position in the slit and on the sky along y."""
    middle = (height - 1) / 2
    to_slit = m.Mapping((0, 1, 0)) | (
        m.Const1D(0.0) & (m.Shift(-middle) | m.Scale(1 / PITCH)) & (m.Scale(STEP) | m.Shift(START))
    )
    to_slit.inverse = m.Mapping((2, 1), n_inputs=3) | (
        (m.Shift(-START) | m.Scale(1 / STEP)) & (m.Scale(PITCH) | m.Shift(middle))
    )
    to_world = (m.Scale(1e-4) | m.Shift(10.0)) & (m.Scale(1e-4) | m.Shift(-20.0)) & m.Identity(1)
    pixels = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))

    def frame(name):
        return cf.CoordinateFrame(
            3, ("SPATIAL", "SPATIAL", "SPECTRAL"), (0, 1, 2), unit=("", "", u.um), name=name
        )

    wcs = gwcs.WCS([(pixels, to_slit), (frame("slit_frame"), to_world), (frame("world"), None)])
    wcs.bounding_box = ((-0.5, width - 0.5), (-0.5, height - 0.5))
    return wcs


def one_slit(name, shape, *, kind="POINT", ypos=0.1, integrations=None, seed=0, bad=0.03):
    rng = np.random.default_rng(seed)
    height, width = shape
    full = shape if integrations is None else (integrations, *shape)
    dims = ("integration", "y", "x")[-len(full) :]
    row = (height - 1) / 2 + PITCH * ypos
    profile = np.exp(-0.5 * ((np.arange(height) - row) / 1.2) ** 2)[:, None]
    sci = 1e-9 * (20.0 * profile + 1.0 + rng.normal(0.0, 0.1, full))
    variances = [1e-18 * (0.1 + rng.random(full)) for _ in range(3)]
    flagged = rng.random(full) < bad
    values = (sci, np.sqrt(sum(variances)), *variances)
    data = {
        n: (dims, np.where(flagged, np.nan, v).astype(np.float32))
        for n, v in zip(PLANES, values, strict=True)
    }
    data["sci"] = (*data["sci"], {"units": "MJy" if kind == "POINT" else "MJy/sr"})
    data["dq"] = (dims, flagged.astype(np.uint32))
    wavelength = np.broadcast_to(START + STEP * np.arange(width), shape).copy()
    wavelength[:, :2] = np.nan
    data["wavelength"] = (("y", "x"), wavelength)
    scalars = {
        "slit_name": name,
        "source_type": kind,
        "source_xpos": 0.0,
        "source_ypos": ypos,
        "source_id": seed,
        "pixar_sr": AREA * (1 + seed),
        "bunit": "MJy" if kind == "POINT" else "MJy/sr",
    }
    data |= {k: ((), np.asarray(v)) for k, v in scalars.items()}
    return xr.Dataset(data)


ATTRS = {
    "exp_type": "NRS_FIXEDSLIT",
    "instrument": "NIRSPEC",
    "detector": "NRS1",
    "filter": "F290LP",
    "grating": "G395H",
    "dispaxis": 1,
    "status_photom": "COMPLETE",
}


def as_slits(parts, **attrs):
    wcs = {i: slit_wcs(s.sizes["y"], s.sizes["x"]) for i, s in enumerate(parts)}
    header = fits.Header({"PA_APER": 12.5, "SPORDER": -1})
    meta = Meta(primary=header, science=fits.Header(), wcs=wcs)
    return bucketize(parts).assign_attrs({**ATTRS, "meta": meta, **attrs})


def four(integrations=None):
    """A point source, an extended one in a wider slit, and two more point sources."""
    kinds = [
        ("S200A1", (20, 40), "POINT", 0.1),
        ("S200A2", (20, 43), "EXTENDED", 0.3),
        ("S400A1", (19, 38), "POINT", -0.2),
        ("S1600A1", (60, 90), "POINT", 0.0),
    ]
    parts = [
        one_slit(n, shape, kind=kind, ypos=y, seed=i, integrations=integrations)
        for i, (n, shape, kind, y) in enumerate(kinds)
    ]
    slits = as_slits(parts)
    if integrations is None:
        return slits
    times = ("integration", 59000.0 + np.arange(integrations))
    return slits.map(lambda b: b.assign(int_mid_mjd_utc=times))


def apertures(*entries, **entry):
    entries = entries or ({"id": "ANY", "extract_width": 5, **entry},)
    return xr.Dataset(attrs={"tree": {"apertures": list(entries)}, "meta": Meta()})


BKG = {"bkg_coeff": [[0.5], [3.5], [15.5], [18.5]]}


def correction(**columns):
    waves = np.linspace(1.2, 2.6, 5)
    sizes = np.array([2.0, 4.0, 6.0, 7.0])[:, None] * (1 + 0.02 * np.arange(5))
    phases = np.array([0.0, 0.5, 1.0])
    table = 1 + np.exp(-sizes / 3)[:, :, None] * (0.5 + phases) * waves[None, :, None]
    names = columns.get("slits", ("S200A1", "S400A1", "S1600A1"))
    n = len(names)

    def rows(a):
        return np.broadcast_to(a, (n, *np.shape(a))).copy()

    return xr.Dataset(
        {
            "apcorr.filter": ("apcorr_row", np.array(["F290LP"] * n)),
            "apcorr.grating": ("apcorr_row", np.array(["G395H"] * n)),
            "apcorr.slit": ("apcorr_row", np.array(names)),
            "apcorr.wavelength": (("apcorr_row", "w"), rows(waves)),
            "apcorr.nelem_wl": ("apcorr_row", np.full(n, 5)),
            "apcorr.size": (("apcorr_row", "s", "w"), rows(sizes)),
            "apcorr.nelem_size": ("apcorr_row", np.full(n, 4)),
            "apcorr.pixphase": (("apcorr_row", "p"), rows(phases)),
            "apcorr.apcorr": (("apcorr_row", "s", "w", "p"), rows(table)),
        },
        attrs={"meta": Meta(primary=fits.Header({"SIZEUNIT": "pixels"}))},
    )


def assert_equal(a, b, names=None):
    for name in names or a.variables:
        x, y = a[name].values, b[name].values
        if x.dtype.kind in "fc":
            np.testing.assert_array_equal(x, y, err_msg=name)
        else:
            assert (x == y).all(), name


def spectrum(out, name):
    i = int(np.flatnonzero(out["sltname"].values == name)[0])
    return out.isel(spectrum=i, wave=slice(int(out["n_wave"][i])))


def test_one_spectrum_per_slit_in_the_order_of_the_product():
    slits = four()
    assert len(slits.buckets) == 2
    out = extract_1d(slits, apertures())
    assert out.attrs["model"] == "MultiSpecModel"
    assert out.attrs["status_extract_1d"] == "COMPLETE"
    assert out["sltname"].values.tolist() == ["S200A1", "S200A2", "S400A1", "S1600A1"]
    assert out["slit"].values.tolist() == [0, 1, 2, 3]
    assert out["sourceid"].values.tolist() == [0, 1, 2, 3]
    assert out["n_wave"].values.tolist() == [38, 41, 36, 88]
    assert (out["sporder"] == -1).all()
    assert (out["pa_aper"] == 12.5).all()
    assert "shutsta" not in out
    for i, n in enumerate(out["n_wave"].values):
        assert np.isfinite(out["wavelength"][i, :n]).all()
        for name in EXTRACTED:
            rest = out[name][i, n:]
            assert (rest == 0).all() if name == "dq" else np.isnan(rest).all(), name
    wcs = meta_of(out).wcs
    assert list(wcs) == ["S200A1", "S200A2", "S400A1", "S1600A1"]
    assert wcs["S400A1"](3.0)[2] == pytest.approx(out["wavelength"].values[2, 3])


@pytest.mark.parametrize("integrations", [None, 3])
def test_numbers_of_a_box(integrations):
    slits = four(integrations)
    out = extract_1d(slits, apertures())
    assert out["flux"].dims[-2:] == ("spectrum", "wave")
    if integrations:
        assert out["flux"].dims[0] == "integration"
        assert out.attrs["model"] == "TSOMultiSpecModel"
        assert out["int_mid_mjd_utc"].dims == ("integration",)
    for name, row in (("S200A1", 9.5 + 0.8), ("S200A2", 9.5)):
        one = slits.slit(name)
        index = np.arange(20)[:, None]
        weights = np.clip(np.minimum(index - row + 3, row + 3 - index), 0, 1)
        sci = one["sci"].values.astype(float)[..., 2:]
        good = np.isfinite(sci)
        ours = spectrum(out, name)
        total = np.nansum(sci * weights, axis=-2)
        count = (good * weights).sum(axis=-2)
        np.testing.assert_allclose(ours["npixels"], count, rtol=1e-12)
        if name == "S200A1":
            np.testing.assert_allclose(ours["flux"], total * 1e6, rtol=1e-12)
            assert (ours["surf_bright"] == 0).all()
            assert (ours["sb_error"] == 0).all()
        else:
            area = float(one["pixar_sr"])
            np.testing.assert_allclose(ours["flux"], total * area * 1e6, rtol=1e-12)
            np.testing.assert_allclose(ours["surf_bright"], total / count, rtol=1e-12)
        assert float(ours["extrystr"]) == pytest.approx(row - 2 + 1)
        assert float(ours["extrystp"]) == pytest.approx(row + 2 + 1)
        assert float(ours["slit_dec"]) == pytest.approx(-20 + 1e-4 * (row - 9.5) / PITCH)


@pytest.mark.parametrize(
    "parameters", [{}, {"bkg_fit": "median"}, {"bkg_order": 1}, {"smoothing_length": 5}]
)
def test_a_slit_alone_gives_the_same(parameters):
    """Neither padding nor neighbours, nor the order of the slits, change a spectrum."""
    slits = four()
    refs = (apertures(**BKG), correction())
    out = extract_1d(slits, *refs, **parameters)
    upside_down = Slits(tuple(b.isel(slit=slice(None, None, -1)) for b in slits.buckets[::-1]))
    again = extract_1d(upside_down, *refs, **parameters)
    names = [n for n in out.variables if n not in ("detector", "sltname", "srctype")]
    for name in names:
        np.testing.assert_allclose(again[name], out[name], rtol=1e-12, err_msg=name)
    for name in slits.names:
        one = slits.slit(name)
        number = int(one["slit"])
        alone = as_slits([one.drop_vars(["slit", "xsize", "ysize"])])
        wcs = {0: slits.attrs["meta"].wcs[number]}
        alone = alone.assign_attrs(meta=slits.attrs["meta"].replace(wcs=wcs))
        mine = spectrum(extract_1d(alone, *refs, **parameters), name)
        for column in EXTRACTED:
            np.testing.assert_allclose(
                mine[column], spectrum(out, name)[column], rtol=1e-9, atol=1e-30, err_msg=column
            )


def test_integrations_are_independent():
    slits = four(3)
    refs = (apertures(**BKG), correction())
    out = extract_1d(slits, *refs)
    for i in range(3):
        single = extract_1d(slits.map(lambda b, i=i: b.isel(integration=i)), *refs)
        for name in EXTRACTED:
            ours = out[name].isel(integration=i) if name != "wavelength" else out[name]
            np.testing.assert_allclose(single[name], ours, rtol=1e-12, err_msg=name)


def test_aperture_correction_by_size_wavelength_and_phase():
    slits, table = four(), correction()
    plain = extract_1d(slits, apertures(), table, apply_apcorr=False)
    out = extract_1d(slits, apertures(), table)
    assert_equal(spectrum(plain, "S200A2"), spectrum(out, "S200A2"))  # an extended source
    before, after = spectrum(plain, "S200A1"), spectrum(out, "S200A1")
    waves, sizes = table["apcorr.wavelength"].values[0], table["apcorr.size"].values[0]
    values = table["apcorr.apcorr"].values[0][:, :, 1]
    expected = []
    for w, n in zip(before["wavelength"].values, before["npixels"].values, strict=True):
        if not waves[0] <= w <= waves[-1]:
            expected.append(1.0)
            continue
        at = [np.interp(w, waves, s) for s in sizes]
        expected.append(RectBivariateSpline(waves, at, values.T, kx=1, ky=1)(w, n).item())
    assert min(expected) == 1.0
    assert max(expected) > 1.1
    np.testing.assert_allclose(after["flux"] / before["flux"], expected, rtol=1e-12)
    ratio = after["flux_var_rnoise"] / before["flux_var_rnoise"]
    np.testing.assert_allclose(ratio, np.square(expected), rtol=1e-12)
    np.testing.assert_array_equal(after["background"], before["background"])


def test_tables_of_apertures():
    table = correction(slits=("S200A1",))
    waves = np.array([1.0, 1.2, 1.9, 2.6, 2.7])
    sizes, values = correction_table(table, 0, waves, None, phased=True)
    assert (values[[0, -1]] == 1).all()
    npixels = np.array([1.0, 2.0, 5.0, 7.7, 99.0])
    ours = interpolate_correction(np.stack([npixels, npixels[::-1]]), sizes, values)
    for k in range(5):
        for row, n in ((0, npixels[k]), (1, npixels[4 - k])):
            assert ours[row, k] == pytest.approx(np.interp(n, sizes[k], values[k]), rel=1e-14)
    arcsec = table.assign_attrs(meta=Meta(primary=fits.Header({"SIZEUNIT": "arcsec"})))
    in_pixels, _ = correction_table(arcsec, 0, waves, lambda: 0.1, phased=True)
    np.testing.assert_allclose(in_pixels, sizes / 0.1)
    table["apcorr.nelem_size"][:] = 1
    sizes, values = correction_table(table, 0, waves, None, phased=True)
    assert sizes.shape == (5, 1)
    np.testing.assert_array_equal(interpolate_correction(npixels, sizes, values), values[:, 0])
    table["apcorr.size"][0, 1] = table["apcorr.size"][0, 0]
    table["apcorr.nelem_size"][:] = 4
    with pytest.raises(ReferenceError, match="increasing aperture sizes"):
        correction_table(table, 0, waves, None, phased=True)


def test_a_failing_slit_does_not_stop_the_others():
    slits = four()
    some = apertures(*({"id": n, "extract_width": 5} for n in ("S200A1", "S1600A1")))
    out = extract_1d(slits, some)
    assert out["sltname"].values.tolist() == ["S200A1", "S1600A1"]
    reasons = meta_of(out).records["slits_not_extracted"]
    assert set(reasons) == {"S200A2", "S400A1"}
    assert "no target aperture for 'S400A1'" in reasons["S400A1"]
    with pytest.raises(ReferenceError, match="no target aperture"):
        extract_1d(slits, apertures({"id": "S200B1"}))
    with pytest.raises(ReferenceError, match=r"0 rows for filter=.*slit='S200A1'"):
        extract_1d(slits.select(["S200A1"]), apertures(), correction(slits=("S200A2",)))
    dark = slits.map(lambda b: b.assign(wavelength=b["wavelength"] * np.nan))
    out = extract_1d(dark, apertures())
    assert "no pixel of the extraction aperture" in out.attrs["status_extract_1d"]
    broken = slits.map(lambda b: b)
    wcs = {k: w for k, w in slits.attrs["meta"].wcs.items() if k != 2}
    out = extract_1d(broken.assign_attrs(meta=slits.attrs["meta"].replace(wcs=wcs)), apertures())
    assert list(meta_of(out).records["slits_not_extracted"]) == ["S400A1"]


def test_manners_may_differ_from_slit_to_slit():
    slits = four()
    entries = {
        "S200A1": {"extract_width": 5, **BKG, "bkg_fit": "median"},
        "S200A2": {"ystart": 4, "ystop": 9},
        "S400A1": {"extract_width": 4, **BKG, "bkg_order": 1},
        "S1600A1": {"extract_width": 5, **BKG, "smoothing_length": 3},
    }
    out = extract_1d(slits, apertures(*({"id": k, **v} for k, v in entries.items())))
    for name, entry in entries.items():
        alone = extract_1d(slits.select([name]), apertures({"id": name, **entry}))
        for column in EXTRACTED:
            np.testing.assert_allclose(
                spectrum(alone, name)[column], spectrum(out, name)[column], rtol=1e-9, atol=1e-30
            )


def test_units_say_what_the_pixels_hold():
    slits = four().select(["S200A1"])
    point = extract_1d(slits, apertures(), use_source_posn=True)
    for bunit, factor, bright in (("MJy", 1.0, False), ("MJy/sr", AREA, True)):
        given = slits.map(lambda b, unit=bunit: b.assign(bunit=("slit", [unit])))
        out = extract_1d(given, apertures())
        np.testing.assert_allclose(out["flux"], point["flux"] * factor, rtol=1e-12)
        assert bool((out["surf_bright"] != 0).any()) is bright
    rates = slits.map(lambda b: b.assign(bunit=("slit", ["DN/s"])))
    out = extract_1d(rates, apertures())
    assert out["flux"].attrs["units"] == "DN/s"
    np.testing.assert_allclose(out["flux"] * 1e6, point["flux"], rtol=1e-12)


@pytest.mark.parametrize("integrations", [None, 2])
def test_error_of_resampled_pixels(integrations):
    rng = np.random.default_rng(5)
    slits = four(integrations).select(["S200A1", "S200A2"])
    (bucket,) = slits.buckets
    shape, dims = bucket["sci"].shape, bucket["sci"].dims
    variance = 1e-18 * (1 + rng.random(shape))
    lags = 1e-19 * rng.random((*shape[:-2], 2, *shape[-2:]))
    bucket = bucket.assign(
        variance_cov=(dims, variance), covariance=((*dims[:-2], "lag", *dims[-2:]), lags)
    )
    limits = {"ystart": 6, "ystop": 12.5, "extract_width": None, "use_source_posn": False}
    out = extract_1d(bucket, apertures(**limits))
    weights = np.zeros(shape[-2])
    weights[6:14] = (1, 1, 1, 1, 1, 1, 1, 0.5)
    column = 7
    for k in range(2):
        for i in range(integrations or 1):
            at = (k,) if integrations is None else (k, i)
            good = np.isfinite(bucket["sci"].values[at][:, column])
            c = np.diag(variance[at][:, column])
            for lag in (1, 2):
                off = lags[at][lag - 1, : -lag or None, column]
                c += np.diag(off, lag) + np.diag(off, -lag)
            a = weights * good
            scale = 1e6 * (1.0 if k == 0 else float(bucket["pixar_sr"][k]))
            ours = out["flux_error_cov"].values[(k,) if integrations is None else (i, k)]
            assert ours[column - 2] == pytest.approx(np.sqrt(a @ c @ a) * scale, rel=1e-9)


def test_error_of_a_common_background():
    (bucket,) = four().select(["S200A1"]).buckets
    dims, shape = bucket["sci"].dims, bucket["sci"].shape
    limits = {"ystart": 6, "ystop": 9, "extract_width": None, "use_source_posn": False}
    before = extract_1d(bucket, apertures(**limits))["flux_error_cov"].values[0]
    error = np.sqrt(0.4 * bucket["var_poisson"].values)
    shared = extract_1d(
        bucket.assign(common_share=(dims, np.full(shape, 0.4))), apertures(**limits)
    )["flux_error_cov"].values[0]
    resampled = extract_1d(bucket.assign(common_error=(dims, error)), apertures(**limits))
    np.testing.assert_allclose(resampled["flux_error_cov"].values[0], shared, rtol=1e-6)
    good = np.isfinite(bucket["sci"].values[0])
    column, element = 7, 5
    s = np.where(good, error[0], 0.0)[6:10, column]
    expected = before[element] ** 2 + (s.sum() ** 2 - (s**2).sum()) * 1e12
    assert shared[element] == pytest.approx(np.sqrt(expected), rel=1e-6)


def test_compiled_and_differentiated():
    slits = four(2)
    (bucket,) = slits.select(["S200A1", "S200A2"]).buckets
    refs = (apertures(**BKG), correction())
    plan = extract_1d.plan(bucket, *refs)
    eager = extract_1d(bucket, *refs, plan=plan)
    compiled = jit(lambda d, p: extract_1d(d, plan=p))(bucket, plan)
    for name in EXTRACTED:
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-9, atol=1e-30, err_msg=name)

    def total(d, p):
        # the flux of the extended source and the background of the point source
        out = extract_1d(d, plan=p)
        xp = array_namespace(out["flux"].data)
        flux, level = out["flux"].data[..., 1, :] / AREA, out["background"].data[..., 0, :] * AREA
        return xp.nansum(flux) + xp.nansum(level) * 1e6

    _, grads = jit(value_and_grad(total, wrt=("sci", "pixar_sr")))(bucket, plan)
    assert all(np.isfinite(np.asarray(g)).all() for g in grads.values())
    for k in range(2):
        change = np.zeros(2)
        change[k] = 1e-4 * AREA
        ends = [
            float(total(bucket.assign(pixar_sr=bucket["pixar_sr"] + s * change), plan))
            for s in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2e-4 * AREA)
        assert float(grads["pixar_sr"][k]) == pytest.approx(expected, rel=1e-5)


def test_images_of_slits():
    slits = four()
    saved = {"save_profile": True, "save_scene_model": True, "save_residual_image": True}
    out = extract_1d(slits, apertures(**BKG), **saved)
    records = meta_of(out).records
    for name in slits.names:
        one = slits.slit(name)
        scene, residual, profile = (
            records[f"{name.lower()}_{k}"]["sci"] for k in ("scene_model", "residual", "profile")
        )
        assert profile.shape == one["sci"].shape
        good = np.isfinite(one["sci"].values)
        assert (np.isfinite(residual.values) == good).all()
        np.testing.assert_allclose((scene + residual).values[good], one["sci"].values[good], 1e-5)
        assert scene.attrs["units"] == str(one["bunit"].values)


def test_joining_spectra():
    slits = four()
    parts = [extract_1d(b, apertures()) for b in slits.buckets]
    joined = join_spectra(parts[::-1])
    assert_equal(joined, extract_1d(slits, apertures()))
    assert len(meta_of(joined).wcs) == 4
    with pytest.raises(DatasetError, match="more than once"):
        join_spectra([parts[0], parts[0]])
    with pytest.raises(DatasetError, match="no spectra"):
        join_spectra([])
