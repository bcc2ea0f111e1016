"""Engine `vllm-server`: vLLM's server, on other GPUs or machines, generates with the policy's weights.

Written against the routes of vLLM's main branch of 2026 (0.33): /v1/completions with token ids; with
VLLM_SERVER_DEV_MODE=1 /collective_rpc, /pause, /resume, /reset_prefix_cache, /update_weight_version, /weight_info and
those of `transfer`; and for adapters /v1/load_lora_adapter and /v1/unload_lora_adapter. It was tried against a stand-in
of these routes with a real model behind it, not against vLLM itself: none was at hand.
"""

from __future__ import annotations

import json
import math
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from alignzoo import processes
from alignzoo.decoding import CompleteDecoding
from alignzoo.engines import EngineModel, Generated, Tokens, adapted, until_stop
from alignzoo.errors import ModelError, PluginError
from alignzoo_vllm_server.transfer import Broadcast

STARTED = "start it with VLLM_SERVER_DEV_MODE=1"
TAKES_ADAPTERS = (
    "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora, its --max-lora-rank at least "
    "policy.lora_rank, and let `folder` be one that it can read"
)
PAUSE = 1.0
"""Seconds before a server that did not answer is asked again; twice as long each time."""

_links: dict[str, Broadcast] = {}
"""By a server's address, over what this process broadcasts weights to it."""
_adapters: dict[str, str] = {}
"""By a server's address, the name of the adapter that this process has last given it."""
_has: dict[str, tuple[object, str]] = {}
"""Whose weights this process has last given to the server at an address, and their version: a policy and its copy that
generates ahead share one."""


@dataclass(frozen=True)
class VLLMServer:
    """vLLM's server, which generates with the policy's weights of the step.

    Start it with `VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs`, where MODEL is the
    policy's. Before each step whose weights are others it is paused, takes them, and forgets what it has computed of
    prompts. A server that does not answer, or has other weights, ends the run with what is wrong, and --resume goes on.
    """

    url: str | tuple[str, ...]
    """Its address, as in "http://127.0.0.1:8000"; several share the prompts."""
    transfer: Literal["folder", "nccl", "adapter"] = "folder"
    """How it gets the weights. `folder`: by files that both sides can read. `nccl`: broadcast from this GPU to the
    server's, by vLLM's weight transfer; that needs vLLM here, too, and the server started with
    `--weight-transfer-config '{"backend": "nccl"}'`. `adapter`: the policy's adapter alone, as files in `folder`; that
    needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and `--enable-lora --max-lora-rank RANK`."""
    address: str = ""
    """By which the servers reach this machine for `transfer="nccl"`; empty: its address on the way to them."""
    folder: str = ""
    """Where weights are put for it, on a file system that the servers read, too; empty: a temporary folder here."""
    model: str = ""
    """What the server calls the model; empty: the first one of /v1/models."""
    timeout: Annotated[float, Gt(0)] = 600.0
    """Seconds to wait for an answer, or for the weights to be loaded."""
    retries: Annotated[int, Ge(0)] = 3
    """How often what failed on the way, or by the server's 5xx, is asked again; the same is generated."""
    logprobs: Literal["processed", "raw"] = "processed"
    """What the server tells, its --logprobs-mode: `processed`, of the distribution that tokens are drawn from; `raw`,
    at temperature 1, which at another temperature is not recorded."""
    key_variable: str = ""
    """The environment variable that holds its API key; empty where it asks for none."""
    exact: ClassVar[bool] = False
    separate: ClassVar[bool] = True
    laws: ClassVar[Mapping[str, str]] = {
        "neighbours": "its kernels round by what else is in the batch, so that near ties may fall either way"
    }

    def __post_init__(self) -> None:
        urls = (self.url,) if isinstance(self.url, str) else self.url
        if not urls or not all(each.startswith(("http://", "https://")) for each in urls):
            raise ValueError(
                f'url is {self.url!r}: expected an address, as in "http://127.0.0.1:8000", or a list of such'
            )

    def open(self, model: EngineModel) -> OpenServers:
        """The servers, which are first asked when something is to be generated."""
        return OpenServers(self, model)


