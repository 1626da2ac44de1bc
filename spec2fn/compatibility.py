"""Parameters that give the numbers of another package where ours differ by choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spec2fn.errors import ParameterError, nearest

__all__ = ["PRESETS", "preset"]

PRESETS: Mapping[str, tuple[tuple[str, str, Any], ...]] = {
    "jwst-3.0": (
        # lamps: a frame of reference that they do not move in, flags of shutters beside fixed slits
        ("assign_wcs", "lamp_velocity", True),
        ("msaflagopen", "beside_fixed_slits", True),
        ("wavecorr", "lamps", False),
        # pixels of exposures in the plane of the slicer
        ("cube_build", "internal_outline", "shifted"),
        # traces of slitless spectra
        ("assign_wcs", "grism_rotation", "opposite"),
        ("assign_wcs", "grism_inverse", "approximate"),
        ("assign_wcs", "grism_reference", "keyword"),
        ("extract_2d", "tsgrism_window", "fixed"),
        ("extract_2d", "integration_times", "time_series"),
        # the official errors leave the variance of what is subtracted out
        ("background", "propagate_variance", False),
        # orders that are not extracted count as background
        ("background", "wfss_all_orders", False),
        # faint pixels of overlapping orders one by one
        ("background", "soss_bkg_block", 1),
        ("imprint", "propagate_variance", False),
        ("master_background", "propagate_variance", False),
        # spectra without slits
        ("photom", "round_wavelengths", True),
        ("photom", "uncalibrated", "kept"),
        # spectra of overlapping orders
        ("extract_1d", "soss_masked_pixels", "dropped"),
        ("extract_1d", "soss_criterion", "official"),
        ("extract_1d", "soss_official_model", True),
        ("photom", "orders_unit", "MJy"),
        ("photom", "orders_beyond", "zero"),
        # spectra of several integrations from pixels of the exposure
        ("resample_spec", "several", "left"),
        # clean_flicker_noise, the successor of nsclean
        ("nsclean", "fit_method", "median"),
        ("nsclean", "background_method", "median"),
        ("nsclean", "mask_spectral_regions", False),
        ("nsclean", "n_sigma", 2.0),
        ("nsclean", "single_mask", True),
        # trace models: missing and hot pixels in the scales of columns, lent profiles
        ("adaptive_trace_model", "robust_scale", False),
        ("adaptive_trace_model", "interpolate_profiles", False),
        ("pixel_replace", "robust_scale", False),
        ("pixel_replace", "interpolate_profiles", False),
        ("wfss_contam", "flag_above", None),
        ("wfss_contam", "official_model", True),
        ("wfss_contam", "propagate_variance", False),
    ),
}
"""Steps, parameters and values by name of the preset."""


def preset(name: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of a preset, by step.

    Parameters
    ----------
    name : str
        One of :data:`PRESETS`.

    Raises
    ------
    ParameterError
        If there is no such preset.
    """
    if name not in PRESETS:
        msg = f"compatibility {name!r} is not known{nearest(name, PRESETS)}; there is " + ", ".join(
            PRESETS
        )
        raise ParameterError(msg)
    chosen: dict[str, dict[str, Any]] = {}
    for step, parameter, value in PRESETS[name]:
        chosen.setdefault(step, {})[parameter] = value
    return chosen
