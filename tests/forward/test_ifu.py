"""Integral-field units: the operator, and the flux of a star in the cube."""

import functools
from dataclasses import replace

import numpy as np
import pytest

from spec2fn.cubes import Cubes
from spec2fn.engine.run import run
from spec2fn.forward import scenes
from spec2fn.forward.exposures import to_dataset
from spec2fn.forward.ifu_references import CubeImage
from spec2fn.forward.lrs.references import true_flat
from spec2fn.forward.mrs import instrument as mrs
from spec2fn.forward.nirspec.references import with_true_flat
from spec2fn.forward.renderers import render, write_references
from spec2fn.pipelines import for_exposure

MODES = ("MIR_MRS", "NRS_IFU")


@functools.cache
def made(exp_type):
    return render(exp_type, 1)


@pytest.fixture(scope="module", params=MODES)
def rendered(request):
    return made(request.param)


@pytest.fixture(scope="module")
def calibrated(rendered):
    """The exposure without noise and bad pixels, calibrated with the flat that the detector has."""
    setup, rate = rendered.setups["science"], rendered.rates["science"]
    small = np.full(rate.shape, 1e-3, np.float32)
    planes = {"sci": rate.astype(np.float32), "err": small, "dq": np.zeros(rate.shape, np.uint32)}
    planes |= {"var_poisson": small**2, "var_rnoise": small**2}
    ds = to_dataset(setup, planes)
    refs = dict(rendered.references)
    if setup.exp_type == mrs.EXP_TYPE:
        flat = refs["flat"]
        image = true_flat(mrs.EXP_TYPE, 1).astype(np.float32)
        refs["flat"] = flat.assign(sci=(flat["sci"].dims, image), dq=0 * flat["dq"])
    else:
        refs = with_true_flat(refs, 1)
    # clipped values of the background stay in its area
    params = {"extract_1d": {"bkg_sigma_clip": 50.0}}
    return run(for_exposure(ds)[1], ds, refs, params=params).products


def each(product):
    return list(product) if isinstance(product, Cubes) else [product]


def test_extracted_flux_is_the_injected(rendered, calibrated):
    for spectrum in each(calibrated["x1d"]):
        one = spectrum.isel(spectrum=0)
        wave, flux = one["wavelength"].values, one["flux"].values
        inner = slice(8, -8)  # the ends of a band are not seen by all slices
        ratio = (flux / rendered.truth.at(wave))[inner]
        assert abs(np.median(ratio) - 1) < 0.002
        # where a line or break bends, a pixel averages over more than its middle
        assert (np.abs(ratio - 1) < 0.005).mean() > 0.9


def test_the_cube_holds_the_injected_flux(rendered, calibrated):
    exp_type = rendered.setups["science"].exp_type
    for cube in each(calibrated["s3d"]):
        wave, planes = cube["wavelength"].values, cube["sci"].values.astype(np.float64)
        # uniform light may be corrected with the transmission of a point source
        level = np.nanmedian(planes, axis=(1, 2), keepdims=True)
        if exp_type == "MIR_MRS":
            expected = mrs.background(wave)
            np.testing.assert_allclose(level[10:-10, 0, 0], expected[10:-10], rtol=5e-3)
        ny, nx = planes.shape[1:]
        y, x = np.indices((ny, nx))
        py, px = np.unravel_index(np.nanargmax(np.nansum(planes, axis=0)), (ny, nx))
        near = np.hypot(y - py, x - px) * np.sqrt(float(cube["pixar_a2"])) < 0.95
        total = np.nansum((planes - level)[:, near], axis=1) * float(cube["pixar_sr"]) * 1e6
        ratio = (total / rendered.truth.at(wave))[10:-10]
        assert abs(np.median(ratio) - 1) < 0.005


def test_adjoint(rendered):
    op = rendered.operators["science"]
    rng = np.random.default_rng(2)
    grid = op.parts[0].grid
    spectra = [rng.normal(size=grid.size), 1e-6 * rng.normal(size=grid.size)]
    image = rng.normal(size=rendered.rates["science"].shape)
    forward = np.vdot(op(spectra), image)
    back = sum(np.vdot(s, b) for s, b in zip(spectra, op.T(image), strict=True))
    np.testing.assert_allclose(forward, back, rtol=1e-9)


def test_operator_is_linear_and_moves_the_star(rendered):
    _, point = rendered.operators["science"].parts
    flux = rendered.truth.flux
    np.testing.assert_allclose(point(3 * flux), 3 * point(flux), rtol=1e-12)
    still, moved = point(flux), point(flux, (0.3, 0.0))
    middle = (point.lower + point.upper) / 2
    share = still / np.where(point.gain > 0, point.gain, 1)
    share_moved = moved / np.where(point.gain > 0, point.gain, 1)
    lit = point.gain > 0
    shift = np.average(middle[lit], weights=share_moved[lit]) - np.average(
        middle[lit], weights=share[lit]
    )
    assert abs(shift - 0.3) < 0.01


