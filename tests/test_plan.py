"""The plan's arithmetic on shapes small enough to count by hand, and what it says where memory does not suffice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

import alignzoo.planning.dry_run
import alignzoo.planning.estimate
from alignzoo.allocator import HOLES
from alignzoo.errors import RunError
from alignzoo.machine import HERE, Machine, assumed, bytes_of
from alignzoo.planning.estimate import AHEAD, AHEAD_CACHE, COPIES, FREED, IN_EVALUATIONS, StagePlan, plan
from alignzoo.recipe import load
from alignzoo.registry import Registry

LAYER = 4 * 16 * 16 + 3 * 16 * 32  # queries, keys, values, output; gate, up, down
WRITING = {"schedule__prompts": 2, "sampler__n": 4, "optimizer__epochs": 1, "reward": [{"name": "length"}]}
VOCAB = 261
PARAMETERS = VOCAB * 16 * 2 + LAYER + 3 * 16  # embedding and head; one layer; three norms


def rows_of(folder: Path, rows: list[dict[str, str]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def planned(recipe: str, model: Path, data: str, length: int = 0, timed: bool = False, **more: Any) -> StagePlan:
    keys = {"policy.model": str(model), "data.path": data, "data.heldout": 0, "policy.device": "cpu"}
    keys |= {key.replace("__", "."): value for key, value in more.items()}
    (stage,) = plan(load(recipe, list(keys.items()), registry=Registry()), length=length, timed=timed)
    return stage


def test_sft_by_hand(plain_model: Path, tmp_path: Path) -> None:
    # one row of 4 + 3 bytes and its end: 8 tokens, of which the last is read by nobody's prediction but counted
    data = rows_of(tmp_path, [{"prompt": "abcd", "completion": "efg"}])
    said = planned("sft", plain_model, data, schedule__prompts=1)
    assert said.shape.parameters == said.shape.trained == PARAMETERS
    assert (said.generated, said.trained) == (0, 8)
    assert said.bytes["weights"] == said.bytes["gradients"] == 4 * PARAMETERS
    assert said.bytes["reference"] == said.bytes[IN_EVALUATIONS] == said.bytes["saving"] == 0  # nothing is held out
    assert said.bytes["adamw"] == 8 * PARAMETERS
    assert said.bytes["logits"] == 2 * 4 * 4 * VOCAB  # of the four positions that are answered: at work, and kept
    assert said.bytes["key-value cache"] == 0
    pairs = 8 * 9 // 2
    forward = 2 * LAYER * 8 + 4 * 16 * pairs + 2 * 16 * VOCAB * 4
    assert said.operations == {"update": 3 * forward}
    assert said.peak == sum(said.bytes.values()) and said.fits


def test_what_recomputation_leaves_free_is_counted(plain_model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd", "completion": "efg"}])
    plain, twice = (
        planned("sft", plain_model, data, schedule__prompts=1, policy__recompute=on) for on in (False, True)
    )
    assert (plain.bytes[FREED], twice.bytes[FREED]) == (0, HOLES)
    other = [each.peak - each.bytes["activations"] - each.bytes["program"] for each in (plain, twice)]
    assert other[1] == other[0] + HOLES  # what the program itself takes grows as it goes


def test_a_rollout_by_hand(plain_model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd"}, {"prompt": "efgh"}])
    more = WRITING | {"policy__max_new_tokens": 10}
    said = planned("grpo", plain_model, data, length=6, **more)
    assert (said.generated, said.trained) == (2 * 4 * 6, 2 * 4 * (4 + 6))
    cache = 2 * 16 * 4 * (2 * 4 * (4 + 10))  # keys and values of 16 numbers, with room up to the limit
    assert said.bytes["key-value cache"] == cache + 3 * 4 * 8 * VOCAB
    one = 4 * 5 // 2 + 4 * (5 * 4 + 5 * 6 // 2)  # the prompt once; the last token of an answer is never read
    written = 2 * (2 * LAYER * (4 + 4 * 5) + 4 * 16 * one + 2 * 16 * VOCAB * (1 + 4 * 5))
    assert said.operations["sample"] == written
    learning = sum(said.bytes[name] for name in ("gradients", "activations", "logits"))
    generating = said.bytes["key-value cache"] + said.bytes[COPIES]
    assert said.peak == sum(said.bytes.values()) - min(learning, generating)


def test_what_is_generated_ahead_lies_beside_what_is_trained(plain_model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd"}, {"prompt": "efgh"}])
    more = WRITING | {"policy__max_new_tokens": 10}
    plain, late = (
        planned("grpo", plain_model, data, length=6, schedule__ahead=k, schedule__importance_cap=2, **more)
        for k in (0, 2)
    )
    assert plain.bytes[AHEAD] == plain.bytes[AHEAD_CACHE] == 0
    assert late.bytes[AHEAD] == 3 * 4 * PARAMETERS  # the copy, and the weights of two updates that wait for it
    generating = plain.bytes["key-value cache"] + plain.bytes[COPIES]
    assert late.bytes[AHEAD_CACHE] == generating
    learning = sum(plain.bytes[name] for name in ("gradients", "activations", "logits"))
    both = late.bytes[AHEAD] + max(learning + generating, generating) - max(learning, generating)
    assert late.peak - late.bytes["program"] == plain.peak - plain.bytes["program"] + both


def test_evaluations_by_hand(plain_model: Path, tmp_path: Path) -> None:
    """Two held-out rows of 8 tokens like the training's, before and after, by the policy and by its reference."""
    rows = [{"prompt": f"abc{i}", "completion": "efg"} for i in range(4)]
    kept, shown = rows_of(tmp_path, rows[:2]), tmp_path / "heldout.jsonl"
    shown.write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    more: dict[str, Any] = {"data__heldout_path": str(shown), "evaluate__greedy": False, "policy__max_new_tokens": 5}
    said = planned("sft", plain_model, kept, schedule__prompts=1, **more)
    assert (said.evaluation.answers, said.evaluation.read) == (2 * 2, 2 * 2)
    pairs = 4 * 5 // 2 + 4 * 4 + 4 * 5 // 2  # an answer of 5 tokens, of which the last is never read
    written = 4 * (2 * LAYER * 8 + 4 * 16 * pairs + 2 * 16 * VOCAB * 5)
    answers = 4 * (2 * LAYER * 9 + 4 * 16 * (9 * 10 // 2) + 2 * 16 * VOCAB * 5)
    given = 4 * (2 * LAYER * 8 + 4 * 16 * (8 * 9 // 2) + 2 * 16 * VOCAB * 4)
    assert said.evaluation_operations == written + 2 * (answers + given)
    cache = 2 * 16 * 4 * (2 * (4 + 5))  # two answers at once
    assert said.bytes["key-value cache"] == cache + 3 * 4 * 2 * VOCAB
    assert said.bytes["reference"] == 0 and said.bytes[IN_EVALUATIONS] == 4 * PARAMETERS
    generating = said.bytes["key-value cache"] + said.bytes[COPIES]
    assert said.peak == sum(said.bytes.values()) - generating - 4 * PARAMETERS


def test_a_gpu_need_not_be_there_to_be_planned_for(plain_model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd", "completion": "efg"}])
    keys = [f"policy.model={plain_model}", f"data.path={data}", "data.heldout=0", "schedule.prompts=1"]
    (said,) = plan(load("sft", keys, registry=Registry()), machine=Machine("cuda", bytes_of("24GB")))
    assert (said.device, said.available, said.seconds) == ("cuda", 24 * 10**9, {}) and "program" not in said.bytes
    assert said.bytes["logits"] == 2 * 4 * 4 * VOCAB and assumed() == HERE
    assert bytes_of("1.5 GiB") == 3 * 2**29 and bytes_of("7") == 7
    with pytest.raises(RunError, match="found '80 apples', expected a size as 80GB"):
        bytes_of("80 apples")


def test_a_longer_completion_takes_more(plain_model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd"}, {"prompt": "efgh"}])
    more = WRITING | {"policy__max_new_tokens": 100}
    short, long = (planned("grpo", plain_model, data, length=length, **more) for length in (10, 0))
    assert long.generated == 2 * 4 * 100 > short.generated
    assert all(long.operations[phase] > short.operations[phase] for phase in ("sample", "fill", "update"))
    with pytest.warns(RuntimeWarning, match="--length 101 is above the limit of a completion, 100 tokens"):
        assert planned("grpo", plain_model, data, length=101, **more).operations == long.operations


def test_a_large_model_needs_no_weights_to_be_planned(plain_model: Path, tmp_path: Path) -> None:
    """And what would fit is said, those settings first that do."""
    large = tmp_path / "large"
    large.mkdir()
    for path in plain_model.iterdir():
        if "safetensors" not in path.name:
            (large / path.name).write_bytes(path.read_bytes())
    config = AutoConfig.from_pretrained(plain_model)
    sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    config.update(sizes | {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256})
    config.save_pretrained(large)
    data = rows_of(tmp_path, [{"prompt": "ab " * 40, "completion": "cd " * 40}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignzoo.planning.estimate, "_available", lambda device: 60 * 10**9)
        said = planned("sft", large, data, schedule__prompts=1, timed=True)
    assert said.shape.parameters == 8_030_261_248  # Llama 3 8B's
    assert said.bytes["weights"] == 4 * said.shape.parameters
    assert not said.fits and not said.seconds
    assert said.advice[0].startswith("policy.lora_rank=16") and said.advice[0].endswith("and fits")
    fitting = [each.endswith("and fits") for each in said.advice]
    assert fitting == sorted(fitting, reverse=True)


def test_seconds_are_drawn_out_over_layers(plain_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "deep"
    deep.mkdir()
    for path in plain_model.iterdir():
        if "safetensors" not in path.name:
            (deep / path.name).write_bytes(path.read_bytes())
    config = AutoConfig.from_pretrained(plain_model)
    config.update({"num_hidden_layers": 12})
    config.save_pretrained(deep)
    data = rows_of(tmp_path, [{"prompt": "abcd", "completion": "efg"}])
    timed: list[int] = []

    def seconds(self: Any) -> dict[str, float]:
        layers = self.policy.info().shape.layers
        timed.append(layers)
        return {"update": 1.0 + 0.5 * layers}

    monkeypatch.setattr(alignzoo.planning.dry_run._Trial, "seconds", seconds)
    said = planned("sft", deep, data, schedule__prompts=1, timed=True)
    assert timed == [2, 4]
    assert said.seconds == {"update": pytest.approx(1.0 + 0.5 * 12)}


def test_every_phase_is_timed(plain_model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd"}, {"prompt": "efgh"}])
    reward = [{"name": "model", "model": str(plain_model)}]
    more = {"schedule__prompts": 2, "policy__max_new_tokens": 8, "reward": reward}
    said = planned("ppo", plain_model, data, timed=True, **more)
    assert said.seconds.keys() == said.operations.keys() == {"sample", "score", "fill", "update"}
    assert all(value > 0 for value in said.seconds.values())
    assert said.shape.critic is not None and said.bytes["reward models"] > 0


@pytest.mark.parametrize(("kl", "every", "fills"), [(0.1, 0, True), (0.0, 1, True), (0.0, 5, False), (0.0, 0, False)])
def test_the_reference_is_asked_where_it_is_learnt_from_or_watched_in_every_step(
    kl: float, every: int, fills: bool, plain_model: Path, tmp_path: Path
) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd"}, {"prompt": "efgh"}])
    more = WRITING | {"policy__max_new_tokens": 8, "optimizer__kl": kl, "schedule__kl_every": every}
    assert ("fill" in planned("grpo", plain_model, data, **more).operations) == fills


def test_a_sampler_that_brings_other_rows_in_each_step_asks_the_reference_in_each(
    plain_model: Path, tmp_path: Path
) -> None:
    """What `kto` draws beside the data's answers changes from step to step; what `dpo` reads is known beforehand."""
    labels = [{"prompt": "ab", "completion": "cd", "label": True}, {"prompt": "ef", "completion": "gh", "label": False}]
    pairs = [{"prompt": "ab", "chosen": "cd", "rejected": "ef"}]
    asked = {}
    for name, rows in (("kto", labels), ("dpo", pairs)):
        (tmp_path / name).mkdir()
        said = planned(name, plain_model, rows_of(tmp_path / name, rows))
        asked[name] = ("fill" in said.operations, said.bytes["reference"] > 0)
    assert asked == {"kto": (True, True), "dpo": (False, False)}


def test_a_policy_without_an_outline(plain_model: Path, tmp_path: Path) -> None:
    data = rows_of(tmp_path, [{"prompt": "abcd", "completion": "efg"}])
    recipe = load("sft", [f"policy.model={plain_model}", f"data.path={data}"], registry=Registry())
    (stage,) = recipe.stages

    class Bare:
        def load(self, needs: frozenset[str]) -> Any: ...

    object.__setattr__(stage, "policy", Bare())
    with pytest.raises(RunError, match="Bare cannot be planned with: it has no `outline`"):
        plan(recipe, timed=False)


def test_the_command(alignzoo: Any) -> None:
    said = alignzoo("plan", "rlhf", "--no-time")
    assert said.code == 0 and said.out.count("It fits.") == 3
    assert "403 thousand parameters" in said.out and "peak" in said.out
    stages = json.loads(alignzoo("plan", "sft", "--no-time", "--json").out)["stages"]
    assert [stage["name"] for stage in stages] == ["sft"] and stages[0]["fits"] is True
