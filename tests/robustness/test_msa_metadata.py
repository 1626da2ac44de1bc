"""MSA metadata without a column, or with nonsense in one: the same products, or one line."""

import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from spec2fn import pipelines
from spec2fn.engine.pipeline import Observation
from spec2fn.errors import InputError
from spec2fn.io.msa import read_msa_metadata
from spec2fn.testing import nirspec as toy
from spec2fn.wcs.msa_slitlets import open_slitlets
from tests.robustness.conftest import edit_header, judge

LABELS = {"source_name", "alias"}  # any text will do, and is written as it is
UNUSED = {"shutter_state", "program", "catalog_id", "preimage_id"}


def columns():
    """Tables and columns of the toy, which are those of the files."""
    return [name.split(".") for name in toy.msa_metadata().data_vars]


def changed(table, column, values):
    name = f"{table}.{column}"
    msa = toy.msa_metadata()
    return msa.assign({name: (msa[name].dims, values)})


def nonsense(values):
    """Yield what a column may hold by mistake: of another type, not finite, out of any range."""
    n = len(values)
    if values.dtype.kind in "iu":
        yield np.full(n, 1.5)
    if values.dtype.kind in "iuf":
        yield np.full(n, "what")
        yield np.full(n, np.nan)
        yield np.full(n, 12345.0)
        yield np.full(n, -99999.0)
        yield np.full(n, np.inf)
    else:
        yield np.full(n, "?")
        yield np.full(n, 7)
        yield np.full(n, np.nan)


@pytest.mark.parametrize(("table", "column"), columns())
def test_a_column_that_is_missing_or_holds_nonsense_is_named(table, column):
    usual = open_slitlets(toy.msa_metadata(), 1, 1)
    name = f"{table}.{column}"
    msa = toy.msa_metadata()
    cases = [msa.drop_vars(name), *(changed(table, column, v) for v in nonsense(msa[name].values))]
    for number, case in enumerate(cases):
        if column in LABELS and number == 1:
            assert open_slitlets(case, 1, 1)[0].source_name in ("?", usual[0].source_name)
            continue
        problem, made = attempt(lambda msa=case: open_slitlets(msa, 1, 1))
        if problem:
            assert column in problem
            assert table.upper() in problem
            assert "jw01234_01_msa.fits" in problem
        else:
            assert column in UNUSED or made == usual, number
        assert column not in UNUSED or not problem


def attempt(do):
    """The one line of an input error, and what `do` returned without one."""
    try:
        return "", do()
    except InputError as error:
        problem = str(error)
    assert "\n" not in problem
    return problem, None


def test_a_source_without_a_place_is_refused_but_not_a_place_without_a_source():
    column = "estimated_source_in_shutter_x"
    msa = toy.msa_metadata()
    place = msa[f"shutter_info.{column}"].values.copy()
    row = {
        int(s): i
        for i, (s, main) in enumerate(
            zip(
                msa["shutter_info.source_id"].values,
                msa["shutter_info.primary_source"].values,
                strict=True,
            )
        )
        if main == "Y"
    }
    virtual = place.copy()
    virtual[row[-7]] = np.nan
    (slit,) = (
        s for s in open_slitlets(changed("shutter_info", column, virtual), 1, 1) if s.name == "3"
    )
    assert (slit.source_id, slit.source_xpos) == (-7, 0.0)
    place[row[2]] = np.nan
    with pytest.raises(InputError, match=f"column {column} is nan for source 2"):
        open_slitlets(changed("shutter_info", column, place), 1, 1)


def test_a_source_must_be_in_the_catalogue_once():
    for ids, times in (([1, 22, 9], 0), ([2, 1, 2], 2)):
        with pytest.raises(
            InputError, match=rf"column source_id is 2 .* SOURCE_INFO {times} times"
        ):
            open_slitlets(changed("source_info", "source_id", np.array(ids)), 1, 1)


def test_shutters_of_a_slitlet_lie_in_a_line():
    msa = toy.msa_metadata()
    rows = msa["shutter_info.shutter_row"].values.copy()
    rows[0] += 1
    with pytest.raises(InputError, match="shutter_row is 67 and 68 in slitlet 1"):
        open_slitlets(changed("shutter_info", "shutter_row", rows), 1, 1)


def published():
    root = os.environ.get("SPEC2FN_REALDATA")
    found = sorted(Path(root).rglob("*msa*.fits*")) if root else []
    return [p for p in found if p.parent.name in ("nirspec_msa", "msa")]


