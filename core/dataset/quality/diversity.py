"""How different the texts are from each other: distinct-n, likeness within a cell, common openings."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from core.dataset.quality.duplicates import Signatures, likeness
from core.dataset.quality.units import Block, mixed, ngrams

SAMPLE = 2_000  # texts for distinct-n: it falls as texts are added, so only samples of one size can be compared
_OF_A_CELL = 40  # texts of one cell that are compared with each other, evenly spread: 780 pairs
_OPENING = 8  # characters: "一位唐朝的英雄" is as long
_SHARED_BY = 3  # texts that begin alike before it is called a common opening
_OPENINGS = 10


@dataclass(frozen=True, slots=True)
class CellLikeness:
    """A cell, how alike its texts are (Jaccard, 0 to 1), and its rows."""

    cell: tuple[str, ...]
    median: float
    highest: float
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Opening:
    """How several texts begin."""

    text: str
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Diversity:
    """How different the texts are.

    Attributes:
        distinct: share of distinct runs of 1, 2 and 3 units among all of them (J. Li and others, "A
            Diversity-Promoting Objective Function for Neural Conversation Models", 2016: distinct-1, -2; the third is
            counted alike), over at most 2,000 texts; None where there is no such run.
        sampled: how many texts that were.
        median, highest: likeness of texts within a cell: the median over cells of their median, and the highest of
            any pair; None where no cell has two texts.
        cells: the cells whose texts are most alike, the worst first.
        openings: the most common ways to begin.
    """

    distinct: tuple[float | None, float | None, float | None]
    sampled: int
    median: float | None
    highest: float | None
    cells: tuple[CellLikeness, ...]
    openings: tuple[Opening, ...]


class HashSample:
    """An even sample of a stream: the rows with the lowest hashed ids, the same ones in whatever order they come."""

    def __init__(self, most: int = SAMPLE) -> None:
        self._most = most
        self._kept: list[tuple[int, int, str, Mapping[str, str]]] = []

    def offer(self, row_id: int, text: str, values: Mapping[str, str]) -> None:
        """Keep the text if it belongs to the sample."""
        rank = -int(mixed(np.array([row_id % 2**63], dtype=np.uint64))[0])
        if len(self._kept) < self._most:
            heapq.heappush(self._kept, (rank, row_id, text, values))
        elif rank > self._kept[0][0]:
            heapq.heapreplace(self._kept, (rank, row_id, text, values))

    def texts(self) -> list[tuple[Mapping[str, str], str]]:
        """Values and text of what was kept, in the order of ids."""
        return [(values, text) for _, _, text, values in sorted(self._kept, key=lambda kept: kept[1])]


def distinct(units: Block) -> tuple[float | None, float | None, float | None]:
    """Distinct-1, -2 and -3 of the texts together."""

    def share(n: int) -> float | None:
        found, _ = ngrams(units, n)
        return len(np.unique(found)) / len(found) if len(found) else None

    return share(1), share(2), share(3)


def within_cells(
    cells: Mapping[tuple[str, ...], tuple[int, ...]], place: Mapping[int, int], signed: Signatures, most: int = 50
) -> tuple[float | None, float | None, tuple[CellLikeness, ...]]:
    """Median and highest likeness within cells, and the `most` cells whose texts are most alike.

    Args:
        cells: ids of each cell's rows; place: where a row's signature stands in `signed`.
    """
    groups = [(cell, [row for row in rows if row in place]) for cell, rows in cells.items()]
    groups = [(cell, rows) for cell, rows in groups if len(rows) > 1]
    if not groups:
        return None, None, ()
    first, second, ends = [], [], []
    for _, rows in groups:
        spread = rows if len(rows) <= _OF_A_CELL else [rows[i * len(rows) // _OF_A_CELL] for i in range(_OF_A_CELL)]
        for one, other in combinations(spread, 2):
            first.append(place[one])
            second.append(place[other])
        ends.append(len(first))
    alike = likeness(signed, np.asarray(first), np.asarray(second))
    found = [
        CellLikeness(cell, float(np.median(part)), float(part.max()), tuple(rows))
        for (cell, rows), part in zip(groups, np.split(alike, ends[:-1]), strict=True)
    ]
    found.sort(key=lambda one: (-one.highest, -one.median))
    middle = float(np.median([one.median for one in found]))
    return middle, found[0].highest, tuple(found[:most])


class OpeningCounter:
    """Counts how texts begin."""

    def __init__(self) -> None:
        self._rows: dict[str, list[int]] = {}

    def add(self, row_id: int, text: str) -> None:
        """`text` as it is."""
        if begins := text.strip()[:_OPENING]:
            self._rows.setdefault(begins, []).append(row_id)

    def result(self) -> tuple[Opening, ...]:
        """The most common ones, of those that several texts share."""
        common = Counter({text: len(rows) for text, rows in self._rows.items() if len(rows) >= _SHARED_BY})
        return tuple(Opening(text, tuple(self._rows[text])) for text, _ in common.most_common(_OPENINGS))


def measure(
    sample: Sequence[str],
    cells: Mapping[tuple[str, ...], tuple[int, ...]],
    place: Mapping[int, int],
    signed: Signatures,
    openings: OpeningCounter,
    units_of_sample: Block,
) -> Diversity:
    """All of it together."""
    median, highest, worst = within_cells(cells, place, signed)
    return Diversity(distinct(units_of_sample), len(sample), median, highest, worst, openings.result())
