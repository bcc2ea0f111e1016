"""What a user can get wrong: each time a clear message on one screen, exit status 1, and earlier results untouched."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from alignzoo.cli import common

SCREEN = 24


@dataclass(frozen=True)
class Place:
    """Where a case can break something: a recipe that runs, its data, its reward and its model."""

    folder: Path
    recipe: Path

    @property
    def data(self) -> Path:
        return self.folder / "data.jsonl"

    def edit(self, old: str, new: str) -> None:
        """Change the recipe."""
        text = self.recipe.read_text()
        assert re.search(old, text)
        self.recipe.write_text(re.sub(old, lambda match: new, text))

    def rewards(self, body: str) -> None:
        """Give the reward function another body."""
        (self.folder / "vowels.py").write_text(f"def vowels(completions):\n    {body}\n")

    def model(self, change: Callable[[Path], object]) -> None:
        """A copy of the model, changed."""
        source = re.search(r'model = "([^"]+)"', self.recipe.read_text())
        assert source
        broken = self.folder / "broken"
        shutil.copytree(source[1], broken)
        change(broken)
        self.edit(r'model = "[^"]+"', f'model = "{broken}"')


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def broken_plugin(place: Place) -> list[str]:
    file = place.folder / "mine.py"
    file.write_text(
        "import alignzoo\nimport no_such_package\n\n"
        "class Mine:\n    pass\n\n"
        "@alignzoo.hookimpl\ndef alignzoo_register(zoo):\n    zoo.optimizer('mine', Mine)\n"
    )
    place.edit('name = "grpo"', 'name = "mine"')
    return ["--plugin", str(file)]


Break = Callable[[Place], object]
"""Breaks something, and may answer further arguments."""

CASES: dict[str, tuple[Break, list[str]]] = {
    # --- recipes
    "unknown field": (
        lambda p: p.edit('name = "grpo"', 'name = "grpo", kll = 0.1'),
        ["small.toml, line 9", "rl.optimizer.kll", "Did you mean 'kl'"],
    ),
    "wrong type": (
        lambda p: p.edit("steps = 2", 'steps = "two"'),
        ["line 10", "rl.schedule.steps", 'found "two" (a string)', "an integer at least 0"],
    ),
    "out of range": (
        lambda p: p.edit("lr = 1e-3", "lr = -1.0"),
        ["rl.schedule.lr", "found -1.0", "a number at least 0"],
    ),
    "TOML syntax": (
        lambda p: p.edit(r"steps = 2,", "steps = ,"),
        ["small.toml, line 10, column", "schedule = { steps = ,"],
    ),
    "unknown name": (
        lambda p: p.edit('"grpo"', '"gpro"'),
        ["line 9", "there is no optimizer 'gpro'", "Did you mean 'grpo'"],
    ),
    "no stages": (lambda p: p.recipe.write_text("seed = 1\n"), ["there is no stage", "needs one [[stage]] or more"]),
    "no such recipe": (lambda p: p.recipe.unlink(), ["small.toml", "No such file"]),
    "a bad override": (lambda p: ["schedule.stepz=3"], ["schedule.stepz=3", "no such field", "Did you mean 'steps'"]),
    "an override without a value": (lambda p: ["steps"], ["override 'steps'", "expected key=value"]),
    # --- data files
    "missing data": (lambda p: p.data.unlink(), ["data.jsonl"]),
    "not JSON at a line": (
        lambda p: p.data.write_text('{"prompt": "a"}\n{"prompt": \n'),
        ["data.jsonl", "2"],
    ),
    "wrong row shape": (lambda p: p.data.write_text('{"instrution": "a"}\n'), ["row 1", "instrution", "prompt"]),
    "empty data": (lambda p: p.data.write_text(""), ["data.jsonl holds no rows"]),
    # --- model directories
    "no such model": (
        lambda p: p.edit(r'model = "[^"]+"', f'model = "{p.folder}/no/model"'),
        ["the model directory", "does not exist"],
    ),
    "no config.json": (
        lambda p: p.model(lambda broken: (broken / "config.json").unlink()),
        ["no config.json", "tokenizer.json"],
    ),
    "corrupt weights": (
        lambda p: p.model(lambda broken: truncate(broken / "model.safetensors")),
        ["model.safetensors is damaged", "broken", "save the model again"],
    ),
    "not a model": (
        lambda p: p.model(lambda broken: (broken / "config.json").write_text('{"model_type": "teapot"}')),
        ["cannot load", "broken", "teapot"],
    ),
    "weights of another model": (
        lambda p: p.model(
            lambda broken: (broken / "config.json").write_text(
                (broken / "config.json").read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')
            )
        ),
        ["broken", "lacks weights", "layers.1"],
    ),
    # --- plugins
    "a plugin that fails to import": (broken_plugin, ["mine.py", "no_such_package", "Install the package that has it"]),
    "no such plugin file": (lambda p: ["--plugin", "nowhere.py"], ["nowhere.py", "no such Python file"]),
    "an unknown tracker": (
        lambda p: ["--tracker", "tensorbord"],
        ["no tracker 'tensorbord'", "Did you mean 'tensorboard'"],
    ),
    # --- rewards
    "a reward that raises": (
        lambda p: p.rewards("return [1 / 0 for _ in completions]"),
        ["reward 'python'", "ZeroDivisionError: division by zero"],
    ),
    "a reward of NaN": (
        lambda p: p.rewards("return [float('nan')] * len(completions)"),
        ["nan", "a finite number of at most 1e+15 in size is expected"],
    ),
    "too few scores": (lambda p: p.rewards("return [1.0]"), ["vowels", "1 scores for", "one per completion"]),
    "scores of the wrong type": (
        lambda p: p.rewards("return ['good'] * len(completions)"),
        ["vowels", "'good'", "expected a number or None"],
    ),
    "no list of scores": (lambda p: p.rewards("return 1.0"), ["vowels", "returned float", "expected a list of"]),
    "no such reward function": (
        lambda p: (p.folder / "vowels.py").write_text("def vowel(c): ..."),
        ["Did you mean 'vowel'"],
    ),
}


@pytest.fixture
def place(tmp_path: Path, recipe: Path) -> Place:
    return Place(tmp_path, recipe)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_clear(said, words: list[str]) -> None:
    assert said.code == 1
    assert said.err.count("error: ") >= 1 and "Traceback" not in said.err + said.out
    message = said.err[said.err.index("error: ") :]
    assert len(message.splitlines()) <= SCREEN, message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("case", CASES)
def test_malformed_input(alignzoo, place: Place, case: str) -> None:
    change, words = CASES[case]
    further = change(place)
    arguments = further if isinstance(further, list) else []
    assert_clear(alignzoo("run", place.recipe, "--trust", *arguments, "--out", place.folder / "new"), words)
    assert not (place.folder / "new" / "result.json").exists()


def test_earlier_results_are_left_alone(alignzoo, place: Place) -> None:
    out = place.folder / "out"
    assert alignzoo("run", place.recipe, "--trust", "--out", out, "--quiet").code == 0
    former = snapshot(out)
    assert_clear(alignzoo("run", place.recipe, "--trust", "--out", out), ["is not empty", "another --out", "--resume"])
    other = alignzoo("run", place.recipe, "--trust", "seed=5", "--out", out, "--resume")
    assert_clear(other, ["started with another recipe", "seed: was 0, now 5"])
    place.rewards("raise ValueError('late')")
    assert_clear(alignzoo("run", place.recipe, "--trust", "--out", place.folder / "new"), ["ValueError: late"])
    assert snapshot(out) == former


def test_nothing_to_resume(alignzoo, place: Place) -> None:
    assert_clear(
        alignzoo("run", place.recipe, "--trust", "--out", place.folder / "new", "--resume"), ["no run to resume"]
    )
    assert_clear(alignzoo("run", place.recipe, "--trust", "--resume"), ["--out DIR"])


def test_a_run_that_failed_before_it_began_can_be_tried_again(alignzoo, place: Place) -> None:
    rows = place.data.read_text()
    place.data.write_text("")
    assert alignzoo("run", place.recipe, "--trust", "--out", place.folder / "new", "--quiet").code == 1
    place.data.write_text(rows)
    assert alignzoo("run", place.recipe, "--trust", "--out", place.folder / "new", "--quiet").code == 0


def test_debug_shows_the_traceback(alignzoo, place: Place) -> None:
    from alignzoo import RewardError

    place.rewards("return 1 / 0")
    with pytest.raises(RewardError):
        alignzoo("run", place.recipe, "--trust", "--out", place.folder / "new", "--debug")


def test_a_reward_model_does_not_write(alignzoo, place: Place, plain_model: Path) -> None:
    def scores(broken: Path) -> None:
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))

    place.model(scores)
    assert_clear(alignzoo("generate", place.folder / "broken", "--prompt", "a"), ["which scores and does not write"])


def test_a_runs_folder_is_no_model(alignzoo, place: Place) -> None:
    assert alignzoo("run", place.recipe, "--trust", "--out", place.folder / "out", "--quiet").code == 0
    said = alignzoo("generate", place.folder / "out", "--prompt", "a")
    assert_clear(said, ["is the folder of a run", str(Path("out") / "models" / "rl")])


def test_what_other_libraries_will_rename_is_not_told() -> None:
    with pytest.warns(UserWarning) as told, common._plain_warnings():
        warnings.warn("this name goes in version 6", FutureWarning, stacklevel=1)
        warnings.warn("rows were left out", UserWarning, stacklevel=1)
    assert [each.category for each in told] == [UserWarning]


def test_of_several_processes_the_first_alone_tells_what_all_of_them_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, shown in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with common._plain_warnings():
                warnings.warn("rows were left out", UserWarning, stacklevel=1)
        assert len(told) == shown
