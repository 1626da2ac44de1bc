"""From the telescope's focal plane to the sky, the same for every instrument.

V2, V3 are angles in the telescope frame [arcsec]; the attitude is given by the sky position
(RA_REF, DEC_REF) and the roll (ROLL_REF) at the reference point (V2_REF, V3_REF), as described in
JWST-STScI-001550, "Description and Use of the JWST Science Instrument Aperture File".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.schema import Meta, meta_of
from spec2fn.subarray import subarray_origin

if TYPE_CHECKING:
    import xarray as xr
    from astropy.modeling import Model
    from gwcs import WCS

__all__ = [
    "dithered_position",
    "dithered_v2v3",
    "from_origin",
    "of_subarray",
    "uncorrected",
    "v2v3_to_sky",
    "velocity_aberration",
    "velocity_correction",
]

_WHO = "assign_wcs"


def of_subarray(ds: xr.Dataset, model: Model) -> Model:
    """Return a model of the pixels of the full frame as one of the pixels of an exposure."""
    return from_origin(subarray_origin(ds), model)


def from_origin(origin: tuple[int, int], model: Model) -> Model:
    """Return a model of the pixels of the full frame as one of those of a subarray.

    Its first pixel is `origin` of the full frame, x and y from 0.
    """
    from astropy.modeling.models import Identity, Shift

    if not any(origin):
        return model
    x, y = (Shift(float(o)) if o else Identity(1) for o in origin)
    return x & y | model


def velocity_aberration(meta: Meta) -> Model:
    """Model of the differential velocity aberration: V2, V3 scaled about the reference point.

    VA_SCALE is the ratio of the apparent to the true plate scale; without it, or if it is 1,
    the model is an identity.
    """
    from astropy.modeling.models import Identity, Scale, Shift

    if meta.get("VA_SCALE") in (None, 1):
        return Identity(2)
    scale = meta.number("VA_SCALE", _WHO)
    v2, v3 = meta.number("V2_REF", _WHO), meta.number("V3_REF", _WHO)
    model = Scale(scale, name="dva_scale_v2") & Scale(scale, name="dva_scale_v3")
    if v2 != 0 or v3 != 0:
        model = model | (
            Shift((1 - scale) * v2, name="dva_v2_shift")
            & Shift((1 - scale) * v3, name="dva_v3_shift")
        )
        model.name = "DVA_Correction"
    return model


def v2v3_to_sky(meta: Meta) -> Model:
    """Model from V2, V3 [arcsec] to right ascension and declination [deg]."""
    from astropy.modeling.models import RotationSequence3D, Scale
    from gwcs.geometry import CartesianToSpherical, SphericalToCartesian

    v2, v3, roll, ra, dec = (
        meta.number(k, _WHO) for k in ("V2_REF", "V3_REF", "ROLL_REF", "RA_REF", "DEC_REF")
    )
    attitude = RotationSequence3D([v2 / 3600, -v3 / 3600, roll, dec, -ra], axes_order="zyxyz")
    model = (
        Scale(1 / 3600) & Scale(1 / 3600)
        | SphericalToCartesian(wrap_lon_at=180)
        | attitude
        | CartesianToSpherical(wrap_lon_at=360)
    )
    model.name = "v23tosky"
    return model


def velocity_correction(meta: Meta) -> Model | None:
    """Model of the wavelength correction to the barycentre, or None without VELOSYS.

    VELOSYS is the radial velocity of the telescope with respect to the barycentre [m/s].
    """
    from astropy.constants import c
    from astropy.modeling.models import Const1D, Identity

    if meta.get("VELOSYS") is None:
        return None
    factor = 1 / (1 + meta.number("VELOSYS", _WHO) / c.value)
    model = Identity(1) * Const1D(factor, name="velocity_correction")
    model.inverse = Identity(1) / Const1D(factor, name="inv_vel_correction")
    return model


def uncorrected(meta: Meta, *keywords: str) -> tuple[str, ...]:
    """Return a warning for each of VELOSYS and VA_SCALE that is asked about and missing."""
    file = meta.filename or "the exposure"
    told = {
        "VELOSYS": "wavelengths are those the telescope sees, up to 0.01 % off those at the"
        " barycentre; add the radial velocity [m/s]",
        "VA_SCALE": "positions are not corrected for the velocity aberration, up to 0.01 % of the"
        " distance from the reference point; add it",
    }
    missing = [k for k in keywords if meta.get(k) is None]
    return tuple(f"keyword {k} is missing from {file}: {told[k]}" for k in missing)


def dithered_v2v3(meta: Meta, who: str = _WHO) -> tuple[float, float]:
    """Position V2, V3 [arcsec] at which the dither offsets (XOFFSET, YOFFSET) place the target."""
    from stdatamodels.jwst.transforms.models import IdealToV2V3

    from spec2fn.wcs.lower import lower

    ideal = IdealToV2V3(*(meta.number(k, who) for k in ("V3I_YANG", "V2_REF", "V3_REF", "VPARITY")))
    v2, v3 = lower(ideal)(*(meta.number(k, who) for k in ("XOFFSET", "YOFFSET")))
    return float(v2), float(v3)


def dithered_position(ds: xr.Dataset, wcs: WCS, who: str = _WHO) -> tuple[float, float]:
    """Sky position [deg] at which the dither offsets (XOFFSET, YOFFSET) place the target."""
    from spec2fn.wcs.lower import lower

    v2, v3 = dithered_v2v3(meta_of(ds), who)
    to_sky = lower(wcs, "v2v3")
    # some modes carry a wavelength along, which does not act on the position
    ra, dec = to_sky(v2, v3, *[0.0] * (to_sky.n_inputs - 2))[:2]
    return float(ra), float(dec)
