"""The WCS of NIRISS single-object slitless spectra: a wavelength for every pixel and order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spec2fn.deferred import DeferredWcs
from spec2fn.errors import ReferenceError
from spec2fn.schema import meta_of
from spec2fn.subarray import subarray_origin
from spec2fn.wcs.assign import AssignedWcs, References, file_of, reference
from spec2fn.wcs.assign.pointing import from_origin, velocity_correction
from spec2fn.wcs.frames import plane, sky, spectral

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model
    from gwcs import WCS

    from spec2fn.parameters import Parameters

__all__ = ["soss"]

_WHO = "assign_wcs"
_ORDERS = (1, 2, 3)
_ALONG_ROWS = 1


def soss(ds: xr.Dataset, refs: References, _: Parameters) -> AssignedWcs:
    """Build the WCS of a SOSS exposure.

    Frames: detector → world. A pixel (x, y) has a wavelength in every order, which is given
    besides; all are at the place of the target (TARG_RA, TARG_DEC).

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure of type NIS_SOSS.
    refs : mapping
        ``specwcs`` (ASDF): models of the wavelength [um] by order, of (y, x) of the full frame.

    Returns
    -------
    AssignedWcs
        Without planes: a pixel alone has no wavelength.

    Raises
    ------
    ReferenceError
        If the reference is missing or lacks an order.
    InputError
        If the exposure does not say where the target is.

    Notes
    -----
    Algorithm: JWST pipeline documentation, assign_wcs step; the wavelengths with which spectra are
    extracted are those of :mod:`spec2fn.kernels.soss_trace`, which follow the pupil wheel.
    """
    meta = meta_of(ds)
    target = tuple(meta.number(k, _WHO) for k in ("TARG_RA", "TARG_DEC"))
    specwcs = reference(refs, "specwcs", _WHO)
    tree: Mapping[Any, Any] = specwcs.attrs.get("tree", {})
    missing = [str(order) for order in _ORDERS if tree.get(order) is None]
    if missing:
        msg = (
            f"{_WHO}: reference 'specwcs' ({file_of(specwcs)}) has no wavelengths of order"
            f" {', '.join(missing)}; use the one for NIRISS SOSS"
        )
        raise ReferenceError(msg)
    velocity = velocity_correction(meta)
    ysize, xsize = ds["sci"].shape[-2:]
    # what is made later must not keep the pixels
    origin = subarray_origin(ds)

    def make() -> WCS:
        from astropy.modeling import bind_bounding_box
        from gwcs.coordinate_frames import CompositeFrame
        from gwcs.wcs import WCS
        from stdatamodels.jwst.transforms.models import NirissSOSSModel

        models = []
        for order in _ORDERS:
            whole = _of_order(tree[order], target, velocity).rename(f"Order{order}")
            model = from_origin(origin, whole)
            if model is not whole:
                box = ((-0.5, xsize - 0.5), (-0.5, ysize - 0.5))
                bind_bounding_box(model, box, order="F")
            models.append(model)
        world = CompositeFrame([sky(axes=("ra", "dec")), spectral()], name="world")
        detector = plane("detector", axes=("x", "y"))
        joint = NirissSOSSModel(list(_ORDERS), models).rename("3-order SOSS Model")
        return WCS([(detector, joint), (world, None)])

    return AssignedWcs(DeferredWcs(make), dispaxis=_ALONG_ROWS, of_pixels=False)


def _of_order(wavelength: Model, target: tuple[float, ...], velocity: Model | None) -> Model:
    from astropy.modeling.models import Const1D
    from astropy.modeling.models import Mapping as Inputs

    # the tables of the reference are of (row, column)
    place = Const1D(target[0]) & Const1D(target[1])
    return Inputs((0, 1, 1, 0)) | place & (wavelength | velocity if velocity else wavelength)
