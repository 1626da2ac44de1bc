"""Lowering rules of transforms that differ from region to region, such as the slices of an IFU.

A ``RegionsSelector`` of gwcs asks a label mapper which region a position belongs to and applies
the transform of that region. Here every position is evaluated once, by the transform of its own
region: on a grid of pixels region by region over the rectangle around it, so that polynomials
share what depends on the row alone; elsewhere in groups. With JAX one compiled transform runs
over the stacked parameters of all regions.
"""

# ruff: noqa: ARG001, ARG005 - every rule and kernel has the same signature, used or not

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from spec2fn.errors import UnsupportedModelError
from spec2fn.typing import Array, Arrays, HostArray
from spec2fn.wcs.lowered import (
    Coordinates,
    Lowered,
    Params,
    Ruled,
    formula,
    lower_model,
    register,
)

if TYPE_CHECKING:
    from astropy.modeling import Model

_SELECTOR = "gwcs.selector."
_JWST = "stdatamodels.jwst.transforms.models."
_NOWHERE = 0.0  # label of a position outside all regions
_PIECE = 1 << 16  # positions evaluated at a time, so that intermediate results stay in the cache
_FEW = 4  # labels up to which positions are picked label by label instead of sorted


def _filtered(model: Model) -> Callable[..., Coordinates]:
    mapping = model.inputs_mapping
    if mapping is None:
        return lambda *c: c
    indices = tuple(mapping.mapping)
    return lambda *c: tuple(c[i] for i in indices)


@register(_SELECTOR + "LabelMapperArray")
def _labels_of_pixels(model: Model) -> Ruled:
    table = np.asarray(model.mapper)
    if table.dtype.kind not in "iu":
        msg = "a LabelMapperArray of text has no lowering rule; label regions by numbers"
        raise UnsupportedModelError(msg)
    table = table.astype(np.float64)
    filtered = _filtered(model)
    ny, nx = table.shape

    def kernel(xp: ModuleType, p: Arrays, *c: Array) -> Coordinates:
        x, y = (xp.floor(a + 0.5) for a in filtered(*c))
        inside_x, inside_y = (x >= 0) & (x < nx), (y >= 0) & (y < ny)
        column = xp.where(inside_x, x, 0.0).astype(int)
        row = xp.where(inside_y, y, 0.0).astype(int)
        label = xp.asarray(table)[row, column]
        return (xp.where(inside_x & inside_y, label, _NOWHERE),)

    return kernel, {}


def _labels_of_keys(model: Model, tests: Sequence[Callable[[ModuleType, Array], Array]]) -> Ruled:
    """Label positions by that of several mappers whose test of the key holds."""
    mappers = [lower_model(m) for m in model.mapper.values()]
    filtered = _filtered(model)

    def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
        (key,) = filtered(*c)
        out = xp.full_like(key, _NOWHERE)
        for test, mapper, p in zip(tests, mappers, params, strict=True):
            holds = test(xp, key)
            if xp is np and not holds.any():
                continue
            (label,) = mapper.kernel(xp, p, *(xp.where(holds, a, 0.0) for a in c))
            out = xp.where(holds, label, out)
        return (out,)

    return kernel, tuple(m.params for m in mappers)


@register(_SELECTOR + "LabelMapperRange")
def _labels_of_ranges(model: Model) -> Ruled:
    def within(low: float, high: float) -> Callable[[ModuleType, Array], Array]:
        return lambda xp, key: (key > low) & (key < high)

    return _labels_of_keys(model, [within(float(low), float(high)) for low, high in model.mapper])


@register(_SELECTOR + "LabelMapperDict")
def _labels_of_values(model: Model) -> Ruled:
    def near(value: float, atol: float) -> Callable[[ModuleType, Array], Array]:
        return lambda xp, key: xp.isclose(value, key, atol=atol)

    return _labels_of_keys(model, [near(float(v), float(model.atol)) for v in model.mapper])


@register(_SELECTOR + "LabelMapper")
def _labels_of_model(model: Model) -> Ruled:
    mapper, filtered = lower_model(model.mapper), _filtered(model)
    return lambda xp, p, *c: mapper.kernel(xp, p, *filtered(*c)), mapper.params


@formula(_JWST + "MIRI_AB2Slice")
def _slice_of_beta(xp: ModuleType, p: Arrays, beta: Array) -> Coordinates:
    # slices of a channel are numbered from 1, and lie side by side in beta
    number = p["channel"] * 100 + (beta - p["beta_zero"]) / p["beta_del"] + 1
    return (xp.floor(number + 0.5),)


@register(_SELECTOR + "RegionsSelector")
def _regions(model: Model) -> Ruled:
    mapper = lower_model(model.label_mapper)
    regions = _Regions(
        tuple(float(label) for label in model.selector),
        tuple(lower_model(m) for m in model.selector.values()),
        model.n_outputs,
        float(model.undefined_transform_value),
    )
    alike = len({_structure(m) for m in model.selector.values()}) == 1

    def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
        (at,) = mapper.kernel(xp, params["labels"], *c)
        if xp is np:
            return regions.evaluated(at, params["regions"], c)
        if alike:
            return regions.scanned(at, params["regions"], c)
        return regions.unrolled(xp, at, params["regions"], c)

    params = tuple(t.params for t in regions.transforms)
    return kernel, {"labels": mapper.params, "regions": params}


