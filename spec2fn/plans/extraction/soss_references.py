"""What the references of NIRISS SOSS say of an order: trace, wavelengths, profile, throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.host.atoca_kernel import SpectralKernel
from spec2fn.kernels.soss_trace import OrderTrace, turned_trace
from spec2fn.schema import described, meta_of, need
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["TraceModel", "order_profiles", "spectral_kernel", "trace_model"]

_WHO = "extract_1d"
_LAST_ROW = 255.0  # of the detector's subarray for this mode
_FIRST_ROW = {96: 10}  # of smaller ones in it, by their rows


@dataclass(frozen=True, eq=False)
class TraceModel:
    """The reference PASTASOSS, for a subarray and an angle of the pupil wheel.

    Attributes
    ----------
    orders : tuple of OrderTrace
        Those asked for.
    position : float
        Angle of the pupil wheel [deg].
    grid : array
        Ascending wavelengths [um] on which traces are tabulated.
    throughputs : tuple of array, shape (2, n)
        Wavelengths [um] and throughput, by order.
    separation : (float, float)
        Wavelengths [um] below which order 2 is not fitted together with order 1, and below which
        it is fitted alone.
    bounds : (float, float)
        Angles [deg] for which the traces are known.
    shift : float
        By which all traces are moved across the dispersion [pixel].
    """

    orders: tuple[OrderTrace, ...]
    position: float
    grid: HostArray
    throughputs: tuple[HostArray, ...]
    separation: tuple[float, float]
    bounds: tuple[float, float]
    shift: float = 0.0

    def at(self, position: float, shift: float = 0.0) -> TraceModel:
        """Return the model at another angle of the wheel, and moved."""
        orders = tuple(_kept(trace, position) for trace in self.orders)
        return replace(self, orders=orders, position=position, shift=shift)


def trace_model(ds: xr.Dataset, pastasoss: xr.Dataset, orders: Sequence[int]) -> TraceModel:
    """Read the traces of an exposure.

    Parameters
    ----------
    ds : xarray.Dataset
        Its keyword PWCPOS is the angle of the pupil wheel.
    pastasoss : xarray.Dataset
        PASTASOSS (ASDF).
    orders : sequence of int
        Those that the reference lacks are left out.

    Raises
    ------
    InputError
        If PWCPOS is missing or beyond the angles for which the model was made.
    ReferenceError
        If an entry is missing, or there is none of the orders.
    """
    tree: Mapping[str, Any] = pastasoss.attrs.get("tree", {})
    meta = _entry(pastasoss, tree, "meta")
    low, high = (float(v) for v in _entry(pastasoss, meta, "pwcpos_bounds"))
    position = _position(ds, pastasoss, (low, high))
    models = {name: _by_order(pastasoss, tree, name) for name in _LISTS}
    found = [o for o in orders if all(o in of_order for of_order in models.values())]
    if not found:
        asked = ", ".join(map(str, orders))
        msg = f"{_WHO}: {described(pastasoss)} has no trace of orders {asked}; use another"
        raise ReferenceError(msg)
    first = _FIRST_ROW.get(ds.sizes["y"], 0)
    commanded = float(_entry(pastasoss, meta, "pwcpos_cmd"))
    traces, wavecals, throughputs = (models[name] for name in _LISTS)
    *ends, count = (_entry(pastasoss, meta, f"wavemap_{n}") for n in ("wlmin", "wlmax", "nwl"))
    low_red, high_blue = _entry(pastasoss, meta, "order2_separation_cutoff")
    return TraceModel(
        tuple(
            _order_trace(pastasoss, traces[o], wavecals[o], (o, first, position, commanded))
            for o in found
        ),
        position,
        np.linspace(float(ends[0]), float(ends[1]), int(count)),
        tuple(
            np.stack([_numbers(pastasoss, throughputs[o], n) for n in ("wavelength", "throughput")])
            for o in found
        ),
        (float(low_red), float(high_blue)),
        (low, high),
    )


_LISTS = ("traces", "wavecal_models", "throughputs")


def _entry(ref: xr.Dataset, tree: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 - any leaf of a tree
    value = tree.get(name)
    if value is None:
        msg = f"{_WHO}: {described(ref)} has no entry {name!r}; use the one for NIRISS SOSS"
        raise ReferenceError(msg)
    return value


def _numbers(ref: xr.Dataset, tree: Mapping[str, Any], name: str) -> HostArray:
    return np.asarray(_entry(ref, tree, name), dtype=np.float64)


def _by_order(
    ref: xr.Dataset, tree: Mapping[str, Any], name: str
) -> Mapping[int, Mapping[str, Any]]:
    return {int(_entry(ref, one, "spectral_order")): one for one in _entry(ref, tree, name)}


def _position(ds: xr.Dataset, ref: xr.Dataset, bounds: tuple[float, float]) -> float:
    position = meta_of(ds).number("PWCPOS", _WHO)
    low, high = bounds
    if low <= position <= high:
        return position
    msg = (
        f"{_WHO}: keyword PWCPOS of {meta_of(ds).filename or 'the exposure'} is {position:g} deg,"
        f" beyond the angles of the pupil wheel for which {described(ref)} knows the traces,"
        f" {low:g} to {high:g}; correct the keyword"
    )
    raise InputError(msg)


def _order_trace(
    ref: xr.Dataset,
    trace: Mapping[str, Any],
    wavecal: Mapping[str, Any],
    where: tuple[int, int, float, float],
) -> OrderTrace:
    order, first, position, commanded = where
    points = _numbers(ref, trace, "trace")
    points = points[np.argsort(points[:, 0], kind="stable")]
    pivot = [float(_entry(ref, trace, f"pivot_{axis}")) for axis in "xy"]
    out = OrderTrace(
        points[:, 0],
        points[:, 1] - first,
        np.array(pivot),
        _matrix(_numbers(ref, wavecal, "coefficients")),
        _numbers(ref, wavecal, "scale_extents"),
        np.float64(commanded),
        tuple(range(len(points))),
        order,
        int(_entry(ref, trace, "cutoff")),
    )
    return _kept(out, position)


def _kept(trace: OrderTrace, position: float) -> OrderTrace:
    """Leave out the points of a trace that are beyond the detector once turned."""
    every = replace(trace, kept=tuple(range(len(trace.x))))
    kept = np.flatnonzero(turned_trace(every, position)[1] <= _LAST_ROW)
    return replace(trace, kept=tuple(kept.tolist()))


def _matrix(coefficients: HostArray) -> HostArray:
    """Coefficients listed by their total degree (1, x, y, x², xy, y², …) as ``c[i, j]``."""
    degree = int(np.sqrt(2 * len(coefficients))) - 1
    matrix, place = np.zeros((degree + 1, degree + 1)), 0
    for total in range(degree + 1):
        for j in range(total + 1):
            matrix[total - j, j] = coefficients[place]
            place += 1
    return matrix


def order_profiles(
    specprofile: xr.Dataset, orders: Sequence[int], shape: tuple[int, int]
) -> HostArray:
    """Return the spatial profiles of orders on the pixels of an exposure.

    Parameters
    ----------
    specprofile : xarray.Dataset
        SPECPROFILE: an image ``order`` (``order_2``, …) for each order, which may have a border.
    orders : sequence of int
    shape : (int, int)
        Rows and columns of the exposure.

    Returns
    -------
    array of float64, shape (order, y, x)

    Raises
    ------
    ReferenceError
        If an order is missing, or an image is smaller than the exposure.
    """
    headers = meta_of(specprofile).records.get("headers", {})
    by_order = {
        int(header.get("ORDER", 0)): name
        for name, header in headers.items()
        if str(name).partition("_")[0] == "order" and name in specprofile
    }
    out = []
    for order in orders:
        if order not in by_order:
            msg = (
                f"{_WHO}: {described(specprofile)} has no profile of order {order}; use the one for"
                " this subarray"
            )
            raise ReferenceError(msg)
        image = np.asarray(specprofile[by_order[order]].values, dtype=np.float64)
        for axis, length in enumerate(shape):
            border, odd = divmod(image.shape[axis] - length, 2)
            if border < 0 or odd:
                msg = (
                    f"{_WHO}: the profiles of {described(specprofile)} are {image.shape}, the"
                    f" exposure is {shape}; use the reference for this subarray"
                )
                raise ReferenceError(msg)
            image = np.take(image, range(border, border + length), axis=axis)
        out.append(image)
    return np.stack(out)


def spectral_kernel(speckernel: xr.Dataset) -> SpectralKernel:
    """Read the kernels of the spectral resolution.

    Raises
    ------
    ReferenceError
        If a table or the width of the kernels is missing, or the tables are not of the size that
        the keywords say.
    """
    need(speckernel, ("wavelengths", "kernels"), _WHO)
    half = meta_of(speckernel).get("HALFWIDT")
    if half is None:
        msg = f"{_WHO}: {described(speckernel)} lacks the keyword HALFWIDT; use another"
        raise ReferenceError(msg)
    waves, values = (
        np.asarray(speckernel[n].values, dtype=np.float64) for n in ("wavelengths", "kernels")
    )
    samples, centers = (meta_of(speckernel).get(k) for k in ("SPECOS", "NWAVE"))
    rows = values.shape[0] if samples is None else 2 * int(half) * int(samples) + 1
    columns = values.shape[1] if centers is None else int(centers)
    if not waves.shape == values.shape == (rows, columns):
        msg = (
            f"{_WHO}: the kernels of {described(speckernel)} are {values.shape} at wavelengths"
            f" {waves.shape}, its keywords say ({rows}, {columns}); the file is not whole"
        )
        raise ReferenceError(msg)
    return SpectralKernel(2 * int(half) + 1, waves, values)
