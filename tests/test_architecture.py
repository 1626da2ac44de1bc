"""The import rule: which room may import which."""

import ast
import re
from pathlib import Path

import pytest

import spec2fn

ROOT = Path(spec2fn.__file__).parent
GROUND = {
    "buckets",
    "compatibility",
    "contents",
    "cubes",
    "deferred",
    "dq",
    "errors",
    "members",
    "modes",
    "official",
    "parameters",
    "pieces",
    "plan_base",
    "schema",
    "slits",
    "subarray",
    "threads",
    "typing",
    "units",
}
ALLOWED = {
    "kernels": {"dq", "kernels", "plan_base", "threads", "typing"},
    "host": GROUND | {"kernels", "host"},
    "wcs": GROUND | {"kernels", "host", "wcs"},
    "plans": GROUND | {"kernels", "host", "wcs", "plans"},
    "spectra": GROUND | {"kernels", "host", "wcs", "plans", "spectra"},
    "steps": GROUND
    | {"engine", "kernels", "host", "wcs", "plans", "spectra", "transforms", "steps"},
    "engine": GROUND | {"engine", "kernels", "spectra", "refs", "steps", "io"},
    "refs": GROUND | {"engine", "refs"},
    "io": GROUND | {"engine", "io", "refs"},
    "calibration": GROUND | {"calibration", "compiled", "engine", "io", "refs", "pipelines"},
    "compiled": GROUND
    | {"calibration", "compiled", "engine", "kernels", "pipelines", "transforms"},
}
HEAVY = {
    "jax",
    "gwcs",
    "asdf",
    "crds",
    "matplotlib",
    "astropy",
    "photutils",
    "stdatamodels",
    "xarray",
    "scipy",
}


def modules(room):
    return sorted((ROOT / room).rglob("*.py"))


def imports(path, *, top_level):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room):
    for path in modules(room):
        for name in imports(path, top_level=False):
            parts = name.split(".")
            if parts[0] != "spec2fn":
                continue
            target = parts[1] if len(parts) > 1 else ""
            inside_package = target == "" and room in ("io", "refs", "calibration", "compiled")
            assert target in ALLOWED[room] or inside_package, f"{path} imports {name}"


@pytest.mark.parametrize(
    "room",
    [
        *("kernels", "host", "plans", "spectra", "steps", "engine", "io", "refs"),
        *("calibration", "compiled"),
    ],
)
def test_rooms_do_not_import_heavy_packages_at_the_top(room):
    for path in modules(room):
        heavy = {n for n in imports(path, top_level=True) if n.split(".")[0] in HEAVY}
        assert not heavy, f"{path} imports {heavy} at the top; import it where it is used"


def test_no_circle_of_imports():
    """Between files: at the top or in functions, but for annotations."""
    files = {p: p.relative_to(ROOT.parent).with_suffix("") for p in ROOT.rglob("*.py")}
    names = {".".join(n.parts).removesuffix(".__init__"): p for p, n in files.items()}
    graph = {}
    for name, path in names.items():
        found = set()
        for imported, what in runtime_imports(ast.parse(path.read_text())):
            inner = [f"{imported}.{w}" for w in what if f"{imported}.{w}" in names]
            found.update(inner or [imported] * (imported in names))
        graph[name] = found - {name, "spec2fn"}
    while True:  # what imports nothing that is left can be in no circle
        free = [n for n, used in graph.items() if not used]
        if not free:
            break
        graph = {n: used - set(free) for n, used in graph.items() if n not in free}
    assert not graph, f"circle among {sorted(graph)}"


def runtime_imports(tree):
    """Modules imported by the library and the names taken from them, annotations left out."""
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "spec2fn":
            yield node.module, [a.name for a in node.names]
        elif isinstance(node, ast.Import):
            yield from ((a.name, []) for a in node.names if a.name.startswith("spec2fn"))


@pytest.mark.parametrize("room", ["kernels", "host", "plans", "spectra", "steps", "io"])
def test_modes_are_told_by_their_traits(room):
    # spec2fn.modes holds the names; everything below the pipelines asks for traits
    name = re.compile(r"^(NRS|MIR|NIS|NRC)_[A-Z0-9_-]{2,}$")
    for path in modules(room):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not name.match(node.value), f"{path}:{node.lineno} names {node.value}"


def test_steps_do_not_leave_jax_silently():
    # these turn JAX data into NumPy without a word
    forbidden = {"interp", "rolling"}
    for path in modules("steps"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                is_array_library = isinstance(owner, ast.Name) and owner.id in ("np", "xp")
                assert is_array_library or node.func.attr not in forbidden, f"{path}:{node.lineno}"


def test_every_step_file_holds_its_step():
    from spec2fn.engine.library import registered_steps

    names = {p.stem for p in modules("steps")} - {"__init__"}
    assert names == set(registered_steps())
    for name, step in registered_steps().items():
        assert step.function.__name__ == name
        assert step.__doc__, f"{name} has no docstring"
        assert "Parameters" in step.__doc__, f"{name}: document the parameters"
