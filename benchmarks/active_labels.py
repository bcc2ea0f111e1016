"""Does it save labels to ask where a reward model is unsure? `python benchmarks/active_labels.py [--seeds 5]`.

Writes benchmarks/results/active_labels.json and active_labels.md. The embedded task `shop` plays the raters: a label of
one of its 3200 training pairs is drawn once a seed, with Bradley-Terry's noise. After every round of labels a reward
model, a ridge-penalised linear head on the frozen starting policy's hidden states, is fitted anew and scored by how
often it agrees with the gold order of the held-out pairs, which share no prompt with the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from machine import RESULTS, heading, machine
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignzoo import functional as fn
from alignzoo.types import Prompt
from alignzoo_human import active
from alignzoo_tiny import shop
from alignzoo_tiny.tasks import Shop
from alignzoo_tiny.world import question

Floats = NDArray[np.float64]
STRATEGIES = ("random", "uncertainty", "disagreement", "information gain")
FIRST, ROUND, LAST = 50, 25, 1000
"""How many labels there are at first, all at random; how many come with each round; and at the end."""
MODELS = 8
"""How many models an ensemble has, each fitted to a bootstrap resample of the labels."""
RIDGE = 100.0
DIMENSIONS = 64
"""How many principal components of the features are kept, of the pool's pairs without labels."""
TARGETS = (0.74, 0.76, 0.78, 0.80)
SMOOTHED = 5
"""Over how many rounds agreement is averaged before it is held against a target."""


@torch.no_grad()
def features(prompts: Sequence[Prompt]) -> Floats:
    """The difference of each pair's replies in mean hidden states, all layers side by side: (pairs, features)."""
    name = Shop().policy
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name).float().eval()
    turns = [[*p.messages, {"role": "assistant", "content": reply}] for p in prompts for reply in p.completions]
    texts = [tokenizer.apply_chat_template(each, tokenize=False) for each in turns]
    rows = []
    for start in range(0, len(texts), 200):
        batch = tokenizer(texts[start : start + 200], return_tensors="pt", padding=True, add_special_tokens=False)
        mask = batch["attention_mask"][..., None]
        states = model(**batch, output_hidden_states=True).hidden_states[1:]
        rows.append(torch.cat([(each * mask).sum(1) / mask.sum(1) for each in states], 1))
    both = torch.cat(rows).double().numpy()
    return both[::2] - both[1::2]


def fit(x: Floats, y: Floats) -> Floats:
    """The linear head of maximum penalised likelihood, by Newton's method."""
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + RIDGE * np.eye(len(w)), x.T @ (y - p) - RIDGE * w)
        w = w + step
        if np.abs(step).max() < 1e-4:
            break
    return w


