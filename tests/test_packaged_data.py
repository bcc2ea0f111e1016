"""A plugin's recipe brings its data: `package:NAME/FILE`, from whichever folder it is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignzoo import recipe
from alignzoo.data import Data, read
from alignzoo.data.packaged import located
from alignzoo.errors import DataError
from alignzoo.evaluation.outside import kind_of
from alignzoo.registry import Registry
from alignzoo.registry.discovery import import_file

PLUGIN = """
import alignzoo

@alignzoo.hookimpl
def alignzoo_register(zoo):
    zoo.recipe("brings-data", "brings.toml")
"""
RECIPE = """
description = "DPO on the pairs that the package brings"
task = "sort"
[[stage]]
name = "train"
policy = { name = "hf", model = "task:policy" }
sampler = "dataset"
reward = "labels"
optimizer = "dpo"
data = { path = "package:brings_data/rows/pairs.jsonl" }
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site" / "brings_data"
    (folder / "rows").mkdir(parents=True)
    (folder / "__init__.py").write_text(PLUGIN)
    (folder / "brings.toml").write_text(RECIPE)
    pairs = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(4)]
    (folder / "rows" / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_recipe_reads_its_package_from_any_folder(package: Path) -> None:
    import brings_data

    zoo = Registry()
    zoo.add(brings_data, "brings-data")
    (stage,) = recipe.load("brings-data", registry=zoo).stages
    assert isinstance(stage.data, Data) and len(read(stage.data)) == 4
    assert stage.resolved["data"]["path"] == "package:brings_data/rows/pairs.jsonl"  # as it stands in a manifest
    assert kind_of(stage.data.path, (), "--with") == "pairs"


def test_a_directory_and_a_module_beside_its_file(package: Path) -> None:
    assert len(read(Data(path="package:brings_data/rows"))) == 4
    (package.parent / "alone_data.py").write_text("")
    loose = package.parent.parent / "loose"
    loose.mkdir()
    (loose / "my_loose.py").write_text("")
    (loose / "some.jsonl").write_text("{}")
    import_file(loose / "my_loose.py")
    assert located("package:my_loose/some.jsonl") == str(loose / "some.jsonl")
    (package.parent / "alone.jsonl").write_text("{}")
    assert located("package:alone_data/alone.jsonl") == str(package.parent / "alone.jsonl")
    assert located("pairs.jsonl") == "pairs.jsonl"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("package:no_such_package/pairs.jsonl", "no package 'no_such_package' is installed here"),
        ("package:brings_data/rows/pair.jsonl", "has no rows/pair.jsonl. Did you mean pairs.jsonl?"),
        ("package:brings_data/other/pairs.jsonl", "names it as package data"),
        ("package:brings_data", "expected package:NAME/FILE"),
        ("package:brings_data/../secrets", "expected package:NAME/FILE"),
        ("package:brings.data/pairs.jsonl", "expected package:NAME/FILE"),
    ],
)
def test_what_is_not_there_is_told(package: Path, path: str, says: str) -> None:
    with pytest.raises(DataError) as error:
        read(Data(path=path))
    assert says in str(error.value) and path in str(error.value)
