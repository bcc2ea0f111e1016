"""What each first-party method learns on the embedded world: `python benchmarks/learning.py [--seeds 3]`.

Writes benchmarks/results/learning.json and learning.md. Every figure is of held-out prompts; a method's order on this
small world says nothing about its order elsewhere.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from machine import RESULTS, heading, machine

import alignzoo

ONLINE = ("ppo", "grpo", "rloo", "reinforce", "gmpo", "bond", "dapo")
CELLS = (*((recipe, task) for task in ("sort", "shop") for recipe in ONLINE), ("dpo", "shop"), ("rlhf", "shop"))
COLUMNS = ("gold", "gold_greedy", "reward", "kl", "entropy", "length")


def measure(recipe: str, task: str, seed: int) -> dict[str, object]:
    """One run: its last stage before and after, and its reward model's agreement where it trains one."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = alignzoo.run(recipe, task=task, seed=seed, out=Path(folder) / "run")
    scorers = [stage.after for stage in result.stages if "ceiling" in stage.after]
    return {
        "recipe": recipe,
        "task": task,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 1),
        "before": {name: round(result.before[name], 3) for name in COLUMNS if name in result.before},
        "after": {name: round(result.after[name], 3) for name in COLUMNS if name in result.after},
        "best_of": {name: round(value, 3) for name, value in result.stages[-1].best_of.items() if name in COLUMNS},
        "scorer": {name: round(scorers[-1][name], 3) for name in ("accuracy", "gold", "ceiling")} if scorers else {},
    }


def markdown(facts: dict[str, str], rows: list[dict[str, object]]) -> str:
    """The results as a table, one line a run."""
    lines = [
        "# What each method learns on the embedded world",
        "",
        heading(facts) + ".",
        "",
        "| recipe | task | seed | gold before | best of 4 | gold after | greedy before | greedy after | KL | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        before, after, best = row["before"], row["after"], row["best_of"]
        assert isinstance(before, dict) and isinstance(after, dict) and isinstance(best, dict)
        cells = [row["recipe"], row["task"], row["seed"], before["gold"], best.get("gold", ""), after["gold"]]
        cells += [before["gold_greedy"], after["gold_greedy"], after["kl"], row["seconds"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    scorers = [row for row in rows if row["scorer"]]
    if scorers:
        lines += ["", "The reward models trained on the way:", ""]
        lines += ["| recipe | seed | agrees with labels | agrees with gold | labels' own ceiling |"]
        lines += ["|---|---|---|---|---|"]
        for row in scorers:
            scorer = row["scorer"]
            assert isinstance(scorer, dict)
            figures = " | ".join(str(scorer[name]) for name in ("accuracy", "gold", "ceiling"))
            lines.append(f"| {row['recipe']} | {row['seed']} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run every cell with every seed and write what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    rows = []
    for recipe, task in CELLS:
        for seed in range(seeds):
            rows.append(measure(recipe, task, seed))
            print(json.dumps(rows[-1]), flush=True)
    facts = machine()
    (RESULTS / "learning.json").write_text(json.dumps({"machine": facts, "runs": rows}, indent=1) + "\n")
    (RESULTS / "learning.md").write_text(markdown(facts, rows))


if __name__ == "__main__":
    main()
