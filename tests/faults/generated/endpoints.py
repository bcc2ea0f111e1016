"""Endpoints whose replies are odd: a verdict, or a question without an answer; the key is told to nobody."""

from __future__ import annotations

import atexit
import functools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from alignzoo.errors import AlignzooError
from alignzoo.types import Question
from alignzoo_judge.endpoint import OpenAI
from faults.generated import Short, check_told, odd
from judge_server import KEY, Fault, JudgeServer

QUESTION = Question("say", ("a", "b"))
STATUSES = (204, 301, 400, 401, 403, 404, 408, 413, 418, 429, 500, 503)
WAITS = ("0", "nan", "inf", "-5", "100000", "x", "Wed, 21 Oct 2015 07:28:00 GMT", "")


@functools.cache
def server() -> JudgeServer:
    found = JudgeServer()
    found.start()
    atexit.register(found.stop)
    return found


def case(rng: random.Random, folder: Path) -> None:
    """Ask one question."""
    here = server()
    here.faults.clear()
    here.faults.append(_fault(rng))
    budget = {"retries": 0, "corrections": 0, "backoff": 0.0, "timeout": 20.0, "longest_wait": 1.0}
    judge = OpenAI(model="small", base_url=here.url, cache=str(folder / "judge.sqlite"), **budget)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        try:
            [verdict] = judge.judge([QUESTION], None)
        except AlignzooError as error:
            check_told(error)
            told = str(error)
        else:
            told = verdict.note
            if verdict.kind == "value" and not (verdict.value is not None and 0 <= verdict.value <= 1):
                raise Short(f"the verdict {verdict.value}")
        costs = judge.costs()
    if any(KEY[:length] in told for length in range(8, len(KEY))):
        raise Short(f"the key is told: {told[:200]}")
    told.encode()
    if costs["judge/requests"] != 1 or not all(math.isfinite(each) and each >= 0 for each in costs.values()):
        raise Short(f"costs of {costs}")
    kept = b"".join(path.read_bytes() for path in folder.iterdir())
    if KEY.encode() in kept:
        raise Short("the key is in the cache")
    if any(path.stat().st_mode & 0o077 for path in folder.iterdir()):
        raise Short("others can read the cache")


def _fault(rng: random.Random) -> Fault:
    if rng.random() < 0.2:
        return rng.choice(STATUSES), {"Retry-After": rng.choice(WAITS)}
    content: Any = json.dumps({"rationale": f"my key is {KEY}" if rng.random() < 0.2 else "r", "verdict": 0.7})
    body: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "small",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    for _ in range(rng.choice((1, 1, 2))):
        _spoil(rng, body)
    written = json.dumps(body).encode("utf-8", "surrogatepass")
    return odd.damaged(rng, written) if rng.random() < 0.3 else written


def _spoil(rng: random.Random, value: Any) -> None:
    """Change something at some depth; at times the verdict itself."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return
        key = rng.choice(list(keys))
        if isinstance(value[key], dict | list) and rng.random() < 0.8:
            value = value[key]
            continue
        if key == "content" and rng.random() < 0.5:
            value[key] = json.dumps({"rationale": odd.value(rng), "verdict": odd.value(rng)})
        elif rng.random() < 0.2:
            del value[key]
        else:
            value[key] = odd.value(rng)
        return
