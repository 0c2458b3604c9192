"""This studio's endpoints: the engine, those from the environment, and those added on the settings page."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from urllib.parse import urlsplit

from core.db.store import Store
from core.errors import NotFound, ProviderRemoved, StorageFull
from core.message import msg, with_cause
from core.providers.azure import Azure, api_address
from core.providers.capabilities import Training
from core.providers.client import Client
from core.providers.engine_endpoint import current_endpoint
from core.providers.retry import RetryPolicy
from core.providers.saved_cache import SavedProviders
from core.providers.schemas import Provider
from core.providers.together import Together
from core.settings import Settings

ENGINE = "engine"
OPENAI = "openai"
COMPATIBLE = "compatible"
AZURE = "azure"
TOGETHER = "together"
_OPENAI_URL = "https://api.openai.com/v1"
_TOGETHER_URL = "https://api.together.ai/v1"
_CLIENTS: Mapping[Training, type[Client]] = {"openai": Client, "azure": Azure, "together": Together}


class Registry:
    """Providers by id. A provider whose address can change (the engine) is passed as (id, function).

    Args:
        providers: the endpoints, the default first.
        retry_policy: retry policy for their clients.
        saved: providers that were added on the settings page; they can change at any time. If an id is also in
            `providers`, that one takes precedence.
    """

    def __init__(
        self,
        providers: Iterable[Provider | tuple[str, Callable[[], Provider]]],
        *,
        retry_policy: RetryPolicy | None = None,
        saved: SavedProviders | None = None,
    ) -> None:
        self._saved = saved
        self._providers: dict[str, Callable[[], Provider]] = {}
        for item in providers:
            if isinstance(item, Provider):
                self._providers[item.id] = partial(_constant, item)
            else:
                self._providers[item[0]] = item[1]
        self._retry_policy = retry_policy
        self._clients: dict[str, Client] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_settings(
        cls, settings: Settings, environ: Mapping[str, str], open_store: Callable[[], Store] | None = None
    ) -> Registry:
        """The engine, each provider with a key in the environment, and the saved ones from the ledger.

        OPENAI_API_KEY: OpenAI, or the server at OPENAI_BASE_URL. AZURE_OPENAI_API_KEY with AZURE_OPENAI_ENDPOINT
        (`https://<resource>.openai.azure.com`): Azure. TOGETHER_API_KEY: Together, or the server at TOGETHER_BASE_URL.
        """
        providers: list[Provider | tuple[str, Callable[[], Provider]]] = [(ENGINE, lambda: _engine(settings))]
        if key := environ.get("OPENAI_API_KEY", "").strip():
            providers.append(_openai(key, environ.get("OPENAI_BASE_URL", "").strip() or _OPENAI_URL))
        endpoint = environ.get("AZURE_OPENAI_ENDPOINT", "").strip()
        if endpoint and (key := environ.get("AZURE_OPENAI_API_KEY", "").strip()):
            providers.append(Provider(AZURE, "azure", "Azure OpenAI", api_address(endpoint), key))
        if key := environ.get("TOGETHER_API_KEY", "").strip():
            url = environ.get("TOGETHER_BASE_URL", "").strip() or _TOGETHER_URL
            providers.append(Provider(TOGETHER, "together", "Together", url, key))
        return cls(providers, saved=None if open_store is None else SavedProviders(open_store, settings))

    def ids(self) -> list[str]:
        """Ids of all providers, the default first. Saved providers are missing while the database is unavailable."""
        return list(dict.fromkeys((*self._providers, *self._saved_makers())))

    def environment_ids(self) -> list[str]:
        """Ids of the engine and of the providers from the environment."""
        return list(self._providers)

    def revision(self) -> tuple[str, ...]:
        """A value that changes whenever a provider is added, edited, tested or removed."""
        try:
            return (*self._providers, *(self._saved.revisions() if self._saved is not None else ()))
        except StorageFull:
            return tuple(self._providers)

    def refresh(self) -> None:
        """Make the next use read the saved providers again."""
        if self._saved is not None:
            self._saved.forget()

    def _saved_makers(self) -> Mapping[str, Callable[[], Provider]]:
        try:
            return self._saved.makers() if self._saved is not None else {}
        except StorageFull:
            return {}

    def provider(self, provider_id: str) -> Provider:
        """The current settings of a provider.

        Raises:
            ProviderRemoved: it was removed on the settings page.
            NotFound: the provider is not configured.
            Misconfigured: its key cannot be decrypted.
            StorageFull: the database with the saved providers is unavailable.
            EngineMissing, Unavailable: the engine cannot be used now.
        """
        make = self._providers.get(provider_id)
        if make is None and self._saved is not None:
            make = self._saved.makers().get(provider_id)
        if make is None:
            raise self._missing(provider_id)
        return make()

    def _missing(self, provider_id: str) -> NotFound:
        name = None if self._saved is None else self._saved.removed_name(provider_id)
        if name is not None:
            return ProviderRemoved(
                msg("The provider {name} was removed from Fabula.", name=name),
                msg("What was written so far is kept. Choose another provider to continue."),
            )
        return NotFound(
            with_cause(
                msg("There is no provider {provider_id} on this machine.", provider_id=repr(provider_id)), "setup"
            ),
            msg("Add it under Settings → Providers, or choose another provider."),
        )

    def get(self, provider_id: str) -> Client:
        """Return a provider's shared client; a new one is created when its address or key changes.

        Raises:
            NotFound, EngineMissing, Unavailable: see `provider`.
        """
        provider = self.provider(provider_id)
        with self._lock:
            client = self._clients.get(provider_id)
            if client is None or client.provider != provider:
                client = self._clients[provider_id] = _client_class(provider)(provider, retry_policy=self._retry_policy)
            return client

    def client(self, provider_id: str, *, retry_policy: RetryPolicy, timeout: float) -> Client:
        """Create a new client for a provider, with its own limits.

        Args:
            provider_id: the provider.
            retry_policy: retry policy for its calls.
            timeout: timeout in seconds.

        Raises:
            NotFound, EngineMissing, Unavailable: see `provider`.
        """
        provider = self.provider(provider_id)
        return _client_class(provider)(provider, retry_policy=retry_policy, timeout=timeout)


def _client_class(provider: Provider) -> type[Client]:
    """The client class for an endpoint; most follow OpenAI's API exactly."""
    return _CLIENTS[provider.capabilities.training]


def _constant(provider: Provider) -> Provider:
    return provider


def _engine(settings: Settings) -> Provider:
    endpoint = current_endpoint(settings)
    base_url = f"{endpoint.url.rstrip('/')}/v1"
    return Provider(ENGINE, "engine", msg("The engine"), base_url, endpoint.token, certificates=endpoint.certificates)


def _openai(key: str, base_url: str) -> Provider:
    if urlsplit(base_url).hostname == urlsplit(_OPENAI_URL).hostname:
        return Provider(OPENAI, "openai", "OpenAI", base_url, key)
    return Provider(COMPATIBLE, "compatible", urlsplit(base_url).hostname or base_url, base_url, key)
