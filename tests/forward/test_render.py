"""Rendered exposures: noise, flags, files, references."""

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.dq import Pixel
from spec2fn.errors import InputError
from spec2fn.forward import scenes
from spec2fn.forward.exposures import observe, write_exposure
from spec2fn.forward.lrs import instrument as lrs
from spec2fn.forward.lrs import references
from spec2fn.forward.renderers import RENDERERS, render, write_references
from spec2fn.modes import MODES
from spec2fn.schema import validate
from spec2fn.testing import exposures

SLIT, SLITLESS = exposures.RENDERED


@pytest.mark.parametrize("exp_type", exposures.RENDERED)
def test_exposures_are_valid_and_flagged_consistently(exp_type):
    ds = validate(exposures.exposure(exp_type))
    bad = (ds["dq"].data & np.uint32(Pixel.DO_NOT_USE)) != 0
    for name in ("sci", "err", "var_poisson", "var_rnoise"):
        np.testing.assert_array_equal(np.isnan(ds[name].data), bad)
        assert not ds[name].data.flags.writeable
    assert bad[..., :4].all()
    hits = (ds["dq"].data & np.uint32(Pixel.JUMP_DET)) != 0
    assert 0 < hits.mean() < 3e-3


def test_noise_has_the_variance_that_is_stated():
    rate = np.full((300, 300), 20.0)
    bad = np.zeros(rate.shape, np.uint32)
    planes = observe(rate, bad, 100.0, (1,), lrs.DETECTOR)
    variance = planes["var_poisson"] + planes["var_rnoise"]
    np.testing.assert_allclose(planes["err"] ** 2, variance, rtol=1e-5)
    pull = (planes["sci"] - rate) / planes["err"]
    assert abs(pull.mean()) < 4 / 300
    assert pull.std() == pytest.approx(1.0, abs=4 / np.sqrt(2) / 300)
    plain = planes["dq"] == 0
    np.testing.assert_allclose(
        planes["var_poisson"][plain], 20.0 / (lrs.DETECTOR.gain * 100.0), rtol=1e-6
    )


def test_rendering_is_reproducible_and_seeds_differ():
    first = render(SLITLESS, 3, 2).science["sci"].data
    np.testing.assert_array_equal(first, render(SLITLESS, 3, 2).science["sci"].data)
    assert not np.array_equal(first, render(SLITLESS, 4, 2).science["sci"].data)


@pytest.mark.parametrize("exp_type", exposures.RENDERED)
def test_files_hold_what_is_in_memory(exp_type, tmp_path):
    from spec2fn.io import open_exposure

    made = exposures.rendered(exp_type)
    path = tmp_path / "a.fits"
    write_exposure(path, made.setups["science"], made.pieces("science"))
    opened, ours = open_exposure(path).compute(), exposures.exposure(exp_type)
    assert set(opened.variables) == set(ours.variables)
    for name in ours.variables:
        assert opened[name].dtype == ours[name].dtype
        np.testing.assert_array_equal(opened[name].data, ours[name].data)
        assert opened[name].attrs == ours[name].attrs
    left_out = ("meta",)
    assert {k: v for k, v in opened.attrs.items() if k not in left_out} == {
        k: v for k, v in ours.attrs.items() if k not in left_out
    }
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert hdus["DQ"].data.dtype == np.uint32


def test_association_names_every_exposure(tmp_path):
    import json

    made = exposures.rendered(SLIT)
    product = json.loads(made.write(tmp_path).read_text())["products"][0]
    assert [m["exptype"] for m in product["members"]] == [
        "science",
        "background",
        "target_acquisition",
    ]
    assert all((tmp_path / m["expname"]).exists() for m in product["members"])


@pytest.mark.parametrize("exp_type", exposures.RENDERED)
def test_references_are_what_their_schemas_say(exp_type, tmp_path):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    classes = {
        "distortion": datamodels.DistortionModel,
        "filteroffset": datamodels.FilteroffsetModel,
        "specwcs": datamodels.MiriLRSSpecwcsModel,
        "flat": datamodels.FlatModel,
        "photom": datamodels.MirLrsPhotomModel,
        "apcorr": datamodels.MirLrsApcorrModel,
        "pathloss": datamodels.MirLrsPathlossModel,
        "psf": datamodels.SpecPsfModel,
    }
    files = write_references(tmp_path, exp_type)
    for file in files:
        if file.reftype == "extract1d":
            continue
        with classes[file.reftype](file.path, strict_validation=True) as model:
            model.validate()
            assert model.meta.reftype.lower() == file.reftype


def test_the_aperture_correction_undoes_the_box(tmp_path):
    # the fraction of the light inside the box of a rendered row, against the reference
    made = exposures.rendered(SLITLESS)
    op = made.operators["science"]
    first, last = references.BOX[SLITLESS]
    columns = np.arange(*op.window[1])
    inside = (columns >= first) & (columns <= last)
    light = op(np.ones(op.shape[1])) / op.flat
    seen = light.sum(1) > 0
    share = light[:, inside].sum(1)[seen] / light.sum(1)[seen]
    table = made.references["apcorr"]
    wave = np.interp(op.fraction + op.index, np.arange(len(op.grid)), op.grid)[seen][:, 20]
    size = int(inside.sum())
    factor = np.interp(
        wave,
        table["apcorr.wavelength"].data[0],
        table["apcorr.apcorr"].data[0][:, size - 1],
    )
    np.testing.assert_allclose(share * factor, 1.0, atol=2e-5)


def test_modes_without_a_renderer_are_named():
    assert set(RENDERERS) <= set(MODES)
    with pytest.raises(
        InputError, match="no exposures of 'NRS_FIXEDSLITS'; did you mean 'NRS_FIXEDSLIT'"
    ):
        render("NRS_FIXEDSLITS")


def test_scenes_are_what_they_claim():
    assert scenes.light_curve(np.array([-0.5, 0.0, 0.5])).tolist() == [0.0, 1.0, 0.0]
    assert scenes.light_curve(np.array([0.2])) == pytest.approx(0.5)
    assert (scenes.dusty_star(scenes.GRID) > 0).all()
    truth = exposures.rendered(SLITLESS).truth
    np.testing.assert_array_equal(truth.at(truth.wavelength), truth.flux)
