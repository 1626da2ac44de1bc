"""Flat field, path loss and flux calibration of the NIRSpec IFU, against plain arithmetic."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, ReferenceError
from spec2fn.io import open_product, save
from spec2fn.plans.flux.nirspec_flat import pixel_widths
from spec2fn.schema import meta_of, status_of, with_meta
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.msaflagopen import msaflagopen
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.photom import photom
from spec2fn.steps.pixel_replace import pixel_replace
from spec2fn.testing import exposures, nirspec_modes

DNU = PIXEL["DO_NOT_USE"]
PLANES = ("sci", "err", "var_poisson", "var_rnoise")
A2_TO_SR = (np.pi / 180 / 3600) ** 2
GAUSS = ((-np.sqrt(0.15), 5 / 18), (0.0, 8 / 18), (np.sqrt(0.15), 5 / 18))


@pytest.fixture(scope="module")
def assigned():
    given = exposures.step_input("flat_field", "NRS_IFU")
    return given.dataset


@pytest.fixture(scope="module")
def refs():
    return nirspec_modes.references("NRS_IFU")


def parts(refs):
    return {k: refs[k] for k in ("fflat", "sflat", "dflat")}


def some_pixels(ds, n=60, seed=3):
    y, x = np.nonzero(ds["slice_id"].values)
    k = np.random.default_rng(seed).choice(y.size, n, replace=False)
    return y[k], x[k]


def table(ref, column):
    return ref[f"fast_variation.{column}"].values[0].astype(float)


def averaged(ref, wave, width):
    points = [
        np.interp(wave + t * width, table(ref, "wavelength"), table(ref, "data")) for t, _ in GAUSS
    ]
    return sum(w * p for (_, w), p in zip(GAUSS, points, strict=True))


def test_flat_is_the_product_of_its_parts(assigned, refs):
    out = flat_field(assigned, **parts(refs), save_interpolated_flat=True)
    saved = meta_of(out).records["interpolatedflat"]
    wave = assigned["wavelength"].values
    row0, column0 = assigned.attrs["ystart"] - 1, assigned.attrs["xstart"] - 1
    compared = 0
    for y, x in zip(*some_pixels(assigned), strict=True):
        if x + 1 >= wave.shape[1] or np.isnan(wave[y, x + 1]):
            continue
        pixel = (y + row0, x + column0)
        w, width = wave[y, x], wave[y, x + 1] - wave[y, x]
        cube = refs["dflat"]["sci"].values[:, *pixel].astype(float)
        knots = refs["dflat"]["wavelength.wavelength"].values.astype(float)
        image = refs["sflat"]["sci"].values[pixel]
        images = (np.interp(w, knots, cube), image)
        errors = (
            np.interp(w, knots, refs["dflat"]["err"].values[:, *pixel].astype(float)),
            refs["sflat"]["err"].values[pixel],
        )
        tables = [averaged(refs[k], w, width) for k in ("fflat", "sflat", "dflat")]
        expected = np.prod([*images, *tables])
        ratios = [e / i for e, i in zip(errors, images, strict=True)]
        ratios += [
            np.interp(w, table(refs[k], "wavelength"), table(refs[k], "error")) / t
            for k, t in zip(("fflat", "sflat", "dflat"), tables, strict=True)
        ]
        flags = refs["sflat"]["dq"].values[pixel] | refs["dflat"]["dq"].values[pixel]
        if flags & DNU:
            assert np.isnan(out["sci"].values[y, x])
            assert out["dq"].values[y, x] & DNU
            continue
        compared += 1
        assert saved["sci"].values[y, x] == pytest.approx(expected, rel=2e-6)
        relative = np.sqrt(np.square(ratios).sum())
        assert saved["err"].values[y, x] == pytest.approx(expected * relative, rel=1e-5)
        value = assigned["sci"].values[y, x] / expected
        assert out["sci"].values[y, x] == pytest.approx(value, rel=2e-6)
        assert out["var_flat"].values[y, x] == pytest.approx((value * relative) ** 2, rel=1e-5)
        total = sum(out[n].values[y, x] for n in ("var_poisson", "var_rnoise", "var_flat"))
        assert out["err"].values[y, x] == pytest.approx(np.sqrt(total), rel=1e-6)
    assert compared > 40


def test_no_flat_outside_the_slices(assigned, refs):
    out = flat_field(assigned, **parts(refs))
    dark = assigned["slice_id"].values == 0
    for name in (*PLANES, "var_flat"):
        assert np.isnan(out[name].values[dark]).all()
    added = out["dq"].values[dark] & ~assigned["dq"].values[dark]
    assert set(np.unique(added | DNU)) == {DNU}
    assert (out["dq"].values[dark] & DNU).all()


def test_flat_undone_is_the_exposure(assigned, refs):
    there = flat_field(assigned, **parts(refs))
    back = flat_field(there, **parts(refs), inverse=True)
    good = np.isfinite(there["sci"].values)
    assert good.sum() > 1000
    for name in ("sci", "var_poisson", "var_rnoise"):
        a, b = back[name].values[good], assigned[name].values[good]
        np.testing.assert_allclose(a, b, rtol=2e-6)
    assert not back["var_flat"].values[good].any()


def test_a_saved_flat_can_be_supplied(assigned, refs):
    first = flat_field(assigned, **parts(refs), save_interpolated_flat=True)
    saved = meta_of(first).records["interpolatedflat"]
    again = flat_field(assigned, user_supplied_flat=saved)
    for name in (*PLANES, "var_flat"):
        np.testing.assert_allclose(again[name].values, first[name].values, rtol=1e-6)
    assert np.array_equal(again["dq"].values & DNU, first["dq"].values & DNU)


def test_parts_may_be_missing_but_not_all(assigned, refs):
    whole = flat_field(assigned, **parts(refs), save_interpolated_flat=True)
    pieces = [
        meta_of(flat_field(assigned, **{k: refs[k]}, save_interpolated_flat=True)).records
        for k in ("fflat", "sflat", "dflat")
    ]
    product = np.prod([p["interpolatedflat"]["sci"].values.astype(float) for p in pieces], axis=0)
    flat = meta_of(whole).records["interpolatedflat"]["sci"].values
    good = np.isfinite(whole["sci"].values)
    np.testing.assert_allclose(flat[good], product[good], rtol=1e-6)
    none = flat_field(assigned)
    assert status_of(none, "flat_field").startswith("SKIPPED: no fflat")


def test_wavelengths_that_a_table_lacks(assigned, refs):
    short = refs["fflat"].copy(deep=True)
    middle = float(np.nanmedian(assigned["wavelength"].values))
    waves = short["fast_variation.wavelength"].values
    short["fast_variation.nelem"] = (
        "fast_variation_row",
        np.full(len(waves), np.searchsorted(waves[0], middle), np.int32),
    )
    longest = waves[0][int(short["fast_variation.nelem"].values[0]) - 1]
    out = flat_field(assigned, **{**parts(refs), "fflat": short})
    wave = assigned["wavelength"].values
    beyond = wave > longest + 0.05
    assert beyond.any()
    assert np.isnan(out["sci"].values[beyond]).all()
    assert (out["dq"].values[beyond] & PIXEL["NO_FLAT_FIELD"]).all()
    held = flat_field(assigned, **{**parts(refs), "fflat": short}, extrapolate=True)
    usable = beyond & np.isfinite(flat_field(assigned, **parts(refs))["sci"].values)
    assert np.isfinite(held["sci"].values[usable]).all()
    assert (held["dq"].values[usable] & PIXEL["UNRELIABLE_FLAT"]).all()


def test_every_integration_gets_the_same_flat(assigned, refs):
    stacked = xr.concat(
        [assigned, assigned * 1], "integration", data_vars=[*PLANES, "dq"], combine_attrs="override"
    )
    stacked = stacked.transpose("integration", ...)
    stacked["dq"] = stacked["dq"].astype(np.uint32)
    out = flat_field(stacked, **parts(refs))
    one = flat_field(assigned, **parts(refs))
    for name in (*PLANES, "var_flat"):
        assert out[name].shape == (2, *one[name].shape)
        np.testing.assert_array_equal(out[name].values[1], one[name].values)


def test_pixel_widths_stay_in_their_slice():
    nan = np.nan
    wave = np.array(
        [
            [1.0, 1.1, 1.3, nan, nan],
            [1.2, 1.4, nan, nan, nan],
            [nan, nan, 5.0, 5.5, 6.5],
            [nan, 7.0, 7.5, 8.0, nan],
        ]
    )
    number = np.array([[1] * 5, [1] * 5, [2] * 5, [2] * 5]) * np.isfinite(wave)
    found = pixel_widths(wave, number)
    expected = np.array(
        [
            # where a row ends before the slice does, the mean of the next column of the slice
            [0.1, 0.2, 0.2, 0, 0],
            [0.2, 1.3 - 1.4, 0, 0, 0],
            [0, 0, 0.5, 1.0, 1.0],
            [0, 0.5, 0.5, 6.5 - 8.0, 0],
        ]
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert not pixel_widths(wave[:, :1], number[:, :1]).any()


@pytest.mark.parametrize("kind", ["POINT", "EXTENDED"])
def test_pathloss_of_the_middle_of_the_aperture(assigned, refs, kind):
    ds = assigned.assign_attrs(source_type=kind)
    out = pathloss(ds, refs["pathloss"])
    waves = 0.5 + 0.1 * np.arange(52)
    cube, uniform = refs["pathloss"]["ps"].values, refs["pathloss"]["uni"].values
    middle = cube[:, cube.shape[1] // 2, cube.shape[2] // 2]
    wave = ds["wavelength"].values.astype(np.float32)
    lit = ds["slice_id"].values > 0
    inside = lit & (wave > 0.5) & (wave <= 5.6)
    for name, vector in (("pathloss_ps", middle), ("pathloss_un", uniform)):
        expected = np.interp(wave[inside], waves, vector)
        np.testing.assert_allclose(out[name].values[inside], expected, rtol=1e-6)
        assert np.isnan(out[name].values[~inside]).all()
    applied = out["pathloss_ps" if kind == "POINT" else "pathloss_un"].values
    good = inside & np.isfinite(ds["sci"].values)
    for name, power in (("sci", 1), ("err", 1), ("var_poisson", 2)):
        expected = ds[name].values[good] / applied[good] ** power
        np.testing.assert_allclose(out[name].values[good], expected, rtol=2e-6)
    assert (out["dq"].values[~inside] & DNU).all()
    assert "pathloss_correction_type" not in out
    back = pathloss(out, refs["pathloss"], inverse=True)
    np.testing.assert_allclose(back["sci"].values[good], ds["sci"].values[good], rtol=2e-6)
    other = pathloss(ds, refs["pathloss"], source_type="POINT")
    same = np.array_equal(other["sci"].values, out["sci"].values, equal_nan=True)
    assert same == (kind == "POINT")


def test_photom_by_slice(assigned, refs):
    out = photom(assigned, refs["photom"], refs["area"])
    assert out["sci"].attrs["units"] == "MJy/sr"
    row = refs["photom"]
    waves, response = (
        row[f"photom.{n}"].values[0].astype(float) for n in ("wavelength", "relresponse")
    )
    photmj = float(row["photom.photmj"].values[0])
    number = assigned["slice_id"].values
    lit = number > 0
    area = refs["area"]["area.pixarea"].values[number[lit] - 1].astype(float)
    wave = assigned["wavelength"].values[lit]
    # beyond the table its ends are used
    factor = photmj * np.interp(wave, waves, response) / (area * A2_TO_SR)
    good = np.isfinite(assigned["sci"].values[lit])
    assert len(np.unique(area)) > 1
    np.testing.assert_allclose(
        out["sci"].values[lit][good], (assigned["sci"].values[lit] * factor)[good], rtol=3e-6
    )
    np.testing.assert_allclose(
        out["var_rnoise"].values[lit][good],
        (assigned["var_rnoise"].values[lit] * factor**2)[good],
        rtol=6e-6,
    )
    assert np.isnan(out["sci"].values[~lit]).all()
    assert (out["dq"].values[~lit] & PIXEL["NON_SCIENCE"]).all()
    assert not (out["dq"].values[lit] & PIXEL["NON_SCIENCE"]).any()
    mean = refs["area"]["area.pixarea"].values.astype(float).mean()
    assert float(out["pixar_a2"]) == pytest.approx(mean, rel=1e-6)
    assert float(out["pixar_sr"]) == pytest.approx(mean * A2_TO_SR, rel=1e-6)
    assert float(out["photmjsr"]) == pytest.approx(photmj / (mean * A2_TO_SR), rel=1e-6)
    back = photom(out, refs["photom"], refs["area"], inverse=True)
    assert back["sci"].attrs["units"] == "DN/s"
    np.testing.assert_allclose(
        back["sci"].values[lit][good], assigned["sci"].values[lit][good], rtol=2e-6
    )


def test_photom_does_not_ask_for_the_source_type(assigned, refs):
    one, two = (
        photom(assigned, refs["photom"], refs["area"], source_type=kind)
        for kind in ("POINT", "EXTENDED")
    )
    assert one["sci"].identical(two["sci"])


def test_photom_without_what_it_needs(assigned, refs):
    with pytest.raises(ReferenceError, match="'area' is missing"):
        photom(assigned, refs["photom"])
    few = refs["area"].isel(area_row=slice(1, 2))
    with pytest.raises(ReferenceError, match="no row for slice 0"):
        photom(assigned, refs["photom"], few)
    with pytest.raises(ReferenceError, match=r"'area' .* has no 'area\.pixarea'"):
        photom(assigned, refs["photom"], refs["area"].drop_vars("area.pixarea"))
    other = photom(assigned.assign_attrs(grating="G140M"), refs["photom"], refs["area"])
    assert status_of(other, "photom").startswith("SKIPPED: the photom reference has no row")
    for step, args in (
        (photom, (refs["photom"], refs["area"])),
        (flat_field, (None, refs["fflat"])),
    ):
        with pytest.raises(DatasetError, match="slice_id"):
            step(assigned.drop_vars(["slice_id"]), *args)


def test_flat_needs_a_table(assigned, refs):
    empty = refs["dflat"].copy(deep=True)
    empty["fast_variation.nelem"] = ("fast_variation_row", np.array([1], np.int32))
    with pytest.raises(ReferenceError, match="'dflat' has fewer than two usable rows"):
        flat_field(assigned, dflat=empty)


def test_shutters_with_the_optics_of_the_slices(refs):
    given = exposures.step_input("msaflagopen", "NRS_IFU")
    ds, operability = given.dataset, given.references["msaoper"]
    ours = msaflagopen(ds, operability, msa=refs["msa"])
    # without what assign_wcs has left
    records = {k: v for k, v in meta_of(ds).records.items() if k != "slices"}
    optics = {k: refs[k] for k in msaflagopen.refs if k != "msaoper"}
    theirs = msaflagopen(with_meta(ds, records=records), operability, **optics)
    np.testing.assert_array_equal(ours["dq"], theirs["dq"])
    with pytest.raises(ReferenceError, match="'msa' is missing"):
        msaflagopen(ds, operability)


def test_cubes_and_spectra_from_a_file(tmp_path):
    to_cube = exposures.step_input("cube_build", "NRS_IFU")
    to_spectrum = exposures.step_input("extract_1d", "NRS_IFU")
    ds = to_cube.dataset
    cubes = [to_cube(ds), to_cube(open_product(save(ds, tmp_path / "jw_nrs1_cal.fits")))]
    for name in ("sci", "err", "dq", "wmap", "wavelength"):
        first, second = (cube[name].values for cube in cubes)
        np.testing.assert_allclose(second, first, rtol=1e-5)
    assert np.isfinite(cubes[0]["sci"]).any()
    spectra = [to_spectrum(cube) for cube in cubes]
    for name in ("flux", "flux_error", "surf_bright"):
        np.testing.assert_allclose(spectra[1][name], spectra[0][name], rtol=1e-5)
    assert (spectra[0]["flux"] > 0).any()


def test_slices_of_a_file_are_those_of_its_gwcs(tmp_path):
    ds = exposures.step_input("pixel_replace", "NRS_IFU").dataset
    again = open_product(save(ds, tmp_path / "jw_nrs1_cal.fits")).drop_vars("regions")
    first, second = (pixel_replace(d, algorithm="fit_profile") for d in (ds, again))
    assert not first["sci"].identical(ds["sci"])
    np.testing.assert_array_equal(second["sci"], first["sci"])
    np.testing.assert_array_equal(second["dq"], first["dq"])
