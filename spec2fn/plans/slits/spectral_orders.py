"""Which orders of slitless spectra are wanted, and at which wavelengths they are bright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.errors import InputError, ReferenceError
from spec2fn.schema import described

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["extracted_orders", "passband", "wavelength_ranges"]


def passband(ds: xr.Dataset) -> str:
    """Return the name of the filter that lets a part of the spectrum pass.

    NIRISS has its grisms in the filter wheel and filters in the pupil wheel, NIRCam the reverse.
    """
    names = [str(ds.attrs.get(n, "")).strip().upper() for n in ("filter", "pupil")]
    return names[1] if names[0].startswith("GR") and names[1] else names[0]


def wavelength_ranges(
    ds: xr.Dataset, reference: xr.Dataset | None, who: str
) -> Mapping[int, tuple[float, float]]:
    """Return the shortest and the longest wavelength of every order.

    Parameters
    ----------
    ds : xarray.Dataset
        Slitless exposure; its attributes say which filter is in.
    reference : xarray.Dataset or None
        WAVELENGTHRANGE: rows of order, filter, shortest and longest wavelength [um].
    who : str
        Name of the step, for messages.

    Returns
    -------
    mapping of int to (float, float)
        [um] by order.

    Raises
    ------
    ReferenceError
        If there is no reference, or none for slitless spectra through this filter.
    """
    tree, name = _tree(reference, who), passband(ds)
    found: dict[int, tuple[float, float]] = {}
    for row in tree["wavelengthrange"]:
        # those of time series name the place in the field besides
        if len(row) in (4, 5) and str(row[-3]).strip().upper() == name:
            found[int(row[0])] = float(row[-2]), float(row[-1])
    bad = [o for o, (low, high) in found.items() if not 0 < low < high < np.inf]
    if not found or bad:
        said = f"a wrong range for order {bad[0]}" if bad else "no row"
        msg = f"{who}: {described(_given(reference))} has {said} for filter {name}; use another"
        raise ReferenceError(msg)
    return found


def extracted_orders(
    ds: xr.Dataset, reference: xr.Dataset | None, asked: Sequence[int] | None, who: str
) -> Mapping[int, tuple[float, float]]:
    """Return the range of wavelengths of the orders to be extracted, in their order.

    Parameters
    ----------
    ds, reference, who
        See :func:`wavelength_ranges`.
    asked : sequence of int, optional
        The user's choice instead of that of the reference.

    Raises
    ------
    InputError
        If an order that is asked for is unknown.
    ReferenceError
        If the reference does not say which orders to extract.
    """
    ranges = wavelength_ranges(ds, reference, who)
    listed = ", ".join(map(str, sorted(ranges)))
    if asked is not None:
        for order in asked:
            if int(order) not in ranges:
                msg = f"{who}: there is no order {order} for {passband(ds)}; there are {listed}"
                raise InputError(msg)
        return {int(order): ranges[int(order)] for order in asked}
    tree, name = _tree(reference, who), passband(ds)
    for row in tree.get("extract_orders") or ():
        if str(row[0]).strip().upper() == name:
            orders = [int(order) for order in row[1]]
            if all(order in ranges for order in orders):
                return {order: ranges[order] for order in orders}
    msg = (
        f"{who}: {described(_given(reference))} does not say which orders to extract for {name};"
        f" set extract_orders to some of {listed}"
    )
    raise ReferenceError(msg)


def _given(reference: xr.Dataset | None) -> xr.Dataset:
    assert reference is not None
    return reference


def _tree(reference: xr.Dataset | None, who: str) -> Mapping[str, Any]:
    if reference is None:
        msg = f"{who}: reference 'wavelengthrange' is missing; it says where the orders end"
        raise ReferenceError(msg)
    tree: Mapping[str, Any] = reference.attrs.get("tree", {})
    if not tree.get("wavelengthrange"):
        msg = f"{who}: {described(reference)} has no wavelengthrange; use one of slitless spectra"
        raise ReferenceError(msg)
    return tree
