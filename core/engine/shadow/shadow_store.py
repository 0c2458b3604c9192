"""Rows of shadows and of the calls that the engine relayed, and what happens to them.

A call is stored before it is sent, because it may be paid. Each count of a shadow is raised in the transaction that
changes a call's state, so that kill -9 neither loses nor repeats one. Calls stay only until the studio has collected
them, also after their shadow has ended.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import ClassVar, Literal

from core.engine.store import Alias, EngineStore, TableRow, new_id

MAX_WAITING_CALLS = 50_000
"""Calls that wait to be collected; the oldest ended ones above that are deleted and counted as `lost`."""
MAX_WAITING_BYTES = 128 << 20
"""Of their texts; above that the oldest ones lose their texts and count as `dropped`, their tokens stay."""
MAX_PAGE_BYTES = 8 << 20
"""Of the texts that are collected at once."""
ShadowState = Literal["on", "dark"]
CallState = Literal["sent", "answered", "failed", "unknown"]
CopyState = Literal["none", "waiting", "answered", "failed", "dropped"]


@dataclass(frozen=True, slots=True)
class Shadow(TableRow):
    """An old model whose calls are relayed; `id` is its name, as programs ask for it.

    Attributes:
        model: the model of this engine that answers copies.
        base_url: the provider of the old model, with `/v1`. Its key is never stored.
        label: the studio's name for this shadow. It is needed to read the calls, and the engine never lists it.
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
        bytes: size of the texts.
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
    bytes: int = 0


def begin(store: EngineStore, shadow: Shadow, endpoint: str, *, copies: bool) -> str:
    """Record that a call is about to be sent, and return its id."""
    call_id = new_id("shadow")
    with store.transaction() as transaction:
        row = ShadowCall(call_id, shadow.label, int(time.time()), endpoint, "waiting" if copies else "none")
        store.add(row)
        transaction.execute("UPDATE shadows SET relayed = relayed + 1 WHERE label = ?", (shadow.label,))
    return call_id


def answered(store: EngineStore, call_id: str, *, copies: bool, **values: object) -> None:
    """Record the old model's answer. The call ends with it unless the new model is asked too (`copies`)."""
    with store.transaction():
        if store.update(ShadowCall, call_id, where="state = 'sent'", state="answered", **values):
            _end(store, call_id, "copy = 'none'")
        if not copies:
            copied(store, call_id, copy="dropped")


def failed(store: EngineStore, call_id: str, *, state: CallState = "failed", **values: object) -> None:
    """Record that the old model gave no complete answer; no copy is asked for."""
    with store.transaction() as transaction:
        if store.update(ShadowCall, call_id, where="state = 'sent'", state=state, copy="none", **values):
            _count(transaction, call_id, "failed = failed + 1")
            _end(store, call_id)


def copied(store: EngineStore, call_id: str, *, copy: CopyState, **values: object) -> None:
    """Record the copy's answer, or why there is none. The call ends with it. The texts of a dropped one are deleted,
    and so is an answer that arrives after the call's texts were deleted.
    """
    with store.transaction() as transaction:
        if store.update(ShadowCall, call_id, where="copy = 'waiting'", copy=copy, **values):
            gone = "id = ? AND (copy = 'dropped' OR old IS NULL)"  # a copy is made of an answer with a text
            transaction.execute(f"UPDATE shadow_calls SET {_NO_TEXTS} WHERE {gone}", (call_id,))  # constants
            _count(transaction, call_id, "dropped = dropped + 1" if copy == "dropped" else "copied = copied + 1")
            _end(store, call_id)


def end_unknown(store: EngineStore, call_id: str) -> None:
    """End a call of which nothing more will be known."""
    failed(store, call_id, state="unknown")
    copied(store, call_id, copy="dropped")


def end_interrupted(store: EngineStore) -> None:
    """After a start: what was in progress when the engine ended is unknown, and copies that waited are dropped."""
    for (call_id,) in store.query("SELECT id FROM shadow_calls WHERE state = 'sent' OR copy = 'waiting'"):
        end_unknown(store, call_id)


def go_dark(store: EngineStore, shadow: Shadow, reason: str) -> None:
    """Let the new model answer under the old one's name, because the old one has stopped."""
    with store.transaction():
        where = "state = 'on' AND fallback = 1"
        if store.update(Shadow, shadow.id, where=where, state="dark", reason=reason, ended_at=int(time.time())):
            store.remove(Alias, shadow.id)
            store.add(Alias(shadow.id, int(time.time()), shadow.model))


