"""`alignzoo import`: what becomes of keys, what is refused, and that the recipes train."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import alignzoo
import printed
from alignzoo.cli import app
from alignzoo.data import Data
from alignzoo.registry import Registry
from alignzoo.schedule import Evaluation, Schedule
from alignzoo_import.methods import Asked
from alignzoo_import.table import Computed, Method, Tool, Variant, read_table, tables
from alignzoo_import.translating import translate
from alignzoo_import.values import fits, word

ZOO = Registry()
TOOLS = {name: read_table(name) for name in tables()}
RUN = CliRunner()
PAGE = printed.ROOT / "docs" / "import.md"
PAIRS = "model_name_or_path: maker/little\ndataset_name: someone/pairs\nbeta: 0.2\n"


def fields(part: type) -> set[str]:
    return {f.name for f in dataclasses.fields(part)}


def imports(folder: Path, text: str, *words: str, tool: str = "trl", name: str = "config.yaml"):
    (folder / name).write_text(text, encoding="utf-8")
    return RUN.invoke(app, ["import", tool, str(folder / name), *words])


@pytest.mark.parametrize(
    ("tool", "method"), [(each, method) for each, tool in TOOLS.items() for method in tool.methods]
)
def test_every_setting_of_a_table_is_one(tool: str, method: str) -> None:
    table, of_method = TOOLS[tool], TOOLS[tool].methods[method]
    for variant in of_method.variants:
        settings = settings_of(table, of_method, variant)
        sampler = {**table.set, **of_method.set, **variant.set}.get("sampler.name", "dataset")
        known = {
            "policy": fields(ZOO.get("policy", "hf")) | {"name"},
            "sampler": fields(ZOO.get("sampler", sampler)) | {"name"},
            "optimizer": fields(ZOO.get("optimizer", variant.optimizer)),
            "data": fields(Data) | {"kind"},
            "schedule": fields(Schedule),
            "evaluate": fields(Evaluation),
            "seed": {""},
        }
        for path in settings:
            part, _, field = path.partition(".")
            assert field in known[part], f"{tool} {method} with {variant.when}: {path}"


def settings_of(table: Tool, method: Method, variant: Variant) -> set[str]:
    rules = table.method_rules(method, variant).values()
    found = {rule.to for rule in rules} | {path for rule in rules for path in rule.each}
    found |= {
        path for rule in rules for each in rule.map.values() if isinstance(each, dict) for path in each.get("set", {})
    }
    found |= {each.to for each in (*table.compute.values(), *method.compute.values()) if may_meet(each, variant)}
    return (found | {*table.set, *method.set, *variant.set}) - {""}


def may_meet(computed: Computed, variant: Variant) -> bool:
    """Whether a computed setting's conditions and a variant's can hold together."""
    values = {key: value for key, value in computed.when.items() if isinstance(value, str) and key in variant.when}
    return all(fits({key: variant.when[key]}, {key: value}) for key, value in values.items())


@pytest.mark.slow  # importing TRL takes long
@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "grpo", "rloo", "reward"])
def test_every_key_of_trls_configurations_is_known(method: str, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    names = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "grpo": "GRPO", "rloo": "RLOO", "reward": "Reward"}
    config = getattr(trl, f"{names[method]}Config")(output_dir=str(tmp_path / "out"), bf16=False, use_cpu=True)
    more = ["policy.model=maker/little", "data.path=rows.jsonl"]
    more += ["reward=length"] if method in ("grpo", "rloo") else []
    found = imports(tmp_path, config.to_json_string(), "--method", method, *more, name="args.json")
    assert found.exit_code == 0, found.stderr
    assert f"lr = {config.learning_rate}" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("method", "key"), [("dpo", "beta"), ("grpo", "num_generations"), ("kto", "desirable_weight")])
def test_the_tables_defaults_are_trls(method: str, key: str) -> None:
    trl = pytest.importorskip("trl")
    config = {"dpo": trl.DPOConfig, "grpo": trl.GRPOConfig, "kto": trl.KTOConfig}[method]
    theirs = {f.name: f.default for f in dataclasses.fields(config) if f.default is not dataclasses.MISSING}
    ours = TOOLS["trl"].defaults | TOOLS["trl"].methods[method].defaults
    assert key in ours
    elsewhere = {"bf16", "eval_strategy"}  # decided after the class's own defaults
    assert {k: word(v) for k, v in ours.items() if k in theirs and k not in elsewhere} == {
        k: word(theirs[k]) for k in ours if k in theirs and k not in elsewhere
    }


def test_a_recipe_has_three_lists_and_the_tools_defaults(tmp_path: Path) -> None:
    out = tmp_path / "dpo.toml"
    found = imports(
        tmp_path,
        PAIRS + "ld_alpha: null\nlogging_steps: 5\nrepetition_penalty: 1.1\nmin_p: 0.1\n",
        "--drop",
        "repetition_penalty",
        "-o",
        str(out),
    )
    assert found.exit_code == 0, found.stderr
    text = out.read_text(encoding="utf-8")
    for said in (
        "#   beta = 0.2 -> optimizer.beta = 0.2",
        "# defaults of TRL 1.16, written out:",
        "#   learning_rate = 1e-06 -> schedule.lr = 1e-06",
        "#   min_p = 0.1 -> policy.min_p = 0.1",
        "#   logging_steps: logs and progress change no result",
        "# dropped, as was asked, though the result will differ:",
    ):
        assert said in text
    assert max(map(len, text.partition("\n\ndescription")[0].splitlines())) <= 80
    assert "go on with alignzoo plan" in found.stderr


def test_a_null_is_what_the_tool_makes_of_it(tmp_path: Path) -> None:
    """TRL cuts no row where max_length is null, though its default is 1024, and clips no gradient; of a key that takes
    no null it is refused. Of what axolotl's files leave empty the default is taken."""
    out = tmp_path / "dpo.toml"
    nulls = PAIRS + "ld_alpha: null\nmax_length: null\nmax_grad_norm: null\nbf16: null\nlogging_dir: null\n"
    found = imports(tmp_path, nulls, "-o", str(out))
    assert found.exit_code == 0, found.stderr
    text = out.read_text(encoding="utf-8")
    for said in ("#   max_length = null -> policy.max_length = 0", "max_grad_norm = 0.0", 'dtype = "bf16"'):
        assert said in text
    assert text.count("schedule.max_grad_norm") == 1, "told once"
    found = imports(tmp_path, PAIRS + "ld_alpha: null\nlr_scheduler_type: null\n")
    assert found.exit_code == 1
    assert "null is no value of it, nor the default, linear" in " ".join(found.stderr.split())
    empty = "base_model: m\ndatasets: [{path: rows.jsonl}]\nmax_grad_norm:\nsequence_len:\nlora_r:\n"
    found = imports(tmp_path, empty, tool="axolotl")
    assert found.exit_code == 0, found.stdout + found.stderr
    assert "max_grad_norm = 1.0" in found.stdout and "max_length = 512" in found.stdout


