"""Write coverage.md: what is implemented where, which test compares it, what differs on purpose.

usage: python docs/coverage.py
"""

import re
from functools import cache
from pathlib import Path

import yaml

from spec2fn.compatibility import PRESETS
from spec2fn.engine.library import registered_steps, steps_of_library
from spec2fn.engine.pipeline import find_step, steps_of
from spec2fn.modes import MODES as TRAITS
from spec2fn.official import FOREIGN, OPTIONS, STEPS, foreign, step_named
from spec2fn.pipelines import MODES

HERE = Path(__file__).parent
ROOT = HERE.parent
PAGE = HERE / "coverage.md"
COVERAGE = yaml.safe_load((HERE / "coverage.yaml").read_text("utf-8"))
OFFICIAL = yaml.safe_load((HERE / "official.yaml").read_text("utf-8"))
TO_COME = "still to come"
INTRODUCTION = """\
# Coverage

Everything that the description of the official stage-2 spectroscopic pipeline (`calwebb_spec2`)
has: every step of every mode, product, argument and reference type, with the place where it is
implemented, the test that compares it with `jwst` {version}, and what differs on purpose.
`python docs/coverage.py` writes this page from the pipelines, the signatures of the steps,
`official.yaml` (what the official package has) and `coverage.yaml` (which test compares what); a
test demands that it is up to date, that every test that is named exists, and that no cell is empty.

"Rows of parity" are those of the tables in [](parity.md) that speak of the step, and in parentheses
of the mode; what it says of *any step* holds for all of them. Parameters are those of the preset
`jwst-3.0`, with which the official numbers come out. Tests are below `tests/`.
"""
PARAMETERS = """
## Parameters of single steps

*taken*: the step here has it, with the same meaning; *ignored with a note*: passed over, with a
warning if the value asks for something; *refused*: any other value than the default is answered
with the line that is shown. Parameters of steps that a mode does not have are listed in the report
(`ignored_parameters`). `override_<type>` of a step gives a reference to this step alone.

"""

