"""Models whose weights are read when they are sharded: a layer at a time from the files, of which each process keeps
its part, so that none ever holds a whole model."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from alignzoo import processes
from alignzoo.errors import ModelError
from alignzoo_hf.forward import layers
from alignzoo_hf.model import adapters, models, weights
from alignzoo_hf.model.spec import HF

log = logging.getLogger("alignzoo")


class Files:
    """The weights of a directory by name, and those of a model that are still to be read from there."""

    def __init__(self, folder: Path, *, exchanges: bool) -> None:
        self.folder, self.exchanges = folder, exchanges
        index = folder / weights.INDEX
        if index.exists():
            self.lies: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:
            self.lies = {}
            for file in sorted(folder.glob("*.safetensors")):
                with safe_open(file, "pt") as opened:
                    self.lies |= dict.fromkeys(opened.keys(), file.name)
        self.names: dict[int, str] = {}
        """The names of the weights without numbers, by their identity."""
        self.zero: tuple[str, ...] = ()
        """What the names of weights begin with that start at 0."""

    def wants(self, model: Any, *, new: str = "", other: str = "") -> bool:
        """Whether the files have what a model asks for, under its own names, and no more."""
        asked, stored = {name for name, _ in model.named_parameters()}, model.state_dict().keys()
        lacking = [name for name in asked - self.lies.keys() if not (new and name.startswith(new))]
        extra = [name for name in self.lies.keys() - stored if not (other and re.search(other, name))]
        buffers = {name for name, _ in model.named_buffers()}  # of which none is read
        return not (lacking or extra or buffers & stored)

    def fill(self, model: Any, module: nn.Module) -> None:
        """Read the weights of a model's module that has none yet, and give it the forward passes that whole models
        have."""
        if not self.names:  # an adapter lies around its layers by now
            named = models.bare(model).named_parameters()
            self.names = {id(weight): name.replace(".base_layer.", ".") for name, weight in named}
        # One for each that is blank, so that a tied head stays tied. Nobody else keeps it: it goes as it is spread.
        read: dict[nn.Parameter, nn.Parameter] = {}
        for part in module.modules():
            for key, weight in part.named_parameters(recurse=False):
                if _is_blank(weight):
                    if weight not in read:
                        numbers = self._tensor(self.names[id(weight)], weight)
                        read[weight] = nn.Parameter(numbers, requires_grad=weight.requires_grad)
                    part._parameters[key] = read[weight]
        if self.exchanges:
            layers.exchange(module)

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        if self.zero and name.startswith(self.zero):
            return torch.zeros(like.shape, dtype=like.dtype)
        with safe_open(self.folder / self.lies[name], "pt") as opened:
            found: Tensor = opened.get_tensor(name)
        if found.shape != like.shape:
            raise ModelError(
                f"{self.folder} holds {name} of shape {tuple(found.shape)}, and its config.json asks for "
                f"{tuple(like.shape)}: give the config.json that was saved with these weights"
            )
        weights.check_all_finite({name: found}, str(self.folder))
        return found.to(like.dtype)


_files: WeakKeyDictionary[nn.Module, Files] = WeakKeyDictionary()


def files_of(model: Any) -> Files | None:
    """Where the weights of a model are to be read; None where it has them."""
    return _files.get(models.bare(model))


def _is_blank(weight: Tensor) -> bool:
    return weight.device.type == "meta" or (weight.numel() > 1 and not any(weight.stride()))


def stand_in(model: Any) -> None:
    """Give weights without numbers the look of some in memory, of which they take none: an adapter goes where they
    are."""
    if files_of(model) is None:
        return
    known: dict[int, nn.Parameter] = {}
    for part in model.modules():
        for key, weight in part.named_parameters(recurse=False):
            if id(weight) not in known:
                one = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
                known[id(weight)] = nn.Parameter(one, requires_grad=weight.requires_grad)
            part._parameters[key] = known[id(weight)]


def start_at_zero(model: Any, begins: str) -> None:
    """Let the weights of these names start at 0, in a model that has none yet."""
    files = files_of(model)
    if files is not None:
        files.zero = (*files.zero, begins)


def language_model(spec: HF, dtype: torch.dtype) -> Any:
    """The model of a directory without its weights; None where they cannot be read one by one, which is told."""
    config = models.config(spec)
    models.check_writes(config, spec.model)
    return _model(AutoModelForCausalLM, spec, spec.model, config, dtype)


def scorer(spec: HF, source: str, dtype: torch.dtype, outputs: int = 1) -> Any:
    """The same of a model that scores; a language model's trunk gets a head that starts at 0."""
    config, trained = models.scorer_config(spec, source, outputs)
    heads = {} if trained else {"new": "score.", "other": models.LANGUAGE_HEAD}
    found = _model(AutoModelForSequenceClassification, spec, source, config, dtype, **heads)
    if found is not None and not trained:
        start_at_zero(found, "score.")
    return found


def _model(auto: Any, spec: HF, source: str, config: Any, dtype: torch.dtype, *, new: str = "", other: str = "") -> Any:
    options = models.attention(spec, config)
    why = _obstacle(spec, source, config, scores=auto is AutoModelForSequenceClassification)
    if not why:
        weights.check_files(source)
        with init_empty_weights(include_buffers=False), weights.quietly():
            model = auto.from_config(config, dtype=dtype, trust_remote_code=spec.trust_remote_code, **options)
        model.tie_weights()
        files = Files(Path(source), exchanges=spec.attention == "auto")
        if files.wants(model, new=new, other=other):
            _files[model] = files
            model.name_or_path = source
            if (Path(source) / GENERATION_CONFIG_NAME).is_file() and model.can_generate():
                model.generation_config = GenerationConfig.from_pretrained(source)
            return model.eval()
        why = "its files name weights otherwise than the model does"
    if not processes.index():
        log.warning("each process reads all of %s into the machine's memory before it keeps its part: %s", source, why)
    return None


def _obstacle(spec: HF, source: str, config: Any, *, scores: bool) -> str:
    if not Path(source).is_dir():
        return "it is no local directory"
    if adapters.is_adapter(source):
        return "an adapter is merged into it first"
    if getattr(config, "quantization_config", None):
        return "its weights are quantised"
    if spec.lora_rank and scores:
        return "its head is trained beside an adapter"
    return "DoRA starts from the norms of all its weights" if spec.lora_dora else ""
