"""The promise of CONTRIBUTING: a new mode is a row, a builder and a tuple."""

import sys
import types

import numpy as np
import pytest

import spec2fn
from spec2fn import modes, pipelines
from spec2fn.cli import main
from spec2fn.demo.run import CONTEXT, run_demo
from spec2fn.errors import InputError
from spec2fn.refs import open_reference, use_cache
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.extract_1d import extract_1d
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.photom import photom
from spec2fn.steps.srctype import srctype

NAME = "TOY_SPECTRUM"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_demo("miri-lrs-slitless", tmp_path_factory.mktemp("toy"), integrations=2)


@pytest.fixture
def toy(demo, tmp_path, monkeypatch):
    """An exposure of a mode nobody has heard of, and its references."""
    from astropy.io import fits

    (source,) = demo.folder.glob("*_rateints.fits")
    path = tmp_path / "jw0_toy_rateints.fits"
    with fits.open(source) as hdus:
        hdus[0].header["EXP_TYPE"] = NAME
        hdus.writeto(path)
    refs = {
        kind: open_reference(found).assign_attrs(made_for=())
        for kind in ("distortion", "specwcs", "flat", "photom", "apcorr")
        for found in (demo.files["cache"] / "references").rglob(f"*_{kind}_*.*")
    }
    # apertures are found by the name of the mode
    (found,) = (demo.files["cache"] / "references").rglob("*_extract1d_*.json")
    refs["extract1d"] = tmp_path / "extract1d.json"
    refs["extract1d"].write_text(found.read_text().replace("MIR_LRS-SLITLESS", NAME))
    # what an author of the mode writes: a row, …
    row = modes.Mode(NAME, "MIRI", "image", "toy.optics:build", one_source=True)
    monkeypatch.setitem(modes.MODES, NAME, row)
    # … a builder, …
    optics = types.ModuleType("toy.optics")

    def build(ds, references, params):
        from spec2fn.wcs.assign.miri import lrs

        return lrs(ds, references, params)

    optics.build = build
    monkeypatch.setitem(sys.modules, "toy", types.ModuleType("toy"))
    monkeypatch.setitem(sys.modules, "toy.optics", optics)
    # … and a tuple of steps
    steps = (
        assign_wcs,
        srctype,
        flat_field,
        photom,
        spec2fn.product("cal"),
        extract_1d,
        spec2fn.product("x1d", of="extract_1d"),
    )
    monkeypatch.setitem(pipelines.MODES, NAME, ("TOY", steps))
    with use_cache(demo.files["cache"], CONTEXT):
        yield path, refs


def test_a_mode_is_a_row_a_builder_and_a_tuple(toy, demo, tmp_path):
    path, refs = toy
    made = spec2fn.calibrate(path, tmp_path / "out", overrides=refs, parameter_references=False)
    assert made.report["mode"] == "TOY"
    assert {s["status"] for s in made.report["steps"]} == {"COMPLETE"}
    assert sorted(p.name for p in made.files.values()) == [
        "jw0_toy_calints.fits",
        "jw0_toy_x1dints.fits",
    ]
    # its optics are those of the exposure it was made from, and so is the spectrum
    usual = spec2fn.open_product(demo.files["x1d"])
    ours = spec2fn.open_product(made.files["x1d"])
    np.testing.assert_allclose(ours["wavelength"], usual["wavelength"], rtol=1e-12)
    ratio = (ours["flux"] / usual["flux"]).values
    assert np.nanmedian(abs(ratio - 1)) < 0.01


def test_without_its_row_the_mode_is_refused(toy, monkeypatch):
    path, refs = toy
    monkeypatch.delitem(modes.MODES, NAME)
    with pytest.raises(InputError, match=f"EXP_TYPE '{NAME}' is not spectroscopic"):
        spec2fn.calibrate(path, overrides=refs, parameter_references=False)


def test_the_list_of_modes_shows_it(toy, capsys):
    assert main(["modes"]) == 0
    assert f"{NAME}  TOY" in capsys.readouterr().out
