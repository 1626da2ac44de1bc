import dataclasses
import functools
import threading

import pytest
import xarray as xr

from spec2fn.errors import ParameterError
from spec2fn.threads import in_threads, one_blas_thread, thread_count


def test_results_keep_their_order():
    gate = threading.Event()

    def slow_first(i):
        if i == 0:
            assert gate.wait(10)
        gate.set()
        return i * i

    assert in_threads(slow_first, range(5), count=2) == [0, 1, 4, 9, 16]


def test_one_thread_is_the_calling_one(monkeypatch):
    monkeypatch.setenv("SPEC2FN_THREADS", "1")
    names = in_threads(lambda _: threading.current_thread(), range(3))
    assert set(names) == {threading.current_thread()}


def test_an_error_is_raised_where_the_work_was_asked_for():
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda i: 1 / i, [1, 0, 2], count=2)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_wrong_number_of_threads_is_refused(monkeypatch, value):
    monkeypatch.setenv("SPEC2FN_THREADS", value)
    with pytest.raises(ParameterError, match="SPEC2FN_THREADS: needs a number of threads"):
        thread_count()


def blas_threads():
    from threadpoolctl import threadpool_info

    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


@pytest.fixture
def two_blas_threads():
    import scipy.linalg  # noqa: F401 - has a library of its own
    from threadpoolctl import threadpool_limits

    with threadpool_limits(2, "blas"):
        if blas_threads() != {2}:
            pytest.skip("this BLAS has no threads")
        yield


def test_steps_keep_blas_to_one_thread(two_blas_threads):
    # thousands of small systems: threads of BLAS would wait for each other
    from spec2fn.steps.residual_fringe import residual_fringe

    seen = []

    def look(*args, **kwargs):
        seen.append(blas_threads())
        return args[0]

    ours = functools.wraps(residual_fringe.function)(lambda *args, **kwargs: look(*args))
    step = dataclasses.replace(residual_fringe, function=ours, reads=(), planner=None)
    step(xr.Dataset({"sci": ("x", [1.0])}))
    assert seen == [{1}]
    assert blas_threads() == {2}
    # what a user's own function does is the user's business
    dataclasses.replace(step, function=look, ordered=())(xr.Dataset({"sci": ("x", [1.0])}))
    assert seen[1] == {2}


def test_the_limit_ends_with_the_last_who_needs_it(two_blas_threads):
    first, second = one_blas_thread(), one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert blas_threads() == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == {2}


def test_the_limit_ends_with_an_error(two_blas_threads):
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        1 / 0  # noqa: B018
    assert blas_threads() == {2}
