"""Residual fringes of MRS exposures and spectra against the peer."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.host.fringes_1d import correct_fringes_1d
from spec2fn.host.sine_search import FringeSearch, find_fringes
from spec2fn.io import open_exposure, open_product
from spec2fn.plans.fringes.residual_fringe import EVIDENCE
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.residual_fringe import residual_fringe

BANDS = {1: (4.9, 5.74, 0.0008), 2: (7.51, 8.77, 0.0013), 3: (11.55, 13.47, 0.0025)}
BANDS[4] = (17.7, 20.95, 0.006)


@pytest.fixture(scope="module")
def peer(peerbench):
    return importlib.import_module("jwst.residual_fringe.utils")


def spectrum(channel, noise, seed):
    rng = np.random.default_rng(seed)
    wave = np.arange(*BANDS[channel])
    turns = 2 * np.pi * 1e4 / wave
    fringes = 0.03 * np.cos(turns / 2.8 + 0.3) + 0.015 * np.cos(turns / 2.65)
    if channel > 2:
        fringes += 0.02 * np.cos(turns / 0.42)
    flux = (1 + 0.3 * np.sin(wave)) * (1 + fringes) + noise * rng.normal(size=wave.size)
    flux[100:103] *= 1.5
    flux[200], flux[50] = np.nan, -1.0
    return wave, flux


@pytest.mark.parametrize("channel", [1, 2, 3, 4])
@pytest.mark.parametrize("noise", [0.002, 0.02])
def test_spectra(peer, allowed, channel, noise):
    wave, flux = spectrum(channel, noise, seed=channel)
    expected = peer.fit_residual_fringes_1d(flux.copy(), wave.copy(), channel=channel)
    out = correct_fringes_1d(wave, flux, channel)
    assert sum(out.number) > 0
    allowed("spectra").close(out.flux, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_features": False, "max_line": 0.2},
        {"clip_sigma": 3.0, "max_amp": 0.05},
        {"ignore_regions": [[12.0, 12.2]]},
        {"dichroic_only": True},
    ],
)
def test_options_of_spectra(peer, allowed, options):
    wave, flux = spectrum(3, 0.005, seed=0)
    expected = peer.fit_residual_fringes_1d(flux.copy(), wave.copy(), channel=3, **options)
    out = correct_fringes_1d(wave, flux, 3, **options)
    allowed("spectra").close(out.flux, expected)
    assert not np.array_equal(out.flux, flux)


def test_several_channels_in_one_spectrum(peer, allowed):
    parts = [spectrum(channel, 0.005, seed=0) for channel in (1, 2)]
    wave, flux = (np.concatenate(p) for p in zip(*parts, strict=True))
    expected = peer.fit_residual_fringes_1d(flux.copy(), wave.copy(), channel="")
    allowed("several_channels").close(correct_fringes_1d(wave, flux, None).flux, expected)


def test_real_columns(peer, allowed):
    # detector columns of a flight exposure, with the knots and weights they came with
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    for name in ("good_col", "edge_col"):
        with fits.open(Path(folder, "residual_fringe", f"{name}.fits")) as hdus:
            flux, weights, wavenumber, baseline = (hdus[k].data.astype(float) for k in range(1, 5))
        relative = flux / baseline - 1
        ones = np.ones(flux.shape)
        kept = weights.copy()
        expected = peer.fit_1d_fringes_bayes_evidence(
            relative.copy(), kept, wavenumber.copy(), 2.9, 1.5, 10, 0.001, ones
        )
        search = FringeSearch(2.9, 1.5, 10, 0.001, True, EVIDENCE)
        found = find_fringes(relative[None], weights[None], weights[None], wavenumber[None], search)
        assert found.number[0] == expected[2]
        allowed("real_columns").close(found.model[0], expected[0])


def read(folder, crds):
    """Our Dataset of the peer's input of the step, and the slices and wavelengths of ours."""
    (path,) = (folder / "steps").glob("*_00001_*_photom.fits")
    kinds = ("distortion", "regions", "specwcs", "wavelengthrange")
    refs = {k: open_reference(next(crds.glob(f"*_{k}_*"))) for k in kinds}
    located = assign_wcs(open_exposure(folder / path.name.replace("photom", "rate")), **refs)
    ds = open_product(path).load()
    return path, ds.assign({k: located[k] for k in ("wavelength", "slice_id")})


