import io

import numpy as np
import pytest
from astropy.constants import c

from spec2fn.errors import InputError, ReferenceError
from spec2fn.schema import meta_of, status_of
from spec2fn.steps.assign_wcs import assign_wcs


def run(case, ds, **changes):
    refs = case.references(**changes)
    return assign_wcs(ds, distortion=refs["distortion"], specwcs=refs["specwcs"])


def angle(a, b):
    """Distance of two positions on the sky [arcsec]."""
    ra, dec = np.deg2rad([a[0], b[0]]), np.deg2rad([a[1], b[1]])
    return np.rad2deg(np.hypot((ra[1] - ra[0]) * np.cos(dec[0]), dec[1] - dec[0])) * 3600


def test_wavelength_and_sky_of_the_slit(lrs_case):
    ds = lrs_case.exposure()
    out = run(lrs_case, ds)
    assert status_of(out, "assign_wcs") == "COMPLETE"
    assert "wavelength" not in ds
    # the table covers rows 18 to 42, the slit columns 14 to 26 (and half a pixel more)
    inside = np.zeros((60, 48), bool)
    inside[18:43, 14:27] = True
    for name in ("wavelength", "ra", "dec"):
        assert out[name].dtype == np.float64
        np.testing.assert_array_equal(np.isfinite(out[name]), inside)
    x0, y0 = map(int, lrs_case.reference_point)
    rows = np.arange(18, 43)
    np.testing.assert_allclose(
        out["wavelength"][18:43, 20], lrs_case.wavelength(rows - y0), atol=0.02
    )
    centre = (53.1, -27.8)
    assert angle((out["ra"][y0, x0], out["dec"][y0, x0]), centre) < 1e-3
    right = (out["ra"][y0, x0 + 3], out["dec"][y0, x0 + 3])
    assert angle(right, centre) == pytest.approx(3 * lrs_case.scale, abs=2e-3)
    # along the trace the position on the sky stays the same, whatever the wavelength
    along = [
        np.interp(x0 + lrs_case.drift(10), np.arange(48), out[n][y0 + 10]) for n in ("ra", "dec")
    ]
    assert angle(along, centre) < 0.02


def test_what_else_the_step_records(lrs_case):
    out = run(lrs_case, lrs_case.exposure(XOFFSET=1.9))
    assert out.attrs["dispaxis"] == 2
    assert out.attrs["specsys"] == "TOPOCENT"  # without VELOSYS
    told = "".join(out.attrs["meta"].records["warnings"])
    assert "VELOSYS is missing from exposure.fits" in told
    assert "VA_SCALE is missing from exposure.fits" in told
    moving = run(lrs_case, lrs_case.exposure(VELOSYS=1.0, VA_SCALE=1.0))
    assert moving.attrs["specsys"] == "BARYCENT"
    assert "warnings" not in moving.attrs["meta"].records
    assert out.attrs["s_region"].startswith("POLYGON ICRS  53.099")
    assert len(out.attrs["s_region"].split()) == 10
    assert "model" not in out.attrs
    dithered = (float(out["dithered_ra"]), float(out["dithered_dec"]))
    assert angle(dithered, (53.1, -27.8)) == pytest.approx(1.9, abs=1e-3)


def test_slitless_box_spans_the_subarray(lrs_case):
    ds = lrs_case.exposure("MIR_LRS-SLITLESS", shape=(2, 50, 40), origin=(1, 6))
    out = run(lrs_case, ds)
    found = np.isfinite(out["wavelength"].values)
    # four columns of reference pixels; the table starts five rows lower than in the full frame
    expected = np.zeros((50, 40), bool)
    expected[13:38, 4:] = True
    np.testing.assert_array_equal(found, expected)
    assert "s_region" not in out.attrs
    assert "dithered_ra" not in out
    full = run(lrs_case, lrs_case.exposure("MIR_LRS-SLITLESS"))
    for name in ("wavelength", "ra", "dec"):
        np.testing.assert_allclose(out[name][:37, 4:40], full[name][5:42, 4:40], rtol=1e-12)