def test_no_light_is_lost_between_pixels(rendered):
    # all the light of a star that does not vary with wavelength, by column or row of the slices
    _, point = rendered.operators["science"].parts
    image = point.weights() / np.where(point.gain > 0, point.gain * point.flat, 1)
    if rendered.setups["science"].exp_type == "MIR_MRS":
        rows = image[100:-100, :500].sum(1)  # channel 1
        # lines of equal wavelength run along the rows of a slice only nearly
        np.testing.assert_allclose(rows, 1.0, atol=0.01)
    else:
        columns = image.sum(0)
        np.testing.assert_allclose(np.median(columns), 1.0, atol=0.02)


def test_stray_light_is_what_the_step_subtracts():
    from spec2fn.steps.straylight import straylight

    exposure = made(mrs.EXP_TYPE)
    op = exposure.operators["science"]
    spectra = (mrs.background(scenes.MID_GRID), exposure.truth.flux)
    clear, rate = replace(op, stray=None)(spectra), exposure.rates["science"]
    one = np.ones(rate.shape, np.float32)
    planes = dict.fromkeys(("err", "var_poisson", "var_rnoise"), one)
    ds = to_dataset(
        exposure.setups["science"],
        {"sci": rate.astype(np.float32), **planes, "dq": np.zeros(rate.shape, np.uint32)},
    )
    cleaned = straylight(ds, exposure.references["mrsxartcorr"])["sci"].values
    lit = clear > 0
    added, left = np.abs(rate - clear)[lit].mean(), np.abs(cleaned - clear)[lit].mean()
    assert added > 1e-3
    assert left < 0.1 * added


def test_image_in_the_cube():
    image = CubeImage(0.18, 0.177, 0.13)
    radii = np.array([0.2, 0.5, 1.0])
    # star, pixel and slice, spaxels: drawn at random
    rng = np.random.default_rng(0)
    n = 400_000
    x, y = 0.12 * rng.standard_normal((2, n))
    spaxels = 3 * [0.13]
    x += sum(size * (rng.random(n) - 0.5) for size in (0.18, 0.18, *spaxels))
    y += sum(size * (rng.random(n) - 0.5) for size in (0.177, 0.177, *spaxels))
    expected = [(np.hypot(x, y) < r).mean() for r in radii]
    np.testing.assert_allclose(image.enclosed(0.12, radii), expected, atol=2e-3)
    width = np.sqrt((x.var() + y.var()) / 2)
    np.testing.assert_allclose(image.sigma(np.array(0.12)), width, rtol=3e-3)


def test_mrs_geometry_is_exact_both_ways():
    trees = mrs.optics_trees()
    distortion, specwcs = trees["distortion"], trees["specwcs"]
    row, column = np.array([10.0, 700.0]), np.array([30.0, 40.0])
    for k in range(len(distortion["slices"])):
        alpha = distortion["alpha_model"][k](row, column)
        wave = specwcs["model"][k](row, column)
        np.testing.assert_allclose(distortion["x_model"][k](wave, alpha), column, atol=1e-8)
        np.testing.assert_allclose(distortion["y_model"][k](wave, alpha), row, atol=1e-8)
    planes = mrs.regions()
    assert set(np.unique(planes[7])) == {0, *distortion["slices"]}
    assert (planes[0] > 0).sum() > (planes[8] > 0).sum()
    assert not planes[:, :, 503:516].any()  # the dark columns between the channels


def test_exposures_can_be_repeated(rendered):
    first, second = rendered.science, rendered.exposure("science")
    np.testing.assert_array_equal(first["sci"].values, second["sci"].values)
    assert first.attrs["exp_type"] in MODES
    assert not np.array_equal(first["sci"].values, rendered.rates["science"].astype(np.float32))


@pytest.mark.parametrize("exp_type", MODES)
def test_references_are_what_their_schemas_say(exp_type, tmp_path):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    from astropy.io import fits

    files = write_references(tmp_path, exp_type)
    special = {"ifufore": "IFUFOREModel", "ifupost": "IFUPostModel", "ifuslicer": "IFUSlicerModel"}
    special |= {"fore": "FOREModel", "fpa": "FPAModel", "msa": "MSAModel", "ote": "OTEModel"}
    special |= {"chromcorr": "ChromCorrModel", "extract1d": "Extract1dIFUModel"}
    apcorr = "MirMrsApcorrModel" if exp_type == "MIR_MRS" else "NrsIfuApcorrModel"
    special |= {"distortion": "DistortionMRSModel", "apcorr": apcorr}
    for file in files:
        if file.path.suffix == ".json":
            continue
        name = special.get(file.reftype, f"{file.reftype.capitalize()}Model")
        if file.path.suffix == ".fits":
            name = fits.getval(file.path, "DATAMODL")
        with getattr(datamodels, name)(file.path, strict_validation=True) as model:
            model.validate()
            assert model.meta.reftype.lower() == file.reftype
