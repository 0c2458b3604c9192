"""Accounts that are moved here: connect one, list it, archive it, stop; and how far each has come.

A key that a person enters is kept only in the memory of this process. An account that is a provider of this
installation is read with the provider's key, so its archive continues by itself after a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from core import logs
from core.actor import Actor, requires
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import AccountArchive, ArchivedFile, ArchivedTune, utcnow
from core.errors import FabulaError, Misconfigured, NotFound, ProviderChanged
from core.message import msg
from core.providers import Provider, Registry, account
from core.providers.account_reader import AccountReader
from core.providers.endpoint_setup import check_setup

Goal = Literal["inventory", "archive"]
ACTIVE: Final = ("listing", "archiving", "stopping")
OPENAI_URL: Final = "https://api.openai.com/v1"
_NO_KEY = msg("The key of this account is not stored, and it is not known any more.")
_ENTER_KEY = msg("Everything archived so far is safe. Enter the key again to continue.")


@dataclass(frozen=True, slots=True)
class AccountForm:
    """What a person enters to connect an account. It is never logged.

    Attributes:
        provider: its address and key.
        stored: whether it is a provider of this installation, whose key is stored there. Otherwise the key stays in
            memory.
        admin_key: may read the organization's usage; never stored; "" if there is none.
    """

    provider: Provider
    stored: bool
    admin_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        logs.register_secret(self.admin_key)


@dataclass(frozen=True, slots=True)
class _AccountKeys:
    """The keys of an account that only this process knows. `provider`: None if its key is stored."""

    provider: Provider | None
    admin: str = field(default="", repr=False)


_keys: dict[str, _AccountKeys] = {}  # by account
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account and how far its archive has come.

    Attributes:
        provider: id in the registry; "" if its key was entered and is not stored.
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
        return not self.provider and self.id not in _keys


@requires("admin")
def connect(store: Store, actor: Actor, form: AccountForm) -> str:
    """Add an account, or find it again, and list its tuned models. Returns its id.

    Raises:
        Misconfigured: address or key cannot work.
    """
    provider = form.provider
    if not provider.api_key.strip():
        raise Misconfigured(msg("There is no key."), msg("Enter a key that may read fine-tuning jobs and files."))
    check_setup(provider)
    fingerprint = account.of(provider).account
    with store.session() as session:
        advisory_lock(session, "account_archives")
        row = session.scalar(select(AccountArchive).where(AccountArchive.account == fingerprint))
        if row is None:
            row = AccountArchive(
                id=new_id(), account=fingerprint, created_by=actor.id, provider="", name="", base_url=""
            )
            session.add(row)
        row.provider, row.name, row.base_url = provider.id if form.stored else "", provider.name, provider.shown_url
        if row.state not in ACTIVE or row.listed_at is None:
            _begin(session, row, "inventory")
        archive_id = row.id
        with _lock:  # before the worker can see it
            _keys[archive_id] = _AccountKeys(None if form.stored else provider, form.admin_key.strip())
    return archive_id


@requires("admin")
def start(store: Store, actor: Actor, archive_id: str, goal: Goal) -> None:
    """List the account again, and then archive it if that is the goal. What is stored already is not fetched again.

    Raises:
        NotFound: the account is not known.
        Misconfigured: its key has to be entered again.
    """
    with store.session() as session:
        row = _row(session, archive_id)
        if not row.provider and archive_id not in _keys:
            raise Misconfigured(_NO_KEY, _ENTER_KEY)
        _begin(session, row, goal)


@requires("admin")
def stop(store: Store, actor: Actor, archive_id: str) -> None:
    """Stop within seconds. What is stored is kept, and `start` continues there."""
    with store.session() as session:
        row = _row(session, archive_id)
        if row.state in ACTIVE:
            row.state = "stopping"
            if not row.provider and archive_id not in _keys:  # no process works on it
                row.state = "stopped"


def find(store: Store, provider: Provider) -> str | None:
    """The id of a provider's account; None if it was never connected."""
    same = AccountArchive.account == account.of(provider).account
    with store.reading() as session:
        return session.scalar(select(AccountArchive.id).where(same))


def list_accounts(store: Store) -> list[AccountView]:
    """All accounts, the newest first."""
    with store.reading() as session:
        rows = session.scalars(select(AccountArchive).order_by(AccountArchive.created_at.desc())).all()
        return [_view(session, row) for row in rows]


