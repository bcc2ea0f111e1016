"""A large model on one GPU, in at most ten minutes: `python benchmarks/gpu.py`.

Random weights of Qwen2.5-0.5B's sizes, computing in bf16: how many tokens a second each engine decodes at 256 at once,
beside what the machine's memory and matrix products allow; whole steps of SFT, DPO and GRPO beside TRL's, with its
default generation and with transformers' continuous batching, where TRL is installed; the share of the matrix products'
rate that our update reaches (MFU), and peak memory; what three mends of the GPU's path have brought, the trainer beside
published figures, and weights sharded over the GPUs there are (`gpu_parts.py`). Then `alignzoo run rlhf`, while time is
left. The model is a Llama, so without Qwen's biases: a Qwen2 directory gets its own tokenizer from transformers, not
that of one token a word.

Writes benchmarks/results/gpu.json and gpu.md. With `--small` all of it runs on a laptop, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import floor
import gpu_parts
import peers
import torch
import workload
from machine import RESULTS, heading, machine

import alignzoo
from alignzoo import Prompt, cost
from alignzoo.planning import speed
from alignzoo_hf.model.spec import HF

Figures = dict[str, Any]
LAST_START = 0.85
"""The share of the minutes that may have passed when a part begins."""


@dataclass(frozen=True)
class Setting:
    """How much there is to do."""

    size: workload.Size
    rows: workload.Rows
    cap: int
    n: int
    at_once: int
    """Rows that TRL takes in a pass."""
    bf16: bool = True
    continuous: bool = True
    """Whether TRL is also timed with continuous batching, which takes most of a machine's memory."""
    steps: int = 2
    product: int = 8192
    """The size of the matrices by which the machine's rate is found."""

    @property
    def batch(self) -> int:
        return self.rows.questions * self.n


FULL = Setting(
    workload.Size(896, 24, 4864, 14, 2, 151_936), workload.Rows(64, 32, 32, 0, 768), cap=512, n=8, at_once=16
)
SMALL = Setting(
    workload.Size(64, 2, 128, 4, 2, 512),
    workload.Rows(4, 4, 2, 0, 48),
    16,
    4,
    4,
    bf16=False,
    continuous=False,
    product=512,
)
DECODERS = ("alignzoo", "generate", "continuous", "vllm")
"""vLLM beside the weights in training, where it is installed."""

TRL = "trl_now.py"
STEPS = {
    "sft": (peers.System("TRL", TRL),),
    "dpo": (peers.System("TRL precompute", TRL, "precompute"),),
    "grpo": (peers.System("TRL generate", TRL), peers.System("TRL continuous", TRL, "continuous")),
}


class Time:
    """What is left of it."""

    def __init__(self, minutes: float) -> None:
        self.start, self.seconds = time.monotonic(), 60 * minutes

    def enough(self) -> bool:
        return time.monotonic() - self.start < LAST_START * self.seconds

    def left(self) -> float:
        return max(30.0, self.seconds - (time.monotonic() - self.start))


def made(folder: Path, setting: Setting, device: str) -> None:
    """Weights, texts, and what every side has to know of them."""
    workload.make(folder, setting.size, ends=0.0, rows=setting.rows)
    job = {"device": device, "bf16": setting.bf16, "cap": setting.cap, "n": setting.n, "rows": setting.at_once}
    (folder / "job.json").write_text(json.dumps(job))


def ceilings(setting: Setting, device: str) -> Figures:
    """The rates of this machine: a large matrix product, and one pass over memory."""
    dtype, size = torch.bfloat16 if setting.bf16 else torch.float32, setting.product
    return {
        "tflops": speed.matmul_rate(size, size, size, device=device, dtype=dtype) / 1e12,
        "gb_per_second": speed.read_rate(device=device) / 1e9,
    }


