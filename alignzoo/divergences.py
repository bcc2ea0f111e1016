"""What is said of whole distributions over the vocabulary, from their log-probabilities: plain tensor functions.

`alignzoo.functional` has them all. Every distribution is given by log-probabilities (..., V) that add up to 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def collision(logprobs: Tensor) -> Tensor:
    """Σ_v π(v)² of log-probabilities (..., V): the chance that two samples agree. Its negative logarithm is Rényi's
    entropy of order 2 (1961)."""
    return (2 * logprobs).exp().sum(-1)


def kl_divergence(logprobs: Tensor, other: Tensor) -> Tensor:
    """KL(π ‖ π') = Σ_v π(v)·(log π(v) - log π'(v)), in nats, of log-probabilities (..., V) that span the vocabulary.

    Kullback and Leibler 1951. With the teacher first it is the forward KL of distillation, which covers the teacher's
    modes; with the student first the reverse KL, which seeks one (Gu et al., arXiv:2306.08543 sec. 2.1).
    """
    return _kl_terms(logprobs, other).sum(-1)


def jsd(teacher: Tensor, student: Tensor, beta: float = 0.5) -> Tensor:
    """The generalised Jensen-Shannon divergence of log-probabilities (..., V), in nats.

    D = β·KL(P ‖ M) + (1-β)·KL(Q ‖ M), M = β·P + (1-β)·Q, with the teacher P and the student Q: Agarwal et al.
    (arXiv:2306.13649) eq. 1. It vanishes at both ends, where D/β tends to KL(P ‖ Q) and D/(1-β) to KL(Q ‖ P); as in
    TRL's GKDTrainer these stand in its place, so that β = 0 is the forward KL and β = 1 the reverse KL. They do not
    continue it: near an end D itself, and its gradient, shrinks like β or 1-β.
    """
    if beta == 0:
        return kl_divergence(teacher, student)
    if beta == 1:
        return kl_divergence(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * kl_divergence(teacher, mixture) + (1 - beta) * kl_divergence(student, mixture)


def top_kl(teacher: Tensor, student: Tensor, k: int) -> Tensor:
    """KL(P̃ ‖ Q̃) with all but the teacher's k most likely tokens in one bucket, of log-probabilities (..., V), in nats.

    Σ_{v ∈ top k} P(v)·log P(v)/Q(v) + P_rest·log P_rest/Q_rest. A lower bound of KL(P ‖ Q) by the data processing
    inequality, and equal to it where k is the vocabulary; unlike a sum over the top k alone it is never negative, and
    0 only where both agree on these tokens. No gradient goes through the choice.
    """
    top = teacher.topk(min(k, teacher.shape[-1]), -1).indices
    kept = _kl_terms(teacher.gather(-1, top), student.gather(-1, top)).sum(-1)
    if k >= teacher.shape[-1]:
        return kept
    rest, others = (torch.logsumexp(each.scatter(-1, top, -torch.inf), -1) for each in (teacher, student))
    return kept + _kl_terms(rest, others)


def skew_kl(logprobs: Tensor, other: Tensor, alpha: float = 0.1) -> Tensor:
    """KL(P ‖ α·P + (1-α)·Q) of log-probabilities (..., V), in nats: finite, at most -log α, wherever Q is 0.

    Ko et al. 2024, DistiLLM (arXiv:2402.03898) sec. 3.1, the skew KL of the teacher P and the student Q; with the
    student first it is their skew reverse KL. α = 0 is KL(P ‖ Q).
    """
    if alpha == 0:
        return kl_divergence(logprobs, other)
    mixture = torch.logaddexp(logprobs + math.log(alpha), other + math.log1p(-alpha))
    return kl_divergence(logprobs, mixture)


def compared(answer: str, policy: Tensor, role: Tensor, number: float = 0.0) -> Tensor:
    """What an answer of `alignzoo.columns` that compares says of a policy's and a role's log-probabilities (..., V);
    `number` is the column's β or k."""
    match answer:
        case "kl":
            return kl_divergence(role, policy)
        case "reverse_kl":
            return kl_divergence(policy, role)
        case "jsd":
            return jsd(role, policy, number)
        case "skew_kl":
            return skew_kl(role, policy, number)
        case "skew_reverse_kl":
            return skew_kl(policy, role, number)
        case "top_kl":
            return top_kl(role, policy, int(number))
    raise ValueError(f"{answer!r} compares no two distributions")


def _kl_terms(logprobs: Tensor, other: Tensor) -> Tensor:
    return logprobs.exp() * (logprobs - other)
