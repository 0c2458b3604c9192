"""The engine's address, token and state, shared between processes through files in the home directory.

The supervisor writes `engine.json` (state and address); `engine.token` holds the token, readable only by its owner.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from core import message, processes
from core.errors import EngineMissing, StorageFull, Unavailable
from core.message import msg
from core.settings import Settings

State = Literal["starting", "up", "missing", "down", "stopped"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An engine's base URL, without `/v1`, and its bearer token (empty if none is required).

    Attributes:
        certificates: PEM of certificate authorities that are trusted for it in addition to the system's.
    """

    url: str
    token: str = field(repr=False)
    certificates: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class EngineNote:
    """The engine's state as its supervisor last recorded it.

    Attributes:
        state: starting, up, missing (packages not installed), down (it crashed and will be restarted), stopped.
        url: its current or last base URL.
        process: identity of the engine's process; see `core.processes`.
        message, next_step: why the engine is not up and what to do, shown to the user.
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
    """Return the endpoint for engine requests. While the engine is starting, requests to it fail with `Unavailable`.

    Raises:
        EngineMissing: its packages are not installed.
        Unavailable: it is not running, or the file with its certificate authorities is gone.
    """
    if settings.engine_url is not None:
        return Endpoint(settings.engine_url, settings.engine_token or "", _certificates(settings.engine_ca_file))
    note = read(settings)
    if note.state == "missing":
        raise EngineMissing(note.message, note.next_step)
    if note.state not in ("starting", "up"):
        raise Unavailable(note.message, note.next_step)
    return Endpoint(note.url, token(settings))


def _certificates(path: Path | None) -> str:
    try:
        return "" if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.reason if isinstance(exc, UnicodeDecodeError) else os.strerror(exc.errno or 0)
        raise Unavailable(
            msg("The file {path} cannot be read: {reason}.", path=path, reason=reason),
            msg("Restore it: `FABULA_ENGINE_CA_FILE` names it."),
        ) from exc


def read(settings: Settings) -> EngineNote:
    """The recorded state; "stopped" if there is no record or its process has ended."""
    try:
        fields: dict[str, Any] = json.loads(_path(settings).read_text(encoding="utf-8"))
        note = EngineNote(**{name: message.loads(value) for name, value in fields.items()})  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError, AttributeError):
        return _NO_ENGINE
    if note.state in ("starting", "up") and not processes.is_running(note.process):
        return replace(_NO_ENGINE, url=note.url)
    return note


def write(settings: Settings, note: EngineNote) -> None:
    """Replace the recorded state.

    Raises:
        StorageFull: the file cannot be written.
    """
    temporary = _path(settings).with_suffix(".part")
    try:
        temporary.write_text(
            json.dumps({k: message.dumps(v) for k, v in asdict(note).items()}, ensure_ascii=False), encoding="utf-8"
        )
        os.replace(temporary, _path(settings))
    except OSError as exc:
        raise StorageFull(
            msg("Nothing can be written to {home}: {reason}.", home=settings.home, reason=os.strerror(exc.errno or 0)),
            msg("Free some space or set `FABULA_HOME` to a writable folder."),
        ) from exc


def token(settings: Settings) -> str:
    """The engine's bearer token: the configured one, or one that is generated once and stored in the home directory."""
    if settings.engine_token:
        return settings.engine_token
    path = settings.home / "engine.token"
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        pass
    temporary = path.with_suffix(f".{secrets.token_hex(8)}.part")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))
    try:
        os.link(temporary, path)  # atomic: the first process to link sets the token
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path.read_text(encoding="ascii")


def _path(settings: Settings) -> Path:
    return settings.home / "engine.json"
