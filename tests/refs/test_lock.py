"""Lock files: round trip, verification, and independence of CRDS."""

import json

import numpy as np
import pytest

from spec2fn.errors import InputError, ReferenceError
from spec2fn.refs import MissingReferencesError, read_lock, references, use_cache, write_lock

TYPES = ("flat", "extract1d", "fringe")


def test_round_trip_asks_no_rules(cache, rate, tmp_path):
    path = tmp_path / "lock.json"
    refs = references(rate(), TYPES)
    written = write_lock(path, refs)
    assert read_lock(path) == written
    for rules in (cache / "mappings/jwst").iterdir():
        rules.unlink()
    locked = references(rate(), TYPES, lock=path)
    assert locked.names == refs.names
    assert locked.context == "jwst_0001.pmap"
    assert [locked.sha256(t) for t in TYPES] == [refs.sha256(t) for t in TYPES]
    assert list(references(rate(), ("flat",), lock=written)) == ["flat"]


def test_overrides_are_locked_by_path_and_win(cache, rate, tmp_path, make_flat):
    own = make_flat(tmp_path / "mine.fits", 5.0)
    path = tmp_path / "lock.json"
    write_lock(path, references(rate(), TYPES, overrides={"flat": own}))
    with use_cache(cache):
        refs = references(rate(), TYPES, lock=path)
    assert refs["flat"].path == own
    none = references(rate(), TYPES, lock=path, overrides={"flat": None})
    assert none["flat"] is None


def test_tampered_file(cache, rate, tmp_path, make_flat):
    path = tmp_path / "lock.json"
    write_lock(path, references(rate(), TYPES))
    make_flat(cache / "references/jwst/miri/jwst_miri_flat_0001.fits", 2.5)
    with pytest.raises(ReferenceError, match=r"1 reference file differs.*flat: .*flat_0001\.fits"):
        references(rate(), TYPES, lock=path)


def test_missing_file_and_missing_entry(cache, rate, tmp_path):
    path = tmp_path / "lock.json"
    write_lock(path, references(rate(), ("flat",)))
    with pytest.raises(ReferenceError, match="no entry for extract1d"):
        references(rate(), TYPES, lock=path)
    (cache / "references/jwst/miri/jwst_miri_flat_0001.fits").unlink()
    with pytest.raises(MissingReferencesError, match="flat"):
        references(rate(), ("flat",), lock=path)


def test_unusable_lock_files(cache, rate, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_lock(tmp_path / "none.json")
    for content in ("no json", "[]", json.dumps({"format": "x"}), json.dumps({"a": 1})):
        path = tmp_path / "bad.json"
        path.write_text(content)
        with pytest.raises(InputError, match="is no reference lock file"):
            read_lock(path)
    refs = references(rate(), ("flat",), overrides={"flat": np.ones((4, 5))})
    with pytest.raises(InputError, match="data in memory"):
        write_lock(tmp_path / "l.json", refs)
    with pytest.raises(InputError, match="cannot be written"):
        write_lock(tmp_path / "no" / "l.json", references(rate(), ("flat",)))
    assert not list(tmp_path.glob(".*part*"))
