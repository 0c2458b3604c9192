"""/v1/fine_tuning/checkpoints/{id}/permissions: accepted, without effect.

OpenAI shares checkpoints between projects. An engine has no projects; whoever has its token may use every model. Each
answer says so under `fabula`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine.api.errors import bad_value, missing_parameter
from core.engine.api.models import ModelCatalogue
from core.engine.api.requests import json_body, reject_unknown
from core.engine.api.serializers import Json, page
from core.engine.chat_messages import is_missing
from core.engine.store import new_id
from core.message import extra_fields, msg

_OBJECT = "checkpoint.permission"
_MAX_PROJECTS = 100


@dataclass(frozen=True)
class CheckpointPermissions:
    """The endpoints."""

    models: ModelCatalogue

    async def create(self, request: Request) -> Response:
        """POST {"project_ids"}: a permission for each project, which is not stored."""
        body = await json_body(request)
        reject_unknown(body, frozenset({"project_ids"}))
        projects = body.get("project_ids")
        if is_missing(projects):
            raise missing_parameter("project_ids")
        is_valid = isinstance(projects, list) and all(isinstance(one, str) and one for one in projects)
        if not isinstance(projects, list) or not is_valid or len(projects) > _MAX_PROJECTS:
            message = msg("'project_ids' must be a list of at most {maximum} texts.", maximum=_MAX_PROJECTS)
            raise bad_value("project_ids", message)
        await run_in_threadpool(self._check, request)
        now = int(time.time())
        created = [
            {"id": new_id("cp"), "object": _OBJECT, "created_at": now, "project_id": project} for project in projects
        ]
        return JSONResponse({**page(created, False), **_note()})

    def list(self, request: Request) -> Response:
        """GET: always empty."""
        self._check(request)
        return JSONResponse({**page([], False), **_note()})

    def delete(self, request: Request) -> Response:
        """DELETE …/{permission}."""
        self._check(request)
        deleted = {"id": request.path_params["permission"], "object": _OBJECT, "deleted": True}
        return JSONResponse({**deleted, **_note()})

    def _check(self, request: Request) -> None:
        """Raise ApiError 404 if there is no such checkpoint or model."""
        self.models.find(request.path_params["id"])


def _note() -> Json:
    message = msg(
        "This has no effect: the engine has no projects, and everyone who has its token may use every checkpoint."
    )
    return {"fabula": {"message": message, **extra_fields(message)}}
