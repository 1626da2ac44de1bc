"""The compiled pipeline gives the products of the one in NumPy."""

import numpy as np
import pytest

from spec2fn.calibration import calibrate
from spec2fn.calibration.pieces import chosen_backend
from spec2fn.engine.pipeline import steps_of
from spec2fn.errors import ParameterError
from spec2fn.io import diff, open_product
from spec2fn.testing import exposures

SERIES = "NRC_TSGRISM"


def calibrated(folder, **how):
    refs = exposures.references(SERIES)
    types = {r for s in steps_of(exposures.pipeline(SERIES)) if not s.skip for r in s.refs}
    return calibrate(
        exposures.observation(SERIES, integrations=5),
        folder,
        overrides={t: refs.get(t) for t in types},
        parameter_references=False,
        **how,
    )


def test_products_are_the_same_in_pieces_too(tmp_path):
    numpy = calibrated(tmp_path / "numpy")
    # the last piece is smaller than the others
    jax = calibrated(tmp_path / "jax", backend="jax", chunk_integrations=2)
    assert set(jax.files) == set(numpy.files)
    report = diff(tmp_path / "numpy", tmp_path / "jax", rtol=1e-5, atol=1e-9)
    assert report.same, str(report)
    for kind, path in jax.files.items():
        mine, theirs = open_product(path), open_product(numpy.files[kind])
        assert mine.sizes == theirs.sizes
        for name in ("dq", "int_num"):
            if name in theirs:
                np.testing.assert_array_equal(mine[name], theirs[name])
    assert numpy.report["backend"] == {"name": "numpy"}
    assert jax.report["backend"]["name"] == "jax"
    assert jax.report["backend"]["device"]


def test_short_exposures_stay_in_numpy(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("jax.default_backend", lambda: asked.append(1) or "cpu")
    assert calibrated(None, backend="auto").report["backend"] == {"name": "numpy"}
    assert asked


@pytest.mark.parametrize(
    ("device", "pixels", "expected"), [("gpu", 1e12, "jax"), ("cpu", 1, "jax")]
)
def test_long_ones_and_accelerators_take_jax(device, pixels, expected, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: device)
    monkeypatch.setattr("spec2fn.calibration.pieces._AUTO_PIXELS", pixels)
    made = calibrated(None, backend="auto")
    assert made.report["backend"]["name"] == expected


def test_another_backend_is_refused():
    with pytest.raises(ParameterError, match="needs numpy, jax or auto, got 'torch'"):
        chosen_backend(None, "torch")
