"""Strategies of hypothesis for the sparse operators that resample spectra and build cubes.

Their geometry is drawn: where pixels fall, how large they are, which planes they reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from spec2fn.host.cube_overlap import assemble, roi_entries
from spec2fn.host.drizzle import drizzle_overlap
from spec2fn.host.quadrilaterals import Entries, quad_entries
from spec2fn.testing.strategies import integers, numbers
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn

    from spec2fn.kernels.cubes import CubeOperator
    from spec2fn.kernels.resampling import Overlap

__all__ = ["cube_operators", "overlaps"]

_SIXTEENTH = 1 / 16


@st.composite
def overlaps(
    draw: DrawFn,
    shape_in: tuple[int, int] = (4, 3),
    shape_out: tuple[int, int] = (5, 4),
    kernels: tuple[str, ...] = ("square", "point"),
) -> Overlap:
    """Operators of drizzle: a grid that is turned, stretched and moved, off the output as well."""
    y, x = np.indices(shape_in, dtype=np.float64)
    # neither axis of the input vanishes: it is not turned by more than it is stretched
    along = draw(numbers((2,), 0.75, 1.5, step=_SIXTEENTH))
    turned = draw(numbers((2,), -0.5, 0.5, step=_SIXTEENTH))
    moved = draw(numbers((2,), -1.5, 2.0, step=_SIXTEENTH))
    place = np.stack(
        [along[0] * x + turned[0] * y + moved[0], turned[1] * x + along[1] * y + moved[1]]
    )
    fraction = draw(st.sampled_from([1.0, 0.75, 0.5]))
    return drizzle_overlap(place, shape_out, draw(st.sampled_from(kernels)), fraction)


@st.composite
def cube_operators(
    draw: DrawFn,
    shape: tuple[int, int, int] = (4, 3, 4),
    pixels: int = 6,
    kinds: tuple[str, ...] = ("overlap", "distance"),
    *,
    inside: bool = False,
) -> CubeOperator:
    """Operators of cubes, by overlap or by distance; `inside` keeps outlines on the spaxels."""
    deep, ny, nx = shape
    first = np.sort(draw(integers((pixels,), 0, deep if not inside else deep - 3)))
    # one plane, or two or three
    spectral = draw(numbers((3, pixels), _SIXTEENTH, 1.0, step=_SIXTEENTH))
    reach = draw(integers((pixels,), 1, 3))
    spectral[np.arange(3)[:, None] >= reach] = -1.0
    margin = 0.0 if inside else 1.5
    size = 1.25
    x = draw(numbers((pixels,), -margin, nx - 1 - size + margin, step=_SIXTEENTH))
    y = draw(numbers((pixels,), -margin, ny - 1 - size + margin, step=_SIXTEENTH))
    flat = np.arange(pixels)
    if draw(st.sampled_from(kinds)) == "overlap":
        lean = draw(numbers((pixels,), -0.25 * margin, 0.25 * margin, step=_SIXTEENTH))
        xs = x + np.array([0.0, 0.0, size, size])[:, None] + lean * [[0.0], [1.0], [1.0], [0.0]]
        ys = y + np.array([0.0, size, size, 0.0])[:, None]

        def outlines(which: HostArray) -> Entries:
            return quad_entries(xs[:, which], ys[:, which], (ny, nx))

        return assemble(first, spectral.astype(np.float32), flat, outlines, shape=shape)

    radius = np.full(pixels, 1.25)

    def circles(which: HostArray) -> Entries:
        return roi_entries(x[which], y[which], radius[which], (ny, nx), lambda away, _: away)

    return assemble(
        first,
        spectral.astype(np.float32),
        flat,
        circles,
        shape=shape,
        power=np.full(pixels, draw(st.sampled_from([1.0, 2.0]))),
        softening=np.full(pixels, 0.25),
    )
