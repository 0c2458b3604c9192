"""The output head of `core.engine.training.trainer.head` for GPUs: nothing waits for the device within a pass.

The CPU's version finds the rows whose reference must move and computes only those again; on a GPU, reading which rows
these are would stop the queue at every tile. Here every row's reference moves, as in algorithm 1 of Dao et al. 2022
(arXiv:2205.14135). Products come as float32 (on CUDA from bfloat16 factors in one operation), so they are not rounded
to 8 bits and need no reference that is subtracted before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.engine.training.trainer.head import HeadResult, capped


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch does not type it
def cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, tile: int, gradient: bool = True, cap: float | None = None
) -> HeadResult:
    """See `core.engine.training.trainer.head.cross_entropy`; the same figures on any device."""
    n, width = hidden.shape
    x = hidden.to(weight.dtype)
    label_rows = weight[labels].float()
    raw_label_logits = (x.float() * label_rows).sum(dim=1, keepdim=True)
    label_logits = capped(raw_label_logits, cap)
    reference = label_logits.clone()
    highest = hidden.new_full((n, 1), -torch.inf)  # highest logit of the other tokens
    total = hidden.new_zeros(n, 1)  # Σ exp(logit - reference) over the other tokens
    weighted_rows = hidden.new_zeros(n, width) if gradient else hidden.new_zeros(0)  # Σ exp(logit - reference) · row
    for start in range(0, weight.shape[0], tile):
        rows = weight[start : start + tile]
        logits = capped(_product(x, rows.T), cap)
        slopes = None if cap is None else 1 - (logits / cap).square()
        _hide_labels(logits, labels - start)
        tile_max = logits.amax(dim=1, keepdim=True)
        highest = torch.maximum(highest, tile_max)
        moved = torch.maximum(reference, tile_max)
        shrink = torch.exp(reference - moved)
        reference = moved
        weights = logits.sub_(reference).exp_()
        total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True))
        if gradient:
            factors = weights if slopes is None else weights.mul_(slopes)
            weighted_rows.mul_(shrink).add_(_product(factors.to(rows.dtype), rows))
    above = reference - label_logits
    loss = torch.nn.functional.softplus(total.log() + above)
    if gradient:
        slope = 1.0 if cap is None else 1 - (label_logits / cap).square()
        weighted_rows = weighted_rows.sub_(total * slope * label_rows).div_(total + torch.exp(-above))
    return HeadResult(loss[:, 0], (highest < label_logits)[:, 0], weighted_rows)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """A product as float32."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _hide_labels(logits: Tensor, positions: Tensor) -> None:
    """Set the logits of labels that are in this tile to -inf, without asking the device which ones these are."""
    n_tokens = logits.shape[1]
    column = positions.clamp(0, n_tokens - 1)[:, None]
    is_here = ((positions >= 0) & (positions < n_tokens))[:, None]
    logits.scatter_(1, column, logits.gather(1, column).masked_fill(is_here, -torch.inf))
