"""The loop: prompts, groups, scores, batch, loss, update. It knows columns, not algorithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from alignzoo import checkpoint, processes
from alignzoo import functional as fn
from alignzoo.budget import Meter, work
from alignzoo.collate import WeightedReward, collate, fill, only, score, trim
from alignzoo.errors import DivergedError
from alignzoo.evaluate import Figures, Heldout, best_of, objective, reduced, scoring, writing
from alignzoo.importance import importance
from alignzoo.interfaces import HasNext, Optimizer, Policy, Sampler
from alignzoo.journal import Journal, Ledger, samples
from alignzoo.schedule import Schedule
from alignzoo.tokens import WATCHED, filled, keys, token_columns
from alignzoo.types import Alert, Batch, Group, Prompt, StepReport
from alignzoo.vocabulary import Clock, Means, memory, shared

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Told of everything that takes time: what is done, how much of it, of how much, and the latest figures."""

Warn = Callable[[str, int, Alert], None]
"""Told of what an observer warns of: in which stage, after which step."""

Reference = dict[tuple[int, ...], torch.Tensor]
"""The reference's log-probabilities by what a row says, for data that come by more than once."""

Tokens = list[dict[str, Any]]
"""Columns of each sampled completion, token by token."""

FILL_ROWS = 256
"""Rows per forward pass without gradient, unless the schedule's micro-batch is smaller."""


@dataclass(frozen=True)
class Run:
    """One stage, live: everything that the loop needs."""

    name: str
    prompts: Sequence[Prompt]
    heldout: Heldout
    policy: Policy
    sampler: Sampler
    rewards: Sequence[WeightedReward]
    optimizer: Optimizer
    schedule: Schedule
    seed: int
    journal: Journal
    checkpoints: Path
    observe: Callable[[StepReport], Sequence[Alert]] = lambda report: ()
    progress: Progress = lambda *told: None
    warn: Warn = lambda *told: None
    interrupted: Callable[[], bool] = lambda: False

    @property
    def steps(self) -> int:
        return self.schedule.total(len(self.prompts))

    @property
    def trains_writer(self) -> bool:
        """Whether the policy writes text; a pure scorer does not."""
        return "scores" not in self.optimizer.needs

    def keeps_samples(self, step: int) -> bool:
        """Whether what this step samples is written down."""
        every = self.schedule.samples_every
        return bool(every) and (step % every == 0 or step in (1, self.steps))


@dataclass(frozen=True)
class Outcome:
    """How a stage went."""

    before: Figures
    after: Figures
    best_of: Figures
    steps: int
    stopped: str = ""
    """Why it ended before its last step; empty when it did not."""
    costs: Figures = field(default_factory=dict)
    """What its rewards and sampler have spent, in all its starts."""


class Interrupted(Exception):
    """The user asked to stop; the last step is in a checkpoint."""


def run(stage: Run, *, resume: bool = False) -> Outcome:
    """Train a policy: evaluate, take every step, evaluate. A resumed run goes on bit for bit."""
    rewards = [reward.source for reward in (*stage.rewards, *stage.heldout.rewards)]
    with Ledger(stage.journal, [*rewards, stage.sampler]) as ledger:
        return _run(stage, ledger, resume)


def _run(stage: Run, ledger: Ledger, resume: bool) -> Outcome:
    schedule = stage.schedule
    adamw = torch.optim.AdamW(stage.policy.parameters(), betas=schedule.betas, weight_decay=schedule.weight_decay)
    optimizer, start = _started(stage, adamw, resume)
    before, baseline = _before(stage, start)
    reference = _precomputed(stage)
    ledger.write(start, "before")
    step, meter = start, Meter.read(schedule, stage.steps, stage.journal)
    stopped = meter.over or (_stopped(stage, start) if start else "")
    while (step < stage.steps or schedule.has_budget) and not stopped:
        (report, tokens), share = _step(stage, optimizer, adamw, step, reference, meter.total), meter.share
        step = report.step
        report = replace(report, costs=ledger.write(step, "step"))
        optimizer = optimizer.next(report) if isinstance(optimizer, HasNext) else optimizer
        _record(stage, report, tokens)
        meter.add(report.metrics)
        every = schedule.eval_every and step % schedule.eval_every == 0 and step < stage.steps
        if every or meter.due(share):
            _measured(stage, optimizer, step, "during")
            ledger.write(step, "during")
        stopped = _reached(schedule, report.metrics, _watch(stage, report)) or meter.over
        _save(stage, step, adamw, optimizer, stopped)
    after = _measured(stage, optimizer, step, "after")
    ledger.write(step, "after")
    return Outcome(before, after, baseline, step, stopped, ledger.total())


