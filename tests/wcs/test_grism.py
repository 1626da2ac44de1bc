"""The geometry of slitless spectra: there and back, bad input, gradients."""

import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.modeling import models

from spec2fn.errors import InputError, ReferenceError
from spec2fn.refs import open_reference
from spec2fn.schema import Meta, meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.wcs.grism import GrismSlits

HEADER = {
    "V2_REF": -290.0,
    "V3_REF": -697.0,
    "RA_REF": 0.0005,
    "DEC_REF": -27.8,
    "ROLL_REF": 30.0,
    "VA_SCALE": 1.00002,
    "VELOSYS": 12345.6,
    "FWCPOS": 222.3,
    "XREF_SCI": 41.0,
    "YREF_SCI": 35.0,
    "V3I_YANG": 0.5,
    "VPARITY": -1,
    "XOFFSET": 0.0,
    "YOFFSET": 0.0,
}
KINDS = {
    "NIRISS": ("NIS_WFSS", {"detector": "NIS", "filter": "GR150C", "pupil": "F115W"}),
    "NIRCAM": (
        "NRC_WFSS",
        {"detector": "NRCALONG", "filter": "F444W", "pupil": "GRISMR", "module": "A"},
    ),
    "MIRI": ("MIR_WFSS", {"detector": "MIRIMAGE", "filter": "P750L"}),
}


def exposure(instrument="NIRISS", shape=None, origin=(1, 1), exp_type="", **changes):
    """Zeros; lower-case changes are attributes, others keywords; None leaves them out."""
    kind, elements = KINDS[instrument]
    shape = shape or {"MIRI": (1024, 1032)}.get(instrument, (2048, 2048))
    attrs = elements | {k: v for k, v in changes.items() if k.islower()}
    header = HEADER | {k: v for k, v in changes.items() if not k.islower()}
    header = {k: v for k, v in header.items() if v is not None}
    dims = ("integration", "y", "x")[-len(shape) :]
    attrs = {k: v for k, v in attrs.items() if v is not None}
    attrs |= {"exp_type": exp_type or kind, "instrument": instrument}
    attrs |= {"xstart": origin[0], "ystart": origin[1]}
    return xr.Dataset(
        {"sci": (dims, np.zeros(shape, np.float32))},
        attrs=attrs | {"meta": Meta(primary=header, filename="exp_rate.fits")},
    )


def field(c0, cx=0.0, cy=0.0):
    return models.Polynomial2D(1, c0_0=c0, c1_0=cx, c0_1=cy)


def traces(**changes):
    """Of orders 1 and 2, along rows, with everything that depends on the field."""
    line = [models.Polynomial1D(1, c0=0.8, c1=0.6), models.Polynomial1D(1, c0=0.8, c1=0.6)]
    inverse = [models.Polynomial1D(1, c0=-0.8 / 0.6, c1=1 / 0.6)] * 2
    first = [field(60.0, 1e-3, 2e-3), field(-300.0, -2e-3, 1e-3), field(8.0)]
    second = [field(-90.0, 1e-3), field(-600.0, 0.0, -3e-3), field(20.0, 1e-3)]
    across = [field(2.0, 1e-4, 1e-4), field(-3.0, 1e-4), field(1.0)]
    tree = {
        "orders": [1, 2],
        "displ": line,
        "invdispl": inverse,
        "dispx": [first, second],
        "dispy": [across, across],
        "fwcpos_ref": 222.0,
    }
    return {k: v for k, v in (tree | changes).items() if v is not None}


def distortion():
    """A curved one, whose inverse is only rough."""
    scale = models.Polynomial2D(2, c0_0=-350.0, c1_0=0.065, c2_0=1e-8)
    other = models.Polynomial2D(2, c0_0=-760.0, c0_1=0.066, c1_1=2e-8)
    back_x = models.Polynomial2D(1, c0_0=350 / 0.065, c1_0=1 / 0.065)
    back_y = models.Polynomial2D(1, c0_0=760 / 0.066, c0_1=1 / 0.066)
    model = models.Mapping((0, 1, 0, 1)) | scale & other
    model.inverse = models.Mapping((0, 1, 0, 1)) | back_x & back_y
    return model


def references(rows=(), **changes):
    trees = {"distortion": {"model": distortion()}, "specwcs": traces(**changes)}
    if rows:
        trees["filteroffset"] = {"filters": list(rows)}
    return {k: xr.Dataset(attrs={"tree": v, "filename": f"{k}.asdf"}) for k, v in trees.items()}


def geometry_of(ds, refs, **params):
    return meta_of(assign_wcs(ds, **refs, **params)).wcs.geometry


