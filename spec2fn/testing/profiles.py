"""How hard property tests try: profiles of hypothesis, chosen with ``HYPOTHESIS_PROFILE``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["load_profile"]

_EXAMPLES = {"dev": 100, "ci": 100, "nightly": 2000}


def load_profile() -> None:
    """Load the profile of that name.

    ``dev`` by default: 100 examples; ``ci`` if CI is set: as many, the same ones every time;
    ``nightly``: 2000. An example may take as long as it wants.
    """
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    for name, many in _EXAMPLES.items():
        settings.register_profile(
            name,
            max_examples=many,
            derandomize=name == "ci",
            print_blob=name == "nightly",
            deadline=None,
            suppress_health_check=checks,
        )
    chosen = "ci" if os.environ.get("CI") else "dev"
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", chosen))
