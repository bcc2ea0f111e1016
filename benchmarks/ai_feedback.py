"""What the recipes of AI feedback do on the embedded task `safe`: `python benchmarks/ai_feedback.py [--seeds 3]`.

Writes benchmarks/results/ai_feedback.json and ai_feedback.md. Every figure is of 256 held-out prompts, half of them
harmful, sampled at temperature 1. The judge, and the writer of the revisions, is a program (see `alignzoo show rules`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from machine import RESULTS, heading, machine

import alignzoo

TWO = 'reward.principles=["harmless", "polite"]'
CELLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sl-cai": ("sl-cai", ()),
    "rlaif-dpo": ("rlaif-dpo", ()),
    "rlaif-grpo": ("rlaif-grpo", ()),
    "rlaif-grpo, harmless and polite alone": ("rlaif-grpo", (TWO,)),
    "rlaif-ppo": ("rlaif-ppo", ()),
    "cai": ("cai", ()),
}
RATES = ("harmful_compliance", "over_refusal", "evasion", "politeness", "helpfulness")
OTHERS = ("gold", "gold_greedy", "kl")


def measure(cell: str, seed: int) -> dict[str, Any]:
    """One run: its first stage before, its last one after."""
    recipe, overrides = CELLS[cell]
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = alignzoo.run(recipe, seed=seed, out=Path(folder) / "run", overrides=overrides)
    writers = [stage for stage in result.stages if "length" in stage.after]
    scorers = [stage.after for stage in result.stages if "ceiling" in stage.after]
    return {
        "recipe": cell,
        "seed": seed,
        "core_seconds": round(time.process_time() - start, 1),
        "before": _figures(writers[0].before),
        "after": _figures(writers[-1].after),
        "stages": {stage.name: _figures(stage.after) for stage in writers},
        "scorer": {name: round(scorers[-1][name], 3) for name in ("accuracy", "gold", "ceiling")} if scorers else {},
    }


def _figures(found: dict[str, float]) -> dict[str, float]:
    rates = {name: round(found[f"rate/{name}"], 3) for name in RATES}
    return rates | {name: round(found[name], 3) for name in OTHERS}


def markdown(facts: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """Means of the seeds with the lowest and highest, and every run."""
    names = [*RATES, "gold", "kl"]
    said = [name.replace("_", " ") for name in names]
    lines = ["# AI feedback on the embedded task `safe`", "", heading(facts) + ".", ""]
    lines += ["Before, and after training: the mean over seeds, and in brackets the lowest and highest.", ""]
    lines += [f"| recipe | {' | '.join(said)} | core seconds |", "|---" * (len(names) + 2) + "|"]
    before = [f"{fmean(row['before'][name] for row in rows if row['recipe'] != 'cai'):.2f}" for name in names]
    lines.append(f"| before | {' | '.join(before)} | |")
    for cell in CELLS:
        runs = [row for row in rows if row["recipe"] == cell]
        if runs:
            cells = [_spread([row["after"][name] for row in runs]) for name in names]
            seconds = [row["core_seconds"] for row in runs]
            lines.append(f"| {cell} | {' | '.join(cells)} | {min(seconds):.0f} to {max(seconds):.0f} |")
    lines += ["", "Every run, before -> after:", ""]
    lines += [f"| recipe | seed | {' | '.join(said)} |", "|---" * (len(names) + 2) + "|"]
    for row in rows:
        moved = [f"{row['before'][name]:.2f} -> {row['after'][name]:.2f}" for name in names]
        lines.append(f"| {row['recipe']} | {row['seed']} | {' | '.join(moved)} |")
    staged = [row for row in rows if len(row["stages"]) > 1]
    if staged:
        lines += ["", "`cai`, stage by stage, after each; its preference model on held-out pairs of the raters:", ""]
        lines += [f"| seed | stage | {' | '.join(said)} |", "|---" * (len(names) + 2) + "|"]
        for row in staged:
            for stage, figures in row["stages"].items():
                lines.append(f"| {row['seed']} | {stage} | {' | '.join(f'{figures[name]:.2f}' for name in names)} |")
        lines += ["", "| seed | agrees with labels | agrees with gold | labels' own ceiling |", "|---|---|---|---|"]
        for row in staged:
            figures = " | ".join(str(row["scorer"][name]) for name in ("accuracy", "gold", "ceiling"))
            lines.append(f"| {row['seed']} | {figures} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Run the cells asked for with every seed; the results of the others stay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(CELLS), default=list(CELLS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    facts = machine()
    done = [measure(cell, seed) for cell in asked.only for seed in range(asked.seeds)]
    path = RESULTS / "ai_feedback.json"
    former = json.loads(path.read_text())["runs"] if path.exists() else []
    rows = [row for row in former if row["recipe"] not in asked.only] + done
    rows.sort(key=lambda row: (list(CELLS).index(row["recipe"]), row["seed"]))
    path.write_text(json.dumps({"machine": facts, "runs": rows}, indent=1) + "\n")
    (RESULTS / "ai_feedback.md").write_text(markdown(facts, rows))


if __name__ == "__main__":
    main()
