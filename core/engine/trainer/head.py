"""Cross-entropy over a large frozen vocabulary, without ever holding the logits.

With 262,144 words the head is most of the arithmetic and, done plainly, most of the memory (1 MB of logits a token).
Here the vocabulary is walked in tiles that stay in the cache. Each tile's logits serve at once for the running
log-sum-exp and for the running gradient with respect to the hidden states, Σ softmax·W − W[label]: the online softmax
of FlashAttention (Dao et al. 2022, arXiv:2205.14135, algorithm 1), with the head in the place of keys and values.
The same idea for the loss alone: Wijmans et al. 2024, "Cut your losses", arXiv:2411.09009.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_TILE = 4096  # words a tile: 5 MB of bfloat16 weights at width 640, and logits of 512 positions in 8 MB


@dataclass(frozen=True, slots=True)
class HeadResult:
    """Losses and what they push back.

    Attributes:
        loss: negative log-likelihood of each label, nats, shape [n], float32.
        correct: whether the label was the likeliest word, shape [n], bool.
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
    top = torch.full((n, 1), -torch.inf)
    total = torch.zeros(n, 1)
    pull = torch.zeros(n, width) if gradient else hidden.new_zeros(0)
    best = torch.zeros(n, dtype=torch.int64)
    for start in range(0, weight.shape[0], _TILE):
        tile = weight[start : start + _TILE]
        logits = (x @ tile.T).float()
        tile_top, tile_best = logits.max(dim=1, keepdim=True)
        higher = tile_top > top
        best = torch.where(higher[:, 0], tile_best[:, 0] + start, best)
        if higher.any():
            new_top = torch.maximum(top, tile_top)
            shrink = torch.exp(top - new_top)
            total *= shrink
            if gradient:
                pull *= shrink
            top = new_top
        weights = logits.sub_(top).exp_()
        total += weights.sum(dim=1, keepdim=True)
        if gradient:
            pull += (weights.to(tile.dtype) @ tile).float()
    label_rows = weight[labels].float()
    label_logits = (x.float() * label_rows).sum(dim=1)
    loss = (top + total.log())[:, 0] - label_logits
    if gradient:
        pull = pull.div_(total).sub_(label_rows)
    return HeadResult(loss, best == labels, pull)
