"""Many slits of NIRSpec evaluated together.

All slits share the optics (:mod:`spec2fn.wcs.assign.nirspec_optics`); what differs is the place of
a slit in the plane of the MSA and its extent. So the shared transforms are lowered once, and
positions of any number of slits go through them in one call: an array of slit numbers broadcasts
against the coordinates. The results are those of the slits' own gwcs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.typing import HostArray
from spec2fn.wcs.assign.nirspec_optics import Optics
from spec2fn.wcs.assign.nirspec_series import Series, fit_series
from spec2fn.wcs.lower import lower
from spec2fn.wcs.open_slits import Slit

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = ["TABLE_SIZE", "SlitBatch", "SlitNumber", "affine", "metrology"]

SlitNumber: TypeAlias = int | HostArray
"""Positions in :attr:`SlitBatch.slits`."""

_Floats = float | HostArray
_Pair = tuple[HostArray, HostArray]
_Triple = tuple[HostArray, HostArray, HostArray]

TABLE_SIZE = 1000
"""Steps along a slit of the table from angle to position."""

_CIRCLE = 360.0


@dataclass(frozen=True, eq=False)
class SlitBatch:
    """The transforms of a set of slits.

    In every method `slit` is an integer array of positions in :attr:`slits`, which broadcasts
    against the coordinates; coordinates are float64, pixels zero-indexed in the exposure.

    Attributes
    ----------
    optics : Optics
    slits : tuple of Slit
    """

    optics: Optics
    slits: tuple[Slit, ...]

    # differences that are accepted where polynomials stand for the optics
    sky_error: ClassVar[float] = 1e-11  # degrees
    sky_sizes: ClassVar[tuple[int, int]] = (5, 3)

    @property
    def cosine_error(self) -> float:
        """The same of direction cosines before the grating wheel."""
        return 1e-14

    def subset(self, numbers: Iterable[int]) -> SlitBatch:
        """Return some of the slits, in the order of `numbers`."""
        return SlitBatch(self.optics, tuple(self.slits[i] for i in numbers))

    @cached_property
    def edges(self) -> HostArray:
        """Lower and upper edges along the slits, shape (slit, 2)."""
        return np.array([(s.ymin, s.ymax) for s in self.slits], dtype=np.float64).reshape(-1, 2)

    @cached_property
    def location(self) -> _Pair:
        """Centres (slit, 2) [m] and axes (slit, 2, 2) [m] of the slits in the plane of the MSA."""
        centre, axes = np.empty((len(self.slits), 2)), np.empty((len(self.slits), 2, 2))
        frames = {
            q: affine(self.optics.quadrants[q][0], f"quadrant {q} of reference 'msa'")
            for q in {s.quadrant for s in self.slits}
        }
        for i, slit in enumerate(self.slits):
            origin, matrix = frames[slit.quadrant]
            x, y, width, height = metrology(self.optics, slit)
            centre[i] = origin + matrix @ (x, y)
            axes[i] = matrix * (width, height)
        return centre, axes

    @cached_property
    def tables(self) -> _Pair:
        """Cosine before the grating wheel and position along the slit, (slit, TABLE_SIZE) each.

        The cosine is that across the dispersion.
        """
        low, high = self.edges[:, 0], self.edges[:, 1]
        y = np.linspace(low, high, TABLE_SIZE, axis=1)
        slit = np.arange(len(self.slits))[:, None]
        return self.entrance(slit, np.zeros_like(y), y)[1], y

    def msa(self, slit: SlitNumber, x: _Floats, y: _Floats) -> _Pair:
        """Position [m] in the plane of the MSA of (x, y) in a slit (-0.5 to 0.5)."""
        centre, axes = (values[slit] for values in self.location)
        return (
            centre[..., 0] + axes[..., 0, 0] * x + axes[..., 0, 1] * y,
            centre[..., 1] + axes[..., 1, 0] * x + axes[..., 1, 1] * y,
        )

    def entrance(
        self,
        slit: SlitNumber,
        x: _Floats,
        y: _Floats,
        wavelength: _Floats | None = None,  # noqa: ARG002 - for the slices of the IFU
    ) -> _Triple:
        """Angles before the grating wheel of light from (x, y) in a slit.

        There is no glass in between, so that the wavelength does not matter.
        """
        return self.optics.lowered.entrance(*self.msa(slit, x, y))

    def slit_frame(self, slit: SlitNumber, x: _Floats, y: _Floats) -> _Pair:
        """Position along the slit and wavelength [m] of a pixel; NaN outside the slit.

        Light is taken to come from the middle of the slit's width.
        """
        out, across, _ = self.optics.lowered.gwa(x, y)
        along = self._along(slit, -across)
        low, high = self.edges[..., 0][slit], self.edges[..., 1][slit]
        along = np.where((along < low) | (along > high), np.nan, along)
        series = self._before
        before = self.entrance(slit, 0.0, along) if series is None else series(slit, along)
        return along, self.optics.lowered.wavelength(before[0], before[1], out)

    def _along(self, slit: SlitNumber, cosine: HostArray) -> HostArray:
        # linear interpolation in the slit's own table. The cosine is all but linear in the
        # position, so that the interval is guessed and put right rather than searched for
        cosines, positions = self.tables
        first, last = cosines[:, 0][slit], cosines[:, -1][slit]
        guess = (cosine - first) * ((TABLE_SIZE - 1) / (last - first))
        outside = ~((guess >= 0) & (guess <= TABLE_SIZE - 1))
        guess[outside] = 0
        row = np.asarray(slit) * TABLE_SIZE
        entry = np.minimum(guess.astype(np.intp), TABLE_SIZE - 2) + row
        cosines, positions = cosines.ravel(), positions.ravel()
        for _ in range(TABLE_SIZE):
            left = cosines[entry]
            t = (cosine - left) / (cosines[entry + 1] - left)
            up = (t > 1) & ~outside & (entry < row + TABLE_SIZE - 2)
            down = (t < 0) & ~outside & (entry > row)
            if not (up.any() or down.any()):
                break
            entry += up
            entry -= down
        value = positions[entry] * (1.0 - t) + positions[entry + 1] * t
        value[outside] = np.nan
        return value

    def world(self, slit: SlitNumber, x: _Floats, y: _Floats) -> _Triple:
        """Right ascension, declination [deg] and wavelength [um] of a pixel.

        Of a lamp, the position in the plane of the MSA [m] and the wavelength.
        """
        along, wavelength = self.slit_frame(slit, x, y)
        if not self.optics.on_sky:
            return (*self.msa(slit, 0.0, along), wavelength * 1e6)
        return (*self.celestial(slit, along, wavelength), wavelength * 1e6)

    def celestial(self, slit: SlitNumber, along: HostArray, wavelength: HostArray) -> _Pair:
        """Right ascension and declination [deg] of what :meth:`slit_frame` gives."""
        series = self._sky
        if series is None:
            ra, dec, _ = self.sky(slit, 0.0, along, wavelength)
            return ra, dec
        origin, polynomials = series
        ra, dec = polynomials(slit, along, wavelength)
        ra += origin[slit]
        # cheaper than a remainder: the centre lies inside the circle, the slit is small
        ra[ra >= _CIRCLE] -= _CIRCLE
        ra[ra < 0] += _CIRCLE
        return ra, dec

    @cached_property
    def _before(self) -> Series | None:
        # cosines before the grating wheel
        nothing = np.zeros(len(self.slits))
        low = np.stack([self.edges[:, 0], nothing - 1], axis=1)
        high = np.stack([self.edges[:, 1], nothing + 1], axis=1)
        return fit_series(
            lambda slit, y, _: self.entrance(slit, 0.0, y)[:2], low, high, (6, 1), self.cosine_error
        )

    @cached_property
    def _sky(self) -> tuple[HostArray, Series] | None:
        # right ascension from that of the slit's centre, so as not to jump at 360 degrees
        number = np.arange(len(self.slits))
        shortest, longest = self.optics.waverange
        origin = self.sky(number, 0.0, self.edges.mean(axis=1), 0.5 * (shortest + longest))[0]

        def around(slit: HostArray, y: HostArray, wavelength: HostArray) -> _Pair:
            ra, dec, _ = self.sky(slit, 0.0, y, wavelength)
            offset = ra - origin[slit]
            return offset - _CIRCLE * np.round(offset / _CIRCLE), dec

        low = np.stack([self.edges[:, 0], np.full(number.shape, 0.8 * shortest)], axis=1)
        high = np.stack([self.edges[:, 1], np.full(number.shape, 1.2 * longest)], axis=1)
        series = fit_series(around, low, high, self.sky_sizes, self.sky_error)
        return None if series is None else (origin, series)

    def sky(self, slit: SlitNumber, x: _Floats, y: _Floats, wavelength: _Floats) -> _Triple:
        """Right ascension, declination [deg] and wavelength [um] of a position in a slit.

        `x` and `y` run across and along the slit; `wavelength` is in m.
        """
        return self.optics.lowered.sky(*self.msa(slit, x, y), wavelength)

    def locator(self, slit: int) -> Callable[..., _Triple]:
        """Return the inverse of :meth:`sky` for a slit; wavelengths in um."""
        quadrant = self.slits[slit].quadrant
        x0, y0, width, height = metrology(self.optics, self.slits[slit])

        def locate(ra: HostArray, dec: HostArray, wavelength: HostArray) -> _Triple:
            x, y, metres = self.optics.lowered.from_sky(ra, dec, wavelength)
            x, y = self.optics.lowered.from_msa[quadrant](x, y)
            return (x - x0) * (1 / width), (y - y0) * (1 / height), metres

        return locate

    def detector(self, slit: SlitNumber, x: _Floats, y: _Floats, wavelength: _Floats) -> _Pair:
        """Pixel (x, y) of light of a wavelength [m] from a position in a slit."""
        with np.errstate(invalid="ignore"):
            angles = self.optics.lowered.angles(wavelength, *self.entrance(slit, x, y, wavelength))
            return self.optics.lowered.detector(*angles)


def metrology(optics: Optics, slit: Slit) -> tuple[float, float, float, float]:
    """Centre (x, y) and size (x, y) [m] of a slit inside its quadrant.

    Raises
    ------
    ReferenceError
        If the MSA reference has no such slit.
    """
    _, data = optics.quadrants[slit.quadrant]
    # shutters are numbered from 1, fixed slits from 0
    row = slit.shutter_id - (not slit.fixed)
    if not 0 <= row < len(data):
        msg = (
            f"assign_wcs: reference 'msa' lists {len(data)} slits in quadrant {slit.quadrant},"
            f" slit {slit.name} would be number {slit.shutter_id}; check the reference and MSAMETFL"
        )
        raise ReferenceError(msg)
    entry = data[row]
    x, y, width, height = (float(entry[name]) for name in ("XC", "YC", "SIZEX", "SIZEY"))
    return x, y, width, height


def affine(model: Model, what: str) -> _Pair:
    """Return origin and matrix of a linear model of two coordinates.

    Raises
    ------
    ReferenceError
        Naming `what` if the model is not linear.
    """
    to_msa = lower(model)
    corners = np.array([to_msa(x, y) for x, y in ((0, 0), (1, 0), (0, 1), (0.3, -0.7))])
    origin, matrix = corners[0], (corners[1:3] - corners[0]).T
    if not np.allclose(corners[3], origin + matrix @ (0.3, -0.7), rtol=0, atol=1e-12):
        raise ReferenceError(f"assign_wcs: {what} is distorted; needs a linear one")
    return origin, matrix
