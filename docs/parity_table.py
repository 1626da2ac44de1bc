"""Write the table "Measured" of parity.md from tests/parity/allowed.yaml.

usage: python docs/parity_table.py
"""

from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ALLOWED = HERE.parent / "tests" / "parity" / "allowed.yaml"
PAGE = HERE / "parity.md"
BEGIN = "<!-- table: python docs/parity_table.py writes it from tests/parity/allowed.yaml -->\n"
END = "<!-- end of table -->\n"
HEAD = "| exposure | product | rtol | agree (worst plane or column) | tests demand | DQ |\n"


def markdown(allowed: dict[str, Any]) -> str:
    """Return the table, a line for each exposure."""
    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|\n"]
    for entry in allowed["measured"]:
        products = entry["products"]
        rows = [_row(allowed, name) for name, *_ in products.values()]
        found, flags = ([values[i] for values in products.values()] for i in (1, 2))
        columns = (
            products,
            [_tolerance(r["rtol"]) for r in rows],
            [_fraction(v, "1.000000") for v in found],
            [_fraction(r.get("ok", 1), "all") for r in rows],
            ["identical"] if set(flags) == {1} else [_fraction(v, "identical") for v in flags],
        )
        cells = [entry["exposure"], *map(" / ".join, columns)]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def _row(allowed: dict[str, Any], name: str) -> dict[str, Any]:
    section, _, row = name.partition(".")
    found: dict[str, Any] = allowed[section][row]
    return found


def _tolerance(value: object) -> str:
    mantissa, _, exponent = f"{float(value):e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _fraction(value: float, one: str) -> str:
    return one if value == 1 else f"{value}"


def cut(text: str) -> tuple[str, str, str]:
    """Return the page before the table, the table, and the page after it."""
    before, _, rest = text.partition(BEGIN)
    table, found, after = rest.partition(END)
    if not found:
        msg = f"{PAGE}: the table stands between {BEGIN!r} and {END!r}"
        raise SystemExit(msg)
    return before, table, after


if __name__ == "__main__":
    first, _, last = cut(PAGE.read_text("utf-8"))
    new = markdown(yaml.safe_load(ALLOWED.read_text("utf-8")))
    PAGE.write_text(first + BEGIN + new + END + last, "utf-8")
