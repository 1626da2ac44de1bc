"""The integral field unit of the NIRSpec of :mod:`spec2fn.forward.nirspec.optics`.

Thirty slices of straight lines, in the order of the instrument: neighbours on the sky lie in
opposite halves of the detector. Both directions of every transform are exact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.forward.nirspec import optics as nirspec_optics
from spec2fn.typing import HostArray

if TYPE_CHECKING:
    from astropy.modeling import Model

__all__ = ["CHROMATIC", "optics_trees"]

_SLICES = 30
_WIDTH, _LENGTH = 0.0008, 0.012  # m
_SPACING = 0.0024  # m in the plane of the MSA
_BESIDE = 0.03  # m across, beside the fixed slits
_DEMAGNIFIED = 0.1
_FORE = ((0.05, 0.0413), (0.1028, 0.0))  # scale and shift of x and y, slicer to MSA
CHROMATIC = (4.0e-6, -2.0e-6)
"""Shift of the image with wavelength [deg/um]."""


def _centres() -> HostArray:
    # 0, 2, 4, ... on one side of the middle, 1, 3, 5, ... on the other
    number = np.arange(_SLICES)
    side = np.where(number % 2, -1, 1)
    return side * (number // 2 + 0.5) * _WIDTH


@functools.cache
def optics_trees(
    grating: str, chromatic: tuple[float, float] = CHROMATIC
) -> Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]]:
    """Return content and mode of what assign_wcs needs for NRS_IFU, by reference type.

    `chromatic` is the shift of the image in the fore optics [deg/um].
    """
    from astropy.modeling.models import Rotation2D, Shift

    shared = nirspec_optics.optics_trees(grating)
    kind = [("NO", "i4"), ("XC", "f8"), ("YC", "f8"), ("SIZEX", "f8"), ("SIZEY", "f8")]
    rows = [(i, x, 0.0, _WIDTH, _LENGTH) for i, x in enumerate(_centres())]
    slicer = {"data": np.array(rows, dtype=kind), "model": Rotation2D(0.0) | Shift(0) & Shift(0)}
    return {
        **shared,
        "ifuslicer": (slicer, {}),
        "ifupost": ({f"slice_{i}": _post(i) for i in range(_SLICES)}, {}),
        "ifufore": ({"model": _fore()}, {}),
        "chromcorr": ({"model": _chromatic(chromatic)}, {}),
    }


def _post(i: int) -> Mapping[str, Any]:
    from astropy.modeling.models import Polynomial2D, Scale, Shift

    # the place on the detector follows the place on the sky
    rank = int(np.argsort(np.argsort(_centres()))[i])
    y = (rank - (_SLICES - 1) / 2) * _SPACING
    linear = Shift(-float(_centres()[i])) & Shift(0.0) | Scale(_DEMAGNIFIED) & Scale(_DEMAGNIFIED)
    return {
        "linear": linear | Shift(_BESIDE) & Shift(y),
        "xpoly": Polynomial2D(1, c1_0=1.0),
        "xpoly_distortion": Polynomial2D(1, c0_0=0.002),
        "ypoly": Polynomial2D(1, c0_1=1.0),
        "ypoly_distortion": Polynomial2D(1, c0_0=0.02, c0_1=0.1),
    }


def _fore() -> Model:
    from astropy.modeling.models import Mapping as Map
    from astropy.modeling.models import Scale, Shift

    (a, x), (b, y) = _FORE
    plane = Map((0, 1), n_inputs=3)
    model = plane | Scale(a) & Scale(b) | Shift(x) & Shift(y)
    model.inverse = plane | Shift(-x) & Shift(-y) | Scale(1 / a) & Scale(1 / b)
    return model


def _chromatic(shift: tuple[float, float]) -> Model:
    from astropy.modeling.models import Identity, Polynomial2D
    from astropy.modeling.models import Mapping as Map

    def shifted(sign: float) -> Model:
        x, y = (Polynomial2D(1, c1_0=1.0, c0_1=sign * 1e6 * v) for v in shift)
        return Map((0, 2, 1, 2, 2)) | x & y & Identity(1)

    model = shifted(1.0)
    model.inverse = shifted(-1.0)
    return model
