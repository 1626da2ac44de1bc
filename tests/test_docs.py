"""Every snippet of README.md and docs/ does what a reader would see it do.

Python is executed, the snippets of a page one after the other in one namespace; lines of shell run
through the command line, in the folder of the page. ``GIVEN`` makes the files that a page speaks
of, from exposures that the demos render, and ``CHECKS`` looks at what the page has made.

A snippet is left out only by a comment in the source of its page, directly above it, or below the
title for all snippets of the page::

    <!-- tests: slow: why -->       (then with -m slow)
    <!-- tests: not run: why -->    (and listed in NOT_RUN)
"""

import json
import os
import re
import shlex
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spec2fn.calibration import calibrate
from spec2fn.cli import main
from spec2fn.demo import run as demo
from spec2fn.engine.library import registered_steps
from spec2fn.io import open_product
from spec2fn.refs import cache_environment, use_cache

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {
    str(p.relative_to(ROOT)): p for p in PAGES if "_build" not in p.parts and not p.is_symlink()
}
if "README.md" not in PAGES or len(PAGES) < 2:
    pytest.skip("not in a checkout", allow_module_level=True)

# what a reader does to the own machine, first words of the line
INSTALLS = ("python3 -m venv", "pip install", "git clone", "python -m pytest", "python -m sphinx")
LANGUAGES = {"python": "python", "": "shell", "{toctree}": None}
NOT_RUN = {}
"""Page and line of snippets that cannot run: reason. Empty is best."""

TABLE = (
    "<!-- table: python docs/parity_table.py writes it from tests/parity/allowed.yaml -->",
    "<!-- end of table -->",
)
MARK = re.compile(r"<!-- tests: (slow|not run): (.+) -->")


@dataclass(frozen=True)
class Snippet:
    page: str
    line: int  # of its first line of code
    language: str
    code: str
    mark: str = ""
    reason: str = ""

    def __str__(self):
        return f"{self.page}:{self.line}"


def snippets_of(page, text):
    """The fenced blocks of a page, each with its mark."""
    found, lines, common = [], text.splitlines(), None
    start = None
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if start is None:
                start = number
                continue
            mark = MARK.fullmatch(lines[start - 1]) or common
            language = LANGUAGES[lines[start][3:].strip()]
            if language:
                code = "\n".join(lines[start + 1 : number]) + "\n"
                how = mark.groups() if mark else ("", "")
                found.append(Snippet(page, start + 2, language, code, *how))
            start = None
        elif start is None and number < 4 and not found:
            common = MARK.fullmatch(line) or common
    assert start is None, f"{page}: a block does not end"
    return found


SNIPPETS = {page: snippets_of(page, path.read_text("utf-8")) for page, path in PAGES.items()}


def test_no_snippet_hides():
    """Blocks that the suite would not recognise, and marks that mark nothing."""
    for page, path in PAGES.items():
        text = path.read_text("utf-8")
        lines = text.splitlines()
        fences = [line for line in lines if re.match(r"\s*(```|~~~|:::)", line)]
        assert all(line.startswith("```") for line in fences), f"{page}: unusual fence"
        comments = [line for line in lines if "<!--" in line]
        assert all(MARK.fullmatch(c) or c in TABLE for c in comments), f"{page}: unknown comment"
        assert "<pre" not in text, page
        indented = [i for i, line in enumerate(lines) if line.startswith(("    ", "\t"))]
        code = {
            i for s in SNIPPETS[page] for i in range(s.line - 1, s.line + s.code.count("\n") - 1)
        }
        for i in set(indented) - code:
            # no block of code: goes on with a list or a paragraph
            assert lines[i - 1].strip(), f"{page}:{i + 1} is an indented block"
        for i, line in enumerate(lines):
            if MARK.fullmatch(line):
                assert i < 4 or lines[i + 1].startswith("```"), f"{page}:{i + 1} marks nothing"


def test_what_is_not_run_is_known():
    left_out = {str(s): s.reason for page in SNIPPETS.values() for s in page if s.mark == "not run"}
    assert left_out == NOT_RUN


@pytest.mark.parametrize(
    "snippet", [s for p in SNIPPETS.values() for s in p if s.language == "python"], ids=str
)
def test_python_is_written_in_the_style_of_the_code(snippet):
    compile(snippet.code, str(snippet), "exec")
    assert max(map(len, snippet.code.splitlines())) <= 100


