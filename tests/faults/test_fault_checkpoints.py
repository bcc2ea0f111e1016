"""A run cut off at step 2 of 3 whose folder is then damaged: resumed it is the same to the byte, or refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from alignzoo.errors import RunError
from alignzoo.training import checkpoint
from faults import toy

Damage = Callable[[Path], object]


class Cut(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    toy.run(folder)
    return folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.MonkeyPatch.context() as patch:
        save = checkpoint.save

        def stopping(where: Path, step: int, *parts: object, **settings: object) -> object:
            saved = save(where, step, *parts, **settings)  # type: ignore[arg-type]
            if step == 2:
                raise Cut
            return saved

        patch.setattr(checkpoint, "save", stopping)
        with pytest.raises(Cut):
            toy.run(folder)
    return folder


def shortened(file: str, size: int) -> Damage:
    return lambda out: (out / file).write_bytes((out / file).read_bytes()[:size])


def flipped(file: str, at: float) -> Damage:
    def damage(out: Path) -> None:
        content = bytearray((out / file).read_bytes())
        content[int(at * len(content))] ^= 0x55
        (out / file).write_bytes(content)

    return damage


def put(file: str, content: bytes) -> Damage:
    return lambda out: (out / file).write_bytes(content)


def added(file: str, content: bytes) -> Damage:
    return lambda out: (out / file).write_bytes((out / file).read_bytes() + content)


def gone(file: str) -> Damage:
    return lambda out: shutil.rmtree(out / file) if (out / file).is_dir() else (out / file).unlink()


def folder(name: str) -> Damage:
    return lambda out: (out / name).mkdir(parents=True)


def as_file(name: str) -> Damage:
    return lambda out: (shutil.rmtree(out / name), (out / name).write_text(""))


HOME = "checkpoints/train"
NEW = f"{HOME}/step-000002"

SAME: dict[str, tuple[Damage, str]] = {
    "nothing": (lambda out: None, ""),
    "weights shortened": (shortened(f"{NEW}/weights.safetensors", 100), "weights.safetensors is not as it was"),
    "weights empty": (put(f"{NEW}/weights.safetensors", b""), "weights.safetensors is not as it was written"),
    "weights' header": (flipped(f"{NEW}/weights.safetensors", 0.01), "weights.safetensors is not as it was written"),
    "weights' middle": (flipped(f"{NEW}/weights.safetensors", 0.5), "weights.safetensors is not as it was written"),
    "weights' end": (flipped(f"{NEW}/weights.safetensors", 0.99), "weights.safetensors is not as it was written"),
    "weights gone": (gone(f"{NEW}/weights.safetensors"), "vanished"),
    "adamw empty": (put(f"{NEW}/adamw.pt", b""), "adamw.pt is not as it was written"),
    "adamw's middle": (flipped(f"{NEW}/adamw.pt", 0.5), "adamw.pt is not as it was written"),
    "adamw a pickle": (put(f"{NEW}/adamw.pt", b"cos\nsystem\n(S'false'\ntR."), "adamw.pt is not as it was written"),
    "state shortened": (shortened(f"{NEW}/state.json", 10), r"state\.json, line 2: not JSON"),
    "state empty": (put(f"{NEW}/state.json", b""), r"state\.json is empty"),
    "state null": (put(f"{NEW}/state.json", b"null"), r"state\.json holds NoneType"),
    "state a list": (put(f"{NEW}/state.json", b"[]"), r"state\.json holds list"),
    "state without parts": (put(f"{NEW}/state.json", b'{"step": 2}'), "has no 'optimizer'"),
    "state not UTF-8": (put(f"{NEW}/state.json", b"\xff\xfe{"), "not UTF-8"),
    "state edited": (lambda out: edited(out / NEW / "state.json", step=7), "SHA-256 differs"),
    "state deep": (put(f"{NEW}/state.json", b"[" * 100_000), "nested|not JSON"),
    "newest gone": (gone(NEW), ""),
    "an empty checkpoint": (lambda out: (gone(NEW)(out), folder(NEW)(out)), "vanished|cannot be read"),
    "a folder of the user's": (folder(f"{HOME}/step-abc"), ""),
    "a backup of the user's": (lambda out: shutil.copytree(out / NEW, out / f"{NEW}.bak"), ""),
    "a file of the user's": (put(f"{HOME}/notes.txt", b"mine"), ""),
    "a half-written one": (folder(f"{HOME}/.partial-step-000003/x"), ""),
    "a half-deleted one": (folder(f"{HOME}/.old-step-000001/x"), ""),
    "metrics torn": (lambda out: shortened("metrics.jsonl", -20)(out), "counts on 2 lines of .*metrics.jsonl"),
    "metrics and half a line": (added("metrics.jsonl", b'{"stage": "train", "st'), ""),
    "metrics and zeros": (added("metrics.jsonl", b"\0" * 64), ""),
    "metrics and a line of zeros": (added("metrics.jsonl", b"\0" * 64 + b"\n"), ""),
    "samples torn": (shortened("samples.jsonl", -30), "lines of .*samples.jsonl"),
    "costs torn": (put("costs.jsonl", b'{"stage": "cli'), ""),
    "checkpoints gone": (gone("checkpoints"), "2 steps that were taken are taken again"),
}

REFUSED: dict[str, tuple[Damage, str]] = {
    "checkpoints a file": (as_file("checkpoints"), "checkpoints is a file where the folder of checkpoints is"),
    "metrics gone": (gone("metrics.jsonl"), r"step-000001: it counts on 1 lines of .*metrics\.jsonl, which has 0"),
    "metrics empty": (put("metrics.jsonl", b""), r"counts on 1 lines of .*metrics\.jsonl"),
    "metrics edited": (flipped("metrics.jsonl", 0.1), r"metrics\.jsonl that it counts on are not as they were|line 1"),
    "a foreign line": (lambda out: put("metrics.jsonl", b"x\n" + (out / "metrics.jsonl").read_bytes())(out), "line 1"),
    "evaluations gone": (gone("evaluations.jsonl"), r"counts on 1 lines of .*evaluations\.jsonl"),
    "evaluations torn": (shortened("evaluations.jsonl", -5), r"counts on 1 lines of .*evaluations\.jsonl"),
    "warnings no JSON": (put("warnings.jsonl", b"x\n"), r"warnings\.jsonl, line 1: not JSON"),
    "warnings without a stage": (put("warnings.jsonl", b'\n{"a": 1}\n'), r"warnings\.jsonl, line 2: has no 'stage'"),
    "costs no JSON": (put("costs.jsonl", b"x\n"), r"costs\.jsonl, line 1: not JSON"),
    "manifest gone": (gone("manifest.json"), "no manifest.json"),
    "manifest empty": (put("manifest.json", b""), r"manifest\.json is empty"),
    "manifest torn": (shortened("manifest.json", 200), r"manifest\.json, line \d+: not JSON"),
    "manifest a list": (put("manifest.json", b"[]"), r"manifest\.json holds list"),
    "manifest without recipe": (put("manifest.json", b"{}"), r"manifest\.json has no 'recipe'"),
    "result no JSON": (put("result.json", b"{"), r"result\.json, line \d+: not JSON"),
    "result of others": (put("result.json", b'{"stages": [{"name": "train"}]}'), r"result\.json is no result of a run"),
    "result a text": (put("result.json", b'{"stages": "climb"}'), r"result\.json is no result of a run"),
    "a model elsewhere": (lambda out: elsewhere(out / "result.json", "../../x"), r"result\.json .*outside"),
}


def edited(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def elsewhere(path: Path, model: str) -> None:
    stage = {"name": "train", "optimizer": "climb", "before": {}, "after": {}, "best_of": {}, "steps": 1}
    path.write_text(json.dumps({"stages": [stage | {"stopped": "", "model": model}]}))


def steady(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in toy.bytes_of(folder).items() if "checkpoints" not in name}


@pytest.mark.parametrize("name", SAME)
def test_what_can_be_gone_on_from_ends_the_same(name: str, cut: Path, whole: Path, tmp_path: Path) -> None:
    damage, message = SAME[name]
    out = Path(shutil.copytree(cut, tmp_path / "run"))
    damage(out)
    toy.told.clear()
    toy.run(out, resume=True)
    assert steady(out) == steady(whole)
    # What was gone back over is told once, by name.
    told = [each for each in toy.told if "cannot be used" in each or "taken again" in each]
    assert len(told) == bool(message)
    assert all(re.search(message, each) for each in told), told
    # A stage that has come to its end keeps no checkpoint, and what is the user's.
    left = {path.name for path in (out / HOME).iterdir()} if (out / HOME).is_dir() else set()
    assert not [each for each in left if each.startswith(".") or re.fullmatch(r"step-\d{6}", each)]
    assert not name.endswith("the user's") or left


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_is_refused_by_name_and_left_as_it_is(name: str, cut: Path, tmp_path: Path) -> None:
    damage, message = REFUSED[name]
    out = Path(shutil.copytree(cut, tmp_path / "run"))
    damage(out)
    before = toy.bytes_of(out)
    with pytest.raises(RunError, match=message):
        toy.run(out, resume=True)
    assert toy.bytes_of(out) == before


def test_a_finished_run_says_that_its_model_is_gone(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(out / "models")
    with pytest.raises(RunError, match=r"models/train is gone, .* delete .*result\.json"):
        toy.run(out, resume=True)
    (out / "result.json").unlink()
    toy.run(out, resume=True)
    assert steady(out) == steady(whole)
