"""What a decode step costs, by the rows that it writes: `python benchmarks/decode_report.py`, five minutes of one core.

A step takes no less than its matrix products at the core's pace, and no less than one reading of the weights and of
the cache at the pace of its memory: of few rows, the reading takes longer. Writes benchmarks/results/decode.json, .md
and a picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import floor
import torch
import workload
from machine import RESULTS, heading, machine
from transformers import AutoModelForCausalLM

from alignzoo import Prompt, allocator, cost
from alignzoo_hf.model.spec import HF

SIZE = workload.SIZES["M"]
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT, SHORT, LONG = 64, 32, 96
"""Tokens of the prompt, and of completions: what the long ones cost more is the cost of that many steps more."""
STEPS = LONG - SHORT
REPEATS = 5


def measure(model: Any, rows: int) -> dict[str, float]:
    """Milliseconds of a step of so many rows, and the least that its products and its reading take."""
    policies = [
        HF(model=model, tokenizer=workload.tokenizer(SIZE.vocab), max_new_tokens=length, device="cpu").load(frozenset())
        for length in (SHORT, LONG)
    ]
    found: dict[str, list[float]] = {"step": [], "products": [], "reading": []}
    for repeat in range(1 + REPEATS):
        pace, bandwidth = floor.pace(SIZE), reading(model)
        short, long = (writing(policy, rows) for policy in policies)
        pace, bandwidth = (pace + floor.pace(SIZE)) / 2, (bandwidth + reading(model)) / 2
        if repeat:  # the first is a warm-up
            found["step"].append((long - short) / STEPS)
            found["products"].append(operations(rows) / pace)
            found["reading"].append(read(model, rows) / bandwidth)
    return {name: 1e3 * statistics.median(each) for name, each in found.items()}


def writing(policy: Any, rows: int) -> float:
    """CPU seconds of so many completions of one prompt."""
    start = time.thread_time()
    (group,) = policy.generate([Prompt(" ".join(f"w{3 + i}" for i in range(PROMPT)))], rows, seeds=[0])
    seconds = time.thread_time() - start
    assert all(len(each.tokens) == policy.spec.max_new_tokens for each in group.completions)
    return seconds


def operations(rows: int) -> float:
    """The mean of a step between the short and the long."""
    short, long = (cost.decode(floor.shape(SIZE), cost.writing(PROMPT, [length] * rows)) for length in (SHORT, LONG))
    return (long - short) / STEPS


def read(model: Any, rows: int) -> int:
    """Bytes of the weights, and of the keys and values of every row."""
    context = PROMPT + (SHORT + LONG) // 2
    return cost.FLOAT32 * model.num_parameters() + cost.cache_bytes(floor.shape(SIZE), rows * context)


def reading(model: Any) -> float:
    """Bytes per CPU second in which the weights can be read."""
    start = time.thread_time()
    for _ in range(5):
        for weight in model.parameters():
            weight.sum()
    return 5 * cost.FLOAT32 * float(model.num_parameters()) / (time.thread_time() - start)


def least(row: dict[str, Any]) -> float:
    """Milliseconds below which a step cannot be: its products, or its reading."""
    return float(max(row["products"], row["reading"]))


def render(rows: list[dict[str, Any]], facts: dict[str, str]) -> str:
    """The table."""
    lines = ["# What a decode step costs, by the rows that it writes", "", heading(facts) + ".", ""]
    lines += [
        "Model M, a context of 128 tokens, CPU milliseconds of one core, medians. Products: the step's operations"
    ]
    lines += ["at the core's pace just before and after. Reading: weights, keys and values, at the rate at which the"]
    lines += ["weights can be summed. The limit is the greater of the two.", "", "![Milliseconds](decode.svg)", ""]
    lines += [
        "| rows | a step | its products | its reading | of the products' floor | of the limit |",
        "|---" * 6 + "|",
    ]
    for row in rows:
        times = " | ".join(f"{row[name]:.1f}" for name in ("step", "products", "reading"))
        shares = f"{row['products'] / row['step']:.0%} | {least(row) / row['step']:.0%}"
        lines.append(f"| {row['rows']} | {times} | {shares} |")
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]]) -> None:
    """A step above its two floors, on logarithmic axes."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "decode", "font.size": 9}):
        figure = Figure(figsize=(6, 4), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        plot = figure.add_subplot()
        x = [row["rows"] for row in rows]
        kinds = (("step", "#4477aa", "o-", "a step"), ("products", "#cc6633", "--", "its products"))
        for name, colour, mark, label in (*kinds, ("reading", "#228833", ":", "reading weights and cache once")):
            plot.loglog(x, [row[name] for row in rows], mark, color=colour, ms=4, label=label)
        plot.set_xticks(x, [str(each) for each in x])
        ticks = [1, 2, 5, 10, 20, 50]
        plot.set_yticks(ticks, [str(each) for each in ticks])
        plot.minorticks_off()
        plot.grid(lw=0.4, alpha=0.6)
        plot.spines[["top", "right"]].set_visible(False)
        plot.legend(frameon=False)
        plot.set_xlabel("rows that are written at once")
        plot.set_ylabel("CPU milliseconds")
        figure.suptitle("A decode step of model M, and what bounds it", fontsize=10)
        figure.savefig(RESULTS / "decode.svg", format="svg", metadata={"Date": None})


def main() -> None:
    """Measure, write, draw."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    allocator.keep_freed_memory()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(workload.config(SIZE))
    workload.let_end(model, 0.0)
    found = []
    for rows in ROWS:
        found.append({"rows": rows, **measure(model, rows)})
        print({name: round(figure, 2) for name, figure in found[-1].items()}, flush=True)
    facts = machine()
    (RESULTS / "decode.json").write_text(json.dumps({"machine": facts, "rows": found}, indent=1) + "\n")
    (RESULTS / "decode.md").write_text(render(found, facts))
    draw(found)


if __name__ == "__main__":
    main()
