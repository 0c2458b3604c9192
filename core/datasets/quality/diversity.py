"""Diversity of the texts: distinct-n, similarity within a cell, common openings."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from core.datasets.quality.duplicates import Signatures, similarity
from core.datasets.quality.units import Block, mix_bits, ngrams

SAMPLE = 2_000  # texts for distinct-n: it falls with the number of texts, so samples must have the same size
_MAX_PER_CELL = 40  # texts per cell that are compared with each other, evenly spaced: 780 pairs
_OPENING = 8  # characters, about as long as "一位唐朝的英雄"
_MIN_SHARED = 3  # texts that must share an opening before it counts as common
_MAX_OPENINGS = 10


@dataclass(frozen=True, slots=True)
class CellSimilarity:
    """A cell, how similar its texts are (Jaccard, 0 to 1), and its rows."""

    cell: tuple[str, ...]
    median: float
    highest: float
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """An opening that several texts share."""

    text: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Diversity:
    """How different the texts are.

    Attributes:
        distinct: share of distinct n-grams of 1, 2 and 3 units among all of them, over at most 2,000 texts (J. Li and
            others, "A Diversity-Promoting Objective Function for Neural Conversation Models", 2016: distinct-1 and -2;
            distinct-3 is computed in the same way); None if there is no such n-gram.
        sampled: the number of these texts.
        median, highest: similarity of texts within a cell: the median over the cells' medians, and the maximum of all
            pairs; None if no cell has two texts.
        cells: the cells whose texts are most similar, the worst first.
        openings: the most common openings.
    """

    distinct: tuple[float | None, float | None, float | None]
    sampled: int
    median: float | None
    highest: float | None
    cells: tuple[CellSimilarity, ...]
    openings: tuple[Opening, ...]


class HashSample:
    """A uniform sample of a stream: the rows with the lowest hashed ids, independent of their order."""

    def __init__(self, size: int = SAMPLE) -> None:
        self._size = size
        self._kept: list[tuple[int, int, str, Mapping[str, str]]] = []

    def offer(self, row_id: int, text: str, values: Mapping[str, str]) -> None:
        """Add the text if it belongs to the sample."""
        rank = -int(mix_bits(np.array([row_id % 2**63], dtype=np.uint64))[0])
        if len(self._kept) < self._size:
            heapq.heappush(self._kept, (rank, row_id, text, values))
        elif rank > self._kept[0][0]:
            heapq.heapreplace(self._kept, (rank, row_id, text, values))

    def texts(self) -> list[tuple[Mapping[str, str], str]]:
        """Values and text of the sampled rows, ordered by id."""
        return [(values, text) for _, _, text, values in sorted(self._kept, key=lambda item: item[1])]


def distinct(units: Block) -> tuple[float | None, float | None, float | None]:
    """Distinct-1, -2 and -3 over all texts."""

    def share(n: int) -> float | None:
        hashes, _ = ngrams(units, n)
        return len(np.unique(hashes)) / len(hashes) if len(hashes) else None

    return share(1), share(2), share(3)


def within_cells(
    cells: Mapping[tuple[str, ...], tuple[int, ...]], index: Mapping[int, int], signatures: Signatures, limit: int = 50
) -> tuple[float | None, float | None, tuple[CellSimilarity, ...]]:
    """Median and maximum similarity within cells, and the `limit` cells whose texts are most similar.

    Args:
        cells: ids of each cell's rows.
        index: index of a row's signature in `signatures`.
    """
    groups = [(cell, [row for row in rows if row in index]) for cell, rows in cells.items()]
    groups = [(cell, rows) for cell, rows in groups if len(rows) > 1]
    if not groups:
        return None, None, ()
    first, second, ends = [], [], []
    for _, rows in groups:
        sampled = (
            rows if len(rows) <= _MAX_PER_CELL else [rows[i * len(rows) // _MAX_PER_CELL] for i in range(_MAX_PER_CELL)]
        )
        for a, b in combinations(sampled, 2):
            first.append(index[a])
            second.append(index[b])
        ends.append(len(first))
    similarities = similarity(signatures, np.asarray(first), np.asarray(second))
    result = [
        CellSimilarity(cell, float(np.median(part)), float(part.max()), tuple(rows))
        for (cell, rows), part in zip(groups, np.split(similarities, ends[:-1]), strict=True)
    ]
    result.sort(key=lambda a: (-a.highest, -a.median))
    median = float(np.median([a.median for a in result]))
    return median, result[0].highest, tuple(result[:limit])


class OpeningCounter:
    """Counts the openings of texts."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}

    def add(self, row_id: int, text: str) -> None:
        """Count the opening of `text`, which is not normalized."""
        if opening := text.strip()[:_OPENING]:
            self._rows.setdefault(opening, []).append(row_id)

    def result(self) -> tuple[Opening, ...]:
        """The most common openings that several texts share."""
        common = Counter({text: len(rows) for text, rows in self._rows.items() if len(rows) >= _MIN_SHARED})
        return tuple(Opening(text, tuple(self._rows[text])) for text, _ in common.most_common(_MAX_OPENINGS))


def measure(
    sample: Sequence[str],
    cells: Mapping[tuple[str, ...], tuple[int, ...]],
    index: Mapping[int, int],
    signatures: Signatures,
    openings: OpeningCounter,
    units_of_sample: Block,
) -> Diversity:
    """All measures together."""
    median, highest, worst = within_cells(cells, index, signatures)
    return Diversity(distinct(units_of_sample), len(sample), median, highest, worst, openings.result())
