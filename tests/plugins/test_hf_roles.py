"""Roles of the transformers policy: a teacher and the reference answer, generate, and follow the policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import alignzoo
from alignzoo import Decoding, ModelError, Prompt, Score, columns
from alignzoo import functional as fn
from alignzoo.batching import collate, fill
from alignzoo.registry import Registry
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

ASSETS = Path(alignzoo.__file__).parents[1] / "plugins" / "alignzoo_tiny" / "assets"
BASE, SFT = str(ASSETS / "base"), str(ASSETS / "sft")
TEACHER = HF(model=SFT)
NEEDS = frozenset({"logprobs", "ref_logprobs", "teacher_logprobs", "teacher_jsd"})
PROMPTS = [Prompt([{"role": "user", "content": text}]) for text in ("sort: d b c", "hello", "ab")]


@pytest.fixture
def load() -> Callable[..., HFPolicy]:
    def load(teacher: Any = TEACHER, **settings: Any) -> HFPolicy:
        spec = HF(**{"model": BASE, "device": "cpu", "max_new_tokens": 6} | settings)
        policy = spec.load(NEEDS, {"teacher": teacher})
        assert isinstance(policy, HFPolicy)
        return policy

    return load


def batch_of(policy: HFPolicy) -> Any:
    groups = policy.generate(PROMPTS, 2, seeds=fn.seeds(len(PROMPTS), 0))
    return collate([replace(g, scores=(Score(0.0),) * 2) for g in groups])


def answers(policy: HFPolicy, batch: Any, *names: str) -> dict[str, Tensor]:
    with torch.no_grad():
        return policy.forward(batch, frozenset(names)).columns()


def greedy(policy: HFPolicy) -> list[tuple[int, ...]]:
    return [
        g.completions[0].tokens
        for g in policy.generate(PROMPTS, 1, seeds=fn.seeds(len(PROMPTS), 0), decoding=Decoding(greedy=True))
    ]


def move(policy: HFPolicy, scale: float = 0.05) -> None:
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in policy._trained():
            parameter += scale * torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_teacher_and_the_reference_answer_and_generate_as_themselves(load: Any, rank: int) -> None:
    policy = load(lora_rank=rank)
    base, sft = (HF(model=m, device="cpu", max_new_tokens=6).load(frozenset({"logprobs"})) for m in (BASE, SFT))
    batch = batch_of(policy)
    move(policy, 0.3)
    assert greedy(policy) != greedy(base)
    for role, alone in (("ref", base), ("teacher", sft)):
        with policy.answering(role):
            assert greedy(policy) == greedy(alone)  # type: ignore[arg-type]
            ours, theirs = (answers(each, batch, "logprobs")["logprobs"] for each in (policy, alone))  # type: ignore
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    filled = fill(batch, policy, NEEDS)
    torch.testing.assert_close(filled["teacher_logprobs"], theirs, rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in policy.roles["teacher"].model.parameters())


def test_a_comparison_is_that_of_both_models_logits(load: Any) -> None:
    names = ("entropy", "collision", "teacher_kl", "teacher_jsd:0.3", "teacher_top_kl:3", "ref_reverse_kl")
    policy = load(HF(model=SFT, temperature=0.7), temperature=1.3)
    batch = batch_of(policy)
    move(policy)
    found = policy.forward(batch, frozenset(names))

    def whole(model: Any, temperature: float) -> Tensor:
        return torch.log_softmax(model(batch.tokens, attention_mask=batch.attend.long()).logits / temperature, -1)

    own = whole(policy.lm, 1.3)
    others = {"teacher": whole(policy.roles["teacher"].model, 0.7), "ref": whole(policy.roles["ref"].model, 1.3)}
    where = batch.mask[:, 1:]
    loss, expected_loss = torch.zeros(()), torch.zeros(())
    for name in names:
        column = columns.column(name)
        if column.answer.compares:
            expected = fn.compared(column.answer.name, own, others[column.role].detach(), column.number)
        else:
            expected = fn.collision(own) if name == "collision" else -(own.exp() * own).sum(-1)
        expected = torch.where(where, expected[:, :-1], 0.0)
        torch.testing.assert_close(found[name][:, 1:], expected, rtol=1e-4, atol=1e-5)
        loss, expected_loss = loss + found[name].sum(), expected_loss + expected.sum()
    weights = [p for p in policy.lm.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(each, weights) for each in (loss, expected_loss))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_reference_that_is_copied_is_the_policy_as_it_was_and_is_in_the_checkpoint(load: Any, rank: int) -> None:
    policy, twin = load(lora_rank=rank), load(lora_rank=rank)
    batch = batch_of(policy)
    first = {name: tensor.clone() for name, tensor in policy.state().items()}
    start = answers(policy, batch, "logprobs")["logprobs"]
    move(policy)
    then, texts = answers(policy, batch, "logprobs")["logprobs"], greedy(policy)
    policy.follow("ref", 1.0)
    move(policy, 0.5)
    assert greedy(policy) != texts
    twin.restore({name: tensor.clone() for name, tensor in policy.state().items()})
    for each in (policy, twin):
        with each.answering("ref"), each.answering("ref"):
            assert torch.equal(answers(each, batch, "logprobs")["logprobs"], then)
            assert greedy(each) == texts
        assert not torch.equal(answers(each, batch, "logprobs")["logprobs"], then)
        each.restore(first)  # of before the reference moved
        with each.answering("ref"):
            assert torch.equal(answers(each, batch, "logprobs")["logprobs"], start)
        assert each.state().keys() == first.keys()


def test_a_share_of_the_policy_is_taken_exactly(load: Any) -> None:
    policy = load()
    start = {name: p.detach().clone() for name, p in policy.lm.named_parameters()}
    move(policy)
    policy.follow("ref", 0.25)
    for name, weight in policy.roles["ref"].model.named_parameters():
        expected = 0.75 * start[name].double() + 0.25 * policy.lm.get_parameter(name).double()
        torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=1e-7)


def test_a_teacher_may_follow_where_it_is_of_the_policys_architecture(load: Any, plain_model: Path) -> None:
    policy = load(HF(model=BASE))
    move(policy)
    policy.follow("teacher", 1.0)
    batch = batch_of(policy)
    now = answers(policy, batch, "logprobs", "teacher_jsd")
    assert float(now["teacher_jsd"].abs().max()) < 1e-6
    with pytest.raises(ModelError, match=r"'teacher' cannot follow the policy: \d+ weights of the two differ"):
        load(HF(model=BASE), lora_rank=4).follow("teacher", 1.0)


def test_what_lies_between_two_adapters_is_no_adapter(load: Any) -> None:
    with pytest.raises(ModelError, match=r"a share of 0\.5 .*no adapter of their rank.* \(policy\.lora_rank=0\)"):
        load(lora_rank=4).follow("ref", 0.5)


def test_another_vocabulary_is_refused_with_the_ids_that_differ(load: Any, plain_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^teacher: its tokenizer is not the policy's: \d+ of \d+ token ids"):
        load(HF(model=str(plain_model)))
    swapped = tmp_path / "swapped"
    shutil.copytree(SFT, swapped)
    file = swapped / "tokenizer.json"
    told = json.loads(file.read_text())
    tokens = told["model"]["vocab"]
    one, other = [token for token in tokens if len(token) == 1 and token.isalpha()][:2]
    tokens[one], tokens[other] = tokens[other], tokens[one]
    file.write_text(json.dumps(told))
    low, high = sorted((tokens[one], tokens[other]))
    with pytest.raises(ModelError, match=rf"2 of \d+ token ids stand for other tokens, {low} \(.*\), {high} \(.*\)\."):
        load(HF(model=str(swapped)))


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        (HF(model="/no/such/directory"), "^teacher: the model directory /no/such/directory does not exist"),
        (HF(model=SFT, max_new_tokens=99), r"^teacher\.max_new_tokens = 99 is not read: of a role only model, "),
        (HF(model=SFT, lora_rank=8), r"^teacher\.lora_rank = 8 is not read"),
        ("a name", "^teacher is a str: beside policy 'hf' a role is another policy 'hf'"),
    ],
    ids=["no directory", "not read", "an adapter", "no settings"],
)
def test_a_teacher_that_cannot_be_is_refused(load: Any, teacher: Any, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        load(teacher)


def test_a_role_that_is_not_there_is_told(load: Any) -> None:
    policy = load()
    with pytest.raises(ModelError, match=r"no role 'teachr'. Did you mean 'teacher'"), policy.answering("teachr"):
        pass
    with pytest.raises(ModelError, match="no role 'other'"):
        policy.follow("other", 1.0)
    with pytest.raises(ModelError, match="a role cannot be called 'ref'"):
        HF(model=BASE, device="cpu").load(NEEDS, {"ref": HF(model=SFT)})


def test_a_live_model_may_be_a_teacher_and_its_own_students(load: Any) -> None:
    policy = load()
    live, tokenizer = policy.lm, policy.tokenizer
    spec = HF(model=live, tokenizer=tokenizer, device="cpu", max_new_tokens=6)
    student: Any = spec.load(NEEDS, {"teacher": HF(model=live)})
    batch = batch_of(student)
    before = answers(student, batch, "logprobs")["logprobs"]
    move(student)
    with student.answering("teacher"):
        assert torch.equal(answers(student, batch, "logprobs")["logprobs"], before)
    assert not torch.equal(answers(student, batch, "logprobs")["logprobs"], before)


def test_info_has_the_teachers_sizes_and_a_teacher_in_bf16_is_half_as_large(load: Any, plain_model: Path) -> None:
    policy = load(HF(model=SFT, dtype="bf16"))
    assert policy.info().roles["teacher"].parameters == policy.info().shape.parameters
    assert {p.dtype for p in policy.roles["teacher"].model.parameters()} == {torch.bfloat16}
    batch = batch_of(policy)
    out = policy.forward(batch, frozenset({"teacher_jsd", "teacher_kl"}))
    assert out["teacher_jsd"].dtype == torch.float32 and torch.isfinite(out["teacher_kl"]).all()
    policy.follow("teacher", 0.01)  # a step that bf16 would lose
    assert {p.dtype for p in policy.roles["teacher"].model.parameters()} == {torch.float32}


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zoo() -> Registry:
    registry = Registry()
    registry.load_all()
    for path in sorted((Path(__file__).parents[1] / "public_api").glob("*.py")):
        registry.add_file(path)
    return registry


def run(zoo: Registry, name: str, out: Path, **settings: Any) -> alignzoo.runs.api.Result:
    schedule = {"steps": 4, "prompts": 12, "lr": 2e-3, "samples_every": 0}
    evaluate = {"prompts": 0, "best_of": 0}
    given = {"task": "sort", "policy": BASE, "schedule": schedule, "evaluate": evaluate}
    return alignzoo.run(name, registry=zoo, out=out, **given | settings)


def apart(model: str, teacher: HF) -> float:
    """The mean JSD to the teacher on demonstrations that no run has seen."""
    policy: Any = HF(model=model, device="cpu").load(frozenset({"teacher_jsd"}), {"teacher": teacher})
    sort = Registry().get("task", "sort")(n_pairs=200)
    groups = [policy.encode(p, p.completions) for p in sort.data("demonstrations", "heldout")[:32]]
    batch = collate([replace(g, scores=(Score(0.0),) * len(g.completions)) for g in groups])
    return float(fn.masked_mean(answers(policy, batch, "teacher_jsd")["teacher_jsd"], batch.mask))


def test_a_student_comes_nearer_to_a_teacher_model(zoo: Registry, tmp_path: Path) -> None:
    teacher = {"model": SFT, "temperature": 0.4}
    schedule = {"steps": 10, "prompts": 12, "lr": 5e-4, "samples_every": 0}
    result = run(zoo, "gkd", tmp_path / "run", optimizer={"teacher": teacher}, schedule=schedule)
    before, after = (apart(model, HF(**teacher)) for model in (BASE, str(result.stages[-1].model)))
    assert after < 0.8 * before


def test_a_run_with_a_reference_that_moves_resumes_to_the_byte(zoo: Registry, tmp_path: Path) -> None:
    for rank, optimizer in ((0, {"alpha": 0.5}), (4, {"alpha": 1.0, "tau": 2})):
        settings: dict[str, Any] = {"policy": {"model": SFT, "lora_rank": rank}, "optimizer": optimizer}
        schedule = {"steps": 4, "prompts": 4, "lr": 1e-3, "samples_every": 0, "save_every": 3, "keep": 9}
        whole = run(zoo, "tr-dpo", tmp_path / f"whole{rank}", schedule=schedule, **settings)
        broken = tmp_path / f"broken{rank}"
        shutil.copytree(whole.out, broken)
        shutil.rmtree(broken / "models")
        (broken / "result.json").unlink()
        again = alignzoo.run(str(broken), registry=zoo, out=broken, resume=True)
        for file in ("metrics.jsonl", f"models/{again.stages[-1].name}/model.safetensors"):
            assert (whole.out / file).read_bytes() == (broken / file).read_bytes()
