"""Batches of texts of different lengths, with little padding: texts of similar length together, or several in one row.

Texts in one row do not see one another: positions begin again with each text, from which transformers makes a
block-diagonal attention mask (Krell et al. 2021, "Efficient sequence packing without cross-contamination",
arXiv:2107.02027). Rows are filled by first-fit decreasing. Time for attention rises with the square of a row's length,
so a row of several texts is at most `Device.row_tokens` long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.engine.formats.tokens import Encoded

Example = tuple[Encoded, ...]
"""Texts that belong together and stay in one micro-batch."""
Row = list[Encoded]
"""Texts that follow one another in one row of a micro-batch."""
_MAX_SHARE = 0.9  # packing is used if it leaves at most this share of the tokens; masks cost time, too


@dataclass(frozen=True, slots=True)
class BatchTensors:
    """A micro-batch as tensors.

    Attributes:
        ids: right-padded token ids, [rows, length].
        places: each token's position in its text, [rows, length]; None if every row has one text.
        predicting: flat indices into `ids` of the tokens that are followed by a trained one, [labels].
        labels: the trained tokens, [labels].
        owners: the index of each label's text, counted over all rows, [labels].
    """

    ids: Tensor
    places: Tensor | None
    predicting: Tensor
    labels: Tensor
    owners: Tensor

    def to(self, device: torch.device) -> BatchTensors:
        """The same on another device."""
        places = None if self.places is None else self.places.to(device)
        return BatchTensors(
            self.ids.to(device),
            places,
            self.predicting.to(device),
            self.labels.to(device),
            self.owners.to(device),
        )


def micro_batches(
    examples: Sequence[Example], *, batch_tokens: int, row_tokens: int, packs: bool = True
) -> list[list[Row]]:
    """Divide examples into micro-batches. The texts of an example follow one another.

    Args:
        batch_tokens: maximum tokens of a micro-batch, including padding, unless a single example is longer.
        row_tokens: maximum tokens of a row of several examples.
        packs: whether the model can tell the texts of a row apart.
    """
    padded = list(_grouped([[[text] for text in example] for example in examples], batch_tokens))
    if not packs:
        return padded
    packed = list(_grouped([[row] for row in _filled(examples, row_tokens)], batch_tokens))
    return packed if _n_tokens(packed) <= _MAX_SHARE * _n_tokens(padded) else padded


def batch_tensors(rows: Sequence[Row]) -> BatchTensors:
    """The tensors of a micro-batch, on the CPU. Without texts, it has one row of padding and no label."""
    length = _longest(rows) if rows else 1
    ids = torch.zeros(max(1, len(rows)), length, dtype=torch.int64)
    places = torch.arange(length).repeat(len(ids), 1)
    predicting: list[int] = []
    labels: list[int] = []
    owners: list[int] = []
    n_texts = 0
    for number, row in enumerate(rows):
        start = 0
        for text in row:
            end = start + len(text.tokens)
            ids[number, start:end] = torch.tensor(text.tokens)
            places[number, start:] -= int(places[number, start])  # the padding belongs to the last text
            trained = [index for index in range(1, len(text.tokens)) if text.trained[index]]
            predicting += [number * length + start + index - 1 for index in trained]
            labels += [text.tokens[index] for index in trained]
            owners += [n_texts] * len(trained)
            start, n_texts = end, n_texts + 1
    several = any(len(row) > 1 for row in rows)
    indices = (torch.tensor(part, dtype=torch.int64) for part in (predicting, labels, owners))
    return BatchTensors(ids, places if several else None, *indices)


def _filled(examples: Iterable[Example], row_tokens: int) -> list[Row]:
    """Fill rows, the longest examples first."""
    rows: list[Row] = []
    room: list[int] = []
    for example in sorted(examples, key=_length, reverse=True):
        needed = _length(example)
        found = next((number for number, left in enumerate(room) if left >= needed), None)
        if found is None:
            rows.append([])
            room.append(max(needed, row_tokens))
            found = len(rows) - 1
        rows[found] += example
        room[found] -= needed
    return rows


def _grouped(blocks: Iterable[list[Row]], batch_tokens: int) -> Iterator[list[Row]]:
    """Put blocks of rows of similar length into micro-batches."""
    group: list[Row] = []
    for block in sorted(blocks, key=_longest):
        if group and _longest(block) * (len(group) + len(block)) > batch_tokens:
            yield group
            group = []
        group += block
    if group:
        yield group


def _n_tokens(batches: Iterable[Sequence[Row]]) -> int:
    """Tokens of micro-batches, including padding."""
    return sum(len(rows) * _longest(rows) for rows in batches)


def _longest(rows: Iterable[Row]) -> int:
    return max(_length(row) for row in rows)


def _length(texts: Iterable[Encoded]) -> int:
    return sum(len(text.tokens) for text in texts)
