"""Whole pipelines of NIRSpec slits: integrations, fixed slits alone, selections, detectors."""

import numpy as np
import pytest

from spec2fn.calibration.pieces import joined
from spec2fn.dq import PIXEL
from spec2fn.engine import pipeline as compose
from spec2fn.engine import run as running
from spec2fn.engine.step import Step
from spec2fn.io import ProductStream, open_product, write_product
from spec2fn.schema import meta_of
from spec2fn.testing import exposures

FS, MOS = "NRS_FIXEDSLIT", "NRS_MSASPEC"
COUNT = 3
OFF = {"master_background": {"skip": True}}


def in_integrations(exp_type):
    """An observation whose exposure has integrations of different noise."""
    obs = exposures.observation(exp_type)
    rng = np.random.default_rng(5)
    planes = {}
    for name in ("sci", "err", "dq", "var_poisson", "var_rnoise"):
        one = obs.science[name]
        many = np.stack([one.values] * COUNT)
        if name == "sci":
            many = many + rng.normal(0.0, 0.05, many.shape).astype(many.dtype)
        if name == "dq":
            many[1, 40:60:3, 30:90:7] = PIXEL["DO_NOT_USE"]
        planes[name] = (("integration", *one.dims), many, dict(one.attrs))
    ds = obs.science.drop_vars(list(planes)).assign(planes)
    return obs.replace(ds.assign_attrs(model="CubeModel"))


def calibrated(exp_type, obs, params=None, **options):
    if exp_type == MOS:
        params = {**OFF, **(params or {})}
    pipeline = exposures.pipeline(exp_type)
    return running.run(pipeline, obs, exposures.references(exp_type), params=params, **options)


@pytest.fixture(scope="module", params=[FS, MOS])
def several(request):
    obs = in_integrations(request.param)
    return request.param, obs, calibrated(request.param, obs)


def test_every_integration_is_calibrated_by_itself(several):
    exp_type, obs, whole = several
    one = obs.replace(obs.science.isel(integration=1, drop=True).assign_attrs(model="ImageModel"))
    for mine, alone in zip(
        whole.products["cal"], calibrated(exp_type, one).products["cal"], strict=True
    ):
        for name in ("sci", "err", "dq", "var_flat"):
            np.testing.assert_allclose(mine[name][1], alone[name], rtol=1e-5, err_msg=name)


def test_resampled_and_extracted_by_integration(several):
    _, _, whole = several
    assert whole.products["s2d"].dims == ("slit", "integration", "y", "x")
    spectra = whole.products["x1d"]
    assert spectra.sizes["integration"] == COUNT
    assert np.isfinite(spectra["flux"].values).any(axis=-1).all()


def test_pieces_give_the_bytes_of_the_whole(several, tmp_path):
    exp_type, obs, whole = several
    folders = {name: tmp_path / name for name in ("whole", "pieces", "joined")}
    for folder in folders.values():
        folder.mkdir()
    streams, plans, parts = {}, None, {}
    for i in range(COUNT):
        piece = obs.replace(obs.science.isel(integration=slice(i, i + 1)))
        result = calibrated(exp_type, piece, plans=plans)
        plans = result.plans
        for kind, product in result.products.items():
            path = folders["pieces"] / f"{kind}.fits"
            streams.setdefault(kind, ProductStream(path, product, COUNT)).append(product)
            parts.setdefault(kind, []).append(product)
    for kind, product in whole.products.items():
        streams[kind].close()
        write_product(product, folders["whole"] / f"{kind}.fits")
        write_product(joined(parts[kind]), folders["joined"] / f"{kind}.fits")
        expected = (folders["whole"] / f"{kind}.fits").read_bytes()
        assert (folders["pieces"] / f"{kind}.fits").read_bytes() == expected, kind
        assert (folders["joined"] / f"{kind}.fits").read_bytes() == expected, kind


