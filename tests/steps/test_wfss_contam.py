"""Contamination of slitless spectra, on a rendered field whose spectra are known."""

import dataclasses

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.errors import InputError
from spec2fn.forward.renderers import render
from spec2fn.forward.slitless.field import sources_of_field, spectrum
from spec2fn.forward.slitless.instrument import GRISMS
from spec2fn.forward.slitless.operator import grism_operator, redispersed
from spec2fn.forward.slitless.render import dispersed
from spec2fn.plans.slits.contaminants import seds_of_colours
from spec2fn.schema import meta_of, with_meta
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.background import background
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.srctype import srctype
from spec2fn.steps.wfss_contam import wfss_contam

GRISM = GRISMS["NIS_WFSS"]


@dataclasses.dataclass
class Field:
    """A field up to its cut-outs, and the light of each source and order."""

    exposure: object
    slits: object
    references: dict
    members: dict
    light: dict
    sources: tuple

    def correct(self, slits=None, **how):
        members = how.pop("members", self.members)
        names = ("photom", "wavelengthrange")
        refs = [self.references[n] for n in names]
        slits = self.slits if slits is None else slits
        return wfss_contam(slits, *refs, **members, **how)

    def plan(self, **how):
        refs = [self.references[n] for n in ("photom", "wavelengthrange")]
        return wfss_contam.plan(self.slits, *refs, **self.members, **how)

    def left(self, corrected):
        """Light of others that is left, over that of the source, by source and order."""
        total = sum(self.light.values())
        out = {}
        for before, after in zip(self.slits, corrected, strict=True):
            key = int(before["source_id"]), int(before["spectral_order"])
            y, x = int(before["ystart"]) - 1, int(before["xstart"]) - 1
            window = np.s_[y : y + before.sizes["y"], x : x + before.sizes["x"]]
            own, others = self.light[key][window], (total - self.light[key])[window]
            removed = np.nan_to_num(before["sci"].values - after["sci"].values)
            good = np.isfinite(before["sci"].values)
            out[key] = (others - removed)[good].sum() / own[good].sum()
        return out


@pytest.fixture(scope="module")
def field():
    rendered = render("NIS_WFSS", 1)
    members = rendered.members

    def apply(step, ds):
        refs = (rendered.references.get(r) for r in step.refs)
        return step(ds, *refs, **{m: members[m] for m in step.members if m in members})

    ds = rendered.science
    for step in (assign_wcs, background, flat_field):
        ds = apply(step, ds)
    slits = apply(srctype, apply(extract_2d, ds))
    geometry = meta_of(ds).wcs.geometry
    sources = sources_of_field(GRISM, 1)
    light = {
        (s.label, order): dispersed(GRISM, geometry, s, order)
        for s in sources
        for order in GRISM.orders
    }
    members = {m: members[m] for m in wfss_contam.members}
    return Field(ds, slits, rendered.references, members, light, sources)


def test_other_sources_matter_in_this_field(field):
    before = field.left(field.slits)
    first = [v for (_, order), v in before.items() if order == 1]
    assert sum(v > 0.2 for v in first) >= 4
    assert sum(abs(v) < 1e-3 for v in first) >= 3


def test_the_true_spectra_leave_nothing(field):
    seds = {s.label: lambda w, s=s: spectrum(s, w, GRISM.ends) for s in field.sources}
    left = field.left(field.correct(seds=seds))
    assert max(abs(v) for (_, order), v in left.items() if order == 1) < 0.01


def test_the_model_is_as_sharp_as_the_exposure(field):
    seds = {s.label: lambda w, s=s: spectrum(s, w, GRISM.ends) for s in field.sources}
    plan = field.plan(orders=(1,), seds=seds, save_simulated_image=True)
    true = sum(image for (_, order), image in field.light.items() if order == 1)
    # pixels of the direct image laid on those of the detector as they are: 0.07
    assert np.abs(plan.simulated - true).sum() < 0.045 * true.sum()


