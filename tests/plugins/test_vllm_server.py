"""Engine `vllm-server` against a stand-in of vLLM's routes with a real model behind it, and against its faults."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("requests")

import alignzoo
from alignzoo import ModelError, Policy, Prompt
from alignzoo.decoding import Decoding
from alignzoo.policies import loaded
from alignzoo_hf.model.spec import HF
from alignzoo_vllm_server import engine as serving
from alignzoo_vllm_server.engine import VLLMServer
from toy_run import lines

LOADING = threading.Lock()
"""transformers changes its own classes for as long as it loads a model, and so one is loaded at a time."""

PROMPTS = [Prompt(text, chat="plain") for text in ("one", "two three", "four")]


class FakeVLLM:
    """vLLM's routes: a policy that generates, and takes weights from a folder. `fault` says what goes wrong."""

    def __init__(self, model: Path) -> None:
        self.fault, self.version = "", None
        self.adapters: list[str] = []
        self.routes: list[str] = []
        self._load(model)
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, found = fake.answer(self.path.partition("?")[0], json.loads(body or b"{}"))
                content = found.encode() if isinstance(found, str) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _answer

            def log_message(self, *told: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _load(self, model: Path) -> None:
        self.policy = loaded(HF(model=str(model), max_new_tokens=5, device="cpu"), frozenset())

    def answer(self, route: str, body: Any) -> tuple[int, Any]:
        with LOADING:
            self.routes.append(route)
            if self.fault == "slow":
                time.sleep(1.5)
            if self.fault == "once" and route == "/v1/completions":
                self.fault = ""
                return 503, "busy"
            if route == "/v1/models":
                return 200, {"data": [{"id": "fake"}]}
            if route == "/weight_info":
                return 200, {"weight_version": "another" if self.fault == "stale" else self.version}
            if route == "/update_weight_version":
                self.version = body["new_version"]
            if route == "/v1/load_lora_adapter":
                if self.fault == "no adapters":
                    return 404, "Not Found"
                self._load(Path(body["lora_path"]))
                self.adapters.append(body["lora_name"])
            if route == "/v1/unload_lora_adapter":
                if body["lora_name"] not in self.adapters:
                    return 404, "no such adapter"
                self.adapters.remove(body["lora_name"])
            if route == "/collective_rpc":
                if self.fault == "shapes":
                    return 500, "size mismatch for lm_head.weight"
                assert body["method"] == "reload_weights"
                self._load(Path(body["kwargs"]["weights_path"]))
            if route != "/v1/completions":
                return 200, {}
            return self._complete(body)

    def _complete(self, body: Any) -> tuple[int, Any]:
        assert body["model"] in (self.adapters or ["fake"]) and body["ignore_eos"] and body["logprobs"] == 0
        how = Decoding(
            body["max_tokens"], body["temperature"] or None, greedy=body["temperature"] == 0,
            stop=tuple(body["stop"]) or None, stop_tokens=tuple(body["stop_token_ids"]),
        )  # fmt: skip
        (answers,) = self.policy.go_on([body["prompt"]], body["n"], seeds=[body["seed"]], decoding=how)
        choices = [
            {"index": i, "token_ids": list(c.tokens), "logprobs": {"token_logprobs": list(c.logprobs or ())}}
            for i, c in enumerate(answers)
        ]
        if self.fault == "no ids":
            choices = [{name: value for name, value in each.items() if name != "token_ids"} for each in choices]
        if self.fault == "short":
            choices = [{**each, "logprobs": {"token_logprobs": []}} for each in choices]
        if self.fault == "few":
            choices = choices[1:]
        return 200, "{" if self.fault == "no JSON" else {"choices": choices}


@pytest.fixture
def fake(plain_model: Path) -> Iterator[FakeVLLM]:
    made = FakeVLLM(plain_model)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "PAUSE", 0.01)


