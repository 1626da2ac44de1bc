"""The gwcs objects of the NIRSpec IFU: of pixels, and of pixels and slice number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spec2fn.typing import HostArray
from spec2fn.wcs.assign.nirspec import gwa_to_slit, slit_to_plane
from spec2fn.wcs.assign.nirspec_frames import frames

if TYPE_CHECKING:
    from astropy.modeling import Model
    from gwcs import WCS

    from spec2fn.wcs.assign.nirspec_ifu import SliceBatch

__all__ = ["by_pixel", "by_slice"]

_DIGITS = 5  # of positions across the slicer [m], by which slices are told apart
_TOLERANCE = 1e-4  # m


def by_pixel(batch: SliceBatch, slice_id: HostArray) -> WCS:
    """Return the gwcs from pixels to the sky and wavelength [um].

    Parameters
    ----------
    batch : SliceBatch
    slice_id : int array, shape (y, x)
        Slice that each pixel belongs to, from 1; 0 for none.

    Returns
    -------
    gwcs.WCS
        NaN outside the slices. On the way back the slice is found by the position across the
        slicer.
    """
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Const1D, Identity, Mapping
    from gwcs.selector import LabelMapperArray, LabelMapperDict, RegionsSelector
    from gwcs.wcs import WCS
    from scipy.ndimage import find_objects

    from_detector = batch.optics.to_sca | batch.optics.sca_to_gwa
    transforms, places = {}, {}
    for i, found in enumerate(find_objects(slice_id)):
        if found is None:
            continue
        label = i + 1
        box = tuple((edge.start - 0.5, edge.stop - 0.5) for edge in reversed(found))
        place = _slice_to_slicer(batch, i)
        # readers of the file find the frame of the slice before the last operator
        one = from_detector | _gwa_to_slice(batch, i, place) | place & Identity(1)
        bind_bounding_box(one, box, order="F")
        transforms[label] = one
        across = float(np.round(batch.location[0][i, 0], _DIGITS))
        places[across] = Mapping((0,), n_inputs=3) | Const1D(label)
    labels = LabelMapperArray(slice_id)
    # gwcs widens the map to 8 bytes for each pixel, all of which would be written
    labels._mapper = slice_id.astype(np.int8)  # noqa: SLF001
    labels.inverse = LabelMapperDict(
        inputs=("x_slice", "y_slice", "lam"),
        mapper=places,
        inputs_mapping=Mapping((0,), n_inputs=3),
        atol=_TOLERANCE,
    )
    select = RegionsSelector(
        ("x", "y"),
        ("x_slice", "y_slice", "lam"),
        label_mapper=labels,
        selector=transforms,
        name="det2slicer",
    )
    select.inputs, select.outputs = ("x", "y"), ("x_slice", "y_slice", "lam")
    # carries a bounding box where the user wants one
    first = Identity(2, name="coord2det")
    first.inputs = first.outputs = ("x", "y")
    named = frames()
    pipeline = [(named["coordinates"], first), (named["detector"], select)]
    pipeline += [(named[frame], model) for frame, model in batch.optics.to_sky]
    return WCS([*pipeline, (named[batch.optics.last_frame], None)])


def by_slice(batch: SliceBatch, boxes: HostArray) -> WCS:
    """Return the gwcs from pixels and the number of the slice, from 0.

    Parameters
    ----------
    batch : SliceBatch
    boxes : float array, shape (slice, 2, 2)
        Bounding boxes ``[[x_low, x_high], [y_low, y_high]]`` of the slices.

    Returns
    -------
    gwcs.WCS
        Inputs (x, y, slice), outputs (right ascension, declination, wavelength, slice).
    """
    from astropy.modeling.bounding_box import CompoundBoundingBox
    from astropy.modeling.models import Identity, Mapping
    from gwcs.wcs import WCS
    from stdatamodels.jwst.transforms.models import Gwa2Slit, Slit2Msa

    optics = batch.optics
    numbers = list(range(len(batch.slits)))
    first = optics.to_sca & Identity(1)
    order = Mapping((3, 0, 1, 2))
    order.inverse = Mapping((1, 2, 3, 0))
    to_gwa = optics.sca_to_gwa & Identity(1) | order
    places = [_slice_to_slicer(batch, i) for i in numbers]
    to_slit = Gwa2Slit(numbers, [_gwa_to_slice(batch, i, places[i]) for i in numbers])
    order = Mapping((0, 1, 3, 2))
    order.inverse = Mapping((0, 1, 3, 2))
    to_slicer = Slit2Msa(numbers, places) & Identity(1) | order
    steps = [
        ("detector", first, "dms2sca", ("x", "y", "name"), ("x", "y", "name")),
        ("sca", to_gwa, "det2gwa", ("x", "y", "name"), ("name", "angle1", "angle2", "angle3")),
        ("gwa", to_slit, "gwa2slit", None, None),
        (
            "slit_frame",
            to_slicer,
            "slit2slicer",
            ("name", "x_slit", "y_slit", "lam"),
            ("x_slice", "y_slice", "lam", "name"),
        ),
    ]
    steps += [
        (frame, model & Identity(1), model.name, (*model.inputs, "name"), (*model.outputs, "name"))
        for frame, model in optics.to_sky
    ]
    for _, model, name, inputs, outputs in steps:
        model.name = name
        if inputs is not None:
            model.inputs, model.outputs = inputs, outputs
    named = frames()
    pipeline = [(named[frame], model) for frame, model, *_ in steps]
    wcs = WCS([*pipeline, (named[optics.last_frame], None)])
    forward = wcs.forward_transform
    forward.inputs = ("x", "y", "name")
    seen = [i for i in numbers if (boxes[i, :, 0] <= boxes[i, :, 1]).all()]
    each = {i: tuple(tuple(map(float, edges)) for edges in boxes[i]) for i in seen}
    wcs.bounding_box = CompoundBoundingBox.validate(
        forward, each, selector_args=[("name", True)], order="F"
    )
    return wcs


def _slice_to_slicer(batch: SliceBatch, i: int) -> Model:
    return slit_to_plane(map(float, batch.ifu.metrology[i]), batch.ifu.slicer)


def _gwa_to_slice(batch: SliceBatch, i: int, place: Model) -> Model:
    from astropy.modeling.models import Const1D, Identity, Mapping

    optics = batch.ifu
    low, high = optics.waverange
    middle = 0.5 * (high - low) + low
    to_gwa = optics.posts[i] | optics.collimator_to_gwa
    before = Mapping((0, 1, 1)) | place & Const1D(middle) | to_gwa
    angles = Mapping((0, 1, 2, 2)) | place & Identity(2) | to_gwa & Identity(1) | optics.disperse
    cosines, positions = (table[i] for table in batch.tables)
    edges = map(float, batch.edges[i])
    model = gwa_to_slit(optics, edges, (cosines, positions), before, angles)
    model.name = "gwa2slit"
    return model
