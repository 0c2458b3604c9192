"""Similarity of texts: exact and near duplicates; how different the texts are (distinct-n, within a cell, openings).

Near duplicates are found with MinHash signatures, LSH buckets of equal bands and clusters; all pairs of rows are never
compared. MinHash: A. Broder, "On the resemblance and containment of documents", 1997. Bands: Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", chapter 3.4. Implemented on numpy: a library that creates one object per text is
about five times slower (docs/decisions.md has the figures).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from core.datasets.quality.units import Block, Ints, mix_bits, ngrams, shingles

Signatures = npt.NDArray[np.uint32]

PERMUTATIONS = 128  # the estimate's standard error is √(s(1-s)/128), 0.04 at a similarity of 0.7
NEAR_DUPLICATE = 0.7  # Jaccard similarity; about ten scattered changes in 300 Chinese characters
_BAND_ROWS = 6  # 21 bands of 6: a pair with similarity 0.7 is compared with probability 93 %, 0.8: 99.8 %, 0.2: 0.1 %
_BANDS = PERMUTATIONS // _BAND_ROWS
_EMPTY = np.uint32(0xFFFFFFFF)
_PAIR_CHUNK = 50_000  # pairs compared at a time: 50 MB
_SEED = 0x5EED  # the same data gives the same report
SAMPLE = 2_000  # texts for distinct-n: it falls with the number of texts, so samples must have the same size
_MAX_PER_CELL = 40  # texts per cell that are compared with each other, evenly spaced: 780 pairs
_OPENING = 8  # characters, about as long as "一位唐朝的英雄"
_MIN_SHARED = 3  # texts that must share an opening before it counts as common
_MAX_OPENINGS = 10


@dataclass(frozen=True, slots=True)
class Cluster:
    """A group of rows that are exact or near duplicates of each other.

    Attributes:
        rows: the row ids, starting with the one to keep.
        exact: True if the texts are identical apart from surrounding white space.
        similarity: the lowest estimated Jaccard similarity among the pairs that form the cluster; 1.0 for exact ones.
    """

    rows: tuple[int, ...]
    exact: bool
    similarity: float


def signatures(units: Block) -> Signatures:
    """MinHash signatures, shape (texts, 128). A text without units gets the maximum everywhere."""
    hashes, row = shingles(units)
    out = np.full((PERMUTATIONS, len(units.counts)), _EMPTY, dtype=np.uint32)
    filled = np.flatnonzero(units.counts)
    if len(filled):
        starts = np.searchsorted(row, filled)
        factors, summands = _permutations()
        hashed = np.empty_like(hashes)
        for i in range(PERMUTATIONS):
            np.multiply(hashes, factors[i], out=hashed)
            np.add(hashed, summands[i], out=hashed)
            out[i, filled] = np.minimum.reduceat(hashed, starts)
    return np.ascontiguousarray(out.T)


def estimated_similarity(signatures: Signatures, first: Ints, second: Ints) -> npt.NDArray[np.float32]:
    """Estimated Jaccard similarity of pairs of rows: the share of equal positions in their signatures."""
    out = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), _PAIR_CHUNK):
        chunk = slice(start, start + _PAIR_CHUNK)
        out[chunk] = (signatures[first[chunk]] == signatures[second[chunk]]).mean(axis=1, dtype=np.float32)
    return out


def clusters(ids: Sequence[int], signatures: Signatures, digests: Ints) -> tuple[Cluster, ...]:
    """Groups of exact and near duplicates, the largest first.

    Args:
        ids: row ids; within a cluster the earliest comes first.
        signatures: the rows' signatures.
        digests: a hash of each text; equal hashes mean equal texts.
    """
    union_find = _UnionFind(len(ids))
    for first, second in _candidate_pairs(signatures, digests):
        equal = digests[first] == digests[second]
        similarities = np.where(equal, np.float32(1.0), estimated_similarity(signatures, first, second))
        for a, b, score in zip(
            first[similarities >= NEAR_DUPLICATE].tolist(),
            second[similarities >= NEAR_DUPLICATE].tolist(),
            similarities[similarities >= NEAR_DUPLICATE].tolist(),
            strict=True,
        ):
            union_find.join(a, b, score)
    groups = [
        Cluster(tuple(ids[i] for i in members), len({int(digests[i]) for i in members}) == 1, round(lowest, 2))
        for members, lowest in union_find.groups()
    ]
    return tuple(sorted(groups, key=lambda group: -len(group.rows)))


class _UnionFind:
    """Union-find that keeps the lowest similarity within each group."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._lowest: dict[int, float] = {}

    def join(self, a: int, b: int, score: float) -> None:
        low, high = sorted((self._root(a), self._root(b)))
        if low != high:
            self._parent[high] = low
            self._lowest[low] = min(score, self._lowest.get(low, 1.0), self._lowest.pop(high, 1.0))

    def groups(self) -> Iterator[tuple[list[int], float]]:
        members: dict[int, list[int]] = {root: [] for root in self._lowest}
        for index in range(len(self._parent)):
            root = self._root(index)
            if root in members:
                members[root].append(index)
        for root, group in members.items():
            yield group, self._lowest[root]

    def _root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index


def _candidate_pairs(signatures: Signatures, digests: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs to compare: each row of a bucket with the bucket's first row and with its neighbour.

    The number of pairs grows linearly with the rows, even if all rows are similar.
    """
    yield _bucket_pairs(digests)
    filled = np.flatnonzero(signatures[:, 0] != _EMPTY) if len(signatures) else np.zeros(0, dtype=np.int64)
    for band in range(_BANDS):
        key = np.zeros(len(filled), dtype=np.uint64)
        for position in range(band * _BAND_ROWS, (band + 1) * _BAND_ROWS):
            key = (key ^ signatures[filled, position]) * np.uint64(0x100000001B3) + (key >> np.uint64(29))
        first, second = _bucket_pairs(key)
        yield filled[first], filled[second]


def _bucket_pairs(keys: npt.NDArray[np.uint64] | Ints) -> tuple[Ints, Ints]:
    """For each group of rows that share a key: each row paired with the group's first row and with its neighbour."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    # Positions in `order` that are not the first of their bucket.
    same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    heads = np.ones(len(ordered), dtype=bool)
    heads[same] = False
    head_of = np.maximum.accumulate(np.where(heads, np.arange(len(ordered)), 0))
    # The second row of a bucket is already paired with the first as its neighbour.
    later = same[head_of[same] != same - 1]
    first = np.concatenate((order[same - 1], order[head_of[later]]))
    return first, np.concatenate((order[same], order[later]))


def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Permutations of the 32-bit numbers: x → a·x + b modulo 2^32 with odd a."""
    random = np.random.default_rng(_SEED)
    factors = random.integers(0, 2**31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, random.integers(0, 2**32, PERMUTATIONS, dtype=np.uint32)


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
    similarities = estimated_similarity(signatures, np.asarray(first), np.asarray(second))
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


def measure_diversity(
    sample: Sequence[str],
    cells: Mapping[tuple[str, ...], tuple[int, ...]],
    index: Mapping[int, int],
    signatures: Signatures,
    openings: OpeningCounter,
    units_of_sample: Block,
) -> Diversity:
    """Combine all diversity measures."""
    median, highest, worst = within_cells(cells, index, signatures)
    return Diversity(distinct(units_of_sample), len(sample), median, highest, worst, openings.result())