# words in parentheses in the tables of parity.md, and the modes they mean
WORDS = {
    "background subtraction": "background",
    "background of `_rateints`": "background",
    "combined background of `_rateints` members": "background",
    "master background": "master_background",
    "optimal extraction with background": "extract_1d",
    "resampling": "resample_spec",
    "spectra of cubes": "extract_1d",
}
QUALIFIERS = {
    "NIRSpec": ("NRS_",),
    "NIRSpec IFU": ("NRS_IFU",),
    "NIRSpec MOS": ("NRS_MSASPEC",),
    "MRS": ("MIR_MRS",),
    "cubes": ("NRS_IFU", "MIR_MRS"),
}


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown; "A | B" is its head."""
    names = head.split(" | ")
    lines = [f"| {' | '.join(names)} |\n", "|---" * len(names) + "|\n"]
    return "".join([*lines, *(f"| {' | '.join(row)} |\n" for row in rows)])


def markdown() -> str:
    """Return the page."""
    parts = [
        INTRODUCTION.format(version=OFFICIAL["version"]),
        "\n## Steps by mode\n\n",
        "A mode in *italics* is beyond what the description asks for.\n\n",
        table("step | mode | implemented in | compared by | differs on purpose", step_rows()),
        "\n## Products\n\n",
        table("suffix | what | implemented in | compared by | differs on purpose", product_rows()),
        "\n## Arguments of the pipeline\n\n",
        table("argument | here | tested by | differs on purpose", argument_rows()),
        "\n## Parameters of every step\n\n",
        "What becomes of parameters that all official steps have.\n\n",
        table("parameter | here | instead", every_rows()),
        PARAMETERS,
        table(
            "step | parameter | official default | here | tested by | differs on purpose",
            parameter_rows(),
        ),
        "\n## Reference types\n\n",
        table("type | steps | read by | compared by | differs on purpose", reference_rows()),
    ]
    return "".join(parts)


def step_rows() -> list[tuple[str, ...]]:
    """Return a row for every step of every mode."""
    rows = []
    asked = {m: v["steps"].split() for m, v in COVERAGE["modes"].items()}
    for step in dict.fromkeys([*STEPS, "electron_rate"]):
        for mode, entry in COVERAGE["modes"].items():
            present = step in pipeline_steps(mode)
            if step not in asked[mode] and (not present or entry.get("pending")):
                continue
            title = entry["title"] if step in asked[mode] else f"*{entry['title']}*"
            if entry.get("pending"):
                rows.append((step, title, TO_COME, TO_COME, TO_COME))
                continue
            where = place(step, mode) if present else ""
            rows.append((step, title, where, listed(tests_of(step, mode)), differs(step, mode)))
    return rows


def product_rows() -> list[tuple[str, ...]]:
    """Return a row for every product."""
    names = {"bsubints": "bsub", "calints": "cal", "x1dints": "x1d"}
    rows = []
    for suffix, entry in COVERAGE["products"].items():
        kind = names.get(suffix, suffix)
        where = "`spec2fn/pipelines.py`, `spec2fn/io/fits/`"
        asked = f" (with `{entry['asked']}`)" if "asked" in entry else ""
        row = (f"`_{suffix}`", entry["what"] + asked, where, listed(entry["tests"]), files(kind))
        rows.append(row)
    return rows


def argument_rows() -> list[tuple[str, ...]]:
    """Return a row for every argument of the pipeline itself."""
    more = "a parameter file may set it as well (`--parameters`)"
    entries = {name: COVERAGE["arguments"][name] for name in OPTIONS}
    return [(f"`{n}`", e["here"], listed(e["tests"]), more) for n, e in entries.items()]


def every_rows() -> list[tuple[str, ...]]:
    """Return a row for every parameter that all steps have."""
    rows = [
        ("`skip`", "taken", "`--skip STEP`, `--set STEP.skip=false`"),
        ("`save_results`", "taken", "`--save-step STEP`"),
    ]
    known = [n for n in OFFICIAL["every_step"] if n in FOREIGN]
    return rows + [(f"`{n}`", fate(n), FOREIGN[n].instead) for n in known]


def parameter_rows() -> list[tuple[str, ...]]:
    """Return a row for every parameter of every step."""
    rows = []
    for theirs, entry in sorted(OFFICIAL["steps"].items(), key=lambda e: step_named(e[0])):
        name = step_named(theirs)
        steps = steps_of_library(name)
        for parameter, default in entry["parameters"].items():
            if parameter in OFFICIAL["every_step"]:
                continue
            label = f"{name}.{parameter}"
            step = next((s for s in steps if parameter in s.parameters), None)
            if not steps:
                here, tests, other = TO_COME, TO_COME, TO_COME
            elif step is not None:
                here = "taken"
                tests = listed(COVERAGE["parameters"].get(label) or mentions(name, parameter))
                own = step.parameters[parameter].default
                other = "–" if own == default else f"default `{own}`"
            else:
                here = fate(label)
                tests, other = code("tests/test_official.py"), foreign(name, parameter).instead
            rows.append((name, f"`{parameter}`", f"`{default}`", here, tests, other))
        if not entry["parameters"]:
            rows.append((name, "none", "–", "–", "–", "–"))
    return rows


def reference_rows() -> list[tuple[str, ...]]:
    """Return a row for every reference type."""
    types: dict[str, list[str]] = {}
    for theirs, entry in OFFICIAL["steps"].items():
        for reftype in entry["references"]:
            types.setdefault(reftype, []).append(step_named(theirs))
    # which the official pipeline reads itself
    for step in registered_steps().values():
        for reftype in step.refs:
            types.setdefault(reftype, [step.name])
    rows = []
    for reftype, steps in sorted(types.items()):
        readers = [s for s in registered_steps().values() if reftype in s.refs]
        pending = reftype in COVERAGE["pending_references"]
        where = ", ".join(code(f"spec2fn/steps/{s.function.__name__}.py") for s in readers)
        modes = COVERAGE["reference_modes"][reftype].split()
        found = [tests_of(s.name, mode) for mode in modes for s in readers]
        tests = list(dict.fromkeys(t for one in found for t in one))
        row = (f"`{reftype}`", ", ".join(dict.fromkeys(steps)))
        if pending:
            rows.append((*row, TO_COME, TO_COME, TO_COME))
            continue
        lacking = [s for s in steps if s not in {r.name for r in readers}]
        why = COVERAGE["references"].get(reftype, "" if lacking else "–")
        rows.append((*row, where, listed(tests[:3]), why))
    pars = COVERAGE["parameter_references"]
    rows.append(("`pars-*`", "every step", code(pars["read_by"]), listed(pars["tests"]), "–"))
    return rows


def fate(label: str) -> str:
    """Return what becomes of a parameter that no step has."""
    return "refused" if FOREIGN.get(label, foreign("", label)).refused else "ignored with a note"


def pipeline_steps(mode: str) -> tuple[str, ...]:
    """Return the names of the steps of a mode."""
    return tuple(s.name for s in steps_of(MODES[mode][1])) if mode in MODES else ()


def tests_of(step: str, mode: str) -> list[str]:
    """Return the tests that compare a step in a mode."""
    found = [t for t, modes in COVERAGE["tests"].get(step, {}).items() if mode in modes.split()]
    for test, modes in COVERAGE["runs"].items():
        if step in modes.get(mode, "").split():
            found.append(test)
    return found


def place(step: str, mode: str) -> str:
    """Return the files of a step: its body, and its planner or what builds its coordinates."""
    found = find_step(MODES[mode][1], step)
    files = [f"spec2fn/steps/{found.function.__name__}.py"]
    builder = TRAITS[mode].wcs.partition(":")[0]
    if step == "assign_wcs":
        files.append(f"spec2fn/wcs/assign/{builder}.py")
    elif found.planner is not None and found.planner.__module__ != found.function.__module__:
        files.append(found.planner.__module__.replace(".", "/") + ".py")
    return ", ".join(map(code, files))


def differs(step: str, mode: str) -> str:
    """Return how many rows of parity.md speak of a step in a mode, and what the preset sets."""
    count = 0
    for cell in parity_cells():
        names, _, qualifier = cell.partition(" (")
        words = re.findall(r"\w+", WORDS.get(names, names).replace("`", ""))
        prefixes = QUALIFIERS.get(qualifier.rstrip(")"), ("",))
        count += step in words and any(mode.startswith(p) for p in prefixes)
    rows = f"{count} row{'s' * (count > 1)} of [parity](parity.md)" if count else ""
    its = find_step(MODES[mode][1], step).parameters
    names = [f"`{p}`" for s, p, _ in PRESETS["jwst-3.0"] if s == step and p in its]
    return "; ".join(filter(None, (rows, ", ".join(names)))) or "nothing"


@cache
def parity_cells() -> tuple[str, ...]:
    """Return the first cells of the tables of differences of parity.md."""
    text = (HERE / "parity.md").read_text("utf-8").partition("## Different on purpose")[2]
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return tuple(r for r in rows if r not in ("what", "step"))


def files(kind: str) -> str:
    """Return what differs in the files of a product."""
    extra = {
        "s2d": "HDUs `COVAR`, `VAR_COV`; of several integrations too",
        "s3d": "a file for each cube; `_s3dints`",
        "x1d": "column `FLUX_ERROR_COV`",
        "bsub": "variance of the background",
        "esec": "mean gain in double precision",
    }
    return extra.get(kind, "HDU `SPEC2FN`; no times in the headers")


@cache
def sources() -> dict[str, str]:
    """Return the text of every test by its path."""
    paths = sorted([*ROOT.glob("tests/**/*.py"), *ROOT.glob("properties/*.py")])
    return {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in paths}


def mentions(step: str, parameter: str) -> list[str]:
    """Return tests of a step that mention a parameter, those of parity before others."""
    stem = step.split("_", maxsplit=1)[0]
    word = re.compile(rf"\b{re.escape(parameter)}\b")
    # a plain word could mean anything: the file has to name the step as well
    known = [p for p, t in sources().items() if word.search(t) and re.search(rf"\b{step}\b", t)]
    about = [p for p in known if stem in p]
    ranked = sorted(about or known, key=lambda p: ("parity" not in p, "steps" not in p, p))
    return ranked[:2]


def code(path: str) -> str:
    """Return a path as it is printed."""
    return f"`{path}`"


def listed(tests: list[str]) -> str:
    """Return tests as they are printed, without the folder."""
    return ", ".join(code(t.removeprefix("tests/")) for t in tests)


if __name__ == "__main__":
    PAGE.write_text(markdown(), "utf-8")
