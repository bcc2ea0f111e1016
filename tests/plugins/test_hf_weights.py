"""A model is what its directory says: missing, extra, mismatched and infinite weights are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from alignzoo import Context, ModelError, Prompt
from alignzoo.batching import collate
from alignzoo.interfaces import CheckContext, Earlier
from alignzoo.rewards import score
from alignzoo_hf.model.policy import HFPolicy
from alignzoo_hf.model.spec import HF
from alignzoo_hf.reward import ModelReward

Weights = dict[str, Tensor]

WRITES, SCORES, VALUES = frozenset({"logprobs"}), frozenset({"scores"}), frozenset({"logprobs", "values"})


def context(needs: frozenset[str], **changes: Any) -> CheckContext:
    prompts = [Prompt("one, two, ", ("three", "four"))]
    settings: dict[str, Any] = {"prompts": prompts, "first": prompts, "online": False, "ask": False, "earlier": {}}
    return CheckContext(needs, **settings | changes)


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory, plain_model: Path) -> Path:
    """A tiny model of three layers and a head of its own."""
    path = tmp_path_factory.mktemp("deep") / "model"
    shutil.copytree(plain_model, path)
    config = LlamaConfig.from_pretrained(path, num_hidden_layers=3, tie_word_embeddings=False)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory, plain_model: Path) -> Path:
    """A tiny reward model."""
    path = tmp_path_factory.mktemp("scorer") / "model"
    shutil.copytree(plain_model, path)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    model.save_pretrained(path)
    return path


def damaged(source: Path, to: Path, weights: Callable[[Weights], Weights] | None = None, **config: Any) -> str:
    """A copy with other weights or another configuration."""
    shutil.copytree(source, to)
    if weights is not None:
        file = to / "model.safetensors"
        save_file(weights(load_file(file)), file, metadata={"format": "pt"})
    settings = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(settings | config))
    return str(to)


def without(name: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: value for key, value in weights.items() if name not in key}


def filled(name: str, value: float) -> Callable[[Weights], Weights]:
    return lambda weights: {key: each.fill_(value) if name in key else each for key, each in weights.items()}


def pickled(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


NAMES: dict[str, tuple[Callable[[Weights], Weights] | None, dict[str, Any], str]] = {
    "missing": (without("layers.1.mlp.up"), {}, r"lacks weights .*model\.layers\.1\.mlp\.up_proj\.weight"),
    "more layers asked for": (None, {"num_hidden_layers": 5}, r"lacks weights .*layers\.3\..* of 18"),
    "fewer layers asked for": (None, {"num_hidden_layers": 1}, r"layers 1 to 2, and it says num_hidden_layers = 1"),
    "extra": (lambda w: w | {"odd.weight": torch.zeros(2)}, {}, r"does not ask for, odd\.weight the first of 1"),
    "mismatched": (None, {"vocab_size": 10}, r"holds .*shape \(261, 16\), and its config\.json asks for \(10, 16\)"),
    "whole numbers": (lambda w: {k: v.to(torch.int8) for k, v in w.items()}, {}, r"whole numbers \(I8\) in .*weight"),
}
"""What the files' names and shapes tell, before a weight is loaded."""


@pytest.mark.parametrize("case", NAMES)
def test_a_model_of_other_weights_is_refused_before_it_is_loaded_and_when_it_is(
    tmp_path: Path, deep_model: Path, case: str
) -> None:
    weights, config, says = NAMES[case]
    spec = HF(model=damaged(deep_model, tmp_path / "m", weights, **config), max_new_tokens=4, device="cpu")
    with pytest.raises(ModelError, match=says):
        spec.check(context(WRITES))
    with pytest.raises(ModelError, match=says):
        spec.load(WRITES)


@pytest.mark.parametrize(
    ("value", "what"), [(float("nan"), "NaN"), (float("inf"), "infinity"), (float("-inf"), "infinity")]
)
def test_weights_that_are_not_finite_are_named(tmp_path: Path, deep_model: Path, value: float, what: str) -> None:
    source = damaged(deep_model, tmp_path / "m", filled("layers.2.post", value))
    with pytest.raises(ModelError, match=rf"holds {what} in model\.layers\.2\.post_attention_layernorm\.weight: "):
        HF(model=source, max_new_tokens=4, device="cpu").load(WRITES)


