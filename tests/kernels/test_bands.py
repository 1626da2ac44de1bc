"""Kernels on bands of rows give what they give on whole images."""

import threading

import numpy as np
import pytest

from spec2fn.kernels import bands


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(bands, "_BAND", 8)
    monkeypatch.setenv("SPEC2FN_THREADS", "2")


def kernel(planes, dq, factor, *, offset=0.0):
    kernel.shapes.append(dq.shape)
    out = {name: plane * factor + offset for name, plane in planes.items()}
    return out, dq + np.uint32(1)


def compared(planes, dq, factor, **options):
    kernel.shapes = []
    wanted = kernel(planes, dq, factor, **options)
    kernel.shapes = []
    found = bands.by_rows(kernel)(planes, dq, factor, **options)
    for name in planes:
        np.testing.assert_array_equal(found[0][name], wanted[0][name])
        assert found[0][name].dtype == wanted[0][name].dtype
    np.testing.assert_array_equal(found[1], wanted[1])
    return kernel.shapes


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_results_are_those_of_the_whole(lead):
    rng = np.random.default_rng(1)
    shape = (*lead, 7, 5)
    planes = {"sci": rng.normal(size=shape).astype(np.float32), "err": rng.normal(size=shape)}
    dq = rng.integers(0, 9, shape).astype(np.uint32)
    shapes = compared(planes, dq, rng.normal(size=(7, 5)), offset=2.0)
    assert len(shapes) > 1
    assert all(s[-2] < 7 for s in shapes)


def test_scalars_and_rows_are_broadcast():
    rng = np.random.default_rng(2)
    planes, dq = {"sci": rng.normal(size=(9, 6))}, np.zeros((9, 6), np.uint32)
    assert len(compared(planes, dq, np.float64(3.0))) > 1
    assert len(compared(planes, dq, rng.normal(size=(1, 6)))) > 1


def test_small_images_stay_whole():
    assert compared({"sci": np.ones((3, 5))}, np.zeros((3, 5), np.uint32), 2.0) == [(3, 5)]


def test_what_jax_computes_stays_in_its_thread():
    jax = pytest.importorskip("jax")
    seen, table = [], np.ones((1, 21))  # no image

    def total(scale):
        def scaled(image):
            seen.append((image.shape, threading.current_thread()))
            return image * scale

        return bands.by_rows(scaled, table, scale)(np.ones((50, 4), np.float32)).sum()

    assert jax.grad(total)(1.0) == 200.0
    assert seen == [((50, 4), threading.current_thread())]
