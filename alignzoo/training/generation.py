"""A stage that trains nothing: it samples and scores, and leaves what it got as data for a later stage to train on.

The data are `data/STAGE.jsonl` in the run's folder, one prompt a line with its completions and their scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from alignzoo import processes
from alignzoo.errors import DataError, RunError
from alignzoo.files import line_of, read_lines
from alignzoo.interfaces import Policy, PolicyInfo
from alignzoo.metrics import Clock, memory, selection, shared
from alignzoo.storage import write_text
from alignzoo.training import recording
from alignzoo.training.budget import Meter, work
from alignzoo.training.journal import GENERATED, Ledger
from alignzoo.training.loop import Outcome, Saves, save, started
from alignzoo.training.rollout import rollout
from alignzoo.training.stage import Run
from alignzoo.types import Alert, Group, Prompt, StepReport, Text


def generate(stage: Run, data: Path, *, earlier: Path | None = None, resume: bool = False) -> Outcome:
    """Generate and score every step's prompts, and write the data, after those of a file that an earlier stage has
    left. A resumed run goes on bit for bit."""
    rewards = [reward.source for reward in stage.rewards]
    with Ledger(stage.journal, [*rewards, stage.sampler]) as ledger:
        outcome = _generate(stage, ledger, resume)
    _write(stage, outcome.steps, data, earlier)
    return outcome


def generated(path: Path) -> list[Prompt]:
    """The data that such a stage has left."""
    try:
        return [_prompt(row) for row in read_lines(path)]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not as a run writes it ({error!r}): put it back, or begin again") from error


class _Untrained:
    """In the policy's place in a checkpoint: nothing of it changes."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def info(self) -> PolicyInfo:
        return self.policy.info()

    def state(self) -> dict[str, Any]:
        return {}

    def optimizer_state(self) -> dict[str, Any]:
        return {}

    def restore(self, tensors: Mapping[str, Any]) -> None:
        pass

    def restore_optimizer(self, moments: Mapping[str, Any]) -> None:
        pass


def _generate(stage: Run, ledger: Ledger, resume: bool) -> Outcome:
    schedule, policy = stage.schedule, stage.policy
    stage, optimizer, start, _ = started(replace(stage, policy=cast(Policy, _Untrained(policy))), resume)
    step, meter, saves = start, Meter.read(schedule, stage.steps, stage.journal), Saves(schedule)
    stopped = meter.over or (recording.stopped(stage, start) if start else "")
    while (step < stage.steps or schedule.has_budget) and not stopped:
        report, rows = _step(replace(stage, policy=policy), step, meter.total)
        step = report.step
        report = replace(report, costs=ledger.write(step, "step"))
        stage = stage.following(report)
        stage.journal.write_all(GENERATED, step, rows)
        recording.record(stage, report, [])
        meter.add(report.metrics)
        stopped = recording.reached(schedule, report.metrics, {}, recording.watch(stage, report, [])) or meter.over
        save(stage, step, optimizer, stopped, saves)
    return Outcome({}, {}, {}, step, stopped, ledger.total())


def _step(stage: Run, step: int, steps: int) -> tuple[StepReport, list[dict[str, Any]]]:
    """Sample and score; the report, and a row of data for each group."""
    clock = Clock()
    rolled = rollout(stage, step, clock)
    groups, brought = rolled.groups, rolled.brought
    batch = stage.collated(groups, version=step)
    metrics = shared(groups, batch, batch, 0, step + 1) | selection(groups, brought, step + 1)
    metrics |= work(stage.policy, brought, batch, batch, (), step=step + 1, epochs=0)
    metrics |= clock.seconds() | memory(stage.policy)
    return StepReport(step + 1, max(steps, step + 1), metrics, tuple(brought)), [_row(group) for group in groups]


def _row(group: Group) -> dict[str, Any]:
    """A group as data: its completions that have a score."""
    prompt = group.prompt
    pairs = zip(group.completions, group.scores or (), strict=True)
    scored = [(completion, score.value) for completion, score in pairs if score.value is not None]
    if prompt.media is not None or not all(all(completion.trained) for completion, _ in scored):
        raise RunError(
            f"the prompt {str(prompt.messages)[:80]!r} has media, or a completion with tokens that are not trained on "
            "(of a tool, of another speaker), which data of text cannot keep: train in this stage on what it generates"
        )
    row = {
        "prompt": prompt.messages,
        "completions": [_reply(completion.text, prompt) for completion, _ in scored],
        "scores": [value for _, value in scored],
        "finished": [completion.finished for completion, _ in scored],
        "chat": prompt.chat,
        "info": dict(prompt.info),
    }
    try:
        json.dumps(row)
    except (TypeError, ValueError) as error:
        asked = str(prompt.messages)[:80]
        raise RunError(f"the prompt {asked!r} has a column that cannot be written as data: {error}") from error
    return row


def _reply(text: str, prompt: Prompt) -> Any:
    """A completion as data have it: of the prompt's kind."""
    return text if isinstance(prompt.messages, str) else [{"role": "assistant", "content": text}]


def _write(stage: Run, steps: int, path: Path, earlier: Path | None) -> None:
    """The data file, whole: earlier data, and those of all steps."""
    if processes.index():
        return
    former = read_lines(earlier) if earlier is not None else []
    rows = [{key: value for key, value in line.items() if key != "step"} for line in stage.journal.read(GENERATED)]
    kept = [row for row in rows if row["completions"]]
    if not kept and not former:
        raise RunError(f"{stage.name}: nothing was generated that has a score, so there are no data for a later stage")
    if len(kept) < len(rows):
        told = f"{len(rows) - len(kept)} of {len(rows)} prompts are left out of the data: every score abstained"
        recording.tell(stage, steps, [Alert("data", told)])
    path.parent.mkdir(exist_ok=True)
    write_text(path, "".join(map(line_of, [*former, *kept])), private=True)


def _prompt(row: Mapping[str, Any]) -> Prompt:
    return Prompt(
        _text(row["prompt"]),
        _texts(row["completions"]),
        tuple(row["scores"]),
        row["info"],
        row["chat"],
        finished=tuple(row["finished"]),
    )


def _texts(values: Iterable[Any]) -> tuple[Text, ...]:
    return tuple(map(_text, values))


def _text(value: str | Sequence[Mapping[str, str]]) -> Text:
    return value if isinstance(value, str) else tuple(value)
