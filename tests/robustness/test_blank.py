"""Exposures and references that leave no pixel: one line says so, nothing says COMPLETE."""

import numpy as np
import pytest
from astropy.io import fits

MODES = ("miri-lrs-slit", "miri-lrs-slitless", "nirspec-fs")


@pytest.mark.parametrize("mode", MODES)
def test_an_exposure_without_a_usable_pixel_is_refused(case, tmp_path, mode):
    made = case(mode)
    folder = made.copy(tmp_path / "input")
    with fits.open(folder / made.science, mode="update", memmap=False) as hdus:
        hdus["DQ"].data[:] = 1
    outcome = made.run(folder)
    assert outcome.error is not None
    assert f"{made.science}: no pixel of SCI is finite without DO_NOT_USE" in str(outcome.error)


@pytest.mark.parametrize("mode", MODES)
def test_a_reference_that_leaves_no_pixel_is_named_by_its_step(case, mode):
    made = case(mode)
    reftype = "dflat" if mode == "nirspec-fs" else "flat"
    path = made.references[reftype].with_name("blank.fits")
    with fits.open(made.references[reftype]) as hdus:
        hdus["SCI"].data[:] = np.nan
        hdus.writeto(path, overwrite=True)
    outcome = made.run(overrides={reftype: path})
    assert outcome.error is not None
    assert "flat" in str(outcome.error)


def test_one_bad_integration_is_no_reason(case, tmp_path):
    made = case("miri-lrs-slitless")
    folder = made.copy(tmp_path / "input")
    with fits.open(folder / made.science, mode="update", memmap=False) as hdus:
        hdus["SCI"].data[0] = np.nan
        count = len(hdus["SCI"].data)
    whole = made.run(folder)
    pieces = made.run(folder, chunk_integrations=1)
    for outcome in (whole, pieces):
        assert outcome.error is None, outcome.error
        assert set(outcome.statuses.values()) == set(made.usual.statuses.values())
        flux, error = (outcome.products["x1d"][n].values for n in ("flux", "flux_error"))
        assert len(flux) == count
        # a spectrum without any flux has no error, and certainly none of zero
        assert np.isnan(flux[0]).all()
        assert np.isnan(error[0]).all()
        assert np.isfinite(flux[1:]).any()
