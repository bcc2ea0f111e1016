"""Before a run: how many bytes each stage takes, whether they fit, how many operations, and how long a step lasts.

Bytes and operations are arithmetic (`alignzoo.cost`) on what a first step would do: the data's own lengths, and
completions of the length that is asked about. Seconds are those of a policy of the same widths with a few layers, which
is timed on this machine for a moment; each further layer costs what the layers between two such trials cost.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from alignzoo import cost
from alignzoo.allocator import HOLES
from alignzoo.columns import REFERENCE, of_part
from alignzoo.cost import ModelShape
from alignzoo.interfaces import Outline
from alignzoo.machine import HERE, Machine, assumed, assuming
from alignzoo.planning.dry_run import EVALUATE, Rehearsal
from alignzoo.recipe import Recipe
from alignzoo.recipe.outputs import leaves_data
from alignzoo.recipe.tables import STAGE_REFERENCE
from alignzoo.runs.sizing import Amount
from alignzoo.torch_optimizers import state_bytes

LEAST = 64
"""Tokens that go through at once, below which no micro-batch is proposed."""

Parts = Mapping[str, int]
"""Bytes by what takes them."""

LEARNING = ("gradients", "activations", "logits")
"""What is held while weights are updated, and at no other time."""

IN_EVALUATIONS = "reference, in evaluations"
"""What a reference takes that no step asks: it is loaded for evaluations alone."""

COPIES = "copies to generate by"
"""What is made of weights while completions are generated."""

AHEAD = "copy that generates ahead"
"""What `schedule.ahead` takes: a copy of the trained weights, and those that wait for it, of as many updates."""

AHEAD_CACHE = "its key-value cache"
"""And its engine's copies, while the policy is trained."""

FREED = "freed, not given back"
"""What lies free between tensors of which one layer after the other is computed twice."""

APART: tuple[tuple[str, ...], ...] = (
    (*LEARNING, AHEAD_CACHE),
    ("key-value cache", COPIES),
    (IN_EVALUATIONS,),
    ("saving",),
)
"""Parts that are held one after the other, and never together."""


@dataclass(frozen=True)
class StagePlan:
    """What a stage will take."""

    name: str
    optimizer: str
    device: str
    shape: ModelShape
    steps: int
    generated: int
    """Tokens written in a step."""
    trained: int
    """Tokens trained on in a step, epochs counted."""
    bytes: Parts
    """By part; those of `APART` are not held at the same time."""
    peak: int
    available: int
    operations: Mapping[str, int]
    """Floating-point operations of a step, by phase."""
    seconds: Mapping[str, float]
    """Seconds of a step, by phase; empty where it was not timed, or memory did not suffice."""
    advice: tuple[str, ...]
    """What to change if it does not fit."""
    disk: Mapping[str, int]
    """Bytes on the disk: the model, and a checkpoint while the stage runs; empty where nothing is trained."""
    evaluation: Amount
    """What the evaluations generate and read, beside the training."""
    evaluation_operations: int
    """Floating-point operations of all evaluations together."""
    evaluation_seconds: float
    """Their seconds; 0 where nothing was timed."""

    @property
    def fits(self) -> bool:
        return self.peak <= self.available


def plan(recipe: Recipe, *, length: int = 0, timed: bool = True, machine: Machine = HERE) -> list[StagePlan]:
    """Every stage of a recipe. `length` is that of a written completion; 0: the limit, so that it takes no more.
    `machine` is one that need not be there; then nothing is timed.

    A later stage's model is taken to be like the earlier stage's whose output it is.
    """
    models: dict[str, Any] = {}
    plans: list[StagePlan] = []
    program = 0
    with assuming(machine):
        for each in recipe.stages:
            stage = each.with_outputs(models)
            trains = not leaves_data(stage)
            models[stage.name] = getattr(stage.policy, "model", "") if trains else STAGE_REFERENCE + stage.name
            step = Rehearsal(stage, length)
            program = program or _resident()  # with all that is imported, and before anything is tried
            plans.append(_planned(step, program, timed and machine == HERE))
    return plans


def _planned(step: Rehearsal, program: int, timed: bool) -> StagePlan:
    outline, optimizer = step.outline, step.stage.optimizer
    cpu = outline.device.type == "cpu"
    own = {"program": program} if cpu else {}
    parts, available = own | bytes_of(step, outline), _available(outline.device)
    fits = peak(parts) <= available
    seconds = step.seconds() if timed and fits else {}
    evaluation_seconds = seconds.pop(EVALUATE, 0.0)
    return StagePlan(
        name=step.stage.name,
        optimizer=type(optimizer).__name__,
        device=str(outline.device),
        shape=outline.shape,
        steps=step.steps,
        generated=step.writer.tokens,
        trained=int(step.prepared.attend.sum()) * optimizer.epochs,
        bytes=parts,
        peak=peak(parts),
        available=available,
        operations={phase: count(outline.shape) for phase, count in step.work().items()},
        seconds=seconds,
        advice=() if fits else tuple(_advice(step, own, available)),
        disk=_disk(step),
        evaluation=step.evaluation,
        evaluation_operations=step.evaluating(outline.shape),
        evaluation_seconds=evaluation_seconds,
    )


