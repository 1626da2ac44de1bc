"""Selection by the crds client, offline and online."""

import os
from pathlib import Path

import pytest

from spec2fn.errors import InputError, ReferenceError
from spec2fn.refs import (
    CacheEntry,
    MissingReferencesError,
    references,
    resolve_context,
    select,
    use_cache,
    write_cache,
)
from spec2fn.refs.keywords import KEYWORDS
from spec2fn.refs.selection import header_of

TYPES = ("flat", "extract1d", "fringe")
EXPECTED = {
    "flat": "jwst_miri_flat_0001.fits",
    "extract1d": "jwst_miri_extract1d_0001.json",
    "fringe": None,
}


def test_selects_what_the_stock_client_selects(cache, rate):
    import crds

    header = header_of(rate())
    assert select(header, TYPES) == EXPECTED
    theirs = crds.getreferences(header, reftypes=list(TYPES), observatory="jwst")
    assert Path(theirs["flat"]).name == EXPECTED["flat"]
    assert Path(theirs["flat"]).is_file()
    assert theirs["fringe"] == "NOT FOUND n/a"
    assert select(header_of(rate(EXP_TYPE="MIR_LRS-FIXEDSLIT")), TYPES)["flat"] is None


def test_home_is_expanded_in_the_environment(cache, rate, tmp_path, monkeypatch):
    top = Path(os.environ["CRDS_PATH"])
    monkeypatch.setenv("HOME", str(top.parent))
    monkeypatch.setenv("CRDS_PATH", f"~/{top.name}")
    monkeypatch.chdir(tmp_path)
    found = references(rate(), ("flat",))["flat"]
    assert Path(found.path).is_relative_to(top)
    assert os.environ["CRDS_PATH"] == str(top)
    assert not (tmp_path / "~").exists()


def test_mode_attributes_win_over_the_header(cache, rate):
    ds = rate(EXP_TYPE="MIR_LRS-FIXEDSLIT").assign_attrs(exp_type="MIR_LRS-SLITLESS")
    assert select(header_of(ds), ("flat",)) == {"flat": EXPECTED["flat"]}


def test_type_the_context_does_not_know_is_not_applicable(cache, rate):
    assert select(header_of(rate()), ("pars-nosuchstep",)) == {"pars-nosuchstep": None}


@pytest.mark.parametrize("keyword", ["INSTRUME", "DATE-OBS"])
def test_missing_keyword(cache, rate, keyword):
    ds = rate(**{keyword: None})
    del ds.attrs["instrument"]
    with pytest.raises(InputError, match=f"{keyword} is missing from jw_rate.fits"):
        header_of(ds)


def test_context_precedence(cache, monkeypatch):
    assert resolve_context() == "jwst_0001.pmap"
    with pytest.raises(InputError, match=r"'jwst_9999\.pmap' is not in .*jwst_0001\.pmap") as e:
        resolve_context("jwst_9999.pmap")
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="'jwst_foo' is not the name of a CRDS context"):
        resolve_context("jwst_foo")
    assert resolve_context("latest") == "jwst_0001.pmap"
    monkeypatch.setenv("CRDS_CONTEXT", "jwst_0002.pmap")
    with pytest.raises(InputError, match="jwst_0002"):
        resolve_context()
    assert resolve_context("jwst_0001.pmap") == "jwst_0001.pmap"
    monkeypatch.delenv("CRDS_CONTEXT")
    assert resolve_context() == "jwst_0001.pmap"


def test_no_cache_and_no_server(tmp_path, monkeypatch):
    with use_cache(tmp_path / "none"):
        monkeypatch.delenv("CRDS_CONTEXT")
        with pytest.raises(InputError, match="no CRDS context is set"):
            resolve_context()


def test_no_rule_matches(tmp_path, sources, rate):
    entry = CacheEntry(sources["flat"], "MIRI", "flat", useafter="2030-01-01 00:00:00")
    with use_cache(write_cache(tmp_path, [entry])):
        # without the fallback row the date of observation precedes every USEAFTER
        _strip_fallback(tmp_path / "mappings/jwst/jwst_miri_flat_0001.rmap")
        with pytest.raises(ReferenceError, match=r"no reference for this exposure \(flat: "):
            select(header_of(rate()), ("flat",))


