"""Whole runs of NIRSpec slits against the peer: every product, and the output of every step."""

import importlib.util
import json

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.calibration import calibrate, prepare
from spec2fn.compose import steps_of

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SCENARIOS = (
    "nrs_fs_g395h",
    "nrs_fs_prism",
    "nrs_fs_nrs2",
    "nrs_bots_g395h",
    "nrs_mos_prism",
    "nrs_mos_g395m",
    "nrs_mos_nod",
)
# nsclean as the peer's clean_flicker_noise, and errors as the peer has them
PARAMETERS = {
    "nsclean": {
        "fit_method": "median",
        "background_method": "median",
        "single_mask": True,
        "n_sigma": 2.0,
        "mask_spectral_regions": False,
    },
    "background": {"propagate_variance": False},
    "imprint": {"propagate_variance": False},
    "master_background": {"propagate_variance": False},
}
# the peer's name of a step's output, and ours
SUFFIXES = {
    "msa_flagging": "msaflagopen",
    "clean_flicker_noise": "nsclean",
    "imprint_subtract": "imprint",
    "master_background_mos": "master_background",
}
RESAMPLED = ("s2d", "x1d", "x1dints")
LAST = 3


@pytest.fixture(scope="module")
def compare(peerbench):
    spec = importlib.util.spec_from_file_location("peerbench_compare", peerbench / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compare_file


def peers_outputs(folder):
    """The peer's files of the science exposure, by name of the product or step."""
    (final,) = (p for k in ("cal", "calints") for p in (folder / "steps").glob(f"*_{k}.fits"))
    stem = final.stem.rpartition("_")[0]
    return {
        p.stem.removeprefix(f"{stem}_"): p for p in (folder / "steps").glob(f"{stem}_*.fits")
    }, stem


def run_ours(folder, peer, out):
    described = json.loads((folder / "scenario.json").read_text())
    params = {name: dict(values) for name, values in PARAMETERS.items()}
    for name, values in described["steps"].items():
        params.setdefault(SUFFIXES.get(name, name), {}).update(values)
    source = folder / described["asn"]
    known = {
        s.name for s in steps_of(prepare(source, parameter_references=False).settings.pipeline)
    }
    saved = {SUFFIXES.get(n, n) for n in peer} & known
    return calibrate(
        source,
        out,
        params={k: v for k, v in params.items() if k in known},
        save_steps=sorted(saved),
        save_bsub="bsub" in peer,
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_product_agrees(name, scenario, crds_cache, compare, tmp_path):
    folder = scenario(name)
    crds_cache(folder)
    peer, stem = peers_outputs(folder)
    report = run_ours(folder, peer, tmp_path).report
    skipped = {
        s["step"].rpartition("/")[2] for s in report["steps"] if s["status"].startswith("SKIPPED")
    }
    compared, low = 0, []
    for kind, path in sorted(peer.items()):
        ours = tmp_path / f"{stem}_{SUFFIXES.get(kind, kind)}.fits"
        if SUFFIXES.get(kind, kind) in skipped:
            continue  # the peer saves what it has skipped
        compared += 1
        rtol, bar = (1e-3, 0.99) if kind in RESAMPLED else (1e-4, 0.999)
        for row in compare(path, ours, rtol):
            assert "problem" not in row, (kind, row)
            least = 1.0 if str(row["plane"][0]) == "DQ" and kind not in RESAMPLED else bar
            if row.get("ok", 1.0) < least:
                low.append((kind, row["plane"], row["ok"]))
    assert compared >= 9
    if name == "nrs_mos_prism":
        # Its master background is that of slits whose last columns the peer resamples wrongly, see
        # test_nirspec_resample.py: it differs in the last three columns of the slits, nowhere else.
        assert {plane[0] for _, plane, _ in low} <= {"SCI", "VAR_FLAT"}
        assert min(ok for *_, ok in low) > 0.995
        assert_same_but_for_the_last_columns(peer["cal"], tmp_path / peer["cal"].name)
        low = []
    assert not low


def assert_same_but_for_the_last_columns(theirs, ours):
    with fits.open(theirs) as a, fits.open(ours) as b:
        for name in ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"):
            for one in (h for h in a if h.name == name):
                x, y = (h[name, one.ver].data[:, :-LAST].astype(float) for h in (a, b))
                scale = np.abs(x) + np.nanmedian(np.abs(x))
                np.testing.assert_array_equal(np.isfinite(x), np.isfinite(y))
                agree = np.isnan(x) | (np.abs(x - y) <= 1e-4 * scale)
                assert agree.mean() >= 0.9999, (name, one.ver, agree.mean())
