"""Watches every run for over-optimisation and for training that does harm, and warns of each kind once, with figures.

What it reads is what every run writes: the metrics of its steps and its held-out evaluations. So a run that is resumed
is watched on from where it was, and a run of long ago can be looked at in the same way: `Monitor().alerts(...)`. Only
evaluations know gold, and nothing that trains asks this plugin.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import alignzoo
from alignzoo import Alert, StepReport
from alignzoo.training.journal import Journal

KINDS = {
    "divergence": "the reward rises while the hidden gold, or another of an ensemble of rewards, falls",
    "kl": "the KL to the reference grows faster and faster",
    "entropy": "the entropy has collapsed: the policy says nearly the same every time",
    "length": "completions have become much longer, or much shorter, than at the start",
    "length-reward": "the reward goes with length, and lengths follow it",
    "heldout": "the loss on held-out data is above what it was before training",
    "chance": "held-out pairs are told apart no better than by a coin when training ends",
    "loss": "the loss on given data rises from the first steps on",
    "rate": "the learning rate is far above what is usual for this method and a model of this size",
    "constant-reward": "the reward has been one number for all completions since the run began",
}

COMPARABLE = ("adamw", "adamw8bit", "muon")
"""The torch optimizers whose learning rates are AdamW's."""

FEW = 0.2
"""The share of a model's weights below which what is trained is an adapter."""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Monitor:
    """From where on something is worth a warning."""

    window: int = 3
    """Steps that are averaged, against the noise of single batches."""
    sigmas: float = 3.0
    """A divergence must exceed this many standard errors, both the fall and, by one, the rise."""
    kl_growth: float = 1.5
    """KL accelerates when it grows this many times as fast in the last span as it did on average before, ..."""
    kl_span: int = 4
    """... of so many steps, or from one evaluation to the next, ..."""
    kl_least: float = 0.05
    """... and by this much at least, in nats per token, ..."""
    kl_least_sequence: float = 1.0
    """... and in nats per sequence."""
    entropy_left: float = 0.15
    """Entropy has collapsed when less than this share of its start is left."""
    length_drift: float = 0.33
    """Lengths have drifted when they differ by this share from their start."""
    correlation: float = 0.25
    """Reward goes with length from this correlation on, ..."""
    correlation_span: int = 4
    """... as the mean over so many steps; of 64 completions each, chance alone gives 0.06 (one standard error), ..."""
    following: float = 0.15
    """... and lengths follow it when they have drifted by this share in its direction; where gold is known, it has not
    risen with them."""
    heldout_rise: float = 0.02
    """The held-out loss has risen when it is above its start by this share, ..."""
    heldout_least: float = 0.01
    """... and by this much at least."""
    chance_least: int = 20
    """Nothing is said of fewer held-out pairs, ..."""
    chance_errors: float = 1.645
    """... of others where the accuracy less so many standard errors is at most 0.5 (a test at the level 0.05)."""
    loss_rise: float = 0.5
    """The loss on given data has risen when its average is above that of the first steps by this share, and by `sigmas`
    standard errors."""
    rate_weights: float = 5e7
    """The number of weights from which a model counts as so large, ..."""
    rate_supervised: float = 1e-4
    """... a learning rate above this is told where it imitates, or becomes a reward model, all of its weights trained:
    2e-5 is usual for SFT (Llama 2, arXiv:2307.09288, sec. 3.1; TRL), ..."""
    rate_others: float = 2e-5
    """... and above this where it learns from preferences or rewards: 1e-6 is usual (DPO, arXiv:2305.18290, app. B;
    GRPO, arXiv:2402.03300, sec. 4.2; TRL). ..."""
    rate_adapter: float = 10.0
    """... An adapter may have so many times that."""
    constant_steps: int = 3
    """After so many steps a reward that has never differed is told."""

    def alerts(self, steps: Sequence[Figures], evaluations: Sequence[Figures]) -> list[Alert]:
        """What is to be said after the last of these steps. `evaluations` begin with the one before training.

        Steps that learn from given completions say nothing of the policy; then its evaluations are what is watched.
        """
        online = any(step.get("tokens/generated") for step in steps)
        points, window = (list(steps), self.window) if online else (list(evaluations), 1)
        start = evaluations[0] if evaluations else points[0] if points else {}
        checks = [self._kl, self._entropy, self._length]
        checks += [] if self._gold_has_risen(evaluations) else [self._correlation]  # then longer is better indeed
        found = [*self._divergences(steps if online else (), evaluations)]
        found += [alert for check in checks if (alert := check(points, start, window))]
        others = [self.heldout(evaluations), self._constant(steps) if online else self._loss(steps)]
        return found + [alert for alert in others if alert]

    def heldout(self, evaluations: Sequence[Figures]) -> Alert | None:
        """The objective's loss on held-out data, in the last evaluation against the first."""
        losses = [each["heldout/loss"] for each in evaluations if "heldout/loss" in each]
        if len(losses) < 2 or losses[-1] - losses[0] <= max(self.heldout_least, self.heldout_rise * abs(losses[0])):
            return None
        said = (
            f"the held-out loss is {losses[-1]:.3f}, above the {losses[0]:.3f} before training: the model has become "
            "worse at its own objective on data that it has not seen. A smaller schedule.lr or fewer steps may help"
        )
        return Alert("heldout", said, {"now": losses[-1], "start": losses[0]})

    def chance(self, after: Figures) -> Alert | None:
        """The accuracy on held-out pairs in the last evaluation, of a coin's 0.5."""
        n, accuracy = after.get("heldout/n", 0.0), after.get("heldout/accuracy", 1.0)
        error = after.get("heldout/accuracy_se", 0.0)
        if n < self.chance_least or accuracy - self.chance_errors * error > 0.5:
            return None
        said = (
            f"the accuracy on {n:.0f} held-out pairs is {accuracy:.2f} ± {error:.2f} after training, not shown to be "
            "above the 0.5 of a coin: as a reward this would be noise. More pairs, more steps (schedule.epochs) or a "
            "larger schedule.lr may help, and more held-out pairs tell it sooner"
        )
        return Alert("chance", said, {"now": accuracy, "error": error, "n": n})

    def rate(self, lr: float, weights: int, *, adapter: bool, supervised: bool) -> Alert | None:
        """The peak learning rate, for a model of so many weights, frozen ones too."""
        if lr == 0:
            said = "schedule.lr=0: no weight is changed, so that the model that is saved is the one that was loaded"
            return Alert("rate", said, {"lr": lr, "weights": float(weights)})
        most = (self.rate_supervised if supervised else self.rate_others) * (self.rate_adapter if adapter else 1.0)
        if weights < self.rate_weights or lr <= most:
            return None
        usual = most / 5 if supervised else most / 20
        said = (
            f"schedule.lr={lr:g} trains {'an adapter on ' if adapter else ''}{weights / 1e6:.0f} million weights: this "
            f"method takes about {usual:g} for models of this size, and above {most:g} they mostly forget. Lower it"
            + ("" if adapter else ", or train an adapter")
        )
        return Alert("rate", said, {"lr": lr, "weights": float(weights), "usual": usual})

    def _loss(self, steps: Sequence[Figures]) -> Alert | None:
        """The average loss of the last steps against that of the first, on data that no training changes."""
        averages = smooth([step.get("loss") for step in steps], self.window)
        if not averages:
            return None
        first, now = averages[0], averages[-1]
        rise = first.less(now)
        if rise.value <= max(self.sigmas * rise.error, self.loss_rise * abs(first.value)):
            return None
        said = (
            f"the loss rises: {now.value:.3f} on average over the last {self.window} steps, {first.value:.3f} over the "
            f"first {self.window}. A smaller schedule.lr or a longer schedule.warmup may help"
        )
        return Alert("loss", said, {"now": now.value, "start": first.value})

    def _constant(self, steps: Sequence[Figures]) -> Alert | None:
        """A reward that has never differed, where something else gives a gradient; otherwise the run tells."""
        rewards = {step.get("reward/mean", math.nan) for step in steps}
        same = len(rewards) == 1 and all(step.get("reward/std") == 0 for step in steps)
        if len(steps) < self.constant_steps or not same or all(step.get("no_gradient") for step in steps):
            return None
        said = (
            f"every completion of the {len(steps)} steps so far got the reward {rewards.pop():.6g}: what is trained "
            "does not come from it. Call the reward on one answer by hand"
        )
        return Alert("constant-reward", said, {"steps": float(len(steps))})

    def _divergences(self, steps: Sequence[Figures], evaluations: Sequence[Figures]) -> Iterator[Alert]:
        """Alerts where the reward parts from gold on held-out prompts, or from rewards of its own kind."""
        measured = [e for e in evaluations if "gold" in e and "reward" in e]
        gold, reward = (
            [Point(e[name], e.get(f"{name}_se", math.inf)) for e in measured] for name in ("gold", "reward")
        )
        if alert := self._divergence("held-out gold", gold, "held-out reward", reward):
            yield alert
        named = ensemble(steps)
        totals = smooth([step.get("reward/mean") for step in steps], 2 * self.window) if named else []
        for name in named:
            witness = smooth([step[name] for step in steps], 2 * self.window)
            if alert := self._divergence(name, witness, "reward/mean", totals):
                yield alert
                return

    def _divergence(self, name: str, witness: Sequence[Point], proxy_name: str, proxy: Sequence[Point]) -> Alert | None:
        """The witness has fallen from its best, and the proxy has risen meanwhile."""
        if len(witness) < 2 or len(proxy) != len(witness):
            return None
        best = max(range(len(witness)), key=lambda i: witness[i].value)
        fall, rise = witness[-1].less(witness[best]), proxy[best].less(proxy[-1])
        if fall.value <= self.sigmas * fall.error or rise.value <= rise.error:
            return None
        figures = {"peak": witness[best].value, "now": witness[-1].value, "rise": rise.value}
        return Alert(
            "divergence",
            f"{name} has fallen from {figures['peak']:.2f} to {figures['now']:.2f} "
            f"while {proxy_name} rose from {proxy[best].value:.2f} to {proxy[-1].value:.2f}",
            figures,
        )

    def _gold_has_risen(self, evaluations: Sequence[Figures]) -> bool:
        """From the first evaluation to the last, beyond chance."""
        gold = [Point(e["gold"], e.get("gold_se", math.inf)) for e in evaluations if "gold" in e]
        rise = gold[0].less(gold[-1]) if gold else Point(0.0, 0.0)
        return rise.value > self.sigmas * rise.error

    def _kl(self, points: Sequence[Figures], start: Figures, window: int) -> Alert | None:
        """Faster in the last span than from the start until then. Before the first update it is 0."""
        span, spans = (self.kl_span, f"{self.kl_span} steps") if window > 1 else (1, "an evaluation")
        earlier = points[: max(0, len(points) - span)]
        updates = len(earlier) - (window + 1) / 2  # before the middle of that window
        if updates <= 0:
            return None
        kl, then = recent(points, "kl", window), recent(earlier, "kl", window)
        now = recent(points, "kl/token", window) - recent(earlier, "kl/token", window)
        before = recent(earlier, "kl/token", window) * span / updates
        accelerates = now >= self.kl_least and now >= self.kl_growth * before
        if not (accelerates and kl - then >= self.kl_least_sequence):
            return None
        said = (
            f"the KL grew by {now:.3f} nats per token within {spans}, after {before:.3f} in as many on average before; "
            f"it is {kl:.1f} nats per sequence"
        )
        return Alert("kl", said, {"now": now, "before": before, "kl": kl})

    def _entropy(self, points: Sequence[Figures], start: Figures, window: int) -> Alert | None:
        now, first = recent(points, "entropy", window), start.get("entropy", math.nan)
        if not now < self.entropy_left * first:
            return None
        said = f"the entropy is {now:.3f} nats per token, {now / first:.0%} of the {first:.3f} at the start"
        return Alert("entropy", said, {"now": now, "start": first})

    def _length(self, points: Sequence[Figures], start: Figures, window: int) -> Alert | None:
        now, first = recent(points, "length", window), start.get("length", math.nan)
        if not abs(now - first) > self.length_drift * first:
            return None
        said = f"completions have {now:.1f} tokens, {now / first - 1:+.0%} against the {first:.1f} at the start"
        return Alert("length", said, {"now": now, "start": first})

    def _correlation(self, points: Sequence[Figures], start: Figures, window: int) -> Alert | None:
        r = recent(points, "length/reward", self.correlation_span)
        now, first = recent(points, "length", window), start.get("length", math.nan)
        drift = (now - first) / first if first else math.nan
        if not (abs(r) >= self.correlation and drift * math.copysign(1, r) >= self.following):
            return None
        said = f"reward and length correlate by {r:+.2f}, and completions went from {first:.1f} to {now:.1f} tokens"
        return Alert("length-reward", said, {"correlation": r, "now": now, "start": first})


