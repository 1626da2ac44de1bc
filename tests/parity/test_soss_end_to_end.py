"""Whole runs of NIRISS SOSS against the peer: every product and step, keywords, gwcs."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.io import open_product
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
    # masked pixels hold what the model says, also where nothing but the smoothness is known
    return "with_models" if "niriss_soss_model" in str(run.folder) else "spectra"


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
def test_models_agree(whole_run, allowed):
    run = whole_run("niriss_soss_model")
    assert not run.skipped & {"extract_1d", "photom"}
    name = "niriss_soss_SossExtractModel.fits"
    with fits.open(run.folder / "steps" / name) as theirs, fits.open(run.out / name) as ours:
        assert [h.name for h in theirs] == [h.name for h in ours if h.name != "SPEC2FN"]
        for a in theirs[1:-1]:
            b = ours[a.name]
            bright = np.abs(a.data) > 1e-3 * np.abs(a.data).max()
            found = allowed("models").fraction(b.data[bright], a.data[bright])
            assert found >= allowed("models").ok, (a.name, found)
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
