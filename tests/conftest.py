"""Settings shared by all tests."""

import gc
import os
import sys

import pytest

import spec2fn.buckets
import tests.buckets  # which has the padding that users have

assert tests.buckets.FREE_PADDING > 0
# Exposures of the tests are small; their slits are to have as many buckets as those of large ones.
spec2fn.buckets.FREE_PADDING = 0

# Mixing float32 pixels with float64 geometry by accident is an error in the tests; broadcasting
# over integrations is part of the kernels' contract and stays allowed.
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# every program is compiled anew, and nothing is left in the home of who runs the tests
os.environ.setdefault("SPEC2FN_CACHE", "off")


@pytest.fixture(scope="module", autouse=True)
def _programs_are_forgotten():
    """Compiled programs of a file serve no other, and take gigabytes in a long session."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    # exposures that all files share are not searched for garbage again and again
    gc.collect()
    gc.freeze()
