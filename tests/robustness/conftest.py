"""Runs on damaged input: the products stay as they are, or one line says what is wrong.

``case(mode)`` gives the rendered exposure of a demo with its references and association;
``case(mode).run(...)`` calibrates a copy of it from files to Datasets, in this process, and
``judge`` says which of the two outcomes it had. There must be no third.
"""

import functools
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.calibration import calibrate
from spec2fn.demo import run as demo
from spec2fn.errors import InputError, Spec2fnError
from spec2fn.forward.niriss.instrument import Strip
from spec2fn.refs import use_cache

# few planes of the cubes will do: what comes before them is the same
PARAMETERS = {
    "miri-mrs": {"cube_build": {"channel": "1", "wavemin": 5.3, "wavemax": 5.36}},
    "nirspec-ifu": {"cube_build": {"wavemin": 3.0, "wavemax": 3.1}},
    "niriss-soss": {"extract_1d": {"soss_n_os": 1, "soss_tikfac": 1e-8, "soss_rtol": 1e-2}},
}
# and few columns
SCENES = {"niriss-soss": {"strip": Strip("SUBSTRIP256", 256, columns=768)}}


@dataclass(frozen=True)
class Outcome:
    """What a run made: products by kind and the report, or the error that stopped it."""

    products: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    error: Spec2fnError | None = None

    @property
    def statuses(self):
        return {s["step"]: s["status"] for s in self.report.get("steps", ())}


@dataclass(frozen=True)
class Case:
    """The rendered exposure of a demo.

    Attributes
    ----------
    mode : str
        One of :data:`spec2fn.demo.run.DEMOS`.
    folder : Path
        Holds the exposures, the association and the MSA metadata; to be copied, not changed.
    association : dict
    cache : Path
        Offline CRDS cache of the references.
    references : dict of str to Path
        Reference files by type; of a mode with two branches, those of the first.
    """

    mode: str
    folder: Path
    association: Mapping[str, Any]
    cache: Path
    references: Mapping[str, Path]

    @property
    def members(self):
        """File names by role, ``science`` among them."""
        out = {}
        for member in self.association["products"][0]["members"]:
            out.setdefault(member["exptype"], []).append(member["expname"])
        return out

    @property
    def science(self):
        """File name of the science exposure."""
        return self.members["science"][0]

    def copy(self, folder):
        """Copy the input to `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.is_file():
                shutil.copy(path, folder)
        return folder

    def run(self, folder=None, *, association=None, params=None, **options):
        """Calibrate the association in `folder` (default: the original), writing nothing.

        Parameters
        ----------
        folder : Path, optional
            From :meth:`copy`, edited.
        association : dict, optional
            Instead of the one in the folder.
        params : dict, optional
            By step.
        **options
            Of :func:`spec2fn.calibrate`, such as ``overrides``.

        Returns
        -------
        Outcome
            Errors of spec2fn are an outcome; any other exception is a failure of the test.
        """
        folder = folder or self.folder
        path = folder / "robustness_asn.json"
        path.write_text(json.dumps(association or self.association))
        wanted = {k: dict(v) for k, v in PARAMETERS.get(self.mode, {}).items()}
        for step, values in (params or {}).items():
            wanted.setdefault(step, {}).update(values)
        with use_cache(self.cache, demo.CONTEXT):
            try:
                result = calibrate(path, params=wanted, **options)
            except Spec2fnError as error:
                return Outcome(error=error)
        return Outcome(result.products, result.report)

    @functools.cached_property
    def usual(self):
        """The outcome with nothing edited."""
        outcome = self.run()
        assert outcome.error is None, outcome.error
        return outcome


_CASES = {}


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """``case(mode)``: the :class:`Case` of a demo, rendered once."""

    def get(mode):
        if mode not in _CASES:
            folder = tmp_path_factory.mktemp(f"robust-{mode}")
            rendered, association, cache = demo._render(mode, folder, 0, 2, **SCENES.get(mode, {}))
            files = {}
            for f in rendered.reference_files:
                files.setdefault(f.reftype, Path(f.path))
            content = json.loads(Path(association).read_text())
            _CASES[mode] = Case(mode, folder, content, cache, files)
        return _CASES[mode]

    yield get
    _CASES.clear()


def edit_header(path, keyword, value, ext=None):
    """Set a keyword of a FITS file in place where it stands, or delete it (value None).

    `ext` names the extension; by default every header that holds the keyword is changed.
    Returns the number of headers changed.
    """
    changed = 0
    with fits.open(path, mode="update", memmap=False) as hdus:
        for hdu in hdus:
            if keyword not in hdu.header or (ext is not None and hdu.name != ext):
                continue
            if value is None:
                del hdu.header[keyword]
            else:
                hdu.header[keyword] = value
            changed += 1
    return changed


def parts(product):
    """The Datasets of a product by name: one, or those of its slits or cubes."""
    if hasattr(product, "buckets"):
        return {n: product.slit(n) for n in product.names}
    if hasattr(product, "cubes"):
        return dict(product.items())
    return {"": product}


def difference(ours, usual):
    """Say in a line how two sets of products differ in their numbers, or return None."""
    if sorted(ours) != sorted(usual):
        return f"products are {sorted(ours)}, not {sorted(usual)}"
    for kind, product in ours.items():
        mine, theirs = parts(product), parts(usual[kind])
        if sorted(mine) != sorted(theirs):
            return f"{kind} holds {sorted(mine)}, not {sorted(theirs)}"
        for name, ds in mine.items():
            other = theirs[name]
            for variable in sorted({*ds.variables, *other.variables}):
                if variable not in ds.variables or variable not in other.variables:
                    return f"{kind} {name}: {variable} is in one of them only"
                a, b = np.asarray(ds[variable].values), np.asarray(other[variable].values)
                same = a.shape == b.shape and (
                    np.array_equal(a, b, equal_nan=True)
                    if a.dtype.kind == "f"
                    else np.array_equal(a, b)
                )
                if not same:
                    return f"{kind} {name}: {variable} differs"
                if ds[variable].attrs.get("units") != other[variable].attrs.get("units"):
                    return f"{kind} {name}: the units of {variable} differ"
    return None


def judge(outcome, usual, *names):
    """Return "same" or "refused"; raise AssertionError for a third outcome.

    Parameters
    ----------
    outcome, usual : Outcome
    *names : str
        The error must name one of them.
    """
    if outcome.error is not None:
        text = str(outcome.error)
        assert isinstance(outcome.error, InputError), f"{type(outcome.error).__name__}: {text}"
        assert "\n" not in text, text
        assert not names or any(n.lower() in text.lower() for n in names), (names, text)
        return "refused"
    found = difference(outcome.products, usual.products)
    assert found is None, found
    return "same"
