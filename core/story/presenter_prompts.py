"""Prompts of one's own for presenter mode: a plain text file in the home folder, one prompt a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.actor import Actor
from core.errors import FabulaError, StorageFull
from core.message import msg
from core.sanitize import storable

_FILE = "stage_prompts.txt"
MOST = 50
LONGEST = 2_000  # characters of one prompt


def load(home: Path) -> list[str]:
    """The prompts, in order; none when nobody has prepared any."""
    try:
        text = (home / _FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return normalize(text.splitlines())


def save(home: Path, actor: Actor, lines: Iterable[str]) -> None:
    """Keep these prompts; none: forget them.

    Raises:
        FabulaError: the actor may only look. StorageFull: they cannot be written.
    """
    if actor.role == "viewer":
        raise FabulaError(
            msg("Visitors can use the prepared prompts, not change them."), msg("Ask someone who has permission.")
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / _FILE).write_text("".join(f"{line}\n" for line in normalize(lines)), encoding="utf-8")
    except OSError as exc:
        raise StorageFull(msg("The prompts could not be written."), msg("Free some space, then save again.")) from exc


def normalize(lines: Iterable[str]) -> list[str]:
    """Each prompt once, without white space around; as many and as long as can be shown."""
    found = dict.fromkeys(storable(line).strip()[:LONGEST] for line in lines)
    return [line for line in found if line][:MOST]
