"""The table of what the parity tests allow: complete, used, and what docs/parity.md says."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARITY = ROOT / "tests" / "parity"
SCRIPT = ROOT / "docs" / "parity_table.py"

if not SCRIPT.exists():
    pytest.skip("not in a checkout", allow_module_level=True)

TABLE = yaml.safe_load((PARITY / "allowed.yaml").read_text("utf-8"))
SECTIONS = {k: v for k, v in TABLE.items() if k != "measured" and not k.startswith("_")}
TOLERANCES = ("rtol", "atol", "rel", "abs")
WITH_A_DEFAULT = ("np.testing.assert_allclose", "np.allclose", "np.isclose", "pytest.approx")
TREES = {
    path.stem.removeprefix("test_"): ast.parse(path.read_text("utf-8"))
    for path in PARITY.glob("test_*.py")
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("parity_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_says_what_the_table_says(script):
    _, table, _ = script.cut(script.PAGE.read_text("utf-8"))
    assert table == script.markdown(TABLE), "run python docs/parity_table.py"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_is_valid_and_used(section):
    texts = {n.value for n in ast.walk(TREES[section]) if isinstance(n, ast.Constant)}
    for name, row in SECTIONS[section].items():
        assert set(row) <= {*TOLERANCES, "ok", "dq", "why"}, name
        assert any(key in row for key in TOLERANCES), name
        assert all(float(row[key]) > 0 for key in TOLERANCES if key in row), name
        fractions = [float(row.get(key, 1)) for key in ("ok", "dq")]
        assert all(0 < f <= 1 for f in fractions), name
        assert bool(row.get("why")) == (min(fractions) < 1), f"{name}: a reason if below 1"
        assert name in texts, f"{name}: no test reads it"


@pytest.mark.parametrize("name", TREES)
def test_tolerances_stand_in_the_table_alone(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            for k in node.keywords:
                value = k.value.value if isinstance(k.value, ast.Constant) else None
                assert k.arg not in TOLERANCES or not value, f"line {node.lineno}: {k.arg}={value}"
            if getattr(node.func, "id", "") == "allowed" and isinstance(node.args[0], ast.Constant):
                assert node.args[0].value in SECTIONS[name], f"line {node.lineno}"
            if ast.unparse(node.func) in WITH_A_DEFAULT:
                given = {k.arg for k in node.keywords}
                assert given & set(TOLERANCES), f"line {node.lineno}: a tolerance by default"
        elif isinstance(node, ast.FunctionDef):
            a = node.args
            named = a.args[len(a.args) - len(a.defaults) :] + a.kwonlyargs
            for argument, value in zip(named, a.defaults + a.kw_defaults, strict=True):
                hidden = argument.arg in (*TOLERANCES, "ok", "fraction", "share")
                assert value is None or not hidden, f"line {node.lineno}: {argument.arg}"


def test_what_was_found_is_allowed():
    for entry in TABLE["measured"]:
        for product, (name, ok, dq) in entry["products"].items():
            section, row = name.split(".")
            allowed = SECTIONS[section][row]
            assert 1 >= ok >= allowed.get("ok", 1), (entry["exposure"], product)
            assert 1 >= dq >= allowed.get("dq", 1), (entry["exposure"], product)
