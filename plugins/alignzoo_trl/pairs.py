"""TRL's losses over preference pairs: of its DPOTrainer, CPOTrainer, ORPOTrainer and TPOTrainer."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from alignzoo import Batch

CPU = SimpleNamespace(device="cpu")


def _unchanged(value: Any) -> Any:
    return value


def _inputs(batch: Batch, order: list[int]) -> dict[str, Tensor]:
    """What TRL's collator gives for these rows, in this order."""
    given = {"input_ids": batch.tokens, "attention_mask": batch.attend, "completion_mask": batch.mask}
    return {name: column[order].long() for name, column in given.items()}


class Answers(torch.nn.Module):
    """A language model that answers with these log-probabilities of each token, (2P, T - 1)."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs: Tensor, collision: Tensor) -> None:
        super().__init__()
        self.logprobs, self.collision = logprobs, collision

    def forward(self, **inputs: Any) -> SimpleNamespace:
        rest = {name: torch.zeros_like(self.logprobs) for name in ("entropy", "mean_logits")}
        found = {"log_sum_sq_probs": self.collision.log(), "is_top1": self.logprobs > 0}
        return SimpleNamespace(log_probs=self.logprobs, **rest, **found)


USUAL = {
    "loss_types": ["sigmoid"], "loss_weights": [1.0], "beta": 0.1, "label_smoothing": 0.0, "ld_alpha": None,
    "f_divergence_type": "reverse_kl", "f_alpha_divergence_coef": 0.5, "use_weighting": False,
}  # fmt: skip


def dpo(batch: Batch, logprobs: Tensor, *, collision: Tensor | None = None, tau: float = 0.05, **settings: Any) -> Any:
    """The loss of TRL's DPOTrainer."""
    from trl import DPOTrainer

    order = [*range(0, len(batch), 2), *range(1, len(batch), 2)]  # it has the better answers first, then the worse
    equal = torch.ones_like(logprobs) if collision is None else collision
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=_unchanged, gather=_unchanged)
    accelerator.unwrap_model = _unchanged
    columns = (logprobs * batch.mask, batch.ref_logprobs)
    answers = [Answers(each[order][:, 1:], equal[order][:, 1:]) for each in columns if each is not None]
    trainer: Any = SimpleNamespace(
        **(USUAL | settings),
        model=answers[0],
        ref_model=answers[1],
        accelerator=accelerator,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        args=SimpleNamespace(discopop_tau=tau, gradient_checkpointing_kwargs=None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = _inputs(batch, order)
    return DPOTrainer._compute_loss(trainer, trainer.model, inputs, False)


@contextmanager
def unstable() -> Iterator[None]:
    """TRL warns that these may change without notice, which whoever compares with them will see."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*trl.experimental.*")
        yield


def _sums(batch: Batch, logprobs: Tensor) -> Tensor:
    return (logprobs * batch.mask).sum(1)


def _likelihood(batch: Batch, logprobs: Tensor) -> Tensor:
    """The mean over all tokens of the better answers, as in TRL."""
    return logprobs[0::2][batch.mask[0::2]].mean()


def cpo(batch: Batch, logprobs: Tensor, *, nll: float = 0.0, mean: bool = False, **settings: Any) -> Any:
    """The loss of TRL's CPOTrainer; `mean` says whether its answers are means over tokens, as for "simpo"."""
    with unstable():
        from trl.experimental.cpo.cpo_trainer import CPOTrainer

    usual = {"alpha": 0.0, "beta": 0.3, "simpo_gamma": 0.0, "label_smoothing": 0.0, "loss_type": "sigmoid"}
    trainer: Any = SimpleNamespace(accelerator=CPU, **(usual | settings))
    answers = _sums(batch, logprobs) / (batch.mask.sum(1) if mean else 1)
    losses: Tensor = CPOTrainer.cpo_loss(trainer, answers[0::2], answers[1::2])[0]
    return losses.mean() - nll * _likelihood(batch, logprobs)


def orpo(batch: Batch, logprobs: Tensor, *, beta: float) -> Any:
    """The loss of TRL's ORPOTrainer."""
    with unstable():
        from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    trainer: Any = SimpleNamespace(beta=beta, accelerator=CPU)
    answers = _sums(batch, logprobs) / batch.mask.sum(1)
    losses = -ORPOTrainer.odds_ratio_loss(trainer, answers[0::2], answers[1::2])[0]
    return losses.mean() - _likelihood(batch, logprobs)


def tpo(batch: Batch, logprobs: Tensor, **settings: Any) -> Any:
    """The loss of TRL's TPOTrainer, on triples: the best answer, the preferred one and the worst."""
    with unstable():
        from trl.experimental.tpo.tpo_trainer import TPOTrainer

    branches = (1, 2, 0) if settings["tpo_alpha"] else (1, 2)  # without imitation it leaves the best answers out
    order = [row for first in branches for row in range(first, len(batch), 3)]
    accelerator = SimpleNamespace(gather_for_metrics=_unchanged, gather=_unchanged)
    trainer: Any = SimpleNamespace(
        **({"label_smoothing": 0.0, "tpo_l_gamma": 0.0} | settings),
        model=SimpleNamespace(training=True),
        accelerator=accelerator,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = _inputs(batch, order)
    said = torch.where(batch.mask, logprobs, -1.0)[order][:, 1:]
    logits = _logits(inputs["input_ids"][:, 1:], said, int(batch.tokens.max()) + 2)
    last = torch.zeros_like(logits[:, :1])
    return TPOTrainer._compute_loss(
        trainer, lambda **_: SimpleNamespace(logits=torch.cat([logits, last], 1)), inputs, False
    )


def _logits(tokens: Tensor, logprobs: Tensor, vocabulary: int) -> Tensor:
    """Normalised log-probabilities over a vocabulary, (N, T, V): of each token this one, of all others what is left."""
    left = torch.log(-torch.expm1(logprobs)) - torch.log(torch.tensor(vocabulary - 1.0))
    return torch.where(torch.arange(vocabulary) == tokens[:, :, None], logprobs[:, :, None], left[:, :, None])
