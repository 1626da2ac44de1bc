"""The linear operator from a direct image and spectra to the image of a grism.

It is that of ``wfss_contam``, with every pixel and wavelength of its own instead of the sums that
the step needs, so that it is differentiable in the image, the spectra, the response and the
geometry (:class:`spec2fn.wcs.grism.GrismGeometry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.kernels.dispersal import Dispersal, OrderGeometry
from spec2fn.parameters import Parameters
from spec2fn.plans.slits.contaminants import direct_of, order_responses
from spec2fn.plans.slits.contamination import direct_pixels
from spec2fn.plans.slits.grism_cutouts import grism_geometry
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

    from spec2fn.wcs.grism import GrismGeometry

__all__ = ["grism_operator", "redispersed"]


def grism_operator(
    exposure: xr.Dataset,
    photom: xr.Dataset,
    wavelengthrange: xr.Dataset,
    direct_image: xr.Dataset,
    segmap: xr.Dataset,
    *,
    orders: Sequence[int] | None = None,
    wl_oversample: int = 2,
) -> tuple[Dispersal, HostArray, tuple[int, ...]]:
    """Return the operator of an exposure, and the direct image it acts on.

    Parameters
    ----------
    exposure : xarray.Dataset
        Wide-field slitless exposure after assign_wcs.
    photom, wavelengthrange : xarray.Dataset
        References.
    direct_image, segmap : xarray.Dataset
        Image of the field [MJy/sr], and the map of its sources.
    orders : sequence of int, optional
        Spectral orders; all that the references know by default.
    wl_oversample : int
        Wavelengths per pixel of the longest trace of an order.

    Returns
    -------
    operator : Dispersal
        ``operator(brightness, spectra)`` is the image [DN/s] before the flat.
    brightness : ndarray, (pixel,)
        Of the pixels of all sources [MJy/sr], times their area in pixels of the detector.
    labels : tuple of int
        Of the sources, in the order of the spectra.

    Raises
    ------
    DatasetError, InputError, ReferenceError
        As :func:`spec2fn.steps.wfss_contam.wfss_contam`.
    """
    geometry = grism_geometry(exposure, "grism_operator")
    params = Parameters("grism_operator", {"official_model": False})
    references = (photom, wavelengthrange)
    responses = order_responses(exposure, references, geometry.orders, orders, params)
    sources = list(direct_pixels(direct_of(direct_image, segmap), geometry))
    x0, y0, brightness = (
        np.concatenate([getattr(s, name) for s in sources]) for name in ("x", "y", "flux")
    )
    source = np.repeat(np.arange(len(sources)), [len(s.x) for s in sources])
    geometries = {}
    for response in responses:
        low, high = response.ends
        ends = geometry.disperse(x0, y0, np.array([[low], [high]]), response.order)
        length = float(np.max(np.hypot(*(np.diff(np.asarray(e), axis=0) for e in ends))))
        number = max(int(np.ceil(length * wl_oversample)), 8)
        step = (high - low) / number
        wavelength = low + step * (np.arange(number) + 0.5)
        place = geometry.disperse(x0, y0, wavelength[:, None], response.order)
        gain = response.gain(wavelength, step)
        geometries[str(response.order)] = OrderGeometry(*place, wavelength, gain)
    shape = exposure.sizes["y"], exposure.sizes["x"]
    operator = Dispersal(geometries, source, len(sources), shape, x0, y0, sources[0].area)
    return operator, brightness, tuple(s.source for s in sources)


def redispersed(operator: Dispersal, geometry: GrismGeometry) -> Dispersal:
    """Return an operator with the traces of another geometry, at the same wavelengths.

    Differentiable in the arrays of the geometry: coefficients of the traces, angle of the filter
    wheel.
    """
    orders = {
        name: OrderGeometry(
            *geometry.disperse(operator.x0, operator.y0, one.wavelength[:, None], int(name)),
            one.wavelength,
            one.gain,
        )
        for name, one in operator.orders.items()
    }
    return replace(operator, orders=orders)
