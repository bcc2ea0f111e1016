"""The loop: prompts, groups, scores, batch, loss, update. It knows columns, not algorithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from alignzoo import checkpoint, processes, recording
from alignzoo import functional as fn
from alignzoo.budget import Meter, work
from alignzoo.collate import collate, fill, only, score
from alignzoo.errors import DivergedError
from alignzoo.evaluate import Figures, best_of, objective, scoring, writing
from alignzoo.interfaces import HasNext, Optimizer
from alignzoo.journal import Ledger
from alignzoo.stage import Run, prompts_of
from alignzoo.tokens import WATCHED, Tokens, keys, token_columns
from alignzoo.types import Batch, Group, StepReport
from alignzoo.update import update
from alignzoo.vocabulary import Clock, Means, memory, shared

Reference = dict[tuple[int, ...], torch.Tensor]
"""The reference's log-probabilities by what a row says, for data that come by more than once."""


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
    stopped = meter.over or (recording.stopped(stage, start) if start else "")
    while (step < stage.steps or schedule.has_budget) and not stopped:
        (report, tokens), share = _step(stage, optimizer, adamw, step, reference, meter.total), meter.share
        step = report.step
        report = replace(report, costs=ledger.write(step, "step"))
        optimizer = optimizer.next(report) if isinstance(optimizer, HasNext) else optimizer
        recording.record(stage, report, tokens)
        meter.add(report.metrics)
        every = schedule.eval_every and step % schedule.eval_every == 0 and step < stage.steps
        if every or meter.due(share):
            _measured(stage, optimizer, step, "during")
            ledger.write(step, "during")
        stopped = recording.reached(schedule, report.metrics, recording.watch(stage, report)) or meter.over
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
    recording.write_samples(stage, 0, "before", written)
    return before, baseline


def _measured(stage: Run, optimizer: Optimizer, step: int, when: str) -> Figures:
    """An evaluation, written down with some of what was written in it."""
    figures, written = measure(stage, optimizer)
    stage.journal.write("evaluations", step, {when: figures})
    recording.write_samples(stage, step, when, written)
    return figures


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
        batch = fill(batch, stage.policy, frozenset({"ref_logprobs"}), micro_batch=stage.fill_rows)
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
    return processes.same_columns(batch, fill(share, stage.policy, needs, micro_batch=stage.fill_rows))


def _save(stage: Run, step: int, adamw: torch.optim.Optimizer, optimizer: Optimizer, stopped: str) -> None:
    """A checkpoint at the interval, where the run stops early, and at once when the user asks to stop."""
    due = stopped or (stage.schedule.save_every and step % stage.schedule.save_every == 0)
    interrupted = stage.interrupted()
    if (due or interrupted) and processes.index() == 0:
        checkpoint.save(stage.checkpoints, step, stage.policy, adamw, optimizer, keep=stage.schedule.keep)
    if interrupted:
        raise Interrupted(f"{stage.name}: stopped after step {step} of {stage.steps}")
