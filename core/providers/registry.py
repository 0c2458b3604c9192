"""The configured endpoints, from settings and environment; the engine is always one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from urllib.parse import urlsplit

from core.errors import NotFound
from core.message import msg, with_cause
from core.providers.azure import Azure
from core.providers.client import Client
from core.providers.engine_endpoint import current_endpoint
from core.providers.retry import RetryPolicy
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


class Registry:
    """Providers by id. A provider whose address can change (the engine) is given as (id, function).

    Args:
        providers: the endpoints, the default first.
        retry_policy: for their clients.
    """

    def __init__(
        self,
        providers: Iterable[Provider | tuple[str, Callable[[], Provider]]],
        *,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
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
    def from_settings(cls, settings: Settings, environ: Mapping[str, str]) -> Registry:
        """The engine, and each provider with a key.

        OPENAI_API_KEY: OpenAI, or the server at OPENAI_BASE_URL. AZURE_OPENAI_API_KEY with AZURE_OPENAI_ENDPOINT
        (`https://<resource>.openai.azure.com`): Azure. TOGETHER_API_KEY: Together, or the server at TOGETHER_BASE_URL.
        """
        providers: list[Provider | tuple[str, Callable[[], Provider]]] = [(ENGINE, lambda: _engine(settings))]
        if key := environ.get("OPENAI_API_KEY", "").strip():
            providers.append(_openai(key, environ.get("OPENAI_BASE_URL", "").strip() or _OPENAI_URL))
        endpoint = environ.get("AZURE_OPENAI_ENDPOINT", "").strip()
        if endpoint and (key := environ.get("AZURE_OPENAI_API_KEY", "").strip()):
            providers.append(Provider(AZURE, "azure", "Azure OpenAI", _azure_url(endpoint), key))
        if key := environ.get("TOGETHER_API_KEY", "").strip():
            url = environ.get("TOGETHER_BASE_URL", "").strip() or _TOGETHER_URL
            providers.append(Provider(TOGETHER, "compatible", "Together", url, key))
        return cls(providers)

    def ids(self) -> list[str]:
        """Ids of all providers, the default first."""
        return list(self._providers)

    def provider(self, provider_id: str) -> Provider:
        """The current settings of a provider.

        Raises:
            NotFound: no such provider is configured.
            EngineMissing, Unavailable: the engine cannot be used now.
        """
        if provider_id not in self._providers:
            raise NotFound(
                with_cause(
                    msg("There is no provider {provider_id} on this machine.", provider_id=repr(provider_id)), "setup"
                ),
                msg("Set its key and restart Fabula, or choose another provider."),
            )
        return self._providers[provider_id]()

    def get(self, provider_id: str) -> Client:
        """The shared client of a provider; a new one is created when its address or key changes.

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
        """A new client of a provider with its own limits.

        Args:
            provider_id: the provider.
            retry_policy: for its calls.
            timeout: in seconds.

        Raises:
            NotFound, EngineMissing, Unavailable: see `provider`.
        """
        provider = self.provider(provider_id)
        return _client_class(provider)(provider, retry_policy=retry_policy, timeout=timeout)


def _client_class(provider: Provider) -> type[Client]:
    """The client class for an endpoint; most follow OpenAI's API exactly."""
    if provider.kind == "azure":
        return Azure
    return Together if provider.id == TOGETHER else Client


def _azure_url(endpoint: str) -> str:
    """The resource's address as shown in the portal, plus the path of its OpenAI-compatible API."""
    root = endpoint.rstrip("/")
    return root if root.endswith("/v1") else f"{root.removesuffix('/openai')}/openai/v1"


def _constant(provider: Provider) -> Provider:
    return provider


def _engine(settings: Settings) -> Provider:
    endpoint = current_endpoint(settings)
    return Provider(ENGINE, "engine", msg("The engine"), f"{endpoint.url.rstrip('/')}/v1", endpoint.token)


def _openai(key: str, base_url: str) -> Provider:
    if urlsplit(base_url).hostname == urlsplit(_OPENAI_URL).hostname:
        return Provider(OPENAI, "openai", "OpenAI", base_url, key)
    return Provider(COMPATIBLE, "compatible", urlsplit(base_url).hostname or base_url, base_url, key)
