"""extract_1d of NIRSpec slits on the peer's own input to the step, against the peer's spectra."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.io.fits.layout import _spectrum_cards
from spec2fn.refs import open_reference
from spec2fn.schema import EXTRACTED, MODE_ATTRS, Meta, meta_of
from spec2fn.steps.extract_1d import extract_1d
from tests.buckets import bucketize

pytestmark = pytest.mark.parity

FS, MOS, BOTS = "NRS_FIXEDSLIT", "NRS_MSASPEC", "NRS_BRIGHTOBJ"
BACKGROUND_ERRORS = ("bkgd_error", "bkgd_var_poisson", "bkgd_var_rnoise", "bkgd_var_flat")
FIXED = ("S200A1", "S200A2", "S400A1", "S1600A1")
PLANES = {
    "sci": "data",
    "err": "err",
    "dq": "dq",
    "var_poisson": "var_poisson",
    "var_rnoise": "var_rnoise",
    "var_flat": "var_flat",
    "wavelength": "wavelength",
}
TEXTS = {
    "slit_name": "name",
    "source_type": "source_type",
    "shutter_state": "shutter_state",
    "source_name": "source_name",
    "source_alias": "source_alias",
    "pathloss_correction_type": "pathloss_correction_type",
}
NUMBERS = (
    "source_xpos",
    "source_ypos",
    "source_ra",
    "source_dec",
    "stellarity",
    "slit_xscale",
    "slit_yscale",
)
INTEGERS = ("source_id", "slitlet_id", "quadrant")
FLAGS = ("wavelength_corrected", "barshadow_corrected")


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def one(folder, kind):
    return sorted((folder / "steps").glob(f"*_{kind}.fits"))[0]


def reference_files(folder, exp_type):
    base = folder / "crds_cache" / "references" / "jwst" / "nirspec"
    found = {"extract1d": None, "apcorr": None, "psf": None}
    for path in sorted(base.glob("*_extract1d_*")):
        if json.loads(path.read_text())["exp_type"] == exp_type:
            found["extract1d"] = str(path)
    for path in sorted(base.glob("*_apcorr_*")):
        if fits.getheader(path)["EXP_TYPE"] == exp_type:
            found["apcorr"] = str(path)
    return found


def opened(files):
    return {t: None if path is None else open_reference(path, t) for t, path in files.items()}


def one_slit(slit):
    dims = ("integration", "y", "x")[-slit.data.ndim :]
    data = {}
    for name, attribute in PLANES.items():
        value = getattr(slit, attribute, None)
        if value is not None and np.size(value):
            value = np.asarray(value)
            value = value.astype(value.dtype.newbyteorder("="))
            data[name] = (dims[-value.ndim :], value)
    data["wavelength"] = (("y", "x"), data["wavelength"][1].astype(float))
    scalars = {name: str(getattr(slit, a, None) or "") for name, a in TEXTS.items()}
    for name in NUMBERS:
        value = getattr(slit, name, None)
        scalars[name] = np.nan if value is None else float(value)
    scalars |= {name: int(getattr(slit, name, None) or 0) for name in INTEGERS}
    scalars |= {n: bool(getattr(slit, n)) for n in FLAGS if getattr(slit, n, None) is not None}
    area = slit.meta.photometry.pixelarea_steradians
    scalars["pixar_sr"] = np.nan if area is None else float(area)
    scalars["bunit"] = str(slit.meta.bunit_data)
    return xr.Dataset(data | {n: ((), np.asarray(v)) for n, v in scalars.items()})


def load(path):
    """The peer's product as slits, and as the peer's model."""
    from stdatamodels.jwst import datamodels

    model = datamodels.open(path)
    slits = list(model.slits) if hasattr(model, "slits") else [model]
    parts = [one_slit(s) for s in slits]
    flags = [n for n in FLAGS if any(n in p for p in parts)]
    parts = [p.assign({n: p.get(n, ((), False)) for n in flags}) for p in parts]
    common = set.intersection(*(set(p.variables) for p in parts))
    with fits.open(path) as hdus:
        meta = Meta(hdus[0].header.copy(), hdus["SCI"].header.copy(), path.name)
    meta = meta.replace(wcs={i: s.meta.wcs for i, s in enumerate(slits)})
    attrs = {n: kind(meta.get(k)) for n, (k, kind) in MODE_ATTRS.items() if meta.get(k) is not None}
    attrs |= {"dispaxis": 1, "meta": meta, "status_photom": str(meta.get("S_PHOTOM", ""))}
    return bucketize([p[sorted(common)] for p in parts]).assign_attrs(attrs), model


def assert_same(ours, tables, row, without=()):
    assert ours.sizes["spectrum"] == len(tables)
    for k, table in enumerate(tables):
        n = int(ours["n_wave"][k])
        names = [c.lower() for c in table.dtype.names]
        for name, (column, _) in EXTRACTED.items():
            if name in without or column.lower() not in names:
                continue
            theirs = np.asarray(table[column], dtype=float)
            mine = np.broadcast_to(ours[name].isel(spectrum=k).values[..., :n], theirs.shape)
            row.agree(mine, theirs, k, name)


@pytest.mark.parametrize(
    ("name", "before", "after", "exp_type"),
    [
        ("nrs_fs_g395h", "s2d", "x1d", FS),
        ("nrs_mos_prism", "s2d", "x1d", MOS),
        ("nrs_bots_g395h", "pixel_replace", "x1dints", BOTS),
    ],
)
def test_pipeline_product(scenario, allowed, name, before, after, exp_type):
    def same(a, b):
        return a == b or (isinstance(a, float) and a == allowed("keywords").approx(b))

    folder = scenario(name)
    slits, _ = load(one(folder, before))
    ours = extract_1d(slits, **opened(reference_files(folder, exp_type)))
    with fits.open(one(folder, after)) as hdus:
        spectra = [h for h in hdus if h.name == "EXTRACT1D"]
        assert ours.attrs["model"] == hdus[0].header["DATAMODL"]
        assert_same(ours, [h.data for h in spectra], allowed("products"))
        for k, hdu in enumerate(spectra):
            mine = {c.keyword: c.value for c in map(as_card, _spectrum_cards(ours, k))}
            cards = list(hdu.header.items())
            theirs = dict(cards[[c[0] for c in cards].index("EXTVER") + 1 :])
            # the peer says nothing of bars where there are none
            if theirs.get("BARSHDW") is None:
                mine.pop("BARSHDW", None)
            different = {c for c in {*mine, *theirs} if not same(mine.get(c), theirs.get(c))}
            assert not different, {c: (mine.get(c), theirs.get(c)) for c in different}


def as_card(card):
    return card if isinstance(card, fits.Card) else fits.Card.fromstring(card)


def apertures(tmp_path, names, **entry):
    entries = [{"id": n, "extract_width": 6, **entry} for n in names]
    path = tmp_path / "extract1d.json"
    path.write_text(json.dumps({"reftype": "EXTRACT1D", "apertures": entries}))
    return str(path)


def psf_file(tmp_path, waves, subpixels=5, width=1.1):
    from stdatamodels.jwst.datamodels import SpecPsfModel

    model = SpecPsfModel()
    model.apertures.append(model.apertures.item())
    rows = np.arange(40 * subpixels + 1) - 20 * subpixels
    wave = np.linspace(*waves, 60)
    scale = width * subpixels * (0.8 + 0.1 * wave)
    first = model.apertures[0]
    first.name, first.subpix = "ANY", subpixels
    first.center_row, first.center_col = 20.0 * subpixels, 30.0
    first.data = np.exp(-0.5 * (rows[:, None] / scale) ** 2).astype(np.float32)
    first.wave = wave.astype(np.float32)
    path = tmp_path / "psf.fits"
    model.save(path)
    return str(path)


def check(folder, before, files, parameters, allowed, **how):
    compare(*load(one(folder, before)), files, parameters, allowed, **how)


def compare(slits, model, files, parameters, allowed, *, row="spectra", without=()):
    from jwst.extract_1d.extract import run_extract1d

    theirs, *images = run_extract1d(
        model.copy(),
        files["extract1d"] or "N/A",
        files["apcorr"] or "N/A",
        files["psf"] or "N/A",
        **{"model_nod_pair": True, **parameters},
        save_profile=True,
        save_scene_model=True,
        save_residual_image=True,
    )
    saved = {"save_profile": True, "save_scene_model": True, "save_residual_image": True}
    ours = extract_1d(slits, **opened(files), **parameters, **saved)
    tables = [s.spec_table for s in theirs.spec]
    assert_same(ours, tables, allowed(row), without)
    records = meta_of(ours).records
    for kind, made in zip(("profile", "scene_model", "residual"), images, strict=True):
        by_slit = [made] if hasattr(made, "data") else list(made)
        for name, image in zip(ours["sltname"].values, by_slit, strict=True):
            mine = records[f"{str(name).lower()}_{kind}"]["sci"].values
            allowed("images").agree(mine, image.data, kind, name)


MOS_NAMES = (*map(str, range(1, 13)), "S200A1")
MOS_BACKGROUND = {"bkg_coeff": [[1.0], [4.2], [15.3], [18.0]]}
WAVES = {
    "src_coeff": [[7.0, 0.1], [12.5, 0.2]],
    "bkg_coeff": [[1.0], [4.2, 0.1], [15.3], [18.0]],
    "independent_var": "wavelength",
    "bkg_order": 1,
    "xstart": 20,
    "xstop": 330.5,
}


@pytest.mark.parametrize(
    ("before", "entry", "parameters"),
    [
        ("s2d", MOS_BACKGROUND, {}),
        ("s2d", MOS_BACKGROUND, {"bkg_fit": "median"}),
        ("s2d", MOS_BACKGROUND, {"bkg_order": 1}),
        ("s2d", MOS_BACKGROUND, {"smoothing_length": 7}),
        ("s2d", MOS_BACKGROUND, {"smoothing_length": 6, "bkg_fit": "median"}),
        ("s2d", MOS_BACKGROUND, {"position_offset": 1.3}),
        ("s2d", MOS_BACKGROUND, {"use_source_posn": False}),
        ("s2d", MOS_BACKGROUND, {"use_source_posn": True, "subtract_background": False}),
        ("s2d", WAVES, {}),
        ("s2d", None, {}),
        ("pixel_replace", MOS_BACKGROUND, {}),  # not resampled
    ],
)
def test_slitlets(scenario, allowed, tmp_path, before, entry, parameters):
    folder = scenario("nrs_mos_prism")
    files = reference_files(folder, MOS)
    files["extract1d"] = None if entry is None else apertures(tmp_path, MOS_NAMES, **entry)
    check(folder, before, files, parameters, allowed)


def test_shared_aperture_is_the_peers_oversight(scenario, allowed, tmp_path):
    """The peer moves the background of an entry for ANY slit on, from slit to slit."""
    folder = scenario("nrs_mos_prism")
    files = reference_files(folder, MOS)
    shared = {**files, "extract1d": apertures(tmp_path, ["ANY"], **MOS_BACKGROUND)}
    with pytest.raises(AssertionError, match="flux"):
        check(folder, "s2d", shared, {}, allowed, row="different_aperture")
    slits, _ = load(one(folder, "s2d"))
    ours = extract_1d(slits, **opened(shared))
    named = {**files, "extract1d": apertures(tmp_path, MOS_NAMES, **MOS_BACKGROUND)}
    check(folder, "s2d", named, {}, allowed)
    again = extract_1d(slits, **opened(named))
    np.testing.assert_array_equal(ours["flux"], again["flux"])


@pytest.mark.parametrize(
    ("name", "before", "exp_type", "parameters"),
    [
        ("nrs_fs_g395h", "s2d", FS, {}),
        ("nrs_fs_g395h", "s2d", FS, {"smoothing_length": 11}),
        ("nrs_fs_g395h", "cal", FS, {}),
        ("nrs_bots_g395h", "pixel_replace", BOTS, {"bkg_fit": "median"}),
        ("nrs_bots_g395h", "pixel_replace", BOTS, {"smoothing_length": 7, "bkg_order": 1}),
        ("nrs_bots_g395h", "photom", BOTS, {}),  # with bad pixels
        ("nrs_bots_g395h", "wavecorr", BOTS, {}),  # not flux calibrated
    ],
)
def test_fixed_slits(scenario, allowed, tmp_path, name, before, exp_type, parameters):
    folder = scenario(name)
    background = {"bkg_coeff": [[2.0], [5.0], [12.0], [15.0]]}
    files = reference_files(folder, exp_type)
    files["extract1d"] = apertures(tmp_path, FIXED, **background)
    # the peer corrects all integrations for the number of good pixels in the first
    files["apcorr"] = None if before == "photom" else files["apcorr"]
    check(folder, before, files, parameters, allowed)


def test_correction_of_the_first_integration_is_the_peers_shortcut(scenario, allowed, tmp_path):
    folder = scenario("nrs_bots_g395h")
    files = reference_files(folder, BOTS)
    from jwst.extract_1d.extract import run_extract1d

    slits, model = load(one(folder, "photom"))
    ours = extract_1d(slits, **opened(files))
    for i in (0, 3):
        # its own correction, when the integration is the only one
        single = model.copy()
        for name in ("data", "err", "dq", "var_poisson", "var_rnoise", "var_flat"):
            setattr(single, name, getattr(model, name)[i : i + 1])
        alone, *_ = run_extract1d(single, files["extract1d"], files["apcorr"], "N/A")
        theirs = [s.spec_table for s in alone.spec]
        assert_same(ours.isel(integration=slice(i, i + 1)), theirs, allowed("products"))


@pytest.mark.parametrize(
    ("name", "before", "exp_type", "waves", "parameters"),
    [
        ("nrs_fs_g395h", "s2d", FS, (2.0, 6.0), {}),
        ("nrs_mos_prism", "s2d", MOS, (0.4, 5.6), {"position_offset": 0.4}),
        ("nrs_bots_g395h", "pixel_replace", BOTS, (2.0, 6.0), {"subtract_background": True}),
    ],
)
def test_optimal(scenario, allowed, tmp_path, name, before, exp_type, waves, parameters):
    """The peer's background errors are NaN at every element with a bad pixel anywhere."""
    folder = scenario(name)
    files = reference_files(folder, exp_type) | {"psf": psf_file(tmp_path, waves), "apcorr": None}
    options = {"extraction_type": "optimal", "optimize_psf_location": name == "nrs_fs_g395h"}
    without = BACKGROUND_ERRORS if "subtract_background" in parameters else ()
    check(folder, before, files, options | parameters, allowed, row="optimal", without=without)


@pytest.mark.parametrize("source_type", ["UNKNOWN", "POINT"])
@pytest.mark.parametrize("entry", [{}, MOS_BACKGROUND])
def test_flight_pixels(allowed, tmp_path, source_type, entry):
    """One slitlet of CEERS, not resampled, with the bad pixels the detector has."""
    pytest.importorskip("jwst")
    folder = os.environ.get("SPEC2FN_REALDATA")
    if not folder:
        pytest.skip("SPEC2FN_REALDATA is not set")
    paths = sorted(Path(folder, "nirspec_mos").glob("*_phot.*.fits"))
    if not paths:
        pytest.skip("no flight slit in SPEC2FN_REALDATA")
    slits, model = load(paths[0])
    model.source_type = source_type
    model.meta.cal_step.photom = "COMPLETE"
    unit = "MJy" if source_type == "POINT" else "MJy/sr"
    slits = slits.map(
        lambda b: b.assign(source_type=("slit", [source_type]), bunit=("slit", [unit]))
    )
    files = {"extract1d": apertures(tmp_path, ["ANY"], **entry), "apcorr": None, "psf": None}
    compare(slits, model, files, {}, allowed, row="flight")
