"""TRL's PPO, which its release 1.12 was the last to have: `python trl_ppo.py METHOD FOLDER OUT`, through `turns`.

It runs in an environment of its own; docs/speed.md says how to make it.
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
from trl.experimental import ppo
from trl.experimental.ppo import ppo_trainer
from turns import Turns


class Callback(transformers.TrainerCallback):
    """Waits before each step and tells after it."""

    def __init__(self, turns: Turns, written: list[int]) -> None:
        self.turns, self.written = turns, written

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.turns.tell(ready=True)
        self.turns.wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        logs = state.log_history[-1]
        self.turns.done(tokens=sum(self.written), loss=logs["loss/policy_avg"], grad_norm=None)
        self.written.clear()
        self.turns.wait()


def main() -> None:
    method, folder, out = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    turns = Turns()
    words = transformers.AutoTokenizer.from_pretrained(folder / "writer", padding_side="left")

    def writer() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder / "writer", dtype=torch.float32)

    def scorer() -> Any:
        auto = transformers.AutoModelForSequenceClassification
        return auto.from_pretrained(folder / "scorer", dtype=torch.float32, num_labels=1)

    if method == "logprobs":
        turns.tell(logprobs=logprobs(folder, writer(), words))
        return
    written: list[int] = []
    truncate = ppo_trainer.truncate_response

    def counting(stop: int, pad: int, responses: Any) -> Any:
        """Its own function, and a note of how many tokens are left."""
        kept = truncate(stop, pad, responses)
        written.append(int((kept != pad).sum()))
        return kept

    ppo_trainer.truncate_response = counting
    rows = [json.loads(line) for line in (folder / "many.jsonl").read_text().splitlines()]
    data = datasets.Dataset.from_list([{"input_ids": words(row["prompt"])["input_ids"]} for row in rows])
    config = ppo.PPOConfig(
        output_dir=out,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=1,
        num_ppo_epochs=4,
        num_mini_batches=1,
        total_episodes=32 * 1000,
        response_length=128,
        temperature=1.0,
        stop_token="eos",
        kl_coef=0.05,
        num_sample_generations=0,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    ppo.PPOTrainer(
        args=config,
        processing_class=words,
        model=writer(),
        ref_model=writer(),
        reward_model=scorer(),
        value_model=scorer(),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[Callback(turns, written)],
    ).train()


@torch.no_grad()
def logprobs(folder: Path, model: Any, words: Any) -> list[float]:
    """The log-probability of each demonstration's completion, summed, by the functions that PPO trains through."""
    found = []
    for line in (folder / "sft.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, completion = (words(row[side])["input_ids"] for side in ("prompt", "completion"))
        completion = [*completion, words.eos_token_id]
        ids = torch.tensor([prompt + completion])
        logits = ppo_trainer.forward(model, ids, words.pad_token_id).logits[:, len(prompt) - 1 : -1]
        answer = ppo_trainer.selective_log_softmax(logits, torch.tensor([completion]))
        found.append(float(answer.sum()))
    return found


if __name__ == "__main__":
    main()
