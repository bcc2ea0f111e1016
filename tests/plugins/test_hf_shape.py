"""The shape of a transformers model: every weight counted, and operations as torch counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

import alignzoo
from alignzoo import cost
from alignzoo.cost import ModelShape, Work
from alignzoo_hf.forward.shape import shape_of
from alignzoo_hf.model.spec import HF

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = SIZES | {"num_key_value_heads": 2, "intermediate_size": 48}
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
FAMILIES = {
    "Llama": WIDE,
    "Qwen2": WIDE | {"tie_word_embeddings": True},
    "Gemma2": WIDE | {"head_dim": 16, "sliding_window": 8},
    "GPT2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "GPTNeoX": SIZES | {"intermediate_size": 128},
    "OPT": SIZES | {"ffn_dim": 128, "word_embed_proj_dim": 32},
    "Mixtral": WIDE | {"num_local_experts": 4, "num_experts_per_tok": 2},
}
INNER = {"GPT2": (128, False), "GPTNeoX": (128, False), "OPT": (128, False)}


def build(family: str, device: str = "cpu", **changes: Any) -> Any:
    config = getattr(transformers, f"{family}Config")(**FAMILIES[family] | IDS | changes)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", experts_implementation="eager"
        ).eval()


def counted(model: Any, tokens: int) -> tuple[int, int]:
    """Operations that torch counts in a forward and a backward pass over one row, all positions answered."""
    ids = torch.arange(tokens)[None] % 8
    with FlopCounterMode(display=False) as forward:
        loss = model(ids, use_cache=False).logits.float().logsumexp(-1).sum()
    with FlopCounterMode(display=False) as back:
        loss.backward()
    return forward.get_total_flops(), back.get_total_flops()


def square(tokens: int) -> Work:
    """What torch counts for a row: it does not leave out the future."""
    return Work(tokens, tokens * tokens, tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family: str) -> None:
    model = build(family)
    shape = shape_of(model)
    forward, backward = counted(model, 24)
    # rotary angles are products that the formulas leave out
    assert cost.forward(shape, square(24)) == pytest.approx(forward, rel=0.02)
    assert cost.backward(shape, square(24)) == pytest.approx(backward, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_is_read_from_any_family_on_the_meta_device(family: str) -> None:
    shape = shape_of(build(family, "meta"))
    inner, gated = INNER.get(family, (48, True))
    inner *= 2 if family == "Mixtral" else 1
    assert (shape.layers, shape.hidden, shape.heads, shape.vocab) == (2, 32, 4, 64)
    assert (shape.kv_heads, shape.head_dim) == (4 if family in INNER else 2, 16 if family == "Gemma2" else 8)
    assert shape.gated is gated and shape.intermediate == pytest.approx(inner, abs=2)
    assert shape.parameters == shape.trained == sum(p.numel() for p in build(family).parameters())
    assert shape.tied is (family in {"Qwen2", "Gemma2", "GPT2", "OPT"})
    if family != "Mixtral":  # whose router is counted, too
        sizes = (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.intermediate)
        assert shape.trunk == cost.dense_trunk(*sizes, gated=gated)


def state_space() -> Any:
    sizes = {"vocab_size": 261, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2}
    return AutoModelForCausalLM.from_config(transformers.MambaConfig(**sizes, **IDS)).eval()


def test_a_model_without_attention_has_no_heads_and_is_trained(plain_model: Path, tmp_path: Path) -> None:
    model = state_space()
    shape = shape_of(model)
    assert (shape.heads, shape.kv_heads, shape.head_dim, shape.layers) == (0, 0, 0, 2)
    linear = [each for each in model.backbone.modules() if isinstance(each, torch.nn.Linear)]
    assert shape.trunk == sum(each.weight.numel() for each in linear)
    assert shape.parameters == sum(each.numel() for each in model.parameters())

    model.save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(plain_model).save_pretrained(tmp_path / "model")
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "abc", "completion": "def"}\n' * 4)
    result = alignzoo.run(
        "sft",
        out=tmp_path / "run",
        policy={"model": str(tmp_path / "model"), "device": "cpu", "max_new_tokens": 4},
        data={"path": str(data), "heldout": 0},
        schedule={"steps": 2, "prompts": 2},
        evaluate={"prompts": 0},
    )
    (stage,) = result.stages
    assert stage.steps == 2


def test_adapters_save_what_the_formula_says() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("Llama"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    shape = shape_of(model)
    assert shape.adapted and shape.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert shape.trunk == shape_of(build("Llama")).trunk + shape.trained
    assert shape.intermediate == 48 and shape.gated
    forward, backward = counted(model, 24)
    assert cost.forward(shape, square(24)) == pytest.approx(forward, rel=0.02)
    # the lowest layer's frozen weights pass no gradient further down: up to 1/layers less than the formula
    assert cost.backward(shape, square(24)) == pytest.approx(backward, rel=0.15)


def test_activations_are_those_that_autograd_keeps() -> None:
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []
    config = transformers.LlamaConfig(**FAMILIES["Llama"] | IDS)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(torch.arange(200)[None] % 64, use_cache=False)
    assert cost.activation_bytes(shape_of(model), 200) == pytest.approx(sum(kept.values()), rel=0.05)


@pytest.mark.parametrize(("needs", "critic"), [({"logprobs"}, "separate"), ({"logprobs", "values"}, "separate")])
def test_a_policy_tells_its_shape(plain_model: Path, needs: set[str], critic: Any) -> None:
    policy = HF(model=str(plain_model), max_new_tokens=4, device="cpu", critic=critic).load(frozenset(needs))
    assert policy.info().shape is not None
    shape = policy.info().shape
    assert isinstance(shape, ModelShape) and (shape.hidden, shape.layers) == (16, 1)
    assert (shape.critic is None) is ("values" not in needs)
