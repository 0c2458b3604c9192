"""Status of engine, worker and providers, for the sidebar and the settings page. Never raises; takes less than a
second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from core.db.store import Store
from core.errors import FabulaError
from core.jobs import heartbeat
from core.jobs.engine_supervisor import ask_health
from core.message import msg
from core.providers import Registry, engine_endpoint
from core.providers.registry import ENGINE
from core.settings import Settings

T = TypeVar("T")

TIMEOUT_S = 0.8  # total time for all checks, which run in parallel
HEALTH_TIMEOUT_S = 0.7
_executor = ThreadPoolExecutor(max_workers=8, thread_name_prefix="status")  # a check that hangs is abandoned

EngineState = Literal["up", "starting", "missing", "down"]


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine's status. None and () mean "unknown".

    Attributes:
        state: up, starting, missing (packages are not installed), down.
        message, next_step: why it is not up, and what to do.
        models: ids of the models it can serve.
        tokens_per_s: speed of its last generation.
        training: the job in training: `job`, `step`, `total_steps`; None if no job is training.
        training_speeds: tokens per second of the latest training steps, by base model.
        queue: number of queued training jobs.
        external: whether it was not started by Fabula (FABULA_ENGINE_URL).
    """

    state: EngineState
    message: str = ""
    next_step: str = ""
    url: str = ""
    version: str = ""
    models: tuple[str, ...] = ()
    tokens_per_s: float | None = None
    training: Mapping[str, Any] | None = None
    training_speeds: Mapping[str, float] = field(default_factory=dict)
    queue: int | None = None
    external: bool = False


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Whether a worker is alive, and how many items are running and queued. None means unknown."""

    up: bool
    running: int | None
    queued: int | None
    message: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """A configured provider. Whether it responds is known only once it is used."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Status:
    """Status of all components."""

    engine: EngineStatus
    worker: WorkerStatus
    providers: tuple[ProviderStatus, ...]


_DATABASE_TIMEOUT = WorkerStatus(
    False, None, None, msg("The database does not answer."), msg("Wait a minute, then look again.")
)


def collect(settings: Settings, store: Store | None, registry: Registry) -> Status:
    """Check all components in parallel.

    Args:
        settings: home directory and engine address.
        store: the ledger; None if it cannot be opened.
        registry: the providers. A registry that is kept between calls reads the saved providers and decrypts their keys
            only when they change.
    """
    worker = _executor.submit(_worker, store)
    engine = _executor.submit(_engine, settings)
    providers = _executor.submit(_providers, registry)
    deadline = time.monotonic() + TIMEOUT_S
    return Status(
        engine=_result_or(deadline, engine.result, lambda: _unresponsive_engine(settings)),
        worker=_result_or(deadline, worker.result, lambda: _DATABASE_TIMEOUT),
        providers=_result_or(deadline, providers.result, tuple),
    )


def _result_or(deadline: float, result: Callable[[float], T], default: Callable[[], T]) -> T:
    try:
        return result(max(0.0, deadline - time.monotonic()))
    except Exception:  # a timeout or a bug; status must not raise
        return default()


def _engine(settings: Settings) -> EngineStatus:
    try:
        endpoint = engine_endpoint.current_endpoint(settings)
    except FabulaError:
        return _unresponsive_engine(settings)
    health = ask_health(endpoint, HEALTH_TIMEOUT_S)
    if health is None:
        return _unresponsive_engine(settings)
    return _healthy(endpoint.url, health, settings.engine_url is not None)


def _unresponsive_engine(settings: Settings) -> EngineStatus:
    """Status of an engine that does not respond, from its recorded state."""
    if settings.engine_url is not None:
        return EngineStatus(
            "down",
            msg("The engine at {engine_url} does not answer.", engine_url=settings.engine_url),
            msg("Start it, or unset `FABULA_ENGINE_URL` to use the built-in one."),
            settings.engine_url,
            external=True,
        )
    note = engine_endpoint.read(settings)
    if note.state == "up":
        return EngineStatus("up", msg("The engine is too busy to answer right now."), "", note.url)
    state: EngineState = "down" if note.state == "stopped" else note.state
    return EngineStatus(state, note.message, note.next_step, note.url)


def _healthy(url: str, health: Mapping[str, Any], external: bool) -> EngineStatus:
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
        external=external,
    )


def _speeds(reported: object) -> dict[str, float]:
    items = reported.items() if isinstance(reported, Mapping) else ()
    return {str(base): float(speed) for base, speed in items if isinstance(speed, int | float) and speed > 0}


def _worker(store: Store | None) -> WorkerStatus:
    if store is None:
        return WorkerStatus(
            False, None, None, msg("The database cannot be opened."), msg("See `FABULA_HOME` and `DATABASE_URL`.")
        )
    try:
        state = heartbeat.worker_state(store)
    except FabulaError as exc:
        return WorkerStatus(False, None, None, exc.what, exc.next_step)
    if state.up:
        return WorkerStatus(True, state.running, state.queued)
    return WorkerStatus(
        False,
        0,
        state.queued,
        msg("No worker is running, so queued jobs wait."),
        msg("Start Fabula with `make run`, or a worker with `python -m core.jobs.worker`."),
    )


def _providers(registry: Registry) -> tuple[ProviderStatus, ...]:
    try:
        return tuple(_provider(registry, provider_id) for provider_id in registry.ids())
    except Exception:  # status must not raise
        return ()


def _provider(registry: Registry, provider_id: str) -> ProviderStatus:
    try:
        provider = registry.provider(provider_id)
    except FabulaError:  # the engine is not running, which `EngineStatus` reports, or the database does not respond
        return ProviderStatus(provider_id, msg("The engine") if provider_id == ENGINE else provider_id)
    return ProviderStatus(provider.id, provider.name)
