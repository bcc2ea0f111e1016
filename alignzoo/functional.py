"""The mathematics that plugins share: pure tensor functions of torch alone.

Shapes: N rows, T tokens, V vocabulary (see `alignzoo.types`). Nothing is mutated; reductions are in float32.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from alignzoo.divergences import collision, compared, jsd, kl_divergence, skew_kl, top_kl
from alignzoo.types import Batch, BoolNT, FloatN, FloatNT, LongN, LongNT

__all__ = [
    "at_last_token",
    "before",
    "best",
    "best_and_worst",
    "bradley_terry",
    "clipped_surrogate",
    "clipped_value_loss",
    "collision",
    "compared",
    "constant_length",
    "derive",
    "gae",
    "group_advantages",
    "group_index",
    "group_mean",
    "group_size",
    "group_std",
    "jsd",
    "kl_divergence",
    "kl_k1",
    "kl_k3",
    "leave_one_out",
    "log_ratio",
    "masked_mean",
    "predicted",
    "preferred",
    "scatter",
    "seeds",
    "sequence_mean",
    "sequence_sum",
    "shifted_logprobs",
    "skew_kl",
    "token_column",
    "token_logprobs",
    "token_mean",
    "top_kl",
    "truncated_importance_weights",
    "untied",
    "weigh",
    "whiten",
]

# --- seeds ----------------------------------------------------------------------------------------------------


def derive(seed: int, *uses: int | str) -> int:
    """A seed of its own for every use, so that step k can be made again alone: 63 bits of BLAKE2b(seed, uses)."""
    text = "/".join(str(part) for part in (seed, *uses))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seeds(n: int, seed: int, *uses: int | str) -> list[int]:
    """A seed for each of n places, of prompts in a step or in an evaluation: derive(seed, uses, place)."""
    return [derive(seed, *uses, place) for place in range(n)]


# --- log-probabilities ----------------------------------------------------------------------------------------


def token_logprobs(logits: Tensor, targets: LongN) -> tuple[FloatN, FloatN]:
    """log softmax(z)_y and the entropy -Σ p log p of each row of `logits` (M, V), in float32; both (M,).

    Float64 stays float64.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    normaliser = torch.logsumexp(logits, -1)  # (M,)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser
    entropy = normaliser - (torch.softmax(logits, -1) * logits).sum(-1)
    return logprobs, entropy


def shifted_logprobs(logits: Tensor, tokens: LongNT, mask: BoolNT) -> tuple[FloatNT, FloatNT]:
    """Log-probability and entropy of token t given those before it, from logits (N, T, V); 0 where the mask is False.

    logits[:, t-1] speak about token t: the off-by-one of every language model is paid here and nowhere else. The
    first token has nothing before it and stays 0.
    """
    where = predicted(mask)
    logprobs, entropy = token_logprobs(before(logits)[where], tokens[:, 1:][where])
    return scatter(logprobs, mask), scatter(entropy, mask)


def predicted(mask: BoolNT) -> Tensor:
    """The mask over positions that predict a completion token: (N, T-1), position t-1 for token t."""
    return mask[:, 1:]


def before(states: Tensor) -> Tensor:
    """The states (N, T, ...) that precede tokens 1..T-1: (N, T-1, ...)."""
    return states[:, :-1]


def scatter(values: Tensor, mask: BoolNT) -> FloatNT:
    """Put one value per predicted completion token back into (N, T), 0 elsewhere; inverse of `[predicted(mask)]`."""
    out = values.new_zeros(mask.shape)
    where = mask.clone()
    where[:, 0] = False
    return out.masked_scatter(where, values)


# --- weightings: the reduction is Σ weights·terms / N -----------------------------------------------------------


def sequence_mean(mask: BoolNT) -> FloatNT:
    """1/|y| on each token: the loss is the mean over rows of the mean over tokens (GRPO, arXiv:2402.03300 eq. 3)."""
    weights = mask.float()
    return weights / weights.sum(1, keepdim=True).clamp(min=1)