def _step(
    stage: Run, optimizer: Optimizer, adamw: torch.optim.Optimizer, step: int, reference: Reference, steps: int
) -> tuple[StepReport, Tokens]:
    """Sample, score, fill, prepare, update. Where samples are to be kept, their tokens' columns come along."""
    clock = Clock()
    needs = optimizer.needs
    seed = fn.derive(stage.seed, step, "sample", processes.index())
    with clock("sample"):
        chosen = processes.dealt(prompts_of(stage, step))
        groups = stage.sampler.sample(chosen, stage.policy, seed=seed)
    with clock("score"):
        groups = processes.gather(score(groups, stage.rewards, stage.policy))
    with clock("fill"):
        watched = WATCHED if stage.trains_writer and _own(groups) else frozenset()
        batch = _filled(stage, collate(groups, stage.policy.device), needs | watched, reference)
        prepared = optimizer.prepare(only(batch, needs))
    with clock("update"):
        lr = stage.schedule.rate(step, steps)
        figures = Means()
        for epoch in range(optimizer.epochs):
            rng = torch.Generator().manual_seed(fn.derive(stage.seed, step, "shuffle", epoch))
            for minibatch in prepared.split(stage.schedule.minibatch, rng=rng):
                figures.add(update(stage.policy, optimizer, minibatch, adamw, lr, stage.schedule))
    metrics = shared(groups, batch, prepared, optimizer.epochs) | figures.means()
    metrics |= work(stage.policy, groups, batch, prepared, needs=needs, epochs=optimizer.epochs)
    metrics |= {"lr": lr} | clock.seconds() | memory(stage.policy)
    if not math.isfinite(metrics.get("loss", 0.0)) or not math.isfinite(metrics.get("grad_norm", 0.0)):
        raise DivergedError(
            f"{stage.name}: the loss or its gradient is not finite in step {step + 1} (loss {metrics.get('loss')}, "
            f"gradient norm {metrics.get('grad_norm')}): a smaller schedule.lr or a larger KL weight keeps a run stable"
        )
    tokens = token_columns(groups, stage.policy, batch, prepared) if stage.keeps_samples(step + 1) else []
    return StepReport(step + 1, max(steps, step + 1), metrics, tuple(groups)), tokens


def update(
    policy: Policy, optimizer: Optimizer, minibatch: Batch, adamw: torch.optim.Optimizer, lr: float, schedule: Schedule
) -> Figures:
    """One update of the weights. Micro-batches and processes are partial sums of Σ weights·terms / N."""
    couples = getattr(optimizer, "couples", "group")
    columns = optimizer.needs & {"logprobs", "entropy", "values", "scores"}
    watched = columns | {"entropy"} if "logprobs" in columns else columns
    n = len(minibatch)
    share = processes.deal_groups(minibatch, couples=couples)
    figures: Figures = {}
    adamw.zero_grad()
    for micro in share.chunks(schedule.micro_batch, couples=couples) if len(share) else ():
        micro = trim(micro)
        out = policy.forward(micro, frozenset(watched))
        seen = out if "entropy" in columns else replace(out, entropy=None)
        terms = optimizer.loss(micro, seen)
        cost, corrected = terms.loss, {}
        if schedule.importance_cap:
            weights = importance(terms, micro, out, schedule.importance_cap)
            cost, corrected = cost * weights, {"importance": weights}
        loss = fn.weigh(cost, micro.weights, micro.mask) / n
        loss.backward()  # type: ignore[no-untyped-call]
        parts = {name: reduced(column, micro) / n for name, column in terms.metrics.items()}
        parts["loss"] = float(loss.detach())
        if out.entropy is not None:
            parts["entropy"] = float(out.entropy.detach().sum()) / float(minibatch.mask.sum())
        for name, column in corrected.items():
            parts[name] = float((column * micro.mask).sum()) / float(minibatch.mask.sum())
        figures = {name: figures.get(name, 0.0) + value for name, value in parts.items()}
    figures = processes.total(figures)
    figures["grad_norm"] = _apply(adamw, lr, schedule.max_grad_norm)
    return figures