TIME_SERIES = ("miri-lrs-slitless", "nirspec-bots", "nircam-tsgrism", "niriss-soss")


@pytest.fixture(scope="session")
def rendering(tmp_path_factory):
    """Render every mode once, whoever asks; this is what ``spec2fn demo`` gets too."""
    made, original = {}, demo._render

    def render(mode, folder, seed=0, integrations=2):
        key = (mode, seed, mode in TIME_SERIES and integrations)
        if key not in made:
            origin = tmp_path_factory.mktemp(mode)
            made[key] = (origin, *original(mode, origin, seed, integrations))
        origin, rendered, association, cache = made[key]
        shutil.copytree(origin, folder, dirs_exist_ok=True)
        return rendered, folder / association.name, folder / cache.name

    yield render
    made.clear()


@dataclass(frozen=True)
class Folder:
    """Where a page is read, with what makes its files."""

    path: Path
    render: object

    def within(self, name):
        (self.path / name).mkdir()
        return Folder(self.path / name, self.render)

    def exposures(self, mode, **names):
        """Render a mode into this folder; `names` gives copies by the ending of the original."""
        rendered = self.render(mode, self.path)
        for ending, name in names.items():
            (found,) = self.path.glob(f"*_00001_*_{ending}.*")
            shutil.copy(found, self.path / name)
        return rendered


def given_readme(folder):
    folder.exposures("miri-lrs-slit", asn="spec2_asn.json")
    references = folder.path / "crds_cache/references/jwst/miri"
    shutil.copy(references / "jwst_miri_flat_0001.fits", folder.path / "my_flat.fits")


def given_time_series(folder):
    folder.exposures("miri-lrs-slitless", rateints="jw01234_rateints.fits")
    flat = folder.path / "crds_cache/references/jwst/miri/jwst_miri_flat_0001.fits"
    shutil.copy(flat, folder.path)


def given_slitlets(folder):
    folder.exposures("nirspec-mos", rate="jw01234_nrs1_rate.fits")


def given_lamps(folder):
    folder.exposures("nirspec-lamp", rate="jw01234_nrs1_rate.fits")


PLANES = {
    "miri-mrs": {"cube_build": {"channel": "1", "wavemin": 5.3, "wavemax": 5.36}},
    "nirspec-ifu": {"cube_build": {"wavemin": 3.0, "wavemax": 3.1}},
}


def given_integral_fields(folder):
    for mode, name in (("miri-mrs", "mirifushort"), ("nirspec-ifu", "nrs1")):
        _, association, cache = folder.within(mode).exposures(mode)
        with use_cache(cache, demo.CONTEXT):
            made = calibrate(association, folder.path / "out", params=PLANES[mode])
        shutil.copy(made.files["cal"], folder.path / f"jw01234_{name}_cal.fits")
    # the page asks for references of the last one, and calibrates it
    table = json.loads(association.read_text())
    for member in table["products"][0]["members"]:
        member["expname"] = f"{mode}/{member['expname']}"
    (folder.path / "spec2_asn.json").write_text(json.dumps(table))
    return cache


def given_mrs(folder):
    beside = folder.within("miri-mrs")
    _, _, cache = beside.exposures("miri-mrs", rate="../jw01234_mirifushort_rate.fits")
    return cache


GIVEN = {
    "README.md": given_readme,
    "docs/differentiable.md": given_time_series,
    "docs/step-contract.md": given_time_series,
    "docs/modes/nirspec-slits.md": given_slitlets,
    "docs/modes/nirspec-lamps.md": given_lamps,
}
GIVEN_SLOW = {
    "docs/differentiable.md": given_mrs,
    "docs/modes/integral-field.md": given_integral_fields,
}


def files(folder, pattern):
    return sorted(p.name for p in folder.glob(pattern))


