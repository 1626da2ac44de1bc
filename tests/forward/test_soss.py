"""Overlapping orders: the operator, the references that describe it, the exposures."""

import numpy as np
import pytest

from spec2fn.forward import render, scenes
from spec2fn.forward.niriss import instrument as nis
from spec2fn.forward.niriss.instrument import ORDERS, STRIPS, Strip
from spec2fn.forward.niriss.operator import orders_operator
from spec2fn.forward.renderers import write_references
from spec2fn.schema import validate

SMALL = Strip("SUBSTRIP256", 256, columns=768)
COLUMN = np.arange(2048.0)


@pytest.fixture(scope="module")
def op():
    return orders_operator(STRIPS["SUBSTRIP256"], scenes.NEAR_GRID)


@pytest.fixture(scope="module")
def rendered():
    return render("NIS_SOSS", 3, 2, strip=SMALL)


def test_the_adjoint_is_that_of_the_operator():
    op = orders_operator(SMALL, scenes.NEAR_GRID, flat=np.random.default_rng(0).random(SMALL.shape))
    rng = np.random.default_rng(1)
    spectrum, image = rng.random(op.grid.shape), rng.random(SMALL.shape)
    np.testing.assert_allclose(
        (op(spectrum) * image).sum(), (spectrum * op.T(image)).sum(), rtol=1e-12
    )


def test_jax_does_the_same():
    jnp = pytest.importorskip("jax.numpy")
    op = orders_operator(SMALL, scenes.NEAR_GRID)
    rng = np.random.default_rng(1)
    spectrum, image = rng.random(op.grid.shape), rng.random(SMALL.shape)
    np.testing.assert_allclose(op(jnp.asarray(spectrum)), op(spectrum), rtol=1e-12)
    adjoint = op.T(jnp.asarray(image))
    np.testing.assert_allclose(adjoint, op.T(image), rtol=1e-9, atol=1e-12 * op.T(image).max())


@pytest.mark.parametrize(("order", "wave"), [(1, 1.7), (1, 2.3), (2, 0.8), (3, 0.7)])
def test_a_line_is_an_image_of_the_kernel_at_its_wavelength(op, order, wave):
    (point,) = np.flatnonzero(np.isclose(op.grid, wave, atol=1e-6))
    line = np.zeros(op.grid.shape)
    line[point] = 1.0
    seen = op.columns(line)[order - 1]
    place = np.interp(-wave, -nis.wavelength(order, COLUMN), COLUMN)
    turned = nis.WHEEL - nis.WHEEL_COMMANDED
    place += turned * nis.WHEEL_DISPERSION / np.abs(np.gradient(nis.wavelength(order, COLUMN)))[0]
    # a triangle of two grid steps, the kernel, and the column
    step = (op.grid[1] - op.grid[0]) / abs(nis.wavelength(order, 1.0) - nis.wavelength(order, 0.0))
    width = np.sqrt(nis.kernel_sigma(wave) ** 2 + step**2 / 6 + 1 / 12)
    mean = (COLUMN * seen).sum() / seen.sum()
    # the throughput weighs one side of the line more than the other
    assert mean == pytest.approx(place, abs=0.03)
    spread = np.sqrt((seen * (COLUMN - mean) ** 2).sum() / seen.sum())
    assert spread == pytest.approx(width, rel=1e-2)
    light = nis.COLLECTING * nis.throughput(order, wave) / wave * (op.grid[1] - op.grid[0])
    assert seen.sum() == pytest.approx(light, rel=5e-3)


def test_light_is_spread_over_the_rows_and_lost_beyond_the_detector(op):
    share = op.profile.sum(1)
    assert share.max() < 1 + 1e-6
    inside = slice(0, 1500)
    np.testing.assert_allclose(share[:2, inside], 1.0, atol=5e-4)
    assert share[1, -1] < 0.01
    rows = np.arange(256)[:, None]
    middle = (rows * op.profile).sum(1) / share
    turned = nis.WHEEL - nis.WHEEL_COMMANDED
    np.testing.assert_allclose(middle[0], nis.trace(1, COLUMN, angle=turned), atol=0.03)


def test_strips_see_the_same_rows():
    whole, part = (
        orders_operator(s, scenes.NEAR_GRID) for s in (STRIPS["SUBSTRIP256"], STRIPS["SUBSTRIP96"])
    )
    np.testing.assert_array_equal(part.profile, whole.profile[:, 10:106])
    np.testing.assert_array_equal(part.weights, whole.weights)


