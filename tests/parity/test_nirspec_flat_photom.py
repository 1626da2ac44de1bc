"""flat_field and photom of NIRSpec slits, each on the peer's own input to the step."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.refs import open_reference
from spec2fn.schema import PLANES, Meta, status_of
from spec2fn.slits import Slits
from spec2fn.steps.flat_field import flat_field
from spec2fn.steps.photom import photom
from tests.buckets import bucketize

pytestmark = pytest.mark.parity

NAMES = {plane.hdu: name for name, plane in PLANES.items() if plane.hdu}
SCENARIOS = (
    ("nrs_fs_g395h", ""),
    ("nrs_fs_nrs2", ""),
    ("nrs_fs_prism", ""),
    ("nrs_bots_g395h", ""),
    ("nrs_mos_prism", ""),
    ("nrs_mos_prism", "_fs"),
    ("nrs_mos_g395m", ""),
)
KEYWORDS = {
    "slit_name": ("SLTNAME", str),
    "source_type": ("SRCTYPE", str),
    "bunit": ("BUNIT", str),
    "quadrant": ("MSAQUAD", int),
    "photmjsr": ("PHOTMJSR", float),
    "photuja2": ("PHOTUJA2", float),
    "pixar_sr": ("PIXAR_SR", float),
    "pixar_a2": ("PIXAR_A2", float),
}
SHUTTERS = 365  # in a row of the micro-shutter array


def read(path):
    """Slits of one of the peer's products, as a list of Datasets."""
    with fits.open(path, memmap=False) as hdus:
        primary = hdus[0].header
        attrs = {
            "exp_type": primary["EXP_TYPE"],
            "instrument": "NIRSPEC",
            "filter": primary["FILTER"],
            "grating": primary["GRATING"],
            "xstart": primary["SUBSTRT1"],
            "ystart": primary["SUBSTRT2"],
            "meta": Meta(primary=primary, filename=path.name),
        }
        slits = {}
        for hdu in hdus:
            if hdu.name in NAMES:
                name = NAMES[hdu.name]
                data = hdu.data.astype(PLANES[name].dtype)
                variable = (("integration", "y", "x")[-data.ndim :], data)
                slits.setdefault(hdu.ver, {})[name] = variable
        for version, slit in slits.items():
            header = hdus["SCI", version].header
            for name, (keyword, kind) in KEYWORDS.items():
                value = header.get(keyword, primary.get(keyword))
                if value is not None:
                    slit[name] = ((), np.array(kind(value)))
            shutter = int(header.get("SHUTTRID", 0)) - 1
            slit["xcen"], slit["ycen"] = shutter % SHUTTERS + 1, shutter // SHUTTERS + 1
            slit["xstart"], slit["ystart"] = header["SLTSTRT1"], header["SLTSTRT2"]
            slit["mid_time"] = float(primary["EXPMID"])
        return [xr.Dataset(slit, attrs=attrs) for slit in slits.values()]


def step_input(folder, before, branch):
    """Slits before a step, with the wavelengths before wavecorr."""
    found = [sorted((folder / "steps").glob(f"*_{kind}{branch}.fits")) for kind in before]
    slits = read(next(f[0] for f in reversed(found) if f))
    earlier = {str(s.slit_name.values): s for s in read(one(folder / "steps", "*_srctype.fits"))}
    made = []
    for slit in slits:
        was = earlier[str(slit.slit_name.values)]["wavelength"]
        # the peer has some planes only for the slit with a point source
        lacking = {n for s in slits for n in s.data_vars if n in PLANES} - set(slit.data_vars)
        none = {n: xr.full_like(slit["wavelength"], np.nan, np.float32) for n in lacking}
        made.append(slit.assign(wavelength_uncorrected=was, **none))
    return bucketize(made).map(lambda b: b.assign(mid_time=((), b.mid_time.values[0])))


def one(folder, pattern):
    (found,) = sorted(folder.glob(pattern))
    return found


def references(folder, exp_type, *types):
    found = []
    for reftype in types:
        paths = sorted((folder / "crds_cache/references/jwst/nirspec").glob(f"*_{reftype}_*.fits"))
        modes = {p: fits.getheader(p).get("EXP_TYPE") for p in paths}
        own = [p for p in paths if modes[p] == exp_type]
        found.append((own or [p for p in paths if modes[p] in (None, "N/A", "ANY")])[0])
    return found


def run(step, slits, refs, **parameters):
    refs = tuple(refs)
    done = slits.map(lambda b: step(b, *refs, **parameters))
    assert {status_of(b, step.name) for b in done.buckets} == {"COMPLETE"}
    return done