def check_readme(folder, ns):
    assert (folder / "spec2fn-demo-miri-lrs-slit/miri-lrs-slit.png").exists()
    for kind in ("cal", "s2d", "x1d", "flat_field"):
        assert files(folder, f"*_00001_mirimage_{kind}.fits"), kind
    assert {f.rpartition("_")[2] for f in files(folder / "out", "*.fits")} == {
        f"{kind}.fits" for kind in ("cal", "s2d", "x1d")
    }
    assert ns["result"].products["x1d"]["flux"].dims == ("spectrum", "wave")
    # the column is masked, in this run alone, and the time dependence is left out
    mine, usual = (ns[k].products["cal"] for k in ("masked", "result"))
    assert np.isnan(mine["sci"][:, 325]).all()
    assert np.isfinite(usual["sci"][:, 325]).any()
    assert (mine["dq"][:, 325] & 1).all()
    others = np.arange(mine.sizes["x"]) != 325
    ratio = (mine["sci"] / usual["sci"]).values[:, others]
    assert np.nanstd(ratio) < 1e-5 < abs(np.nanmean(ratio) - 1)
    assert mine["sci"].attrs["units"] == usual["sci"].attrs["units"]


def check_quickstart(folder, ns):
    folder = folder / "spec2fn-demo-miri-lrs-slit"
    assert files(folder, "products/*.fits") == files(folder, "again/*.fits") != []
    assert set(ns["result"].products) >= {"cal", "s2d", "x1d"}
    steps = {s["step"]: s for s in ns["result"].report["steps"]}
    assert steps["photom"]["status"] == "COMPLETE"
    assert steps["pixel_replace"]["status"].startswith("SKIPPED: ")
    assert steps["photom"]["parameters"]["skip"] == {"value": False, "origin": "default"}
    assert [r.status for r in ns["out"].report if r.name == "photom"] == ["COMPLETE"]
    assert ns["flattened"].attrs["status_flat_field"] == "COMPLETE"
    assert open_product(folder / "my_cal.fits")["sci"].attrs["units"] == "MJy/sr"
    assert files(folder, "*_cal.fits") == ["my_cal.fits"]  # nothing else was written


def check_step_contract(folder, ns):
    ds, flat = ns["ds"], ns["flat"]
    done, left = ns["plain_flat"](ds, flat), ns["plain_flat"](ds)
    assert done.attrs["status_plain_flat"] == "COMPLETE"
    assert left.attrs["status_plain_flat"] == "SKIPPED: no flat reference"
    back = ns["plain_flat"](done, flat, inverse=True)
    known = np.isfinite(back["sci"].values)
    np.testing.assert_allclose(back["sci"].values[known], ds["sci"].values[known], rtol=1e-5)


def check_gradients(grads, wanted):
    assert {k: sorted(v) for k, v in grads.items()} == wanted
    for by_name in grads.values():
        for name, gradient in by_name.items():
            assert np.isfinite(gradient).all(), name
            assert np.any(gradient), name


def check_slopes(slopes, wanted):
    assert sorted(slopes) == sorted(wanted)
    for path, slope in slopes.items():
        assert np.isfinite(slope).all(), path
        assert np.any(slope), path


def check_differentiable(folder, ns):
    compiled, flux = ns["compiled"], ns["products"]["x1d"]["flux"]
    np.testing.assert_allclose(flux, compiled.first.products["x1d"]["flux"], rtol=1e-5)
    np.testing.assert_allclose(ns["other"]["x1d"]["flux"], flux, rtol=1e-6)
    np.testing.assert_allclose(ns["fainter"]["x1d"]["flux"], flux / 2, rtol=1e-5)
    assert ns["members"]
    check_slopes(ns["slopes"], ["refs/flat/sci", "refs/photom/photom.photmjsr", "science/sci"])
    # a brighter flat makes a fainter spectrum: the tilt moves its ends apart
    moved = np.asarray(ns["change"])[:, 0, 20:-20]
    assert np.isfinite(moved).all()
    assert 0.005 < abs(moved[:, 0] - moved[:, -1]).min() < 0.02
    assert ns["noisy"].products["x1d"]["flux"].dims[0] == "realisation"
    assert 0.9 < ns["noisy"].coverage() < 1.1 < ns["correlated"].coverage()
    brighter = ns["brighter"]["x1d"]["flux"]
    np.testing.assert_allclose(brighter[2], 1.2 * brighter[0], rtol=1e-5)
    assert list(ns["swept"]["flux"].dims[:2]) == list(ns["grid"])
    assert open_product(folder / "offsets.nc").sizes["extract_1d.position_offset"] == 3
    assert {p.rpartition("_")[2] for p in files(folder / "compiled", "*.fits")} == {
        "calints.fits",
        "x1dints.fits",
    }
    start = ns["start"]
    for made in (ns["flattened"], ns["per_integration"](start)):
        usual = ns["flat_field"](start, ns["reference"], plan=ns["plan"])
        np.testing.assert_allclose(made["sci"], usual["sci"], rtol=1e-6)
    whole = ns["pathloss"](ns["bucket"], ns["reference_of_losses"], plan=ns["losses"])
    np.testing.assert_allclose(ns["out"]["sci"], whole["sci"], rtol=1e-5)


