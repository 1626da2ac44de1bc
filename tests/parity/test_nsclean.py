"""nsclean against the peer's clean_flicker_noise."""

import importlib

import numpy as np
import pytest

from spec2fn.io import open_exposure
from spec2fn.io.msa import read_msa_metadata
from spec2fn.plans.background.nsclean import scene_masks
from spec2fn.refs import open_reference
from spec2fn.schema import status_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.msaflagopen import msaflagopen
from spec2fn.steps.nsclean import nsclean

pytestmark = pytest.mark.parity

SCENARIOS = ("nrs_fs_g395h", "nrs_bots_g395h", "nrs_mos_prism")
# the peer's defaults, with which the scenarios were run
DEFAULTS = {
    "fit_method": "median",
    "background_method": "median",
    "single_mask": True,
    "n_sigma": 2.0,
    "mask_spectral_regions": False,
}
# ours, by the peer's names
OURS = {
    "fit_method": "fft",
    "background_method": None,
    "single_mask": False,
    "n_sigma": 5.0,
    "mask_science_regions": True,
}


@pytest.fixture(scope="session")
def prepared(scenario):
    """``prepared(name)``: exposure with our WCS and flags, and the peer's file with theirs."""
    made = {}

    def make(name):
        if name in made:
            return made[name]
        folder = scenario(name)
        steps = folder / "steps"
        peer = sorted([*steps.glob("*_assign_wcs.fits"), *steps.glob("*_msa_flagging.fits")])[-1]
        stem = peer.name.removesuffix(".fits").removesuffix("_assign_wcs")
        stem = stem.removesuffix("_msa_flagging")
        (path,) = folder.glob(f"{stem}_rate*.fits")
        crds = folder / "crds_cache/references/jwst/nirspec"
        refs = {k: open_reference(next(crds.glob(f"*_{k}_*"))) for k in msaflagopen.refs[1:]}
        msa = [read_msa_metadata(p) for p in folder.glob("*_msa.fits")]
        ds = assign_wcs(open_exposure(path).load(), **refs, msa_metadata=tuple(msa[:1]))
        if msa:
            ds = msaflagopen(ds, open_reference(next(crds.glob("*_msaoper_*"))))
        made[name] = (ds, peer, steps / f"{stem}_clean_flicker_noise.fits")
        return made[name]

    return make


def peer_module():
    return importlib.import_module("jwst.clean_flicker_noise.clean_flicker_noise")


def peer_result(path, integrations=None, **parameters):
    datamodels = importlib.import_module("stdatamodels.jwst.datamodels")
    model = datamodels.open(path)
    if integrations is not None:
        wcs = model.meta.wcs
        model.data, model.dq = model.data[:integrations], model.dq[:integrations]
        model.meta.wcs = wcs
    out, *_, status = peer_module().do_correction(model, **parameters)
    assert status == "COMPLETE"
    return np.asarray(out.data)


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(prepared, allowed, name):
    ds, _, product = prepared(name)
    out = nsclean(ds, **DEFAULTS)
    theirs = open_exposure(product).load()
    assert status_of(out, "nsclean") == "COMPLETE"
    allowed("cleaned").agree(out["sci"], theirs["sci"])
    for other in ("err", "var_poisson", "var_rnoise", "dq"):
        np.testing.assert_array_equal(out[other], theirs[other])


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize(
    "parameters",
    [{"n_sigma": 5.0}, {"n_sigma": 2.0, "fit_histogram": True}, {"single_mask": True}],
    ids=str,
)
def test_masks_are_the_peers(prepared, name, parameters):
    datamodels = importlib.import_module("stdatamodels.jwst.datamodels")
    ds, peer, _ = prepared(name)
    parameters = {"n_sigma": 3.0, "single_mask": False, **parameters}
    with datamodels.open(peer) as model:
        theirs = peer_module().create_mask(model, mask_science_regions=True, **parameters)
    ours = scene_masks(ds["sci"].values, nsclean.plan(ds, **parameters))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"background_method": "median", "n_sigma": 2.0},
        {"background_method": "model", "fit_method": "median"},
        {"background_method": "model", "background_box_size": (16, 60)},
    ],
    ids=str,
)
def test_time_series(prepared, allowed, parameters):
    ds, peer, _ = prepared("nrs_bots_g395h")
    parameters = {**OURS, **parameters}
    theirs = peer_result(peer, 2, **parameters)
    ours = nsclean(ds.isel(integration=slice(2)), **parameters)
    allowed("cleaned").agree(ours["sci"], theirs)


@pytest.mark.parametrize("parameters", [{"fit_by_channel": True}, {"background_method": "model"}])
def test_medians_of_a_full_frame(prepared, allowed, parameters):
    ds, peer, _ = prepared("nrs_fs_g395h")
    parameters = {**OURS, "fit_method": "median", **parameters}
    ours = nsclean(ds, **parameters)
    allowed("cleaned").agree(ours["sci"], peer_result(peer, **parameters))


def test_harmonics_of_a_full_frame(prepared, allowed):
    ds, peer, _ = prepared("nrs_fs_g395h")
    ours, theirs = nsclean(ds, **OURS)["sci"].values, peer_result(peer, **OURS)
    # column 4 follows reference pixels: there the peer weights with the inverse of rounding
    # errors, which the smoothing carries 8 columns on
    allowed("cleaned").agree(ours[:, 13:], theirs[:, 13:])
    allowed("harmonics").agree(ours, theirs)
