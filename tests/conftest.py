"""Settings shared by all tests."""

import os

# Mixing float32 pixels with float64 geometry by accident is an error in the tests; broadcasting
# over integrations is part of the kernels' contract and stays allowed.
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# every program is compiled anew, and nothing is left in the home of who runs the tests
os.environ.setdefault("SPEC2FN_CACHE", "off")
