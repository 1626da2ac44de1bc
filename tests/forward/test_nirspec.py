"""Exposures of NIRSpec with known truth: operators, references, files."""

import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits

from spec2fn.errors import DatasetError
from spec2fn.forward.nirspec import instrument as nrs
from spec2fn.forward.nirspec.operators import open_slits, slit_operators
from spec2fn.forward.nirspec.render import GRID, SLITLETS, Slitlet
from spec2fn.forward.operators import SpectralOperator, SurfaceOperator
from spec2fn.forward.rendered import empty_exposure
from spec2fn.forward.renderers import render, write_references
from spec2fn.schema import validate

A2_TO_SR = (np.pi / (180 * 3600)) ** 2


@pytest.fixture(scope="module")
def fixed_slits(tmp_path_factory):
    return render("NRS_FIXEDSLIT", folder=tmp_path_factory.mktemp("fs"))


@pytest.fixture(scope="module")
def slitlets(tmp_path_factory):
    chosen = (SLITLETS[0], SLITLETS[2], SLITLETS[5])
    return render("NRS_MSASPEC", slitlets=chosen, folder=tmp_path_factory.mktemp("mos"))


@pytest.fixture(params=["fixed_slits", "slitlets"])
def rendered(request):
    return request.getfixturevalue(request.param)


def part_of(made, kind, slit=0):
    parts = [p for p in made.operators["science"].parts if isinstance(p, kind)]
    return parts[slit]


def wavelengths(op):
    return np.interp(op.fraction + op.index, np.arange(len(op.grid)), op.grid)


def test_counts_of_a_star_follow_the_instrument(fixed_slits):
    # independent of the calibration steps: only formulas of the instrument
    op = part_of(fixed_slits, SpectralOperator)
    setup = fixed_slits.setups["science"]
    mid = float(setup.headers()[0]["EXPMID"])
    counts = (op(np.ones(len(GRID))) / op.flat).sum(0)
    middle = np.argmax(op(np.ones(len(GRID))), axis=0)
    wave = wavelengths(op)[middle, np.arange(op.gain.shape[1])]
    complete = (op.gain > 0).sum(0) > 28
    # the place of the star in S200A1: see _NODS in the renderer
    through = nrs.point_transmission(wave, 0.12, 0.16, nrs.APERTURES["S200A1"])
    conversion = nrs.PHOTMJ * nrs.relative_response(wave) / nrs.throughput(mid) * 1e6
    expected = through / conversion
    # tables are bilinear, and the wavelength varies a little along the slit
    np.testing.assert_allclose(counts[complete], expected[complete], rtol=2e-3)


def test_counts_of_the_sky_follow_the_instrument(fixed_slits):
    op = part_of(fixed_slits, SurfaceOperator, 2)  # S400A1
    mid = float(fixed_slits.setups["science"].headers()[0]["EXPMID"])
    wave = wavelengths(op)
    lit = op.gain > 0
    area = nrs.pixel_area("S400A1") * A2_TO_SR
    conversion = nrs.PHOTMJ * nrs.relative_response(wave) / nrs.throughput(mid) / area
    expected = nrs.uniform_transmission(wave) / conversion
    rate = op(np.ones(len(GRID))) / op.flat
    np.testing.assert_allclose(rate[lit], expected[lit], rtol=1e-3)


def test_the_flat_is_the_product_of_its_parts(fixed_slits):
    from spec2fn.forward.nirspec.references import true_detector_flat

    op = part_of(fixed_slits, SurfaceOperator, 2)
    (y0, y1), (x0, x1) = op.window
    x, y = fixed_slits.setups["science"].corner
    wave, lit = wavelengths(op), op.gain > 0
    image = true_detector_flat(0)[y0 + y - 1 : y1 + y - 1, x0 + x - 1 : x1 + x - 1]
    detector = image * (1 + 0.01 * (wave - nrs.WAVES[0]) / np.ptp(nrs.WAVES))
    # S400A1 is the third of the slits
    curves = nrs.detector_response(wave) * nrs.spectrograph_response(wave)
    expected = detector * curves * nrs.fore_response(wave, 2)
    row, column = np.linspace(-1, 1, 2048), np.linspace(-1, 1, 2048)
    smooth = 1 + 0.01 * column + 0.02 * row[:, None] ** 2
    expected = expected * smooth[y0 + y - 1 : y1 + y - 1, x0 + x - 1 : x1 + x - 1]
    np.testing.assert_allclose(op.flat[lit], expected[lit], rtol=3e-4)


