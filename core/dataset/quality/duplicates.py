"""Exact and near duplicates: MinHash signatures, buckets of equal bands, clusters. Arrays only, no pairs of all rows.

MinHash: A. Broder, "On the resemblance and containment of documents", 1997. Bands: Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3.4. Written here on numpy: a library that makes an object of each text is
some thirty times slower (docs/decisions.md has the figures).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.dataset.quality.units import Block, Ints, shingles

Signatures = npt.NDArray[np.uint32]

PERMUTATIONS = 128  # the estimate's standard error is √(s(1-s)/128), 0.04 at a likeness of 0.7
NEAR = 0.7  # Jaccard likeness: in 300 Chinese characters about ten scattered changes
_BAND_ROWS = 6  # 21 bands of 6: a pair at 0.7 is looked at with 93 %, at 0.8 with 99.8 %, at 0.2 with 0.1 %
_BANDS = PERMUTATIONS // _BAND_ROWS
_EMPTY = np.uint32(0xFFFFFFFF)
_PAIRS_AT_ONCE = 50_000  # compared at a time: 50 MB
_SEED = 0x5EED  # the same data, the same report


@dataclass(frozen=True, slots=True)
class Cluster:
    """Rows that say (nearly) the same.

    Attributes:
        rows: their ids, the one to keep first.
        exact: whether the texts are equal to the letter, white space around them aside.
        likeness: the lowest estimated Jaccard likeness among the pairs that made the cluster; 1.0 for exact ones.
    """

    rows: tuple[int, ...]
    exact: bool
    likeness: float


def signatures(units: Block) -> Signatures:
    """A MinHash signature for each text, shape (texts, 128); one without units gets the highest numbers throughout."""
    hashes, row = shingles(units)
    out = np.full((PERMUTATIONS, len(units.counts)), _EMPTY, dtype=np.uint32)
    filled = np.flatnonzero(units.counts)
    if len(filled):
        starts = np.searchsorted(row, filled)
        factors, summands = _permutations()
        moved = np.empty_like(hashes)
        for number in range(PERMUTATIONS):
            np.multiply(hashes, factors[number], out=moved)
            np.add(moved, summands[number], out=moved)
            out[number, filled] = np.minimum.reduceat(moved, starts)
    return np.ascontiguousarray(out.T)


def likeness(signed: Signatures, first: Ints, second: Ints) -> npt.NDArray[np.float32]:
    """Estimated Jaccard likeness of pairs of rows: the share of equal places in their signatures."""
    out = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        out[part] = (signed[first[part]] == signed[second[part]]).mean(axis=1, dtype=np.float32)
    return out


def clusters(ids: Sequence[int], signed: Signatures, digests: Ints) -> tuple[Cluster, ...]:
    """Groups of exact and near duplicates, the largest first.

    Args:
        ids: of the rows; within a cluster the earliest here comes first.
        signed: their signatures.
        digests: a number for each text; equal ones are equal texts.
    """
    found = _Groups(len(ids))
    for first, second in _candidates(signed, digests):
        same = digests[first] == digests[second]
        alike = np.where(same, np.float32(1.0), likeness(signed, first, second))
        for one, other, value in zip(
            first[alike >= NEAR].tolist(), second[alike >= NEAR].tolist(), alike[alike >= NEAR].tolist(), strict=True
        ):
            found.join(one, other, value)
    groups = [
        Cluster(tuple(ids[i] for i in members), len({int(digests[i]) for i in members}) == 1, round(lowest, 2))
        for members, lowest in found.groups()
    ]
    return tuple(sorted(groups, key=lambda group: -len(group.rows)))


class _Groups:
    """Union-find that remembers the lowest likeness by which a group was joined."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._lowest: dict[int, float] = {}

    def join(self, one: int, other: int, value: float) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        if low != high:
            self._parent[high] = low
            self._lowest[low] = min(value, self._lowest.get(low, 1.0), self._lowest.pop(high, 1.0))

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


def _candidates(signed: Signatures, digests: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs worth comparing: rows of one bucket with its first row and with their neighbour, never all with all.

    So the number of pairs grows with the rows, not with their square, however alike the data is.
    """
    yield _bucket_pairs(digests)
    filled = np.flatnonzero(signed[:, 0] != _EMPTY) if len(signed) else np.zeros(0, dtype=np.int64)
    for band in range(_BANDS):
        key = np.zeros(len(filled), dtype=np.uint64)
        for place in range(band * _BAND_ROWS, (band + 1) * _BAND_ROWS):
            key = (key ^ signed[filled, place]) * np.uint64(0x100000001B3) + (key >> np.uint64(29))
        first, second = _bucket_pairs(key)
        yield filled[first], filled[second]


def _bucket_pairs(keys: npt.NDArray[np.uint64] | Ints) -> tuple[Ints, Ints]:
    """(first of the bucket, member) and (neighbour, member) for all rows that share a key with another."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1  # places in `order` that are not the first of their bucket
    heads = np.ones(len(ordered), dtype=bool)
    heads[same] = False
    head_of = np.maximum.accumulate(np.where(heads, np.arange(len(ordered)), 0))
    later = same[head_of[same] != same - 1]  # the second of a bucket has met the first already as its neighbour
    first = np.concatenate((order[same - 1], order[head_of[later]]))
    return first, np.concatenate((order[same], order[later]))


def _permutations() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """x → a·x + b modulo 2^32 with odd a: each a permutation of the 32-bit numbers."""
    random = np.random.default_rng(_SEED)
    factors = random.integers(0, 2**31, PERMUTATIONS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return factors, random.integers(0, 2**32, PERMUTATIONS, dtype=np.uint32)
