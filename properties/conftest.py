"""What is drawn, and how often: see :func:`spec2fn.testing.profiles.load_profile`."""

import os

# as in the other tests, so that both can run in one process
os.environ.setdefault("JAX_NUMPY_DTYPE_PROMOTION", "strict")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("SPEC2FN_CACHE", "off")

from spec2fn.testing.profiles import load_profile

load_profile()
