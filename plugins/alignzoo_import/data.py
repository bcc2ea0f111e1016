"""Data sets and rewards of another tool, which are lists of tables or of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

from alignzoo.data.sources import Shards, rows_at
from alignzoo.errors import RecipeError
from alignzoo.files import read_object
from alignzoo.report.toml_text import toml_value
from alignzoo_import.methods import Asked
from alignzoo_import.table import Datasets, Rewards, Rule
from alignzoo_import.values import is_off, is_one_of, word

Told = tuple[str, Any, str]
"""A key, its value, and what became of it."""

SEVERAL = (
    'data: the tool puts all their rows together, in shares that only the data tell: give data.mix=\'[{path="...", '
    "weight=ROWS}, ...]' with each one's number of rows that the file takes of it as its weight, or one file by "
    "data.path=FILE"
)

OTHER_ROWS = Rule(
    refuse="it changes which rows there are or what they say: write such rows into a file, and give data.path=FILE"
)

INFO = "dataset_info.json"

DESCRIBED = {"formatting", "ranking", "columns", "tags", "subset", "split", "file_name", "hf_hub_url"}
"""What a dataset_info.json says that is read; of tags, conversations alone have any."""

ELSEWHERE = {"ms_hub_url", "om_hub_url"}
"""Where a data set is as well that has an hf_hub_url."""

ASKED, QUERY, REPLY = "instruction", "input", "output"
"""The columns of a description that names none."""

SYSTEM = "system"
"""The column that each of our formats reads where it is there."""

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "text": {"text": "prompt"},
    "prompt-only": {"prompt": "prompt"},
    "prompt-completion": {"prompt": "prompt", "completion": "response"},
    "preference": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
}
"""By format, our name of a column -> what a dataset_info.json calls it."""


class Fate(Enum):
    """What becomes of a key of a data set."""

    translated = auto()
    ignored = auto()
    refused = auto()
    dropped = auto()


@dataclass(frozen=True)
class Became:
    """What became of a key of a data set."""

    told: Told
    fate: Fate
    settings: Mapping[str, Any] = field(default_factory=dict)
    instead: tuple[str, ...] = ("data.path", "data.mix")
    """Settings of the recipe on the command line that settle it, each by itself."""


class _Refused(Exception):
    """Why a data set has no counterpart, and what to do."""


def data_settings(table: Datasets, rows: str, config: Mapping[str, Any], asked: Asked) -> Iterator[Became]:
    """What becomes of each key with data sets; `rows` is the format that the method reads of those described."""
    for key in table.keys:
        found = _listed(config, key)
        if found is None:
            continue
        if len(found) != 1:
            yield _refusal((key, [_place(table, each) for each in found], SEVERAL), asked)
            continue
        yield from _single(table, key, found[0], config, asked)
    if table.info and not is_off(config.get(table.info)):
        key, value = table.info, config[table.info]
        try:
            settings, note = _described(table, rows, config, asked.path)
        except _Refused as why:
            yield _refusal((key, value, str(why)), asked)
        else:
            yield Became((key, value, _told(settings) + note), Fate.translated, settings)


def _refusal(told: Told, asked: Asked, instead: str = "") -> Became:
    became = Became(told, Fate.dropped if told[0] in asked.drop else Fate.refused)
    return replace(became, instead=(instead,)) if instead else became


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} = {toml_value(value)}" for path, value in settings.items())


def _listed(config: Mapping[str, Any], key: str) -> list[Any] | None:
    value = config.get(key)
    if value is None:
        return None
    return value if isinstance(value, list) else [value]


def _place(table: Datasets, dataset: Any) -> Any:
    if not isinstance(dataset, Mapping):
        return dataset
    return next((dataset[key] for key in table.path if dataset.get(key)), None)


def _single(table: Datasets, key: str, dataset: Any, file: Mapping[str, Any], asked: Asked) -> Iterator[Became]:
    place = _place(table, dataset)
    if not isinstance(place, str):
        yield _refusal((key, dataset, f"data: found no {' or '.join(table.path)}; give data.path=FILE"), asked)
        return
    given = dataset if isinstance(dataset, Mapping) else {name: file.get(flat) for name, flat in table.flat.items()}
    config = next((given[each] for each in table.config if not is_off(given.get(each))), None)
    settings: dict[str, Any] = {"data.path": place if config in (None, "default") else f"{place}:{config}"}
    if split := next((given[each] for each in table.split if not is_off(given.get(each))), None):
        settings["data.split"] = str(split)
    columns = {ours: given[each] for each, ours in table.columns.items() if not is_off(given.get(each))}
    read = {*table.path, *table.config, *table.split, *table.columns, table.type}
    further = [_further(table, key, each, value, asked) for each, value in given.items() if each not in read]
    yield from filter(None, further)
    shape = given.get(table.type) if table.type else None
    if isinstance(shape, Mapping) or (shape is not None and word(shape) not in table.types):
        unread = f"rows of type {word(shape)} are not read: write them as docs/models-and-data.md has them"
        why = table.words.get(word(shape)) or f"{unread}, and give data.path=FILE"
        yield _refusal((f"{key}.{table.type}", shape, f"data: {why}"), asked)
        return
    if any(each and each.fate is Fate.refused and not set(each.instead) & asked.overrides.keys() for each in further):
        return
    of_type = dict(table.types[word(shape)]) if shape is not None else {}
    columns = {**of_type.pop("columns", {}), **columns}
    settings |= {name if "." in name else f"data.{name}": value for name, value in of_type.items()}
    settings |= {"data.columns": columns} if columns else {}
    yield Became((key, place, _told(settings)), Fate.translated, settings)


def _further(table: Datasets, key: str, name: str, value: Any, asked: Asked) -> Became | None:
    """What becomes of a data set's key that is not read; nothing is told of one that is not set."""
    if value is None:
        return None
    rule = table.further.get(name, OTHER_ROWS)
    if name in table.ignore:
        return Became((f"{key}.{name}", value, "it changes no row"), Fate.ignored)
    if is_one_of(value, rule.off) or (rule is OTHER_ROWS and is_off(value)):
        return Became((f"{key}.{name}", value, "it changes nothing with this value"), Fate.ignored)
    return _refusal((f"{key}.{name}", value, f"data: {rule.refuse}"), asked, rule.instead)


