"""The endpoints of /v1/responses: create, retrieve, delete, and the list of input items."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from dataclasses import replace
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine.api.errors import ApiError, bad_value, disk_full, is_disk_full
from core.engine.api.requests import json_body, query_limit
from core.engine.api.serializers import page
from core.engine.responses import request as response_request
from core.engine.responses.answer import ResponseAnswer
from core.engine.responses.input_items import REFERENCE, Item, new_id
from core.engine.responses.request import ResponseRequest
from core.engine.serving.inference import Inference
from core.engine.store import EngineStore, StoredResponse, to_json
from core.message import msg

_log = logging.getLogger(__name__)

KEEP_S = 30 * 24 * 3600
"""How long a response is kept, as at OpenAI."""
_EXPIRE_EVERY_S = 3600.0
_MAX_TURNS = 1000  # responses in one conversation; their texts would not fit any context


class Responses:
    """The endpoints. Responses are kept in the engine's database for 30 days, unless they are deleted before."""

    def __init__(self, store: EngineStore, inference: Inference) -> None:
        self._store, self._inference = store, inference

    async def expire_regularly(self) -> None:
        """Delete old responses, now and every hour."""
        while True:
            try:
                await run_in_threadpool(self._expire)
            except sqlite3.Error:
                _log.exception("Could not delete expired responses; the engine tries again in an hour.")
            await asyncio.sleep(_EXPIRE_EVERY_S)

    def _expire(self) -> None:
        if self._store.remove_older(StoredResponse, time.time() - KEEP_S):
            self._store.shrink()

    async def create(self, request: Request) -> Response:
        """POST /v1/responses."""
        wanted = response_request.parse(await json_body(request))
        wanted = replace(wanted, placed=await run_in_threadpool(self._resolved, wanted.placed))
        history = await run_in_threadpool(self._history, wanted.previous)
        try:
            parsed = await self._inference.chat_request(wanted.chat_body(history))
            answer = ResponseAnswer(
                new_id("resp"), parsed, wanted.repeated, lambda response: self._keep(wanted, response)
            )
            return await self._inference.respond(request, parsed, answer)
        except ApiError as exc:
            raise response_request.renamed(exc) from exc

    def get(self, request: Request) -> Response:
        """GET /v1/responses/{id}."""
        if request.query_params.get("stream") == "true":
            message = msg("'{name}' is not supported by this engine.", name="stream")
            raise ApiError(400, message, param="stream", code="unsupported_parameter")
        return JSONResponse(json.loads(self._find(request).body))

    def delete(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}."""
        row = self._find(request)
        self._store.remove(StoredResponse, row.id)
        self._store.shrink()
        return JSONResponse({"id": row.id, "object": "response", "deleted": True})

    def cancel(self, request: Request) -> Response:
        """POST /v1/responses/{id}/cancel."""
        self._find(request)
        raise ApiError(400, msg("Only responses created with 'background' can be cancelled; this engine has none."))

    def input_items(self, request: Request) -> Response:
        """GET /v1/responses/{id}/input_items, newest first unless `order` is `asc`."""
        items: list[Item] = json.loads(self._find(request).input)
        if request.query_params.get("order") != "asc":
            items.reverse()
        if (after := request.query_params.get("after")) is not None:
            position = next((number for number, item in enumerate(items, 1) if item["id"] == after), None)
            if position is None:
                raise bad_value("after", msg("'after' does not name an existing object: {after}", after=after))
            items = items[position:]
        limit = query_limit(request, 20, 100)
        return JSONResponse(page(items[:limit], len(items) > limit))

    def _keep(self, wanted: ResponseRequest, response: dict[str, Any]) -> None:
        """Store the response if the request wants that. Raises ApiError 507, which a stream can still send as an event,
        if the disk is full.
        """
        if not wanted.store:
            return
        row = StoredResponse(
            response["id"], int(time.time()), wanted.previous, to_json(wanted.items), to_json(response)
        )
        try:
            self._store.add(row)
        except sqlite3.Error as exc:
            if is_disk_full(exc):
                raise disk_full() from exc
            raise

    def _history(self, previous: str | None) -> list[Item]:
        """The items of the responses before a new one, oldest first."""
        turns: list[list[Item]] = []
        while previous is not None:
            row = self._kept(previous)
            if row is None or len(turns) == _MAX_TURNS:
                raise ApiError(
                    400,
                    msg("Previous response with id '{id}' not found.", id=previous),
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            turns.append([*json.loads(row.input), *json.loads(row.body)["output"]])
            previous = row.previous_id
        return [item for turn in reversed(turns) for item in turn]

    def _resolved(self, placed: list[tuple[str, Item]]) -> list[tuple[str, Item]]:
        """The items, with stored ones instead of references to them. Raises ApiError 404."""
        return [(place, self._stored_item(item["id"]) if item["type"] == REFERENCE else item) for place, item in placed]

    def _stored_item(self, item_id: str) -> Item:
        text, oldest = json.dumps(item_id), time.time() - KEEP_S
        # ids are long and random: a text that contains one nearly always is the item's own
        where = "created_at >= ? AND (instr(body, ?) OR instr(input, ?))"
        for row in self._store.select(StoredResponse, where, (oldest, text, text)):
            found = [*json.loads(row.body)["output"], *json.loads(row.input)]
            if (item := next((one for one in found if one["id"] == item_id), None)) is not None:
                return dict(item)
        raise ApiError(404, msg("Item with id '{id}' not found; its response isn't stored.", id=item_id), param="input")

    def _find(self, request: Request) -> StoredResponse:
        response_id = request.path_params["id"]
        row = self._kept(response_id)
        if row is None:
            raise ApiError(404, msg("Response with id '{id}' not found.", id=response_id), param="id")
        return row

    def _kept(self, response_id: str) -> StoredResponse | None:
        row = self._store.get(StoredResponse, response_id)
        return row if row is not None and row.created_at >= time.time() - KEEP_S else None
