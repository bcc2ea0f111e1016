"""What figures and costs are called, the same in the terminal, in report.html and in report.md."""

from __future__ import annotations

FIGURES = {
    "reward": "reward",
    "gold": "gold",
    "accuracy": "accuracy",
    "kl": "KL",
    "kl/token": "KL/token",
    "length": "length",
    "entropy": "entropy",
    "distinct/2": "distinct-2",
    "finished": "finished",
    "preference": "preference accuracy",
    "nll": "held-out loss",
}
"""Figures of the final policies beside the one that is compared."""

MEANINGS = {
    "gold": "the task's hidden score, on which no algorithm is trained",
    "accuracy": "the share of right answers",
    "reward": "the reward",
    "preference": "the share of held-out pairs of which the better answer was raised more than the worse",
}
"""What the figure that is compared says."""

COSTS = {
    "tokens": "tokens",
    "tokens/generated": "tokens generated",
    "tokens/trained": "tokens trained on",
    "labels": "labels",
    "rewards": "reward calls",
    "calls": "judge calls",
    "judge/tokens": "judge tokens",
    "flops": "FLOPs",
    "flops/forward": "forward FLOPs",
    "flops/backward": "backward FLOPs",
}
"""Costs of a run."""

PHASES = {"sample": "sampling", "score": "scoring", "fill": "passes", "update": "updates"}
"""The phases of a step."""

DIGITS = {"length": 1, "distinct/2": 3, "kl/token": 3, "nll": 3}
"""Decimals of the figures that are not shown with two."""
