"""Many slits of NIRSpec evaluated together.

All slits share the optics (:mod:`spec2fn.wcs.assign.nirspec_optics`); what differs is the place of
a slit in the plane of the MSA and its extent. So the shared transforms are lowered once, and
positions of any number of slits go through them in one call: an array of slit numbers broadcasts
against the coordinates. The results are those of the slits' own gwcs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from spec2fn.errors import ReferenceError
from spec2fn.wcs.assign.nirspec_optics import Optics
from spec2fn.wcs.assign.nirspec_series import Series, fit_series
from spec2fn.wcs.lower import lower
from spec2fn.wcs.lowered import Lowered, chain
from spec2fn.wcs.open_slits import Slit

__all__ = ["TABLE_SIZE", "Arrays", "SlitBatch", "affine", "metrology"]

TABLE_SIZE = 1000
"""Steps along a slit of the table from angle to position."""

_CIRCLE = 360.0

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class _Shared:
    """The shared transforms, lowered when they are first used."""

    optics: Optics

    @cached_property
    def gwa(self) -> Lowered:
        return lower(self.optics.to_sca | self.optics.sca_to_gwa)

    @cached_property
    def detector(self) -> Lowered:
        return lower(self.optics.sca_to_gwa.inverse | self.optics.to_sca.inverse)

    @cached_property
    def entrance(self) -> Lowered:
        return lower(self.optics.collimator_to_gwa)

    @cached_property
    def wavelength(self) -> Lowered:
        return lower(self.optics.wavelength)

    @cached_property
    def angles(self) -> Lowered:
        return lower(self.optics.angles)

    @cached_property
    def from_sky(self) -> Lowered:
        first, *rest = (lower(model.inverse) for _, model in reversed(self.optics.to_sky))
        for step in rest:
            first = chain(first, step)
        return first

    @cached_property
    def from_msa(self) -> dict[int, Lowered]:
        return {q: lower(model.inverse) for q, (model, _) in self.optics.quadrants.items()}

    @cached_property
    def sky(self) -> Lowered:
        first, *rest = (lower(model) for _, model in self.optics.to_sky)
        for step in rest:
            first = chain(first, step)
        return first


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
    _shared: list[_Shared] = field(default_factory=list)

    # differences that are accepted where polynomials stand for the optics
    sky_error: ClassVar[float] = 1e-11  # degrees
    sky_sizes: ClassVar[tuple[int, int]] = (5, 3)

    @property
    def cosine_error(self) -> float:
        """The same of direction cosines before the grating wheel."""
        return 1e-14

    @property
    def shared(self) -> _Shared:
        """Lowered transforms of the optics."""
        if not self._shared:
            self._shared.append(_Shared(self.optics))
        return self._shared[0]

    def subset(self, numbers: Any) -> SlitBatch:
        """Return some of the slits, in the order of `numbers`."""
        return SlitBatch(self.optics, tuple(self.slits[i] for i in numbers), [self.shared])

    @cached_property
    def edges(self) -> np.ndarray:
        """Lower and upper edges along the slits, shape (slit, 2)."""
        return np.array([(s.ymin, s.ymax) for s in self.slits], dtype=np.float64).reshape(-1, 2)

    @cached_property
    def location(self) -> tuple[np.ndarray, np.ndarray]:
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
    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """Cosine across the dispersion before the grating wheel and position along the slit.

        Both have the shape (slit, TABLE_SIZE).
        """
        low, high = self.edges[:, 0], self.edges[:, 1]
        y = np.linspace(low, high, TABLE_SIZE, axis=1)
        slit = np.arange(len(self.slits))[:, None]
        return self.entrance(slit, np.zeros_like(y), y)[1], y

    def msa(self, slit: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Position [m] in the plane of the MSA of (x, y) in a slit (-0.5 to 0.5)."""
        centre, axes = (values[slit] for values in self.location)
        return (
            centre[..., 0] + axes[..., 0, 0] * x + axes[..., 0, 1] * y,
            centre[..., 1] + axes[..., 1, 0] * x + axes[..., 1, 1] * y,
        )

    def entrance(self, slit: Any, x: Any, y: Any, wavelength: Any = None) -> Arrays:  # noqa: ARG002
        """Angles before the grating wheel of light from (x, y) in a slit.

        There is no glass in between, so that the wavelength does not matter.
        """
        angles: Arrays = self.shared.entrance(*self.msa(slit, x, y))
        return angles

    def slit_frame(self, slit: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Position along the slit and wavelength [m] of a pixel.

        Light is taken to come from the middle of the slit's width.

        Returns
        -------
        y_slit, wavelength : array
            NaN outside the slit.
        """
        out, across, _ = self.shared.gwa(x, y)
        along = self._along(slit, -across)
        low, high = self.edges[..., 0][slit], self.edges[..., 1][slit]
        along = np.where((along < low) | (along > high), np.nan, along)
        series = self._before
        before = self.entrance(slit, 0.0, along) if series is None else series(slit, along)
        return along, self.shared.wavelength(before[0], before[1], out)

    def _along(self, slit: Any, cosine: np.ndarray) -> np.ndarray:
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

    def world(self, slit: Any, x: Any, y: Any) -> Arrays:
        """Right ascension, declination [deg] and wavelength [um] of a pixel."""
        along, wavelength = self.slit_frame(slit, x, y)
        return (*self.celestial(slit, along, wavelength), wavelength * 1e6)

    def celestial(self, slit: Any, along: Any, wavelength: Any) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination [deg] of a position along a slit.

        Parameters
        ----------
        slit : int array
        along, wavelength : array
            From :meth:`slit_frame`; wavelengths in m.
        """
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
    def _sky(self) -> tuple[np.ndarray, Series] | None:
        # right ascension from that of the slit's centre, so as not to jump at 360 degrees
        number = np.arange(len(self.slits))
        shortest, longest = self.optics.waverange
        origin = self.sky(number, 0.0, self.edges.mean(axis=1), 0.5 * (shortest + longest))[0]

        def around(slit: Any, y: Any, wavelength: Any) -> Arrays:
            ra, dec, _ = self.sky(slit, 0.0, y, wavelength)
            offset = ra - origin[slit]
            return offset - _CIRCLE * np.round(offset / _CIRCLE), dec

        low = np.stack([self.edges[:, 0], np.full(number.shape, 0.8 * shortest)], axis=1)
        high = np.stack([self.edges[:, 1], np.full(number.shape, 1.2 * longest)], axis=1)
        series = fit_series(around, low, high, self.sky_sizes, self.sky_error)
        return None if series is None else (origin, series)

    def sky(self, slit: Any, x: Any, y: Any, wavelength: Any) -> Arrays:
        """Right ascension, declination [deg] and wavelength [um] of a position in a slit.

        Parameters
        ----------
        slit : int array
        x, y : array
            Across and along the slit.
        wavelength : array
            In m.
        """
        world: Arrays = self.shared.sky(*self.msa(slit, x, y), wavelength)
        return world

    def locator(self, slit: int) -> Callable[..., Arrays]:
        """Return the inverse of :meth:`sky` for a slit; wavelengths in um."""
        quadrant = self.slits[slit].quadrant
        x0, y0, width, height = metrology(self.optics, self.slits[slit])

        def locate(ra: Any, dec: Any, wavelength: Any) -> Arrays:
            x, y, metres = self.shared.from_sky(ra, dec, wavelength)
            x, y = self.shared.from_msa[quadrant](x, y)
            return (x - x0) * (1 / width), (y - y0) * (1 / height), metres

        return locate

    def detector(self, slit: Any, x: Any, y: Any, wavelength: Any) -> tuple[np.ndarray, np.ndarray]:
        """Pixel (x, y) of light of a wavelength [m] from a position in a slit."""
        with np.errstate(invalid="ignore"):
            angles = self.shared.angles(wavelength, *self.entrance(slit, x, y, wavelength))
            pixel: tuple[np.ndarray, np.ndarray] = self.shared.detector(*angles)
        return pixel


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


def affine(model: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
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
