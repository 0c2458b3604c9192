"""The engine's routes: method, path, and the method of one of its components that handles the request."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from core.engine.api.engine import Engine
from core.engine.api.legacy import RETIRED, retired

PickHandler = Callable[[Engine], Callable[[Request], Any]]
"""Chooses the handler of a route; it may be a coroutine function."""


def _retired(line: str) -> PickHandler:
    """The handler of an endpoint that is not served; `line` replaces it."""
    return lambda _: partial(retired, line)


def _relayed(path: str, pick: PickHandler) -> PickHandler:
    """The handler of an endpoint whose calls are relayed if their model has a shadow."""

    def picked(engine: Engine) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            return await engine.relay.handle(path, pick(engine), request)

        return handle

    return picked


_JOBS, _BASES, _ALIASES = "/v1/fine_tuning/jobs", "/fabula/v1/bases", "/fabula/v1/aliases"
_EXPORTS = "/fabula/v1/exports"
_CHECKPOINT = "/v1/fine_tuning/checkpoints/{id:path}"
_ENGINE, _FINE_TUNES = "/v1/engines/{engine:path}", "/v1/fine-tunes"  # of 2023
ROUTES: tuple[tuple[str, str, PickHandler], ...] = (
    ("GET", "/health", lambda engine: engine.health),
    ("GET", "/v1/models", lambda engine: engine.list_models),
    ("GET", "/v1/models/{id:path}", lambda engine: engine.get_model),
    ("DELETE", "/v1/models/{id:path}", lambda engine: engine.delete_model),
    ("POST", "/v1/files", lambda engine: engine.files.create),
    ("GET", "/v1/files", lambda engine: engine.files.list),
    ("GET", "/v1/files/{id}", lambda engine: engine.files.get),
    ("DELETE", "/v1/files/{id}", lambda engine: engine.files.delete),
    ("GET", "/v1/files/{id}/content", lambda engine: engine.files.content),
    ("POST", "/v1/uploads", lambda engine: engine.uploads.create),
    ("POST", "/v1/uploads/{id}/parts", lambda engine: engine.uploads.add_part),
    ("POST", "/v1/uploads/{id}/complete", lambda engine: engine.uploads.complete),
    ("POST", "/v1/uploads/{id}/cancel", lambda engine: engine.uploads.cancel),
    ("POST", _JOBS, lambda engine: engine.jobs.create),
    ("GET", _JOBS, lambda engine: engine.jobs.list),
    ("GET", _JOBS + "/{id}", lambda engine: engine.jobs.get),
    ("POST", _JOBS + "/{id}/cancel", lambda engine: engine.jobs.cancel),
    ("POST", _JOBS + "/{id}/pause", lambda engine: engine.jobs.pause),
    ("POST", _JOBS + "/{id}/resume", lambda engine: engine.jobs.resume),
    ("GET", _JOBS + "/{id}/events", lambda engine: engine.jobs.events),
    ("GET", _JOBS + "/{id}/checkpoints", lambda engine: engine.jobs.checkpoints),
    ("POST", _CHECKPOINT + "/permissions", lambda engine: engine.permissions.create),
    ("GET", _CHECKPOINT + "/permissions", lambda engine: engine.permissions.list),
    ("DELETE", _CHECKPOINT + "/permissions/{permission}", lambda engine: engine.permissions.delete),
    ("POST", "/v1/completions", _relayed("/v1/completions", lambda engine: engine.inference.completions)),
    (
        "POST",
        "/v1/chat/completions",
        _relayed("/v1/chat/completions", lambda engine: engine.inference.chat_completions),
    ),
    ("POST", "/v1/embeddings", lambda engine: engine.embeddings.create),
    ("POST", "/v1/responses", _relayed("/v1/responses", lambda engine: engine.responses.create)),
    ("GET", "/v1/responses/{id}", lambda engine: engine.responses.get),
    ("DELETE", "/v1/responses/{id}", lambda engine: engine.responses.delete),
    ("POST", "/v1/responses/{id}/cancel", lambda engine: engine.responses.cancel),
    ("GET", "/v1/responses/{id}/input_items", lambda engine: engine.responses.input_items),
    ("POST", "/v1/batches", lambda engine: engine.batches.create),
    ("GET", "/v1/batches", lambda engine: engine.batches.list),
    ("GET", "/v1/batches/{id}", lambda engine: engine.batches.get),
    ("POST", "/v1/batches/{id}/cancel", lambda engine: engine.batches.cancel),
    ("POST", "/fabula/v1/tokenize", lambda engine: engine.tokenize),
    ("GET", _BASES, lambda engine: engine.bases.list),
    ("POST", _BASES, lambda engine: engine.bases.create),
    ("GET", _BASES + "/{id}", lambda engine: engine.bases.get),
    ("DELETE", _BASES + "/{id}", lambda engine: engine.bases.delete),
    ("POST", _BASES + "/{id}/retry", lambda engine: engine.bases.retry),
    ("GET", _ALIASES, lambda engine: engine.aliases.list),
    ("POST", _ALIASES, lambda engine: engine.aliases.create),
    ("GET", _ALIASES + "/{id:path}", lambda engine: engine.aliases.get),
    ("DELETE", _ALIASES + "/{id:path}", lambda engine: engine.aliases.delete),
    ("GET", _EXPORTS, lambda engine: engine.exports.list),
    ("POST", _EXPORTS, lambda engine: engine.exports.create),
    ("GET", _EXPORTS + "/{id}", lambda engine: engine.exports.get),
    ("DELETE", _EXPORTS + "/{id}", lambda engine: engine.exports.delete),
    ("GET", _EXPORTS + "/{id}/files/{name}", lambda engine: engine.exports.file),
    ("GET", "/fabula/v1/shadows", lambda engine: engine.shadows.list),
    ("POST", "/fabula/v1/shadows", lambda engine: engine.shadows.create),
    ("DELETE", "/fabula/v1/shadows/{id:path}", lambda engine: engine.shadows.delete),
    ("GET", "/fabula/v1/shadow_calls", lambda engine: engine.shadows.calls),
    ("DELETE", "/fabula/v1/shadow_calls", lambda engine: engine.shadows.forget),
    ("GET", "/v1/engines", lambda engine: engine.legacy.list_engines),
    ("POST", _ENGINE + "/chat/completions", lambda engine: engine.inference.chat_completions),
    ("POST", _ENGINE + "/completions", lambda engine: engine.inference.completions),
    ("POST", _ENGINE + "/embeddings", lambda engine: engine.embeddings.create),
    ("GET", "/v1/engines/{id:path}", lambda engine: engine.legacy.get_engine),
    ("POST", _FINE_TUNES, lambda engine: engine.legacy.create),
    ("GET", _FINE_TUNES, lambda engine: engine.legacy.list_jobs),
    ("GET", _FINE_TUNES + "/{id}", lambda engine: engine.legacy.get_job),
    ("POST", _FINE_TUNES + "/{id}/cancel", lambda engine: engine.legacy.cancel),
    ("GET", _FINE_TUNES + "/{id}/events", lambda engine: engine.legacy.events),
    *((method, path, _retired(line)) for (method, path), line in RETIRED.items()),
)
