"""Write official.yaml: steps, parameters and reference types of the official pipeline.

usage: python docs/official_parameters.py          (needs the extra parity: jwst)
"""

from pathlib import Path
from typing import Any

import yaml

PAGE = Path(__file__).with_name("official.yaml")
HEAD = """\
# Steps of the official pipeline (calwebb_spec2), their parameters with their defaults, and the
# reference types they ask for: `python docs/official_parameters.py` reads them off the package.
"""
# the machinery that every step has
_EVERY = (
    "pre_hooks", "post_hooks", "output_file", "output_dir", "output_ext", "output_use_index",
    "output_use_model", "save_results", "skip", "suffix", "search_output_file", "input_dir",
)  # fmt: skip


def official() -> dict[str, Any]:
    """Return what the installed package has."""
    from importlib import metadata

    from jwst.pipeline import Spec2Pipeline

    pipeline = Spec2Pipeline()
    found = pipeline.get_pars()
    steps = {}
    for name, values in sorted(found.pop("steps").items()):
        own = {k: _plain(v) for k, v in sorted(values.items()) if k not in (*_EVERY, "steps")}
        # what the machinery does is listed where a step has a value of its own
        changed = {k: _plain(values[k]) for k in _EVERY if values[k] != found[k]}
        types = sorted(set(getattr(pipeline, name).reference_file_types))
        steps[name] = {"parameters": own | changed, "references": types}
    return {
        "version": metadata.version("jwst"),
        "pipeline": {k: _plain(v) for k, v in sorted(found.items()) if k not in _EVERY},
        "every_step": {k: _plain(found[k]) for k in _EVERY},
        "steps": steps,
    }


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    text = yaml.safe_dump(official(), sort_keys=False, default_flow_style=None, width=100)
    PAGE.write_text(HEAD + text, "utf-8")
