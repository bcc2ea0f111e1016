"""Shared metrics: the mismatch of an engine, and what is measured of a GPU, with a stand-in for it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from alignzoo import Completion, Group, Prompt, Score
from alignzoo.batching import collate
from alignzoo.metrics import Clock, memory, shared


def test_the_mismatch_of_an_engine_is_told_where_both_have_spoken() -> None:
    group = Group(Prompt("?"), (7,), (Completion((1, 2), "", True, (-1.0, -2.0)),), (Score(0.0),))
    batch = collate([group])
    assert not [name for name in shared([group], batch, batch, 1, 1) if "mismatch" in name]
    batch = replace(batch, old_logprobs=torch.tensor([[0.0, -1.0, -2.5]]))
    figures = shared([group], batch, batch, 1, 1)
    # Sampled less old is 0 and 0.5; k3(0.5) = e^-0.5 - 1 + 0.5 = 0.1065, and its mean over two tokens half of that.
    assert figures["mismatch/kl"] == pytest.approx((math.exp(-0.5) - 0.5) / 2, rel=1e-6)
    assert figures["mismatch/max"] == pytest.approx(0.5)
    unrecorded = collate([replace(group, completions=(replace(group.completions[0], logprobs=None),))])
    unrecorded = replace(unrecorded, old_logprobs=batch.old_logprobs)
    assert not [name for name in shared([group], unrecorded, unrecorded, 1, 1) if "mismatch" in name]


def test_a_phase_ends_when_the_gpus_kernels_have(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = [0.0], []

    def synchronize() -> None:
        waited.append(now[0])
        now[0] += 5.0

    monkeypatch.setattr("alignzoo.metrics.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=synchronize))
    for started, expected in ((False, 1.0), (True, 6.0)):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda started=started: started)
        clock = Clock()
        with clock("fill"):
            now[0] += 1.0
        assert clock.seconds() == {"seconds/fill": expected}
    assert len(waited) == 1


def test_memory_on_a_gpu_is_the_steps_and_not_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = [300]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(0, 100))
    policy: Any = SimpleNamespace(device=torch.device("cuda"))
    assert [memory(policy)["memory"] for _ in range(2)] == [300.0, 100.0]
