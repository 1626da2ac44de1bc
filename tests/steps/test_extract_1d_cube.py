"""extract_1d on cubes of an integral-field unit."""

import numpy as np
import pytest
import xarray as xr

from spec2fn import transforms
from spec2fn.cubes import Cubes
from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, ParameterError, ReferenceError
from spec2fn.io import open_product, save
from spec2fn.schema import RESIDUAL_FRINGES, Meta, status_of
from spec2fn.steps.extract_1d import extract_1d

N, NY, NX = 6, 31, 33
SCALE = 0.1  # arcsec
SOURCE = (17.0, 14.0)
SIGMA = np.linspace(1.2, 1.6, N)  # of the source [pixel]
FLUX = np.linspace(3e-4, 4e-4, N)  # Jy
BACKGROUND = 5.0  # MJy/sr
AREA = (SCALE / 3600 * np.pi / 180) ** 2  # sr
WAVELENGTH = np.linspace(5.0, 7.0, N)


def wcs(x, y, plane, with_bounding_box=True):
    """Square spaxels near the equator, with the source at right ascension 10, declination 0."""
    step = SCALE / 3600
    return 10.0 - (x - SOURCE[0]) * step, (y - SOURCE[1]) * step, 5.0 + 0.4 * plane


def header(**keywords):
    from astropy.io import fits

    made = fits.Header({"TARG_RA": 10.0, "TARG_DEC": 0.0, "PA_APER": 30.0})
    made.update(keywords)
    return made


def cube(integrations=None, background=BACKGROUND, exp_type="MIR_MRS", noise=0.0):
    y, x = np.indices((NY, NX))
    width = SIGMA[:, None, None]
    psf = np.exp(-0.5 * ((x - SOURCE[0]) ** 2 + (y - SOURCE[1]) ** 2) / width**2)
    psf /= 2 * np.pi * width**2
    sci = psf * FLUX[:, None, None] / (AREA * 1e6) + background
    sci += np.random.default_rng(2).normal(size=sci.shape) * noise
    wmap = np.full(sci.shape, 3.0)
    wmap[:, :3] = wmap[:, :, -2:] = 0
    sci = np.where(wmap > 0, sci, np.nan)
    dims = ("wave", "y", "x")
    if integrations:
        # one integration is the double of the one before
        factor = 2.0 ** np.arange(integrations)[:, None, None, None]
        sci, wmap = sci * factor, np.broadcast_to(wmap, (integrations, *wmap.shape))
        dims = ("integration", *dims)
    planes = {
        "sci": sci,
        "err": np.where(wmap > 0, 0.5 + 0.01 * np.abs(sci), np.nan),
        "wmap": wmap,
    }
    data = {k: (dims, v.astype(np.float32)) for k, v in planes.items()}
    data["sci"] = (*data["sci"], {"units": "MJy/sr"})
    numbers = {"pixar_sr": ((), np.float64(AREA)), "pixar_a2": ((), np.float64(SCALE**2))}
    return xr.Dataset(
        {
            **data,
            "dq": (dims, np.where(wmap > 0, 0, 1).astype(np.uint32)),
            "wavelength": (("wave",), WAVELENGTH),
            **numbers,
        },
        attrs={
            "exp_type": exp_type,
            "instrument": "MIRI" if exp_type == "MIR_MRS" else "NIRSPEC",
            "source_type": "POINT",
            "dispaxis": 2,
            "channel": "12",
            "band": "SHORT",
            "model": "IFUCubeModel",
            "meta": Meta(primary=header(), filename="jw1_s3d.fits", wcs=wcs),
        },
    )


def extract1d(method="exact", **changes):
    waves = np.array([[4.0, 6.0, 8.0]])
    data = {
        "wavelength": waves,
        "radius": 0.05 * waves + 0.1,
        "inner_bkg": 0.05 * waves + 0.6,
        "outer_bkg": 0.05 * waves + 0.9,
    } | changes
    meta = {"method": method, "subpixels": 8, "subtract_background": True}
    return xr.Dataset(attrs={"tree": {"data": data, "meta": meta}})


def apcorr():
    """The correction for a Gaussian as wide as the source, in steps of radius and wavelength."""
    waves = np.linspace(4.5, 7.5, 25)
    sigma = np.interp(waves, [4.0, 5.0, 7.0, 8.0], [1.0, 1.2, 1.6, 1.8]) * SCALE
    radius = np.linspace(0.1, 0.8, 60)[:, None] * np.ones(len(waves))
    table = {
        "wavelength": waves[None],
        "radius": radius,
        "radius_units": "arcsec",
        "apcorr": 1 / (1 - np.exp(-0.5 * radius**2 / sigma**2)),
    }
    return xr.Dataset(attrs={"tree": {"apcorr_table": table}})


