"""One cell, from its plan to its end: an ordinary run, then the evaluation that is the same for all."""

from __future__ import annotations

import fcntl
import functools
import math
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignzoo.calling import kept
from alignzoo.compare import also
from alignzoo.compare.answers import Examiner, examine, figures
from alignzoo.compare.intact import answers_of, write_inputs
from alignzoo.compare.plain import AGAIN, from_plain, read_figures
from alignzoo.compare.plan import TOLERANCE, Cell, entry, read_cell
from alignzoo.compare.results import CellResult, Figures, Status
from alignzoo.errors import DivergedError, RunError, in_words
from alignzoo.evaluation.answers import write_answers
from alignzoo.files import read_json, read_lines
from alignzoo.interfaces import Context
from alignzoo.lifecycle import Opening
from alignzoo.policies import loaded
from alignzoo.rewards import WeightedReward, opened_rewards
from alignzoo.storage import write_json

INTERRUPTED = 75
"""The exit status of a cell's process that was asked to stop: EX_TEMPFAIL of sysexits.h, try again."""

TIMED = ("seconds/", "memory")
"""What in a run's costs a clock or the allocator says."""


@dataclass(frozen=True)
class Ended:
    """A cell has ended."""

    id: str
    error: str = ""
    """What became of a process that died without a word; empty where the cell has its cell.json."""
    interrupted: bool = False
    """It was asked to stop, and is to go on when the comparison is run again."""


def finished(folder: Path) -> CellResult | None:
    """The result of a cell that has come to its end; None of one that has not."""
    path = folder / "cell.json"
    if not path.exists():
        return None
    result = from_plain(CellResult, read_json(path, fix=AGAIN), path)
    for name, value in [*result.after.items(), *result.costs.items()]:
        if not math.isfinite(value):
            raise RunError(f"{path}: {name} is {value}, which no finished cell has. {AGAIN}")
    return result


def run_cell(folder: Path) -> CellResult:
    """Do what a cell's plan.json says, or go on with it; whatever goes wrong is its result, not an exception."""
    with _alone(folder):
        cell = read_cell(folder)
        result = finished(folder) or _trained(cell, folder)
        if result.has_figures and also.missing(cell, folder):
            begun = time.perf_counter()
            _evaluate_also(cell, folder)
            timing = read_figures(folder / "timing.json")
            timing["seconds/cell"] = timing.get("seconds/cell", 0.0) + time.perf_counter() - begun
            write_json(folder / "timing.json", timing)
        return result


def _trained(cell: Cell, folder: Path) -> CellResult:
    """Train, or go on with it, and answer the held-out prompts."""
    from alignzoo.training.loop import Interrupted

    begun = time.perf_counter()
    with kept(but=(Interrupted,)) as failed:  # one that is interrupted is not over
        result = _run(cell, folder)
    if failed.error is not None:
        status: Status = "diverged" if isinstance(failed.error, DivergedError) else "failed"
        if status == "failed":
            traceback.print_exception(failed.error)
        result = _without_figures(cell, folder, status, in_words(failed.error))
    shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
    write_json(folder / "timing.json", _timing(folder) | {"seconds/cell": time.perf_counter() - begun})
    answers = {"answers": answers_of(folder)} if result.has_figures else {}
    write_json(folder / "cell.json", asdict(result) | answers)
    return result


def died(cell: Cell, folder: Path, how: str) -> CellResult:
    """The result of a cell whose process died without writing one."""
    result = _without_figures(cell, folder, "failed", how)
    write_json(folder / "timing.json", _timing(folder))
    write_json(folder / "cell.json", asdict(result))
    return result


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No two processes work in one folder, should one of a killed comparison still live."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- the run, then the evaluation -------------------------------------------------------------------------------------


def _run(cell: Cell, folder: Path) -> CellResult:
    from alignzoo.recipe import load
    from alignzoo.runs import api

    registry = registry_of(cell.plugins)
    evaluator = _evaluator(cell)
    write_inputs(cell, folder, evaluator.resolved, registry)
    spec: Any = evaluator.policy
    stopped, steps, model = "", 0, spec.model
    if cell.recipe:
        recipe = load(cell.recipe, cell.overrides, registry=registry)
        resume = (folder / "run" / "manifest.json").exists()
        result = api.execute(recipe, registry, out=folder / "run", resume=resume, curves=False, ask=False)
        stopped, steps, model = result.stages[-1].stopped, result.stages[-1].steps, str(result.model)
        _check_finite(folder)
    start = loaded(spec, frozenset())
    policy = loaded(replace(spec, model=model), frozenset()) if cell.recipe else start
    prompts, rewards, gold = api.examination(evaluator)
    rewards = (_reward(cell.scored_by, registry),) if cell.scored_by else rewards
    with Opening(Context(evaluator.name, folder / "parts", evaluator.seed, policy.device)) as opening:
        opening.closes(policy, spec)
        measures = Examiner(prompts, opened_rewards(opening, rewards), gold, start, cell.preferences)
        answers = examine(policy, measures, cell.measure)
    write_answers(folder / "answers.jsonl", answers)
    after = figures(answers)
    if not all(map(math.isfinite, after.values())):
        odd = [name for name, value in after.items() if not math.isfinite(value)]
        raise DivergedError(f"the trained policy's {', '.join(odd)} on held-out prompts are not finite")
    costs = _costs(folder)
    if cell.role == "best-of":
        n = cell.measure.best_of
        # Of the best of n, not of its text under the policy that wrote it, which is the start (Gao et al. 2022).
        after |= {"kl": math.log(n) - (n - 1) / n, "kl_se": 0.0}
        for name in ("kl/k3", "kl/token", "kl/k3/token"):
            del after[name]
    return CellResult(
        id=cell.id,
        algorithm=cell.algorithm,
        task=cell.task,
        seed=cell.seed,
        role=cell.role,
        overrides=cell.overrides,
        status=_over(cell, folder, costs),
        stopped=stopped,
        steps=steps,
        after=after,
        costs=costs,
    )


