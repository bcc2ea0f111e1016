"""How often a comparison is wrong: simulated comparisons of equal algorithms, decided as `alignzoo compare` decides.

    nice python benchmarks/calibration.py            # every cell, some minutes; writes results/calibration.{json,md}
    nice python benchmarks/calibration.py --reps 50  # prints

A cell is so many seeds, algorithms and tasks in a world, of which 1,000 comparisons are drawn. Told of each: how often
a comparison says at least once that one of two equal algorithms beats the other; how often the printed intervals cover,
those of differences and those of means; how often a true difference is found; beside what the rule of alignzoo 0.1 did.
Of looking again: the share of comparisons that are wrong at any of several looks, with ever more seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy
from machine import RESULTS, heading, machine
from numpy.typing import NDArray
from scipy import stats

from alignzoo.compare import inference
from alignzoo.compare import statistics as st

Array: TypeAlias = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, int, int], Array]
"""Scores of (comparisons, algorithms, seeds, prompts) of equal algorithms."""

PROMPTS = 64
SEEDS = (2, 3, 5, 10)
ALGORITHMS = (2, 6, 10)
TASKS = (1, 3, 6)
CONTROLS = 3
"""In every table, whose intervals hold together."""
CHUNK = 2_000_000
"""Scores that are drawn at once."""


# --- worlds -----------------------------------------------------------------------------------------------------------


def _normal(rng: np.random.Generator, reps: int, algorithms: int, seeds: int) -> Array:
    """Luck of a run, difficulty of a prompt, luck of an answer."""
    return (
        0.1 * rng.normal(size=(reps, algorithms, seeds, 1))
        + rng.normal(size=(reps, 1, 1, PROMPTS))
        + rng.normal(size=(reps, algorithms, seeds, PROMPTS))
    )


def _noisy(rng: np.random.Generator, reps: int, algorithms: int, seeds: int) -> Array:
    """The runs of the first vary five times as much as those of the others."""
    found = _normal(rng, reps, algorithms, seeds)
    found[:, 0] += np.sqrt(0.5**2 - 0.1**2) * rng.normal(size=(reps, seeds, 1))
    return found


def _right(chance: float) -> Draw:
    def draw(rng: np.random.Generator, reps: int, algorithms: int, seeds: int) -> Array:
        return (rng.random((reps, algorithms, seeds, PROMPTS)) < chance).astype(float)

    return draw


def _hard_and_easy(rng: np.random.Generator, reps: int, algorithms: int, seeds: int) -> Array:
    """Four prompts of five are nearly always answered rightly, the others nearly never."""
    chance = np.where(rng.random((reps, 1, 1, PROMPTS)) < 0.8, 0.97, 0.03)
    return (rng.random((reps, algorithms, seeds, PROMPTS)) < chance).astype(float)


def _log_normal(rng: np.random.Generator, reps: int, algorithms: int, seeds: int) -> Array:
    """Runs and answers are both skewed."""
    runs = np.exp(rng.normal(size=(reps, algorithms, seeds, 1)))
    return runs + np.exp(rng.normal(size=(reps, algorithms, seeds, PROMPTS)))


@dataclass(frozen=True)
class World:
    """Where scores come from."""

    draw: Draw
    mean: float
    """The true mean of every algorithm."""
    share: bool = False
    """Whether answers are right or wrong."""
    effect: float = 0.0
    """A true difference, for the power: added to every score of the first algorithm; of right answers a chance to mend
    a wrong one, which raises the share by `effect`."""


WORLDS = {
    "normal": World(_normal, 0.0, effect=0.6),
    "accuracy .5": World(_right(0.5), 0.5, share=True, effect=0.25),
    "accuracy .98": World(_right(0.98), 0.98, share=True, effect=-0.25),
    "hard and easy prompts": World(_hard_and_easy, 0.8 * 0.97 + 0.2 * 0.03, share=True, effect=-0.25),
    "log-normal": World(_log_normal, 2 * float(np.exp(0.5)), effect=6.0),
    "one noisy algorithm": World(_noisy, 0.0, effect=0.6),
}


def shifted(world: World, scores: Array, rng: np.random.Generator) -> Array:
    """The same with a true difference of the last algorithm to all others."""
    found = scores.copy()
    if not world.share:
        found[:, -1] += world.effect
    elif world.effect > 0:
        found[:, -1] = np.maximum(found[:, -1], rng.random(found[:, -1].shape) < world.effect / (1 - world.mean))
    else:
        found[:, -1] *= rng.random(found[:, -1].shape) >= -world.effect / world.mean
    return found


# --- rules ------------------------------------------------------------------------------------------------------------


def shown(scores: Array, family: int, level: float, *, share: bool) -> Array:
    """Which pairs are told apart, (comparisons, pairs), as `alignzoo compare` decides."""
    low, high = inference.among(scores, share=share).at(level / family)
    return np.asarray((low > 0) | (high < 0))


def shown_formerly(scores: Array) -> Array:
    """The same by the rule of alignzoo 0.1: each pair by its own variance, p-values that hold at 5 % alone, Holm within
    a task, and certainty where no variance is seen."""
    squares = st.Crossed(scores).differences(*inference.all_pairs(scores.shape[1]))
    prompts = np.maximum(squares.prompts - squares.rest, 0)
    total = squares.runs + prompts
    few, many = squares.n_runs - 1, squares.n_prompts - 1
    critical = [float(stats.t.isf(st.LEVEL / 2, df)) for df in (few, many)]
    met = np.divide(squares.runs * critical[0] + prompts * critical[1], total, out=np.ones_like(total), where=total > 0)
    between = np.linspace(few, many, 4000)
    df = np.interp(-met, -stats.t.isf(st.LEVEL / 2, between), between)
    se = np.sqrt(total / (squares.n_runs * squares.n_prompts))
    t = np.divide(abs(squares.mean), se, out=np.zeros_like(se), where=total > 0)
    p = np.where(total > 0, 2 * stats.t.sf(t, df), (squares.mean == 0).astype(float))
    order = np.argsort(p, axis=1)
    steps = p.shape[1] - np.arange(p.shape[1])
    rejected = np.minimum.accumulate(np.take_along_axis(p, order, 1) * steps < st.LEVEL, axis=1)
    found = np.zeros_like(rejected)
    np.put_along_axis(found, order, rejected, 1)
    return found


# --- cells ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What became of a cell's comparisons."""

    world: str
    seeds: int
    algorithms: int
    tasks: int
    reps: int
    wrong: float
    """The share of comparisons that say at least once that an algorithm beats its equal."""
    wrong_formerly: float
    covers: float
    """The share of intervals of differences that hold the true one, 0."""
    covers_means: float
    """The share of intervals of means that hold the true one."""
    power: float
    """The share of true differences that are shown."""
    power_formerly: float


