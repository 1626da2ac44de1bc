"""The pipelines of the library."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.engine.checks import check_order
from spec2fn.engine.pipeline import steps_of, with_parameters
from spec2fn.pipelines import MODES


@pytest.mark.parametrize("exp_type", MODES)
def test_every_step_finds_what_it_reads_when_all_are_switched_on(exp_type):
    pipeline = MODES[exp_type][1]
    everything = with_parameters(pipeline, {s.key: {"skip": False} for s in steps_of(pipeline)})
    names = ("sci", "err", "dq", "var_poisson", "var_rnoise")
    rate = xr.Dataset({n: (("y", "x"), np.zeros((2, 2))) for n in names})
    check_order(everything, rate)
