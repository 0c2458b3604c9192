"""The states of a comparison on calls: what was decided is recorded first, then the engine is asked.

`confirm` asks it, at once and, from the worker, again until it has confirmed. Meanwhile the engine may still relay.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy.orm import Session

from core.actor import on_behalf_of
from core.db.store import Store
from core.db.tables import AliasChange, ModelShadow, utcnow
from core.errors import BadRequest, ChangedMeanwhile, NotFound, Unavailable
from core.message import msg
from core.providers import engine_aliases, engine_shadows
from core.providers.client import Client
from core.providers.engine_aliases import Expected

OPEN = ("starting", "on", "stopping", "flipping")
"""States of a comparison that has not ended."""
_UNCONFIRMED = ("starting", "stopping", "flipping")
_START = timedelta(seconds=60)  # within which a start reaches the engine; after that it is refused


def get(session: Session, shadow_id: str, *, locks: bool = False) -> ModelShadow:
    """A comparison. Raises NotFound."""
    row = session.get(ModelShadow, shadow_id, with_for_update=locks or None)
    if row is None:
        raise NotFound(msg("This comparison does not exist."), msg("Reload the page."))
    return row


def decide(
    store: Store, shadow_id: str, state: str, before: Collection[str], by: str, reason: str | None = None
) -> bool:
    """Record what is to be done, before the engine is asked; return False if the comparison is in another state."""
    with store.session() as session:
        row = get(session, shadow_id, locks=True)
        if row.state not in before:
            return False
        row.state, row.ended_by, row.reason = state, by, reason or row.reason
        return True


def confirm(store: Store, client: Client, shadow_id: str) -> None:
    """Ask the engine to carry out what was decided, and record what it says. May be repeated.

    Raises:
        ProviderError: the engine does not respond; it is not known what it does.
    """
    with store.reading() as session:
        row = get(session, shadow_id)
    if row.state not in _UNCONFIRMED:
        return
    relay = engine_shadows.find(client, shadow_id)
    if relay is not None and relay.state == "dark":
        has_gone_dark(store, row, relay.reason)
    elif row.state == "starting" and relay is not None:
        _has_started(store, row)
    elif row.state == "flipping":
        _flip(store, client, row, is_relayed=relay is not None)
    elif row.state == "stopping" or utcnow() - row.created_at > _START:
        engine_shadows.close(client, row.alias, shadow_id)
        reason = None if row.state == "stopping" else msg("The engine did not start to relay. Start again.")
        finish(store, shadow_id, "stopped", reason)


def finish(store: Store, shadow_id: str, state: str, reason: str | None) -> None:
    """Record how a comparison has ended; one that has ended is not changed."""
    with store.session() as session:
        row = session.get(ModelShadow, shadow_id, with_for_update=True)
        if row is not None and row.state in OPEN:
            row.state, row.reason, row.note, row.ended_at = state, reason or row.reason, None, utcnow()


def has_gone_dark(store: Store, row: ModelShadow, said: str) -> None:
    """Record that the old model has stopped, and that the engine lets the new one answer since then."""
    _note_alias(store, row.alias, row.model, engine_aliases.AUTOMATIC)
    finish(store, row.id, "dark", msg("The old model has stopped: {reason}", reason=said))


def _has_started(store: Store, row: ModelShadow) -> None:
    _note_alias(store, row.alias, None, row.created_by)
    with store.session() as session:
        current = get(session, row.id, locks=True)
        if current.state == "starting":
            current.state = "on"


def _flip(store: Store, client: Client, row: ModelShadow, *, is_relayed: bool) -> None:
    """Set the alias, unless the relay has ended meanwhile: then the newer change stays."""
    by = row.ended_by or ""
    if is_relayed:
        try:
            engine_aliases.save(
                store, on_behalf_of(by), client, row.alias, row.model, expected=Expected(None), shadow=row.id
            )
        except BadRequest as exc:  # the new model was deleted: the old one goes on
            with store.session() as session:
                current = get(session, row.id, locks=True)
                if current.state == "flipping":
                    current.state, current.threshold, current.reason = "on", None, exc.what
            raise
        except ChangedMeanwhile:
            pass
    ended_without_relay(store, client, row, by)


def ended_without_relay(store: Store, client: Client, row: ModelShadow, by: str) -> None:
    """Record how a comparison has ended that the engine does not relay any more. `by`: who may have set the alias."""
    found = next((one.model for one in engine_aliases.listed(client) if one.id == row.alias), None)
    if found == row.model:
        _note_alias(store, row.alias, row.model, by)
        finish(store, row.id, "flipped", None)
    else:
        finish(store, row.id, "stopped", msg("The engine no longer relays this model."))


def confirm_or_note(store: Store, client: Client, shadow_id: str) -> None:
    """The same, but if the engine does not respond, show that; the worker asks it again."""
    try:
        confirm(store, client, shadow_id)
    except Unavailable as exc:
        note(store, shadow_id, exc.what)


def note(store: Store, shadow_id: str, words: str | None) -> None:
    """Record what a comparison waits for; None: nothing."""
    with store.session() as session:
        row = session.get(ModelShadow, shadow_id)
        if row is not None and row.note != words:
            row.note = words


def _note_alias(store: Store, alias: str, model: str | None, by: str) -> None:
    """Record a change of the alias, unless it was recorded already."""
    last = engine_aliases.changes(store).get(alias)
    before = None if last is None else last.model
    if before != model:
        with store.session() as session:
            session.add(AliasChange(alias=alias, model=model, previous=before, changed_by=by))
