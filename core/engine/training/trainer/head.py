"""Cross-entropy over a large frozen vocabulary without storing the logits.

With 262,144 tokens the head takes most of the computation and, in a direct implementation, most of the memory (1 MB of
logits per position). This implementation processes the vocabulary in tiles that fit in the cache. Each tile's logits
update the running log-sum-exp and the running gradient with respect to the hidden states: the online softmax of
FlashAttention (Dao et al. 2022, arXiv:2205.14135, algorithm 1), with the head as keys and values. For the loss alone,
see Wijmans et al. 2024, "Cut your losses", arXiv:2411.09009.

The processor rounds a bfloat16 product to 8 bits: a logit of 40 may be off by 0.125. Two measures keep this rounding
out of the loss and the gradient:

- A reference logit is subtracted before rounding. It starts as the label's logit (capped in models that cap logits) and
  follows the highest one, so the relevant logits are small numbers, which keep their precision.
- The label is not part of the sum. With s = log Σ exp(logit) over all *other* tokens, the loss is softplus(s - label):
  never below 0, and exact near 0, where log-sum-exp - logit would be the difference of two large numbers. The gradient
  is p(other tokens) · (their mean row - the label's row), which has no cancellation either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_FAR = 1.0  # distance from the reference above which bfloat16 rounds by more than 0.002, so the reference is moved


@dataclass(frozen=True, slots=True)
class HeadResult:
    """Losses and their gradient.

    Attributes:
        loss: negative log-likelihood of each label, nats, at least 0, shape [n], float32.
        correct: whether the label was the most likely token, shape [n], bool.
        gradient: d(Σ loss) / d hidden, shape [n, width], float32; empty if not requested.
    """

    loss: Tensor
    correct: Tensor
    gradient: Tensor


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch does not type it
def cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, tile: int, gradient: bool = True, cap: float | None = None
) -> HeadResult:
    """Loss, correctness and hidden-state gradient of a frozen linear head.

    Args:
        hidden: [n, width], float32.
        weight: [vocabulary, width], float32 or bfloat16; also the dtype of the multiplications.
        labels: [n], int64.
        tile: number of vocabulary tokens processed at a time (`Device.head_tile`).
        gradient: whether to compute the gradient; False for validation.
        cap: logits are cap · tanh(logit / cap) (Gemma); None means no cap.
    """
    n, width = hidden.shape
    x = hidden.to(weight.dtype)
    label_rows = weight[labels].float()
    label_logits = (x.float() * label_rows).sum(dim=1, keepdim=True)
    reference = capped(label_logits, cap).to(weight.dtype, copy=True)
    highest = hidden.new_full((n, 1), -torch.inf)  # highest logit of the other tokens
    total = hidden.new_zeros(n, 1)  # Σ exp(logit - reference), both capped, over the other tokens
    weighted_rows = hidden.new_zeros(n, width) if gradient else hidden.new_zeros(0)  # Σ exp(logit - reference) · row
    for start in range(0, weight.shape[0], tile):
        rows, positions = weight[start : start + tile], labels - start
        logits = _relative_logits(x, rows, positions, reference)
        tile_max = logits.amax(dim=1, keepdim=True)
        highest = torch.maximum(highest, tile_max + reference)
        far = (tile_max[:, 0] > _FAR).nonzero()[:, 0]
        if len(far):
            moved = (reference[far] + tile_max[far]).to(reference.dtype)
            shrink = torch.exp(capped(reference[far].float(), cap) - capped(moved.float(), cap))
            total[far] *= shrink
            if gradient:
                weighted_rows[far] *= shrink
            reference[far] = moved
            logits[far] = _relative_logits(x[far], rows, positions[far], moved)
        slopes = None if cap is None else _cap(logits, reference, cap)
        weights = logits.exp_()
        total += weights.sum(dim=1, keepdim=True)
        if gradient:
            weighted_rows += (weights if slopes is None else weights.mul_(slopes)).to(rows.dtype) @ rows
    above = capped(reference.float(), cap) - capped(label_logits, cap)
    loss = torch.nn.functional.softplus(total.log() + above)
    if gradient:
        slope = 1.0 if cap is None else 1 - torch.tanh(label_logits / cap).square()
        weighted_rows = weighted_rows.sub_(total * slope * label_rows).div_(total + torch.exp(-above))
    return HeadResult(loss[:, 0], (highest < label_logits)[:, 0], weighted_rows)


def capped(logits: Tensor, cap: float | None) -> Tensor:
    """Apply the model's cap to logits; see `cross_entropy`."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _cap(logits: Tensor, reference: Tensor, cap: float) -> Tensor:
    """Cap logits that are relative to a reference, in place, so that they become relative to the capped reference;
    return the slopes.
    """
    label = logits == -torch.inf
    bounded = torch.tanh((logits + reference.float()) / cap)
    logits.copy_(bounded * cap - capped(reference.float(), cap)).masked_fill_(label, -torch.inf)
    return 1 - bounded.square()


def _relative_logits(x: Tensor, tile: Tensor, positions: Tensor, reference: Tensor) -> Tensor:
    """Return logit - reference for each token of a tile, as float32; -inf for the label, at `positions` in the tile."""
    logits = torch.addmm(reference, x, tile.T, beta=-1).float()
    rows = ((positions >= 0) & (positions < len(tile))).nonzero()[:, 0]
    logits[rows, positions[rows]] = -torch.inf
    return logits
