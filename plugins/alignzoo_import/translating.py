"""A configuration and a tool's table -> the settings of a recipe, and what became of every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignzoo.errors import RecipeError, did_you_mean
from alignzoo.report.toml_text import toml_value
from alignzoo_import.data import Fate, data_settings, reward_tables
from alignzoo_import.methods import Asked, defaults_of, method_name, rules_of
from alignzoo_import.table import Computed, Method, Rule, Tool, Variant
from alignzoo_import.values import COMBINATIONS, OPERATIONS, Refused, divided, fits, is_off, is_one_of, names, word

SOURCES = ("data.path", "data.mix")
"""Settings that say where data are."""

OFFLINE_ROOM = 128
"""Tokens that are generated at most in an evaluation of a method that generates nothing itself."""


@dataclass(frozen=True)
class Line:
    """What became of a key."""

    key: str
    value: Any
    text: str
    """Where it went, or why it went nowhere."""
    default: bool = False
    """Whether the value is the tool's default."""


@dataclass
class Translation:
    """The recipe's settings by dotted paths, and the three lists."""

    tool: Tool
    name: str
    method: str
    version: str
    settings: dict[str, Any] = field(default_factory=dict)
    translated: list[Line] = field(default_factory=list)
    ignored: list[Line] = field(default_factory=list)
    refused: list[Line] = field(default_factory=list)
    dropped: list[Line] = field(default_factory=list)
    """What was refused, and given up by --drop."""
    missing: dict[str, str] = field(default_factory=dict)
    """Settings that nobody gives, each with what to give."""
    to_know: tuple[str, ...] = ()


def translate(tool: Tool, name: str, config: Mapping[str, Any], asked: Asked) -> Translation:
    """What a file means here. RecipeError for a key that the tool does not have, or a method that is not said."""
    return _Translator(tool, name, config, asked).translation()


