"""Examples put together for the model: as many at once as memory allows, padded as little as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from core.engine.tokens import Encoded

_MOST_TOKENS = 640  # padded; activations take about 2 MB a token: 1.3 GB, more only for an example that is longer


def micro_batches(examples: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """Groups of like length whose padded size stays within bounds."""
    group: list[Encoded] = []
    for example in sorted(examples, key=lambda example: len(example.tokens)):
        if group and len(example.tokens) * (len(group) + 1) > _MOST_TOKENS:
            yield group
            group = []
        group.append(example)
    if group:
        yield group


def tensors(group: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-padded ids [n, longest]; flat places that predict a learned token; those tokens; whose they are."""
    longest = max(len(example.tokens) for example in group)
    ids = torch.zeros(len(group), longest, dtype=torch.int64)
    places, labels, owners = [], [], []
    for row, example in enumerate(group):
        ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
        for at in range(1, len(example.tokens)):
            if example.trained[at]:
                places.append(row * longest + at - 1)
                labels.append(example.tokens[at])
                owners.append(row)
    return ids, torch.tensor(places), torch.tensor(labels), torch.tensor(owners)
