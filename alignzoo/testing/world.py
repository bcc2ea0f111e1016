"""A small world to hold optimizers against the laws: a policy of a few hundred weights, and ragged scored groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from alignzoo.errors import ModelError, did_you_mean
from alignzoo.gradients import TorchTraining
from alignzoo.interfaces import ParameterGroup, PolicyInfo
from alignzoo.types import Batch, Completion, Forward, Group, Prompt, Score, Text

VOCABULARY = 13
EOS = 1


def toy_policy(seed: int = 0, *, drift: float = 0.0) -> ToyPolicy:
    """A random policy with every head; `drift` moves it away from its reference, as training would."""
    policy = ToyPolicy(seed)
    policy.drift(drift, seed + 1)
    return policy


def toy_groups(
    seed: int = 0, *, sizes: Sequence[int] = (1, 2, 4, 8, 2, 4), columns: Sequence[str] = (), dense: bool = False
) -> list[Group]:
    """Groups of these sizes with ragged prompts and completions, no two alike, and scores from several ranges.

    In groups of four and more the last completion has no score. `dense` adds a reward per token, `columns` adds
    columns to `Group.extra`: one number per group.
    """
    rng = torch.Generator().manual_seed(seed)
    seen: set[tuple[int, ...]] = set()
    return [_group(rng, size, index, seen, columns, dense) for index, size in enumerate(sizes)]


def toy_prompts(n: int = 5) -> list[Prompt]:
    """Prompts with two answers each, labels, and a numeric column `number`."""
    return [
        Prompt(f"what is {i}", (f"it is {i}", f"no {'no ' * i}idea"), (1.0, 0.0), {"number": float(i)})
        for i in range(n)
    ]


def toy_batch(lengths: Sequence[int], *, group: Sequence[int], rewards: Sequence[float]) -> Batch:
    """A batch for arithmetic by hand: a prompt of one token, completions of these lengths.

    `fn.scatter(torch.tensor([...]), batch.mask)` lays one number per completion token out as a column.
    """
    whole = 1 + torch.tensor(lengths)
    position = torch.arange(int(whole.max()))
    attend = position < whole[:, None]
    return Batch(
        tokens=torch.where(attend, 2 + position, 0),
        attend=attend,
        mask=attend & (position > 0),
        group=torch.tensor(group),
        rewards=torch.tensor(rewards, dtype=torch.float32),
        weights=torch.ones(len(lengths)),
    )


def _group(
    rng: torch.Generator, size: int, index: int, seen: set[tuple[int, ...]], columns: Sequence[str], dense: bool
) -> Group:
    prompt = _tokens(rng, 1, 5)
    completions: list[Completion] = []
    while len(completions) < size:
        tokens = _tokens(rng, 1, 7)
        if prompt + tokens not in seen:
            seen.add(prompt + tokens)
            completions.append(Completion(tokens, " ".join(map(str, tokens)), finished=len(tokens) < 7))
    normal = torch.randn(size, generator=rng, dtype=torch.float64)
    ranges = (normal, 10 * normal, 0.1 * normal + 3, torch.arange(size), (normal > 0).double())
    values: list[float | None] = list(ranges[index % len(ranges)].tolist())
    if size >= 4:
        values[-1] = None
    scores = tuple(
        Score(value, tuple(torch.randn(len(c.tokens), generator=rng).tolist()) if dense else None, parts={"toy": 1.0})
        for value, c in zip(values, completions, strict=True)
    )
    extra = {name: (float(torch.rand((), generator=rng)),) * size for name in columns}
    return Group(Prompt(f"prompt {index}"), prompt, tuple(completions), scores, extra)


def _tokens(rng: torch.Generator, shortest: int, longest: int) -> tuple[int, ...]:
    length = int(torch.randint(shortest, longest + 1, (), generator=rng))
    return tuple(torch.randint(EOS + 1, VOCABULARY, (length,), generator=rng).tolist())


class ToyPolicy(TorchTraining):
    """A `Policy` of torch alone: embeddings, a decaying sum over the past, two layers, and a head for each column.

    It computes in float64 and answers in float32, so that the invariances are tight.
    """

    device = torch.device("cpu")

    heads: Collection[str] = frozenset({"value", "score"})
    """Those that are trained beside the trunk."""

    def __init__(self, seed: int = 0, width: int = 6) -> None:
        rng = torch.Generator().manual_seed(seed)
        shapes = {
            "embedding": (VOCABULARY, width),
            "mixing": (width, width),
            "head": (width, VOCABULARY),
            "value": (width,),
            "score": (width,),
        }
        drawn = {name: torch.randn(shape, generator=rng, dtype=torch.float64) for name, shape in shapes.items()}
        self.weights = {name: tensor.requires_grad_(True) for name, tensor in drawn.items()}
        self.roles = {"ref": {name: tensor.detach().clone() for name, tensor in self.weights.items()}}
        self._answering: Mapping[str, Tensor] = self.weights

    def drift(self, scale: float, seed: int) -> None:
        """Move every weight at random, as training would; the reference stays."""
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in self.weights.values():
                tensor += scale * torch.randn(tensor.shape, generator=rng, dtype=torch.float64)

    def _states(self, tokens: Tensor) -> Tensor:
        """(N, T, H): the state after token t, of tokens 0..t."""
        w = self._answering
        position = torch.arange(tokens.shape[1])
        age = position[:, None] - position
        decay = torch.where(age >= 0, 0.6 ** age.clamp(min=0), 0.0).double()
        return torch.tanh(torch.tanh(decay @ w["embedding"][tokens]) @ w["mixing"])

    def forward(self, batch: Batch, columns: frozenset[str]) -> Forward:
        states = self._states(batch.tokens)
        before = torch.nn.functional.pad(states, (0, 0, 1, 0))[:, :-1]  # the state that predicts token t
        known = batch.mask.clone()
        known[:, 0] = False
        distribution = torch.log_softmax(before @ self._answering["head"], -1)  # (N, T, V)
        spoken = distribution.gather(-1, batch.tokens[..., None]).squeeze(-1)
        last = (batch.attend.sum(1) - 1).clamp(min=0)
        answers = {
            "logprobs": torch.where(known, spoken, 0.0),
            "entropy": torch.where(known, -(distribution.exp() * distribution).sum(-1), 0.0),
            "values": torch.where(known, before @ self._answering["value"], 0.0),
            "scores": states[torch.arange(len(batch)), last] @ self._answering["score"],
        }
        return Forward.of({name: answer.float() for name, answer in answers.items() if name in columns})

    @contextmanager
    def answering(self, role: str) -> Iterator[None]:
        if role not in self.roles:
            raise ModelError(f"the policy has no role {role!r}. {did_you_mean(role, self.roles)}")
        self._answering = self.roles[role]
        try:
            yield
        finally:
            self._answering = self.weights

    def encode(self, prompt: Prompt, texts: Sequence[Text]) -> Group:
        completions = tuple(Completion((*_encoded(text), EOS), str(text)) for text in texts)
        return Group(prompt, _encoded(prompt.messages), completions)

    def generate(self, prompts: Sequence[Prompt], n: int, *, seed: int, greedy: bool = False) -> list[Group]:
        rng = torch.Generator().manual_seed(seed)
        groups = []
        for prompt in prompts:
            start = _encoded(prompt.messages)
            groups.append(Group(prompt, start, tuple(self._written(start, rng, greedy) for _ in range(n))))
        return groups

    def info(self) -> PolicyInfo:
        return PolicyInfo(exact_samples=True)

    def _written(self, start: tuple[int, ...], rng: torch.Generator, greedy: bool, longest: int = 8) -> Completion:
        tokens: tuple[int, ...] = ()
        logprobs: tuple[float, ...] = ()
        while len(tokens) < longest and EOS not in tokens:
            with torch.no_grad():
                state = self._states(torch.tensor([start + tokens]))[0, -1]
                distribution = torch.log_softmax(state @ self._answering["head"], -1)
            chosen = int(distribution.argmax() if greedy else distribution.exp().multinomial(1, generator=rng))
            tokens, logprobs = (*tokens, chosen), (*logprobs, float(distribution[chosen]))
        return Completion(tokens, " ".join(map(str, tokens)), EOS in tokens, logprobs)

    def parameters(self) -> list[ParameterGroup]:
        idle = {"value", "score"}.difference(self.heads)
        return [{"params": [tensor for name, tensor in self.weights.items() if name not in idle], "lr_scale": 1.0}]

    def state(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.weights.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self.weights.items():
                tensor.copy_(state[name])

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        torch.save(self.state(), path / "toy.pt")


def _encoded(text: Text) -> tuple[int, ...]:
    plain = text if isinstance(text, str) else "\n".join(message["content"] for message in text)
    return tuple(EOS + 1 + byte % (VOCABULARY - EOS - 1) for byte in plain.encode()) or (0,)
