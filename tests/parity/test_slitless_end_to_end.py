"""Whole runs of wide-field slitless exposures against the peer: every product and step."""

import numpy as np
import pytest
from astropy.io import fits

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SCENARIOS = ("niriss_wfss", "nircam_wfss", "miri_wfss")
# keywords of a slit that are the same to the last digit
IDENTICAL = (
    "SLTNAME", "SLTSTRT1", "SLTSTRT2", "SLTSIZE1", "SLTSIZE2", "SOURCEID", "SRCTYPE", "SPORDER",
    "DISPAXIS", "SPECSYS", "BUNIT", "S_REGION",
)  # fmt: skip
CLOSE = ("SRCXPOS", "SRCYPOS", "SRCRA", "SRCDEC", "PHOTMJSR", "PHOTUJA2", "PIXAR_SR", "PIXAR_A2")


@pytest.fixture
def run(request, whole_run):
    return whole_run(request.param, without=("wfss_contam",))


@pytest.mark.parametrize("run", SCENARIOS, indirect=True)
def test_every_product_agrees(run, compare, allowed):
    least, low, files = allowed("products"), [], run.files()
    for kind, path in files:
        for row in compare(path, run.ours(kind), least.rtol):
            assert "problem" not in row, (kind, row)
            if row.get("ok", 1.0) < (least.dq if row["plane"][0] == "DQ" else least.ok):
                low.append((kind, row["plane"], row["ok"]))
    assert {k for k, _ in files} >= {"bsub", "flat_field", "extract_2d", "srctype", "cal", "x1d"}
    assert not low
    with fits.open(run.peer["bsub"]) as theirs, fits.open(run.ours("bsub")) as ours:
        scale = allowed("background").approx(theirs[0].header["BKGD_SCL"])
        assert ours[0].header["BKGD_SCL"] == scale
    with fits.open(run.peer["cal"]) as theirs, fits.open(run.ours("cal")) as ours:
        slits = _same_slits(theirs, ours, allowed("keywords"))
        for version in range(1, slits + 1):
            waves = (file["WAVELENGTH", version].data for file in (ours, theirs))
            allowed("wavelengths").close(*waves, equal_nan=True)


def _same_slits(theirs, ours, keywords):
    """Compare boxes, names and attributes of the slits in the order of the file; their number."""
    found = [[h.header for h in file if h.name == "SCI"] for file in (theirs, ours)]
    assert len(found[0]) == len(found[1])
    assert [h.name for h in theirs] == [h.name for h in ours if h.name != "SPEC2FN"]
    for a, b in zip(*found, strict=True):
        assert [a.get(k) for k in IDENTICAL] == [b.get(k) for k in IDENTICAL]
        assert [a[k] for k in CLOSE] == [keywords.approx(b[k]) for k in CLOSE]
    for keyword in ("SCATFILE", "SEGMFILE", "DIRIMAGE", "DATAMODL"):
        assert theirs[0].header[keyword] == ours[0].header[keyword]
    return len(found[0])


@pytest.mark.parametrize("run", SCENARIOS, indirect=True)
def test_spectra_are_those_of_the_same_sources(run, allowed):
    run.files()
    with fits.open(run.peer["x1d"]) as theirs, fits.open(run.ours("x1d")) as ours:
        tables = [[h for h in file if h.name == "EXTRACT1D"] for file in (theirs, ours)]
        for a, b in zip(*tables, strict=True):
            assert [a.header[k] for k in ("SPORDER", "EXPGRPID", "DISPAXIS")] == [
                b.header[k] for k in ("SPORDER", "EXPGRPID", "DISPAXIS")
            ]
            assert a.columns.names == [n for n in b.columns.names if n != "FLUX_ERROR_COV"]
            for name in a.columns.names:
                if a.data[name].dtype.kind in "iuU" or "EXTRACT2D" in name:
                    np.testing.assert_array_equal(a.data[name], b.data[name], name)
            for name in ("SOURCE_XPOS", "SOURCE_RA", "NPIXELS"):
                allowed("sources").close(b.data[name], a.data[name])
