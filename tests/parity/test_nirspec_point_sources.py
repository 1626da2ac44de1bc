"""srctype, wavecorr, pathloss and barshadow of NIRSpec slits, each on the peer's own input.

The generated slits do not meet every rule; the peer's functions are therefore also called on
slits whose sources and shutters have been changed.
"""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.refs import open_reference
from spec2fn.schema import MODE_ATTRS, Meta, meta_of, status_of
from spec2fn.steps.barshadow import barshadow
from spec2fn.steps.pathloss import pathloss
from spec2fn.steps.srctype import srctype
from spec2fn.steps.wavecorr import wavecorr
from tests.buckets import bucketize

pytestmark = pytest.mark.parity

PLANES = {
    "sci": "data",
    "err": "err",
    "dq": "dq",
    "var_poisson": "var_poisson",
    "var_rnoise": "var_rnoise",
    "var_flat": "var_flat",
    "pathloss_ps": "pathloss_point",
    "pathloss_un": "pathloss_uniform",
    "barshadow": "barshadow",
}
NUMBERS = ("source_xpos", "source_ypos", "slit_yscale", "stellarity")
SCENARIOS = ("nrs_fs_g395h", "nrs_bots_g395h", "nrs_mos_prism")
STATES = ("x", "x1", "1x", "1x1", "x11", "11x", "01x", "1x0", "10x", "x01", "1x111", "x1001")


def slits_in(model):
    return list(model.slits) if hasattr(model, "slits") else [model]


def product(folder, kind):
    from stdatamodels.jwst import datamodels

    found = sorted((folder / "steps").glob(f"*_{kind}.fits"))
    return datamodels.open(found[0]) if found else None


def as_slits(model, path_header, exp_type=None, wanted=lambda _: True):
    """The slits of one of the peer's models, as ours; wavelengths from the WCS itself."""
    attrs = {
        name: kind(path_header[keyword])
        for name, (keyword, kind) in MODE_ATTRS.items()
        if keyword in path_header
    }
    attrs["exp_type"] = exp_type or attrs["exp_type"]
    made, wcs = [], {}
    for slit in filter(wanted, slits_in(model)):
        dims = ("integration", "y", "x")
        data = {
            name: (dims[-np.ndim(value) :], np.array(value).astype(np.asarray(value).dtype.str[1:]))
            for name, attribute in PLANES.items()
            if (value := getattr(slit, attribute, None)) is not None and np.size(value)
        }
        y, x = np.mgrid[: slit.data.shape[-2], : slit.data.shape[-1]]
        wave = slit.meta.wcs(x, y)[2]
        before = slit.meta.wcs.get_transform("detector", "slit_frame")(x, y)[2] * 1e6
        data["wavelength"] = (("y", "x"), wave)
        if "wavecorr_frame" in slit.meta.wcs.available_frames:
            data["wavelength_uncorrected"] = (("y", "x"), before)
        for name in NUMBERS:
            value = getattr(slit, name, None)
            data[name] = ((), np.float64(np.nan if value is None else value))
        for name in ("source_type", "shutter_state"):
            data[name] = ((), np.array(getattr(slit, name, None) or "", dtype="U12"))
        data["slit_name"] = ((), np.array(slit.name, dtype="U12"))
        wcs[len(made)] = slit.meta.wcs
        made.append(xr.Dataset(data, attrs=attrs))
    if any("wavelength_uncorrected" in s for s in made):
        made = [
            s if "wavelength_uncorrected" in s else s.assign(wavelength_uncorrected=s["wavelength"])
            for s in made
        ]
    meta = Meta(primary=path_header, filename="slits.fits", wcs=wcs)
    return bucketize(made).map(lambda b: b.assign_attrs(meta=meta))


def header(folder):
    (path,) = sorted((folder / "steps").glob("*_srctype.fits"))
    return fits.getheader(path)


def reference(folder, reftype, exp_type):
    paths = sorted((folder / "crds_cache/references/jwst/nirspec").glob(f"*_{reftype}_*"))
    found = [open_reference(p) for p in paths]
    if reftype == "wavecorr":
        mos = exp_type == "NRS_MSASPEC"
        names = [[a["aperture_name"] for a in r.attrs["tree"]["apertures"]] for r in found]
        return next(r for r, n in zip(found, names, strict=True) if ("MOS" in n) == mos)
    own = [r for r in found if r.attrs.get("exp_type") == exp_type]
    return (own or found)[0]


