"""adaptive_trace_model, and pixel_replace with its model, against the peer."""

import contextlib

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.compatibility import preset
from spec2fn.io import open_product
from spec2fn.pieces import pieces_of
from spec2fn.steps.adaptive_trace_model import adaptive_trace_model
from spec2fn.steps.pixel_replace import pixel_replace

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

slow, nightly = pytest.mark.slow, pytest.mark.nightly
OFFICIAL = preset("jwst-3.0")["adaptive_trace_model"]
EVERYWHERE = {"fit_threshold": 0.0, "slope_limit": 0.0}
CASES = [
    ("miri_lrs_slitless", {}),
    ("miri_lrs_slit", {"psf_optimal": True}),
    ("miri_lrs_slit", {"oversample": 2.0, "psf_optimal": True}),
    pytest.param("nrs_fs_g395h", {"oversample": 3.0}, marks=slow),
    pytest.param("nrs_bots_g395h", {}, marks=nightly),
    pytest.param("nrs_mos_prism", {"oversample": 2.0}, marks=nightly),
    pytest.param("nrs_ifu_prism", {}, marks=slow),
    pytest.param("nrs_ifu_prism", {"oversample": 2.0}, marks=nightly),
    pytest.param("nrs_ifu_g395h_nrs2", {}, marks=nightly),
    pytest.param("miri_mrs_12short", {"oversample": 2.0}, marks=nightly),
    pytest.param("miri_mrs_34long", {"psf_optimal": True}, marks=nightly),  # a faint source
    # lamps light slits evenly: without limits there is something to compare
    pytest.param("nrs_lamp_fs_line", EVERYWHERE, marks=slow),
    pytest.param("nrs_lamp_mos_line", EVERYWHERE, marks=nightly),
]
# what nobody else needs stops at the calibrated exposure
WITHOUT = {
    "miri_mrs_34long": ("straylight", "residual_fringe", "cube_build", "extract_1d"),
    "nrs_ifu_g395h_nrs2": ("cube_build", "extract_1d"),
}
WHOLE = [
    pytest.param("nrs_fs_atm", marks=slow),
    pytest.param("nrs_ifu_atm", marks=nightly),
    pytest.param("miri_mrs_atm", marks=nightly),
]
RESAMPLED = ("s2d", "s3d", "x1d")
PLANES = {
    "sci": "data",
    "err": "err",
    "var_poisson": "var_poisson",
    "var_rnoise": "var_rnoise",
    "var_flat": "var_flat",
    "wavelength": "wavelength",
}


def official(path, folder, step, **how):
    """The slits (or the one exposure) that the peer's step makes of a product or model."""
    with contextlib.chdir(folder):
        out = step.call(path, skip=False, **how)
    return getattr(out, "slits", [out])


def parts_of(out):
    return list(out) if hasattr(out, "buckets") else [out]


def product(scenario, name):
    """Folder of a scenario, and the calibrated exposure in it."""
    folder = scenario(name, without=WITHOUT.get(name, ()))
    (path,) = (folder / "peer_out").glob("*_cal*.fits")
    return folder, path


@pytest.mark.parametrize(("name", "how"), CASES)
def test_models_agree(scenario, crds_cache, allowed, tmp_path, name, how):
    from jwst.adaptive_trace_model import AdaptiveTraceModelStep

    folder, path = product(scenario, name)
    crds_cache(folder)
    ours = parts_of(adaptive_trace_model(open_product(path), **how, **OFFICIAL))
    theirs = official(str(path), tmp_path, AdaptiveTraceModelStep, **how)
    assert len(ours) == len(theirs)
    modelled = 0
    for a, b, before in zip(ours, theirs, parts_of(open_product(path)), strict=True):
        agree(a["trace_model"].values, b.trace_model, allowed("models"), "trace_model")
        modelled += int(np.isfinite(b.trace_model).sum())
        if "oversample" in how:
            np.testing.assert_array_equal(a["dq"], b.dq)
            for plane, official_name in PLANES.items():
                row = "wavelengths" if plane == "wavelength" else "planes"
                if plane == "wavelength" and getattr(b, "wavelength_corrected", False):
                    # the peer's lack the correction: those of the pixels that are divided
                    mean, expected = whole(a[plane].values, before)
                    agree(mean, expected, allowed(row), plane)
                else:
                    agree(a[plane].values, getattr(b, official_name), allowed(row), plane)
    assert modelled > 1000


def whole(parts, before):
    """Mean wavelengths of the parts of each pixel, and those of the pixels, where both are known.

    They are not at the edges of the slit.
    """
    wave = before["wavelength"].values
    mean = parts.reshape(wave.shape[0], -1, wave.shape[1]).mean(axis=1)
    both = np.isfinite(mean) & np.isfinite(wave)
    assert both.sum() > 0.8 * np.isfinite(wave).sum()
    return np.where(both, mean, np.nan), np.where(both, wave, np.nan)


@nightly
def test_slices_of_lamps_are_modelled(whole_run, tmp_path):
    from jwst.adaptive_trace_model import AdaptiveTraceModelStep

    run = whole_run("nrs_lamp_ifu_line", without=("cube_build", "extract_1d"))
    run.files()
    # the official exposure has no map of slices, which its step asks for
    with pytest.raises(TypeError, match="NoneType"):
        official(str(run.peer["cal"]), tmp_path, AdaptiveTraceModelStep, **EVERYWHERE)
    given = open_product(run.ours("cal"))
    model = adaptive_trace_model(given, **EVERYWHERE)["trace_model"].values
    known = np.isfinite(model) & np.isfinite(given["sci"].values)
    assert known.sum() > 1_000_000
    sci, err = (given[name].values[known] for name in ("sci", "err"))
    assert abs(np.median((sci - model[known]) / err)) < 0.1


