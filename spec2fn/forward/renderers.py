"""Whole exposures with known truth, of every mode there is a renderer of.

A renderer is a row of :data:`RENDERERS`: the references of the mode, and a function that exposes
its scene with them. Noise, headers, files and the association are the same for all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from spec2fn.errors import InputError, nearest
from spec2fn.forward import ifu_render
from spec2fn.forward.lrs import references as lrs_references
from spec2fn.forward.lrs import render as lrs
from spec2fn.forward.mrs import references as mrs_references
from spec2fn.forward.nircam import references as nircam_references
from spec2fn.forward.nircam import render as nircam
from spec2fn.forward.niriss import references as niriss_references
from spec2fn.forward.niriss import render as niriss
from spec2fn.forward.nirspec import ifu_references as nirspec_ifu_references
from spec2fn.forward.nirspec import lamps
from spec2fn.forward.nirspec import references as nirspec_references
from spec2fn.forward.nirspec import render as nirspec
from spec2fn.forward.reference_files import Reference, ReferenceFile, open_references
from spec2fn.forward.rendered import Rendered
from spec2fn.forward.slitless import references as slitless_references
from spec2fn.forward.slitless import render as slitless
from spec2fn.forward.slitless.instrument import GRISMS
from spec2fn.modes import MODES

__all__ = ["RENDERERS", "Renderer", "render", "write_references"]


class Renderer(NamedTuple):
    """How exposures of a mode are made.

    `references` gives those of an exposure type and a seed, `expose` what is rendered with them,
    opened, and the seed; in a `series` it also takes a number of integrations. What a scene may
    ask for that the references depend on as well is `shared`.
    """

    references: Callable[..., Iterator[Reference]]
    expose: Callable[..., Rendered]
    series: bool = False
    shared: tuple[str, ...] = ()


RENDERERS: Mapping[str, Renderer] = {
    "MIR_LRS-FIXEDSLIT": Renderer(lrs_references.references, lrs.miri_lrs_slit),
    "MIR_LRS-SLITLESS": Renderer(lrs_references.references, lrs.miri_lrs_slitless, series=True),
    "MIR_MRS": Renderer(mrs_references.references, ifu_render.miri_mrs),
    "NIS_SOSS": Renderer(
        niriss_references.references, niriss.niriss_soss, series=True, shared=("strip",)
    ),
    "NRC_TSGRISM": Renderer(nircam_references.references, nircam.nircam_tsgrism, series=True),
    "NRS_FIXEDSLIT": Renderer(nirspec_references.references, nirspec.nirspec_fs),
    "NRS_BRIGHTOBJ": Renderer(nirspec_references.references, nirspec.nirspec_bots, series=True),
    "NRS_MSASPEC": Renderer(nirspec_references.references, nirspec.nirspec_mos),
    "NRS_IFU": Renderer(nirspec_ifu_references.references, ifu_render.nirspec_ifu),
    **{
        exp_type: Renderer(
            slitless_references.references, functools.partial(slitless.wide_field, exp_type)
        )
        for exp_type in GRISMS
    },
    **{
        name: Renderer(lamps.references, functools.partial(lamps.expose, name))
        for name, mode in MODES.items()
        if mode.lamp and (mode.light or mode.exp_type != "NRS_LAMP")
    },
}
"""Renderers by name of the mode."""


def render(
    exp_type: str,
    seed: int = 0,
    integrations: int = 10,
    *,
    folder: Path | None = None,
    **scene: object,
) -> Rendered:
    """Render exposures of a mode.

    Parameters
    ----------
    exp_type : str
        One of :data:`RENDERERS`: an exposure type, or of a lamp ``NRS_LAMP:IFU:LINE``.
    seed : int
        Of noise, flat and bad pixels.
    integrations : int
        Of a time series, of 10 s each.
    folder : Path, optional
        Where the reference files stay; without it they are deleted after reading.
    **scene
        What the renderer of the mode takes besides: ``slitlets`` of the micro-shutter array,
        ``strip`` of the single-object slitless spectrograph.

    Returns
    -------
    Rendered
        With role ``science``, and those of the exposures that belong to it.

    Raises
    ------
    InputError
        For an exposure type without a renderer.
    """
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = write_references(place, exp_type, seed, **scene)
        references = open_references(files, exp_type, load=folder is None)
        if RENDERERS[exp_type].series:
            scene["integrations"] = integrations
        rendered = RENDERERS[exp_type].expose(references, seed, **scene)
    return dataclasses.replace(rendered, seed=seed, reference_files=files, references=references)


def write_references(
    folder: Path, exp_type: str, seed: int = 0, **scene: object
) -> list[ReferenceFile]:
    """Write every reference file of a mode to an existing folder.

    `seed` is that of the flat, `scene` as of :func:`render`.
    """
    if exp_type not in RENDERERS:
        msg = f"no exposures of {exp_type!r}{nearest(exp_type, RENDERERS)}; there are"
        raise InputError(f"{msg} {', '.join(RENDERERS)}")
    start = f"jwst_{MODES[exp_type].instrument.lower()}"
    files: list[ReferenceFile] = []
    renderer = RENDERERS[exp_type]
    shared = {name: scene[name] for name in renderer.shared if name in scene}
    for one in renderer.references(exp_type, seed, **shared):
        number = 1 + sum(f.reftype == one.reftype for f in files)
        path = folder / f"{start}_{one.reftype}_{number:04d}.{one.suffix}"
        one.write(path)
        files.append(ReferenceFile(one.reftype, path, one.match))
    return files
