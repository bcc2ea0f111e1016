"""TRL 1.16 as an oracle of KTO and of distillation, through whole models: values and gradients of every weight."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_trl_parity import (
    PAIRS,
    SETTINGS,
    Answer,
    additions,
    agree,
    datasets,
    move,
    offline,
    pair,
    theirs,
    tokenizer,
    transformers,
    trl,
    writer,
)

from alignzoo import Batch, Completion, Group, Prompt, Score, columns
from alignzoo import functional as fn
from alignzoo.batching import collate, fill, only
from alignzoo_distillation.gkd import GKD
from alignzoo_hf.model.spec import HF
from alignzoo_unpaired.kto import KTO

__all__ = ["offline", "tokenizer", "writer"]  # fixtures
gkd_trainer: Any = pytest.importorskip("trl.experimental.gkd.gkd_trainer")


def answer(optimizer: Any, policy: Any, batch: Batch) -> Answer:
    """The objective of a prepared batch, and its gradient."""
    policy.lm.zero_grad()
    out = policy.forward(batch, columns.trained(optimizer.needs))
    loss = fn.weigh(optimizer.loss(batch, out).loss, batch.weights, batch.mask) / len(batch)
    loss.backward()
    return Answer(loss.item(), {name: p.grad.clone() for name, p in policy.lm.named_parameters() if p.grad is not None})


def test_kto(writer: str, tokenizer: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    optimizer = KTO(beta=0.4, desirable=1.5, undesirable=0.75)
    policy: Any = HF(model=writer, tokenizer=tokenizer, device="cpu", max_new_tokens=8).load(KTO.needs)
    answers = [PAIRS["chosen"][0], PAIRS["rejected"][1], PAIRS["chosen"][2], PAIRS["rejected"][3]]
    labels = [True, False, True, False]
    trainer = trl.KTOTrainer(
        model=copy.deepcopy(policy.lm),
        ref_model=transformers.AutoModelForCausalLM.from_pretrained(writer),
        args=trl.KTOConfig(
            str(tmp_path), beta=0.4, desirable_weight=1.5, undesirable_weight=0.75,
            per_device_train_batch_size=4, **SETTINGS,
        ),
        train_dataset=datasets.Dataset.from_dict({"prompt": PAIRS["prompt"], "completion": answers, "label": labels}),
        processing_class=tokenizer,
    )  # fmt: skip
    inputs = dict(trainer.data_collator(list(trainer.train_dataset)))
    groups = [
        _group(*row, label, mismatched)
        for prefix, mismatched in (("", 0.0), ("KL_", 1.0))
        for *row, label in zip(
            *(inputs[prefix + name] for name in ("input_ids", "attention_mask", "completion_mask")),
            inputs["label"],
            strict=True,
        )
    ]
    batch = optimizer.prepare(only(fill(collate(groups), policy, KTO.needs), KTO.needs))
    for scale in (0.02, -0.04):  # into one direction or the other, so that the baseline is above 0 and takes part
        move(policy.lm, seed=1, scale=scale)
        terms = optimizer.loss(batch, policy.forward(batch, frozenset({"logprobs"})))
        if float(terms.metrics["baseline"][0]) > 0:
            break
    assert float(terms.metrics["baseline"][0]) > 0
    trainer.model.load_state_dict(policy.lm.state_dict())
    expected = theirs(trainer, inputs)
    agree(answer(optimizer, policy, batch), expected, additions(policy.lm, batch))


def _group(ids: Any, attended: Any, said: Any, label: Any, mismatched: float) -> Group:
    """A row of TRL's as our group of one."""
    prompt, completion = (ids[mask.bool()].tolist() for mask in (attended * (1 - said), attended * said))
    extra = {"mismatched": (mismatched,)}
    return Group(Prompt(""), tuple(prompt), (Completion(tuple(completion), ""),), (Score(float(label)),), extra)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_generalised_knowledge_distillation(writer: str, tokenizer: Any, dtype: torch.dtype, beta: float) -> None:
    spec = HF(model=writer, tokenizer=tokenizer, device="cpu", max_new_tokens=8)
    optimizer = GKD(teacher=spec, beta=beta)
    policy: Any = spec.load(optimizer.needs, {"teacher": spec})
    move(policy.lm, seed=1)
    student = copy.deepcopy(policy.lm)
    words = [
        [tokenizer(text)["input_ids"] for text in row]
        for row in zip(PAIRS["prompt"], PAIRS["chosen"], PAIRS["rejected"], strict=True)
    ]
    batch = optimizer.prepare(collate([pair(*row) for row in words]))
    trainer = SimpleNamespace(
        teacher_model=transformers.AutoModelForCausalLM.from_pretrained(writer),
        beta=beta,
        generalized_jsd_loss=gkd_trainer.GKDTrainer.generalized_jsd_loss,
    )
    inputs = {
        "input_ids": batch.tokens,
        "attention_mask": batch.attend.long(),
        "labels": batch.tokens.masked_fill(~batch.mask, -100),
    }
    loss = gkd_trainer.GKDTrainer.compute_loss(trainer, student, inputs)
    loss.backward()
    known = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    agree(answer(optimizer, policy, batch), Answer(loss.item(), known), additions(policy.lm, batch))
