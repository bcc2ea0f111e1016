"""Every optimizer of the zoo keeps the laws, has a source and a family, and stands in a file of its own."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path
from typing import Any

import pytest

from alignzoo.registry import Registry
from alignzoo.testing import check_optimizer

PLUGINS = Path(__file__).parents[1] / "plugins"
REGISTRY = Registry()
REGISTRY.load_all()
ZOO = [each for each in REGISTRY.list("optimizer") if each.distribution == "alignzoo"]
FILES = {each.name: PLUGINS / (each.target.partition(":")[0].replace(".", "/") + ".py") for each in ZOO}


@pytest.mark.parametrize("name", [each.name for each in ZOO])
def test_an_optimizer_keeps_the_laws(name: str) -> None:
    part: Any = REGISTRY.get("optimizer", name)
    check_optimizer(part())


def test_there_are_ninety_methods_of_distinct_classes_with_family_and_summary() -> None:
    assert len(ZOO) >= 90
    assert len({each.target for each in ZOO}) == len(ZOO)
    names = {each.name for each in ZOO}
    for each in ZOO:
        assert each.family and each.summary, each.name
        assert not each.variant_of or each.variant_of in names, each.name
        assert len(f"    {each.name:26}{each.summary}") <= 110, each.name


@pytest.mark.parametrize("name", FILES)
def test_a_method_names_its_source_and_no_other_method(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    documented = " ".join(ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert any(word in documented for word in ("arXiv:", "et al.", "20", "19")), "no source in the class's docstring"
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not words & (FILES.keys() - {name})


def test_a_method_is_a_page() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES.values()}
    assert statistics.median(lines.values()) <= 60
    assert max(lines.values()) <= 120
