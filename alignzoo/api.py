"""A recipe from start to end: `alignzoo.run("grpo", task="sort")` does what the command line does.

A run's folder holds manifest.json (the recipe with every default, versions, plugins), metrics.jsonl, samples.jsonl,
evaluations.jsonl, seconds.jsonl, result.json, curves.png, checkpoints/ and models/STAGE/.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from alignzoo import processes, report, runner
from alignzoo.checkpoint import write_json
from alignzoo.collate import WeightedReward
from alignzoo.errors import RunError, did_you_mean
from alignzoo.evaluate import Figures, Gold, Heldout, Rates
from alignzoo.interfaces import HasRates, Policy, RewardSource
from alignzoo.journal import Journal
from alignzoo.prompts import Data, from_rows, split, train_and_heldout
from alignzoo.recipe import Recipe, Stage, load
from alignzoo.registry import Registry
from alignzoo.runner import Interrupted
from alignzoo.stage import Progress, Run, Warn
from alignzoo.types import Alert, Prompt

PACKAGES = ("alignzoo", "torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors", "numpy", "pluggy")
"""Whose versions a manifest names."""


@dataclass(frozen=True)
class StageResult:
    """What a stage has come to."""

    name: str
    optimizer: str
    before: Figures
    after: Figures
    best_of: Figures
    steps: int
    stopped: str
    model: Path
    """A transformers directory with the trained model."""
    costs: Figures = field(default_factory=dict)
    """What its rewards and sampler have spent, in all its starts: requests, tokens, money."""


@dataclass(frozen=True)
class Result:
    """What a run has come to."""

    out: Path
    stages: tuple[StageResult, ...]
    policy: Policy | None
    """The last stage's policy, live; None where every stage was finished before."""

    @property
    def before(self) -> Figures:
        """The last stage's evaluation before training."""
        return self.stages[-1].before

    @property
    def after(self) -> Figures:
        """The last stage's evaluation after training."""
        return self.stages[-1].after

    @property
    def model(self) -> Path:
        """The last stage's model directory."""
        return self.stages[-1].model


def told_on_stderr(stage: str, step: int, alert: Alert) -> None:
    """What the Python API does with an alert unless it is told otherwise."""
    sys.stderr.write(f"{stage}, step {step}: {alert.message}\n")


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
    **settings: Any,
) -> Result:
    """Run a recipe, or an algorithm by its name, with objects where the command line has names.

    `policy` is a model directory, a hub id, a live transformers model, or a policy of one's own; `data` a path, rows,
    prompts or a dataset; `reward` a name, a Python function, a reward source, or a list of these. Everything else is a
    recipe's key: `task="sort"`, `seed=1`, `schedule={"steps": 20}`, `optimizer={"kl": 0.1}`. `overrides` are the
    command line's "key=value" strings and win over the rest. Raises an AlignzooError that says what to do.
    """
    registry = registry or Registry()
    registry.load_all()
    changes = _objects(policy, data, reward) | _flat(settings)
    loaded = load(recipe, [*changes.items(), *overrides], registry=registry)
    return execute(loaded, registry, out=out, resume=resume, progress=progress, warn=warn, trackers=trackers)


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
) -> Result:
    """Run a loaded recipe. Finished stages of a resumed run are not run again. `curves` draws curves.png."""
    folder = _folder(recipe, out, resume)
    check_trackers(trackers, registry)
    for stage in recipe.stages:
        _check_alerts(stage, registry)
    if processes.index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "manifest.json", manifest(recipe, registry))
    finished = {each.name: each for each in _finished(folder)} if resume else {}
    results: list[StageResult] = []
    live: Policy | None = None
    with _polite_interrupt() as interrupted:
        for stage in recipe.stages:
            if stage.name in finished:
                results.append(finished[stage.name])
                continue
            outputs = {each.name: str(each.model) for each in results}
            watch = _Watch(registry, progress, warn, interrupted, tuple(trackers))
            done, live = _stage(stage.with_outputs(outputs), folder, watch, resume)
            results.append(done)
            _write(folder, recipe, results, curves)
    return Result(folder, tuple(results), live)


@dataclass(frozen=True)
class _Watch:
    """Who watches a run."""

    registry: Registry
    progress: Progress
    warn: Warn
    interrupted: Callable[[], bool]
    trackers: tuple[str, ...]