def token_mean(mask: BoolNT) -> FloatNT:
    """N/Σmask on each token: the loss is the mean over all tokens of the batch (DAPO, arXiv:2503.14476 eq. 8)."""
    weights = mask.float()
    return weights * (len(mask) / weights.sum().clamp(min=1))


def sequence_sum(mask: BoolNT) -> FloatNT:
    """1 on each token: the loss is the mean over rows of the sum over tokens."""
    return mask.float()


def constant_length(mask: BoolNT, length: int) -> FloatNT:
    """1/L on each token, L a constant: no bias by a completion's own length (Dr. GRPO, arXiv:2503.20783 sec. 3.2)."""
    return mask.float() / length


def weigh(terms: Tensor, weights: Tensor, mask: BoolNT) -> Tensor:
    """Σ weights·terms, a scalar. Row weights (N,) on token terms (N, T) count every completion token alike.

    Raises ValueError for token weights on row terms: which token would they mean?
    """
    terms = terms.float()
    if terms.ndim == 2 and weights.ndim == 1:
        weights = weights[:, None] * mask
    if terms.shape != weights.shape:
        raise ValueError(
            f"the loss has shape {tuple(terms.shape)} but prepare() left weights of shape {tuple(weights.shape)}: "
            "row terms (N,) take row weights (N,), token terms (N, T) take either"
        )
    return (terms * weights).sum()


def masked_mean(values: FloatNT, mask: BoolNT) -> Tensor:
    """The mean over True positions; 0 when there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: FloatNT, mask: BoolNT, *, shift: bool = True) -> FloatNT:
    """(x - mean)/sd over the mask, unbiased variance, 0 outside; with `shift=False` the mean is kept.

    x·rsqrt(var + 1e-8), as in InstructGPT's and TRL's PPO. A single value has no variance: it becomes 0, or stays
    without shift.
    """
    count = mask.sum()
    mean = masked_mean(values, mask)
    variance = (((values - mean) * mask) ** 2).sum() / (count - 1).clamp(min=1)
    return ((values - mean) * torch.rsqrt(variance + 1e-8) + (0 if shift else mean)) * mask


# --- groups -----------------------------------------------------------------------------------------------------


def group_index(group: LongN) -> LongN:
    """Groups renumbered 0..G-1 in order of appearance."""
    index: LongN = torch.unique_consecutive(group, return_inverse=True)[1]
    return index


def group_mean(values: FloatN, group: LongN) -> FloatN:
    """Each row's group mean, (N,)."""
    index, size = group_index(group), _sizes(group)
    return (_table(values, group).sum(1) / size)[index]


def group_std(values: FloatN, group: LongN) -> FloatN:
    """Each row's group standard deviation with ddof = 1, (N,); 0 for a group of one.

    √( mean of (x - mean)² · n/(n-1) ): in this order it equals TRL's to the bit.
    """
    index, size = group_index(group), _sizes(group)
    variance = _table((values - group_mean(values, group)) ** 2, group).sum(1) / size
    return torch.sqrt(variance * (size / (size - 1).clamp(min=1)))[index]


def group_size(group: LongN) -> LongN:
    """How many rows each row's group has, (N,)."""
    return _sizes(group)[group_index(group)]


