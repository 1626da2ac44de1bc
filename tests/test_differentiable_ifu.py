"""Gradients through the pipelines of integral-field units, compared with finite differences."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from spec2fn import transforms
from spec2fn.dq import PIXEL
from spec2fn.engine.pipeline import after, with_parameters
from spec2fn.engine.run import run
from spec2fn.pipelines import MIRI_MRS
from spec2fn.plans.background.straylight import COLUMNS
from spec2fn.schema import Meta
from spec2fn.testing import exposures

POINT = {"srctype": {"source_type": "POINT"}, "pixel_replace": {"skip": False}}
# Without what gradients take as constant: the noise of nsclean, and which spaxels of the background
# are clipped; in uniform light many are at the limit.
NIRSPEC = {
    **POINT,
    "badpix_selfcal": {"skip": False},
    # not in the middle of a spaxel, where circles touch the borders of others
    "extract_1d": {"bkg_sigma_clip": 100.0, "center_xy": (18.63, 11.27)},
}
MRS = {**POINT, "residual_fringe": {"skip": False}}

ROWS, COLUMNS_OF_DETECTOR, WIDTH, SLICES = 200, 1032, 8, 4
ALONG, ACROSS = 0.2, 0.25  # size of a pixel and a slice [arcsec]
RA, DEC = 30.0, 40.0
CHANNELS = {"1": (20, 4.9, 0.0009), "2": (600, 7.6, 0.0013)}  # left, start and step [um]


def slices_of_the_detector():
    out = np.zeros((ROWS, COLUMNS_OF_DETECTOR), np.int32)
    for channel, (left, _, _) in CHANNELS.items():
        for s in range(SLICES):
            x = left + s * (WIDTH + 2)
            out[:, x : x + WIDTH] = int(channel) * 100 + s + 1
    return out


def wcs_of(slices):
    from astropy import coordinates, units
    from astropy.modeling.models import (
        Const1D,
        Identity,
        Mapping,
        Pix2Sky_TAN,
        RotateNative2Celestial,
        Scale,
        Shift,
    )
    from gwcs import WCS
    from gwcs import coordinate_frames as cf
    from gwcs.selector import LabelMapperArray, RegionsSelector

    transforms_of_slices = {}
    for label in np.unique(slices[slices > 0]):
        _, start, step = CHANNELS[str(label // 100)]
        middle = float(np.flatnonzero((slices == label).any(axis=0)).mean())
        beta = (label % 100 - 1 - (SLICES - 1) / 2) * ACROSS
        along = Shift(-middle) | Scale(ALONG)
        wave = Scale(step) | Shift(start)
        transforms_of_slices[int(label)] = Mapping((0, 0, 1)) | along & Const1D(beta) & wave
    select = RegionsSelector(
        ("x", "y"),
        ("a", "b", "l"),
        label_mapper=LabelMapperArray(slices),
        selector=transforms_of_slices,
    )
    sky = Scale(1 / 3600) & Scale(1 / 3600) | Pix2Sky_TAN()
    sky = sky | RotateNative2Celestial(RA, DEC, 180)
    spectral = cf.SpectralFrame(
        axes_order=(2,), name="spectral", unit=(units.um,), axes_names=("wavelength",)
    )
    plane = cf.Frame2D(name="slices", axes_order=(0, 1))
    celestial = cf.CelestialFrame(reference_frame=coordinates.ICRS(), axes_order=(0, 1), name="sky")
    frames = (
        cf.Frame2D(name="detector", axes_order=(0, 1)),
        cf.CompositeFrame([plane, spectral], name="alpha_beta"),
        cf.CompositeFrame([celestial, spectral], name="world"),
    )
    return WCS([(frames[0], select), (frames[1], sky & Identity(1)), (frames[2], None)])


def mrs_exposure():
    """A star with fringes on a background, after assign_wcs; some pixels are bad."""
    from astropy.io import fits

    slices = slices_of_the_detector()
    inside = slices > 0
    wcs = wcs_of(slices)
    y, x = np.mgrid[: slices.shape[0], : slices.shape[1]].astype(float)
    planes = {n: np.full(slices.shape, np.nan) for n in ("alpha", "beta", "wavelength")}
    found = wcs.get_transform("detector", "alpha_beta")(x, y)
    for plane, values in zip(planes.values(), found, strict=True):
        plane[inside] = values[inside]
    sky = wcs.get_transform("alpha_beta", "world")(*(p[inside] for p in planes.values()))
    for name, values in zip(("ra", "dec"), sky, strict=False):
        planes[name] = np.full(slices.shape, np.nan)
        planes[name][inside] = values
    rng = np.random.default_rng(0)
    star = 300.0 * np.exp(-(planes["alpha"] ** 2 + planes["beta"] ** 2) / (2 * 0.3**2))
    fringes = 1 + 0.05 * np.cos(2 * np.pi * 1e4 / planes["wavelength"] / 2.8)
    light = np.where(inside, (40.0 + star) * fringes, 0.2)
    sci = (light * (1 + 0.001 * rng.normal(size=light.shape))).astype(np.float32)
    dq = np.zeros(sci.shape, np.uint32)
    bad = rng.random(sci.shape) < 0.01
    sci[bad], dq[bad] = np.nan, PIXEL["DO_NOT_USE"]
    dims = ("y", "x")
    primary = fits.Header({"EXP_TYPE": "MIR_MRS", "CHANNEL": "12", "BAND": "SHORT"})
    primary.update({"TARG_RA": RA, "TARG_DEC": DEC, "INSTRUME": "MIRI"})
    return xr.Dataset(
        {
            "sci": (dims, sci, {"units": "DN/s"}),
            "err": (dims, np.full(sci.shape, 0.2, np.float32)),
            "dq": (dims, dq),
            "var_poisson": (dims, np.full(sci.shape, 0.03, np.float32)),
            "var_rnoise": (dims, np.full(sci.shape, 0.01, np.float32)),
            "slice_id": (dims, slices),
            "mid_time": ((), np.float64(60400.0)),
            **{n: (dims, p) for n, p in planes.items()},
        },
        attrs={
            "exp_type": "MIR_MRS",
            "instrument": "MIRI",
            "detector": "MIRIFUSHORT",
            "channel": "12",
            "band": "SHORT",
            "subarray": "FULL",
            "xstart": 1,
            "ystart": 1,
            "dispaxis": 2,
            "status_assign_wcs": "COMPLETE",
            "meta": Meta(primary=primary, science=fits.Header(), filename="a_rate.fits", wcs=wcs),
        },
    )


def mrs_references():
    from astropy.io import fits

    shape, image = (ROWS, COLUMNS_OF_DETECTOR), ("y", "x")
    wave = np.array([4.0, 12.0])
    y, x = np.indices(shape)

    def plane(values):
        values = values.astype(np.float32)
        return xr.Dataset({"sci": (image, values), "dq": (image, np.zeros(shape, np.uint32))})

    flat = plane(1 + 0.05 * np.sin(x / 9 + y / 40))
    flat = flat.assign(err=(image, np.full(shape, 0.01, np.float32)))
    header = fits.Header({"PHOTMJSR": 50.0, "PIXAR_SR": 8e-13, "PIXAR_A2": 0.05})
    photom = plane(50 + x / 200).assign_attrs(meta=Meta(primary=header))
    profile = {"lor_fwhm": 60.0, "gau_fwhm": 6.0, "gau_xoff": 20.0, "lor_scale": 1e-3}
    artifact = {
        f"ch{c}a.{n}": (f"ch{c}a_row", np.full(ROWS, profile.get(n, 3e-4), np.float32))
        for c in "12"
        for n in COLUMNS
    }
    numbers = [int(v) for v in np.unique(slices_of_the_detector()) if v]
    columns = {
        "ffreq": (2.9, 0.4),
        "dffreq": (1.5, 0.15),
        "min_nfringes": (1, 1),
        "max_nfringes": (2, 2),  # fewer shapes to compile
        "min_snr": (3.0, 3.0),
        "pgram_res": (0.001, 0.001),
    }
    fringes = {
        "max_amp.wavelength": (("a",), np.array([4.5, 29.0])),
        "max_amp.amplitude": (("a",), np.array([0.12, 0.12])),
        "rfc_freq_short.slice": (("row",), np.array(numbers, dtype=float)),
    }
    for name, value in columns.items():
        fringes[f"rfc_freq_short.{name}"] = (("row", "kind"), np.tile(value, (len(numbers), 1)))
    bands = {
        "channel": list(CHANNELS),
        "band": ["SHORT"] * 2,
        "spaxelsize": np.full(2, 0.2, np.float32),
        "spectralstep": np.array([0.0018, 0.0026], np.float32),
        "wavemin": np.array([c[1] for c in CHANNELS.values()], np.float32),
        "wavemax": np.array([c[1] + ROWS * c[2] for c in CHANNELS.values()], np.float32),
    }
    radii = {"radius": 0.45, "inner_bkg": 0.5, "outer_bkg": 0.8}
    circles = {n: np.array([v, v * 1.05]) for n, v in radii.items()}
    meta = {"method": "exact", "subtract_background": True}
    sizes = np.array([[0.3, 0.35], [0.6, 0.7]])
    loss = {"apcorr": np.array([[1.3, 1.35], [1.1, 1.15]]), "radius_units": "arcsec"}
    return {
        "flat": flat,
        "fringe": plane(1 + 0.02 * np.cos(y / 2 + x)),
        "photom": photom,
        "mrsxartcorr": xr.Dataset(artifact),
        "fringefreq": xr.Dataset(fringes),
        "cubepar": xr.Dataset({f"cubepar.{k}": ("band", np.asarray(v)) for k, v in bands.items()}),
        "extract1d": xr.Dataset(
            attrs={"tree": {"data": {"wavelength": wave, **circles}, "meta": meta}}
        ),
        "apcorr": xr.Dataset(
            attrs={"tree": {"apcorr_table": {"wavelength": wave, "radius": sizes, **loss}}}
        ),
    }


def nirspec_ifu():
    pipeline = with_parameters(exposures.pipeline("NRS_IFU"), NIRSPEC)
    refs = exposures.references("NRS_IFU")
    head = run(pipeline[:1], exposures.observation("NRS_IFU"), refs)
    flats = {"sflat": "sflat/sci", "dflat": "dflat/sci"}
    return after(pipeline, "assign_wcs"), head.dataset, refs, head.members, flats


def miri_mrs():
    rest = after(with_parameters(MIRI_MRS, MRS), "assign_wcs")
    flats = {"flat": "flat/sci", "fringe": "fringe/sci"}
    return rest, mrs_exposure(), mrs_references(), {}, flats


# what takes a minute is to compile the fits of fringes
CASES = [
    pytest.param(nirspec_ifu, id="nirspec_ifu"),
    pytest.param(miri_mrs, id="miri_mrs", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """What follows assign_wcs, run once, and as a function of exposure, references and plans."""
    rest, start, refs, members, flats = request.param()
    first = run(rest, start, refs, members=members)
    spectra = _spectra(first.dataset)
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.5, 1.5, s["flux"].shape) for s in spectra]
    size = sum(float((s["flux"].values * w).sum()) for s, w in zip(spectra, weights, strict=True))

    def scalar(ds, given, plans):
        import jax.numpy as jnp

        out = run(rest, ds, {**refs, **given}, members=members, plans=plans)
        found = zip(_spectra(out.dataset), weights, strict=True)
        return sum(jnp.sum(jnp.asarray(s["flux"].data) * w) for s, w in found) / size

    return SimpleNamespace(
        start=start,
        given={name: refs[name] for name in flats},
        plans=first.plans,
        scalar=scalar,
        flats=flats,
        first=first,
        absent=(
            "adaptive_trace_model",
            *(("nsclean",) if members else ("badpix_selfcal", "background")),
        ),
    )


def _spectra(ds):
    return getattr(ds, "cubes", (ds,))


def _slope(function):
    return (float(function(1.0)) - float(function(-1.0))) / 2


def _direction(values, gradient, size):
    """A step along the gradient that is large against the rounding of float32."""
    rng = np.random.default_rng(3)
    step = rng.uniform(0.5, 1.5, values.shape) * np.sign(gradient) * size
    return (step * np.nan_to_num(np.abs(values))).astype(values.dtype)


def test_every_step_has_run(case):
    status = {r.name: r.status for r in case.first.report if r.name not in case.absent}
    assert set(status.values()) == {"COMPLETE"}, status


def test_gradients_through_the_pipeline(case):
    plans = case.plans["extract_1d"]
    centres = ["extract_1d/centre"]
    if isinstance(plans, tuple):
        centres = [f"extract_1d/{i}/centre" for i in range(len(plans))]
    wrt = {0: ("sci",), 1: tuple(case.flats.values()), 2: tuple(centres)}
    compiled = transforms.jit(transforms.value_and_grad(case.scalar, wrt))
    value, found = compiled(case.start, case.given, case.plans)
    assert float(value) == pytest.approx(1.0, rel=1e-5)  # as the run without JAX
    found = {k: np.asarray(v, dtype=float) for each in found.values() for k, v in each.items()}
    for name, gradient in found.items():
        assert np.isfinite(gradient).all(), name
        assert np.abs(gradient).max() > 0, name

    sci = case.start["sci"]
    step = _direction(sci.values, found["sci"], 2e-3)

    def at_sci(sign):
        moved = case.start.assign(sci=(sci.dims, sci.values + np.float32(sign) * step, sci.attrs))
        return case.scalar(moved, case.given, case.plans)

    assert _slope(at_sci) == pytest.approx((found["sci"] * step).sum(), rel=2e-3)

    for name, path in case.flats.items():
        flat = case.given[name]
        step = _direction(flat["sci"].values, found[path], 2e-3)

        def at_flat(sign, name=name, flat=flat, step=step):
            moved = flat.assign(sci=(flat["sci"].dims, flat["sci"].values + sign * step))
            return case.scalar(case.start, {**case.given, name: moved}, case.plans)

        assert _slope(at_flat) == pytest.approx((found[path] * step).sum(), rel=2e-3), name

    for i, path in enumerate(centres):
        for k in range(2):
            step = np.zeros(2)
            step[k] = 1e-4

            def at_centre(sign, i=i, step=step):
                one = plans[i] if isinstance(plans, tuple) else plans
                one = dataclasses.replace(one, centre=one.centre + sign * step)
                moved = (*plans[:i], one, *plans[i + 1 :]) if isinstance(plans, tuple) else one
                return case.scalar(case.start, case.given, {**case.plans, "extract_1d": moved})

            assert _slope(at_centre) == pytest.approx(found[path][k] * step[k], rel=5e-3), (path, k)
