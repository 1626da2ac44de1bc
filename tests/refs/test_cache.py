"""Offline CRDS caches."""

import os

import pytest

from spec2fn.errors import InputError
from spec2fn.refs import CacheEntry, select, use_cache, write_cache
from spec2fn.refs.selection import header_of


def test_rules_by_keyword_alternatives_and_date(tmp_path, sources, rate, make_flat):
    new = make_flat(tmp_path / "new.fits")
    flat = sources["flat"]
    both = {"EXP_TYPE": "MIR_LRS-SLITLESS|MIR_LRS-FIXEDSLIT", "META.INSTRUMENT.FILTER": "P750L"}
    entries = [
        CacheEntry(flat, "miri", "FLAT", both),
        CacheEntry(new, "MIRI", "flat", both, useafter="2024-01-01 00:00:00"),
        CacheEntry(None, "MIRI", "flat", {"EXP_TYPE": "MIR_MRS"}),
    ]
    with use_cache(write_cache(tmp_path / "c", entries, "jwst_0042.pmap"), "jwst_0042.pmap"):
        assert select(header_of(rate()), ("flat",)) == {"flat": "jwst_miri_flat_0002.fits"}
        old = rate(**{"DATE-OBS": "2023-01-01", "EXP_TYPE": "MIR_LRS-FIXEDSLIT"})
        assert select(header_of(old), ("flat",)) == {"flat": "jwst_miri_flat_0001.fits"}
        assert select(header_of(rate(EXP_TYPE="MIR_MRS")), ("flat",)) == {"flat": None}


def test_same_names_in_two_caches_do_not_mix(tmp_path, sources, rate):
    full = write_cache(tmp_path / "a", [CacheEntry(sources["flat"], "MIRI", "flat")])
    empty = write_cache(tmp_path / "b", [CacheEntry(None, "MIRI", "flat")])
    before = dict(os.environ)
    for root, name in (
        (full, "jwst_miri_flat_0001.fits"),
        (empty, None),
        (full, "jwst_miri_flat_0001.fits"),
    ):
        with use_cache(root):
            assert select(header_of(rate()), ("flat",)) == {"flat": name}
    assert dict(os.environ) == before


def test_errors(tmp_path, sources):
    flat = sources["flat"]
    for entry, text in (
        (CacheEntry(flat, "MIRY", "flat"), "no instrument 'MIRY'"),
        (CacheEntry(flat, "MIRI", "flatt"), "'flatt'; did you mean 'flat'"),
        (CacheEntry(flat, "MIRI", "flat", {"EXPTYPE": "x"}), "did you mean 'EXP_TYPE'"),
        (CacheEntry(tmp_path / "no.fits", "MIRI", "flat"), "does not exist"),
    ):
        with pytest.raises(InputError, match=text):
            write_cache(tmp_path / "c", [entry])
    with pytest.raises(InputError, match=r"jwst_NNNN\.pmap"):
        write_cache(tmp_path / "c", [], "latest")
