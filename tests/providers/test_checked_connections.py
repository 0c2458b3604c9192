"""A provider of a team cannot reach into the server's network: not by its name, a redirect, or a name that changes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from core.actor import LOCAL
from core.address_rules import AddressRules
from core.db.store import Store
from core.errors import FabulaError, Misconfigured, NotThere, WrongAddress
from core.providers import Client, CompletionRequest, Provider, Registry, RetryPolicy, saved
from core.providers.async_client import AsyncTextClient
from core.providers.saved import ProviderForm
from core.providers.speech import Speech
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support import fault_server
from tests.support.fault_server import FaultServer
from tests.support.tls_server import certificate_for, serving

_REQUEST = CompletionRequest("writer", "x")
_QUICK = RetryPolicy(total_s=60, tries=2, base_s=0.001, cap_s=0.01)
_TEAM = AddressRules(restricted=True)
_NAME = "llm.example.com"
Ask = Callable[[Provider], object]


def _whole(provider: Provider) -> object:
    return Client(provider, retry_policy=_QUICK).complete(_REQUEST)


def _streamed(provider: Provider) -> object:
    return list(Client(provider, retry_policy=_QUICK).stream(_REQUEST))


def _models(provider: Provider) -> object:
    return Client(provider, retry_policy=_QUICK).models()


def _in_bulk(provider: Provider) -> object:
    async def ask() -> object:
        bulk = AsyncTextClient(provider)
        try:
            return await bulk.complete(_REQUEST)
        finally:
            await bulk.aclose()

    return asyncio.run(ask())


def _speech(provider: Provider) -> object:
    return Speech(provider, timeout=10).offer()


_every_way = pytest.mark.parametrize("ask", [_whole, _streamed, _models, _in_bulk, _speech])


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets `_NAME` lead to these addresses, one more for each look-up; the last one stays."""

    def lead_to(*addresses: str) -> None:
        left, real = list(addresses), socket.getaddrinfo

        def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host not in (_NAME, _NAME.encode()):
                return real(host, port, *args, **kwargs)
            address = left.pop(0) if len(left) > 1 else left[0]
            return real(address, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return lead_to


@pytest.fixture
def inner() -> Iterator[FaultServer]:
    """A server inside the network."""
    with FaultServer(fault_server.text("secret")) as running:
        yield running


def _provider(server: FaultServer, host: str, rules: AddressRules = _TEAM) -> Provider:
    url = server.url.replace("127.0.0.1", host)
    return replace(server.provider(), base_url=url, saved=True, address_rules=rules)


def _ask_registry(registry: Registry, provider_id: str) -> Ask:
    return lambda _provider: registry.get(provider_id).complete(_REQUEST)


def _refused(ask: Ask, provider: Provider) -> FabulaError:
    with pytest.raises(Misconfigured, match="own network") as caught:
        ask(provider)
    assert "FABULA_INTERNAL_SERVERS" in caught.value.next_step and not caught.value.may_be_billed
    return caught.value


@_every_way
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "0x7f000001", "[::ffff:127.0.0.1]"])
def test_an_inner_address_gets_no_request(inner: FaultServer, ask: Ask, host: str) -> None:
    _refused(ask, _provider(inner, host))
    assert inner.requests == []


@_every_way
def test_a_name_that_leads_inside_gets_no_request(inner: FaultServer, named: Callable[..., None], ask: Ask) -> None:
    named("127.0.0.1")
    _refused(ask, _provider(inner, _NAME))
    assert inner.requests == []


@_every_way
def test_a_name_that_changes_between_look_ups_gets_no_request(
    inner: FaultServer, named: Callable[..., None], ask: Ask
) -> None:
    """DNS rebinding: a connection is only made to the address that was checked, even if a second look-up differs."""
    named("8.8.8.8", "127.0.0.1")  # a test cannot reach the first one
    with pytest.raises(FabulaError):
        ask(_provider(inner, _NAME))
    assert inner.requests == []


@pytest.mark.parametrize("ask", [_whole, _streamed, _in_bulk])
@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{other}/v1/x", "http://169.254.169.254/latest", "file:///etc/passwd"]
)
def test_a_redirect_leads_nowhere_else(inner: FaultServer, server: FaultServer, ask: Ask, target: str) -> None:
    location = target.format(other=urlsplit(inner.url).port)
    server.judge = lambda _body: fault_server.Answer(status=307, body=b"{}", headers={"location": location})
    rules = AddressRules(restricted=True, allowed=("127.0.0.0/8",))
    with pytest.raises(WrongAddress, match="redirects"):
        ask(_provider(server, "127.0.0.1", rules))
    assert inner.requests == []


@_every_way
@pytest.mark.parametrize("allowed", [_NAME, "127.0.0.0/8"])
def test_a_server_of_the_allow_list_is_used_under_its_name(
    inner: FaultServer, named: Callable[..., None], ask: Ask, allowed: str
) -> None:
    named("127.0.0.1")
    ask(_provider(inner, _NAME, AddressRules(restricted=True, allowed=(allowed,))))
    assert {seen.headers["host"].partition(":")[0] for seen in inner.requests} == {_NAME}


@_every_way
def test_local_mode_uses_servers_of_this_machine(inner: FaultServer, ask: Ask) -> None:
    ask(_provider(inner, "localhost", AddressRules()))
    assert inner.requests


@pytest.mark.parametrize("ask", [_whole, _streamed, _in_bulk])
def test_certificates_are_checked_for_the_name(tmp_path: Path, named: Callable[..., None], ask: Ask) -> None:
    """The connection is made to an address, but the certificate must be for what the URL says."""
    certificate = certificate_for(tmp_path / "pem", "127.0.0.1")
    public = certificate.read_text().partition("-----END PRIVATE KEY-----")[2].strip()
    rules = AddressRules(restricted=True, allowed=(_NAME, "127.0.0.1"))
    named("127.0.0.1")
    with serving(certificate) as place:
        for host, error in (("127.0.0.1", NotThere), (_NAME, Misconfigured)):
            url = f"https://{host}:{place.rpartition(':')[2]}/v1"
            provider = Provider("x", "compatible", "X", url, "k", certificates=public, saved=True, address_rules=rules)
            with pytest.raises(error):
                ask(provider)


def test_a_team_cannot_save_an_inner_address_and_a_saved_one_is_not_used(
    store: Store, settings: Settings, inner: FaultServer
) -> None:
    team, key = replace(settings, mode="team"), SecretKey(settings)
    form = ProviderForm("compatible", "Inner", inner.url)
    with pytest.raises(Misconfigured, match="own network"):
        saved.add(store, LOCAL, key, form, rules=saved.rules_of(team))
    added = saved.add(store, LOCAL, key, form, rules=saved.rules_of(settings))
    with pytest.raises(Misconfigured, match="own network"):
        saved.edit(store, LOCAL, key, added, form, rules=saved.rules_of(team))
    for mode, reached in ((team, False), (replace(team, internal_servers=("127.0.0.1",)), True), (settings, True)):
        registry = Registry.from_settings(mode, {}, lambda: store)
        if reached:
            assert registry.get(added).complete(_REQUEST).texts[0].text == "secret"
        else:
            _refused(_ask_registry(registry, added), inner.provider())
            assert inner.requests == []


def test_a_provider_of_the_environment_may_be_an_inner_server(settings: Settings, inner: FaultServer) -> None:
    environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": inner.url}
    registry = Registry.from_settings(replace(settings, mode="team"), environ)
    assert registry.get("compatible").complete(_REQUEST).texts[0].text == "secret"