def _apply(adamw: torch.optim.Optimizer, lr: float, max_norm: float) -> float:
    """Sum gradients over processes, clip them, and step. The norm before clipping comes back."""
    trained = [parameter for group in adamw.param_groups for parameter in group["params"]]
    processes.sum_gradients(trained)
    norm = torch.nn.utils.clip_grad_norm_(trained, max_norm or math.inf)
    for group in adamw.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
    if torch.isfinite(norm):
        adamw.step()
    return float(norm)


def prompts_of(stage: Run, step: int) -> list[Prompt]:
    """The prompts of a step: an endless row of shuffled passes over the data, read off by position."""
    n, size = len(stage.prompts), stage.schedule.prompts
    chosen, orders = [], {}
    for position in range(step * size, (step + 1) * size):
        turn = position // n
        if turn not in orders:
            rng = torch.Generator().manual_seed(fn.derive(stage.seed, "order", turn))
            orders[turn] = torch.randperm(n, generator=rng).tolist()
        chosen.append(stage.prompts[orders[turn][position % n]])
    return chosen


def measure(stage: Run, optimizer: Optimizer) -> tuple[Figures, list[Group]]:
    """The stage's evaluation: of a writer, with some of what it wrote, or of a scorer; and of its own objective on
    held-out data."""
    if not stage.heldout.settings.prompts:
        return {}, []
    stage.progress(f"{stage.name}: evaluate", 0, 1, {})
    writes = stage.trains_writer
    figures, written = writing(stage.policy, stage.heldout) if writes else (scoring(stage.policy, stage.heldout), [])
    learned = replace(stage.heldout, rewards=stage.rewards)
    figures |= objective(stage.policy, optimizer, stage.sampler, learned)
    stage.progress(f"{stage.name}: evaluate", 1, 1, figures)
    return figures, written


# --- the loop's parts -------------------------------------------------------------------------------------------------


def _started(stage: Run, adamw: torch.optim.Optimizer, resume: bool) -> tuple[Optimizer, int]:
    found = checkpoint.latest(stage.checkpoints) if resume else None
    stage.journal.rewind(found.step if found else -1)
    if found is None:
        return stage.optimizer, 0
    return found.restore(stage.policy, adamw, stage.optimizer), found.step


def _before(stage: Run, start: int) -> tuple[Figures, Figures]:
    """The evaluation before training, and best-of-n; a resumed run reads what its first start measured."""
    if start:
        line = stage.journal.read("evaluations", 0)[0]
        return line["before"], line["best_of"]
    before, written = measure(stage, stage.optimizer)
    settings = stage.heldout.settings
    wanted = settings.best_of and settings.prompts and stage.trains_writer and stage.heldout.rewards
    baseline = best_of(stage.policy, stage.heldout) if wanted else {}
    stage.journal.rewind(-1)
    stage.journal.write("evaluations", 0, {"before": before, "best_of": baseline})
    _write_samples(stage, 0, "before", written)
    return before, baseline


def _measured(stage: Run, optimizer: Optimizer, step: int, when: str) -> Figures:
    """An evaluation, written down with some of what was written in it."""
    figures, written = measure(stage, optimizer)
    stage.journal.write("evaluations", step, {when: figures})
    _write_samples(stage, step, when, written)
    return figures


def _write_samples(stage: Run, step: int, when: str, written: Sequence[Group]) -> None:
    batch = filled(written, stage.policy, micro_batch=_rows(stage)) if written else None
    tokens = token_columns(written, stage.policy, batch) if batch is not None else []
    stage.journal.write_all("samples", step, samples(written, when, tokens))


