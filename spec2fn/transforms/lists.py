"""Lists of what slits have different numbers of, cut into those of each slit.

The plan of a bucket may list the pixels (or overlaps of pixels) of all slits one behind the other,
so that padding costs nothing; its fields have an axis ``(slit pixel)`` then. An arrow in what a
field declares says what its values refer to, which is all that a map has to know::

    class PixelList(Plan):
        position: Array = array("(slit pixel) -> entry")
        entry: Array = array("slit y x -> (slit pixel)")
        by_slit: tuple[int, ...] = labels("slit -> (slit pixel)")

    class Overlap(Plan):
        rows: Array = array("(slit entry) -> shape_out")
        area: Array = array("(slit entry)", padding=0.0)
        shape_out: tuple[int, int]
        by_slit: tuple[int, ...] = labels("slit -> (slit entry)")

    class Both(Plan):
        point: tuple[int, ...] = positions("slit -> uniform")
        uniform: Other | None

* Labels that refer to a list say how many elements of it each slit has (a tuple if the list goes
  through the slits several times: how many each time). They hold for the lists of this name in
  the plan, in the plan that has it as a member, and in all members of that one.
* Numbers that refer to a field, or a shape, are flat positions in it, with the slits in front: the
  shape is that of one slit, a field has the slits as its first axis.
* Numbers that refer to a list are positions in it; ``n + i``, beyond its end, stays beyond it.
* Positions that refer to a member say which slits it is for. It is None for the others.

In a map each slit has its part of a list, as in a plan that was made for this slit alone, but
padded to one more than the longest part. The last element is repeated there. That has no effect if
the list is only looked up (no position is one of the padding), or if a field that is a factor of
all others says by its `padding` what has none: a weight of 0. Padding of positions in another list
refers to the padding there. Slits without any elements, of which none could be repeated, are mapped
apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spec2fn.kernels.namespace import array_namespace
from spec2fn.plan_base import Dims
from spec2fn.typing import Array, HostArray

__all__ = ["Parts", "local_positions", "referring"]


@dataclass(frozen=True, eq=False)
class Parts:
    """What some of the elements of a dim have of a list.

    Attributes
    ----------
    count : array of int, (n,)
        How many each of them has.
    rank : array of int32, (all,)
        Place of everything in the list among what its own element has.
    taken : array of int32, (n, length)
        Places in the list of what each has, the last one repeated.
    """

    count: HostArray
    rank: HostArray
    taken: HostArray

    @classmethod
    def of(cls, counts: HostArray, index: HostArray) -> Parts:
        """Return the parts of the elements `index`, from counts with shape (element, round)."""
        n, rounds = counts.shape
        owner = np.repeat(np.tile(np.arange(n), rounds), counts.T.reshape(-1))
        order = np.argsort(owner, kind="stable")
        total = counts.sum(axis=1)
        start = np.cumsum(total) - total
        rank = np.empty(len(owner), dtype=np.int32)
        rank[order] = np.arange(len(owner)) - start[owner[order]]
        count = total[index]
        length = count.max() + 1 if count.any() else 0
        place = np.minimum(np.arange(length), count[:, None] - 1)
        taken = order[start[index, None] + place]
        return cls(count, rank, taken.astype(np.int32))

    @property
    def length(self) -> int:
        """Of the list of each, with its padding."""
        return int(self.taken.shape[1])

    def cut(self, data: Array, axis: int) -> Array:
        """Return an array along the list with axes (n, length) instead of `axis`."""
        before, after = data.shape[:axis], data.shape[axis + 1 :]
        flat = array_namespace(data).take(data, self.taken.reshape(-1), axis=axis)
        cut: Array = flat.reshape(*before, *self.taken.shape, *after)
        return cut

    def padded(self, cut: Array, axis: int, value: object) -> Array:
        """Return what :meth:`cut` gives with another value in the padding."""
        padding = np.arange(self.length) >= self.count[:, None]
        padding = padding.reshape(*padding.shape, *(1,) * (cut.ndim - axis - 2))
        xp = array_namespace(cut)
        padded: Array = xp.where(padding, xp.asarray(value, dtype=cut.dtype), cut)
        return padded

    def local(self, position: Array) -> Array:
        """Return positions in the list as those in what their element has of it."""
        xp, size = array_namespace(position), len(self.rank)
        rank = xp.asarray(np.append(self.rank, 0).astype(position.dtype))
        inside = rank[xp.minimum(position, size)]
        local: Array = xp.where(position < size, inside, position - size + self.length)
        return local


def referring(dims: Dims) -> tuple[str, str]:
    """Return along what the values of a field run, and what they refer to (or an empty string)."""
    along, _, into = dims.names.partition(" -> ")
    return along, into


def local_positions(position: Array, n: int, share: int) -> Array:
    """Return flat positions in what `n` elements have a share of as those in the share of each.

    Several rounds through all elements, one behind the other, become rounds through one.
    """
    local: Array = position // (n * share) * share + position % share
    return local
