"""What can be seen of a model before its weights are loaded: its files, its tokenizer, the prompts in its template."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from alignzoo.columns import answered_by, of_part
from alignzoo.cost import FLOAT32
from alignzoo.errors import ModelError
from alignzoo.interfaces import CheckContext, DiskUse, Earlier
from alignzoo.types import Prompt
from alignzoo_hf.model import adapters, behaviour, models, quantized, shards, weights
from alignzoo_hf.model.encoding import encoder
from alignzoo_hf.model.spec import HF

STAGE = "stage:"
"""What begins the name of a model that an earlier stage will have trained."""

ADAM = 3
"""Numbers in a checkpoint for each trained weight: itself, and AdamW's two moments."""


def check_policy(spec: HF, context: CheckContext) -> None:
    """A policy that is to be trained, or only to generate, and its critic."""
    models.device(spec)
    models.check_answers(context.needs)
    if unused := spec.unused():
        raise ModelError(
            f"{', '.join(unused)} would change nothing: lora_rank is 0, and no new adapter is made. Give "
            f"policy.lora_rank=16, say, or leave {'it' if len(unused) == 1 else 'them'} out"
        )
    quantized.check(spec)
    writes = not models.only_scores(context.needs)
    if context.ahead:
        behaviour.check(spec, writes=writes, sharded=shards.is_sharded(spec, context.needs))
    _check_kind(spec.model, context.earlier, scores=False if writes else None)
    whole = _resolved(spec, context.earlier)
    if whole is None:
        return  # a policy of another plugin trains the model that this one starts from
    model, tokenizer = _model(whole, spec.model, scores=not writes), _tokenizer(whole)
    check_token_ids(tokenizer, model)
    critic = spec.critic_model if answered_by(context.needs, "critic") and spec.critic == "separate" else ""
    if critic and not critic.startswith(STAGE):
        _model(replace(whole, model=critic), critic, scores=True)
        check_same_tokens(tokenizer, critic, spec)
    if spec.reference:
        _check_kind(spec.reference, context.earlier, scores=False)
        if not spec.reference.startswith(STAGE):
            _model(replace(whole, model=spec.reference), spec.reference, scores=False)
            check_same_tokens(tokenizer, spec.reference, spec, "reference")
    encodes = encoder(whole, model, tokenizer, writes=writes)
    with _told_by_the_run():
        for prompt in context.first:
            encodes.group(prompt, () if context.online else prompt.completions)


def check_reward(spec: HF, context: CheckContext) -> None:
    """A model that scores what the policy generates."""
    models.device(spec)
    _check_kind(spec.model, context.earlier, scores=True)
    whole = _resolved(spec, context.earlier)
    if whole is None:
        return
    if whole.model == spec.model:
        models.check_scorer(spec, spec.model)
    model, tokenizer = _model(whole, spec.model, scores=True), _tokenizer(whole)
    check_token_ids(tokenizer, model)
    encodes = encoder(whole, model, tokenizer, writes=False)
    with _told_by_the_run():
        for prompt in context.first:
            encodes.group(prompt, prompt.completions[:1])


def check_judge(spec: HF, context: CheckContext) -> None:
    """A language model that judges, in its own words."""
    chats = _chats(context.first)
    asked = Prompt(({"role": "user", "content": "Is it?"},)) if chats else Prompt("Is it?", chat="plain")
    check_policy(spec, replace(context, needs=frozenset(), first=[asked], online=True))


@contextmanager
def _told_by_the_run() -> Iterator[None]:
    """What an encoder warns of, the run's own encoder tells once: a check only raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _chats(prompts: Sequence[Prompt]) -> bool:
    return any(not isinstance(prompt.messages, str) for prompt in prompts)


def _check_kind(model: Any, earlier: Mapping[str, Earlier], *, scores: bool | None) -> None:
    """Raise where an earlier stage trains a model of another kind; None: either kind will do."""
    name = model.removeprefix(STAGE) if isinstance(model, str) and model.startswith(STAGE) else ""
    if not name or name not in earlier or scores is None:
        return
    trained = bool(of_part(earlier[name].needs, "scorer"))
    if trained and not scores:
        raise ModelError(f"model = {model!r}: that stage trains a reward model, which scores and does not generate")
    if scores and not trained:
        raise ModelError(f"model = {model!r}: that stage trains a language model, which has no head that scores")


def _resolved(spec: HF, earlier: Mapping[str, Earlier]) -> HF | None:
    """The settings with the model that an earlier stage starts from, and its tokenizer and template, which it saves;
    None where the policy there is another plugin's."""
    while isinstance(spec.model, str) and spec.model.startswith(STAGE):
        before = earlier[spec.model.removeprefix(STAGE)].policy
        if not isinstance(before, HF):
            return None
        tokenizer, template = spec.tokenizer or before.tokenizer, spec.chat_template or before.chat_template
        spec = replace(spec, model=before.model, tokenizer=tokenizer, chat_template=template, score_label=0)
    return spec