def check_differentiable_slow(folder, ns):
    check_slopes(ns["slopes"], ns["wrt"])
    assert ns["compiled"].observation.science.attrs["exp_type"] == "MIR_MRS"


def check_own_steps(folder, ns):
    assert ns["broken"].startswith("forgetful: sci and err are not NaN together")


def check_slitlets(folder, ns):
    assert ns["cal"].names[:2] == ("1", "2")
    assert ns["cal"].names[-1] == "S200A1"
    assert ns["cal"].slit("S200A1")["sci"].dims == ("y", "x")
    assert ns["cal"].select(source_ids=[12]).names == ("12",)
    (path,) = folder.glob("jw01234_nrs1_cal.fits")
    wave = [np.nanmin(s["wavelength"]) for s in open_product(path)]
    assert min(wave) < 0.6


def check_lamps(folder, ns):
    assert 3.8 < float(ns["wavelength"]) < 4.1
    # a slit runs along y, in metres
    assert abs(float(ns["y_msa"])) < 0.05
    assert ns["x1d"]["flux"].attrs["units"] == "DN/s"
    assert (folder / "spec2fn-demo-nirspec-lamp/nirspec-lamp.png").exists()


def check_slitless(_folder, ns):
    assert ns["slits"].names == ("2", "3")
    assert ns["spectra"]["sourceid"].values.tolist() == [2, 3]
    assert ns["spectra"]["flux"].dims == ("spectrum", "wave")
    assert ns["last"]["x1d"]["flux"].attrs["units"] == "Jy"


def check_grism_time_series(_folder, ns):
    assert float(ns["wavelength"]) == pytest.approx(4.4, abs=1e-12)
    assert ns["x"] < ns["x0"]


def check_soss(_folder, ns):
    moved = ns["moved"]
    assert 0.2 < moved.max() - moved.min() < 0.5
    assert ns["box"].sum(axis=0).max() == pytest.approx(40.0)
    assert ns["columns"].shape == (3, 2048)
    assert ns["image"].shape == (256, 2048)
    assert ns["back"].shape == ns["spectrum"].shape
    # a sky of 1.7 DN/s, and the noise
    known = ns["level"][:, 10:-10]
    assert np.median(known) == pytest.approx(1.7, abs=0.4)
    assert np.std(known) == pytest.approx(2.0, abs=0.4)


def check_integral_fields(folder, ns):
    for name in ("alpha", "beta", "across", "along", "ra", "dec", "wavelength"):
        assert np.isfinite(ns[name]).any(), name
    assert {"ra", "dec", "slice_id"} <= set(ns["ds"].variables)
    good = ns["total"] > 0
    covered = np.zeros(ns["cube"]["wmap"].size, bool)
    covered[ns["weights"].voxels[good]] = True
    assert (covered >= (ns["cube"]["wmap"].values.ravel() > 0)).all()
    assert ns["pixels"].shape == ns["ones"].shape
    assert (folder / "pixels.fits").stat().st_size > 1e6
    assert {f.rpartition("_")[2] for f in files(folder, "*_00001_*_*.fits")} >= {
        "cal.fits",
        "s3d.fits",
        "x1d.fits",
    }
    check_gradients(ns["grads"], {0: ["sci"], 1: ["centre", "radius"]})
    back, grid = (ns["sky_back"], ns["flux_back"]), ns["grid"]
    assert [b.shape for b in back] == [grid.shape, grid.shape]
    # the adjoint of what has been rendered
    assert sum(b @ v for b, v in zip(back, (ns["sky"], ns["flux"]), strict=True)) == pytest.approx(
        np.sum(np.asarray(ns["rate"]) ** 2), rel=1e-4
    )