def test_a_good_model_passes(deep_model: Path, scorer: Path) -> None:
    for needs in (WRITES, SCORES, VALUES):
        HF(model=str(deep_model), max_new_tokens=4, device="cpu").check(context(needs))
    critic = HF(model=str(deep_model), critic_model=str(scorer), max_new_tokens=4, device="cpu")
    critic.check(context(VALUES))
    assert critic.load(VALUES) is not None
    ModelReward(str(scorer)).check(context(WRITES, online=True))


@pytest.mark.parametrize("damage", ["truncated", "empty", "none", "pickle", "index"])
def test_files_that_are_not_whole_safetensors_are_refused(tmp_path: Path, plain_model: Path, damage: str) -> None:
    path = tmp_path / "m"
    shutil.copytree(plain_model, path)
    file = path / "model.safetensors"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "none":
        file.unlink()
    elif damage == "pickle":
        pickled(path)
    else:
        file.rename(path / "model-00001-of-00002.safetensors")
        names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    says = {
        "truncated": r"model\.safetensors is damaged: ",
        "empty": r"model\.safetensors is damaged: ",
        "none": "holds no weights: it has no model.safetensors",
        "pickle": r"as pickles, which can run code\. .*convert them once: python -c ",
        "index": r"lacks 1 of the 2 files .*model-00002-of-00002\.safetensors the first",
    }[damage]
    spec = HF(model=str(path), max_new_tokens=4, device="cpu")
    for attempt in (lambda: spec.check(context(WRITES)), lambda: spec.load(WRITES)):
        with pytest.raises(ModelError, match=says):
            attempt()


# --- scorers ----------------------------------------------------------------------------------------------------------


def test_a_reward_model_is_refused_that_has_no_head_or_is_a_language_model(
    tmp_path: Path, scorer: Path, plain_model: Path
) -> None:
    headless = damaged(scorer, tmp_path / "headless", without("score"))
    for model, says in (
        (headless, r"lacks weights .*score\.weight"),
        (str(plain_model), "is no reward model: it holds"),
    ):
        with pytest.raises(ModelError, match=says):
            ModelReward(model, device="cpu").check(context(WRITES, online=True))
        with pytest.raises(ModelError, match=says):
            ModelReward(model, device="cpu").open(Context("rm"))


