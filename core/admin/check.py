"""Checks an installation without changing it: database, spend totals, keys, files, shared files, rescue files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from core import shared_files
from core.admin import ledger_copy
from core.db import migrate, repair_spend_totals, rescue_files
from core.db.migrate import SchemaState
from core.db.tables import SavedProvider
from core.engine import home_files
from core.errors import FabulaError, Misconfigured
from core.people import audit
from core.providers import saved
from core.secret_key import SecretKey
from core.settings import Settings

_SHOWN = 10  # names in one line; the rest are counted


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check.

    Attributes:
        ok: whether it passed.
        what: the result, one sentence.
        next_step: what to do about a problem; "" if it passed.
    """

    ok: bool
    what: str
    next_step: str = ""


def run(settings: Settings) -> Iterator[CheckResult]:
    """Run all checks, causes before their consequences."""
    is_file = ledger_copy.kind(settings.database_url) == "sqlite"
    if is_file and not ledger_copy.sqlite_file(settings.database_url).is_file():
        path = ledger_copy.sqlite_file(settings.database_url)
        yield CheckResult(
            False, f"There is no database {path}.", "Set `FABULA_HOME`, or start Fabula, which creates it."
        )
        return
    options = {} if is_file else {"isolation_level": "REPEATABLE READ"}  # all queries see the same snapshot
    engine = create_engine(settings.database_url, **options)
    try:
        yield from _ledger(engine, settings)
    except DBAPIError as exc:
        yield CheckResult(
            False, f"The database cannot be read: {exc.orig}.", "Check `DATABASE_URL`, or restore a backup."
        )
    finally:
        engine.dispose()
    yield from _engine_home(settings)
    yield from _shared_files(settings)
    yield from _rescue_files(settings)


def _ledger(engine: Engine, settings: Settings) -> Iterator[CheckResult]:
    if engine.dialect.name == "sqlite":
        yield _integrity(engine)
        yield _foreign_keys(engine)
    state = migrate.schema_state(engine)
    yield _schema(state)
    if state.up_to_date:
        with Session(engine) as session:
            yield _totals(session)
            yield from _audit_log(session)
            yield from _keys(session, settings)


def _integrity(engine: Engine) -> CheckResult:
    with engine.connect() as connection:
        found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar()
    if found == "ok":
        return CheckResult(True, "The database file is intact.")
    return CheckResult(False, f"The database file is damaged: {found}.", "Stop Fabula and restore a backup.")


def _foreign_keys(engine: Engine) -> CheckResult:
    with engine.connect() as connection:
        tables = sorted({str(row[0]) for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})
    if not tables:
        return CheckResult(True, "All references between tables are valid.")
    return CheckResult(False, f"Rows refer to rows that do not exist, in: {_listed(tables)}.", "Restore a backup.")


def _schema(state: SchemaState) -> CheckResult:
    if state.up_to_date:
        return CheckResult(True, f"The schema is up to date ({state.newest}).")
    if not state.known:
        return CheckResult(
            False,
            f"A newer version of Fabula wrote this database (schema {state.current}).",
            "Update Fabula. This version does not open it.",
        )
    return CheckResult(
        False,
        f"The schema is {state.current or 'empty'}; this version of Fabula needs {state.newest}.",
        "Make a backup, then run `python -m core.admin migrate`.",
    )


def _totals(session: Session) -> CheckResult:
    wrong = repair_spend_totals.differences(session)
    if not wrong:
        return CheckResult(True, "The spend totals agree with the spend ledger.")
    lines = [
        f"{scope} {subject} {month}: ${old}, should be ${new}" for (scope, subject, month), (old, new) in wrong.items()
    ]
    return CheckResult(
        False,
        f"{len(wrong)} spend totals differ from the ledger: {_listed(lines)}.",
        "Run `python -m core.db.repair_spend_totals`.",
    )


def _audit_log(session: Session) -> Iterator[CheckResult]:
    found = audit.verify(session)
    if found.first_broken is not None:
        yield CheckResult(
            False,
            f"Entry {found.first_broken} of the audit log was changed, inserted or removed.",
            "Find out who has access to the database, and compare it with a backup.",
        )
    elif found.entries:
        yield CheckResult(True, f"The audit log is complete and unchanged ({found.entries} entries).")


def _keys(session: Session, settings: Settings) -> Iterator[CheckResult]:
    rows, key = session.scalars(select(SavedProvider)).all(), SecretKey(settings)
    failed = False
    for row in rows:
        try:
            saved.provider_of(row, key, saved.rules_of(settings))
        except Misconfigured as exc:
            failed = True
            yield CheckResult(False, exc.what, exc.next_step)
    if rows and not failed:
        yield CheckResult(True, f"The keys of {len(rows)} added providers can be decrypted.")


def _engine_home(settings: Settings) -> Iterator[CheckResult]:
    home = settings.engine_home
    try:
        version = home_files.schema_version(home)
        if not version:
            yield CheckResult(True, "There is no engine in the home folder.")
            return
        if home_files.is_newer(version):
            yield CheckResult(False, f"A newer version of Fabula wrote {home}.", "Update Fabula.")
            return
        if damage := home_files.damage(home):
            yield CheckResult(
                False, f"The engine's database is damaged: {damage}.", "Stop Fabula and restore a backup."
            )
            return
        report = home_files.compare_files(home)
    except (OSError, sqlite3.Error) as exc:
        yield CheckResult(False, f"The engine's database cannot be read: {exc}.", "Stop Fabula and restore a backup.")
        return
    if report.missing:
        yield CheckResult(
            False,
            f"{len(report.missing)} files of the engine are missing: {_listed(report.missing)}.",
            f"Copy them from a backup into {home}, or delete their models and files.",
        )
    else:
        yield CheckResult(True, "The engine's database is intact, and all of its files are there.")
    if report.orphans:
        yield CheckResult(
            False,
            f"{len(report.orphans)} files in {home} belong to nothing: {_listed(report.orphans)}.",
            "Delete them to free space, if no training is in progress.",
        )


def _shared_files(settings: Settings) -> Iterator[CheckResult]:
    if shared_files.in_home(settings):
        return
    files = shared_files.storage(settings)
    try:
        shared_files.verify(files)
    except FabulaError as exc:
        yield CheckResult(False, exc.what, exc.next_step)
    else:
        yield CheckResult(True, f"The shared files in {files.place} can be read and written.")
    if names := shared_files.unused(settings):
        yield CheckResult(
            False,
            f"Not used, because FABULA_FILES_URL is set: {_listed(names)} in {settings.home}.",
            "Run `python -m core.admin share-files`, or delete them.",
        )


def _rescue_files(settings: Settings) -> Iterator[CheckResult]:
    for path in rescue_files.files(settings.home):
        yield CheckResult(
            False, f"{path} holds paid results that are not in the database.", "Start Fabula, which imports them."
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f", and {more} more" if more > 0 else "")