def test_a_table_of_spectra_is_as_good_as_functions(field):
    import xarray as xr

    wave = np.linspace(0.95, 1.35, 4000)
    flux = np.array([spectrum(s, wave, GRISM.ends) for s in field.sources])
    labels = np.array([s.label for s in field.sources])
    table = xr.Dataset(
        {
            "seds.label": ("row", np.repeat(labels, wave.size)),
            "seds.wavelength": ("row", np.tile(wave, labels.size)),
            "seds.flux": ("row", flux.ravel()),
        }
    )
    functions = {s.label: lambda w, s=s: spectrum(s, w, GRISM.ends) for s in field.sources}
    one, other = field.correct(seds=table), field.correct(seds=functions)
    for a, b in zip(one.buckets, other.buckets, strict=True):
        np.testing.assert_allclose(a["sci"], b["sci"], rtol=1e-3, atol=1e-3, equal_nan=True)


def test_spectra_from_the_colours_of_a_catalog_are_better_than_flat_ones(field):
    wave = (1.05, 1.15, 1.25)
    labels = [s.label for s in field.sources]
    flux = {
        w: np.array([spectrum(s, np.array(w), GRISM.ends) for s in field.sources]) for w in wave
    }
    magnitudes = {w: -2.5 * np.log10(f) + 8.9 for w, f in flux.items()}
    magnitudes[1.15][0] = np.nan
    seds = seds_of_colours(labels, magnitudes)
    np.testing.assert_allclose(seds[labels[1]][1], [flux[w][1] for w in wave])
    assert len(seds[labels[0]][0]) == 2

    def worst(seds):
        left = field.left(field.correct(seds=seds))
        return np.mean([abs(v) for (_, order), v in left.items() if order == 1])

    assert worst(seds) < worst(None)


def test_spectra_fitted_all_at_once_leave_little_and_say_how_sure_they_are(field):
    corrected = field.correct(joint_knots=20)
    left = field.left(corrected)
    assert max(abs(v) for (_, order), v in left.items() if order == 1) < 0.02
    warnings = meta_of(corrected.buckets[0]).records["warnings"]
    assert any("chi2/pixel" in w and "scatter" in w for w in warnings)
    for before, after in zip(field.slits.buckets, corrected.buckets, strict=True):
        assert (after["err"].values >= before["err"].values)[np.isfinite(after["err"])].all()
    grew = [
        (b["err"] > a["err"]).values.any()
        for a, b in zip(field.slits.buckets, corrected.buckets, strict=True)
    ]
    assert any(grew)
    # and the pixels of a wavelength are wrong together
    for before, after in zip(field.slits.buckets, corrected.buckets, strict=True):
        shared = after["common_share"] * after["var_poisson"]
        added = after["var_poisson"] - before["var_poisson"]
        np.testing.assert_allclose(shared, added, rtol=1e-4, atol=1e-9)
    plain = field.correct(joint_knots=20, propagate_variance=False)
    for before, after in zip(field.slits.buckets, plain.buckets, strict=True):
        np.testing.assert_array_equal(before["err"], after["err"])
        assert "common_share" not in after


def test_polynomials_leave_less_than_flat_spectra(field):
    def worst(**how):
        left = field.left(field.correct(**how))
        return np.mean([abs(v) for (_, order), v in left.items() if order == 1])

    flat, fitted = worst(), worst(polyfit_degree=3, n_iterations=3)
    assert fitted < flat


def test_spectra_that_stand_alone_stay_as_they_are(field):
    before, after = field.left(field.slits), field.correct()
    alone = [key for key, v in before.items() if v == 0]
    assert alone
    for one, other in zip(field.slits, after, strict=True):
        if (int(one["source_id"]), int(one["spectral_order"])) in alone:
            np.testing.assert_allclose(one["sci"], other["sci"], atol=1e-4, equal_nan=True)


