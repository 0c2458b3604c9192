"""The order of suggested prompts: cells of the grid alternate with values outside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Columns = Sequence[tuple[str, Sequence[str]]]
"""Each column's name and its values in the grid."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def nth_prompt(columns: Columns, outside: Sequence[Sequence[str]], n: int) -> Mapping[str, str]:
    """The values of the `n`-th prompt (from 0); empty if a column has no values.

    Number 0 is the first cell. Then `outside` and further cells alternate until `outside` is used up; after that there
    are only cells. Every cell appears once before any repeats.

    Args:
        outside: values that are not in the grid, one list per prompt, in the order of the columns.
    """
    if n % 2 and n // 2 < len(outside):
        return dict(zip([name for name, _values in columns], outside[n // 2], strict=True))
    return _nth_cell(columns, n - min((n + 1) // 2, len(outside)))


def _nth_cell(columns: Columns, k: int) -> dict[str, str]:
    """The `k`-th cell, in steps of about 0.62 of the grid size, so that neighbours differ in most columns."""
    size = math.prod(len(values) for _name, values in columns)
    if not size:
        return {}
    step = max(1, round(size * _GOLDEN))
    while math.gcd(step, size) > 1:  # a step that shares a divisor with the size would skip cells
        step += 1
    position, chosen = k * step % size, {}
    for name, values in reversed(columns):
        position, index = divmod(position, len(values))
        chosen[name] = values[index]
    return {name: chosen[name] for name, _values in columns}
