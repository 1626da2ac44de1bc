"""The embedded example: render an exposure of known truth, calibrate it, compare.

Needs neither a network nor CRDS files: exposure, reference files and an offline CRDS cache are
made by :mod:`spec2fn.forward`, and calibrated the way real data are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spec2fn.demo.comparison import Comparison, LineComparison, compare
from spec2fn.demo.figures import plot
from spec2fn.demo.modes import DEMOS
from spec2fn.demo.orders import compare_orders, read_models
from spec2fn.errors import InputError, nearest

if TYPE_CHECKING:
    from spec2fn.forward.rendered import Rendered

__all__ = ["DEMOS", "Comparison", "Demo", "run_demo"]

CONTEXT = "jwst_0001.pmap"
_KNOTS = {"niriss-wfss": 25, "nircam-wfss": 60}
"""Of the spectra that are fitted all at once."""


@dataclass(frozen=True)
class Demo:
    """What :func:`run_demo` made.

    Attributes
    ----------
    mode : str
    folder : pathlib.Path
    files : mapping of str to Path
        ``input``, ``cache``, ``truth``, ``figure`` and the products by kind.
    comparisons : tuple of Comparison
        One for each source, the target first.
    seconds : mapping of str to float
        Time by stage.
    """

    mode: str
    folder: Path
    files: Mapping[str, Path]
    comparisons: tuple[Comparison, ...]
    seconds: Mapping[str, float]

    @property
    def comparison(self) -> Comparison:
        """That of the target."""
        return self.comparisons[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "mode": self.mode,
            "folder": str(self.folder),
            "files": {k: str(v) for k, v in self.files.items()},
            **_summary(self.comparison),
            "sources": [{"name": o.name, "slit": o.slit, **_summary(o)} for o in self.comparisons],
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
        }

    def __str__(self) -> str:
        width = max(map(len, self.files))
        total = sum(self.seconds.values())
        lines = [f"{self.mode}: rendered, calibrated and compared in {total:.1f} s"]
        lines += [f"  {k:{width}s}  {v}" for k, v in self.files.items()]
        if isinstance(self.comparison, LineComparison):
            lines.append(
                "wavelengths of the lines of the lamp, as they were found and as they are:"
            )
        else:
            lines.append("extracted spectra against truth at points without flagged pixels;")
            lines.append(
                "residual / error has mean 0 if unbiased, standard deviation 1 if errors are"
                " honest:"
            )
        names = [f"{c.name} ({c.slit})" if c.slit else c.name for c in self.comparisons]
        width = max(map(len, names))
        for name, c in zip(names, self.comparisons, strict=True):
            lines.append(f"  {name:{width}s}  {c}")
        return "\n".join(lines)


def _summary(c: Comparison) -> dict[str, Any]:
    return {
        "points": int(c.clean.sum()),
        "mean_pull": round(c.mean, 4),
        "std_pull": round(c.scatter, 4),
        "median_signal_to_noise": round(c.signal_to_noise, 1),
    }


def run_demo(
    mode: str,
    output_dir: str | os.PathLike[str],
    seed: int = 0,
    *,
    integrations: int = 10,
    progress: Callable[[str], Any] | None = None,
) -> Demo:
    """Render an exposure with a known spectrum, calibrate it and compare the result.

    Parameters
    ----------
    mode : str
        One of :data:`spec2fn.demo.modes.DEMOS`.
    output_dir : path
        Where everything goes; made if it does not exist.
    seed : int
        Of noise, flat and bad pixels.
    integrations : int
        Of the time series.
    progress : callable, optional
        Called with the name of each stage and step.

    Returns
    -------
    Demo

    Raises
    ------
    InputError
        For an unknown mode, or a folder that cannot be written.
    """
    if mode not in DEMOS:
        msg = f"no demo {mode!r}{nearest(mode, DEMOS)}; there are {', '.join(DEMOS)}"
        raise InputError(msg)
    if seed < 0:
        raise InputError(f"demo: seed must be at least 0, got {seed}")
    if integrations < 1:
        msg = f"demo: integrations must be at least 1, got {integrations}"
        raise InputError(msg)
    from spec2fn.calibration import calibrate, output_folder
    from spec2fn.io import open_product
    from spec2fn.refs import use_cache

    tell = progress or (lambda _: None)
    folder = output_folder(output_dir).resolve()
    times = [time.perf_counter()]
    tell("render")
    rendered, association, cache = _render(mode, folder, seed, integrations)
    times.append(time.perf_counter())
    params: dict[str, dict[str, Any]] = {"pixel_replace": {"skip": False}}
    if mode == "miri-lrs-slit":
        params["targ_centroid"] = {"skip": False}
    if mode == "miri-mrs":
        params["cube_build"] = {"output_type": "band"}
    if mode == "niriss-soss":
        params["extract_1d"] = {"soss_modelname": mode}
    if mode in ("miri-mrs", "nirspec-ifu"):
        # what is clipped counts in the area of the annulus, and biases the background
        params["extract_1d"] = {"bkg_sigma_clip": 10.0}
    shown: dict[str, Any] = {}
    with use_cache(cache, CONTEXT):
        if mode.endswith("wfss"):
            params["wfss_contam"] = {"skip": True}
            shown["uncorrected"] = calibrate(association, params=params).products
            params["wfss_contam"] = {
                "skip": False,
                "joint_knots": _KNOTS[mode],
                "save_simulated_image": True,
            }
        result = calibrate(
            association,
            folder / "products",
            params=params,
            save_steps=["flat_field"] if shown else (),
            progress=progress,
        )
    times.append(time.perf_counter())
    tell("compare")
    of_mode = compare_orders if mode == "niriss-soss" else compare
    comparisons = of_mode(result.products, rendered)
    shown |= result.products
    if "uncorrected" in shown:
        shown["uncorrected"] = compare(shown["uncorrected"], rendered)
        shown |= {n: open_product(result.files[n]) for n in ("flat_field", "simul")}
    if "SossExtractModel" in result.files:
        shown["models"] = read_models(result.files["SossExtractModel"])
    files = {
        "input": association,
        "cache": cache,
        **dict(result.files),
        "truth": _write_truth(folder / "truth.fits", rendered),
        "figure": plot(folder / f"{mode}.png", mode, comparisons, shown),
    }
    times.append(time.perf_counter())
    seconds = dict(zip(("render", "calibrate", "compare"), np.diff(times).tolist(), strict=True))
    return Demo(mode, folder, files, comparisons, seconds)


def _render(
    mode: str,
    folder: Path,
    seed: int,
    integrations: int,
    **scene: Any,  # noqa: ANN401 - see render
) -> tuple[Rendered, Path, Path]:
    """Write exposures, association, references and cache; return the truth and the last three."""
    from spec2fn.forward.renderers import render
    from spec2fn.refs import CacheEntry, write_cache

    instrument = mode.split("-", maxsplit=1)[0]
    cache = folder / "crds_cache"
    references = cache / "references" / "jwst" / instrument
    references.mkdir(parents=True, exist_ok=True)
    rendered = render(DEMOS[mode], seed, integrations, folder=references, **scene)
    entries = [
        CacheEntry(f.path, instrument, f.reftype, {k.upper(): v for k, v in f.match.items()})
        for f in rendered.reference_files
    ]
    write_cache(cache, entries, CONTEXT)
    return rendered, rendered.write(folder), cache


def _write_truth(path: Path, rendered: Rendered) -> Path:
    from astropy.io import fits

    if not rendered.sources:
        truths = [("TRUTH", rendered.truth, "Jy")]
    else:
        units = {"point": "Jy", "lamp": "DN/s"}
        truths = [(s.slit, s.truth, units.get(s.kind, "MJy/sr")) for s in rendered.sources]
    hdus = [fits.PrimaryHDU()]
    for name, truth, unit in truths:
        flux = np.atleast_2d(truth.flux)
        columns = [
            fits.Column("WAVELENGTH", "D", unit="um", array=truth.wavelength),
            fits.Column("FLUX", f"{len(flux)}D", unit=unit, array=flux.T),
        ]
        hdus.append(fits.BinTableHDU.from_columns(columns, name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path