@dataclass(frozen=True)
class Point:
    """A figure and its standard error."""

    value: float
    error: float

    def less(self, other: Point) -> Point:
        """How much lower it is than the other."""
        return Point(other.value - self.value, math.hypot(self.error, other.error))


def ensemble(steps: Sequence[Figures]) -> list[str]:
    """The reward's sources of one kind, as two reward models are, `model` and `model#2`; a weight of 0 makes one a mere
    witness. Sources of different kinds pull apart by intention."""
    named = [{name for name in step if name.startswith("reward/") and name.count("/") == 1} for step in steps]
    common = set.intersection(*named) if named else set()
    kinds = [name.partition("#")[0] for name in common]
    return sorted(name for name in common if kinds.count(name.partition("#")[0]) > 1)


def smooth(values: Sequence[float | None], window: int) -> list[Point]:
    """Moving averages. A single value's error is the standard deviation of the jumps between neighbours, by √2: a trend
    moves these little."""
    known = [value for value in values if value is not None]
    if len(known) < 2 * window or len(known) < len(values):
        return []
    jumps = [b - a for a, b in itertools.pairwise(known)]
    error = statistics.pstdev(jumps) / math.sqrt(2 * window)
    return [Point(statistics.fmean(known[i : i + window]), error) for i in range(len(known) - window + 1)]