def leave_one_out(values: FloatN, group: LongN) -> FloatN:
    """The mean of the others in each row's group, (N,); a group of one has no others and gets its own value.

    (Σ_group x - x) / (n - 1): Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    n = group_size(group)
    others = (group_mean(values, group) * n - values) / (n - 1).clamp(min=1)
    return torch.where(n > 1, others, values)


def _sizes(group: LongN) -> LongN:
    sizes: LongN = torch.unique_consecutive(group, return_counts=True)[1]
    return sizes


def _table(values: FloatN, group: LongN) -> Tensor:
    """Values laid out by group, (G, largest size), 0 where a group has no more rows."""
    index, size = group_index(group), _sizes(group)
    if not len(values):
        return values[:, None]
    place = torch.arange(len(values), device=values.device) - (size.cumsum(0) - size)[index]
    return values.new_zeros(len(size), int(size.max())).index_put((index, place), values)


def _extreme_rows(batch: Batch, largest: bool) -> LongN:
    """The row of the best (or worst) reward in each group, the first of equals, in group order."""
    rows, start = [], 0
    for size in batch.group_sizes().tolist():
        rewards = batch.rewards[start : start + size]
        rows.append(start + int(rewards.argmax() if largest else rewards.argmin()))
        start += size
    return torch.tensor(rows, dtype=torch.long, device=batch.tokens.device)


def best(batch: Batch) -> Batch:
    """The best row of each group."""
    return batch.select(_extreme_rows(batch, largest=True))


def best_and_worst(batch: Batch, *, ties: bool = False) -> Batch:
    """The best and the worst row of each group, adjacent: rows 2i and 2i+1 are one pair. Tied groups are dropped.

    With `ties`, a tied group of two or more stays, as a pair of its first and its last row.
    """
    high, low = _extreme_rows(batch, largest=True), _extreme_rows(batch, largest=False)
    if ties:
        last = batch.group_sizes().cumsum(0).to(high.device) - 1
        low = torch.where(batch.rewards[high] > batch.rewards[low], low, last)
        kept = high != low
    else:
        kept = batch.rewards[high] > batch.rewards[low]
    return batch.select(torch.stack([high[kept], low[kept]], 1).flatten())


def untied(batch: Batch) -> Batch:
    """Without the groups whose rewards are all equal: they prefer nothing."""
    index = group_index(batch.group)
    lowest = batch.rewards.new_full((len(batch),), torch.inf).scatter_reduce(0, index, batch.rewards, "amin")
    highest = batch.rewards.new_full((len(batch),), -torch.inf).scatter_reduce(0, index, batch.rewards, "amax")
    return batch.select((highest > lowest)[index])


def group_advantages(batch: Batch, *, scale: str = "group", epsilon: float = 1e-4) -> FloatN:
    """A = (r - mean of the group) / (sd + ε), (N,); sd is unbiased, over the group, over the batch, or not used.

    DeepSeekMath (arXiv:2402.03300) sec. 4.1.2; `scale="none"` is Dr. GRPO's. ε as in TRL. A tied group gets 0.
    """
    centred = batch.rewards - group_mean(batch.rewards, batch.group)
    if scale == "none":
        return centred
    if scale == "group":
        return centred / (group_std(batch.rewards, batch.group) + epsilon)
    if scale == "batch":
        return centred / (group_std(batch.rewards, torch.zeros_like(batch.group)) + epsilon)
    raise ValueError(f"scale must be 'group', 'batch' or 'none', got {scale!r}")


# --- credit and surrogates ----------------------------------------------------------------------------------------


def log_ratio(logprobs: FloatNT, other: FloatNT, mask: BoolNT) -> FloatNT:
    """log π/π' per token, 0 where the mask is False: a weight of 0 would not silence the infinity of its exp."""
    return torch.where(mask, logprobs - other, 0.0)


def truncated_importance_weights(old_logprobs: FloatNT, sampled_logprobs: FloatNT, cap: float) -> FloatNT:
    """min(π(y_t)/μ(y_t), C) per token, for samples of an engine μ whose numbers differ from the training forward's π.

    Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", eq. for TIS; as TRL's
    `vllm_importance_sampling_mode="token_truncate"` without a lower bound. Weighing each token's term by it makes the
    expectation one over π again, but for the truncation, which bounds the variance. Where both columns are 0, outside
    the mask, the weight is 1. No gradient goes through it.
    """
    return torch.exp(old_logprobs - sampled_logprobs).clamp(max=cap).detach()