def test_every_published_file_is_read_or_says_what_it_lacks():
    if not published():
        pytest.skip("SPEC2FN_REALDATA is not set: no published MSA metadata")
    read = set()
    for path in published():
        problem, msa = attempt(lambda path=path: read_msa_metadata(path))
        if problem:
            lacks = "table SHUTTER_INFO has no column dither_point_index, primary_source"
            assert f"{path}: {lacks}" in problem
            continue
        read.add(path.name)
        number = int(msa["shutter_info.msa_metadata_id"].values[0])
        assert open_slitlets(msa, number, 1)
        has_fixed = pipelines._has_fixed(Observation(None, {"msa_metadata": (msa,)}))
        assert has_fixed == (path.name == "msa_fs_configuration.fits")
    assert read == {
        "jw02736007001_01_msa.fits.gz",
        "msa_configuration.fits",
        "msa_fs_configuration.fits",
    }


def drop_column(path, table, column):
    with fits.open(path, mode="update", memmap=False) as hdus:
        hdus[table].columns.del_col(column)


@pytest.fixture
def mos(case, tmp_path):
    """``mos()``: a copy of the rendered MOS exposure, and its MSA metadata file."""
    one = case("nirspec-mos")
    folder = one.copy(tmp_path / "in")
    (path,) = folder.glob("*_msa.fits")
    return one, folder, path


QUICK = {s: {"skip": True} for s in ("resample_spec", "extract_1d", "pixel_replace")}


def test_files_without_fixed_slits_are_calibrated(mos):
    # the layout of flight files until 2024
    one, folder, path = mos
    drop_column(path, "SHUTTER_INFO", "fixed_slit")
    with fits.open(path, mode="update", memmap=False) as hdus:
        table = hdus["SHUTTER_INFO"].data
        hdus["SHUTTER_INFO"].data = table[table["shutter_quadrant"] > 0]
    usual = one.run(params=QUICK)
    outcome = one.run(folder, params=QUICK)
    assert outcome.error is None
    ours, theirs = outcome.products["cal"], usual.products["cal"]
    assert [n for n in theirs.names if n not in ours.names] == ["S200A1"]
    for name in ours.names:
        np.testing.assert_array_equal(ours.slit(name)["sci"], theirs.slit(name)["sci"])


@pytest.mark.parametrize(
    ("table", "column"), [("SHUTTER_INFO", "primary_source"), ("SOURCE_INFO", "stellarity")]
)
def test_a_run_without_a_column_stops_with_its_name(mos, table, column):
    one, folder, path = mos
    drop_column(path, table, column)
    outcome = one.run(folder, params=QUICK)
    assert judge(outcome, one.usual, column) == "refused"
    assert table in str(outcome.error)
    assert path.name in str(outcome.error)


def test_the_metadata_may_lie_beside_the_association(mos, tmp_path):
    one, folder, path = mos
    rates = tmp_path / "rates"
    rates.mkdir()
    for name in {n for names in one.members.values() for n in names}:
        (folder / name).rename(rates / name)
    members = [
        {**m, "expname": str(rates / m["expname"])}
        for m in one.association["products"][0]["members"]
    ]
    product = {**one.association["products"][0], "members": members}
    association = {**one.association, "products": [product]}
    outcome = one.run(folder, association=association, params=QUICK)
    assert judge(outcome, one.run(params=QUICK)) == "same"
    path.unlink()
    outcome = one.run(folder, association=association, params=QUICK)
    assert judge(outcome, one.usual, "MSAMETFL") == "refused"
    for place in (rates, folder):
        assert str(place) in str(outcome.error)


@pytest.mark.parametrize("value", ["N/A", "", "gone_msa.fits"])
@pytest.mark.parametrize("mode", ["nirspec-fs", "nirspec-bots"])
def test_other_modes_need_no_metadata(case, tmp_path, mode, value):
    one = case(mode)
    folder = one.copy(tmp_path / "in")
    with fits.open(folder / one.science, mode="update") as hdus:
        hdus[0].header["MSAMETFL"] = value
    params = {s: {"skip": True} for s in ("extract_1d", "pixel_replace")}
    assert judge(one.run(folder, params=params), one.run(params=params)) == "same"


@pytest.mark.parametrize("value", ["N/A", "gone_msa.fits", None])
def test_a_mos_exposure_without_metadata_says_so(mos, value):
    one, folder, _ = mos
    assert edit_header(folder / one.science, "MSAMETFL", value) == 1
    assert judge(one.run(folder), one.usual, "MSAMETFL") == "refused"
