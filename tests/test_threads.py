import threading

import pytest

from spec2fn.errors import ParameterError
from spec2fn.threads import in_threads, thread_count


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
