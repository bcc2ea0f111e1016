"""No optimizer is a copy of another: no two of their files share ten lines, and nothing else knows them by name."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from alignzoo.registry import Registry

ROOT = Path(__file__).parents[1]
ZOO = [each for each in Registry().list("optimizer") if each.distribution == "alignzoo"]
FILES = sorted({ROOT / "plugins" / (each.target.partition(":")[0].replace(".", "/") + ".py") for each in ZOO})

SHARED = 10
"""Lines in a row that no two files may have in common."""

WORDS = {
    "reward-model": "the kind of model that is trained, after which an optimizer is called",
    "hinge": "a loss's name in mathematics",
}
"""Names that are words besides, and may stand in the core as such."""


def code_lines(path: Path) -> list[str]:
    """A file's lines of code, without docstrings, imports, comments and empty lines."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        string = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if string or isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in left_out]
    return [line for line in lines if line and not line.startswith("#")]


def copies(files: dict[str, list[str]]) -> set[frozenset[str]]:
    """The pairs of files that share so many lines in a row."""
    seen: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name, lines in files.items():
        for start in range(len(lines) - SHARED + 1):
            seen[tuple(lines[start : start + SHARED])].add(name)
    return {frozenset(names) for names in seen.values() if len(names) > 1}


def test_no_two_files_share_ten_lines() -> None:
    files = {str(path.relative_to(ROOT)): code_lines(path) for path in FILES}
    assert len(files) >= 90
    assert copies(files) == set()


def test_a_copy_would_be_seen() -> None:
    lines = code_lines(FILES[0])[:SHARED]
    assert len(lines) == SHARED
    assert copies({"one": ["a = 1", *lines], "two": [*lines, "b = 2"]}) == {frozenset({"one", "two"})}
    assert copies({"one": lines[1:], "two": lines}) == set()


def strings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_the_core_knows_no_optimizer_by_name() -> None:
    names = {name for each in ZOO for name in each.names} - WORDS.keys()
    for path in sorted((ROOT / "alignzoo").rglob("*.py")):
        assert not strings(path) & names, path


def test_other_plugins_know_no_optimizer_by_name() -> None:
    # alignzoo_tiny holds models that were made by a method, in folders that are called after it; alignzoo_trl calls
    # TRL's losses by TRL's names.
    names = {name for each in ZOO for name in each.names} - WORDS.keys()
    homes = {path.parent for path in FILES}
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        if path.parent not in homes and path.parent.name not in ("alignzoo_tiny", "alignzoo_trl"):
            assert not strings(path) & names, path
