"""What is compared: algorithms × tasks × seeds, and what is the same for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from alignzoo.compare.plain import AGAIN, from_plain
from alignzoo.compare.results import Role
from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.files import read_object
from alignzoo.storage import write_json

ENTRY = re.compile(r"([^\[\]=]+)(?:\[(.*)\])?")
"""NAME, or NAME[key=value,...]."""

LABEL = "label"
"""The setting that says how the results call an entry."""

CURRENCIES = ("tokens", "seconds", "flops")

TOLERANCE = 0.1
"""A run ends with a step, so it may miss its budget by part of one: what misses it by a larger share is marked."""

FIRST_TRIAL = 10_000
"""Seeds of tuning trials begin here, beyond those of the comparison."""


@dataclass(frozen=True)
class Entry:
    """An algorithm or a task by its name, with settings of its own."""

    name: str
    settings: tuple[str, ...] = ()
    """"key=value" each: of an algorithm as overrides of its recipe, of a task as its fields."""
    called: str = ""
    """How the results call it, where that is given: by "label=..." among the settings."""

    @property
    def label(self) -> str:
        """How it is called in the results."""
        return self.called or self.name + (f"[{self.setting}]" if self.settings else "")

    @property
    def setting(self) -> str:
        return ",".join(self.settings)

    @property
    def written(self) -> str:
        """As one gives it to a command, its label with it."""
        settings = ([f"{LABEL}={self.called}"] if self.called else []) + list(self.settings)
        return self.name + (f"[{','.join(settings)}]" if settings else "")


def entry(text: str) -> Entry:
    """ "ppo" or "ppo[optimizer.kl=0.1,schedule.lr=1e-4]"."""
    found = ENTRY.fullmatch(text.strip())
    if found is None:
        raise RecipeError(f"{text!r}: expected NAME or NAME[key=value,...], as in ppo[optimizer.kl=0.1]")
    name, inside = found.groups()
    settings = tuple(each.strip() for each in _split(inside or "") if each.strip())
    for each in settings:
        if "=" not in each:
            raise RecipeError(f"{text!r}: {each!r} is no key=value")
    called = [each.partition("=")[2].strip() for each in settings if each.partition("=")[0].strip() == LABEL]
    if len(called) > 1 or not all(called):
        raise RecipeError(f"{text!r}: give one label, as in ppo[label=gentle,optimizer.kl=0.1]")
    kept = tuple(each for each in settings if each.partition("=")[0].strip() != LABEL)
    return Entry(name.strip(), kept, *called)


def _split(text: str) -> list[str]:
    """At commas that are not inside brackets, braces or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


@dataclass(frozen=True)
class Budget:
    """What every cell may spend in training; earlier stages of its recipe count."""

    currency: Literal["tokens", "seconds", "flops"]
    amount: float

    @property
    def overrides(self) -> tuple[str, ...]:
        return (f"schedule.budget_{self.currency}={self.amount!r}",)

    def __str__(self) -> str:
        return f"{self.currency}={self.amount:g}"


def budget(text: str) -> Budget:
    """ "tokens=2e5", "seconds=60" or "flops=1e15"."""
    currency, _, amount = text.partition("=")
    if currency not in CURRENCIES:
        raise RecipeError(f"budget {text!r}: there is no currency {currency!r}. {did_you_mean(currency, CURRENCIES)}")
    try:
        value = float(amount)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise RecipeError(f"budget {text!r}: expected a number above 0, as in {currency}=2e5, found {amount!r}")
    return Budget(currency, value)  # type: ignore[arg-type]


LEAST = {"seeds": 1, "trials": 0, "prompts": 1, "n": 1, "points": 0, "best_of": 0}
"""How small the numbers of a plan may be."""

CALLED = {"trials": "tune"}
"""What users call them."""


