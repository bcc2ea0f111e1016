"""The card of a model that a run has trained: the README.md beside it, with what the hub reads at its top."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignzoo.printable import fenced
from alignzoo.report.toml_text import toml_text

Figures = Mapping[str, float]

HUB = re.compile(r"[\w.-]+/[\w.-]+")
"""The name of a model or a dataset on the hub."""


def model_card(
    name: str,
    optimizer: str,
    resolved: Mapping[str, Any],
    before: Figures,
    after: Figures,
    *,
    scores: bool,
    start: str = "",
    adapter: bool = False,
) -> str:
    """The README.md of a model's directory; `scores` of one that scores and does not write, `start` is the directory or
    hub id of the model that was trained, `adapter` of the directory of its adapter alone."""
    auto = "AutoModelForSequenceClassification" if scores else "AutoModelForCausalLM"
    what = "scores answers" if scores else "writes"
    shown = _of_own_data(resolved)
    base = _Base.of(start)
    data = shown.get("data")
    path = str(data.get("path", "")) if isinstance(data, Mapping) else ""
    return f"""---
{_metadata(name, optimizer, after, base, path, scores=scores, adapter=adapter)}
---

# {name}

A model that {what}, aligned with `{optimizer}` by alignzoo, a zoo of algorithms that align language models.

{_origin(base, path, shown)}

## Load it

```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH_TO_THIS_FOLDER")
model = {auto}.from_pretrained("PATH_TO_THIS_FOLDER")
```

## Results

On held-out prompts, before and after this stage; `_greedy` without sampling, ± the standard error over prompts.

{_results(before, after)}

## Recipe

The whole stage, every default filled in. Paths are cut to their last part.

{fenced(toml_text(_without_paths(shown)).strip(), "toml")}
"""


class _Base:
    """What is known of the model that was trained: its name on the hub, and its licence."""

    def __init__(self, name: str, shown: str, licence: str) -> None:
        self.name, self.shown, self.licence = name, shown, licence

    @classmethod
    def of(cls, start: str) -> _Base:
        """From the card in its directory, or in the hub's cache; a model that a run trained has the base of its own."""
        folder = Path(start)
        if start and folder.is_dir():
            known = _read(folder / "README.md")
            base, licence = known.get("base_model"), known.get("license")
            return cls(base if isinstance(base, str) else "", folder.name, licence if isinstance(licence, str) else "")
        if not HUB.fullmatch(start):
            return cls("", Path(start).name, "")
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(start, "README.md")
        licence = _read(Path(cached)).get("license") if isinstance(cached, str) else ""
        return cls(start, start, licence if isinstance(licence, str) else "")


def _read(path: Path) -> dict[str, Any]:
    """What the hub reads of a card; nothing where there is none, or none that it could read."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        found: dict[str, Any] = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.__dict__
    except (OSError, ValueError, YAMLError):
        return {}
    return found


def _metadata(name: str, optimizer: str, after: Figures, base: _Base, path: str, *, scores: bool, adapter: bool) -> str:
    """The front matter, in the hub's own form."""
    from huggingface_hub import EvalResult, ModelCardData

    task = "text-classification" if scores else "text-generation"
    data = path if _is_hub(path) else Path(path).name or "held-out prompts"
    measured = [
        EvalResult(task, data, data, key, value, metric_name=key)
        for key, value in after.items()
        if not key.endswith("_se") and math.isfinite(value)
    ]
    written = ModelCardData(
        base_model=base.name or None,
        license=base.licence or None,
        datasets=[path] if _is_hub(path) else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task,
        tags=["alignzoo", optimizer.rpartition("/")[2]],
        model_name=name,
        eval_results=measured or None,
    )
    return str(written.to_yaml()).strip()


def _origin(base: _Base, path: str, shown: Mapping[str, Any]) -> str:
    """A line each: what was trained, on what, under which licence."""
    task = shown.get("task")
    named = task.get("name", "") if isinstance(task, Mapping) else ""
    data = path if _is_hub(path) else Path(path).name
    lines = [
        f"- Trained from: {f'`{base.shown}`' if base.shown else 'a model that was given in Python'}"
        + (f", whose base is `{base.name}`" if base.name not in ("", base.shown) else ""),
        f"- Data: `{data}`" if data else f"- Data: the task `{named}`" if named else "- Data: rows given in Python",
        f"- Licence: {base.licence or 'that of the model it was trained from, which says none here'}",
    ]
    return "\n".join(lines)


def _is_hub(path: str) -> bool:
    return bool(HUB.fullmatch(path)) and not Path(path).exists()


def _of_own_data(resolved: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stage without its task, where data of the user's own stand in for it."""
    data = resolved.get("data")
    own = isinstance(data, Mapping) and (data.get("path") or data.get("rows"))
    return {key: value for key, value in resolved.items() if key != "task" or not own}


def _results(before: Figures, after: Figures) -> str:
    names = [name for name in dict.fromkeys([*before, *after]) if not name.endswith("_se")]
    if not names:
        return "It was not evaluated."
    rows = ["| figure | before | after |", "|---|---:|---:|"]
    rows += [f"| {name} | {_card_cell(before, name)} | {_card_cell(after, name)} |" for name in names]
    return "\n".join(rows)


def _card_cell(figures: Figures, name: str) -> str:
    if name not in figures:
        return ""
    error = f" ± {figures[f'{name}_se']:.2g}" if f"{name}_se" in figures else ""
    return f"{figures[name]:.4g}{error}"


def _without_paths(value: Any) -> Any:
    """The same without where things lie on this machine."""
    if isinstance(value, Mapping):
        return {key: _without_paths(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(each) for each in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~")):
        return Path(value).name
    return value
