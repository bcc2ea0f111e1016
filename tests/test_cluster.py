"""What a GPU holds where weights are sharded: by hand, by what must not change, and against what processes hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignzoo.cli import app
from alignzoo.cost import ModelShape, dense_trunk
from alignzoo.planning.cluster import Training, advice, plan_gpu


def shape(layers: int, hidden: int, heads: int, kv_heads: int, inner: int, vocab: int, *, tied: bool) -> ModelShape:
    trunk = dense_trunk(layers, hidden, heads, kv_heads, hidden // heads, inner)
    total = trunk + hidden * (2 * layers + 1) + vocab * hidden * (1 if tied else 2)
    return ModelShape(
        layers, hidden, heads, kv_heads, hidden // heads, inner, True, vocab, total, total, trunk, tied
    )  # fmt: skip


SEVEN = shape(28, 3584, 28, 4, 18_944, 152_064, tied=False)
SEVENTY = shape(80, 8192, 64, 8, 28_672, 128_256, tied=False)
HELD = ("weights", "gradients", "adamw", "reference")


def held(training: Training) -> float:
    return sum(plan_gpu(training, 80).parts[name] for name in HELD) / 1e9


def test_what_lies_on_each_gpu_of_seven_billion() -> None:
    """16 bytes a trained weight and 2 a weight of the reference, over n; a critic 16 more. Of an adapter 2 a weight."""
    weights = SEVEN.parameters / 1e9
    assert weights == pytest.approx(7.61, abs=0.01)
    for n in (1, 8, 16):
        assert held(Training(SEVEN, n)) == pytest.approx(18 * weights / n, rel=1e-6)
        assert held(Training(SEVEN, n, critic=True)) == pytest.approx(34 * weights / n, rel=1e-6)
    adapter = Training(SEVEN, 8, trained="lora", rank=16)
    # of a layer: queries and output 2·(3584+3584), keys and values 2·(3584+512), three matrices of 3584+18944
    assert adapter.adapter == 16 * 28 * (2 * 7168 + 2 * 4096 + 3 * 22_528)
    assert held(adapter) == pytest.approx((2 * weights + 16 * adapter.adapter / 1e9) / 8, rel=1e-6)


def test_more_gpus_hold_less_each_and_copies_do_not() -> None:
    peaks = [plan_gpu(Training(SEVENTY, n, recompute=True), 80).peak for n in (1, 8, 64, 512)]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 4
    one_copy, copies = Training(SEVEN, 8), Training(SEVEN, 64, within=8)
    assert held(copies) == held(one_copy)
    between = "a micro-batch, between machines"
    assert plan_gpu(one_copy, 80).wire[between] == 0
    # each GPU has an eighth of the gradients, which eight machines add up: 2·7/8 of it comes in
    assert plan_gpu(copies, 80).wire[between] == pytest.approx(2 * 4 * SEVEN.parameters / 8 * 7 / 8, rel=1e-6)


def test_what_travels_in_a_micro_batch() -> None:
    """bf16 weights twice and float32 gradients once, but for one's own part."""
    wire = plan_gpu(Training(SEVEN, 8), 80).wire
    assert wire["a micro-batch"] == pytest.approx((2 + 2 + 4) * SEVEN.parameters * 7 / 8, rel=1e-6)
    assert plan_gpu(Training(SEVEN, 1), 80).wire == {}


def test_advice_is_what_fits() -> None:
    full = Training(SEVEN, 1, tokens=16_384)
    assert not plan_gpu(full, 80).fits
    told = advice(full, 80)
    assert [plan.fits for _, plan in told] == sorted([plan.fits for _, plan in told], reverse=True)
    assert told[0][1].fits and all(plan.peak < plan_gpu(full, 80).peak for _, plan in told)
    assert any("GPUs" in change and plan.fits for change, plan in told)
    cached = plan_gpu(replace(full, gpus=8, cached=100_000), 80)
    assert cached.parts["gathered for generating"] == 2 * SEVEN.parameters
    assert cached.peak == sum(cached.parts.values()) - min(
        sum(cached.parts[name] for name in ("gathered layers", "activations", "logits")),
        sum(cached.parts[name] for name in ("gathered for generating", "key-value cache")),
    )


def test_a_configuration_is_enough(tmp_path: Path) -> None:
    """The sizes are Qwen2.5-0.5B's: no weights, no tokenizer, no data."""
    config = {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "num_hidden_layers": 24,
        "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936,
        "tie_word_embeddings": True,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = ["plan", str(tmp_path), "--gpus", "4", "--memory", "24GB"]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)["bytes"]
    assert rows["full"]["adamw"] == pytest.approx(8 * 494_032_768 / 4, abs=4)
    assert rows["full, recomputed"]["activations"] < rows["full"]["activations"] / 5
    shown = CliRunner().invoke(app, asked).output
    assert "0.494 billion parameters on 4 GPUs of 24 GB" in shown and "policy.recompute=true" in shown


@pytest.mark.parametrize(
    ("option", "told"),
    [("optimizer.beta=1", "KEY=VALUE"), ("--length=3", "--length"), ("--device=cpu", "--device")],
)
def test_what_a_directory_s_plan_does_not_read_is_refused(tmp_path: Path, option: str, told: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = CliRunner().invoke(app, ["plan", str(tmp_path), option])
    assert done.exit_code == 1 and f"whose plan does not read {told}: plan what trains it" in done.stderr


@pytest.mark.parametrize("option", ["--gpus=4", "--micro-tokens=8"])
def test_what_a_recipe_s_plan_does_not_read_is_refused(option: str) -> None:
    done = CliRunner().invoke(app, ["plan", "dpo", option])
    assert done.exit_code == 1 and f"does not read {option.partition('=')[0]}, which are for" in done.stderr
