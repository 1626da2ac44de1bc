"""The WCS of NIRSpec slits: one gwcs per open slit, built when it is asked for.

Frames: detector → sca → gwa → slit_frame → msa_frame → oteip → v2v3 → v2v3vacorr → world; those of
a lamp end in ``msa_frame``. In
``slit_frame`` (x, y) run from -0.5 to 0.5 over the slit (the main shutter of a slitlet, beyond
which its neighbours follow); light is taken to come from x = 0. Wavelengths are in m up to
``oteip`` and in micron from ``v2v3`` on, of a lamp in micron from ``slit_frame`` on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.deferred import DeferredWcs
from spec2fn.errors import InputError, NoDataOnDetectorError
from spec2fn.modes import mode_of
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray, Number
from spec2fn.wcs.assign import AssignedWcs, References
from spec2fn.wcs.assign.nirspec_batch import SlitBatch, metrology
from spec2fn.wcs.assign.nirspec_boxes import bounding_boxes, on_detector, trace_boxes
from spec2fn.wcs.assign.nirspec_frames import frames
from spec2fn.wcs.assign.nirspec_optics import (
    Optics,
    check_grating,
    exceeded_range,
    optics,
    slit_scales,
)
from spec2fn.wcs.msa_slitlets import open_slitlets
from spec2fn.wcs.open_slits import Slit, open_fixed_slits

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model
    from gwcs import WCS

    from spec2fn.parameters import Parameters

__all__ = ["SlitWcs", "gwa_to_slit", "open_slits", "slit_to_plane", "slits"]

_WHO = "assign_wcs"
_CHUNK = 1 << 16  # pixels evaluated in one go
Change = Callable[["WCS"], "WCS"]


def slits(ds: xr.Dataset, refs: References, params: Parameters) -> AssignedWcs:
    """Build the WCS of a NIRSpec exposure of fixed slits or MSA slitlets.

    References: ``camera collimator disperser fore fpa msa ote wavelengthrange`` (ASDF), and of a
    MOS exposure ``msa_metadata``.

    Returns
    -------
    AssignedWcs
        ``wcs`` is a :class:`SlitWcs`; ``records`` holds ``slits`` (tuple of
        :class:`~spec2fn.wcs.open_slits.Slit`), ``spectral_order`` and ``waverange`` [m].

    Raises
    ------
    InputError
        Also for MSA metadata that do not fit the exposure.
    NoDataOnDetectorError
        If no open slit falls on the detector.
    """
    check_grating(ds)
    shared = optics(ds, refs, params.wavelength_range, lamp_velocity=params.lamp_velocity)
    candidates = SlitBatch(shared, open_slits(ds, shared, refs, params))
    seen = np.flatnonzero(on_detector(trace_boxes(candidates)))
    if not seen.size:
        msg = (
            f"{_WHO}: none of the {len(candidates.slits)} open slits falls on detector"
            f" {ds.attrs['detector']} with {ds.attrs.get('filter')} and {ds.attrs.get('grating')};"
            " calibrate the exposure of the other detector"
        )
        raise NoDataOnDetectorError(msg)
    # slits are listed by quadrant of the MSA, as in published products
    batch = candidates.subset(sorted(seen, key=lambda i: candidates.slits[i].quadrant))
    count = len(batch.slits)
    starts = np.zeros((count, 2), dtype=int)
    wcs = SlitWcs(batch, bounding_boxes(batch), starts, tuple(range(count)))
    records = {
        "slits": batch.slits,
        "spectral_order": shared.order,
        "waverange": shared.waverange,
    }
    return AssignedWcs(wcs, dispaxis=1, records=records, nominal_range=exceeded_range(shared))


def open_slits(
    ds: xr.Dataset, optics: Optics, refs: References, params: Parameters
) -> tuple[Slit, ...]:
    """Return the slits that were open, whether or not they fall on the detector.

    Raises
    ------
    InputError
        If the MSA metadata of a MOS exposure are missing, or do not fit it.
    """
    y_range = (params.slit_y_low, params.slit_y_high)
    if not mode_of(ds).shutters:
        return open_fixed_slits(ds, y_range)
    meta = meta_of(ds)
    metadata = refs.get("msa_metadata")
    if metadata is None:
        name = meta.get("MSAMETFL") or "N/A"
        msg = (
            f"{_WHO}: the MSA metadata file of {meta.filename or 'the exposure'} is missing"
            f" (MSAMETFL is {name}); put it beside the exposure, or pass msa_metadata="
        )
        raise InputError(msg)
    metadata_id, dither = (meta.require(k, _WHO) for k in ("MSAMETID", "PATT_NUM"))
    slitlets = open_slitlets(
        metadata,
        metadata_id,
        dither,
        program=str(meta.get("PROGRAM", "")),
        y_range=y_range,
        scales=slit_scales(optics),
    )
    if not slitlets:
        msg = f"{_WHO}: the MSA metadata list no slit with a source for MSAMETID={metadata_id}"
        raise InputError(msg)
    return slitlets


@dataclass(frozen=True, eq=False)
class SlitWcs(Mapping[int, "WCS"]):
    """The gwcs of every slit by slit id, each built when it is asked for.

    Attributes
    ----------
    batch : SlitBatch
        All slits; a slit's id is its position here.
    boxes : float array, shape (slit, 2, 2)
        Bounding boxes ``[[x_low, x_high], [y_low, y_high]]`` in pixels of the cut-outs.
    starts : int array, shape (slit, 2)
        Zero-indexed first pixel (x, y) of the cut-outs in the exposure.
    ids : tuple of int
        The slits of the mapping.
    changes : mapping of int to callable
        What later steps have done to the gwcs of single slits: ``gwcs -> gwcs``. Of a change
        with attributes ``kind`` and ``numbers`` (see :class:`~spec2fn.deferred.DeferredWcs`),
        ``kind(*numbers)`` is the change, which concerns nothing but wavelengths.
    """

    batch: SlitBatch
    boxes: HostArray
    starts: HostArray
    ids: tuple[int, ...]
    changes: Mapping[int, Change] = field(default_factory=dict)
    _built: dict[int, DeferredWcs] = field(default_factory=dict)

    def __getitem__(self, key: int) -> WCS:
        return self.deferred(key).load()

    def deferred(self, key: int) -> DeferredWcs:
        """Return what stands for the gwcs of a slit until it is made.

        Raises
        ------
        KeyError
            If there is no such slit.
        """
        if key not in self.ids:
            raise KeyError(key)
        if key not in self._built:
            self._built[key] = _deferred(self, key)
        return self._built[key]

    def __contains__(self, key: object) -> bool:
        return key in self.ids

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def slit_frame(
        self, slit: HostArray, x: HostArray, y: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Position along the slit and wavelength [m] of pixels of cut-outs; NaN outside the slit.

        What the slits' gwcs give, all slits in one go: an array of slit ids broadcasts against
        the zero-indexed pixels.
        """
        start = self.starts[slit]
        return self.batch.slit_frame(slit, x + start[..., 0], y + start[..., 1])

    def locator(self, slit: int) -> Callable[..., Any] | None:
        """Return the transform from the world to the position in a slit (x, y), if it is known.

        It is that of the slit's gwcs, which need not be made; None after a change that may
        concern positions, and of a lamp.
        """
        change = self.changes.get(slit)
        unknown = change is not None and getattr(change, "kind", None) is None
        if unknown or not self.batch.optics.on_sky:
            return None
        return self.batch.locator(slit)

    def pixel(
        self, slit: int, ra: HostArray, dec: HostArray, wavelength: HostArray
    ) -> tuple[HostArray, HostArray]:
        """Pixel of the cut-out of a slit at which a place on the sky is seen at a wavelength.

        The inverse of the slit's gwcs is that of the JWST pipeline, which for the prism looks
        the refraction up in a coarse table (5e-3 pixels). Here it is refined by Newton's method.

        Parameters
        ----------
        slit : int
        ra, dec : array
            [deg]
        wavelength : array
            [um]

        Returns
        -------
        x, y : array
            Zero-indexed; NaN for what the slit does not see. Light is taken to come from the
            middle of the slit across the dispersion.
        """
        from spec2fn.wcs.invert import invert

        start = self.starts[slit]
        first = self[slit].invert(ra, dec, wavelength, with_bounding_box=False)
        guess = [np.asarray(c, dtype=float) + s for c, s in zip(first, start, strict=True)]
        with np.errstate(invalid="ignore"):
            x, y = invert(
                lambda x, y: self.batch.world(slit, x, y),
                (ra, dec, wavelength),
                guess,
                periods=(360.0, None, None),
            )
        return x - start[0], y - start[1]

    def world(
        self, slit: HostArray, x: HostArray, y: HostArray
    ) -> tuple[HostArray, HostArray, HostArray]:
        """Right ascension, declination [deg] and wavelength [um], as :meth:`slit_frame`.

        Of a lamp, the position in the plane of the MSA [m] and the wavelength.
        """
        start = self.starts[slit]
        return self.batch.world(slit, x + start[..., 0], y + start[..., 1])

    @property
    def sizes(self) -> HostArray:
        """Number of pixels (x, y) of the cut-outs, int array (slit, 2)."""
        return np.rint(self.boxes[:, :, 1] - self.boxes[:, :, 0]).astype(int)

    def on_pixels(
        self,
        function: Callable[..., tuple[HostArray, ...]],
        slits: HostArray,
        shape: tuple[int, int],
        offset: float = 0.0,
    ) -> tuple[HostArray, ...]:
        """Evaluate :meth:`world` or :meth:`slit_frame` at the pixels of cut-outs.

        Parameters
        ----------
        function : callable
        slits : int array, shape (slit,)
        shape : (int, int)
            Rows and columns to which the cut-outs are padded.
        offset : float
            Of the columns. With -0.5 these are the edges of the pixels, one more than columns.

        Returns
        -------
        tuple of array, shape (slit, y, x)
            NaN in the padding.
        """
        (ny, nx), sizes = shape, self.sizes[slits] + (int(offset < 0), 0)
        x, y = np.arange(nx, dtype=np.float64), np.arange(ny, dtype=np.float64)[:, None]
        step = max(1, _CHUNK // max(ny * nx, 1))
        out: list[HostArray] = []
        for first in range(0, len(slits), step):
            some = slice(first, first + step)
            with np.errstate(invalid="ignore", divide="ignore"):
                values = function(slits[some, None, None], x + offset, y)
            out = out or [np.full((len(slits), ny, nx), np.nan) for _ in values]
            inside = (x < sizes[some, 0, None, None]) & (y < sizes[some, 1, None, None])
            for plane, value in zip(out, values, strict=True):
                np.copyto(plane[some], value, where=inside)
        return tuple(out)

    def cut(self, ids: HostArray, start: HostArray, size: HostArray) -> SlitWcs:
        """Return the WCS of cut-outs of the slits `ids`: first pixels and sizes (slit, 2)."""
        boxes, starts = self.boxes.copy(), self.starts.copy()
        boxes[ids] = np.stack([np.zeros_like(size), size], axis=2) - 0.5
        starts[ids] = start
        return SlitWcs(self.batch, boxes, starts, tuple(ids.tolist()), self.changes)

    def changed(self, changes: Mapping[int, Change]) -> SlitWcs:
        """Return a copy in which the gwcs of some slits are changed once they are built.

        Parameters
        ----------
        changes : mapping of int to callable
            ``gwcs -> gwcs`` by slit id; applied after earlier changes.
        """
        merged = dict(self.changes)
        for key, change in changes.items():
            merged[key] = _after(merged.get(key), change)
        kept = {k: v for k, v in self._built.items() if k not in changes}
        return SlitWcs(self.batch, self.boxes, self.starts, self.ids, merged, kept)


def _after(first: Change | None, second: Change) -> Change:
    return second if first is None else lambda wcs: second(first(wcs))


def _deferred(wcs: SlitWcs, i: int) -> DeferredWcs:
    """The gwcs of a slit: what it shares with others, and its own numbers."""
    batch, slit, change = wcs.batch, wcs.batch.slits[i], wcs.changes.get(i)
    optics, start = batch.optics, wcs.starts[i]
    numbers: tuple[Any, ...] = (
        *(float(edge) for edges in wcs.boxes[i] for edge in edges),
        *metrology(optics, slit),
        float(slit.ymin),
        float(slit.ymax),
        *(table[i] for table in batch.tables),
    )
    shifts = tuple(map(float, start)) if start.any() else ()
    more = () if change is None else getattr(change, "numbers", ())
    kind = None if change is None else getattr(change, "kind", None)
    count, quadrant = len(numbers), slit.quadrant

    def make(*numbers: Number) -> WCS:
        rest = numbers[count:]
        gwcs = _gwcs(optics, quadrant, numbers[:count], rest[: len(shifts)])
        if change is None:
            return gwcs
        one = change if kind is None else kind(*rest[len(shifts) :])
        return one(gwcs)

    known = change is None or kind is not None
    shared = ("slit", optics, quadrant, len(shifts), kind) if known else None
    return DeferredWcs(make, (*numbers, *shifts, *more), shared)


def _gwcs(
    optics: Optics, quadrant: int, numbers: tuple[Any, ...], start: tuple[Number, ...]
) -> WCS:
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Shift
    from gwcs.wcs import WCS

    box, metrology, edges, tables = numbers[:4], numbers[4:8], numbers[8:10], numbers[10:]
    to_sca = optics.to_sca
    to_sca = Shift(start[0]) & Shift(start[1]) | to_sca if start else to_sca.copy()
    bind_bounding_box(to_sca, (box[:2], box[2:]), order="F")
    place = slit_to_plane(metrology, optics.quadrants[quadrant][0])
    named = frames()
    steps = [
        ("detector", to_sca, "dms2sca"),
        ("sca", optics.sca_to_gwa, "det2gwa"),
        ("gwa", gwa_to_slit(optics, edges, tables, place | optics.collimator_to_gwa), "gwa2slit"),
        ("slit_frame", _slit_to_msa(place), "slit2msa"),
    ]
    for _, model, name in steps:
        model.name = name
    pipeline = [(named[frame], model) for frame, model, _ in steps]
    pipeline += [(named[frame], model) for frame, model in optics.to_sky]
    return WCS([*pipeline, (named[optics.last_frame], None)])


def slit_to_plane(metrology: Iterable[float], plane: Model) -> Model:
    """Make the model from the frame of a slit to the plane of the MSA (or slicer).

    Parameters
    ----------
    metrology : four floats
        Centre (x, y) and size (x, y) [m] of the slit.
    plane : astropy.modeling.Model
        From the positions in which the metrology is given.
    """
    from astropy.modeling.models import Scale, Shift

    x, y, width, height = metrology
    return Scale(width) & Scale(height) | Shift(x) & Shift(y) | plane


def _slit_to_msa(place: Model) -> Model:
    from astropy.modeling.models import Identity

    model = place & Identity(1)
    model.inputs, model.outputs = ("x_slit", "y_slit", "lam"), ("x_msa", "y_msa", "lam")
    return model


def gwa_to_slit(
    optics: Optics,
    edges: Iterable[float],
    tables: tuple[HostArray, HostArray],
    before: Model,
    angles: Model | None = None,
) -> Model:
    """Make the model from the angles behind the grating wheel to the frame of a slit.

    Parameters
    ----------
    optics : Optics
    edges, tables
        Those of the slit in :class:`~spec2fn.wcs.assign.nirspec_batch.SlitBatch`.
    before : astropy.modeling.Model
        Position in the slit to the angles before the wheel.
    angles : astropy.modeling.Model, optional
        Position in the slit and wavelength to the angles behind the wheel; by default from
        `before`.
    """
    from astropy.modeling.models import Identity, Mapping, Scale, Tabular1D

    cosines, positions = tables
    along = Tabular1D(points=(cosines,), lookup_table=positions, bounds_error=False, name="tabular")
    # angles behind the wheel -> (0, position along the slit), and again the angles: light passes
    # the wheel straight across the dispersion
    middle = optics.across_and_along | Identity(1) & along & Identity(2)
    seen = Mapping((0, 1, 0, 1, 2, 3)) | Identity(2) & (before & Identity(2))
    # astropy takes time for every model below an operator, so that long parts are joined last
    model = (middle | seen) | (optics.to_wavelength | _mask(*edges))
    if angles is None:
        angles = before & Identity(1) | optics.disperse
    if not optics.on_sky:
        model = model | Identity(2) & Scale(1e6)
        angles = Identity(2) & Scale(1e-6) | angles
    model.inverse = angles
    model.inputs = ("angle1", "angle2", "angle3")
    model.outputs = ("x_slit", "y_slit", "lam")
    return model


@lru_cache(maxsize=4)  # often the same for all slits
def _mask(low: float, high: float) -> Model:
    from astropy.modeling.models import Identity, Mapping, Scale
    from stdatamodels.jwst.transforms.models import Logical

    # adds 0 inside the slit and NaN outside
    above = Logical(condition="GT", compareto=high, value=np.nan)
    below = Logical(condition="LT", compareto=low, value=np.nan)
    add = Mapping((0,), n_inputs=2) + Mapping((1,))
    model = (
        Mapping((0, 1, 2, 1))
        | Identity(3) & (above | below | Scale(0))
        | Mapping((0, 1, 3, 2, 3))
        | Identity(1) & add & add
    )
    model.inverse = Identity(3)
    return model
