"""How an old model was called: the system text and parameters that its archived files show, for asking it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import ArchivedFile, ArchivedTune
from core.migrate import completions
from core.migrate.workspace import Workspace
from core.sanitize import storable
from core.settings import Settings

_HEAD_BYTES = 1_000_000  # a first row
_NUMBERS = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0)}


@dataclass(frozen=True, slots=True)
class OldPrompts:
    """What is known of an old model's prompts.

    Attributes:
        system: the system text; "" if none is known.
        parameters: temperature and top_p of its stored completions, where there are some.
        called: the name that it answers under, if that is not the model's (Azure: its deployment); "" otherwise.
    """

    system: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)
    called: str = ""


@requires("admin")
def of(store: Store, actor: Actor, settings: Settings, archive_id: str, job_id: str) -> OldPrompts:
    """Look into the first row of its stored completions, its training file or its validation file."""
    of_account = ArchivedTune.archive_id == archive_id
    with store.reading() as session:
        tune = session.scalar(select(ArchivedTune).where(of_account, ArchivedTune.remote_id == job_id))
        if tune is None:
            return OldPrompts()
        named = [one for one in (tune.training_file, tune.validation_file) if one]
        wanted = [*([completions.file_id(tune.model)] if tune.model else []), *named]
        stored = set(
            session.scalars(
                select(ArchivedFile.remote_id).where(
                    ArchivedFile.archive_id == archive_id,
                    ArchivedFile.remote_id.in_(wanted),
                    ArchivedFile.state == "stored",
                )
            )
        )
    workspace = Workspace(settings, archive_id)
    rows = [_first_row(workspace, one) for one in wanted if one in stored]
    numbers = {name: row[name] for row in rows[:1] for name in _NUMBERS if _is_allowed(name, row.get(name))}
    deployments = tune.raw.get("deployments")
    return OldPrompts(
        next((text for row in rows if (text := _system(row))), ""),
        {name: float(value) for name, value in numbers.items()},
        str(deployments[0]) if isinstance(deployments, list) and deployments else "",
    )


def _first_row(workspace: Workspace, file_id: str) -> Mapping[str, Any]:
    try:
        with workspace.file(file_id).open("rb") as file:
            found = json.loads(file.readline(_HEAD_BYTES).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _system(row: Mapping[str, Any]) -> str:
    messages = row.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    if not isinstance(first, Mapping) or first.get("role") not in ("system", "developer"):
        return ""
    return storable(first["content"]) if isinstance(first.get("content"), str) else ""


def _is_allowed(name: str, value: object) -> bool:
    low, high = _NUMBERS[name]
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
