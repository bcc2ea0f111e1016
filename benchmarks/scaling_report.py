"""How time and memory grow: `python benchmarks/scaling_report.py`, five minutes of one core.

One thing is varied at a time: the length of a sequence, the size of a group, the vocabulary, the number of groups, the
width of the model. Each figure is of a process of its own, forked before anything is allocated, in which completions
are written or learned from: its CPU seconds, and the memory that it took beyond weights, reference and gradients. The
exponent is the slope of the three largest points on logarithmic axes. Writes benchmarks/results/scaling.json and .md,
and a picture.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import workload
from machine import RESULTS, heading, machine
from transformers import AutoModelForCausalLM

from alignzoo import Completion, Group, Prompt, Score
from alignzoo.batching import collate, trim
from alignzoo.microbatch import cut
from alignzoo_hf.model.spec import HF

LOGPROBS = frozenset({"logprobs"})
REPEATS = 2
SLACK = 0.1
"""By how much a measured exponent may lie above its bound."""


@dataclass(frozen=True)
class Point:
    """What is written and learned from."""

    prompt: int = 64
    length: int = 64
    n: int = 4
    groups: int = 4
    hidden: int = 256
    vocab: int = 4096

    @property
    def size(self) -> workload.Size:
        heads = self.hidden // 32
        return workload.Size(self.hidden, 4, 3 * self.hidden, heads, heads // 2, self.vocab)


@dataclass(frozen=True)
class Axis:
    """What is varied, how far, and the exponent that nothing may exceed."""

    name: str
    field: str
    values: tuple[int, ...]
    bound: float = 1.0
    base: Point = Point()
    writes: bool = True

    def points(self) -> list[Point]:
        return [replace(self.base, **{self.field: value}) for value in self.values]


AXES = (
    Axis("tokens of a sequence", "length", (256, 512, 1024, 2048, 4096), 2.0, Point(n=1, groups=2), writes=False),
    Axis("tokens written of a sequence", "length", (64, 128, 256, 512, 1024), 2.0, Point(n=4, groups=2)),
    Axis("completions of a group", "n", (2, 4, 8, 16, 32), base=Point(prompt=256, groups=1)),
    Axis("groups of a step", "groups", (2, 4, 8, 16, 32)),
    Axis("words of the vocabulary", "vocab", (2048, 8192, 32768, 131072), base=Point(hidden=128, length=32)),
    Axis("width of the model", "hidden", (64, 128, 256, 512, 1024), 2.0, Point(length=32)),
)
"""Time grows with the square of the width, as the weights do; with the square of the length at most, as attention."""


def measure(point: Point, kind: str) -> dict[str, float]:
    """CPU seconds to write or to learn, and bytes beyond those that the policy has when it is made."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(workload.config(point.size, max_position_embeddings=8192))
    workload.let_end(model, 0.0, rows=8)
    settings = HF(model=model, tokenizer=workload.tokenizer(point.vocab), max_new_tokens=point.length, device="cpu")
    policy, room = settings.load(LOGPROBS), settings.outline(LOGPROBS).room
    for group in policy.parameters():
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    rng = torch.Generator().manual_seed(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, point.vocab, (length,), generator=rng).tolist())

    def completion() -> Completion:
        return Completion(tokens(point.length), "", True)

    prompts = [Prompt(" ".join(f"w{t}" for t in tokens(point.prompt))) for _ in range(point.groups)]
    groups = [
        Group(each, tokens(point.prompt), tuple(completion() for _ in range(point.n)), (Score(0.0),) * point.n)
        for each in prompts
    ]
    batch = collate(groups)

    def learn() -> None:
        for micro in cut(batch, tokens=room):
            out = policy.forward(trim(micro), LOGPROBS)
            assert out.logprobs is not None
            out.logprobs.sum().backward()

    def write() -> None:
        policy.generate(prompts, point.n, seeds=range(len(prompts)))

    before = _resident()
    seconds = _seconds({"update": learn, "sample": write}[kind])
    return {
        f"{kind} seconds": seconds,
        f"{kind} bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
    }


def _seconds(work: Callable[[], None]) -> float:
    best = math.inf
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def rows() -> list[dict[str, Any]]:
    """Every point, each in a process of its own."""
    context, found = multiprocessing.get_context("fork"), []
    for axis in AXES:
        for value, point in zip(axis.values, axis.points(), strict=True):
            figures: dict[str, float] = {}
            for kind in ("update", "sample") if axis.writes else ("update",):
                with context.Pool(1) as pool:
                    figures |= pool.apply(measure, (point, kind))
            found.append({"axis": axis.name, "value": value, "point": asdict(point), **figures})
            print(axis.name, value, {name: f"{figure:.3g}" for name, figure in figures.items()}, flush=True)
    return found


