"""The contract of a step as a function, for the steps of the library and for your own.

:func:`check_step` tries everything that ``docs/step-contract.md`` promises; the other functions
are its parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.dq import PIXEL
from spec2fn.engine.step import Skip, Step
from spec2fn.engine.step import step as as_step
from spec2fn.errors import ContractError
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.schema import PLANES, status_of
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "check_compiled",
    "check_gradients",
    "check_pieces",
    "check_pure",
    "check_result",
    "check_same",
    "check_step",
    "content",
]

_KEEPS_ERRORS = ("master_background",)
"""Errors stay where the background is unknown; flat_field clears them."""


def check_step(
    step: Step[...] | Callable[..., Any],
    exposure: Exposure,
    *references: object,
    examples: int = 3,
    seed: int = 0,
    **more: object,
) -> None:
    """Check that a step keeps the contract, on an exposure and on disturbed copies of it.

    * It is pure: the input is as it was, what it makes is read-only, and the same call gives the
      same result.
    * It says what it did (``status_<step>``), and what it skips is unchanged.
    * NaN, ``err`` and ``dq`` agree; planes have the dtypes of the schema.
    * Integrations are independent given the plan, if the step is `chunkable`.
    * If it is `traceable`: compiled by JAX it gives the same, and gradients with respect to the
      pixels are finite, at masked pixels too.

    Parameters
    ----------
    step : Step or callable
        A plain function ``Dataset -> Dataset`` is taken for a step without options.
    exposure : xarray.Dataset or Slits
        As the steps before leave it; :mod:`spec2fn.testing.exposures` has some. Numbers, not
        headers, are disturbed: NaN with and without flags, infinities, rows without a good pixel.
    *references
        In the order of ``step.refs``.
    examples : int
        Disturbed copies that are tried.
    seed : int
        Of the disturbances.
    **more
        Members and parameters of the step.

    Raises
    ------
    ContractError
        Saying what is broken, with the variable and the seed.
    """
    from spec2fn.testing.strategies import disturb

    checked = step if isinstance(step, Step) else as_step(step)
    for i in range(examples + 1):
        ds = exposure if i == 0 else disturb(exposure, seed + i)
        what = "" if i == 0 else f" (disturbed with seed {seed + i})"
        try:
            check_pure(checked, ds, *references, **more)
            check_pieces(checked, ds, *references, **more)
            if checked.traceable:
                check_compiled(checked, ds, *references, **more)
                check_gradients(checked, ds, *references, **more)
        except ContractError as error:
            raise ContractError(f"{error}{what}") from None


def check_pure(step: Step[...], ds: Exposure, *references: object, **more: object) -> None:
    """Check that a step leaves its input alone, gives the same twice, and keeps the rest."""
    held = (ds, references, more)
    before = content(held)
    out = step(ds, *references, **more)
    _need(content(held) == before, step, "modifies its input; make new Datasets with assign")
    check_result(step, ds, out)
    again = step(ds, *references, **more)
    _need(
        [content(p)[:2] for p in pieces_of(again)] == [content(p)[:2] for p in pieces_of(out)],
        step,
        "gives another result when it is called again; keep no state, draw from a fixed seed",
    )


def check_result(step: Step[...], ds: Exposure, out: object) -> None:
    """Check status, arrays and flags of what a step has made of an exposure."""
    after, before = pieces_of(out), pieces_of(ds)
    _need(bool(after), step, f"returns {type(out).__name__}, needs a Dataset (or Slits, Cubes)")
    if len(before) == 1 or len(after) == 1:  # cut into slits, or joined to a table of spectra
        pairs = [(a, b) for a in after for b in before]
    else:
        pairs = list(zip(after, before, strict=True))
    for a, b in pairs:
        _check_status(step, a, b)
        _check_arrays(step, a, b)
        _check_flags(step, a)


def check_compiled(step: Step[...], ds: Exposure, *references: object, **more: object) -> None:
    """Check that JAX makes the same of an exposure, see :func:`check_same`."""
    from spec2fn import transforms

    plan = step.plan(ds, *references, **more)
    if _skips(plan):
        return
    eager = step(ds, *references, plan=plan, **more)
    members = {n: v for n, v in more.items() if n in step.members}
    parameters = {n: v for n, v in more.items() if n not in step.members}

    def applied(ds: Any, refs: Any, members: Any, plan: Any) -> Any:  # noqa: ANN401 - traced
        return step(ds, *refs, plan=plan, **members, **parameters)

    made = transforms.jit(applied)(ds, references, members, plan)
    check_same(step, made, eager)


def check_same(step: Step[...], made: object, expected: object, *, near: float = 1e-6) -> None:
    """Check that two results of a step have the same variables, values, NaN and flags.

    Elements may differ by `near` of the largest: sums in another order are rounded in another way.
    """
    for a, b in zip(pieces_of(made), pieces_of(expected), strict=True):
        # the outline of a resampled slit comes from a WCS, which does not enter a trace
        held = {n: v for n, v in b.variables.items() if n != "s_region" or n in a.variables}
        _need(set(held) == set(a.variables), step, "compiled, makes other variables")
        for name, variable in held.items():
            _check_same_array(step, str(name), np.asarray(a[name].data), variable.data, near)


def check_gradients(step: Step[...], ds: Exposure, *references: object, **more: object) -> None:
    """Check that gradients of all values with respect to the pixels are finite."""
    from spec2fn import transforms

    plan = step.plan(ds, *references, **more)
    if _skips(plan):
        return

    def loss(ds: Exposure) -> Array:
        return _total(step(ds, *references, plan=plan, **more))

    several = isinstance(ds, Pieces)
    wrt = tuple(f"{i}/sci" for i in range(len(pieces_of(ds)))) if several else ("sci",)
    # compiled as a whole: operation by operation it takes several times as long
    value, gradients = transforms.jit(transforms.value_and_grad(loss, wrt=wrt))(ds)
    _need(bool(np.isfinite(float(value))), step, "a sum over finite values is not finite")
    for name, slope in gradients.items():
        bad = int((~np.isfinite(np.asarray(slope))).sum())
        _need(
            bad == 0,
            step,
            f"the gradient with respect to {name} is not finite at {bad} pixels; mask before the"
            " operation (spec2fn.kernels.namespace.safe_divide)",
        )


def check_pieces(step: Step[...], ds: Exposure, *references: object, **more: object) -> None:
    """Check that integrations, one by one, give what all of them give at once."""
    if "integration" not in getattr(ds, "dims", ()) or not step.works_in_pieces:
        return
    plan = step.plan(ds, *references, **more)
    if _skips(plan):
        return
    phase = {} if plan is None else {"plan": plan}
    whole = step(ds, *references, **phase, **more)
    parts = pieces_of(ds)
    for i in range(parts[0].sizes["integration"]):
        cut = [p.isel(integration=slice(i, i + 1)) for p in parts]
        piece = ds.with_pieces(tuple(cut)) if isinstance(ds, Pieces) else cut[0]
        one = step(piece, *references, **phase, **more)
        for a, b in zip(pieces_of(one), pieces_of(whole), strict=True):
            for name, variable in a.variables.items():
                expected = b[name]
                if "integration" in expected.dims:
                    expected = expected.isel(integration=slice(i, i + 1))
                data = np.asarray(expected.data)
                why = f"integration {i} alone"
                _check_same_array(step, str(name), np.asarray(variable.data), data, 1e-6, how=why)


def content(value: object) -> Any:  # noqa: ANN401 - to be compared
    """Return what is the same for equal bytes: of Datasets, slits, mappings and tuples of them.

    Of a Dataset: the variables, the attributes, and which headers it has.
    """
    if isinstance(value, Pieces):
        return tuple(map(content, value.pieces))
    if hasattr(value, "data_vars"):
        ds: Any = value
        variables = tuple(
            (
                str(name),
                v.dims,
                v.dtype.str,
                repr(v.data)
                if v.dtype.kind == "O"
                else zlib.crc32(np.ascontiguousarray(v.data).tobytes()),
            )
            for name, v in ds.variables.items()
        )
        attrs = tuple((k, repr(v)) for k, v in ds.attrs.items() if k not in ("meta", "tree"))
        return variables, attrs, id(ds.attrs.get("meta"))
    if isinstance(value, dict):
        return tuple((k, content(v)) for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(map(content, value))
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, zlib.crc32(np.ascontiguousarray(value).tobytes())
    return repr(value)


def _need(holds: bool, step: Step[...], broken: str) -> None:
    if not holds:
        raise ContractError(f"{step.name}: {broken}")


def _check_status(step: Step[...], out: xr.Dataset, ds: xr.Dataset) -> None:
    status = status_of(out, step.name)
    if status != "COMPLETE":
        told = status.startswith(("SKIPPED: ", "FAILED: ")) and len(status) > len("SKIPPED: ")
        _need(told, step, f"its status is {status!r}, needs COMPLETE or SKIPPED with a reason")
        if status.startswith("SKIPPED"):
            same = set(out.variables) == set(ds.variables)
            _need(same, step, "is skipped and yet adds or drops variables")
    for key, value in ds.attrs.items():
        if key.startswith("status_") and key != f"status_{step.name}":
            _need(out.attrs.get(key) == value, step, f"changes the attribute {key}")


def _check_arrays(step: Step[...], out: xr.Dataset, ds: xr.Dataset) -> None:
    for name, variable in out.variables.items():
        data = variable.data
        _need(isinstance(data, np.ndarray), step, f"{name} is no array of NumPy")
        mine = name not in ds.variables or data is not ds.variables[name].data
        _need(not (mine and data.flags.writeable), step, f"{name} can be written to")
        if name in PLANES and "wave" not in variable.dims:
            needed = PLANES[str(name)].dtype
            _need(
                str(variable.dtype) == str(np.dtype(needed)),
                step,
                f"{name} is {variable.dtype}, needs {needed}",
            )


def _check_flags(step: Step[...], out: xr.Dataset) -> None:
    if "sci" not in out or "err" not in out:
        return
    sci, err = np.isnan(out["sci"].data), np.isnan(out["err"].data)
    if step.name in _KEEPS_ERRORS:
        _need(not (err & ~sci).any(), step, "err is NaN where sci is not")
    else:
        n = int((sci != err).sum())
        _need(n == 0, step, f"sci and err are not NaN together at {n} pixels")
    if "dq" in out and out["dq"].shape == sci.shape:
        unusable = (out["dq"].data & np.uint32(PIXEL["DO_NOT_USE"])) != 0
        n = int((sci != unusable).sum())
        _need(n == 0, step, f"NaN of sci and DO_NOT_USE of dq do not agree at {n} pixels")


def _check_same_array(
    step: Step[...],
    name: str,
    made: HostArray,
    expected: HostArray,
    near: float,
    *,
    how: str = "compiled",
) -> None:
    where = f"{how}, {name}"
    _need(made.shape == expected.shape, step, f"{where} has shape {made.shape}")
    if expected.dtype.kind not in "fc":
        _need(np.array_equal(made, expected), step, f"{where} has other values")
        return
    _need(made.dtype == expected.dtype, step, f"{where} is {made.dtype}, not {expected.dtype}")
    finite = np.isfinite(expected)
    for kind in (np.isnan, np.isfinite):
        _need(
            np.array_equal(kind(made), kind(expected)), step, f"{where} has other NaN or infinities"
        )
    size = np.abs(expected[finite]).max(initial=0.0)
    close = np.isclose(made[finite], expected[finite], rtol=2e-5, atol=near * size)
    _need(bool(close.all()), step, f"{where} differs at {int((~close).sum())} elements")


def _skips(plan: object) -> bool:
    return any(isinstance(p, Skip) for p in (plan if isinstance(plan, tuple) else (plan,)))


def _total(out: object) -> Array:
    """A sum over everything a step made that has a scale."""
    import jax.numpy as jnp

    total = jnp.zeros(())
    for ds in pieces_of(out):
        for name in ("sci", "flux"):
            if name in ds:
                data = jnp.asarray(ds[name].data)
                clean = jnp.where(jnp.isfinite(data), data, jnp.zeros((), data.dtype))
                total = total + clean.astype(jnp.float64).sum()
    return total
