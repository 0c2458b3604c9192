"""Archives an account: its files first, each once, then the jobs' own records, then what the ledger makes of them.

Every step is recorded when its result is on the disk, so work that is interrupted at any point continues with what is
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from sqlalchemy import select

from core.db.tables import ArchivedFile, ArchivedTune, utcnow
from core.errors import BadRequest, NotFound, Refused
from core.message import msg
from core.migrate import completions, ledger_import
from core.migrate.calls import Calls
from core.migrate.workspace import Stored, Workspace
from core.providers.account_reader import Page, all_pages

T = TypeVar("T")

_PARALLEL = 4  # requests in flight: an account's rate limit is shared with its running programs
_MAX_EVENTS = 100_000  # of one job; OpenAI's longest jobs have thousands
_SIZE_TRIES = 2  # a file of another size than listed is fetched once more before it is kept as it is


def take(calls: Calls, workspace: Workspace) -> None:
    """Archive everything that is not archived yet.

    Raises:
        Stopped: the work should stop.
        Refused: the account may not be read any more; what is stored is kept.
        StorageFull: the disk is full; nothing is lost.
        ProviderError: the account cannot be reached.
    """
    with calls.store.reading() as session:
        files = session.scalars(
            select(ArchivedFile)
            .where(ArchivedFile.archive_id == calls.archive_id, ArchivedFile.state == "listed")
            .order_by(ArchivedFile.created_at, ArchivedFile.id)
        ).all()
        tunes = session.scalars(
            select(ArchivedTune)
            .where(ArchivedTune.archive_id == calls.archive_id, ArchivedTune.details_stored.is_(False))
            .order_by(ArchivedTune.id)
        ).all()
    _each(files, lambda file: _archive_file(calls, workspace, file))
    _each(tunes, lambda tune: _archive_details(calls, workspace, tune))
    completions.take(calls, workspace)
    ledger_import.take(calls, workspace)


def _each(items: Sequence[T], work: Callable[[T], None]) -> None:
    """Work on items in a few threads; the first error ends it, after the items in progress."""
    waiting = iter(items)
    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="archive") as pool:
        running = {pool.submit(work, item) for item in islice(waiting, _PARALLEL)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            running |= {pool.submit(work, item) for item in islice(waiting, len(done))}


# --- files ------------------------------------------------------------------------------------------------------------


def _archive_file(calls: Calls, workspace: Workspace, file: ArchivedFile) -> None:
    """Store a file, or record why that is not possible."""
    stored = workspace.found(file.remote_id)  # the process ended between storing and recording it
    reason = None
    if stored is None:
        try:
            stored, reason = _fetch(calls, workspace, file)
        except NotFound:
            return _record(calls, file, "gone", msg("{file} was deleted or has expired.", file=file.filename))
        except (Refused, BadRequest) as exc:
            if isinstance(exc, Refused):
                calls(lambda: calls.reader.jobs(limit=1))  # raises if the whole account is closed
            return _record(calls, file, "refused", exc.what)
    return _record(calls, file, "stored", reason, stored)


def _fetch(calls: Calls, workspace: Workspace, file: ArchivedFile) -> tuple[Stored, str | None]:
    """Fetch a file. Returns a sentence if its size is not the listed one."""

    def download(write: Callable[[bytes], object], start: int) -> None:
        calls.reader.download(file.remote_id, _checked(calls, write), start)

    for _ in range(_SIZE_TRIES):
        stored = calls(lambda: workspace.store(file.remote_id, download))
        if file.size in (None, stored.size) or file.purpose.endswith("results"):  # those may be sent as base64
            return stored, None
    return stored, msg(
        "{file}: listed with {listed} bytes, received {sent} bytes in two attempts.",
        file=file.filename,
        listed=f"{file.size or 0:,}",
        sent=f"{stored.size:,}",
    )


def _checked(calls: Calls, write: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Write blocks until the work should stop."""

    def block(data: bytes) -> None:
        calls.check()
        write(data)

    return block


def _record(calls: Calls, file: ArchivedFile, state: str, reason: str | None, stored: Stored | None = None) -> None:
    with calls.store.session() as session:
        row = session.get_one(ArchivedFile, file.id)
        row.state, row.reason = state, reason
        if stored is not None:
            row.sha256, row.stored_bytes, row.stored_at = stored.sha256, stored.size, utcnow()


# --- jobs -------------------------------------------------------------------------------------------------------------


def _archive_details(calls: Calls, workspace: Workspace, tune: ArchivedTune) -> None:
    """Store a job's own record, its events and its checkpoints, oldest first."""
    job_id = tune.remote_id
    events = _all(calls, lambda after: calls.reader.events(job_id, after))
    checkpoints = _all(calls, lambda after: calls.reader.checkpoints(job_id, after))
    workspace.store_job(job_id, tune.raw, reversed(events), reversed(checkpoints))
    with calls.store.session() as session:
        session.get_one(ArchivedTune, tune.id).details_stored = True


def _all(calls: Calls, read: Callable[[str | None], Page]) -> list[dict[str, object]]:
    """All objects of a list; [] if the account does not have it."""
    found: list[dict[str, object]] = []
    try:
        for page in all_pages(lambda after: calls(lambda: read(after))):
            found += [dict(one) for one in page.objects]
            if len(found) >= _MAX_EVENTS:
                break
    except BadRequest:  # NotThere: the job was deleted; others: a server without checkpoints
        pass
    return found
