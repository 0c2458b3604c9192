"""Where an account is read from: its keys in this process, and the clients that read it.

A key that a person enters is kept only in the memory of this process. An account that is a provider of this
installation is read with the provider's key, so its archive continues by itself after a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from core import logs
from core.db.store import Store
from core.db.tables import AccountArchive
from core.errors import Misconfigured, ProviderChanged
from core.message import msg
from core.migrate.folder_reader import FolderReader
from core.providers import Provider, Registry, account
from core.providers.account_reader import AccountReader, Source
from core.providers.azure_reader import AzureReader
from core.providers.capabilities import Training
from core.providers.together_reader import TogetherReader

FOLDER: Final = "folder"
"""`AccountArchive.provider` of a folder of downloaded files; its path is the address."""
_READERS: Final[Mapping[Training, type[AccountReader]]] = {
    "openai": AccountReader,
    "azure": AzureReader,
    "together": TogetherReader,
}
NO_KEY = msg("The key of this account is not stored, and it is not known any more.")
ENTER_KEY = msg("Everything archived so far is safe. Enter the key again to continue.")


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


def remember(archive_id: str, form: AccountForm) -> None:
    """Keep an account's keys in this process."""
    with _lock:
        _keys[archive_id] = _AccountKeys(None if form.stored else form.provider, form.admin_key.strip())


def is_known(archive_id: str) -> bool:
    """Whether this process has the account's keys, or knows that they are stored."""
    return archive_id in _keys


def readers(store: Store, registry: Registry, archive_id: str) -> tuple[Source, AccountReader | None]:
    """Readers of an account or folder and, with an admin key, of its usage.

    Raises:
        Misconfigured: its key is not known in this process, or the folder is not there.
        ProviderChanged: the provider now leads to another account.
        NotFound: the provider was removed.
    """
    with store.reading() as session:
        row = session.get_one(AccountArchive, archive_id)
    if row.provider == FOLDER:
        return FolderReader(Path(row.base_url)), None
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
        raise Misconfigured(NO_KEY, ENTER_KEY)
    return _READERS[provider.capabilities.training](provider), _usage_reader(provider, keys.admin)


def _usage_reader(provider: Provider, admin_key: str) -> AccountReader | None:
    if not admin_key or provider.capabilities.training != "openai":
        return None
    return AccountReader(replace(provider, api_key=admin_key))
