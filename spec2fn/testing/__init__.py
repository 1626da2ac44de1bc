"""What tests of calibration code need: exposures with known truth, and strategies.

* :func:`check_step`: whether a step keeps the contract (:mod:`spec2fn.testing.contract` has its
  parts);
* :mod:`spec2fn.testing.exposures`: small exposures and their references, made once per process;
* :mod:`spec2fn.testing.strategies`: `hypothesis <https://hypothesis.readthedocs.io>`_ strategies
  (needs hypothesis, the extra ``spec2fn[test]``).
"""

from __future__ import annotations

from typing import Any

__all__ = ["check_step"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    # on first use: the contract imports the steps' machinery, strategies need hypothesis
    if name == "check_step":
        from spec2fn.testing.contract import check_step

        return check_step
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