def test_what_changes_the_result_stops_it_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "dpo.toml"
    found = imports(tmp_path, PAIRS + "ld_alpha: 0.5\nload_in_8bit: true\nneftune_noise_alpha: 5\n", "-o", str(out))
    assert found.exit_code == 1 and not out.exists()
    assert "load_in_8bit = true: a base in 8 bits gives other numbers" in found.stderr
    command = found.stderr.strip().splitlines()[-1]
    assert command.endswith("--drop load_in_8bit,neftune_noise_alpha")
    again = RUN.invoke(app, command.split()[1:])
    assert again.exit_code == 0 and out.exists(), again.stderr
    assert "is there already" in RUN.invoke(app, command.split()[1:]).stderr


def test_unknown_keys_are_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    found = imports(tmp_path, PAIRS + "ld_alpha: 0.5\nlearning_rat: 1e-5\nmax_lenght: 512\nzzz: 1\n")
    assert found.exit_code == 1
    assert "learning_rat: Did you mean 'learning_rate'" in found.stderr
    assert "max_lenght: Did you mean 'max_length'" in found.stderr
    assert "--drop learning_rat,max_lenght,zzz" in found.stderr
    assert "--drop nothing" in imports(tmp_path, PAIRS + "ld_alpha: 0.5\n", "--drop", "nothing").stderr


def test_the_method_is_known_by_keys_of_its_own_or_asked_for(tmp_path: Path) -> None:
    found = imports(tmp_path, PAIRS)
    assert found.exit_code == 1 and "give --method, one of sft, dpo, kto" in found.stderr
    assert 'optimizer = { name = "dpo", beta = 0.2 }' in imports(tmp_path, PAIRS, "--method", "dpo").stdout
    assert "TRL has Did you mean 'dpo'" in imports(tmp_path, PAIRS, "--method", "dpoo").stderr
    odd = imports(tmp_path, PAIRS + "loss_type: [hinge, sft]\n", "--method", "dpo")
    assert "no optimizer here is TRL's dpo with loss_type = hinge+sft" in odd.stderr


