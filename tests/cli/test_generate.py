"""`alignzoo generate`: one prompt, a file of them, a conversation."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

FEW = ("--max-new-tokens", "3")


def test_a_prompt(alignzoo, tiny_model: Path) -> None:
    said = alignzoo("generate", tiny_model, "--prompt", "Hello", *FEW)
    assert said.code == 0, said.err
    assert said.out.startswith("> Hello\n")


def test_the_same_seed_writes_the_same(alignzoo, tiny_model: Path) -> None:
    once, again, other = (
        alignzoo("generate", tiny_model, "--prompt", "Hello", "-n", 3, "--json", "--seed", seed, *FEW).out
        for seed in (1, 1, 2)
    )
    assert once == again != other
    assert len(json.loads(once)["completions"]) == 3


@pytest.mark.parametrize("plain", [False, True])
def test_a_prompt_is_a_users_turn_unless_plain(alignzoo, tiny_model: Path, plain: bool) -> None:
    said = alignzoo("generate", tiny_model, "--prompt", "Hi", "--json", *FEW, *(["--plain"] if plain else []))
    assert json.loads(said.out)["prompt"] == ("Hi" if plain else [{"role": "user", "content": "Hi"}])


def test_a_model_without_a_template_goes_on_with_the_text(alignzoo, plain_model: Path) -> None:
    said = alignzoo("generate", plain_model, "--prompt", "Hi", "--json", *FEW)
    assert json.loads(said.out)["prompt"] == "Hi"


def test_a_template_can_be_given(alignzoo, plain_model: Path) -> None:
    said = alignzoo("generate", plain_model, "--prompt", "Hi", "--json", "--chat-template", "dialogue", *FEW)
    assert json.loads(said.out)["prompt"] == [{"role": "user", "content": "Hi"}]


def test_a_file_of_lines_and_one_of_rows(alignzoo, tiny_model: Path, tmp_path: Path) -> None:
    lines, rows = tmp_path / "lines.txt", tmp_path / "rows.jsonl"
    lines.write_text("One\n\nTwo\n")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two"}]
    rows.write_text(json.dumps({"prompt": "One", "id": 1}) + "\n" + json.dumps({"prompt": turns}) + "\n")
    said = alignzoo("generate", tiny_model, "--prompts", lines, "--json", "--greedy", *FEW)
    assert [json.loads(line)["prompt"][0]["content"] for line in said.out.splitlines()] == ["One", "Two"]
    said = alignzoo("generate", tiny_model, "--prompts", rows, "--json", "--greedy", *FEW)
    assert json.loads(said.out.splitlines()[1])["prompt"] == turns


def test_a_packed_file_and_a_list_of_rows(alignzoo, tiny_model: Path, tmp_path: Path) -> None:
    packed, listed = tmp_path / "rows.jsonl.gz", tmp_path / "rows.json"
    packed.write_bytes(gzip.compress(b'{"prompt": "One"}\n'))
    listed.write_text(json.dumps([{"prompt": "One"}, {"prompt": "Two", "system": "Be brief."}], indent=1))
    said = alignzoo("generate", tiny_model, "--prompts", packed, "--json", "--greedy", *FEW)
    assert said.code == 0 and json.loads(said.out)["prompt"][0]["content"] == "One", said.err
    said = alignzoo("generate", tiny_model, "--prompts", listed, "--json", "--greedy", *FEW)
    assert [turn["content"] for turn in json.loads(said.out.splitlines()[1])["prompt"]] == ["Be brief.", "Two"]


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": [{"role": "user", "content": 5}]}',
        '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}',
        '{"prompt": [{"role": 3, "content": "a"}]}',
        '{"prompt": "a", "system": 5}',
        '{"prompt": "a", "system": ["b"]}',
    ],
)
def test_a_turn_that_is_no_text_is_named_with_its_row(alignzoo, tiny_model: Path, tmp_path: Path, row: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(row + "\n")
    said = alignzoo("generate", tiny_model, "--prompts", file, *FEW)
    assert said.code == 1 and "rows.jsonl, line 1:" in said.err and "text" in said.err


@pytest.mark.parametrize("cold", ["1e-39", "1e-320"])
def test_a_temperature_that_logits_overflow_at_takes_the_likeliest(alignzoo, tiny_model: Path, cold: str) -> None:
    greedy = alignzoo("generate", tiny_model, "--prompt", "Hi", "--greedy", *FEW)
    said = alignzoo("generate", tiny_model, "--prompt", "Hi", "--temperature", cold, *FEW)
    assert said.code == 0 and said.out == greedy.out


def test_a_chat_remembers_and_ends(alignzoo, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alignzoo_hf.model.policy import HFPolicy

    seen = []
    generate = HFPolicy.generate

    def spy(self, prompts, n, **options):
        seen.append(prompts[0].messages)
        return generate(self, prompts, n, **options)

    monkeypatch.setattr(HFPolicy, "generate", spy)
    assert alignzoo("generate", tiny_model, *FEW, says="Hello\nAnd now?\n/exit\nnever\n").code == 0
    assert [turn["role"] for turn in seen[1]] == ["user", "assistant", "user"]
    assert len(seen) == 2
    assert alignzoo("generate", tiny_model, *FEW, says="Hello\n").code == 0  # Ctrl-D


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--prompt", "a", "--temperature", "0"],
            "--temperature: policy.temperature: found 0.0, allowed: a number above 0",
        ),
        (["--prompt", "a", "--prompts", "b"], "choose one"),
        (["--prompts", "missing.txt"], "missing.txt: cannot be read"),
        (["--prompt", "a", "--chat-template", "chatlm"], "neither one of chatml, dialogue nor a readable file"),
        (["--prompt", "a\udcffb"], "--prompt: this is no text in UTF-8, found 'a\\udcffb'"),
        (["--prompt", "a", "--stop", "\udcff"], "--stop: this is no text in UTF-8"),
        (["--prompt", "a", "--stop", ""], "--stop is an empty text"),
        (["--prompt", "a", "--greedy", "--temperature", "2", "--top-k", "3"], "--temperature, --top-k would have no"),
        (["--prompt", "a", "--greedy", "-n", "2"], "all 2 answers would be the same"),
    ],
)
def test_what_cannot_be(alignzoo, tiny_model: Path, arguments: list[str], said: str) -> None:
    answer = alignzoo("generate", tiny_model, *arguments)
    assert answer.code == 1
    assert answer.err.startswith("error: ") and said in answer.err


@pytest.mark.parametrize("end", ["99999", '"x"', "-1", "[1, null]", "[1, [2]]", "true", "1.5"])
def test_an_end_that_is_no_token_is_named_with_its_file(alignzoo, tiny_model: Path, tmp_path: Path, end: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "generation_config.json").write_text(f'{{"eos_token_id": {end}}}')
    said = alignzoo("generate", model, "--prompt", "Hi", *FEW)
    told = " ".join(said.err.split())
    assert said.code == 1 and "Traceback" not in told
    assert f"{model / 'generation_config.json'} has eos_token_id" in told and "is no token of the tokenizer" in told
