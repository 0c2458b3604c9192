"""Lists an account: its jobs, files, shutdown dates and usage. Resumes at the page where it was interrupted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.db.store import in_chunks
from core.db.tables import AccountArchive, ArchivedFile, ArchivedTune, utcnow
from core.errors import BadRequest, ProviderError, Refused, Transient
from core.message import msg, sentences
from core.migrate import completions, remote_objects
from core.migrate.calls import Calls
from core.migrate.remote_objects import DailyUse
from core.pricing import shutdown
from core.pricing.price_book import PriceBook, cost_of
from core.providers.account_reader import AccountReader, all_pages

LAST_MONTH_DAYS = 30
"""Days that calls and dollars are counted for."""
_PURPOSES = ("fine-tune", completions.PURPOSE)  # the latter: in an archive that Fabula wrote
_USAGE_DAYS = 180  # how far back the last use is looked for
_NO_ADMIN_KEY = msg("Only an admin key may read usage. Enter one to see calls, dollars and the last use of each model.")


def take(calls: Calls, usage_reader: AccountReader | None, book: PriceBook) -> None:
    """List everything and store it.

    Raises:
        Stopped: the work should stop; it continues at the same page.
        ProviderError: the account cannot be read.
    """
    announced = remote_objects.shutdown_dates(calls(calls.reader.models))
    _list_jobs(calls)
    _list_files(calls)
    usage, usage_note = _usage(calls, usage_reader)
    with calls.store.session() as session:
        tunes = session.scalars(select(ArchivedTune).where(ArchivedTune.archive_id == calls.archive_id)).all()
        _add_named_files(session, calls.archive_id, tunes)
        for tune in tunes:
            _add_facts(tune, announced, book, calls.reader.company, usage, usage_note is None)
        row = session.get_one(AccountArchive, calls.archive_id)
        row.usage_note, row.listed_at, row.jobs_cursor = usage_note, utcnow(), None


def _list_jobs(calls: Calls) -> None:
    with calls.store.reading() as session:
        after = session.scalar(select(AccountArchive.jobs_cursor).where(AccountArchive.id == calls.archive_id))
    while True:
        page = calls(lambda after=after: calls.reader.jobs(after))  # type: ignore[misc]  # a default binds the page
        with calls.store.session() as session:
            _save_jobs(session, calls.archive_id, page.objects)
            session.get_one(AccountArchive, calls.archive_id).jobs_cursor = page.next
        if page.next is None or page.next == after:
            return
        after = page.next


def _save_jobs(session: Session, archive_id: str, jobs: Iterable[Mapping[str, Any]]) -> None:
    by_id = {str(job["id"]): job for job in jobs if isinstance(job.get("id"), str)}
    mine = (ArchivedTune.archive_id == archive_id, ArchivedTune.remote_id.in_(by_id))
    known = {tune.remote_id: tune for tune in session.scalars(select(ArchivedTune).where(*mine))}
    for remote_id, job in by_id.items():
        tune = known.get(remote_id)
        if tune is None:
            tune = ArchivedTune(archive_id=archive_id, remote_id=remote_id)
            session.add(tune)
        elif tune.raw != job and tune.state != "found":  # it went on since it was archived
            tune.state, tune.details_stored = "found", False
        tune.raw = dict(job)
        for name, value in remote_objects.job_values(job).items():
            setattr(tune, name, value)


def _list_files(calls: Calls) -> None:
    for page in all_pages(lambda after: calls(lambda: calls.reader.files(after))):
        with calls.store.session() as session:
            _save_files(session, calls.archive_id, page.objects)


def _save_files(session: Session, archive_id: str, files: Iterable[Mapping[str, Any]]) -> None:
    by_id = {str(one["id"]): one for one in files if isinstance(one.get("id"), str)}
    known: dict[str, ArchivedFile] = {}
    for chunk in in_chunks(list(by_id)):
        mine = (ArchivedFile.archive_id == archive_id, ArchivedFile.remote_id.in_(chunk))
        known |= {file.remote_id: file for file in session.scalars(select(ArchivedFile).where(*mine))}
    for remote_id, raw in by_id.items():
        values = remote_objects.file_values(raw)
        file = known.get(remote_id)
        if file is None and values["purpose"].startswith(_PURPOSES):
            session.add(ArchivedFile(archive_id=archive_id, remote_id=remote_id, **values))
        elif file is not None and file.state == "listed":
            for name, value in values.items():
                setattr(file, name, value)


def _add_named_files(session: Session, archive_id: str, tunes: Sequence[ArchivedTune]) -> None:
    """Add files that only jobs name: they may be deleted, or belong to another purpose."""
    named = {file_id: purpose for tune in tunes for file_id, purpose in files_of(tune)}
    mine = select(ArchivedFile.remote_id).where(ArchivedFile.archive_id == archive_id)
    for file_id in sorted(named.keys() - set(session.scalars(mine))):
        session.add(
            ArchivedFile(archive_id=archive_id, remote_id=file_id, purpose=named[file_id], filename=file_id[:300])
        )


def files_of(tune: ArchivedTune) -> list[tuple[str, str]]:
    """The files that a job names, with their purpose."""
    inputs = [(one, "fine-tune") for one in (tune.training_file, tune.validation_file) if one]
    return [*inputs, *((one, "fine-tune-results") for one in tune.result_files)]


# --- usage ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Use:
    last_used: datetime | None = None
    calls: int = 0
    month: list[DailyUse] = field(default_factory=list)


def _usage(calls: Calls, reader: AccountReader | None) -> tuple[Mapping[str, _Use], str | None]:
    """The use by model, and why it is unknown; None if it is known."""
    if reader is None:
        return {}, calls.reader.usage_note or _NO_ADMIN_KEY
    now = datetime.now(UTC)
    start_s = int((now - timedelta(days=_USAGE_DAYS)).timestamp())
    uses: dict[str, _Use] = defaultdict(_Use)
    try:
        for page in all_pages(lambda following: calls(lambda: reader.usage(start_s, following))):
            for bucket in page.objects:
                for one in remote_objects.daily_use(bucket):
                    _count(uses[one.model], one, now)
    except Transient:
        raise
    except (Refused, BadRequest, ProviderError) as exc:
        return {}, sentences(msg("Usage is unknown."), exc.what)
    return uses, None


def _count(use: _Use, one: DailyUse, now: datetime) -> None:
    if not one.calls:
        return
    use.last_used = max(use.last_used or one.day, one.day)
    if now - one.day <= timedelta(days=LAST_MONTH_DAYS):
        use.calls += one.calls
        use.month.append(one)


def _add_facts(
    tune: ArchivedTune,
    announced: Mapping[str, date],
    book: PriceBook,
    company: str,
    usage: Mapping[str, _Use],
    usage_known: bool,
) -> None:
    found = shutdown.of(tune.model, tune.base_model, announced, book, company)
    tune.dark_on, tune.dark_source = (None, None) if found is None else (found.day, found.source)
    if not usage_known or tune.model is None:
        tune.calls = tune.usd = tune.last_used = None
        return
    use = usage.get(tune.model, _Use())
    tune.last_used, tune.calls = use.last_used, use.calls
    tune.usd = _usd(book, tune.model, use.month)


def _usd(book: PriceBook, model: str, days: Iterable[DailyUse]) -> Decimal | None:
    """What these calls cost at list prices; None if a price is unknown."""
    total = Decimal(0)
    for day in days:
        usd = cost_of(
            book, shutdown.OPENAI, model, day.input_tokens, day.output_tokens, cached_tokens=day.cached_tokens
        )
        if usd is None:
            return None
        total += usd
    return total
