"""Which slits share a bucket of :class:`~spec2fn.slits.Slits`."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

__all__ = ["FREE_PADDING", "MAX_BUCKETS", "group_shapes"]

MAX_BUCKETS = 16
FREE_PADDING = 100_000
"""As many pixels of padding are calibrated in the time that another bucket takes."""

_WASTE = 0.15  # padded area that is accepted to save a bucket


def group_shapes(
    shapes: Sequence[tuple[int, int]], most: int = MAX_BUCKETS, *, kinds: Sequence[Hashable] = ()
) -> list[list[int]]:
    """Group shapes into at most `most` buckets with little padding.

    Shapes are merged greedily, the pair that wastes least first, while the waste is small (15 % of
    the area, or :data:`FREE_PADDING`) or there are too many buckets.

    Parameters
    ----------
    shapes : sequence of (int, int)
        Heights and widths.
    most : int
    kinds : sequence, optional
        Of each: slits of different kinds go different ways, and share no bucket.

    Returns
    -------
    list of list of int
        Indices into `shapes` by bucket.
    """
    if len(set(kinds)) > 1:
        alike = [[i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds)]
        groups = [(some, group_shapes([shapes[i] for i in some], most)) for some in alike]
        return [[some[i] for i in group] for some, found in groups for group in found]
    distinct: dict[tuple[int, int], list[int]] = {}
    for i, (height, width) in enumerate(shapes):
        distinct.setdefault((int(height), int(width)), []).append(i)
    order = sorted(distinct)
    members = [distinct[shape] for shape in order]
    sizes = np.array(order, dtype=np.int64).reshape(-1, 2)
    number = np.array([len(m) for m in members], dtype=np.int64)
    filled = sizes.prod(axis=1) * number  # pixels of the slits themselves
    while len(members) > 1:
        area = np.maximum(sizes[:, None], sizes[None]).prod(axis=2)
        area = area * (number[:, None] + number[None])
        true = np.maximum(filled[:, None] + filled[None], 1)
        waste = (area - true) / true
        if len(members) <= most:
            waste[area - true > np.maximum(_WASTE * true, FREE_PADDING)] = np.inf
        waste[np.triu_indices(len(members))] = np.inf
        first, second = np.unravel_index(np.argmin(waste), waste.shape)
        if np.isinf(waste[first, second]):
            break
        sizes[second] = np.maximum(sizes[first], sizes[second])
        number[second] += number[first]
        filled[second] += filled[first]
        members[second] = members[first] + members[second]
        sizes, number, filled = (np.delete(a, first, axis=0) for a in (sizes, number, filled))
        del members[first]
    return [sorted(m) for m in members]
