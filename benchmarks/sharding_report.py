"""What each GPU holds, from 0.5 to 70 billion parameters on 1 to 512 GPUs: `python benchmarks/sharding_report.py`.

Arithmetic of `alignzoo.planning.cluster` on published sizes, nothing measured. Writes benchmarks/results/sharding.md.
"""

from __future__ import annotations

from machine import RESULTS

from alignzoo.cost import ModelShape, dense_trunk
from alignzoo.planning.cluster import SIZES, Training, plan_gpu

MEMORY, TOKENS = 80.0, 16_384


def shape(layers: int, hidden: int, heads: int, kv_heads: int, inner: int, vocab: int, *, tied: bool) -> ModelShape:
    """An ordinary transformer of these sizes, with head and embeddings."""
    trunk = dense_trunk(layers, hidden, heads, kv_heads, hidden // heads, inner)
    total = trunk + hidden * (2 * layers + 1) + vocab * hidden * (1 if tied else 2)
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate=inner,
        gated=True,
        vocab=vocab,
        parameters=total,
        trained=total,
        trunk=trunk,
        tied=tied,
    )


MODELS = {
    "0.5B (Qwen2.5)": shape(24, 896, 14, 2, 4864, 151_936, tied=True),
    "1.5B (Qwen2.5)": shape(28, 1536, 12, 2, 8960, 151_936, tied=True),
    "7B (Qwen2.5)": shape(28, 3584, 28, 4, 18_944, 152_064, tied=False),
    "32B (Qwen2.5)": shape(64, 5120, 40, 8, 27_648, 152_064, tied=False),
    "70B (Llama 3.1)": shape(80, 8192, 64, 8, 28_672, 128_256, tied=False),
}
WAYS = {
    "full": {},
    "full, recomputed": {"recompute": True},
    "full with a critic, recomputed": {"critic": True, "recompute": True},
    "LoRA, recomputed": {"trained": "lora", "recompute": True},
    "QLoRA, recomputed": {"trained": "qlora", "recompute": True},
}


def cell(shape: ModelShape, gpus: int, way: dict[str, object]) -> str:
    """Gigabytes of each GPU, bold where they fit."""
    plan = plan_gpu(Training(shape, gpus, tokens=TOKENS, **way), MEMORY)  # type: ignore[arg-type]
    size = f"{plan.peak / 1e9:,.0f}"
    return f"**{size}**" if plan.fits else size


def main() -> None:
    """Write the tables."""
    lines = [
        "# What each GPU holds where weights are sharded",
        "",
        f"GB of each GPU, bold where {MEMORY:g} GB suffice less 2 for torch: weights, gradients, AdamW, reference,",
        f"what is gathered, {TOKENS:,} tokens at once. Arithmetic by `python benchmarks/sharding_report.py`; nothing",
        "here is measured. Bases in four bits are held whole by every process.",
        "",
        f"| model | trained | {' | '.join(map(str, SIZES))} GPUs |",
        f"|---|---|{'---|' * len(SIZES)}",
    ]
    for name, sizes in MODELS.items():
        for way, settings in WAYS.items():
            cells = " | ".join(cell(sizes, gpus, settings) for gpus in SIZES)
            lines.append(f"| {name} | {way} | {cells} |")
    lines += [
        "",
        "GB that a GPU receives, full fine-tuning with a reference and generation: of a micro-batch (weights twice in",
        "bf16, gradients once in float32), and of a step besides (weights once to generate, once for the reference).",
        "",
        "| model | GPUs | a micro-batch | a step, besides | copies of 8 GPUs: within | between machines |",
        "|---|---|---|---|---|---|",
    ]
    for name, sizes in MODELS.items():
        for gpus in (8, 64, 1024):
            one = plan_gpu(Training(sizes, gpus, cached=1), MEMORY).wire
            copies = plan_gpu(Training(sizes, gpus, within=8, cached=1), MEMORY).wire
            found = [one["a micro-batch"], one["a step, besides"], copies["a micro-batch"]]
            found.append(copies["a micro-batch, between machines"])
            lines.append(f"| {name} | {gpus} | {' | '.join(f'{each / 1e9:,.1f}' for each in found)} |")
    (RESULTS / "sharding.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
