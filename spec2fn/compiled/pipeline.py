"""A pipeline as one function of arrays: compiled, differentiated, mapped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.compiled.cache import use_cache
from spec2fn.compiled.outputs import cut, joined, labelled
from spec2fn.compiled.slit_by_slit import slit_by_slit
from spec2fn.compiled.trace import Traced, jit, outside_of_traces, trace
from spec2fn.compiled.variables import Variable, described
from spec2fn.engine.pipeline import Observation, Product
from spec2fn.engine.run import Result, run
from spec2fn.engine.settings import Settings
from spec2fn.errors import ContractError, DatasetError, InputError, nearest
from spec2fn.pieces import Exposure, Pieces, pieces_of
from spec2fn.schema import Meta
from spec2fn.transforms.mapping import map_arrays, vmap
from spec2fn.transforms.packing import PyTree, pack, unpack
from spec2fn.transforms.tracing import named_leaves
from spec2fn.typing import Array, HostArray

if TYPE_CHECKING:
    import jax

__all__ = ["Compiled"]

Products = Mapping[str, Any]
_SCIENCE = "science"

# Bytes of pixels of realisations that may be in work at once, and planes alive for each.
_BATCH_BYTES = 256 * 2**20
_PLANES_IN_WORK = 20


@dataclass(frozen=True, eq=False)
class Compiled:
    """A pipeline that has been planned for an exposure, as a function of its numbers.

    Every array that the exposure, its members, the references and the plans hold has a path:
    ``science/sci``, ``members/background/0/sci``, ``refs/flat/sci``, ``plans/extract_1d/centre``,
    in slits by bucket (:meth:`parameters` lists them). The methods take other values for some of
    them, as arrays by path (`values`), as an exposure (`science`) or as references by type
    (`refs`); everything else is as it was when the pipeline was planned. Programs are compiled
    when they are first used, and kept.

    What is discrete is fixed by the plan: clipping and flagging of outliers, which pixels and
    shutters count, the number of fringes, where an aperture has its borders. A derivative is that
    with the plan held fixed, and so is the scatter of realisations.

    Attributes
    ----------
    settings : Settings
        The pipeline with its parameters.
    observation : Observation
        The exposure with its members, as it was planned for.
    references : mapping of str to xarray.Dataset or None
        By type.
    first : Result
        The run in which it was planned, in NumPy.
    kinds : tuple of str
        Products that are made, and steps whose output is kept.
    """

    settings: Settings
    observation: Observation
    references: Mapping[str, Any]
    first: Result
    kinds: tuple[str, ...]

    @classmethod
    def of(
        cls,
        observation: Observation,
        settings: Settings,
        references: Mapping[str, Any],
        kinds: Collection[str] = (),
        first: Result | None = None,
    ) -> Compiled:
        """Plan a pipeline for an observation; see :func:`spec2fn.compiled.compile`.

        With the result of a run in memory (`first`), its plans are taken.

        Raises
        ------
        InputError
            If a step fails on single slits, or a product is asked for that there is not.
        """
        use_cache()
        if first is None:
            first = run(
                settings.pipeline,
                observation,
                references,
                params=settings,
                **_asked_for(settings, kinds),
            )
        lost = {name: text for r in first.report for name, text in r.problems.items()}
        unplanned = [r.name for r in first.report if r.problems and r.name not in first.plans]
        if unplanned:
            listed = "; ".join(f"slit {name}: {text}" for name, text in lost.items())
            msg = f"compile: {unplanned[0]} fails on slits, leave them out: {listed}"
            raise InputError(msg)
        for kind in kinds:
            if kind not in first.products and kind not in first.saved:
                made = tuple(first.products)
                msg = f"compile: no product {kind!r}{nearest(kind, made)} (there are {made})"
                raise InputError(msg)
        chosen = tuple(kinds) or tuple(first.products)
        return cls(settings, observation, references, first, chosen)

    def only(self, *kinds: str) -> Compiled:
        """Return what makes fewer products, without planning again.

        Raises
        ------
        ContractError
            If a product is asked for that this one does not make.
        """
        for kind in kinds:
            if kind not in self.kinds:
                msg = f"compile: no product {kind!r} among {self.kinds}; compile with kinds=(…)"
                raise ContractError(msg)
        return self if kinds == self.kinds else replace(self, kinds=kinds)

    def parameters(self) -> Mapping[str, Variable]:
        """Return what the products depend on and can be differentiated with respect to, by path.

        Float arrays of the exposure, its members, references and plans; those that have no
        influence on a product are left out.
        """
        known = dict(described(self._packed, ""))
        return {
            path: known[path]
            for path in self._used
            if np.dtype(self._leaves[path].dtype).kind == "f"
        }

    def value(self, path: str) -> HostArray:
        """Return the array of a path, as it was when the pipeline was planned."""
        self._check((path,))
        held: HostArray = self._leaves[path]
        return held

    def products(
        self,
        values: Mapping[str, Array] | None = None,
        *,
        science: Exposure | None = None,
        refs: Mapping[str, Any] | None = None,
    ) -> Products:
        """Return the products, by kind.

        Parameters
        ----------
        values : mapping of str to array, optional
            Other values by path.
        science : xarray.Dataset or Slits, optional
            Another exposure of the same set-up, before any step; it may have another number of
            integrations. Geometry is that of the plan.
        refs : mapping of str to xarray.Dataset, optional
            Other references by type, with the same variables.

        Returns
        -------
        mapping of str to xarray.Dataset, Slits or Cubes
            With headers and world coordinates of the exposure it was planned for, or of `science`.

        Raises
        ------
        ContractError
            If there is no such path, or an array has another shape.
        DatasetError
            If `science` or a reference does not have the variables, or is of another mode.
        """
        given = self._given(values, science, refs)
        traced = self._trace(given)
        _, rest = self._halves(traced)
        return self._labelled(unpack(rest.program(self._held(traced, given))), science)

    def value_and_grad(
        self, loss: Callable[[Products], Any], wrt: Sequence[str] = ("science/sci",)
    ) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
        """Return a compiled function that gives a loss and its gradients.

        Parameters
        ----------
        loss : callable
            Of the products; returns a number.
        wrt : sequence of str
            Paths, see :meth:`parameters`.

        Returns
        -------
        callable
            Takes what :meth:`products` takes; returns the value, and the gradients by path.
        """
        import jax

        self._check(wrt)

        programs: dict[Traced, Callable[..., Any]] = {}

        def program(part: Traced) -> Callable[..., Any]:
            def scalar(chosen: Mapping[str, Array], others: Mapping[str, Array]) -> Array:
                value = loss(unpack(part({**others, **chosen})))
                value = value.data if hasattr(value, "dims") else value
                return jax.numpy.asarray(value)

            return jit(jax.value_and_grad(scalar))

        def wrapper(
            values: Mapping[str, Array] | None = None,
            *,
            science: Exposure | None = None,
            refs: Mapping[str, Any] | None = None,
        ) -> tuple[jax.Array, dict[str, jax.Array]]:
            given = self._given(values, science, refs)
            part = traced = self._trace(given)
            fixed, rest = self._halves(traced)
            arrays = self._arrays | given
            if set(wrt).isdisjoint(fixed.paths):
                part, arrays = rest, self._held(traced, given)
            chosen = {path: jax.numpy.asarray(arrays[path]) for path in wrt}
            others = {path: arrays[path] for path in part.paths if path not in chosen}
            if part not in programs:
                programs[part] = program(part)
            value, gradients = programs[part](chosen, others)
            return value, dict(gradients)

        return wrapper

    def jvp(
        self,
        tangents: Mapping[str, Array],
        values: Mapping[str, Array] | None = None,
        *,
        science: Exposure | None = None,
        refs: Mapping[str, Any] | None = None,
    ) -> tuple[Products, Products]:
        """Return the products, and by how much they change along a direction.

        Parameters
        ----------
        tangents : mapping of str to array
            The direction, by path; all other paths are held fixed.
        values, science, refs
            See :meth:`products`.

        Returns
        -------
        products, derivatives : mapping of str to xarray.Dataset, Slits or Cubes
            Derivatives of variables that are no float numbers have no meaning.
        """
        import jax

        self._check(tangents)
        arrays = self._arrays | self._given(values, science, refs)
        chosen = {path: arrays.pop(path) for path in tangents}
        along = {
            path: np.broadcast_to(np.asarray(t, dtype=chosen[path].dtype), chosen[path].shape)
            for path, t in tangents.items()
        }
        traced = self._trace({**arrays, **chosen})
        if traced not in self._programs:

            def pushed(
                some: Mapping[str, Array], along: Mapping[str, Array], others: Mapping[str, Array]
            ) -> tuple[PyTree, PyTree]:
                return jax.jvp(lambda s: traced({**others, **s}), (some,), (along,))

            self._programs[traced] = jit(pushed)
        made, derivative = self._programs[traced](chosen, along, arrays)
        return self._labelled(unpack(made), science), self._labelled(unpack(derivative), science)

    def vmap(self, dim: str) -> Callable[..., Products]:
        """Return a function like :meth:`products` that is mapped along a dim.

        Parameters
        ----------
        dim : {"realisation", "integration", "slit"}
            ``realisation`` (or any other new name): arrays of `values` have it as a first axis,
            variables of `science` may have it among their dims; products have it first, where
            they depend on it. Realisations are computed in batches of bounded memory.
            ``integration``: each integration goes through the pipeline alone.
            ``slit``: from where there are slits, each of them goes through the steps alone, but
            for those that do something with all slits together (a master background, the
            extraction). The products are those of :meth:`products`, which computes with all
            slits of a bucket at once; that is faster.

        Raises
        ------
        PlanError
            When it is called, for a field of a plan that cannot be mapped, by name.
        ContractError
            For ``slit``, if there are no slits. When it is called, if nothing has the dim, or its
            length is not the same everywhere.
        """
        if dim == "slit" and not any("slit" in v.dims for _, v in described(self._packed, "")):
            raise ContractError("vmap: nothing in this pipeline has the dim 'slit'")
        if dim in ("integration", "slit"):
            return functools.partial(self._by_element, dim)
        return functools.partial(self._by_realisation, dim)

    # -- mapping -------------------------------------------------------------------------------

    def _by_realisation(
        self,
        dim: str,
        values: Mapping[str, Array] | None = None,
        *,
        science: Exposure | None = None,
        refs: Mapping[str, Any] | None = None,
    ) -> Products:
        varied = dict(values or {})
        if science is not None:
            given = self._of_exposure(science, dim)
            varied |= {p: d for p, d in given.items() if p in self._used}
        self._check(varied)
        sizes = {path: np.shape(data) for path, data in varied.items()}
        mapped = [p for p, shape in sizes.items() if len(shape) == self._leaves[p].ndim + 1]
        lengths = {sizes[p][0] for p in mapped}
        if len(lengths) != 1:
            found = ", ".join(f"{p} {sizes[p]}" for p in sizes) or "nothing"
            msg = f"vmap: arrays need a first axis {dim!r} of one length, found {found}"
            raise ContractError(msg)
        fixed = self._given({p: d for p, d in varied.items() if p not in mapped}, None, refs)
        for path in mapped:
            self._check_shape(path, sizes[path][1:])
        (n,) = lengths
        return self.in_batches(dim, n, lambda some: {p: varied[p][some] for p in mapped}, fixed)

    def in_batches(
        self,
        dim: str,
        n: int,
        draw: Callable[[HostArray], Mapping[str, Array]],
        fixed: Mapping[str, Array] | None = None,
        *,
        finite: bool = False,
    ) -> Products:
        """Return products along a new dim, computed in batches of bounded memory.

        Parameters
        ----------
        dim : str
        n : int
            Its length.
        draw : callable
            Takes the positions of some along the dim, and returns their values by path, with the
            dim as the first axis.
        fixed : mapping of str to array, optional
            Values by path that all have in common.
        finite : bool
            Whether all values are finite where those are that it was planned for. What is the
            same for all, such as variances and what is masked, is computed once.
        """
        arrays = {**self._arrays, **(fixed or {})}
        batch = min(n, self._batch_size())
        same: dict[str, Array] | None = None
        parts = []
        for first in range(0, n, batch):
            # the last batch is filled up, so that it needs no program of its own
            some = draw(np.minimum(np.arange(first, first + batch), n - 1))
            once, each = self._parted(dim, tuple(sorted(some)), finite=finite)
            if same is None:
                same = arrays | once(arrays)
            made = unpack(each(some, {p: d for p, d in same.items() if p not in some}))
            parts.append({k: cut(p, dim, min(batch, n - first)) for k, p in made.items()})
        whole = {kind: joined([p[kind] for p in parts], dim) for kind in parts[0]}
        return self._labelled(whole, None)

    def _parted(
        self, dim: str, varied: tuple[str, ...], *, finite: bool
    ) -> tuple[Callable[..., Any], ...]:
        """What is the same for all along a dim, and the rest mapped along it."""
        key = (dim, varied, finite)
        if key not in self._programs:
            fixed, rest = self._trace({}).parted(varied, finite=finite)

            def several(some: Mapping[str, Array], same: Mapping[str, Array]) -> PyTree:
                arrays = {p: a for p, a in {**same, **some}.items() if p in rest.paths}
                mapped = [p for p in varied if p in arrays]
                return map_arrays(lambda one: unpack(rest(one)), arrays, mapped, dim)

            self._programs[key] = (fixed.program, jit(several))
        programs: tuple[Callable[..., Any], ...] = self._programs[key]
        return programs

    def _batch_size(self) -> int:
        pixels = sum(part["sci"].size for part in pieces_of(self.observation.science))
        return max(1, _BATCH_BYTES // (4 * pixels * _PLANES_IN_WORK))

    def _by_element(
        self,
        dim: str,
        values: Mapping[str, Array] | None = None,
        *,
        science: Exposure | None = None,
        refs: Mapping[str, Any] | None = None,
    ) -> Products:
        given = self._given(values, science, refs)
        if ("whole", dim) not in self._programs:

            def whole(arrays: Mapping[str, Array]) -> PyTree:
                inputs = unpack(self._filled(arrays))
                if dim == "slit":
                    pipeline = slit_by_slit(self.settings.pipeline)
                    return pack(self._apply(inputs, replace(self.settings, pipeline=pipeline)))
                return pack(vmap(self._apply, dim)(inputs))

            self._programs["whole", dim] = jit(whole)
        program = self._programs["whole", dim]
        return self._labelled(unpack(program(self._arrays | given)), science)

    # -- the function and its arguments --------------------------------------------------------

    @functools.cached_property
    def _programs(self) -> dict[Any, Any]:
        return {}

    @functools.cached_property
    def _packed(self) -> PyTree:
        inputs = {
            _SCIENCE: self.observation.science,
            "members": dict(self.observation.members),
            "refs": {k: v for k, v in self.references.items() if v is not None},
            "plans": dict(self.first.plans),
        }
        return pack(inputs)

    @functools.cached_property
    def _flat(self) -> tuple[dict[str, Any], PyTree]:
        leaves, structure = named_leaves(self._packed)
        return {path: np.asarray(leaf) for path, leaf in leaves.items()}, structure

    @property
    def _leaves(self) -> Mapping[str, Any]:
        return self._flat[0]

    def _filled(self, arrays: Mapping[str, Array]) -> PyTree:
        import jax

        # not all of them need be given, and JAX sorts mappings
        leaves = [arrays.get(path, leaf) for path, leaf in self._leaves.items()]
        return jax.tree_util.tree_unflatten(self._flat[1], leaves)

    def _apply(self, inputs: Mapping[str, Any], settings: Settings | None = None) -> Products:
        settings = settings or self.settings
        result = run(
            settings.pipeline,
            inputs[_SCIENCE],
            inputs["refs"],
            members=inputs["members"],
            params=settings,
            plans=inputs["plans"],
            **_asked_for(settings, self.kinds),
        )
        return {kind: {**result.saved, **result.products}[kind] for kind in self.kinds}

    def _trace(self, given: Mapping[str, Array]) -> Traced:
        """The traced pipeline, for arrays of these shapes."""
        shapes = {p: tuple(np.shape(d)) for p, d in given.items()}
        key = tuple((p, s) for p, s in sorted(shapes.items()) if s != self._leaves[p].shape)
        if key not in self._traces:
            import jax

            other = {p: jax.ShapeDtypeStruct(s, self._leaves[p].dtype) for p, s in key}
            self._traces[key] = trace(
                lambda arrays: pack(self._apply(unpack(self._filled(arrays)))),
                {**self._leaves, **other},
            )
        return self._traces[key]

    def _halves(self, traced: Traced) -> tuple[Traced, Traced]:
        """What references and plans determine without any exposure, and the rest."""
        if ("halves", traced) not in self._programs:
            exposures = [p for p in traced.paths if p.startswith((f"{_SCIENCE}/", "members/"))]
            self._programs["halves", traced] = traced.parted(exposures)
        halves: tuple[Traced, Traced] = self._programs["halves", traced]
        return halves

    def _held(self, traced: Traced, given: Mapping[str, Array]) -> dict[str, Array]:
        """What the rest depends on, computed once unless it depends on what is given."""
        fixed, _ = self._halves(traced)
        arrays = {**self._arrays, **given}
        own = {path: arrays[path] for path in fixed.paths}
        if not given.keys().isdisjoint(own):
            return {**arrays, **fixed.program(own)}
        latest, made = self._programs.get("held", (None, {}))
        if latest is not traced:
            made = outside_of_traces(fixed.program, own)
            self._programs["held"] = traced, made
        return {**arrays, **made}

    @functools.cached_property
    def _traces(self) -> dict[Any, Traced]:
        return {}

    @property
    def _used(self) -> tuple[str, ...]:
        """Paths that have an influence on a product."""
        return self._trace({}).paths

    @functools.cached_property
    def _arrays(self) -> dict[str, Array]:
        """What the products depend on, where the computation takes place."""
        import jax

        # jax.numpy.asarray would compile a copy for every shape
        leaves = {path: self._leaves[path] for path in self._used}
        return outside_of_traces(jax.device_put, leaves)

    @property
    def equations(self) -> int:
        """Number of equations of the traced pipeline."""
        return self._trace({}).equations

    # -- what is given -------------------------------------------------------------------------

    def _given(
        self,
        values: Mapping[str, Array] | None,
        science: Exposure | None,
        refs: Mapping[str, Any] | None,
    ) -> dict[str, Array]:
        """Arrays by path, checked."""
        given = {} if science is None else self._of_exposure(science)
        for reftype, ref in (refs or {}).items():
            given |= self._of_reference(reftype, ref)
        for path, data in (values or {}).items():
            self._check((path,))
            self._check_shape(path, np.shape(data))
            given[path] = data.astype(self._leaves[path].dtype)
        # what does not count must yet have as many integrations as the rest
        return {
            p: d
            for p, d in given.items()
            if p in self._used or np.shape(d) != self._leaves[p].shape
        }

    def _of_exposure(self, science: Exposure, dim: str = "") -> dict[str, Array]:
        mine, theirs = pieces_of(self.observation.science), pieces_of(science)
        if len(mine) != len(theirs):
            msg = f"compile: planned for {len(mine)} pieces of an exposure, got {len(theirs)}"
            raise DatasetError(msg)
        given: dict[str, Array] = {}
        for i, (old, new) in enumerate(zip(mine, theirs, strict=True)):
            prefix = _SCIENCE
            if isinstance(self.observation.science, Pieces):
                prefix = f"{_SCIENCE}/{i}"
            for name in ("exp_type", "instrument", "detector", "filter", "grating", "subarray"):
                if old.attrs.get(name) != new.attrs.get(name):
                    msg = (
                        f"compile: planned for {name} {old.attrs.get(name)!r}, got"
                        f" {new.attrs.get(name)!r}; compile anew for another set-up"
                    )
                    raise DatasetError(msg)
            given |= self._of_variables(prefix, old, new, dim)
        return given

    def _of_reference(self, reftype: str, ref: Any) -> dict[str, Array]:  # noqa: ANN401 - as of a run
        from spec2fn.engine.step import as_reference

        old = self.references.get(reftype)
        if old is None:
            held = [k for k, v in self.references.items() if v is not None]
            msg = f"compile: no reference {reftype!r}{nearest(reftype, held)} (there are {held})"
            raise ContractError(msg)
        new = as_reference(ref, reftype.rpartition(":")[2]).load()
        return self._of_variables(f"refs/{reftype}", old, new)

    def _of_variables(self, prefix: str, old: Any, new: Any, dim: str = "") -> dict[str, Array]:  # noqa: ANN401 - Datasets
        given = {}
        for name in map(str, old.variables):
            path = f"{prefix}/{name}"
            if path not in self._leaves:
                continue
            if name not in new.variables:
                msg = f"compile: {prefix} was planned with {name!r}, which is not given"
                raise DatasetError(msg)
            variable = new.variables[name]
            if dim in variable.dims:
                variable = variable.transpose(dim, ...)
            length = new.sizes.get("integration")
            shape = tuple(
                n if d == "integration" and length else m
                for d, n, m in zip(
                    (d for d in variable.dims if d != dim),
                    (n for d, n in zip(variable.dims, variable.shape, strict=True) if d != dim),
                    old.variables[name].shape,
                    strict=False,
                )
            )
            found = tuple(n for d, n in zip(variable.dims, variable.shape, strict=True) if d != dim)
            if found != shape or len(found) != old.variables[name].ndim:
                msg = f"compile: {path} has shape {old.variables[name].shape}, got {found}"
                raise DatasetError(msg)
            given[path] = variable.data.astype(self._leaves[path].dtype)
        return given

    def _check(self, paths: Collection[str]) -> None:
        for path in paths:
            if path not in self._leaves:
                msg = (
                    f"compile: no path {path!r}{nearest(path, self._leaves)}"
                    " (parameters() lists all of them)"
                )
                raise ContractError(msg)
            if path not in self._used:
                msg = f"compile: no product depends on {path}; parameters() lists what does count"
                raise ContractError(msg)

    def _check_shape(self, path: str, shape: tuple[int, ...]) -> None:
        if shape != self._leaves[path].shape:
            msg = f"compile: {path} has shape {self._leaves[path].shape}, got {shape}"
            raise ContractError(msg)

    # -- what is returned ----------------------------------------------------------------------

    def _labelled(self, products: Products, science: Exposure | None) -> Products:
        """Give products the headers and world coordinates that do not enter a trace."""
        primary = None
        if science is not None:
            meta = pieces_of(science)[0].attrs.get("meta")
            primary = meta if isinstance(meta, Meta) else None
        eager = {**self.first.saved, **self.first.products}
        return {k: labelled(p, eager[k], primary) for k, p in products.items()}


def _asked_for(settings: Settings, kinds: Collection[str]) -> dict[str, Any]:
    """What a run has to be told to make products, or keep the output of steps."""
    markers = {e.kind: e.optional for e in settings.pipeline if isinstance(e, Product)}
    return {
        "products": tuple(k for k in kinds if markers.get(k)),
        "save_steps": tuple(k for k in kinds if k not in markers),
    }
