"""A recipe from start to end: `alignzoo.run("grpo", task="sort")` does what the command line does.

A run's folder holds manifest.json (the recipe with every default, versions, plugins), metrics.jsonl, samples.jsonl,
evaluations.jsonl, answers.jsonl, seconds.jsonl, result.json, curves.png, checkpoints/ and models/STAGE/.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alignzoo import processes, report, roles
from alignzoo.data.mixing import Mixed
from alignzoo.data.survey import Survey, sentences, survey
from alignzoo.errors import RunError, did_you_mean
from alignzoo.former import noted
from alignzoo.interfaces import Context, Policy
from alignzoo.lifecycle import Opening
from alignzoo.printable import printable
from alignzoo.recipe import Recipe, Stage, load
from alignzoo.recipe.merge import Merge
from alignzoo.recipe.nothing import Nothing
from alignzoo.recipe.outputs import leaves_data
from alignzoo.registry import Registry
from alignzoo.rewards import opened_rewards
from alignzoo.runs import preflight
from alignzoo.runs.arguments import flat, overrides_of
from alignzoo.runs.folder import (
    Result,
    StageResult,
    claimed,
    finished_in,
    manifest,
    next_folder,
    swept,
    write,
    write_manifest,
)
from alignzoo.runs.preflight import Checked
from alignzoo.runs.sizing import amount
from alignzoo.runs.stage_data import examination, generated_for, heldout_of, own_data
from alignzoo.storage import install, partial_of, write_json, writing
from alignzoo.training import checkpoint, loop, recording
from alignzoo.training.generation import generate
from alignzoo.training.journal import Journal
from alignzoo.training.loop import Interrupted, Outcome
from alignzoo.training.merging import merge
from alignzoo.training.stage import Progress, Run, Warn
from alignzoo.traits import REWARD_MODEL, traits_of
from alignzoo.types import Alert, Prompt

Show = Callable[[str, Survey], None]
"""Shown what a stage is about to train on: the stage, and the survey of its own data."""

INTERRUPTS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C, and what Slurm, Kubernetes and torchrun send before they kill; where the system has them."""

MOMENT = 0.5
"""Seconds in which two interrupts are one."""


def told_on_stderr(stage: str, step: int, alert: Alert) -> None:
    """What the Python API does with an alert unless it is told otherwise."""
    sys.stderr.write(printable(f"{stage}, step {step}: {alert.message}\n"))


@noted
def run(
    recipe: str | Path,
    *,
    policy: Any = None,
    data: Any = None,
    reward: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    registry: Registry | None = None,
    progress: Progress = lambda *told: None,
    warn: Warn = told_on_stderr,
    trackers: Sequence[str] = (),
    ask: bool = True,
    **settings: Any,
) -> Result:
    """Run a recipe, or an algorithm by its name, with objects where the command line has names.

    `policy` is a model directory, a hub id, a live transformers model, or a policy of one's own; `data` a path, rows,
    prompts or a dataset; `reward` a name, a Python function, a reward source, or a list of these. Everything else is a
    recipe's key: `task="sort"`, `seed=1`, `schedule={"steps": 20}`, `optimizer={"kl": 0.1}`. `overrides` are the
    command line's "key=value" strings and win over the rest. `ask` puts one question to every judge behind an endpoint
    before anything is trained. Raises an AlignzooError that says what to do.
    """
    registry = registry or Registry()
    registry.load_all()
    changes = overrides_of(policy, data, reward) | flat(settings)
    loaded = load(recipe, [*changes.items(), *overrides], registry=registry)
    watching: dict[str, Any] = {"progress": progress, "warn": warn, "trackers": trackers}
    return execute(loaded, registry, out=out, resume=resume, ask=ask, **watching)


def execute(
    recipe: Recipe,
    registry: Registry,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress = lambda *told: None,
    warn: Warn = told_on_stderr,
    trackers: Sequence[str] = (),
    curves: bool = True,
    ask: bool = True,
    show: Show = lambda *seen: None,
) -> Result:
    """Run a loaded recipe, checked whole before its first step. Finished stages of a resumed run are not run again.
    `curves` draws curves.png; `ask` puts one question to every judge behind an endpoint before anything is trained;
    `show` is given each stage's survey of its own data. Of several processes the first alone shows progress and warns.
    """
    if processes.index():
        progress, warn, show = _silent, _silent, _silent
    check_trackers(trackers, registry)
    for stage in recipe.stages:
        _check_alerts(stage, registry)
    results: list[StageResult] = []
    live: Policy | None = None

    def told(message: str) -> None:
        warn(recipe.name, 0, Alert("resumed", message))

    joined = processes.together(calm=(Interrupted,))
    with joined, claimed(recipe, out, resume, told) as folder, _polite_interrupt() as interrupted:
        finished = {each.name: each for each in finished_in(folder)} if resume else {}
        checked = preflight.check(recipe, _outputs(finished.values()), folder, ask=ask)
        if processes.index() == 0:
            swept(folder)
        if processes.index() == 0 and len(finished) < len(recipe.stages):
            write_manifest(folder, recipe, registry, told)
        for stage in recipe.stages:
            if stage.name in finished:
                results.append(finished[stage.name])
                _drop_checkpoints(stage, folder, results[-1])
                continue
            watch = _Watch(registry, progress, warn, interrupted, tuple(trackers), show)
            ready, data = stage.with_outputs(_outputs(results)), checked.pop(stage.name)
            if stage.origin is not None:
                data = replace(data, train=generated_for(ready))
            done, live = _stage(ready, data, folder, watch, resume)
            results.append(done)
            write(folder, recipe, results, curves)
            _drop_checkpoints(stage, folder, done)
    return Result(folder, tuple(results), live)


