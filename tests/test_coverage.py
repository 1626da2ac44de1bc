"""docs/coverage.md: up to date, without an empty cell, and every test it names exists."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from spec2fn.pipelines import MODES

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "coverage.py"

if not SCRIPT.exists():
    pytest.skip("not in a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("coverage_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(script):
    return script.PAGE.read_text("utf-8")


def rows(text):
    """Cells of every row of every table but heads and rules."""
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith(("| step |", "| type |")):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def settled(text):
    """The page without the column that any new test of a parameter may change."""
    before, head, rest = text.partition("## Parameters of single steps")
    table, foot, after = rest.partition("## Reference types")
    lines = [" | ".join(c for i, c in enumerate(line.split(" | ")) if i != 4) for line in
             table.splitlines()]  # fmt: skip
    return before + head + "\n".join(lines) + foot + after


def test_the_page_is_up_to_date(script, page):
    assert settled(page) == settled(script.markdown()), "run python docs/coverage.py"


def test_no_cell_is_empty(page):
    found = list(rows(page))
    assert len(found) > 300
    for cells in found:
        assert all(cells), cells


def test_every_test_that_is_named_exists(page):
    named = set(re.findall(r"`([\w/]+\.py(?:::\w+)?)`", page))
    for name in named:
        path, _, function = name.partition("::")
        files = [f for f in (ROOT / "tests" / path, ROOT / path) if f.exists()]
        assert files, name
        if function:
            tree = ast.parse(files[0].read_text("utf-8"))
            assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, name
    assert sum("::" in n for n in named) > 40


def test_what_is_asked_for_is_there(script):
    modes = script.COVERAGE["modes"]
    waiting = {name for name, entry in modes.items() if entry.get("pending")}
    assert {m for m in modes if m not in waiting} <= set(MODES)
    for mode, entry in modes.items():
        if mode not in waiting:
            assert set(entry["steps"].split()) <= set(script.pipeline_steps(mode)), mode
    for tests in script.COVERAGE["tests"].values():
        for listed in tests.values():
            assert set(listed.split()) <= set(MODES), listed
    for run in script.COVERAGE["runs"].values():
        for mode, steps in run.items():
            assert set(steps.split()) <= set(script.pipeline_steps(mode)), mode


def test_nothing_is_still_to_come(script, page):
    assert "still to come" not in page
    assert set(MODES) <= set(script.COVERAGE["modes"])
