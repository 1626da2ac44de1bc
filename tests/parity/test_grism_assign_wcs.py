"""assign_wcs of slitless spectra against the peer, from the same published references."""

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.modeling.models import Polynomial1D, Polynomial2D

from spec2fn.compatibility import preset
from spec2fn.io import open_exposure
from spec2fn.refs import open_reference
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.wcs.grism import GrismSlits
from spec2fn.wcs.lower import lower

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::stdatamodels.exceptions.ValidationWarning"),
    pytest.mark.filterwarnings("ignore::asdf.exceptions.AsdfWarning"),
]
POINTING = {"v2_ref": -289.9, "v3_ref": -697.7, "ra_ref": 0.0004, "dec_ref": -27.8}
POINTING |= {"roll_ref": 30.0, "velosys": 12345.6, "vparity": -1, "v3yangle": 0.57}
AS_THE_PEER = preset("jwst-3.0")["assign_wcs"]

NIRISS = [
    *("0003", "0005", "0006", "0014"),
    "0070.GR150C.F115W",
    "0072.GR150R.F115W",
    "0074.GR150R.F200W",
    "0076.GR150C.F200W",
]
NIRCAM = ["0009", "0010", "0011", "0012"]
CASES = [("niriss", n) for n in NIRISS] + [("nircam", n) for n in NIRCAM] + [("miri", "made up")]


def references(instrument, name, folder):
    """Paths of the references by type."""
    if not os.environ.get("SPEC2FN_REALDATA"):
        pytest.skip("SPEC2FN_REALDATA is not set")
    real = Path(os.environ["SPEC2FN_REALDATA"])
    crds = real / "crds" / "references" / instrument
    if instrument == "miri":
        flown = real / "miri_mrs" / "flt9"
        (distortion,) = flown.glob("*imager*distortion*.asdf")
        return {"distortion": distortion, "specwcs": miri_traces(folder)}
    specwcs = crds / f"jwst_{instrument}_specwcs_{name}.asdf"
    if instrument == "niriss":
        return {"distortion": crds / "jwst_niriss_distortion_0010.asdf", "specwcs": specwcs}
    module = open_reference(specwcs, "specwcs").attrs["tree"]["meta"]["instrument"]["module"]
    numbers = {"A": ("0090", "0002"), "B": ("0096", "0001")}[module]
    kinds = ("distortion", "filteroffset")
    files = {k: crds / f"jwst_nircam_{k}_{n}.asdf" for k, n in zip(kinds, numbers, strict=True)}
    return files | {"specwcs": specwcs}


def miri_traces(folder):
    """Traces along columns as those of the LRS: no published ones were to be had."""
    from stdatamodels.jwst import datamodels

    model = datamodels.MiriWFSSSpecwcsModel()
    wave = [13.5, -4.0, -3.5, -1.5]
    model.displ = [Polynomial1D(3, **{f"c{k}": c for k, c in enumerate(wave)})]
    t = np.linspace(-0.05, 1.05, 200)
    back = np.polynomial.polynomial.polyfit(np.polynomial.polynomial.polyval(t, wave), t, 7)
    model.invdispl = [Polynomial1D(7, **{f"c{k}": c for k, c in enumerate(back)})]
    first = [(-1.5, 2e-4, -1e-4), (2.0, 1e-4, 3e-4), (0.5, 0.0, 0.0)]
    second = [(-250.0, 1e-4, -2e-4), (380.0, -2e-3, 4e-3), (6.0, 0.0, 0.0)]
    model.dispx, model.dispy = (
        [[Polynomial2D(1, c0_0=a, c1_0=b, c0_1=c) for a, b, c in one]] for one in (first, second)
    )
    model.orders = [1]
    model.meta.instrument.name, model.meta.instrument.filter = "MIRI", "P750L"
    model.meta.instrument.detector, model.meta.exposure.type = "MIRIMAGE", "MIR_WFSS"
    model.meta.input_units = model.meta.output_units = "micron"
    for name in ("description", "author", "pedigree", "useafter"):
        setattr(model.meta, name, {"useafter": "2022-01-01T00:00:00"}.get(name, "GROUND"))
    path = folder / "specwcs.asdf"
    model.save(path)
    return path


