"""Engine `vllm-server` with vLLM's weight transfer, against a stand-in of its trainer that broadcasts over gloo."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import ProcessGroupGloo, TCPStore

pytest.importorskip("requests")

from test_vllm_server import PROMPTS, FakeVLLM, moved

from alignzoo import ModelError, Policy
from alignzoo.decoding import Decoding
from alignzoo.errors import PluginError
from alignzoo.policies import loaded
from alignzoo_hf.model.spec import HF
from alignzoo_vllm_server import engine as serving
from alignzoo_vllm_server import transfer
from alignzoo_vllm_server.engine import VLLMServer

PATIENCE = timedelta(seconds=5)


def joined(info: dict[str, Any], rank: int) -> ProcessGroupGloo:
    place = (info["master_address"], info["master_port"], info["world_size"])
    store = TCPStore(*place, is_master=not rank, wait_for_workers=False, timeout=PATIENCE)
    return ProcessGroupGloo(store, rank, info["world_size"], PATIENCE)


class Receiving(FakeVLLM):
    """A server of one GPU that takes weights by its part of the transfer: the routes, and a group's second rank."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.received: dict[str, torch.Tensor] = {}
        super().__init__(model)

    def answer(self, route: str, body: Any) -> tuple[int, Any]:
        if route == "/get_world_size":
            return 200, {"world_size": 1}
        if route == "/init_weight_transfer_engine":
            if self.fault == "not started for it":
                return 404, "Not Found"
            self.group = joined(body["init_info"], body["init_info"]["rank_offset"])
        if route == "/update_weights":
            if self.fault == "shapes":
                return 500, "size mismatch for lm_head.weight"
            if self.fault == "stuck":
                time.sleep(3)
            self._receive(**body["update_info"])
        if route == "/finish_weight_update":
            self._take()
        return super().answer(route, body)

    def _receive(self, names: list[str], dtype_names: list[str], shapes: list[list[int]]) -> None:
        for name, dtype, shape in zip(names, dtype_names, shapes, strict=True):
            self.received[name] = torch.empty(shape, dtype=getattr(torch, dtype))
            self.group.broadcast([self.received[name]]).wait()

    def _take(self) -> None:
        made = self.folder / "received"
        shutil.copytree(self.model, made, dirs_exist_ok=True)
        save_file(self.received, made / "model.safetensors", metadata={"format": "pt"})
        self._load(made)


@dataclass
class TrainerInfo:
    """vLLM's NCCLTrainerInitInfo."""

    master_address: str
    master_port: int
    world_size: int
    packed: bool = True
    rank: int = field(kw_only=True)


@dataclass(frozen=True)
class ParamMeta:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Trainer:
    """vLLM's trainer engine: what waits for the server's broadcasts runs beside the request for them."""

    def __init__(self, info: TrainerInfo, client: Any, source: Any) -> None:
        self.client, self.source = client, source
        told = {"master_address": info.master_address, "master_port": info.master_port, "world_size": info.world_size}
        with beside(client.init_weight_transfer_engine, {**told, "rank_offset": 1}):
            self.group = joined(told, info.rank)

    def send_weights(self) -> None:
        self.client.start_weight_update()
        told = self.source.metadata()
        info = {
            "names": [each.name for each in told],
            "dtype_names": [str(each.dtype).removeprefix("torch.") for each in told],
            "shapes": [list(each.shape) for each in told],
        }
        with beside(self.client.update_weights, info):
            for each, (name, weight) in zip(told, self.source, strict=True):
                assert (each.name, each.dtype, each.shape) == (name, weight.dtype, tuple(weight.shape))
                self.group.broadcast([weight.detach().contiguous()]).wait()
        self.client.finish_weight_update()