@pytest.fixture
def policy_of(plain_model: Path) -> Iterator[Callable[..., Policy]]:
    """Policies, which are closed at the end."""
    made: list[Any] = []

    def load(engine: Any = "alignzoo", **settings: Any) -> Policy:
        spec = HF(model=str(plain_model), max_new_tokens=5, device="cpu", engine=engine, **settings)
        made.append(loaded(spec, frozenset({"logprobs"})))
        return made[-1]

    yield load
    for each in made:
        each.close()


def texts(policy: Policy, **how: Any) -> list[Any]:
    groups = policy.generate(PROMPTS, 2, seeds=[1, 2, 3], decoding=Decoding(**how))
    return [(c.tokens, c.finished) for group in groups for c in group.completions]


def moved(policy: Policy, by: float = -1) -> None:
    """Another step's weights."""
    with torch.no_grad():
        for group in policy.parameters():
            for weight in group["params"] if isinstance(group, dict) else group.params:
                weight.mul_(by) if by < 0 else weight.add_(by * torch.sin(torch.arange(weight.numel())).view_as(weight))


def test_the_server_generates_with_the_weights_of_the_step(policy_of: Any, fake: FakeVLLM) -> None:
    own, served = policy_of(), policy_of(VLLMServer(fake.url))
    for _ in range(2):
        assert texts(served, greedy=True) == texts(own, greedy=True)
        assert texts(served) == texts(own)  # the stand-in draws as our own engine does
        for policy in (own, served):
            moved(policy)
    assert fake.routes.count("/collective_rpc") == 2, "once for each step's weights"
    loads = [route for route in fake.routes if route not in ("/v1/completions", "/weight_info", "/v1/models")]
    assert loads[:5] == ["/pause", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/resume"]


def test_a_policy_and_its_copy_share_a_server(policy_of: Any, fake: FakeVLLM) -> None:
    """As with schedule.ahead, where an evaluation asks the policy between two steps that its copy generates."""
    own, served = policy_of(), policy_of(VLLMServer(fake.url))
    copied = served.behaviour()
    before = texts(copied, greedy=True)
    moved(served), moved(own)
    assert texts(served, greedy=True) == texts(own, greedy=True) != before
    assert texts(copied, greedy=True) == before, "the copy has its weights still"
    copied.close()


def test_an_adapter_goes_alone(policy_of: Any, fake: FakeVLLM, tmp_path: Path) -> None:
    own = policy_of(lora_rank=4)
    served = policy_of(VLLMServer(fake.url, transfer="adapter", folder=str(tmp_path)), lora_rank=4)
    for policy in (own, served):
        moved(policy, by=3.0)
    seen = []
    for _ in range(2):
        seen.append(texts(served, greedy=True))
        assert seen[-1] == texts(own, greedy=True)
        assert len(fake.adapters) == 1, "the former one made room"
        (saved,) = tmp_path.iterdir()
        assert not (saved / "config.json").exists() and (saved / "adapter_model.safetensors").stat().st_size < 2e5
        for policy in (own, served):
            moved(policy)
    assert "/pause" not in fake.routes and "/collective_rpc" not in fake.routes
    fake.adapters.clear()  # it was started again
    moved(served, by=2.0), moved(own, by=2.0)
    assert texts(served, greedy=True) == texts(own, greedy=True) and len(fake.adapters) == 1


def test_an_adapter_that_is_not_there_or_not_taken_is_told(policy_of: Any, fake: FakeVLLM, quick: None) -> None:
    with pytest.raises(ModelError, match=r"transfer='adapter' hands over an adapter alone.*policy.lora_rank"):
        texts(policy_of(VLLMServer(fake.url, transfer="adapter")))
    fake.fault = "no adapters"
    with pytest.raises(ModelError, match=r"load_lora_adapter: it says 404.*--enable-lora"):
        texts(policy_of(VLLMServer(fake.url, transfer="adapter"), lora_rank=4))


def test_log_probabilities_are_recorded_where_they_are_the_distribution_s(policy_of: Any, fake: FakeVLLM) -> None:
    served = policy_of(VLLMServer(fake.url))
    raw = policy_of(VLLMServer(fake.url, logprobs="raw"))

    def known(policy: Policy, **how: Any) -> bool:
        (group, *_) = policy.generate(PROMPTS[:1], 1, seeds=[0], decoding=Decoding(**how))
        return not any(map(math.isnan, group.completions[0].logprobs or ()))

    assert known(served, temperature=0.7) and known(raw) and not known(raw, temperature=0.7)
    assert not known(served, top_k=3)


def test_several_servers_share_the_prompts(plain_model: Path, policy_of: Any, fake: FakeVLLM, tmp_path: Path) -> None:
    other = FakeVLLM(plain_model)
    try:
        folder = tmp_path / "weights"
        served = policy_of(VLLMServer((fake.url, other.url), folder=str(folder)))
        assert texts(served) == texts(policy_of())
        assert fake.routes.count("/v1/completions") == 2 and other.routes.count("/v1/completions") == 1
        moved(served)
        texts(served)
        assert len(list(folder.iterdir())) == 1, "former weights are not kept"
    finally:
        other.server.shutdown()
        other.server.server_close()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("slow", "did not answer within 0.5 s"),
        ("stale", "generates with the weights 'another', not with this run's"),
        ("shapes", "size mismatch for lm_head.weight"),
        ("no ids", "token_ids were asked for"),
        ("short", "a log-probability of each token was asked for"),
        ("few", "2 choices were asked for"),
        ("no JSON", "JSON was expected"),
    ],
)
def test_a_fault_of_the_server_ends_in_an_error(
    policy_of: Any, fake: FakeVLLM, quick: None, fault: str, told: str
) -> None:
    fake.fault = fault
    served = policy_of(VLLMServer(fake.url, timeout=0.5 if fault == "slow" else 30, retries=1))
    with pytest.raises(ModelError, match=told):
        texts(served)


