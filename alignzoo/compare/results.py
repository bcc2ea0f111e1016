"""What a comparison has come to, as data: results.json, and where everything else lies.

DIR/
  results.json        this file's `Results`: equal to the byte for equal plans and seeds on one machine
  verdicts.jsonl      what a judge has said of each pair of answers, in both orders: 1 where a's is the better, 0 where
                      b's is, with a's shown first and with b's; none where gold scores judge
  timings.json        what clocks and the allocator say: {cell id: {"seconds/...": s, "memory": bytes, ...}}
  cells/ID/           one cell each; ID is TASK/ALGORITHM/seed-N, or .../trial-N
    plan.json         what it is to do
    inputs.json       the files, models and plugins that its answers are written and scored with
    run/              an ordinary run: manifest.json, metrics.jsonl, seconds.jsonl, samples.jsonl,
                      evaluations.jsonl, result.json, models/; absent of a control that trains nothing
    also/NAME.json    what --also asks for: one evaluation of the final policy, item by item, or why there is none
    answers.jsonl     the final policy's answers to the held-out prompts, one `answers.Answer` a line
    timing.json       its clock
    log.txt           what it said
    cell.json         its status, figures and costs, and the number of lines and the SHA-256 of answers.jsonl, written
                      last: a cell that has it is finished
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from alignzoo.compare.plain import from_plain
from alignzoo.errors import RunError
from alignzoo.files import read_object
from alignzoo.storage import write_json

Figures = dict[str, float]

Role = Literal["algorithm", "start", "best-of", "random", "trial"]
"""What a cell is there for. "start", "best-of" and "random" are the negative controls: no training, choosing without
training, training on a reward that says nothing. A "trial" tunes, and is in no statistic."""

CHAIN: tuple[Role, ...] = ("start", "random", "best-of")
"""The order in which an algorithm is held against the controls."""

Status = Literal["ok", "failed", "diverged", "over-budget"]
"""How a cell ended: as it should; with an error; with a loss or an answer that is not finite; having spent more than
its budget. All are counted, and shown; "ok" and "over-budget" cells have figures."""

FORMAT = 2
"""Raised when a field changes its meaning."""

T = TypeVar("T")


@dataclass(frozen=True)
class CellResult:
    """One algorithm on one task with one seed."""

    id: str
    """TASK/ALGORITHM/SEED, safe as a path: its folder is cells/ID."""
    algorithm: str
    """The label under which it is compared, one of `Results.algorithms`."""
    task: str
    seed: int
    role: Role
    overrides: tuple[str, ...]
    """Everything that was told to its recipe, as the command line has it."""
    status: Status
    error: str = ""
    """Why it failed or diverged; empty where it did not."""
    stopped: str = ""
    """Why it ended before its last step; empty where it did not."""
    steps: int = 0
    before: Figures = field(default_factory=dict)
    """The starting policy's figures, with the same evaluation draws: those of the control `start`."""
    after: Figures = field(default_factory=dict)
    """Its own, on held-out prompts: gold, accuracy, reward, kl, kl/k3, kl/token, kl/k3/token, entropy, length,
    finished, distinct/1, distinct/2, distinct/3, some also with the suffix `_se` (over prompts) or `_greedy`."""
    costs: Figures = field(default_factory=dict)
    """tokens (generated + trained), tokens/generated, tokens/trained, flops, flops/forward, flops/backward, labels
    (groups of given answers that were read), rewards (generated completions that were scored), calls (questions to
    judges), judge/tokens; all stages together."""

    @property
    def has_figures(self) -> bool:
        """Whether it came to an evaluation."""
        return self.status in ("ok", "over-budget")

    @property
    def folder(self) -> str:
        """Relative to the comparison's."""
        return f"cells/{self.id}"


@dataclass(frozen=True)
class Compared:
    """An algorithm of the comparison, or a control."""

    label: str
    name: str
    """The recipe's or the optimizer's; empty for a control that trains nothing."""
    setting: str
    """What distinguishes it from the same algorithm under another setting, as "optimizer.kl=0.1"; often empty."""
    role: Role
    summary: str
    """What it is, in a line."""
    data: str = ""
    """What it is trained on: how many of what, and who scored them."""
    trials: int = 0
    """How many settings were tried for it on each task."""
    tuned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By task, the overrides of the setting that was chosen; empty where the recipe's own was, or none was tried."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """How many of its cells ended with each status but "ok"."""


