"""The step pixel_replace."""

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, ParameterError
from spec2fn.schema import status_of
from spec2fn.steps.pixel_replace import pixel_replace

ALGORITHMS = ("mingrad", "fit_profile")
BAD = [(10, 8), (12, 8), (20, 7), (25, 9)]


@pytest.fixture
def spectrum(lrs_case):
    def make(shape=(30, 16)):
        ds = lrs_case.exposure(shape=shape).assign_attrs(dispaxis=2)
        y, x = np.mgrid[:30, :16]
        truth = (50 + y) * np.exp(-0.5 * ((x - 8.2) / 2) ** 2) + 5
        sci = np.broadcast_to(truth, shape).astype(np.float32)
        dq = np.zeros(shape, np.uint32)
        err = (sci / 30).astype(np.float32)
        for pixel in BAD:
            sci[(..., *pixel)] = err[(..., *pixel)] = np.nan
            dq[(..., *pixel)] = PIXEL["DO_NOT_USE"] | PIXEL["HOT"]
        dims = ds["sci"].dims
        new = {"sci": sci, "err": err, "dq": dq, "var_poisson": err**2}
        return ds.assign({k: (dims, v) for k, v in new.items()}), truth

    return make


@pytest.mark.parametrize("shape", [(30, 16), (2, 30, 16)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_smooth_spectra_are_recovered(spectrum, algorithm, shape):
    ds, truth = spectrum(shape)
    out = pixel_replace(ds, algorithm=algorithm)
    for pixel in BAD:
        at = (..., *pixel)
        np.testing.assert_allclose(out["sci"].values[at], truth[pixel], rtol=0.02)
        np.testing.assert_allclose(out["err"].values[at], truth[pixel] / 30, rtol=0.02)
        expected = PIXEL["FLUX_ESTIMATED"] | PIXEL["HOT"]
        assert (out["dq"].values[at] == expected).all()
    np.testing.assert_allclose(out["var_poisson"], out["err"] ** 2, rtol=1e-5)
    good = ds["dq"].values == 0
    for name in ("sci", "err", "dq", "var_poisson"):
        np.testing.assert_array_equal(out[name].values[good], ds[name].values[good])
        assert out[name].dtype == ds[name].dtype
    assert status_of(out, "pixel_replace") == "COMPLETE"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scaling_the_data_scales_the_estimates(spectrum, algorithm):
    ds, _ = spectrum()
    names = {"sci": 8, "err": 8, "var_poisson": 64}
    scaled = ds.assign({k: ds[k] * np.float32(f) for k, f in names.items()})
    a, b = (pixel_replace(d, algorithm=algorithm) for d in (ds, scaled))
    for name, factor in names.items():
        np.testing.assert_allclose(b[name], a[name] * factor, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_repeating_it_changes_nothing(spectrum, algorithm):
    ds, _ = spectrum()
    once = pixel_replace(ds, algorithm=algorithm)
    twice = pixel_replace(once, algorithm=algorithm)
    for name in ("sci", "err", "dq", "var_poisson"):
        np.testing.assert_array_equal(once[name], twice[name])


def test_dispersion_axis_is_needed_for_the_profile_only(spectrum):
    ds, _ = spectrum()
    del ds.attrs["dispaxis"]
    pixel_replace(ds)
    with pytest.raises(DatasetError, match=r"needs the dispersion axis.*found None"):
        pixel_replace(ds, algorithm="fit_profile")


def test_parameters_are_checked(spectrum):
    ds, _ = spectrum()
    with pytest.raises(ParameterError, match="'fit_profile' or 'mingrad'"):
        pixel_replace(ds, algorithm="median")
    with pytest.raises(ParameterError, match="n_adjacent_cols"):
        pixel_replace(ds, n_adjacent_cols=0)
    assert pixel_replace.skip


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_transformations(spectrum, algorithm):
    pytest.importorskip("jax")
    from spec2fn import transforms

    ds, _ = spectrum((2, 30, 16))
    step = pixel_replace.with_(algorithm=algorithm, n_adjacent_cols=1)
    expected = step(ds)
    compiled = transforms.jit(step)(ds, plan=step.plan(ds))
    for name in ("sci", "err", "dq", "var_poisson"):
        np.testing.assert_allclose(compiled[name], expected[name], rtol=1e-5)
        assert compiled[name].dtype == expected[name].dtype
