"""Products as input: refused by the names of their steps, or gone on with on purpose."""

import numpy as np
import pytest

from spec2fn import calibrate, open_product, save
from spec2fn.errors import InputError
from tests.robustness.conftest import difference, parts

FAST = (
    *("miri-lrs-slit", "miri-lrs-slitless", "nircam-tsgrism", "niriss-soss"),
    *("nirspec-fs", "nirspec-bots", "nirspec-mos", "nirspec-lamp"),
)
MODES = (*FAST, *(pytest.param(m, marks=pytest.mark.slow) for m in ("miri-mrs", "nirspec-ifu")))
# of the largest value: planes of wavelengths, rounded to float32 in a file, move the output grid
# by up to 5e-4 pixels
RTOL = 1e-4
# the last step before the calibrated product, where it is not photom
# overlapping orders have no flux before they are spectra
LAST = {"nirspec-lamp": "flat_field", "niriss-soss": "flat_field"}


def alone(name):
    """An association with one science member, and a product that is named after it."""
    members = [{"expname": name, "exptype": "science"}]
    return {"asn_type": "spec2", "products": [{"name": "jw_again", "members": members}]}


def written(products, kind, folder):
    """The file of a product (of one of several cubes), and its name in :func:`parts`."""
    name, ds = next(iter(parts(products[kind]).items()))
    single = ds if hasattr(products[kind], "cubes") else products[kind]
    return save(single, folder / f"jw_one_{kind}.fits"), name


def assert_close(ours, usual):
    assert sorted(ours) == sorted(usual)
    for name, ds in ours.items():
        other = usual[name]
        assert sorted(ds.data_vars) == sorted(other.data_vars)
        for variable in ds.data_vars:
            a, b = ds[variable].values, other[variable].values
            if variable == "common_error":  # of slits without, 0 or nothing
                a, b = np.nan_to_num(a), np.nan_to_num(b)
            if a.dtype.kind == "f":
                np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=variable)
                largest = np.nanmax(np.abs(b), initial=0.0)
                assert np.nanmax(np.abs(a - b), initial=0.0) <= RTOL * largest, variable
            elif variable != "s_region":  # text of rounded numbers
                np.testing.assert_array_equal(a, b, err_msg=variable)


def reopened(product, path):
    """A product as it is after a round trip through a file."""
    if hasattr(product, "cubes"):
        return product.map(lambda cube: open_product(save(cube, path)))
    return open_product(save(product, path))


@pytest.mark.parametrize("mode", MODES)
def test_going_on_gives_what_the_whole_run_gives(case, mode, tmp_path):
    one = case(mode)
    products = one.usual.products
    path, _ = written(products, "cal", tmp_path)
    again = one.run(tmp_path, association=alone(path.name), start="pixel_replace")
    assert again.error is None
    assert sorted(again.products) == sorted(set(products) - {"cal"})
    for kind, product in again.products.items():
        ours = parts(reopened(product, tmp_path / "a.fits"))
        assert_close(ours, parts(reopened(products[kind], tmp_path / "b.fits")))
    assert again.report["start"] == "pixel_replace"
    last = LAST.get(mode, "photom")
    assert last not in again.statuses
    said = {s["step"].rpartition("/")[2] for s in again.report["earlier"]["steps"]}
    assert last in said


@pytest.mark.parametrize("mode", MODES)
def test_spectra_of_a_resampled_image_or_a_cube(case, mode, tmp_path):
    one = case(mode)
    products = one.usual.products
    kind = next((k for k in ("s2d", "s3d") if k in products), None)
    if kind is None:
        assert set(products) == {"cal", "x1d"}
        return
    path, name = written(products, kind, tmp_path)
    params = {"cube_build": {}} if kind == "s3d" else None
    again = calibrated(one, path, params, start="extract_1d")
    ours = parts(reopened(again["x1d"], tmp_path / "a.fits"))
    usual = parts(reopened(products["x1d"], tmp_path / "b.fits"))
    if kind == "s3d":
        usual = {"": usual[name]}
    assert_close(ours, usual)


def calibrated(one, source, params=None, **options):
    from spec2fn.demo import run as demo
    from spec2fn.refs import use_cache

    with use_cache(one.cache, demo.CONTEXT):
        return calibrate(source, params=params, **options).products


@pytest.mark.parametrize("mode", MODES)
def test_products_are_refused_by_what_they_are(case, mode, tmp_path):
    one = case(mode)
    products = one.usual.products
    last = LAST.get(mode, "photom")
    says = {"cal": f"has been through .*{last} already", "s2d": r"is a resampled image \(_s2d\)",
            "s3d": r"is a cube \(_s3d\)", "x1d": r"extracted spectra \(_x1d\)"}  # fmt: skip
    for kind in products:
        path, _ = written(products, kind, tmp_path)
        for source in (path, alone(path.name)):
            outcome = one.run(tmp_path, association=source) if isinstance(source, dict) else None
            if outcome is None:
                with pytest.raises(InputError, match=says[kind]) as raised:
                    calibrated(one, source)
                error = raised.value
            else:
                error = outcome.error
            assert isinstance(error, InputError)
            assert path.name in str(error)
            assert "_rate" in str(error)
            assert "\n" not in str(error)
        # in memory, and as the file gives it
        for ds in (products[kind], open_product(path)):
            with pytest.raises(InputError, match=f"has been through .*{last}"):
                calibrated(one, ds)


def test_steps_that_change_no_pixel_are_done_again(case, tmp_path):
    one = case("miri-lrs-slitless")
    folder = one.copy(tmp_path / "in")
    ds = open_product(folder / one.science)
    for keyword in ("assign_wcs", "srctype"):
        ds = ds.assign_attrs({f"status_{keyword}": "COMPLETE"})
    save(ds.assign_attrs(model="CubeModel"), folder / one.science)
    outcome = one.run(folder)
    assert outcome.error is None
    assert difference(outcome.products, one.usual.products) is None
    (line,) = outcome.report["warnings"]
    assert "assign_wcs, srctype had been done before; done again here" in line


def test_a_background_is_not_calibrated_before_it_is_subtracted(case, tmp_path):
    one = case("miri-lrs-slit")
    folder = one.copy(tmp_path / "in")
    save(one.usual.products["cal"], folder / one.members["background"][0])
    error = one.run(folder).error
    assert isinstance(error, InputError)
    assert f"{one.members['background'][0]}: has been through" in str(error)


def test_what_lies_before_the_start_must_have_been_done(case):
    one = case("miri-lrs-slitless")
    error = one.run(start="photom").error
    assert isinstance(error, InputError)
    assert "nothing says that it has been through background, flat_field, before photom" in str(
        error
    )
    error = one.run(start="extract_1d", params={"photom": {"inverse": True}}).error
    assert "photom.inverse is set, but photom comes before extract_1d" in str(error)
    error = one.run(start="cube_build").error
    assert isinstance(error, InputError)
    assert "no step 'cube_build' in this pipeline" in str(error)


def test_only_some_branches_have_the_step(case):
    error = case("nirspec-mos").run(start="barshadow").error
    assert isinstance(error, InputError)
    assert "barshadow is no step of the branch fs" in str(error)
