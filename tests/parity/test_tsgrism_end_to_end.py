"""Whole runs of the grism time series against the peer: every product and step, keywords, gwcs."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.io import open_product
from spec2fn.schema import meta_of
from tests.parity.headers import same_keywords

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SCENARIOS = (
    "nircam_tsgrism",
    pytest.param("nircam_tsgrism_f322w2", marks=pytest.mark.slow),
)
# written by whoever made the file, or recorded by us alone
OURS = {"DATE", "FILENAME", "CAL_VER", "CAL_VCS", "CRDS_VER", "R_EXTR1D"}
# our table has one column more
TABLE = {"NAXIS1", "TFIELDS", "TTYPE28", "TFORM28", "TUNIT28", "TDIM28"}


@pytest.fixture(params=SCENARIOS)
def run(request, whole_run):
    return whole_run(request.param)


def test_every_product_agrees(run, compare, allowed):
    low, files = [], run.files()
    for kind, path in files:
        least = allowed("spectra" if kind == "x1dints" else "exposures")
        for row in compare(path, run.ours(kind), least.rtol):
            assert "problem" not in row, (kind, row)
            if row.get("ok", 1.0) < (least.dq if row["plane"][0] == "DQ" else least.ok):
                low.append((kind, row["plane"], row["ok"]))
    assert {k for k, _ in files} >= {"flat_field", "extract_2d", "calints", "x1dints"}
    assert not low
    for kind in ("calints", "x1dints"):
        with fits.open(run.peer[kind]) as theirs, fits.open(run.ours(kind)) as ours:
            assert [h.name for h in theirs] == [h.name for h in ours if h.name != "SPEC2FN"]
            for a in theirs[:-1]:
                close = allowed("keywords")
                same_keywords(a.header, ours[a.name].header, close, left_out(a.header))
    with fits.open(run.peer["calints"]) as theirs, fits.open(run.ours("calints")) as ours:
        allowed("wavelengths").close(ours["WAVELENGTH"].data, theirs["WAVELENGTH"].data)
        assert theirs[0].header["DATAMODL"] == ours[0].header["DATAMODL"] == "SlitModel"
    same_wcs(run, allowed)


def left_out(header):
    return OURS | (TABLE if header.get("EXTNAME") == "EXTRACT1D" else set())


def same_wcs(run, allowed):
    from stdatamodels.jwst import datamodels

    ours = meta_of(open_product(run.ours("calints"))).wcs
    with datamodels.open(run.peer["calints"]) as model:
        theirs = model.meta.wcs
        assert ours.available_frames == theirs.available_frames
        assert ours.bounding_box.bounding_box(order="F") == theirs.bounding_box.bounding_box(
            order="F"
        )
        y, x = np.mgrid[:60:20, :2000:100].astype(float)
        for a, b in zip(ours(x, y), theirs(x, y), strict=True):
            allowed("wcs").close(a, b)
        assert [s.frame.name for s in ours.pipeline] == [s.frame.name for s in theirs.pipeline]
        for a, b in zip(ours.pipeline, theirs.pipeline, strict=True):
            assert a.frame.unit == b.frame.unit
            assert a.frame.axes_names == b.frame.axes_names
