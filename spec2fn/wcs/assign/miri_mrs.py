"""The WCS of the MIRI medium-resolution spectrometer (MRS).

Each detector holds two channels, whose slices lie side by side and are dispersed along columns.
In the frame of a channel alpha [arcsec] runs along the slice, beta [arcsec] across the slices and
lambda is the wavelength [um]. Within a slice beta is constant, and alpha and lambda are
polynomials of row and column (``distortion``, ``specwcs``); which pixel belongs to which slice is
tabulated (``regions``); the channel of a wavelength follows from ``wavelengthrange``. See Wells
et al. (2015, PASP 127, 646), Patapis et al. (2024, A&A 682, A53) and the JWST documentation of
assign_wcs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.schema import meta_of
from spec2fn.typing import HostArray
from spec2fn.wcs.assign import AssignedWcs, References, entry, file_of, reference
from spec2fn.wcs.assign.miri_gwcs import spectral_gwcs
from spec2fn.wcs.assign.pointing import velocity_correction
from spec2fn.wcs.coordinates import mrs_planes
from spec2fn.wcs.s_region import box_region

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model

    from spec2fn.parameters import Parameters

__all__ = ["mrs"]

_WHO = "assign_wcs"
_WCS_PLANE = 7  # of the regions reference: pixels with at least 80 % of a slice's throughput
_REFERENCES = ("distortion", "regions", "specwcs", "wavelengthrange")


@dataclass(frozen=True, eq=False)
class _Mrs:
    """What the references say about an exposure."""

    regions: HostArray
    slices: tuple[int, ...]
    alpha: tuple[Model, ...]
    beta: tuple[Model, ...]
    wavelength: tuple[Model, ...]
    x: tuple[Model, ...]
    y: tuple[Model, ...]
    channels: tuple[_Channel, ...]


@dataclass(frozen=True, eq=False)
class _Channel:
    number: int
    to_v2v3: Model
    beta_zero: float
    beta_step: float
    range: tuple[float, float]


def mrs(ds: xr.Dataset, refs: References, _: Parameters) -> AssignedWcs:
    """Build the WCS of a MIRI MRS exposure and evaluate it at every pixel.

    Frames: detector → alpha_beta → v2v3 → v2v3vacorr → world, all but the first with a wavelength
    [um], which is barycentric where VELOSYS is known. The exposure has attributes ``channel`` and
    ``band``; ``distortion``, ``regions``, ``specwcs`` and ``wavelengthrange`` are ASDF files.

    Returns
    -------
    AssignedWcs
        ``planes`` are those of :func:`spec2fn.wcs.coordinates.mrs_planes`.
    """
    from astropy.modeling import bind_bounding_box

    contents = _contents(ds, refs)
    meta = meta_of(ds)
    ny, nx = contents.regions.shape
    to_slices = _detector_to_slices(contents, velocity_correction(meta))
    bind_bounding_box(to_slices, ((-0.5, nx - 0.5), (-0.5, ny - 0.5)), order="F")
    wcs = spectral_gwcs(meta, to_slices, _slices_to_v2v3(contents), "spectral")
    planes = mrs_planes(wcs, contents.regions)
    lost = [
        str(c.number)
        for c in contents.channels
        if not np.isfinite(planes["wavelength"][contents.regions // 100 == c.number]).any()
    ]
    if lost:
        msg = (
            f"{_WHO}: no pixel of channel {' and '.join(lost)} has a wavelength within its range;"
            f" pass {', '.join(_tree(refs, r)[1] for r in _REFERENCES)} of one channel and band"
        )
        raise ReferenceError(msg)
    return AssignedWcs(
        wcs,
        dispaxis=2,
        s_region=box_region(planes["ra"], planes["dec"]),
        planes=planes,
    )


def _tree(refs: References, reftype: str) -> tuple[Mapping[str, Any], str]:
    ref = reference(refs, reftype, _WHO)
    return ref.attrs.get("tree", {}), f"reference {reftype!r} ({file_of(ref)})"


def _by_band(tree: Mapping[str, Any], label: str, name: str, column: str, wanted: str) -> Any:  # noqa: ANN401 - any leaf of a tree
    """Return what a table with a column ``channel_band`` says of a channel and band."""
    bands = list(entry(tree, label, name, "channel_band"))
    if wanted not in bands:
        msg = (
            f"{_WHO}: {label} is for {', '.join(map(str, bands))}, but the exposure is of {wanted};"
            " pass the reference of its channel and band"
        )
        raise ReferenceError(msg)
    return entry(tree, label, name, column)[bands.index(wanted)]


def _contents(ds: xr.Dataset, refs: References) -> _Mrs:
    numbers, band = (_required(ds, name) for name in ("channel", "band"))
    distortion, of_distortion = _tree(refs, "distortion")
    specwcs, of_specwcs = _tree(refs, "specwcs")
    ranges, of_ranges = _tree(refs, "wavelengthrange")
    selectors = [str(s) for s in entry(ranges, of_ranges, "waverange_selector")]
    channels = []
    for number in numbers:
        name = number + band
        if name not in selectors:
            msg = f"{_WHO}: {of_ranges} has no range for {name}; it has {', '.join(selectors)}"
            raise ReferenceError(msg)
        low, high = entry(ranges, of_ranges, "wavelengthrange")[selectors.index(name)]
        channels.append(
            _Channel(
                number=int(number),
                to_v2v3=_by_band(distortion, of_distortion, "abv2v3_model", "model", name),
                beta_zero=float(_by_band(distortion, of_distortion, "bzero", "beta_zero", name)),
                beta_step=float(_by_band(distortion, of_distortion, "bdel", "delta_beta", name)),
                range=(float(low), float(high)),
            )
        )
    slices = tuple(int(s) for s in entry(distortion, of_distortion, "slices"))
    models = {
        name: tuple(entry(distortion, of_distortion, f"{name}_model"))
        for name in ("alpha", "beta", "x", "y")
    }
    models["wavelength"] = tuple(entry(specwcs, of_specwcs, "model"))
    for name, listed in models.items():
        if len(listed) != len(slices):
            label = of_specwcs if name == "wavelength" else of_distortion
            msg = (
                f"{_WHO}: {label} has {len(listed)} models for {len(slices)} slices of the"
                " distortion; pass references of one channel and band"
            )
            raise ReferenceError(msg)
    return _Mrs(_regions(ds, refs, set(slices)), slices, channels=tuple(channels), **models)


def _required(ds: xr.Dataset, name: str) -> str:
    value = ds.attrs.get(name) or meta_of(ds).require(name.upper(), _WHO)
    value = str(value).strip().upper()
    if name == "channel" and (not value or set(value) - set("1234")):
        msg = f"{_WHO}: keyword CHANNEL is {value!r}; the MRS has channels 12 and 34"
        raise InputError(msg)
    return value


def _regions(ds: xr.Dataset, refs: References, slices: set[int]) -> HostArray:
    tree, label = _tree(refs, "regions")
    planes = np.asarray(entry(tree, label, "regions"))
    if planes.ndim != 3 or planes.shape[0] <= _WCS_PLANE:
        msg = f"{_WHO}: {label} has shape {planes.shape}, needs 9 maps of slices"
        raise ReferenceError(msg)
    shape = ds["sci"].shape[-2:]
    if planes.shape[1:] != shape:
        msg = (
            f"{_WHO}: the exposure has {shape[0]} x {shape[1]} pixels, {label} has"
            f" {planes.shape[1]} x {planes.shape[2]}; the MRS is calibrated in full frame"
        )
        raise InputError(msg)
    regions = planes[_WCS_PLANE]
    numbers = set(np.unique(regions[np.isfinite(regions)]).tolist()) - {0}
    if not np.isfinite(regions).all() or not numbers or not numbers <= slices:
        shown = ", ".join(f"{n:g}" for n in sorted(numbers - slices)[:3])
        what = f"slices that the distortion lacks ({shown}, …)" if shown else "no map of slices"
        msg = f"{_WHO}: {label} holds {what}; pass the reference of this channel and band"
        raise ReferenceError(msg)
    return regions.astype(np.int32)


def _detector_to_slices(contents: _Mrs, velocity: Model | None) -> Model:
    from astropy.modeling.models import Identity
    from astropy.modeling.models import Mapping as Reorder
    from gwcs.selector import LabelMapper, LabelMapperArray, LabelMapperRange, RegionsSelector
    from stdatamodels.jwst.transforms.models import MIRI_AB2Slice

    selector = {}
    for i, number in enumerate(contents.slices):
        wavelength = contents.wavelength[i]
        if velocity is not None:
            wavelength = wavelength | velocity
        # alpha and lambda are polynomials of (y, x), beta is one of x
        model = Reorder([1, 0, 0, 1, 0]) | contents.alpha[i] & contents.beta[i] & wavelength
        back = Reorder([2, 0, 2, 0]) | contents.x[i] & contents.y[i]
        # those of the detector are not barycentric
        model.inverse = back if velocity is None else Identity(2) & velocity.inverse | back
        selector[number] = model
    axes = ("alpha", "beta", "lam")
    slice_of = {
        channel.range: LabelMapper(
            inputs=axes,
            mapper=MIRI_AB2Slice(channel.beta_zero, channel.beta_step, channel.number),
            inputs_mapping=Reorder((1,), n_inputs=3),
        )
        for channel in contents.channels
    }
    labels = LabelMapperArray(contents.regions)
    labels.inverse = LabelMapperRange(axes, slice_of, Reorder((2,)))
    return RegionsSelector(
        ("x", "y"), axes, label_mapper=labels, selector=selector, name="detector_to_abl"
    )


def _slices_to_v2v3(contents: _Mrs) -> Model:
    from astropy.modeling.models import Const1D, Identity
    from astropy.modeling.models import Mapping as Reorder
    from gwcs.selector import LabelMapperRange, RegionsSelector

    axes = ("alpha", "beta", "lam")
    numbers, selector = {}, {}
    for channel in contents.channels:
        numbers[channel.range] = Reorder((2,), name="mapping_lam") | Const1D(
            channel.number, name="channel #"
        )
        passed = Identity(1, name="identity_lam")
        passed.inputs = ("lam",)
        # a copy, since the reference is shared; with an explicit inverse, which is written out
        to_v2v3 = channel.to_v2v3.copy()
        to_v2v3.inverse = channel.to_v2v3.inverse
        selector[channel.number] = to_v2v3 & passed
    labels = LabelMapperRange(axes, numbers, inputs_mapping=Reorder([2]))
    labels.inverse = labels.copy()
    return RegionsSelector(
        axes, ("v2", "v3", "lam"), label_mapper=labels, selector=selector, name="abl_to_v2v3l"
    )
