"""The worker's part of a shadow: hands over the key, collects calls, compares answers, records costs, flips the alias.

A call is in the ledger once: collecting it again after a crash finds its id there.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from core import shared_files
from core.actor import on_behalf_of
from core.db.store import Store
from core.db.tables import AliasChange, ModelShadow, ShadowPair, utcnow
from core.errors import FabulaError
from core.message import msg, percent
from core.migrate import shadow
from core.parity import agreement
from core.pricing import custom_prices, spend
from core.pricing.price_book import PriceBook, cost_of
from core.providers import Registry, engine_aliases, engine_shadows
from core.providers.client import Client
from core.providers.engine_shadows import EngineShadow, RelayedCall
from core.providers.registry import ENGINE
from core.settings import Settings

UNFINISHED = select(ModelShadow.id).where(ModelShadow.state == "on").order_by(ModelShadow.created_at)
LOOK_S = 2.0
"""How often calls are collected."""
_RETRY_S = 5.0
_SETTLE = timedelta(seconds=30)  # between its row and the engine's relay, a comparison is being started


def carry_out(store: Store, registry: Registry, shadow_id: str, stopping: threading.Event) -> float | None:
    """Collect what has ended since the last time. Returns the seconds until the next look; None once it has ended."""
    with store.reading() as session:
        row = session.get(ModelShadow, shadow_id)
    if row is None or row.state != "on":
        return None
    try:
        client = registry.get(ENGINE)
        relay = next((one for one in engine_shadows.listed(client) if one.label == shadow_id), None)
        if relay is None:
            return _without_relay(store, client, row)
        if not relay.has_key or (relay.share, relay.fallback) != (row.share, row.fallback):
            engine_shadows.save(
                client, registry.provider(row.provider), alias=row.alias, model=row.model, label=row.id,
                share=row.share, fallback=row.fallback,
            )  # fmt: skip
        _collect(store, client, row, relay)
        return _decide(store, client, shadow_id, relay)
    except FabulaError as exc:  # the engine is down, or the provider was removed: it goes on once that is solved
        with store.session() as session:
            session.get_one(ModelShadow, shadow_id).note = exc.what
        return _RETRY_S


def give_up(store: Store, shadow_id: str, error: FabulaError) -> None:
    """Record an error that no retry helps with; the engine goes on relaying."""
    shadow.finish(store, shadow_id, "stopped", error.what)


def _without_relay(store: Store, client: Client, row: ModelShadow) -> float | None:
    """What it means that the engine does not relay: an alias answers, or its home folder is another one."""
    if utcnow() - row.created_at < _SETTLE:
        return LOOK_S
    _collect(store, client, row, None)
    found = next((one.model for one in engine_aliases.listed(client) if one.id == row.alias), None)
    if found == row.model:
        shadow.finish(store, row.id, "flipped", None)
    else:
        shadow.finish(store, row.id, "stopped", msg("The engine no longer relays this model."))
    return None


def _collect(store: Store, client: Client, row: ModelShadow, relay: EngineShadow | None) -> None:
    """Bring the calls that have ended into the ledger, then let the engine delete them."""
    after = row.collected
    while found := engine_shadows.calls(client, row.id, after):
        after = found[-1].ended
        book = custom_prices.book(store, shared_files.storage(Settings.from_env()))
        with store.session() as session:
            _store(session, session.get_one(ModelShadow, row.id, with_for_update=True), found, book)
        engine_shadows.forget(client, row.id, after)
        if len(found) < engine_shadows.PAGE:
            break
    with store.session() as session:
        current = session.get_one(ModelShadow, row.id)
        current.note = None
        if relay is not None:
            current.relayed, current.failed, current.dropped = relay.relayed, relay.failed, relay.dropped
        old = ShadowPair.created_at < utcnow() - timedelta(days=shadow.KEPT_DAYS)
        session.execute(delete(ShadowPair).where(ShadowPair.shadow_id == row.id, old))


def _store(session: Session, row: ModelShadow, found: Sequence[RelayedCall], book: PriceBook) -> None:
    """Record calls, each once: `collected` is raised in the same transaction."""
    for call in found:
        if call.ended <= row.collected:
            continue
        row.collected = call.ended
        if call.state != "failed":
            cost = cost_of(book, row.provider, row.alias, call.prompt_tokens, call.completion_tokens)
            spend.record(
                session, on_behalf_of(row.created_by), "shadow", provider=row.provider, model=row.alias,
                reference=row.id, prompt_tokens=call.prompt_tokens, completion_tokens=call.completion_tokens,
                cost_usd=cost,
            )  # fmt: skip
        if call.state == "answered" and call.old is not None and call.copy in ("answered", "failed"):
            score = agreement.score(call.old, call.new)
            row.compared += 1
            row.agreed += score
            session.add(
                ShadowPair(
                    shadow_id=row.id, remote_id=call.id, created_at=datetime.fromtimestamp(call.created_at, UTC),
                    prompt=call.request, old=call.old, new=call.new, old_s=call.old_s, new_s=call.new_s, score=score,
                    error=call.copy_error,
                )
            )  # fmt: skip
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


def _decide(store: Store, client: Client, shadow_id: str, relay: EngineShadow) -> float | None:
    """Flip if enough calls agree, or record that the old model has stopped and the new one answers."""
    with store.reading() as session:
        row = session.get_one(ModelShadow, shadow_id)
    if relay.state == "dark":
        with store.session() as session:
            session.add(AliasChange(alias=row.alias, model=row.model, previous=None, changed_by=row.created_by))
        shadow.finish(store, shadow_id, "dark", msg("The old model has stopped: {reason}", reason=relay.reason))
        return None
    if relay.reason and not row.reason:
        with store.session() as session:
            session.get_one(ModelShadow, shadow_id).reason = msg(
                "The old model has stopped: {reason}", reason=relay.reason
            )
    found = agreement.over(row.agreed, row.compared)
    if row.state != "on" or not agreement.may_flip(found, row.threshold, row.min_calls):
        return LOOK_S
    engine_aliases.save(store, on_behalf_of(row.created_by), client, row.alias, row.model)
    said = msg(
        "Flipped by itself: {n} calls compared, {share} agreement, lower bound {low}, threshold {threshold}.",
        n=f"{found.n:,}",
        share=percent(found.value),
        low=percent(found.low),
        threshold=percent(row.threshold or 0.0),
    )
    shadow.finish(store, shadow_id, "flipped", said)
    return None