def assert_same(ours, theirs, allowed, names=tuple(PLANES)):
    assert len(ours) == len(theirs)
    for slit, other in zip(ours, theirs, strict=True):
        label = str(slit["slit_name"].values)
        for name in names:
            value = getattr(other, PLANES[name], None)
            if value is None or not np.size(value):
                assert name not in slit or not np.isfinite(slit[name]).any(), (label, name)
            elif name == "dq":
                np.testing.assert_array_equal(slit["dq"].values, value, err_msg=label)
            else:
                np.testing.assert_array_equal(np.isfinite(slit[name].values), np.isfinite(value))
                allowed("planes").agree(slit[name].values, value, label, name)


def assert_complete(ours, exp_type, step):
    # bucket by bucket: one may hold no slit to be corrected
    statuses = {status_of(b, step).partition(": no slit is corrected")[0] for b in ours.buckets}
    assert "COMPLETE" in statuses <= {"COMPLETE", "SKIPPED"}
    assert ours.attrs["exp_type"] == exp_type


@pytest.mark.parametrize("name", SCENARIOS)
def test_source_types(name, scenario):
    folder = scenario(name)
    ours = as_slits(product(folder, "extract_2d"), header(folder)).map(srctype)
    theirs = product(folder, "srctype")
    for slit, other in zip(ours, slits_in(theirs), strict=True):
        assert str(slit["source_type"].values) == other.source_type
        assert float(slit["source_xpos"]) == other.source_xpos
        assert float(slit["source_ypos"]) == other.source_ypos
    assert ours.attrs.get("source_type") == theirs.meta.target.source_type


@pytest.mark.parametrize(
    ("keywords", "chosen"),
    [
        ({"SRCTYAPT": "EXTENDED"}, None),
        ({"SRCTYAPT": "UNKNOWN", "PATTTYPE": "NONE"}, None),
        ({"SRCTYAPT": "POINT", "BKGDTARG": True}, None),
        ({"SRCTYAPT": "EXTENDED", "TSOVISIT": True}, None),
        ({"SRCTYAPT": "UNKNOWN", "FXD_SLIT": "S400A1"}, None),
        ({"SRCTYAPT": "POINT", "FXD_SLIT": "NONE"}, None),
        ({"SRCTYAPT": "POINT"}, "EXTENDED"),
    ],
)
def test_source_types_of_fixed_slits_by_every_rule(keywords, chosen, scenario):
    from jwst.srctype.srctype import set_source_type

    folder = scenario("nrs_fs_g395h")
    model, primary = product(folder, "extract_2d"), header(folder)
    for keyword, value in keywords.items():
        primary[keyword] = value
    model.meta.target.source_type_apt = primary["SRCTYAPT"]
    model.meta.observation.bkgdtarg = primary.get("BKGDTARG")
    model.meta.visit.tsovisit = primary.get("TSOVISIT")
    model.meta.instrument.fixed_slit = primary["FXD_SLIT"]
    model.meta.dither.primary_type = primary.get("PATTTYPE")
    ours = as_slits(model, primary).map(lambda b: srctype(b, source_type=chosen))
    theirs = set_source_type(model, chosen)
    assert ours.attrs["source_type"] == theirs.meta.target.source_type
    for slit, other in zip(ours, theirs.slits, strict=True):
        assert str(slit["source_type"].values) == other.source_type
        assert float(slit["source_xpos"]) == other.source_xpos


def wavecorr_input(folder, branch):
    exp_type = "NRS_FIXEDSLIT" if branch else None
    # master_background, which stands in between, changes no wavelength
    return as_slits(
        product(folder, "srctype"),
        header(folder),
        exp_type,
        lambda s: s.name[0] == "S" or not branch,
    )