def close(store: EngineStore, name: str, label: str) -> None:
    """End a shadow for good: a request to start it that arrives later, as after a timeout, is refused."""
    with store.transaction() as transaction:
        transaction.execute("INSERT OR IGNORE INTO shadow_closed (label) VALUES (?)", (label,))
        transaction.execute("DELETE FROM shadows WHERE id = ? AND label = ?", (name, label))


def is_closed(store: EngineStore, label: str) -> bool:
    """Whether a shadow has ended for good."""
    return bool(store.query("SELECT 1 FROM shadow_closed WHERE label = ?", (label,)))


def collect(store: EngineStore, label: str, after: int, limit: int) -> list[ShadowCall]:
    """Calls that have ended, in the order of their ends, after the one with the number `after`; at least one."""
    sizes = store.query(
        "SELECT ended, bytes FROM shadow_calls WHERE shadow = ? AND ended > ? ORDER BY ended LIMIT ?",
        (label, after, limit),
    )
    last, total = after, 0
    for ended, size in sizes:
        total += size
        if last > after and total > MAX_PAGE_BYTES:
            break
        last = ended
    return store.select(ShadowCall, "shadow = ? AND ended > ? AND ended <= ?", (label, after, last), "ORDER BY ended")


def in_progress(store: EngineStore, label: str) -> int:
    """How many calls of a shadow have not ended yet."""
    (count,) = store.query("SELECT count(*) FROM shadow_calls WHERE shadow = ? AND ended = 0", (label,))[0]
    return int(count)


def forget(store: EngineStore, label: str, until: int) -> None:
    """Delete calls that were collected."""
    with store.transaction() as transaction:
        where = "shadow = ? AND ended BETWEEN 1 AND ?"
        transaction.execute(f"DELETE FROM shadow_calls WHERE {where}", (label, until))  # constant


def forget_texts(store: EngineStore, label: str) -> None:
    """Delete the texts of a shadow's calls. The calls stay until they are collected: they may have cost something."""
    with store.transaction() as transaction:
        transaction.execute(f"UPDATE shadow_calls SET {_NO_TEXTS} WHERE shadow = ?", (label,))  # constant


_NO_TEXTS = "request = '', old = NULL, new = NULL, bytes = 0"
_SIZE = " + ".join(f"coalesce(length(CAST({column} AS BLOB)), 0)" for column in ("request", "old", "new"))


def _count(transaction: sqlite3.Connection, call_id: str, change: str) -> None:
    """Change a count of a call's shadow; `change` is a constant."""
    where = "label = (SELECT shadow FROM shadow_calls WHERE id = ?)"
    transaction.execute(f"UPDATE shadows SET {change} WHERE {where}", (call_id,))


def _end(store: EngineStore, call_id: str, where: str = "1") -> None:
    """Number a call that has ended, and make room if too many wait."""
    (last,) = store.query("SELECT coalesce(max(number), 0) FROM shadow_ends")[0]
    if not store.update(ShadowCall, call_id, where=where, ended=last + 1):
        return
    with store.transaction() as transaction:
        transaction.execute("DELETE FROM shadow_ends")
        transaction.execute("INSERT INTO shadow_ends (number) VALUES (?)", (last + 1,))
        transaction.execute(f"UPDATE shadow_calls SET bytes = {_SIZE} WHERE id = ?", (call_id,))  # constant
        _make_room(transaction)


def _make_room(transaction: sqlite3.Connection) -> None:
    waiting, size = transaction.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM shadow_calls").fetchone()
    if waiting > MAX_WAITING_CALLS:
        (oldest,) = transaction.execute("SELECT id FROM shadow_calls WHERE ended > 0 ORDER BY ended LIMIT 1").fetchone()
        _count(transaction, oldest, "lost = lost + 1")
        transaction.execute("DELETE FROM shadow_calls WHERE id = ?", (oldest,))
    while size > MAX_WAITING_BYTES:
        oldest, freed = transaction.execute(
            "SELECT id, bytes FROM shadow_calls WHERE ended > 0 AND bytes > 0 ORDER BY ended LIMIT 1"
        ).fetchone()
        _count(transaction, oldest, "dropped = dropped + 1, copied = copied - 1")
        transaction.execute(f"UPDATE shadow_calls SET {_NO_TEXTS}, copy = 'dropped' WHERE id = ?", (oldest,))
        size -= freed
