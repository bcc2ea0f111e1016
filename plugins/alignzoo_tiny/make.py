"""Make the assets of the embedded world from nothing: `python -m alignzoo_tiny.make`.

One function per asset, each reading the assets before it from the same folder:

    base      the tokenizer and the pretrained model, about two minutes on one core
    sft       the starting policy, by supervised fine-tuning on demonstrations of all three tasks
    pairs     two samples of it for each of 3,600 prompts of `shop`, in pairs.jsonl.gz
    reward    a reward model of `shop`, from the raters' labels of those pairs
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from alignzoo import AlignzooError
from alignzoo_tiny import aligned, competence, pretrain
from alignzoo_tiny.data import ASSETS


def make_base(out: Path, seed: int) -> dict[str, float]:
    """`base/`: the pretrained model. Returns its figures, and writes nothing when they are too low."""
    model, tokenizer = pretrain.train_base(seed, pretrain.Pretraining())
    figures = competence.measure(model, tokenizer)
    competence.require(figures)
    pretrain.save(model, tokenizer, out / "base")
    return figures


MAKERS: Mapping[str, Callable[[Path, int], Mapping[str, float]]] = {
    "base": make_base,
    "sft": aligned.make_sft,
    "pairs": aligned.make_pairs,
    "reward": aligned.make_reward,
}
"""In order; each takes the folder and the seed, and answers with the figures of what it made."""


def main() -> None:
    """Make every asset, in order, and print what each can do."""
    parser = argparse.ArgumentParser("python -m alignzoo_tiny.make", description="Make the embedded world's assets.")
    parser.add_argument("--out", type=Path, default=ASSETS, help="where to write them (default: into the package)")
    parser.add_argument("--seed", type=int, default=0, help="seed of text, weights and batches (default: 0)")
    parser.add_argument("--only", choices=MAKERS, nargs="+", default=list(MAKERS), help="these alone (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small: more threads cost more than they bring
    for name in options.only:
        start = time.perf_counter()
        try:
            figures = MAKERS[name](options.out, options.seed)
        except AlignzooError as error:
            parser.exit(1, f"{name}: {error}\n")
        print(f"{name}: {options.out / name}, in {time.perf_counter() - start:.0f} s")
        for key, value in figures.items():
            print(f"    {key:32} {value:6.2f}")


if __name__ == "__main__":
    main()