REFS = (extract1d(), apcorr())


def flux(out):
    return out["flux"].values[..., 0, :]


def test_a_point_source_on_a_background_has_its_flux():
    out = extract_1d(cube(), *REFS)
    np.testing.assert_allclose(flux(out), FLUX, rtol=5e-3)
    np.testing.assert_allclose(out["background"].values[0], BACKGROUND, rtol=1e-3)
    assert out["flux"].dims == ("spectrum", "wave")
    assert status_of(out, "extract_1d") == "COMPLETE"
    assert (out["extr_x"].item(), out["extr_y"].item()) == SOURCE
    radius = (0.05 * WAVELENGTH + 0.1) / SCALE
    np.testing.assert_allclose(out["npixels"].values[0], np.pi * radius**2, rtol=1e-6)


def test_without_background_or_correction_more_or_less_light_is_left():
    plain = extract_1d(cube(), *REFS, subtract_background=False, apply_apcorr=False)
    radius = (0.05 * WAVELENGTH + 0.1) / SCALE
    inside = FLUX * (1 - np.exp(-0.5 * radius**2 / SIGMA**2))
    pedestal = BACKGROUND * AREA * 1e6 * np.pi * radius**2
    np.testing.assert_allclose(flux(plain), inside + pedestal, rtol=5e-3)
    assert not plain["background"].values.any()
    surface = plain["surf_bright"].values * plain["npixels"].values * AREA * 1e6
    np.testing.assert_allclose(surface, plain["flux"].values)


@pytest.mark.parametrize("method", ["subpixel", "center"])
def test_sampled_apertures_are_nearly_the_exact_ones(method):
    out = extract_1d(cube(), extract1d(method), apcorr())
    np.testing.assert_allclose(flux(out), FLUX, rtol={"subpixel": 0.02, "center": 0.15}[method])
    assert (flux(out) != flux(extract_1d(cube(), *REFS))).all()


def test_an_extended_source_is_the_whole_field():
    ds = cube().assign_attrs(source_type="EXTENDED")
    out = extract_1d(ds, *REFS)
    total = np.nansum(ds["sci"].values.astype(float), axis=(1, 2))
    np.testing.assert_allclose(flux(out), total * AREA * 1e6)
    np.testing.assert_array_equal(out["npixels"].values[0], (NY - 3) * (NX - 2))
    # the source itself is an outlier
    np.testing.assert_allclose(out["background"].values[0], BACKGROUND, rtol=0.1)
    set_by_user = extract_1d(cube(), *REFS, ifu_set_srctype="EXTENDED")
    np.testing.assert_array_equal(flux(set_by_user), flux(out))


def test_an_unknown_source_type_is_extended():
    out = extract_1d(cube().assign_attrs(source_type="UNKNOWN"), *REFS)
    assert out["srctype"].values.tolist() == ["EXTENDED"]


def test_integrations_are_extracted_alike():
    many, one = extract_1d(cube(3), *REFS), extract_1d(cube(), *REFS)
    assert many["flux"].dims == ("integration", "spectrum", "wave")
    for k in range(3):
        np.testing.assert_allclose(many["flux"].values[k], one["flux"].values * 2**k, rtol=1e-6)


def test_the_user_places_the_aperture():
    place = {"center_xy": (6.0, 25.0), "subtract_background": False}
    aside = extract_1d(cube(background=0.0), *REFS, **place)
    assert np.abs(flux(aside)).max() < 0.02 * FLUX[0]
    near = extract_1d(cube(), *REFS, center_xy=(17.4, 13.7))
    assert (flux(near) > 0.9 * FLUX).all()
    assert (flux(near) < FLUX).all()


def test_a_place_off_the_cube_is_refused():
    # its flux would be zero, and complete
    with pytest.raises(ParameterError, match=r"center_xy=\(-3\.0, 2\.0\) is off the cube of"):
        extract_1d(cube(), *REFS, center_xy=(-3.0, 2.0))


def test_the_source_is_found_although_the_coordinates_are_wrong():
    meta = cube().attrs["meta"].replace(primary=header(TARG_RA=10.0002, TARG_DEC=0.0001))
    ds = cube(noise=0.1).assign_attrs(meta=meta)
    assert np.abs(extract_1d(ds, *REFS)["extr_x"].item() - SOURCE[0]) > 3
    out = extract_1d(ds, *REFS, ifu_autocen=True)
    np.testing.assert_allclose((out["extr_x"].item(), out["extr_y"].item()), SOURCE, atol=0.05)
    np.testing.assert_allclose(flux(out), FLUX, rtol=0.02)


