"""Search, export and verification of the audit log, which `core.db.audit_log` writes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db import audit_log
from core.db.store import Store
from core.db.tables import AuditEntry, Person
from core.sanitize import safe_cell

_PAGE_ROWS = 2_000  # entries per query of the export and the check
COLUMNS = ("number", "at", "person", "email", "origin", "action", "arguments", "changes")
"""Columns of the CSV export."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Filters of a search; an entry must match all that are set.

    Attributes:
        person_id: the person who carried out the action.
        action: the name of the action.
        since: not before this time (UTC).
        words: text in the arguments or in the values before and after, such as a name, an id or an e-mail address.
    """

    person_id: str | None = None
    action: str | None = None
    since: datetime | None = None
    words: str = ""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One entry. `arguments` and `changes` are JSON, or empty; a change is the value before and after."""

    number: int
    at: datetime
    person: str
    email: str
    origin: str
    action: str
    arguments: str
    changes: str


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """The result of a verification.

    Attributes:
        entries: the number of valid entries, counted from the first.
        first_broken: the number of the first entry that was changed, inserted or removed; None if there is none.
        last_hash: the hash of the last valid entry. A copy kept elsewhere shows later whether entries were removed
            from the end.
    """

    entries: int
    first_broken: int | None
    last_hash: str


@requires("admin")
def search(store: Store, actor: Actor, where: AuditFilter, limit: int = 200) -> list[AuditLine]:
    """The newest entries that match."""
    query = _filtered(where).order_by(AuditEntry.number.desc()).limit(limit)
    with store.reading() as session:
        return [_line(*row) for row in session.execute(query)]


@requires("admin")
def people(store: Store, actor: Actor) -> dict[str, str]:
    """The people who have entries: name and e-mail address by id, in alphabetical order."""
    query = select(AuditEntry.actor, Person.name, Person.email).outerjoin(Person, Person.id == AuditEntry.actor)
    with store.reading() as session:
        found = session.execute(query.distinct()).all()
    names = {person_id: person_id if name is None else f"{name} ({email})" for person_id, name, email in found}
    return dict(sorted(names.items(), key=lambda item: item[1].casefold()))


@requires("admin")
def actions(store: Store, actor: Actor) -> list[str]:
    """The names of all actions in the log, in alphabetical order."""
    with store.reading() as session:
        return sorted(session.scalars(select(AuditEntry.action).distinct()))


@requires("admin")
def export(store: Store, actor: Actor, where: AuditFilter) -> bytes:
    """All entries that match as CSV with a BOM (for spreadsheets), oldest first. No cell can be a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    last = 0
    while True:
        query = _filtered(where).where(AuditEntry.number > last).order_by(AuditEntry.number).limit(_PAGE_ROWS)
        with store.reading() as session:
            lines = [_line(*row) for row in session.execute(query)]
        for line in lines:
            values = {name: getattr(line, name) for name in COLUMNS} | {"at": line.at.isoformat()}
            writer.writerow([safe_cell(value) if isinstance(value, str) else value for value in values.values()])
        if len(lines) < _PAGE_ROWS:
            return b"\xef\xbb\xbf" + buffer.getvalue().encode()
        last = lines[-1].number


def check(store: Store, known: tuple[int, str] | None = None) -> AuditCheck:
    """`verify` in a session of its own."""
    with store.reading() as session:
        return verify(session, known)


def verify(session: Session, known: tuple[int, str] | None = None) -> AuditCheck:
    """Recompute and compare all hashes. `known`: number and hash of an entry from an earlier verification."""
    number, last_hash = 0, ""
    for entry in session.scalars(select(AuditEntry).order_by(AuditEntry.number)).yield_per(_PAGE_ROWS):
        expected = (number + 1, last_hash, audit_log.hash_of(entry))
        is_known = known is None or known[0] != entry.number or known[1] == entry.hash
        if (entry.number, entry.previous_hash, entry.hash) != expected or not is_known:
            return AuditCheck(number, number + 1, last_hash)
        number, last_hash = entry.number, entry.hash
    is_shorter = known is not None and number < known[0]
    return AuditCheck(number, number + 1 if is_shorter else None, last_hash)


def _filtered(where: AuditFilter) -> Select[AuditEntry, str, str]:
    query = select(AuditEntry, Person.name, Person.email).outerjoin(Person, Person.id == AuditEntry.actor)
    if where.person_id is not None:
        query = query.where(AuditEntry.actor == where.person_id)
    if where.action is not None:
        query = query.where(AuditEntry.action == where.action)
    if where.since is not None:
        query = query.where(AuditEntry.at >= where.since)
    if words := where.words.strip():
        query = query.where(AuditEntry.details.icontains(words, autoescape=True))
    return query


def _line(entry: AuditEntry, name: str | None, email: str | None) -> AuditLine:
    details = json.loads(entry.details)
    arguments, changes = (_json(details.get(part)) for part in ("arguments", "changes"))
    person = entry.actor if name is None else name
    return AuditLine(entry.number, entry.at, person, email or "", entry.origin, entry.action, arguments, changes)


def _json(values: object) -> str:
    return json.dumps(values, ensure_ascii=False) if values else ""
