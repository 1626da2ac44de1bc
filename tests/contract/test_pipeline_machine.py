"""Any pipeline that can be put together runs, says what it did, and leaves nothing behind."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from spec2fn import insert_after, pipelines, run, with_parameters, without
from spec2fn.engine.pipeline import find_step, steps_of
from spec2fn.engine.step import Step
from spec2fn.errors import Spec2fnError
from spec2fn.schema import status_of
from spec2fn.testing import exposures

SLITLESS = exposures.RENDERED[1]
OPTIONAL = ("badpix_selfcal", "background", "flat_field", "photom", "pixel_replace", "extract_1d")


def untouched(ds):
    """A user's own step that changes nothing."""
    return ds


class PipelineMachine(RuleBasedStateMachine):
    """Edit the slitless pipeline step by step and run it in between."""

    @initialize()
    def start(self):
        self.pipeline = pipelines.MIRI_LRS_SLITLESS
        self.obs = exposures.observation(SLITLESS)
        self.refs = exposures.references(SLITLESS)
        self.before = self.obs.science["sci"].values.tobytes()

    def has(self, name):
        return any(s.name == name for s in steps_of(self.pipeline))

    @rule(name=st.sampled_from(OPTIONAL), skip=st.booleans())
    def switch(self, name, skip):
        if self.has(name):
            self.pipeline = with_parameters(self.pipeline, {name: {"skip": skip}})
            assert find_step(self.pipeline, name).skip is skip

    @rule(name=st.sampled_from(OPTIONAL))
    def remove(self, name):
        if self.has(name):
            self.pipeline = without(self.pipeline, name)
            assert not self.has(name)

    @rule(name=st.sampled_from(OPTIONAL))
    def insert(self, name):
        if self.has(name) and not self.has("untouched"):
            self.pipeline = insert_after(self.pipeline, name, untouched)

    @rule(algorithm=st.sampled_from(["mingrad", "fit_profile"]), n=st.integers(1, 5))
    def replace_pixels(self, algorithm, n):
        if self.has("pixel_replace"):
            values = {"algorithm": algorithm, "n_adjacent_cols": n, "skip": False}
            self.pipeline = with_parameters(self.pipeline, {"pixel_replace": values})

    @rule()
    def run_twice(self):
        try:
            first = run(self.pipeline, self.obs, self.refs)
        except Spec2fnError as error:
            assert "\n" not in str(error)  # noqa: PT017 - one line that a user can act on
            return
        second = run(self.pipeline, self.obs, self.refs)
        steps = [s for s in self.pipeline if isinstance(s, Step)]
        assert len(first.report) >= len(steps)
        for record in first.report:
            assert record.status == "COMPLETE" or record.status.startswith("SKIPPED: ")
            assert status_of(first.dataset, record.name)
        for kind, product in first.products.items():
            for name in product.variables:
                np.testing.assert_array_equal(second.products[kind][name], product[name])

    @invariant()
    def input_is_untouched(self):
        assert self.obs.science["sci"].values.tobytes() == self.before


TestPipelineMachine = PipelineMachine.TestCase
TestPipelineMachine.settings = settings(
    max_examples=max(3, settings.default.max_examples // 20), stateful_step_count=10, deadline=None
)