def test_shutters_cast_shadows(slitlets):
    op = part_of(slitlets, SurfaceOperator, 1)  # the sky of slitlet 3, of three shutters
    light = op(np.ones(len(GRID))) / op.flat
    column = light[:, light.shape[1] // 2]
    lit = np.flatnonzero(column > 0.5 * column.max())
    assert 14 <= lit[-1] - lit[0] + 1 <= 17  # three shutters of five pixels
    within = column[lit[0] : lit[-1] + 1]
    dips = (within[1:-1] < within[:-2]) & (within[1:-1] < within[2:])
    assert dips.sum() == 2
    assert 0 < column[column > 0].min() < 0.1 * column.max()


def test_stars_stand_where_they_were_planned(slitlets):
    metadata = slitlets.msa_metadata
    exposure = empty_exposure(slitlets.setups["science"])
    slits = open_slits(exposure, slitlets.references, metadata)
    (made,) = (s for s in slit_operators(slits, slitlets.references, GRID) if s.name == "1")
    light = made.point(np.ones(len(GRID)))
    seen = (np.isfinite(made.along).sum(0) > 15) & (light.sum(0) > 0)
    place = np.nan_to_num(made.along)
    centre = (light * place).sum(0)[seen] / light.sum(0)[seen]
    np.testing.assert_allclose(centre, 0.0, atol=0.02)
    assert made.sky is not None
    profile = made.extended(np.cos).profile
    np.testing.assert_allclose(profile[made.sky.gain > 0], np.cos(place[made.sky.gain > 0]))


def test_adjoint_of_a_scene(rendered):
    op = rendered.operators["science"]
    rng = np.random.default_rng(0)
    spectra = [rng.normal(size=len(p.grid)) for p in op.parts]
    image = rng.normal(size=op.detector)
    back = op.T(image)
    assert np.vdot(op(spectra), image) == pytest.approx(
        sum(np.vdot(s, b) for s, b in zip(spectra, back, strict=True)), rel=1e-10
    )


def test_a_scene_is_the_sum_of_its_parts_in_jax_as_well(fixed_slits):
    op = fixed_slits.operators["science"]
    rng = np.random.default_rng(1)
    spectra = [rng.random(len(p.grid)) for p in op.parts]
    total = op(spectra)
    single = sum(p.embed(p(s), op.detector) for p, s in zip(op.parts, spectra, strict=True))
    np.testing.assert_allclose(total, single, rtol=1e-12)
    np.testing.assert_allclose(op([jnp.asarray(s) for s in spectra]), total, rtol=1e-9, atol=1e-9)
    part = part_of(fixed_slits, SurfaceOperator)
    image = rng.normal(size=part.shape[0])
    np.testing.assert_allclose(part.T(jnp.asarray(image)), part.T(image), rtol=1e-9, atol=1e-9)


def test_the_grid_must_cover_the_exposure(fixed_slits):
    slits = open_slits(empty_exposure(fixed_slits.setups["science"]), fixed_slits.references)
    with pytest.raises(DatasetError, match="extend the grid"):
        slit_operators(slits, fixed_slits.references, GRID[2000:])


def test_exposures_are_valid(rendered):
    ds = validate(rendered.science)
    assert ds.attrs["detector"] == "NRS1"
    assert np.isfinite(ds["sci"].values).mean() > 0.9
    roles = set(rendered.members)
    assert roles in ({"background"}, {"msa_metadata"})


def test_nods_see_the_same_sky(fixed_slits):
    rates = fixed_slits.rates
    difference = rates["science"] - rates["background"]
    op = part_of(fixed_slits, SurfaceOperator, 1)  # S200A2, which holds no star
    (y0, y1), (x0, x1) = op.window
    lit = op.gain > 0
    assert rates["science"][y0:y1, x0:x1][lit].min() > 0
    np.testing.assert_allclose(difference[y0:y1, x0:x1][lit], 0.0, atol=1e-9)
    assert difference.max() > 10
    assert difference.min() < -10


def test_time_series_have_their_integrations():
    made = render("NRS_BRIGHTOBJ", 1, 3)
    assert made.science["sci"].dims == ("integration", "y", "x")
    assert made.science.sizes["integration"] == 3
    assert made.science.attrs["tso"]
    again = render("NRS_BRIGHTOBJ", 1, 3).science["sci"].values
    np.testing.assert_array_equal(made.science["sci"].values, again)


def test_msa_metadata_survive_their_file(slitlets, tmp_path):
    from spec2fn.forward.nirspec.msa import write_msa_metadata
    from spec2fn.io.msa import read_msa_metadata

    write_msa_metadata(tmp_path / "a_msa.fits", slitlets.msa_metadata)
    opened = read_msa_metadata(tmp_path / "a_msa.fits")
    for name, var in opened.variables.items():
        np.testing.assert_array_equal(var.values, slitlets.msa_metadata[name].values)
    assert (np.abs(opened["source_info.dec"].values + 27.8) < 0.1).all()


def test_slitlets_have_names():
    assert Slitlet(7, (3, 1, 1), (1, 1), "empty").name == "1234_BKG7"
    assert sum(s.kind == "empty" for s in SLITLETS) == 1


@pytest.mark.parametrize("exp_type", ["NRS_MSASPEC", "NRS_BRIGHTOBJ"])
def test_references_are_what_their_schemas_say(exp_type, tmp_path):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    special = {
        "fore": "FOREModel",
        "fpa": "FPAModel",
        "msa": "MSAModel",
        "ote": "OTEModel",
    }
    for file in write_references(tmp_path, exp_type):
        if file.path.suffix == ".json":
            continue
        if file.path.suffix == ".fits":
            name = fits.getval(file.path, "DATAMODL")
        else:
            name = special.get(file.reftype, f"{file.reftype.capitalize()}Model")
            name = {"WavecorrModel": "WaveCorrModel"}.get(name, name)
        with getattr(datamodels, name)(file.path, strict_validation=True) as model:
            model.validate()
            assert model.meta.reftype.lower() == file.reftype