def test_references_say_what_the_instrument_does(tmp_path):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    pastasoss = pytest.importorskip("jwst.extract_1d.soss_extract.pastasoss")
    files = {f.reftype: f.path for f in write_references(tmp_path, "NIS_SOSS")}
    kinds = {
        "pastasoss": "PastasossModel",
        "specprofile": "SpecProfileModel",
        "speckernel": "SpecKernelModel",
        "bkg": "SossBkgModel",
        "flat": "FlatModel",
        "photom": "NisSossPhotomModel",
        "pathloss": "PathlossModel",
    }
    opened = {k: getattr(datamodels, kind)(files[k]) for k, kind in kinds.items()}
    turned = nis.WHEEL - nis.WHEEL_COMMANDED
    maps = pastasoss.get_soss_wavemaps(nis.WHEEL, "SUBSTRIP256", opened["pastasoss"])
    for k, order in enumerate(ORDERS):
        _, x, y, wave = pastasoss.get_soss_traces(nis.WHEEL, order, refmodel=opened["pastasoss"])
        last = ORDERS[order].cutoff * 2048
        own = x < last
        np.testing.assert_allclose(y[own], nis.trace(order, x, angle=turned)[own], atol=2e-3)
        np.testing.assert_allclose(
            wave[own], nis.wavelength(order, x, angle=turned)[own], atol=1e-9
        )
        expected = nis.wavelength(order, COLUMN, angle=turned)
        seen = last > COLUMN
        np.testing.assert_allclose(maps[k][128, seen], expected[seen], atol=1e-6)
        profile = opened["specprofile"].profile[k]
        assert (profile.order, profile.oversampling, profile.padding) == (order, 1, 0)
    kernel = opened["speckernel"]
    assert kernel.kernels.shape == kernel.wavelengths.shape == (241, 95)
    assert kernel.meta.halfwidth == 12
    assert opened["bkg"].data.shape == (3, 256, 2048)
    assert opened["pathloss"].apertures[0].pointsource_data.shape == (1, 2048, 11)
    rows = opened["photom"].phot_table
    assert list(rows["order"]) == [1, 2, 3]


def test_conversion_turns_counts_in_the_box_into_the_spectrum(rendered):
    photom = rendered.references["photom"]
    op = rendered.operators["science"]
    left = nis.throughput_left(float(rendered.science["mid_time"]))
    counts = left * nis.IN_BOX * op.columns(rendered.truth.flux[0])
    turned = nis.WHEEL - nis.WHEEL_COMMANDED
    for k, order in enumerate(ORDERS):
        wave = nis.wavelength(order, np.arange(SMALL.columns), SMALL.columns, turned)
        lit = nis.lit(order, wave)
        response = np.interp(
            wave, photom["photom.wavelength"][k], photom["photom.relresponse"][k].values
        )
        flux = counts[k] * float(photom["photom.photmj"][k]) * response / left
        # both are means over a column and the kernel, weighted by the throughput
        np.testing.assert_allclose(flux[lit], rendered.truth.at(wave)[0][lit], rtol=2e-3)


def test_exposures_are_valid_and_hold_what_was_put_in(rendered):
    ds = validate(rendered.science)
    assert ds["sci"].shape == (2, *SMALL.shape)
    exposed = rendered.exposures["science"]
    expected = exposed.rate + np.stack([exposed.operator(f) for f in rendered.truth.flux])
    pull = ((ds["sci"] - expected) / ds["err"]).values
    good = np.isfinite(pull)
    assert 0.99 < good.mean() < 1
    assert abs(pull[good].mean()) < 4 / np.sqrt(good.sum())
    assert pull[good].std() == pytest.approx(1, abs=4 / np.sqrt(good.sum()))


def test_the_sky_has_a_step(rendered):
    sky = rendered.exposures["science"].rate
    assert np.median(sky[:, 715:]) / np.median(sky[:, :680]) == pytest.approx(1.6 * 1.8 / 1.6, 0.02)


def test_an_image_has_lost_light_at_the_wheel(rendered):
    image = render("NIS_SOSS", 3, strip=SMALL, series=False)
    assert image.science["sci"].dims == ("y", "x")
    assert image.truth.flux.ndim == 1
    op = image.operators["science"]
    star = image.exposures["science"].rate - rendered.exposures["science"].rate
    share = star.sum(0) / op(image.truth.flux).sum(0)
    np.testing.assert_allclose(share, nis.pathloss(np.arange(768), nis.WHEEL, 768), rtol=1e-9)


def test_flicker_is_a_stripe_of_a_column_and_new_in_each_integration(rendered):
    noisy = render("NIS_SOSS", 3, 2, strip=SMALL, flicker=0.5)
    stripes = (noisy.science["sci"] - rendered.science["sci"]).values
    stripes = stripes[..., 4:]  # without the reference columns
    level = np.nanmedian(stripes, axis=1)
    # the noise of the photons, a little more or less, remains
    assert np.nanstd((stripes - level[:, None])[:, 200:]) < 0.05
    assert level.std() == pytest.approx(0.5, rel=0.05)
    assert abs(np.corrcoef(*level)[0, 1]) < 0.5


def test_a_turned_wheel_moves_the_traces():
    still, turned = (orders_operator(SMALL, scenes.NEAR_GRID, wheel=w) for w in (245.79, 245.89))
    rows = np.arange(256)[:, None]
    middle = [(rows * o.profile[0]).sum(0) / o.profile[0].sum(0) for o in (still, turned)]
    pivot = ORDERS[1].pivot[0] * 768
    expected = np.tan(np.deg2rad(0.1)) * (np.arange(768) - pivot)
    np.testing.assert_allclose(middle[1] - middle[0], expected, atol=0.05)