def test_a_target_that_is_not_in_the_field_is_taken_in_its_middle_with_a_warning():
    meta = cube().attrs["meta"].replace(primary=header(TARG_RA=12.0))
    out = extract_1d(cube().assign_attrs(meta=meta), *REFS)
    assert out["extr_x"].item() == NX / 2
    (warning,) = out.attrs["meta"].records["warnings"]
    assert "TARG_RA 12.0" in warning
    assert "center_xy" in warning


@pytest.mark.parametrize("keyword", ["TARG_RA", "TARG_DEC"])
def test_a_target_whose_place_is_not_known_is_not_extracted(keyword):
    told = header()
    del told[keyword]
    ds = cube().assign_attrs(meta=cube().attrs["meta"].replace(primary=told))
    with pytest.raises(InputError, match=f"center_xy or ifu_autocen.*{keyword} is missing"):
        extract_1d(ds, *REFS)
    assert extract_1d(ds, *REFS, center_xy=(3.0, 4.0))["extr_x"].item() == 3.0
    extended = extract_1d(ds.assign_attrs(source_type="EXTENDED"), *REFS)
    assert np.isfinite(extended["surf_bright"].values).all()


def test_radii_scale_with_the_point_spread_function():
    wide = extract_1d(cube(), *REFS, ifu_rscale=3.0)
    narrow = extract_1d(cube(), *REFS, ifu_rscale=1.0)
    np.testing.assert_allclose(wide["npixels"].values, 9 * narrow["npixels"].values, rtol=1e-9)
    np.testing.assert_allclose(flux(wide), FLUX, rtol=5e-3)
    np.testing.assert_allclose(flux(narrow), FLUX, rtol=5e-2)


def test_the_factor_for_covariance_scales_errors_only():
    one, two = (extract_1d(cube(), *REFS, ifu_covar_scale=s) for s in (1.0, 1.5))
    np.testing.assert_array_equal(flux(one), flux(two))
    for name in ("flux_error", "sb_error", "bkgd_error", "flux_error_cov"):
        np.testing.assert_allclose(two[name], one[name] * 1.5)


def test_exact_errors_are_those_of_independent_spaxels():
    # over whole spaxels, the official sum and the exact one agree
    everything = cube().assign_attrs(source_type="EXTENDED")
    out = extract_1d(everything, *REFS)
    np.testing.assert_allclose(out["flux_error_cov"], out["flux_error"])
    # a spaxel that is partly covered has less weight in the exact variance
    point = extract_1d(cube(), *REFS)
    assert (point["flux_error_cov"] < point["flux_error"]).all()
    assert (point["flux_error_cov"] > 0.7 * point["flux_error"]).all()


def with_covariances(ds, reach=1):
    """Voxels of which the covariances are twice their variance, with all so far away."""
    kernel = np.ones((2 * reach + 1, 2 * reach + 1))
    kernel[reach, reach] = 0
    kernel /= kernel.sum()
    return ds.assign(
        covariance_sum=2 * ds["err"] ** 2,
        covariance_kernel=(("wave", "lag_y", "lag_x"), np.tile(kernel, (N, 1, 1)).astype("f4")),
    )


def test_the_cube_knows_the_covariances_of_its_spaxels():
    ds = cube()
    out, bare = (
        extract_1d(d, *REFS, ifu_covar_scale=s) for d, s in ((with_covariances(ds), 1.7), (ds, 1.0))
    )
    ratio = (out["flux_error_cov"] / bare["flux_error_cov"]).values[0]
    # the whole plane would have 3; spaxels at the rim of an aperture lack neighbours
    assert (ratio**2 > 2).all()
    assert (ratio**2 < 3).all()
    assert not {"covariance_sum", "covariance_kernel"} & set(out.variables)
    everything = {"ifu_set_srctype": "EXTENDED"}
    out, bare = (extract_1d(d, *REFS, **everything) for d in (with_covariances(ds), ds))
    np.testing.assert_allclose(out["flux_error_cov"], np.sqrt(3) * bare["flux_error_cov"])


