"""How the studio is, at a glance: engine, worker, providers. Never raises, and answers within a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from core import engine_endpoint, heartbeat
from core.db.store import Store
from core.errors import FabulaError
from core.message import msg
from core.providers import Registry
from core.settings import Settings
from core.supervisor import ask_health

T = TypeVar("T")

_PATIENCE_S = 0.8  # for all answers together; they are asked for at the same time
_HEALTH_S = 0.7
_askers = ThreadPoolExecutor(max_workers=8, thread_name_prefix="status")  # one that hangs is left behind, for a while

EngineWord = Literal["up", "starting", "missing", "down"]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine. None and () are "not known".

    Attributes:
        state: up, starting, missing (packages are not installed), down.
        message, next_step: why it is not up.
        models: ids of what it can serve.
        tokens_per_s: how fast it wrote last.
        training: the job that trains there now: `job`, `step`, `total_steps`; None: none does.
        training_speeds: tokens a second of its newest training steps, by base model.
        queue: jobs that wait there.
        foreign: it is somebody else's to start (FABULA_ENGINE_URL).
    """

    state: EngineWord
    message: str = ""
    next_step: str = ""
    url: str = ""
    version: str = ""
    models: tuple[str, ...] = ()
    tokens_per_s: float | None = None
    training: Mapping[str, Any] | None = None
    training_speeds: Mapping[str, float] = field(default_factory=dict)
    queue: int | None = None
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """The worker: whether one lives, and how many pieces of work it has in hand and waiting. None: not known."""

    up: bool
    running: int | None
    queued: int | None
    message: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """A provider that is set up; whether it answers is found out when it is used."""

    id: str
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Status:
    """All of it."""

    engine: EngineStatus
    worker: WorkerStatus
    providers: tuple[ProviderStatus, ...]


_SILENT_DATABASE = WorkerStatus(
    False, None, None, msg("The database does not answer."), msg("Wait a minute, then look again.")
)


def collect(settings: Settings, store: Store | None, environ: Mapping[str, str] | None = None) -> Status:
    """Look at everything at once.

    Args:
        settings: where things are.
        store: the ledger, or None when it cannot be opened.
        environ: where keys of providers are; the process's environment by default.
    """
    env = os.environ if environ is None else environ
    worker = _askers.submit(_worker, store)
    engine = _askers.submit(_engine, settings)
    deadline = time.monotonic() + _PATIENCE_S
    return Status(
        engine=_within(deadline, engine.result, lambda: _silent_engine(settings)),
        worker=_within(deadline, worker.result, lambda: _SILENT_DATABASE),
        providers=_providers(settings, env),
    )


def _within(deadline: float, result: Callable[[float], T], otherwise: Callable[[], T]) -> T:
    try:
        return result(max(0.0, deadline - time.monotonic()))
    except Exception:  # too late, or a fault of ours: a status that raises is no status
        return otherwise()


def _engine(settings: Settings) -> EngineStatus:
    try:
        where = engine_endpoint.current_endpoint(settings)
    except FabulaError:
        return _silent_engine(settings)
    health = ask_health(where, _HEALTH_S)
    if health is None:
        return _silent_engine(settings)
    return _healthy(where.url, health, settings.engine_url is not None)


def _silent_engine(settings: Settings) -> EngineStatus:
    """What can be said of an engine without its own word."""
    if settings.engine_url is not None:
        return EngineStatus(
            "down",
            msg("The engine at {engine_url} does not answer.", engine_url=settings.engine_url),
            msg("Start it, or unset `FABULA_ENGINE_URL` to use the built-in one."),
            settings.engine_url,
            foreign=True,
        )
    note = engine_endpoint.read(settings)
    if note.state == "up":
        return EngineStatus("up", msg("The engine is too busy to answer at once."), "", note.url)
    word: EngineWord = "down" if note.state == "stopped" else note.state
    return EngineStatus(word, note.message, note.next_step, note.url)


def _healthy(url: str, health: Mapping[str, Any], foreign: bool) -> EngineStatus:
    speed, queue, training = health.get("tokens_per_s"), health.get("queue"), health.get("training")
    return EngineStatus(
        state="up",
        url=url,
        version=str(health.get("version", "")),
        models=tuple(str(model) for model in health.get("models") or ()),
        tokens_per_s=float(speed) if isinstance(speed, int | float) else None,
        training=training if isinstance(training, Mapping) else None,
        training_speeds=_speeds(health.get("training_speeds")),
        queue=queue if isinstance(queue, int) else None,
        foreign=foreign,
    )


def _speeds(told: object) -> dict[str, float]:
    found = told.items() if isinstance(told, Mapping) else ()
    return {str(base): float(speed) for base, speed in found if isinstance(speed, int | float) and speed > 0}


def _worker(store: Store | None) -> WorkerStatus:
    if store is None:
        return WorkerStatus(
            False, None, None, msg("The database cannot be opened."), msg("See `FABULA_HOME` and `DATABASE_URL`.")
        )
    try:
        state = heartbeat.alive(store)
    except FabulaError as exc:
        return WorkerStatus(False, None, None, exc.what, exc.next_step)
    if state.up:
        return WorkerStatus(True, state.running, state.queued)
    return WorkerStatus(
        False,
        0,
        state.queued,
        msg("No worker is running, so queued jobs wait."),
        msg("Start Fabula with `make run`, or a worker with `python -m core.worker`."),
    )


def _providers(settings: Settings, environ: Mapping[str, str]) -> tuple[ProviderStatus, ...]:
    try:
        registry = Registry.from_settings(settings, environ)
        return tuple(_provider(registry, provider_id) for provider_id in registry.ids())
    except Exception:  # a status that raises is no status
        return ()


def _provider(registry: Registry, provider_id: str) -> ProviderStatus:
    try:
        provider = registry.provider(provider_id)
    except FabulaError:  # the engine, when it is away; its own line says so
        return ProviderStatus(provider_id, msg("The engine"), provider_id)
    return ProviderStatus(provider.id, provider.name, provider.kind)
