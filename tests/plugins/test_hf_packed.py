"""The fast forward pass, all of it on, against the plain one: whole model, row by row, no padding, autograd.

The plain one attends by a few lines written here. Norms that transformers computes in float32 are computed in the
model's own precision on both sides, so that float64 can be compared to 1e-9.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignzoo import Batch, Completion, Group, Prompt, Score
from alignzoo.batching import collate
from alignzoo_hf.forward import head, packed, segments, trunk
from alignzoo_hf.model import models
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF

VOCABULARY = 261
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
HEADS = WIDE | {"head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": WIDE,
    "Qwen2": WIDE | {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "Qwen3": HEADS,
    "Mistral": WIDE | {"sliding_window": 5},
    "GPT2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "GPTNeoX": SIZES | {"intermediate_size": 48, "max_position_embeddings": 64},
    "Gemma": HEADS,
    "Gemma2": HEADS | {"sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "Phi": WIDE,  # its head has a bias
    "Cohere": WIDE | {"logit_scale": 0.25},
    "Granite": WIDE | {"logits_scaling": 3.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5},
}


def plain(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Causal attention, written out."""
    length, times = query.shape[2], query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = (distance >= 0) if sliding_window is None else (distance >= 0) & (distance < sliding_window)
    return (torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ value).transpose(1, 2), None


AttentionInterface.register("tests_plain", plain)


def in_own_precision(model: Any) -> Any:
    """Norms as they are defined, without a detour through float32; those that are exchanged already have none."""
    for module in model.modules():
        name = type(module).__name__
        if "forward" in vars(module):
            continue
        if name.endswith("RMSNorm") or name == "CohereLayerNorm":
            module.forward = _norm(module, centred=name == "CohereLayerNorm", shift=float(name.startswith("Gemma")))
    return model


def _norm(module: Any, *, centred: bool, shift: float) -> Any:
    epsilon = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps

    def forward(x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if centred else x
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * (module.weight + shift)

    return forward


def random_model(family: str, kind: Any = AutoModelForCausalLM, **changes: Any) -> Any:
    """With weights large enough that tokens differ in likelihood, biases and norms too."""
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": 0.2}
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family] | ids | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight += 0.2 * torch.randn(weight.shape)
    return model


