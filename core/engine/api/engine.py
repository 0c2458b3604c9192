"""The components of a running engine, its start and stop, and the endpoints about the engine itself."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core import packaged_models
from core.engine import VERSION, serve_settings
from core.engine.api import serializers
from core.engine.api.aliases import Aliases
from core.engine.api.bases import Bases
from core.engine.api.checkpoint_permissions import CheckpointPermissions
from core.engine.api.errors import ApiError, bad_value
from core.engine.api.exports import Exports
from core.engine.api.files import Files, sends_base64
from core.engine.api.jobs import Jobs
from core.engine.api.legacy import LegacyApi
from core.engine.api.models import Model, ModelCatalogue
from core.engine.api.requests import json_body, reject_unknown, required
from core.engine.api.uploads import Uploads
from core.engine.bases.library import BaseLibrary
from core.engine.batches.api import Batches
from core.engine.batches.runner import BatchRunner
from core.engine.exports.library import ExportLibrary
from core.engine.responses.api import Responses
from core.engine.serving.embeddings import Embeddings
from core.engine.serving.generate import count_tokens
from core.engine.serving.inference import Inference
from core.engine.serving.llama import Pool
from core.engine.serving.model_serving import LlamaServing, Serving
from core.engine.serving.priority import lines_of
from core.engine.serving.vllm import VllmServing
from core.engine.serving.vllm_folders import VllmFolders
from core.engine.shadow import shadow_store
from core.engine.shadow.api import Shadows
from core.engine.shadow.copies import Copies
from core.engine.shadow.recorder import Recorder
from core.engine.shadow.relay import Relay
from core.engine.store import EngineStore, Job
from core.engine.training import job_queue, launchers
from core.engine.training.job_context import EngineJobContext
from core.engine.training.job_loop import JobLoop
from core.message import msg

_log = logging.getLogger(__name__)
_EXPIRE_EVERY_S = 5.0  # between two looks at the files and uploads that expire


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
        self.uploads = Uploads(config.home, self.store, self.files)
        self.uploads.remove_leftovers()
        self.pool = Pool(config.threads, tokens_only=serve_settings.vllm(config.environ) is not None)
        self.serving = self._chosen_serving()
        self.pool.priority.lines = lines_of(self.serving.parallel)
        self.inference = Inference(self.models, self.serving)
        self.aliases = Aliases(self.models, self.store)
        self.permissions = CheckpointPermissions(self.models)
        self.embeddings = Embeddings(self.models, self.pool)
        self.responses = Responses(self.store, self.inference)
        endpoints = {
            "/v1/chat/completions": self.inference.chat_completions,
            "/v1/completions": self.inference.completions,
            "/v1/responses": self.responses.create,
            "/v1/embeddings": self.embeddings.create,
        }
        self.batch_runner = BatchRunner(self.store, self.files, config.home / "batches", endpoints, self.pool.priority)
        self.batches = Batches(self.store, self.files, self.batch_runner)
        recorder = Recorder(self.store)
        self._copies = Copies(recorder, endpoints, self.pool.priority)
        self.relay = Relay(self.store, self._copies, recorder, config.environ)
        self.shadows = Shadows(self.models, self.store, self.relay, recorder)
        self.bases = Bases(self.library, self.models, self.store, self._packaged_speed, self._forget)
        self.export_library = ExportLibrary(config.home, config.environ, config.threads)
        self.exports = Exports(self.export_library, self.models, self.library, self.store, self.files)
        context = EngineJobContext(
            config.home, self.store, self.files, self.models, self.pool, config.threads, self._preload
        )
        launcher = launchers.choose(config.environ)
        self.runner = JobLoop(context, launcher)
        self.jobs = Jobs(config.home, self.store, self.files, self.models, self.runner.wake, launcher.at_once)
        self._stopping = asyncio.Event()
        self.legacy = LegacyApi(self.store, self.files, self.models, self.jobs, self._stopping)
        self._loop = asyncio.get_running_loop()
        self._background: set[asyncio.Task[None]] = set()

    def _chosen_serving(self) -> Serving:
        settings = serve_settings.vllm(self.config.environ)
        self._uses_vllm = settings is not None
        if settings is None:
            return LlamaServing(self.pool)
        return VllmServing(settings, self.pool, VllmFolders(self.config.home))

    def start(self) -> None:
        """Go on with interrupted jobs and batches, and warm up."""
        self.runner.start()
        self.library.start()
        self.export_library.start()
        self.batch_runner.start()
        shadow_store.end_interrupted(self.store)
        self._copies.start()
        self._run_in_background(self.responses.expire_regularly())
        self._run_in_background(self._delete_expired_regularly())
        if self.config.warm and not self._uses_vllm:  # a GPU's memory is for the base that is asked for
            self._run_in_background(_logged(self._warm(), packaged_models.BASE))

    def begin_stop(self) -> None:
        """While requests in flight are answered, let a running trainer save its state, batches wait for the next start,
        and streams end that would go on for as long as a job; may be called by a signal.
        """
        self._loop.call_soon_threadsafe(self.runner.begin_stop)
        self._loop.call_soon_threadsafe(self.batch_runner.begin_stop)
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def stop(self) -> None:
        """Let a running trainer save its state, then stop all child processes."""
        for task in self._background:
            task.cancel()
        await self.batch_runner.stop()
        await self._copies.stop()
        await self.relay.stop()
        await run_in_threadpool(self.library.stop)
        await run_in_threadpool(self.export_library.stop)
        await run_in_threadpool(self.runner.stop)
        await self.serving.close()

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
        return serializers.model(model, not_trainable, context, self.serving.parallel, training)

    def delete_model(self, request: Request) -> Response:
        """DELETE /v1/models/{id}."""
        model = self.models.find(request.path_params["id"])
        self.models.remove(request.path_params["id"])
        if model.adapter is not None:
            asyncio.run_coroutine_threadsafe(self.serving.forget_adapter(model.adapter), self._loop)
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
        asyncio.run_coroutine_threadsafe(self.serving.forget(base_id), self._loop)

    def _preload(self, model_id: str) -> None:
        """Load a new model before its first request; called from the trainer's thread."""
        asyncio.run_coroutine_threadsafe(_logged(self._load(model_id), model_id), self._loop)

    async def _load(self, model_id: str) -> None:
        model = self.models.find(model_id)
        base = await run_in_threadpool(self.models.base, model.base)
        await self.serving.load(base, model.adapter)

    async def _warm(self) -> None:
        base = await run_in_threadpool(self.models.base, packaged_models.BASE)
        await self.serving.load(base, self.models.newest_adapter(base.name))

    async def _delete_expired_regularly(self) -> None:
        while True:
            for delete_expired in (self.files.delete_expired, self.uploads.delete_expired):
                try:
                    await run_in_threadpool(delete_expired)
                except (OSError, sqlite3.Error) as exc:
                    _log.warning("What has expired cannot be deleted for now: %s", exc)
            await asyncio.sleep(_EXPIRE_EVERY_S)

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