def assert_same(ours: Slits, theirs, allowed, scalars=()):
    assert len(ours) == len(theirs)
    for slit in theirs:
        mine = ours.slit(str(slit.slit_name.values))
        for name in NAMES.values():
            if name not in slit:
                # planes of a slit that has none are NaN in ours
                assert name not in mine or not np.isfinite(mine[name]).any(), name
            elif name == "dq":
                np.testing.assert_array_equal(mine.dq.values, slit.dq.values)
            else:
                label = str(slit.slit_name.values)
                allowed("planes").agree(mine[name].values, slit[name].values, label, name)
        for name in scalars:
            allowed("keywords").close(mine[name].values, slit[name].values)
        if scalars:
            assert str(mine.bunit.values) == str(slit.bunit.values)


@pytest.mark.parametrize(("name", "branch"), SCENARIOS)
def test_flat_field(name, branch, scenario, allowed):
    folder = scenario(name)
    slits = step_input(folder, ("wavecorr",), branch)
    paths = references(folder, slits.attrs["exp_type"], "fflat", "sflat", "dflat")
    ours = run(flat_field, slits, (None, *map(open_reference, paths)))
    theirs = read(one(folder / "steps", f"*_flat_field{branch}.fits"))
    assert_same(ours, theirs, allowed)


@pytest.mark.parametrize(("name", "branch"), SCENARIOS)
def test_photom(name, branch, scenario, allowed):
    folder = scenario(name)
    slits = step_input(folder, ("flat_field", "pathloss", "barshadow"), branch)
    paths = references(folder, slits.attrs["exp_type"], "photom", "area")
    ours = run(photom, slits, map(open_reference, paths))
    theirs = read(one(folder / "steps", f"*_photom{branch}.fits"))
    scalars = ("photmjsr", "photuja2", "pixar_sr", "pixar_a2")
    assert_same(ours, theirs, allowed, scalars)


@pytest.mark.parametrize("supplied", [False, True])
def test_flat_field_inverse_and_supplied(supplied, scenario, allowed, tmp_path):
    from jwst.flatfield import flat_field as peer
    from stdatamodels.jwst import datamodels

    folder = scenario("nrs_mos_prism")
    slits = step_input(folder, ("wavecorr",), "")
    paths = references(folder, "NRS_MSASPEC", "fflat", "sflat", "dflat")
    fflat = datamodels.NirspecQuadFlatModel(paths[0])
    others = [datamodels.NirspecFlatModel(p) for p in paths[1:]]
    source = one(folder / "steps", "*_wavecorr.fits")
    with datamodels.open(source) as model:
        theirs, flat = peer.do_correction(model, None, fflat, *others, inverse=not supplied)
        theirs.save(tmp_path / "peer.fits")
        flat.save(tmp_path / "flat.fits")
    parameters = {"inverse": True, "save_interpolated_flat": True}
    refs = (None, *map(open_reference, paths))
    if supplied:
        parameters, refs = {"user_supplied_flat": str(tmp_path / "flat.fits")}, ()
    ours = run(flat_field, slits, refs, **parameters)
    assert_same(ours, read(tmp_path / "peer.fits"), allowed)
    if supplied:
        return
    kept = Slits(tuple(b.attrs["meta"].records["interpolatedflat"] for b in ours.buckets))
    for i, slit in enumerate(read(tmp_path / "flat.fits")):
        mine = kept.slit(i)
        np.testing.assert_array_equal(mine.dq, slit.dq)
        allowed("planes").agree(mine.sci.values, slit.sci.values)
        good = slit.dq.values == 0
        allowed("planes").agree(mine.err.values[good], slit.err.values[good])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nrs_mos_prism", {"source_type": "POINT"}),
        ("nrs_mos_prism", {"source_type": "EXTENDED", "apply_time_correction": False}),
        ("nrs_fs_g395h", {"source_type": "POINT", "inverse": True}),
        ("nrs_bots_g395h", {"source_type": "EXTENDED"}),
    ],
)
def test_photom_parameters(name, parameters, scenario, allowed, tmp_path):
    from jwst.photom.photom import DataSet
    from stdatamodels.jwst import datamodels

    folder = scenario(name)
    before = ("flat_field", "pathloss", "barshadow")
    slits = step_input(folder, before, "")
    paths = references(folder, slits.attrs["exp_type"], "photom", "area")
    kinds = [sorted((folder / "steps").glob(f"*_{kind}.fits")) for kind in before]
    source = next(k[0] for k in reversed(kinds) if k)
    with datamodels.open(source) as model:
        DataSet(model, **parameters).apply_photom(*map(str, paths)).save(tmp_path / "peer.fits")
    ours = run(photom, slits, map(open_reference, paths), **parameters)
    assert_same(ours, read(tmp_path / "peer.fits"), allowed)
