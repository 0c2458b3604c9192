"""Groups examples into micro-batches: as large as memory allows, with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from core.engine.formats.tokens import Encoded

# including padding; activations take 2 MB per token, so 1.3 GB; only a single longer example takes more
_MAX_TOKENS = 640


def micro_batches(examples: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Groups of examples of similar length, with at most `_MAX_TOKENS` padded tokens each."""
    group: list[Encoded] = []
    for example in sorted(examples, key=lambda example: len(example.tokens)):
        if group and len(example.tokens) * (len(group) + 1) > _MAX_TOKENS:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


def tensors(group: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tensors of a group of n examples.

    Returns:
        ids: right-padded token ids, [n, longest].
        positions: flat positions that predict a trained token, [labels].
        labels: these tokens, [labels].
        owners: the index of each label's example, [labels].
    """
    longest = max(len(example.tokens) for example in group)
    ids = torch.zeros(len(group), longest, dtype=torch.int64)
    positions, labels, owners = [], [], []
    for row, example in enumerate(group):
        ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
        for index in range(1, len(example.tokens)):
            if example.trained[index]:
                positions.append(row * longest + index - 1)
                labels.append(example.tokens[index])
                owners.append(row)
    return ids, torch.tensor(positions), torch.tensor(labels), torch.tensor(owners)