def there_and_back(geometry, wavelengths, size=1900.0):
    rng = np.random.default_rng(5)
    x0, y0 = rng.uniform(100, size, (2, 20, 1))
    for order, folded in zip(geometry.orders, geometry.folded, strict=True):
        x, y = geometry.disperse(x0, y0, wavelengths, order)
        again = geometry.wavelength(x, y, x0, y0, order)
        pixels = geometry.disperse(x0, y0, again, order)
        yield order, folded, again, np.array([x, y]), np.array(pixels)


@pytest.mark.parametrize("instrument", KINDS)
@pytest.mark.parametrize("angle", [-1.5, 0.0, 0.3, 20.0])
def test_forward_and_backward_are_inverse(instrument, angle):
    refs = references()
    if instrument == "MIRI":  # disperses along columns
        tree = refs["specwcs"].attrs["tree"]
        tree["dispx"], tree["dispy"] = tree["dispy"], tree["dispx"]
    geometry = geometry_of(exposure(instrument, FWCPOS=222.0 + angle), refs)
    wavelengths = np.linspace(0.75, 1.45, 50)
    for _, folded, again, first, second in there_and_back(geometry, wavelengths):
        assert not folded
        np.testing.assert_allclose(again - wavelengths, 0, atol=1e-13)
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-10)


def real(pattern):
    folder = Path(os.environ.get("SPEC2FN_REALDATA", "/nowhere")) / "crds" / "references"
    return sorted(folder.glob(pattern))


@pytest.mark.filterwarnings("ignore::asdf.exceptions.AsdfWarning")
@pytest.mark.parametrize("instrument", ["niriss", "nircam"])
def test_published_traces_are_inverse(instrument):
    files = real(f"{instrument}/jwst_*_specwcs_*.asdf")
    if not files:
        pytest.skip("SPEC2FN_REALDATA is not set")
    for path in files:
        ref = open_reference(path, "specwcs")
        tree = ref.attrs["tree"]
        made_for = tree["meta"]["instrument"]
        keys = {k: made_for[k] for k in ("filter", "pupil", "module") if k in made_for}
        for turn in (0.0, 0.3):
            fwcpos = float(tree.get("fwcpos_ref", 0.0)) + turn
            ds = exposure(instrument.upper(), FWCPOS=fwcpos, **keys)
            geometry = geometry_of(ds, references() | {"specwcs": ref})
            ends = [geometry.wave[0][:, 0, 0][0], geometry.wave[0][:, 0, 0].sum()]
            wavelengths = np.linspace(*ends, 30)
            for order, folded, again, first, second in there_and_back(geometry, wavelengths):
                # where both branches of a trace that turns back fall on each other, and at order
                # -3 in one of the files, which is extrapolated to 1e5 pixels from the source
                strange = folded or order == -3
                error = abs(again - wavelengths)
                assert np.mean(error < 1e-9) >= (0.99 if strange else 1), (path.name, order)
                moved = abs(first - second).max(axis=0)
                assert np.mean(moved < 1e-9) >= (0.99 if strange else 1), (path.name, order)


def test_the_turn_is_that_of_the_wheel():
    """A trace turns about its source, clockwise as FWCPOS grows."""
    straight, turned = (geometry_of(exposure(FWCPOS=222.0 + a), references()) for a in (0.0, 90.0))
    x, y = straight.disperse(1000.0, 900.0, 1.1, 1)
    u, v = turned.disperse(1000.0, 900.0, 1.1, 1)
    np.testing.assert_allclose([u - 1000, v - 900], [y - 900, -(x - 1000)], atol=1e-10)


def test_wavelengths_are_at_the_barycentre():
    still, moving = (geometry_of(exposure(VELOSYS=v), references()) for v in (None, 3e4))
    a, b = (g.wavelength(800.0, 905.0, 1000.0, 900.0, 1) for g in (still, moving))
    np.testing.assert_allclose(b / a, 1 / (1 + 3e4 / 299792458), rtol=1e-12)


def test_the_undispersed_image_is_inverted_exactly():
    geometry = geometry_of(exposure(), references())
    x, y = np.random.default_rng(0).uniform(0, 2047, (2, 100))
    back = geometry.world_to_detector(*geometry.detector_to_world(x, y))
    np.testing.assert_allclose(back, [x, y], rtol=0, atol=1e-8)
    rough = geometry_of(exposure(), references(), grism_inverse="approximate")
    assert abs(rough.world_to_detector(*geometry.detector_to_world(x, y))[0] - x).max() > 0.1


