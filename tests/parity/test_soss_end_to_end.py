"""Whole runs of NIRISS SOSS against the peer: every product and step, keywords, gwcs."""

import json

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.io import open_product
from spec2fn.plans.extraction.soss_references import order_profiles
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from tests.parity.headers import same_keywords

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

# written by whoever made the file, or recorded by us alone
OURS = {"DATE", "FILENAME", "CAL_VER", "CAL_VCS", "CRDS_VER", "R_EXTR1D"}
# our table has one column more
TABLE = {"NAXIS1", "TFIELDS", "TTYPE28", "TFORM28", "TUNIT28", "TDIM28"}


LATER = [pytest.param(name, marks=pytest.mark.nightly) for name in ("rate", "model")]


@pytest.fixture(params=["box", "sub96", "atoca", *LATER])
def run(request, whole_run):
    return whole_run(f"niriss_soss_{request.param}")


def spectra_of(run):
    return "x1dints" if "x1dints" in run.peer else "x1d"


def rows_of(run):
    return "with_models" if "niriss_soss_model" in str(run.folder) else "spectra"


GRID = {"soss_wave_grid_out": "grid.fits"}  # in the folder of the scenario


def test_every_product_agrees(run, compare, allowed):
    low, files = [], run.files()
    for kind, path in files:
        least = allowed(rows_of(run) if kind.startswith("x1d") else "exposures")
        for row in compare(path, run.ours(kind), least.rtol):
            assert "problem" not in row, (kind, row)
            if row.get("ok", 1.0) < (least.dq if row["plane"][0] == "DQ" else least.ok):
                low.append((kind, row["plane"], row["ok"]))
    spectra = spectra_of(run)
    assert {k for k, _ in files} >= {"flat_field", spectra.replace("x1d", "cal"), spectra}
    assert not low
    for kind in (spectra.replace("x1d", "cal"), spectra):
        with fits.open(run.peer[kind]) as theirs, fits.open(run.ours(kind)) as ours:
            assert [h.name for h in theirs] == [h.name for h in ours if h.name != "SPEC2FN"]
            for a in theirs[:-1]:
                close = allowed("keywords")
                same_keywords(a.header, ours[a.name, a.ver].header, close, left_out(a.header))


def left_out(header):
    return OURS | (TABLE if header.get("EXTNAME") == "EXTRACT1D" else set())


@pytest.mark.nightly
@pytest.mark.parametrize("grid", ["own", "official"])
def test_models_agree(whole_run, allowed, grid):
    run = whole_run("niriss_soss_model", given={"extract_1d": GRID})
    if grid == "official":
        given = str(run.folder / GRID["soss_wave_grid_out"])
        run.more.update(extract_1d={"soss_wave_grid_in": given})
    assert not run.skipped & {"extract_1d", "photom"}
    name = "niriss_soss_SossExtractModel.fits"
    row = allowed("models" if grid == "own" else "models_on_one_grid")
    with fits.open(run.folder / "steps" / name) as theirs, fits.open(run.out / name) as ours:
        assert [h.name for h in theirs] == [h.name for h in ours if h.name != "SPEC2FN"]
        for a in theirs[1:-1]:
            b = ours[a.name]
            bright = np.abs(a.data) > 1e-3 * np.abs(a.data).max()
            found = row.fraction(b.data[bright], a.data[bright])
            assert found >= row.ok, (a.name, found)
            assert ((a.data != 0) == (b.data != 0)).all()
    name = "niriss_soss_AtocaSpectra.fits"
    with fits.open(run.folder / "steps" / name) as theirs, fits.open(run.out / name) as ours:
        assert [h.name for h in theirs] == [h.name for h in ours if h.name != "SPEC2FN"]
        for k in (3, 4):  # the official spectra of the joint fit are convolved twice
            a, b = theirs["EXTRACT1D", k], ours["EXTRACT1D", k]
            assert [c for c in a.header if c not in TABLE] == [
                c for c in b.header if c not in TABLE
            ]
            beyond = len(b.data) - len(a.data)  # a column at the end of the wavelengths
            assert beyond in (0, 1)
            allowed("fitted").agree(b.data["FLUX"][beyond:], a.data["FLUX"], k)


SEARCHED = {"extract_1d": {"soss_modelname": "niriss_soss", **GRID}}


def spectra_in(path, order):
    with fits.open(path) as hdus:
        table = hdus["EXTRACT1D", order].data
        return np.array(table["FLUX"]), np.array(table["FLUX_ERROR"])


def explained(run, models):
    """Misfit of the models of all orders to the pixels of the apertures, and columns it leaves out.

    Those are columns in which the models explain nothing.
    """
    with fits.open(run.peer["calints"]) as hdus, fits.open(models) as found:
        sci, err = (hdus[name].data.astype(float) for name in ("SCI", "ERR"))
        used = np.isfinite(sci) & np.isfinite(err) & (err > 0) & (hdus["DQ"].data & 1 == 0)
        orders = [found[f"ORDER{k}"].data for k in (1, 2, 3)]
        used &= np.any([found[f"APER{k}"].data > 0 for k in (1, 2, 3)], axis=0)
    for order in orders:
        known = np.flatnonzero((order != 0).any(axis=(0, 1)))
        # beyond its last column an order has light, and no model
        used[..., known[-1] + 1 : known[-1] + 4] = False
    square = np.where(used, (sci - sum(orders)) / np.where(used, err, 1.0), 0.0) ** 2
    by_column = square.sum(axis=(0, 1)) / np.maximum(used.sum(axis=(0, 1)), 1)
    lost = by_column > 100
    return square[..., ~lost].sum() / used[..., ~lost].sum(), np.flatnonzero(lost)