def _model(whole: HF, named: Any, *, scores: bool) -> Any:
    """The model on the meta device, which has no memory: every name and shape in its files, and no number."""
    if not isinstance(whole.model, str):
        return whole.model
    weights.check_directory(adapters.base_of(whole.model))
    if whole.model != named:  # an earlier stage's start: of whichever kind it is
        scores = models.is_scorer(models.config(whole))
    label = whole.score_label if scores else 0
    asked = HF(whole.model, attention=whole.attention, score_label=label, trust_remote_code=whole.trust_remote_code)
    return _on_meta(asked, scores, _state(whole.model))


@functools.lru_cache(maxsize=8)
def _on_meta(spec: HF, scores: bool, state: tuple[object, ...]) -> Any:
    load = models.loaded_scorer if scores else models.loaded_lm
    return load(spec, spec.model, device_map={"": "meta"})


def _tokenizer(whole: HF) -> Any:
    if (whole.tokenizer and not isinstance(whole.tokenizer, str)) or not isinstance(whole.model, str):
        return models.tokenizer(whole)
    source = whole.tokenizer or whole.model
    return _read_tokenizer(source, whole.chat_template, whole.trust_remote_code, _state(source))


@functools.lru_cache(maxsize=8)
def _read_tokenizer(source: str, template: str, trust: bool, state: tuple[object, ...]) -> Any:
    return models.tokenizer(HF(model=source, chat_template=template, trust_remote_code=trust))


def _state(source: str) -> tuple[object, ...]:
    """What changes when a directory does: what was read before is then read again."""
    folder = Path(source)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple((file.name, *file.stat()[6:9]) for file in files if file.is_file())


# --- tokens -----------------------------------------------------------------------------------------------------------


def check_token_ids(tokenizer: Any, model: Any) -> None:
    """Raise where the tokenizer has a token for which the model has no embedding; a padding token needs none."""
    rows = models.bare(model).get_input_embeddings().weight.shape[0]
    added = tokenizer.added_tokens_decoder
    if len(tokenizer) <= rows and all(number < rows for number in added):
        return
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if number >= rows}
    beyond.pop(tokenizer.pad_token_id, None)
    if beyond:
        number = min(beyond)
        raise ModelError(
            f"the tokenizer has {beyond[number]!r} as token {number}, the first of {len(beyond)} beyond the model's "
            f"{rows} embeddings: resize the model by model.resize_token_embeddings(len(tokenizer)) and save it, or "
            "give the tokenizer that belongs to it"
        )


def check_same_tokens(tokenizer: Any, source: str, spec: HF, key: str = "critic_model") -> None:
    """Raise where a model that reads the policy's token ids was trained on another tokenizer's."""
    folder, own = Path(source), Path(str(tokenizer.name_or_path))
    if _same_file(folder / "tokenizer.json", own / "tokenizer.json"):
        return
    if folder.is_dir() and not any(folder.glob("*token*")) and not any(folder.glob("vocab*")):
        return  # there is nothing to compare with
    other = _read_tokenizer(source, "", spec.trust_remote_code, _state(source)).get_vocab()
    mine = tokenizer.get_vocab()
    different = [token for token, number in mine.items() if other.get(token) != number]
    if different:
        whose = "the critic's" if key == "critic_model" else "the reference's"
        token = min(different, key=mine.__getitem__)
        there = f"{other[token]}" if token in other else "none"
        raise ModelError(
            f"policy.{key} {source} has another tokenizer than the policy: {token!r} is token {mine[token]} of the "
            f"policy's and {there} of {whose}, the first of {len(different)}. It reads the policy's tokens: give one "
            f"that was trained with the same tokenizer, or leave {key} empty"
        )


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.read_bytes() == second.read_bytes()
    except OSError:  # one of them is not there, or is on the hub: the vocabularies are compared
        return False


# --- the disk ---------------------------------------------------------------------------------------------------------


def disk_use(spec: HF, context: CheckContext) -> DiskUse:
    """A model directory in the precision that it is saved in, and a checkpoint of what is trained, in float32."""
    whole = _resolved(spec, context.earlier)
    if whole is None:
        return DiskUse(0, 0)
    model = _model(whole, spec.model, scores=models.only_scores(context.needs))
    width = models.stored_dtype(whole).itemsize
    numbers = sum(each.numel() for each in model.parameters())
    critics = len(answered_by(context.needs, "critic")) if spec.critic == "separate" else 0
    trained = (_adapter(model, spec.lora_rank) if spec.lora_rank else numbers) * (1 + critics)
    return DiskUse(width * numbers, ADAM * FLOAT32 * trained)


def _adapter(model: Any, rank: int) -> int:
    """The weights of an adapter on every linear layer: its largest size."""
    linear = [each for each in models.bare(model).modules() if isinstance(each, nn.Linear)]
    return sum(rank * (each.in_features + each.out_features) for each in linear)
