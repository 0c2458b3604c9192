"""Prompts for presenter mode: a plain text file in the home folder, one prompt a line; else cells of a grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.actor import Actor
from core.errors import FabulaError, StorageFull
from core.text import storable

_FILE = "stage_prompts.txt"
MOST = 50
FROM_THE_GRID = 4  # cells to begin with: enough to show that stories differ, few enough to get past them
LONGEST = 2_000  # characters of one prompt


@dataclass(frozen=True, slots=True)
class Cell:
    """Values for all columns of a grid, in their order; `outside`: no row of the grid has them together."""

    values: tuple[str, ...]
    outside: bool = False


def cells(columns: Sequence[tuple[str, Sequence[str]]], outside: Iterable[Sequence[str]] = ()) -> list[Cell]:
    """Cells spread evenly over the values of all columns, then those `outside` the grid. Empty values are skipped."""
    known = [[value for value in values if value] for _name, values in columns]
    if not known or not all(known):
        return []
    spread = (
        tuple(values[number * len(values) // FROM_THE_GRID] for values in known) for number in range(FROM_THE_GRID)
    )
    rows = dict.fromkeys(tuple(values) for values in outside if len(values) == len(known))
    return [*(Cell(values) for values in dict.fromkeys(spread)), *(Cell(values, outside=True) for values in rows)]


def prepared(home: Path) -> list[str]:
    """The prompts, in order; none when nobody has prepared any."""
    try:
        text = (home / _FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return clean(text.splitlines())


def prepare(home: Path, actor: Actor, lines: Iterable[str]) -> None:
    """Keep these prompts; none: forget them.

    Raises:
        FabulaError: the actor may only look. StorageFull: they cannot be written.
    """
    if actor.role == "viewer":
        raise FabulaError("Visitors can use the prepared prompts, not change them.", "Ask someone who has permission.")
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / _FILE).write_text("".join(f"{line}\n" for line in clean(lines)), encoding="utf-8")
    except OSError as exc:
        raise StorageFull("The prompts could not be written.", "Free some space, then save again.") from exc


def clean(lines: Iterable[str]) -> list[str]:
    """Each prompt once, without white space around; as many and as long as can be shown."""
    found = dict.fromkeys(storable(line).strip()[:LONGEST] for line in lines)
    return [line for line in found if line][:MOST]
