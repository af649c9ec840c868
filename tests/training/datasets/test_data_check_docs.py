"""docs/data-check.md tells of every code that a check or a repair can print, with its levels."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from maskserve.training.datasets.repair import DONE

CODE_AT = {"Finding": 1, "of_error": 1, "Change": 0, "_note": 0}
"""Function ─▶ which of its arguments is the code."""


def _codes(repo_root: Path) -> dict[str, set[str]]:
    """Code ─▶ its levels, "" for one that only a repair has, as the source writes them."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for file in (repo_root / "training/datasets").glob("*.py"):
        for name, arguments in _calls(ast.parse(file.read_text(encoding="utf-8"))):
            code = arguments[CODE_AT[name]] if len(arguments) > CODE_AT[name] else None
            if code is not None:
                level = {"Finding": arguments[0], "of_error": "error"}.get(name)
                found[code].add(level or "")
    for code in DONE:
        found[code].add("")
    return {code: levels - {""} for code, levels in found.items()}


def _calls(tree: ast.AST) -> Iterator[tuple[str, list[str | None]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in CODE_AT:
                yield name, [a.value if isinstance(a, ast.Constant) else None for a in node.args]


def test_every_code_is_documented_with_its_levels(repo_root: Path) -> None:
    page = (repo_root / "docs/data-check.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", page, flags=re.M))
    codes = _codes(repo_root)
    assert len(codes) > 15
    assert {code for code in codes if f"`{code}`" not in page} == set()
    documented = {code: set(levels.split(", ")) for code, levels in rows.items()}
    of_checks = {code: levels for code, levels in codes.items() if levels and code in documented}
    assert documented == of_checks
    of_others = {"repeated-points", "incomplete-annotation", "other-format", "no-class", "crowd"}
    assert codes.keys() - documented.keys() == of_others