def columns_that_agree(ds, ours, theirs, table, rtol):
    """Of the columns that either has changed, the fraction within rtol (median-scaled)."""
    before = np.asarray(ds["sci"].data)
    agree = []
    for number, x in zip(table["slice"], table["column"], strict=True):
        inside = ds["slice_id"].data[:, x] == number
        a, b, c = (image[inside, x] for image in (theirs, ours, before))
        known = np.isfinite(a) & np.isfinite(b) & (c != 0)
        if not known.any():
            continue
        a, b, c = a[known], b[known], c[known]
        if max(np.abs(a / c - 1).max(), np.abs(b / c - 1).max()) < 1e-5:
            continue
        agree.append(np.all(np.abs(a - b) <= rtol * (np.abs(a) + np.median(np.abs(a)))))
    return np.mean(agree), len(agree)


@pytest.mark.parametrize("name", ["miri_mrs_12short", "miri_mrs_34long"])
def test_exposures(scenario, allowed, name):
    folder = scenario(name)
    crds = folder / "crds_cache/references/jwst/miri"
    path, ds = read(folder, crds)
    out = residual_fringe(ds, open_reference(next(crds.glob("*_fringefreq_*"))))
    records = meta_of(out).records
    with fits.open(path.with_name(path.name.replace("photom", "residual_fringe"))) as hdus:
        theirs = hdus["SCI"].data
    ours = np.asarray(out["sci"].data)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    allowed("exposures").agree(ours, theirs)
    row, columns = allowed("columns"), records["residual_fringe_columns"]
    fraction, number = columns_that_agree(ds, ours, theirs, columns, row.rtol)
    assert number > 50
    assert fraction >= row.ok
    assert sum(records["residual_fringe"].values()) == len(
        records["residual_fringe_columns"]["slice"]
    )


def with_fringes(ds, every, columns):
    """A bright exposure with lines and fringes in some columns; the others are faint."""
    rng = np.random.default_rng(5)
    slices, wave = ds["slice_id"].data, ds["wavelength"].data
    lit = (slices > 0) & np.isfinite(wave)
    wave = np.where(lit, wave, 10.0)
    x = np.arange(slices.shape[1])
    turns = 2 * np.pi * 1e4 / wave
    phase = 0.05 * x + 0.3 * slices
    fringes = 0.025 * np.cos(turns / 2.83 + phase) + 0.012 * np.cos(turns / 2.67 + 1.3 * phase)
    beat = 0.02 * np.cos(turns / 0.41 + 0.7 * phase) + 0.008 * np.cos(turns / 0.385)
    fringes = fringes + np.where(slices >= 300, beat, 0.0)
    lines = sum(
        a * np.exp(-0.5 * ((wave - c) / (c / 7000)) ** 2)
        for a, c in [(1.5, 5.05), (0.7, 5.34), (3, 5.51), (1, 8.03), (2, 12.6), (1.2, 15.9)]
    )
    smooth = (50 + 20 * np.sin(wave)) * (1 + 0.2 * np.cos(x / 30)) * (1 + lines)
    err = np.sqrt(smooth * 80) / 300
    data = smooth * (1 + fringes) + rng.normal(size=wave.shape) * err
    keep = lit & (slices % every == 1) & (x % columns == 0)
    data = np.where(keep, data, np.where(lit, 1e-6, np.nan))
    data[((ds["dq"].data & 1) != 0) | (rng.random(data.shape) < 0.005)] = np.nan
    bad = np.isnan(data)
    err = np.where(bad, np.nan, np.where(keep, err, 1e-7))
    dq = ds["dq"].data | bad.astype(np.uint32)
    planes = {"sci": data.astype(np.float32), "err": err.astype(np.float32), "dq": dq}
    return ds.assign({k: (("y", "x"), v) for k, v in planes.items()})


@pytest.mark.parametrize("name", ["miri_mrs_12short", "miri_mrs_34long"])
def test_bright_sources_with_fringes(scenario, allowed, tmp_path, name):
    step = importlib.import_module("jwst.residual_fringe.residual_fringe")
    datamodels = importlib.import_module("stdatamodels.jwst.datamodels")
    folder = scenario(name)
    crds = folder / "crds_cache/references/jwst/miri"
    path, ds = read(folder, crds)
    ds = with_fringes(ds, every=6, columns=6)
    fringefreq, regions = (next(crds.glob(f"*_{k}_*")) for k in ("fringefreq", "regions"))
    with datamodels.open(path) as model:
        model.data, model.err, model.dq = (ds[k].data.copy() for k in ("sci", "err", "dq"))
        ignore = {"num": 0, "min": [], "max": []}
        step.ResidualFringeCorrection(model, fringefreq, regions, ignore).do_correction()
        theirs = model.data.copy()
    out = residual_fringe(ds, open_reference(fringefreq))
    ours = np.asarray(out["sci"].data)
    records = meta_of(out).records
    row, columns = allowed("columns"), records["residual_fringe_columns"]
    fraction, number = columns_that_agree(ds, ours, theirs, columns, row.rtol)
    assert number >= 15
    assert fraction >= row.ok
    assert records["residual_fringe"]["corrected"] >= 15
