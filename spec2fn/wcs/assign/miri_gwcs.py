"""The gwcs of MIRI: frames and transforms that its spectra and images share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec2fn.wcs.assign.pointing import v2v3_to_sky, velocity_aberration
from spec2fn.wcs.frames import RA_DEC, plane, sky, spectral, world

if TYPE_CHECKING:
    from astropy.modeling import Model
    from gwcs import WCS
    from gwcs.coordinate_frames import CompositeFrame

    from spec2fn.schema import Meta

__all__ = ["image_gwcs", "spectral_gwcs"]


def spectral_gwcs(meta: Meta, to_slit: Model, to_v2v3: Model, spectral_name: str) -> WCS:
    """Put the gwcs of a spectrum together: detector → alpha_beta → v2v3 → v2v3vacorr → world.

    Parameters
    ----------
    meta : Meta
        Keywords of the exposure.
    to_slit : astropy.modeling.Model
        Pixel to the place in the slit or slice, alpha and beta [arcsec], and wavelength [um].
    to_v2v3 : astropy.modeling.Model
        From there to V2, V3 [arcsec] and wavelength.
    spectral_name : str
        Name of the spectral axis of the world.
    """
    from astropy import units
    from astropy.modeling.models import Identity
    from gwcs.coordinate_frames import CompositeFrame
    from gwcs.wcs import WCS

    shared = spectral(spectral_name, "lambda")

    def focal(name: str) -> CompositeFrame:
        angles = plane(f"{name}_spatial", units.arcsec, ("v2", "v3"))
        return CompositeFrame([angles, shared], name=name)

    slit = plane("alpha_beta_spatial", units.arcsec, ("alpha", "beta"))
    wavelength = spectral("alpha_beta_spectral", "lambda")
    return WCS(
        [
            (plane("detector"), to_slit),
            (CompositeFrame([slit, wavelength], name="alpha_beta"), to_v2v3),
            (focal("v2v3"), velocity_aberration(meta) & Identity(1)),
            (focal("v2v3vacorr"), v2v3_to_sky(meta) & Identity(1)),
            (world(shared, sky("icrs", RA_DEC)), None),
        ]
    )


def image_gwcs(meta: Meta, to_v2v3: Model) -> WCS:
    """Put the gwcs of an image together: detector → v2v3 → v2v3vacorr → world.

    Parameters
    ----------
    meta : Meta
        Keywords of the exposure.
    to_v2v3 : astropy.modeling.Model
        Pixel to V2, V3 [arcsec].
    """
    from astropy import units
    from gwcs.wcs import WCS

    return WCS(
        [
            (plane("detector"), to_v2v3),
            (plane("v2v3", units.arcsec, ("v2", "v3")), velocity_aberration(meta)),
            (plane("v2v3vacorr", units.arcsec, ("v2", "v3")), v2v3_to_sky(meta)),
            (sky("world"), None),
        ]
    )
