"""The loop: prompts, groups, scores, batch, loss, update. It knows columns, not algorithms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from alignzoo import functional as fn
from alignzoo import processes
from alignzoo.columns import REFERENCE
from alignzoo.data.indexed import stays_on_disk
from alignzoo.errors import DivergedError
from alignzoo.evaluation.answers import Figures
from alignzoo.evaluation.heldout import Evaluated, best_of, objective, scoring, work, writing
from alignzoo.interfaces import Optimizer
from alignzoo.lifecycle import MADE_ANEW, made_anew, repeats_the_data, successor
from alignzoo.metrics import Clock, means, memory, selection, shared
from alignzoo.microbatch import MicroBatcher
from alignzoo.roles import following, moving
from alignzoo.schedule import Recording
from alignzoo.torch_optimizers import torch_optimizer
from alignzoo.training import ahead, budget, checkpoint, no_gradient, recording
from alignzoo.training.budget import Meter
from alignzoo.training.budget import work as work_done
from alignzoo.training.journal import Ledger
from alignzoo.training.passes import STALENESS, WATCHED, Passes, fresh_enough, generated_by_policy
from alignzoo.training.reference_cache import GROUPS, remember
from alignzoo.training.stage import Run, used
from alignzoo.training.token_log import Tokens, token_columns
from alignzoo.training.update import Updated, update
from alignzoo.types import Alert, Group, StepReport


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
    budget.check(stage.schedule, stage.policy)
    stage.policy.optimize(partial(torch_optimizer, stage.schedule, stage.policy.device))
    stage, optimizer, start, waited = started(stage, resume)
    with ahead.opened(stage, ledger, waited, start) as source:
        return _steps(stage, optimizer, start, ledger, source)


def _steps(stage: Run, optimizer: Optimizer, start: int, ledger: Ledger, source: ahead.Source) -> Outcome:
    schedule = stage.schedule
    own: list[Alert] = []
    passes = _passes(stage, own.append)
    before, baseline = _before(stage, start, passes.batcher)
    ledger.write(start, "before")
    recording.tell(stage, 0, [*ahead.alerts(schedule, optimizer), *recording.unseen(stage)] if not start else ())
    step, meter = start, Meter.read(schedule, stage.steps, stage.journal)
    stopped = meter.over or (recording.stopped(stage, start) if start else "")
    watch, saves = no_gradient.Watch.read(stage, start), Saves(schedule)
    while (step < stage.steps or schedule.has_budget) and not stopped:
        (report, tokens), share = _step(stage, optimizer, step, passes, meter.total, source), meter.share
        step = report.step
        for role, mix in following(optimizer, step).items():
            stage.policy.follow(role, mix)
        report = replace(report, costs=source.costs(step))
        own += _made_anew(stage) if step == 1 and not processes.index() else []
        optimizer, stage = successor(optimizer, report), stage.following(report)
        recording.record(stage, report, tokens)
        recording.tell(stage, step, watch.see(report.metrics, report.groups))
        meter.add(report.metrics)
        every = schedule.eval_every and step % schedule.eval_every == 0 and step < stage.steps
        evaluated: Figures = {}
        if every or meter.due(share):
            source.settle()
            evaluated = _measured(stage, optimizer, step, "during", passes.batcher)
            ledger.write(step, "during")
        alerts = recording.watch(stage, report, own)
        stopped = recording.reached(schedule, report.metrics, evaluated, alerts) or meter.over
        save(stage, step, optimizer, stopped, saves, source.waiting)
    watch.check()
    source.settle()
    after = _measured(stage, optimizer, step, "after", passes.batcher)
    ledger.write(step, "after")
    recording.tell(stage, step, processes.gather(own))
    return Outcome(before, after, baseline, step, stopped, ledger.total())


def _step(
    stage: Run, optimizer: Optimizer, step: int, passes: Passes, steps: int, source: ahead.Source
) -> tuple[StepReport, Tokens]:
    """Sample, score, fill, prepare, update. Where samples are to be kept, their tokens' columns come along."""
    schedule, clock = stage.schedule, Clock()
    rolled = source.rollout(stage, step, clock)
    groups, brought = rolled.groups, rolled.brought
    with clock("fill"):
        batch, dropped = fresh_enough(stage.collated(groups, version=step), schedule.max_staleness)
        ready = passes.ready(optimizer, batch, groups, watched=_watched(stage, step + 1, groups))
    with clock("update"):
        lr = schedule.rate(step, steps)
        done: list[Updated] = []
        for epoch in range(optimizer.epochs):
            rng = torch.Generator().manual_seed(fn.derive(stage.seed, step, "shuffle", epoch))
            for minibatch in ready.prepared.split(schedule.minibatch, rng=rng):
                done.append(update(stage.policy, optimizer, minibatch, lr, schedule, passes.batcher, ready.deferred))
    batch, prepared = ready.after(done), ready.prepared
    late = bool(schedule.ahead)
    metrics = shared(groups, batch, prepared, optimizer.epochs, step + 1, ahead=late, dropped=dropped)
    metrics |= selection(groups, brought, step + 1)
    metrics |= means(each.figures for each in done)
    metrics |= no_gradient.counted(metrics, optimizer, online=stage.sampler.online)
    metrics |= work_done(
        stage.policy, brought, ready.batch, prepared, ready.plan, epochs=optimizer.epochs, step=step + 1
    )
    metrics |= {"lr": lr} | clock.seconds() | memory(stage.policy)
    if not math.isfinite(metrics.get("loss", 0.0)) or not math.isfinite(metrics.get("grad_norm", 0.0)):
        raise DivergedError(
            f"{stage.name}: the loss or its gradient is not finite in step {step + 1} (loss {metrics.get('loss')}, "
            f"gradient norm {metrics.get('grad_norm')}): a smaller schedule.lr or a larger KL weight keeps a run stable"
        )
    tokens = token_columns(brought, stage.policy, groups, batch, prepared) if stage.keeps_samples(step + 1) else []
    return StepReport(step + 1, max(steps, step + 1), metrics, tuple(brought)), tokens


