"""`python -m tests.faults --cases 2000`: a long run of generated faults; what falls short is listed, with its seed.

A case is repeated alone by its family and number: `python -m tests.faults --only data:17 --seed 3`.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("ALIGNZOO_REFERENCES", "off")

import torch
import transformers

import alignzoo
from faults.generated import dealt, families, run, timed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="how many in all")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--only", default="", metavar="FAMILY[:NUMBER]", help="one family, or one of its cases")
    parser.add_argument("--out", type=Path, help="a Markdown file for the summary")
    given = parser.parse_args()
    os.fsync = lambda descriptor: None  # processes are killed here, and no machine
    torch.set_num_threads(1)
    family, _, number = given.only.partition(":")
    if number:
        found = run(family, families()[family][0], int(number), given.seed)
        print(found.fault or "it does not fall short")
        return bool(found.fault)
    lines, short, begun = [], 0, time.time()
    for name, cases in dealt(given.cases).items():
        if family and name != family:
            continue
        found_all, seconds = timed(name, cases, given.seed)
        faults = [each for each in found_all if each.fault]
        short += len(faults)
        lines.append(f"| {name} | {len(found_all)} | {len(faults)} | {seconds:.0f} |")
        print(lines[-1], flush=True)
        for each in faults:
            print(f"  {name}:{each.number}  {each.fault}", flush=True)
    if given.out:
        given.out.write_text(_summary(lines, given.seed, time.time() - begun), encoding="utf-8")
    return bool(short)


def _summary(lines: list[str], seed: int, seconds: float) -> str:
    versions = f"alignzoo {alignzoo.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    return "\n".join(
        [
            "# Generated faults",
            "",
            f"`python -m tests.faults --cases N --seed {seed}`: {platform.machine()} with {os.cpu_count()} processors,",
            f"{platform.system()}, Python {platform.python_version()}, {versions}: {seconds / 60:.0f} minutes.",
            "",
            "| family | cases | fall short | CPU seconds |",
            "|---|---|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