@dataclass(frozen=True)
class Standing:
    """An algorithm on a task, or on all tasks together, by one figure."""

    task: str
    """Empty: all tasks together, each score rescaled so that the start is 0 and the task's known best 1; where none is
    known, the best run of the task."""
    algorithm: str
    metric: str
    values: tuple[float, ...]
    """One for each seed, in order; of all tasks: (seed, task) flattened, tasks varying fastest."""
    mean: float
    iqm: float
    """The interquartile mean."""
    low: float
    high: float
    """The interval of the mean of a task, over seeds and prompts: those of all algorithms of the task hold together, at
    the level of the comparison (`settings["level"]`). Of the IQM of all tasks: 95 %, by a stratified bootstrap."""
    failed: int = 0
    """How many of `values` are not its own: of runs that failed or diverged, which count as the worse of the start and
    of the algorithm's worst run that ended."""


@dataclass(frozen=True)
class Pair:
    """Algorithm `a` against `b` on a task, paired by seed and by prompt."""

    task: str
    a: str
    b: str
    metric: str
    difference: float
    """Mean of a minus mean of b."""
    low: float | None
    high: float | None
    """The interval that the verdict rests on: those of the whole family hold together, at the level of the comparison.
    None with fewer than two seeds, and where the two score alike in every answer."""
    p: float | None
    """The p-value of the difference being 0, two-sided, by itself; never 0."""
    p_adjusted: float | None
    """Corrected by Bonferroni for the size of the family; below the level exactly where the interval leaves out 0."""
    family: Literal["algorithms", "controls"]
    """Pairs of algorithms, of all tasks, are one family, those with a control another."""
    improvement: float
    """Probability of improvement: that a run of a beats one of b, ties half."""
    n_seeds: int
    n_prompts: int
    shown: bool = False
    """Whether the interval leaves out 0."""
    reached: bool = True
    """Whether it is tested: against a control only what was better than all controls before."""

    @property
    def significant(self) -> bool:
        """Whether the difference is shown: with all others of its family, at the level of the comparison."""
        return self.shown and self.reached


@dataclass(frozen=True)
class WinRate:
    """How often a judge prefers an answer of `a` to one of `b` on the same prompt; ties are half."""

    task: str
    a: str
    b: str
    rate: float
    low: float
    high: float
    length_controlled: float
    """The rate at equal length: see `alignzoo.compare.winrates`."""
    ties: float
    """The share of ties."""
    inconsistent: float
    """The share of prompts on which the judge's verdict turned with the order of the two answers."""
    n: int
    """Comparisons: seeds × prompts."""


@dataclass(frozen=True)
class Improvement:
    """The probability of improvement over all tasks: that a run of `a` beats one of `b` on the same task."""

    a: str
    b: str
    probability: float
    low: float
    high: float