@dataclass(frozen=True)
class Plan:
    """A comparison, before it is run."""

    algorithms: tuple[Entry, ...]
    tasks: tuple[Entry, ...]
    """Empty where the common overrides bring data of the user's own."""
    seeds: int = 3
    budget: Budget | None = None
    """The same for all; None: each recipe's own steps."""
    trials: int = 0
    """Settings tried for each algorithm on each task before the comparison, the recipe's own the first of them."""
    trial_kl: float | None = None
    """Trials are compared within this KL to the start, in nats per sequence; None: at whatever KL."""
    best_of: int = 4
    """Samples per prompt of the best-of-n baseline."""
    prompts: int = 256
    """Held-out prompts of the final evaluation: the first so many."""
    validation: int = 64
    """Held-out prompts after those, by which trials are chosen."""
    n: int = 1
    """Sampled answers to each."""
    points: int = 4
    """Smaller evaluations on the way, for the learning curves."""
    judge: str = "gold"
    """Who decides which of two answers wins: "gold", or a judge with its settings."""
    measure: str = ""
    """A reward, with its settings, that scores the answers to held-out prompts in place of the task's or the recipes'
    own: best one that no algorithm is trained on. Empty: theirs."""
    also: tuple[str, ...] = ()
    """What the final policies are evaluated with besides: a task, a file of pairs, or "lm-eval:NAME"."""
    also_limit: int | None = None
    """The first so many items of each of these; None: all."""
    overrides: tuple[str, ...] = ()
    """Overrides of every cell's recipe."""
    plugins: tuple[str, ...] = ()
    """Loose plugin files."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            found = getattr(self, name)
            if not isinstance(found, int) or found < least:
                raise RecipeError(f"{CALLED.get(name, name)}: found {found!r}, allowed: an integer at least {least}")

    @property
    def start(self) -> str:
        """The model that every algorithm starts from."""
        given = [each.partition("=")[2] for each in self.overrides if each.startswith("policy.model=")]
        return given[-1] if given else "task:policy"

    @property
    def seed_numbers(self) -> range:
        return range(self.seeds)


@dataclass(frozen=True)
class Measure:
    """The final evaluation of a cell."""

    first: int
    """The first held-out prompt."""
    last: int
    """The one after the last."""
    n: int
    """Sampled answers to each prompt."""
    seed: int
    """Seed of the sampling: the same for all cells of a seed."""
    best_of: int = 0
    """Answer with the best of so many samples by the reward; 0: with a sample."""


@dataclass(frozen=True)
class Cell:
    """One algorithm on one task with one seed: everything that a process on any machine needs to know."""

    id: str
    algorithm: str
    """Its label."""
    recipe: str
    """What is run; empty of a control that trains nothing."""
    task: str
    """Its label."""
    seed: int
    role: Role
    overrides: tuple[str, ...]
    """Overrides of the recipe."""
    measure: Measure
    evaluator: str
    """The recipe whose last stage says how answers are written and what scores them, the same for all cells of a
    task."""
    evaluator_overrides: tuple[str, ...]
    start: str
    """The model that training starts from."""
    budget: Budget | None = None
    plugins: tuple[str, ...] = ()
    scored_by: str = ""
    """The reward that scores its answers; empty: the evaluator's."""
    preferences: bool = False
    """Whether the given answers to held-out prompts are compared: the data are the user's own, and bring some."""
    also: tuple[str, ...] = ()
    """What its final policy is evaluated with besides."""
    also_limit: int | None = None
    trial: int = field(default=-1)
    """The number of a tuning trial; -1 where it is none."""

    def write(self, folder: Path) -> None:
        """plan.json of a cell's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "plan.json", asdict(self))


def read_cell(folder: Path) -> Cell:
    """The cell that a folder was made for."""
    path = folder / "plan.json"
    return cell_from(read_object(path, "budget", "measure", fix=AGAIN), path)


def cell_from(data: Mapping[str, Any], where: str | Path = "") -> Cell:
    """A cell from its JSON."""
    given = None if data["budget"] is None else from_plain(Budget, data["budget"], where)
    measure = from_plain(Measure, data["measure"], where)
    return from_plain(Cell, {**data, "measure": measure, "budget": given}, where)


def safe(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"[^\w.=+-]+", "_", label).strip("_")


def unique_ids(cells: Sequence[Cell]) -> None:
    """Raise where two cells would share a folder."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.id, cell)
        if other is not cell:
            raise RecipeError(f"{cell.algorithm!r} and {other.algorithm!r} would share the folder cells/{cell.id}")


def repeated(entries: Sequence[Entry]) -> Iterator[str]:
    """Labels that are given twice."""
    seen = set()
    for each in entries:
        if each.label in seen:
            yield each.label
        seen.add(each.label)
