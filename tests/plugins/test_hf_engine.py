"""The decode engine against transformers' generate and the plain forward: text, log-probabilities, distribution."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignzoo import ModelError, Prompt
from alignzoo import functional as fn
from alignzoo.batching import collate
from alignzoo.decoding import CompleteDecoding
from alignzoo.engines import Generated
from alignzoo_hf.decode import engine, slots
from alignzoo_hf.decode.engine import Pace, SlotEngine
from alignzoo_hf.decode.engines import ServedModel, opened
from alignzoo_hf.decode.graphs import Graphs
from alignzoo_hf.decode.sampling import draw, inverse_cdf, uniforms
from alignzoo_hf.decode.transformers_engines import PagedEngine, TransformersEngine, unfit
from alignzoo_hf.model import saving
from alignzoo_hf.model.spec import HF
from alignzoo_vllm import VLLM, OpenVLLM
from rounding import close, depth

STOPS = frozenset(range(1, 9))
PROMPTS = [(5, 6, 7), (8, 9, 30, 40, 50, 60), (77,) * 20, (12,), (5, 6, 7)]


def of(seed: int) -> list[int]:
    """A seed for each of them."""
    return fn.seeds(len(PROMPTS), seed)


SIZES = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": SIZES | WIDE,
    "Qwen2": SIZES | WIDE | {"tie_word_embeddings": True},
    "Qwen3": SIZES | WIDE,
    "GPT2": {"vocab_size": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "GPTNeoX": SIZES | {"intermediate_size": 48, "max_position_embeddings": 128},
    "Gemma2": SIZES
    | WIDE
    | {"sliding_window": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "Mistral": SIZES | WIDE | {"sliding_window": 5},
}


def random_model(family: str, *, scale: float = 0.15, lora: bool = False, **changes: Any) -> Any:
    """A random model whose next tokens differ in likelihood."""
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "initializer_range": scale}
    config = getattr(transformers, f"{family}Config")(**FAMILIES.get(family, {}) | ids | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        if lora:
            model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    return model


def served(model: Any) -> ServedModel:
    return ServedModel(HF(), model, None, STOPS)


def tokens(written: Sequence[Generated]) -> list[tuple[int, ...]]:
    return [each[0] for each in written]


@torch.no_grad()
def logprobs(model: Any, prompt: Sequence[int], written: Sequence[int], settings: CompleteDecoding) -> Tensor:
    """What the plain forward says of a completion, at the temperature that it was drawn at."""
    logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits / settings.temperature, -1).gather(-1, torch.tensor(written)[:, None]).squeeze(-1)


@pytest.mark.parametrize("family, lora", [*((name, False) for name in FAMILIES), ("Llama", True), ("Gemma2", True)])
def test_greedy_writing_is_generates(float64: None, family: str, lora: bool) -> None:
    model = random_model(family, lora=lora)
    assert unfit(served(model)) == ""
    written = SlotEngine(served(model)).generate(PROMPTS, 2, CompleteDecoding(30, greedy=True), seeds=of(0), at_once=4)
    for row, (ids, _, finished) in enumerate(written):
        prompt = torch.tensor([PROMPTS[row // 2]])
        expected = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=30,
            eos_token_id=sorted(STOPS),
            pad_token_id=0,
        )[0, prompt.shape[1] :].tolist()
        assert list(ids) == expected
        assert finished == (expected[-1] in STOPS)


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_logprobs_are_the_forwards(dtype: torch.dtype, family: str) -> None:
    model = random_model(family)
    settings = CompleteDecoding(25, temperature=0.8, top_k=40)
    written = SlotEngine(served(model)).generate(PROMPTS, 3, settings, seeds=of(2), at_once=5)
    assert {finished for _, _, finished in written} == {True, False}
    for row, (ids, recorded, _) in enumerate(written):
        expected = logprobs(model, PROMPTS[row // 3], ids, settings)
        close(torch.tensor(recorded), expected, depth(model.config, len(PROMPTS[row // 3]) + len(ids)))


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Gemma2"])
@pytest.mark.parametrize(
    "settings", [CompleteDecoding(25), CompleteDecoding(25, 0.7, top_k=20, top_p=0.9)], ids=["plain", "filtered"]
)
def test_neither_slots_nor_company_nor_the_engine_change_the_text(
    float64: None, family: str, settings: CompleteDecoding
) -> None:
    model = random_model(family)
    alone = SlotEngine(served(model)).generate(PROMPTS, 6, settings, seeds=of(5), at_once=512)
    assert len({len(ids) for ids in tokens(alone)}) > 5  # rows leave at many different times
    for limit in (2, 7):
        other = SlotEngine(served(model)).generate(PROMPTS, 6, settings, seeds=of(5), at_once=limit)
        assert tokens(other) == tokens(alone)
    assert tokens(TransformersEngine(served(model)).generate(PROMPTS, 6, settings, seeds=of(5), at_once=8)) == tokens(
        alone
    )
    fewer = SlotEngine(served(model)).generate(PROMPTS[:2], 6, settings, seeds=of(5)[:2], at_once=512)
    assert tokens(fewer) == tokens(alone)[:12]
    assert tokens(SlotEngine(served(model)).generate(PROMPTS, 6, settings, seeds=of(6), at_once=512)) != tokens(alone)


@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_the_pace_of_a_gpu_changes_no_text(float64: None, family: str) -> None:
    model = random_model(family)
    plain = SlotEngine(served(model))
    paced = SlotEngine(served(model))
    paced.pace = Pace(steps=4, seats=2, columns=16)
    for limit in (5, 512):
        expected = plain.generate(PROMPTS, 5, CompleteDecoding(22, 0.9), seeds=of(9), at_once=limit)
        written = paced.generate(PROMPTS, 5, CompleteDecoding(22, 0.9), seeds=of(9), at_once=limit)
        assert tokens(written) == tokens(expected)
        assert [each[2] for each in written] == [each[2] for each in expected]
        for mine, theirs in zip(written, expected, strict=True):
            close(torch.tensor(mine[1]), torch.tensor(theirs[1]), depth(model.config, 64))


def test_the_sizes_of_steps() -> None:
    pace = Pace(seats=16, columns=256)
    assert [pace.size(n, 100) for n in (1, 16, 17, 64, 65, 100)] == [16, 16, 32, 64, 100, 100]
    assert pace.size(3, 5) == 5
    assert [pace.width(w, 1000) for w in (1, 256, 257, 900)] == [256, 256, 512, 1000]
    assert Pace().size(7, 100) == 7 and Pace().width(7, 100) == 7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "GPT2", "Gemma2"])
def test_graphs_on_a_gpu_write_what_generate_does(family: str) -> None:
    model = random_model(family).cuda()
    for settings in (CompleteDecoding(40, greedy=True), CompleteDecoding(40, 0.8, top_k=30)):
        mine = SlotEngine(served(model)).generate(PROMPTS, 8, settings, seeds=of(1), at_once=16)
        theirs = TransformersEngine(served(model)).generate(PROMPTS, 8, settings, seeds=of(1), at_once=64)
        assert tokens(mine) == tokens(theirs)


class FakeGraph:
    """Keeps what is recorded instead of running it on a GPU."""

    def pool(self) -> int:
        return 7


def test_steps_are_recorded_and_replayed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def graph(recorded: FakeGraph, pool: int | None, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # another thread may train meanwhile
        told.append(f"record {pool}")
        recorded.replay = lambda: told.append("replay")  # type: ignore[attr-defined]
        yield

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    graphs = Graphs()
    for key in ("a", "a", "a", "b", "b"):
        graphs.run(key, lambda: told.append("step"))
    assert told == ["step", "record None", "step", "replay", "replay", "step", "record 7", "step", "replay"]

    @contextlib.contextmanager
    def refused(recorded: FakeGraph, pool: int | None, capture_error_mode: str) -> Iterator[None]:
        raise RuntimeError("operation not permitted when stream is capturing")
        yield

    monkeypatch.setattr(torch.cuda, "graph", refused)
    told.clear()
    for key in ("c", "c", "c", "a"):
        graphs.run(key, lambda: told.append("step"))
    assert told == ["step", "step", "step", "replay"]
    assert "cannot be recorded as CUDA graphs" in caplog.text


def test_a_completions_stream_is_its_own() -> None:
    four = uniforms([3, 4], 4, 10)
    assert four.shape == (8, 10) and four.dtype == torch.float64
    assert len(four.unique()) == 80
    two = uniforms([3, 4], 2, 25)
    assert torch.equal(two[:2, :10], four[:2]) and torch.equal(two[2:, :10], four[4:6])  # completions 0 and 1 of each


def test_small_packs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("Llama")
    whole = SlotEngine(served(model)).generate(PROMPTS, 3, CompleteDecoding(20), seeds=of(2), at_once=4)
    monkeypatch.setattr(engine, "PACK", 1)
    monkeypatch.setattr(slots, "COLUMNS", 1)
    assert tokens(
        SlotEngine(served(model)).generate(PROMPTS, 3, CompleteDecoding(20), seeds=of(2), at_once=4)
    ) == tokens(whole)


def test_each_distinct_prompt_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("Llama")
    seen = []
    former = SlotEngine.logits

    def logits(self: SlotEngine, what: Any, cache: Any, ids: Tensor, keep: Any) -> Tensor:
        seen.append((type(what).__name__, ids.numel()))
        return former(self, what, cache, ids, keep)

    monkeypatch.setattr(SlotEngine, "logits", logits)
    written = SlotEngine(served(model)).generate(PROMPTS, 4, CompleteDecoding(12), seeds=of(0), at_once=6)
    assert sum(n for kind, n in seen if kind == "Pack") == 3 + 6 + 20 + 1  # the fifth prompt is the first again
    fed = sum(len(ids) - 1 for ids in tokens(written))
    assert sum(n for kind, n in seen if kind == "Step") == fed  # no row is computed after its end


def test_the_model_is_left_as_it_was() -> None:
    model = random_model("Llama", lora=True)
    before = {name: (value, value.stride(), value.requires_grad) for name, value in model.named_parameters()}
    SlotEngine(served(model)).generate(PROMPTS, 2, CompleteDecoding(5), seeds=of(0), at_once=3)
    assert model.config._attn_implementation == "sdpa"
    for name, value in model.named_parameters():
        assert value is before[name][0] and value.stride() == before[name][1]
        assert value.requires_grad == before[name][2]


def test_a_length_limit_of_one_and_no_prompt_at_all() -> None:
    model = random_model("Llama")
    one = SlotEngine(served(model)).generate(PROMPTS, 2, CompleteDecoding(1), seeds=of(0), at_once=3)
    assert [len(ids) for ids in tokens(one)] == [1] * 10
    assert SlotEngine(served(model)).generate([], 2, CompleteDecoding(1), seeds=[], at_once=3) == []


# --- sampling ---------------------------------------------------------------------------------------------------------


def chi_squared(drawn: Tensor, probabilities: Tensor) -> tuple[float, float]:
    """The statistic, and the bound that it passes once in a million: mean + 6 standard deviations."""
    expected = probabilities * len(drawn)
    counts = torch.bincount(drawn, minlength=len(probabilities)).float()
    assert counts[probabilities == 0].eq(0).all()
    often = expected >= 5
    counts = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]]).clamp(min=1e-9)
    freedom = len(counts) - 1
    return float(((counts - expected) ** 2 / expected).sum()), freedom + 6 * math.sqrt(2 * freedom) + 1e-3


@pytest.mark.parametrize("vocabulary", [1, 2, 5, 64, 100, 1000])
def test_two_levels_draw_what_one_does(vocabulary: int) -> None:
    rng = torch.Generator().manual_seed(vocabulary)
    p = torch.softmax(3 * torch.randn(400, vocabulary, generator=rng), -1)
    p[:, ::3] = p[:, ::3] * (vocabulary < 3)  # every third cannot be
    u = torch.rand(400, dtype=torch.float64, generator=rng)
    cumulative = p.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, u[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
    drawn = inverse_cdf(p, u)
    assert (drawn == expected).float().mean() > 0.99  # a number on a boundary may fall to either side
    assert p.gather(1, drawn[:, None]).gt(0).all()


def test_the_ends_of_the_interval_are_tokens_that_can_be() -> None:
    p = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0, 0.0]]).repeat(4, 1)
    u = torch.tensor([0.0, 0.25, 1 - 2**-53, 1.0], dtype=torch.float64)
    assert inverse_cdf(p, u).tolist() == [1, 3, 4, 4]


@pytest.mark.parametrize(
    "settings",
    [
        CompleteDecoding(1),
        CompleteDecoding(1, 0.6),
        CompleteDecoding(1, 0.8, top_k=9),
        CompleteDecoding(1, 1.3, top_p=0.7),
        CompleteDecoding(1, 0.9, 20, 0.8),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(settings: CompleteDecoding) -> None:
    n = 20_000
    logits = 2 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    p = whole = torch.softmax(logits / settings.temperature, -1)
    if settings.top_k:
        p = p * (p >= p.topk(settings.top_k).values[-1])
    order = (p / p.sum()).argsort(descending=True)
    before = (p / p.sum())[order].cumsum(0) - (p / p.sum())[order]
    p = p.index_fill(0, order[before >= settings.top_p], 0)
    p = p / p.sum()
    drawn, logprob = draw(logits.expand(n, -1), uniforms(fn.seeds(n, 7), 1, 1)[:, 0], settings)
    statistic, bound = chi_squared(drawn, p)
    assert statistic < bound
    torch.testing.assert_close(logprob, whole.log()[drawn], rtol=1e-4, atol=1e-5)
    assert chi_squared(draw(logits.expand(n, -1), torch.rand(n).double() ** 1.1, settings)[0], p)[0] > bound


@pytest.mark.parametrize(
    "settings", [CompleteDecoding(2, 0.9), CompleteDecoding(2, 0.9, 10), CompleteDecoding(2, 0.9, 0, 0.8)], ids=str
)
@torch.no_grad()
def test_the_engine_writes_what_the_model_says(settings: CompleteDecoding) -> None:
    model = random_model("Llama", vocab_size=24)
    written = tokens(SlotEngine(served(model)).generate([(5, 6)], 3000, settings, seeds=[1], at_once=700))
    common = max(set(ids[0] for ids in written), key=[ids[0] for ids in written].count)

    def expected(prefix: list[int]) -> Tensor:
        p = torch.softmax(model(torch.tensor([prefix])).logits[0, -1] / 0.9, -1)
        if settings.top_k:
            p = p * (p >= p.topk(settings.top_k).values[-1])
        order = p.argsort(descending=True)
        p[order[p[order].cumsum(0) - p[order] >= settings.top_p]] = 0
        return p / p.sum()

    for drawn, prefix in (
        ([ids[0] for ids in written], [5, 6]),
        ([ids[1] for ids in written if ids[0] == common and len(ids) > 1], [5, 6, common]),
    ):
        if not drawn:
            continue
        statistic, bound = chi_squared(torch.tensor(drawn), expected(prefix))
        assert statistic < bound


# --- other engines ----------------------------------------------------------------------------------------------------


def test_a_model_of_another_kind_writes_through_generate(caplog: pytest.LogCaptureFixture) -> None:
    model = random_model(
        "Mamba",
        vocab_size=128,
        hidden_size=16,
        num_hidden_layers=1,
        state_size=4,
        conv_kernel=2,
        expand=2,
        time_step_rank=2,
    )
    chosen = opened(HF(), model, None, STOPS)
    assert "MambaForCausalLM writes through transformers' generate, more slowly: its cache is not of" in caplog.text
    assert isinstance(chosen, TransformersEngine)
    written = chosen.generate(PROMPTS[:2], 2, CompleteDecoding(6), seeds=of(0)[:2], at_once=4)
    assert tokens(chosen.generate(PROMPTS[:2], 2, CompleteDecoding(6), seeds=of(0)[:2], at_once=4)) == tokens(written)
    assert len(set(tokens(written))) > 2


def test_a_model_whose_attention_is_its_own_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("Llama")
    former = slots.Step.attend

    def slightly_off(self: Any, *args: Any) -> Tensor:
        return former(self, *args) * 1.05

    monkeypatch.setattr(slots.Step, "attend", slightly_off)
    assert "its log-probabilities differ by" in unfit(served(model))


def test_a_model_that_hides_its_window_is_found_out() -> None:
    model = random_model(
        "Qwen2", layer_types=["full_attention", "sliding_attention"], sliding_window=8, use_sliding_window=True
    )
    assert unfit(served(model)) == ""
    model.model.layers[1].self_attn.sliding_window = None
    assert "ask for the windows {None}" in unfit(served(model))


def test_transformers_continuous_batching_by_name() -> None:
    model = random_model("Llama")
    chosen = opened(HF(engine="continuous"), model, None, STOPS)
    assert isinstance(chosen, PagedEngine)
    greedy = CompleteDecoding(8, greedy=True)
    mine = SlotEngine(served(model)).generate(PROMPTS[:3], 1, greedy, seeds=of(0)[:3], at_once=4)
    assert tokens(chosen.generate(PROMPTS[:3], 1, greedy, seeds=of(0)[:3], at_once=4)) == tokens(mine)
    settings = CompleteDecoding(8, 0.7)
    written = chosen.generate(PROMPTS[:3], 4, settings, seeds=of(3)[:3], at_once=4)
    assert len(set(tokens(written))) > 6
    for row, (ids, recorded, _) in enumerate(written):
        expected = logprobs(model, PROMPTS[row // 4], ids, settings)
        torch.testing.assert_close(torch.tensor(recorded), expected, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_the_engine_is_chosen_by_name() -> None:
    model = random_model("Llama")
    kinds = {name: type(opened(HF(engine=name), model, None, STOPS)) for name in ("alignzoo", "generate")}
    assert kinds == {"alignzoo": SlotEngine, "generate": TransformersEngine}


# --- vLLM, against a stand-in with the signatures of version 0.33 -----------------------------------------------------


class FakeModel:
    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def load_weights(self, weights: Any) -> set[str]:
        self.weights = dict(weights)
        return set(self.weights)


class FakeLLM:
    """Writes each prompt's length, then an end."""

    def __init__(self, model: str, **settings: Any) -> None:
        self.config = transformers.AutoConfig.from_pretrained(model)
        self.settings, self.model, self.forgotten = settings, FakeModel(), 0
        self.autocast = torch.is_autocast_enabled("cpu")
        self.told: list[str] = []

    def sleep(self, level: int) -> None:
        self.told.append(f"sleep {level}")

    def wake_up(self, tags: Sequence[str] = ("all",)) -> None:
        self.told += [f"wake {each}" for each in tags]

    def apply_model(self, function: Any) -> list[Any]:
        self.told.append("weights")
        return [function(self.model)]

    def reset_prefix_cache(self) -> bool:
        self.forgotten += 1
        return True

    def generate(self, prompts: Any, sampling_params: Any, *, use_tqdm: bool, lora_request: Any = None) -> list[Any]:
        self.autocast |= torch.is_autocast_enabled("cpu")
        if lora_request is not None:
            name, number, path = lora_request
            self.told.append(f"{name} {number} {sorted(each.name for each in Path(path).glob('*.safetensors'))}")

        def output(prompt: Any, end: int) -> Any:
            ids = [len(prompt["prompt_token_ids"]), end]
            return SimpleNamespace(token_ids=ids, logprobs=[{t: SimpleNamespace(logprob=-float(t))} for t in ids])

        return [
            SimpleNamespace(outputs=[output(prompt, 1 if i else 99) for i in range(given.n)])
            for prompt, given in zip(prompts, sampling_params, strict=True)
        ]


