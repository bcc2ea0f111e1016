"""TRL's side of a comparison: `python trl_now.py METHOD FOLDER OUT [VARIANT]`, driven through `turns`.

float32 without gradient checkpointing, as on our side; AdamW without weight decay at a constant rate. Everything else
is TRL's default, but for "precompute": the reference's log-probabilities computed once for all steps.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "CI": "1"}

import datasets
import torch
import transformers
import trl
from turns import Turns, distinct, given_tokens, job

COMMON: dict[str, Any] = {
    "max_steps": 1000,
    "learning_rate": 1e-6,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


class Callback(transformers.TrainerCallback):
    """Waits before each step and tells after it, when its loss is logged."""

    def __init__(self, turns: Turns, tokens: Any) -> None:
        self.turns, self.tokens = turns, tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.turns.tell(ready=True)
        self.turns.wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        if "loss" in logs:
            self.turns.done(tokens=self.tokens(), loss=logs["loss"], grad_norm=logs.get("grad_norm"))
            self.turns.wait()


class Counted:
    """GRPO's reward, which also counts what was written."""

    __name__ = "distinct"

    def __init__(self) -> None:
        self.written = 0

    def __call__(self, completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        self.written += sum(map(len, completion_ids))
        return distinct(completions)

    def tokens(self) -> int:
        written, self.written = self.written, 0
        return written


def rows(folder: Path, kind: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text().splitlines()]


def trainer(method: str, folder: Path, out: Path, variant: str, turns: Turns) -> Any:
    words = transformers.AutoTokenizer.from_pretrained(folder / "writer")
    asked = job(folder)
    options: dict[str, Any] = {"output_dir": str(out), "use_cpu": asked["device"] == "cpu", "bf16": asked["bf16"]}
    options |= COMMON

    def writer() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder / "writer", dtype=torch.float32)

    if method in ("grpo", "rloo"):
        counted, questions = Counted(), rows(folder, "prompts")
        options |= {
            "per_device_train_batch_size": asked["rows"],
            "gradient_accumulation_steps": len(questions) * asked["n"] // asked["rows"],
            "num_generations": asked["n"],
            "max_completion_length": asked["cap"],
            "use_transformers_continuous_batching": variant == "continuous",
        }
        if method == "grpo":
            kind, config = trl.GRPOTrainer, trl.GRPOConfig(loss_type="grpo", beta=0.0, **options)
        else:
            kind, config = trl.RLOOTrainer, trl.RLOOConfig(beta=0.05, **options)
        return kind(
            model=writer(),
            reward_funcs=counted,
            args=config,
            train_dataset=datasets.Dataset.from_list(questions),
            processing_class=words,
            callbacks=[Callback(turns, counted.tokens)],
        )
    kind = "sft" if method == "sft" else "pairs"
    given = rows(folder, kind)
    total = given_tokens(folder, kind)
    callbacks = [Callback(turns, lambda: total)]
    data = {"train_dataset": datasets.Dataset.from_list(given), "processing_class": words, "callbacks": callbacks}
    at_once = min(asked["rows"], len(given))
    options |= {"per_device_train_batch_size": at_once, "gradient_accumulation_steps": len(given) // at_once}
    if method == "sft":
        return trl.SFTTrainer(model=writer(), args=trl.SFTConfig(**options), **data)
    if method == "dpo":
        once = variant == "precompute"
        config = trl.DPOConfig(precompute_ref_log_probs=once, beta=0.1, **options)
        return trl.DPOTrainer(model=writer(), args=config, **data)
    scorer = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "scorer", dtype=torch.float32)
    merged = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in given]
    data["train_dataset"] = datasets.Dataset.from_list(merged)
    return trl.RewardTrainer(model=scorer, args=trl.RewardConfig(**options), **data)


def logprobs(folder: Path, out: Path, turns: Turns) -> list[float]:
    """The log-probability of each demonstration's completion, summed, by the function that GRPO trains through."""
    made = trainer("grpo", folder, out, "", turns)
    words = made.processing_class
    found = []
    for row in rows(folder, "sft"):
        prompt, completion = (words(row[side])["input_ids"] for side in ("prompt", "completion"))
        completion = [*completion, words.eos_token_id]
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            answer = made._get_per_token_logps_and_entropies(made.model, ids, torch.ones_like(ids), len(completion))
        found.append(float(answer[0].sum()))
    return found


def main() -> None:
    method, folder, out, variant = (*sys.argv[1:], "")[:4]
    torch.set_num_threads(1)
    turns = Turns(torch.cuda.max_memory_allocated)
    if method == "logprobs":
        turns.tell(logprobs=logprobs(Path(folder), Path(out), turns))
        return
    trainer(method, Path(folder), Path(out), variant, turns).train()


if __name__ == "__main__":
    main()
