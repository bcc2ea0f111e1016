"""One odd reply of a judge is a question without an answer, and nothing that an endpoint repeats gives the key away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignzoo.errors import RewardError, RunError
from alignzoo.judging import ask
from alignzoo.types import Question
from alignzoo_judge.cache import key_of, place
from alignzoo_judge.endpoint import Budget, OpenAI
from judge_server import KEY, JudgeServer

VERDICT = '{"rationale": "r", "verdict": 0.7}'
QUESTION = Question(({"role": "user", "content": "say"},), ("a", "b"))


def body(content: Any = VERDICT, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content}
    whole = {"id": "1", "object": "chat.completion", "created": 0, "model": "small"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return json.dumps(whole | {"choices": choices, "usage": usage} | more).encode()


ODD = {
    "content a list": body([{"type": "image"}]),
    "content a list of numbers": body([1, 2]),
    "content a number": body(5),
    "content an object": body({"a": 1}),
    "content nested deep": body("[" * 100_000),
    "usage a list": body(usage=[1]),
    "usage of texts": body(usage={"prompt_tokens": "x", "completion_tokens": "y"}),
    "usage below zero": body(usage={"prompt_tokens": -3, "completion_tokens": 1}),
    "no choices": body(choices=[]),
    "choices a number": body(choices=5),
    "choices an object": body(choices={"a": 1}),
    "a message that is null": body(choices=[{"message": None}]),
    "a body nested deep": b"[" * 100_000,
    "null": b"null",
    "a list": b"[]",
    "a text": b'"hi"',
    "nothing": b"",
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "a verdict of many digits": body('{"rationale": "r", "verdict": ' + "9" * 5000 + "}"),
}


def judge_at(server: JudgeServer, **settings: Any) -> OpenAI:
    return OpenAI(
        **{"model": "small", "base_url": server.url, "backoff": 0.0, "retries": 0, "corrections": 0, **settings}
    )


@pytest.mark.parametrize("name", ODD)
def test_an_odd_reply_is_a_question_without_an_answer(name: str, judge_server: JudgeServer) -> None:
    judge = judge_at(judge_server)
    judge_server.faults.append(ODD[name])
    odd, good = ask(judge, [QUESTION], None, on_error="drop-sample") + ask(judge, [QUESTION], None)
    assert odd.kind == "error" and odd.note and KEY not in odd.note and good.kind == "value"
    assert judge.costs()["judge/requests"] == 2
    if name.startswith(("content", "no choices", "a verdict")):  # what was paid for is counted
        assert judge.costs()["judge/tokens"] >= 5 + 1


@pytest.mark.parametrize("name", ["choices", "tool_calls", "logprobs"])
def test_a_reply_of_many_parts_is_read_by_what_it_says(name: str, judge_server: JudgeServer) -> None:
    """Fifty thousand parts that nobody asked for are passed over: as objects of the client's they took a minute."""
    whole = json.loads(body())
    (choice,) = whole["choices"]
    if name == "choices":
        whole["choices"] = [choice] * 50_000
    elif name == "tool_calls":
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        choice["message"]["tool_calls"] = [call] * 50_000
    else:
        entry = {"token": "a", "logprob": 0.0, "bytes": None, "top_logprobs": []}
        choice["logprobs"] = {"content": [entry] * 50_000}
    judge_server.faults.append(json.dumps(whole).encode())
    assert judge_at(judge_server).judge([QUESTION], None)[0].value == 0.7


def test_text_in_parts_is_text(judge_server: JudgeServer) -> None:
    judge_server.faults.append(body([{"type": "text", "text": VERDICT[:9]}, {"type": "text", "text": VERDICT[9:]}]))
    assert judge_at(judge_server).judge([QUESTION], None)[0].value == 0.7