def ragged(seed: int) -> Batch:
    """Groups of one to four rows: shared prompts long and short, answers that begin alike, and of a single token."""
    rng = torch.Generator().manual_seed(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        length = int(torch.randint(least, most + 1, (), generator=rng))
        return tuple(torch.randint(2, VOCABULARY, (length,), generator=rng).tolist())

    groups = []
    for number, size in enumerate([2, 4, 1, 3, 2]):
        prompt = tokens(1, 3) if number == 3 else tokens(5, 12)
        answers = [tokens(1, 9) for _ in range(size)]
        if number == 1:
            answers = [(7, 8), (7, 8, 9, *answers[0]), (7, 8), (9,)]
        completions = tuple(Completion(each, "", True) for each in answers)
        groups.append(Group(Prompt(str(number)), prompt, completions, (Score(0.0),) * size))
    return collate(groups)


def by_hand(model: Any, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of completion tokens, from the whole model's logits, one row after the other."""
    logprobs, entropies = [], []
    for tokens, attend, mask in zip(batch.tokens, batch.attend, batch.mask, strict=True):
        ids = tokens[attend]
        each = torch.log_softmax(model(ids[None]).logits[0, :-1] / temperature, -1)
        chosen = mask[attend][1:]
        logprobs.append(each.gather(-1, ids[1:, None]).squeeze(-1)[chosen])
        entropies.append(-(each.exp() * each).sum(-1)[chosen])
    return torch.cat(logprobs), torch.cat(entropies)


@contextmanager
def plainly(model: Any) -> Iterator[None]:
    """Inside, attention is the one above, and norms and feed-forwards are not those of alignzoo_hf.forward.layers."""
    config = models.bare(model).config
    former, config._attn_implementation = config._attn_implementation, "tests_plain"
    exchanged = {module: vars(module).pop("forward", None) for module in model.modules()}
    in_own_precision(model)
    yield
    for module, forward in exchanged.items():
        vars(module).pop("forward", None)
        if forward is not None:
            module.forward = forward
    config._attn_implementation = former


@dataclass(frozen=True)
class Case:
    family: str
    lora: str = ""
    temperature: float = 1.0
    changes: tuple[tuple[str, Any], ...] = ()
    exact: float = 1e-9
    """How near in float64."""


CASES = [
    *(Case(family) for family in FAMILIES if family != "Cohere"),
    Case("Cohere", exact=1e-7),  # it turns queries and keys in float32
    Case("Llama", changes=(("tie_word_embeddings", True),)),
    Case("Qwen2", changes=(("tie_word_embeddings", False),)),
    Case("Llama", temperature=0.6),
    Case("Gemma2", temperature=0.7),
    Case("Llama", lora="all-linear"),
    Case("GPT2", lora="c_attn,c_fc"),
    Case("Gemma", lora="all-linear"),
    Case("Llama", lora="q_proj,lm_head"),
]


def loaded(case: Case, model: Any, tokenizer: Any) -> HFPolicy:
    adapters: dict[str, Any] = {"lora_rank": 3, "lora_targets": case.lora, "lora_alpha": 3.0} if case.lora else {}
    spec = HF(
        model=model, tokenizer=tokenizer, device="cpu", temperature=case.temperature, max_new_tokens=4, **adapters
    )
    policy = spec.load(frozenset({"logprobs"}))
    assert isinstance(policy, HFPolicy)
    in_own_precision(policy.lm)
    if case.lora:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            for name, weight in policy.lm.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0, 0.2)
    return policy


def gradients(policy: HFPolicy) -> list[Tensor]:
    found = [p.grad for p in policy.lm.parameters() if p.requires_grad]
    assert found and all(each is not None for each in found)
    policy.lm.zero_grad()
    return found


def close(found: Tensor | list[Tensor], expected: Tensor | list[Tensor], tolerance: float) -> None:
    """Relative to the whole length, and for single tensors to the largest."""
    ours = torch.cat([each.flatten() for each in found]) if isinstance(found, list) else found
    theirs = torch.cat([each.flatten() for each in expected]) if isinstance(expected, list) else expected
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 10 * tolerance


@pytest.fixture(scope="module")
def tokenizer(plain_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(plain_model)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft says of GPT-2 that it has set it right
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_fast_path_is_the_plain_one(
    case: Case, dtype: torch.dtype, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tolerance = case.exact if dtype == torch.float64 else 1e-5
    policy = loaded(case, random_model(case.family, **dict(case.changes)), tokenizer)
    policy.lm.to(dtype)
    for seed, tile in ((0, head.CPU.tile), (1, 3 * VOCABULARY)):
        monkeypatch.setattr(head, "CPU", replace(head.CPU, tile=tile))
        batch = ragged(seed)
        rng = torch.Generator().manual_seed(seed)
        upstream = torch.randn(2, *batch.tokens.shape, generator=rng).to(dtype)[:, batch.mask]
        with plainly(policy.lm):
            expected = by_hand(policy.lm, batch, case.temperature)
            (torch.stack(expected) * upstream).sum().backward()
        expected_gradients = gradients(policy)
        out = policy.forward(batch, frozenset({"logprobs", "entropy"}))
        found = out.logprobs[batch.mask], out.entropy[batch.mask]
        (torch.stack(found) * upstream).sum().backward()
        assert found[0].dtype == dtype
        for ours, theirs in zip(found, expected, strict=True):
            close(ours.detach(), theirs.detach(), tolerance)
        close(gradients(policy), expected_gradients, tolerance)
    assert policy._packable and all(policy._packable.values()), "this was the padded path"


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_a_reward_models_scores_are_the_plain_ones(family: str, tokenizer: Any) -> None:
    model = random_model(family, AutoModelForSequenceClassification, num_labels=1)
    policy = HF(model=model, tokenizer=tokenizer, device="cpu", max_new_tokens=4).load(frozenset({"scores"}))
    policy.scorer.double()
    batch = ragged(0)
    upstream = torch.linspace(-1, 2, len(batch)).double()
    scores = policy.forward(batch, frozenset({"scores"})).scores
    (scores * upstream).sum().backward()
    ours = [p.grad for p in policy.scorer.parameters() if p.grad is not None]
    policy.scorer.zero_grad()
    with plainly(policy.scorer):
        rows = zip(batch.tokens, batch.attend, strict=True)
        expected = torch.cat([policy.scorer(tokens[attend][None]).logits[0] for tokens, attend in rows])
        (expected * upstream).sum().backward()
    theirs = [p.grad for p in policy.scorer.parameters() if p.grad is not None]
    close(scores.detach(), expected.detach(), 1e-9)
    close(ours, theirs, 1e-9)
    assert policy._packable and all(policy._packable.values())


def test_critics_are_packed_too(tokenizer: Any) -> None:
    model = random_model("Llama")
    needs = frozenset({"logprobs", "values"})
    policy = HF(model=model, tokenizer=tokenizer, device="cpu", max_new_tokens=4, critic="shared").load(needs)
    policy.lm.double()
    policy.critic.double()
    with torch.no_grad():
        torch.nn.init.normal_(policy.critic.weight)
    batch = ragged(0)
    values = policy.forward(batch, needs).values
    with plainly(policy.lm), torch.no_grad():
        for row, (tokens, attend, mask) in enumerate(zip(batch.tokens, batch.attend, batch.mask, strict=True)):
            states = policy.lm.model(tokens[attend][None]).last_hidden_state[0]
            expected = policy.critic(states).squeeze(-1)[:-1][mask[attend][1:]]
            torch.testing.assert_close(values[row][mask], expected, rtol=1e-9, atol=1e-12)


def test_a_model_whose_scores_are_capped_is_loaded_so(tokenizer: Any, tmp_path: Path) -> None:
    saved = random_model("Gemma2", initializer_range=0.5)
    saved.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    policy = HF(model=str(tmp_path), device="cpu", max_new_tokens=4).load(frozenset({"logprobs"}))
    batch = ragged(0)
    with torch.no_grad():
        found = policy.forward(batch, frozenset({"logprobs"})).logprobs[batch.mask]
        by_transformers, _ = by_hand(policy.lm, batch, 1.0)
        with plainly(saved):
            expected, _ = by_hand(saved, batch, 1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_transformers, expected, rtol=1e-4, atol=1e-4)


# --- what is computed -------------------------------------------------------------------------------------------------


def test_a_groups_prompt_is_computed_once_and_no_padding(tokenizer: Any) -> None:
    policy = loaded(Case("Llama"), random_model("Llama"), tokenizer)
    prompt, answers = tuple(range(20, 30)), [(3, 4, 5, 6), (7, 8), (9,)]
    group = Group(Prompt("?"), prompt, tuple(Completion(a, "", True) for a in answers), (Score(0.0),) * 3)
    other = Group(Prompt("!"), prompt, (Completion((5, 5), "", True),), (Score(0.0),))
    batch = collate([group, other])
    policy.forward(batch, frozenset({"logprobs"}))  # and so it has been found out that it can be packed
    seen: list[int] = []
    handle = policy.lm.model.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[:2]))
    policy.forward(batch, frozenset({"logprobs"}))
    handle.remove()
    # A completion's last token is not read, for nothing follows it: 10 + 3 + 1 + 0 tokens, and 10 + 1 of the other.
    assert seen == [(1, 14 + 11)]


def test_rows_that_have_less_in_common_are_written_out() -> None:
    tokens = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 9, 9]])
    used = torch.ones(3, 5, dtype=torch.bool)
    both = packed.pack(tokens[:2], used[:2], torch.tensor([0, 0]))
    assert both.tokens.tolist() == [[1, 2, 3, 4, 5, 6]] and both.positions.tolist() == [[0, 1, 2, 3, 4, 4]]
    assert both.place.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 5]]
    assert packed.pack(tokens[:2], used[:2], torch.tensor([0, 1])).tokens.numel() == 10  # of two groups
    assert packed.pack(tokens, used, torch.tensor([0, 0, 0])).tokens.numel() == 15  # three in common are too few