class beside:
    """A request that is answered while the block runs."""

    def __init__(self, ask: Any, body: Any) -> None:
        def asked() -> None:
            try:
                ask(body)
            except ModelError as error:
                self.error = error

        self.error: ModelError | None = None
        self.thread = threading.Thread(target=asked, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *told: Any) -> None:
        self.thread.join()
        if self.error:
            raise self.error


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of the modules of vLLM that a trainer imports."""

    class Factory:
        @staticmethod
        def trainer_init(init_info: TrainerInfo, *, client: Any, source: Any) -> Trainer:
            return Trainer(init_info, client, source)

    has = {
        "": {"WeightTransferTrainerFactory": Factory},
        ".base": {"ParamMeta": ParamMeta, "WeightSource": type("WeightSource", (), {})},
        ".nccl_engine": {"NCCLTrainerInitInfo": TrainerInfo},
    }
    for name in ("vllm", "vllm.distributed", *(f"vllm.distributed.weight_transfer{each}" for each in has)):
        module = ModuleType(name)
        module.__dict__.update(has.get(name.removeprefix("vllm.distributed.weight_transfer"), {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(serving, "_links", {})


@pytest.fixture
def server(plain_model: Path, tmp_path: Path) -> Iterator[Receiving]:
    made = Receiving(plain_model, tmp_path)
    yield made
    for thread in threading.enumerate():
        if thread.name == transfer.THREAD:  # what nobody receives gives up before the process ends
            thread.join(2 * PATIENCE.total_seconds())
    made.server.shutdown()
    made.server.server_close()


def policy_of(plain_model: Path, engine: Any = "alignzoo", **settings: Any) -> Policy:
    spec = HF(model=str(plain_model), max_new_tokens=5, device="cpu", engine=engine, **settings)
    return loaded(spec, frozenset({"logprobs"}))


def texts(policy: Policy) -> list[Any]:
    groups = policy.generate(PROMPTS, 2, seeds=[1, 2, 3], decoding=Decoding(greedy=True))
    return [(c.tokens, c.finished) for group in groups for c in group.completions]


def test_the_server_gets_the_weights_of_each_step(vllm: None, plain_model: Path, server: Receiving) -> None:
    own = policy_of(plain_model)
    served = policy_of(plain_model, VLLMServer(server.url, transfer="nccl", address="127.0.0.1"))
    for _ in range(2):
        assert texts(served) == texts(own)
        moved(served), moved(own)
    assert server.routes.count("/init_weight_transfer_engine") == 1 and "/collective_rpc" not in server.routes
    one = [each for each in server.routes if each not in ("/v1/completions", "/weight_info", "/v1/models")][2:]
    update = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
    after = ["/reset_prefix_cache", "/update_weight_version", "/resume"]
    assert one == [*update, *after, "/pause", *update, *after]


def test_a_policy_and_its_copy_share_the_link(vllm: None, plain_model: Path, server: Receiving) -> None:
    """As with schedule.ahead: the server has one group, and gets the weights of whichever generates next."""
    own = policy_of(plain_model)
    served = policy_of(plain_model, VLLMServer(server.url, transfer="nccl", address="127.0.0.1"))
    copied = served.behaviour()  # type: ignore[attr-defined]
    before = texts(copied)
    moved(served), moved(own)
    assert texts(served) == texts(own) != before
    assert texts(copied) == before
    assert server.routes.count("/init_weight_transfer_engine") == 1


def test_a_server_that_was_started_again_is_linked_anew(vllm: None, plain_model: Path, server: Receiving) -> None:
    engine = VLLMServer(server.url, transfer="nccl", address="127.0.0.1")
    texts(policy_of(plain_model, engine))
    broken = policy_of(plain_model, engine)
    server.fault = "stale"
    with pytest.raises(ModelError, match="it was started again"):
        texts(broken)
    server.fault = ""
    assert texts(policy_of(plain_model, engine)) == texts(policy_of(plain_model))
    assert server.routes.count("/init_weight_transfer_engine") == 2


def test_matrices_go_in_the_precision_in_which_the_policy_computes() -> None:
    class Model:
        dtype = torch.bfloat16

        def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
            yield from {"matrix": torch.ones(2, 3), "norm": torch.ones(3), "table": torch.ones(2, 2).long()}.items()

    weights: Any = transfer.Weights(Model())  # type: ignore[arg-type]
    sent = {name: weight.dtype for name, weight in weights}
    assert sent == {"matrix": torch.bfloat16, "norm": torch.float32, "table": torch.int64}
    assert weights.described() == [
        ("matrix", torch.bfloat16, (2, 3)),
        ("norm", torch.float32, (3,)),
        ("table", torch.int64, (2, 2)),
    ]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("not started for it", r"did not do /init_weight_transfer_engine: it says 404.*--weight-transfer-config"),
        ("shapes", "size mismatch for lm_head.weight"),
        ("stuck", r"did not .* within 1 s \(timeout\)"),
    ],
)
def test_what_goes_wrong_is_told_and_nothing_waits_for_it(
    vllm: None, plain_model: Path, server: Receiving, fault: str, told: str
) -> None:
    server.fault = fault
    engine = VLLMServer(server.url, transfer="nccl", address="127.0.0.1", timeout=1 if fault == "stuck" else 30)
    served, started = policy_of(plain_model, engine), time.monotonic()
    with pytest.raises(ModelError, match=told):
        texts(served)
    assert time.monotonic() - started < 4, "a broadcast that nobody receives is not waited for"


def test_without_vllm_it_says_what_is_needed(plain_model: Path, server: Receiving) -> None:
    served = policy_of(plain_model, VLLMServer(server.url, transfer="nccl"))
    with pytest.raises(PluginError, match=r"needs vLLM here as well.*pip install.*folder"):
        texts(served)


def test_the_own_address_is_the_one_towards_the_server() -> None:
    assert transfer._own_address("http://127.0.0.1:8000") == "127.0.0.1"
