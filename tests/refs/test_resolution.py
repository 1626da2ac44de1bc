"""References of an exposure: overrides, hashes, mapping behaviour."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from spec2fn.engine.pipeline import product
from spec2fn.engine.step import step
from spec2fn.errors import InputError, ParameterError, ReferenceError
from spec2fn.refs import LazyReference, references


def test_mapping_names_and_hashes(cache, rate, sources):
    refs = references(rate(), ("flat", "fringe"))
    assert list(refs) == ["flat", "fringe"]
    assert refs["fringe"] is None
    assert isinstance(refs["flat"], LazyReference)
    assert dict(refs.names) == {"flat": "jwst_miri_flat_0001.fits", "fringe": "N/A"}
    expected = hashlib.sha256(sources["flat"].read_bytes()).hexdigest()
    assert refs.sha256("flat") == refs.sha256("flat") == expected
    assert refs.sha256("fringe") == ""
    with pytest.raises(TypeError):
        refs["flat"] = None


def test_only_steps_that_run(cache, rate):
    def one(ds, flat=None):
        return ds

    def two(ds, extract1d=None):
        return ds

    on = step(refs=("flat",), name="t_on")(one)
    off = step(refs=("extract1d",), name="t_off", skip=True)(two)
    lifted = SimpleNamespace(step=on)
    assert list(references(rate(), (lifted, off, product("cal")))) == ["flat"]
    assert list(references(rate(), (on, off.with_(skip=False)))) == ["flat", "extract1d"]


def test_overrides(cache, rate, tmp_path, make_flat):
    own = make_flat(tmp_path / "mine.fits", 5.0)
    refs = references(rate(), ("flat",), overrides={"flat": own})
    assert refs.names["flat"] == "mine.fits"
    assert float(refs["flat"].load()["sci"][0, 0]) == 5.0
    assert refs.context == ""  # CRDS was not asked
    array = references(rate(), ("flat",), overrides={"flat": np.ones((4, 5))})
    assert array["flat"]["sci"].shape == (4, 5)
    assert array.names["flat"] == "override"
    assert len(array.sha256("flat")) == 64
    other = references(rate(), ("flat",), overrides={"flat": 2 * np.ones((4, 5))})
    assert other.sha256("flat") != array.sha256("flat")
    for none in (None, "N/A", "n/a"):
        assert references(rate(), ("flat",), overrides={"flat": none})["flat"] is None


def test_override_errors(cache, rate, tmp_path, sources):
    with pytest.raises(ParameterError, match=r"'flatt'.*did you mean 'flat'"):
        references(rate(), ("flat",), overrides={"flatt": None})
    with pytest.raises(ReferenceError, match="does not exist"):
        references(rate(), ("flat",), overrides={"flat": tmp_path / "no.fits"})
    with pytest.raises(ReferenceError, match="is a reference of type 'extract1d'"):
        references(rate(), ("flat",), overrides={"flat": sources["extract1d"]})


def test_home_is_expanded_in_overrides(cache, rate, make_flat, tmp_path, monkeypatch):
    make_flat(tmp_path / "mine.fits")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = references(rate(), ("flat",), overrides={"flat": "~/mine.fits"})
    assert found["flat"].path == tmp_path / "mine.fits"
    with pytest.raises(InputError, match=r"~nobodyatall/mine\.fits: .* in full"):
        references(rate(), ("flat",), overrides={"flat": "~nobodyatall/mine.fits"})


def test_overrides_need_no_crds(tmp_path, rate, make_flat, monkeypatch):
    for name in ("CRDS_PATH", "CRDS_CONTEXT", "CRDS_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    own = make_flat(tmp_path / "mine.fits")
    assert references(rate(), ("flat",), overrides={"flat": own}).names["flat"] == "mine.fits"
