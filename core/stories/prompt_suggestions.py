"""Prompts that the story page suggests: cells of the grid, values outside it, and a presenter's own list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from core.actor import Actor, requires
from core.file_storage import FileStorage
from core.sanitize import storable
from core.shared_files import PRESENTER_PROMPTS

Columns = Sequence[tuple[str, Sequence[str]]]
"""Each column's name and its values in the grid."""

_GOLDEN = (math.sqrt(5) - 1) / 2
MAX_PROMPTS = 50
MAX_PROMPT_LENGTH = 2_000  # characters of one prompt


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


def load_presenter_prompts(files: FileStorage) -> list[str]:
    """The saved prompts in order; empty if there are none.

    Raises:
        StorageFull: the shared files can't be read.
    """
    stored = files.find(PRESENTER_PROMPTS)
    return [] if stored is None else normalize_prompts(stored.load().decode("utf-8", "replace").splitlines())


@requires("editor")
def save_presenter_prompts(files: FileStorage, actor: Actor, lines: Iterable[str]) -> None:
    """Save these prompts; an empty list removes all saved prompts.

    Raises:
        NotAllowed: the actor is a viewer. StorageFull: the file can't be written.
    """
    files.write_bytes(PRESENTER_PROMPTS, "".join(f"{line}\n" for line in normalize_prompts(lines)).encode())


def normalize_prompts(lines: Iterable[str]) -> list[str]:
    """Strip white space, drop duplicates, and cut to `MAX_PROMPT_LENGTH` and `MAX_PROMPTS`."""
    prompts = dict.fromkeys(storable(line).strip()[:MAX_PROMPT_LENGTH] for line in lines)
    return [line for line in prompts if line][:MAX_PROMPTS]
