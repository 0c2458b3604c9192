"""/fabula/v1/aliases: other names for this engine's models, so that a program that asks for `gpt-4o-mini` only needs
another `base_url`. Not part of OpenAI's API.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.engine.api import serializers
from core.engine.api.errors import ApiError, bad_value, unknown_model
from core.engine.api.models import ModelCatalogue
from core.engine.api.requests import json_body, reject_unknown, required
from core.engine.shadow import shadow_store
from core.engine.shadow.shadow_store import Shadow
from core.engine.store import Alias, EngineStore
from core.message import msg

_FIELDS = frozenset({"id", "model", "if_model", "if_shadow"})
# Names of models at OpenAI, Azure and gateways: `gpt-4o-mini`, `ft:gpt-4o-mini-2024-07-18:org::AbC`, `openai/gpt-4o`,
# `curie:ft-org-2023-04-04-03-03-26`.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_MAX_ALIASES: Final = 1000


@dataclass(frozen=True, slots=True)
class Condition:
    """What a client expects of an alias before it is changed, so that two people do not undo each other's change.

    Attributes:
        model: what the alias leads to; None if it does not exist.
        is_given: whether the request has a condition.
    """

    model: str | None
    is_given: bool

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Condition:
        """The condition of a request: `if_model`, which may be null."""
        return cls(required(body, "if_model") if body.get("if_model") else None, "if_model" in body)

    def check(self, row: Alias | None) -> None:
        """Raise ApiError 412 if the alias is not as expected."""
        now = None if row is None else row.model
        if not self.is_given or now == self.model:
            return
        if now is None:
            message = msg("The alias was removed meanwhile.")
        else:
            message = msg("The alias leads to {model} meanwhile.", model=now)
        raise ApiError(412, message, param="if_model", code="alias_changed")


def check_name(models: ModelCatalogue, name: str) -> None:
    """Raise ApiError if programs can't ask for this name: 400 for its characters, 409 if a model has it."""
    if _ID.fullmatch(name) is None:
        raise bad_value(
            "id",
            msg(
                "An alias has 1 to 200 letters (a-z), digits and the characters . _ : / @ + -, and begins with a "
                "letter or digit."
            ),
        )
    if models.is_taken(name):
        message = msg("A model here is called {id}: the alias would hide it. Choose another name.", id=name)
        raise ApiError(409, message, param="id", code="alias_hides_model")


@dataclass(frozen=True)
class Aliases:
    """The endpoints for aliases. An alias leads to a model, never to another alias, so there are no loops."""

    models: ModelCatalogue
    store: EngineStore

    def list(self, request: Request) -> Response:
        """GET /fabula/v1/aliases: all aliases, oldest first, also those whose model was deleted."""
        rows = self.store.select(Alias, "1")
        return JSONResponse({"object": "list", "data": [self._json(row) for row in rows]})

    def get(self, request: Request) -> Response:
        """GET /fabula/v1/aliases/{id}."""
        return JSONResponse(self._json(self._find(request)))

    async def create(self, request: Request) -> Response:
        """POST /fabula/v1/aliases {"id", "model"}: create an alias, or let an existing one lead to another model.

        With `if_model`, only if it leads to that model now; with `"if_model": null`, only if it does not exist; with
        `if_shadow`, only while the shadow with this label relays the name.

        400 for a name with other characters, for an alias of itself or of another alias; 404 for an unknown model; 409
        if a model has this name; 412 if a condition does not hold.
        """
        body = await json_body(request)
        reject_unknown(body, _FIELDS)
        row = Alias(required(body, "id"), int(time.time()), required(body, "model"))
        label = required(body, "if_shadow") if "if_shadow" in body else None
        return JSONResponse(self._json(await run_in_threadpool(self._store_alias, row, Condition.of(body), label)))

    def delete(self, request: Request) -> Response:
        """DELETE /fabula/v1/aliases/{id}. The model stays. With `?if_model=`, only if it leads to that model now."""
        row, wanted = self._find(request), request.query_params.get("if_model")
        with self.store.transaction():
            Condition(wanted, wanted is not None).check(self.store.get(Alias, row.id))
            self.store.remove(Alias, row.id)
        return JSONResponse({"id": row.id, "object": "fabula.alias", "deleted": True})

    def _store_alias(self, row: Alias, condition: Condition, label: str | None) -> Alias:
        self._check(row)
        with self.store.transaction():
            condition.check(self.store.get(Alias, row.id))
            relayed = self.store.select(Shadow, "id = ? AND state = 'on'", (row.id,))
            if label is not None and all(shadow.label != label for shadow in relayed):
                message = msg("The engine does not relay this model any more.")
                raise ApiError(412, message, param="if_shadow", code="alias_changed")
            for shadow in relayed:
                shadow_store.close(self.store, shadow.id, shadow.label)  # from now on, the alias answers
            if not self.store.update(Alias, row.id, model=row.model):
                if len(self.store.select(Alias, "1")) >= _MAX_ALIASES:
                    raise bad_value("id", msg("There can be at most {maximum} aliases.", maximum=_MAX_ALIASES))
                self.store.add(row)
            stored = self.store.get(Alias, row.id)
        assert stored is not None
        return stored

    def _check(self, row: Alias) -> None:
        """Raise ApiError for an alias that cannot be stored."""
        check_name(self.models, row.id)
        if row.model == row.id:
            raise ApiError(400, msg("An alias can't stand for itself."), param="model", code="alias_loop")
        other = self.store.get(Alias, row.model)
        if self.models.find_own(row.model) is None:
            if other is None:
                raise unknown_model(row.model)
            message = msg(
                "{model} is an alias too, of {target}. Use the model itself: {target}.",
                model=row.model,
                target=other.model,
            )
            raise ApiError(400, message, param="model", code="alias_loop")

    def _find(self, request: Request) -> Alias:
        alias_id = request.path_params["id"]
        row = self.store.get(Alias, alias_id)
        if row is None:
            raise ApiError(404, msg("There is no alias '{id}'.", id=alias_id), param="id", code="alias_not_found")
        return row

    def _json(self, row: Alias) -> serializers.Json:
        """An alias as a JSON object. Its status is `hidden` while a model has the same name (which can be added to
        FABULA_ENGINE_MODELS later), and `missing_model` if its model was deleted.
        """
        target = self.models.find_own(row.model)
        status = "hidden" if self.models.is_taken(row.id) else "active" if target is not None else "missing_model"
        return {
            "id": row.id,
            "object": "fabula.alias",
            "created_at": row.created_at,
            "model": row.model,
            "status": status,
        }
