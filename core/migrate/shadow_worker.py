"""The worker's part of a shadow: asks the engine for what was decided, hands over the key, collects calls, compares the
answers, records costs, flips the alias.

A call is in the ledger once: collecting it again after a crash finds its number there. Calls are collected until the
engine has none left, also those that end after the comparison.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core import shared_files
from core.actor import on_behalf_of
from core.db.store import Store
from core.db.tables import ModelShadow, ShadowPair
from core.errors import FabulaError, StorageFull
from core.message import msg, percent
from core.migrate import shadow, shadow_states
from core.parity import agreement
from core.pricing import custom_prices, spend
from core.pricing.price_book import PriceBook, cost_of
from core.providers import Registry, engine_aliases, engine_shadows
from core.providers.client import Client
from core.providers.engine_shadows import EngineShadow, RelayedCall
from core.providers.registry import ENGINE
from core.sanitize import storable
from core.settings import Settings

UNFINISHED = (
    select(ModelShadow.id)
    .where(ModelShadow.state.in_(shadow_states.OPEN) | ModelShadow.settled.is_(False))
    .order_by(ModelShadow.created_at)
)
LOOK_S = 2.0
"""How often calls are collected."""
_RETRY_S = 5.0
_CRASH_PAUSE_S = 30.0

_log = logging.getLogger("fabula.worker")


def carry_out(store: Store, registry: Registry, shadow_id: str, stopping: threading.Event) -> float | None:
    """Do what is to be done now. Returns the seconds until the next look; None once nothing is left to collect.

    Errors never end a comparison, because the engine would go on relaying: they are shown, and it is tried again.
    """
    try:
        return _look(store, registry, shadow_id, stopping)
    except StorageFull:
        raise
    except FabulaError as exc:  # the engine is down, or the provider was removed: it goes on once that is solved
        shadow_states.note(store, shadow_id, exc.what)
        return _RETRY_S
    except Exception as exc:
        _log.exception("Unexpected error in a comparison on calls; it will be retried.")
        give_up(store, shadow_id, FabulaError(msg("Something unexpected happened ({kind}).", kind=type(exc).__name__)))
        return _CRASH_PAUSE_S


def give_up(store: Store, shadow_id: str, error: FabulaError) -> None:
    """Show an error. The engine goes on relaying, so the comparison goes on as well."""
    shadow_states.note(store, shadow_id, error.what)


def _look(store: Store, registry: Registry, shadow_id: str, stopping: threading.Event) -> float | None:
    client = registry.get(ENGINE)
    if _find(store, shadow_id) is not None:
        shadow_states.confirm(store, client, shadow_id)
    row = _find(store, shadow_id)
    if row is None or (row.settled and row.state not in shadow_states.OPEN):
        return None
    relay = engine_shadows.find(client, shadow_id)
    if row.state == "on":
        if relay is None:
            shadow_states.ended_without_relay(store, client, row, "")
        elif relay.state == "on":
            _update(client, registry, row, relay)
    elif relay is not None:  # the engine's row of an old model that has stopped
        engine_shadows.close(client, row.alias, shadow_id)
    left = _collect(store, client, row, relay, stopping)
    if row.state == "on" and relay is not None:
        _decide(store, client, shadow_id, relay)
        return LOOK_S
    if row.state in shadow_states.OPEN or left or stopping.is_set():
        return LOOK_S
    with store.session() as session:
        session.get_one(ModelShadow, shadow_id).settled = True
    return None


def _find(store: Store, shadow_id: str) -> ModelShadow | None:
    with store.reading() as session:
        return session.get(ModelShadow, shadow_id)


def _update(client: Client, registry: Registry, row: ModelShadow, relay: EngineShadow) -> None:
    """Hand over the key after a restart of the engine, and new settings. What has ended does not start again."""
    if not relay.has_key or (relay.share, relay.fallback) != (row.share, row.fallback):
        engine_shadows.save(
            client, registry.provider(row.provider), alias=row.alias, model=row.model, label=row.id, share=row.share,
            fallback=row.fallback,
        )  # fmt: skip


def _collect(
    store: Store, client: Client, row: ModelShadow, relay: EngineShadow | None, stopping: threading.Event
) -> int:
    """Bring the calls that have ended into the ledger, and let the engine delete them. Returns how many are left."""
    after = row.collected
    while True:
        with store.reading() as session:
            deleted_at = shadow_states.get(session, row.id).texts_deleted_at
        found, left = engine_shadows.calls(client, row.id, after)
        if not found:
            break
        after = found[-1].ended
        book = custom_prices.book(store, shared_files.storage(Settings.from_env()))
        with store.session() as session:
            current = session.get_one(ModelShadow, row.id, with_for_update=True)
            _store(session, current, found, book, keeps_texts=current.texts_deleted_at == deleted_at)
        engine_shadows.forget(client, row.id, after)
        if stopping.is_set():
            return 1
    shadow_states.note(store, row.id, None)
    if relay is not None and relay.lost != row.lost:
        with store.session() as session:
            session.get_one(ModelShadow, row.id).lost = relay.lost
    return left


def _store(
    session: Session, row: ModelShadow, found: Sequence[RelayedCall], book: PriceBook, *, keeps_texts: bool
) -> None:
    """Record calls, each once: `collected` is raised in the same transaction.

    Args:
        keeps_texts: False if someone has deleted the texts since these were collected.
    """
    for call in found:
        if call.ended <= row.collected:
            continue
        row.collected = call.ended
        row.relayed += 1
        row.failed += call.state != "answered"
        row.dropped += call.copy == "dropped"
        if call.state != "failed":
            cost = cost_of(book, row.provider, row.alias, call.prompt_tokens, call.completion_tokens)
            spend.record(
                session, on_behalf_of(row.created_by), "shadow", provider=row.provider, model=row.alias,
                reference=row.id, prompt_tokens=call.prompt_tokens, completion_tokens=call.completion_tokens,
                cost_usd=cost,
            )  # fmt: skip
        if call.state == "answered" and call.old is not None and call.copy in ("answered", "failed"):
            _compare(session, row, call, call.old, keeps_texts=keeps_texts)
    session.flush()
    oldest_kept = (
        select(ShadowPair.id)
        .where(ShadowPair.shadow_id == row.id)
        .order_by(ShadowPair.id.desc())
        .offset(shadow.KEPT_PAIRS - 1)
        .limit(1)
    )
    if (last := session.scalar(oldest_kept)) is not None:
        session.execute(delete(ShadowPair).where(ShadowPair.shadow_id == row.id, ShadowPair.id < last))


def _compare(session: Session, row: ModelShadow, call: RelayedCall, old: str, *, keeps_texts: bool) -> None:
    """Compare both answers. If that fails, the call is recorded all the same: it may have been paid."""
    try:
        score = agreement.score(old, call.new)
    except Exception:
        _log.exception("Two answers to a relayed call cannot be compared")
        row.dropped += 1
        return
    row.compared += 1
    row.agreed += score
    if not keeps_texts:
        return
    prompt = call.request if len(call.request) <= shadow.KEPT_CHARS else agreement.last_message(call.request)
    session.add(
        ShadowPair(
            shadow_id=row.id, remote_id=call.id, created_at=datetime.fromtimestamp(call.created_at, UTC),
            prompt=_kept(prompt), old=_kept(old), new=None if call.new is None else _kept(call.new), old_s=call.old_s,
            new_s=call.new_s, score=score, error=_kept(call.copy_error),
        )
    )  # fmt: skip


def _kept(text: str) -> str:
    return storable(text)[: shadow.KEPT_CHARS]


def _decide(store: Store, client: Client, shadow_id: str, relay: EngineShadow) -> None:
    """Flip if enough calls agree, or record that the old model has stopped and the new one answers."""
    with store.reading() as session:
        row = session.get_one(ModelShadow, shadow_id)
    if row.state != "on":
        return
    if relay.state == "dark":
        return shadow_states.has_gone_dark(store, row, relay.reason)
    if relay.reason and not row.reason:
        with store.session() as session:
            session.get_one(ModelShadow, shadow_id).reason = msg(
                "The old model has stopped: {reason}", reason=relay.reason
            )
    found = agreement.over(row.agreed, row.compared)
    if not agreement.may_flip(found, row.threshold, row.min_calls):
        return
    said = msg(
        "Flipped by itself: {n} calls compared, {share} agreement, lower bound {low}, threshold {threshold}.",
        n=f"{found.n:,}",
        share=percent(found.value),
        low=percent(found.low),
        threshold=percent(row.threshold or 0.0),
    )
    if shadow_states.decide(store, shadow_id, "flipping", ("on",), engine_aliases.AUTOMATIC, said):
        shadow_states.confirm(store, client, shadow_id)
