"""Custom prompts for presenter mode: a plain text file in the home folder, one prompt per line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.actor import Actor
from core.errors import FabulaError, StorageFull
from core.message import msg
from core.sanitize import storable

_FILE = "stage_prompts.txt"
MAX_PROMPTS = 50
MAX_PROMPT_LENGTH = 2_000  # characters of one prompt


def load(home: Path) -> list[str]:
    """The saved prompts in order; empty if there are none."""
    try:
        text = (home / _FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return normalize(text.splitlines())


def save(home: Path, actor: Actor, lines: Iterable[str]) -> None:
    """Save these prompts; an empty list removes all.

    Raises:
        FabulaError: the actor is a viewer. StorageFull: the file can't be written.
    """
    if actor.role == "viewer":
        raise FabulaError(
            msg("Visitors can use the prepared prompts but not change them."), msg("Ask someone who has permission.")
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / _FILE).write_text("".join(f"{line}\n" for line in normalize(lines)), encoding="utf-8")
    except OSError as exc:
        raise StorageFull(msg("The prompts could not be saved."), msg("Free some space, then save again.")) from exc


def normalize(lines: Iterable[str]) -> list[str]:
    """Strip white space, drop duplicates, and cut to `MAX_PROMPT_LENGTH` and `MAX_PROMPTS`."""
    prompts = dict.fromkeys(storable(line).strip()[:MAX_PROMPT_LENGTH] for line in lines)
    return [line for line in prompts if line][:MAX_PROMPTS]