CHECKS = {
    "README.md": check_readme,
    "docs/quickstart.md": check_quickstart,
    "docs/step-contract.md": check_step_contract,
    "docs/differentiable.md": check_differentiable,
    "docs/own-steps.md": check_own_steps,
    "docs/modes/nirspec-slits.md": check_slitlets,
    "docs/modes/nirspec-lamps.md": check_lamps,
    "docs/modes/slitless.md": check_slitless,
    "docs/modes/grism-time-series.md": check_grism_time_series,
    "docs/modes/niriss-soss.md": check_soss,
}
CHECKS_SLOW = {
    "docs/differentiable.md": check_differentiable_slow,
    "docs/modes/integral-field.md": check_integral_fields,
}


class Reader:
    """Does what a page says, from the top to the bottom."""

    def __init__(self, given, monkeypatch):
        self.given, self.folder, self.patch = given, given.path, monkeypatch
        self.names = {"__name__": "page"}

    def follow(self, snippet):
        try:
            getattr(self, snippet.language)(snippet)
        except SystemExit as stop:
            pytest.fail(f"{snippet}: the command line stopped with status {stop.code}")

    def python(self, snippet):
        # line numbers in tracebacks are those of the page
        padded = "\n" * (snippet.line - 1) + snippet.code
        exec(compile(padded, str(ROOT / snippet.page), "exec"), self.names)

    def shell(self, snippet):
        for line in snippet.code.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words:
                    self.command(words, f"{snippet}: {line}")

    def command(self, words, where):
        text = " ".join(words)
        if text.startswith(INSTALLS) or text == ". .venv/bin/activate":
            return
        words = list(map(os.path.expandvars, words))
        name, *arguments = words
        if name == "cd":
            (target,) = arguments
            self.patch.chdir(target)
            self.patch.setenv("PWD", str(Path.cwd()))
        elif name == "export":
            self.export(dict(a.split("=", 1) for a in arguments))
        elif name == "spec2fn":
            names = [sorted(map(str, Path().glob(a))) if "*" in a else [a] for a in arguments]
            assert main([a for found in names for a in found]) == 0, where
        else:
            pytest.fail(f"{where}: what is {name}? Add it to tests/test_docs.py")

    def export(self, values):
        """Set CRDS up as the page says, but ask no server."""
        usual = cache_environment(self.folder / "crds_cache", demo.CONTEXT)
        assert set(values) <= set(usual), values
        for key in usual.keys() & {"CRDS_SERVER_URL", "CRDS_CONTEXT"}:
            values[key] = usual[key]
        os.environ.update({k: v.replace("~", str(Path.home())) for k, v in values.items()})


@pytest.fixture
def reader(tmp_path, rendering, monkeypatch):
    """``reader(page)``: a :class:`Reader` in the folder of the page, with the page's files."""

    def refuse(*_args, **_kwargs):
        raise OSError("the documentation is read without a network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(demo, "_render", rendering)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def make(page):
        given = Folder(tmp_path, rendering)
        GIVEN.get(page, lambda _: None)(given)
        return Reader(given, monkeypatch)

    with use_cache(tmp_path / "crds_cache", demo.CONTEXT):
        yield make


def pages(slow):
    """Pages that hold a snippet for this run."""
    for page, found in SNIPPETS.items():
        if any((s.mark == "slow") == slow for s in found if s.mark != "not run"):
            yield page


@pytest.mark.parametrize("page", list(pages(slow=False)))
def test_page(page, reader):
    it = reader(page)
    for snippet in SNIPPETS[page]:
        if not snippet.mark:
            it.follow(snippet)
    CHECKS[page](it.folder, it.names)


@pytest.mark.slow
@pytest.mark.parametrize("page", list(pages(slow=True)))
def test_slow_snippets_of_a_page(page, reader):
    """After the others, for what is slow needs what stands above it."""
    it = reader(page)
    found = [s for s in SNIPPETS[page] if s.mark != "not run"]
    first = [s.mark for s in found].index("slow")
    for snippet in found[:first]:
        it.follow(snippet)
    with use_cache(GIVEN_SLOW[page](it.given), demo.CONTEXT):
        for snippet in found[first:]:
            it.follow(snippet)
    CHECKS_SLOW[page](it.folder, it.names)


def test_the_api_page_has_every_step():
    page = (ROOT / "docs" / "api.rst").read_text()
    for name in registered_steps():
        assert f".. autofunction:: spec2fn.steps.{name}.{name}\n" in page
