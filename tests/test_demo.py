"""The embedded example: unbiased, honest, complete, without a network."""

import json
import os

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.demo import DEMOS, run_demo
from spec2fn.errors import InputError


@pytest.mark.parametrize("mode", DEMOS)
def test_extracted_flux_is_the_truth_within_honest_errors(mode, tmp_path, monkeypatch):
    import socket

    def refuse(*_args, **_kwargs):
        raise OSError("the demo must not use the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "elsewhere"))
    demo = run_demo(mode, tmp_path / "out")
    c = demo.comparison
    assert c.clean.mean() > 0.9
    assert abs(c.mean) < 0.1
    assert 0.9 < c.scatter < 1.1
    assert os.environ["CRDS_PATH"] == str(tmp_path / "elsewhere")

    for path in demo.files.values():
        assert path.exists()
    assert demo.files["figure"].read_bytes().startswith(b"\x89PNG")
    with fits.open(demo.files["truth"]) as hdus:
        table = hdus["TRUTH"].data
        flux = np.atleast_2d(c.truth)
        truth = np.asarray(table["FLUX"]).reshape(len(table), -1)
        np.testing.assert_allclose(
            flux[0][c.clean.reshape(len(flux), -1)[0]],
            np.interp(c.wavelength, table["WAVELENGTH"], truth[:, 0])[
                c.clean.reshape(len(flux), -1)[0]
            ],
            rtol=1e-12,
        )
    facts = json.loads(json.dumps(demo.as_dict()))
    assert facts["points"] == c.clean.sum()
    for path in demo.files.values():
        assert str(path) in str(demo)


def test_the_number_of_integrations_can_be_chosen(tmp_path):
    demo = run_demo("miri-lrs-slitless", tmp_path, integrations=3)
    assert demo.comparison.flux.shape[0] == 3


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="did you mean 'miri-lrs-slit"):
        run_demo("miri-lrs-slitt", tmp_path)
    with pytest.raises(InputError, match="at least 1"):
        run_demo("miri-lrs-slitless", tmp_path, integrations=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        run_demo("miri-lrs-slit", tmp_path / "file")
