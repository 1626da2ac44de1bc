import json
import os
from pathlib import Path

import pytest

from spec2fn.errors import InputError
from spec2fn.io import open_association, open_observation


@pytest.fixture
def asn(exposure, tmp_path):
    for name in ("sci_rate.fits", "bkg1_rate.fits", "bkg2_rate.fits"):
        exposure(name, (6, 5), EXP_TYPE="MIR_LRS-FIXEDSLIT")
    exposure("ta_rate.fits", (6, 5), EXP_TYPE="MIR_TACONFIRM", FILTER="F560W")

    def make(members=None, **content):
        if members is None:
            members = [
                ("sci_rate.fits", "science"),
                ("bkg1_rate.fits", "background"),
                ("bkg2_rate.fits", "background"),
                ("ta_rate.fits", "target_acquisition"),
            ]
        listed = [{"expname": n, "exptype": t} for n, t in members]
        tree = {
            "asn_type": "spec2",
            "asn_pool": "pool",
            "products": [{"name": "out", "members": listed}],
            **content,
        }
        path = tmp_path / "asn.json"
        path.write_text(json.dumps(tree))
        return path

    return make


def test_roles(asn, tmp_path):
    got = open_association(asn())
    assert got.product == "out"
    assert got.science == tmp_path / "sci_rate.fits"
    assert [p.name for p in got.members["background"]] == ["bkg1_rate.fits", "bkg2_rate.fits"]
    assert (got.pool, got.table, got.warnings) == ("pool", "asn.json", ())


def test_observation(asn):
    obs = open_observation(asn())
    assert obs.science.attrs["exp_type"] == "MIR_LRS-FIXEDSLIT"
    assert len(obs.members["background"]) == 2
    assert obs.members["target_acquisition"][0].attrs["exp_type"] == "MIR_TACONFIRM"
    records = obs.science.attrs["meta"].records
    assert records["product"] == "out"
    assert records["asn_pool"] == "pool"
    assert records["asn_table"] == "asn.json"


def test_observation_of_one_file(exposure):
    obs = open_observation(exposure("foo_rate.fits", (6, 5)))
    assert obs.members == {}
    assert obs.science.attrs["meta"].records["product"] == "foo"


def test_mapping(asn, tmp_path):
    got = open_association(json.loads(asn().read_text()), folder=tmp_path)
    assert got.science.name == "sci_rate.fits"
    assert got.table == ""


def test_several_science_members_are_refused(asn):
    path = asn([("sci_rate.fits", "science"), ("bkg1_rate.fits", "science")])
    with pytest.raises(InputError, match=r"2 members .*\(sci_rate.fits, bkg1_rate.fits\)"):
        open_association(path)


def test_a_misspelt_role_is_an_error_with_the_nearest_name(asn):
    path = asn([("sci_rate.fits", "science"), ("bkg1_rate.fits", "backgroud")])
    with pytest.raises(InputError, match=r"bkg1_rate.fits .* 'backgroud'; .* 'background'"):
        open_association(path)


def test_a_role_of_no_use_is_left_out_with_a_warning(asn):
    path = asn([("sci_rate.fits", "science"), ("gone.fits", "psf")])
    (warning,) = open_association(path).warnings
    assert "gone.fits of exptype 'psf' is left out" in warning
    assert open_observation(path).science.attrs["meta"].records["warnings"] == (warning,)


def test_catalogs_by_their_old_name(asn):
    got = open_association(asn([("sci_rate.fits", "science"), ("ta_rate.fits", "Catalog")]))
    assert [p.name for p in got.members["sourcecat"]] == ["ta_rate.fits"]
    assert got.warnings == ()


