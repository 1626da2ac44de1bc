"""Open ASDF files without importing packages that no JWST file needs.

asdf imports every package that registers a plugin before it reads its first file; ndcube,
specutils, stpipe and their like take longer than all our reading and bring matplotlib along.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asdf.config import AsdfConfig

__all__ = ["light_asdf"]

_UNRELATED = frozenset(
    {"dkist", "ndcube", "rad", "roman-datamodels", "specutils", "stpipe", "sunpy"}
)

_state: dict[str, Any] = {}


@contextlib.contextmanager
def light_asdf() -> Iterator[None]:
    """Within the block, asdf of this thread does without the plugins of unrelated packages.

    Has no effect once asdf has loaded all its plugins anyway, and none on code outside the block.
    """
    import asdf
    from asdf import _entry_points

    with asdf.config_context() as config:
        # no public way to choose plugins exists; without these attributes all are loaded
        private = vars(config)
        if not {"_extensions", "_resource_mappings", "_resource_manager"} <= private.keys():
            yield
            return
        if private["_extensions"] is None and private["_resource_mappings"] is None:
            if not _state:
                _state.update(_load(_entry_points, config))
            private.update(_state)
        yield


def _load(module: ModuleType, config: AsdfConfig) -> dict[str, Any]:
    import yaml

    everything = module.entry_points

    def related(group: str) -> list[Any]:
        return [e for e in everything(group=group) if e.dist.name not in _UNRELATED]

    # the parser in Python reads the fifty manifests for longer than some modes take to calibrate
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    parser = SimpleNamespace(safe_load=lambda text: yaml.load(text, loader))  # noqa: S506 - safe
    manifests = sys.modules.get("asdf.extension._manifest")
    with _replaced(module, "entry_points", related), _replaced(manifests, "yaml", parser):
        extensions, mappings = config.extensions, config.resource_mappings
    return {
        "_extensions": extensions,
        "_resource_mappings": mappings,
        "_resource_manager": config.resource_manager,
    }


@contextlib.contextmanager
def _replaced(module: ModuleType | None, name: str, value: object) -> Iterator[None]:
    """Replace a name of a module within the block, if there is such a module and such a name."""
    names = {} if module is None else vars(module)
    if name not in names:
        yield
        return
    kept = names[name]
    names[name] = value
    try:
        yield
    finally:
        names[name] = kept
