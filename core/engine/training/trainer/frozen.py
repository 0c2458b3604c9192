"""Frozen matrices in fewer bits, for base models that would not fit otherwise.

The blocks of 8-bit matrices have a scale each (Dettmers et al. 2022, arXiv:2110.02861), 4-bit ones are NF4 (Dettmers et
al. 2023, "QLoRA", arXiv:2305.14314). Both are bitsandbytes' (requirements-gpu.txt); a matrix is expanded for each
product. Embedding and head keep the compute dtype.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Bits = Literal[16, 8, 4]
"""Bits of a frozen matrix; 16 stands for the compute dtype, whatever it is."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How the numbers of a matrix in 8 or 4 bits become the matrix again.

    Attributes:
        state: bitsandbytes' scales.
        bits: 8 or 4.
        shape: of the matrix.
        dtype: of the expanded matrix.
    """

    state: Any
    bits: Bits
    shape: torch.Size
    dtype: torch.dtype

    def expanded(self, packed: Tensor) -> Tensor:
        """The matrix in the compute dtype."""
        from bitsandbytes import functional

        if self.bits == 4:
            out: Tensor = functional.dequantize_4bit(packed, self.state)
        else:
            out = functional.dequantize_blockwise(packed, self.state)
        return out.to(self.dtype).view(self.shape)


def can_quantise() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def packed(matrix: Tensor, bits: Bits) -> tuple[Tensor, Packing | None]:
    """The numbers of a matrix in `bits` bits, and how they become the matrix again; None if they are the matrix."""
    if bits == 16:
        return matrix, None
    from bitsandbytes import functional

    if bits == 4:
        numbers, state = functional.quantize_4bit(matrix.contiguous(), quant_type="nf4")
    else:
        numbers, state = functional.quantize_blockwise(matrix.contiguous())
    return numbers, Packing(state, bits, matrix.shape, matrix.dtype)
