"""pixel_replace and resample_spec of NIRSpec slits against the peer, slit by slit."""

import contextlib
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from spec2fn.io import open_product
from spec2fn.schema import Meta, meta_of
from spec2fn.steps.pixel_replace import pixel_replace
from spec2fn.steps.resample_spec import resample_spec
from tests.buckets import bucketize

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

VARIANCES = ("var_poisson", "var_rnoise", "var_flat")
PLANES = ("sci", "err", *VARIANCES, "wht", "con", "wavelength")
# Beyond the wavelength of its last column the peer's table goes on at a wrong place, so that what
# lies in the last half column piles up in the middle of it (see docs/parity.md).
LAST = 2


def plane(slit, name):
    return np.asarray(getattr(slit, {"sci": "data"}.get(name, name)))


def load(model):
    """The slits of one of the peer's models."""
    slits = list(getattr(model, "slits", [model]))
    made, wcs = [], {}
    for i, slit in enumerate(slits):
        native = {n: plane(slit, n) for n in ("sci", "err", *VARIANCES, "dq")}
        data = {
            n: (("y", "x"), v.astype(v.dtype.newbyteorder("=")))
            for n, v in native.items()
            if v.size
        }
        numbers = {"slit": i, "pixar_sr": slit.meta.photometry.pixelarea_steradians or np.nan}
        texts = {"slit_name": str(slit.name), "bunit": slit.meta.bunit_data, "s_region": ""}
        data |= {k: ((), np.array(v)) for k, v in (numbers | texts).items()}
        made.append(xr.Dataset(data))
        wcs[i] = slit.meta.wcs
    attrs = {"instrument": "NIRSPEC", "dispaxis": 1, "meta": Meta(wcs=wcs)}
    return bucketize(made).assign_attrs(attrs), slits


@contextlib.contextmanager
def opened(folder, kind):
    from stdatamodels.jwst import datamodels

    with datamodels.open(sorted((folder / "steps").glob(f"*_{kind}.fits"))[0]) as model:
        yield model


def assert_same_slits(ours, theirs, allowed, names=PLANES, skip=LAST):
    assert len(ours) == len(theirs)
    for i, slit in enumerate(theirs):
        mine = ours.slit(i)
        for name in names:
            a, b = mine[name].values, plane(slit, name)
            assert a.shape == b.shape, (slit.name, name)
            allowed("with_last_columns").agree(a, b, slit.name, name)
            stop = a.shape[-1] - skip
            allowed("slits").agree(a[..., :stop], b[..., :stop], slit.name, name)


@pytest.mark.parametrize("name", ["nrs_fs_g395h", "nrs_mos_prism", "nrs_fs_nrs2"])
def test_resampled_slits(scenario, allowed, name):
    folder = scenario(name)
    with opened(folder, "pixel_replace") as before, opened(folder, "s2d") as after:
        slits, _ = load(before)
        ours = slits.map(resample_spec)
        assert_same_slits(ours, after.slits, allowed)
        for i, slit in enumerate(after.slits):
            mine = ours.slit(i)
            assert str(mine["s_region"].item()) == slit.meta.wcsinfo.s_region
            area = slit.meta.photometry.pixelarea_steradians
            assert mine["pixar_sr"].item() == allowed("keywords").approx(area)
            wcs, peers = meta_of(mine).wcs[i], slit.meta.wcs
            assert tuple(wcs.array_shape) == tuple(peers.array_shape)
            y, x = np.indices(peers.array_shape)
            for a, b in zip(wcs(x, y), peers(x, y), strict=True):
                allowed("wcs").close(a, b)
            within = [w.get_transform("detector", "slit_frame")(x, y) for w in (wcs, peers)]
            allowed("slit_frame").close(within[0][1], within[1][1])


def test_the_peer_misplaces_the_last_half_column(scenario):
    """Why the last columns differ: 0.4 columns beyond the last one is not at its middle."""
    with opened(scenario("nrs_mos_prism"), "s2d") as after:
        wcs = after.slits[0].meta.wcs
        nx = wcs.array_shape[1]
        ra, dec, wave = wcs(np.array([nx - 2.0, nx - 1.0]), np.array([10.0, 10.0]))
        x, _ = wcs.invert(ra[1], dec[1], wave[1] + 0.4 * np.diff(wave)[0], with_bounding_box=False)
    assert abs(x - (nx - 1)) < 0.01
    assert abs(x - (nx - 0.6)) > 0.3


@pytest.mark.parametrize("name", ["nrs_fs_g395h", "nrs_mos_prism"])
def test_replaced_pixels(scenario, allowed, name):
    names = ("sci", "err", *VARIANCES)
    folder = scenario(name)
    with opened(folder, "cal") as before, opened(folder, "pixel_replace") as after:
        slits, _ = load(before)
        ours = slits.map(pixel_replace)
        assert_same_slits(ours, after.slits, allowed, names, skip=0)
        for i, slit in enumerate(after.slits):
            np.testing.assert_array_equal(ours.slit(i)["dq"], slit.dq)


@pytest.fixture
def flight_slit():
    """A slit of CEERS with the pixels that flew."""
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    pytest.importorskip("jwst", reason="the parity extra (jwst==3.0.0) is not installed")
    return next(Path(folder, "nirspec_mos").glob("*_phot.*.fits"))


@pytest.mark.parametrize("algorithm", ["mingrad", "fit_profile"])
def test_pixels_of_a_flight_slit_are_replaced_alike(flight_slit, allowed, algorithm):
    from jwst.pixel_replace.pixel_replace import PixelReplacement
    from stdatamodels.jwst import datamodels

    ours = pixel_replace(open_product(flight_slit), algorithm=algorithm).slit("138")
    with datamodels.open(flight_slit) as model:
        theirs = model.copy()
        logging.disable(logging.CRITICAL)
        with contextlib.ExitStack() as stack:
            stack.callback(logging.disable, logging.NOTSET)
            PixelReplacement(theirs, algorithm=algorithm).replace()
        assert ((theirs.dq & (1 << 28)) != 0).sum() > 10
        np.testing.assert_array_equal(ours["dq"], theirs.dq)
        # the peer's fit stops short of the minimum
        for name in ("sci", "err", *VARIANCES):
            allowed(algorithm).agree(ours[name].values, plane(theirs, name), name)


@pytest.mark.parametrize(
    "parameters", [{}, {"pixfrac": 0.7, "pixel_scale_ratio": 1.3}, {"weight_type": "exptime"}]
)
def test_a_flight_slit_is_resampled_alike(flight_slit, allowed, parameters):
    from jwst.resample import ResampleSpecStep
    from stdatamodels.jwst import datamodels

    resampled = resample_spec(open_product(flight_slit), **parameters)
    ours = resampled.slit("138")
    step = ResampleSpecStep()
    for name, value in parameters.items():
        setattr(step, name, value)
    logging.disable(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        stack.callback(logging.disable, logging.NOTSET)
        model = step.process(stack.enter_context(datamodels.open(flight_slit)))
        theirs = {n: plane(model, n) for n in PLANES if n != "con"}
        region, wcs = model.meta.wcsinfo.s_region, model.meta.wcs
    for name, values in theirs.items():
        allowed("slits").agree(ours[name].values, values, name)
    assert str(ours["s_region"].values) == region
    assert tuple(meta_of(ours).wcs[0].array_shape) == tuple(wcs.array_shape)