def test_a_server_that_is_away_is_named_and_one_that_is_busy_is_asked_again(
    policy_of: Any, fake: FakeVLLM, quick: None
) -> None:
    fake.fault = "once"
    assert texts(policy_of(VLLMServer(fake.url))) == texts(policy_of())
    away = policy_of(VLLMServer("http://127.0.0.1:9", retries=1))
    with pytest.raises(ModelError, match=r"http://127.0.0.1:9 did not do /pause: it cannot be reached .*--resume"):
        texts(away)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "ahead"), [("shapes", 0), ("few", 1), ("stale", 1)])
def test_a_server_that_fails_in_a_run_loses_nothing(
    plain_model: Path, fake: FakeVLLM, quick: None, fault: str, ahead: int, tmp_path: Path
) -> None:
    """The run ends with what is wrong, and the one that goes on has the texts and figures of one that was whole."""
    asked: list[int] = []

    def reward(completions: list[Any], **columns: Any) -> list[float]:
        asked.append(len(completions))
        if len(asked) == 3 and breaks:
            fake.fault = fault
        return [float(sum(map(ord, str(each))) % 97) for each in completions]

    def run(out: str, *, resume: bool = False) -> list[dict[str, Any]]:
        alignzoo.run(
            "grpo",
            policy={
                "name": "hf",
                "model": str(plain_model),
                "max_new_tokens": 5,
                "device": "cpu",
                "engine": {"name": "vllm-server", "url": fake.url, "retries": 1},
            },
            data=[{"prompt": f"{number}"} for number in range(8)],
            reward=reward,
            out=tmp_path / out,
            resume=resume,
            sampler={"n": 3},
            evaluate={"prompts": 2, "greedy": False, "reward": False},
            schedule={"steps": 4, "prompts": 3, "lr": 1e-2, "save_every": 1, "eval_every": 2, "ahead": ahead},
            warn=lambda *told: None,
        )
        return lines(tmp_path / out / "metrics.jsonl")

    breaks = False
    whole = run("whole")
    breaks = True
    asked.clear()
    with pytest.raises(ModelError, match="the server "):
        run("broken")
    fake.fault, breaks = "", False
    found = run("broken", resume=True)
    assert len(found) == 4
    for one, other in zip(whole, found, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)


def test_an_address_is_checked() -> None:
    with pytest.raises(ValueError, match="expected an address"):
        VLLMServer("localhost:8000")