def test_vllm_is_given_the_weights_before_it_writes(monkeypatch: pytest.MonkeyPatch, plain_model: Path) -> None:
    fake = SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    tokenizer = AutoTokenizer.from_pretrained(plain_model)
    model = random_model("Llama", lora=True)
    chosen = opened(HF(engine="vllm"), model, tokenizer, STOPS)
    assert isinstance(chosen, OpenVLLM)
    with torch.autocast("cpu", torch.bfloat16):
        written = chosen.generate([(5, 6), (7, 8, 9)], 2, CompleteDecoding(4, 0.7, top_k=5), seeds=[0, 1], at_once=8)
    engine = chosen.engine
    assert engine.config.model_type == "llama" and not engine.autocast
    assert engine.settings["logprobs_mode"] == "processed_logprobs"
    assert engine.settings["max_model_len"] == 128, "the model's context is shorter than the shortest engine"
    assert "distributed_executor_backend" not in engine.settings
    assert written == [
        ((2, 99), (), False),  # of a filtered distribution it knows other numbers than the forward's
        ((2, 1), (), True),
        ((3, 99), (), False),
        ((3, 1), (), True),
    ]
    assert not engine.model.weights and not engine.forgotten, "it was started with these weights"
    adamw = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(2):
        sum(weight.sum() for weight in model.parameters()).backward()
        adamw.step()
        for _ in range(3):  # handed over once, however often it is asked
            chosen.generate([(5, 6)], 1, CompleteDecoding(4, greedy=True), seeds=[0], at_once=8)
    held = engine.model.weights
    assert held["model.layers.0.mlp.up_proj.weight"].shape == (48, 32) and not [k for k in held if "lora" in k]
    assert torch.equal(held["model.norm.weight"], model.get_base_model().model.norm.weight)
    assert engine.forgotten == 2 and chosen.engine is engine