def _models(stage: Stage, optimizer: Merge) -> Iterator[Policy]:
    """The models that a stage merges, each loaded as its policy is, one after the other."""
    for model in optimizer.models:
        spec: Any = stage.policy
        yield roles.load(replace(spec, model=model), stage.optimizer)


def _silent(*told: Any) -> None: ...


def _drop_checkpoints(stage: Stage, folder: Path, done: StageResult) -> None:
    """Delete the checkpoints of a stage that has come to its end: nobody goes on from there."""
    if not (processes.index() or stage.schedule.keep_checkpoints or done.stopped):
        checkpoint.drop_all(folder / "checkpoints" / stage.name)


@dataclass(frozen=True)
class _Watch:
    """Who watches a run."""

    registry: Registry
    progress: Progress
    warn: Warn
    interrupted: Callable[[], bool]
    trackers: tuple[str, ...]
    show: Show


def _outputs(results: Iterable[StageResult]) -> dict[str, str]:
    """The models and data that finished stages have left."""
    return {each.name: str(each.model) for each in results}


def _stage(stage: Stage, data: Checked, folder: Path, watch: _Watch, resume: bool) -> tuple[StageResult, Policy]:
    for note in stage.notes if stage.origin is None else ():
        watch.warn(stage.name, 0, Alert("recipe", note))
    watch.progress(f"{stage.name}: load", 0, 1, {})
    journal = Journal(folder, stage.name)
    if any(data.spent.values()):
        journal.write("costs", 0, {"when": "check", **data.spent})
    policy = roles.load(stage.policy, stage.optimizer)
    train = data.train if stage.data is None else _looked_at(stage, policy, data, folder, watch)
    with Opening(Context(stage.name, folder / "parts" / stage.name, stage.seed, policy.device)) as opening:
        opening.closes(policy, stage.policy)
        live = _live(stage, policy, train, data, folder, watch, opening)
        generates = leaves_data(stage)
        trained = 0 if generates else sum(each.numel() for group in policy.parameters() for each in group["params"])
        about = RunInfo(stage.name, folder, live.steps, stage.resolved, watch.trackers, trained, *_kind(stage, policy))
        watch.registry.observe("alignzoo_run_start", run=about)
        left = folder / "data" / f"{stage.name}.jsonl" if generates else folder / "models" / stage.name
        if isinstance(stage.optimizer, Merge):
            outcome = merge(live, stage.optimizer, _models(stage, stage.optimizer))
        else:
            outcome = _generate(live, left, stage, resume) if generates else loop.run(live, resume=resume)
        number = stage.round.number if stage.round else 0
        done = StageResult(stage.name, _label(stage), **asdict(outcome), model=left, round=number)
        if not generates:
            _save_model(policy, left, stage, done)
        ended = _alerts(watch.registry.observe("alignzoo_run_end", run=about, result=done))
        recording.tell(live, done.steps, processes.of_first(ended))
    return done, policy


def _generate(live: Run, left: Path, stage: Stage, resume: bool) -> Outcome:
    """Run a stage that leaves data, in addition to those of an earlier one that it names."""
    named = stage.optimizer.earlier if isinstance(stage.optimizer, Nothing) else ""
    return generate(live, left, earlier=Path(named) if named else None, resume=resume)


def _live(
    stage: Stage,
    policy: Policy,
    train: Sequence[Prompt],
    data: Checked,
    folder: Path,
    watch: _Watch,
    opening: Opening,
) -> Run:
    """The stage as the loop needs it, its parts open."""
    heldout = heldout_of(stage, data.prompts, data.shown, len(train))
    return Run(
        name=stage.name,
        prompts=train,
        heldout=replace(heldout, rewards=opened_rewards(opening, heldout.rewards)),
        policy=policy,
        sampler=opening.open(stage.sampler, "sampler"),
        rewards=opened_rewards(opening, stage.rewards),
        optimizer=stage.optimizer,
        schedule=stage.schedule,
        seed=stage.seed,
        journal=Journal(folder, stage.name),
        checkpoints=folder / "checkpoints" / stage.name,
        observe=lambda report: _alerts(watch.registry.observe("alignzoo_after_step", report=report)),
        progress=watch.progress,
        warn=watch.warn,
        interrupted=watch.interrupted,
    )


