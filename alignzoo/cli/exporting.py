"""`alignzoo export`: a model of a run as a folder to be used elsewhere, or on the hub, where that is asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from alignzoo.cli.common import Debug, NoPlugins, Plugins, console, registry, told
from alignzoo.errors import ModelError, RunError
from alignzoo.files import read_json, read_object
from alignzoo.storage import install, partial_of

ADAPTER, CONFIG = "adapter", "adapter_config.json"
WEIGHTS = ("*.safetensors", "*.bin")
"""The files that weights are in."""


@told
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A model's directory, or a run with one model.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write it; it must not exist.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="The whole model, an adapter merged into it; else an adapter alone.")
    ] = False,
    push: Annotated[str | None, typer.Option(metavar="REPO", help="Also upload it to the hub as OWNER/NAME.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A repository that is made for it is private.")] = False,
    plugin: Plugins = None,
    no_plugin: NoPlugins = None,
    debug: Debug = False,
) -> None:
    """Write a model with tokenizer, chat template, generation config and card to a folder; upload it only by --push."""
    if out is None and push is None:
        raise RunError("say where to: --out DIR for a folder, --push OWNER/NAME for the hub, or both")
    if private and push is None:
        raise RunError("--private says how a repository of --push is made, which is not given: leave it out, or push")
    if out is not None and out.exists():
        raise RunError(f"{out} exists: give --out a folder that does not, or delete it")
    source = _model(model)
    check_weights(source)
    with tempfile.TemporaryDirectory() as folder:
        written = out or Path(folder) / source.name
        partial = partial_of(written)
        alone = source / ADAPTER
        if not merge and alone.is_dir():
            _copy(alone, partial)
        elif (source / CONFIG).is_file() and merge:
            from alignzoo.cli.generating import load

            load(registry(plugin, no_plugin), str(source), {}).save(partial)
            shutil.rmtree(partial / ADAPTER)
            _carry_card(source, partial)
        else:
            _copy(source, partial, ADAPTER)
        install(partial, written)
        kind = "adapter" if (written / CONFIG).is_file() else "model"
        if kind == "adapter":
            _tell_base(written)
        size = sum(path.stat().st_size for path in written.rglob("*") if path.is_file())
        if out is not None:
            console().print(f"{kind}: {out} ({size / 1e9:.3g} GB)", markup=False, soft_wrap=True)
        if push is not None:
            console().print(f"{kind}: {upload(written, push, private=private)}", markup=False, soft_wrap=True)


def _carry_card(adapter: Path, merged: Path) -> None:
    """The adapter's card beside the whole model, of whose library it tells."""
    from huggingface_hub import ModelCard

    if (adapter / "README.md").is_file():
        card = ModelCard.load(adapter / "README.md", ignore_metadata_errors=True)
        card.data.library_name = "transformers"
        card.save(merged / "README.md")


def _tell_base(adapter: Path) -> None:
    """Say of an adapter that it lies over a model which nobody has who is given the adapter alone."""
    base = str(read_object(adapter / CONFIG, error=ModelError).get("base_model_name_or_path") or "")
    if Path(base).is_absolute() or Path(base).is_dir():
        console(stderr=True).print(
            f"the adapter lies over {base}, a directory of this machine, without which nobody can load it: give that "
            "along with it, or export the whole model by --merge",
            markup=False,
            soft_wrap=True,
        )


def _model(place: Path) -> Path:
    """A model's directory; of a run's folder its only model."""
    if any((place / name).is_file() for name in ("config.json", CONFIG)):
        return place
    inside = sorted(path.parent for path in place.glob("models/*/config.json"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise ModelError(f"{place} is a run with several models: give one, {' or '.join(map(str, inside))}")
    raise ModelError(f"{place} is no model's directory: it has neither config.json nor {CONFIG}")


def check_weights(model: Path) -> None:
    """Raise ModelError for a model's directory without weights, or without a part of them that its index names."""
    indices = sorted(model.glob("*.index.json"))
    named = {str(part) for index in indices for part in _parts(read_json(index))}
    if lacking := sorted(part for part in named if not (model / part).is_file()):
        some = f"{', '.join(lacking[:3])}{' and others' * (len(lacking) > 3)}"
        raise ModelError(f"{model} lacks {some}, which {indices[0].name} names: was it copied or downloaded whole?")
    if not any(each.stat().st_size for kind in WEIGHTS for each in model.glob(kind)):
        raise ModelError(f"{model} holds no weights ({', '.join(WEIGHTS)}): was it copied or downloaded whole?")


def _parts(index: Any) -> Iterable[Any]:
    """The files that an index of weights names."""
    found = index.get("weight_map") if isinstance(index, dict) else None
    return found.values() if isinstance(found, dict) else ()


def _copy(source: Path, partial: Path, *left_out: str) -> None:
    """Copy a model's directory. Raises ModelError for the first file that cannot be copied; nothing is left of it."""
    ignored = shutil.ignore_patterns(*left_out)
    try:
        shutil.copytree(source, partial, dirs_exist_ok=True, ignore=ignored, copy_function=_copy_file)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, shutil.Error):
            raise
        place, _, why = error.args[0][0]
        raise ModelError(
            f"{place} cannot be exported: {why}. See that it can be read, and that there is room for the copy, and "
            "export again"
        ) from error


def _copy_file(place: str, to: str) -> None:
    if os.path.islink(place) and not os.path.exists(place):
        raise _uncopied(place, f"it is a link to {os.readlink(place)}, which is not there")
    if not os.path.isfile(place):
        raise _uncopied(place, "it is no file, but a pipe, a socket or a device")
    shutil.copy2(place, to)


def _uncopied(place: str, why: str) -> ModelError:
    return ModelError(
        f"{place} cannot be exported: {why}. Put the file that belongs to the model in its place, or move it out of "
        "the model's directory, and export again"
    )


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Upload a folder to the hub; the address of what is there now comes back."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=made.repo_id, commit_message="A model that alignzoo has trained")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(
            f"{repo} could not be uploaded to the hub: {lines[0][:300]}. Is the name OWNER/NAME, the network there, "
            "and HF_TOKEN a token that may write? The export itself is whole"
        ) from error
    return str(made)