def agree(ours, theirs, row, *label):
    """Finite in the same places, and equal to a fraction of the largest value."""
    known = np.isfinite(theirs)
    assert (np.isfinite(ours) == known).mean() >= row.dq, label
    known &= np.isfinite(ours)
    if known.any():
        near = np.abs(ours[known] - theirs[known]) <= row.rtol * np.abs(theirs[known]).max()
        assert near.mean() >= row.ok, (*label, near.mean())


@pytest.mark.parametrize("name", ["miri_lrs_slitless", pytest.param("nrs_fs_g395h", marks=slow)])
def test_bad_pixels_agree(scenario, crds_cache, allowed, tmp_path, name):
    from jwst.pixel_replace import PixelReplaceStep

    folder, path = product(scenario, name)
    crds_cache(folder)
    before = open_product(path)
    ours = parts_of(pixel_replace(before, algorithm="trace_model", **OFFICIAL))
    theirs = official(str(path), tmp_path, PixelReplaceStep, algorithm="trace_model")
    replaced = sum(int(np.isnan(p["sci"].values).sum()) for p in pieces_of(before))
    for a, b in zip(ours, theirs, strict=True):
        replaced -= int(np.isnan(a["sci"].values).sum())
        np.testing.assert_array_equal(a["dq"], b.dq)
        for plane in ("sci", "err", "var_poisson", "var_rnoise", "var_flat"):
            agree(a[plane].values, getattr(b, PLANES[plane]), allowed("planes"), plane)
    assert replaced > 100


@pytest.mark.parametrize("name", WHOLE)
def test_whole_runs_agree(whole_run, compare, allowed, name):
    run = whole_run(name)
    low = run.disagreements(
        compare,
        lambda kind: allowed("resampled" if kind in RESAMPLED else "exposures"),
        flags=("DQ", "REGIONS"),
        without=("TRACEMODEL",),
    )
    files = run.files()
    for kind, path in files:
        for keyword in ("S_TRCMOD", "S_PXREPL"):
            ours, theirs = (fits.getheader(p).get(keyword) for p in (run.ours(kind), path))
            assert ours == theirs, (kind, keyword)
    assert not low
    found = [kind for kind, _ in files if models(run.ours(kind))]
    assert {"adaptive_trace_model", "pixel_replace"} <= set(found)
    for kind in found:
        for ours, theirs in zip(models(run.ours(kind)), models(run.peer[kind]), strict=True):
            agree(ours, theirs, allowed("models"), kind)


@pytest.mark.parametrize("name", WHOLE)
def test_residuals_are_noise(whole_run, allowed, name):
    run = whole_run(name)
    run.files()
    # MRS: the errors lack the variance of the background
    bias, width = (0.1, 1.4) if name.startswith("miri") else (0.05, 1.0)
    found = {
        "ours": pulls(*planes_of(run.ours("adaptive_trace_model"))),
        "peer": pulls(*planes_of(run.peer["adaptive_trace_model"])),
        "default": pulls(*default_model(run.peer["cal"])),
    }
    widths = {}
    for which, (pull, _) in found.items():
        assert len(pull) > 10_000
        low, middle, high = np.percentile(pull, [15.87, 50, 84.13])
        assert abs(middle) < (bias if which != "default" else 0.02), which
        widths[which] = (high - low) / 2
    assert widths["ours"] < width
    assert widths["ours"] == allowed("widths").approx(widths["peer"])
    # columns with missing pixels raise no shoulders, and profiles are lent from both sides
    assert widths["default"] < 0.97 * widths["peer"]
    if name.startswith("miri"):
        for low, high in ((10, 30), (30, 100)):
            middle = {
                which: np.median(pull[(ratio >= low) & (ratio < high)])
                for which, (pull, ratio) in found.items()
            }
            assert middle["ours"] == allowed("residuals").approx(middle["peer"])
            assert middle["peer"] < -0.12
            assert abs(middle["default"]) < 0.03


def planes_of(path):
    """Flux, errors and trace models of a file."""
    with fits.open(path) as hdus:
        return tuple(
            [np.asarray(h.data, float) for h in hdus if h.name == name]
            for name in ("SCI", "ERR", "TRACEMODEL")
        )


def default_model(path):
    """The same for a product, with the model that it has by default."""
    parts = parts_of(adaptive_trace_model(open_product(path)))
    return tuple([p[n].values.astype(float) for p in parts] for n in ("sci", "err", "trace_model"))


def pulls(*planes):
    """Residuals and model [standard deviations] where there is a model."""
    out = []
    for sci, err, model in zip(*planes, strict=True):
        known = np.isfinite(model) & np.isfinite(sci) & (err > 0)
        out.append(np.stack([(sci - model)[known], model[known]]) / err[known])
    return np.concatenate(out, axis=1)


def models(path):
    """The trace models of a file."""
    with fits.open(path) as hdus:
        return [np.asarray(h.data, float) for h in hdus if h.name == "TRACEMODEL"]
