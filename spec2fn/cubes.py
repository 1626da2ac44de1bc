"""Several cubes of one exposure, such as one for each channel of a MIRI MRS detector.

A single cube is a plain Dataset with dims ``([integration,] wave, y, x)``; see
``docs/dataset.md``. Only where a run makes several, they travel together in :class:`Cubes`; a step
that works on a Dataset is applied to each, so that spectra extracted from them are
:class:`Cubes` as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec2fn.errors import DatasetError, InputError, nearest
from spec2fn.pieces import Pieces

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Cubes"]


@dataclass(frozen=True, eq=False)
class Cubes(Pieces):
    """An immutable collection of cubes (or of what was made of them), by name.

    Attributes
    ----------
    names : tuple of str
        Such as ``ch1-short`` or ``g395h-f290lp``: part of the name of the file.
    cubes : tuple of xarray.Dataset
        In the order of the names.
    """

    names: tuple[str, ...]
    cubes: tuple[xr.Dataset, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.cubes) or len(set(self.names)) != len(self.names):
            msg = f"{len(self.cubes)} cubes need as many different names, got {self.names}"
            raise DatasetError(msg)

    def __len__(self) -> int:
        return len(self.cubes)

    def __iter__(self) -> Iterator[xr.Dataset]:
        return iter(self.cubes)

    def items(self) -> Iterator[tuple[str, xr.Dataset]]:
        """Iterate over names and cubes."""
        return zip(self.names, self.cubes, strict=True)

    def __getitem__(self, name: str) -> xr.Dataset:
        """Return a cube by name.

        Raises
        ------
        InputError
            If there is no such cube.
        """
        if name not in self.names:
            msg = f"no cube {name!r}{nearest(name, self.names)}; there are {', '.join(self.names)}"
            raise InputError(msg)
        return self.cubes[self.names.index(name)]

    @property
    def pieces(self) -> tuple[xr.Dataset, ...]:
        """The cubes."""
        return self.cubes

    def with_pieces(self, pieces: tuple[xr.Dataset, ...]) -> Cubes:
        """Return others by the same names."""
        return Cubes(self.names, pieces)
