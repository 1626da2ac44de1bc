"""The exposure in electrons, kept beside the exposure itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.engine.step import Skip, step
from spec2fn.errors import ReferenceError
from spec2fn.kernels.namespace import is_traced, safe_sqrt
from spec2fn.schema import VARIANCES, described, need, replace_data, with_meta

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["electron_rate"]

_BORDER = 4  # reference pixels around the light-sensitive ones


@step(
    refs=("gain",),
    reads=("sci", "err"),
    skip=True,
    needs_refs=("gain",),
    aliases=("wfss_esec",),
    suffix="electron_rate",
)
def electron_rate(ds: xr.Dataset, gain: xr.Dataset | None = None) -> xr.Dataset | Skip:
    """Keep the exposure in electrons per second, for programs that want it so (``_esec``).

    Parameters
    ----------
    ds : xarray.Dataset
        Exposure in DN/s, dims ([integration,] y, x).
    gain : xarray.Dataset, optional
        GAIN: ``sci`` [electron/DN] of the whole detector, with its reference pixels. Its mean
        counts, of pixels with a positive gain.

    Returns
    -------
    xarray.Dataset
        The exposure as it was; ``meta.records["esec"]`` is that in electrons, where ``err`` is
        the root of the sum of the variances.

    Raises
    ------
    ReferenceError
        If no pixel of the reference has a positive gain.
    """
    if gain is None:
        return Skip("no gain reference for this exposure")
    if is_traced(ds["sci"].data):
        return Skip("nothing is kept inside a JAX transformation")
    need(gain, ("sci",), "electron_rate")
    values = np.asarray(gain["sci"].values)[..., _BORDER:-_BORDER, _BORDER:-_BORDER]
    values = values[values > 0]
    if not values.size:
        msg = f"electron_rate: {described(gain)} has no positive gain; use another"
        raise ReferenceError(msg)
    mean = np.float32(np.mean(values, dtype=np.float64))
    held = [name for name in VARIANCES if name in ds]
    new: dict[str, Any] = {name: ds[name].values * mean * mean for name in held}
    new["err"] = safe_sqrt(sum(new.values())) if held else ds["err"].values * mean
    electrons = replace_data(ds, sci=ds["sci"].values * mean, **new)
    return with_meta(ds, records={"esec": electrons})
