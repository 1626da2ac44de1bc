"""The WCS of the NIRSpec IFU: which of the 30 slices a pixel sees, and where that is on the sky.

Frames: coordinates → detector → slicer → msa_frame → oteip → oteip_chromcorr → v2v3 → v2v3vacorr →
world; those of a lamp end in ``msa_frame``, and their wavelengths are in micron. The first
transform that does something selects the slice by the pixel and takes it to the plane of the image
slicer; slices do not overlap on the detector. Between slicer and collimator the light of each slice
passes optics of its own (``ifupost``), between slicer and MSA the ``ifufore`` optics. Dorner et al.
(2016, A&A 592, A113) describe the model. Light is taken to come from the middle of a slice's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import DeferredWcs
from spec2fn.errors import NoDataOnDetectorError, ReferenceError
from spec2fn.typing import HostArray
from spec2fn.wcs.assign import AssignedWcs, References, entry
from spec2fn.wcs.assign.nirspec_batch import SlitBatch, SlitNumber, affine
from spec2fn.wcs.assign.nirspec_boxes import bounding_boxes, lit_pixels
from spec2fn.wcs.assign.nirspec_ifu_gwcs import by_pixel, by_slice
from spec2fn.wcs.assign.nirspec_optics import (
    Optics,
    check_grating,
    exceeded_range,
    msa_to_sky,
    spectrograph,
    tree,
)
from spec2fn.wcs.lower import lower
from spec2fn.wcs.lowered import Lowered
from spec2fn.wcs.open_slits import Slit
from spec2fn.wcs.s_region import box_region

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model
    from gwcs import WCS

    from spec2fn.parameters import Parameters

__all__ = ["SLICES", "IfuOptics", "SliceBatch", "ifu", "ifu_optics", "slice_planes"]

SLICES = 30
"""Number of slices; the regions map counts them from 1."""

_WHO = "assign_wcs"
_POST = ("linear", "xpoly", "xpoly_distortion", "ypoly", "ypoly_distortion")
_latest_posts: dict[int, tuple[Mapping[str, Any], tuple[Model, ...]]] = {}
# gratings whose spectra end on NRS1
_ONLY_NRS1 = ("G140M", "G235M", "G395M", "PRISM")


@dataclass(frozen=True, eq=False)
class IfuOptics(Optics):
    """What the slices of an exposure share, and what differs; see :class:`Optics`.

    Attributes
    ----------
    slicer : astropy.modeling.Model
        Position (x, y) [m] from the metrology of a slice to the plane of the slicer.
    metrology : float array, shape (slice, 4)
        Centre (x, y) and size (x, y) [m] of the slices.
    posts : tuple of astropy.modeling.Model
        Of each slice: position in the plane of the slicer and wavelength [m] to the position in
        the plane of the MSA from which the light seems to come.
    is_prism : bool
        Whether the disperser is the prism.
    """

    slicer: Model
    metrology: HostArray
    posts: tuple[Model, ...]
    is_prism: bool


@dataclass(frozen=True, eq=False)
class SliceBatch(SlitBatch):
    """The transforms of the slices, evaluated together; slices are numbered from 0."""

    @property
    def ifu(self) -> IfuOptics:
        """The optics."""
        assert isinstance(self.optics, IfuOptics)
        return self.optics

    @property
    def cosine_error(self) -> float:
        """What is accepted of direction cosines before the grating wheel.

        Positions in the plane of the MSA come from polynomials with terms some 1e4 times as large,
        so that the optics themselves are rounded to 3e-11. Behind a grating that changes the
        wavelength by less than 1e-10 of it, behind the prism by 4e-9.
        """
        return 1e-11 if self.ifu.is_prism else 1e-10

    @cached_property
    def location(self) -> tuple[HostArray, HostArray]:
        """Centres (slice, 2) [m] and axes (slice, 2, 2) [m] in the plane of the slicer."""
        origin, matrix = affine(self.ifu.slicer, "the model of reference 'ifuslicer'")
        table = self.ifu.metrology
        return origin + table[:, :2] @ matrix.T, matrix * table[:, None, 2:]

    @cached_property
    def _posts(self) -> tuple[Lowered, ...]:
        return tuple(lower(model) for model in self.ifu.posts)

    def entrance(
        self,
        slit: SlitNumber,
        x: float | HostArray,
        y: float | HostArray,
        wavelength: float | HostArray | None = None,
    ) -> tuple[HostArray, HostArray, HostArray]:
        """Angles before the grating wheel of light from (x, y) in a slice.

        Without a wavelength [m] they are those at the middle of the range of interest.
        """
        if wavelength is None:
            low, high = self.optics.waverange
            wavelength = 0.5 * (high - low) + low
        across, along = self.msa(slit, x, y)
        number, across, along, wavelength = np.broadcast_arrays(slit, across, along, wavelength)
        out = np.full((2, *number.shape), np.nan)
        for i in np.unique(number):
            mine = number == i
            out[:, mine] = self._posts[i](across[mine], along[mine], wavelength[mine])
        return self.optics.lowered.entrance(*out)

    def slicer_frame(
        self, slit: SlitNumber, x: HostArray, y: HostArray
    ) -> tuple[HostArray, HostArray, HostArray]:
        """Position across and along [m] in the plane of the slicer, and wavelength [m]."""
        along, wavelength = self.slit_frame(slit, x, y)
        return (*self.msa(slit, 0.0, along), wavelength)


def ifu_optics(
    ds: xr.Dataset,
    refs: References,
    wavelength_range: tuple[float, float] | None = None,
    *,
    lamp_velocity: bool = False,
) -> IfuOptics:
    """Put the transforms of an IFU exposure together.

    As :func:`~spec2fn.wcs.assign.nirspec_optics.optics`, with the references ``camera collimator
    disperser fore fpa ifufore ifupost ifuslicer ote wavelengthrange`` and, if there is one,
    ``chromcorr`` (ASDF); lamps do without ``fore``, ``ote`` and ``chromcorr``.
    """
    shared = spectrograph(ds, refs, wavelength_range, lamp_velocity=lamp_velocity)
    names = ["ifufore", "ifupost", "ifuslicer"]
    if shared["on_sky"]:
        names += ["fore", "ote", *["chromcorr"] * (refs.get("chromcorr") is not None)]
    trees = {name: tree(ds, refs, name) for name in names}
    return IfuOptics(
        **shared,
        quadrants={},
        to_sky=msa_to_sky(ds, trees),
        slicer=entry(trees["ifuslicer"], "reference 'ifuslicer'", "model"),
        metrology=_metrology(trees["ifuslicer"]),
        posts=_posts(trees["ifupost"]),
        is_prism=ds.attrs.get("grating") == "PRISM",
    )


def _metrology(ifuslicer: Mapping[str, Any]) -> HostArray:
    data = np.asarray(entry(ifuslicer, "reference 'ifuslicer'", "data"))
    names = data.dtype.names or ()
    if len(names) != 5 or len(data) < SLICES:
        msg = (
            f"{_WHO}: reference 'ifuslicer' needs {SLICES} rows of (number, centre x, y, size x, y)"
            f", it has {len(data)} rows of {names}; fetch it again from CRDS"
        )
        raise ReferenceError(msg)
    return np.stack([data[name][:SLICES].astype(np.float64) for name in names[1:]], axis=1)


def _posts(ifupost: Mapping[str, Any]) -> tuple[Model, ...]:
    # exposures that belong together share the reference, and putting it together takes 0.1 s
    known = _latest_posts.get(id(ifupost))
    if known is None:
        _latest_posts.clear()
        known = (ifupost, tuple(_post(ifupost, i) for i in range(SLICES)))
        # the reference is kept, so that no other gets its id
        _latest_posts[id(ifupost)] = known
    return known[1]


def _post(ifupost: Mapping[str, Any], i: int) -> Model:
    from astropy.modeling.models import Identity, Mapping

    label = f"reference 'ifupost', slice_{i}"
    parts = entry(ifupost, "reference 'ifupost'", f"slice_{i}")
    linear, x, x_by_wave, y, y_by_wave = (entry(parts, label, key) for key in _POST)

    def along(still: Model, moving: Model) -> Model:
        # polynomials in x and y, one of which counts in proportion to the wavelength
        position = Mapping((0, 1), n_inputs=3)
        return (position | still) + (position | moving) * (Mapping((2,)) | Identity(1))

    both = along(x, x_by_wave) & along(y, y_by_wave)
    return linear & Identity(1) | Mapping((0, 1, 2, 0, 1, 2)) | both


def ifu(ds: xr.Dataset, refs: References, params: Parameters) -> AssignedWcs:
    """Build the WCS of a NIRSpec IFU exposure, and evaluate it; references: :func:`ifu_optics`.

    Returns
    -------
    AssignedWcs
        ``wcs`` is the gwcs of pixels, whatever slice they belong to (or, with
        ``nrs_ifu_slice_wcs``, of pixels and slice number, from 0); ``planes`` see
        :func:`slice_planes`; ``records`` holds ``slices`` (:class:`SliceBatch`),
        ``spectral_order`` and ``waverange`` [m].

    Raises
    ------
    NoDataOnDetectorError
        If no slice falls on the detector.
    """
    _check_light(ds)
    y_range = (params.slit_y_low, params.slit_y_high)
    shared = ifu_optics(ds, refs, params.wavelength_range, lamp_velocity=params.lamp_velocity)
    batch = SliceBatch(shared, tuple(Slit(str(i), i, *y_range, quadrant=0) for i in range(SLICES)))
    boxes = bounding_boxes(batch)
    shape = ds["sci"].shape[-2:]
    planes, lit = slice_planes(batch, boxes, (shape[0], shape[1]))
    if not lit.any():
        raise NoDataOnDetectorError(_no_light(ds))
    sliced, slice_id = params.nrs_ifu_slice_wcs, planes["slice_id"]

    def gwcs() -> WCS:
        return by_slice(batch, boxes) if sliced else by_pixel(batch, slice_id)

    records = {
        "slices": batch,
        "spectral_order": shared.order,
        "waverange": shared.waverange,
    }
    return AssignedWcs(
        DeferredWcs(gwcs),  # most of what it takes to calibrate does not need it
        dispaxis=1,
        s_region=box_region(planes["ra"], planes["dec"]) if shared.on_sky else None,
        records=records,
        planes=planes,
        nominal_range=exceeded_range(shared),
    )


def _check_light(ds: xr.Dataset) -> None:
    check_grating(ds)
    grating = str(ds.attrs["grating"]).upper()
    short = grating == "G140H" and ds.attrs.get("filter") == "F070LP"
    if ds.attrs.get("detector") == "NRS2" and (grating in _ONLY_NRS1 or short):
        raise NoDataOnDetectorError(_no_light(ds))


def _no_light(ds: xr.Dataset) -> str:
    return (
        f"{_WHO}: no slice of the IFU falls on detector {ds.attrs.get('detector')} with"
        f" {ds.attrs.get('filter')} and {ds.attrs.get('grating')};"
        " calibrate the exposure of the other detector"
    )


def slice_planes(
    batch: SliceBatch, boxes: HostArray, shape: tuple[int, int]
) -> tuple[dict[str, HostArray], HostArray]:
    """Evaluate the slices at every pixel.

    Parameters
    ----------
    batch : SliceBatch
    boxes : array, shape (slice, 2, 2)
        From :func:`~spec2fn.wcs.assign.nirspec_boxes.bounding_boxes`.
    shape : (int, int)
        Shape (y, x) of the exposure.

    Returns
    -------
    planes : dict
        ``wavelength`` [um], ``slit_y`` (along the slice in units of its length) and, but for
        lamps, ``ra``, ``dec`` [deg], float64, NaN outside the slices; ``slice_id`` int32, from
        1, 0 outside, which is also ``regions``.
    lit : bool array, shape (slice,)
        Which slices have a pixel.

    Notes
    -----
    Where slices meet, a pixel belongs to the one with the higher number.
    """
    names = ("wavelength", "slit_y", *(("ra", "dec") if batch.optics.on_sky else ()))
    planes = {name: np.full(shape, np.nan) for name in names}
    number = np.zeros(shape, dtype=np.int32)
    lit = np.zeros(len(boxes), dtype=bool)
    for i, window, y, metres in lit_pixels(batch, boxes, shape):
        inside = np.isfinite(metres)
        lit[i] = inside.any()
        along, wavelength = y[inside], metres[inside]
        sky = batch.celestial(np.array(i), along, wavelength) if batch.optics.on_sky else ()
        number[window][inside] = i + 1
        for name, values in zip(planes, (wavelength * 1e6, along, *sky), strict=True):
            planes[name][window][inside] = values
    return {**planes, "slice_id": number, "regions": number}, lit