@pytest.mark.parametrize(
    ("row", "moved"),
    [
        ({"filter": "GR150C", "pupil": "F115W", "column_offset": 1.5, "row_offset": -2.0}, True),
        ({"filter": "GR150C", "pupil": "F200W", "column_offset": 1.5, "row_offset": -2.0}, False),
        ({"filter": "GR150C", "column_offset": 1.5, "row_offset": -2.0}, True),
    ],
)
def test_filter_offsets(row, moved):
    plain, shifted = (geometry_of(exposure(), references(r)) for r in ((), (row,)))
    pixel = (1001.5, 898.0) if moved else (1000.0, 900.0)
    np.testing.assert_allclose(
        shifted.detector_to_world(1000.0, 900.0), plain.detector_to_world(*pixel), rtol=1e-12
    )


def test_a_subarray_is_a_part_of_the_full_frame():
    full = geometry_of(exposure(), references())
    part = geometry_of(exposure(shape=(300, 400), origin=(101, 51)), references())
    x, y = full.disperse(500.0, 200.0, 1.1, 1)
    np.testing.assert_allclose(np.array(part.disperse(400.0, 150.0, 1.1, 1)), [x - 100, y - 50])
    np.testing.assert_allclose(part.wavelength(x - 100, y - 50, 400.0, 150.0, 1), 1.1)
    np.testing.assert_allclose(
        part.detector_to_world(400.0, 150.0), full.detector_to_world(500.0, 200.0), rtol=1e-13
    )
    wcs = meta_of(
        assign_wcs(exposure(shape=(300, 400), origin=(101, 51)), **references())
    ).wcs.load()
    ra, dec = part.detector_to_world(400.0, 150.0)
    np.testing.assert_allclose(wcs.invert(ra, dec, 1.1, 1)[0], x - 100, atol=0.5)


@pytest.mark.parametrize("rotation", ["consistent", "opposite"])
def test_the_gwcs_is_the_geometry(rotation):
    """To what its tables of ten samples, and the rough inverse of the distortion, allow."""
    out = assign_wcs(exposure(), **references(), grism_rotation=rotation)
    wcs, geometry = meta_of(out).wcs, meta_of(out).wcs.geometry
    assert out.attrs["dispaxis"] == 1
    assert "wavelength" not in out
    columns = ([[800, 890]], [[50, 21]], [[1000.0, 900.0]], [1])
    slits = GrismSlits(wcs, [7], *map(np.array, columns))
    wcs = slits[7]
    x, y = np.meshgrid(np.arange(50.0), np.arange(21.0))
    ra, dec, wavelength, order = wcs(x, y)
    np.testing.assert_allclose(
        wavelength, geometry.wavelength(x + 800, y + 890, 1000.0, 900.0, 1), atol=2e-4
    )
    expected = geometry.detector_to_world(1000.0, 900.0)
    np.testing.assert_allclose([ra[0, 0], dec[0, 0]], expected, rtol=1e-10)
    assert (order == 1).all()
    assert list(slits) == [7]
    assert 8 not in slits
    with pytest.raises(KeyError):
        slits.deferred(8)


def series(**changes):
    changes = {"exp_type": "NRC_TSGRISM", "shape": (3, 64, 100)} | changes
    return exposure("NIRCAM", **changes)


def line(start, length):
    return models.Polynomial1D(1, c0=start, c1=length)


def test_the_source_of_a_time_series():
    g = geometry_of(series(), references())
    np.testing.assert_array_equal(g.source, [40.0, 34.0])
    np.testing.assert_array_equal(
        geometry_of(series(), references(), grism_reference="keyword").source, [41.0, 35.0]
    )
    moved = geometry_of(series(XOFFSET=0.65), references())
    # 0.065 arcsec per pixel, in the orientation of the aperture
    assert abs(np.hypot(*(moved.source - g.source)) - 10) < 0.2
    part = geometry_of(series(origin=(11, 21)), references())
    np.testing.assert_array_equal(part.source, [40.0, 34.0])


def test_the_window_of_a_time_series():
    straight = {"dispx": [line(60.0, -300.0)] * 2, "invdispx": [line(0.2, -1 / 300)] * 2}
    refs = references(**straight, dispy=[line(2.0, -3.0)] * 2)
    wcs = meta_of(assign_wcs(series(), **refs)).wcs
    window = wcs.window((0, 3), (20, 100), 1)
    x, y = np.arange(100.0), np.full(100, 5.0)
    ra, dec, wavelength, _ = window(x, y)
    geometry = wcs.geometry
    exact = geometry.wavelength(x, y + 3, *geometry.source, 1)
    np.testing.assert_allclose(wavelength, exact, rtol=1e-13)
    np.testing.assert_allclose(
        [ra[0], dec[0]], geometry.detector_to_world(*geometry.source), rtol=1e-12
    )
    assert window.bounding_box.bounding_box(order="F") == ((-0.5, 99.5), (-0.5, 19.5))