def _watched(stage: Run, step: int, groups: Sequence[Group]) -> frozenset[str]:
    """The columns by which the shared metrics of a step, counted from 1, are measured, whoever needs them besides."""
    if not stage.trains_policy or not generated_by_policy(groups):
        return frozenset()
    if stage.schedule.measures_kl(step) or stage.keeps_samples(step):
        return WATCHED
    return STALENESS if stage.schedule.ahead else frozenset()


def measure(stage: Run, optimizer: Optimizer, batcher: MicroBatcher) -> Evaluated:
    """The stage's evaluation: of a policy, with what it generated, or of a reward model; and of its own objective on
    held-out data."""
    if not stage.heldout.settings.prompts:
        return Evaluated({})
    tally = _Tally(stage, work(stage.heldout, writes=stage.trains_policy, reads=not stage.sampler.online))
    found = (writing if stage.trains_policy else scoring)(stage.policy, stage.heldout, batcher, tally)
    learned = replace(stage.heldout, rewards=stage.rewards)
    own = objective(stage.policy, optimizer, stage.sampler, learned, batcher, tally)
    found = replace(found, figures=found.figures | own)
    tally.end(found.figures)
    return found


class _Tally:
    """Counts what an evaluation has generated and read, and tells it."""

    def __init__(self, stage: Run, total: int) -> None:
        self._tell, self._total, self._done = partial(stage.progress, f"{stage.name}: evaluate"), max(1, total), 0
        self._tell(0, self._total, {})

    def __call__(self, completions: int) -> None:
        self._done = min(self._done + completions, self._total - 1)  # the last one is told with the figures
        self._tell(self._done, self._total, {})

    def end(self, figures: Figures) -> None:
        self._tell(self._total, self._total, figures)


# --- the loop's parts -------------------------------------------------------------------------------------------------


def started(stage: Run, resume: bool) -> tuple[Run, Optimizer, int, Sequence[Mapping[str, Any]]]:
    """The stage and its optimizer as they begin, the number of steps already taken, and what had been generated for
    later ones."""
    stage.journal.check()
    found = _newest(stage) if resume else None
    stage.journal.rewind(found.state["journal"] if found else None)
    processes.of_first(None)  # the others read the journal once the first has rewound it
    if found is None:
        return stage, stage.optimizer, 0, ()
    sources = [each.source for each in stage.rewards]
    optimizer, sampler, sources = found.restore(stage.policy, stage.optimizer, stage.sampler, sources)
    return stage.with_parts(sampler, sources), optimizer, found.step, found.state.get(checkpoint.WAITING, ())