def _strip_fallback(path):
    from crds.core import rmap

    text = path.read_text().replace("'1900-01-01 00:00:00' : 'N/A',", "")
    path.write_text(text)
    rmap.Mapping.from_file(str(path), ignore_checksum=True).write(str(path))


def test_all_missing_files_in_one_error(cache, rate):
    for name in ("jwst_miri_flat_0001.fits", "jwst_miri_extract1d_0001.json"):
        (cache / "references/jwst/miri" / name).unlink()
    with pytest.raises(MissingReferencesError) as caught:
        references(rate(), TYPES)
    text = str(caught.value)
    assert "2 reference files are missing (context jwst_0001.pmap)" in text
    assert "flat: jwst_miri_flat_0001.fits" in text
    assert "extract1d: jwst_miri_extract1d_0001.json" in text
    assert str(cache / "references/jwst/miri") in text
    assert "crds sync --files" in text
    assert "\n" not in text
    assert caught.value.missing == (
        "extract1d: jwst_miri_extract1d_0001.json",
        "flat: jwst_miri_flat_0001.fits",
    )
    assert caught.value.exit_code == 2
    found = references(rate(), TYPES, allow_missing=True)
    assert found.missing == caught.value.missing
    assert found["flat"] is None
    # what is not needed may be missing
    assert references(rate(), ("fringe",)).missing == ()


def test_damaged_rules(cache, rate):
    path = cache / "mappings/jwst/jwst_miri_flat_0001.rmap"
    path.write_text(path.read_text().replace("SLITLESS", "SLITLES"))
    with pytest.raises(InputError, match="cannot be used"):
        select(header_of(rate()), ("flat",))


def test_missing_rules(cache, rate):
    (cache / "mappings/jwst/jwst_miri_flat_0001.rmap").unlink()
    with pytest.raises(InputError, match=r"incomplete.*jwst_miri_flat_0001\.rmap"):
        select(header_of(rate()), ("flat",))


def test_bad_files_are_refused(cache, rate, monkeypatch):
    config = cache / "config/jwst/server_config"
    text = config.read_text()
    config.write_text(
        text.replace("'bad_files_list': []", "'bad_files_list': ['jwst_miri_flat_0001.fits']")
    )
    with pytest.raises(ReferenceError, match=r"scientifically invalid: flat: jwst_miri_flat_0001"):
        select(header_of(rate()), ("flat",))
    monkeypatch.setenv("CRDS_ALLOW_BAD_REFERENCES", "1")
    assert select(header_of(rate()), ("flat",)) == {"flat": EXPECTED["flat"]}


class Server:
    """What the CRDS server answers, from a complete cache."""

    def __init__(self, root):
        self.root = root
        self.calls = []

    def files(self):
        folders = (self.root / "mappings/jwst", self.root / "references/jwst/miri")
        return {p.name: p for folder in folders for p in folder.iterdir()}

    def get_server_info(self):
        import hashlib

        from crds.client import proxy

        self.calls.append("get_server_info")
        table = {
            n: {"size": str(p.stat().st_size), "sha1sum": hashlib.sha1(p.read_bytes()).hexdigest()}
            for n, p in self.files().items()
        }
        return {
            "observatory": "jwst",
            "latest_context": "jwst_0001.pmap",
            "operational_context": "jwst_0001.pmap",
            "edit_context": "jwst_0001.pmap",
            "bad_files_list": [],
            "force_remote_mode": False,
            "mappings": [],
            "last_synced": "now",
            "reference_url": {"jwst": "https://x/r"},
            "mapping_url": {"jwst": "https://x/m"},
            "config_url": {"jwst": "https://x/c"},
            "pickle_url": {"jwst": "https://x/p"},
            "download_metadata": proxy.crds_encode(table),
        }

    def get_mapping_names(self, context):
        self.calls.append("get_mapping_names")
        return [n for n in self.files() if n.endswith("map")]

    def get_default_context(self, observatory, *state):
        self.calls.append("get_default_context")
        return "jwst_0001.pmap"

    def get_build_context(self, observatory, version):
        self.calls.append("get_build_context")
        return "jwst_0001.pmap"