def answered(policy: HFPolicy, batch: Batch) -> list[Tensor]:
    """Log-probabilities, which are the same to the bit without a gradient, and gradients of a function of them."""
    logprobs = policy.forward(batch, frozenset({"logprobs"})).logprobs
    with torch.no_grad():
        assert torch.equal(policy.forward(batch, frozenset({"logprobs"})).logprobs, logprobs)
    logprobs.sin().sum().backward()
    return [logprobs.detach(), *gradients(policy)]


@pytest.mark.parametrize("family", ["Llama", "Mistral"])
def test_attention_with_a_gradient_of_its_own_is_attention_by_autograd(
    family: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = loaded(Case(family), random_model(family), tokenizer)
    policy.lm.double()
    found = answered(policy, ragged(3))
    monkeypatch.setattr(segments.Attended, "apply", None)  # whoever calls it now fails
    with pytest.raises(TypeError, match="not callable"):
        answered(policy, ragged(3))
    monkeypatch.setattr(packed, "is_flash", lambda *states: False)
    close(found, answered(policy, ragged(3)), 1e-12)


def test_a_shared_beginning_is_not_kept_for_each_row(tokenizer: Any) -> None:
    policy = loaded(Case("Llama"), random_model("Llama"), tokenizer)
    answers = tuple(Completion((i, i + 1), "", True) for i in range(2, 18))
    batch = collate([Group(Prompt("?"), tuple(range(20, 40)), answers, (Score(0.0),) * len(answers))])
    line = 20 + 16  # of each answer the first token, as nothing follows its last
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:  # heads
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = policy.forward(batch, frozenset({"logprobs"}))
    assert out.logprobs is not None
    cosines = 2 * line * 8 * 4
    assert sum(kept.values()) == 2 * line * (4 + 2 + 2 + 4) * 8 * 4 + cosines  # of 2 layers q, k, v, and the answer


# --- models that cannot be packed -------------------------------------------------------------------------------------


def test_a_model_of_another_kind_is_padded_with_one_line(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4, conv_kernel=2, time_step_rank=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    policy = HF(model=model, tokenizer=tokenizer, device="cpu", max_new_tokens=4).load(frozenset({"logprobs"}))
    batch = ragged(0)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "alignzoo"):
        for _ in range(2):
            found = policy.forward(batch, frozenset({"logprobs"})).logprobs[batch.mask]
        expected, _ = by_hand(policy.lm, batch, 1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    [line] = [record.getMessage() for record in caplog.records if "packed" in record.getMessage()]
    assert line.startswith(
        "MambaForCausalLM cannot be packed, so padding is computed with its rows, exactly but more s"
    )
    assert "\n" not in line
    assert policy.info().tokens_per_pass == 1024


def test_an_attention_of_its_own_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    config = transformers.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4)
    with caplog.at_level(logging.WARNING, "alignzoo"):
        assert not trunk.can_pack(AutoModelForCausalLM.from_config(config).eval())
    assert "its attention is its own, not one that transformers can exchange" in caplog.text


def test_an_attention_that_is_off_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model("Llama")
    assert trunk.can_pack(model)
    former = packed.Packing.mask
    monkeypatch.setattr(packed.Packing, "mask", lambda self, *given: former(self, *given).clamp(min=-3.0))
    with caplog.at_level(logging.WARNING, "alignzoo"):
        assert not trunk.can_pack(model)
    assert "packed and padded states differ by" in caplog.text


def test_the_padded_path_by_name_says_nothing(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    spec = HF(model=random_model("Llama"), tokenizer=tokenizer, device="cpu", max_new_tokens=4, attention="eager")
    policy = spec.load(frozenset({"logprobs"}))
    fast = loaded(Case("Llama"), random_model("Llama"), tokenizer)
    batch = ragged(0)
    with torch.no_grad(), caplog.at_level(logging.WARNING, "alignzoo"):
        found, expected = (each.forward(batch, frozenset({"logprobs"})).logprobs for each in (policy, fast))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not policy._packable and "packed" not in caplog.text
