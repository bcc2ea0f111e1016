"""What many tests share: a model small enough to train in a moment, and the command line in the tests' own process."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests fork, which OpenMP does not survive with several threads

import printed
from judge_server import KEY, JudgeServer

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def no_references_kept() -> None:
    """Runs keep nothing for other runs, in the processes that tests start, too; tests of that set a folder."""
    os.environ["ALIGNZOO_REFERENCES"] = "off"


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[None]:
    """Runs in the tests' own process draw no curves, which takes longer than many a run; `curves` lets them."""
    from alignzoo import report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "curves", lambda folder: None)
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw their curves."""
    from alignzoo import report

    monkeypatch.setattr(report, "curves", sys.modules["alignzoo.report.curves"].curves)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of a few thousand weights over bytes, with a chat template."""
    return make_model(tmp_path_factory.mktemp("models") / "chat", chat=True)


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a chat template."""
    return make_model(tmp_path_factory.mktemp("models") / "plain", chat=False)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What is computed in: float32, where two computations differ by rounding, and float64, where they are equal."""
    import torch

    from rounding import computing

    with computing(getattr(torch, request.param)):
        yield getattr(torch, request.param)


@pytest.fixture
def float64() -> Iterator[None]:
    """For what rounding decides: the sign of a gradient of next to nothing, by which AdamW goes a whole step, or the
    likelier of two tokens that are nearly as likely. In float64 no processor decides them otherwise."""
    import torch

    from rounding import computing

    with computing(torch.float64):
        yield


def make_model(path: Path, *, chat: bool) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", additional_special_tokens=special[2:]
    )
    if chat:
        fast.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    fast.save_pretrained(path)
    return path


RECIPE = """\
policy = {{ name = "hf", model = {model}, max_new_tokens = 4, device = "cpu" }}
data = {data}
evaluate = {{ prompts = 4 }}

[[stage]]
name = "rl"
sampler = {{ name = "policy", n = 2 }}
reward = {{ name = "python", function = {reward} }}
optimizer = {{ name = "grpo" }}
schedule = {{ steps = 2, prompts = 2, lr = 1e-3, save_every = 1 }}
"""

REWARD = (
    "def vowels(completions):\n    return [sum(map(vowel, text)) + sum(map(ord, text)) / 1e4 for text in completions]\n"
)
REWARD += "def vowel(c):\n    return c in 'aeiou'\n"  # what no two answers have alike is added: no group is tied


@pytest.fixture
def recipe(tmp_path: Path, plain_model: Path) -> Path:
    """A recipe of one GRPO stage that takes a second, with its data and its reward beside it."""
    rows = [{"prompt": f"Count to {number}: "} for number in range(12)]
    data, reward = tmp_path / "data.jsonl", tmp_path / "vowels.py"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward.write_text(REWARD)
    path = tmp_path / "small.toml"
    values = {"model": str(plain_model), "data": str(data), "reward": f"{reward}:vowels"}
    path.write_text(RECIPE.format(**{name: json.dumps(value) for name, value in values.items()}))
    return path


@dataclass(frozen=True)
class Said:
    """What a command has said."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def alignzoo(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `alignzoo ARGUMENTS...`."""
    from typer.testing import CliRunner

    from alignzoo.cli import app

    def run(*arguments: object, says: str | None = None) -> Said:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=says)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def judge_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JudgeServer]:
    """A chat-completions server on loopback, its key in the environment, and a cache folder of the test's own."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = JudgeServer()
    server.start()
    yield server
    server.stop()


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution as pip does: its files and a dist-info folder with entry points, on sys.path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("ALIGNZOO_PLUGINS", "")
    before = set(sys.modules)

    def installer(distribution: str, files: dict[str, str], version: str = "1.0", **entry_points: str) -> Path:
        for name, text in files.items():
            path = site / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\n# Read me\n"
        )
        points = "".join(f"{name} = {value}\n" for name, value in entry_points.items())
        (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[alignzoo]\n{points}")
        wanted = [*filter(None, os.environ["ALIGNZOO_PLUGINS"].split(",")), *entry_points]
        monkeypatch.setenv("ALIGNZOO_PLUGINS", ",".join(wanted))
        importlib.invalidate_caches()
        return site

    yield installer
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


STRANGERS = Path(__file__).parent / "third_party"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `lent`, all installed packages but alignzoo, and `wheels`, of this checkout and of the strangers'
    packages: made once, whichever of the test processes comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workshop"
    with (folder.parent / "workshop.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            printed.lent(folder / "lent")
            printed.wheels(folder / "wheels", *sorted(path.parent for path in STRANGERS.glob("*/pyproject.toml")))
            (folder / "made").touch()
    return folder