def test_vllm_rests_while_the_policy_is_trained_and_is_woken_in_two_parts(
    monkeypatch: pytest.MonkeyPatch, plain_model: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace))
    policy = HF(str(plain_model), device="cpu", max_new_tokens=4, engine=VLLM()).load(frozenset({"logprobs"}))
    prompts = [Prompt("one", chat="plain")]

    def generate() -> FakeLLM:
        policy.generate(prompts, 1, seeds=[0])
        return policy._own.engine(STOPS).engine  # type: ignore[attr-defined]

    batch = collate([policy.encode(prompts[0], ["two"])], scored=False)
    engine = generate()
    with torch.no_grad():
        policy.forward(batch, frozenset({"logprobs"}))
    assert engine.settings["enable_sleep_mode"] and not engine.told
    for _ in range(2):  # two micro-batches
        policy.forward(batch, frozenset({"logprobs"}))
    assert engine.told == ["sleep 2"]
    assert generate() is engine and generate() is engine
    assert engine.told == ["sleep 2", "wake weights", "weights", "wake kv_cache"]
    stays = opened(
        HF(engine=VLLM(rests=False)), random_model("Llama"), AutoTokenizer.from_pretrained(plain_model), STOPS
    )
    stays.generate([(5, 6)], 1, CompleteDecoding(4), seeds=[0], at_once=8)
    stays.rest()  # type: ignore[attr-defined]
    assert not stays.engine.told and not stays.engine.settings["enable_sleep_mode"]  # type: ignore[attr-defined]


