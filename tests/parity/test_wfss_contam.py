"""Contamination of slitless spectra against the peer: model, contamination, spectra."""

import numpy as np
import pytest
from astropy.io import fits

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def images(path):
    with fits.open(path) as file:
        return [h.data.astype(np.float64) for h in file if h.name == "SCI"]


def test_chunks_orders_and_a_magnitude_limit(whole_run, compare, allowed):
    run = whole_run("niriss_wfss_esec")
    assert "wfss_contam" not in run.skipped
    # with parameters of their own: wfss_mmag_extract, wfss_maxiter, wfss_rms_stop,
    # wfss_outlier_percent of the background, and those of extract_2d
    for kind in ("bsub", "esec", "extract_2d"):
        for row in compare(run.peer[kind], run.ours(kind), allowed("before").rtol):
            assert "problem" not in row, (kind, row)
            assert row.get("ok", 1.0) == 1, (kind, row)
    scales = [fits.getheader(path)["BKGD_SCL"] for path in (run.ours("bsub"), run.peer["bsub"])]
    assert scales[0] == allowed("background").approx(scales[1])
    (theirs,), (ours,) = images(run.peer["simul"]), images(run.ours("simul"))
    assert theirs.max() > 1
    allowed("simulated").close(ours, theirs)
    row = allowed("contamination")
    for kind in ("simul_slits", "contam"):
        pairs = list(zip(images(run.ours(kind)), images(run.peer[kind]), strict=True))
        assert len(pairs) >= 10
        # what is left of two large numbers is as good as these
        scale = max(np.abs(theirs).max() for _, theirs in pairs)
        for ours, theirs in pairs:
            np.testing.assert_allclose(ours, theirs, rtol=row.rtol, atol=1e-6 * scale)


@pytest.mark.parametrize("name", ["niriss_wfss", "nircam_wfss"])
def test_polynomials_fitted_to_the_spectra(whole_run, compare, allowed, name):
    run = whole_run(name)
    least, low = allowed("corrected"), []
    files = dict(run.files())
    assert {"wfss_contam", "cal", "x1d"} <= set(files)
    for kind in ("wfss_contam", "cal", "x1d"):
        for row in compare(files[kind], run.ours(kind), least.rtol):
            assert "problem" not in row, (kind, row)
            if row.get("ok", 1.0) < (least.dq if row["plane"][0] == "DQ" else least.ok):
                low.append((kind, row["plane"], row["ok"]))
    assert not low
    with fits.open(files["extract_2d"]) as before, fits.open(files["cal"]) as after:
        assert len([h for h in before if h.name == "SCI"]) == len(
            [h for h in after if h.name == "SCI"]
        )