@pytest.mark.parametrize("kind", ["POINT", "EXTENDED"])
def test_errors_of_integrations_with_covariances_scale_with_those_of_spaxels(kind):
    ds = with_covariances(cube(2))
    out = extract_1d(ds, *REFS, ifu_set_srctype=kind)["flux_error_cov"].values
    again = ds.assign(err=3 * ds["err"], covariance_sum=9 * ds["covariance_sum"])
    more = extract_1d(again, *REFS, ifu_set_srctype=kind)["flux_error_cov"].values
    np.testing.assert_allclose(more, 3 * out, rtol=1e-6)
    alone = extract_1d(ds.isel(integration=1), *REFS, ifu_set_srctype=kind)
    np.testing.assert_allclose(out[1], alone["flux_error_cov"], rtol=1e-6)


def test_covariances_are_traced_with_finite_gradients():
    ds = with_covariances(cube(), 4)
    plan = extract_1d.plan(ds, *REFS)

    def error(ds):
        return extract_1d(ds, plan=plan)["flux_error_cov"].data.sum()

    value, grads = transforms.value_and_grad(error, ("err", "covariance_sum"))(ds)
    # NumPy looks at the part of a plane that matters, JAX at all of it
    assert float(value) == pytest.approx(float(error(ds)), rel=1e-9)
    for name, grad in grads.items():
        assert np.isfinite(grad).all()
        assert np.any(grad)
        step = np.where(np.isfinite(ds[name]), 1e-3 * np.nan_to_num(ds[name]), 0).astype("f4")
        ends = [float(error(ds.assign({name: ds[name] + s * step}))) for s in (1, -1)]
        assert (ends[0] - ends[1]) / 2 == pytest.approx(float((grad * step).sum()), rel=1e-2)


def test_a_bad_spaxel_has_no_part():
    ds = cube()
    sci = ds["sci"].values.copy()
    sci[2, 14, 18] = np.nan
    out, whole = extract_1d(ds.assign(sci=(ds["sci"].dims, sci, ds["sci"].attrs)), *REFS), None
    whole = extract_1d(ds, *REFS)
    assert np.isfinite(out["flux"]).all()
    assert out["npixels"].values[0, 2] == pytest.approx(whole["npixels"].values[0, 2] - 1)
    keep = np.arange(N) != 2
    np.testing.assert_array_equal(flux(out)[keep], flux(whole)[keep])


def test_outliers_in_the_annulus_are_clipped():
    ds = cube()
    sci = ds["sci"].values.copy()
    sci[:, 14, 27] = 1e5
    hit = ds.assign(sci=(ds["sci"].dims, sci, ds["sci"].attrs))
    np.testing.assert_allclose(flux(extract_1d(hit, *REFS)), FLUX, rtol=0.02)
    kept = extract_1d(hit, *REFS, bkg_sigma_clip=1e3)
    assert (flux(kept) < 0.5 * FLUX).all()


def test_a_plane_without_data_is_flagged():
    ds = cube()
    empty = np.zeros(N, bool)
    empty[1] = True
    lost = {n: ds[n].where(~xr.DataArray(empty, dims="wave")) for n in ("sci", "err")}
    wmap = ds["wmap"].where(~xr.DataArray(empty, dims="wave"), 0).astype(np.float32)
    out = extract_1d(ds.assign(**lost, wmap=wmap), *REFS)
    np.testing.assert_array_equal(out["dq"].values[0], np.where(empty, PIXEL["DO_NOT_USE"], 0))
    assert flux(out)[1] == 0


def test_an_annulus_without_area_subtracts_nothing_in_its_planes_only():
    waves = np.array([[4.0, 6.0, 8.0]])
    ref = extract1d(inner_bkg=np.array([[2.0, 0.9, 0.9]]), outer_bkg=np.array([[1.0, 1.2, 1.2]]))
    assert ref.attrs["tree"]["data"]["wavelength"].shape == waves.shape
    out = extract_1d(cube(), ref, apcorr())
    bare = out["background"].values[0] == 0
    assert bare[0]
    assert not bare[-1]
    np.testing.assert_allclose(flux(out)[~bare], FLUX[~bare], rtol=5e-3)


def test_columns_for_fringes_are_there_for_the_mrs_alone():
    mrs, nirspec = extract_1d(cube(), *REFS), extract_1d(cube(exp_type="NRS_IFU"), *REFS)
    assert all(np.isnan(mrs[n]).all() for n in RESIDUAL_FRINGES)
    assert not set(RESIDUAL_FRINGES) & set(nirspec.data_vars)
    assert (mrs.attrs["model"], nirspec.attrs["model"]) == ("MRSMultiSpecModel", "MultiSpecModel")