def at_last_token(values: FloatN, mask: BoolNT) -> FloatNT:
    """One value per row, placed on the row's last completion token, (N, T)."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(1)
    return (positions == last[:, None]) * mask * values[:, None]


def gae(
    rewards: FloatNT, values: FloatNT, mask: BoolNT, *, gamma: float = 1.0, lam: float | FloatN = 0.95
) -> tuple[FloatNT, FloatNT]:
    """Generalised advantage estimation: advantages and returns, both (N, T).

    δₜ = rₜ + γ·Vₜ₊₁ - Vₜ,  Aₜ = δₜ + γλ·Aₜ₊₁,  returns = A + V. Schulman et al. 2016 (arXiv:1506.02438) eq. 16. The
    state after the last token is terminal: its value is 0. Masked tokens in the middle of a row are stepped over. λ may
    differ by row.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])  # V of the next state, (N,)
    running = torch.zeros_like(following)
    for t in range(rewards.shape[1] - 1, -1, -1):
        real = mask[:, t]
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(real, delta + gamma * lam * running, running)
        following = torch.where(real, values[:, t], following)
        advantages[:, t] = running * real
    return advantages, (advantages + values) * mask


def clipped_surrogate(ratio: Tensor, advantages: Tensor, *, low: float = 0.2, high: float = 0.2) -> Tensor:
    """-min(ρ·A, clip(ρ, 1-low, 1+high)·A), any shape. Schulman et al. 2017 (arXiv:1707.06347) eq. 7."""
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float = 0.2) -> Tensor:
    """½·max((V - R)², (clip(V, V_old ± c) - R)²), any shape; the value loss of OpenAI's and TRL's PPO."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def kl_k1(log_ratio: Tensor) -> Tensor:
    """k1 = log π/π_ref for samples of π: unbiased, any sign. Schulman, "Approximating KL divergence" (2020)."""
    return log_ratio


def kl_k3(log_ratio: Tensor) -> Tensor:
    """k3 = e^{-x} - 1 + x with x = log π/π_ref, for samples of π: unbiased, never negative. Schulman (2020)."""
    return torch.exp(-log_ratio) - 1 + log_ratio


def preferred(margin: Tensor, scale: Tensor) -> Tensor:
    """How far the better of a pair is preferred: 1 for a margin above 0, 0 below it, ½ for a tie. Any shape.

    A tie is |margin| ≤ 32·ε·scale with float32's ε = 2⁻²³: no more than what rounding leaves of the difference of two
    equal numbers. `scale` is the sum of the absolute values that were subtracted and added to make the margin. The mean
    is the accuracy (the AUC, for all pairs); a policy that is its own reference gets ½. TRL counts such ties as wrong,
    or as right, by the sign of the rounding. No gradient goes through it.
    """
    tie = 32 * torch.finfo(torch.float32).eps * scale.detach()
    return torch.where(margin.detach().abs() <= tie, 0.5, (margin.detach() > 0).float())


def token_column(values: FloatN, mask: BoolNT) -> FloatNT:
    """A row's number on each of its completion tokens, (N, T)."""
    return values[:, None] * mask


def bradley_terry(wins: Tensor, ridge: float) -> Tensor:
    """Strengths from comparisons, (n,): the maximum of Σᵢⱼ Wᵢⱼ·log σ(sᵢ - sⱼ) - ridge/2·Σᵢ sᵢ², in float64.

    `wins` (n, n) says how often i won against j, in parts of a comparison where labels are soft. Bradley and Terry
    1952, with the Gaussian prior that keeps a player who always wins finite, and brings the mean to 0. By Newton's
    method: the objective is strictly concave, and a step that would lower it is halved.
    """
    wins = wins.double() * (1 - torch.eye(len(wins), dtype=torch.float64, device=wins.device))
    played = wins + wins.T
    strengths = torch.zeros(len(wins), dtype=torch.float64, device=wins.device)

    def objective(s: Tensor) -> Tensor:
        return (wins * torch.nn.functional.logsigmoid(s[:, None] - s)).sum() - ridge / 2 * (s * s).sum()

    for _ in range(100):
        p = torch.sigmoid(strengths[:, None] - strengths)
        gradient = (wins - played * p).sum(1) - ridge * strengths
        curvature = played * p * (1 - p)
        hessian = torch.diag(curvature.sum(1) + ridge) - curvature
        step = torch.linalg.solve(hessian, gradient)
        if float(step.norm()) < 1e-10:
            break
        while float(objective(strengths + step)) < float(objective(strengths)) - 1e-12:
            step = step / 2
        strengths = strengths + step
    return strengths
