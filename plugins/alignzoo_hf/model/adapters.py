"""LoRA adapters by peft: put into a model, saved beside it, and merged where a directory holds one."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from alignzoo.allocator import give_back
from alignzoo.errors import ModelError
from alignzoo_hf.model.spec import HF

ADAPTER = "adapter"
"""The folder of a model's directory that holds the adapter which the model was trained by."""

PATTERN = re.compile(r"[*+?\[\](){}|^$\\]")
"""What tells a regular expression from names."""


def adapted(model: Any, spec: HF, task: str) -> Any:
    """The model with a LoRA adapter, which alone is trained, in float32."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        target_modules=_targets(spec.lora_targets),
        use_rslora=spec.lora_rslora,
        use_dora=spec.lora_dora,
        task_type=task,
    )
    try:
        with torch.random.fork_rng():  # adapters start at random: the same in every run
            torch.manual_seed(0)
            adapted = get_peft_model(model, config)
    except (ValueError, re.error) as error:
        raise ModelError(f"policy.lora_targets = {spec.lora_targets!r} does not fit this model: {error}") from error
    return _by_columns(_trained_in_float32(adapted))


def _targets(named: str) -> str | list[str]:
    """What peft takes: "all-linear" or a regular expression as they stand, or names."""
    if named == "all-linear" or PATTERN.search(named):
        return named
    return [name.strip() for name in named.split(",")]


def is_adapter(source: str) -> bool:
    """Whether a directory holds an adapter and no model."""
    folder = Path(source)
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").exists()


def beneath(source: str) -> str:
    """The model that the adapter of a directory was trained on, which may itself be an adapter's."""
    from peft import PeftConfig

    base = PeftConfig.from_pretrained(source).base_model_name_or_path
    if not base:
        raise ModelError(f"{source} holds an adapter that names no model: its base_model_name_or_path is empty")
    return str(base)


def base_of(source: str) -> str:
    """The model beneath all adapters; any other directory or hub id as it is."""
    while is_adapter(source):
        source = beneath(source)
    return source


def tokens_of(source: str) -> str:
    """Where the tokenizer of a model lies: with its adapter, where that has one."""
    return source if any(Path(source).glob("tokenizer*")) else base_of(source)


def continued(model: Any, source: str) -> Any:
    """The model with the adapter of a directory, which alone is trained on, in float32."""
    from peft import PeftModel

    with _blamed(source):
        found = PeftModel.from_pretrained(model, source, is_trainable=True)
    return _by_columns(_trained_in_float32(found))


def _trained_in_float32(model: Any) -> Any:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model.eval()


@torch.no_grad()
def _by_columns(model: Any) -> Any:
    """The model with the frozen weights of its linear layers lying by columns in a CPU's memory, as generation reads
    them: it makes copies of others. A head that is an embedding, too, lies by rows, which are looked up."""
    tables = {id(each.weight) for each in model.modules() if isinstance(each, torch.nn.Embedding)}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if type(module) is not torch.nn.Linear or weight.requires_grad or weight.device.type != "cpu":
            continue
        if id(weight) not in tables and any(weight.stride()):  # without strides it has no numbers yet
            give_back()  # what loading threads free, no other thread takes
            weight.data = weight.data.t().contiguous().t()
    return model


def outlined(model: Any, source: Any) -> Any:
    """A model without weights, with the adapter that a directory holds, where it holds one."""
    if not isinstance(source, str) or not is_adapter(source):
        return model
    from peft import PeftConfig, get_peft_model

    config = PeftConfig.from_pretrained(source)
    config.inference_mode = False  # as it is saved; it is trained on
    return get_peft_model(model, config)


@contextlib.contextmanager
def _blamed(source: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"the adapter {source} does not fit {beneath(source)}: {lines[0][:300]}") from error


def with_adapter(model: Any, source: str) -> Any:
    """The model with the adapter of a directory merged into its weights."""
    from peft import PeftModel

    if model.device.type == "meta":
        return model
    with _blamed(source):
        found = PeftModel.from_pretrained(model, source).merge_and_unload()
    found.name_or_path = source  # another adapter on it belongs to what it is now
    return found.requires_grad_(True)


@torch.no_grad()
def share_frozen(model: Any, other: Any) -> None:
    """Let the frozen weights of a model that equal another's lie in memory once. Adapters and heads stay each one's
    own; nothing writes to what is frozen."""
    known = {name: weight for name, weight in other.named_parameters() if not weight.requires_grad}
    for name, weight in model.named_parameters():
        same = known.get(name)
        if same is None or weight.requires_grad or (same.dtype, same.shape) != (weight.dtype, weight.shape):
            continue
        if torch.equal(weight, same):
            weight.data = same.data


def has_adapter(model: Any) -> bool:
    """Whether peft has put an adapter into it."""
    return hasattr(model, "merge_and_unload")


def rank(model: Any) -> int:
    """The largest rank of its adapter's matrices; 0 of a model without one."""
    if not has_adapter(model):
        return 0
    configs = model.peft_config.values()
    return max(max((each.r, *(each.rank_pattern or {}).values())) for each in configs)


def sharing(model: Any) -> Any:
    """A copy of a model whose weights lie in the memory of its own: nothing may be written to them in place. Weights of
    few bits are the same objects, which know their scales."""
    same = {
        id(each): torch.nn.Parameter(each.detach(), requires_grad=False) if each.is_floating_point() else each
        for each in model.parameters()
    }
    return copy.deepcopy(model, same)


def save_adapter(model: Any, tokenizer: Any, path: Path) -> None:
    """The adapter alone, for peft and for engines that take adapters, with its tokenizer."""
    model.save_pretrained(path, save_embedding_layers=False)  # no vocabulary was changed
    finish(tokenizer, path)


def finish(tokenizer: Any, path: Path) -> None:
    """What an adapter's directory has beside its weights."""
    tokenizer.save_pretrained(path)
    with contextlib.suppress(FileNotFoundError):
        (path / "README.md").unlink()  # peft's own card says nothing yet