def test_half_a_surrogate_pair_breaks_neither_the_cache_nor_the_run(judge_server: JudgeServer) -> None:
    judge = judge_at(judge_server)
    judge_server.faults.append(body("\ud800"))
    assert judge.judge([QUESTION], None)[0].kind == "error"
    judge_server.faults.append(body('{"rationale": "\ud800", "verdict": 0.7}'))
    [verdict] = judge.judge([QUESTION], None)
    assert verdict.note == "\ufffd" and judge.judge([QUESTION], None) == [verdict]


@pytest.mark.parametrize("before", range(140, 205, 8))
def test_a_key_that_is_cut_in_two_is_masked(before: int, judge_server: JudgeServer) -> None:
    judge_server.program = lambda heard: "h" * (before % 80) + KEY  # malformed: 80 characters of it are shown
    [malformed] = judge_at(judge_server).judge([QUESTION], None)
    judge_server.faults.append(json.dumps({"k": "h" * before, "auth": KEY}).encode())
    [echoed] = judge_at(judge_server).judge([QUESTION], None)
    for verdict in (malformed, echoed):
        assert verdict.kind == "error" and not any(KEY[:length] in verdict.note for length in range(8, len(KEY)))


def test_a_refusal_that_repeats_the_header_is_masked_before_it_is_cut(judge_server: JudgeServer) -> None:
    from alignzoo_judge.transport import Transport

    for before in range(150, 205, 5):
        told = Transport(judge_at(judge_server)).cut("h" * before + f" Bearer {KEY} tail", 200)
        assert not any(KEY[:length] in told for length in range(8, len(KEY))) and len(told) <= 200


def test_a_damaged_cache_is_named(judge_server: JudgeServer) -> None:
    import sqlite3

    judge = judge_at(judge_server)
    judge.judge([QUESTION], None)
    where = place("auto")
    assert where is not None and key_of({}) and where.exists()
    with sqlite3.connect(where) as file:
        file.execute("UPDATE replies SET reply = 'x'")
    file.close()
    with pytest.raises(RunError, match=r"judges\.sqlite holds what is no reply"):
        judge.judge([QUESTION], None)


@pytest.mark.parametrize("reply", ['{"text": "garbage"}', '{"text": 5}', '{"text": null}', "{}", "5", "null", None])
def test_a_cached_reply_that_is_no_verdict_is_told_with_its_file(reply: str | None, judge_server: JudgeServer) -> None:
    import sqlite3

    judge = judge_at(judge_server)
    judge.judge([QUESTION], None)
    with sqlite3.connect(place("auto") or "") as file:
        file.execute("UPDATE replies SET reply = ?", (reply,))
    file.close()
    with pytest.raises(RunError, match=r"judges\.sqlite holds what is no reply .*: delete the file, or give another"):
        judge.judge([QUESTION], None)


@pytest.mark.parametrize("table", ["mine (x)", "replies (x)"])
def test_a_database_of_others_is_no_cache_and_keeps_its_bytes(
    table: str, judge_server: JudgeServer, tmp_path: Path
) -> None:
    import sqlite3

    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as file:
        file.execute(f"CREATE TABLE {table}")
    file.close()
    before = other.read_bytes()
    with pytest.raises(RunError, match=r"other\.sqlite is a database of something else: give another file"):
        judge_at(judge_server, cache=str(other)).judge([QUESTION], None)
    assert other.read_bytes() == before and not judge_server.heard


@pytest.mark.parametrize("budget", [Budget(tokens=1), Budget(cost=1.0, price_in=1.0)], ids=["tokens", "cost"])
@pytest.mark.parametrize("unsaid", ["prompt_tokens", "completion_tokens"])
def test_a_budget_of_tokens_needs_their_numbers(unsaid: str, budget: Budget, judge_server: JudgeServer) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2} | {unsaid: None}
    judge_server.faults += [body(usage=usage), body(usage=usage)]
    with pytest.raises(RewardError, match="does not say how many tokens it used, so"):
        judge_at(judge_server, budget=budget).judge([QUESTION], None)
    judge = judge_at(judge_server)
    assert judge.judge([QUESTION], None)[0].kind != "error"
    assert judge.costs()["judge/tokens"] == 5 - (3 if unsaid == "prompt_tokens" else 2)
