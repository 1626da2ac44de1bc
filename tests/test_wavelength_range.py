"""Wavelengths beyond the nominal range of a grating: references are extrapolated, and flagged."""

import functools

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.engine import pipeline as compose
from spec2fn.engine import run as running
from spec2fn.testing import exposures

MODES = ("NRS_FIXEDSLIT", "NRS_MSASPEC")
NARROW = (2.0, 3.0)  # um; of every reference here
NOMINAL = (2.1, 2.9)  # um; of the grating
WIDE = {"assign_wcs": {"wavelength_range": (1.5, 3.5)}}
FLAT, FLUX, DNU = (PIXEL[n] for n in ("UNRELIABLE_FLAT", "FLUX_ESTIMATED", "DO_NOT_USE"))


def short(ref, name):
    """A reference whose table or images end at NARROW, with the values in between."""
    changes = {}
    for column in ref.variables:
        prefix, _, last = column.rpartition(".")
        if last != "wavelength" or prefix.startswith("wavelength"):
            continue
        waves = ref[column].values
        inside = (waves >= NARROW[0]) & (waves <= NARROW[1])
        changes[column] = (ref[column].dims, np.where(inside, waves, 0).astype(waves.dtype))
    if name == "photom":
        # its rows must be complete: cut the table instead
        row = ref["photom.wavelength"].values[0]
        keep = np.flatnonzero((row >= NARROW[0]) & (row <= NARROW[1]))
        # columns of as many elements lie on dims of their own
        along = {ref[f"photom.{n}"].dims[-1]: keep for n in ("wavelength", "relresponse")}
        return ref.isel(along).assign({"photom.nelem": ref["photom.nelem"] * 0 + len(keep)})
    return ref.assign(changes)


def references(exp_type):
    refs = dict(exposures.references(exp_type))
    for key in list(refs):
        name = key.rpartition(":")[2]
        if name in ("fflat", "sflat", "dflat", "photom"):
            refs[key] = short(refs[key], name)
        if name == "wavelengthrange":
            tree = {**refs[key].attrs["tree"], "wavelengthrange": [[w * 1e-6 for w in NOMINAL]]}
            refs[key] = refs[key].assign_attrs(tree=tree)
    return refs


@functools.cache
def standard(exp_type, *, wide):
    return calibrated(exp_type, references(exp_type), **(WIDE if wide else {}))


def calibrated(exp_type, refs, **params):
    pipeline = compose.without(exposures.pipeline(exp_type), "resample_spec", "extract_1d")
    pipeline = tuple(e for e in pipeline if getattr(e, "kind", "") not in ("s2d", "x1d"))
    params = {"pixel_replace": {"skip": True}, **params}
    if exp_type == "NRS_MSASPEC":
        params["master_background"] = {"skip": True}
    obs = exposures.observation(exp_type)
    return running.run(pipeline, obs, refs, params=params).dataset


@pytest.mark.parametrize("exp_type", MODES)
def test_a_wider_range_holds_the_ends_of_references(exp_type):
    nominal, wide = standard(exp_type, wide=False), standard(exp_type, wide=True)
    assert "nominal_range" not in nominal.attrs
    assert wide.attrs["nominal_range"] == pytest.approx(NOMINAL)
    seen = np.zeros(2, int)
    for one in wide:
        wave, dq = one["wavelength"].values, one["dq"].values
        inside = (wave > NOMINAL[0]) & (wave < NOMINAL[1])
        outside = (wave < NARROW[0] - 0.05) | (wave > NARROW[1] + 0.05)
        usable = (dq & DNU) == 0
        seen += np.array([outside.sum(), inside.sum()])
        assert (usable & outside).sum() > 0.9 * outside.sum()
        assert np.isfinite(one["sci"].values[usable]).all()
        assert ((dq[outside & usable] & FLAT) > 0).all()
        assert ((dq[outside & usable] & FLUX) > 0).all()
        assert not (dq[inside & usable] & (FLAT | FLUX)).any()
    assert (seen > 100).all()


@pytest.mark.parametrize("exp_type", MODES)
def test_inside_the_nominal_range_nothing_changes(exp_type):
    nominal, wide = standard(exp_type, wide=False), standard(exp_type, wide=True)
    for one in nominal:
        other = wide.slit(str(one["slit_name"].item()))
        dx, dy = (int(one[n]) - int(other[n]) for n in ("xstart", "ystart"))
        part = other.isel(x=slice(dx, dx + one.sizes["x"]), y=slice(dy, dy + one.sizes["y"]))
        wave = one["wavelength"].values
        # at the very ends a pixel's width is that of its neighbour inside the slit
        inside = (wave > 2.2) & (wave < 2.8)
        for name in ("sci", "err", "dq", "wavelength"):
            a, b = one[name].values[inside], part[name].values[inside]
            np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("exp_type", MODES)
def test_extrapolation_can_be_switched_off(exp_type):
    off = {n: {"extrapolate": False} for n in ("flat_field", "pathloss", "photom")}
    for one in calibrated(exp_type, references(exp_type), **WIDE, **off):
        wave, dq = one["wavelength"].values, one["dq"].values
        outside = (wave < NARROW[0] - 0.05) | (wave > NARROW[1] + 0.05)
        assert ((dq[outside] & DNU) > 0).all()


def test_the_extrapolated_flux_is_that_of_the_end():
    """Of constant references only the flags differ from those that cover everything."""
    full = dict(exposures.references("NRS_FIXEDSLIT"))
    flat = {}
    for name, ref in full.items():
        values = {c: ref[c] * 0 + 1 for c in ref.variables if c.endswith((".data", ".relresponse"))}
        flat[name] = ref.assign(values) if values else ref
    narrow = {n: short(r, n) if n.endswith("flat") or n == "photom" else r for n, r in flat.items()}
    whole = calibrated("NRS_FIXEDSLIT", flat, **WIDE)
    held = calibrated(
        "NRS_FIXEDSLIT",
        narrow | {"wavelengthrange": full["wavelengthrange"]},
        **{**WIDE, **{n: {"extrapolate": True} for n in ("flat_field", "photom")}},
    )
    for a, b in zip(whole, held, strict=True):
        np.testing.assert_allclose(b["sci"].values, a["sci"].values, rtol=2e-6)


def test_an_undefined_spectrograph_image_counts_as_one_outside_the_nominal_range():
    refs = references("NRS_FIXEDSLIT")
    bit = np.uint32(PIXEL["NO_FLAT_FIELD"] | DNU)
    refs["sflat"] = refs["sflat"].assign(dq=refs["sflat"]["dq"] * 0 + bit)
    usable = 0
    for one in calibrated("NRS_FIXEDSLIT", refs, **WIDE):
        wave, dq = one["wavelength"].values, one["dq"].values
        inside = (wave > NOMINAL[0]) & (wave < NOMINAL[1])
        assert ((dq[inside] & DNU) > 0).all()
        fine = ~inside & np.isfinite(wave) & ((dq & DNU) == 0)
        assert ((dq[fine] & FLAT) > 0).all()
        usable += fine.sum()
    assert usable > 100
