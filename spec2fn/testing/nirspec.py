"""Exposures and MSA metadata of a NIRSpec of straight lines in memory, for tests.

Its optics, and what they are good for: :mod:`spec2fn.forward.nirspec.optics`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.exposures import to_dataset
from spec2fn.forward.nirspec import ifu_optics
from spec2fn.forward.nirspec.exposures import nirspec_setup
from spec2fn.forward.nirspec.msa import fixed_slit, shutter
from spec2fn.forward.nirspec.msa import msa_metadata as assemble
from spec2fn.forward.nirspec.optics import CONFIGURATIONS, optics_trees
from spec2fn.wcs.open_slits import FIXED_SLITS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CONFIGURATIONS", "exposure", "msa_metadata", "neighbouring_slitlets", "references"]

_MSA = {"MSAMETFL": "jw01234_01_msa.fits", "MSAMETID": 1}


@functools.cache
def references(grating: str, *, ifu: bool = False) -> Mapping[str, xr.Dataset]:
    """Return what assign_wcs needs, by reference type, as if read from files.

    The image of an IFU shifts so much with wavelength that no test can overlook it.
    """
    import xarray as xr

    trees = ifu_optics.optics_trees(grating, (200e-6, -100e-6)) if ifu else optics_trees(grating)
    return {
        name: xr.Dataset(
            attrs={"tree": dict(tree), "filename": f"jwst_nirspec_{name}.asdf", **mode}
        )
        for name, (tree, mode) in trees.items()
    }


def exposure(
    exp_type: str = "NRS_FIXEDSLIT",
    grating: str = "G395H",
    *,
    detector: str = "NRS1",
    subarray: str = "FULL",
    window: tuple[int, int, int, int] = (1, 1, 2048, 2048),
    integrations: int = 0,
    **keywords: str | float | None,
) -> xr.Dataset:
    """Return an exposure whose pixels hold their own position.

    Parameters
    ----------
    exp_type, grating, detector, subarray : str
    window : (int, int, int, int)
        SUBSTRT1, SUBSTRT2, SUBSIZE1, SUBSIZE2.
    integrations : int
        Number of integrations; 0 for a countrate image.
    **keywords
        FITS keywords to add or replace; None removes one.

    Returns
    -------
    xarray.Dataset
        ``sci`` is column + row / 4096 (+ 10000 per integration) in the image.
    """
    x, y, nx, ny = window
    image = np.arange(nx, dtype=np.float32) + np.arange(ny, dtype=np.float32)[:, None] / 4096
    if integrations:
        number = np.arange(integrations, dtype=np.float32)[:, None, None]
        image = image + np.float32(10000) * number
    setup = nirspec_setup(
        exp_type,
        name="jw01234_nrs_rate.fits",
        shape=image.shape,
        integration_time=100.0,
        grating=grating,
        detector=detector,
        fixed_slit="NONE" if exp_type == "NRS_MSASPEC" else "S200A1",
        at=(331.867, -479.4175),
        subarray=subarray,
        corner=(x, y),
        # of the type of the source steps decide
        extra={"SRCTYAPT": None, "SRCTYPE": None, **_MSA, **keywords},
    )
    flags = np.zeros(image.shape, np.uint32)
    return to_dataset(setup, {"sci": image, "err": np.ones_like(image), "dq": flags})


def msa_metadata(extra: tuple[Mapping[str, Any], ...] = ()) -> xr.Dataset:
    """Return MSA metadata: configuration 1 with four slitlets and a fixed slit, dither index 1.

    Slitlets 1 (quadrant 3) and 2 (quadrant 4) hold a source in the middle of three shutters, 3 is
    a single shutter with a source that the catalogue lacks, 4 sees background alone.

    Parameters
    ----------
    extra : tuple of mappings
        Rows of SHUTTER_INFO to add; what a mapping leaves out is that of an empty shutter.
    """
    rows = [shutter(1, 3, 67, c, 1, main=c == 60) for c in (59, 60, 61)]
    rows += [shutter(2, 4, 120, c, 2, main=c == 90) for c in (89, 90, 91)]
    rows += [shutter(3, 3, 200, 120, -7, main=True)]
    rows += [shutter(4, 4, 200, c, 0, main=False) for c in (30, 31, 33)]
    rows += [fixed_slit(next(iter(FIXED_SLITS)), 9)]
    rows += [shutter(0, 0, 0, 0, 0, main=False) | dict(row) for row in extra]
    sources = {
        "source_id": np.array([1, 2, 9]),
        "source_name": np.array(["1234_1", "1234_2", "1234_9"]),
        "alias": np.array(["one", "two", "nine"]),
        "stellarity": np.array([0.9, 0.1, 1.0]),
        "ra": np.array([53.1, 53.11, 53.12]),
        "dec": np.array([-27.8, -27.81, -27.82]),
    }
    return assemble(rows, sources)


def neighbouring_slitlets() -> xr.Dataset:
    """Return MSA metadata with slitlets beside the fixed slits, so that a small window sees all.

    Slitlet 1 holds a star in the middle of three shutters, 2 a galaxy in the first of three, 3
    background, 4 a star in a single shutter; S200A1 is open as well.
    """
    rows = [shutter(1, 3, 176, c, 1, main=c == 166) for c in (165, 166, 167)]
    rows += [shutter(2, 3, 180, c, 2, main=c == 157) for c in (157, 158, 159)]
    rows += [shutter(3, 3, 186, c, 3, main=c == 146) for c in (145, 146, 147)]
    rows += [shutter(4, 3, 170, 153, 4, main=True)]
    rows += [fixed_slit(next(iter(FIXED_SLITS)), 9)]
    names = ["1234_1", "1234_2", "1234_BKG3", "1234_4", "1234_9"]
    sources = {
        "source_id": np.array([1, 2, 3, 4, 9]),
        "source_name": np.array(names),
        "alias": np.array(names),
        "stellarity": np.array([0.9, 0.1, 0.0, 1.0, 1.0]),
        "ra": 53.1 + 0.01 * np.arange(5),
        "dec": -27.8 - 0.01 * np.arange(5),
    }
    return assemble(rows, sources)
