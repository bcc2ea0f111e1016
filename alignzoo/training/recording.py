"""What a run leaves behind as it goes: metrics, samples, warnings; and what they say of when to stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from alignzoo import processes
from alignzoo.evaluation.heldout import Evaluated
from alignzoo.lifecycle import MADE_ANEW
from alignzoo.microbatch import MEMORY, MicroBatcher
from alignzoo.schedule import AT_KL, Stopping
from alignzoo.training import no_gradient
from alignzoo.training.journal import samples
from alignzoo.training.reference_cache import CACHE
from alignzoo.training.stage import Run
from alignzoo.training.token_log import Tokens, filled, token_columns
from alignzoo.types import Alert, StepReport

AHEAD = "ahead"
"""The kind of what is told of completions that are generated ahead."""

STOPPING = "stopping"
"""The kind of what is told of limits that cannot be reached."""

OWN = {MEMORY, CACHE, MADE_ANEW, AHEAD, STOPPING, no_gradient.FIRST, no_gradient.STALLED}
"""The kinds of what the run itself warns of, which is no reason to stop."""


def record(stage: Run, report: StepReport, tokens: Tokens) -> None:
    """A step's figures, apart from what it took, and what was sampled where that is to be kept."""
    timed = {name: value for name, value in report.metrics.items() if name.startswith("seconds/") or name == "memory"}
    steady = {name: value for name, value in report.metrics.items() if name not in timed}
    stage.journal.write("metrics", report.step, steady)
    stage.journal.write("seconds", report.step, timed)
    if stage.keeps_samples(report.step):
        stage.journal.write_all("samples", report.step, samples(report.groups, "training", tokens))
    stage.progress(stage.name, report.step, report.steps, report.metrics)


def watch(stage: Run, report: StepReport, own: list[Alert]) -> list[Alert]:
    """Let observers see the step; tell what they warn of, and what the run itself does. The observers' come back."""
    alerts = processes.of_first(list(stage.observe(report)))
    tell(stage, report.step, alerts)
    tell(stage, report.step, processes.gather(own))
    own.clear()
    return alerts


def tell(stage: Run, step: int, alerts: Iterable[Alert]) -> None:
    """Warn, and write it down."""
    for alert in alerts:
        stage.journal.write("warnings", step, asdict(alert))
        stage.warn(stage.name, step, alert)


def stopped(stage: Run, step: int) -> str:
    """Why the run had stopped after this step, by what its journal says."""
    lines = [line for line in stage.journal.read("warnings", step) if line["kind"] not in OWN]
    alerts = [Alert(line["kind"], line["message"]) for line in lines]
    during = [line["during"] for line in stage.journal.read("evaluations", step) if "during" in line]
    evaluated = during[0] if during else {}
    return reached(stage.schedule, stage.journal.read("metrics", step)[0], evaluated, alerts)


def reached(
    stopping: Stopping, metrics: Mapping[str, float], evaluated: Mapping[str, float], alerts: Sequence[Alert]
) -> str:
    """Why to stop early, by a step and the evaluation after it, if there was one; empty to go on."""
    kl = max(metrics.get("kl", 0.0), evaluated.get("kl", 0.0))
    if stopping.kl_stop and kl >= stopping.kl_stop:
        return f"{AT_KL} {kl:.2f} nats per sequence (kl_stop {stopping.kl_stop:g})"
    if stopping.reward_stop is not None and metrics.get("reward/mean", -math.inf) >= stopping.reward_stop:
        return f"the reward reached {metrics['reward/mean']:.3f} (reward_stop {stopping.reward_stop:g})"
    for alert in alerts:
        if {alert.kind, "any"} & set(stopping.stop_on):
            return f"{alert.kind}: {alert.message} (stop_on)"
    return ""


def unseen(stage: Run) -> list[Alert]:
    """What is told before the first step of limits that nothing will measure."""
    schedule, told = stage.schedule, []
    generates = stage.trains_policy and stage.sampler.online
    on_the_way = bool(stage.heldout.settings.prompts) and bool(schedule.evaluations or schedule.eval_every)
    if schedule.kl_stop and not stage.trains_policy:
        told.append("schedule.kl_stop has no effect: what is trained generates nothing, and has no KL")
    elif schedule.kl_stop and not (on_the_way or (generates and schedule.kl_every)):
        why = "schedule.kl_every is 0" if generates else "the steps learn from given answers"
        told.append(
            f"schedule.kl_stop has no effect: {why}, and no evaluation on the way measures the KL; "
            "schedule.evaluations=10 makes ten"
        )
    if schedule.reward_stop is not None and not generates:
        told.append("schedule.reward_stop has no effect: no step generates what a reward could score")
    return [Alert(STOPPING, message) for message in told]


def write_evaluation(stage: Run, step: int, when: str, found: Evaluated, batcher: MicroBatcher) -> None:
    """What was generated in an evaluation, each completion with its figures; its first groups among the samples, token
    by token."""
    stage.journal.write_all("answers", step, ({"when": when, **asdict(each)} for each in found.answers))
    written = found.shown
    batch = filled(written, stage.policy, batcher) if written else None
    tokens = token_columns(written, stage.policy, written, batch) if batch is not None else []
    stage.journal.write_all("samples", step, samples(written, when, tokens))
