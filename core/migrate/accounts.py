"""Accounts that are moved here: connect one, list it, archive it, stop. `account_views` says how far each has come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import AccountArchive, utcnow
from core.errors import FabulaError, Misconfigured
from core.message import msg
from core.migrate import account_views, folder_entries, folder_reader, sources
from core.migrate.sources import AccountForm
from core.providers import Provider, account
from core.providers.endpoint_setup import check_setup
from core.settings import Settings

Goal = Literal["inventory", "archive"]
_MAX_NAME = 200
OPENAI_URL: Final = "https://api.openai.com/v1"


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
        row = _found_or_added(session, actor, fingerprint)
        row.provider, row.name, row.base_url = provider.id if form.stored else "", provider.name, provider.shown_url
        archive_id = row.id
        sources.remember(archive_id, form)  # before the worker can see it
    return archive_id


@requires("admin")
def connect_folder(store: Store, actor: Actor, folder: Path, name: str) -> str:
    """Add a folder of downloaded files or a ZIP file, or find it again, and list its jobs. Returns its id.

    Raises:
        Misconfigured: it is not there, or can't be read.
    """
    folder = folder.resolve()
    if not folder_entries.list_entries(folder):
        raise Misconfigured(msg("{path} has no files.", path=folder), msg("Choose a folder with downloaded files."))
    with store.session() as session:
        row = _found_or_added(session, actor, _folder_account(folder))
        row.provider, row.name, row.base_url = sources.FOLDER, name[:_MAX_NAME], str(folder)
        return row.id


@requires("admin")
def start(store: Store, actor: Actor, archive_id: str, goal: Goal) -> None:
    """List the account again, and then archive it if that is the goal. What is stored already is not fetched again.

    Raises:
        NotFound: the account is not known.
        Misconfigured: its key has to be entered again.
    """
    with store.session() as session:
        row = account_views.row_of(session, archive_id)
        if not row.provider and not sources.is_known(archive_id):
            raise Misconfigured(sources.NO_KEY, sources.ENTER_KEY)
        _begin(session, row, goal)


@requires("admin")
def stop(store: Store, actor: Actor, archive_id: str) -> None:
    """Stop within seconds. What is stored is kept, and `start` continues there."""
    with store.session() as session:
        row = account_views.row_of(session, archive_id)
        if row.state in account_views.ACTIVE:
            row.state = "stopping"
            if not row.provider and not sources.is_known(archive_id):  # no process works on it
                row.state = "stopped"


@requires("admin")
def connect_upload(store: Store, actor: Actor, settings: Settings, files: Sequence[tuple[str, BytesIO]]) -> str:
    """Store uploaded files, and add the folder that they are in. Returns its id; the same files have the same id.

    Raises:
        StorageFull: they can't be stored.
    """
    first, *others = (Path(name).name for name, _file in files)
    name = f"{first} + {len(others)}" if others else first
    return connect_folder(store, actor, folder_reader.save_upload(settings, files), name)


def find(store: Store, provider: Provider) -> str | None:
    """The id of a provider's account; None if it was never connected."""
    same = AccountArchive.account == account.of(provider).account
    with store.reading() as session:
        return session.scalar(select(AccountArchive.id).where(same))


def find_folder(store: Store, folder: Path) -> str | None:
    """The id of a folder; None if it was never connected."""
    with store.reading() as session:
        return session.scalar(select(AccountArchive.id).where(AccountArchive.account == _folder_account(folder)))


def unfinished(store: Store) -> list[str]:
    """Accounts that a worker should work on, the oldest first: those whose key is stored, or known in this process."""
    query = select(AccountArchive.id, AccountArchive.provider).where(AccountArchive.state.in_(account_views.ACTIVE))
    with store.reading() as session:
        rows = session.execute(query.order_by(AccountArchive.created_at)).all()
    return [archive_id for archive_id, provider in rows if provider or sources.is_known(archive_id)]


def stops(store: Store) -> dict[str, str]:
    """The accounts that a person wants stopped, for the worker: one that waits for its provider is resumed for it."""
    with store.reading() as session:
        stopping = session.scalars(select(AccountArchive.id).where(AccountArchive.state == "stopping"))
        return dict.fromkeys(stopping, "stop")


def begin_archive(store: Store, archive_id: str) -> None:
    """Record that the list is complete and archiving begins, unless a person has stopped it."""
    with store.session() as session:
        row = session.get_one(AccountArchive, archive_id)
        if row.state == "listing":
            row.state, row.started_at = "archiving", utcnow()
            row.done_at_start = account_views.progress(session, archive_id)[0]


def end(store: Store, archive_id: str, state: str, error: FabulaError | None = None) -> None:
    """Record that the work has ended. An account that is not active is not changed."""
    with store.session() as session:
        row = session.get(AccountArchive, archive_id)
        if row is not None and row.state in account_views.ACTIVE:
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


def _folder_account(folder: Path) -> str:
    """What `AccountArchive.account` is for a folder: a hash of its path."""
    return f"folder-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]}"


def _found_or_added(session: Session, actor: Actor, fingerprint: str | None) -> AccountArchive:
    """The row of an account, which is listed again unless work on it goes on."""
    advisory_lock(session, "account_archives")
    row = session.scalar(select(AccountArchive).where(AccountArchive.account == fingerprint))
    if row is None:
        row = AccountArchive(id=new_id(), account=fingerprint, created_by=actor.id, provider="", name="", base_url="")
        session.add(row)
    if row.state not in account_views.ACTIVE or row.listed_at is None:
        _begin(session, row, "inventory")
    return row


def _begin(session: Session, row: AccountArchive, goal: Goal) -> None:
    row.state, row.goal = "listing", goal
    row.reason = row.next_step = row.note = None
    row.started_at = utcnow()
    row.done_at_start = account_views.progress(session, row.id)[0]