class OpenServers:
    """The servers of a policy, and which weights they have."""

    def __init__(self, settings: VLLMServer, model: EngineModel) -> None:
        self.settings, self.model = settings, model
        urls = (settings.url,) if isinstance(settings.url, str) else settings.url
        self.servers = [_Server(url.rstrip("/").removesuffix("/v1"), settings) for url in urls]
        self._mark = object()
        self._label = secrets.token_hex(4)  # a server keeps an adapter by its name, that of an earlier run as well
        self._own: tempfile.TemporaryDirectory[str] | None = None

    def generate(
        self, prefixes: Sequence[Tokens], n: int, decoding: CompleteDecoding, *, seeds: Sequence[int], at_once: int
    ) -> list[Generated]:
        """As `OpenEngine.generate`; every prefix is a request of its own, since it has a seed of its own."""
        version = self.model.version()
        if any(_has.get(server.url) != (self._mark, version) for server in self.servers):
            self._hand_over(version)
        if self.settings.transfer != "adapter":  # whose name has the version
            for server in self.servers:
                self._check(server, _short(version))
        bodies = [self._body(prefix, n, decoding, seed) for prefix, seed in zip(prefixes, seeds, strict=True)]
        known = not decoding.filters and (self.settings.logprobs == "processed" or decoding.temperature == 1)
        ends = self.model.stop_ids | set(decoding.stop_tokens)
        with ThreadPoolExecutor(max(1, min(len(bodies), math.ceil(at_once / n)))) as pool:
            asked = [
                pool.submit(self.servers[place % len(self.servers)].complete, body) for place, body in enumerate(bodies)
            ]
            try:
                answers = [each.result() for each in asked]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        found = [_generated(choice, ends, known=known) for answer in answers for choice in answer]
        return [until_stop(each, decoding.stop, self.model.text) for each in found]

    def _check(self, server: _Server, version: str) -> None:
        """One that was started again has neither the weights nor the link."""
        try:
            server.check_version(version)
        except ModelError:
            _links.pop(server.url, None)
            raise

    def _body(self, prefix: Tokens, n: int, decoding: CompleteDecoding, seed: int) -> dict[str, Any]:
        return {
            "prompt": list(prefix),
            "n": n,
            "temperature": 0.0 if decoding.greedy else decoding.temperature,
            "top_k": decoding.top_k,
            "top_p": decoding.top_p,
            "min_p": decoding.min_p,
            "seed": seed % (1 << 31),
            "max_tokens": decoding.max_new_tokens,
            "stop": list(decoding.stop),
            "stop_token_ids": sorted(self.model.stop_ids | set(decoding.stop_tokens)),
            "ignore_eos": True,  # the policy's stop tokens are all given, and no others end a completion
            "logprobs": 0,  # of the chosen token alone
            "return_token_ids": True,
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
        }

    def _hand_over(self, version: str) -> None:
        """Give every server the present weights. All processes take part, as the contract of saving and gathering has
        it; the first one asks the servers, and the others go on when these have the weights."""
        if self.settings.transfer == "nccl":
            self._broadcast(_short(version))
        else:
            self._by_files(_short(version))
        _has.update({server.url: (self._mark, version) for server in self.servers})

    def _broadcast(self, version: str) -> None:
        self._of_all(_Server.pause)
        failure = ""
        for server in self.servers:  # each is a group of its own, in which this process is the first
            link = _links.setdefault(server.url, Broadcast(server, self.settings.address, self.settings.timeout))
            try:
                link.send(self.model)
            except ModelError as error:
                failure = failure or str(error)
        if failure := processes.of_first(failure):
            raise ModelError(failure)
        self._of_all(lambda server: server.go_on(version))

    def _by_files(self, version: str) -> None:
        if processes.index() or not self.settings.folder:
            self._own = self._own or tempfile.TemporaryDirectory(prefix="alignzoo-weights-")
            place = Path(self._own.name)
        else:
            place = Path(self.settings.folder).absolute()
        target = place / version
        if self.settings.transfer == "adapter":
            adapted(self.model, "policy.engine with transfer='adapter'").save_adapter(target)
            name = processes.of_first(f"{version}-{self._label}")
            self._of_all(lambda server: server.load_adapter(target, name, former=_adapters.get(server.url)))
            _adapters.update({server.url: name for server in self.servers})
        else:
            self.model.save(target)
            self._of_all(lambda server: server.load(target, version))
        for former in place.iterdir() if place.exists() else ():
            ours = any((former / name).exists() for name in ("config.json", "adapter_config.json"))
            if former != target and len(former.name) == len(target.name) and ours:
                shutil.rmtree(former)

    def _of_all(self, ask: Callable[[_Server], None]) -> None:
        """The first process asks every server. Of what fails all processes hear."""
        failure = ""
        if not processes.index():
            try:
                with ThreadPoolExecutor(len(self.servers)) as pool:
                    list(pool.map(ask, self.servers))
            except ModelError as error:
                failure = str(error)
        if failure := processes.of_first(failure):
            raise ModelError(failure)

    def close(self) -> None:
        """The servers go on; what was saved for them here goes."""
        if self._own is not None:
            self._own.cleanup()
        self._own = None


