"""Names of product files, as the JWST pipeline gives them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["base_name", "product_name", "product_name_of_cube"]

# products of the pipelines, and the steps whose output can be saved on its own
_PRODUCTS = (
    "uncal", "ramp", "rate", "rateints", "bsub", "bsubints", "cal", "calints", "crf", "crfints",
    "s2d", "s3d", "s3dints", "x1d", "x1dints", "c1d", "i2d", "cat", "segm", "median", "whtlt",
    "esec", "phot",
)  # fmt: skip
_STEPS = (
    "adaptive_trace_model", "assign_wcs", "background", "badpix_selfcal", "barshadow",
    "bkg_subtract", "clean_flicker_noise", "cube_build", "extract_1d", "extract_2d", "flat_field",
    "fringe", "imprint", "master_background", "master_background_mos", "msa_flagging",
    "msaflagopen", "nsclean", "pathloss", "photom", "pixel_replace", "resample_spec",
    "residual_fringe", "srctype", "straylight", "targ_centroid", "wavecorr", "wfss_contam",
)  # fmt: skip
_SUFFIXES = sorted({*_PRODUCTS, *_STEPS}, key=len, reverse=True)
_WITH_INTS = ("bsub", "cal", "crf", "rate", "s3d", "x1d")


def base_name(name: str | os.PathLike[str]) -> str:
    """Return a file or product name without folder, extension and known suffix.

    ``dir/foo_rate.fits`` gives ``foo``; an unknown suffix stays: ``foo_bar.fits`` gives
    ``foo_bar``.
    """
    stem = Path(name).name
    for extension in (".gz", ".fits", ".json", ".nc", ".asdf"):
        stem = stem.removesuffix(extension)
    for suffix in _SUFFIXES:
        for separator in "_-":
            if stem.endswith(separator + suffix) and len(stem) > len(suffix) + 1:
                return stem[: -len(suffix) - 1]
    return stem


def product_name(
    base: str | os.PathLike[str],
    kind: str,
    integrations: bool = False,
    extension: str = ".fits",
) -> str:
    """Return the file name of a product.

    Parameters
    ----------
    base : str or path
        Product name of the association, or name of the input file.
    kind : str
        ``cal``, ``x1d``, ``bsub``, … or the suffix of a step (``flat_field``).
    integrations : bool
        Whether the product holds several integrations (``cal`` becomes ``calints``).
    extension : str
        ``.fits`` or ``.nc``.

    Returns
    -------
    str
        Without folder.
    """
    ints = "ints" if integrations and kind in _WITH_INTS else ""
    return f"{base_name(base)}_{kind}{ints}{extension}"


def product_name_of_cube(name: str, cube: str) -> str:
    """Return the file name of one of several cubes (or of its spectrum).

    The name of the cube stands before the suffix, as in stage 3 of the JWST pipeline:
    ``foo_s3d.fits`` and ``ch1-short`` give ``foo_ch1-short_s3d.fits``.
    """
    base = base_name(name)
    return f"{base}_{cube}{name[len(base) :]}"