def _disk(step: Rehearsal) -> dict[str, int]:
    """The sizes of what the stage will write: its model, and what is trained with its optimizer's state."""
    if leaves_data(step.stage):
        return {}
    shape = step.outline.shape
    checkpoint = cost.gradient_bytes(shape) + state_bytes(step.stage.schedule, shape)
    return {"model": step.outline.stored * shape.parameters, "checkpoint": checkpoint}


def bytes_of(
    step: Rehearsal, outline: Outline, tokens_per_pass: int = 0, *, ahead: int | None = None
) -> dict[str, int]:
    """By part; where so many steps are generated ahead, or as many as the schedule says."""
    shape, schedule = outline.shape, step.stage.schedule
    ahead = schedule.ahead if ahead is None else ahead
    tokens, answers = step.at_once(tokens_per_pass or schedule.micro_tokens or outline.tokens_per_pass)
    trunks = [shape, *cost.critics(shape)]
    whole = [round(outline.kept * cost.activation_bytes(trunk, tokens, outline.width)) for trunk in trunks]
    working = max(each // trunk.layers for each, trunk in zip(whole, trunks, strict=True))
    kept = [cost.recompute_bytes(each, tokens, outline.width) for each in trunks] if outline.recompute else whole
    trains = not leaves_data(step.stage)
    reference = cost.reference_bytes(shape, outline.width) if trains and not of_part(step.needs, "scorer") else 0
    held = any(each.role == REFERENCE for each in step.filled())
    caches = [
        cost.cache_bytes(shape, cached, outline.width)
        + 3 * cost.FLOAT32 * rows * shape.vocab  # logits, probabilities, and their sums
        for rows, cached in step.written_at_once(outline)
    ]
    waiting = ahead * cost.FLOAT32 * shape.trained
    return {
        "weights": cost.weight_bytes(shape, outline.frozen),
        "reference": reference if held else 0,
        **{role: round(each.frozen * each.shape.parameters) for role, each in step.roles.items()},
        "gradients": cost.gradient_bytes(shape) * trains,
        schedule.optimizer: state_bytes(schedule, shape) * trains,
        "reward models": sum(cost.frozen_bytes(each.shape, each.width) for each in step.rewards),
        "activations": (sum(kept) + working) * trains,  # on the way back, the gradients of one layer's are there too
        "logits": outline.logits(answers) if step.speaks else 0,
        "key-value cache": max(caches),
        COPIES: outline.copied if step.writer.rows or step.evaluation.answers else 0,
        AHEAD: cost.copy_bytes(shape, outline.width) + waiting if ahead else 0,
        AHEAD_CACHE: caches[0] + outline.copied if ahead else 0,
        FREED: HOLES * trains if outline.recompute and outline.device.type == "cpu" else 0,
        IN_EVALUATIONS: reference if not held and step.evaluation.answers else 0,
        "saving": _copied(outline) * trains,
    }


def _copied(outline: Outline) -> int:
    """What a model's file is written from: a copy in its own precision, or with an adapter merged, where it is not what
    is trained."""
    same = outline.stored == cost.FLOAT32 and not outline.shape.adapted
    return 0 if same else outline.stored * outline.shape.parameters


def peak(parts: Parts) -> int:
    """At most at once."""
    apart = [sum(parts[name] for name in names) for names in APART]
    return sum(parts.values()) - sum(apart) + max(apart)


def _advice(step: Rehearsal, own: Parts, available: int) -> Iterator[str]:
    """Settings that would take less, those first that suffice."""
    outline, now = step.outline, peak(bytes_of(step, step.outline))
    found, spare = [], available - sum(own.values())
    tokens = step.at_once()[0]
    while tokens > LEAST:
        tokens //= 2
        found.append((f"schedule.micro_tokens={tokens}", peak(bytes_of(step, outline, tokens))))
        if found[-1][1] <= spare:
            break
    if step.writer.rows > LEAST:
        fewer = min(step.writer.rows, outline.slots) // 4
        found.append((f"policy.generate_batch={fewer}", peak(bytes_of(step, replace(outline, slots=fewer)))))
    if step.stage.schedule.ahead:
        found.append(("schedule.ahead=0", peak(bytes_of(step, outline, ahead=0))))
    found += [(settings, peak(bytes_of(step, other))) for settings, other in outline.cheaper().items()]
    for settings, most in sorted(found, key=lambda each: each[1] > spare):
        if most < now:
            total = f"{settings} takes {(most + sum(own.values())) / 1e9:.2f} GB"
            yield total + (" and fits" if most <= spare else ", still too much")


def _available(device: torch.device) -> int:
    """Bytes of the GPU, or of the machine's memory that is not in use, with what this process holds already; or those
    that are assumed."""
    if assumed().memory:
        return assumed().memory
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if info.exists():
        lines = dict(line.split(":") for line in info.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024 + _resident()
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _resident() -> int:
    """Bytes that the program itself takes: Python, torch and transformers, as they are now."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
