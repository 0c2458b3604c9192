"""Writes the audit log: who did what, in the transaction that did it, so that neither exists without the other.

`core.actor.requires` says which action is being carried out; listeners of the session collect what it changes, and add
an entry when the transaction commits. An action that changes something in several transactions has several entries.
Only people who have signed in are recorded, so nothing is in local mode.

Each entry contains the hash of the one before: an entry that is changed, inserted or removed later breaks the chain.
Entries removed from the end do not, so keep the last number and hash elsewhere from time to time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias, cast

from sqlalchemy import ColumnElement, CursorResult, Delete, Insert, Result, Update, and_, func, inspect, or_, select
from sqlalchemy.orm import Mapper, ORMExecuteState, Session

from core.actor import acting
from core.db.tables import AuditEntry, SignIn, utcnow
from core.sanitize import storable

_LOCK = "audit_log"
_CHANGES = "audit_changes"  # in `Session.info`
_MOST_CHANGES = 100  # values per entry; an entry with more says so
_MOST_ROWS = 10  # per UPDATE or DELETE; the others are counted
_MOST_CHARACTERS = 200  # per value
_MOST_ITEMS = 20  # of a list among the arguments
_MORE = "…"
_HIDDEN = "(not recorded)"
_COMMAND_LINE = "command line"  # where people act without a sign-in
_SECRET = frozenset({"encrypted_key", "certificates"})
_OWN_RECORDS = frozenset(
    {"audit_log", "spend", "spend_totals", "alias_changes", "shadow_pairs"}
)  # tables that are records themselves
_COUNTED = frozenset({"rows", "version_examples"})  # tables whose new and deleted rows are only counted
_BOOKKEEPING = frozenset({"updated_at", "fill_cursor", "revision"})  # columns that follow from other changes
_PLAIN = (str, int, float, bool, Decimal, datetime)
_Values: TypeAlias = Mapping[str, Any]


# --- what changes -----------------------------------------------------------------------------------------------------


def track_flush(session: Session, _context: object) -> None:
    """`after_flush` listener: collect what the current action has changed in objects."""
    if acting() is None:
        return
    for row in session.new:
        if row.__tablename__ in _COUNTED:
            _count(session, f"{row.__tablename__} added", 1)
        else:
            _remember(session, row.__tablename__, _identity(row), {}, _values(row))
    for row in session.deleted:
        if row.__tablename__ in _COUNTED:
            _count(session, f"{row.__tablename__} deleted", 1)
        else:
            _remember(session, row.__tablename__, _identity(row), _values(row), {})
    for row in session.dirty:
        histories = {name: state.history for name, state in inspect(row).attrs.items() if state.history.has_changes()}
        before = {name: history.deleted[0] if history.deleted else None for name, history in histories.items()}
        after = {name: history.added[0] if history.added else None for name, history in histories.items()}
        _remember(session, row.__tablename__, _identity(row), before, after)


def track_statement(state: ORMExecuteState) -> Result[Any] | None:
    """`do_orm_execute` listener: collect what an INSERT, UPDATE or DELETE of the current action changes."""
    mapper, session = state.bind_mapper, state.session
    if acting() is not None and state.is_insert and cast(Insert, state.statement).table.name in _COUNTED:
        return _insert(state)
    if acting() is None or mapper is None or state.parameters or not (state.is_update or state.is_delete):
        return None
    table: str = mapper.class_.__tablename__
    is_counted = state.is_delete and table in _COUNTED
    before = {} if is_counted else _read(session, mapper, cast(Update | Delete, state.statement).whereclause)
    result = cast(CursorResult[Any], state.invoke_statement())
    after: dict[tuple[Any, ...], _Values] = {}
    if before and state.is_update:
        after = _read(session, mapper, or_(*(_same(mapper, identity) for identity in before)))
    for identity, values in before.items():
        now = after.get(identity, {})
        changed = [name for name, value in values.items() if value != now.get(name)]
        new = {name: now[name] for name in changed} if now else {}
        _remember(session, table, "/".join(map(str, identity)), {name: values[name] for name in changed}, new)
    if result.rowcount > len(before):
        _count(session, f"{table} deleted" if is_counted else f"{table} {_MORE}", result.rowcount - len(before))
    return result


def _insert(state: ORMExecuteState) -> Result[Any]:
    """Carry out an INSERT of a list of rows, and count them. The empty rows of a grid follow from its recipe."""
    result = state.invoke_statement()
    given = state.parameters or {}
    rows: Sequence[_Values] = [given] if isinstance(given, Mapping) else given
    if count := sum(row.get("state") != "pending" for row in rows):
        _count(state.session, f"{cast(Insert, state.statement).table.name} added", count)
    return result


def note(session: Session, what: str, before: object, after: object) -> None:
    """Note a change of the current action that is not in the database; None before a new or after a deleted value."""
    if acting() is not None:
        session.info.setdefault(_CHANGES, {})[what] = [_shown(before), _shown(after)]


def _values(row: Any) -> dict[str, Any]:
    """The values of a new or deleted row, as far as they are loaded."""
    loaded = inspect(row).dict
    return {one.key: loaded[one.key] for one in inspect(row).mapper.column_attrs if one.key in loaded}


def _identity(row: Any) -> str:
    return "/".join(str(part) for part in inspect(row).mapper.primary_key_from_instance(row))


def _read(session: Session, mapper: Mapper[Any], where: ColumnElement[bool] | None) -> dict[tuple[Any, ...], _Values]:
    """The first of these rows, by identity."""
    columns = {name: attribute.columns[0] for name, attribute in mapper.column_attrs.items()}
    query = select(*columns.values()).limit(_MOST_ROWS)
    keys = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    rows = [
        dict(zip(columns, row, strict=True)) for row in session.execute(query if where is None else query.where(where))
    ]
    return {tuple(values[key] for key in keys): values for values in rows}


def _same(mapper: Mapper[Any], identity: tuple[Any, ...]) -> ColumnElement[bool]:
    return and_(*(column == value for column, value in zip(mapper.primary_key, identity, strict=True)))


def _remember(session: Session, table: str, identity: str, before: _Values, after: _Values) -> None:
    """Note the values before and after: none before for a new row, none after for a deleted one.

    What the key or the entry says about such a row, and what is empty, is left out.
    """
    if table in _OWN_RECORDS:
        return
    if not before or not after:
        before, after = ({name: one[name] for name in one if _tells(name, one[name])} for one in (before, after))
    changes: dict[str, Any] = session.info.setdefault(_CHANGES, {})
    for name in {**before, **after}:
        if name in _BOOKKEEPING:
            continue
        key, old, new = f"{table} {identity} {name}", _value(name, before.get(name)), _value(name, after.get(name))
        if key in changes:  # changed twice in this transaction
            changes[key][1] = new
        elif len(changes) >= _MOST_CHANGES:
            changes[_MORE] = _MORE
        elif (old, new) != (None, None):
            changes[key] = [old, new]


def _tells(name: str, value: object) -> bool:
    return name != "id" and value not in (None, "", [], {}) and not isinstance(value, datetime)


def _count(session: Session, key: str, count: int) -> None:
    changes: dict[str, Any] = session.info.setdefault(_CHANGES, {})
    changes[key] = changes.get(key, 0) + count


def _value(name: str, value: object) -> object:
    return _HIDDEN if value and name in _SECRET else _shown(value)


# --- entries ----------------------------------------------------------------------------------------------------------


def record(session: Session) -> None:
    """`before_commit` listener: add the entry of the current action, if it has changed anything."""
    action = acting()
    if action is None:
        return
    session.flush()
    changes = session.info.pop(_CHANGES, None)
    if changes:
        details = {"arguments": _arguments(action.arguments), "changes": changes}
        sign_in = session.get(SignIn, action.actor.sign_in_id) if action.actor.sign_in_id else None
        add(session, action.actor.id, _COMMAND_LINE if sign_in is None else sign_in.origin, action.name, details)


def add(session: Session, actor_id: str, origin: str, action: str, details: Mapping[str, Any]) -> None:
    """Add an entry in this transaction. Other transactions that add one wait until it ends."""
    session.flush()
    if session.get_bind().dialect.name == "postgresql":  # on SQLite, a session that writes is alone anyway
        session.execute(select(func.pg_advisory_xact_lock(func.hashtext(_LOCK))))
    last = session.execute(
        select(AuditEntry.number, AuditEntry.hash).order_by(AuditEntry.number.desc()).limit(1)
    ).one_or_none()
    entry = AuditEntry(
        number=1 if last is None else last.number + 1,
        at=utcnow(),
        actor=actor_id,
        origin=origin,
        action=action,
        details=json.dumps(details, ensure_ascii=False, sort_keys=True),
        previous_hash="" if last is None else last.hash,
    )
    entry.hash = hash_of(entry)
    session.add(entry)
    session.flush()


def hash_of(entry: AuditEntry) -> str:
    """The hash of everything in an entry but its hash."""
    values = [entry.number, entry.at.isoformat(), entry.actor, entry.origin, entry.action, entry.details]
    return hashlib.sha256(json.dumps([entry.previous_hash, *values], ensure_ascii=False).encode()).hexdigest()


def _arguments(arguments: Mapping[str, object]) -> dict[str, object]:
    """The plain arguments of an action, and the ids of things; no files, forms (with keys) or clients."""
    shown: dict[str, object] = {}
    for name, value in arguments.items():
        identity = getattr(value, "id", None)
        if isinstance(value, _PLAIN):
            shown[name] = _shown(value)
        elif isinstance(value, list | tuple) and value and all(isinstance(one, _PLAIN) for one in value):
            shown[name] = [_shown(one) for one in value[:_MOST_ITEMS]] + [_MORE] * (len(value) > _MOST_ITEMS)
        elif name not in ("actor", "self") and isinstance(identity, str):
            shown[name] = identity
    return shown


def _shown(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = storable(value.isoformat() if isinstance(value, datetime) else str(value))
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