def test_a_factor_that_is_searched(whole_run, allowed):
    run, row = whole_run("niriss_soss_auto", given=SEARCHED), allowed("searched")
    assert not run.skipped & {"extract_1d", "photom"}
    for order in (1, 2, 3):
        theirs, error = spectra_in(run.peer["x1dints"], order)
        ours, _ = spectra_in(run.ours("x1dints"), order)
        known = np.isfinite(theirs)
        assert (np.isfinite(ours) == known).all()
        off = np.abs(ours - theirs)[known]
        assert (off <= allowed("of_the_error").rtol * error[known]).all(), order
        found = np.mean(off <= row.rtol * np.abs(theirs[known]))
        assert found >= row.ok, (order, found)
    name = "niriss_soss_SossExtractModel.fits"
    (ours, lost), (theirs, same) = (
        explained(run, folder / name) for folder in (run.out, run.folder / "steps")
    )
    assert ours <= 1.001 * theirs
    # where the official joint fit of order 2 ends, its model is made by other weights
    assert list(lost) == list(same)
    assert len(same) <= 1
    # the nodes of the grid
    theirs, ours = (
        fits.getdata(folder / "grid.fits", "WAVEGRID") for folder in (run.folder, run.out)
    )
    for low, high in ((0.0, 0.847), (0.86, np.inf)):
        some = [g[(g > low) & (g < high)] for g in (theirs, ours)]
        assert len(some[0]) == len(some[1])
        allowed("grid").close(*some)


def off_the_truth(run, models):
    """Standard deviations of (light of columns / truth - 1), of orders 1 and 2."""
    with np.load(run.folder / "truth.npz") as truth:
        columns = [truth[f"columns{k}"] for k in (1, 2)]
    curve = np.array(json.loads((run.folder / "scenario.json").read_text())["truth"]["light_curve"])
    (path,) = (run.folder / "crds_cache").rglob("*specprofile*.fits")
    found = []
    with fits.open(models) as hdus:
        images = [hdus[f"ORDER{k}"].data for k in (1, 2)]
    profiles = order_profiles(open_reference(path), (1, 2), images[0].shape[1:])
    for image, profile, column, low, high in zip(
        images, profiles, columns, (20, 20), (2030, 1300), strict=True
    ):
        own = np.where(image[0] != 0, profile, 0.0)
        with np.errstate(invalid="ignore"):
            light = (image * own).sum(axis=1) / (own**2).sum(axis=0)
            off = light / (column * curve[:, None]) - 1
        found.append(off[:, low:high].std())
    return np.array(found)


def test_the_evidence_is_nearer_to_the_truth(whole_run):
    usual = {"soss_criterion": "evidence", "soss_official_model": False}
    run = whole_run("niriss_soss_auto", given=SEARCHED, more={"extract_1d": usual})
    assert not run.skipped & {"extract_1d", "photom"}
    name = "niriss_soss_SossExtractModel.fits"
    ours, theirs = (off_the_truth(run, f / name) for f in (run.out, run.folder / "steps"))
    assert (ours < [0.7 * theirs[0], 0.1 * theirs[1]]).all(), (ours, theirs)
    assert (ours < 6e-3).all(), ours
    # the official spectrum follows the noise instead
    (mine, lost), (official, _) = (
        explained(run, f / name) for f in (run.out, run.folder / "steps")
    )
    assert not len(lost)
    assert 1 < mine / official < 1.015


def test_wavelengths_of_pixels(whole_run, allowed):
    from stdatamodels.jwst import datamodels

    run = whole_run("niriss_soss_box")
    assert not run.skipped & {"extract_1d", "photom"}
    ours = meta_of(open_product(run.ours("calints"))).wcs
    with datamodels.open(run.peer["calints"]) as model:
        theirs = model.meta.wcs
        assert ours.available_frames == theirs.available_frames
        y, x = np.mgrid[:256:50, :2048:100].astype(float)
        for order in (1, 2, 3):
            pairs = (w.forward_transform.get_model(order)(x, y) for w in (ours, theirs))
            for a, b in zip(*pairs, strict=True):
                allowed("wcs").close(a, b)
        for a, b in zip(ours.pipeline, theirs.pipeline, strict=True):
            assert (a.frame.name, a.frame.unit) == (b.frame.name, b.frame.unit)


def test_without_throughput_there_is_no_spectrum(whole_run, compare, allowed):
    run = whole_run("niriss_soss_f277w")
    least = allowed("exposures")
    rows = compare(run.peer["calints"], run.ours("calints"), least.rtol) if run.skipped else []
    assert rows
    assert all(row.get("ok", 1.0) >= least.ok for row in rows)
    assert {"extract_1d", "photom"} <= run.skipped
    assert not run.ours("x1dints").exists()