def _evaluator(cell: Cell) -> Any:
    """The stage that says how answers are generated and scored, with the start for its policy."""
    from alignzoo.recipe import load

    *others, stage = load(cell.evaluator, cell.evaluator_overrides, registry=registry_of(cell.plugins)).stages
    own: Any = stage.policy
    evaluator = replace(stage, policy=replace(own, model=cell.start))
    return evaluator.with_outputs({each.name: cell.start for each in others})


def _evaluate_also(cell: Cell, folder: Path) -> None:
    """The evaluations of a cell's final model besides its own figures, those that are missing."""
    from alignzoo.runs.folder import finished_in

    stage = _evaluator(cell)
    model = str(finished_in(folder / "run")[-1].model) if cell.recipe else str(stage.policy.model)
    also.evaluate(cell, folder, stage, model, registry_of(cell.plugins))


def _reward(text: str, registry: Any) -> WeightedReward:
    """A reward with its settings: "model[model=DIR]"."""
    from alignzoo.recipe import part

    given = entry(text)
    return WeightedReward(
        given.name, part(registry.get("reward", given.name), given.settings, given.name, registry=registry)
    )


def _check_finite(folder: Path) -> None:
    """A loss that is not finite stops a run; a figure of the algorithm's own that is not finite tells as much."""
    for line in read_lines(folder / "run" / "metrics.jsonl"):
        for name in ("loss", "kl", "entropy"):
            if not math.isfinite(line.get(name, 0.0)):
                raise DivergedError(f"{line['stage']}: {name} is {line[name]} in step {line['step']}")


def _over(cell: Cell, folder: Path, costs: Mapping[str, float]) -> Status:
    if cell.budget is None or not cell.recipe:
        return "ok"
    spent = _timing(folder)["seconds"] if cell.budget.currency == "seconds" else costs[cell.budget.currency]
    return "over-budget" if spent > (1 + TOLERANCE) * cell.budget.amount else "ok"


def _without_figures(cell: Cell, folder: Path, status: Status, error: str) -> CellResult:
    return CellResult(
        cell.id, cell.algorithm, cell.task, cell.seed, cell.role, cell.overrides, status, error, costs=_costs(folder)
    )


def _costs(folder: Path) -> Figures:
    """What training has spent, all stages together, as the metrics of each step say; evaluation is not counted."""
    lines = read_lines(folder / "run" / "metrics.jsonl")
    names = ("tokens/generated", "tokens/trained", "flops/forward", "flops/backward")
    spent = {name: math.fsum(line.get(name, 0.0) for line in lines) for name in names}
    spent["tokens"] = spent["tokens/generated"] + spent["tokens/trained"]
    spent["flops"] = spent["flops/forward"] + spent["flops/backward"]
    written = [line for line in lines if line.get("tokens/generated", 0.0) > 0]
    spent["rewards"] = math.fsum(line.get("completions", 0.0) for line in written)
    given = [line for line in lines if not line.get("tokens/generated", 0.0) > 0]
    spent["labels"] = math.fsum(line.get("groups", 0.0) for line in given)
    # A step that a killed run took twice counts once: the answers of the first time were kept.
    lines = [line for line in read_lines(folder / "run" / "costs.jsonl") if line["when"] == "step"]
    for name, counter in (("calls", "judge/questions"), ("judge/tokens", "judge/tokens")):
        asked = {(line["stage"], line["step"]): line.get(counter, 0.0) for line in lines}
        spent[name] = math.fsum(asked.values())
    return spent


def _timing(folder: Path) -> Figures:
    """Seconds by phase, of training; peak memory."""
    lines = read_lines(folder / "run" / "seconds.jsonl")
    phases = sorted({name for line in lines for name in line if name.startswith("seconds/")})
    spent = {name: math.fsum(line.get(name, 0.0) for line in lines) for name in phases}
    return {
        "seconds": sum(spent.values()),
        **spent,
        "memory": max((line.get("memory", 0.0) for line in lines), default=0),
    }


@functools.cache
def registry_of(plugins: tuple[str, ...]) -> Any:
    """Every installed plugin and these files, all loaded; the same for all cells of a process."""
    from alignzoo.registry import Registry

    registry = Registry()
    for path in plugins:
        registry.add_file(path)
    registry.load_all()
    return registry


if __name__ == "__main__":
    run_cell(Path(sys.argv[1]))
