"""Where the engine is, for any process: what its supervisor wrote down in the home folder.

`engine.json` says how the engine is and where; `engine.token` holds the key, readable by its owner only.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from core import message, process_identity
from core.errors import EngineMissing, StorageFull, Unavailable
from core.message import msg
from core.settings import Settings

State = Literal["starting", "up", "missing", "down", "stopped"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address of an engine, without `/v1`, and its bearer token (empty: it asks for none)."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class EngineNote:
    """What the supervisor wrote last.

    Attributes:
        state: starting, up, missing (its packages are), down (it fell and will be started again), stopped.
        url: where it is or was.
        process: identity of the engine's process, see `core.process_identity`.
        message, next_step: why it is not up, in sentences.
    """

    state: State
    url: str = ""
    process: str = ""
    message: str = ""
    next_step: str = ""


_NO_ENGINE = EngineNote(
    "stopped", message=msg("The engine is not running."), next_step=msg("Start Fabula: it starts the engine too.")
)


def current_endpoint(settings: Settings) -> Endpoint:
    """Where to send requests for the engine now. It may still be starting: then they fail as `Unavailable`.

    Raises:
        EngineMissing: its packages are not installed.
        Unavailable: it is not running.
    """
    if settings.engine_url is not None:
        return Endpoint(settings.engine_url, settings.engine_token or "")
    note = read(settings)
    if note.state == "missing":
        raise EngineMissing(note.message, note.next_step)
    if note.state not in ("starting", "up"):
        raise Unavailable(note.message, note.next_step)
    return Endpoint(note.url, token(settings))


def read(settings: Settings) -> EngineNote:
    """The note, as far as it is still true."""
    try:
        kept: dict[str, Any] = json.loads(_path(settings).read_text(encoding="utf-8"))
        note = EngineNote(**{name: message.loads(value) for name, value in kept.items()})  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, AttributeError):
        return _NO_ENGINE
    if note.state in ("starting", "up") and not process_identity.is_running(note.process):
        return replace(_NO_ENGINE, url=note.url)
    return note


def write(settings: Settings, note: EngineNote) -> None:
    """Leave a note, in place of the last one.

    Raises:
        StorageFull: there is no room for it.
    """
    beside = _path(settings).with_suffix(".part")
    try:
        beside.write_text(
            json.dumps({k: message.dumps(v) for k, v in asdict(note).items()}, ensure_ascii=False), encoding="utf-8"
        )
        os.replace(beside, _path(settings))
    except OSError as exc:
        raise StorageFull(
            msg("Nothing can be written to {home}: {reason}.", home=settings.home, reason=os.strerror(exc.errno or 0)),
            msg("Free some space or set `FABULA_HOME` to a writable folder."),
        ) from exc


def token(settings: Settings) -> str:
    """The engine's key: the one that was set, or one of our own, made once and kept."""
    if settings.engine_token:
        return settings.engine_token
    path = settings.home / "engine.token"
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        pass
    beside = path.with_suffix(f".{secrets.token_hex(8)}.part")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))
    try:
        os.link(beside, path)  # whoever links first has made the key; a link never appears half-written
    except FileExistsError:
        pass
    finally:
        beside.unlink()
    return path.read_text(encoding="ascii")


def _path(settings: Settings) -> Path:
    return settings.home / "engine.json"