def test_former_versions_have_their_own_defaults(tmp_path: Path) -> None:
    text = "model_name_or_path: maker/little\ndataset_name: someone/maths\nreward_funcs: mine.right\n"
    now, then, long_ago = (
        imports(tmp_path, text, "--method", "grpo", *more).stdout
        for more in ((), ("--as-of", "0.20"), ("--as-of", "0.16.1"))
    )
    assert 'reduction = "token"' in now and "kl = 0.0" in now and "max_new_tokens = 512" in now
    assert 'reduction = "token"' in then and "max_new_tokens = 256" in then and "max_length = 768" in then
    assert 'reduction = "sequence"' in long_ago and "kl = 0.04" in long_ago and "temperature = 0.9" in long_ago
    assert "expected a version" in imports(tmp_path, text, "--method", "grpo", "--as-of", "new").stderr


BY_VLLM = {"use_vllm": True, "num_generations": 4}
MODE, CAP = "vllm_importance_sampling_mode", "vllm_importance_sampling_cap"


@pytest.mark.parametrize(
    ("config", "version", "expected"),
    [
        ({"num_generations": 4}, "", {}),
        (BY_VLLM, "", {"importance_mode": "sequence_mask", "importance_cap": 3.0}),
        (BY_VLLM, "0.25", {"importance_mode": "token_truncate", "importance_cap": 2.0}),
        (BY_VLLM, "0.22", {}),
        (BY_VLLM | {"vllm_importance_sampling_correction": False}, "", {}),
        (
            BY_VLLM | {MODE: "token_mask", "vllm_importance_sampling_clip_max": 5},
            "",
            {"importance_mode": "token_mask", "importance_cap": 5.0},
        ),
        (
            BY_VLLM | {MODE: "sequence_truncate", CAP: 1.5},
            "",
            {"importance_mode": "sequence_truncate", "importance_cap": 1.5},
        ),
        (BY_VLLM | {"loss_type": "vespo", MODE: "token_mask"}, "", {}),
    ],
)
def test_corrections_of_another_engine_are_translated(
    config: dict[str, object], version: str, expected: dict[str, object]
) -> None:
    found = translate(TOOLS["trl"], "trl", config, Asked(Path("grpo.yaml"), "grpo", version=version))
    settings = {key.partition(".")[2]: value for key, value in found.settings.items() if "importance" in key}
    assert settings == expected
    assert not [line.key for line in found.refused if "importance" in line.key]


def test_a_lower_bound_of_weights_is_refused_and_prefetched_rollouts_are_generated_ahead() -> None:
    config = BY_VLLM | {"vllm_importance_sampling_clip_min": 0.5}
    lower = translate(TOOLS["trl"], "trl", config, Asked(Path("grpo.yaml"), "grpo"))
    assert "vllm_importance_sampling_clip_min" in [line.key for line in lower.refused]
    config = {"rl": "grpo", "trl.async_prefetch": True, "trl.prefetch_depth": 2}
    found = translate(TOOLS["axolotl"], "axolotl", config, Asked(Path("grpo.yaml")))
    assert found.settings["schedule.ahead"] == 2
    found = translate(TOOLS["axolotl"], "axolotl", {"rl": "grpo"}, Asked(Path("grpo.yaml")))
    assert "schedule.ahead" not in found.settings
    found = translate(TOOLS["axolotl"], "axolotl", config | {"trl.vllm_sync_interval": 2}, Asked(Path("grpo.yaml")))
    assert "trl.vllm_sync_interval" in [line.key for line in found.refused]


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "this is no YAML file" in imports(tmp_path, "a: [1\n").stderr
    assert "expected keys with values" in imports(tmp_path, "- a\n- b\n").stderr
    assert "this is no JSON file" in imports(tmp_path, "{", name="a.json").stderr
    assert "cannot be read" in RUN.invoke(app, ["import", "trl", str(tmp_path / "none.yaml")]).stderr
    assert "there is no table of 'trll'. Did you mean 'trl'" in imports(tmp_path, PAIRS, tool="trll").stderr
    toml = imports(tmp_path, 'model_name_or_path = "m"\ndataset_name = "d/e"\n', "--method", "sft", name="a.toml")
    assert toml.exit_code == 0, toml.stderr