@pytest.mark.parametrize(
    ("ds", "changes", "message"),
    [
        (exposure(FWCPOS=None), {}, "FWCPOS"),
        (exposure(FWCPOS="x"), {}, "FWCPOS"),
        (exposure(filter="CLEAR"), {}, "FILTER is 'CLEAR', needs .* GR150C or GR150R"),
        (exposure(filter=None), {}, "FILTER"),
        (exposure("NIRCAM", pupil="CLEAR"), {}, "PUPIL is 'CLEAR', needs .* GRISMR or GRISMC"),
        (series(XREF_SCI=None), {}, "XREF_SCI"),
        (series(YREF_SCI=None), {}, "YREF_SCI"),
        (series(module="B"), {}, "MODULE is 'B', needs A"),
        (series(module=None), {}, "MODULE"),
        (series(pupil="GRISMC"), {}, "PUPIL is 'GRISMC', needs GRISMR"),
        (series(subarray="SUB260STRIPE4_DHS"), {}, "SUBARRAY is 'SUB260STRIPE4_DHS'"),
        (series(pupil="GDHS0"), {}, "PUPIL is 'GDHS0', needs GRISMR"),
        (exposure(shape=(64, 64), origin=(None, None)), {}, "SUBSTRT1"),
    ],
)
def test_bad_exposures_are_one_line(ds, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        assign_wcs(ds, **references(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"displ": None}, "has no displ"),
        ({"orders": None, "fwcpos_ref": None}, "has no orders, fwcpos_ref"),
        ({"orders": [1]}, "has 1 orders, but 2 models displ"),
        ({"displ": [models.Chebyshev1D(1)] * 2}, "has in displ a Chebyshev1D"),
        (
            {"displ": [models.Polynomial1D(1, domain=(0, 2))] * 2},
            "has in displ a polynomial of a scaled variable",
        ),
        (
            {"dispx": [[field(np.nan)], [field(1.0)]]},
            "has a coefficient in dispx that is not finite",
        ),
    ],
)
def test_bad_references_are_one_line(changes, message):
    with pytest.raises(ReferenceError, match=f"'specwcs' .specwcs.asdf. {message}") as caught:
        assign_wcs(exposure(), **references(**changes))
    assert "\n" not in str(caught.value)


def test_missing_references_and_orders():
    refs = references()
    for name in refs:
        with pytest.raises(ReferenceError, match=f"'{name}' is missing"):
            assign_wcs(exposure(), **(refs | {name: None}))
    empty = refs | {"distortion": xr.Dataset(attrs={"tree": {}, "filename": "d.asdf"})}
    with pytest.raises(ReferenceError, match="holds no model"):
        assign_wcs(exposure(), **empty)
    with pytest.raises(InputError, match=r"order 5 is not among those .* \(1, 2\)"):
        geometry_of(exposure(), refs).disperse(1.0, 1.0, 1.0, 5)


def test_gradients():
    jax = pytest.importorskip("jax")
    from spec2fn.transforms import jit, value_and_grad

    geometry = geometry_of(exposure(), references())
    x0, y0 = np.array([[300.0], [1500.0]]), np.array([[400.0], [1000.0]])

    def wave(g):
        return g.wavelength(x0 - np.arange(40.0, 160.0), y0, x0, y0, 1).sum()

    def place(g):
        x, y = g.disperse(x0, y0, np.linspace(0.9, 1.3, 9), 1)
        return x.sum() + 2.0 * y.sum()

    with jax.enable_x64(True):
        from dataclasses import replace

        for function in (wave, place):
            names = ["dx", "dy", "wave", "angle"]
            value, grads = jit(value_and_grad(function, names))(geometry)
            np.testing.assert_allclose(value, function(geometry), rtol=1e-12)
            for name in names:
                held = getattr(geometry, name)
                index = (0, 1, 0, 0)[: held.ndim]
                step = 1e-4
                ends = []
                for sign in (1, -1):
                    moved = held.copy()
                    moved[index] += sign * step
                    ends.append(function(replace(geometry, **{name: moved})))
                numeric = (ends[0] - ends[1]) / (2 * step)
                np.testing.assert_allclose(
                    grads[name][index], numeric, rtol=1e-5, atol=1e-6, err_msg=name
                )
