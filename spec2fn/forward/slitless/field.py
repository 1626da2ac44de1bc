"""A field of stars and galaxies: its spectra, and the files of its direct image.

The direct image is a mosaic as the image pipeline makes them: north up, with a tangent-plane WCS,
larger than what the grism exposure sees. Segmentation map and catalog are made from the same list
of sources.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.slitless.instrument import Grism
from spec2fn.typing import HostArray
from spec2fn.units import MJY_TO_JY

if TYPE_CHECKING:
    from gwcs import WCS

    from spec2fn.wcs.grism import GrismGeometry

__all__ = ["FieldSource", "direct_files", "gaussian_image", "sources_of_field", "spectrum"]

MARGIN = 140
"""Pixels by which the direct image is larger than the detector, on each side."""
_NOISE = 0.004  # of the direct image [MJy/sr]
_LEVEL = 0.25  # background of the direct image [MJy/sr]
_ZERO = 8.9  # AB magnitude of 1 Jy
_PAIRS = 4.6  # rows between sources whose spectra overlap
_SEGMENT = 3.0  # radius of segments in standard deviations


@dataclass(frozen=True)
class FieldSource:
    """A source of the field.

    Attributes
    ----------
    label : int
    x, y : float
        Undispersed place on the detector [pixel, from 0].
    flux : float
        Flux density in the middle of the band [Jy].
    width : float
        Standard deviation of its image [pixel].
    extended : bool
    slope, line : float
        Of the spectrum: change across the band, and strength of an emission line.
    place : float
        Of the line, as a part of the band.
    """

    label: int
    x: float
    y: float
    flux: float
    width: float
    extended: bool
    slope: float
    line: float
    place: float


def spectrum(source: FieldSource, wave: HostArray, ends: tuple[float, float]) -> HostArray:
    """Flux density [Jy]."""
    part = (wave - ends[0]) / (ends[1] - ends[0])
    line = source.line * np.exp(-0.5 * ((part - source.place) / 0.03) ** 2)
    return source.flux * (1 + source.slope * (part - 0.5) + line)


def sources_of_field(grism: Grism, seed: int) -> tuple[FieldSource, ...]:
    """The sources: three that stand alone, pairs whose spectra overlap, some beside the detector.

    Labels are not in order, as those of a segmentation map need not be.
    """
    rng = np.random.default_rng([seed, 7])
    rows, columns = grism.shape
    length = abs(sum(p[0] for p in grism.orders[1].dx[1:]))
    # place (columns, rows, as parts of the frame), brightness, size; pairs share most of their rows
    apart = _PAIRS / rows
    scene = [
        (0.52, 0.11, 1.0, 0.0),
        (0.58, 0.31, 0.8, 0.0),
        (0.55, 0.91, 0.7, 2.4),
        (0.44, 0.50, 0.9, 0.0),
        (0.44 + min(0.45 * length / columns, 0.3), 0.50 + apart, 0.75, 0.0),
        (0.61, 0.70, 0.8, 2.2),
        (0.61 - min(0.40 * length / columns, 0.25), 0.70 + apart, 0.9, 0.0),
        (0.33, 0.22, 0.5, 0.0),
        (0.72, 0.82, 0.6, 2.8),
        (1.02, 0.40, 1.2, 0.0),
        (-0.03, 0.60, 1.0, 0.0),
        (0.85, -0.04, 0.8, 0.0),
    ]
    labels = rng.permutation(np.arange(3, 3 + 2 * len(scene)))[: len(scene)]
    out = []
    for k, (across, up, bright, size) in enumerate(scene):
        x, y = across * columns + rng.uniform(-2, 2), up * rows + rng.uniform(-1, 1)
        out.append(
            FieldSource(
                int(labels[k]),
                float(x),
                float(y),
                float(bright * 10 ** (-0.4 * (grism.magnitude - _ZERO))),
                size or grism.width,
                size > 0,
                float(rng.uniform(-0.6, 0.6)),
                float(rng.choice([0.0, 0.8, 1.5])),
                float(rng.uniform(0.25, 0.75)),
            )
        )
    return tuple(out)


def gaussian_image(
    out: HostArray, x: HostArray, y: HostArray, light: HostArray, width: float
) -> None:
    """Add round Gaussian images, integrated over pixels, in place.

    Parameters
    ----------
    out : ndarray, (y, x)
    x, y, light : ndarray, (n,)
        Centers [pixel], and what falls on all pixels together.
    width : float
        Standard deviation [pixel].
    """
    from scipy.special import erf

    half = int(np.ceil(6 * width)) + 1
    steps = np.arange(-half, half + 1)

    def shares(center: HostArray) -> tuple[HostArray, HostArray]:
        first = np.rint(center).astype(int)[:, None] + steps
        edges = (np.concatenate([first, first[:, -1:] + 1], axis=1) - 0.5 - center[:, None]) / width
        return first, np.diff(0.5 * erf(edges / np.sqrt(2)), axis=1)

    for part in range(0, len(x), 64):
        s = slice(part, part + 64)
        columns, across = shares(x[s])
        rows, up = shares(y[s])
        # the part of the image that these reach
        low = [max(int(k.min()), 0) for k in (rows, columns)]
        high = [min(int(k.max()) + 1, n) for k, n in zip((rows, columns), out.shape, strict=True)]
        if low[0] >= high[0] or low[1] >= high[1]:
            continue
        rows, columns = rows[:, :, None] - low[0], columns[:, None] - low[1]
        height, width_ = high[0] - low[0], high[1] - low[1]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width_)
        index = np.where(inside, rows * width_ + columns, 0)
        value = np.where(inside, light[s, None, None] * up[:, :, None] * across[:, None], 0.0)
        sums = np.bincount(index.ravel(), value.ravel(), minlength=height * width_)
        out[low[0] : high[0], low[1] : high[1]] += sums.reshape(height, width_)


def direct_files(
    grism: Grism,
    geometry: GrismGeometry,
    sources: Sequence[FieldSource],
    seed: int,
    scale: float = 1.0,
) -> Mapping[str, tuple[str, bytes]]:
    """Direct image, segmentation map and catalog as files.

    Parameters
    ----------
    grism : Grism
    geometry : GrismGeometry
        Of the grism exposure.
    sources : sequence of FieldSource
    seed : int
        Of the noise.
    scale : float
        Pixels of the mosaic in those of the detector.

    Returns
    -------
    mapping of str to (str, bytes)
        Name and content by role: ``direct_image``, ``segmap``, ``sourcecat``.
    """
    pixel = scale * grism.aperture.scale  # arcsec
    size = int(np.ceil((max(grism.shape) + 2 * MARGIN) / scale))
    ra, dec = (float(c) for c in geometry.detector_to_world(*map(np.asarray, grism.center)))
    wcs = _north_up(ra, dec, pixel, (size - 1) / 2, (size, size))
    places = geometry.detector_to_world(
        np.array([s.x for s in sources]), np.array([s.y for s in sources])
    )
    x, y = (np.asarray(v, float) for v in wcs.invert(*places, with_bounding_box=False))
    image, segments = np.zeros((size, size)), np.zeros((size, size), np.uint32)
    rows, columns = np.mgrid[:size, :size]
    area = grism.pixel_area * scale**2
    for s, a, b in sorted(zip(sources, x, y, strict=True), key=lambda one: -one[0].flux):
        width = s.width / scale
        mean = float(_band_mean(grism, s))
        gaussian_image(
            image, np.array([a]), np.array([b]), np.array([mean / area / MJY_TO_JY]), width
        )
        near = (columns - a) ** 2 + (rows - b) ** 2 <= (_SEGMENT * width + 1) ** 2
        segments[near & (segments == 0)] = s.label
    rng = np.random.default_rng([seed, 8])
    image += _LEVEL + _NOISE * rng.standard_normal(image.shape)
    stem = "jw01234-o001_t001_" + grism.instrument.lower()
    catalog = _catalog(sources, (x, y), places, wcs, scale)
    return {
        "direct_image": (f"{stem}_i2d.fits", _image_file(grism, "ImageModel", image, wcs)),
        "segmap": (f"{stem}_segm.fits", _image_file(grism, "SegmentationMapModel", segments, wcs)),
        "sourcecat": (f"{stem}_cat.ecsv", catalog),
    }


def _band_mean(grism: Grism, source: FieldSource) -> float:
    """Mean flux density through the filter [Jy], as the detector weighs it."""
    wave = np.linspace(grism.ends[0] - 6 * grism.edge, grism.ends[1] + 6 * grism.edge, 4001)
    weight = grism.response(wave)
    return float(np.sum(weight * spectrum(source, wave, grism.ends)) / np.sum(weight))


def _north_up(ra: float, dec: float, pixel: float, middle: float, shape: tuple[int, int]) -> WCS:
    from astropy import units
    from astropy.coordinates import ICRS
    from astropy.modeling.models import Pix2Sky_TAN, RotateNative2Celestial, Scale, Shift
    from gwcs.coordinate_frames import CelestialFrame, Frame2D
    from gwcs.wcs import WCS

    step = pixel / 3600
    model = (
        Shift(-middle) & Shift(-middle)
        | Scale(-step) & Scale(step)
        | Pix2Sky_TAN()
        | RotateNative2Celestial(ra, dec, 180.0)
    )
    detector = Frame2D(name="detector", axes_order=(0, 1), unit=(units.pix, units.pix))
    world = CelestialFrame(name="world", reference_frame=ICRS(), unit=(units.deg, units.deg))
    wcs = WCS([(detector, model), (world, None)])
    wcs.bounding_box = ((-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5))
    return wcs


def _image_file(grism: Grism, model: str, data: HostArray, wcs: WCS) -> bytes:
    from astropy.io import fits

    from spec2fn.io.fits.asdf_wcs import asdf_bytes
    from spec2fn.refs.plugins import light_asdf

    primary = fits.PrimaryHDU()
    primary.header.update(
        {
            "TELESCOP": "JWST",
            "DATAMODL": model,
            "INSTRUME": grism.instrument,
            "DETECTOR": grism.keywords["DETECTOR"],
            "EXP_TYPE": f"{grism.exp_type[:3]}_IMAGE",
        }
    )
    measured = data.dtype.kind == "f"
    science = fits.ImageHDU(data.astype(np.float32) if measured else data, name="SCI")
    if measured:
        science.header["BUNIT"] = "MJy/sr"
    with light_asdf():
        content = np.frombuffer(asdf_bytes(model, wcs), np.uint8)
    column = fits.Column("ASDF_METADATA", f"{content.size}B", array=content[None])
    table = fits.BinTableHDU.from_columns([column], name="ASDF")
    file = io.BytesIO()
    fits.HDUList([primary, science, table]).writeto(file)
    return file.getvalue()


def _catalog(
    sources: Sequence[FieldSource],
    pixels: tuple[HostArray, HostArray],
    sky: tuple[Any, Any],
    wcs: WCS,
    scale: float,
) -> bytes:
    from astropy import units
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

    def position(ra: Any, dec: Any) -> SkyCoord:  # noqa: ANN401 - arrays
        return SkyCoord(np.asarray(ra) * units.deg, np.asarray(dec) * units.deg, frame="icrs")

    table = QTable()
    table["label"] = [s.label for s in sources]
    table["xcentroid"], table["ycentroid"] = (p * units.pix for p in pixels)
    table["sky_centroid"] = position(*sky)
    table["is_extended"] = [s.extended for s in sources]
    table["isophotal_abmag"] = [_ZERO - 2.5 * np.log10(s.flux) for s in sources]
    table["isophotal_abmag_err"] = np.full(len(sources), 0.01)
    reach = np.array([_SEGMENT * s.width / scale + 1 for s in sources])
    for name, (right, up) in {"ll": (-1, -1), "lr": (1, -1), "ul": (-1, 1), "ur": (1, 1)}.items():
        corner = wcs(pixels[0] + right * reach, pixels[1] + up * reach, with_bounding_box=False)
        table[f"sky_bbox_{name}"] = position(*corner)
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    return text.getvalue().encode("ascii")
