"""Building the gwcs of an exposure from its CRDS references, one module per instrument.

The way in is the row of a mode (:mod:`spec2fn.modes`): its trait ``wcs`` names a function here,
``"miri:lrs"``. Such a builder takes the exposure, its references by type (those that ``assign_wcs``
lists, and ``msa_metadata``) and the parameters of ``assign_wcs``, of which it reads what it needs,
and returns an :class:`AssignedWcs`. It raises :class:`ReferenceError` for a reference that is
missing, damaged or made for something else, and :class:`InputError` for a keyword that is missing
or does not fit the others. What builders of all instruments need is in
:mod:`spec2fn.wcs.assign.pointing`: subarrays, dithers, the transforms from V2, V3 to the sky. What
modes of an instrument share is in ``miri_gwcs``, ``nirspec_optics`` and ``nirspec_frames``.
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
    from spec2fn.parameters import Parameters

__all__ = ["AssignedWcs", "References", "builder_for", "entry", "file_of", "reference"]

References: TypeAlias = "Mapping[str, xr.Dataset | None]"
"""References of an exposure by type; None where there is none."""


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


Builder: TypeAlias = "Callable[[xr.Dataset, References, Parameters], AssignedWcs]"


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


def entry(tree: Mapping[str, Any], label: str, *path: str) -> Any:  # noqa: ANN401 - any leaf of a tree
    """Return an entry of a tree; :class:`ReferenceError` with the `label` of its file without."""
    value: Any = tree
    for key in path:
        value = value.get(key) if hasattr(value, "get") else None
        if value is None:
            msg = f"assign_wcs: {label} has no entry {'.'.join(path)!r}; fetch it again from CRDS"
            raise ReferenceError(msg)
    return value
