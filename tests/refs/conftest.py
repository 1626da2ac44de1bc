"""An exposure header and an offline CRDS cache with small references of several types."""

import json
from pathlib import Path

import numpy as np
import pytest

from spec2fn.refs import CacheEntry, clear_cache, use_cache, write_cache
from spec2fn.schema import Meta


def exposure(**changes):
    import xarray as xr
    from astropy.io import fits

    header = fits.Header()
    values = {
        "TELESCOP": "JWST",
        "INSTRUME": "MIRI",
        "DETECTOR": "MIRIMAGE",
        "FILTER": "P750L",
        "EXP_TYPE": "MIR_LRS-SLITLESS",
        "SUBARRAY": "SLITLESSPRISM",
        "DATE-OBS": "2024-03-01",
        "TIME-OBS": "12:00:00.000",
        "TSOVISIT": True,
        **changes,
    }
    for keyword, value in values.items():
        if value is not None:
            header[keyword] = value
    meta = Meta(primary=header, filename="jw_rate.fits")
    return xr.Dataset(attrs={"meta": meta, "exp_type": values["EXP_TYPE"], "instrument": "MIRI"})


def write_flat(path, value=2.0, reftype="FLAT", **keywords):
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    primary.header.update({"REFTYPE": reftype, "TELESCOP": "JWST", **keywords})
    sci = np.full((4, 5), value, np.float32)
    dq = np.zeros((4, 5), np.uint32)
    dq[1, 2], dq[3, 3] = 1, 2 | 4
    flags = fits.BinTableHDU.from_columns(
        [
            fits.Column("BIT", "J", array=[0, 1, 2]),
            fits.Column("VALUE", "J", array=[1, 2, 4]),
            fits.Column("NAME", "40A", array=["DO_NOT_USE", "NO_FLAT_FIELD", "NOT_A_FLAG"]),
        ],
        name="DQ_DEF",
    )
    hdus = [primary, fits.ImageHDU(sci, name="SCI"), fits.ImageHDU(dq, name="DQ"), flags]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return Path(path)


def write_pars(path, class_name, **parameters):
    import asdf

    from spec2fn.refs.plugins import light_asdf

    name = class_name.rsplit(".", 1)[1]
    tree = {
        "meta": {"reftype": f"pars-{name.lower()}", "telescope": "JWST"},
        "parameters": {"class": class_name, "name": name, **parameters},
    }
    with light_asdf():
        asdf.AsdfFile(tree).write_to(path)
    return Path(path)


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Reference files by type, outside any cache."""
    folder = tmp_path_factory.mktemp("sources")
    extract = folder / "extract.json"
    extract.write_text(json.dumps({"reftype": "EXTRACT1D", "instrument": "MIRI", "apertures": []}))
    return {
        "flat": write_flat(folder / "flat.fits"),
        "extract1d": extract,
        "pars-photomstep": write_pars(
            folder / "photom.asdf",
            "jwst.photom.PhotomStep",
            inverse=True,
            skip=True,
            output_file=None,
            pre_hooks=[],
            suffix="mine",
            save_results=True,
        ),
        "pars-spec2pipeline": write_pars(
            folder / "spec2.asdf",
            "jwst.pipeline.Spec2Pipeline",
            save_bsub=True,
            steps={"photom": {"skip": False}, "bkg_subtract": {"sigma": 4.0}},
        ),
    }


@pytest.fixture
def cache(tmp_path, sources):
    """Root of a complete cache, in use during the test."""
    slitless = {"EXP_TYPE": "MIR_LRS-SLITLESS"}
    root = write_cache(
        tmp_path / "cache",
        [CacheEntry(path, "MIRI", reftype, slitless) for reftype, path in sources.items()],
    )
    clear_cache()
    with use_cache(root):
        yield root


@pytest.fixture
def rate():
    """The factory of exposures (headers only)."""
    return exposure


@pytest.fixture
def make_flat():
    """Writer of small flats."""
    return write_flat
