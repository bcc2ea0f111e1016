"""What a run was made with beside its recipe, and whether a resumed run still has it: data, plugins, versions."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alignzoo.errors import RunError
from alignzoo.registry import Registry

PART = 64 << 20
"""Bytes: of a larger file only so much at its beginning and at its end is read."""

END = 1 << 20
"""Likewise of a file of weights, of which there may be many."""

LOADED = (".json", ".safetensors", ".jinja", ".model", ".txt", ".py")
"""Endings of what a model directory is loaded from."""

MODELS = ("model", "critic_model", "reference", "tokenizer")
"""Settings that name a model's directory."""

NOT_INPUTS = ("name", "cache", "model", "tokenizer", "critic_model", "reference", "base_url", "store")
"""Settings whose values name no file that a run reads as it is."""


def files(resolved: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of each file that a recipe's settings name: data, Python functions, templates, constitutions."""
    found = dict.fromkeys(path for path in _paths(resolved))
    return {str(path): _fingerprint(path) for path in found}


def models(resolved: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The same of the model directories that a recipe's settings name: of what a model is loaded from there."""
    return {str(path): _model(path) for path in dict.fromkeys(_directories(resolved))}


def _model(folder: Path) -> dict[str, Any]:
    files = sorted(each for each in folder.iterdir() if each.suffix in LOADED and each.is_file())
    return _together({each.name: _fingerprint(each, END) for each in files})


def _directories(value: Any) -> Iterator[Path]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            if name in MODELS and isinstance(each, str) and each and "\0" not in each and len(each) < 4096:
                path = Path(each).expanduser()
                yield from [path] if path.is_dir() else []
            else:
                yield from _directories(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _directories(each)


def _paths(value: Any, key: str = "") -> Iterator[Path]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _paths(each, str(name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each, key)
    elif isinstance(value, str) and value and key not in NOT_INPUTS and len(value) < 4096 and "\0" not in value:
        place, colon, _ = value.rpartition(":")
        module = sys.modules.get(place) if colon else None
        file = getattr(module, "__file__", None) or (place if place.endswith(".py") else value)
        path = Path(file).expanduser()
        try:
            if path.is_file() or (key.endswith("path") and path.is_dir()):
                yield path
        except OSError:  # too long for a file's name, and so no file
            return


def _fingerprint(path: Path, part: int = 0) -> dict[str, Any]:
    """A file's size and SHA-256; of a folder's files the sum and the SHA-256 of theirs."""
    if path.is_dir():
        inside = {str(each.relative_to(path)): _fingerprint(each) for each in sorted(path.rglob("*")) if each.is_file()}
        return _together(inside)
    size, part, digest = path.stat().st_size, part or PART, hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(part))
        if size > part:
            file.seek(max(part, size - part))
            digest.update(file.read(part))
    return {"size": size, "sha256": digest.hexdigest()}


def _together(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    size = sum(each["size"] for each in files.values())
    return {"size": size, "sha256": hashlib.sha256(repr(files).encode()).hexdigest()}


def used(resolved: Mapping[str, Any], registry: Registry) -> set[str]:
    """The plugins that a recipe's parts come from."""
    names = set(_names(resolved))
    return {each.plugin for each in registry.list() if {each.name, f"{each.plugin}/{each.name}"} & names}


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("name"), str):
            yield value["name"]
        yield from (name for each in value.values() for name in _names(each))
    elif isinstance(value, list | tuple):
        yield from (name for each in value for name in _names(each))


def check_unchanged(former: Mapping[str, Any], now: Mapping[str, Any], parts: set[str], path: Path) -> None:
    """Raise where data, a model or a plugin has changed since the run's start: half of it would be of another run."""
    if found := changed(former, now, parts):
        told = "\n".join(found[:8])
        raise RunError(
            f"{path.parent} was started with other data, models or plugins and cannot be resumed with these:\n{told}\n"
            "Put the former ones back, or start anew with another --out. To go on all the same, delete their entries "
            f"in {path}"
        )


def changed(former: Mapping[str, Any], now: Mapping[str, Any], parts: set[str]) -> list[str]:
    """What of the data, the models and these plugins is no longer what it was, a line each."""
    found = [
        f"  {name} has changed: it was {_about(was)}, now it is {_about(now[table][name])}"
        for table in ("files", "models")
        for name, was in dict(former.get(table, {})).items()
        if name in now.get(table, {}) and now[table][name] != was
    ]
    for name, was in dict(former.get("plugins", {})).items():
        digest, other = was.get("sha256"), now["plugins"].get(name, {}).get("sha256")
        if name in parts and digest and other and digest != other:
            found.append(
                f"  the source of the plugin {name} has changed: its SHA-256 was {digest[:12]}, now {other[:12]}"
            )
    return found


def _about(file: Mapping[str, Any]) -> str:
    return f"{file['size']} bytes, SHA-256 {file['sha256'][:12]}"


def differing(former: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The former values of what may change between two starts and can change the last bits: versions, threads."""
    found: dict[str, Any] = {}
    for table in ("versions", "machine", "plugins", "files"):
        was, is_now = dict(former.get(table, {})), now[table]
        different = {key: value for key, value in was.items() if is_now.get(key) != value}
        if different:
            found[table] = different
    return found


def in_words(former: Mapping[str, Any], now: Mapping[str, Any], parts: set[str]) -> str:
    """What differs, for a warning; "" for nothing that is worth one."""
    versions, machine = former.get("versions", {}), former.get("machine", {})
    told = [f"{name} {was}, now {now['versions'].get(name)}" for name, was in versions.items()]
    counts = [name for name in ("threads", "processes") if name in machine]
    told += [f"{machine[name]} {name}, now {now['machine'][name]}" for name in counts]
    if "instructions" in machine:
        own = now["machine"]["instructions"]
        told.append(f"the instructions {machine['instructions']} of its processor, now {own}")
    for name, was in former.get("plugins", {}).items():
        version = now["plugins"].get(name, {}).get("version")
        if name in parts and was.get("version") != version:
            told.append(f"the plugin {name} {was.get('version')}, now {version}")
    return "; ".join(told)