def exponent(values: list[float], figures: list[float], last: int = 3) -> float:
    """The least-squares slope of the last points on logarithmic axes."""
    x, y = ([math.log(each) for each in column[-last:]] for column in (values, figures))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    along = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return along / sum((a - mean_x) ** 2 for a in x)


def series(found: list[dict[str, Any]], axis: Axis, figure: str) -> tuple[list[float], list[float]]:
    chosen = [row for row in found if row["axis"] == axis.name and figure in row]
    return [row["value"] for row in chosen], [row[figure] for row in chosen]


FIGURES = ("update seconds", "sample seconds", "update bytes", "sample bytes")


def render(found: list[dict[str, Any]], facts: dict[str, str]) -> str:
    """The table of exponents, and every point."""
    lines = ["# How time and memory grow", "", heading(facts) + ".", ""]
    lines += ["The slope of the three largest points on logarithmic axes: time or memory grows as the varied thing to"]
    lines += [
        "this power. CPU seconds of one core, the best of two; memory beyond weights, reference and gradients.",
        "",
    ]
    lines += ["![Time and memory](scaling.svg)", ""]
    lines += [f"| varied | from, to | bound | {' | '.join(FIGURES)} | within |", "|---" * 8 + "|"]
    for axis in AXES:
        fitted = [exponent(*pair) if (pair := series(found, axis, figure))[0] else None for figure in FIGURES]
        cells = ["" if each is None else f"{each:.2f}" for each in fitted]
        within = all(each is None or each <= axis.bound + SLACK for each in fitted)
        ends = f"{axis.values[0]}, {axis.values[-1]}"
        lines.append(
            f"| {axis.name} | {ends} | {axis.bound:g} | {' | '.join(cells)} | {'yes' if within else '**no**'} |"
        )
    lines += ["", f"| varied | value | {' | '.join(FIGURES)} |", "|---" * 6 + "|"]
    for row in found:
        cells = [_told(row, name) for name in FIGURES]
        lines.append(f"| {row['axis']} | {row['value']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _told(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    return f"{row[name]:.3f} s" if "seconds" in name else f"{row[name] / 1e6:.0f} MB"


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Time above, memory below, a column for each axis; the bound as a dashed line through the last point."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scaling", "font.size": 8}):
        figure = Figure(figsize=(3 * len(AXES), 5.6), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        for column, axis in enumerate(AXES):
            for line, (unit, factor) in enumerate((("seconds", 1.0), ("bytes", 1e-6))):
                plot = figure.add_subplot(2, len(AXES), 1 + column + line * len(AXES))
                for kind, colour, mark in (("update", "#4477aa", "o"), ("sample", "#cc6633", "s")):
                    values, figures = series(found, axis, f"{kind} {unit}")
                    if not values:
                        continue
                    y = [each * factor for each in figures]
                    slope = exponent(values, figures)
                    plot.loglog(values, y, mark + "-", color=colour, ms=4, lw=1.3, label=f"{kind}, slope {slope:.2f}")
                    bound = [y[-1] * (value / values[-1]) ** axis.bound for value in values]
                    plot.loglog(values, bound, "--", color=colour, lw=0.7, alpha=0.6)
                plot.set_xticks(axis.values, [f"{value:,}" for value in axis.values])
                plot.minorticks_off()
                plot.grid(lw=0.4, alpha=0.6)
                plot.spines[["top", "right"]].set_visible(False)
                plot.legend(frameon=False, loc="upper left")
                if line:
                    plot.set_xlabel(axis.name)
                if not column:
                    plot.set_ylabel("CPU seconds" if unit == "seconds" else "MB beyond the weights")
        figure.suptitle("Time and memory of a step's parts; dashed: the exponent that may not be exceeded", fontsize=9)
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Measure, write, draw."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    facts, found = machine(), rows()
    (RESULTS / "scaling.json").write_text(json.dumps({"machine": facts, "points": found}, indent=1) + "\n")
    (RESULTS / "scaling.md").write_text(render(found, facts))
    draw(found, RESULTS / "scaling.svg")


if __name__ == "__main__":
    main()