class _Server:
    """One server: its routes, with time limits, repetitions, and errors that say what to do."""

    def __init__(self, url: str, settings: VLLMServer) -> None:
        try:
            import requests
        except ModuleNotFoundError as error:
            if error.name != "requests":
                raise
            raise PluginError(
                "policy.engine is 'vllm-server', which needs requests: pip install 'alignzoo[vllm-server]'"
            ) from error
        import os

        self.url, self.settings = url, settings
        self.requests = requests
        key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._name = settings.model

    def complete(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices for one prompt, checked."""
        self._name = self._name or self._first_model()
        named = _adapters[self.url] if self.settings.transfer == "adapter" else self._name
        answer = self._json("POST", "/v1/completions", {"model": named} | body)
        choices = answer.get("choices")
        if not isinstance(choices, list) or len(choices) != body["n"]:
            raise self._odd("/v1/completions", f"{body['n']} choices were asked for", answer)
        for choice in choices:
            tokens, told = choice.get("token_ids"), choice.get("logprobs") or {}
            numbers = told.get("token_logprobs") if isinstance(told, dict) else None
            if not _are(tokens, int) or len(tokens or ()) > body["max_tokens"]:
                raise self._odd("/v1/completions", "token_ids were asked for (vLLM from 0.10.2 on has them)", choice)
            if not _are(numbers, int | float) or len(numbers or ()) != len(tokens or ()):
                raise self._odd("/v1/completions", "a log-probability of each token was asked for", choice)
        return sorted(choices, key=lambda choice: choice.get("index", 0))

    def pause(self) -> None:
        """Let it answer what it was asked, and nothing else for now."""
        self.do("POST", "/pause?mode=wait", None, STARTED)

    def go_on(self, version: str) -> None:
        """Forget what was computed with other weights, and answer again."""
        self.do("POST", "/reset_prefix_cache", None, STARTED)
        self.do("POST", "/update_weight_version", {"new_version": version}, STARTED, optional=True)
        self.do("POST", "/resume", None, STARTED)

    def load(self, folder: Path, version: str) -> None:
        """Take the weights of a folder, and forget what was computed with others."""
        self.pause()
        self.do(
            "POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}},
            f"{STARTED}, and let `folder` be one that it can read",
        )  # fmt: skip
        self.go_on(version)

    def load_adapter(self, folder: Path, name: str, *, former: str | None) -> None:
        """Generate with the adapter of a folder from now on, by this name, in the place of the one before."""
        body = {"lora_name": name, "lora_path": str(folder)}
        self.do("POST", "/v1/load_lora_adapter", body, TAKES_ADAPTERS)
        if former is not None:
            gone = {"lora_name": former}
            self.do("POST", "/v1/unload_lora_adapter", gone, TAKES_ADAPTERS, optional=True)  # it may be gone already

    def workers(self) -> int:
        """How many GPUs its model is on."""
        found = self._json("GET", "/get_world_size", None).get("world_size")
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise self._odd("/get_world_size", "a number of workers was asked for", found)
        return found

    def check_version(self, version: str) -> None:
        """Raise ModelError where somebody else has given the server other weights. An older vLLM cannot tell."""
        text = self.do("GET", "/weight_info", None, "look at its log", optional=True)
        found = json.loads(text).get("weight_version") if text.lstrip().startswith("{") else None
        if found is not None and found != version:
            raise ModelError(
                f"the server {self.url} generates with the weights {found!r}, not with this run's, {version!r}: "
                "another run uses it, or it was started again. Give each run a server of its own, and go on by --resume"
            )

    def _first_model(self) -> str:
        data = self._json("GET", "/v1/models", None).get("data")
        if not isinstance(data, list) or not data or not isinstance(data[0].get("id"), str):
            raise self._odd("/v1/models", "the server's models were asked for", data)
        return str(data[0]["id"])

    def _json(self, method: str, route: str, body: Any) -> dict[str, Any]:
        text = self.do(method, route, body, "look at its log")
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._odd(route, "JSON was expected", text) from error
        if not isinstance(found, dict):
            raise self._odd(route, "an object was expected", found)
        return found

    def do(
        self, method: str, route: str, body: Any, cure: str, *, optional: bool = False, retries: int | None = None
    ) -> str:
        """The answer's text. What fails on the way, or by a 5xx, is asked again, with growing waits; empty where the
        server does not have an optional route."""
        told = ""
        for attempt in range((self.settings.retries if retries is None else retries) + 1):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                answer = self.requests.request(
                    method, self.url + route, json=body, headers=self._headers, timeout=self.settings.timeout
                )
            except self.requests.exceptions.Timeout:
                told = f"it did not answer within {self.settings.timeout:g} s (timeout)"
            except self.requests.exceptions.RequestException as error:
                told = f"it cannot be reached ({type(error).__name__})"
            else:
                if answer.ok:
                    return str(answer.text)
                if optional and answer.status_code in (404, 405):
                    return ""
                told = f"it says {answer.status_code}: {answer.text[:300]}"
                if answer.status_code < 500:
                    break
        raise ModelError(
            f"the server {self.url} did not do {route.partition('?')[0]}: {told}. Nothing of the run is lost: {cure}, "
            "and go on by --resume"
        )

    def _odd(self, route: str, expected: str, found: Any) -> ModelError:
        return ModelError(
            f"the server {self.url} answered {route} otherwise than expected: {expected}, found {str(found)[:200]!r}"
        )


def _short(version: str) -> str:
    return version[:16]


def _are(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _generated(choice: Mapping[str, Any], ends: frozenset[int], *, known: bool) -> Generated:
    tokens = tuple(choice["token_ids"])
    logprobs = tuple(map(float, choice["logprobs"]["token_logprobs"])) if known else ()
    return Generated(tokens, logprobs, bool(tokens) and tokens[-1] in ends)
