"""The order in which prompts are proposed: cells of the grid, and values outside it, in turn. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Columns = Sequence[tuple[str, Sequence[str]]]
"""Each column's name and the values of its grid."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def nth(columns: Columns, outside: Sequence[Sequence[str]], n: int) -> Mapping[str, str]:
    """The values of the `n`-th prompt (from 0); empty where a column has no values.

    Number 0 is the first cell. Then values outside the grid and further cells take turns, until all of `outside` were
    used once; after that there are cells only. Every cell comes once before any comes again.

    Args:
        outside: values that no cell has, one list for a prompt, in the order of the columns.
    """
    if n % 2 and n // 2 < len(outside):
        return dict(zip([name for name, _values in columns], outside[n // 2], strict=True))
    return _cell(columns, n - min((n + 1) // 2, len(outside)))


def _cell(columns: Columns, k: int) -> dict[str, str]:
    """The `k`-th cell, in steps of about 0.62 of the grid: cells in a row differ in most of their columns."""
    size = math.prod(len(values) for _name, values in columns)
    if not size:
        return {}
    step = max(1, round(size * _GOLDEN))
    while math.gcd(step, size) > 1:  # a step with a common divisor would not visit every cell
        step += 1
    rest, found = k * step % size, {}
    for name, values in reversed(columns):
        rest, index = divmod(rest, len(values))
        found[name] = values[index]
    return {name: found[name] for name, _values in columns}