@pytest.fixture
def server(tmp_path, sources, monkeypatch):
    """A CRDS server in this process, and an empty cache that may be written."""
    from crds.client import api

    entries = [CacheEntry(p, "MIRI", r) for r, p in sources.items()]
    stub = Server(write_cache(tmp_path / "server", entries))
    empty = tmp_path / "empty"
    (empty / "config/jwst").mkdir(parents=True)
    (empty / "config/jwst/ref_cache_subdir_mode").write_text("instrument")

    def download(cacher, name):
        stub.calls.append(name)
        yield stub.files()[name].read_bytes()

    monkeypatch.setattr(api, "CheckingProxy", lambda url, version: stub)
    monkeypatch.setattr(api.FileCacher, "get_data_http", download)
    with use_cache(empty):
        os.environ["CRDS_SERVER_URL"] = "https://jwst-crds.stsci.edu"
        del os.environ["CRDS_READONLY_CACHE"]
        yield stub


def test_online_fetches_what_is_missing_once(server, rate):
    refs = references(rate(), ("flat", "fringe"))
    assert refs.context == "jwst_0001.pmap"
    assert refs["flat"].load()["sci"].shape == (4, 5)
    assert "jwst_miri_flat_0001.fits" in server.calls
    assert "jwst_miri_extract1d_0001.json" not in server.calls
    before = len(server.calls)
    again = references(rate(), ("flat", "fringe"))
    assert again.names == refs.names
    assert len(server.calls) == before


def test_online_default_context(server):
    del os.environ["CRDS_CONTEXT"]
    assert resolve_context() == "jwst_0001.pmap"


def test_online_failure_lists_all_files_and_the_cause(server, rate, monkeypatch):
    from crds.client import api

    select(header_of(rate()), TYPES)  # brings the rules

    def fail(cacher, name):
        raise OSError("connection reset")
        yield b""

    monkeypatch.setattr(api.FileCacher, "get_data_http", fail)
    monkeypatch.setenv("CRDS_CLIENT_RETRY_COUNT", "1")
    with pytest.raises(MissingReferencesError, match="connection reset") as caught:
        references(rate(), TYPES)
    assert len(caught.value.missing) == 2


def test_online_unknown_context(server):
    server.get_mapping_names = lambda context: (_ for _ in ()).throw(
        RuntimeError("no such context")
    )
    with pytest.raises(InputError, match=r"'jwst_0007\.pmap' is not in.*no such context"):
        resolve_context("jwst_0007.pmap")


def test_keywords_cover_the_rules_of_spectroscopic_modes():
    for name in ("META.EXPOSURE.TYPE", "META.INSTRUMENT.LAMP_MODE", "META.VISIT.TSOVISIT"):
        assert name in KEYWORDS


@pytest.fixture(scope="module")
def flight_rules(tmp_path_factory):
    """A cache folder with the published rules of two contexts."""
    root = os.environ.get("SPEC2FN_REALDATA")
    if not root or not (Path(root) / "crds/mappings").is_dir():
        pytest.skip("SPEC2FN_REALDATA is not set: no published CRDS rules")
    top = tmp_path_factory.mktemp("flight")
    (top / "mappings").mkdir()
    (top / "mappings/jwst").symlink_to(Path(root) / "crds/mappings")
    (top / "config/jwst").mkdir(parents=True)
    (top / "config/jwst/ref_cache_subdir_mode").write_text("instrument")
    return top


@pytest.mark.parametrize("context", ["jwst_0619.pmap", "jwst_0676.pmap"])
def test_published_rules(flight_rules, rate, context):
    import crds
    from crds.core import heavy_client

    types = ("specwcs", "distortion", "flat", "photom", "extract1d", "apcorr", "fringe", "psf")
    ds = rate(EXP_TYPE="MIR_LRS-FIXEDSLIT", SUBARRAY="FULL", READPATT="FAST")
    with use_cache(flight_rules, context):
        found = select(header_of(ds), types)
        theirs = heavy_client.hv_best_references(context, header_of(ds), include=list(types))
        assert found["psf"] is None  # these contexts precede the type
        assert found["fringe"] is None
        for kind in ("specwcs", "distortion", "flat", "photom", "extract1d", "apcorr"):
            assert found[kind] == theirs[kind]
        pmap = crds.get_cached_mapping(context)
        for instrument in ("MIRI", "NIRSPEC", "NIRISS", "NIRCAM"):
            imap = pmap.get_imap(instrument)
            needed = {k.upper() for k in imap.get_required_parkeys()}
            assert needed - {"REFTYPE"} <= set(KEYWORDS)
        with pytest.raises(MissingReferencesError, match=context):
            references(ds, types)
