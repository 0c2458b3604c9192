"""The engine as an ASGI application: routes, error handlers, startup and shutdown."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from core import packaged_models
from core.engine import VERSION, cors_origins
from core.engine.api import serializers
from core.engine.api.aliases import Aliases
from core.engine.api.bases import Bases
from core.engine.api.connections import BearerAuth, cors_middleware
from core.engine.api.errors import ApiError, bad_value, disk_full, is_disk_full
from core.engine.api.files import Files, sends_base64
from core.engine.api.jobs import Jobs
from core.engine.api.legacy import RETIRED, LegacyApi, retired
from core.engine.api.models import Model, ModelCatalogue
from core.engine.api.requests import json_body, reject_unknown, required
from core.engine.bases.library import BaseLibrary
from core.engine.job_rules import PARALLEL
from core.engine.responses.api import Responses
from core.engine.serving.embeddings import Embeddings
from core.engine.serving.generate import count_tokens
from core.engine.serving.inference import Inference
from core.engine.serving.llama import Pool
from core.engine.store import EngineStore, Job
from core.engine.training import job_queue
from core.engine.training.job_context import EngineJobContext
from core.engine.training.training_runner import JobLoop
from core.message import msg

_log = logging.getLogger(__name__)
_CLIENT_CLOSED = 499  # nginx's status code for a client that disconnected; never actually sent


@dataclass(frozen=True, slots=True)
class Config:
    """Configuration of an engine.

    Attributes:
        home: absolute path of the home directory, which holds all of the engine's data.
        token: bearer token; None disables authentication and allows requests from this machine only.
        environ: environment variables; the settings of the engine (FABULA_ENGINE_…) and those for base models are read
            from here.
        threads: CPU threads for serving and for training.
        warm: whether to load the packaged base model at startup.
    """

    home: Path
    token: str | None
    environ: Mapping[str, str]
    threads: int
    warm: bool = True


class Engine:
    """The components of a running engine."""

    def __init__(self, config: Config) -> None:
        """Open the store.

        Raises:
            ValueError: a setting is malformed.
            OSError, sqlite3.Error: the home directory cannot be used.
        """
        for folder in ("files", "jobs", "adapters", "models"):
            (config.home / folder).mkdir(parents=True, exist_ok=True)
        self.config = config
        self.store = EngineStore(config.home / "engine.db")
        self.library = BaseLibrary(config.home, config.environ, config.threads)
        self.models = ModelCatalogue(config.home, config.environ, self.store, self.library)
        self.files = Files(config.home, self.store, base64_results=sends_base64(config.environ))
        self.files.remove_leftovers()
        self.pool = Pool(config.threads)
        self.inference = Inference(self.models, self.pool)
        self.aliases = Aliases(self.models, self.store)
        self.embeddings = Embeddings(self.models, self.pool)
        self.responses = Responses(self.store, self.inference)
        self.bases = Bases(self.library, self.models, self.store, self._packaged_speed, self._forget)
        context = EngineJobContext(
            config.home, self.store, self.files, self.models, self.pool, config.threads, self._preload
        )
        self.runner = JobLoop(context)
        self.jobs = Jobs(config.home, self.store, self.files, self.models, self.runner.wake)
        self.legacy = LegacyApi(self.store, self.files, self.models, self.jobs)
        self._loop = asyncio.get_running_loop()
        self._background: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Resume interrupted jobs and warm up."""
        self.runner.start()
        self.library.start()
        if self.config.warm:
            self._run_in_background(_logged(self._warm(), packaged_models.BASE))

    def begin_stop(self) -> None:
        """Let a running trainer save its state while requests in flight are answered; may be called by a signal."""
        self._loop.call_soon_threadsafe(self.runner.begin_stop)

    async def stop(self) -> None:
        """Let a running trainer save its state, then stop all child processes."""
        for task in self._background:
            task.cancel()
        await run_in_threadpool(self.library.stop)
        await run_in_threadpool(self.runner.stop)
        await self.pool.close()

    def health(self, request: Request) -> Response:
        """GET /health: whether the engine is running. With a valid token, the response also contains its models,
        training status and speed.
        """
        basic = {"status": "ok", "version": VERSION}
        if not request.state.authorized:
            return JSONResponse(basic)
        running = self.store.select(Job, "status = 'running'")
        waiting = self.store.select(Job, "status IN ('validating_files', 'queued')")
        training = None
        if running:
            job = running[0]
            training = {
                "job": job.id,
                "step": job.step,
                "total_steps": job.total_steps,
                "tokens_per_s": job.tokens_per_s,
                "estimated_finish": job.estimated_finish,
            }
        return JSONResponse(
            {
                **basic,
                "models": [model.id for model in self.models.listed()],
                "training": training,
                "training_speeds": job_queue.speeds(self.store),
                "queue": len(waiting),
                "generating": self.pool.leases,
                "tokens_per_s": self.inference.tokens_per_s,
            }
        )

    def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model_json(model) for model in self.models.listed()]})

    def get_model(self, request: Request) -> Response:
        """GET /v1/models/{id}, checkpoints included."""
        return JSONResponse(self._model_json(self.models.find(request.path_params["id"])))

    def _model_json(self, model: Model) -> serializers.Json:
        # this opens the base model, so that the calls below know its size
        not_trainable = self.models.not_trainable_reason(model)
        context, training = self.models.context(model), self.models.training_defaults(model)
        return serializers.model(model, not_trainable, context, PARALLEL, training)

    def delete_model(self, request: Request) -> Response:
        """DELETE /v1/models/{id}."""
        self.models.remove(request.path_params["id"])
        return JSONResponse({"id": request.path_params["id"], "object": "model", "deleted": True})

    async def tokenize(self, request: Request) -> Response:
        """POST /fabula/v1/tokenize {"model", "text"} → {"tokens": n}."""
        body = await json_body(request)
        reject_unknown(body, frozenset({"model", "text"}))
        model = self.models.find(required(body, "model"))
        if not isinstance(body.get("text"), str):
            raise bad_value("text", msg("'text' must be a string."))
        base = await run_in_threadpool(self.models.base, model.base)
        async with self.pool.lease_any(base) as backend:
            tokens = await count_tokens(backend, body["text"])
        return JSONResponse({"tokens": tokens})

    def _packaged_speed(self) -> float | None:
        return self.inference.speeds.get(packaged_models.BASE)

    def _forget(self, base_id: str) -> None:
        """Stop the processes of a removed base; called from a pool thread."""
        asyncio.run_coroutine_threadsafe(self.pool.forget(base_id), self._loop)

    def _preload(self, model_id: str) -> None:
        """Load a new model before its first request; called from the trainer's thread."""
        asyncio.run_coroutine_threadsafe(_logged(self._load(model_id), model_id), self._loop)

    async def _load(self, model_id: str) -> None:
        model = self.models.find(model_id)
        base = await run_in_threadpool(self.models.base, model.base)
        await self.pool.load(base, model.adapter)

    async def _warm(self) -> None:
        base = await run_in_threadpool(self.models.base, packaged_models.BASE)
        await self.pool.load(base, self.models.newest_adapter(base.name))

    def _run_in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _logged(loading: Coroutine[Any, Any, None], model_id: str) -> None:
    """Load a model in the background; errors are only logged."""
    try:
        await loading
    except ApiError as exc:
        _log.warning("Could not load %s ahead of time: %s", model_id, exc)
    except Exception:
        _log.exception("Unexpected error while %s was loaded ahead of time.", model_id)


