"""TRL 1.16 as an oracle: every optimizer that names a twin has its loss and gradient on the same log-probabilities.

The zoo's own files say which twin is theirs, and `alignzoo check --oracle` makes the same comparison.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from alignzoo.errors import PluginError
from alignzoo.registry import Registry
from alignzoo.testing import oracle
from alignzoo_imitation.sft import SFT
from alignzoo_preference.dpo import DPO
from test_mutant_kinds import Mutant, mutated

pytest.importorskip("trl", reason="TRL is the oracle of these tests")
REGISTRY = Registry()
ZOO = {each.name: REGISTRY.get("optimizer", each.name) for each in REGISTRY.list("optimizer")}
TWINS = [name for name, make in ZOO.items() if oracle.twin_of(make()) is not None]
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "exo-pair": [{"label_smoothing": 0.1}],
    "robust-dpo": [{"beta": 0.3, "label_smoothing": 0.2}],
    "aot": [{"label_smoothing": 0.1}],
    "aot-unpaired": [{"label_smoothing": 0.1}],
    "f-dpo": [{"divergence": "forward_kl"}, {"divergence": "alpha", "alpha": 0.3}, {"divergence": "reverse_kl"}],
    "ld-dpo": [{"alpha": 0.0}, {"alpha": 0.9}],
    "cpo": [{"label_smoothing": 0.1}, {"beta": 0.3, "nll": 0.5}],
    "simpo": [{"beta": 2.5, "gamma": 0.7}, {"nll": 0.5}],
    "alphapo": [{"alpha": -0.5}],
    "orpo": [{"weight": 0.3}],
    "grpo": [
        {"kl": 0.0},
        *({"kl": 0.3, "level": level, "clip_high": 0.28} for level in ("token", "sequence")),
        *({"reduction": reduction, "kl": 0.1} for reduction in ("token", "constant")),
        {"kl": 0.3, "unbiased_kl": True, "level": "sequence"},
    ],
    "cispo": [{"cap": 1.1, "kl": 0.3}, {"cap": 1.1, "level": "sequence"}],
    "sapo": [{"kl": 0.3, "level": "sequence"}, {"tau": 2.0}],
    "vespo": [{"kl": 0.3}, {"k": 1.5, "decay_bad": 1.0}],
    "luspo": [{"kl": 0.3}],
    "dapo": [{"kl": 0.3}],
    "rloo": [{"kl": 0.0}, {"clip": 0.1}],
    "gmpo": [{"kl": 0.3, "clip": 0.1}],
    "tpo": [{"beta": 0.5, "nll": 0.0}, {"beta": 2.0, "length_normalised": True, "gamma": 0.7}],
    "a-star-po": [{"beta": 0.2}],
    "kto": [{"desirable": 1.5, "undesirable": 0.75, "beta": 0.5}],
}
"""Other settings than the default that are compared as well."""


def test_there_are_forty_twins() -> None:
    assert len(TWINS) >= 40


@pytest.mark.parametrize("name", TWINS)
def test_an_optimizer_equals_its_twin(name: str) -> None:
    for settings in ({}, *SETTINGS.get(name, [])):
        for each in oracle.compare(ZOO[name](**settings), name):
            assert each.equal, (settings, each)
            assert each.theirs != 0


WRONG = {
    "a reference point that is added": ("kto", "KTO", "margin(batch, out, baseline)", "margin(batch, out, -baseline)"),
    "weights changed over": ("kto", "KTO", "self.desirable, self.undesirable)", "self.undesirable, self.desirable)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_no_law_can_know_is_seen_beside_the_twin(what: str, mutated: Any) -> None:
    file, name, before, after = WRONG[what]
    part = mutated(Mutant(f"unpaired/{file}", name, before, after, "", {"desirable": 2.0}))
    assert not all(each.equal for each in oracle.compare(part, "kto"))


def test_no_twin_and_no_package_are_told(monkeypatch: pytest.MonkeyPatch, alignzoo: Any) -> None:
    with pytest.raises(PluginError, match="names no twin with these settings: a method `oracle"):
        oracle.compare(DPO(label_smoothing=0.1), "dpo")
    said = alignzoo("check", "dpo", "--oracle", "--json")
    assert said.code == 0 and all(each["equal"] for each in json.loads(said.out)["oracle"])
    assert alignzoo("check", "length", "--oracle").code == 1
    assert oracle.twin_of(SFT()) is None
    monkeypatch.setattr(oracle.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match="pip install trl"):
        oracle.compare(DPO(), "dpo")


__all__ = ["mutated"]