def recent(points: Sequence[Figures], name: str, window: int) -> float:
    """The mean of the last values; not a number while there are too few."""
    values = [point[name] for point in points[-window:] if name in point]
    return statistics.fmean(values) if len(values) == window else math.nan


# --- in a run ---------------------------------------------------------------------------------------------------------


@dataclass
class _Watched:
    """A stage that is running."""

    journal: Journal
    lr: float
    """The peak learning rate."""
    comparable: bool
    """The torch optimizer's rates are AdamW's."""
    weights: int
    """How many weights the model has, or at least those that are trained."""
    adapter: bool
    """An adapter is trained."""
    supervised: bool
    """It imitates, or becomes a reward model."""
    steps: list[Figures] = field(default_factory=list)
    told: set[str] | None = None
    """The kinds that were warned of; None until that is asked for, and the journal of a run that goes on read."""

    def see(self, report: StepReport) -> list[Alert]:
        if not self.steps:  # of a run that was resumed, the journal knows what came before
            self.steps = [line for line in self.journal.read("metrics") if line["step"] < report.step]
        self.steps.append(report.metrics)
        evaluations = [
            figures
            for line in self.journal.read("evaluations")
            for figures in (line.get("before"), line.get("during"))
            if figures
        ]
        known = self.comparable or self.lr == 0
        rate = (
            Monitor().rate(self.lr, self.weights, adapter=self.adapter, supervised=self.supervised) if known else None
        )
        return self.new([*([rate] if rate else []), *Monitor().alerts(self.steps, evaluations)])

    def ended(self, before: Figures, after: Figures) -> list[Alert]:
        """What the last evaluation has shown."""
        alerts = Monitor().heldout([before, after]), Monitor().chance(after)
        return self.new([alert for alert in alerts if alert])

    def new(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Those of kinds that have not been told."""
        if self.told is None:
            self.told = {line["kind"] for line in self.journal.read("warnings")}
        found = [each for each in alerts if each.kind not in self.told]
        self.told |= {each.kind for each in found}
        return found


_watched: list[_Watched] = []
"""The stage that is running, if there is one."""


@alignzoo.hookimpl
def alignzoo_alerts() -> dict[str, str]:
    return KINDS


@alignzoo.hookimpl
def alignzoo_run_start(run: Any) -> None:
    policy, schedule = run.recipe["policy"], run.recipe["schedule"]
    adapter = isinstance(policy, dict) and bool(policy.get("lora_rank"))  # a live policy's settings are not told
    adapter = adapter or run.trained < FEW * run.parameters
    weights = max(run.parameters, run.trained)
    comparable = schedule["optimizer"] in COMPARABLE
    _watched[:] = [_Watched(Journal(run.out, run.name), schedule["lr"], comparable, weights, adapter, run.supervised)]


@alignzoo.hookimpl
def alignzoo_after_step(report: StepReport) -> list[Alert]:
    return [alert for watched in _watched for alert in watched.see(report)]


@alignzoo.hookimpl
def alignzoo_run_end(result: Any) -> list[Alert]:
    found = [alert for watched in _watched for alert in watched.ended(result.before, result.after)]
    _watched.clear()
    return found
