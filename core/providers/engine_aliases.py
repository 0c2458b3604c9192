"""An engine's aliases, for pages: list, save, remove. Only our engine has this API.

The engine keeps them, so an entry of the audit log is written once the engine has carried out the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote

from core.actor import Actor, requires
from core.db import audit_log
from core.db.store import Store
from core.errors import BadRequest
from core.message import msg
from core.providers.client import Client

_PATH = "/fabula/v1/aliases"
AliasStatus = Literal["active", "hidden", "missing_model"]
_STATUSES: tuple[AliasStatus, ...] = get_args(AliasStatus)


@dataclass(frozen=True, slots=True)
class EngineAlias:
    """Another name for one of the engine's models.

    Attributes:
        id: the name that programs ask for.
        model: the model that answers them.
        status: `hidden` while a model has the same name; `missing_model` if the model was deleted.
    """

    id: str
    model: str
    status: AliasStatus


def listed(client: Client) -> tuple[EngineAlias, ...]:
    """List an engine's aliases, oldest first.

    Raises:
        ProviderError: the engine does not respond.
    """
    rows = client.engine_call("GET", _PATH).get("data") or ()
    return tuple(
        EngineAlias(
            str(row["id"]),
            str(row["model"]),
            next((one for one in _STATUSES if one == row.get("status")), "active"),
        )
        for row in rows
    )


@requires("admin")
def save(store: Store, actor: Actor, client: Client, alias: str, model: str) -> None:
    """Create an alias, or let an existing one lead to another model.

    Raises:
        BadRequest, ModelNotFound: the alias can't have this name, or this model; the message explains why.
    """
    if not alias:
        raise BadRequest(msg("The alias is empty."), msg("Enter the name that the program asks for."))
    earlier = _model_of(client, alias)
    client.engine_call("POST", _PATH, {"id": alias, "model": model})
    with store.session() as session:
        audit_log.note(session, f"aliases {alias} model", earlier, model)


@requires("admin")
def remove(store: Store, actor: Actor, client: Client, alias: str) -> None:
    """Remove an alias; its model stays."""
    earlier = _model_of(client, alias)
    client.engine_call("DELETE", f"{_PATH}/{quote(alias, safe='')}")
    with store.session() as session:
        audit_log.note(session, f"aliases {alias} model", earlier, None)


def _model_of(client: Client, alias: str) -> str | None:
    return next((one.model for one in listed(client) if one.id == alias), None)
