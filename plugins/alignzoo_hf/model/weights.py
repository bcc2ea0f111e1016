"""A model is what its directory says: the weights that its configuration asks for, no others, and all of them finite.

transformers fills what a file lacks with random numbers, drops what the configuration does not ask for, and goes on.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from alignzoo.errors import ModelError
from alignzoo.files import check_kind, read_object

GENERATION = "generation_config.json"
INDEX = "model.safetensors.index.json"
LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
"""The number of a layer in a weight's name."""

INTEGERS = ("I8", "U8", "I16", "I32", "I64", "BOOL")
"""What safetensors calls whole numbers."""


def loaded(auto: Any, source: str, *, new: str = "", other: str = "", **options: Any) -> Any:
    """A model by `from_pretrained`, refused where its weights are not what its configuration asks for.

    `new` begins the names of weights that may be missing, a head's that is to be trained; `other` those of weights
    that are left out on purpose, another head's.
    """
    check_files(source)
    options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, found = from_pretrained(auto, source, **options)
    _check_names(model, found, source, new, other)
    if model.device.type != "meta":
        check_finite(model, source)
    return model


def from_pretrained(auto: Any, source: str, **options: Any) -> Any:
    """What an Auto class of transformers loads. Raises ModelError where it cannot."""
    check_directory(source, asked=("tokenizer_config.json" if "Tokenizer" in auto.__name__ else "config.json"))
    try:
        with quietly():
            return auto.from_pretrained(source, **options)
    except Exception as error:  # transformers raises many kinds; each means that this model cannot be used
        lines = str(error).strip().splitlines() or [type(error).__name__]
        told = " ".join(lines[:3])[:400]
        cure = "Give policy.model the directory of a transformers model, or a hub id that can be reached"
        if "safetensors" in told and "pytorch_model" in told:
            cure = conversion(source)
        raise ModelError(f"cannot load {source!r} as {auto.__name__}: {told}. {cure}") from error


def check_directory(source: str, asked: str = "config.json") -> None:
    """Raise where a path is no model directory, for lack of this file; it must not be looked for on the hub."""
    path = Path(source)
    if not source:
        raise ModelError("no model: set policy.model to a directory or a hub id")
    if path.is_symlink():
        check_kind(path, ModelError)  # a link to nowhere must not be looked for on the hub either
    if path.is_dir():
        _check_holds(path, asked)
    elif path.exists():
        raise ModelError(f"{source} is no directory: give the directory of a transformers model, or a hub id")
    elif path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, near, n=2)
        raise ModelError(
            f"the model directory {source} does not exist" + (f": did you mean {close[0]!r}?" if close else "")
        )


def _check_holds(path: Path, asked: str) -> None:
    if (path / "config.json").exists() or (path / asked).exists():
        return
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path} holds an adapter, not a whole model: merge it into its base, by peft's "
            "AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload().save_pretrained(...), and give the result"
        )
    found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise ModelError(f"{path} is no transformers model directory: it has no {asked} (found: {found})")


def check_files(source: str) -> None:
    """Raise where a directory has no readable safetensors; what the hub holds is seen when it is loaded."""
    folder = Path(source)
    check_directory(source)
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).exists():
        files = _indexed(folder / INDEX)
    if not files:
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
            raise ModelError(f"{source} holds its weights as pickles, which can run code. {conversion(source)}")
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8])
        raise ModelError(f"{source} holds no weights: it has no model.safetensors (found: {found})")
    if (folder / GENERATION).exists():
        # transformers drops one that it cannot read, and with it the tokens at which texts end
        read_object(folder / GENERATION, fix="Put it back, or delete it.", error=ModelError)
    quantised = "quantization_config" in (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    for file in files:
        _check_file(file, quantised=quantised)


def conversion(source: str) -> str:
    """How a model whose weights are pickles becomes one of safetensors."""
    return (
        'Only safetensors are loaded. If you trust the files, convert them once: python -c "from transformers import '
        f"AutoModelForCausalLM as M, AutoTokenizer as T; M.from_pretrained('{source}').save_pretrained('converted'); "
        f"T.from_pretrained('{source}').save_pretrained('converted')\""
    )


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read: {error}: download the model again") from error
    files = [index.parent / name for name in names]
    lacking = [file.name for file in files if not file.exists()]
    if lacking:
        raise ModelError(
            f"{index.parent} lacks {len(lacking)} of the {len(files)} files that its {INDEX} names, {lacking[0]} the "
            "first: the files are not all there"
        )
    return files


def _check_file(file: Path, *, quantised: bool) -> None:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys() if not quantised else ():
                kind = opened.get_slice(name).get_dtype() if name.endswith("weight") else ""
                if kind in INTEGERS:
                    raise ModelError(
                        f"{file} holds whole numbers ({kind}) in {name}, and config.json knows no quantization_config: "
                        "give the model in floating-point numbers"
                    )
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged: {error}. Download or save the model again") from error


def _check_names(model: Any, found: Any, source: str, new: str, other: str) -> None:
    missing = sorted(name for name in found["missing_keys"] if not (new and name.startswith(new)))
    if missing:
        raise ModelError(
            f"{source} lacks weights that its config.json asks for, {missing[0]} the first of {len(missing)}: "
            "the two are of different models, or the files are not all there"
        )
    mismatched = sorted(found["mismatched_keys"])
    if mismatched:
        name, there, asked = mismatched[0][:3]
        raise ModelError(
            f"{source} holds {name} of shape {tuple(there)}, and its config.json asks for {tuple(asked)}, the first of "
            f"{len(mismatched)} weights of another shape: give the config.json that was saved with these weights"
        )
    extra = sorted(name for name in found["unexpected_keys"] if not (other and re.search(other, name)))
    if extra:
        raise ModelError(f"{source} holds weights that its config.json does not ask for, {_extra(model, extra)}")


def _extra(model: Any, extra: list[str]) -> str:
    layers = model.config.get_text_config().num_hidden_layers
    beyond = {int(match.group(1)) for name in extra if (match := LAYER.search(f".{name}"))}
    if beyond and min(beyond) >= layers:
        return (
            f"those of layers {min(beyond)} to {max(beyond)}, and it says num_hidden_layers = {layers}: they would be "
            "dropped, and another model trained. Give the config.json that was saved with these weights"
        )
    return (
        f"{extra[0]} the first of {len(extra)}: they would be dropped, and another model trained. Give the config.json "
        "that was saved with these weights, or remove the weights from the files"
    )


@torch.no_grad()
def check_finite(model: Any, source: str) -> None:
    """Raise where a weight is NaN or infinite, by its name."""
    check_all_finite(dict(model.named_parameters()), source)


def check_all_finite(named: Mapping[str, torch.Tensor], source: str) -> None:
    """The same of weights by their names."""
    bad = [name for name, each in named.items() if not _is_finite(each)]
    if bad:
        weight = named[bad[0]]
        what = "NaN" if bool(weight.isnan().any()) else "infinity"
        more = f" and in {len(bad) - 1} other weights" if len(bad) > 1 else ""
        raise ModelError(f"{source} holds {what} in {bad[0]}{more}: its training diverged, or the file is damaged")


def _is_finite(weight: torch.Tensor) -> bool:
    """In one pass: the smallest and the largest number are NaN where any is."""
    if not weight.is_floating_point() or not weight.numel():
        return True
    return bool(torch.stack(weight.aminmax()).isfinite().all())


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' bars and reports of heads that are meant to be new."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