def _newest(stage: Run) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from: the first process chooses it for all."""

    def told(step: int, message: str) -> None:
        stage.warn(stage.name, step, Alert("checkpoint", message))

    found = None
    if processes.index() == 0:
        found = checkpoint.newest(stage.checkpoints, stage.journal.lacks, told, keep=stage.schedule.keep)
        if found is None and (lost := len(stage.journal.read("metrics"))):
            told(0, f"there is no checkpoint to go on from: {lost} steps that were taken are taken again")
    return processes.of_first(found)


def _made_anew(stage: Run) -> list[Alert]:
    """A warning for each part that makes something again in every step, because its successor is a new object."""
    return [
        Alert(
            MADE_ANEW,
            f"{type(part).__name__} keeps {', '.join(names)} beside its fields, which its successor has to make again "
            "in every step: return it from `open`, and it stays as long as the stage",
        )
        for part in (stage.sampler, *(each.source for each in stage.rewards))
        if (names := made_anew(part))
    ]


def _before(stage: Run, start: int, batcher: MicroBatcher) -> tuple[Figures, Figures]:
    """The evaluation before training, and best-of-n; a resumed run reads what its first start measured."""
    if start:
        line = stage.journal.read("evaluations", 0)[0]
        return line["before"], line["best_of"]
    before = measure(stage, stage.optimizer, batcher)
    settings = stage.heldout.settings
    wanted = settings.best_of and settings.prompts and stage.trains_policy and stage.heldout.rewards
    baseline = _best_of(stage) if wanted else Evaluated({})
    stage.journal.rewind()
    stage.journal.write("evaluations", 0, {"before": before.figures, "best_of": baseline.figures})
    recording.write_evaluation(stage, 0, "before", before, batcher)
    recording.write_evaluation(stage, 0, "best_of", baseline, batcher)
    return before.figures, baseline.figures


def _best_of(stage: Run) -> Evaluated:
    """The baseline without training, which may take as long as all other evaluations."""
    heldout = stage.heldout
    label, total = f"{stage.name}: best of {heldout.settings.best_of}", len(heldout.prompts[: heldout.settings.most])
    done = 0

    def seen(completions: int) -> None:
        nonlocal done
        done += completions // heldout.settings.best_of
        stage.progress(label, min(done, total), total, {})

    stage.progress(label, 0, total, {})
    return best_of(stage.policy, heldout, seen)


def _measured(stage: Run, optimizer: Optimizer, step: int, when: str, batcher: MicroBatcher) -> Figures:
    """An evaluation, written down with what was generated in it."""
    found = measure(stage, optimizer, batcher)
    stage.journal.write("evaluations", step, {when: found.figures})
    recording.write_evaluation(stage, step, when, found, batcher)
    return found.figures


def _passes(stage: Run, told: Callable[[Alert], None]) -> Passes:
    """What fills the steps' batches; of data that are known beforehand the reference answers now, and once, so that it
    need not be in memory with the gradients."""
    schedule = stage.schedule
    batcher = MicroBatcher(stage.policy, rows=schedule.micro_batch, tokens=schedule.micro_tokens, told=told)
    passes = Passes(stage.policy, schedule, batcher)
    shown = repeats_the_data(stage.sampler)
    moves = REFERENCE in moving(stage.optimizer, stage.steps)
    large = stays_on_disk(stage.prompts)  # of which memory would not hold all answers
    if large or not shown or schedule.has_budget or moves or "ref_logprobs" not in stage.optimizer.needs:
        return passes
    data = used(stage)
    if any(prompt.media is not None for prompt in data):  # by which rows of equal tokens may differ
        return passes
    n = len(data)

    def batches() -> Iterator[list[Group]]:
        for start in range(0, n, GROUPS):
            prompts = data[start : start + GROUPS]
            yield stage.sampler.sample(prompts, stage.policy, seeds=fn.seeds(len(prompts), stage.seed))

    def progress(batch: int) -> None:
        stage.progress(f"{stage.name}: reference", batch * GROUPS, n, {})

    return replace(passes, remembered=remember(stage.policy, batches(), batcher, told=told, progress=progress))


class Saves:
    """When checkpoints are due: by steps, and by the minutes since the last one."""

    def __init__(self, recording: Recording) -> None:
        self._recording, self._last = recording, time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one is due after this step, on any process: no two clocks are alike."""
        recording = self._recording
        if recording.save_every and step % recording.save_every == 0:
            return True
        late = time.monotonic() - self._last >= 60 * recording.save_minutes
        return bool(recording.save_minutes) and processes.any_of(late)

    def done(self) -> None:
        """One has been written."""
        self._last = time.monotonic()


def save(
    stage: Run,
    step: int,
    optimizer: Optimizer,
    stopped: str,
    saves: Saves,
    waiting: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
) -> None:
    """A checkpoint where one is due, where the run stops early, and at once when the user asks to stop; with what is
    waiting to be trained on."""
    due = saves.due(step) or stopped
    interrupted = processes.any_of(stage.interrupted())
    if due or interrupted:
        waits = waiting()
        journal, keep = {} if processes.index() else stage.journal.extent(), stage.schedule.keep
        parts = optimizer, stage.sampler, [each.source for each in stage.rewards]
        checkpoint.save(stage.checkpoints, step, stage.policy, *parts, keep=keep, journal=journal, waiting=waits)
        saves.done()
    if interrupted:
        raise Interrupted(f"{stage.name}: stopped after step {step} of {stage.steps}")
