"""Every pipeline as a whole: compiled, differentiated, mapped over realisations."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import spec2fn
from spec2fn.engine.pipeline import Observation, steps_of
from spec2fn.forward.renderers import render
from spec2fn.pieces import pieces_of
from spec2fn.pipelines import MODES
from spec2fn.testing import exposures

# most of the time is compilation; modes that share their steps with one that is not slow
SLOW = {"MIR_LRS-FIXEDSLIT", "MIR_MRS", "MIR_WFSS", "NIS_SOSS", "NRC_WFSS", "NRS_IFU"}
# one for each pipeline of lamps and each layout, the others differ in the name of the mode
LAMPS = {
    "NRS_LAMP:FIXEDSLIT:LINE",
    "NRS_LAMP:MSASPEC:LINE",
    "NRS_LAMP:IFU:LINE",
    "NRS_LAMP:FIXEDSLIT:FLAT",
    "NRS_LAMP:IFU:FLAT",
    "NRS_AUTOFLAT:MSASPEC",
}
# fields of plans in which spectra are smooth (the correction of apertures has kinks in sizes)
SMOOTH = ("fraction", "area", "spatial", "apcorr_table")


def cost(mode):
    if mode in SLOW | LAMPS:
        return pytest.mark.slow
    return () if mode in exposures.EXP_TYPES else pytest.mark.nightly


@pytest.fixture(params=[pytest.param(m, marks=cost(m)) for m in MODES], scope="module")
def compiled(request, planned):
    if request.param in exposures.EXP_TYPES:
        return planned(request.param)
    # rendered on all of the detector, so that it is not kept; some planes of the cube will do
    lamp, (_, pipeline) = render(request.param), MODES[request.param]
    few = {"cube_build": {"wavemin": 3.0, "wavemax": 3.2}}
    params = {k: v for k, v in few.items() if k in {s.key for s in steps_of(pipeline)}}
    observation = Observation(lamp.science, lamp.members)
    return spec2fn.compile(observation, pipeline, lamp.references, params=params)


def assert_same(made, eager):
    for a, b in zip(pieces_of(made), pieces_of(eager), strict=True):
        assert set(a.variables) == set(b.variables)
        assert {k: v for k, v in a.attrs.items() if k != "meta"} == {
            k: v for k, v in b.attrs.items() if k != "meta"
        }
        for name, variable in b.variables.items():
            assert a[name].dims == variable.dims, name
            one, other = np.asarray(a[name].data), np.asarray(variable.data)
            assert one.dtype == other.dtype, name
            if other.dtype.kind != "f":
                np.testing.assert_array_equal(one, other, name)
                continue
            finite = np.isfinite(other)
            np.testing.assert_array_equal(np.isfinite(one), finite, name)
            # sums of pixels of opposite sign are as good as the pixels
            size = np.abs(other[finite]).max(initial=0.0)
            np.testing.assert_allclose(
                one[finite], other[finite], rtol=1e-5, atol=1e-6 * size, err_msg=name
            )


def test_compiled_equals_eager(compiled):
    made = compiled.products()
    assert set(made) == set(compiled.first.products)
    for kind, product in compiled.first.products.items():
        assert_same(made[kind], product)
        for a, b in zip(pieces_of(made[kind]), pieces_of(product), strict=True):
            assert a.attrs["meta"] is b.attrs["meta"]


def last(products):
    """Spectra, or calibrated images if there is nothing else."""
    return "x1d" if "x1d" in products else "cal"


def total(products):
    """A number to which every element of the spectra contributes by its own weight."""
    rng, out = np.random.default_rng(7), 0.0
    for piece in pieces_of(products[last(products)]):
        flux = piece["flux" if "flux" in piece else "sci"].data
        weights = rng.uniform(0.5, 1.5, flux.shape)
        flux = jnp.asarray(flux, float)
        out = out + jnp.where(jnp.isfinite(flux), flux, 0.0).ravel() @ weights.ravel() * 1e3
    return out


def chosen(compiled):
    """Pixels, a flat, a factor of photom and a field of a plan, by path."""
    known = compiled.parameters()
    names = {s.name for s in steps_of(compiled.settings.pipeline)}
    wanted = {
        "": r"science/sci",
        "flat_field": r"refs/[fsd]?flat/.*sci",
        "photom": r"refs/photom/(photom\.(photmj|photmjsr)|sci)",  # an image for the MRS
    }
    of_steps = {name: pattern for name, pattern in wanted.items() if not name or name in names}
    found = [next(p for p in known if re.fullmatch(one, p)) for one in of_steps.values()]
    if last(compiled.first.products) == "cal":
        # images of lamps: the width of a pixel in the table of a flat changes them by less than
        # they are rounded by
        return found
    plan = next(
        p
        for field in SMOOTH
        for p in known
        if p.startswith("plans/") and p.endswith(f"/{field}") and "master_background" not in p
    )
    return [*found, plan]


def test_gradients_equal_finite_differences(compiled):
    assert_gradients(compiled, chosen(compiled))


@pytest.mark.parametrize(
    "exp_type",
    [
        pytest.param(m, marks=() if m in ("MIR_LRS-SLITLESS", "NIS_SOSS") else pytest.mark.slow)
        for m in exposures.EXP_TYPES
    ],
)
def test_gradients_by_pixels_alone(exp_type, planned):
    """What references determine is no part of that program."""
    compiled = planned(exp_type)
    reference = next(p for p in compiled.parameters() if p.startswith("refs/"))
    _, alone = compiled.value_and_grad(total)()
    _, both = compiled.value_and_grad(total, wrt=("science/sci", reference))()
    one, other = (np.asarray(g["science/sci"]) for g in (alone, both))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


# numbers of the plan by which the subtracted spectrum is measured, and laid on the slitlets
BACKGROUND = (
    "corrections/1/0/shares",
    "corrections/2/0/row",
    "corrections/3/0/pixar_sr",
    "extraction/groups/0/weights",
    "places/0/share",
    "resampling/0/overlap/area",
    "resampling/0/scale",
)


@pytest.mark.slow
def test_gradients_of_the_background_of_slitlets(planned):
    folder = "plans/mos/master_background"
    assert_gradients(planned("NRS_MSASPEC"), [f"{folder}/{name}" for name in BACKGROUND])


@pytest.mark.slow
def test_gradients_of_a_background_that_is_given():
    mode, wave = "NRS_MSASPEC", np.linspace(0.5, 6.0, 60)
    columns = {"wavelength": wave, "surf_bright": 1 + 0.1 * wave}
    given = xr.Dataset({n: ("wave", column) for n, column in columns.items()})
    compiled = spec2fn.compile(
        exposures.observation(mode),
        exposures.pipeline(mode),
        exposures.references(mode),
        params={"master_background": {"user_background": given}},
        kinds=("x1d",),
    )
    assert_gradients(compiled, ["plans/mos/master_background/spectrum/surf_bright"])


def assert_gradients(compiled, paths):
    value, gradients = compiled.value_and_grad(total, paths)()
    assert float(value) == pytest.approx(float(total(compiled.first.products)), rel=1e-5)
    rng = np.random.default_rng(3)
    for path in paths:
        slope = np.asarray(gradients[path], dtype=float)
        held = np.asarray(compiled.value(path))
        assert np.isfinite(slope).all(), path
        assert (slope != 0).any(), path
        size = 2e-3 * np.nan_to_num(np.abs(held))
        step = (rng.uniform(0.5, 1.5, held.shape) * np.sign(slope) * size).astype(held.dtype)
        up, down = (
            float(total(compiled.products({path: (held + sign * step).astype(held.dtype)})))
            for sign in (1, -1)
        )
        assert (up - down) / 2 == pytest.approx(float((slope * step).sum()), rel=5e-3), path


def test_mapped_over_realisations_equals_a_loop(compiled):
    sci = compiled.observation.science["sci"].values
    rng = np.random.default_rng(1)
    several = (sci * rng.uniform(0.9, 1.1, (2, *sci.shape))).astype(sci.dtype)
    kind = last(compiled.first.products)
    mapped = compiled.only(kind).vmap("realisation")({"science/sci": several})[kind]
    for i, one in enumerate(several):
        alone = compiled.products({"science/sci": one})[kind]
        for a, b in zip(pieces_of(mapped), pieces_of(alone), strict=True):
            assert_same(a.isel(realisation=i), b)


@pytest.mark.parametrize(
    "exp_type",
    [
        "NIS_WFSS",
        pytest.param("NRS_FIXEDSLIT", marks=pytest.mark.slow),
        pytest.param("NRS_MSASPEC", marks=pytest.mark.nightly),
    ],
)
def test_slits_one_by_one_equal_all_of_them_at_once(exp_type, planned):
    compiled = planned(exp_type)
    sci = compiled.value("science/sci")
    values = {"science/sci": (1.5 * sci).astype(sci.dtype)}
    alone, expected = compiled.vmap("slit")(values), compiled.products(values)
    assert set(alone) == set(expected)
    assert any(b.sizes["slit"] > 1 for b in expected["cal"].buckets)
    for kind, product in expected.items():
        assert_same(alone[kind], product)
