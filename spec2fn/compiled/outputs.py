"""Products of a compiled pipeline, with what does not enter a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.schema import Meta

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["cut", "joined", "labelled", "on_host"]


def labelled(made: Exposure, eager: Exposure, headers: Meta | None) -> Exposure:
    """Return a product with the attributes, headers and world coordinates of a run in NumPy.

    With the `headers` of another exposure it has those.
    """
    pieces = []
    for piece, first in zip(pieces_of(made), pieces_of(eager), strict=True):
        meta = first.attrs.get("meta")
        if isinstance(meta, Meta) and headers is not None:
            meta = meta.replace(
                primary=headers.primary,
                science=headers.science,
                filename=headers.filename,
                path=headers.path,
            )
        # the outline of a slit or cube is told by world coordinates
        missing = {n: v for n, v in first.variables.items() if n not in piece.variables}
        one = piece.assign({n: v for n, v in missing.items() if v.dtype.kind == "U"})
        pieces.append(one.assign_attrs({**first.attrs, **({} if meta is None else {"meta": meta})}))
    return made.with_pieces(tuple(pieces)) if isinstance(made, Pieces) else pieces[0]


def on_host(product: Exposure) -> Exposure:
    """Return a product with arrays of NumPy, which cannot be written to."""

    def one(ds: xr.Dataset) -> xr.Dataset:
        held = {}
        for name, variable in ds.variables.items():
            data = np.asarray(variable.data)
            data.setflags(write=False)
            held[name] = (variable.dims, data, variable.attrs)
        coords = {name: held.pop(name) for name in ds.coords}
        return ds.drop_vars(list(ds.variables)).assign(held).assign_coords(coords)

    return product.map(one) if isinstance(product, Pieces) else one(product)


def cut(product: Exposure, dim: str, n: int) -> Exposure:
    """Return the first `n` along a dim, as NumPy."""

    def one(ds: xr.Dataset) -> xr.Dataset:
        return ds.isel({dim: slice(0, n)}) if dim in ds.dims else ds

    product = on_host(product)
    return product.map(one) if isinstance(product, Pieces) else one(product)


def joined(parts: list[Any], dim: str) -> Any:  # noqa: ANN401 - a product
    """Join parts of a product along a dim."""
    import xarray as xr

    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Pieces):
        several = zip(*(p.pieces for p in parts), strict=True)
        return parts[0].with_pieces(tuple(joined(list(s), dim) for s in several))
    if dim not in parts[0].dims:
        return parts[0]
    return xr.concat(
        parts,
        dim=dim,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )
