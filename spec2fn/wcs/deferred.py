"""A gwcs that is put together when somebody needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["DeferredWcs"]


class DeferredWcs:
    """Stands for a gwcs until it is used: called, or asked for an attribute.

    Putting the gwcs of thirty slices together takes longer than to evaluate them, and many
    exposures (backgrounds, imprints) are never asked for theirs.

    Parameters
    ----------
    make : callable
        Returns the gwcs.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._wcs: Any = None

    def load(self) -> Any:
        """Return the gwcs itself."""
        if self._make is not None:
            self._wcs = self._make()
            self._make = None
        return self._wcs

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the gwcs."""
        return self.load()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_make", "_wcs"):
            raise AttributeError(name)
        return getattr(self.load(), name)

    def __repr__(self) -> str:
        return repr(self._wcs) if self._make is None else "<gwcs, not put together yet>"
