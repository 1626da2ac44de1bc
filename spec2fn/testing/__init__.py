"""What tests of calibration code need: exposures with known truth, and strategies.

* :mod:`spec2fn.testing.exposures`: small exposures and their references, made once per process;
* :mod:`spec2fn.testing.strategies`: `hypothesis <https://hypothesis.readthedocs.io>`_ strategies
  (needs hypothesis, the extra ``spec2fn[test]``).
"""
