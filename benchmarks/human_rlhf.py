"""Does gold rise with people's labels as with recorded ones? `python benchmarks/human_rlhf.py [--seeds 1] [--runs D]`.

Writes benchmarks/results/human_rlhf.md. On the embedded task `shop` a program answers human-rlhf's questions by the
page's own requests: it ranks by gold with Bradley-Terry's noise, as the raters do whose comparisons the task brings.
Beside it PPO takes as many steps, with the same settings, against a reward model of as many recorded comparisons. Runs
that are in the folder D are finished, or read.
"""

from __future__ import annotations

import argparse
import json
import math
import socket
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from machine import RESULTS, heading, machine

import alignzoo
from alignzoo_tiny.shop import gold
from scripted_rater import link_of, noisy, working

LABELS = (32, 48, 64)
"""Rankings of four answers by the end of each round of human-rlhf."""
COMPARISONS = 6 * LABELS[-1]
RECORDED = f"""
task = {{ name = "shop", n_pairs = {COMPARISONS} }}
policy = {{ name = "hf", max_new_tokens = 40 }}
evaluate = {{ reward = false, prompts = 256 }}

[[stage]]
name = "reward-model"
policy = {{ model = "task:policy" }}
data = {{ kind = "comparisons" }}
sampler = "dataset"
reward = "labels"
optimizer = {{ name = "reward-model", centring = 0.01 }}
schedule = {{ steps = 80, prompts = 32, lr = 7e-4, warmup = 0.05, decay = "cosine" }}
evaluate = {{ prompts = 0 }}

[[stage]]
name = "ppo"
policy = {{ model = "task:policy", critic_model = "stage:reward-model", critic_lr = 2.0 }}
sampler = {{ name = "policy", n = 1 }}
reward = {{ name = "model", model = "stage:reward-model" }}
optimizer = {{ name = "ppo", kl = 0.15, epochs = 2 }}
schedule = {{ steps = 45, prompts = 64, minibatch = 32, lr = 2e-4, evaluations = 3 }}
"""


def human(seed: int, out: Path) -> None:
    """human-rlhf with a scripted rater."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stop, store = threading.Event(), out / "parts" / "labels.sqlite"
    verdict = noisy(gold, seed)
    threading.Thread(target=lambda: working(link_of(store, port, 600), verdict, stop), daemon=True).start()
    people = ['names=["ann"]', f"port={port}"]
    asked = [f"{stage}.reward.{each}" for stage in ("label", "label-again") for each in people]
    alignzoo.run("human-rlhf", seed=seed, out=out, overrides=[*asked, "evaluate.greedy=false"], resume=out.exists())
    stop.set()


def recorded(seed: int, out: Path) -> None:
    """PPO against a reward model of recorded comparisons."""
    recipe = out.with_name(f"{out.name}.toml")
    recipe.write_text(RECORDED)
    alignzoo.run(recipe, seed=seed, out=out, overrides=["evaluate.greedy=false"], resume=out.exists())


def figures(out: Path) -> list[dict[str, Any]]:
    """The policy's figures before any training, and at the end of every third of it."""
    lines = [json.loads(line) for line in (out / "evaluations.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["stage"].startswith("ppo")]
    return [found[0]["before"], *(line["after"] for line in found if "after" in line)][:4]


def cell(found: dict[str, Any]) -> str:
    """Gold with its 95 % interval over prompts, and the KL to the start."""
    half = 1.96 * found["gold_se"]
    return f"{found['gold']:.2f} ± {half:.2f} ({found['kl']:.2f})"


def main(seeds: int, runs: Path) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    facts = machine()
    names = [f"{number} rankings" for number in LABELS]
    lines = [
        "# human-rlhf with a scripted rater, beside recorded comparisons, on `shop`",
        "",
        heading(facts) + ".",
        "",
        (__doc__ or "").split("\n\n")[1].partition("md. ")[2].replace("\n", " "),
        "",
        "Gold of 256 held-out prompts, answered by sampling, with a 95 % interval over prompts; in brackets the KL to "
        "the start in nats. A ranking of four is six comparisons: the recorded ones are "
        f"{COMPARISONS}, all from the beginning.",
        "",
        f"| labels | seed | start | {' | '.join(names)} | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed in range(1, seeds + 1):
        for name, do in {"a scripted rater's": human, "recorded": recorded}.items():
            out = runs / f"{do.__name__}-{seed}"
            if not out.exists() or len(figures(out)) < 4:
                do(seed, out)
            found = figures(out)
            gain = found[-1]["gold"] - found[0]["gold"]
            half = 1.96 * math.hypot(found[-1]["gold_se"], found[0]["gold_se"])
            told = [name, str(seed), *map(cell, found), f"{gain:.2f} ± {half:.2f}"]
            lines.append("| " + " | ".join(told) + " |")
    (RESULTS / "human_rlhf.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/human_rlhf"))
    arguments = parser.parse_args()
    main(arguments.seeds, arguments.runs)
