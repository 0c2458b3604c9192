"""Low-rank adaptation of frozen linear layers: W x + (alpha / rank) · B (A x).

Hu et al. 2021, arXiv:2106.09685, section 4.1: A starts random and B at zero, so training starts from the base model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class LoraLinear(nn.Module):
    """A frozen matrix (float32 or bfloat16) with a trainable low-rank update (float32)."""

    def __init__(self, base: nn.Linear, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight = weight  # a plain tensor: neither trained nor in the state dict
        self.bias = None if base.bias is None else base.bias.detach()
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

    def initialise(self, generator: torch.Generator) -> None:
        """Initialise A with Kaiming-uniform values, as peft and the paper's code do (bound 1/√in), and B with zeros."""
        bound = 1 / math.sqrt(self.lora_a.shape[1])
        with torch.no_grad():
            self.lora_a.uniform_(-bound, bound, generator=generator)
            self.lora_b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FrozenPlusLowRank.apply(x, self.weight, self.lora_a, self.lora_b, self.scale)
        return out if self.bias is None else out + self.bias


class _FrozenPlusLowRank(torch.autograd.Function):
    """The forward and backward pass as one autograd node instead of five, without a gradient for the frozen matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down = flat @ a.T
        out = (flat.to(weight.dtype) @ weight.T).float()
        out.addmm_(down, b.T, alpha=scale)
        ctx.save_for_backward(flat, down, weight, a, b)
        ctx.scale = scale
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, down, weight, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        up = (grad @ b) * ctx.scale
        grad_a = up.T @ flat
        grad_b = (grad.T @ down) * ctx.scale
        grad_x = (grad.to(weight.dtype) @ weight).float()
        grad_x.addmm_(up, a)
        return grad_x.view(*grads[0].shape[:-1], -1), None, grad_a, grad_b, None