_SIMPLE = (
    "Shift",
    "Scale",
    "Const1D",
    "Identity",
    "Mapping",
    "Linear1D",
    "Polynomial1D",
    "Polynomial2D",
)
_SETTINGS = ("mapping", "n_inputs", "degree", "domain", "window", "x_domain", "y_domain")


def _structure(model: Model) -> object:
    """What a model computes apart from the values of its parameters; unique if not known."""
    if hasattr(model, "op") and hasattr(model, "left"):
        if model.op == "fix_inputs":
            return object()
        return model.op, _structure(model.left), _structure(model.right)
    if type(model).__name__ not in _SIMPLE:
        return object()
    return type(model).__name__, *(repr(getattr(model, s, None)) for s in _SETTINGS)


@dataclass(frozen=True, eq=False)
class _Regions:
    """The transforms of regions by label; `at` is the label of each position."""

    labels: tuple[float, ...]
    transforms: tuple[Lowered, ...]
    n_outputs: int
    undefined: float

    def evaluated(self, at: HostArray, params: Params, c: Coordinates) -> Coordinates:
        """Evaluate every position once, with NumPy."""
        labels, transforms = self.labels, self.transforms
        out = tuple(np.full(at.shape, self.undefined) for _ in range(self.n_outputs))
        grid = at.ndim == 2 and len(c) == 2 and c[0].shape[0] == 1 and c[1].shape[1] == 1
        if grid and min(at.shape) > 1:
            for k, box in _boxes(at, labels):
                rows, columns = box
                values = transforms[k].kernel(np, params[k], c[0][:, columns], c[1][rows])
                inside = at[box] == labels[k]
                for plane, value in zip(out, values, strict=True):
                    np.copyto(plane[box], value, where=inside)
            return out
        flat = tuple(np.broadcast_to(a, at.shape).ravel() for a in c)
        planes = tuple(plane.reshape(-1) for plane in out)
        for k, positions in _groups(at.reshape(-1), labels):
            for first in range(0, positions.size, _PIECE):
                piece = positions[first : first + _PIECE]
                values = transforms[k].kernel(np, params[k], *(a[piece] for a in flat))
                for plane, value in zip(planes, values, strict=True):
                    plane[piece] = value
        return out

    def scanned(self, at: Array, params: Params, c: Coordinates) -> Coordinates:
        """Evaluate regions that differ in parameters only, in a loop of JAX."""
        import jax
        import jax.numpy as jnp

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

        def one(out: Coordinates, region: tuple[Array, Params]) -> tuple[Coordinates, None]:
            label, p = region
            inside = at == label
            values = self.transforms[0].kernel(jnp, p, *(jnp.where(inside, a, 0.0) for a in c))
            return tuple(jnp.where(inside, v, o) for v, o in zip(values, out, strict=True)), None

        start = tuple(jnp.full(at.shape, self.undefined) for _ in range(self.n_outputs))
        return jax.lax.scan(one, start, (jnp.asarray(self.labels), stacked))[0]

    def unrolled(self, xp: ModuleType, at: Array, params: Params, c: Coordinates) -> Coordinates:
        """Evaluate regions of any transforms one after the other."""
        out = tuple(xp.full(at.shape, self.undefined) for _ in range(self.n_outputs))
        for label, transform, p in zip(self.labels, self.transforms, params, strict=True):
            inside = at == label
            values = transform.kernel(xp, p, *(xp.where(inside, a, 0.0) for a in c))
            out = tuple(xp.where(inside, v, o) for v, o in zip(values, out, strict=True))
        return out


def _boxes(at: HostArray, labels: Sequence[float]) -> Iterator[tuple[int, tuple[slice, slice]]]:
    """Position of each label that occurs, and the rectangle around its region."""
    from scipy.ndimage import find_objects

    # numbered from 1 in the order of `labels`, so that any labels will do
    order = np.argsort(labels)
    sorted_labels = np.asarray(sorted(labels))
    index = np.searchsorted(sorted_labels, at).clip(0, len(labels) - 1)
    number = np.where(sorted_labels[index] == at, order[index] + 1, 0)
    for k, box in enumerate(find_objects(number)):
        if box is not None:
            yield k, box


def _groups(at: HostArray, labels: Sequence[float]) -> Iterator[tuple[int, HostArray]]:
    """Position of each label that occurs, and where."""
    if len(labels) <= _FEW:
        for k, label in enumerate(labels):
            yield k, np.flatnonzero(at == label)
        return
    order = np.argsort(at, kind="stable")
    values = at[order]
    for k, label in enumerate(labels):
        start, stop = np.searchsorted(values, label), np.searchsorted(values, label, side="right")
        if stop > start:
            yield k, order[start:stop]
