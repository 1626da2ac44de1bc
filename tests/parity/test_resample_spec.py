"""resample_spec on the peer's own input to the step, against the peer's output."""

import contextlib
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from spec2fn.io import open_product
from spec2fn.schema import meta_of
from spec2fn.steps.resample_spec import resample_spec

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:Kernel reset")]

PLANES = ("sci", "err", "var_poisson", "var_rnoise", "var_flat", "wht", "con", "wavelength")
SCALARS = ("pixar_sr", "pixar_a2", "source_xpos", "source_ypos")


def one(folder, kind):
    return sorted((folder / "steps").glob(f"*_{kind}.fits"))[0]


def assert_same(ours, theirs, row):
    for name in PLANES:
        row.agree(ours[name], theirs[name], name)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("miri_lrs_slit", {}), ("miri_lrs_slit_pars", {"pixfrac": 0.8, "weight_type": "exptime"})],
)
def test_pipeline_product(scenario, allowed, name, parameters):
    folder = scenario(name)
    ours = resample_spec(open_product(one(folder, "pixel_replace")), **parameters)
    theirs = open_product(one(folder, "s2d"))
    assert_same(ours, theirs, allowed("planes"))
    for scalar in SCALARS:
        allowed("keywords").close(ours[scalar], theirs[scalar], err_msg=scalar)
    meta = meta_of(theirs)
    assert ours.attrs["s_region"] == meta.get("S_REGION")
    assert ours.attrs["model"] == meta.get("DATAMODL")
    for attr, keyword in (
        ("ndriz", "NDRIZ"),
        ("weight_type", "RESWHT"),
        ("pixfrac", "PIXFRAC"),
        ("pixel_scale_ratio", "PXSCLRT"),
    ):
        assert ours.attrs[f"resample_{attr}"] == meta.get(keyword), keyword
    mine, peers = meta_of(ours).wcs, meta.wcs
    assert mine.array_shape == peers.array_shape
    y, x = np.indices(mine.array_shape)
    allowed("wcs").close(mine(x, y), peers(x, y))
    world = peers(x, y)
    allowed("inverse").close(mine.invert(*world), peers.invert(*world))


def peer_step(path, **parameters):
    resample = pytest.importorskip("jwst.resample")
    from stdatamodels.jwst import datamodels

    step = resample.ResampleSpecStep()
    for name, value in parameters.items():
        setattr(step, name, value)
    logging.disable(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        model = step.process(stack.enter_context(datamodels.open(path)))
        names = {"sci": "data"} | {n: n for n in PLANES if n != "sci"} | {"dq": "dq"}
        planes = {n: np.array(getattr(model, attr)) for n, attr in names.items()}
        return planes, model.meta.photometry.pixelarea_steradians, model.meta.wcs


@pytest.mark.parametrize(
    "parameters",
    [
        {"kernel": "point"},
        {"pixfrac": 0.0},
        {"pixel_scale_ratio": 0.7},
        {"pixel_scale_ratio": 1.9, "pixfrac": 0.6},
        {"pixel_scale": 0.08},
        {"fillval": "-5"},
        {"propagate_dq": True},
    ],
    ids=str,
)
def test_parameters(scenario, allowed, parameters):
    path = one(scenario("miri_lrs_slit"), "pixel_replace")
    theirs, area, _ = peer_step(path, **parameters)
    ours = resample_spec(open_product(path), **parameters)
    row = "pixel_scale" if "pixel_scale" in parameters else "planes"
    assert_same(ours, theirs, allowed(row))
    assert ours["pixar_sr"].item() == allowed("area").approx(area)
    if "propagate_dq" in parameters:
        np.testing.assert_array_equal(ours["dq"], theirs["dq"])


@pytest.mark.parametrize("output_shape", [None, (30, 200)])
def test_custom_wcs(scenario, allowed, tmp_path, output_shape):
    import asdf

    path = one(scenario("miri_lrs_slit"), "pixel_replace")
    ds = open_product(path)
    wcs = meta_of(resample_spec(ds, pixel_scale_ratio=1.2)).wcs
    asdf.AsdfFile({"wcs": wcs}).write_to(tmp_path / "wcs.asdf")
    parameters = {"output_wcs": str(tmp_path / "wcs.asdf"), "output_shape": output_shape}
    theirs, area, _ = peer_step(path, **parameters)
    ours = resample_spec(ds, **parameters)
    assert_same(ours, theirs, allowed("planes"))
    assert ours["pixar_sr"].item() == allowed("area").approx(area)


def test_integrations_each_like_the_peer(scenario, allowed, tmp_path):
    """The peer cannot resample a cube; one integration of it, it can."""
    from astropy.io import fits

    path = one(scenario("miri_lrs_slit_ints"), "pixel_replace")
    ours = resample_spec(open_product(path))
    assert ours["sci"].dims == ("integration", "y", "x")
    with fits.open(path) as hdus:
        for hdu in hdus:
            if hdu.name != "PRIMARY" and getattr(hdu.data, "ndim", 0) == 3:
                hdu.data = hdu.data[1]
        hdus["PRIMARY"].header["DATAMODL"] = "ImageModel"
        hdus.writeto(tmp_path / "one_image.fits")
    theirs, _, _ = peer_step(tmp_path / "one_image.fits")
    assert_same(ours.isel(integration=1), theirs, allowed("planes"))


@pytest.mark.parametrize(("kernel", "pixfrac"), [("square", 1.0), ("square", 0.8), ("point", 1.0)])
def test_drizzle_on_a_flight_slit(allowed, kernel, pixfrac):
    """The pixel map of a real NIRSpec slit, curved and with gaps, against the drizzle library."""
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    resample = pytest.importorskip("jwst.resample.resample_spec")
    from drizzle.resample import Drizzle
    from stcal.resample.utils import calc_pixmap
    from stdatamodels.jwst import datamodels

    from spec2fn.host.drizzle import drizzle_overlap
    from spec2fn.kernels import resampling

    path = sorted(Path(folder, "nirspec_mos").glob("*phot*.fits"))[0]
    with datamodels.open(path) as slit:
        maker = object.__new__(resample.ResampleSpec)
        out = maker.build_nirspec_output_wcs([slit], good_bits=0)
        pixel_map = calc_pixmap(slit.meta.wcs, out, slit.data.shape)
        data = np.array(slit.data)
        variance = np.array(slit.var_rnoise)
    weight = np.zeros_like(data)
    good = np.isfinite(data) & (variance > 0)
    weight[good] = 1 / variance[good]
    shape = tuple(out.array_shape)
    peer = Drizzle(kernel=kernel, out_shape=shape, fillval="NAN")
    peer.add_image(data, exptime=1.0, pixmap=pixel_map, weight_map=weight, pixfrac=pixfrac)
    overlap = drizzle_overlap(np.moveaxis(pixel_map, -1, 0), shape, kernel, pixfrac)
    coefficient, wht = resampling.coefficients(overlap, weight.ravel())
    sci = resampling.apply(overlap, coefficient, data.ravel())
    sampled = peer.out_wht > 0
    row = allowed("drizzle")
    for ours, theirs, size in (
        (wht.reshape(shape), peer.out_wht, wht.max()),
        (sci.reshape(shape)[sampled], peer.out_img[sampled], np.nanmax(np.abs(data[good]))),
    ):
        np.testing.assert_allclose(ours, theirs, rtol=row.rtol, atol=row.atol * size)
