"""Every optimizer of the zoo keeps the laws, has a source and a family, and stands in a file of its own."""

from __future__ import annotations

import ast
import dataclasses
import re
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import calls_of_processes
from alignzoo import PluginError, Prompt
from alignzoo.interfaces import CheckContext, HasCheck, HasFollow, HasNext
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo.testing import OPTIMIZER_CHECKS, check_optimizer
from alignzoo.traits import traits_of

PLUGINS = Path(__file__).parents[1] / "plugins"
REGISTRY = Registry()
REGISTRY.load_all()
ZOO = [each for each in REGISTRY.list("optimizer") if each.distribution == "alignzoo"]
FILES = {each.name: PLUGINS / (each.target.partition(":")[0].replace(".", "/") + ".py") for each in ZOO}


@pytest.mark.parametrize("name", [each.name for each in ZOO])
def test_an_optimizer_keeps_the_laws(name: str) -> None:
    part: Any = REGISTRY.get("optimizer", name)()
    stateful = isinstance(part, HasNext | HasFollow)  # of others, a resumed run is the runner's, and held elsewhere
    waived = set() if stateful else {"resume"}
    check_optimizer(part, only=[check for check in OPTIMIZER_CHECKS if check not in waived])


@pytest.mark.slow
@pytest.mark.parametrize("name", [each.name for each in ZOO])
def test_processes_make_the_same_passes_and_their_gradients_add_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares are uneven, and one process has none. Methods that exchange weights or gradients in a pass would wait
    for each other for ever if one made another pass."""
    for sizes in ((2, 4, 3, 2), (3, 2)):
        calls_of_processes.check(REGISTRY.get("optimizer", name)(), sizes, monkeypatch)


def test_there_are_ninety_methods_of_distinct_classes_with_family_and_summary() -> None:
    assert len(ZOO) >= 90
    assert len({each.target for each in ZOO}) == len(ZOO)
    names = {each.name for each in ZOO}
    for each in ZOO:
        assert each.family and each.summary, each.name
        assert not each.variant_of or each.variant_of in names, each.name
        indent = 6 if each.variant_of else 4
        assert indent + len(f"{each.name}  {each.summary}") <= 80, each.name  # a line of `alignzoo list`


@pytest.mark.parametrize("name", FILES)
def test_a_method_names_its_source_and_no_other_method(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    documented = " ".join(ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|\b(19|20)\d\d\b", documented), "no source in the class's docstring"
    theirs = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "oracle"]
    told = {id(inner) for node in theirs for inner in ast.walk(node)}  # what another library calls its losses
    told |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings tell of relatives
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in told)
    words = {word for value in strings if isinstance(value, str) for word in re.findall(r"[\w-]+", value)}
    settings = {f.name for f in dataclasses.fields(REGISTRY.get("optimizer", name))}
    others = FILES.keys() - {name, "reward-model"}  # which is also the kind of model that is trained
    assert not (words - settings) & others


@pytest.mark.parametrize("name", FILES)
def test_a_method_runs_by_its_name_alone(name: str) -> None:
    """Its recipe has the sampler that it needs; only who a teacher is nobody but the user can say."""
    settings = {each.name for each in dataclasses.fields(REGISTRY.get("optimizer", name))}
    teachers = ["optimizer.teacher=models/large"] if "teacher" in settings else []
    for stage in load(name, teachers, registry=REGISTRY).stages:
        if isinstance(stage.optimizer, HasCheck):
            needs, online = frozenset(stage.optimizer.needs), stage.sampler.online
            stage.optimizer.check(CheckContext(needs, (), (), online, ask=False, earlier={}, sampler=stage.sampler))


def reads_columns(name: str) -> bool:
    part = REGISTRY.get("optimizer", name)
    return bool(traits_of(part).columns) and hasattr(part, "check")


@pytest.mark.parametrize("name", [each.name for each in ZOO if reads_columns(each.name)])
def test_any_sampler_that_brings_its_columns_will_do(name: str) -> None:
    part: Any = REGISTRY.get("optimizer", name)()
    pairs = (Prompt("question", ("good", "bad"), (1.0, 0.0)),) * 2

    def check(*columns: str) -> None:
        own = SimpleNamespace(online=True, brings=frozenset(columns))
        part.check(CheckContext(frozenset(part.needs), pairs, pairs, True, ask=False, earlier={}, sampler=own))

    check(*traits_of(part).columns)
    with pytest.raises(PluginError, match="set sampler="):
        check()


def test_a_method_is_a_page() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES.values()}
    assert statistics.median(lines.values()) <= 60
    assert max(lines.values()) <= 120