def _looked_at(stage: Stage, policy: Policy, data: Checked, folder: Path, watch: _Watch) -> Sequence[Prompt]:
    """The prompts to train on, once they have been shown to the user as the model sees them."""
    too_long = own_data(stage).too_long
    kept, found = survey(
        data.train, policy, too_long, lambda done, n: watch.progress(f"{stage.name}: data", done, n, {})
    )
    work = [str(amount(stage, len(kept), len(data.prompts), len(data.shown)))]
    found = replace(found, work="\n".join([str(kept), *work] if isinstance(kept, Mixed) else work))
    if processes.index() == 0:
        for sentence in sentences(found):
            watch.warn(stage.name, 0, Alert("data", sentence))
        watch.show(stage.name, found)
        (folder / "data").mkdir(exist_ok=True)
        write_json(folder / "data" / f"{stage.name}.json", found.data(), private=True)
    return kept


@dataclass(frozen=True)
class RunInfo:
    """What observers are told of a stage that begins."""

    name: str
    out: Path
    steps: int
    recipe: Mapping[str, Any]
    trackers: tuple[str, ...] = ()
    trained: int = 0
    """How many weights are trained."""
    parameters: int = 0
    """How many weights the model has, frozen ones too; 0 where the policy does not say."""
    supervised: bool = False
    """It imitates, or becomes a reward model: methods that take higher rates than those that learn from preferences or
    rewards."""


def _kind(stage: Stage, policy: Policy) -> tuple[int, bool]:
    """The size of a stage's model, and whether its method is supervised."""
    shape, traits = policy.info().shape, traits_of(stage.optimizer)
    return 0 if shape is None else shape.parameters, traits.imitates or traits.trains == REWARD_MODEL


def _alerts(answers: Sequence[Any]) -> list[Alert]:
    """What observers answered, in one list; what is no alert is none of a run's business."""
    lists = [answer for answer in answers if isinstance(answer, list | tuple)]
    return [alert for answer in lists for alert in answer if isinstance(alert, Alert)]


def _check_alerts(stage: Stage, registry: Registry) -> None:
    """Raise where a stage is to stop on a kind of alert that no plugin gives."""
    if not stage.schedule.stop_on:
        return
    known = {kind for answer in registry.observe("alignzoo_alerts") for kind in answer} | {"any"}
    for kind in stage.schedule.stop_on:
        if kind not in known:
            raise RunError(f"{stage.name}.schedule.stop_on: nothing warns of {kind!r}. {did_you_mean(kind, known)}")


def check_trackers(names: Sequence[str], registry: Registry) -> None:
    """Raise where a tracker is asked for that no plugin serves, or that misses its package."""
    if not names:
        return
    served = registry.trackers()
    for name in names:
        if name not in served:
            raise RunError(f"there is no tracker {name!r}. {did_you_mean(name, served)}")
        if served[name]:
            raise RunError(f"the tracker {name!r} cannot be used: {served[name]}")


def _label(stage: Stage) -> str:
    optimizer = stage.resolved["optimizer"]
    return str(optimizer["name"]) if isinstance(optimizer, dict) else type(stage.optimizer).__name__


def _save_model(policy: Policy, path: Path, stage: Stage, done: StageResult) -> None:
    """The model directory with its card, whole or not at all."""
    if processes.index():
        if policy.info().collective:
            policy.save(path)  # the first process gathers from all, and writes
        return
    partial = partial_of(path, path.parent.parent)
    with writing(f"the model of {stage.name}", path):
        policy.save(partial)
    scores = traits_of(stage.optimizer).trains == REWARD_MODEL
    model = getattr(stage.policy, "model", "")
    start = model if isinstance(model, str) else ""
    for folder in (partial, partial / "adapter"):
        if folder.is_dir():
            about: dict[str, Any] = {"scores": scores, "start": start, "adapter": folder is not partial}
            card = report.model_card(done.name, done.optimizer, stage.resolved, done.before, done.after, **about)
            (folder / "README.md").write_text(card, encoding="utf-8")
    install(partial, path)


@contextmanager
def _polite_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C, or what a cluster sends in its place, asks to stop after the step; the second stops at once.

    A launcher hands on what the terminal has sent, so what comes within a moment of the first is the same once more.
    """
    asked: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(asked)
        return

    def ask(number: int, frame: Any) -> None:
        if asked and time.monotonic() - asked[0] > MOMENT:
            raise KeyboardInterrupt
        if not asked and processes.index() == 0:
            sys.stderr.write("\nStopping after this step. Ctrl-C again stops at once.\n")
        asked.append(time.monotonic())

    former = {number: signal.signal(number, ask) for number in INTERRUPTS}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


__all__ = [
    "Interrupted",
    "Result",
    "StageResult",
    "check_trackers",
    "examination",
    "execute",
    "manifest",
    "next_folder",
    "run",
]