def test_batches_that_the_tool_would_refuse_are_refused(tmp_path: Path) -> None:
    text = "model_name_or_path: m\ndataset_name: a/b\nreward_funcs: mine.right\nnum_generations: 6\n"
    found = imports(tmp_path, text, "--method", "grpo")
    assert "8 is no multiple of 6" in " ".join(found.stderr.split()) and found.exit_code == 1


def test_a_table_of_ones_own_is_data(tmp_path: Path) -> None:
    table = tmp_path / "mine.toml"
    table.write_text(
        'title = "Mine"\nversion = "2"\nmethod_key = "algo"\n[set]\n"policy.name" = "hf"\n[keys]\n'
        'base = { to = "policy.model" }\nrate = { to = "schedule.lr", op = "float" }\nrows = { to = "data.path" }\n'
        'noise = { refuse = "there is none here" }\n[[methods.pairs.variants]]\noptimizer = "ipo"\n',
        encoding="utf-8",
    )
    text = "algo: pairs\nbase: m\nrate: 3e-6\nrows: rows.jsonl\nnoise: 0\n"
    found = imports(tmp_path, text, tool=str(table))
    assert found.exit_code == 0, found.stderr
    assert 'optimizer = { name = "ipo" }' in found.stdout and "lr = 3e-06" in found.stdout
    table.write_text(table.read_text("utf-8").replace('to = "schedule.lr"', 'too = "schedule.lr"'), "utf-8")
    broken = imports(tmp_path, text, tool=str(table))
    assert broken.exit_code == 1 and "mine.toml, line" in broken.stderr


def test_data_sets_of_a_description(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    info = {"mine": {"file_name": "rows.json", "columns": {"prompt": "question", "response": "reply"}}}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    text = "stage: sft\nmodel_name_or_path: m\ndataset: mine\n"
    found = imports(tmp_path, text, tool="llamafactory")
    assert found.exit_code == 0, found.stderr
    assert f'path = "{tmp_path / "data" / "rows.json"}"' in found.stdout
    assert 'columns = { prompt = "question", completion = "reply" }' in found.stdout
    assert "does not speak of it" in imports(tmp_path, text.replace("mine", "other"), tool="llamafactory").stderr


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_an_imported_recipe_trains(method: str, tmp_path: Path) -> None:
    model = ZOO.get("task", "shop")().policy
    rows = [{"prompt": f"Q{i}: hello"} for i in range(4)]
    if method == "dpo":
        rows = [row | {"chosen": "Yes, of course.", "rejected": "no"} for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = (
        f"model_name_or_path: {model}\nmax_steps: 2\nlearning_rate: 1e-4\nbf16: false\nper_device_train_batch_size: 4\n"
    )
    own = {"dpo": "max_length: 64\nloss_type: ipo\n", "grpo": "num_generations: 4\nmax_completion_length: 8\n"}
    more = ["--method", method, f"data.path={tmp_path / 'rows.jsonl'}", "-o", str(tmp_path / "recipe.toml")]
    more += ["reward=length"] if method == "grpo" else []
    found = imports(tmp_path, text + own[method], *more)
    assert found.exit_code == 0, found.stderr
    run = alignzoo.run(tmp_path / "recipe.toml", out=tmp_path / "run", registry=ZOO)
    steps = read_lines(next(run.out.rglob("metrics.jsonl")))
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["grad_norm"] > 0 for step in steps)


def read_lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_page_prints_what_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = {block.language: block for block in reversed(list(printed.blocks(PAGE.read_text(encoding="utf-8"))))}
    monkeypatch.chdir(tmp_path)
    Path(page["yaml"].title).write_text(page["yaml"].body, encoding="utf-8")
    (command,) = printed.commands(page["console"])
    found = RUN.invoke(app, command.text.split()[1:])
    assert found.exit_code == 0, found.stderr
    assert "\n".join(command.output).split() == found.stderr.split()
    table = next(block for block in printed.blocks(PAGE.read_text(encoding="utf-8")) if block.body.startswith("title"))
    Path("mine.toml").write_text(table.body, encoding="utf-8")
    text = "algorithm: pairs\nbase: m\nrate: 3e-6\nrows: rows.jsonl\nscheduler: flat\nlog_every: 5\nsquared: true\n"
    assert 'name = "ipo"' in imports(tmp_path, text, tool="mine.toml").stdout