def test_a_shared_background_needs_all_integrations():
    (step,) = compose.find_steps(exposures.pipeline(MOS), "master_background")
    assert not step.works_in_pieces


@pytest.fixture(scope="module")
def usual():
    return calibrated(MOS, exposures.observation(MOS))


def without_slitlets(obs):
    (metadata,) = obs.members["msa_metadata"]
    fixed = metadata["shutter_info.fixed_slit"].values != "NONE"
    assert fixed.any()
    only = metadata.isel(shutter_info_row=np.flatnonzero(fixed))
    return obs.replace(msa_metadata=(only,))


def test_a_mos_exposure_that_holds_only_fixed_slits(usual, tmp_path):
    obs = without_slitlets(exposures.observation(MOS))
    result = calibrated(MOS, obs, {"master_background": {"skip": False}})
    cal = result.products["cal"]
    assert cal.names == ("S200A1",)
    np.testing.assert_array_equal(cal.slit(0)["sci"], usual.products["cal"].slit("S200A1")["sci"])
    assert result.products["x1d"].sizes["spectrum"] == 1
    write_product(cal, tmp_path / "a_cal.fits")
    assert open_product(tmp_path / "a_cal.fits").names == ("S200A1",)


def test_a_mos_exposure_without_fixed_slits(usual):
    obs = exposures.observation(MOS)
    (metadata,) = obs.members["msa_metadata"]
    open_ = metadata["shutter_info.fixed_slit"].values == "NONE"
    obs = obs.replace(msa_metadata=(metadata.isel(shutter_info_row=np.flatnonzero(open_)),))
    result = calibrated(MOS, obs)
    for one in result.products["cal"]:
        other = usual.products["cal"].slit(str(one["slit_name"].item()))
        np.testing.assert_array_equal(one["sci"], other["sci"])


@pytest.mark.parametrize("before", ["extract_2d", "srctype", "cal", "resample_spec"])
def test_slits_are_selected_before_or_after_any_step(before, usual):
    names = ("2", "S200A1")
    pipeline = exposures.pipeline(MOS)
    if before == "extract_2d":
        selected = calibrated(
            MOS, exposures.observation(MOS), {"extract_2d": {"slit_names": names}}
        )
    else:
        some = compose.insert_before(pipeline, before, _Select(names))
        selected = running.run(
            some, exposures.observation(MOS), exposures.references(MOS), params=OFF
        )
    for kind in ("cal", "s2d"):
        if kind == "cal" and before == "resample_spec":
            continue
        made = selected.products[kind]
        assert made.names == names
        for one in made:
            other = usual.products[kind].slit(str(one["slit_name"].item()))
            for name in ("sci", "err", "dq"):
                if name in one:
                    np.testing.assert_allclose(one[name], other[name], rtol=1e-5, err_msg=name)
    assert selected.products["x1d"].sizes["spectrum"] == 2


def _Select(names):
    return Step("select", lambda slits: slits.select(names), reads=(), scope="slits")


def test_a_reopened_product_goes_on(usual, tmp_path):
    """The steps after a product give the same from its file as in memory."""
    path = write_product(usual.products["cal"], tmp_path / "a_cal.fits")
    rest = compose.after(exposures.pipeline(MOS), "cal")
    again = running.run(rest, open_product(path), exposures.references(MOS)).products["x1d"]
    flux = usual.products["x1d"]["flux"].values
    np.testing.assert_allclose(again["flux"].values, flux, rtol=1e-5)


def test_products_open_without_reading_pixels(usual, tmp_path):
    path = write_product(usual.products["cal"], tmp_path / "a_cal.fits")
    opened = open_product(path)
    assert opened.names == usual.products["cal"].names
    assert not any(b.variables["sci"]._in_memory for b in opened.buckets)
    one = opened.select(names=["2"])
    assert np.isfinite(one.slit("2")["sci"].values).any()
    assert meta_of(one.slit("2")).wcs is not None