def test_vllm_is_given_adapters_as_adapters(monkeypatch: pytest.MonkeyPatch, plain_model: Path) -> None:
    """The base once, without the adapter; of each version the adapter alone, by another number."""
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace))
    for name in ("vllm.lora", "vllm.lora.request"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(LoRARequest=lambda *given: given))
    tokenizer, model = AutoTokenizer.from_pretrained(plain_model), random_model("Llama", lora=True)
    saved = []
    monkeypatch.setattr(saving, "save", lambda *told: saved.append("merged"))
    chosen = opened(HF(engine=VLLM(adapters=True)), model, tokenizer, STOPS)

    def generate() -> None:
        chosen.generate([(5, 6)], 1, CompleteDecoding(4), seeds=[0], at_once=8)

    generate(), generate()
    engine: Any = chosen.engine  # type: ignore[attr-defined]
    assert not saved and engine.settings["enable_lora"] and engine.settings["max_lora_rank"] == 8  # of a rank of 4
    alone = "['adapter_model.safetensors']"
    assert engine.told == [f"policy-1 1 {alone}"] * 2
    chosen.rest()  # type: ignore[attr-defined]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(weight.requires_grad * 0.1)
    generate()
    assert engine.told[2:] == ["sleep 1", "wake all", f"policy-2 2 {alone}"] and not engine.model.weights
    chosen.close()
    plain = opened(HF(engine=VLLM(adapters=True)), random_model("Llama"), tokenizer, STOPS)
    with pytest.raises(ModelError, match=r"adapters=true hands over an adapter alone.*policy.lora_rank"):
        plain.generate([(5, 6)], 1, CompleteDecoding(4), seeds=[0], at_once=8)


def test_vllm_engines_of_several_processes_are_each_on_their_own_gpu_and_as_long_as_the_texts(
    monkeypatch: pytest.MonkeyPatch, plain_model: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace))
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = random_model("Llama", max_position_embeddings=131_072)
    chosen = opened(HF(engine="vllm"), model, AutoTokenizer.from_pretrained(plain_model), STOPS)
    lengths = []
    for length in (5, 900, 1500, 7):
        chosen.generate([(5,) * length], 1, CompleteDecoding(100), seeds=[0], at_once=8)
        lengths.append(chosen.engine.settings["max_model_len"])
    assert lengths == [1024, 1024, 2048, 2048]
    assert chosen.engine.settings["distributed_executor_backend"] == "external_launcher"


def test_without_vllm_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match=r"vLLM is not installed: pip install 'alignzoo\[vllm\]'"):
        opened(HF(engine="vllm"), random_model("Llama"), None, STOPS)
