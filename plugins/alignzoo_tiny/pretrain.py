"""The base model: a byte-level BPE tokenizer and a Llama of 0.4 million parameters, trained on the world's own text.

Copying the customer's item into the reply is what decides everything. It appears late and at once (between steps 450
and 900), and only at a high learning rate: at 4e-3 the model is fluent after 150 steps but still names a random item
after 800. Batches mix the tasks: sorted by length, that is by task, they make learning slower.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignzoo_tiny.world import Dialogue, corpus

PAD, USER, BOT, END = "<|pad|>", "<|user|>", "<|bot|>", "<|end|>"
CONTEXT = 512
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}<|user|> {{ message.content }}"
    "{% elif message.role == 'assistant' %}<|bot|> {{ message.content }}<|end|>"
    "{% else %}{{ raise_exception('This model knows the roles user and assistant, not ' ~ message.role ~ '.') }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)
"""No space before a special token, and one after `<|user|>` and `<|bot|>`, which belongs to the word that follows."""


@dataclass(frozen=True)
class Pretraining:
    """How the base model is trained: AdamW, warm-up, cosine decay."""

    dialogues: int = 20_000
    """Size of the generated corpus."""
    steps: int = 1200
    """Updates."""
    batch: int = 32
    """Dialogues per update."""
    learning_rate: float = 9e-3
    """Peak; the last is a tenth of it. Below 5e-3 the model does not learn to copy in time."""
    warmup: int = 50
    """Updates until the peak."""
    prompt_weight: float = 0.1
    """What a prompt's token counts, beside 1 for a reply's."""


def render(dialogue: Dialogue) -> str:
    """A dialogue as the chat template writes it."""
    return f"{USER} {dialogue.prompt}{BOT} {dialogue.reply}{END}"


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token for each word of these texts, with the space before it; any other text falls apart into bytes.

    Training does not know special tokens: in rendered dialogues ` ?` is merged with the `<|` that follows, so that by
    itself it is two tokens.
    A text that does not begin with a space is read as if it did, and decoding takes that space away again. So a reply
    has the same tokens by itself as after `<|bot|>`, and `decode(encode(reply)) == reply`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=4000,  # never reached: merging ends when every word is one token
        special_tokens=[PAD, USER, BOT, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, BOT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
        padding_side="left",
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The untrained model."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        top_k=0,  # else transformers samples from the 50 likeliest tokens
        bos_token_id=None,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    return model


def train_base(seed: int, settings: Pretraining) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The trained base model and its tokenizer."""
    dialogues = corpus(settings.dialogues, random.Random(f"corpus {seed}"))
    tokenizer = train_tokenizer([render(dialogue) for dialogue in dialogues])
    model = new_model(tokenizer, seed)
    adamw = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: _rate(step, settings))
    model.train()
    batches = _batches(dialogues, settings, random.Random(f"batches {seed}"))
    for batch in track(batches, "training the base model", total=settings.steps):
        loss = _loss(model, tokenizer, batch, settings.prompt_weight)
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        schedule.step()
    return model.eval(), tokenizer


def _rate(step: int, settings: Pretraining) -> float:
    """The learning rate at a step, as a share of its peak."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(settings.steps - settings.warmup, 1)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * min(done, 1))) / 2


def _batches(dialogues: list[Dialogue], settings: Pretraining, rng: random.Random) -> Iterator[list[Dialogue]]:
    """Random batches, every dialogue once before any comes again."""
    waiting: list[Dialogue] = []
    for _ in range(settings.steps):
        if len(waiting) < settings.batch:
            waiting = rng.sample(dialogues, len(dialogues))
        yield waiting[: settings.batch]
        waiting = waiting[settings.batch :]


def _loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, batch: Sequence[Dialogue], prompt_weight: float
) -> Tensor:
    """Cross-entropy per token, the prompt's tokens at a lower weight."""
    texts = [render(dialogue) for dialogue in batch]
    tokens = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
    logits = model(input_ids=tokens[:, :-1]).logits  # padded on the right, and causal: no attention mask is needed
    target = tokens[:, 1:]
    in_reply = (tokens[:, :-1] == tokenizer.convert_tokens_to_ids(BOT)).cumsum(1) > 0
    weight = torch.where(in_reply, 1.0, prompt_weight) * (target != tokenizer.pad_token_id)
    cost = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    loss: Tensor = (cost * weight.flatten()).sum() / weight.sum()
    return loss


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write an ordinary transformers directory: weights in half precision, to be loaded in single."""
    copy.deepcopy(model).half().save_pretrained(path)
    model.config.save_pretrained(path)
    tokenizer.backend_tokenizer.no_padding()  # else the padding of the last call is written, and loaded as the default
    tokenizer.save_pretrained(path, save_jinja_files=False)