def test_pixels_that_others_rule_are_flagged(field):
    bit = PIXEL["FLUX_ESTIMATED"]
    flagged = [(b["dq"].values & bit).astype(bool) for b in field.correct().buckets]
    assert any(f.any() for f in flagged)
    none = [(b["dq"].values & bit).astype(bool) for b in field.correct(flag_above=None).buckets]
    assert not any(f.any() for f in none)
    more = [(b["dq"].values & bit).astype(bool) for b in field.correct(flag_above=0.1).buckets]
    assert all((a <= b).all() for a, b in zip(flagged, more, strict=True))
    assert sum(m.sum() for m in more) > sum(f.sum() for f in flagged)


def test_models_and_contamination_are_kept_on_request(field):
    corrected = field.correct(save_simulated_image=True, save_contam_images=True)
    records = meta_of(corrected.buckets[0]).records
    total = sum(field.light.values())
    simulated = records["simul"]["sci"].values
    assert simulated.shape == total.shape
    assert abs(simulated.sum() / total.sum() - 1) < 0.02
    for before, after, light in zip(field.slits, corrected, records["contam"], strict=True):
        np.testing.assert_allclose(
            before["sci"] - light["sci"], after["sci"], rtol=1e-5, atol=1e-5, equal_nan=True
        )
    assert set(records["simul_slits"].names) <= set(field.slits.names)


def test_orders_and_limits_leave_sources_out(field):
    only = field.plan(orders=(1,), save_simulated_image=True)
    every = field.plan(save_simulated_image=True)
    assert 0 < only.simulated.sum() < every.simulated.sum()
    bright = field.plan(magnitude_limit=23.4, save_simulated_image=True)
    assert 0 < bright.simulated.sum() < every.simulated.sum()
    out = field.correct(magnitude_limit=1.0)
    assert out.attrs["status_wfss_contam"].startswith("SKIPPED: no source is as bright")


def test_without_images_of_the_field_nothing_is_done(field):
    out = field.correct(members={"sourcecat": field.members["sourcecat"]})
    assert out.attrs["status_wfss_contam"].startswith("SKIPPED: there is no direct image")


@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_direct_images_of_other_pixels_do_as_well(field, scale):
    from spec2fn.forward.slitless.field import direct_files

    other = render("NIS_WFSS", 1, scale=scale).members
    assert direct_files
    members = {m: other[m] for m in wfss_contam.members}
    left = field.left(field.correct(members=members, joint_knots=20))
    assert max(abs(v) for (_, order), v in left.items() if order == 1) < 0.05


def changed(field, role, change):
    ds = field.members[role][0]
    return {**field.members, role: (change(ds),)}


def without_unit(ds):
    plane = ds["sci"].copy()
    plane.attrs = {}
    return ds.assign(sci=plane)


def of_nothing(ds):
    return ds.assign(label=ds["label"] * 0)


@pytest.mark.parametrize(
    ("role", "change", "match"),
    [
        ("segmap", lambda ds: ds.isel(x=slice(0, 500)), "of the same image"),
        ("direct_image", without_unit, "no unit"),
        ("direct_image", lambda ds: with_meta(ds, wcs=None), "has no gwcs"),
        ("segmap", of_nothing, "holds no source"),
    ],
)
def test_images_that_do_not_fit_are_one_line(field, role, change, match):
    with pytest.raises(InputError, match=match) as found:
        field.correct(members=changed(field, role, change))
    assert "\n" not in str(found.value)
    assert str(found.value).startswith("wfss_contam: ")


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ({"orders": (5,)}, "none of them is known"),
        ({"polyfit_degree": 2, "joint_knots": 9}, "two ways"),
        ({"seds": {4711: lambda w: w}}, "source 4711"),
        ({"seds": [1, 2]}, "mapping of labels"),
    ],
)
def test_parameters_that_make_no_sense_are_one_line(field, how, match):
    with pytest.raises(InputError, match=match) as found:
        field.correct(**how)
    assert "\n" not in str(found.value)


def test_a_limit_of_brightness_needs_the_catalog(field):
    members = {m: field.members[m] for m in ("direct_image", "segmap")}
    with pytest.raises(InputError, match="needs the catalog"):
        field.correct(members=members, magnitude_limit=22.0)


