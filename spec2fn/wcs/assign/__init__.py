"""Building the gwcs of an exposure from its CRDS references, one module per instrument.

The way in is the row of a mode (:mod:`spec2fn.modes`): its trait ``wcs`` names a function here,
``"miri:lrs"``. Such a builder takes the exposure, its references by type (those that ``assign_wcs``
lists) and the user's :class:`WcsOptions`, and returns an :class:`AssignedWcs`. What builders of all
instruments need is in :mod:`spec2fn.wcs.assign.pointing`: keywords, subarrays, the transforms from
V2, V3 to the sky, footprints. What modes of an instrument share is in ``miri_gwcs``,
``nirspec_optics`` and ``nirspec_frames``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from spec2fn.errors import InputError, ReferenceError
from spec2fn.modes import MODES, Mode
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr
    from gwcs import WCS

    from spec2fn.deferred import DeferredWcs
    from spec2fn.wcs.sip import SipOptions

__all__ = ["AssignedWcs", "References", "WcsOptions", "builder_for", "file_of", "reference"]

References: TypeAlias = "Mapping[str, xr.Dataset | None]"
"""References of an exposure by type; None where there is none."""


@dataclass(frozen=True, eq=False)
class WcsOptions:
    """What a user may set; builders that have no use for it take no notice.

    Attributes
    ----------
    slit_y_low, slit_y_high : float
        Edges of NIRSpec slits in units of their height, from the centre.
    wavelength_range : (float, float), optional
        Wavelengths [um] of interest instead of the nominal ones (NIRSpec).
    msa_metadata : xarray.Dataset, optional
        MSA metadata of a NIRSpec MOS exposure.
    nrs_ifu_slice_wcs : bool
        NIRSpec IFU: a gwcs that takes the number of the slice besides the pixel.
    grism_rotation : {"consistent", "opposite"}
        How the traces of NIRISS turn with the wheel, from pixel to wavelength: as they do from
        wavelength to pixel, or against that.
    grism_inverse : {"exact", "approximate"}
        How traces and distortion of slitless spectra are inverted: by Newton's method, or by the
        polynomials of the references and by samples.
    grism_reference : {"pixel", "keyword"}
        Which zero-indexed pixel XREF_SCI and YREF_SCI name for a grism time series: that which
        they count from 1, moved by the dither, or the one of the same numbers.
    sip : SipOptions, optional
        Approximation of the undispersed image in the header of a wide-field slitless exposure;
        none if None.
    """

    slit_y_low: float = -0.55
    slit_y_high: float = 0.55
    wavelength_range: tuple[float, float] | None = None
    msa_metadata: xr.Dataset | None = None
    nrs_ifu_slice_wcs: bool = False
    grism_rotation: str = "consistent"
    grism_inverse: str = "exact"
    grism_reference: str = "pixel"
    sip: SipOptions | None = None


@dataclass(frozen=True, eq=False)
class AssignedWcs:
    """What a builder knows about an exposure.

    Attributes
    ----------
    wcs : gwcs.WCS (or what stands for it), or mapping of int to gwcs.WCS
        Detector (x, y), zero-indexed in the subarray, to the sky and wavelength [um]; of every
        slit by its id where a pixel may belong to several slits.
    dispaxis : int, optional
        1 if the spectrum runs along x, 2 along y.
    s_region : str, optional
        Footprint on the sky; None leaves the keyword as it was.
    scalars : mapping of str to float
        Numbers stored with the exposure (:data:`spec2fn.schema.SCALARS`).
    records : mapping
        What goes to ``meta.records``.
    planes : mapping of str to array (y, x)
        Coordinates of every pixel by the names of :data:`spec2fn.schema.PLANES`, where the
        builder has evaluated them already; empty to have ``wcs`` evaluated on its bounding box.
    nominal_range : (float, float), optional
        Nominal range of wavelengths [um], where the user has chosen wavelengths beyond it.
    of_pixels : bool
        Whether a pixel alone has world coordinates; without a source, those of slitless spectra
        have none.
    """

    wcs: WCS | DeferredWcs | Mapping[int, WCS]
    dispaxis: int | None = None
    s_region: str | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)
    planes: Mapping[str, HostArray] = field(default_factory=dict)
    nominal_range: tuple[float, float] | None = None
    of_pixels: bool = True


Builder: TypeAlias = "Callable[[xr.Dataset, References, WcsOptions], AssignedWcs]"


def builder_for(mode: Mode) -> Builder:
    """Return the function that builds the WCS of a mode.

    Raises
    ------
    InputError
        If the exposure type is not spectroscopic, or not supported.
    """
    from importlib import import_module

    if not mode.wcs:
        why = "is not supported" if mode.instrument else "is not spectroscopic"
        known = ", ".join(sorted({m.exp_type for m in MODES.values() if m.wcs}))
        msg = f"assign_wcs: exposure type {mode.name!r} {why}; spec2fn calibrates {known}"
        raise InputError(msg)
    module, function = mode.wcs.split(":")
    home = module if "." in module else f"{__name__}.{module}"
    builder: Builder = getattr(import_module(home), function)
    return builder


def reference(refs: References, reftype: str, who: str) -> xr.Dataset:
    """Return the reference of a type.

    Raises
    ------
    ReferenceError
        Naming step and type if there is none.
    """
    ref = refs.get(reftype)
    if ref is None:
        msg = (
            f"{who}: reference {reftype!r} is missing; pass {reftype}=… or set CRDS up so that"
            " it selects one"
        )
        raise ReferenceError(msg)
    return ref


def file_of(ref: xr.Dataset) -> str:
    """Return the name of the file of a reference, for messages."""
    return meta_of(ref).filename or str(ref.attrs.get("filename", "")) or "unnamed"
