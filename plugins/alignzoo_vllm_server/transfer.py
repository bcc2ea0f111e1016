"""How vLLM's servers get the weights of each step: from a folder, or broadcast by vLLM's own weight transfer.

Written against vLLM 0.33's `vllm.distributed.weight_transfer` (the trainer's side of backend "nccl") and its server's
routes. It was tried against a stand-in of both, which broadcasts over gloo: neither vLLM nor a GPU was at hand.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import torch
from torch import Tensor

from alignzoo import processes
from alignzoo.calling import kept
from alignzoo.engines import EngineModel
from alignzoo.errors import ModelError, PluginError

NEEDS = (
    "needs vLLM here as well, whose weight transfer it is: pip install 'alignzoo[vllm]' (it needs an NVIDIA GPU), or "
    "let the server read the weights from a `folder`"
)
THREAD = "alignzoo: weights for vLLM"
STARTED = 'start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config \'{"backend": "nccl"}\''


class Asks(Protocol):
    """A server's routes, as the engine asks them."""

    url: str

    def do(self, method: str, route: str, body: Any, cure: str, *, retries: int | None = None) -> str: ...

    def workers(self) -> int: ...


class Client:
    """What vLLM's trainer asks of a server, its `VLLMWeightSyncClient`. Each is asked once: a broadcast runs beside it
    that nobody repeats. The first one that fails is kept."""

    def __init__(self, server: Asks) -> None:
        self._server = server
        self.answered = threading.Event()
        self.error: ModelError | None = None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._ask("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._ask("/start_weight_update", {})

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._ask("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._ask("/finish_weight_update", {} if weight_version is None else {"weight_version": weight_version})

    def _ask(self, route: str, body: Any) -> None:
        try:
            self._server.do("POST", route, body, STARTED, retries=0)
        except ModelError as error:
            self.error = error
            self.answered.set()
            raise


@dataclass
class Weights:
    """The weights of the policy that generates next, as vLLM's `WeightSource` has them: matrices in the precision in
    which the policy computes, and what has one dimension as it is kept, as a server's own model has both."""

    model: EngineModel

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self.model.weights():
            yield name, weight.to(self.model.dtype) if weight.ndim > 1 and weight.is_floating_point() else weight

    def described(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, type and shape of each. Sharded weights are gathered for it, on all processes alike."""
        return [(name, weight.dtype, tuple(weight.shape)) for name, weight in self]


class Broadcast:
    """The link of this process to one server, over which it broadcasts weights. Where several processes train, each has
    one, and the first one sends. It is made when weights are first sent, and outlives the policy that made it."""

    def __init__(self, server: Asks, address: str, seconds: float) -> None:
        self.server, self.address, self.seconds = server, address, seconds
        self._client = Client(server)
        self._source: Any = None
        self._trainer: Any = None

    def send(self, model: EngineModel) -> None:
        """Give the server the present weights. Raises ModelError where it does not take them in time."""
        if self._trainer is None:
            self._trainer = self._linked(model)
        self._source.weights = Weights(model)
        self._in_time(self._trainer.send_weights, "take the weights", model.device)

    def _linked(self, model: EngineModel) -> Any:
        try:
            from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
            from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        except ImportError as error:
            raise PluginError(
                f"policy.engine is 'vllm-server' with transfer='nccl', which {NEEDS} ({error})"
            ) from error
        weights = Weights(model)
        described = [ParamMeta(name, dtype, shape) for name, dtype, shape in weights.described()]

        class Source(WeightSource):  # type: ignore[misc]
            """What vLLM's trainer sends, and what it tells the server of it beforehand."""

            def metadata(self) -> list[Any]:
                return described

            def __iter__(self) -> Iterator[tuple[str, Tensor]]:
                return iter(self.weights)

        self._source = Source()
        self._source.weights = weights
        place = (self.address or _own_address(self.server.url), _free_port()) if not processes.index() else None
        host, port = processes.of_first(place) or ("", 0)
        size = processes.of_first(None if processes.index() else 1 + self.server.workers())
        info = NCCLTrainerInitInfo(host, port, size, rank=processes.index())
        return self._in_time(
            lambda: WeightTransferTrainerFactory.trainer_init(info, client=self._client, source=self._source),
            f"join {host}:{port}",
            model.device,
        )

    def _in_time(self, call: Callable[[], Any], what: str, device: torch.device) -> Any:
        """What the call returns. It waits in C for the server, and nothing can end it from outside: where the server
        refuses, or does not answer in time, it is left waiting, and the next call makes a new link."""
        found: list[Any] = []
        ended, client = threading.Event(), self._client

        def called() -> None:
            with kept() as raised, torch.no_grad():
                if device.type == "cuda":
                    torch.cuda.set_device(device)  # each thread has its own
                found.append(call())
            found.append(raised.error)
            ended.set()
            client.answered.set()

        client.error = None
        client.answered.clear()
        threading.Thread(target=called, name=THREAD, daemon=True).start()
        client.answered.wait(self.seconds)
        error = client.error or (found[-1] if ended.is_set() else None)
        if ended.is_set() and error is None:
            return found[0]
        self._trainer, self._client = None, Client(self.server)
        if isinstance(error, ModelError):
            raise error
        told = f": {type(error).__name__}: {error}" if error else f" within {self.seconds:g} s (timeout)"
        raise ModelError(
            f"the server {self.server.url} did not {what}{told}. Nothing of the run is lost: look at its log, "
            f"{STARTED}, and go on by --resume"
        ) from error


def _own_address(url: str) -> str:
    """The address of this machine towards the server."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((parts.hostname or "127.0.0.1", parts.port or 80))
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
