"""What is known of another tool: its methods, its keys, its defaults; read from a TOML file."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignzoo.errors import PluginError, did_you_mean
from alignzoo.recipe.parts import build
from alignzoo.recipe.tables import merge, read_toml
from alignzoo.registry.source import find_spec

OWN = Path(__file__).parent / "tools"
"""The tables that come with this package, one for each tool."""

GROUP = "alignzoo.importers"
"""Entry points by which other packages bring tables: the tool's name = "package:FILE", FILE.toml in that package."""


@dataclass(frozen=True)
class Rule:
    """What becomes of a key."""

    to: str = ""
    """The recipe's setting that takes the value, as in "schedule.lr"."""
    each: tuple[str, ...] = ()
    """For a list, the setting that takes each element; "": that element has to be 1."""
    map: Mapping[str, Any] = field(default_factory=dict)
    """The tool's values -> the recipe's; a table {ignore = "why"}, {refuse = "why"} or {set = {"a.b" = 1}} instead of
    a value says what else becomes of it. "*" stands for every value that `within` finds."""
    within: str = ""
    """A key whose value has to name this one's, as a model's name names its family, for `map` to have it as "*"."""
    op: str = ""
    """A name of `alignzoo_import.values.OPERATIONS`, applied before."""
    note: str = ""
    """What else is to be known of a value that was translated."""
    ignore: str = ""
    """Why the key has no effect on the result here."""
    refuse: str = ""
    """Why another result would come out without the key, and what to do; values that switch it off are fine."""
    off: tuple[Any, ...] = ()
    """Further values that switch it off, beside none, false, 0 and those that are empty; of a setting that takes the
    value, those that change nothing."""
    only: Mapping[str, Any] = field(default_factory=dict)
    """The values of other keys without which the tool does not read this one."""
    instead: str = ""
    """The recipe's setting that settles a refused key, given on the command line."""
    null: Any = None
    """What a null that a file gives means where the key has a default: this value of the recipe's setting; "default",
    the default; "off", that the tool does without. Of a rule that says nothing, null is no value of the key."""


@dataclass(frozen=True)
class Computed:
    """A setting that several keys make up."""

    to: str
    keys: tuple[str, ...]
    """The keys that it is made of, those after "/" as divisors; "@processes" and "@packed" are options of the
    command."""
    op: str = "product"
    """A name of `alignzoo_import.values.COMBINATIONS`."""
    whole: bool = False
    """Whether what comes out has to be a whole number."""
    when: Mapping[str, Any] = field(default_factory=dict)
    """The values of keys under which it is so. The first that fits is taken."""
    note: str = ""
    default_note: str = ""
    """What else is to be known of it where a file gives none of the keys."""


@dataclass(frozen=True)
class Rewards:
    """How the tool names what scores a completion."""

    functions: tuple[str, ...]
    """Keys with names of functions; the first that is there."""
    weights: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    """Keys with the directory of a reward model."""
    known: Mapping[str, str] = field(default_factory=dict)
    """The tool's own names of functions -> where these are."""


@dataclass(frozen=True)
class Variant:
    """The optimizer that a method becomes where some keys have these values."""

    optimizer: str
    when: Mapping[str, Any] = field(default_factory=dict)
    """Values of keys: a value, a list of them, "*" for any but none, "< 1", "> 1"."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the recipe that it always has."""
    keys: Mapping[str, Rule] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Method:
    """One of the tool's trainers."""

    variants: tuple[Variant, ...]
    marks: tuple[str, ...] = ()
    """Keys that no other method has, by which a file is known to be of this one."""
    online: bool = False
    """Whether the policy generates what it is trained on, so that a reward is needed."""
    rows: str = "prompt-completion"
    """The format that it reads of the rows of a dataset_info.json: this one, preference, prompt-only or text."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Rule] = field(default_factory=dict)
    compute: Mapping[str, Computed] = field(default_factory=dict)
    to_know: tuple[str, ...] = ()
    """What differs whatever a file says."""


@dataclass(frozen=True)
class Former:
    """Defaults and keys that earlier versions of the tool had."""

    before: str
    """The version in which they changed."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Rule] = field(default_factory=dict)
    """What became of keys then."""
    method: str = ""
    """The method whose defaults and keys they are; empty: those of all."""


