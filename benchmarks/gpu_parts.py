"""Parts of `gpu.py`: what three mends of the GPU's path have brought, the trainer beside published figures, and weights
that are sharded over the GPUs there are. Each runs in processes of its own, so that none has another's memory:
`python benchmarks/gpu_parts.py PART FOLDER`, whose last line is its figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alignzoo import Completion, Group, Prompt, Score, cost, processes
from alignzoo.batching import collate
from alignzoo.microbatch import MicroBatcher
from alignzoo.schedule import Schedule
from alignzoo.sharded import local_bytes
from alignzoo.torch_optimizers import torch_optimizer
from alignzoo.types import Batch
from alignzoo_hf.forward import head, packed
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

Figures = dict[str, Any]
NEEDS = frozenset({"logprobs"})


@dataclass(frozen=True)
class Anchor:
    """A published measurement of a trainer, and the sizes of its model."""

    source: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tokens: int
    lora_rank: int
    published: str


PRIME = "prime-rl benchmarks, 2026-02-01, one H100"
ANCHORS = {
    "0.6B full": Anchor(PRIME, 28, 1024, 16, 8, 128, 3072, 151_936, 16_384, 0, "11,900 tokens/s, MFU 11.1 %, 12.5 GiB"),
    "0.6B LoRA": Anchor(PRIME, 28, 1024, 16, 8, 128, 3072, 151_936, 16_384, 16, "13,300 tokens/s, 10.9 %, 5.1 GiB"),
    "4B LoRA": Anchor(PRIME, 36, 2560, 32, 8, 128, 9728, 151_936, 16_384, 16, "6,230 tokens/s, 21.7 %, 23.3 GiB"),
}
TRIED = Anchor("no publication", 2, 64, 4, 2, 16, 128, 512, 512, 0, "nothing")
"""What runs on a laptop."""


def model(anchor: Anchor, device: str) -> LlamaForCausalLM:
    """Random weights of its sizes."""
    config = LlamaConfig(
        vocab_size=anchor.vocab,
        hidden_size=anchor.hidden,
        num_hidden_layers=anchor.layers,
        num_attention_heads=anchor.heads,
        num_key_value_heads=anchor.kv_heads,
        head_dim=anchor.head_dim,
        intermediate_size=anchor.intermediate,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def batch(anchor: Anchor, device: str) -> Batch:
    """So many tokens in eight rows, a quarter of each its prompt's."""
    rng, length = torch.Generator().manual_seed(0), anchor.tokens // 8
    groups = []
    for _ in range(8):
        tokens = torch.randint(2, min(anchor.vocab, 500), (length,), generator=rng).tolist()
        whole = Completion(tuple(tokens[length // 4 :]), "", True)
        groups.append(Group(Prompt(""), tuple(tokens[: length // 4]), (whole,), (Score(1.0),)))
    return collate(groups, torch.device(device))


def ready(policy: HFPolicy) -> HFPolicy:
    policy.optimize(partial(torch_optimizer, Schedule(), policy.device))
    return policy


def update(policy: HFPolicy, given: Batch, tokens: int) -> None:
    """One update: forward, backward, step."""
    for each in MicroBatcher(policy, tokens=tokens).rounds(given):
        loss = policy.forward(each.batch, NEEDS)["logprobs"].sum()
        policy.backward(0 * loss if each.idle else -loss / tokens)
    policy.step(1e-6, 1.0)


def seconds(work: Callable[[], object], times: int = 2) -> float:
    """The fastest, after one that warms up."""
    found = []
    for _ in range(1 + times):
        synchronise()
        start = time.perf_counter()
        work()
        synchronise()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak() -> int:
    """Bytes at most on the GPU; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


# --- the parts --------------------------------------------------------------------------------------------------------


@contextmanager
def exchanged(owner: Any, name: str, value: Any) -> Iterator[None]:
    former = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, former)


def mends(folder: Path) -> Figures:
    """Queries and keys as rotary embeddings leave them; the head in a CPU's tiles; decoding in inference mode, where
    autocast casts every weight at every token: an update, or a generation, as it was and as it is."""
    job = json.loads((folder / "job.json").read_text())
    device, small = job["device"], job["device"] == "cpu"
    anchor = TRIED if small else replace(ANCHORS["0.6B full"], tokens=8192)
    spec = HF(model(anchor, device), tokenizer=str(folder / "writer"), device=device, dtype="bf16", max_new_tokens=32)
    policy, given = ready(HFPolicy(spec, NEEDS)), batch(anchor, device)
    step = partial(update, policy, given, anchor.tokens)
    prompts = [Prompt(f"w{i}") for i in range(4 if small else 64)]

    def write() -> None:
        policy.generate(prompts, 2, seeds=range(len(prompts)))

    found: Figures = {}
    before = {
        "attention in the computation's precision": (step, exchanged(packed, "cast", lambda each: each)),
        "the head in a GPU's tiles": (step, exchanged(head, "tiling", lambda place: head.CPU)),
        "weights cast once while decoding": (write, torch.inference_mode()),
    }
    now = {step: seconds(step), write: seconds(write)}
    for name, (work, former) in before.items():
        with former:
            found[name] = {"before": seconds(work), "now": now[work]}
    return found


def trainer(folder: Path) -> Figures:
    """Tokens a second, MFU and peak of an update at the settings of the anchors."""
    job = json.loads((folder / "job.json").read_text())
    device, rate = job["device"], float(job.get("tflops", 1.0))
    found: Figures = {}
    for name, full in ANCHORS.items():
        anchor = replace(TRIED, lora_rank=full.lora_rank) if device == "cpu" else full
        tokenizer = str(folder / "writer")
        settings: dict[str, Any] = {"lora_rank": anchor.lora_rank, "recompute": True, "max_new_tokens": 32}
        spec = HF(model(anchor, device), tokenizer=tokenizer, device=device, dtype="bf16", **settings)
        policy, given = ready(HFPolicy(spec, NEEDS)), batch(anchor, device)
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        took = seconds(partial(update, policy, given, anchor.tokens))
        shape, work = policy.info().shape, cost.reading_batch(given)
        assert shape is not None
        operations = cost.forward(shape, work, NEEDS) + cost.backward(shape, work, NEEDS)
        label = f"a small model in place of {name}" if device == "cpu" else name
        found[label] = {"tokens_per_second": anchor.tokens / took, "mfu": operations / took / (1e12 * rate)}
        found[label] |= {"peak_bytes": peak(), "published": anchor.published, "source": anchor.source}
        del policy, spec
    return found


def sharded(folder: Path) -> Figures:
    """An update by as many processes as there are GPUs, with weights sharded and whole; run by torchrun."""
    job = json.loads((folder / "job.json").read_text())
    device = job["device"]
    anchor = TRIED if device == "cpu" else ANCHORS["0.6B full"]
    found: Figures = {"processes": processes.count()}
    with processes.together():
        for shard in ("none", "fsdp"):
            place = str(folder / "sharded")
            spec = HF(place, device=device, dtype="bf16", recompute=True, max_new_tokens=32, shard=shard)  # type: ignore[arg-type]
            policy, given = ready(HFPolicy(spec, NEEDS)), batch(anchor, str(spec.load(frozenset()).device))
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            took = seconds(partial(update, policy, given, anchor.tokens))
            weights = [parameter for group in policy.parameters() for parameter in group["params"]]
            moments = [v for s in policy.optimizer_state()["state"].values() for v in s.values() if torch.is_tensor(v)]
            held = local_bytes([*weights, *moments])
            found[shard] = {"tokens_per_second": anchor.tokens / took, "held_bytes": held, "peak_bytes": peak()}
            del policy
    return found


PARTS: dict[str, Callable[[Path], Figures]] = {"mends": mends, "trainer": trainer, "sharded": sharded}


def run(part: str, folder: Path, limit: float) -> Figures:
    """A part in a process of its own, or in as many as there are GPUs."""
    command = [sys.executable, __file__, part, str(folder)]
    if part == "sharded":
        device = json.loads((folder / "job.json").read_text())["device"]
        count = max(2, torch.cuda.device_count()) if device == "cpu" else torch.cuda.device_count()
        if count == 1:
            return {"left out": "one GPU: nothing to shard over"}
        anchor = TRIED if device == "cpu" else ANCHORS["0.6B full"]
        place = folder / "sharded"
        model(anchor, "cpu").save_pretrained(place)
        for file in (folder / "writer").glob("*token*"):
            (place / file.name).write_bytes(file.read_bytes())
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        command = [sys.executable, *launcher, __file__, part, str(folder)]
    return told_by(command, limit, OMP_NUM_THREADS="1")


def told_by(command: list[str], limit: float, **variables: str) -> Figures:
    """The figures in the last line that a process prints, or why there are none."""
    environment = {**os.environ, **variables}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return {"left out": "no time"}
    if done.returncode:
        return {"left out": last_line(done.stderr) or f"it ended with {done.returncode}, without a word"}
    found: Figures = json.loads(last_line(done.stdout, 1 << 20))
    return found


def last_line(text: str, most: int = 300) -> str:
    """The last line, as a cell of a table may hold it: of a traceback what was raised."""
    lines = text.strip().splitlines()
    return lines[-1][:most] if lines else ""


def render(found: Figures) -> list[str]:
    """Markdown of the parts."""
    lines = ["", "| mend | before, s | now, s | times |", "|---|---|---|---|"]
    for name, told in found["mends"].items():
        cells = (
            (told["before"], told["now"], told["before"] / told["now"]) if isinstance(told, dict) else (told, "", "")
        )
        lines.append(f"| {name} | " + " | ".join(f"{c:.3g}" if isinstance(c, float) else c for c in cells) + " |")
    lines += ["", "| trainer | tokens a second | MFU | peak GiB | published |", "|---|---|---|---|---|"]
    for name, told in found["trainer"].items():
        if not isinstance(told, dict):
            lines.append(f"| {told} | | | | |")
            continue
        peaks = f"{told['peak_bytes'] / 2**30:.1f}"
        cells = [f"{told['tokens_per_second']:,.0f}", f"{told['mfu']:.1%}", peaks]
        lines.append(f"| {name} | {' | '.join(cells)} | {told['published']} ({told['source']}) |")
    lines += ["", "| weights | tokens a second | held by a process, MB | peak GiB |", "|---|---|---|---|"]
    for name, told in found["sharded"].items():
        if isinstance(told, dict):
            cells = [f"{told['tokens_per_second']:,.0f}", f"{told['held_bytes'] / 1e6:,.1f}"]
            lines.append(f"| {name} | {' | '.join(cells)} | {told['peak_bytes'] / 2**30:.1f} |")
        elif name == "left out":
            lines.append(f"| left out: {told} | | | |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    figures = PARTS[asked.part](asked.folder)
    if not processes.index():
        print(json.dumps(figures))
