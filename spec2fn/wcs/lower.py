"""Turn an astropy model or a gwcs into a pure function of arrays.

gwcs objects stay the authority on geometry: they are built, stored and read. To evaluate them,
:func:`lower` walks the tree of astropy models and composes one function that runs on NumPy and
on JAX, differentiable in coordinates and in every parameter of the WCS.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

import spec2fn.wcs.rules_astropy
import spec2fn.wcs.rules_jwst
import spec2fn.wcs.rules_regions  # noqa: F401 - importing registers the rules
from spec2fn.errors import InputError
from spec2fn.typing import Array, HostArray
from spec2fn.wcs.lowered import (
    Coordinates,
    Lowered,
    Params,
    Values,
    identity,
    lower_model,
    register,
)

if TYPE_CHECKING:
    from astropy.modeling import Model
    from gwcs import WCS

__all__ = ["Box", "Lowered", "box_of", "evaluate_host", "evaluate_on_box", "lower", "register"]

Box = tuple[tuple[float, float], tuple[float, float]]


def lower(
    model: Model | WCS, from_frame: str | None = None, to_frame: str | None = None
) -> Lowered:
    """Lower an astropy model, or the transform between two frames of a gwcs.

    Parameters
    ----------
    model : astropy.modeling.Model or gwcs.WCS
        The inverse of a model is lowered as ``lower(model.inverse)``.
    from_frame, to_frame : str, optional
        Names of frames of a gwcs, by default its first and its last. Against the direction of
        the pipeline the inverses of its transforms are used.

    Returns
    -------
    Lowered
        For a gwcs, ``params`` is a dict of the parameters of each transform by the name of the
        frame it starts from. Bounding boxes play no part: see :func:`evaluate_on_box`.

    Raises
    ------
    UnsupportedModelError
        Naming the model that has no rule, and how to register one.
    InputError
        For a frame the gwcs does not have.
    """
    if not hasattr(model, "pipeline"):
        return lower_model(model)
    pipeline = model.pipeline
    names = [str(getattr(step.frame, "name", step.frame)) for step in pipeline]
    ends = [from_frame or names[0], to_frame or names[-1]]
    for name in ends:
        if name not in names:
            msg = f"this WCS has no frame {name!r}; its frames are {', '.join(names)}"
            raise InputError(msg)
    start, stop = (names.index(name) for name in ends)
    if start <= stop:
        steps = [(names[i], pipeline[i].transform) for i in range(start, stop)]
    else:
        steps = [(names[i], pipeline[i].transform.inverse) for i in range(start - 1, stop - 1, -1)]
    lowered = [(name, lower_model(transform)) for name, transform in steps]
    if not lowered:
        return identity(model.input_frame.naxes if start == 0 else model.output_frame.naxes)

    def kernel(xp: ModuleType, params: Params, *c: Array) -> Coordinates:
        for name, transform in lowered:
            c = transform.kernel(xp, params[name], *c)
        return c

    params = {name: transform.params for name, transform in lowered}
    return Lowered(kernel, params, lowered[0][1].n_inputs, lowered[-1][1].n_outputs)


def evaluate_host(model: Model, *coordinates: HostArray) -> Values:
    """Evaluate a model through astropy, without its bounding box.

    For models that have no lowering rule; NumPy only, neither traced nor differentiable.
    """
    return model(*(np.asarray(c, dtype=np.float64) for c in coordinates), with_bounding_box=False)


def box_of(wcs: WCS) -> Box | None:
    """Return the bounding box ((x_min, x_max), (y_min, y_max)) of a gwcs with two inputs."""
    box = wcs.bounding_box
    if box is None:
        return None
    if hasattr(box, "bounding_box"):
        box = box.bounding_box(order="F")
    (x_min, x_max), (y_min, y_max) = box
    return (float(x_min), float(x_max)), (float(y_min), float(y_max))


def evaluate_on_box(
    transform: Lowered, shape: tuple[int, int], box: Box | None = None
) -> tuple[HostArray, ...]:
    """Evaluate a transform of (x, y) at every pixel of an image inside a bounding box.

    Parameters
    ----------
    transform : Lowered
        With two inputs, x and y, zero-indexed pixels.
    shape : (int, int)
        Shape (ny, nx) of the image.
    box : ((x_min, x_max), (y_min, y_max)), optional
        A pixel belongs to the box if its centre does; the edges are included.

    Returns
    -------
    tuple of arrays, shape (ny, nx), float64
        NaN outside the box.
    """
    ny, nx = shape
    x_edges, y_edges = box if box is not None else ((0, nx - 1), (0, ny - 1))
    x = np.arange(max(0, int(np.ceil(x_edges[0]))), min(nx - 1, int(np.floor(x_edges[1]))) + 1)
    y = np.arange(max(0, int(np.ceil(y_edges[0]))), min(ny - 1, int(np.floor(y_edges[1]))) + 1)
    planes = tuple(np.full(shape, np.nan) for _ in range(transform.n_outputs))
    if x.size and y.size:
        # one row of x and one column of y: what depends on one coordinate is computed once
        values = transform(x[None, :], y[:, None])
        values = values if transform.n_outputs > 1 else (values,)
        for plane, value in zip(planes, values, strict=True):
            plane[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = value
    return planes
