import json

import pytest

from spec2fn.errors import InputError
from spec2fn.io import open_association, open_observation


@pytest.fixture
def asn(exposure, tmp_path):
    for name in ("sci_rate.fits", "bkg1_rate.fits", "bkg2_rate.fits"):
        exposure(name, (6, 5), EXP_TYPE="MIR_LRS-FIXEDSLIT")
    exposure("ta_rate.fits", (6, 5), EXP_TYPE="MIR_TACONFIRM")

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


def test_several_science_members_warn(asn):
    path = asn([("sci_rate.fits", "science"), ("bkg1_rate.fits", "science")])
    got = open_association(path)
    assert got.science.name == "sci_rate.fits"
    assert "bkg1_rate.fits" in got.warnings[0]
    assert open_observation(path).science.attrs["meta"].records["warnings"] == got.warnings


def test_unknown_role_is_left_out_with_the_nearest_name(asn):
    got = open_association(asn([("sci_rate.fits", "science"), ("bkg1_rate.fits", "backgroud")]))
    assert got.members == {}
    assert "'background'" in got.warnings[0]


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
        ({"members": [("../sci_rate.fits", "science")]}, "outside"),
        ({"members": [("/etc/passwd", "science")]}, "outside"),
        ({"members": [(None, "science")]}, "expname"),
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
    with pytest.raises(InputError, match="no JSON"):
        open_association(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="list"):
        open_association(path)
