"""What both sides of a comparison are given: random models of three sizes, and texts of known lengths.

Texts are words w0 w1 ... of a word-level tokenizer, one token a word, so that text and tokens are one to one on
either side. Lengths are those of real answers: log-normal, with a few that are long.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

transformers_logging.disable_progress_bar()

EOS, PAD = 1, 0
CAP = 128
"""Tokens that a rollout may have at most."""
CONTEXT = 512


@dataclass(frozen=True)
class Size:
    """A Llama of these sizes, its head tied to its embedding."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocab: int


SIZES = {
    "S": Size(128, 4, 448, 4, 2, 512),
    "M": Size(512, 6, 1920, 8, 4, 4096),
    "V": Size(256, 4, 768, 4, 2, 50_000),
}
"""Bound by overhead, by matrix products, and by the vocabulary."""


def tokenizer(vocab: int) -> Any:
    """One token a word."""
    words = {"<pad>": PAD, "<eos>": EOS, "<unk>": 2} | {f"w{i}": i for i in range(3, vocab)}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def config(size: Size, **options: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        intermediate_size=size.intermediate,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        **{"max_position_embeddings": CONTEXT, **options},
    )


@dataclass(frozen=True)
class Rows:
    """How many of each kind of text, and how long a completion may be."""

    demonstrations: int = 16
    pairs: int = 8
    questions: int = 8
    many: int = 32
    longest: int = 256


def make(folder: Path, size: Size, *, ends: float, rows: Rows = Rows(), seed: int = 0) -> None:
    """The models, and the data of every method, in a folder. A rollout ends at each token with probability `ends`."""
    words = tokenizer(size.vocab)
    torch.manual_seed(seed)
    writer = AutoModelForCausalLM.from_config(config(size))
    let_end(writer, ends)
    scorer = AutoModelForSequenceClassification.from_config(config(size, num_labels=1))
    for part, model in (("writer", writer), ("scorer", scorer)):
        model.save_pretrained(folder / part)
        words.save_pretrained(folder / part)
    texts = _Texts(size.vocab, rows.longest, seed)
    demonstrations = [
        {"prompt": texts.prompt(), "completion": " " + texts.completion()} for _ in range(rows.demonstrations)
    ]
    pairs = [
        {"prompt": texts.prompt(), "chosen": " " + texts.completion(), "rejected": " " + texts.completion()}
        for _ in range(rows.pairs)
    ]
    questions = [{"prompt": texts.prompt()} for _ in range(rows.questions)]
    many = [{"prompt": texts.prompt()} for _ in range(rows.many)]
    for kind, made in (("sft", demonstrations), ("pairs", pairs), ("prompts", questions), ("many", many)):
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


class _Texts:
    """Random words."""

    def __init__(self, vocab: int, longest: int, seed: int) -> None:
        self.rng, self.vocab, self.longest = random.Random(seed), vocab, longest

    def words(self, n: int) -> str:
        return " ".join(f"w{self.rng.randrange(3, self.vocab)}" for _ in range(n))

    def prompt(self) -> str:
        return self.words(self.rng.randint(16, 64))

    def completion(self) -> str:
        return self.words(int(min(self.longest, max(16, self.rng.lognormvariate(math.log(self.longest / 3.2), 0.7)))))


def let_end(model: Any, ends: float, rows: int = 128) -> None:
    """Choose the end token's row of the head so that every state gives it about this probability; 0: none does.

    A ridge regression of the wanted logit on states. As an embedding the row is never read, for nothing follows an end.
    """
    vocab, weight = model.config.vocab_size, model.get_output_embeddings().weight
    model.generation_config.do_sample, model.generation_config.top_k = True, 0  # else a default of 50 cuts it off
    with torch.no_grad():
        weight[:, 0] = 0.5  # a constant that comes through to the last states, for the regression to hold on to
        tokens = torch.randint(3, vocab, (rows, 48))
        states = model.base_model(tokens, use_cache=False).last_hidden_state[:, 8:].flatten(0, 1)
        others = torch.cat([torch.logsumexp(part @ weight[3:].T, -1) for part in states.split(64)])
        wanted = others + (torch.logit(torch.tensor(ends)) if ends else -30.0)
        gram = states.T @ states + 1e-3 * len(states) * torch.eye(states.shape[1])
        weight[EOS] = torch.linalg.solve(gram, states.T @ wanted)
        weight[PAD] = torch.linalg.solve(gram, states.T @ (others - 30.0))  # padding is never written
