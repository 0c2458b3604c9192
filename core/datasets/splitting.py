"""Selects validation rows: a share of every cell, reproducibly, and stable when rows are added. Pure.

Each row has a rank: a hash of its key and a seed. Within a cell the lowest ranks are selected. The number per cell is
its share, rounded by largest remainders (Hamilton's method), so the total is exact and no cell is off by a whole row.
Adding rows to one cell changes nothing in the others, except through the remainders.

Rows with the same content stay together: otherwise a validation row could have a copy in the training data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from core.errors import BadFile, FabulaError
from core.message import msg

_Numbers = npt.NDArray[np.uint64]
_MIN_PER_STRATUM = 2  # minimum average number of rows per stratum
_MAX_SHARE = 0.9  # the rest is needed for training
Split = Literal["held_out", "train", "validation"]
# Names of the splits in files (including those of Hugging Face and scikit-learn) → ours.
_SPLIT_NAMES: dict[str, Split] = {
    **dict.fromkeys(("held_out", "heldout", "held out", "held-out", "test", "eval"), "held_out"),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}


def split(
    keys: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    share: float,
    seed: int,
    content: Sequence[Hashable] | None = None,
) -> list[bool]:
    """For each row, True if it is selected for validation: `round(share × rows)` of them, as far as groups allow.

    Args:
        keys: the rows' keys, unique.
        cells: the cell of each row (see `strata`).
        share: 0 to 0.9.
        seed: a different seed selects different rows.
        content: a value per row that is equal for rows with the same content, which stay together; None means that all
            differ.

    Raises:
        FabulaError: the share is out of bounds.
    """
    if not 0 <= share <= _MAX_SHARE:
        raise FabulaError(
            msg("The share for validation is {share}, but must be between 0 and 0.9.", share=share),
            msg("Choose another one."),
        )
    return choose(keys, cells, round(share * len(keys)), seed, content)


def choose(
    keys: Sequence[str],
    cells: Sequence[Sequence[str]],
    count: int,
    seed: int,
    content: Sequence[Hashable] | None = None,
) -> list[bool]:
    """For each row, True if it is one of `count` rows, spread over all cells in proportion to their size.

    Rows with equal `content` are selected together or not at all, in order of rank. Fewer than `count` rows are
    selected if only larger groups are left.
    """
    if not keys or count <= 0:
        return [False] * len(keys)
    cell_of, ranks = _digests(["\x1f".join(cell) for cell in cells], seed), _digests(keys, seed)
    names, index, sizes = np.unique(cell_of, return_inverse=True, return_counts=True)
    quotas = apportion(sizes.tolist(), min(count, len(keys)), order=names.tolist())
    by_rank = np.lexsort((ranks, index))  # rows cell by cell, within a cell by rank
    groups = _groups(content)
    if groups:
        return _choose_groups(by_rank.tolist(), index.tolist(), list(quotas), groups)
    position = np.empty(len(keys), dtype=np.int64)
    starts = np.cumsum(sizes) - sizes
    position[by_rank] = np.arange(len(keys)) - np.repeat(starts, sizes)
    chosen: list[bool] = (position < np.asarray(quotas)[index]).tolist()
    return chosen


def _groups(content: Sequence[Hashable] | None) -> dict[int, list[int]]:
    """For each row that shares its content with others: all rows with that content."""
    rows_by_content: dict[Hashable, list[int]] = {}
    for row, value in enumerate(content or ()):
        rows_by_content.setdefault(value, []).append(row)
    return {row: rows for rows in rows_by_content.values() if len(rows) > 1 for row in rows}


def _choose_groups(
    by_rank: list[int], cell_of: list[int], quotas: list[int], groups: dict[int, list[int]]
) -> list[bool]:
    """The selection if rows form groups: first by quota per cell, then up to the total."""
    chosen, remaining = [False] * len(by_rank), sum(quotas)
    for by_cell in (True, False):
        for row in by_rank:
            if not remaining:
                return chosen
            group = groups.get(row, (row,))
            if chosen[row] or len(group) > remaining or (by_cell and not _fits(group, cell_of, quotas)):
                continue
            for member in group:
                chosen[member] = True
                quotas[cell_of[member]] -= 1
            remaining -= len(group)
    return chosen


def _fits(rows: Sequence[int], cell_of: list[int], quotas: list[int]) -> bool:
    """True if every cell's quota allows its rows in this group."""
    if len(rows) == 1:
        return quotas[cell_of[rows[0]]] > 0
    return all(quotas[cell] >= count for cell, count in Counter(cell_of[row] for row in rows).items())


def apportion(weights: Sequence[float], total: int, order: Sequence[Any] | None = None) -> list[int]:
    """`total` items divided in proportion to `weights`, exactly, by largest remainders.

    Args:
        weights: non-negative, not all 0.
        total: number of items.
        order: breaks ties between equal remainders, lowest first; default: the order of the weights.
    """
    weight_sum = sum(weights)
    exact = [weight * total / weight_sum for weight in weights]
    result = [int(part) for part in exact]
    tie_order = range(len(weights)) if order is None else order
    by_remainder = sorted(range(len(weights)), key=lambda i: (-round(exact[i] - result[i], 9), tie_order[i]))
    for i in by_remainder[: total - sum(result)]:
        result[i] += 1
    return result


def strata(values: Sequence[Sequence[str]], completions: Sequence[str]) -> list[tuple[str, ...]]:
    """What to stratify rows by: their cell, or something coarser if most cells have a single row.

    That is the cell without its last columns, as few as necessary; else the completion, if there are few distinct ones
    (labels); else nothing.
    """
    columns = min((len(row) for row in values), default=0)
    for width in range(columns, 0, -1):
        if len({tuple(row[:width]) for row in values}) * _MIN_PER_STRATUM <= len(values):
            return [tuple(row[:width]) for row in values]
    if len(set(completions)) * _MIN_PER_STRATUM <= len(completions):
        return [(completion,) for completion in completions]
    return [()] * len(values)


def rank(text: str, seed: int) -> int:
    """The rank of `text` for a seed: 64 bits, the same on every machine."""
    data = f"{seed}\x1f{text}".encode("utf-8", "replace")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _digests(texts: Sequence[str], seed: int) -> _Numbers:
    return np.fromiter((rank(text, seed) for text in texts), dtype=np.uint64, count=len(texts))


def parse_split(value: str) -> Split | None:
    """The split that a cell of a file names; None for an empty one.

    Raises:
        BadFile: it names no split.
    """
    if not value.strip():
        return None
    try:
        return _SPLIT_NAMES[value.strip().lower()]
    except KeyError:
        raise BadFile(
            msg(
                "The split column contains {text}, which is not train, validation or held_out.",
                text=repr(value.strip()[:50]),
            ),
            msg("Choose another column, or none; an empty cell leaves a row undecided."),
        ) from None
