"""Distillation beyond GKD: figures reckoned by hand, and limits where one method is another."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import alignzoo
from alignzoo import Forward, PluginError, Prompt, RecipeError
from alignzoo import functional as fn
from alignzoo.files import read_lines
from alignzoo.interfaces import CheckContext
from alignzoo.testing import toy_batch
from alignzoo.testing.world import toy_policy
from alignzoo_distillation.distillm import DistiLLM
from alignzoo_distillation.distillm_reverse import ReverseDistiLLM
from alignzoo_distillation.forward_kd import ForwardKD
from alignzoo_distillation.j_bond import JBOND, BesideAnchor
from alignzoo_distillation.minillm import MiniLLM
from alignzoo_distillation.on_policy import OnPolicyDistillation
from alignzoo_distillation.reverse_kd import ReverseKD
from objectives import answers, objective

TEACHER, STUDENT = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.125, 0.125, 0.75]]).log()


def test_skew_kl() -> None:
    half = fn.skew_kl(TEACHER, STUDENT, 0.5)
    # Σ p·log p/m, m = (0.3125, 0.1875, 0.5)
    expected = 0.5 * math.log(1.6) + 0.25 * math.log(4 / 3) + 0.25 * math.log(0.5)
    torch.testing.assert_close(half, torch.tensor([expected]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fn.skew_kl(TEACHER, STUDENT, 0.0), fn.kl_divergence(TEACHER, STUDENT))
    nearly = fn.skew_kl(TEACHER, STUDENT, 1e-7)
    torch.testing.assert_close(nearly, fn.kl_divergence(TEACHER, STUDENT), rtol=1e-4, atol=0)
    torch.testing.assert_close(fn.compared("skew_kl", STUDENT, TEACHER, 0.5), half)
    torch.testing.assert_close(fn.compared("skew_reverse_kl", STUDENT, TEACHER, 0.5), fn.skew_kl(STUDENT, TEACHER, 0.5))


def test_skew_kl_is_bounded_where_the_kl_is_not() -> None:
    sure = torch.tensor([[0.0, -1e4]])
    assert float(fn.kl_divergence(sure, sure.flip(1))) > 1e3
    assert float(fn.skew_kl(sure, sure.flip(1), 0.1)) == pytest.approx(-math.log(0.1))


def test_the_generalised_jsd_is_the_sum_of_both_skew_divergences() -> None:
    beta = 0.3
    parts = beta * fn.skew_kl(TEACHER, STUDENT, beta) + (1 - beta) * fn.skew_kl(STUDENT, TEACHER, 1 - beta)
    torch.testing.assert_close(fn.jsd(TEACHER, STUDENT, beta), parts)


def test_distillm_without_a_skew_asks_for_the_kl() -> None:
    batch = toy_batch([2, 3], group=[0, 1], rewards=[0.0, 0.0])
    for part, plain in ((DistiLLM(skew=0.0), ForwardKD()), (ReverseDistiLLM(skew=0.0), ReverseKD())):
        (column,), (other,) = part.needs, plain.needs
        policy = toy_policy(0, drift=0.3, roles=["teacher"])
        found = policy.forward(batch, frozenset({column, other}))
        torch.testing.assert_close(found[column], found[other], rtol=1e-5, atol=1e-6)
        weights = [each.prepare(batch).weights for each in (part, plain)]
        torch.testing.assert_close(*weights)


def test_what_follows_a_token_in_minillm() -> None:
    batch = toy_batch([3, 1], group=[0, 1], rewards=[0.0, 0.0])
    said = fn.scatter(torch.tensor([-1.0, -1.0, -1.0, -1.0]), batch.mask)
    taught = fn.scatter(torch.tensor([-0.5, -2.0, 0.0, -3.0]), batch.mask)
    prepared = MiniLLM().prepare(batch.answered({"old_logprobs": said, "teacher_logprobs": taught}))
    # log π_T/π_old is 0.5, -1, 1: the mean of -1 and 1, then 1, then nothing
    assert prepared.advantages[batch.mask].tolist() == pytest.approx([0.0, 1.0, 0.0, 0.0])


def test_minillm_of_one_token_is_the_reverse_kl_whose_estimate_is_on_policy_distillation() -> None:
    batch = toy_batch([1, 1], group=[0, 1], rewards=[0.0, 0.0])
    own = fn.scatter(torch.tensor([0.3, 0.7]), batch.mask)
    filled: dict[str, Any] = {name: fn.scatter(torch.tensor([-1.0, -2.0]), batch.mask) for name in ("old_logprobs",)}
    filled["teacher_logprobs"] = fn.scatter(torch.tensor([-0.5, -3.0]), batch.mask)
    prepared = MiniLLM().prepare(batch.answered(filled))
    out = Forward(logprobs=filled["old_logprobs"], answers={"teacher_reverse_kl": own})
    torch.testing.assert_close(MiniLLM().loss(prepared, out).loss, own)
    single = OnPolicyDistillation().prepare(batch.answered(filled))
    assert single.advantages[batch.mask].tolist() == pytest.approx([0.5, -1.0])  # minus an estimate of that KL


# --- J-BOND -----------------------------------------------------------------------------------------------------------


def test_the_best_of_the_anchor_s_two_is_copied_and_an_answer_worse_than_both_is_not_liked() -> None:
    # two prompts: the policy's answer, then the anchor's two
    batch = answers([0.0, 1.0, 2.0, 3.0, 1.0, 2.0], [0, 0, 0, 1, 1, 1], by_anchor=[0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    said: dict[str, Any] = {"logprobs": [-1.0] * 6, "old_logprobs": [-1.0] * 6, "ref_logprobs": [-1.0] * 6}
    found = objective(JBOND(backward=0.25), batch, **said)
    # rewards -log 16 and 0, mean -log 4: advantages ∓log 4
    log4 = math.log(4)
    assert found.prepared.advantages.tolist() == pytest.approx([-log4, 0, 0, log4, 0, 0])
    # per answer that counts: 0.75·(-1/2) of each best, 0.25·∓log 4/2 of the policy's own
    expected = [0.125 * log4, 0, -0.375, -0.125 * log4, 0, -0.375]
    assert found.gradient["logprobs"].tolist() == pytest.approx(expected)


def test_the_anchor_holds_the_policy() -> None:
    batch = answers([3.0, 1.0, 2.0, 3.0, 1.0, 2.0], [0, 0, 0, 1, 1, 1], by_anchor=[0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    moved: dict[str, Any] = {"logprobs": [-1.0] * 6, "old_logprobs": [-1.0] * 6}
    moved["ref_logprobs"] = [-2.0] * 3 + [-1.0] * 3
    found = objective(JBOND(gamma=1.0), batch, **moved)
    # rewards -2·1 and 0, mean -1: what has moved away is pulled back
    assert found.prepared.advantages.tolist() == pytest.approx([-1.0, 0, 0, 1.0, 0, 0])
    assert JBOND(follows=0.1).follow(7) == {"ref": 0.1}


def test_beside_anchor_brings_two_answers_of_the_reference() -> None:
    policy = toy_policy(0, drift=1.0)
    (group,) = BesideAnchor(n=2).sample([Prompt("a")], policy, seeds=[5])
    with policy.answering("ref"):
        (anchor,) = policy.generate([Prompt("a")], 2, seeds=[fn.derive(5, "anchor")])
    assert [each.tokens for each in group.completions[2:]] == [each.tokens for each in anchor.completions]
    assert group.extra["by_anchor"] == (0.0, 0.0, 1.0, 1.0) and group.completions[3].logprobs is None
    with pytest.raises(PluginError, match="sampler=beside-anchor"):
        JBOND().check(CheckContext(frozenset(), (), (), True, False, {}, None))


def test_who_learns_from_a_teacher_alone_needs_no_reward(plain_model: Path, tmp_path: Path) -> None:
    """Its completions have no score, and are trained on; nothing is said of a reward that nobody gave."""
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Count to {n}: "}) + "\n" for n in range(6)))
    given = [f"policy.model={plain_model}", f"data.path={data}", "policy.max_new_tokens=4", "schedule.prompts=2"]
    given += ["schedule.steps=2", "evaluate.prompts=2", "schedule.lr=1e-3"]
    with pytest.raises(RecipeError, match="has no reward, but its sampler generates new completions"):
        alignzoo.run("grpo", overrides=given, out=tmp_path / "refused")
    teacher = f'optimizer.teacher={{model="{plain_model}", temperature=2.0}}'
    done = alignzoo.run("gkd", overrides=[*given, teacher], out=tmp_path / "out")
    steps = list(read_lines(done.out / "metrics.jsonl"))
    assert len(steps) == 2 and all(each["rows"] > 0 and each["grad_norm"] > 0 for each in steps[1:])
    assert not [name for each in steps for name in each if name.startswith(("reward", "groups/tied"))]
