"""Data sets and rewards of another tool, which are lists of tables or of names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignzoo.errors import RecipeError
from alignzoo.files import read_object
from alignzoo.report.toml_text import toml_value
from alignzoo_import.table import Datasets, Rewards
from alignzoo_import.values import is_off, word

Told = tuple[str, Any, str]
"""A key, its value, and what became of it."""

SEVERAL = (
    'data: the tool puts all their rows together, in shares that only the data tell: give data.mix=\'[{path="...", '
    "weight=ROWS}, ...]' with each one's number of rows as its weight, or one file by data.path=FILE"
)

INFO = "dataset_info.json"


def data_settings(
    table: Datasets, config: Mapping[str, Any], file: Path
) -> Iterator[tuple[Told, Mapping[str, Any], bool]]:
    """What becomes of each key with data sets: what to tell, the settings, and whether it is refused."""
    for key in table.keys:
        found = _listed(config, key)
        if found is None:
            continue
        if len(found) != 1:
            yield (key, [_place(table, each) for each in found], SEVERAL), {}, True
            continue
        yield from _single(table, key, found[0], config)
    if table.info and not is_off(config.get(table.info)):
        yield _described(table, config, file)


def _listed(config: Mapping[str, Any], key: str) -> list[Any] | None:
    value = config.get(key)
    if value is None:
        return None
    return value if isinstance(value, list) else [value]


def _place(table: Datasets, dataset: Any) -> Any:
    if not isinstance(dataset, Mapping):
        return dataset
    return next((dataset[key] for key in table.path if dataset.get(key)), None)


def _single(
    table: Datasets, key: str, dataset: Any, file: Mapping[str, Any]
) -> Iterator[tuple[Told, Mapping[str, Any], bool]]:
    place = _place(table, dataset)
    if not isinstance(place, str):
        yield (key, dataset, f"data: found no {' or '.join(table.path)}; give data.path=FILE"), {}, True
        return
    given = dataset if isinstance(dataset, Mapping) else {name: file.get(flat) for name, flat in table.flat.items()}
    config = next((given[each] for each in table.config if not is_off(given.get(each))), None)
    settings: dict[str, Any] = {"data.path": place if config in (None, "default") else f"{place}:{config}"}
    if split := next((given[each] for each in table.split if not is_off(given.get(each))), None):
        settings["data.split"] = str(split)
    columns = {ours: given[each] for each, ours in table.columns.items() if not is_off(given.get(each))}
    read = {*table.path, *table.config, *table.split, *table.ignore, *table.columns, table.type, table.weight}
    strange = sorted(each for each, value in given.items() if each not in read and not is_off(value))
    shape = given.get(table.type) if table.type else None
    if isinstance(shape, Mapping) or (shape is not None and word(shape) not in table.types):
        why = f"data: rows of type {word(shape)} are not read: write them as docs/models-and-data.md has them"
        yield (f"{key}.{table.type}", shape, f"{why}, and give data.path=FILE"), {}, True
        return
    if strange:
        why = "data: it changes what a row says: write such rows into a file, and give data.path=FILE"
        yield (", ".join(f"{key}.{each}" for each in strange), None, why), {}, True
        return
    of_type = dict(table.types[word(shape)]) if shape is not None else {}
    columns = {**of_type.pop("columns", {}), **columns}
    settings |= {f"data.{name}": value for name, value in of_type.items()}
    settings |= {"data.columns": columns} if columns else {}
    yield (key, place, ", ".join(f"{path} = {toml_value(value)}" for path, value in settings.items())), settings, False


def _described(table: Datasets, config: Mapping[str, Any], file: Path) -> tuple[Told, Mapping[str, Any], bool]:
    """A data set that a dataset_info.json describes."""
    key, value = table.info, config[table.info]
    names = value if isinstance(value, list) else [each.strip() for each in str(value).split(",")]
    if len(names) != 1:
        return (key, value, SEVERAL), {}, True
    folder = str(config.get(table.info_dir) or "data")
    places = [Path(folder), file.parent / folder, file.parent]
    found = next((place / INFO for place in places if (place / INFO).is_file()), None)
    if found is None:
        why = f"data: there is no {INFO} in {folder} that says what it is: give data.path=FILE"
        return (key, value, why), {}, True
    about = read_object(found, error=RecipeError).get(names[0])
    if not isinstance(about, Mapping):
        return (key, value, f"data: {found} does not speak of it: give data.path=FILE"), {}, True
    if about.get("formatting", "alpaca") != "alpaca":
        why = "data: conversations of this form are not read: write them as messages, and give data.path=FILE"
        return (key, value, why), {}, True
    columns: Mapping[str, str] = about.get("columns", {})
    ours = {"prompt": "instruction", "query": "input", "response": "output", "chosen": "chosen", "rejected": "rejected"}
    renamed = {ours[each]: name for each, name in columns.items() if each in ours and ours[each] != name}
    if strange := sorted(each for each in columns if each not in ours):
        why = f"data: {found} has the columns {', '.join(strange)}, which have no counterpart: give data.path=FILE"
        return (key, value, why), {}, True
    place = str(found.parent / about["file_name"]) if about.get("file_name") else about.get("hf_hub_url", "")
    if about.get("ranking") and "instruction" in renamed | {"instruction": ""}:
        renamed = {("prompt" if name == "instruction" else name): column for name, column in renamed.items()}
        renamed.setdefault("prompt", "instruction")
    settings: dict[str, Any] = {"data.path": place} | ({"data.columns": renamed} if renamed else {})
    return (key, value, ", ".join(f"{path} = {toml_value(each)}" for path, each in settings.items())), settings, False


def reward_tables(table: Rewards, config: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[Told], list[Told]]:
    """The recipe's rewards; what to tell of the keys; and those that are refused."""
    functions = next(((key, config[key]) for key in table.functions if not is_off(config.get(key))), None)
    models = [(key, config[key]) for key in table.model if not is_off(config.get(key))]
    weights = next((config[key] for key in table.weights if not is_off(config.get(key))), None)
    rewards: list[dict[str, Any]] = [{"name": "model", "model": str(value)} for _, value in models]
    told: list[Told] = [(key, value, f"reward = model, of {value}") for key, value in models]
    if functions is None:
        return rewards, told, []
    key, value = functions
    names: Sequence[Any] = value if isinstance(value, list) else [value]
    places = [table.known.get(str(name), str(name)) for name in names]
    if strange := [name for name, place in zip(names, places, strict=True) if "." not in place]:
        why = (
            f"{', '.join(map(str, strange))}: this is no function's path; give reward='[{{name=\"python\", "
            'function="my_rewards.py:NAME"}]\''
        )
        return rewards, told, [(key, value, why)]
    rewards += [{"name": "python", "function": place} for place in places]
    told.append((key, value, f"reward = python, of {', '.join(places)}; the recipe then runs code, by --trust"))
    if isinstance(weights, list):
        if len(weights) != len(rewards):
            return rewards, told, [(table.weights[0], weights, f"{len(weights)} weights of {len(rewards)} rewards")]
        rewards = [reward | {"weight": float(weight)} for reward, weight in zip(rewards, weights, strict=True)]
        told.append((table.weights[0], weights, f"weight = {word(weights)}"))
    return rewards, told, []
