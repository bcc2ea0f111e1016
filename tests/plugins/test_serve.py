"""A served model: what comes over the wire is what the policy generates, whoever else asks."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from alignzoo import Policy, Prompt
from alignzoo.decoding import Decoding
from alignzoo.errors import RunError
from alignzoo.functional import derive
from alignzoo.policies import loaded
from alignzoo_hf.model.spec import HF
from alignzoo_serve.server import Serving


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    return loaded(HF(model=str(tiny_model), max_new_tokens=6, device="cpu"), frozenset())


@pytest.fixture(scope="module")
def served(policy: Policy) -> Iterator[Serving]:
    serving = Serving(policy, "tiny").start()
    yield serving
    serving.close()


def ask(serving: Serving, path: str, body: Any, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Host": f"127.0.0.1:{serving.port}"} | headers
    connection.request("GET" if body is None else "POST", path, None if body is None else content, given)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def text(serving: Serving, prompt: Any, **more: Any) -> Any:
    status, found = ask(serving, "/v1/completions", {"prompt": prompt} | more)
    assert status == 200, found
    return found


def test_the_tokens_and_log_probabilities_are_the_policy_s(served: Serving, policy: Policy) -> None:
    found = text(served, ["one", "two"], n=2, seed=3, max_tokens=5, return_token_ids=True, logprobs=1)
    prompts = [Prompt(each, chat="plain") for each in ("one", "two")]
    seeds = [derive(3, "serve", place) for place in range(2)]
    groups = policy.generate(prompts, 2, seeds=seeds, decoding=Decoding(max_new_tokens=5))
    expected = [completion for group in groups for completion in group.completions]
    assert [choice["token_ids"] for choice in found["choices"]] == [list(each.tokens) for each in expected]
    for choice, each in zip(found["choices"], expected, strict=True):
        assert each.logprobs is not None
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(each.logprobs)
        assert choice["finish_reason"] == ("stop" if each.finished else "length")
    assert found["usage"]["completion_tokens"] == sum(len(each.tokens) for each in expected)


def test_tokens_are_gone_on_from_as_they_stand(served: Serving) -> None:
    first = text(served, "one", temperature=0, max_tokens=3, return_token_ids=True)["choices"][0]
    prompt = first["prompt_token_ids"]
    longer = text(served, prompt, temperature=0, max_tokens=3, return_token_ids=True)["choices"][0]
    assert longer["token_ids"] == first["token_ids"]
    rest = text(served, [*prompt, *first["token_ids"][:1]], temperature=0, max_tokens=2, return_token_ids=True)
    assert rest["choices"][0]["token_ids"] == first["token_ids"][1:3]


def test_what_is_said_does_not_depend_on_who_else_asks(served: Serving) -> None:
    def said(seed: int) -> Any:
        found = text(served, "one", seed=seed, max_tokens=4, temperature=1.0 + seed % 2, return_token_ids=True)
        return found["choices"][0]["token_ids"]

    alone = [said(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(said, range(6))) == alone


def test_a_conversation_goes_through_the_template(served: Serving, policy: Policy) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "how "}, {"type": "text", "text": "are you"}]}]
    status, found = ask(
        served, "/v1/chat/completions", {"model": "tiny", "messages": turns, "temperature": 0, "logprobs": True}
    )
    assert status == 200, found
    prompt = Prompt(({"role": "user", "content": "how are you"},))
    (group,) = policy.generate([prompt], 1, seeds=[0], decoding=Decoding(greedy=True))
    choice = found["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": group.completions[0].text}
    assert len(choice["logprobs"]["content"]) == len(group.completions[0].tokens)
    assert found["usage"]["prompt_tokens"] == len(group.prompt_tokens)


def test_the_text_ends_before_what_stopped_it(served: Serving) -> None:
    whole = text(served, "one", temperature=0, max_tokens=6)["choices"][0]["text"]
    stop = whole[2]
    choice = text(served, "one", temperature=0, max_tokens=6, stop=stop)["choices"][0]
    assert choice["text"] == whole[: whole.index(stop)] and choice["finish_reason"] == "stop"


def test_a_temperature_that_logits_overflow_at_takes_the_likeliest(served: Serving) -> None:
    cold, greedy = (text(served, "one", temperature=t, return_token_ids=True)["choices"][0] for t in (1e-320, 0))
    assert cold["token_ids"] == greedy["token_ids"]


def test_weights_that_change_are_the_ones_that_answer(tiny_model: Path) -> None:
    live = loaded(HF(model=str(tiny_model), max_new_tokens=6, device="cpu"), frozenset({"logprobs"}))
    serving = Serving(live, "live").start()
    try:
        before = text(serving, "one", temperature=0)["choices"][0]["text"]
        with torch.no_grad():
            for group in live.parameters():
                for parameter in group["params"] if isinstance(group, dict) else group.params:
                    parameter.neg_()
        assert text(serving, "one", temperature=0)["choices"][0]["text"] != before
    finally:
        serving.close()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "prompt: expected a text"),
        ({"prompt": []}, "prompt: expected a text"),
        ({"prompt": [1, -2]}, "prompt: expected a text"),
        ({"prompt": "a", "n": 0}, "n: expected a whole number from 1 to 128, found 0"),
        ({"prompt": "a", "temperature": -1}, "temperature: expected a number of at least 0"),
        ({"prompt": "a", "temperature": True}, "temperature: expected a number"),
        ({"prompt": "a", "top_p": 0}, "top_p: expected a number above 0"),
        ({"prompt": "a", "stream": True}, "stream: True is not supported"),
        ({"prompt": "a", "logprobs": 5}, "logprobs: this server tells"),
        ({"prompt": "a", "stop": [""]}, "stop: expected a text or a list"),
        ({"prompt": "a", "temprature": 1}, "temprature: this server knows no such setting"),
        ({"prompt": "a", "model": "other"}, "'other' is not served here, 'tiny' is"),
        ({"prompt": [10**6]}, "there is no token 1000000: the model has"),
        ({"prompt": "a", "max_tokens": 10**6}, "1000000"),
        ({"prompt": "a" * 10**5}, "the prompt is longer than what the model's context leaves"),
        ({"prompt": "a\ud800"}, "prompt: \\ud800 is half of a surrogate pair"),
        ({"prompt": "a", "stop": "\udc00"}, "stop: \\udc00 is half of a surrogate pair"),
        (b"{", "the request is no JSON"),
        (b"[" * 100_000, "the request is no JSON"),
        (b"[]", "no JSON object"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(served: Serving, body: Any, told: str) -> None:
    status, found = ask(served, "/v1/completions", body)
    assert 400 <= status < 500 and told in found["error"]["message"], found


@pytest.mark.parametrize(
    ("turns", "told"),
    [
        ([], "messages: expected a list"),
        ([{"content": "a"}], "messages[0]: expected an object with role and content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "only parts of type text"),
        ([{"role": "user", "content": None}], "messages[0].content: expected text"),
        ([{"role": "user", "content": "a\ud800"}], "messages[0].content: \\ud800 is half of a surrogate pair"),
        ([{"role": "user", "content": "a", "tool_calls": [1]}], "messages[0]: tool_calls cannot be read"),
    ],
)
def test_turns_that_cannot_be_read_are_refused(served: Serving, turns: Any, told: str) -> None:
    status, found = ask(served, "/v1/chat/completions", {"messages": turns})
    assert status == 400 and told in found["error"]["message"]


def test_who_may_ask(policy: Policy, served: Serving) -> None:
    assert ask(served, "/health", None) == (200, {"status": "ok"})
    assert ask(served, "/v1/models", None)[1]["data"][0]["id"] == "tiny"
    assert ask(served, "/health", None, Host="evil.example")[0] == 421
    assert ask(served, "/v1/completions", {"prompt": "a"}, Origin="http://evil.example")[0] == 403
    with pytest.raises(RunError, match="give them a key"):
        Serving(policy, "open", host="0.0.0.0")
    locked = Serving(policy, "locked", key="secret").start()
    try:
        assert ask(locked, "/v1/models", None)[0] == 401
        assert ask(locked, "/v1/models", None, Authorization="Bearer secret")[0] == 200
    finally:
        locked.close()


def test_a_model_without_a_template_says_where_to_ask(plain_model: Path) -> None:
    plain = loaded(HF(model=str(plain_model), max_new_tokens=3, device="cpu"), frozenset())
    serving = Serving(plain, "plain").start()
    try:
        status, found = ask(serving, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
        assert status == 400 and "/v1/completions" in found["error"]["message"]
    finally:
        serving.close()
