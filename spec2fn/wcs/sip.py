"""Keywords that approximate the world coordinates of an image, for readers that know no gwcs.

The distortion is approximated by polynomials (the SIP convention, Shupe et al. 2005, ASP Conf. Ser.
347, 491), fitted by :meth:`gwcs.wcs.WCS.to_fits_sip`.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gwcs import WCS

__all__ = ["SipApproximation", "SipOptions"]

_LOG = logging.getLogger("spec2fn.wcs")
_DEGREES = range(1, 6)
_KEPT = re.compile(r"WCSAXES|CRPIX[12]|CRVAL[12]|CTYPE[12]|CUNIT[12]|CD[12]_[12]|[AB]P?_\w+")


@dataclass(frozen=True)
class SipOptions:
    """How the approximation is fitted.

    Attributes
    ----------
    max_pix_error, max_inv_pix_error : float
        Largest error from pixel to sky, and back [pixel].
    degree, inv_degree : int, optional
        Of the polynomials; by default the lowest that is as good as that.
    npoints : int
        Points of the grid that is fitted, along each axis.
    """

    max_pix_error: float = 0.01
    degree: int | None = None
    max_inv_pix_error: float = 0.01
    inv_degree: int | None = None
    npoints: int = 12


@dataclass(frozen=True, eq=False)
class SipApproximation:
    """The keywords of an image, computed when somebody asks for them.

    Attributes
    ----------
    make : callable
        Returns the gwcs of the undispersed image, without a bounding box.
    shape : (int, int)
        Rows and columns of the image.
    crpix : (float, float), optional
        Reference pixel, from 1; by default near the middle.
    options : SipOptions
    """

    make: Callable[[], WCS]
    shape: tuple[int, int]
    crpix: tuple[float, float] | None
    options: SipOptions

    @functools.cached_property
    def keywords(self) -> Mapping[str, float | str]:
        """Values by keyword, in their order; none, and a warning, if no fit is good enough."""
        options, (ny, nx) = self.options, self.shape
        wcs = self.make()
        wcs.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
        try:
            header = wcs.to_fits_sip(
                max_pix_error=options.max_pix_error,
                degree=options.degree or _DEGREES,
                max_inv_pix_error=options.max_inv_pix_error,
                inv_degree=options.inv_degree or _DEGREES,
                npoints=options.npoints,
                crpix=self.crpix,
                projection="TAN",
            )
        except (ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            _LOG.warning("the header has no approximate world coordinates (SIP): %s", why)
            return {}
        return {k: v for k, v in header.items() if _KEPT.fullmatch(k)}