def test_a_critic_of_another_tokenizer_is_refused(tmp_path: Path, plain_model: Path, deep_model: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(plain_model, other)
    table = json.loads((other / "tokenizer.json").read_text())
    ids = table["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    Tokenizer.from_str(json.dumps(table)).save(str(other / "tokenizer.json"))
    spec = HF(model=str(deep_model), critic_model=str(other), max_new_tokens=4, device="cpu")
    says = rf"'a' is token {ids['b']} of the policy's and {ids['a']} of the critic's, the first of 2"
    with pytest.raises(ModelError, match=says):
        spec.check(context(VALUES))
    with pytest.raises(ModelError, match=says):
        spec.load(VALUES)


def test_a_token_beyond_the_embedding_is_refused(tmp_path: Path, plain_model: Path) -> None:
    path = tmp_path / "m"
    shutil.copytree(plain_model, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(path)
    spec = HF(model=str(path), max_new_tokens=4, device="cpu")
    says = r"'<call>' as token 261, the first of 1 beyond the model's 261 embeddings: resize the model"
    for attempt in (lambda: spec.check(context(WRITES)), lambda: spec.load(WRITES)):
        with pytest.raises(ModelError, match=says):
            attempt()


def test_a_tokenizer_by_itself_may_be_given(tmp_path: Path, plain_model: Path) -> None:
    AutoTokenizer.from_pretrained(plain_model).save_pretrained(tmp_path / "tokenizer")
    spec = HF(model=str(plain_model), tokenizer=str(tmp_path / "tokenizer"), max_new_tokens=4, device="cpu")
    spec.check(context(WRITES))
    assert spec.load(WRITES) is not None


def test_a_reward_model_without_a_padding_token_scores_batches_in_plain_transformers(
    tmp_path: Path, plain_model: Path
) -> None:
    path = tmp_path / "m"
    shutil.copytree(plain_model, path)
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(path)
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"pad_token_id": None}))
    policy = HF(model=str(path), max_new_tokens=4, device="cpu").load(SCORES)
    assert isinstance(policy, HFPolicy)
    torch.nn.init.normal_(policy.scorer.score.weight)
    policy.save(tmp_path / "saved")
    texts = ("three", "four and five")
    groups = score([policy.encode(Prompt("one, two, ", texts), texts)], [], policy)
    assert groups
    batch = collate([group for group in _unscored(groups)])
    live = policy.forward(batch, SCORES).scores
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    reader = AutoTokenizer.from_pretrained(tmp_path / "saved")
    rows = reader([f"one, two, {text}<|end|>" for text in texts], return_tensors="pt", padding=True)
    with torch.no_grad():
        alone = saved(rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(live, alone, rtol=1e-5, atol=1e-6)


def _unscored(groups: Any) -> Any:
    from dataclasses import replace

    from alignzoo import Score

    return [replace(group, scores=tuple(Score(0.0) for _ in group.completions)) for group in groups]


# --- live models ------------------------------------------------------------------------------------------------------


def test_a_live_peft_model_keeps_its_base_frozen(tmp_path: Path, plain_model: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(plain_model)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    tokenizer = AutoTokenizer.from_pretrained(plain_model)
    policy = HF(model=model, tokenizer=tokenizer, max_new_tokens=4, device="cpu").load(VALUES)
    assert isinstance(policy, HFPolicy)
    parameters = policy.parameters()
    language = next(group["params"] for group in parameters if len(group["params"][0]) in (2, 16))
    critic = [each for group in parameters for each in group["params"] if all(each is not one for one in language)]
    assert {tuple(each.shape) for each in language} == {(2, 16), (16, 2)}
    assert len(critic) == len(list(AutoModelForCausalLM.from_pretrained(plain_model).base_model.parameters())) + 1
    with pytest.raises(ModelError, match=r"has an adapter of peft's already"):
        HF(model=model, tokenizer=tokenizer, lora_rank=2, device="cpu").load(WRITES)
    for each in model.parameters():
        each.requires_grad = False
    with pytest.raises(ModelError, match=r"is_trainable=True"):
        HF(model=model, tokenizer=tokenizer, device="cpu").load(WRITES)


def test_a_live_model_keeps_what_it_has_frozen(plain_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(plain_model)
    model.get_input_embeddings().requires_grad_(False)
    policy = HF(model=model, tokenizer=AutoTokenizer.from_pretrained(plain_model), device="cpu").load(WRITES)
    assert "lm.model.embed_tokens.weight" not in policy.state()
    assert "lm.model.norm.weight" in policy.state()


# --- models that earlier stages will have trained ---------------------------------------------------------------------


def test_a_model_that_an_earlier_stage_trains_has_its_tokenizer_and_template(plain_model: Path) -> None:
    start = HF(model=str(plain_model), chat_template="chatml", max_new_tokens=4, device="cpu")
    earlier = {"sft": Earlier(start, WRITES), "rm": Earlier(HF(model="stage:sft", max_new_tokens=4), SCORES)}
    chat = Prompt(({"role": "user", "content": "hi"},), ("yes",))
    told = context(WRITES, earlier=earlier, first=[chat], prompts=[chat])
    HF(model="stage:sft", max_new_tokens=4, device="cpu").check(told)
    ModelReward("stage:rm", device="cpu").check(told)
    with pytest.raises(ModelError, match="that stage trains a reward model, which scores and does not generate"):
        HF(model="stage:rm", max_new_tokens=4, device="cpu").check(told)
    with pytest.raises(ModelError, match="that stage trains a language model, which has no head that scores"):
        ModelReward("stage:sft", device="cpu").check(told)


def test_what_is_written_is_counted(plain_model: Path) -> None:
    spec = HF(model=str(plain_model), max_new_tokens=4, device="cpu")
    numbers = sum(each.numel() for each in AutoModelForCausalLM.from_pretrained(plain_model).parameters())
    use = spec.disk_use(context(WRITES))
    assert (use.model, use.checkpoint) == (4 * numbers, 12 * numbers)  # float32; and AdamW's two moments with it
    assert spec.disk_use(context(VALUES)).checkpoint == 24 * numbers  # the critic's trunk is trained, too