@pytest.mark.parametrize("role", ["background", "imprint"])
def test_the_same_file_is_not_subtracted_twice_nor_from_itself(asn, tmp_path, role):
    science, other = ("sci_rate.fits", "science"), ("bkg1_rate.fits", role)
    with pytest.raises(InputError, match=f"{role} member bkg1_rate.fits is listed twice"):
        open_association(asn([science, other, other]))
    itself = (str(tmp_path / "sci_rate.fits"), role)
    with pytest.raises(InputError, match=f"{role} member sci_rate.fits is the science exposure"):
        open_association(asn([science, itself]))


@pytest.fixture
def apart(asn, tmp_path, monkeypatch):
    """``apart(members)``: an association in a folder of its own, with another one to work in."""
    (tmp_path / "work").mkdir()
    (tmp_path / "asn").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda members: asn(members).rename(tmp_path / "asn" / "asn.json")


def test_members_by_absolute_path_and_in_another_folder(apart, tmp_path):
    members = [(str(tmp_path / "sci_rate.fits"), "science"), ("../bkg1_rate.fits", "background")]
    obs = open_observation(apart(members))
    assert obs.science.attrs["meta"].filename == "sci_rate.fits"
    assert obs.members["background"][0].attrs["meta"].filename == "bkg1_rate.fits"
    records = obs.science.attrs["meta"].records
    assert (records["folder"], records["asn_folder"]) == (str(tmp_path), str(tmp_path / "asn"))


def test_members_relative_to_the_working_directory(apart, tmp_path):
    path = apart([("rates/sci_rate.fits", "science")])
    (tmp_path / "work" / "rates").mkdir()
    (tmp_path / "sci_rate.fits").rename(tmp_path / "work" / "rates" / "sci_rate.fits")
    assert open_association(path).science == Path("rates/sci_rate.fits")
    # a file beside the association comes first
    (tmp_path / "asn" / "rates").symlink_to(tmp_path / "work" / "rates")
    assert open_association(path).science == tmp_path / "asn" / "rates" / "sci_rate.fits"


def test_home_is_expanded(apart, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    apart([("~/sci_rate.fits", "science")])
    assert open_association("~/asn/asn.json").science == tmp_path / "sci_rate.fits"
    assert open_observation("~/sci_rate.fits").science.sizes["x"] == 5


def test_a_member_that_is_nowhere_is_named_with_where_it_was_looked_for(apart, tmp_path):
    path = apart([("rates/gone_rate.fits", "science")])
    with pytest.raises(InputError) as caught:
        open_association(path)
    for folder in ("asn", "work"):
        assert str(tmp_path / folder / "rates" / "gone_rate.fits") in str(caught.value)
    path = apart([("/elsewhere/gone_rate.fits", "science")])
    (tmp_path / "asn" / "gone_rate.fits").touch()
    with pytest.raises(InputError, match="lies beside the association"):
        open_association(path)


YAML = """\
asn_type: None
asn_pool: pool
products:
- members:
  - expname: sci_rate.fits
    exptype: science
  - expname: bkg1_rate.fits
    exptype: background
  name: out
version_id: null
"""


@pytest.mark.parametrize("name", ["asn.yaml", "asn.yml", "asn", "asn.txt"])
def test_yaml(asn, tmp_path, name):
    path = tmp_path / name
    path.write_text(YAML)
    obs = open_observation(path)
    records = obs.science.attrs["meta"].records
    assert (records["product"], records["asn_table"]) == ("out", name)
    assert len(obs.members["background"]) == 1


def test_yaml_as_the_official_package_writes_it(asn, tmp_path):
    pytest.importorskip("jwst.associations")
    from jwst.associations.asn_from_list import asn_from_list
    from jwst.associations.lib.rules_level2_base import DMSLevel2bBase

    made = asn_from_list(["sci_rate.fits"], rule=DMSLevel2bBase)
    for kind in ("yaml", "json"):
        path = tmp_path / f"official.{kind}"
        path.write_text(made.dump(kind)[1])
        assert open_association(path).science == tmp_path / "sci_rate.fits"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["asn.json", "spec2_asn", "asn.dat"])
