"""A slit that fails: flagged and reported while the others go on, or an error with strict."""

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.engine import pipeline as compose
from spec2fn.engine import run as running
from spec2fn.errors import InputError, StepFailedError
from spec2fn.schema import meta_of
from spec2fn.testing import exposures

MOS = "NRS_MSASPEC"
DNU = PIXEL["DO_NOT_USE"]
VICTIM = "2"


def fragile(error=ValueError):
    """A step that fails on one slit and adds a variable to the others."""

    def tremble(ds):
        if VICTIM in ds["slit_name"].values:
            raise error("it trembles")
        sci = ds.variables["sci"]
        return ds.assign(
            sci=(sci.dims, sci.data * np.float32(2), dict(sci.attrs)),
            tremor=(("slit", "y", "x"), np.ones(sci.shape, np.float32)),
            quake=("slit", np.arange(ds.sizes["slit"])),
        )

    return tremble


@pytest.fixture(scope="module")
def pipeline():
    return compose.without(exposures.pipeline(MOS), "master_background")


def calibrated(pipeline, **options):
    return running.run(pipeline, exposures.observation(MOS), exposures.references(MOS), **options)


@pytest.fixture(scope="module")
def runs(pipeline):
    def twice(ds):
        # the same without an accident
        return ds.assign(sci=(ds["sci"].dims, ds["sci"].values * np.float32(2)))

    shaken = compose.insert_after(pipeline, "srctype", fragile())
    return calibrated(compose.insert_after(pipeline, "srctype", twice)), calibrated(shaken)


def test_the_others_go_on(runs):
    fine, shaken = (r.products["cal"] for r in runs)
    assert shaken.names == fine.names
    for one, other in zip(fine, shaken, strict=True):
        if one["slit_name"].item() == VICTIM:
            continue
        for name in ("sci", "err", "dq", "wavelength"):
            np.testing.assert_array_equal(one[name], other[name])
        assert other["slit_problem"].item() == ""


def test_the_slit_is_flagged(runs):
    lost = runs[1].products["cal"].slit(VICTIM)
    assert np.isnan(lost["sci"].values).all()
    assert ((lost["dq"].values & DNU) > 0).all()
    assert np.isnan(lost["tremor"].values).all()
    assert lost["slit_problem"].item() == "ValueError: it trembles"


def test_it_is_reported(runs):
    problems = {r.name: dict(r.problems) for r in runs[1].report if r.problems}
    assert problems["tremble"] == {VICTIM: "ValueError: it trembles"}
    assert runs[1].products["cal"].problems == {VICTIM: "ValueError: it trembles"}
    assert not any(r.problems for r in runs[0].report)


def test_spectra_of_the_others_are_extracted(runs):
    fine, shaken = (r.products["x1d"] for r in runs)
    names = [str(n) for n in fine["sltname"].values]
    assert VICTIM in names
    others = [n for n in names if n != VICTIM]
    assert [n for n in map(str, shaken["sltname"].values) if n != VICTIM] == others
    for name in others:
        a, b = (d.isel(spectrum=list(d["sltname"].values).index(name)) for d in (fine, shaken))
        n = int(a["n_wave"])
        assert np.isfinite(a["flux"].values[:n]).any()
        np.testing.assert_allclose(a["flux"].values[:n], b["flux"].values[:n], rtol=1e-5)
    for k in np.flatnonzero(shaken["sltname"].values == VICTIM):
        assert not np.nansum(shaken["flux"].values[k])


def test_strict_raises(pipeline):
    with pytest.raises(StepFailedError, match="tremble failed: ValueError: it trembles"):
        calibrated(compose.insert_after(pipeline, "srctype", fragile()), strict=True)


def test_input_errors_are_not_isolated(pipeline):
    with pytest.raises(InputError, match="it trembles"):
        calibrated(compose.insert_after(pipeline, "srctype", fragile(InputError)))


def test_strict_raises_for_problems_that_steps_record(pipeline):
    def break_wcs(slits):
        def one(bucket):
            wcs = dict(meta_of(bucket).wcs)
            for i, name in zip(bucket["slit"].values, bucket["slit_name"].values, strict=True):
                if name == VICTIM:
                    wcs[int(i)] = None
            return bucket.assign_attrs(meta=meta_of(bucket).replace(wcs=wcs))

        return one(slits)

    broken = compose.insert_after(pipeline, "srctype", break_wcs)
    result = calibrated(broken)
    assert VICTIM in result.products["cal"].problems
    assert np.isfinite(result.products["cal"].slit("1")["sci"].values).any()
    with pytest.raises(StepFailedError, match=rf"\(strict=True\): slit {VICTIM}: barshadow"):
        calibrated(broken, strict=True)


def test_a_step_that_fails_on_every_slit_raises(pipeline):
    def never(ds):
        raise ValueError("never")

    with pytest.raises(StepFailedError, match="step never failed: ValueError: never"):
        calibrated(compose.insert_after(pipeline, "srctype", never))