def cell(name: str, seeds: int, algorithms: int, tasks: int, *, reps: int) -> Found:
    """Draw a cell's comparisons and decide them."""
    world = WORLDS[name]
    rng = np.random.default_rng([*name.encode(), seeds, algorithms, tasks])
    pairs = algorithms * (algorithms - 1) // 2
    level, family = inference.level_of(1), tasks * pairs
    better = np.array([algorithms - 1 in pair for pair in zip(*inference.all_pairs(algorithms), strict=True)])
    wrong, formerly = np.zeros(reps, bool), np.zeros(reps, bool)
    covers, means, power, former_power = [], [], [], []
    chunk = max(1, CHUNK // (algorithms * seeds * PROMPTS))
    for first in range(0, reps, chunk):
        part = slice(first, min(first + chunk, reps))
        for _ in range(tasks):
            scores = world.draw(rng, part.stop - part.start, algorithms, seeds)
            low, high = inference.among(scores, share=world.share).at(level / family)
            covers.append((low <= 0) & (high >= 0))
            wrong[part] |= ~covers[-1].all(1)
            formerly[part] |= shown_formerly(scores).any(1)
            labels = tuple(map(str, range(algorithms)))
            table_of = algorithms + CONTROLS
            low, high = inference.means(inference.Scores(labels, scores, world.share), labels).at(level / table_of)
            means.append((low <= world.mean) & (world.mean <= high))
        scores = shifted(world, scores, rng)
        power.append(shown(scores, family, level, share=world.share)[:, better])
        former_power.append(shown_formerly(scores)[:, better])
    shares = (float(np.concatenate(each).mean()) for each in (covers, means, power, former_power))
    held, held_means, found, found_formerly = shares
    figures = (float(wrong.mean()), float(formerly.mean()), held, held_means, found, found_formerly)
    return Found(name, seeds, algorithms, tasks, reps, *figures)


def cells() -> Iterator[tuple[str, int, int, int]]:
    """Every cell."""
    for name in WORLDS:
        for tasks in TASKS:
            for algorithms in ALGORITHMS:
                for seeds in SEEDS:
                    yield name, seeds, algorithms, tasks


def looking(name: str, looks: tuple[int, ...], algorithms: int, *, reps: int) -> tuple[float, float]:
    """The share of comparisons of equal algorithms that are wrong at any look, the level being spent; and where each
    look has all of it."""
    world, pairs = WORLDS[name], algorithms * (algorithms - 1) // 2
    scores = world.draw(np.random.default_rng(5), reps, algorithms, max(looks))
    spent, all_of_it = np.zeros(reps, bool), np.zeros(reps, bool)
    for number, seeds in enumerate(looks, 1):
        estimates = inference.among(scores[:, :, :seeds], share=world.share)
        for found, level in ((spent, inference.level_of(number)), (all_of_it, st.LEVEL)):
            low, high = estimates.at(level / pairs)
            found |= ((low > 0) | (high < 0)).any(1)
    return float(spent.mean()), float(all_of_it.mean())


# --- results ----------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: of every world, seeds and number of algorithms the worst of the numbers of tasks."""
    lines = [
        "| scores | seeds | algorithms | a false “beats”, worst of 1, 3, 6 tasks | 0.1 | differences covered | means "
        "covered | a true difference found, 1 task | 0.1 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in WORLDS:
        for algorithms in ALGORITHMS:
            for seeds in SEEDS:
                key = (name, seeds, algorithms)
                mine = [r for r in rows if (r["world"], r["seeds"], r["algorithms"]) == key]
                one = next(r for r in mine if r["tasks"] == 1)
                shares = (
                    max(r["wrong"] for r in mine),
                    max(r["wrong_formerly"] for r in mine),
                    min(r["covers"] for r in mine),
                    min(r["covers_means"] for r in mine),
                    one["power"],
                    one["power_formerly"],
                )
                told = " | ".join(f"{100 * share:.1f} %" for share in shares)
                lines.append(f"| {name} | {seeds} | {algorithms} | {told} |")
    return "\n".join(lines)


def page(rows: list[dict[str, Any]], looks: list[str], seconds: float) -> str:
    """The results as Markdown."""
    worst, covered = max(r["wrong"] for r in rows), min(min(r["covers"], r["covers_means"]) for r in rows)
    effects = ", ".join(f"{name} {world.effect:g}" for name, world in WORLDS.items())
    return "\n".join(
        [
            "# How often a comparison is wrong",
            "",
            f"{rows[0]['reps']} simulated comparisons of equal algorithms in each of {len(rows)} cells, {PROMPTS} "
            "prompts, first look. The worst cell says at least once that one beats its equal in "
            f"{100 * worst:.1f} % of comparisons; the intervals that cover most seldom do so in {100 * covered:.1f} %.",
            f"True differences: {effects}. The columns “0.1” are the rule of alignzoo 0.1 on the same draws.",
            "",
            table(rows),
            "",
            "Looking at results and adding seeds, 6 equal algorithms, one task: wrong at any look",
            "",
            "| scores | looks at seeds | the level is spent | each look has 5 % |",
            "|---|---|---:|---:|",
            *looks,
            "",
            f"{heading(machine())}, numpy {np.__version__}, scipy {scipy.__version__}; {seconds:.0f} s of one core.",
            "",
        ]
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description="Simulate comparisons of equal algorithms.")
    arguments.add_argument("--reps", type=int, default=1000, help="Comparisons of each cell; 1000 are kept as results.")
    reps = arguments.parse_args().reps
    rows = []
    for each in cells():
        rows.append(asdict(cell(*each, reps=reps)))
        sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
    looks = []
    for name in ("normal", "accuracy .5"):
        for at in ((3, 5), (3, 5, 10), (2, 3, 4, 5, 6, 7, 8, 9, 10)):
            spent, whole = looking(name, at, 6, reps=reps)
            looks.append(f"| {name} | {', '.join(map(str, at))} | {100 * spent:.1f} % | {100 * whole:.1f} % |")
    text = page(rows, looks, time.process_time())
    sys.stdout.write(text)
    if reps >= 1000:
        (RESULTS / "calibration.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "calibration.md").write_text(text)


if __name__ == "__main__":
    main()
