"""An engine's aliases, for pages: list, save, remove. Only our engine has this API.

The engine keeps them, so an entry of the audit log is written once the engine has carried out the change. The ledger
keeps who changed what and when (`core.db.tables.AliasChange`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args
from urllib.parse import quote

from sqlalchemy import func, select

from core.actor import Actor, requires
from core.db import audit_log
from core.db.store import Store
from core.db.tables import AliasChange, utcnow
from core.errors import BadRequest, ChangedMeanwhile, ProviderError
from core.message import msg
from core.providers.client import Client

_PATH = "/fabula/v1/aliases"
_PRECONDITION_FAILED = 412
AUTOMATIC = "automatic"
"""In `AliasChange.changed_by`: the engine or the worker has changed it, as a person had set it up."""
_SETTLED = timedelta(seconds=10)  # a list of aliases may be a few seconds older than a change
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


@dataclass(frozen=True, slots=True)
class Expected:
    """What a person has seen an alias lead to; `model` is None if it did not exist. Otherwise it is not changed."""

    model: str | None


@requires("admin")
def save(
    store: Store, actor: Actor, client: Client, alias: str, model: str, *, expected: Expected | None = None,
    shadow: str | None = None,
) -> None:  # fmt: skip
    """Create an alias, or let an existing one lead to another model. With the label of a `shadow`, only while this one
    relays the name.

    Raises:
        BadRequest, ModelNotFound: the alias can't have this name, or this model; the message explains why.
        ChangedMeanwhile: it is not as expected.
    """
    if not alias:
        raise BadRequest(msg("The alias is empty."), msg("Enter the name that the program asks for."))
    earlier = _model_of(client, alias)
    _check(alias, earlier, expected)
    condition = {} if expected is None else {"if_model": expected.model}
    if shadow is not None:
        condition["if_shadow"] = shadow
    with changed_meanwhile(alias):
        client.engine_call("POST", _PATH, {"id": alias, "model": model, **condition})
    _record(store, actor, alias, earlier, model)


@requires("admin")
def remove(store: Store, actor: Actor, client: Client, alias: str, *, expected: Expected | None = None) -> None:
    """Remove an alias; its model stays. Raises ChangedMeanwhile if it is not as expected."""
    earlier = _model_of(client, alias)
    _check(alias, earlier, expected)
    condition = "" if expected is None else f"?if_model={quote(expected.model or '', safe='')}"
    with changed_meanwhile(alias):
        client.engine_call("DELETE", f"{_PATH}/{quote(alias, safe='')}{condition}")
    _record(store, actor, alias, earlier, None)


@contextmanager
def changed_meanwhile(alias: str) -> Iterator[None]:
    """Raise ChangedMeanwhile if the engine refuses a change because the alias is not as expected any more."""
    try:
        yield
    except ProviderError as exc:
        if getattr(exc.__cause__, "status_code", None) != _PRECONDITION_FAILED:
            raise
        raise _changed(alias) from exc


def changes(store: Store) -> dict[str, AliasChange]:
    """The newest change of each alias that was ever changed here, by alias."""
    newest = select(func.max(AliasChange.id)).group_by(AliasChange.alias)
    with store.reading() as session:
        return {row.alias: row for row in session.scalars(select(AliasChange).where(AliasChange.id.in_(newest)))}


def note_changes(store: Store, found: Sequence[EngineAlias]) -> None:
    """Record what was changed through the engine's API, without this studio. `found`: the aliases as they are now."""
    known, now = changes(store), {one.id: one.model for one in found}
    settled = utcnow() - _SETTLED
    rows = []
    for alias in {*known, *now}:
        last = known.get(alias)
        before, after = None if last is None else last.model, now.get(alias)
        if before != after and (last is None or last.changed_at < settled):
            rows.append(AliasChange(alias=alias, model=after, previous=before, changed_by=""))
    if rows:
        with store.session() as session:
            session.add_all(rows)


def _check(alias: str, now: str | None, expected: Expected | None) -> None:
    if expected is not None and now != expected.model:
        raise _changed(alias)


def _changed(alias: str) -> ChangedMeanwhile:
    return ChangedMeanwhile(
        msg("Someone else has changed the alias {alias} meanwhile.", alias=alias),
        msg("Nothing was changed. See what it leads to now, then try again."),
    )


def _record(store: Store, actor: Actor, alias: str, earlier: str | None, model: str | None) -> None:
    with store.session() as session:
        audit_log.note(session, f"aliases {alias} model", earlier, model)
        session.add(AliasChange(alias=alias, model=model, previous=earlier, changed_by=actor.id))


def _model_of(client: Client, alias: str) -> str | None:
    return next((one.model for one in listed(client) if one.id == alias), None)
