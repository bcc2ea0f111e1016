"""What stands in the place of a file is named, and no name leads out of its folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data.reading import Data, read
from alignzoo.errors import DataError, ModelError, PluginError, RecipeError, RewardError
from alignzoo.files import read_json
from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo_hf.model.template import read_template
from alignzoo_hf.model.weights import check_directory
from alignzoo_rules import find

POLICY = '{ name = "hf", model = "task:policy" }'

Make = Callable[[Path], object]


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


ODD: dict[str, tuple[Make, str]] = {
    "a loop": (lambda path: path.symlink_to(path), "a symbolic link that leads back to itself"),
    "a link to nowhere": (
        lambda path: path.symlink_to("gone.jsonl"),
        "a symbolic link to gone.jsonl, which is not there",
    ),
    "a pipe": (os.mkfifo, "a named pipe"),
    "a socket": (listening, "a socket"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_file_is_named(name: str, alignzoo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = ODD[name]
    monkeypatch.chdir(tmp_path)
    for ending in (".jsonl", ".json", ".toml", ".csv", ".parquet", ".jsonl.gz"):
        make(Path(f"odd{ending}"))
    for ending in (".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"):
        with pytest.raises(DataError, match=f"odd{ending} is {message}"):
            read(Data(f"odd{ending}"))
    for arguments in (["run", "odd.toml"], ["run", "odd.json"], ["generate", "x", "--prompts", "odd.jsonl"]):
        said = alignzoo(*arguments)
        assert said.code == 1 and message in said.err
    with pytest.raises(DataError, match=message):
        read_json(Path("odd.json"), error=DataError)
    make(Path("odd.py"))
    with pytest.raises(PluginError, match=message):
        Registry().add_file("odd.py")
    with pytest.raises(RewardError, match=message):
        find("odd.py:f")
    with pytest.raises(ModelError, match=message):
        read_template("odd.json")
    if Path("odd.py").is_symlink():
        with pytest.raises(ModelError, match=message):
            check_directory("odd.py")


def test_names_that_cannot_be_files_are_refused() -> None:
    for path, message in (
        ("", "path is missing: say where the data are"),
        (" ", "data.path is empty"),
        ("a\0b.jsonl", "cannot be the name"),
    ):
        with pytest.raises(DataError, match=message):
            read(Data(path))
    with pytest.raises(DataError, match="longer than a file's name can be"):
        read(Data("x" * 5000 + ".jsonl"))


@pytest.mark.parametrize("name", ["../../escaped", "/abs", ".hidden", "..", ".", "a/b", "", "a\\u0007b", "x" * 300])
def test_no_recipes_name_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    stage = '[[stage]]\nname = "s"\noptimizer = "sft"\n'
    path.write_text(f'name = "{name}"\ntask = "sort"\npolicy = {POLICY}\n{stage}')
    with pytest.raises(RecipeError, match=r"recipe\.toml, line 1: name: found .*allowed: a folder's name"):
        load(path, registry=Registry())
    path.write_text(f'name = "A run, of mine (2)"\ntask = "sort"\npolicy = {POLICY}\n{stage}')
    assert load(path, registry=Registry()).name == "A run, of mine (2)"


def test_a_stage_with_a_long_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'task = "sort"\npolicy = {POLICY}\n[[stage]]\nname = "{"s" * 300}"\noptimizer = "sft"\n')
    with pytest.raises(RecipeError, match=r"line 4: stage.name: found 300 letters, allowed: 64"):
        load(path, registry=Registry())
