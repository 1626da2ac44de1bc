"""References say what exposures they are for; those for others are refused."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from spec2fn.errors import InputError, ReferenceError
from spec2fn.refs import open_reference, references, write_lock
from spec2fn.refs.matching import check_contents, check_exposure, made_for
from spec2fn.steps.flat_field import flat_field
from tests.refs.conftest import exposure, write_flat

REALDATA = os.environ.get("SPEC2FN_REALDATA", "")
real = pytest.mark.skipif(not REALDATA, reason="SPEC2FN_REALDATA is not set: no real references")

SHORT_12 = {
    "instrument": "MIRI",
    "exp_type": "MIR_MRS",
    "detector": "MIRIFUSHORT",
    "channel": "12",
    "band": "SHORT",
}


def fits(**keywords):
    return dict(made_for(keywords.get))


def test_values_and_patterns():
    assert fits(FILTER="p750l ", BAND="N/A", DETECTOR="ANY") == {"filter": "P750L"}
    # a pattern wins over N/A, and adds to another value
    pattern = "NRS_IFU|   NRS_LAMP|"
    assert fits(EXP_TYPE="N/A", P_EXP_TY=pattern) == {"exp_type": "NRS_IFU|NRS_LAMP"}
    assert fits(EXP_TYPE="NRS_MSASPEC", P_EXP_TY=pattern)["exp_type"].count("|") == 2
    assert fits(EXP_TYPE="NRS_IFU", P_EXP_TY="ANY") == {}
    tree = {"meta": {"exposure": {"p_exptype": "A|B|"}, "instrument": {"p_detector": "NRS1|NRS2|"}}}
    assert dict(made_for({}.get, tree)) == {"exp_type": "A|B", "detector": "NRS1|NRS2"}
    # as files of 2020 have it
    assert dict(made_for({}.get, {"meta": {"exp_type": "MIR_MRS"}})) == {"exp_type": "MIR_MRS"}


def check(reftype, says, **exposure):
    import xarray as xr

    attrs = {"reftype": reftype, "filename": "it.fits", "made_for": tuple(says.items())}
    check_exposure(xr.Dataset(attrs=attrs), exposure, reftype, "step")


@pytest.mark.parametrize(
    ("reftype", "says", "exposure"),
    [
        ("specwcs", {"band": "SHORT"}, {"band": "LONG"}),
        ("regions", {"channel": "34"}, {"channel": "12"}),
        ("fringe", {"detector": "MIRIFULONG"}, {"detector": "MIRIFUSHORT"}),
        ("disperser", {"grating": "G395H"}, {"grating": "G395M"}),
        ("fore", {"filter": "CLEAR"}, {"filter": "F290LP"}),
        ("dflat", {"detector": "NRS1"}, {"detector": "NRS2"}),
        ("photom", {"exp_type": "NRS_IFU"}, {"exp_type": "NRS_MSASPEC"}),
        ("extract1d", {"exp_type": "MIR_LRS-SLITLESS"}, {"exp_type": "MIR_LRS-FIXEDSLIT"}),
        ("camera", {"instrument": "NIRSPEC"}, {"instrument": "MIRI"}),
    ],
)
def test_another_set_up_is_refused(reftype, says, exposure):
    (value,), (own,) = says.values(), exposure.values()
    with pytest.raises(ReferenceError) as caught:
        check(reftype, says, **exposure)
    text = str(caught.value)
    assert text.startswith(f"step: reference {reftype!r} (it.fits) was made for ")
    assert f"{value} and not {own}; " in text


@pytest.mark.parametrize(
    ("reftype", "says", "exposure"),
    [
        # properties by which CRDS does not select the type are often those of some exposure
        ("photom", {"detector": "NRS2"}, {"instrument": "NIRSPEC", "detector": "NRS1"}),
        ("camera", {"filter": "CLEAR"}, {"filter": "F290LP"}),
        ("flat", {"exp_type": "MIR_IMAGE"}, {"exp_type": "MIR_LRS-FIXEDSLIT"}),
        ("wavecorr", {"exp_type": "NRS_FIXEDSLIT"}, {"exp_type": "NRS_BRIGHTOBJ"}),
        ("ifufore", {"exp_type": "NRS_IFU"}, {"exp_type": "NRS_LAMP"}),
        ("specwcs", {"channel": "1234"}, {"channel": "12"}),
        ("specwcs", {"band": "SHORT"}, {"band": "N/A"}),
        ("specwcs", {"band": "SHORT"}, {}),
        ("specwcs", {}, {"band": "SHORT"}),
    ],
)
def test_what_says_nothing_of_the_exposure_is_tolerated(reftype, says, exposure):
    check(reftype, says, **exposure)


def test_every_way_to_give_a_reference(tmp_path):
    import xarray as xr

    path = write_flat(tmp_path / "flat.fits", DETECTOR="MIRIFULONG")
    ds = exposure().assign_attrs(detector="MIRIMAGE")
    wanted = "was made for DETECTOR MIRIFULONG and not MIRIMAGE"
    for value in (path, str(path), open_reference(path)):
        with pytest.raises(ReferenceError, match=wanted):
            references(ds, ["flat"], overrides={"flat": value})
    with pytest.raises(ReferenceError, match=f"flat_field: .*{wanted}"):
        flat_field(ds.assign(sci=xr.DataArray(np.ones((4, 5)), dims=("y", "x"))), path)
    # a lock made for another exposure
    other = references(ds.assign_attrs(detector="MIRIFULONG"), ["flat"], overrides={"flat": path})
    lock = tmp_path / "lock.json"
    write_lock(lock, other)
    found = references(ds, ["flat"], lock=lock)
    with pytest.raises(ReferenceError, match=wanted):
        flat_field(ds.assign(sci=xr.DataArray(np.ones((4, 5)), dims=("y", "x"))), found["flat"])


def test_what_crds_selects_is_not_judged(tmp_path):
    from spec2fn.refs import LazyReference

    path = write_flat(tmp_path / "flat.fits", DETECTOR="MIRIFULONG")
    assert "made_for" not in LazyReference(path, "flat", selected=True).load().attrs


def test_parts_of_nothing_but_nan():
    import xarray as xr

    image = np.full((3, 4), np.nan)
    ref = xr.Dataset({"sci": (("y", "x"), image), "err": (("y", "x"), image)})
    with pytest.raises(ReferenceError, match="no finite number in 'sci'"):
        check_contents(ref)
    image = image.copy()
    image[2, 3] = 1.0
    check_contents(ref.assign(sci=(("y", "x"), image)))
    table = {"t.a": ("row", [np.nan]), "t.b": ("row", [1.0])}
    check_contents(xr.Dataset(table))
    with pytest.raises(ReferenceError, match="no finite number in 'data'"):
        check_contents(xr.Dataset(attrs={"tree": {"data": {"radius": [float("nan")]}, "n": 1.0}}))


def _real():
    kinds = (".fits", ".asdf", ".json")
    folder = Path(REALDATA or "/nowhere")
    return sorted(p for p in folder.glob("crds/references/*/*") if p.suffix in kinds)


@real
@pytest.mark.slow
def test_real_references_fit_the_exposures_that_crds_selects_them_for():
    """By the published rules; a file may serve exposures that it does not know of."""
    import ast

    from spec2fn.modes import known_exp_types
    from spec2fn.refs.keywords import KEYWORDS
    from spec2fn.schema import MODE_ATTRS

    rules = {p.name: p.read_text() for p in Path(REALDATA, "crds/mappings").rglob("*.rmap")}
    attrs = {keyword: name for name, (keyword, _) in MODE_ATTRS.items()}
    checked = 0
    for path in _real():
        listed = re.match(r"jwst_\w+?_\w+?_\d+", path.name)[0] + path.suffix
        ref = open_reference(path)
        check_contents(ref)
        reftype = ref.attrs["reftype"]
        for name, text in rules.items():
            if name[:-9] not in listed or listed not in text:
                continue
            keys = ast.literal_eval(re.search(r"'parkey' : (\(.*\)),\n", text)[1])[0]
            for row, files in re.findall(
                r"\n    (\([^()]*\)|'[^']*') : UseAfter\(\{(.*?)\}\)", text, re.S
            ):
                if listed not in files:
                    continue
                values = ast.literal_eval(row)
                values = (values,) if isinstance(values, str) else values
                named = {
                    attrs[KEYWORDS[k]]: v.split("|")
                    for k, v in zip(keys, values, strict=True)
                    if KEYWORDS.get(k) in attrs
                }
                for exp_type in named.pop("exp_type", [""]):
                    if exp_type and exp_type not in known_exp_types():
                        continue
                    one = {n: v[0] for n, v in named.items()} | {"exp_type": exp_type}
                    check_exposure(ref, one | {"instrument": ref.attrs["instrument"]}, reftype)
                    checked += 1
    assert checked > 200


@real
@pytest.mark.parametrize("kind", ["specwcs", "distortion", "regions"])
def test_the_mrs_takes_references_of_its_channel_and_band_only(kind):

    folder = Path(REALDATA, "miri_mrs")
    name = {"regions": "miri_mrs_regions_{}.asdf"}.get(
        kind, f"flt9/jwst_miri_mrs{{}}_{kind}_flt9.asdf"
    )
    own = open_reference(folder / name.format("12A"))
    check_exposure(own, SHORT_12, kind)
    wrong = ("34B",) if kind == "regions" else ("12B", "12C", "34A")
    for other in wrong:
        with pytest.raises(ReferenceError, match=r"was made for .*(BAND|CHANNEL)"):
            check_exposure(open_reference(folder / name.format(other)), SHORT_12, kind)


@real
def test_every_reference_file_is_read_or_refused_in_one_line():
    folders = ("miri_mrs", "niriss_soss", "nirspec_fs", "round2", "residual_fringe", "nirspec_msa")
    paths = _real()
    for folder in folders:
        found = Path(REALDATA, folder).rglob("*")
        paths += sorted(p for p in found if {".fits", ".asdf", ".json"} & set(p.suffixes))
    assert len(paths) > 100
    refused = {}
    for path in paths:
        try:
            open_reference(path)
        except InputError as error:
            refused[path.name] = str(error)
    assert len(refused) < 0.3 * len(paths)
    for name, text in refused.items():
        assert name in text
        assert "\n" not in text


@real
@pytest.mark.parametrize("name", ["miri_apcorr_ifu", "nirspec_apcorr_ifu", "nirspec_apcorr_msa"])
def test_old_aperture_corrections_are_interpreted_or_refused_in_one_line(name, tmp_path):
    import gzip

    from spec2fn.plans.extraction.apcorr import correction_table, match_row
    from spec2fn.plans.extraction.extract_cube import _correction

    (path,) = Path(REALDATA, "round2/apcorr").glob(f"jwst_{name}_dummy*")
    if path.suffix == ".gz":
        with pytest.raises(ReferenceError, match="gunzip"):
            open_reference(path)
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path = tmp_path / path.stem
    ref = open_reference(path, "apcorr")
    wave = np.linspace(6.0, 7.0, 5)
    if "tree" in ref.attrs:
        with pytest.raises(ReferenceError, match=f"{path.name}.*distinct wavelengths"):
            _correction(ref, wave, np.full(5, 4.0), 0.13)
        with pytest.raises(ReferenceError, match=f"{path.name}.*no 'apcorr.filter'"):
            match_row(ref, {"filter": "F290LP", "grating": "G395H"})
        return
    row = match_row(ref, {"filter": "F290LP", "grating": "G395H"})
    for phased in (False, True):
        with pytest.raises(ReferenceError, match=f"{path.name}.*has shape"):
            correction_table(ref, row, wave, lambda: 0.1, phased=phased)
    with pytest.raises(ReferenceError, match=f"{path.name}.*no 'apcorr.slit'"):
        match_row(ref, {"slit": "S200A1"})


@real
def test_numbers_of_a_real_extract1d_reference_must_be_numbers(tmp_path):
    from spec2fn.modes import mode_named
    from spec2fn.parameters import Parameters
    from spec2fn.plans.extraction.aperture import select_aperture
    from spec2fn.steps.extract_1d import extract_1d

    (path,) = Path(REALDATA, "crds/references/miri").glob("*extract1d_0005.json")
    content = json.loads(path.read_text())

    def selected(**changes):
        for aperture in content["apertures"]:
            aperture.update(changes)
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps(content))
        return select_aperture(
            open_reference(file, "extract1d"),
            (416, 72),
            2,
            Parameters("extract_1d", extract_1d.defaults()),
            slit_name="MIR_LRS-SLITLESS",
            spectral_order=1,
            mode=mode_named("MIR_LRS-SLITLESS"),
            point=True,
            has_psf=False,
        )

    good = selected()
    assert good.xstart <= good.xstop
    for changes, what in (
        ({"xstart": "30"}, "'xstart' is '30', needs a finite number"),
        ({"xstart": 30, "ystop": float("nan")}, "'ystop' is nan"),
        ({"ystop": 400, "extract_width": -3}, "'extract_width' is -3, needs a finite number, 0"),
        ({"extract_width": True}, "'extract_width' is True"),
        ({"extract_width": 8, "xstart": 60, "xstop": 20}, "'xstart' is 60 and 'xstop' 20"),
        (
            {"xstart": 20, "xstop": 60, "src_coeff": [["1"], [2]]},
            "'src_coeff': a coefficient is '1'",
        ),
        ({"src_coeff": None, "use_source_posn": "no"}, "'use_source_posn' is 'no', needs true"),
        ({"use_source_posn": None, "bkg_order": 1.5}, "'bkg_order' is 1.5, needs a whole number"),
    ):
        with pytest.raises(ReferenceError, match=re.escape(what)) as caught:
            selected(**changes)
        assert ".json): aperture 'MIR_LRS-SLITLESS'" in str(caught.value)
