"""Make the assets of the embedded world from nothing: `python -m alignzoo_tiny.make [--out DIR] [--seed S]`.

One function per asset, each reading the assets before it from the same folder:

    base    the tokenizer and the pretrained model, about two minutes on one core
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from alignzoo.errors import AlignzooError
from alignzoo_tiny import competence, pretrain

ASSETS = Path(__file__).parent / "assets"


def make_base(out: Path, seed: int, settings: pretrain.Pretraining = pretrain.Pretraining()) -> dict[str, float]:
    """`base/`: the pretrained model. Returns its figures, and writes nothing when they are too low."""
    model, tokenizer = pretrain.train_base(seed, settings)
    figures = competence.measure(model, tokenizer)
    competence.require(figures)
    pretrain.save(model, tokenizer, out / "base")
    return figures


def main() -> None:
    """Make every asset, in order, and print what each can do."""
    parser = argparse.ArgumentParser(prog="python -m alignzoo_tiny.make", description="Make the embedded world's models.")
    parser.add_argument("--out", type=Path, default=ASSETS, help="where to write them (default: into the package)")
    parser.add_argument("--seed", type=int, default=0, help="seed of text, weights and batches (default: 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)  # small matrices: a second thread costs more than it brings
    for name, make in {"base": make_base}.items():
        start = time.perf_counter()
        try:
            figures = make(options.out, options.seed)
        except AlignzooError as error:
            parser.exit(1, f"{name}: {error}\n")
        print(f"{name}: {options.out / name} in {time.perf_counter() - start:.0f} s")
        for key, value in figures.items():
            print(f"    {key:28} {value:6.2f}")


if __name__ == "__main__":
    main()