def view(store: Store, archive_id: str) -> AccountView:
    """One account.

    Raises:
        NotFound: it is not known.
    """
    with store.reading() as session:
        return _view(session, _row(session, archive_id))


def unfinished(store: Store) -> list[str]:
    """Accounts that a worker should work on, the oldest first: those whose key is stored, or known in this process."""
    query = select(AccountArchive.id, AccountArchive.provider).where(AccountArchive.state.in_(ACTIVE))
    with store.reading() as session:
        rows = session.execute(query.order_by(AccountArchive.created_at)).all()
    return [archive_id for archive_id, provider in rows if provider or archive_id in _keys]


def stops(store: Store) -> dict[str, str]:
    """The accounts that a person wants stopped, for the worker: one that waits for its provider is resumed for it."""
    with store.reading() as session:
        stopping = session.scalars(select(AccountArchive.id).where(AccountArchive.state == "stopping"))
        return dict.fromkeys(stopping, "stop")


def readers(store: Store, registry: Registry, archive_id: str) -> tuple[AccountReader, AccountReader | None]:
    """Clients for an account and, with an admin key, for its usage.

    Raises:
        Misconfigured: its key is not known in this process.
        ProviderChanged: the provider now leads to another account.
        NotFound: the provider was removed.
    """
    with store.reading() as session:
        row = _row(session, archive_id)
    keys = _keys.get(archive_id, _AccountKeys(None))
    if row.provider:
        provider = registry.provider(row.provider)
        if account.of(provider).account != row.account:
            raise ProviderChanged(
                msg("{name} now has another address or key than the account that is archived here.", name=row.name),
                msg("What is archived is safe. Connect the account again, or set the provider back."),
            )
    elif keys.provider is not None:
        provider = keys.provider
    else:
        raise Misconfigured(_NO_KEY, _ENTER_KEY)
    return AccountReader(provider), _usage_reader(provider, keys.admin)


def begin_archive(store: Store, archive_id: str) -> None:
    """Record that the list is complete and archiving begins, unless a person has stopped it."""
    with store.session() as session:
        row = session.get_one(AccountArchive, archive_id)
        if row.state == "listing":
            row.state, row.started_at = "archiving", utcnow()
            row.done_at_start = progress(session, archive_id)[0]


def end(store: Store, archive_id: str, state: str, error: FabulaError | None = None) -> None:
    """Record that the work has ended. An account that is not active is not changed."""
    with store.session() as session:
        row = session.get(AccountArchive, archive_id)
        if row is not None and row.state in ACTIVE:
            row.state, row.note = state, None
            row.reason = error.what if error is not None else None
            row.next_step = (error.next_step or None) if error is not None else None


def give_up(store: Store, archive_id: str, error: FabulaError) -> None:
    """Mark an account as failed, with the reason. Everything stored is kept."""
    end(store, archive_id, "failed", error)


def note(store: Store, archive_id: str, text: str | None) -> None:
    """Record what the work waits for; None: for nothing."""
    with store.session() as session:
        session.get_one(AccountArchive, archive_id).note = text


def progress(session: Session, archive_id: str) -> tuple[int, int]:
    """Units of work that are done, and all of them: one for each tuned model and each file."""
    is_settled = case((ArchivedTune.state != "found", 1), else_=0)
    tunes = session.execute(
        select(func.count(), func.sum(is_settled)).where(ArchivedTune.archive_id == archive_id)
    ).one()
    is_done = case((ArchivedFile.state != "listed", 1), else_=0)
    files = session.execute(select(func.count(), func.sum(is_done)).where(ArchivedFile.archive_id == archive_id)).one()
    return int(tunes[1] or 0) + int(files[1] or 0), int(tunes[0]) + int(files[0])


def _begin(session: Session, row: AccountArchive, goal: Goal) -> None:
    row.state, row.goal = "listing", goal
    row.reason = row.next_step = row.note = None
    row.started_at = utcnow()
    row.done_at_start = progress(session, row.id)[0]


def _usage_reader(provider: Provider, admin_key: str) -> AccountReader | None:
    if not admin_key:
        return None
    return AccountReader(replace(provider, api_key=admin_key))


def _row(session: Session, archive_id: str) -> AccountArchive:
    row = session.get(AccountArchive, archive_id)
    if row is None:
        raise NotFound(msg("This account is not known here."), msg("Connect it first."))
    return row


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
        provider=row.provider,
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