def test_gradients_with_respect_to_spectra_and_pixels(field):
    jax = pytest.importorskip("jax")
    from spec2fn.transforms import jit, value_and_grad

    plan = field.plan()

    def total(slits, plan):
        corrected = wfss_contam(slits, plan=plan)
        return sum((jax.numpy.nan_to_num(b["sci"].data) ** 2).sum() for b in corrected.buckets)

    with jax.enable_x64(True):
        _, gradient = jit(value_and_grad(total, {1: ["coefficients"]}))(field.slits, plan)
        slope = np.asarray(gradient[1]["coefficients"])
        k = int(np.argmax(np.abs(slope)))
        ends = []
        for step in (1e-3, -1e-3):
            moved = plan.coefficients.copy()
            moved[k] += step
            ends.append(float(total(field.slits, dataclasses.replace(plan, coefficients=moved))))
    np.testing.assert_allclose(slope[k], (ends[0] - ends[1]) / 2e-3, rtol=1e-3)


def test_the_operator_is_the_model_of_the_step(field):
    operator, brightness, labels = grism_operator(
        field.exposure,
        field.references["photom"],
        field.references["wavelengthrange"],
        field.members["direct_image"][0],
        field.members["segmap"][0],
        orders=(1,),
    )
    assert set(labels) == {s.label for s in field.sources}
    flat = {m: np.ones((len(labels), o.wavelength.size)) for m, o in operator.orders.items()}
    image = operator(brightness, flat)
    model = field.plan(orders=(1,), save_simulated_image=True).simulated
    # which sharpens the images of whole traces
    assert np.abs(image - model).max() < 0.04 * model.max()
    np.testing.assert_allclose(model.sum(), image.sum(), rtol=1e-5)
    same = redispersed(operator, meta_of(field.exposure).wcs.geometry)
    np.testing.assert_array_equal(same(brightness, flat), image)


def test_traces_can_be_fitted_through_the_operator(field):
    jax = pytest.importorskip("jax")
    operator, brightness, labels = grism_operator(
        field.exposure,
        field.references["photom"],
        field.references["wavelengthrange"],
        field.members["direct_image"][0],
        field.members["segmap"][0],
        orders=(1,),
    )
    flat = {m: np.ones((len(labels), o.wavelength.size)) for m, o in operator.orders.items()}
    geometry = meta_of(field.exposure).wcs.geometry
    observed = operator(brightness, flat)
    with jax.enable_x64(True):

        def misfit(angle):
            turned = dataclasses.replace(geometry, angle=angle, turned=True)
            return ((redispersed(operator, turned)(brightness, flat) - observed) ** 2).sum()

        start = jax.numpy.asarray(float(geometry.angle) + 0.05)
        slope = float(jax.grad(misfit)(start))
        numeric = float(misfit(start + 1e-5) - misfit(start - 1e-5)) / 2e-5
    assert slope > 0
    np.testing.assert_allclose(slope, numeric, rtol=1e-3)


def test_polynomials_are_held_and_judged_as_asked(field):
    how = {"polyfit_degree": 2, "official_model": True, "propagate_variance": False}

    def corrected(**more):
        return [s["sci"].values for s in field.correct(**how, **more)]

    free, flat = (
        corrected(l2_alpha=0.0, rejection_threshold=1e9),
        field.correct(official_model=True, propagate_variance=False),
    )
    flat = [s["sci"].values for s in flat]

    def apart(made):
        return max(np.nanmax(np.abs(a - b)) for a, b in zip(made, flat, strict=True))

    # models that are held at nothing take nothing away
    held = corrected(l2_alpha=1e12, rejection_threshold=1e9)
    before = [s["sci"].values for s in field.slits]
    assert max(np.nanmax(np.abs(a - b)) for a, b in zip(held, before, strict=True)) < 1e-4
    assert apart(free) > 0.1
    # no fit is near enough to one: flat spectra stay
    assert apart(corrected(l2_alpha=0.0, rejection_threshold=1e-12)) == 0
    for a, b in zip(
        free, corrected(l2_alpha=0.0, rejection_threshold=1e9, maximum_cores="all"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