def _stage(stage: Stage, folder: Path, watch: _Watch, resume: bool) -> tuple[StageResult, Policy]:
    watch.progress(f"{stage.name}: load", 0, 1, {})
    policy = stage.policy.load(stage.optimizer.needs)
    train, prompts, heldout = _data(stage)
    live = Run(
        name=stage.name,
        prompts=train,
        heldout=Heldout(stage.evaluate, prompts, heldout, _judges(stage), _gold(stage), _rates(stage)),
        policy=policy,
        sampler=stage.sampler,
        rewards=stage.rewards,
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
    about = RunInfo(stage.name, folder, live.steps, stage.resolved, watch.trackers)
    watch.registry.observe("alignzoo_run_start", run=about)
    outcome = runner.run(live, resume=resume)
    model = folder / "models" / stage.name
    done = StageResult(stage.name, _label(stage), **asdict(outcome), model=model)
    if processes.index() == 0:
        _save_model(policy, model, stage, done)
    watch.registry.observe("alignzoo_run_end", run=about, result=done)
    return done, policy


@dataclass(frozen=True)
class RunInfo:
    """What observers are told of a stage that begins."""

    name: str
    out: Path
    steps: int
    recipe: Mapping[str, Any]
    trackers: tuple[str, ...] = ()


def _alerts(answers: Sequence[Any]) -> list[Alert]:
    """What observers answered, in one list; what is no alert is none of a run's business."""
    lists = [answer for answer in answers if isinstance(answer, list | tuple)]
    return [alert for answer in lists for alert in answer if isinstance(alert, Alert)]


def _check_alerts(stage: Stage, registry: Registry) -> None:
    """Raise where a stage is to stop on a kind of alert that no plugin gives."""
    known = {kind for answer in registry.hook.alignzoo_alerts() for kind in answer} | {"any"}
    for kind in stage.schedule.stop_on:
        if kind not in known:
            raise RunError(f"{stage.name}.schedule.stop_on: nothing warns of {kind!r}. {did_you_mean(kind, known)}")


# --- the parts of a stage ---------------------------------------------------------------------------------------------


def _own(stage: Stage) -> bool:
    """Whether the stage is about its task's own data, so that the task's gold and reward speak of it."""
    return stage.task is not None and stage.data is None


def _gold(stage: Stage) -> Gold | None:
    return stage.task.gold if stage.task is not None and stage.data is None else None


def _rates(stage: Stage) -> Rates | None:
    return stage.task.rates if _own(stage) and isinstance(stage.task, HasRates) else None


def _data(stage: Stage) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
    """Training prompts, held-out prompts to answer, and held-out data of the kind that is learnt from."""
    if stage.data is None:
        assert stage.task is not None
        train = stage.task.data(stage.kind, "train")
        return train, stage.task.data("prompts", "heldout"), stage.task.data(stage.kind, "heldout")
    if isinstance(stage.data, Data):
        train, heldout = train_and_heldout(stage.data)
    elif isinstance(stage.data, str | Path):
        train, heldout = train_and_heldout(Data(path=str(stage.data)))
    else:
        rows = list(stage.data)
        given = rows if all(isinstance(row, Prompt) for row in rows) else from_rows(rows)
        train, heldout = split(given, Data.heldout)
    if not train:
        raise RunError(f"{stage.name}: no training prompts: all of the data are held out; lower data.heldout")
    return train, heldout, [prompt for prompt in heldout if prompt.completions]


def _judges(stage: Stage) -> tuple[WeightedReward, ...]:
    """What scores the answers to held-out prompts: the stage's reward, or its task's where it learns from labels."""
    if not stage.evaluate.reward:
        return ()
    if stage.sampler.online:
        return stage.rewards
    return stage.task_rewards if _own(stage) else ()


def examination(stage: Stage) -> tuple[list[Prompt], tuple[WeightedReward, ...], Gold | None]:
    """Held-out prompts, what scores answers to them, and their gold, whatever the stage itself learns from."""
    rewards = stage.task_rewards if _own(stage) else stage.rewards if stage.sampler.online else ()
    return _data(stage)[1], rewards, _gold(stage)


def _label(stage: Stage) -> str:
    optimizer = stage.resolved["optimizer"]
    return str(optimizer["name"]) if isinstance(optimizer, dict) else type(stage.optimizer).__name__


def _save_model(policy: Policy, path: Path, stage: Stage, done: StageResult) -> None:
    """The model directory with its card, whole or not at all."""
    partial = path.with_name(f".partial-{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    policy.save(partial)
    scores = "scores" in stage.optimizer.needs
    card = report.model_card(done.name, done.optimizer, stage.resolved, done.before, done.after, scores=scores)
    (partial / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def _write(folder: Path, recipe: Recipe, results: Sequence[StageResult], curves: bool) -> None:
    if processes.index():
        return
    stages = [asdict(each) | {"model": str(each.model.relative_to(folder))} for each in results]
    write_json(folder / "result.json", {"recipe": recipe.name, "stages": stages})
    if curves:
        report.curves(folder)


def _finished(folder: Path) -> list[StageResult]:
    path = folder / "result.json"
    if not path.exists():
        return []
    stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
    return [StageResult(**{**each, "model": folder / each["model"]}) for each in stages]


# --- folders and manifests --------------------------------------------------------------------------------------------


def _folder(recipe: Recipe, out: str | Path | None, resume: bool) -> Path:
    """Where to write. Earlier results are never written over."""
    if out is None and processes.count() > 1:
        raise RunError("several processes must write to one folder: name it with --out DIR")
    if out is None:
        if resume:
            raise RunError("resume what? Say which run with --out DIR")
        return next_folder(recipe.name)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: give --out a folder")
    begun = folder.exists() and any(path.name != "manifest.json" for path in folder.iterdir())
    if not begun or processes.index():
        return folder  # the other processes trust the first one, which may have begun to write
    if not resume:
        raise RunError(f"{folder} is not empty: choose another --out, or go on with that run by --resume")
    _check_same(recipe, folder)
    return folder


def next_folder(name: str) -> Path:
    """Where a run goes that is told no place: runs/NAME-001, and so on."""
    taken = [path.name.removeprefix(f"{name}-") for path in Path("runs").glob(f"{name}-*")]
    return Path("runs") / f"{name}-{max((int(number) for number in taken if number.isdigit()), default=0) + 1:03d}"


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


def _check_same(recipe: Recipe, folder: Path) -> None:
    """A run can only be resumed with the recipe that it was started with."""
    path = folder / "manifest.json"
    if not path.exists():
        raise RunError(f"{folder} holds no run to resume: it has no manifest.json")
    former = _leaves(json.loads(path.read_text(encoding="utf-8"))["recipe"])
    now = _leaves(json.loads(json.dumps(recipe.resolved)))
    differing = sorted(key for key in former.keys() | now.keys() if former.get(key) != now.get(key))
    if differing:
        changes = "\n".join(f"  {key}: was {former.get(key)!r}, now {now.get(key)!r}" for key in differing[:8])
        raise RunError(f"{folder} was started with another recipe and cannot be resumed with this one:\n{changes}")


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {key: leaf for name, each in items for key, leaf in _leaves(each, f"{path}.{name}".lstrip(".")).items()}


def manifest(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """Everything that it takes to repeat a run."""
    return {
        "recipe": recipe.resolved,
        "seeds": {stage.name: stage.seed for stage in recipe.stages},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "plugins": registry.distributions(),
        "machine": {"system": platform.platform(), "threads": torch.get_num_threads(), "processes": processes.count()},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def _polite_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks to stop after the step; the second stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        sys.stderr.write("\nStopping after this step. Ctrl-C again stops at once.\n")

    former = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, former)


# --- Python's objects -> overrides ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A live policy in the place of a policy's settings."""

    policy: Any

    def load(self, needs: frozenset[str]) -> Policy:
        live: Policy = self.policy
        return live


def _objects(policy: Any, data: Any, reward: Any) -> dict[str, Any]:
    """The three arguments that may be objects, as overrides."""
    changes: dict[str, Any] = {}
    if isinstance(policy, str | Path):
        changes["policy.model"] = str(policy)
    elif isinstance(policy, torch.nn.Module):
        changes["policy.model"] = policy
    elif isinstance(policy, Mapping):
        changes |= _flat({"policy": policy})
    elif policy is not None:
        changes["policy"] = Ready(policy) if isinstance(policy, Policy) else policy
    if isinstance(data, str | Path):
        changes["data.path"] = str(data)
    elif isinstance(data, Mapping):
        changes |= _flat({"data": data})
    elif data is not None:
        changes["data"] = data
    if reward is not None:
        rewards = reward if isinstance(reward, list | tuple) else [reward]
        changes["reward"] = [_reward(each) for each in rewards]
    return changes


def _reward(reward: Any) -> Any:
    if isinstance(reward, str):
        return {"name": reward}
    if callable(reward) and not isinstance(reward, RewardSource):
        return {"name": "python", "function": reward}
    return reward


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": each for name, each in value.items()}
        else:
            flat[key] = value
    return flat


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
