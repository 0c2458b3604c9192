"""Rows of shadows and of the calls that the engine relayed, and what happens to them.

A call is stored before it is sent, because it may be paid. Each count of a shadow is raised in the transaction that
changes a call's state, so that kill -9 neither loses nor repeats one. Calls stay only until the studio has collected
them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, Literal

from core.engine.store import Alias, EngineStore, TableRow, new_id

MAX_WAITING_CALLS = 10_000
"""Calls that wait to be collected; the oldest ended ones above that are deleted and counted as `lost`."""
ShadowState = Literal["on", "dark"]
CallState = Literal["sent", "answered", "failed", "unknown"]
CopyState = Literal["none", "waiting", "answered", "failed", "dropped"]


@dataclass(frozen=True, slots=True)
class Shadow(TableRow):
    """An old model whose calls are relayed; `id` is its name, as programs ask for it.

    Attributes:
        model: the model of this engine that answers copies.
        base_url: the provider of the old model, with `/v1`. Its key is never stored.
        label: the studio's name for this shadow; its calls are collected under it.
        share: percentage of the calls that are copied.
        fallback: whether `model` answers once the old model has stopped.
        state: `dark` once the old model has stopped and `model` answers under its name.
        reason: what the provider said when it stopped.
        relayed, failed, copied, dropped, lost: counts of calls.
    """

    TABLE: ClassVar[str] = "shadows"

    id: str
    created_at: int
    model: str
    base_url: str
    label: str
    share: int
    fallback: int
    state: ShadowState = "on"
    reason: str = ""
    ended_at: int | None = None
    relayed: int = 0
    failed: int = 0
    copied: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class ShadowCall(TableRow):
    """One relayed call.

    Attributes:
        shadow: the shadow's label.
        state: `sent` until the old model has answered; `unknown` if the engine was killed, or the caller left before.
        ended: a number in the order in which calls ended, for collecting them; 0 until then.
        request: the messages, prompt or input as JSON text; "" unless a copy is asked for.
        old, new: the answers' texts (tool calls and JSON as JSON text); None if there is none.
        old_s, new_s: seconds until the answer was complete.
        status: HTTP status of the old model's answer; None if there was none.
        error: why the old model failed; `copy_error`: why the copy failed.
    """

    TABLE: ClassVar[str] = "shadow_calls"

    id: str
    shadow: str
    created_at: int
    endpoint: str
    copy: CopyState
    state: CallState = "sent"
    ended: int = 0
    request: str = ""
    status: int | None = None
    old: str | None = None
    old_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str = ""
    new: str | None = None
    new_s: float | None = None
    copy_error: str = ""


def begin(store: EngineStore, shadow: Shadow, endpoint: str, *, copies: bool) -> str:
    """Record that a call is about to be sent, and return its id."""
    call_id = new_id("shadow")
    with store.transaction() as transaction:
        row = ShadowCall(call_id, shadow.label, int(time.time()), endpoint, "waiting" if copies else "none")
        store.add(row)
        transaction.execute("UPDATE shadows SET relayed = relayed + 1 WHERE label = ?", (shadow.label,))
    return call_id


def answered(store: EngineStore, call_id: str, **values: object) -> None:
    """Record the old model's answer; a call without a copy ends with it."""
    with store.transaction():
        if store.update(ShadowCall, call_id, where="state = 'sent'", state="answered", **values):
            _end(store, call_id, "copy = 'none'")


def failed(store: EngineStore, call_id: str, *, state: CallState = "failed", **values: object) -> None:
    """Record that the old model gave no complete answer; no copy is asked for."""
    with store.transaction() as transaction:
        if store.update(ShadowCall, call_id, where="state = 'sent'", state=state, copy="none", **values):
            transaction.execute(
                "UPDATE shadows SET failed = failed + 1 WHERE label = (SELECT shadow FROM shadow_calls WHERE id = ?)",
                (call_id,),
            )
            _end(store, call_id)


def copied(store: EngineStore, call_id: str, copy: CopyState, **values: object) -> None:
    """Record the copy's answer, or why there is none. The call ends with it."""
    count = "dropped" if copy == "dropped" else "copied"
    with store.transaction() as transaction:
        if store.update(ShadowCall, call_id, where="copy = 'waiting'", copy=copy, **values):
            transaction.execute(
                f"UPDATE shadows SET {count} = {count} + 1 "  # one of two words
                "WHERE label = (SELECT shadow FROM shadow_calls WHERE id = ?)",
                (call_id,),
            )
            _end(store, call_id)


def end_interrupted(store: EngineStore) -> None:
    """After a start: what was in progress when the engine ended is unknown, and copies that waited are dropped."""
    for (call_id,) in store.query("SELECT id FROM shadow_calls WHERE state = 'sent'"):
        failed(store, call_id, state="unknown")
    for (call_id,) in store.query("SELECT id FROM shadow_calls WHERE copy = 'waiting'"):
        copied(store, call_id, "dropped")


def go_dark(store: EngineStore, shadow: Shadow, reason: str) -> None:
    """Let the new model answer under the old one's name, because the old one has stopped."""
    with store.transaction():
        where = "state = 'on' AND fallback = 1"
        if store.update(Shadow, shadow.id, where=where, state="dark", reason=reason, ended_at=int(time.time())):
            store.remove(Alias, shadow.id)
            store.add(Alias(shadow.id, int(time.time()), shadow.model))


def collect(store: EngineStore, label: str, after: int, limit: int) -> list[ShadowCall]:
    """Calls that have ended, in the order of their ends, after the one with the number `after`."""
    return store.select(ShadowCall, "shadow = ? AND ended > ?", (label, after, limit), "ORDER BY ended LIMIT ?")


def forget(store: EngineStore, label: str, until: int | None) -> None:
    """Delete calls that were collected, or all of a shadow (`until` is None)."""
    with store.transaction() as transaction:
        if until is None:
            transaction.execute("DELETE FROM shadow_calls WHERE shadow = ?", (label,))
        else:
            where = "shadow = ? AND ended BETWEEN 1 AND ?"
            transaction.execute(f"DELETE FROM shadow_calls WHERE {where}", (label, until))  # constant


def _end(store: EngineStore, call_id: str, where: str = "1") -> None:
    """Number a call that has ended, and delete the oldest ones if too many wait."""
    (last,) = store.query("SELECT coalesce(max(number), 0) FROM shadow_ends")[0]
    if not store.update(ShadowCall, call_id, where=where, ended=last + 1):
        return
    with store.transaction() as transaction:
        transaction.execute("DELETE FROM shadow_ends")
        transaction.execute("INSERT INTO shadow_ends (number) VALUES (?)", (last + 1,))
        (waiting,) = transaction.execute("SELECT count(*) FROM shadow_calls").fetchone()
        if waiting > MAX_WAITING_CALLS:
            oldest = transaction.execute(
                "SELECT id, shadow FROM shadow_calls WHERE ended > 0 ORDER BY ended LIMIT 1"
            ).fetchone()
            transaction.execute("DELETE FROM shadow_calls WHERE id = ?", (oldest[0],))
            transaction.execute("UPDATE shadows SET lost = lost + 1 WHERE label = ?", (oldest[1],))