@dataclass(frozen=True)
class Profile:
    """A performance profile: the share of an algorithm's runs, over all tasks, whose rescaled score is above τ."""

    algorithm: str
    thresholds: tuple[float, ...]
    shares: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A metric of an evaluation that `--also` asks for: a further figure of the final policies, item by item."""

    task: str
    """The comparison's task, on which the policies were trained."""
    evaluation: str
    """As it was asked for: "lm-eval:gsm8k"."""
    metric: str
    """What the evaluation measures of an item."""
    lower_is_better: bool
    standings: tuple[Standing, ...]
    """Every algorithm that was trained, and the start, whose evaluation does not depend on the seed; failed runs are
    counted as in the comparison's own figure."""
    pairs: tuple[Pair, ...]
    """Paired by seed and by item: every pair of algorithms, and every algorithm against the start. The intervals of
    all columns hold together, those between algorithms by themselves, and those to the start."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """The versions and settings that the evaluation depends on."""

    @property
    def name(self) -> str:
        return f"{self.evaluation} {self.metric}"


@dataclass(frozen=True)
class Headline:
    """A sentence that the data bear."""

    task: str
    """Empty: of all tasks together."""
    text: str


@dataclass(frozen=True)
class Results:
    """A whole comparison."""

    command: str
    """It repeats the comparison."""
    settings: Mapping[str, Any]
    """The plan: tasks, seeds, budget, trials, evaluation, best_of, judge, common overrides, bootstrap."""
    metric: Mapping[str, str]
    """By task, the figure that is compared: gold, else accuracy, else reward."""
    algorithms: tuple[Compared, ...]
    cells: tuple[CellResult, ...]
    """Every one, trials and failures included."""
    standings: tuple[Standing, ...]
    pairs: tuple[Pair, ...]
    win_rates: tuple[WinRate, ...]
    """Every ordered pair of algorithms and controls."""
    improvements: tuple[Improvement, ...]
    """Every ordered pair."""
    profiles: tuple[Profile, ...]
    headlines: tuple[Headline, ...]
    notes: tuple[str, ...]
    """What a reader must know to judge the figures: how they were made, and what they do not show."""
    columns: tuple[Column, ...] = ()
    """What `--also` asked for."""
    versions: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def failures(self) -> list[CellResult]:
        """The cells that did not end as they should."""
        return [cell for cell in self.cells if cell.status != "ok"]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(cell.task for cell in self.cells))

    def compared(self, label: str) -> Compared:
        """The algorithm or control of a label."""
        return next(each for each in self.algorithms if each.label == label)

    def write(self, folder: Path) -> Path:
        """results.json, whole or not at all."""
        path = folder / "results.json"
        write_json(path, asdict(self))
        return path


LISTS: dict[str, type[Any]] = {
    "algorithms": Compared,
    "cells": CellResult,
    "standings": Standing,
    "pairs": Pair,
    "win_rates": WinRate,
    "improvements": Improvement,
    "profiles": Profile,
    "headlines": Headline,
}
"""The parts of results.json that are lists of these."""

ANEW = "Put it back, or delete it: the same command writes it again, as of a first look."


def read_results(folder: str | Path) -> Results:
    """The results of a comparison's folder."""
    path = Path(folder) / "results.json"
    if not path.exists():
        raise RunError(f"{folder} holds no finished comparison: it has no results.json")
    data = read_object(path, "format", fix=ANEW)
    if data["format"] != FORMAT:
        raise RunError(f"{path} is of format {data['format']}, this alignzoo reads {FORMAT}: compare again")
    data = read_object(path, *LISTS, "notes", fix=ANEW)
    parts: dict[str, Any] = {name: _list(cls, data[name], name, path) for name, cls in LISTS.items()}
    parts["columns"] = tuple(_column(each, path) for each in _objects(data.get("columns", []), "columns", path))
    looks_in(data, path)
    return from_plain(Results, {**data, **parts}, path, ANEW)


def looks_in(data: Mapping[str, Any], path: Path) -> list[int]:
    """The numbers of seeds at which results were looked at, of results.json."""
    settings = data.get("settings")
    looks = settings.get("looks", []) if isinstance(settings, dict) else None
    if not isinstance(looks, list) or not all(type(each) is int for each in looks):
        raise RunError(f"{path} has no list of numbers in its settings' 'looks'. {ANEW}")
    return looks


def _objects(found: Any, name: str, path: Path) -> list[Any]:
    if not isinstance(found, list):
        raise RunError(f"{path}: {name!r} is {type(found).__name__} where a list is expected. {ANEW}")
    return found


def _list(cls: type[T], found: Any, name: str, path: Path) -> tuple[T, ...]:
    return tuple(from_plain(cls, each, path, ANEW) for each in _objects(found, name, path))


def _column(data: Any, path: Path) -> Column:
    given = data if isinstance(data, dict) else {}
    parts = {
        "standings": _list(Standing, given.get("standings"), "standings", path),
        "pairs": _list(Pair, given.get("pairs"), "pairs", path),
    }
    return from_plain(Column, {**given, **parts}, path, ANEW)
