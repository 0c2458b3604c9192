"""Cross-entropy over a large frozen vocabulary, without ever holding the logits.

With 262,144 words the head is most of the arithmetic and, done plainly, most of the memory (1 MB of logits a token).
Here the vocabulary is processed in tiles that stay in the cache. Each tile's logits serve at once for the running
log-sum-exp and for the running gradient with respect to the hidden states: the online softmax of FlashAttention
(Dao et al. 2022, arXiv:2205.14135, algorithm 1), with the head in the place of keys and values. The same idea for the
loss alone: Wijmans et al. 2024, "Cut your losses", arXiv:2411.09009.

A bfloat16 product comes out of the processor rounded to 8 bits: a logit of 40 may be off by 0.125. Two things keep
that rounding out of the loss and of the gradient:

- The product subtracts a reference logit before it rounds. The reference starts as the label's logit and follows the
  highest one, so the logits that matter are small numbers, and those keep their digits.
- The label is no term of the sum. With s = log Σ exp(logit) over all *other* words, the loss is softplus(s - label):
  never below 0, and exact near 0, where log-sum-exp - logit would be the difference of two large numbers. The gradient
  is p(other words) · (their mean row - the label's row), in which nothing cancels either.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TILE = 4096  # words a tile: 5 MB of bfloat16 weights at width 640, and logits of 512 positions in 8 MB
_FAR = 1.0  # above the reference: from there on bfloat16 rounds by more than 0.002, and the reference is moved


@dataclass(frozen=True, slots=True)
class HeadResult:
    """Losses and their gradient.

    Attributes:
        loss: negative log-likelihood of each label, nats, at least 0, shape [n], float32.
        correct: whether the label was likelier than every other word, shape [n], bool.
        gradient: d(Σ loss) / d hidden, shape [n, width], float32; empty when not asked for.
    """

    loss: Tensor
    correct: Tensor
    gradient: Tensor


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch does not type it
def cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, *, gradient: bool = True) -> HeadResult:
    """Loss, hits and hidden gradient of a frozen linear head.

    Args:
        hidden: [n, width], float32.
        weight: [words, width], float32 or bfloat16; its type is the type of the multiplications.
        labels: [n], int64.
        gradient: whether the gradient is wanted (not for validation).
    """
    n, width = hidden.shape
    x = hidden.to(weight.dtype)
    label_rows = weight[labels].float()
    label_logits = (x.float() * label_rows).sum(dim=1, keepdim=True)
    reference = label_logits.to(weight.dtype, copy=True)
    highest = torch.full((n, 1), -torch.inf)  # of the other words
    total = torch.zeros(n, 1)  # Σ exp(logit - reference) over the other words
    pull = torch.zeros(n, width) if gradient else hidden.new_zeros(0)  # Σ exp(logit - reference) · row
    for start in range(0, weight.shape[0], _TILE):
        tile, places = weight[start : start + _TILE], labels - start
        logits = _relative_logits(x, tile, places, reference)
        tops = logits.amax(dim=1, keepdim=True)
        highest = torch.maximum(highest, tops + reference)
        far = (tops[:, 0] > _FAR).nonzero()[:, 0]
        if len(far):
            moved = (reference[far] + tops[far]).to(reference.dtype)
            shrink = torch.exp(reference[far].float() - moved.float())
            total[far] *= shrink
            if gradient:
                pull[far] *= shrink
            reference[far] = moved
            logits[far] = _relative_logits(x[far], tile, places[far], moved)
        weights = logits.exp_()
        total += weights.sum(dim=1, keepdim=True)
        if gradient:
            pull += weights.to(tile.dtype) @ tile
    above = reference.float() - label_logits
    loss = torch.nn.functional.softplus(total.log() + above)
    if gradient:
        pull = pull.sub_(total * label_rows).div_(total + torch.exp(-above))
    return HeadResult(loss[:, 0], (highest < label_logits)[:, 0], pull)


def _relative_logits(x: Tensor, tile: Tensor, places: Tensor, reference: Tensor) -> Tensor:
    """logit - reference of every word of a tile, float32; -inf for the label, whose place in the tile is `places`."""
    logits = torch.addmm(reference, x, tile.T, beta=-1).float()
    rows = ((places >= 0) & (places < len(tile))).nonzero()[:, 0]
    logits[rows, places[rows]] = -torch.inf
    return logits
