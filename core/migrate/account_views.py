"""How far each account's archive has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from core.db.store import Store
from core.db.tables import AccountArchive, ArchivedFile, ArchivedTune, utcnow
from core.errors import NotFound
from core.message import msg
from core.migrate import sources

ACTIVE: Final = ("listing", "archiving", "stopping")


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account and how far its archive has come.

    Attributes:
        provider: id in the registry; "" if its key was entered and is not stored, or for a folder.
        is_folder: whether it is a folder of downloaded files, with its path as `base_url`.
        state: listing, listed, archiving, archived, stopping, stopped, failed.
        reason, next_step: why it failed or stopped.
        note: what it waits for.
        usage_note: why usage is unknown; None if it is known.
        tunes, files: how many there are; `tunes_done`, `files_done`: how many are settled.
        stored, gone, refused: files by what became of them.
        stored_bytes, total_bytes: of stored files, and of all listed ones that are not gone.
        eta_s: seconds until everything is archived; None if unknown.
    """

    id: str
    provider: str
    is_folder: bool
    name: str
    base_url: str
    state: str
    goal: str
    reason: str | None
    next_step: str | None
    note: str | None
    usage_note: str | None
    listed_at: datetime | None
    tunes: int
    tunes_done: int
    datasets: int
    files: int
    stored: int
    gone: int
    refused: int
    stored_bytes: int
    total_bytes: int
    eta_s: float | None

    @property
    def active(self) -> bool:
        """Whether work is going on."""
        return self.state in ACTIVE

    @property
    def files_done(self) -> int:
        """Files that need no further request."""
        return self.stored + self.gone + self.refused

    @property
    def share(self) -> float:
        """The share of the work that is done, 0 to 1."""
        return (self.tunes_done + self.files_done) / max(1, self.tunes + self.files)

    @property
    def key_missing(self) -> bool:
        """Whether the key has to be entered again in this process."""
        return not self.provider and not self.is_folder and not sources.is_known(self.id)


def list_accounts(store: Store) -> list[AccountView]:
    """All accounts, the newest first."""
    with store.reading() as session:
        rows = session.scalars(select(AccountArchive).order_by(AccountArchive.created_at.desc())).all()
        return [_view(session, one) for one in rows]


def view(store: Store, archive_id: str) -> AccountView:
    """One account.

    Raises:
        NotFound: it is not known.
    """
    with store.reading() as session:
        return _view(session, row_of(session, archive_id))


def row_of(session: Session, archive_id: str) -> AccountArchive:
    """An account's row.

    Raises:
        NotFound: it is not known.
    """
    row = session.get(AccountArchive, archive_id)
    if row is None:
        raise NotFound(msg("This account is not known here."), msg("Connect it first."))
    return row


def progress(session: Session, archive_id: str) -> tuple[int, int]:
    """Units of work that are done, and all of them: one for each tuned model and each file."""
    is_settled = case((ArchivedTune.state != "found", 1), else_=0)
    tunes = session.execute(
        select(func.count(), func.sum(is_settled)).where(ArchivedTune.archive_id == archive_id)
    ).one()
    is_done = case((ArchivedFile.state != "listed", 1), else_=0)
    files = session.execute(select(func.count(), func.sum(is_done)).where(ArchivedFile.archive_id == archive_id)).one()
    return int(tunes[1] or 0) + int(files[1] or 0), int(tunes[0]) + int(files[0])


def _view(session: Session, row: AccountArchive) -> AccountView:
    tune_states: dict[str, int] = {
        state: number
        for state, number in session.execute(
            select(ArchivedTune.state, func.count())
            .where(ArchivedTune.archive_id == row.id)
            .group_by(ArchivedTune.state)
        )
    }
    sizes = func.sum(func.coalesce(ArchivedFile.stored_bytes, ArchivedFile.size, 0))
    by_state: dict[str, tuple[int, int]] = {
        state: (number, int(size or 0))
        for state, number, size in session.execute(
            select(ArchivedFile.state, func.count(), sizes)
            .where(ArchivedFile.archive_id == row.id)
            .group_by(ArchivedFile.state)
        )
    }
    of: Callable[[str], tuple[int, int]] = lambda state: by_state.get(state, (0, 0))  # noqa: E731
    tunes, files = sum(tune_states.values()), sum(number for number, _size in by_state.values())
    tunes_done = tunes - tune_states.get("found", 0)
    done = tunes_done + files - of("listed")[0]
    return AccountView(
        id=row.id,
        provider="" if row.provider == sources.FOLDER else row.provider,
        is_folder=row.provider == sources.FOLDER,
        name=row.name,
        base_url=row.base_url,
        state=row.state,
        goal=row.goal,
        reason=row.reason,
        next_step=row.next_step,
        note=row.note,
        usage_note=row.usage_note,
        listed_at=row.listed_at,
        tunes=tunes,
        tunes_done=tunes_done,
        datasets=session.scalar(
            select(func.count(ArchivedTune.dataset_id.distinct())).where(ArchivedTune.archive_id == row.id)
        )
        or 0,
        files=files,
        stored=of("stored")[0],
        gone=of("gone")[0],
        refused=of("refused")[0],
        stored_bytes=of("stored")[1],
        total_bytes=of("stored")[1] + of("listed")[1],
        eta_s=_eta_s(row, done, tunes + files),
    )


def _eta_s(row: AccountArchive, done: int, total: int) -> float | None:
    """The time that the rest takes at the pace since the current work began."""
    since_start = done - row.done_at_start
    if row.state != "archiving" or row.started_at is None or since_start <= 0:
        return None
    return (utcnow() - row.started_at).total_seconds() / since_start * (total - done)