def scores(strategy: str, pool: Floats, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    """What each pair of the pool is worth asking, by a strategy and the labels that there are."""
    if strategy == "uncertainty":
        return active.uncertainty(1 / (1 + np.exp(-pool @ fit(x, y))))
    drawn = [rng.integers(0, len(y), size=len(y)) for _ in range(MODELS)]
    p = np.stack([1 / (1 + np.exp(-pool @ fit(x[rows], y[rows]))) for rows in drawn])
    return active.disagreement(p) if strategy == "disagreement" else active.information_gain(p)


def learn(strategy: str, seed: int, pool: Floats, said: Floats, tests: Floats, truth: Floats) -> dict[str, Any]:
    """Ask round by round; the agreement after each, and what the answers say of the whole pool."""
    rng = np.random.default_rng(fn.derive(seed, "ensemble", strategy))
    drawn = active.at_random(len(pool), FIRST, seed=seed)
    curve = []
    while True:
        asked = [each.place for each in drawn]
        x, y = pool[asked], said[asked]
        curve.append([len(asked), round(float(np.mean((tests @ fit(x, y) > 0) == (truth > 0))), 4)])
        if len(asked) >= LAST:
            break
        worth = np.zeros(len(pool)) if strategy == "random" else scores(strategy, pool, x, y, rng)
        share = 1.0 if strategy == "random" else active.LEAST_RANDOM
        drawn += active.choose(worth, ROUND, seed=fn.derive(seed, len(asked)), random=share, asked=asked)
    mean, error = active.estimated_mean(said[[each.place for each in drawn]], drawn)
    return {
        "strategy": strategy,
        "seed": seed,
        "curve": curve,
        "at_random": round(fmean(each.how == "random" for each in drawn), 3),
        "first_wins": {
            "estimated": round(mean, 4),
            "standard_error": round(error, 4),
            "unweighted": round(float(said[[each.place for each in drawn]].mean()), 4),
            "true": round(float(said.mean()), 4),
        },
    }


def smooth(curve: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """Agreement averaged over SMOOTHED rounds, at the middle one's number of labels."""
    half = SMOOTHED // 2
    return [
        (int(curve[i][0]), fmean(a for _, a in curve[i - half : i + half + 1])) for i in range(half, len(curve) - half)
    ]


def needed(curve: Sequence[Sequence[float]], target: float) -> int | None:
    """How many labels it takes to reach the target; None where it is not reached."""
    return next((labels for labels, agreement in smooth(curve) if agreement >= target), None)


def markdown(facts: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """Agreement by number of labels, labels by agreement, and the check of the estimates."""
    seeds = sorted({row["seed"] for row in rows})
    of = {(row["strategy"], row["seed"]): row for row in rows}
    at = (100, 200, 400, 700, 950)
    lines = ["# Labels that asking where a reward model is unsure saves, on the embedded task `shop`", ""]
    lines += [heading(facts) + ".", "", (__doc__ or "").split("\n\n")[1].replace("\n", " ").partition(". ")[2], ""]
    lines += [f"At least {active.LEAST_RANDOM:.0%} of the questions are drawn at random in every strategy; {FIRST} "]
    lines[-1] += (
        f"labels at first, all at random, then {ROUND} a round. Seeds: {len(seeds)}. In brackets: lowest, highest."
    )
    lines += ["", "Agreement with the gold order, by the number of labels:", ""]
    lines += [f"| asked by | {' | '.join(map(str, at))} |", "|---" * (len(at) + 1) + "|"]
    for strategy in STRATEGIES:
        cells = [_spread([dict(smooth(of[strategy, s]["curve"]))[n] for s in seeds], ".3f") for n in at]
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    lines += [
        "",
        "Labels that it takes to reach an agreement, and how many fewer than at random with the same seed:",
        "",
    ]
    lines += [f"| asked by | {' | '.join(f'{t:.2f}' for t in TARGETS)} |", "|---" * (len(TARGETS) + 1) + "|"]
    for strategy in STRATEGIES:
        cells = [_labels([needed(of[strategy, s]["curve"], t) for s in seeds],
                         [needed(of["random", s]["curve"], t) for s in seeds]) for t in TARGETS]  # fmt: skip
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    lines += [
        "",
        verdict(of, seeds),
        "",
        "The share of the pool's pairs whose first reply wins, from the labels asked, ",
    ]
    lines[-1] += "weighted by propensity and plain; the root of the mean squared error over seeds:"
    lines += ["", "| asked by | weighted | plain | standard error told | at random |", "|---|---|---|---|---|"]
    for strategy in STRATEGIES:
        found = [of[strategy, s]["first_wins"] for s in seeds]
        off = [fmean((f[name] - f["true"]) ** 2 for f in found) ** 0.5 for name in ("estimated", "unweighted")]
        told = fmean(f["standard_error"] for f in found)
        luck = fmean(of[strategy, s]["at_random"] for s in seeds)
        lines.append(f"| {strategy} | {off[0]:.3f} | {off[1]:.3f} | {told:.3f} | {luck:.0%} |")
    lines += [
        "",
        "Weights remove a bias at the price of variance. Which reply stands first has nothing to do with what a ",
    ]
    lines[-1] += "strategy chooses, so that plain means are unbiased too here, and are the surer ones."
    return "\n".join(lines) + "\n"


def verdict(of: dict[tuple[str, int], dict[str, Any]], seeds: Sequence[int]) -> str:
    """What it comes to: the area between the curves, seed by seed, with its interval."""
    said = []
    for strategy in STRATEGIES[1:]:
        gaps = [fmean(a - b for (_, a), (_, b) in zip(of[strategy, s]["curve"], of["random", s]["curve"], strict=True))
                for s in seeds]  # fmt: skip
        mean, half = fmean(gaps), _half_width(gaps)
        word = "better than" if mean - half > 0 else "worse than" if mean + half < 0 else "not shown to differ from"
        said.append(f"{strategy} is {word} random ({mean:+.3f} ± {half:.3f})")
    return (
        "Agreement averaged over all rounds, against random, with a 95 % interval over seeds: " + "; ".join(said) + "."
    )


def _half_width(values: Sequence[float]) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def _spread(values: Sequence[float], form: str) -> str:
    return f"{fmean(values):{form}} ({min(values):{form}}, {max(values):{form}})"


def _labels(found: Sequence[int | None], random: Sequence[int | None]) -> str:
    reached = [each for each in found if each is not None]
    both = [1 - a / b for a, b in zip(found, random, strict=True) if a is not None and b is not None]
    if not reached:
        return "not reached"
    missing = f", {len(found) - len(reached)} not reached" if len(reached) < len(found) else ""
    saved = f"; {fmean(both):+.0%} saved" if both and found != random else ""
    return f"{_spread(reached, '.0f')}{missing}{saved}"


def main() -> None:
    """Every strategy with every seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    facts = machine()
    pairs = {split: Shop().data("comparisons", split) for split in ("train", "heldout")}
    raw = {split: features(found) for split, found in pairs.items()}
    scale = raw["train"].std(0)
    basis = np.linalg.svd(raw["train"] / scale, full_matrices=False)[2][:DIMENSIONS].T
    x = {split: each / scale @ basis for split, each in raw.items()}
    gold = [shop.gold(question(p), str(p.completions[0])) - shop.gold(question(p), str(p.completions[1]))
            for p in pairs["heldout"]]  # fmt: skip
    differ = np.array(gold) != 0
    rows = []
    for seed in range(seeds):
        said = np.array([p.labels[0] for p in Shop(seed=seed).data("comparisons", "train")])
        for strategy in STRATEGIES:
            rows.append(learn(strategy, seed, x["train"], said, x["heldout"][differ], np.array(gold)[differ]))
            print(seed, strategy, rows[-1]["curve"][-1], flush=True)
    (RESULTS / "active_labels.json").write_text(json.dumps({"machine": facts, "runs": rows}) + "\n")
    (RESULTS / "active_labels.md").write_text(markdown(facts, rows))


if __name__ == "__main__":
    main()
