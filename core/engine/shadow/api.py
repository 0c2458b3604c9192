"""/fabula/v1/shadows and /fabula/v1/shadow_calls, for the studio: start, change and stop relays; collect their calls.

Not part of OpenAI's API. A name is either relayed or an alias: starting a relay removes the alias, and the other way
round. Programs have the engine's token too, but a shadow's calls are only for those who know its label.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core import logs
from core.engine.api import requests
from core.engine.api.aliases import Condition, check_name
from core.engine.api.errors import ApiError, bad_value, unknown_model
from core.engine.api.models import ModelCatalogue
from core.engine.api.requests import json_body, reject_unknown, required
from core.engine.shadow import shadow_store, upstream
from core.engine.shadow.recorder import Recorder
from core.engine.shadow.relay import Relay
from core.engine.shadow.shadow_store import Shadow
from core.engine.store import Alias, EngineStore
from core.message import msg

_FIELDS = frozenset({"id", "model", "base_url", "api_key", "label", "share", "fallback", "if_model"})
_MAX_SHADOWS: Final = 100
_MAX_PAGE: Final = 500


@dataclass(frozen=True)
class Shadows:
    """The endpoints for shadows."""

    models: ModelCatalogue
    store: EngineStore
    relay: Relay
    recorder: Recorder

    def list(self, request: Request) -> Response:
        """GET /fabula/v1/shadows: all shadows with their counts, oldest first; never their keys or labels."""
        return JSONResponse({"object": "list", "data": [self._json(row) for row in self.store.select(Shadow, "1")]})

    async def create(self, request: Request) -> Response:
        """POST /fabula/v1/shadows: relay the calls for `id` to `base_url`, and copy a `share` of them to `model`.

        With the `label` of an existing one, its share, fallback and key are changed; the counts stay. With `if_model`,
        a new one starts only if an alias of this name leads to that model now, and with null only if there is none
        (412). 412 for the label of a shadow that has ended.
        """
        body = await json_body(request)
        reject_unknown(body, _FIELDS)
        row = Shadow(
            id=required(body, "id"),
            created_at=int(time.time()),
            model=required(body, "model"),
            base_url=required(body, "base_url"),
            label=required(body, "label"),
            share=requests.integer(body, "share", 0, 100, 0),
            fallback=int(requests.boolean(body, "fallback")),
        )
        key = required(body, "api_key")
        if not upstream.is_key(key):
            raise bad_value(
                "api_key", msg("'api_key' contains spaces, line breaks or other characters that no key has.")
            )
        logs.register_secret(key)
        return JSONResponse(self._json(await run_in_threadpool(self._save, row, key, Condition.of(body))))

    def delete(self, request: Request) -> Response:
        """DELETE /fabula/v1/shadows/{id}: stop relaying. Calls that were not collected stay.

        With `?label=…` only this shadow, also if it does not exist any more: then it cannot be started again either.
        """
        name, label = request.path_params["id"], request.query_params.get("label")
        row = self.store.get(Shadow, name)
        if row is None and label is None:
            raise ApiError(404, msg("There is no shadow of this name."), param="id", code="shadow_not_found")
        ending = label or ("" if row is None else row.label)
        shadow_store.close(self.store, name, ending)
        self.relay.set_key(ending, None)
        return JSONResponse({"id": name, "object": "fabula.shadow", "deleted": True})

    def calls(self, request: Request) -> Response:
        """GET /fabula/v1/shadow_calls?label=…&after=…: calls that have ended, in the order of their ends, and how many
        are in progress. Fewer than `limit` if their texts are long.
        """
        self.recorder.retry()
        label, after = _label(request), _number(request, "after")
        limit = requests.query_limit(request, 100, _MAX_PAGE)
        in_progress = shadow_store.in_progress(self.store, label)
        rows = [asdict(row) for row in shadow_store.collect(self.store, label, after, limit)]
        return JSONResponse({"object": "list", "data": rows, "in_progress": in_progress})

    def forget(self, request: Request) -> Response:
        """DELETE /fabula/v1/shadow_calls?label=…: with `until`, delete the calls that were collected; without, the
        texts of all calls. Calls that were not collected stay: they may have cost something.
        """
        if "until" in request.query_params:
            shadow_store.forget(self.store, _label(request), _number(request, "until"))
        else:
            shadow_store.forget_texts(self.store, _label(request))
            self.store.shrink()
        return JSONResponse({"object": "list", "deleted": True})

    def _save(self, row: Shadow, key: str, condition: Condition) -> Shadow:
        check_name(self.models, row.id)
        _check_address(row.base_url)
        if self.models.find_own(row.model) is None:
            raise unknown_model(row.model)
        with self.store.transaction():
            if shadow_store.is_closed(self.store, row.label):
                raise ApiError(412, msg("This shadow has ended."), param="label", code="shadow_ended")
            before = self.store.get(Shadow, row.id)
            if before is not None and _same(before, row):
                self.store.update(Shadow, row.id, share=row.share, fallback=row.fallback)
            else:
                condition.check(self.store.get(Alias, row.id))
                self._replace(before, row)
            self.relay.set_key(row.label, key)
            stored = self.store.get(Shadow, row.id)
        assert stored is not None
        return stored

    def _replace(self, before: Shadow | None, row: Shadow) -> None:
        if before is None and len(self.store.select(Shadow, "1")) >= _MAX_SHADOWS:
            raise bad_value("id", msg("There can be at most {maximum} shadows.", maximum=_MAX_SHADOWS))
        if before is not None and before.label != row.label:
            shadow_store.close(self.store, before.id, before.label)
            self.relay.set_key(before.label, None)
        self.store.remove(Shadow, row.id)
        self.store.remove(Alias, row.id)
        self.store.add(row)

    def _json(self, row: Shadow) -> dict[str, Any]:
        fields = asdict(row) | {"fallback": bool(row.fallback), "object": "fabula.shadow"}
        label = fields.pop("label")
        return fields | {
            "label_sha256": sha256(label.encode()).hexdigest(),
            "has_key": self.relay.has_key(row.label),
            "model_exists": self.models.find_own(row.model) is not None,
        }


def _same(before: Shadow, row: Shadow) -> bool:
    return (before.label, before.base_url, before.model) == (row.label, row.base_url, row.model)


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise bad_value("base_url", msg("'base_url' must be an address such as https://api.openai.com/v1."))


def _label(request: Request) -> str:
    label = request.query_params.get("label")
    if not label:
        raise bad_value("label", msg("'{name}' must be a string.", name="label"))
    return label


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise bad_value(name, msg("'{name}' must be a whole number.", name=name))
    return int(text)