_Pick = Callable[[Engine], Callable[[Request], Any]]


def _retired(line: str) -> _Pick:
    """The handler of an endpoint that is not served; `line` replaces it."""
    return lambda _: partial(retired, line)


_JOBS, _BASES, _ALIASES = "/v1/fine_tuning/jobs", "/fabula/v1/bases", "/fabula/v1/aliases"
_ENGINE, _FINE_TUNES = "/v1/engines/{engine:path}", "/v1/fine-tunes"  # of 2023
_ROUTES: tuple[tuple[str, str, _Pick], ...] = (
    ("GET", "/health", lambda engine: engine.health),
    ("GET", "/v1/models", lambda engine: engine.list_models),
    ("GET", "/v1/models/{id:path}", lambda engine: engine.get_model),
    ("DELETE", "/v1/models/{id:path}", lambda engine: engine.delete_model),
    ("POST", "/v1/files", lambda engine: engine.files.create),
    ("GET", "/v1/files", lambda engine: engine.files.list),
    ("GET", "/v1/files/{id}", lambda engine: engine.files.get),
    ("DELETE", "/v1/files/{id}", lambda engine: engine.files.delete),
    ("GET", "/v1/files/{id}/content", lambda engine: engine.files.content),
    ("POST", _JOBS, lambda engine: engine.jobs.create),
    ("GET", _JOBS, lambda engine: engine.jobs.list),
    ("GET", _JOBS + "/{id}", lambda engine: engine.jobs.get),
    ("POST", _JOBS + "/{id}/cancel", lambda engine: engine.jobs.cancel),
    ("POST", _JOBS + "/{id}/pause", lambda engine: engine.jobs.pause),
    ("POST", _JOBS + "/{id}/resume", lambda engine: engine.jobs.resume),
    ("GET", _JOBS + "/{id}/events", lambda engine: engine.jobs.events),
    ("GET", _JOBS + "/{id}/checkpoints", lambda engine: engine.jobs.checkpoints),
    ("POST", "/v1/completions", lambda engine: engine.inference.completions),
    ("POST", "/v1/chat/completions", lambda engine: engine.inference.chat_completions),
    ("POST", "/v1/embeddings", lambda engine: engine.embeddings.create),
    ("POST", "/v1/responses", lambda engine: engine.responses.create),
    ("GET", "/v1/responses/{id}", lambda engine: engine.responses.get),
    ("DELETE", "/v1/responses/{id}", lambda engine: engine.responses.delete),
    ("POST", "/v1/responses/{id}/cancel", lambda engine: engine.responses.cancel),
    ("GET", "/v1/responses/{id}/input_items", lambda engine: engine.responses.input_items),
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


def create_app(config: Config) -> Starlette:
    """Create the ASGI application of one engine. It opens the home directory at startup.

    `app.state.begin_stop()` may be called as soon as the process gets a signal to stop, before requests have ended.

    Raises:
        ValueError: FABULA_ENGINE_CORS_ORIGINS is malformed.
    """
    opened: list[Engine] = []
    allowed = cors_origins.read(config.environ)

    def begin_stop() -> None:
        for engine in opened:
            engine.begin_stop()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine = Engine(config)
        opened.append(engine)
        engine.start()
        try:
            yield
        finally:
            opened.clear()
            await engine.stop()

    def handle(pick: _Pick) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            handler = pick(opened[0])
            if asyncio.iscoroutinefunction(handler):
                response: Response = await handler(request)
                return response
            return await run_in_threadpool(handler, request)

        return endpoint

    app = Starlette(
        routes=[Route(path, handle(pick), methods=[method]) for method, path, pick in _ROUTES],
        middleware=[*cors_middleware(allowed), Middleware(BearerAuth, token=config.token, origins=allowed)],
        exception_handlers={
            Exception: _failed,
            HTTPException: _http_error,
            ApiError: _api_error,
            OSError: _failed,
            sqlite3.Error: _failed,
            ClientDisconnect: _client_closed,
        },
        lifespan=lifespan,
    )
    app.state.begin_stop = begin_stop
    return app


async def _api_error(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, ApiError)
    return JSONResponse(exc.body(), exc.status)


async def _http_error(request: Request, exc: Exception) -> Response:
    """Handle Starlette's own errors: unknown path or wrong method."""
    assert isinstance(exc, HTTPException)
    endpoint = f"{request.method} {request.url.path}"
    if exc.status_code == 405:
        error = ApiError(
            405,
            msg("Not allowed: {endpoint}. Perhaps you meant another HTTP method.", endpoint=endpoint),
            code="method_not_allowed",
        )
    else:
        error = ApiError(exc.status_code, msg("Invalid URL ({endpoint})", endpoint=endpoint), code="unknown_url")
    return JSONResponse(error.body(), exc.status_code)


async def _failed(request: Request, exc: Exception) -> Response:
    """Handle any other error: report a full disk as such, and everything else as OpenAI's generic server error, with
    details in the log.
    """
    if is_disk_full(exc):
        error = disk_full()
    else:
        _log.error("%s %s failed", request.method, request.url.path, exc_info=exc)
        message = msg("The engine had an error while processing your request. Its log has the details.")
        error = ApiError(500, message, type="server_error", code="server_error")
    return JSONResponse(error.body(), error.status)


async def _client_closed(_: Request, exc: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED)