def test_each_of_several_cubes_has_a_spectrum():
    cubes = Cubes(("ch1-short", "ch2-short"), (cube(), cube(background=1.0)))
    out = extract_1d(cubes, *REFS)
    assert out.names == cubes.names
    for one in out:
        np.testing.assert_allclose(flux(one), FLUX, rtol=5e-3)


@pytest.mark.parametrize("exp_type", ["MIR_MRS", "NRS_IFU"])
def test_a_spectrum_comes_back_from_a_file(tmp_path, exp_type):
    from stdatamodels.jwst import datamodels

    out = extract_1d(cube(exp_type=exp_type), *REFS)
    save(out, tmp_path / "a_x1d.fits")
    back = open_product(tmp_path / "a_x1d.fits")
    for name in ("flux", "flux_error", "npixels", "background", "flux_error_cov"):
        np.testing.assert_array_equal(back[name].values, out[name].values)
    with datamodels.open(tmp_path / "a_x1d.fits") as model:
        spec = model.spec[0]
        assert type(model).__name__ == out.attrs["model"]
        assert spec.source_type == "POINT"
        assert (spec.extraction_x, spec.extraction_y) == SOURCE
        assert spec.name == exp_type
        np.testing.assert_array_equal(spec.spec_table["FLUX"], flux(out))


def test_spectra_of_integrations_come_back_from_a_file(tmp_path):
    out = extract_1d(cube(3), *REFS)
    save(out, tmp_path / "a_x1dints.fits")
    back = open_product(tmp_path / "a_x1dints.fits")
    np.testing.assert_array_equal(back["flux"].values, out["flux"].values)
    assert back["extr_x"].values == SOURCE[0]


def test_messages_say_what_is_missing():
    with pytest.raises(ReferenceError, match="extract1d"):
        extract_1d(cube(), None, None)
    with pytest.raises(ReferenceError, match="'data'"):
        extract_1d(cube(), xr.Dataset(attrs={"tree": {"apertures": []}}), None)
    with pytest.raises(ReferenceError, match="method 'median'"):
        extract_1d(cube(), extract1d("median"), None)
    with pytest.raises(DatasetError, match="pixar_sr"):
        extract_1d(cube().drop_vars("pixar_sr"), *REFS)
    with pytest.raises(DatasetError, match="wavelength"):
        extract_1d(cube().drop_vars("wavelength"), *REFS)


@pytest.mark.parametrize("integrations", [None, 2])
@pytest.mark.parametrize("source_type", ["POINT", "EXTENDED"])
def test_compiled_equals_eager(source_type, integrations):
    ds = cube(integrations, noise=0.3).assign_attrs(source_type=source_type)
    plan = extract_1d.plan(ds, *REFS)
    eager = extract_1d(ds, plan=plan)
    traced = transforms.jit(lambda d, p: extract_1d(d, plan=p))(ds, plan)
    for name in ("flux", "flux_error", "background", "npixels", "dq", "flux_error_cov"):
        np.testing.assert_allclose(traced[name], eager[name], rtol=1e-9, err_msg=name)


def test_gradients_agree_with_finite_differences():
    ds = cube(noise=0.3)
    plan = extract_1d.plan(ds, *REFS, center_xy=(17.23, 13.81))

    def total(d, p):
        return (extract_1d(d, plan=p)["flux"].data * np.arange(1.0, N + 1)).sum()

    wrt = {0: ("sci",), 1: ("centre", "radius")}
    _, slopes = transforms.jit(transforms.value_and_grad(total, wrt))(ds, plan)
    by_pixel, by_plan = slopes[0], slopes[1]
    assert np.isfinite(by_pixel["sci"]).all()
    rng = np.random.default_rng(0)
    direction = (
        rng.normal(size=ds["sci"].shape).astype(np.float32)
        * np.float32(0.01)
        * (ds["wmap"].values > 0)
    )

    def moved(step):
        sci = (ds["sci"].values + step * direction).astype(np.float32)
        return total(ds.assign(sci=(ds["sci"].dims, sci, ds["sci"].attrs)), plan)

    slope = float((np.asarray(by_pixel["sci"], float) * direction).sum())
    assert slope == pytest.approx((moved(0.25) - moved(-0.25)) / 0.5, rel=1e-3)
    import dataclasses

    for name in ("centre", "radius"):
        value = getattr(plan, name)
        for i in range(2):
            ends = []
            for sign in (1, -1):
                other = value.copy()
                other[i] += sign * 1e-5
                ends.append(total(ds, dataclasses.replace(plan, **{name: other})))
            found = float(by_plan[name][i])
            assert found == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4), name
