"""The same tests with the instruction sets of other processors: `python -m tests.instruction_sets [PYTEST ARGUMENTS]`.

Which vector instructions torch, oneDNN and MKL use decides in which order they add, and so how a sum is rounded. The
three settings stand for three kinds of processor. pytest runs once under each, in a process of its own, as libraries
read their settings when they are loaded. Where no file is named it runs PARITY: what compares two computations of the
same number. The table says what torch found, as a setting that it does not know would go unnoticed. With
ALIGNZOO_TEST_SEEDS=20 in the environment, what draws its models or data is repeated with 20 seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SETTINGS: dict[str, dict[str, str]] = {
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_CBWR": "AVX2",
    },
    "own": {},
}
"""By name, the environment. MKL's COMPATIBLE is the code that it runs on processors that are not Intel's."""

PARITY = [
    "tests/oracle",
    "tests/test_processes.py",
    "tests/test_rounding.py",
    "tests/test_functional.py",
    "tests/test_microbatch.py",
    "tests/test_passes.py",
    "tests/test_importance.py",
    "tests/test_collate.py",
    "tests/plugins/test_hf.py",
    "tests/plugins/test_hf_engine.py",
    "tests/plugins/test_hf_layers.py",
    "tests/plugins/test_hf_packed.py",
    "tests/plugins/test_hf_rotary.py",
    "tests/plugins/test_hf_unread.py",
]
ASK = "import torch; print(torch.backends.cpu.get_cpu_capability())"


def environment(setting: str) -> dict[str, str]:
    """This process's, with a setting's variables alone of those that choose instruction sets."""
    chosen = {name for each in SETTINGS.values() for name in each}
    return {name: value for name, value in os.environ.items() if name not in chosen} | SETTINGS[setting]


def main(arguments: list[str]) -> int:
    if not any(Path(each.split("::")[0]).exists() for each in arguments):  # no test file is named
        arguments = [*PARITY, *arguments]
    rows, worst = [], 0
    for setting in SETTINGS:
        given = environment(setting)
        found = subprocess.run([sys.executable, "-c", ASK], env=given, capture_output=True, text=True, check=True)
        start = time.perf_counter()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, env=given, stdout=subprocess.PIPE, text=True)
        last = (done.stdout.strip().splitlines() or ["nothing was printed"])[-1].strip("= ")
        rows.append((setting, found.stdout.strip(), str(done.returncode), f"{time.perf_counter() - start:.0f}", last))
        worst = max(worst, done.returncode)
        if done.returncode:
            print(f"--- {setting}\n{done.stdout}", flush=True)
    table = [("setting", "torch's", "exit", "seconds", "pytest"), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    for row in table:
        print("  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip())
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
