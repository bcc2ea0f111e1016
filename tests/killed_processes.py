"""One of two processes that share their weights is killed, again and again, and the run goes on on one, two and three.

    python tests/killed_processes.py FOLDER [KILLS [METHOD [STOPS]]]

Each trial trains by two processes, one of which is killed at a moment that nobody chose; then so many processes as its
number says go on to the end. Its figures are those of a run that nobody killed. In a stop, one of them is sent SIGTERM
instead: both end after the same step, with a checkpoint. At last four processes train, and one goes on from what they
leave after a stop. Processes are forked from one that has imported everything, so that a trial takes seconds;
tests/test_sharded.py makes some of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "schedule": {"steps": 5, "prompts": 5, "save_every": 1, "keep": 2},
    "evaluate": {"prompts": 4, "best_of": 0},
    "policy.max_new_tokens": 8,
    "policy.shard": "fsdp",
}
METHODS: dict[str, dict[str, Any]] = {"dpo": {"task": "shop"}, "grpo": {"task": "sort", "sampler.n": 3}}


def start(out: Path, rank: int, count: int, port: int, method: str, *, resume: bool) -> int:
    """A process of a run; its number."""
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(out.with_name(f"{out.name}-{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        import alignzoo

        alignzoo.run(method, out=out, resume=resume, **METHODS[method], **SETTINGS)
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def run(out: Path, count: int, method: str, *, resume: bool = False) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [start(out, rank, count, port, method, resume=resume) for rank in range(count)]


def ended(children: list[int], limit: float = 300) -> list[int]:
    """Their exit codes, once all have ended; raises where one hangs."""
    codes: dict[int, int] = {}
    begin = time.monotonic()
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (found := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(found[1])
        if time.monotonic() - begin > limit:
            for child in set(children) - codes.keys():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            raise TimeoutError(f"{len(children) - len(codes)} of {len(children)} processes hang")
        time.sleep(0.02)
    return [codes[child] for child in children]


def figures(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "memory", "mismatch/max")  # the last is a difference of rounding, which this tells from others
    return [{k: v for k, v in line.items() if not k.startswith(timed) and k != "stage"} for line in lines]


def off(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """The largest difference of a figure, in parts of its size where that is above 1."""
    assert len(ours) == len(theirs) and all(a.keys() == b.keys() for a, b in zip(ours, theirs, strict=True))
    pairs = [(a[key], b[key]) for a, b in zip(ours, theirs, strict=True) for key in a if a[key] is not None]
    return max(abs(x - y) / max(1.0, abs(y)) for x, y in pairs)


def until(out: Path, steps: int, children: list[int], limit: float = 300) -> None:
    """Wait until so many steps are written down, or nobody writes any more; in any case until all have joined: before,
    it is the launcher that ends the others."""
    begin, lines = time.monotonic(), out / "metrics.jsonl"
    while time.monotonic() - begin < limit and all(_runs(child) for child in children):
        if (not steps and (out / "manifest.json").exists()) or (
            lines.exists() and len(lines.read_text().splitlines()) >= max(1, steps)
        ):
            return
        time.sleep(0.02)


def _runs(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def trial(folder: Path, number: int, expected: list[dict[str, float]], seconds: float, method: str) -> dict[str, Any]:
    """One kill, and what came of it: some moments after a step, or before the first."""
    rng = random.Random(number)
    out, victim, after = folder / f"kill-{number}", rng.randrange(2), rng.randrange(len(expected))
    moment = rng.uniform(0.0, 1.0) * seconds / (2 * len(expected))
    children = run(out, 2, method)
    until(out, after, children)
    time.sleep(moment)
    os.kill(children[victim], signal.SIGKILL)
    killed = time.monotonic()
    codes = ended(children)
    steps = len(figures(out)) if (out / "metrics.jsonl").exists() else 0
    told: dict[str, Any] = {
        "killed": victim,
        "after step": after,
        "and seconds": round(moment, 2),
        "codes": codes,
        "steps": steps,
    }
    told["others ended within"] = round(time.monotonic() - killed, 2)
    told["goes on with"] = 1 + number % 3
    again = (out / "manifest.json").exists()
    told["codes after"] = ended(run(out, told["goes on with"], method, resume=again))
    told["off by"] = off(figures(out), expected) if not any(told["codes after"]) else None
    return told


def stop(folder: Path, number: int, expected: list[dict[str, float]], method: str, *, count: int = 2) -> dict[str, Any]:
    """SIGTERM to one process, after a step: where all stop, what they leave, and what comes of it."""
    rng = random.Random(number)
    out, victim, after = folder / f"stop-{count}-{number}", rng.randrange(count), rng.randrange(1, len(expected) - 1)
    children = run(out, count, method)
    until(out, after, children)
    time.sleep(rng.uniform(0.0, 0.2))
    os.kill(children[victim], signal.SIGTERM)
    told: dict[str, Any] = {"sent SIGTERM": victim, "of": count, "after step": after, "codes": ended(children)}
    logs = [out.with_name(f"{out.name}-{rank}.log").read_text() for rank in range(count)]
    told["stopped"] = sorted({line for log in logs for line in log.splitlines() if line.startswith("Interrupted: ")})
    told["steps"] = len(figures(out))
    saved = sorted(path.name for path in (out / "checkpoints" / method).iterdir())
    told["checkpoint"] = saved[-1] if saved else ""
    told["goes on with"] = 1 + number % 3
    told["codes after"] = ended(run(out, told["goes on with"], method, resume=True))
    told["off by"] = off(figures(out), expected) if not any(told["codes after"]) else None
    return told


def main(folder: Path, kills: int, method: str = "dpo", stops: int = 1, four: bool = True) -> list[dict[str, Any]]:
    """All trials; what each came to is in kills.jsonl at once."""
    os.environ |= {"ALIGNZOO_REFERENCES": "off", "OMP_NUM_THREADS": "1"}
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.distributed.tensor
    import transformers.models.llama.modeling_llama

    import alignzoo.report
    import alignzoo_hf.model.policy  # noqa: F401

    assert torch.distributed.fsdp and transformers.models.llama and alignzoo.report
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    begin = time.monotonic()
    codes = ended(run(folder / "whole", 2, method))
    assert codes == [0, 0], (folder / "whole-0.log").read_text()[-2000:]
    seconds, expected = time.monotonic() - begin, figures(folder / "whole")
    found: list[dict[str, Any]] = []
    trials = [partial(trial, folder, number, expected, seconds, method) for number in range(kills)]
    trials += [partial(stop, folder, number, expected, method) for number in range(stops)]
    trials += [partial(stop, folder, 0, expected, method, count=4)] if four else []
    for each in trials:
        found.append(each())
        with (folder / "kills.jsonl").open("a") as file:
            file.write(json.dumps(found[-1]) + "\n")
        print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    kills, method, stops, *rest = (*sys.argv[2:], *("20", "dpo", "1")[len(sys.argv) - 2 :])
    main(Path(sys.argv[1]), int(kills), method, int(stops), not rest)