def _precomputed(stage: Run) -> Reference:
    """The reference's answers on data that come by more than once, computed in the data's order, once.

    In their order and not when they first come by, so that a resumed run has the same to the last bit.
    """
    repeats = not stage.schedule.has_budget and stage.steps * stage.schedule.prompts > len(stage.prompts)
    if stage.sampler.online or not repeats or "ref_logprobs" not in stage.optimizer.needs:
        return {}
    known: Reference = {}
    size = stage.schedule.prompts
    for start in range(0, len(stage.prompts), size):
        stage.progress(f"{stage.name}: reference", start, len(stage.prompts), {})
        groups = stage.sampler.sample(stage.prompts[start : start + size], stage.policy, seed=0)
        batch = collate(score(groups, stage.rewards, stage.policy), stage.policy.device)
        batch = fill(batch, stage.policy, frozenset({"ref_logprobs"}), micro_batch=_rows(stage))
        assert batch.ref_logprobs is not None
        known |= dict(zip(keys(batch), batch.ref_logprobs.cpu(), strict=True))
    return known


def _own(groups: Sequence[Group]) -> bool:
    """Whether the policy itself has just written all of it, so that a KL of it is the policy's."""
    return all(completion.logprobs is not None for group in groups for completion in group.completions)


def _filled(stage: Run, batch: Batch, needs: frozenset[str], reference: Reference) -> Batch:
    """The batch with the columns that are needed."""
    if reference and len(batch):
        width = batch.tokens.shape[1]
        rows = [torch.nn.functional.pad(row, (0, width))[:width] for row in (reference[key] for key in keys(batch))]
        batch = replace(batch, ref_logprobs=torch.stack(rows).to(batch.tokens.device))
    share = batch.select(slice(processes.index(), None, processes.count()))
    return processes.same_columns(batch, fill(share, stage.policy, needs, micro_batch=_rows(stage)))


def _rows(stage: Run) -> int:
    return min(stage.schedule.micro_batch or FILL_ROWS, FILL_ROWS)


def _record(stage: Run, report: StepReport, tokens: Tokens) -> None:
    timed = {name: value for name, value in report.metrics.items() if name.startswith("seconds/") or name == "memory"}
    steady = {name: value for name, value in report.metrics.items() if name not in timed}
    stage.journal.write("metrics", report.step, steady)
    stage.journal.write("seconds", report.step, timed)
    if stage.keeps_samples(report.step):
        stage.journal.write_all("samples", report.step, samples(report.groups, "training", tokens))
    stage.progress(stage.name, report.step, report.steps, report.metrics)


def _watch(stage: Run, report: StepReport) -> list[Alert]:
    """Let observers see the step, tell what they warn of, and write it down."""
    alerts = processes.of_first(list(stage.observe(report)))
    for alert in alerts:
        stage.journal.write("warnings", report.step, asdict(alert))
        stage.warn(stage.name, report.step, alert)
    return alerts


def _stopped(stage: Run, step: int) -> str:
    """Why the run had stopped after this step, by what its journal says."""
    alerts = [Alert(line["kind"], line["message"]) for line in stage.journal.read("warnings", step)]
    return _reached(stage.schedule, stage.journal.read("metrics", step)[0], alerts)


def _reached(schedule: Schedule, metrics: Mapping[str, float], alerts: Sequence[Alert]) -> str:
    """Why to stop early; empty to go on."""
    if schedule.kl_stop and metrics.get("kl", 0.0) >= schedule.kl_stop:
        return f"the KL reached {metrics['kl']:.2f} nats per sequence (kl_stop {schedule.kl_stop:g})"
    if metrics.get("reward/mean", -math.inf) >= schedule.reward_stop:
        return f"the reward reached {metrics['reward/mean']:.3f} (reward_stop {schedule.reward_stop:g})"
    for alert in alerts:
        if {alert.kind, "any"} & set(schedule.stop_on):
            return f"{alert.kind}: {alert.message} (stop_on)"
    return ""


def _save(stage: Run, step: int, adamw: torch.optim.Optimizer, optimizer: Optimizer, stopped: str) -> None:
    """A checkpoint at the interval, where the run stops early, and at once when the user asks to stop."""
    due = stopped or (stage.schedule.save_every and step % stage.schedule.save_every == 0)
    interrupted = stage.interrupted()
    if (due or interrupted) and processes.index() == 0:
        checkpoint.save(stage.checkpoints, step, stage.policy, adamw, optimizer, keep=stage.schedule.keep)
    if interrupted:
        raise Interrupted(f"{stage.name}: stopped after step {step} of {stage.steps}")
