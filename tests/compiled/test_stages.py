"""What asks the host is compiled in stages, of which all that JAX computes is kept on disk."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spec2fn.compiled.trace import jit, trace
from spec2fn.kernels.banded import factorise, solve_with

SIZE = 5


def sorted_by_host(x):
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    order = jax.pure_callback(
        lambda a: np.argsort(np.asarray(a)).astype(float),
        shape,
        jax.lax.stop_gradient(x),
        vmap_method="sequential",
    )
    return x[order.astype(int)]


def function(arrays):
    """Sorted, solved for, and sorted again; some of it before and between."""
    band = np.array([np.full(SIZE, 2.5), np.full(SIZE, -1.0)])
    matrix = np.diag(np.full(SIZE, 2.5)) - np.eye(SIZE, k=1) - np.eye(SIZE, k=-1)
    first = sorted_by_host(jnp.sin(arrays["a"]) * arrays["b"])
    solved = solve_with(factorise(band), lambda v: v @ matrix, first + arrays["a"])
    return {"twice": sorted_by_host(solved * arrays["b"]), "first": first, "b": arrays["b"]}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    return {"a": rng.normal(size=SIZE), "b": np.array(1.7), "unused": np.zeros(3)}


def test_stages_give_what_the_function_gives(arrays):
    expected = function({name: jnp.asarray(a) for name, a in arrays.items()})
    traced = trace(function, arrays)
    assert traced.paths == ("a", "b")
    stages, last = traced.stages()
    assert not last.equations
    assert [host for _, host in stages] == [False, True, False, True, False, True, False]
    assert not any(part.asks_host for part, host in stages if not host)
    assert all(len(part.jaxpr.eqns) == 1 for part, host in stages if host)
    for program in (traced.program, jit(function), jax.jit(jit(function))):
        made = program(arrays)
        assert set(made) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(made[name], array, rtol=1e-12)


def test_derivatives_are_taken_of_stages(arrays):
    def loss(some):
        return jnp.sum(function(some)["twice"] ** 2)

    given = {name: jnp.asarray(a) for name, a in arrays.items()}
    program = jit(jax.value_and_grad(loss))
    for scale in (1.0, 1.5):  # the second time it is there already
        here = {**given, "a": given["a"] * scale}
        value, slopes = program(here)
        expected, by_function = jax.value_and_grad(loss)(here)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        for name, slope in by_function.items():
            np.testing.assert_allclose(slopes[name], slope, rtol=1e-9)
    # other shapes have programs of their own
    longer = jit(lambda x: sorted_by_host(x) * 2)
    for n in (3, 4):
        np.testing.assert_array_equal(longer(jnp.arange(float(n))[::-1]), 2.0 * np.arange(n))


KEPT = """# hits and misses of the folder of programs
import sys; sys.path.insert(0, {tests!r})
import collections, jax, numpy as np
from spec2fn.compiled.cache import use_cache
from spec2fn.compiled.trace import jit
from test_stages import function
use_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
seen = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.rpartition("/")[2]]))
made = jit(function)({{"a": np.arange(5.0), "b": np.array(2.0)}})
print(seen["cache_hits"], seen["cache_misses"])
"""


def test_stages_are_kept(tmp_path):
    def seen():
        done = subprocess.run(
            [sys.executable, "-c", KEPT.format(tests=str(Path(__file__).parent))],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "SPEC2FN_CACHE": str(tmp_path)},
        )
        return tuple(map(int, done.stdout.split()))

    (found, made), (found_then, made_then) = seen(), seen()
    assert (found, made_then) == (0, 0)
    assert found_then == made == 4  # what is computed before, between and after