def test_wavelengths_are_those_of_the_barycentre(lrs_case):
    rest = run(lrs_case, lrs_case.exposure())
    moving = run(lrs_case, lrs_case.exposure(VELOSYS=30000.0))
    ratio = (moving["wavelength"] / rest["wavelength"]).values
    np.testing.assert_allclose(ratio[18:43, 14:27], 1 / (1 + 30000.0 / c.value), rtol=1e-12)


def test_velocity_aberration_scales_about_the_reference_point(lrs_case):
    rest = run(lrs_case, lrs_case.exposure())
    scaled = run(lrs_case, lrs_case.exposure(VA_SCALE=1.01))
    centre = (53.1, -27.8)
    for column in (16, 24):
        before, after = (
            angle((d["ra"][30, column], d["dec"][30, column]), centre) for d in (rest, scaled)
        )
        assert after / before == pytest.approx(1.01, abs=1e-3)
    with pytest.raises(InputError, match=r"VA_SCALE is -1\.0, needs a number from 0\.99"):
        run(lrs_case, lrs_case.exposure(VA_SCALE=-1.0))


def test_the_gwcs_is_complete_and_invertible(lrs_case):
    import asdf

    out = run(lrs_case, lrs_case.exposure())
    wcs = meta_of(out).wcs
    assert wcs.available_frames == ["detector", "alpha_beta", "v2v3", "v2v3vacorr", "world"]
    y, x = np.mgrid[18:43, 14:27].astype(float)
    world = wcs(x, y)
    for value, name in zip(world, ("ra", "dec", "wavelength"), strict=True):
        np.testing.assert_allclose(value, out[name][18:43, 14:27], rtol=1e-13)
    back = wcs.invert(*world, with_bounding_box=False)
    np.testing.assert_allclose(back[0], x, atol=1e-6)
    np.testing.assert_allclose(back[1], y, atol=1e-6)
    file = io.BytesIO()
    asdf.AsdfFile({"wcs": wcs}).write_to(file)
    file.seek(0)
    with asdf.open(file) as opened:
        np.testing.assert_array_equal(opened["wcs"](x, y), world)


@pytest.mark.parametrize(
    "keyword", ["V2_REF", "V3_REF", "RA_REF", "DEC_REF", "ROLL_REF", "XOFFSET"]
)
def test_a_missing_keyword_is_named(lrs_case, keyword):
    with pytest.raises(InputError, match=f"keyword {keyword} is missing from exposure.fits"):
        run(lrs_case, lrs_case.exposure(**{keyword: None}))


def test_a_keyword_that_is_no_number_is_named(lrs_case):
    with pytest.raises(InputError, match=r"exposure\.fits: keyword V2_REF is 'west', needs a num"):
        run(lrs_case, lrs_case.exposure(V2_REF="west"))


def test_missing_and_incomplete_references_are_named(lrs_case):
    ds, refs = lrs_case.exposure(), lrs_case.references()
    with pytest.raises(ReferenceError, match="reference 'distortion' is missing"):
        assign_wcs(ds, specwcs=refs["specwcs"])
    with pytest.raises(ReferenceError, match="reference 'specwcs' is missing"):
        assign_wcs(ds, distortion=refs["distortion"])
    with pytest.raises(ReferenceError, match=r"\(specwcs.fits\) has no column 'y2'"):
        run(lrs_case, ds, columns=("y2",))
    with pytest.raises(ReferenceError, match="has no entry 'model'"):
        assign_wcs(ds, distortion=refs["filteroffset"], specwcs=refs["specwcs"])
    with pytest.raises(InputError, match=r"IMX is missing from specwcs.fits"):
        run(lrs_case, ds, IMX=None)


def test_without_slit_corners_there_is_no_footprint(lrs_case):
    assert "s_region" not in run(lrs_case, lrs_case.exposure(), V2VERT3=None).attrs


@pytest.mark.parametrize(
    ("exp_type", "why"), [("MIR_IMAGE", "not spectroscopic"), ("NRC_GRISM", "not supported")]
)
def test_other_exposure_types_are_refused(lrs_case, exp_type, why):
    with pytest.raises(InputError, match=f"{exp_type}' is {why}; spec2fn calibrates .*MIR_LRS"):
        run(lrs_case, lrs_case.exposure(exp_type))
