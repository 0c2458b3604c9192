"""/fabula/v1/bases: the base models in the engine's home directory. Not part of OpenAI's API."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core import packaged_models
from core.engine.api import serializers
from core.engine.api.errors import ApiError, unknown_model
from core.engine.api.models import ModelCatalogue
from core.engine.api.requests import json_body, reject_unknown, required
from core.engine.bases import machine, suggestions
from core.engine.bases.library import AlreadyAdded, BaseLibrary, IdTaken
from core.engine.bases.record import BaseRecord, Source
from core.engine.bases.suggestions import Suggestion
from core.engine.chat_messages import is_missing
from core.engine.formats.unusable_model import UnusableModel
from core.engine.store import EngineStore, Job, TunedModel
from core.message import Message, msg, to_json

_FIELDS = frozenset({"source", "path", "repo", "revision", "id"})
_SOURCES: tuple[Source, ...] = ("file", "folder", "huggingface", "modelscope")
_UNFINISHED = "base = ? AND status IN ('validating_files', 'queued', 'running', 'paused')"


@dataclass(frozen=True)
class Bases:
    """The endpoints for base models.

    Attributes:
        packaged_speed: most recently measured speed of the packaged base, in tokens/s; None if it has not been measured
            yet.
        forget: called with the id of a removed base, to stop its processes.
    """

    library: BaseLibrary
    models: ModelCatalogue
    store: EngineStore
    packaged_speed: Callable[[], float | None]
    forget: Callable[[str], None]

    def list(self, request: Request) -> Response:
        """GET /fabula/v1/bases: all base models with their figures, and this machine's resources."""
        here = {
            "memory_bytes": machine.memory_bytes(),
            "training_memory_bytes": self.models.training_memory_bytes,
            "disk_free_bytes": machine.free_bytes(self.library.root),
            "packaged_base": packaged_models.BASE,
            "packaged_tokens_per_s": self.packaged_speed(),
        }
        limit = self.library.context_limit
        records = self.library.records()
        added = {one.repo for one in records}
        fits = {
            one.repo for one in suggestions.fitting(machine.memory_bytes(), limit, self.models.training_memory_bytes)
        }
        suggested, too_large = list[dict[str, Any]](), list[dict[str, Any]]()
        for one in suggestions.every():
            if one.repo not in added:
                (suggested if one.repo in fits else too_large).append(self._suggestion(one, limit))
        return JSONResponse(
            {
                "object": "list",
                "data": [*map(self._json, records)],
                "machine": here,
                "suggestions": suggested,
                "suggestions_too_large": too_large,
            }
        )

    def _suggestion(self, one: Suggestion, limit: int) -> dict[str, Any]:
        return {
            "repo": one.repo,
            "parameters": one.shape.parameters,
            "context": min(limit, one.shape.context),
            "model_context": one.shape.context,
            "licence": one.licence,
            "gated": one.gated,
            "download_bytes": one.download_bytes,
            "serving_bytes": one.serving_bytes(limit),
            "training_bytes": one.training_bytes,
            "tokens_per_s": packaged_models.scaled_speed(self.packaged_speed(), one.shape.parameters),
            "source": one.source,
            "as_of": one.as_of,
        }

    def get(self, request: Request) -> Response:
        """GET /fabula/v1/bases/{id}."""
        return JSONResponse(self._json(self._find(request)))

    async def create(self, request: Request) -> Response:
        """POST /fabula/v1/bases: add a base model and prepare it in the background.

        {"source": "file" | "folder", "path", "id"?} or {"source": "huggingface" | "modelscope", "repo", "revision"?,
        "id"?}; Adding the same model again returns the existing record, and restarts its preparation if that had
        failed. 409 if the model already exists under another id, or at another revision and no id is given.
        """
        body = await json_body(request)
        reject_unknown(body, _FIELDS)
        base_id = None if is_missing(body.get("id")) else required(body, "id")
        asked = required(body, "source")
        source = next((one for one in _SOURCES if one == asked), None)
        if source is None:
            raise ApiError(
                400, msg("'source' must be one of {sources}.", sources=", ".join(_SOURCES)), param="source",
                code="invalid_value",
            )  # fmt: skip
        name = "path" if source in ("file", "folder") else "repo"
        revision = "" if is_missing(body.get("revision")) else required(body, "revision")
        added = await run_in_threadpool(self._add, source, name, required(body, name), revision, base_id)
        return JSONResponse(self._json(added))

    def retry(self, request: Request) -> Response:
        """POST /fabula/v1/bases/{id}/retry: restart a failed preparation."""
        base = self._find(request)
        try:
            return JSONResponse(self._json(self.library.retry(base.id)))
        except KeyError as exc:  # removed in the meantime
            raise unknown_model(base.id) from exc

    def delete(self, request: Request) -> Response:
        """DELETE /fabula/v1/bases/{id}: cancel a base's preparation and remove it. The user's own files are not
        touched.
        """
        base = self._find(request)
        if self.store.select(Job, _UNFINISHED, (base.id,), "LIMIT 1"):
            raise ApiError(
                409,
                msg("A job that is not finished uses {id}. Cancel the job, or wait until it ends.", id=base.id),
                code="base_in_use",
            )
        converted = self.models.converted(base)  # before a downloaded file is deleted
        try:
            self.library.remove(base.id)
        except KeyError as exc:  # removed in the meantime
            raise unknown_model(base.id) from exc
        self.models.forget(base.id)
        self.forget(base.id)
        for folder in converted:
            shutil.rmtree(folder, ignore_errors=True)
        return JSONResponse({"id": base.id, "object": "fabula.base", "deleted": True})

    def _add(self, source: Source, param: str, value: str, revision: str, base_id: str | None) -> BaseRecord:
        taken = self.models.base_names()
        try:
            if param == "path":
                return self.library.add_path(value, base_id, taken)
            return self.library.add_repo(source, value, revision, base_id, taken)
        except UnusableModel as exc:
            raise ApiError(400, exc.message, param=param, code=exc.code) from exc
        except AlreadyAdded as exc:
            raise ApiError(409, exc.message, param=exc.param, code="base_exists") from exc
        except IdTaken as exc:
            raise ApiError(
                409,
                msg("Another model is called {id}. Choose another name for this one.", id=str(exc)),
                param="id",
                code="base_exists",
            ) from exc

    def _find(self, request: Request) -> BaseRecord:
        base_id = request.path_params["id"]
        found = self.library.get(base_id)
        if found is None:
            raise unknown_model(base_id)
        return found

    def _json(self, one: BaseRecord) -> serializers.Json:
        """A base model as a JSON object."""
        speed = packaged_models.scaled_speed(self.packaged_speed(), one.parameters)
        shape = one.shape(self.library.context_limit)
        not_trainable = self.models.added_not_trainable(one) or ""
        return {
            "id": one.id,
            "object": "fabula.base",
            "created": one.created,
            "source": one.source,
            "path": one.path,
            "repo": one.repo or None,
            "revision": one.revision or None,
            "checksum": _checksum(one),
            "state": one.state,
            "done": one.done,
            "total": one.total,
            "error": _error(one),
            "family": one.family,
            "architecture": one.architecture,
            "licence": one.licence,
            "parameters": one.parameters,
            "context": shape.context,
            "model_context": one.context,
            "size_bytes": one.size,
            "disk_bytes": self.library.disk_bytes(one.id),
            "serving_bytes": machine.serving_bytes(one.served_bytes, shape) if one.parameters else None,
            "training_bytes": machine.training_bytes(shape) if one.parameters else None,
            "tokens_per_s": speed,
            "not_trainable": not_trainable or None,
            **_translatable("not_trainable_message", not_trainable),
            "tuned_models": len(self.store.select(TunedModel, "base = ? AND step IS NULL", (one.id,))),
        }


def _checksum(one: BaseRecord) -> str | None:
    """Whether a download was verified against the hub's checksums; null if it is not a download or has not finished."""
    if not one.repo or one.state in ("waiting", "downloading", "failed"):
        return None
    return "unavailable" if one.no_checksum else "verified"


def _error(one: BaseRecord) -> serializers.Json | None:
    if not one.error:
        return None
    return {"code": one.error_code, "message": str(one.error), **_translatable("fabula", one.error)}


def _translatable(name: str, text: str) -> serializers.Json:
    """A message's template and parameters, for clients that translate messages."""
    return {name: to_json(text)} if isinstance(text, Message) else {}