def exposure(instrument, tree, folder):
    """The peer's model of an exposure, and our file of it."""
    from stdatamodels.jwst import datamodels

    shape = {"miri": (1024, 1032)}.get(instrument, (2048, 2048))
    model = datamodels.ImageModel(shape)
    kind = {"niriss": "NIS_WFSS", "nircam": "NRC_WFSS", "miri": "MIR_WFSS"}[instrument]
    model.meta.exposure.type = kind
    made_for = tree["meta"]["instrument"]
    keys = {k: made_for[k] for k in ("filter", "pupil", "module", "detector") if k in made_for}
    if instrument == "nircam":
        keys |= {"filter": "F444W", "channel": "LONG", "detector": f"NRC{keys['module']}LONG"}
    if instrument == "niriss":
        keys["filter_position"] = float(tree["fwcpos_ref"]) + 0.3
    for key, value in (keys | {"name": instrument.upper()}).items():
        setattr(model.meta.instrument, key, value)
    for key, value in POINTING.items():
        setattr(model.meta.wcsinfo, key, value)
    model.meta.velocity_aberration.scale_factor = 1.00002
    sub = model.meta.subarray
    sub.xstart, sub.ystart, sub.xsize, sub.ysize = 1, 1, shape[1], shape[0]
    path = folder / "exp_rate.fits"
    model.save(path)
    return model, path


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, tmp_path_factory):
    """Our exposure as the peer has it, ours by default, and the peer's gwcs."""
    pytest.importorskip("jwst")
    from jwst.assign_wcs.assign_wcs import load_wcs

    folder = tmp_path_factory.mktemp("grism")
    files = references(*request.param, folder)
    refs = {k: open_reference(v, k) for k, v in files.items()}
    model, path = exposure(request.param[0], refs["specwcs"].attrs["tree"], folder)
    named = {k: str(files[k]) if k in files else None for k in (*files, "filteroffset")}
    if request.param[0] == "miri":  # which needs one
        refs["filteroffset"], named["filteroffset"] = no_offset(folder)
    theirs = load_wcs(model, named)
    ours = [assign_wcs(open_exposure(path), **refs, **how) for how in (AS_THE_PEER, {})]
    return *ours, theirs


def no_offset(folder):
    from stdatamodels.jwst import datamodels

    row = {"filter": "P750L", "column_offset": 0.25, "row_offset": -0.5}
    model = datamodels.FilteroffsetModel(filters=[row], instrument="MIRI")
    model.meta.instrument.detector = "MIRIMAGE"
    path = folder / "filteroffset.asdf"
    model.save(path)
    return open_reference(path, "filteroffset"), str(path)


def places(geometry, count=4):
    """Sources, and wavelengths along each order."""
    rng = np.random.default_rng(3)
    x0, y0 = rng.uniform(200, 900, (2, count))
    t = np.linspace(0.0, 1.0, 9)
    for k, order in enumerate(geometry.orders):
        at = geometry.wave[k][:, 0, 0]
        yield order, x0, y0, np.polynomial.polynomial.polyval(t, at)


def test_the_undispersed_image(case, allowed):
    ours, default, theirs = case
    world = theirs.meta.wcs.get_transform("detector", "world")
    back = theirs.meta.wcs.get_transform("world", "detector")
    x, y = np.random.default_rng(1).uniform(0, 1000, (2, 50))
    for ds in (ours, default):
        geometry = meta_of(ds).wcs.geometry
        ra, dec = geometry.detector_to_world(x, y)
        for a, b in zip((ra, dec), world(x, y, 0 * x, 0 * x), strict=False):
            allowed("sky").close(a, b)
    for a, b in zip(
        meta_of(ours).wcs.geometry.world_to_detector(ra, dec),
        back(ra, dec, 0 * x, 0 * x),
        strict=False,
    ):
        allowed("detector").close(a, b)
    # ours finds the pixels again
    for a, b in zip(meta_of(default).wcs.geometry.world_to_detector(ra, dec), (x, y), strict=True):
        allowed("found_again").close(a, b)


def test_traces_are_the_peers(case, allowed):
    ours, default, theirs = case
    transform = theirs.meta.wcs.get_transform("grism_detector", "detector")
    for order, x0, y0, wavelengths in places(meta_of(ours).wcs.geometry):
        for a, b in zip(x0, y0, strict=True):
            geometry = meta_of(ours).wcs.geometry
            pixels = np.array([transform.inverse(a, b, w, order)[:2] for w in wavelengths])
            pixels = pixels.reshape(-1, 2).T
            found = geometry.disperse(a, b, wavelengths, order)
            allowed("pixels").close(found, pixels)
            if not geometry.folded[geometry.index(order)]:
                again = [np.ravel(transform(*p, a, b, order)[2])[0] for p in pixels.T]
                allowed("wavelengths").close(geometry.wavelength(*found, a, b, order), again)
                # where the peer's two directions agree, they are ours
                exact = meta_of(default).wcs.geometry
                if geometry.approximation.samples == 40:
                    allowed("pixels").close(exact.disperse(a, b, wavelengths, order), pixels)