@pytest.mark.parametrize(
    ("name", "branch"), [*((n, "") for n in SCENARIOS), ("nrs_mos_prism", "_fs")]
)
def test_wavelengths_and_wcs(name, branch, scenario, allowed):
    folder = scenario(name)
    slits = wavecorr_input(folder, branch)
    theirs = slits_in(product(folder, "wavecorr" + branch))
    if name == "nrs_mos_prism" and not branch:
        slits = slits.where(lambda b: [n[0] != "S" for n in b["slit_name"].values])
    ref = reference(folder, "wavecorr", slits.attrs["exp_type"])
    ours = slits.map(lambda b: wavecorr(b, ref))
    assert_complete(ours, slits.attrs["exp_type"], "wavecorr")
    wcs = {k: w for b in ours.buckets for k, w in meta_of(b).wcs.items() if k in b["slit"]}
    for key, other in zip(ours.ids, theirs, strict=True):
        slit = ours.slit(key)
        allowed("wavelengths").agree(slit["wavelength"].values, other.wavelength, key)
        frames = other.meta.wcs.available_frames
        assert bool(slit["wavelength_corrected"]) == ("wavecorr_frame" in frames)
        assert wcs[key].available_frames == frames
        y, x = np.mgrid[: slit.sizes["y"], : slit.sizes["x"]]
        for a, b in zip(wcs[key](x, y), other.meta.wcs(x, y), strict=True):
            allowed("wcs").close(a, b)
        allowed("own_wcs").close(wcs[key](x, y)[2], slit["wavelength"].values)


@pytest.mark.parametrize(
    ("name", "branch"),
    [("nrs_fs_g395h", ""), ("nrs_mos_prism", ""), ("nrs_mos_prism", "_fs")],
)
def test_pathloss(name, branch, scenario, allowed):
    folder = scenario(name)
    before, exp_type = product(folder, "flat_field" + branch), "NRS_FIXEDSLIT" if branch else None
    slits = as_slits(before, header(folder), exp_type)
    ref = reference(folder, "pathloss", slits.attrs["exp_type"])
    ours = slits.map(lambda b: pathloss(b, ref))
    assert_complete(ours, slits.attrs["exp_type"], "pathloss")
    theirs = slits_in(product(folder, "pathloss" + branch))
    assert_same(ours, theirs, allowed)
    kinds = [s.pathloss_correction_type for s in theirs]
    assert list(ours.variable("pathloss_correction_type")) == kinds


@pytest.mark.parametrize("parameters", [{}, {"inverse": True}, {"source_type": "EXTENDED"}])
def test_pathloss_by_every_rule(parameters, scenario, allowed):
    from jwst.pathloss.pathloss import do_correction
    from stdatamodels.jwst import datamodels

    folder = scenario("nrs_mos_prism")
    model, rng = product(folder, "flat_field"), np.random.default_rng(3)
    for slit, state in zip(model.slits, STATES, strict=True):
        slit.shutter_state = state
        slit.source_xpos, slit.source_ypos = rng.uniform(-0.55, 0.55, 2)
    ref = reference(folder, "pathloss", "NRS_MSASPEC")
    slits = as_slits(model, header(folder))
    ours = slits.map(lambda b: pathloss(b, ref, **parameters))
    with datamodels.PathlossModel(ref.attrs["path"]) as opened:
        theirs = do_correction(model, opened, return_corrections=False, **parameters)
    kinds = [s.pathloss_correction_type or "" for s in theirs.slits]
    assert len(set(kinds)) > 1
    assert list(ours.variable("pathloss_correction_type")) == kinds
    assert_same(ours, theirs.slits, allowed)


@pytest.mark.parametrize("parameters", [{}, {"inverse": True}, {"source_type": "POINT"}])
def test_barshadow(parameters, scenario, allowed):
    from jwst.barshadow.bar_shadow import do_correction
    from stdatamodels.jwst import datamodels

    folder = scenario("nrs_mos_prism")
    ref = reference(folder, "barshadow", "NRS_MSASPEC")
    before = product(folder, "pathloss")
    if not parameters:
        ours = as_slits(before, header(folder)).map(lambda b: barshadow(b, ref))
        assert_complete(ours, "NRS_MSASPEC", "barshadow")
        theirs = slits_in(product(folder, "barshadow"))
        assert_same(ours, theirs, allowed)
        assert [bool(c) for c in ours.variable("barshadow_corrected")] == [
            s.barshadow_corrected for s in theirs
        ]
    for slit, state in zip(before.slits, STATES, strict=True):
        slit.shutter_state = state
    ours = as_slits(before, header(folder)).map(lambda b: barshadow(b, ref, **parameters))
    with datamodels.BarshadowModel(ref.attrs["path"]) as opened:
        theirs = do_correction(before, opened, return_corrections=False, **parameters)
    assert_same(ours, theirs.slits, allowed)
