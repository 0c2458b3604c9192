"""Which rows are kept from training: a share of every cell, the same rows every time, little moved by new ones. Pure.

Each row has a rank from a hash of its key and a seed; within a cell the lowest ranks are taken. How many of a cell is
its share, rounded by largest remainders (Hamilton's method), so that the total is exact and no cell is off by one row
or more. Rows that are added to one cell move nothing in another, but for the remainders that they use up.

Rows that say the same stay together: a text that is learned from would otherwise be judged by its copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import FabulaError
from core.message import msg

_Numbers = npt.NDArray[np.uint64]
_ENOUGH = 2  # rows that a stratum has on average: with fewer, a share of each means nothing
_MOST_SHARE = 0.9  # something must be left to learn from


def split(
    keys: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    share: float,
    seed: int,
    alike: Sequence[Hashable] | None = None,
) -> list[bool]:
    """For each row whether it is kept for validation. `round(share × rows)` of them are, as far as copies allow.

    Args:
        keys: of the rows, each once.
        cells: for each row the cell that it belongs to (see `strata`).
        share: 0 to 0.9.
        seed: another one draws other rows.
        alike: for each row what it says; rows that say the same stay together. None: no two do.

    Raises:
        FabulaError: the share is out of bounds.
    """
    if not 0 <= share <= _MOST_SHARE:
        raise FabulaError(
            msg("The share for validation is {share}, but must be between 0 and 0.9.", share=share),
            msg("Choose another one."),
        )
    return choose(keys, cells, round(share * len(keys)), seed, alike)


def choose(
    keys: Sequence[str],
    cells: Sequence[Sequence[str]],
    count: int,
    seed: int,
    alike: Sequence[Hashable] | None = None,
) -> list[bool]:
    """For each row whether it is one of `count` that are spread over all cells, each in proportion to its rows.

    Rows that are `alike` are all chosen or none: where they fit in, by their ranks; fewer than `count` are chosen where
    only larger groups are left.
    """
    if not keys or count <= 0:
        return [False] * len(keys)
    cell_of, ranks = _digests(["\x1f".join(cell) for cell in cells], seed), _digests(keys, seed)
    names, index, sizes = np.unique(cell_of, return_inverse=True, return_counts=True)
    wanted = apportion(sizes.tolist(), min(count, len(keys)), order=names.tolist())
    by_rank = np.lexsort((ranks, index))  # rows cell by cell, within a cell by rank
    groups = _groups(alike)
    if groups:
        return _whole(by_rank.tolist(), index.tolist(), list(wanted), groups)
    place = np.empty(len(keys), dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    place[by_rank] = np.arange(len(keys)) - np.repeat(starts, sizes)
    chosen: list[bool] = (place < np.asarray(wanted)[index]).tolist()
    return chosen


def _groups(alike: Sequence[Hashable] | None) -> dict[int, list[int]]:
    """For each row that says what another one says, all that do."""
    said: dict[Hashable, list[int]] = {}
    for row, what in enumerate(alike or ()):
        said.setdefault(what, []).append(row)
    return {row: rows for rows in said.values() if len(rows) > 1 for row in rows}


def _whole(by_rank: list[int], cell_of: list[int], wanted: list[int], groups: dict[int, list[int]]) -> list[bool]:
    """The choice where some rows stay together: first as many of each cell as it is to give, then as many in all."""
    chosen, left = [False] * len(by_rank), sum(wanted)
    for by_cell in (True, False):
        for row in by_rank:
            if not left:
                return chosen
            together = groups.get(row, (row,))
            if chosen[row] or len(together) > left or (by_cell and not _fits(together, cell_of, wanted)):
                continue
            for one in together:
                chosen[one] = True
                wanted[cell_of[one]] -= 1
            left -= len(together)
    return chosen


def _fits(rows: Sequence[int], cell_of: list[int], wanted: list[int]) -> bool:
    """Whether each cell is still to give as many rows as it has among these."""
    if len(rows) == 1:
        return wanted[cell_of[rows[0]]] > 0
    return all(wanted[cell] >= count for cell, count in Counter(cell_of[row] for row in rows).items())


def apportion(weights: Sequence[float], total: int, order: Sequence[Any] | None = None) -> list[int]:
    """`total` things divided in proportion to the weights, exactly: largest remainders get what rounding down leaves.

    Args:
        weights: none negative, not all 0.
        total: how many things.
        order: decides between equal remainders, the lowest first; the order of the weights by default.
    """
    whole = sum(weights)
    exact = [weight * total / whole for weight in weights]
    given = [int(part) for part in exact]
    ties = range(len(weights)) if order is None else order
    by_remainder = sorted(range(len(weights)), key=lambda i: (-round(exact[i] - given[i], 9), ties[i]))
    for i in by_remainder[: total - sum(given)]:
        given[i] += 1
    return given


def strata(values: Sequence[Sequence[str]], completions: Sequence[str]) -> list[tuple[str, ...]]:
    """What each row is split by: its cell; where most cells have one row only, something coarser.

    That is the cell without its last columns, as few as are needed; else the completion, where few different ones
    (labels) are learned; else nothing: all rows together.
    """
    columns = min((len(row) for row in values), default=0)
    for width in range(columns, 0, -1):
        if len({tuple(row[:width]) for row in values}) * _ENOUGH <= len(values):
            return [tuple(row[:width]) for row in values]
    if len(set(completions)) * _ENOUGH <= len(completions):
        return [(completion,) for completion in completions]
    return [()] * len(values)


def rank(text: str, seed: int) -> int:
    """Where `text` stands in the order that `seed` gives to all texts: 64 bits, the same on every machine."""
    named = f"{seed}\x1f{text}".encode("utf-8", "replace")
    return int.from_bytes(blake2b(named, digest_size=8).digest(), "big")


def _digests(texts: Sequence[str], seed: int) -> _Numbers:
    return np.fromiter((rank(text, seed) for text in texts), dtype=np.uint64, count=len(texts))
