"""What others give us is read and never run: a marker that their code would leave does not appear."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignzoo.data import Data, read
from alignzoo.errors import AlignzooError, ModelError
from alignzoo.interfaces import CheckContext
from alignzoo.types import Prompt
from alignzoo_hf.model.checks import check_policy, check_reward
from alignzoo_hf.model.spec import HF


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "MARKER"


def leaving(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w').close()\n"


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def edited(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def as_pickle(model: Path, marker: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(marker)))


def with_code(model: Path, marker: Path) -> None:
    own = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoModelForSequenceClassification": "own.M"}
    edited(model / "config.json", model_type="own", auto_map=own)
    (model / "own.py").write_text(leaving(marker))


def with_tokenizer_code(model: Path, marker: Path) -> None:
    own = {"AutoTokenizer": ["own.T", "own.T"]}
    edited(model / "tokenizer_config.json", tokenizer_class="T", auto_map=own)
    (model / "tokenizer.json").unlink()
    (model / "own.py").write_text(leaving(marker))


def with_template(model: Path, marker: Path) -> None:
    reach = "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (model / "chat_template.jinja").write_text(reach.replace("MARK", str(marker)))


MODELS: dict[str, Callable[[Path, Path], None]] = {
    "a pickle of weights": as_pickle,
    "code of its own": with_code,
    "a tokenizer with code": with_tokenizer_code,
    "a template that reaches out": with_template,
}


@pytest.mark.parametrize("use", ["policy", "reward", "critic", "reference"])
@pytest.mark.parametrize("what", MODELS)
def test_a_model_directory(what: str, use: str, tiny_model: Path, tmp_path: Path, marker: Path) -> None:
    if what == "a template that reaches out" and use in ("critic", "reference"):
        pytest.skip("their templates are not used")
    bad = Path(shutil.copytree(tiny_model, tmp_path / "bad"))
    MODELS[what](bad, marker)
    asked = [Prompt(({"role": "user", "content": "hello"},))]
    context = CheckContext(frozenset({"logprobs", "values"}), asked, asked, True, False, {})
    roles = {"policy": "model", "reward": "model", "critic": "critic_model", "reference": "reference"}
    spec = HF(**{"model": str(tiny_model), "device": "cpu", roles[use]: str(bad)})
    with pytest.raises(ModelError if "template" not in what else AlignzooError):
        (check_reward if use == "reward" else check_policy)(spec, context)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_recipe_or_a_manifest(form: str, recipe: Path, alignzoo: Any, tmp_path: Path, marker: Path) -> None:
    reward = tmp_path / "vowels.py"
    reward.write_text(leaving(marker) + reward.read_text())
    if form == "json":
        from alignzoo.recipe import load
        from alignzoo.registry import Registry

        resolved = load(recipe, registry=Registry()).resolved
        recipe = tmp_path / "manifest.json"
        recipe.write_text(json.dumps({"recipe": resolved}))
    for command in (["run", recipe, "--out", tmp_path / "out"], ["plan", recipe]):
        said = alignzoo(*command)
        if command[0] == "run":
            assert said.code == 1 and "this recipe would run code that its file names" in said.err
        assert not marker.exists(), command
    text = recipe.read_text()
    if form == "json":
        changed = text.replace('"trust_remote_code": false', '"trust_remote_code": true')
    else:
        changed = text.replace("max_new_tokens = 4", "max_new_tokens = 4, trust_remote_code = true")
    assert changed != text
    recipe.write_text(changed)
    said = alignzoo("run", recipe, "--out", tmp_path / "out")
    assert said.code == 1 and "trust_remote_code" in said.err and not marker.exists()


def test_a_dataset(tmp_path: Path, marker: Path) -> None:
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "dataset.py").write_text(leaving(marker))
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    files = {"rows.pkl": pickle.dumps(Evil(marker)), "rows.parquet": pickle.dumps(Evil(marker))}
    files |= {"rows.jsonl": b'{"py/object": "os.mkdir"}', "rows.csv": b"=cmd|' /C calc'!A0\n"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for path in (folder, *(tmp_path / name for name in files)):
        with pytest.raises(AlignzooError):
            read(Data(str(path)))
        assert not marker.exists()


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% for %}", "{0.__class__}", "%(x)s", "</answer>", "[bold]x[/bold]"])
def test_a_prompt_is_text(text: str, tiny_model: Path) -> None:
    from alignzoo.judging import instructed
    from alignzoo.types import Question
    from alignzoo_hf.model import models
    from alignzoo_hf.model.template import Template

    template = Template(models.tokenizer(HF(str(tiny_model))), None, print)
    assert text in template.render(({"role": "user", "content": text}, {"role": "assistant", "content": "a"}))
    asked = instructed(Question(text, (text, "b"), "which?"))
    written = str(asked)
    assert "49" not in written  # nothing was evaluated
    assert written.count("</answer>") == 2  # the answers' own ends alone: what an answer holds is escaped
