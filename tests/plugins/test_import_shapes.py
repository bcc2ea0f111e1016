"""The shapes of configuration files that people publish, in our own words: each becomes the recipe that it means."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignzoo.recipe import load
from alignzoo.registry import Registry
from alignzoo_import.methods import Asked
from alignzoo_import.reading import read_config
from alignzoo_import.table import read_table
from alignzoo_import.translating import Translation, translate
from alignzoo_import.writing import recipe_text

ZOO = Registry()
SHAPES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("import_shapes.toml").read_text("utf-8"))
"""By name: the tool and its file, what the command line adds, what it means here, and what of it is refused."""


def imported(path: Path, tool: str, **asked: Any) -> Translation:
    table = read_table(tool)
    return translate(table, tool, read_config(path, table.nested), Asked(path, **asked))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_becomes_the_recipe_that_it_means(shape: str, tmp_path: Path) -> None:
    about = SHAPES[shape]
    tool, meant, asked = about["tool"], about["meant"], about.get("asked", {})
    config = tmp_path / "config.yaml"
    config.write_text(about["file"], encoding="utf-8")
    found = imported(config, tool, **asked)
    assert {path: found.settings.get(path) for path in meant} == meant
    refused = {line.key for line in found.refused}
    assert refused == {*about["refused"]}, found.refused

    told = " ".join(line.key for line in (*found.translated, *found.ignored, *found.refused))
    for key, value in yaml.safe_load(about["file"]).items():
        assert key in told or value is None or isinstance(value, dict), f"nothing is said of {key}"

    # Without what is refused, and with what it asks for, it is a recipe.
    more = {"reward": "length"} if "reward_model" in refused else {}
    more |= {"data.path": "rows.jsonl"} if refused & {"dataset", "datasets", "datasets.type"} else {}
    more |= asked.get("overrides", {})
    again = imported(config, tool, **(asked | {"drop": tuple(refused), "overrides": more}))
    assert not again.refused and not again.missing
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(recipe_text(again, "config.yaml", "0"), encoding="utf-8")
    (stage,) = load(recipe, (), registry=ZOO).stages
    assert stage.resolved["optimizer"]["name"] == again.settings["optimizer.name"]
