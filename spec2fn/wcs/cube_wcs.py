"""The WCS of a cube: as a gwcs, and as FITS keywords."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.typing import HostArray
from spec2fn.wcs.cube_grid import CubeGrid
from spec2fn.wcs.frames import RA_DEC, plane, sky, world
from spec2fn.wcs.frames import spectral as wavelengths
from spec2fn.wcs.s_region import box_region

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from gwcs import WCS

__all__ = ["STERADIAN", "cube_gwcs", "footprint", "wcs_keywords", "with_cards"]

STERADIAN = 2.3504e-11
"""Square arcseconds to steradians, as in the products of the JWST pipeline."""

_SLICER = ("NRSSLICERX", "NRSSLICERY")


def _rotation(angle: float) -> tuple[float, float]:
    return math.cos(math.radians(angle)), math.sin(math.radians(angle))


def cube_gwcs(grid: CubeGrid, wavelength: HostArray, step: float | None) -> WCS:
    """Return the gwcs of a cube: pixel (x, y, z) to (ra, dec, wavelength).

    Parameters
    ----------
    grid : CubeGrid
    wavelength : (w,) float64
        Of the planes [um].
    step : float, optional
        Of planes at even steps, which are linear; others are tabulated.
    """
    from astropy.modeling import models as m
    from gwcs import WCS
    from gwcs.coordinate_frames import CoordinateFrame

    cos, sin = _rotation(grid.angle)
    flip = 1.0 if grid.internal else -1.0
    scale = 1.0 if grid.internal else 1 / 3600.0
    matrix = np.array([[flip * cos, sin], [sin, cos]])
    spatial = (
        m.Shift(-(grid.crpix[0] - 1), name="crpix1") & m.Shift(-(grid.crpix[1] - 1), name="crpix2")
        | m.AffineTransformation2D(matrix=matrix, name="pc_matrix")
        | m.Scale(grid.cdelt[0] * scale, name="cdelt1")
        & m.Scale(grid.cdelt[1] * scale, name="cdelt2")
    )
    if grid.internal:
        spatial = spatial | m.Shift(grid.crval[0], name="crval1") & m.Shift(
            grid.crval[1], name="crval2"
        )
    else:
        spatial = (
            spatial
            | m.Pix2Sky_TAN(name="TAN")
            | m.RotateNative2Celestial(*grid.crval, 180.0, name="crval")
        )
    if step is not None:
        spectral = m.Shift(-0.0) | m.Scale(step) | m.Shift(float(wavelength[0]))
    else:
        spectral = m.Tabular1D(lookup_table=wavelength.astype(np.float32))
    detector = CoordinateFrame(
        name="detector",
        naxes=3,
        axes_order=(0, 1, 2),
        unit=("pix",) * 3,
        axes_type=["SPATIAL", "SPATIAL", "SPECTRAL"],
        axes_names=("x", "y", "z"),
    )
    place = plane("_".join(_SLICER), "meter", _SLICER) if grid.internal else sky(axes=RA_DEC)
    out = WCS([(detector, spatial & spectral), (world(wavelengths(), place), None)])
    ny, nx = grid.shape
    out.bounding_box = ((0, nx - 1), (0, ny - 1), (0, wavelength.size - 1))
    return out


def footprint(grid: CubeGrid) -> str:
    """Return S_REGION: the box in right ascension and declination around the outer spaxels."""
    cos, sin = _rotation(grid.angle)
    ny, nx = grid.shape
    x, y = np.meshgrid(
        [1 - grid.crpix[0], nx - grid.crpix[0]], [1 - grid.crpix[1], ny - grid.crpix[1]]
    )
    xi = np.deg2rad((-cos * x + sin * y).ravel() * grid.cdelt[0] / 3600)
    eta = np.deg2rad((sin * x + cos * y).ravel() * grid.cdelt[1] / 3600)
    ra0, dec0 = np.deg2rad(grid.crval)
    depth = math.cos(dec0) - eta * math.sin(dec0)
    ra = np.rad2deg(ra0 + np.arctan2(xi, depth)) % 360
    dec = np.rad2deg(np.arctan2(math.sin(dec0) + eta * math.cos(dec0), np.hypot(xi, depth)))
    return box_region(ra, dec, clockwise=True) or ""


_COMMENTS = {
    "WCSAXES": "number of World Coordinate System axes",
    "CRPIX": "Axis {} pixel of reference point, from 1",
    "CRVAL": "Axis {} value at reference point",
    "CTYPE": "Axis {} type",
    "CUNIT": "Axis {} units",
    "CDELT": "Axis {} increment",
    "PC": "Linear transformation matrix",
    "PS3_0": "Coordinate table extension name",
    "PS3_1": "Coordinate table column name",
    "FLUXEXT": "EXTNAME of the flux extension",
    "ERREXT": "EXTNAME of the error extension",
    "MASKEXT": "EXTNAME of the data quality extension",
    "ROIS": "[arcsec] Size of ROI in spatial dimension",
    "ROIW": "[um] Size of ROI in wavelength dimension",
    "WTYPE": "Weighting type (MSM, MIRIPSF, AREA)",
    "WPOWER": "Weighting power for Modified Shepard Method",
}


def _comment(keyword: str) -> str:
    if keyword in _COMMENTS:
        return _COMMENTS[keyword]
    stem = keyword[:2] if keyword.startswith("PC") else keyword[:-1]
    return _COMMENTS.get(stem, "").format(keyword[-1])


def with_cards(header: Header | None, title: str, keywords: Mapping[str, Any]) -> Header | None:
    """Return a header with keywords replaced where they are, or put into a section.

    Parameters
    ----------
    header : astropy.io.fits.Header or None
        Not modified.
    title : str
        Heading of the section; made at the end if there is none.
    keywords : mapping
        None removes one.
    """
    if header is None:
        return None
    from astropy.io.fits import Card

    out = header.copy()
    new = [Card(k, v, _comment(k)) for k, v in keywords.items() if v is not None and k not in out]
    for keyword in keywords.keys() & header.keys():
        if keywords[keyword] is None:
            out.remove(keyword)
        else:
            out[keyword] = keywords[keyword]
    cards = list(out.cards)
    headings = [i for i, c in enumerate(cards) if not c.keyword and str(c.value).strip() == title]
    if headings:
        at = headings[0] + 2  # behind the blank card
    else:
        cards += [Card(), Card("", title), Card()]
        at = len(cards)
    return type(header)([*cards[:at], *new, *cards[at:]])


def wcs_keywords(grid: CubeGrid, wavelength: HostArray, step: float | None) -> dict[str, Any]:
    """Return the WCS keywords of the SCI header; None removes one.

    The wavelengths of a linear axis are in the WCS-TABLE as well.
    """
    cos, sin = _rotation(grid.angle)
    scale = 1.0 if grid.internal else 3600.0
    names, unit = (_SLICER, "meter") if grid.internal else (("RA---TAN", "DEC--TAN"), "deg")
    linear = step is not None
    axes = {
        "CRPIX": (*grid.crpix, 1.0),
        "CRVAL": (*grid.crval, float(wavelength[0]) if linear else 1.0),
        "CTYPE": (*names, "WAVE" if linear else "WAVE-TAB"),
        "CUNIT": (unit, unit, "um"),
        "CDELT": (grid.cdelt[0] / scale, grid.cdelt[1] / scale, step),
        "PC1_": (cos if grid.internal else -cos, sin, 0),
        "PC2_": (sin, cos, 0),
        "PC3_": (0, 0, 1),
    }
    return {
        "WCSAXES": 3,
        **{f"{stem}{i + 1}": v for stem, values in axes.items() for i, v in enumerate(values)},
        "PS3_0": None if linear else "WCS-TABLE",
        "PS3_1": None if linear else "wavelength",
    }