def roofline(setting: Setting, prompts: list[int], rates: Figures) -> float:
    """Tokens a second that decoding could reach: each step reads the weights and the cache once, or is bound by its
    products, whichever takes longer."""
    shape, width = floor.shape(setting.size), 2 if setting.bf16 else 4
    context = statistics.mean(prompts) + setting.cap / 2
    read = width * (shape.trunk + shape.head) + cost.cache_bytes(shape, int(setting.batch * context), width)
    products = 2 * (shape.trunk + shape.head) * setting.batch
    return setting.batch / max(read / (1e9 * rates["gb_per_second"]), products / (1e12 * rates["tflops"]))


def decode(folder: Path, engine: str) -> Figures:
    """Every row to the cap, the second time: the first one makes graphs and finds its buffers."""
    job = json.loads((folder / "job.json").read_text())
    dtype = "bf16" if job["bf16"] else "fp32"
    spec = HF(str(folder / "writer"), max_new_tokens=job["cap"], device=job["device"], dtype=dtype, engine=engine)
    policy = spec.load(frozenset())
    prompts = [Prompt(json.loads(line)["prompt"]) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    for turn in range(2):
        start = time.perf_counter()
        seeds = range(turn * len(prompts), (turn + 1) * len(prompts))
        groups = policy.generate(prompts, job["n"], seeds=seeds)  # what it returns is on the CPU: the GPU is done
        seconds = time.perf_counter() - start
    tokens = sum(len(each.tokens) for group in groups for each in group.completions)
    return {"tokens_per_second": tokens / seconds, "seconds": seconds, "peak_bytes": torch.cuda.max_memory_allocated()}


def decoders(folder: Path, clock: Time) -> Figures:
    """Each engine in a process of its own, so that none has another's memory."""
    found: Figures = {}
    for engine in DECODERS:
        if not clock.enough():
            found[engine] = {"left out": "no time"}
            continue
        command = [sys.executable, __file__, "--decode", engine, str(folder)]
        found[engine] = gpu_parts.told_by(command, clock.left())
        print(f"decode, {engine}: {found[engine]}", flush=True)
    return found


def compared(method: str, setting: Setting, folder: Path, rates: Figures) -> Figures:
    """Whole steps in turn: seconds on the wall, peak memory, and of our own update the share of the products' rate."""
    reason = gpu_parts.last_line(peers.missing(method))
    if reason:
        print(f"{method}: {reason}", flush=True)
    others = [each for each in STEPS[method] if setting.continuous or each.variant != "continuous"]
    chosen = [peers.System("alignzoo", "ours.py"), *([] if reason else others)]
    sides: list[peers.Side] = []
    try:
        peers.start(sides, folder, method, chosen)
        for _ in range(1 + setting.steps):
            for side in sides:
                side.step()
        for side in sides:
            side.end()
    finally:
        for side in sides:
            side.close()
    found: Figures = {"left out": reason} if reason else {}
    for side in sides:
        told = side.figures()
        found[side.system.name] = {
            "seconds": told["wall_seconds"],
            "tokens_per_second": statistics.median(step["tokens"] / step["wall"] for step in side.steps[1:]),
            "peak_bytes": told["peak_bytes"],
        } | ({"phases": told["phases"]} if "phases" in told else {})
    ours = found["alignzoo"]
    update = floor.operations(method, setting.size, folder, setting.cap, setting.n)["update"]
    ours["mfu"] = update / ours["phases"]["update"] / (1e12 * rates["tflops"])
    ours["trained_tokens_per_second"] = sides[0].steps[-1]["trained"] / ours["phases"]["update"]
    return found


def measured(setting: Setting, device: str, clock: Time, *, pipeline: bool) -> Figures:
    """All parts, while there is time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made(folder, setting, device)
        rates = ceilings(setting, device)
        texts = [json.loads(line)["prompt"] for line in (folder / "prompts.jsonl").read_text().splitlines()]
        bound = roofline(setting, [len(text.split()) for text in texts], rates)
        found: Figures = {"setting": asdict(setting), "ceilings": rates, "roofline_tokens_per_second": bound}
        found["decode"] = decoders(folder, clock)
        found["steps"] = {}
        for method in STEPS:
            if clock.enough():
                found["steps"][method] = compared(method, setting, folder, rates)
            else:
                found["steps"][method] = {"left out": "no time"}
            print(f"{method}: {found['steps'][method]}", flush=True)
        job = json.loads((folder / "job.json").read_text())
        (folder / "job.json").write_text(json.dumps(job | {"tflops": rates["tflops"]}))
        found["parts"] = {}
        for part in gpu_parts.PARTS:
            enough = clock.enough()
            found["parts"][part] = gpu_parts.run(part, folder, clock.left()) if enough else {"left out": "no time"}
            print(f"{part}: {found['parts'][part]}", flush=True)
        if pipeline and clock.enough():
            start = time.perf_counter()
            result = alignzoo.run("rlhf", out=folder / "rlhf")
            gold = {"gold before": result.before["gold"], "gold after": result.after["gold"]}
            found["rlhf"] = {"seconds": time.perf_counter() - start, **gold}
    return found


def render(facts: dict[str, str], found: Figures) -> str:
    """Markdown."""
    rates, bound = found["ceilings"], found["roofline_tokens_per_second"]
    size = found["setting"]["size"]
    lines = ["# On a GPU", "", heading(facts) + ".", ""]
    lines += [
        f"{size['layers']} layers of {size['hidden']}, vocabulary {size['vocab']}. Matrix products "
        f"{rates['tflops']:.1f} TFLOP/s, memory {rates['gb_per_second']:,.0f} GB/s; decoding could reach {bound:,.0f} "
        "tokens a second by them.",
        "",
        "| engine | tokens a second | of the roofline | peak GB |",
        "|---|---|---|---|",
    ]
    for engine, told in found["decode"].items():
        if "left out" in told:
            lines.append(f"| {engine} | {told['left out']} | | |")
            continue
        rate = told["tokens_per_second"]
        lines.append(f"| {engine} | {rate:,.0f} | {rate / bound:.0%} | {told['peak_bytes'] / 1e9:.1f} |")
    lines += ["", "| step | system | seconds | tokens a second | times ours | MFU of the update | peak GB |"]
    lines += ["|---" * 7 + "|"]
    for method, systems in found["steps"].items():
        if "left out" in systems:
            lines.append(f"| {method} | peers left out: {systems['left out']} | | | | | |")
        for name, told in systems.items():
            if name == "left out":
                continue
            times = f"{told['seconds'] / systems['alignzoo']['seconds']:.1f}"
            mfu = f"{told['mfu']:.0%}" if "mfu" in told else ""
            cells = [method, name, f"{told['seconds']:.2f}", f"{told['tokens_per_second']:,.0f}", times, mfu]
            lines.append("| " + " | ".join([*cells, f"{told['peak_bytes'] / 1e9:.1f}"]) + " |")
    lines += gpu_parts.render(found["parts"])
    if "rlhf" in found:
        lines += ["", "`rlhf`: " + ", ".join(f"{name} {value:.2f}" for name, value in found["rlhf"].items()) + "."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a small model on the CPU, and no results written")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--decode", nargs=2, metavar=("ENGINE", "FOLDER"), help="one engine alone: used by the script")
    asked = parser.parse_args()
    if asked.decode:
        print(json.dumps(decode(Path(asked.decode[1]), asked.decode[0])))
        return 0
    if not asked.small and not torch.cuda.is_available():
        print("there is no GPU here: --small tries the script on the CPU", file=sys.stderr)
        return 1
    setting, device = (SMALL, "cpu") if asked.small else (FULL, "cuda")
    facts, found = machine(), measured(setting, device, Time(asked.minutes), pipeline=not asked.small)
    table = render(facts, found)
    print("\n" + table)
    if not asked.small:
        (RESULTS / "gpu.json").write_text(json.dumps({"machine": facts, **found}, indent=1) + "\n")
        (RESULTS / "gpu.md").write_text(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