class _Translator:
    """One file's translation, as it grows."""

    def __init__(self, tool: Tool, name: str, config: Mapping[str, Any], asked: Asked) -> None:
        self.tool = tool
        self.asked = asked
        self.config = {key: _joined(value) if key in tool.joined else value for key, value in config.items()}
        self.name = method_name(tool, self.config, asked)
        self.method: Method = tool.methods[self.name]
        version = asked.version or tool.version
        self.defaults = defaults_of(tool, self.name, version)
        given = {key: value for key, value in self.config.items() if value is not None}
        self.values: dict[str, Any] = self.defaults | given
        self.options = {"@processes": asked.processes, "@packed": asked.packed}
        self.operands = self.values | self.options | {"@packed": asked.packed or 1.0}
        self.found = Translation(tool, name, self.name, version)
        self.used: set[str] = set()
        """Keys that a computed setting or the optimizer's name is made of."""
        self.variant = self._variant()
        self.rules = rules_of(tool, self.name, self.variant, version)

    def translation(self) -> Translation:
        """Everything, in the order of the file and then of the table."""
        self._check_keys()
        self.found.to_know = (*self.tool.to_know, *self.method.to_know)
        for layer in (self.tool.set, self.method.set, self.variant.set):
            self.found.settings |= layer
        self._name_optimizer()
        self._combined()
        for key in [*self.config, *(key for key in self.defaults if key not in self.config)]:
            self._key(key, self.rules.get(key) or self._of_none(key))
        self._data_and_rewards()
        self.found.settings |= self.asked.overrides
        self._complete()
        return self.found

    def _variant(self) -> Variant:
        for each in self.method.variants:
            if fits(each.when, self.values):
                return each
        keys = dict.fromkeys(key for each in self.method.variants for key in each.when)
        said = ", ".join(f"{key} = {word(self.values.get(key))}" for key in keys)
        known = [" and ".join(f"{k} = {word(v)}" for k, v in each.when.items()) for each in self.method.variants]
        raise RecipeError(
            f"{self.asked.path}: no optimizer here is {self.tool.title}'s {self.name} with {said}. There are those "
            f"with {'; '.join(filter(None, known))}. `alignzoo list --family` and `alignzoo choose` show the nearest"
        )

    def _check_keys(self) -> None:
        """Raise for keys that nobody knows, each with the nearest known one."""
        known = self._known()
        unknown = [key for key in self.config if key not in known and key not in self.asked.drop]
        if unknown:
            hints = [f"  {key}: {did_you_mean(key, known).partition(' Known:')[0]}" for key in unknown]
            hints = [hint if "Did you mean" in hint else hint.partition(":")[0] for hint in hints]
            raise RecipeError(
                f"{self.asked.path}: {self.tool.title} {self.tool.version} has no such key for {self.name}:\n"
                + "\n".join(hints)
                + f"\nMend them, or leave them out: --drop {','.join(unknown)}"
            )
        for key in self.asked.drop:
            if key not in self.config and key not in self.values and not self._is_of_data(key):
                hint = did_you_mean(key, self.config)
                raise RecipeError(f"--drop {key}: {self.asked.path} has no such key. {hint}")
        self.found.dropped += [
            Line(key, self.config[key], "not a key of the tool") for key in self.config.keys() - known
        ]

    def _is_of_data(self, key: str) -> bool:
        """Whether it is a key of a data set, KEY.KEY."""
        return bool(self.tool.datasets) and any(key.startswith(f"{each}.") for each in self.tool.datasets.keys)

    def _known(self) -> set[str]:
        computed = [*self.tool.compute.values(), *self.method.compute.values()]
        keys = {key for each in computed for key in (*each.keys, *each.when)}
        keys |= {key for each in self.method.variants for key in (*each.when, *each.keys)}
        keys |= {key for each in self.tool.history for key in (*each.defaults, *each.keys)}
        others = {key for each in self.tool.methods.values() for key in (*each.defaults, *each.keys)}
        data, rewards = self.tool.datasets, self.tool.rewards
        keys |= {*data.keys, data.info, data.info_dir, *data.flat.values()} if data else set()
        keys |= {*rewards.functions, *rewards.weights, *rewards.model} if rewards else set()
        return keys | others | {*self.rules, *self.defaults, self.tool.method_key} - {"", "/"}

    def _name_optimizer(self) -> None:
        decided = {key: self.values[key] for key in self.variant.when if key in self.values}
        told = " and ".join(f"{key} = {word(value)}" for key, value in decided.items() if not is_off(value))
        text = f"optimizer.name = {toml_value(self.variant.optimizer)}" + (
            f"; {self.variant.note}" if self.variant.note else ""
        )
        self.found.settings["optimizer.name"] = self.variant.optimizer
        self.used |= decided.keys() - self.asked.overrides.keys()
        own = bool(decided.keys() & {key for key in self.config if self.config[key] is not None})
        self.found.translated.append(Line(f"{self.name} with {told}" if told else self.name, None, text, not own))

    def _of_none(self, key: str) -> Rule:
        """What becomes of a key without a rule: of data, of rewards, of a sum, or of another method."""
        data, rewards = self.tool.datasets, self.tool.rewards
        told = {*data.keys, data.info, data.info_dir, *data.flat.values()} if data else set()
        told |= {*rewards.functions, *rewards.weights, *rewards.model} if rewards and self.method.online else set()
        if key in told:
            self.used.add(key)
        return Rule(ignore=f"{self.name} does not read it")

    def _key(self, key: str, rule: Rule) -> None:
        value, default = self.values.get(key), self.config.get(key) is None
        if value is None:
            if key in self.config:
                self.found.ignored.append(Line(key, None, "not set"))
            return
        if key in self.asked.drop:
            self.found.dropped.append(Line(key, value, rule.refuse or "left out", default))
            return
        if key in self.config and default and not self.tool.null_is_unset and rule.null != "default":
            self._null(key, rule)
            return
        if rule.only and not fits(rule.only, self.values):
            self._ignore(key, value, f"read only with {_conditions(rule.only)}", default)
            return
        if key in self.used and not rule.to and not rule.map and not is_off(value):
            return
        if rule.map:
            self._mapped(key, value, rule, default)
        elif rule.refuse:
            self._refusable(key, value, rule, default)
        elif rule.ignore:
            self._ignore(key, value, rule.ignore, default)
        else:
            self._take(key, value, rule, default)

    def _null(self, key: str, rule: Rule) -> None:
        if rule.null == "off":
            self._ignore(key, "null", "it changes nothing with this value", default=False)
            return
        if rule.null is not None:
            self._set(key, "null", rule.to, rule.null, rule.note, default=False)
            return
        why = f"null is no value of it, nor the default, {word(self.defaults[key])}: give a value, or leave the key out"
        self._refuse(key, "null", why, rule, default=False)

    def _mapped(self, key: str, value: Any, rule: Rule, default: bool) -> None:
        said = word(value)
        if said not in rule.map and rule.within:
            whole = self.asked.overrides.get(self.rules[rule.within].to, self.values.get(rule.within))
            said = "*" if names(whole, said) else said
        if said not in rule.map and rule.ignore:
            self._ignore(key, value, rule.ignore, default)
            return
        if said not in rule.map:
            known = ", ".join(rule.map)
            why = rule.refuse or f"it has no counterpart here; those that have are {known}"
            self._refuse(key, value, why, rule, default)
            return
        found = rule.map[said]
        if not isinstance(found, Mapping):
            self._set(key, value, rule.to, found, rule.note, default)
        elif "ignore" in found:
            self._ignore(key, value, found["ignore"], default)
        elif "refuse" in found:
            self._refuse(key, value, found["refuse"], rule, default)
        else:
            self.found.settings |= found["set"]
            told = ", ".join(f"{path} = {toml_value(each)}" for path, each in found["set"].items())
            told += f"; {rule.note}" if rule.note and said == "*" else ""
            self.found.translated.append(Line(key, value, told, default))

    def _refusable(self, key: str, value: Any, rule: Rule, default: bool) -> None:
        if is_off(value) or is_one_of(value, rule.off):
            self._ignore(key, value, "it changes nothing with this value", default)
        else:
            self._refuse(key, value, rule.refuse, rule, default)

    def _refuse(self, key: str, value: Any, why: str, rule: Rule, default: bool) -> None:
        if rule.instead.startswith("@") and self.options[rule.instead]:
            self._ignore(
                key, value, f"--{rule.instead[1:]} takes it in" + (f"; {rule.note}" if rule.note else ""), default
            )
            return
        settled = rule.instead or rule.to
        given = [path for path in self.asked.overrides if settled and (path == settled or path.startswith(settled))]
        if given:
            self.found.settings |= rule.map.get("*", {}).get("set", {})
            self._ignore(key, value, f"{given[0]} on the command line says otherwise", default)
        else:
            self.found.refused.append(Line(key, value, why, default))

    def _ignore(self, key: str, value: Any, why: str, default: bool) -> None:
        if not default:
            self.found.ignored.append(Line(key, value, why))

    def _take(self, key: str, value: Any, rule: Rule, default: bool) -> None:
        if is_one_of(value, rule.off):
            self._ignore(key, value, "it changes nothing with this value", default)
            return
        try:
            if rule.each:
                self._each(key, value, rule, default)
                return
            found = OPERATIONS[rule.op](value) if rule.op else value
        except Refused as why:
            self._refuse(key, value, str(why), rule, default)
            return
        if found is None:
            self._ignore(key, value, f"{rule.to} has no such value, and no result depends on it", default)
        else:
            self._set(key, value, rule.to, found, rule.note, default)

    def _each(self, key: str, value: Any, rule: Rule, default: bool) -> None:
        """A list whose elements go to settings of their own."""
        if not isinstance(value, list) or len(value) != len(rule.each):
            raise Refused(f"expected a list of {len(rule.each)} numbers")
        for path, element in zip(rule.each, value, strict=True):
            if path:
                self._set(key, value, path, element, rule.note, default)
            elif element != 1:
                raise Refused("the first weight is 1 here: divide all by it, and raise the learning rate as often")

    def _set(self, key: str, value: Any, path: str, found: Any, note: str, default: bool) -> None:
        self.found.settings[path] = found
        text = f"{path} = {toml_value(found)}" + (f"; {note}" if note else "")
        self.found.translated.append(Line(key, value, text, default))

    def _combined(self) -> None:
        done: set[str] = set()
        for each in (*self.method.compute.values(), *self.tool.compute.values()):
            if each.to not in done and fits(each.when, self.values):
                done.add(each.to)
                self._compute(each)

    def _compute(self, each: Computed) -> None:
        if any(self.operands.get(key) is None for key in each.keys if key != "/"):
            return
        keys, divisors = _parted(each.keys)
        self.used |= {*keys, *divisors}
        joint = " × " if each.op == "product" else " + " if each.op == "sum" else ", "
        told = joint.join(_operand(key, self.operands[key]) for key in keys)
        told += "".join(f" ÷ {_operand(key, self.operands[key])}" for key in divisors)
        default = not any(self.config.get(key) is not None for key in (*keys, *divisors))
        try:
            value = COMBINATIONS[each.op]([self.operands[key] for key in keys])
            if divisors:
                by = COMBINATIONS["product"]([self.operands[key] for key in divisors])
                value = divided(value, by, whole_only=each.whole)
            if each.whole:
                value = divided(value, 1, whole_only=True)
        except Refused as why:
            self.found.refused.append(Line(told, None, f"{each.to}: {why}", default))
            return
        note = each.default_note if default and each.default_note else each.note
        self._set(told, None, each.to, value, note, default)

    def _data_and_rewards(self) -> None:
        """Data sets and rewards, which are lists of tables."""
        if self.tool.datasets:
            fates = {
                Fate.translated: self.found.translated,
                Fate.ignored: self.found.ignored,
                Fate.refused: self.found.refused,
                Fate.dropped: self.found.dropped,
            }
            for each in data_settings(self.tool.datasets, self.method.rows, self.config, self.asked):
                key, value, text = each.told
                if given := [path for path in each.instead if path in self.asked.overrides]:
                    self._ignore(key, value, f"{given[0]} on the command line says otherwise", False)
                else:
                    self.found.settings |= each.settings
                    fates[each.fate].append(Line(key, value, text))
        if not self.tool.rewards or not self.method.online:
            return
        rewards, lines, refused_lines = reward_tables(self.tool.rewards, self.config)
        if any(path.partition(".")[0] == "reward" for path in self.asked.overrides):
            self.found.ignored += [
                Line(key, value, "reward on the command line says otherwise")
                for key, value, _ in (*lines, *refused_lines)
            ]
            return
        self.found.translated += [Line(*line) for line in lines]
        self.found.refused += [Line(*line) for line in refused_lines if line[0] not in self.asked.drop]
        self.found.dropped += [Line(*line) for line in refused_lines if line[0] in self.asked.drop]
        if rewards:
            self.found.settings["reward"] = rewards

    def _complete(self) -> None:
        """What every recipe has, and what this one lacks."""
        settings, missing = self.found.settings, self.found.missing
        if not settings.get("policy.model"):
            missing["policy.model"] = "the file names no model: give policy.model=DIRECTORY or a hub id"
        if not any(settings.get(path) for path in SOURCES) and not any(
            line.text.startswith("data") for line in self.found.refused
        ):
            missing["data.path"] = "the file names no data: give data.path=FILE or a hub dataset"
        scored = any(path.partition(".")[0] == "reward" for path in settings)
        refused = {line.key for line in self.found.refused}
        named = self.tool.rewards.functions if self.tool.rewards else ()
        if self.method.online and not scored and not refused & {*named}:
            missing["reward"] = (
                'the file names no reward: give reward=\'{name="python", function="my_rewards.py:reward"}\', which '
                "may have the tool's own signature"
            )
        room = settings.get("policy.max_length", 0)
        if not self.method.online and 0 < room <= 2 * OFFLINE_ROOM and "policy.max_new_tokens" not in settings:
            settings["policy.max_new_tokens"] = max(1, room // 2)


def _parted(keys: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Factors and divisors."""
    at = keys.index("/") if "/" in keys else len(keys)
    return tuple(keys[:at]), tuple(keys[at + 1 :])


def _operand(key: str, value: Any) -> str:
    return f"{word(value)} {key[1:]}" if key.startswith("@") else f"{key} = {word(value)}"


def _conditions(only: Mapping[str, Any]) -> str:
    return " and ".join(key if value == "*" else f"{key} = {word(value)}" for key, value in only.items())


def _joined(value: Any) -> Any:
    """A list of one as its element; of several, told as "a+b"."""
    return word(value) if isinstance(value, list) and value else value
