"""Tokenizers and chat templates as real families have them, small: trained on a few sentences, nothing downloaded."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = (
    "the quick brown fox says hello to a lazy dog , and counts one two three 1234 ! why not ? \n\n yes and no : "
    "please tell me what the capital city is and answer good or bad . \n user assistant system model think "
)

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}{% endif %}"
    + CHATML
    + OPEN
)
QWEN3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% set why = m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m['content'] "
    "else '' %}{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.last %}{{ '<think>\n' + why + '\n</think>\n\n' }}"
    "{% endif %}{{ said + '<|im_end|>\n' }}{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
    "'<|im_end|>\n' }}{% endif %}{% endfor %}" + OPEN
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + "
    "m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + '<|end|>' }}"
    "{% elif m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set sys = '<<SYS>>\n' + "
    "messages[0]['content'] + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set sys = '' %}{% endif %}"
    "{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (sys if loop.first else '') + "
    "m['content'] | trim + ' [/INST]' }}{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)


def byte_level(specials: list[str], bos: str = "", *, digits: bool = False) -> Tokenizer:
    """As GPT-2's, Llama-3's and Qwen's: every byte has a letter; a start token where one is named."""
    tokenizer = Tokenizer(models.BPE())
    own = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    split = pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*own, split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([WORDS * 20], trainer)
    return _begun(tokenizer, bos)


def sentencepiece(specials: list[str], bos: str, prefix: str) -> Tokenizer:
    """As Llama-2's (a space is put before every text: "prepend") and newer conversions' (Metaspace: "first")."""
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    letters = sorted(
        {*WORDS, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789[]/<>|:.,!?'", "▁"} - {"\n"}
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", *specials, *bytes_], initial_alphabet=letters
    )
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator([WORDS.replace("\n", " ") * 20], trainer)
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    tokenizer = Tokenizer(models.BPE(state["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if prefix == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens(specials)
    return _begun(tokenizer, bos)


def _begun(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def families() -> dict[str, tuple[Any, frozenset[int], int]]:
    """By name: the tokenizer with its template, the tokens that end a text, and the tokenizer's own end."""
    llama3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    gemma = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    chatml = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    r1 = ["<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"]
    sp = ["<s>", "</s>"]
    made = {
        "llama-2": (sentencepiece(sp, "<s>", "prepend"), LLAMA2, "<s>", "</s>", []),
        "mistral": (sentencepiece(sp, "<s>", "first"), MISTRAL, "<s>", "</s>", []),
        "zephyr": (sentencepiece(sp, "<s>", "always"), ZEPHYR, "<s>", "</s>", []),
        "llama-3": (byte_level(llama3, llama3[0]), LLAMA3, llama3[0], "<|eot_id|>", ["<|end_of_text|>"]),
        "gemma": (byte_level(gemma, "<bos>", digits=True), GEMMA, "<bos>", "<eos>", ["<end_of_turn>"]),
        "qwen-2.5": (byte_level(chatml), QWEN25, None, "<|im_end|>", ["<|endoftext|>"]),
        "qwen-3": (byte_level(chatml), QWEN3, None, "<|im_end|>", ["<|endoftext|>"]),
        "r1": (byte_level(r1, "<|begin|>"), R1, "<|begin|>", "<|end|>", []),
        "chatml": (byte_level(chatml), CHATML, None, "<|im_end|>", []),
        "none": (byte_level(["<|endoftext|>"]), None, None, "<|endoftext|>", []),
    }
    found = {}
    for name, (tokenizer, template, bos, eos, more) in made.items():
        tokens = {"eos_token": eos} | ({"bos_token": bos} if bos else {})
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)
        fast.chat_template = template
        ends = frozenset(fast.convert_tokens_to_ids([eos, *more]))
        found[name] = (fast, ends, fast.eos_token_id)
    return found
