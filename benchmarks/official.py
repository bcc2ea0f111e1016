"""The measurement beside peers, whole, in one command: `python benchmarks/official.py`, or `make bench`.

Writes benchmarks/results/peers.json, .md and .svg, and the table of docs/speed.md. Two comparisons run at
once where there are two cores, each on a core of its own. It takes about 25 minutes, and no more than asked: one that
begins late takes fewer steps, and one that would begin too late is left out and named. It wants a machine with nothing
else to do.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import peer_report
import peers
from comparison import CASES, STEPS, Case, measure, until
from results import Recorder

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
BEGIN, END = "<!-- speed -->\n", "<!-- end of speed -->\n"
COSTS = {"ppo": 170, "rloo": 73, "grpo": 51, "dpo": 29, "sft": 14, "reward-model": 13}
"""Seconds of a turn of all systems at M, on the machine of the first measurement: who costs most begins first."""
SHARES = {"S": 0.07, "M": 1.0, "V": 1.5}
SHARE = 0.9
"""The share of the time that may have passed when a comparison begins."""


@dataclass
class Official:
    """Cases that are still to be measured, by as many lanes as there are cores."""

    todo: list[Case]
    steps: int
    minutes: float
    recorder: Recorder
    left_out: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lane(self, core: int) -> None:
        """One comparison after another, on one core: the systems, and the thread that measures the core's pace."""
        os.sched_setaffinity(0, {core})
        while True:
            with self.lock:
                if not self.todo:
                    return
                case = self.todo.pop(0)
            if self.passed() > SHARE * self.minutes:
                self.left_out.append(f"{case.key}: no time left")
            else:
                self.measure(case, core)

    def measure(self, case: Case, core: int) -> None:
        repeat = until(self.steps, self.start + 60 * SHARE * self.minutes)
        try:
            row = measure(case, repeat, full=True, core=core)
        except (RuntimeError, AssertionError) as error:  # one comparison that fails does not take the others with it
            self.left_out.append(f"{case.key}: {error}")
            return
        with self.lock:
            self.recorder.add("peers", case.key, row)
            ratio, low, high = peer_report.ratios(row)
            said = f"{ratio:.2f} ({low:.2f} to {high:.2f}) times {peer_report.best_peer(row)}"
            print(f"{self.passed():5.1f} min  {case.key}: {said}, {row['floor_share']:.0%} of the floor", flush=True)

    def passed(self) -> float:
        """Minutes."""
        return (time.monotonic() - self.start) / 60


def cost(case: Case) -> float:
    return COSTS[case.method] * SHARES[case.size]


def is_extra(case: Case) -> bool:
    """What is measured while time is left."""
    return case.lengths == "cap" or (case.size == "V" and case.method == "sft")


def chosen(only: list[str], sizes: str) -> tuple[list[Case], list[str]]:
    """The cases that can be measured here, the dearest first and what may be missed last, and why the others cannot."""
    reasons = {method: peers.missing(method) for method in {case.method for case in CASES}}
    wanted = [case for case in CASES if case.size in sizes and (not only or case.key in only or case.method in only)]
    left_out = sorted({f"{case.method}: {reasons[case.method]}" for case in wanted if reasons[case.method]})
    there = [case for case in wanted if not reasons[case.method]]
    return sorted(there, key=lambda case: (is_extra(case), -cost(case))), left_out


def into_page(table: str) -> None:
    """Put the table between the markers of docs/speed.md."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise RuntimeError(f"{PAGE} has no place for the table: {BEGIN.strip()} and {END.strip()}")
    PAGE.write_text(before + BEGIN + table + END + after)


def main() -> int:
    """Measure, write, and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--sizes", default="SMV")
    parser.add_argument("--only", nargs="*", default=[], help="methods, or single comparisons as in grpo-M-geometric")
    parser.add_argument("--lanes", type=int, default=2, help="comparisons at once, where there are so many cores")
    parser.add_argument("--dry", action="store_true", help="measure and print, and write nothing")
    asked = parser.parse_args()
    for option, given, known in (
        ("--only", asked.only, {case.method for case in CASES} | {case.key for case in CASES}),
        ("--sizes", asked.sizes, {case.size for case in CASES}),
    ):
        if unknown := sorted(set(given) - known):
            parser.error(f"{option}: there is no {', '.join(unknown)}; there is {', '.join(sorted(known))}")
    todo, left_out = chosen(asked.only, asked.sizes)
    official = Official(todo, asked.steps, asked.minutes, Recorder(write=not asked.dry), left_out)
    cores = sorted(os.sched_getaffinity(0))[: max(1, asked.lanes)]
    lanes = [threading.Thread(target=official.lane, args=(core,)) for core in cores]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    rows = official.recorder.kept("peers")
    table = peer_report.short(rows)
    print("\nThe table of docs/speed.md:\n\n" + table)
    if not asked.dry:
        into_page(table)
    for reason in official.left_out:
        print(f"left out: {reason}", file=sys.stderr)
    return 1 if official.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