@dataclass(frozen=True)
class Keys:
    """Keys that share a reason."""

    why: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Datasets:
    """How the tool lists data sets, each a table."""

    keys: tuple[str, ...]
    """Dotted keys of lists of them."""
    path: tuple[str, ...]
    """What a data set's place is called; the first that is there."""
    config: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    flat: Mapping[str, str] = field(default_factory=dict)
    """Where a file names one data set alone: the keys of the file that stand for those of the table."""
    type: str = ""
    """What says of which shape the rows are."""
    types: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Shapes -> settings of `data`, or of another part by its dotted path."""
    words: Mapping[str, str] = field(default_factory=dict)
    """Shapes that are refused, as the tool writes such rows in words of its own: which, and what to do."""
    ignore: tuple[str, ...] = ()
    """Keys of a data set that change nothing here."""
    further: Mapping[str, Rule] = field(default_factory=dict)
    """Keys of a data set that are refused, with the values that change nothing; where a rule does not say what settles
    it, data on the command line do."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Keys that name columns -> our names of these columns."""
    info: str = ""
    """A key with names of data sets that a dataset_info.json describes, beside the file or in the folder that
    `info_dir` names."""
    info_dir: str = ""


@dataclass(frozen=True)
class Tool:
    """Another tool: how its files become recipes."""

    title: str
    version: str
    """The version whose keys and defaults these are."""
    methods: Mapping[str, Method]
    extends: str = ""
    """The table of a library beneath it, whose keys it has, too: NAME, of _NAME.toml beside this one."""
    method_key: str = ""
    """The key that names the method; empty: a file does not say it."""
    method_default: str = ""
    method_names: Mapping[str, str] = field(default_factory=dict)
    """Values of the key -> methods, where they differ."""
    null_is_unset: bool = False
    """Whether a key without a value has its default, as if it were not there."""
    joined: tuple[str, ...] = ()
    """Keys whose lists are told as one word, "a+b"."""
    nested: tuple[str, ...] = ()
    """Keys that hold tables: their keys are told as KEY.KEY."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Rule] = field(default_factory=dict)
    compute: Mapping[str, Computed] = field(default_factory=dict)
    history: tuple[Former, ...] = ()
    ignore: Mapping[str, Keys] = field(default_factory=dict)
    """Groups of keys without effect on the result here."""
    refuse: Mapping[str, Keys] = field(default_factory=dict)
    """Groups of keys without which another result would come out."""
    datasets: Datasets | None = None
    rewards: Rewards | None = None
    to_know: tuple[str, ...] = ()
    """What differs whatever a file says."""

    def method_rules(self, method: Method, variant: Variant) -> dict[str, Rule]:
        """The rule of every key, the narrower ones over the wider."""
        shared = {key: Rule(ignore=each.why) for each in self.ignore.values() for key in each.keys}
        shared |= {key: Rule(refuse=each.why) for each in self.refuse.values() for key in each.keys}
        return {**shared, **self.keys, **method.keys, **variant.keys}


def tables() -> dict[str, Path]:
    """The table of each tool that is known, by the tool's name."""
    found = {path.stem: path for path in sorted(OWN.glob("[!_]*.toml"))}
    for point in importlib.metadata.entry_points(group=GROUP):
        module, _, name = point.value.partition(":")
        home = find_spec(module).origin
        if point.name not in found and home:
            found[point.name] = Path(home).parent / f"{name}.toml"
    return found


def read_table(tool: str) -> Tool:
    """The table of a tool, by its name, or at a path that ends in .toml."""
    known = tables()
    if not tool.endswith(".toml") and tool not in known:
        raise PluginError(f"there is no table of {tool!r}. {did_you_mean(tool, known)} A path of a .toml does, too.")
    path = Path(tool) if tool.endswith(".toml") else known[tool]
    return _built(path, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.cache
def _built(path: Path, changed: int) -> Tool:
    """The table in a file as it was when it was last changed."""
    node = read_toml(path, lists=())
    if "extends" in node.value:
        below = f"_{node.value['extends'].value}.toml"
        base = next(
            (folder / below for folder in (path.parent, OWN) if (folder / below).is_file()), path.parent / below
        )
        node = merge(read_toml(base, lists=()), node)
    found: Tool = build(Tool, node, "table")
    return found