def _described(table: Datasets, rows: str, config: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], str]:
    """The settings of a data set that a dataset_info.json describes, and what else is to be known."""
    value = config[table.info]
    names = value if isinstance(value, list) else [each.strip() for each in str(value).split(",")]
    if len(names) != 1:
        raise _Refused(SEVERAL)
    folder = str(config.get(table.info_dir) or "data")
    places = [Path(folder), file.parent / folder, file.parent]
    found = next((place / INFO for place in places if (place / INFO).is_file()), None)
    if found is None:
        raise _Refused(f"data: there is no {INFO} in {folder} that says what it is: give data.path=FILE")
    about = read_object(found, error=RecipeError).get(names[0])
    if not isinstance(about, Mapping):
        raise _Refused(f"data: {found} does not speak of it: give data.path=FILE")
    if about.get("formatting", "alpaca") != "alpaca":
        raise _Refused("data: conversations of this form are not read: write them as messages, and give data.path=FILE")
    place = _described_place(about, found)
    local = not about.get("hf_hub_url")
    if bool(about.get("ranking")) != (rows == "preference"):
        raise _Refused(f"data: ranking in {found} says that its rows are not of this stage: give data.path=FILE")
    named = _described_columns(about, found, rows)
    columns = {ours: named[theirs] for ours, theirs in COLUMNS[rows].items() if named[theirs] != ours}
    system = named.get(SYSTEM, "") if rows != "text" else ""
    columns |= {SYSTEM: system} if system not in ("", SYSTEM) else {}
    settings = {"data.path": place, "data.format": rows} | ({"data.columns": columns} if columns else {})
    if (split := about.get("split")) and not local:
        settings["data.split"] = str(split)
    _check_unread(place if local else "", named.get("query", ""), "" if system else SYSTEM)
    return settings, "" if local or system else f"; where its rows have a column {SYSTEM}, it is read here"


def _check_unread(file: str, query: str, system: str) -> None:
    """Refuse rows whose query would be left out, or whose system's turn would be put in, by the names of these columns;
    where there is no file to be looked at, a query counts as being there."""
    filled = _filled(file, {query, system} - {""}) if file and Path(file).exists() else {query}
    if query and query in filled:
        raise _Refused(
            f"data: the column {query} is part of what is asked there, after the instruction and a line break: write "
            "both into one column `prompt`, and give data.path=FILE"
        )
    if system and system in filled:
        raise _Refused(
            f"data: the column {system} is not named there, and would be read here: take it out, and give "
            "data.path=FILE"
        )


def _described_place(about: Mapping[str, Any], found: Path) -> str:
    """Where the rows of a description are, all of which are taken."""
    hub = about.get("hf_hub_url")
    if (count := about.get("num_samples")) is not None:
        raise _Refused(
            f"data: num_samples in {found} draws {count} rows at random, and data.limit takes the first: give "
            f"data.path=FILE with the rows that were drawn, or with data.limit={count}"
        )
    strange = sorted(
        each for each in about.keys() - DESCRIBED - (ELSEWHERE if hub else set()) if not is_off(about[each])
    )
    if strange:
        raise _Refused(f"data: {found} has {', '.join(strange)}, which has no counterpart: give data.path=FILE")
    if hub:
        return f"{hub}:{about['subset']}" if about.get("subset") else str(hub)
    if not about.get("file_name"):
        raise _Refused(f"data: {found} does not say where it is: give data.path=FILE")
    if (split := about.get("split", "train")) != "train":
        raise _Refused(f"data: split = {split} in {found}: a file has no splits. Give data.path=FILE with those rows")
    return str(found.parent / about["file_name"])


def _described_columns(about: Mapping[str, Any], found: Path, rows: str) -> dict[str, str]:
    """The columns of a description that the method reads; where it names any, those that it does not name are none."""
    columns = about.get("columns", {"prompt": ASKED, "query": QUERY, "response": REPLY})
    known = {"query", SYSTEM, *(each for columns in COLUMNS.values() for each in columns.values())}
    if strange := sorted(each for each, name in columns.items() if each not in known and not is_off(name)):
        raise _Refused(
            f"data: {found} has the columns {', '.join(strange)}, which have no counterpart: give data.path=FILE"
        )
    if missing := [each for each in COLUMNS[rows].values() if not columns.get(each)]:
        raise _Refused(
            f"data: {found} names no column of {' and '.join(missing)}: give data.path=FILE and data.columns"
        )
    return {each: str(name) for each, name in columns.items() if not is_off(name)}


def _filled(place: str, columns: Iterable[str]) -> set[str]:
    """Those of some columns in which a file's rows say something."""
    left = set(columns)
    filled: set[str] = set()
    rows = rows_at(place, "train")
    for row in (raw for raw, _ in rows.told()) if isinstance(rows, Shards) else rows:
        if isinstance(row, Mapping):
            filled |= {each for each in left if row.get(each)}
        left -= filled
        if not left:
            break
    return filled


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