def test_the_gwcs_is_the_peers(case):
    ours, _, theirs = case
    wcs, other = meta_of(ours).wcs.load(), theirs.meta.wcs
    for a, b in zip(wcs.pipeline, other.pipeline, strict=True):
        assert a.frame.name == b.frame.name
        assert a.frame.axes_names == b.frame.axes_names
        assert a.frame.unit == b.frame.unit
        if b.transform is not None:
            assert a.transform.n_inputs == b.transform.n_inputs
    assert ours.attrs["dispaxis"] == theirs.meta.wcsinfo.dispersion_direction
    for order, x0, y0, wavelengths in places(meta_of(ours).wcs.geometry, 2):
        ra, dec = meta_of(ours).wcs.geometry.detector_to_world(x0[0], y0[0])
        for wavelength in wavelengths[1:-1:3]:
            point = [np.float64(v) for v in (ra, dec, wavelength)]
            pixel = [w.invert(*point, order) for w in (wcs, other)]
            np.testing.assert_array_equal(*pixel)
            np.testing.assert_array_equal(wcs(*pixel[0]), other(*pixel[0]))


def ours_folds(ds, order):
    geometry = meta_of(ds).wcs.geometry
    return geometry.folded[geometry.index(order)]


def test_the_gwcs_is_lowered(case, allowed):
    """The official one: what it gives, from pixels to the sky and back."""
    *_, theirs = case
    wcs = theirs.meta.wcs
    there, back = lower(wcs), lower(wcs, "world", "grism_detector")
    geometry = meta_of(case[0]).wcs.geometry
    for order, x0, y0, wavelengths in places(geometry, 2):
        if ours_folds(case[0], order):
            continue
        ra, dec = geometry.detector_to_world(x0[0], y0[0])
        for wavelength in wavelengths[1:-1:3]:
            sky = [np.float64(v) for v in (ra, dec, wavelength)]
            pixel = [np.ravel(v)[0] for v in wcs.invert(*sky, order)]
            allowed("pixels").close(back(*sky, order), pixel)
            world = [np.ravel(v)[0] for v in wcs(*pixel)]
            allowed("wavelengths").close(there(*pixel), world)


def test_orders_are_told_apart_when_lowered(case):
    *_, theirs = case
    there = lower(theirs.meta.wcs, "grism_detector", "detector")
    geometry = meta_of(case[0]).wcs.geometry
    orders = np.array([*geometry.orders, 99])
    values = there(400.0, 410.0, 420.0, 415.0, orders)[2]
    single = [there(400.0, 410.0, 420.0, 415.0, o)[2] for o in geometry.orders]
    np.testing.assert_array_equal(values, [*single, np.nan])


def test_a_cut_out_has_the_peers_gwcs(case, allowed):
    """Of the peer: the gwcs of the exposure behind the place of the cut-out, source and order."""
    import io

    import asdf

    from spec2fn.io.fits.asdf_wcs import asdf_bytes, deferred_list

    ours, _, theirs = case
    wcs = meta_of(ours).wcs
    order = wcs.geometry.orders[0]
    columns = {
        "start": [[40, 30], [7, 9]],
        "size": [[20, 11], [30, 12]],
        "source": [[300.25, 400.5], [310.0, 420.0]],
        "order": [order, order],
    }
    slits = GrismSlits(wcs, [3, 8], **{k: np.array(v) for k, v in columns.items()})
    content = asdf_bytes("MultiSlitModel", [slits.deferred(k) for k in slits])
    y, x = np.mgrid[:11, :20].astype(float)
    read = deferred_list(lambda: content, "", "slits", [3, 8])
    other = theirs.meta.wcs(x + 40, y + 30, 300.25 + 0 * x, 400.5 + 0 * x, order + 0 * x)
    for one in (slits[3], read[3].load()):
        assert one.bounding_box.bounding_box(order="F") == ((-0.5, 19.5), (-0.5, 10.5))
        assert [f.name for f in (one.pipeline[0].frame, one.pipeline[1].frame)] == [
            "grism_slit",
            "grism_detector",
        ]
        for a, b in zip(one(x, y), other, strict=True):
            allowed("pixels").close(a, b)
        if not ours_folds(ours, order):
            # of a file, the official reader leaves out the inverse polynomials
            for a, b in zip(lower(one)(x, y), one(x, y), strict=True):
                allowed("pixels").close(a + 0 * x, b)
    with asdf.open(io.BytesIO(content)) as file:
        assert len(file["slits"]) == 2
