"""What describes the grid of an output, beside the plan that fills it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Provenance"]


@dataclass(frozen=True)
class Provenance:
    """What takes no part in computing the output: equal to any other one, and never traced.

    Attributes
    ----------
    wcs : gwcs.WCS or mapping of int to gwcs.WCS
        Of the output; of slits by slit id.
    s_region : str or tuple of (str or None)
        S_REGION; of slits in their order.
    science, primary : mapping
        Keywords by header; None removes one.
    """

    wcs: Any = field(compare=False, repr=False)
    s_region: Any = field(compare=False)
    science: Any = field(default=None, compare=False, repr=False)
    primary: Any = field(default=None, compare=False, repr=False)
