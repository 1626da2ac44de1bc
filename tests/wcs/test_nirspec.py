"""The WCS of NIRSpec slits on optics with exact inverses."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.errors import InputError, NoDataOnDetectorError, ReferenceError
from spec2fn.schema import meta_of
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.testing import nirspec as toy
from spec2fn.wcs.invert import invert
from spec2fn.wcs.lower import lower

FRAMES = ["detector", "sca", "gwa", "slit_frame", "msa_frame", "oteip", "v2v3", "v2v3vacorr"]


def assign(exp_type="NRS_FIXEDSLIT", grating="G395H", *, refs=None, members=None, **keywords):
    options = {k: keywords.pop(k) for k in list(keywords) if k.islower() and k not in _EXPOSURE}
    ds = toy.exposure(exp_type, grating, **keywords)
    if members is None:
        members = (toy.msa_metadata(),) if exp_type == "NRS_MSASPEC" else ()
    return assign_wcs(ds, **(refs or toy.references(grating)), msa_metadata=members, **options)


_EXPOSURE = ("detector", "subarray", "window", "integrations")


@functools.cache
def assigned(exp_type="NRS_FIXEDSLIT", grating="G395H", detector="NRS1"):
    return meta_of(assign(exp_type, grating, detector=detector)).wcs


def names(ds):
    return [s.name for s in meta_of(ds).records["slits"]]


def pixels(wcs, key, nx=23, ny=31):
    (x0, x1), (y0, y1) = wcs.boxes[key]
    return np.meshgrid(np.linspace(x0 + 1, x1 - 1, nx), np.linspace(y0 + 1, y1 - 1, ny))


CASES = [
    ("NRS_FIXEDSLIT", "G395H", "NRS1"),
    ("NRS_FIXEDSLIT", "G235M", "NRS2"),
    ("NRS_MSASPEC", "PRISM", "NRS1"),
    ("NRS_MSASPEC", "G395M", "NRS1"),
    ("NRS_MSASPEC", "G395H", "NRS2"),
    ("NRS_BRIGHTOBJ", "PRISM", "NRS1"),
]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_all_slits_together_are_each_slits_gwcs(case):
    wcs = assigned(*case)
    for key, one in wcs.items():
        assert one.available_frames == [*FRAMES, "world"]
        x, y = pixels(wcs, key)
        expected = one(x, y, with_bounding_box=False)
        for ours, theirs in zip(wcs.batch.world(np.array(key), x, y), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        for ours, theirs in zip(lower(one)(x, y), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        good = np.isfinite(expected[2])
        assert good.any()
        assert not good.all()
        along, wavelength = wcs.slit_frame(np.array(key), x, y)
        np.testing.assert_allclose(wavelength * 1e6, expected[2], rtol=1e-12)
        back = wcs.batch.detector(np.array(key), 0.0, along[good], wavelength[good])
        again = one.get_transform("slit_frame", "detector")(
            0 * along[good], along[good], wavelength[good]
        )
        np.testing.assert_allclose(back, again, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_detector_to_world_and_back(case):
    wcs = assigned(*case)
    for key, one in wcs.items():
        x, y = pixels(wcs, key)
        world = np.array(lower(one)(x, y))
        good = np.isfinite(world[2])
        back = lower(one, "world", "detector")(*world[:, good])
        # wavelengths of the prism are interpolated in a table, steps of which are wide in the blue
        accuracy = 1e-2 if case[1] == "PRISM" else 1e-3
        np.testing.assert_allclose(back[0], x[good], atol=accuracy)
        np.testing.assert_allclose(back[1], y[good], atol=1e-3)
        # the inverse of the transform itself knows no such difference
        start = (x[good] + 0.2, y[good] - 0.2)
        found = invert(lower(one), world[:, good], start, periods=(360.0, None, None))
        inside = np.isfinite(found[0])
        assert inside.mean() > 0.9
        np.testing.assert_allclose(found[0][inside], x[good][inside], atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_wavelength_rises_along_every_row(case):
    wcs = assigned(*case)
    for key in wcs:
        (x0, x1), _ = wcs.boxes[key]
        _, y = pixels(wcs, key)
        x = np.arange(np.ceil(x0), x1)
        _, wavelength = wcs.slit_frame(np.array(key), x, y[:, :1])
        step = np.diff(wavelength, axis=1)
        assert np.all(step[np.isfinite(step)] > 0)
        assert np.isfinite(step).any()


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[4]], ids="-".join)
def test_boxes_hold_the_light_and_little_more(case):
    wcs = assigned(*case)
    optics = wcs.batch.optics
    for key, slit in enumerate(wcs.batch.slits):
        # every wavelength of interest, on both edges and in between
        wavelength = np.linspace(*optics.waverange, 20001)
        y = np.linspace(slit.ymin, slit.ymax, 5)[:, None]
        column, row = wcs.batch.detector(np.array(key), 0.0, y, wavelength)
        (x0, x1), (y0, y1) = wcs.boxes[key]
        edges = np.clip([column.min() - 11, column.max() + 9], 0, 2047)
        expected = edges + np.array([-0.5, 0.5])
        np.testing.assert_allclose([x0, x1], expected, atol=1e-6)
        on = (column > 0) & (column < 2047)
        assert y0 <= row[on].min() - 1.5
        assert y1 >= row[on].max() - 0.5
        assert row[on].min() - 8 < y0
        assert y1 < row[on].max() + 8


def test_slits_are_listed_by_quadrant():
    ds = assign("NRS_MSASPEC", "PRISM")
    slits = meta_of(ds).records["slits"]
    assert names(ds) == ["1", "3", "2", "4", "S200A1"]
    assert [s.quadrant for s in slits] == [3, 3, 4, 4, 5]
    assert tuple(meta_of(ds).wcs) == (0, 1, 2, 3, 4)
    # pitch over open size, from the metrology
    assert slits[0].slit_xscale == pytest.approx(105.26 / 78)
    assert slits[0].slit_yscale == pytest.approx(203.54 / 178)
    assert (slits[4].slit_xscale, slits[4].slit_yscale) == (1.35, 1.15)


def test_records_and_attributes():
    ds = assign("NRS_FIXEDSLIT", "G395H")
    records = meta_of(ds).records
    assert records["spectral_order"] == -1
    assert records["waverange"] == (2.8e-6, 5.3e-6)
    assert (ds.attrs["dispaxis"], ds.attrs["specsys"]) == (1, "BARYCENT")
    assert "wavelength" not in ds


@pytest.mark.parametrize(
    ("subarray", "expected"),
    [("FULL", ["S200A1", "S200A2", "S400A1", "S1600A1"]), ("SUBS200A2", ["S200A2"])],
)
def test_fixed_slits_by_subarray(subarray, expected):
    assert names(assign(subarray=subarray)) == expected


def test_source_ids_of_fixed_slits():
    slits = meta_of(assign(FXD_SLIT="S400A1")).records["slits"]
    assert [s.source_id for s in slits] == [31, 32, 1, 34]
    assert [s.source_id for s in meta_of(assign(FXD_SLIT="NONE")).records["slits"]] == [1, 2, 3, 4]
    (slit,) = meta_of(assign("NRS_BRIGHTOBJ", "PRISM", subarray="SUB512")).records["slits"]
    assert (slit.name, slit.source_id, slit.shutter_id) == ("S1600A1", 1, 3)


def test_subarray_shifts_the_detector():
    full, part = assigned(), meta_of(assign(window=(11, 901, 2038, 256))).wcs
    np.testing.assert_allclose(part[0](700.0, 180.0), full[0](710.0, 1080.0), rtol=1e-13)


def test_slit_range_and_wavelength_range():
    plain = assigned()
    tall = meta_of(assign(slit_y_low=-0.7, slit_y_high=0.7)).wcs
    assert np.all(np.diff(tall.boxes[:, 1]) > np.diff(plain.boxes[:, 1]))
    wide = meta_of(assign(wavelength_range=(2.6, 5.5)))
    assert wide.records["waverange"] == pytest.approx((2.6e-6, 5.5e-6))
    assert wide.wcs.boxes[0, 0, 0] < plain.boxes[0, 0, 0] - 100
    # also where the reference knows nothing of filter and grating
    assert names(assign(FILTER="F100LP", refs=_refs(), wavelength_range=(2.8, 5.3)))


def _refs(**changes):
    refs = dict(toy.references("G395H"))
    refs["fore"] = refs["fore"].assign_attrs(filter="N/A")
    return refs | changes


def test_the_earths_motion_scales_wavelengths():
    still, moving = meta_of(assign(VELOSYS=None)).wcs, assigned()
    x, y = pixels(moving, 0)
    ratio = still[0](x, y)[2] / moving[0](x, y)[2]
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], 1 + 12345.6 / 299792458, rtol=1e-13)


def test_gwcs_are_built_and_changed_on_use():
    wcs = meta_of(assign("NRS_MSASPEC", "PRISM")).wcs
    assert 3 in wcs
    assert 17 not in wcs
    assert not wcs._built
    assert wcs[3] is wcs[3]
    seen = []

    def note(label):
        def change(one):
            seen.append(label)
            return one

        return change

    changed = wcs.changed({1: note("first")}).changed({1: note("second"), 2: note("other")})
    assert not seen
    assert changed[1].available_frames == wcs[1].available_frames
    assert seen == ["first", "second"]
    assert changed[3] is wcs[3]
    assert wcs[2] is not changed[2]
    with pytest.raises(KeyError):
        wcs[17]


def test_gwcs_survive_asdf():
    import asdf

    wcs = assigned("NRS_MSASPEC", "PRISM")
    stream = io.BytesIO()
    asdf.AsdfFile({"wcs": wcs[1]}).write_to(stream)
    stream.seek(0)
    with asdf.open(stream, lazy_load=False) as file:
        again = file["wcs"]
        x, y = pixels(wcs, 1)
        for a, b in zip(again(x, y), wcs[1](x, y), strict=True):
            np.testing.assert_array_equal(a, b)
        assert again.bounding_box == wcs[1].bounding_box


def test_gradients_with_respect_to_the_wcs():
    wcs = assigned("NRS_MSASPEC", "PRISM")
    transform = lower(wcs[0])
    x, y = pixels(wcs, 0)
    good = np.isfinite(transform(x, y)[2])
    x, y = x[good], y[good]

    def mean_wavelength(params, shift):
        return jnp.mean(transform.function(params, x + shift, y)[2])

    value, (slopes, by_pixel) = jax.jit(jax.value_and_grad(mean_wavelength, argnums=(0, 1)))(
        transform.params, 0.0
    )
    assert value == pytest.approx(float(np.mean(transform(x, y)[2])))
    step = 1e-3
    ends = [float(np.mean(transform(x + s, y)[2])) for s in (step, -step)]
    assert float(by_pixel) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slopes))


def test_sets_of_slits_can_be_lowered():
    from astropy.modeling.models import Identity
    from stdatamodels.jwst.transforms.models import Gwa2Slit, Slit, Slit2Msa

    wcs = assigned("NRS_MSASPEC", "G395M")
    labels = [Slit(name=k + 1, slit_id=k + 1) for k in wcs]
    steps = [wcs[k].pipeline for k in wcs]
    to_slit = Gwa2Slit(labels, [p[2].transform for p in steps])
    to_msa = Slit2Msa(labels, [p[3].transform.left for p in steps]) & Identity(1)
    angles = wcs[1].get_transform("detector", "gwa")(*pixels(wcs, 1))
    expected = to_slit(2, *angles)
    for xp in (np, jnp):
        found = lower(to_slit)(xp.asarray(2.0), *map(xp.asarray, angles))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.broadcast_to(a, np.shape(b)), b, rtol=1e-12)
    for a, b in zip(lower(to_msa)(2, *expected[1:]), to_msa(*expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
    back = to_slit.inverse
    for a, b in zip(lower(back)(2, *expected[1:]), back(*expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    with pytest.raises(InputError, match="no slit"):
        lower(to_slit)(17, *angles)


def _glass(temperature):
    from stdatamodels.jwst.transforms.models import Snell

    tree = toy.references("PRISM")["disperser"].attrs["tree"]
    coefficients = {**{k: tree[k] for k in ("angle", "kcoef", "lcoef", "tref")}, "pref": 1.0}
    tcoef = [-2.66e-05, 1e-8, 1e-10, 1e-6, 1e-9, 0.2]
    return Snell(**coefficients, tcoef=tcoef, temperature=temperature, pressure=1.0)


@pytest.mark.parametrize("temperature", [38.0, 60.0])
def test_prism_cold_and_warm(temperature):
    model = _glass(temperature)
    angles = (np.linspace(0.6e-6, 5.3e-6, 9), np.full(9, -0.4), np.full(9, 0.01), np.full(9, 0.9))
    expected = model(*angles)
    for xp in (np, jnp):
        for a, b in zip(lower(model)(*map(xp.asarray, angles)), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
    # the index depends on temperature: so do the angles, differentiably
    transform = lower(model)
    slope = jax.grad(lambda p: transform.function(p, *(a[3] for a in angles))[0])(transform.params)
    assert np.isfinite(float(slope["temperature"]))
    assert (float(slope["temperature"]) != 0) == (temperature > 55)


def test_gratings_and_glass_of_gwcs():
    from gwcs import spectroscopy as gwcs

    b, c = [0.58, 0.46, 3.89], [0.0025, 0.01, 1200.0]
    cases = [
        (gwcs.WavelengthFromGratingEquation(95400.0, -1), (0.1, 0.2)),
        (gwcs.AnglesFromGratingEquation3D(95400.0, -1), (3e-6, 0.1, 0.02)),
        (gwcs.Snell3D(), (1.4, 0.1, 0.2, 0.9)),
        (gwcs.SellmeierGlass(b, c), (2.0,)),
    ]
    for model, values in cases:
        arrays = [np.array([v, 1.01 * v]) for v in values]
        expected = np.atleast_2d(model(*arrays))
        for xp in (np, jnp):
            found = np.atleast_2d(np.array(lower(model)(*map(xp.asarray, arrays))))
            np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("exp_type", "grating"), [("NRS_MSASPEC", "PRISM"), ("NRS_FIXEDSLIT", "G395H")]
)
def test_from_the_detector_to_the_sky_and_back(exp_type, grating):
    wcs = meta_of(assign(exp_type, grating)).wcs
    for i in wcs:
        x, y = pixels(wcs, i)
        ra, dec, wavelength = wcs[i](x, y)
        seen = np.isfinite(wavelength)
        assert seen.any()
        back = wcs.pixel(i, ra, dec, wavelength)
        for there, here in zip(back, (x, y), strict=True):
            assert np.abs(there - here)[seen].max() < 1e-3
            assert np.isnan(there[~seen]).all()


BAD = [
    ({"GWA_XTIL": None}, "keyword GWA_XTIL is missing"),
    ({"GWA_YTIL": "high"}, "GWA_YTIL .* needs a number"),
    ({"DETECTOR": "NRS3"}, "needs NRS1 or NRS2"),
    ({"GRATING": "MIRROR"}, "disperses no light"),
    ({"FILTER": "F100LP", "refs": _refs()}, "FILTER F100LP with GRATING G395H is no configuration"),
    ({"FXD_SLIT": "S200A4"}, "did you mean 'S200A2'|did you mean 'S200A1'"),
    ({"slit_y_low": 0.6}, "must be less than"),
    ({"wavelength_range": (5.0, 3.0)}, "must ascend"),
    ({"exp_type": "NRS_MSASPEC", "members": ()}, "put it beside the exposure"),
    (
        {"exp_type": "NRS_MSASPEC", "MSAMETID": 7},
        "no configuration MSAMETID=7; column msa_metadata_id of SHUTTER_INFO",
    ),
    ({"exp_type": "NRS_MSASPEC", "MSAMETID": None}, "keyword MSAMETID is missing"),
    ({"exp_type": "NRS_MSASPEC", "PATT_NUM": 3}, "no dither index PATT_NUM=3"),
    ({"grating": "PRISM", "GWA_TILT": None}, "keyword GWA_TILT is missing"),
    (
        {"exp_type": "NRS_MSASPEC", "grating": "PRISM", "detector": "NRS2"},
        "none of the 5 open slits falls on detector NRS2",
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_input_is_one_clear_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        assign(**changes)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, NoDataOnDetectorError) == ("falls on detector" in message)


def test_bad_references():
    with pytest.raises(ReferenceError, match=r"is for grating G395M, the exposure .* G395H"):
        assign(refs=_refs(disperser=toy.references("G395M")["disperser"]))
    with pytest.raises(ReferenceError, match="'camera' is missing"):
        assign(refs={k: v for k, v in toy.references("G395H").items() if k != "camera"})
    broken = toy.references("G395H")["fpa"].assign_attrs(tree={})
    with pytest.raises(ReferenceError, match="'fpa' has no entry 'nrs1_model'"):
        assign(refs=_refs(fpa=broken))
    few = toy.references("G395H")["msa"]
    tree = few.attrs["tree"] | {"Q3": few.attrs["tree"]["Q5"]}
    with pytest.raises(ReferenceError, match="lists 5 slits in quadrant 3"):
        assign("NRS_MSASPEC", "G395H", refs=_refs(msa=few.assign_attrs(tree=tree)))


def test_optics_too_rough_for_short_polynomials(monkeypatch):
    from spec2fn.wcs.assign import nirspec_batch

    wcs = assigned("NRS_MSASPEC", "PRISM")
    monkeypatch.setattr(nirspec_batch.SlitBatch, "cosine_error", -1.0)
    monkeypatch.setattr(nirspec_batch.SlitBatch, "sky_error", -1.0)
    exact = wcs.batch.subset(range(len(wcs)))
    x, y = pixels(wcs, 2)
    for a, b in zip(
        exact.world(np.array(2), x, y), wcs.batch.world(np.array(2), x, y), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-11)
    assert exact._before is None
    assert exact._sky is None


def test_a_target_at_zero_hours():
    wcs = meta_of(assign("NRS_MSASPEC", "PRISM", RA_REF=0.0001, DEC_REF=60.0)).wcs
    crossed = 0
    for key in wcs:
        x, y = pixels(wcs, key)
        ra = wcs.batch.world(np.array(key), x, y)[0]
        expected = wcs[key](x, y, with_bounding_box=False)[0]
        np.testing.assert_allclose(ra, expected, rtol=0, atol=1e-10)
        crossed += np.nanmax(ra) > 359 or np.nanmin(ra) < 1
    assert crossed