def test_json_with_any_byte_order_mark_and_ending(asn, tmp_path, encoding, name):
    content = json.dumps({**json.loads(asn().read_text()), "asn_pool": "Pöl"}, ensure_ascii=False)
    path = tmp_path / name
    path.write_text(content, encoding=encoding)
    records = open_observation(path).science.attrs["meta"].records
    assert (records["asn_table"], records["asn_pool"]) == (name, "Pöl")


def test_exposures_without_an_ending_are_no_associations(exposure):
    assert open_observation(exposure("exposure", (6, 5))).science.sizes["x"] == 5
    packed = exposure("packed.fits.gz", (6, 5))
    assert open_observation(packed.rename(packed.with_name("packed"))).science.sizes["x"] == 5


def test_observation_of_a_mapping(asn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    obs = open_observation(json.loads(asn().read_text()))
    assert len(obs.members["background"]) == 2


def test_every_published_association_is_read_or_says_what_it_is():
    root = os.environ.get("SPEC2FN_REALDATA")
    if not root or not Path(root, "round2", "asn").is_dir():
        pytest.skip("SPEC2FN_REALDATA is not set: no published associations")
    read, refused = 0, 0
    for path in sorted(Path(root, "round2", "asn").rglob("*.*")):
        if path.suffix not in (".json", ".csv"):
            continue
        products = json.loads(path.read_text())["products"] if path.suffix == ".json" else []
        if len(products) == 1:
            got = open_association(path, must_exist=False)
            members = [m["expname"] for m in products[0]["members"]]
            found = [got.science, *(p for paths in got.members.values() for p in paths)]
            assert sorted(p.name for p in found) == sorted(members)
            assert (got.product, got.warnings) == (products[0]["name"], ())
            with pytest.raises(InputError, match="does not exist"):
                open_association(path)
            read += 1
            continue
        with pytest.raises(InputError) as caught:
            open_observation(path)
        expected = "is a pool" if not products else f"has {len(products)} products"
        assert f"{path}: {expected}" in str(caught.value)
        assert "\n" not in str(caught.value)
        refused += 1
    assert read > 30
    assert refused > 20


def test_link_in_the_folder_may_point_elsewhere(asn, tmp_path):
    (tmp_path / "sub").mkdir()
    path = asn([("link_rate.fits", "science")])
    path = path.rename(tmp_path / "sub" / "asn.json")
    (tmp_path / "sub" / "link_rate.fits").symlink_to(tmp_path / "sci_rate.fits")
    assert open_association(path).science.name == "link_rate.fits"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"members": [("bkg1_rate.fits", "background")]}, "science"),
        ({"members": [("gone_rate.fits", "science")]}, "gone_rate.fits does not exist"),
        ({"members": [("../sci_rate.fits", "science")]}, "../sci_rate.fits does not exist"),
        ({"members": [(None, "science")]}, "expname"),
        ({"members": [("sci_rate.fits", None)]}, "sci_rate.fits has no 'exptype'"),
        ({"products": [{"name": "a"}, {"name": "b"}]}, "2 products (a, b)"),
        ({"products": []}, "no list of products"),
        ({"products": [{"name": "a", "members": "all"}]}, "no list of members"),
        ({"asn_type": "spec3"}, "spec3"),
    ],
)
def test_associations_that_cannot_be_used(asn, change, words):
    with pytest.raises(InputError) as caught:
        open_association(asn(**change))
    assert words in str(caught.value)
    assert "asn.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_association(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(InputError, match="no such file"):
        open_association(path)
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(InputError, match="no text"):
        open_association(path)
    path.write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        open_association(path)
    path.write_text("a: b: c")
    with pytest.raises(InputError, match=r"no JSON .* and no YAML") as caught:
        open_association(path)
    assert "\n" not in str(caught.value)
    for text, what in (("[1]", "a list"), ("dear diary", "a str"), ("", "empty")):
        path.write_text(text)
        with pytest.raises(InputError, match=what):
            open_association(path)
