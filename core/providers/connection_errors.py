"""Turns transport exceptions into errors that name the cause and the next step.

Errors that a retry cannot fix (an unknown host name, an untrusted certificate, a proxy that refuses) are
`Misconfigured`; temporary ones are `Unavailable`, which is retried.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

import aiohttp
import httpx2

from core.address_rules import AddressRefused
from core.checked_transport import proxy_of
from core.errors import Misconfigured, NotThere, ProviderError, Unavailable, WrongAddress
from core.message import msg, sentences, with_cause
from core.providers.endpoint_setup import (
    EXAMPLE_ADDRESS,
    address_setting,
    ca_setting,
    host_of,
    inside,
    new_address,
)
from core.providers.schemas import Provider

CORE_PATHS = ("/chat/completions", "/completions", "/models")
"""Paths that exist in every OpenAI-compatible API."""
_CORE = re.compile(r"(?:/chat/completions|/completions|/models)/?$")
_ENDPOINT = re.compile(
    r"/(?:chat/completions|completions|models|batches|fine_tuning/jobs|fine-tunes|files|audio/speech)(?=/?$)"
)
"""Matches the end of a path that names part of the API rather than a single object."""
_REACHABLE = msg("Check the address and the network; the engine may still be starting.")
_RUNNING = msg("Check the address and the network, and that the server is running.")
_MAX_CHAIN = 12  # maximum number of exceptions examined in a chain
_NO_SUCH_NAME = {getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA")} - {None}
# OpenSSL's reason codes for a response that is not TLS, usually plain HTTP
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
_EXPIRED, _OTHER_NAME = {10}, {62, 64}  # X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
# a TLS alert instead of a response header, and the replies of nginx, Apache and Go to plain HTTP on a TLS port
_WANTS_TLS = re.compile(
    r"\\x15\\x03|plain HTTP request was sent to HTTPS port|speaking plain HTTP to an SSL|HTTP request to an HTTPS", re.I
)


def unreachable(provider: Provider, cause: BaseException | None = None, *, sent: bool = True) -> ProviderError:
    """The error for a connection that failed, or broke before the response arrived.

    Args:
        provider: the endpoint.
        cause: the transport's exception; its chain of causes is examined too.
        sent: whether the endpoint may have received the request, and may bill it.
    """
    for error in _chain(cause):
        if isinstance(error, AddressRefused):
            return inside(provider)
        if isinstance(error, aiohttp.ClientConnectorError):
            continue  # only repeats the next cause without its details
        if isinstance(error, ssl.SSLCertVerificationError):
            return _untrusted_certificate(provider, error)
        if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
            return _wrong_scheme(provider, "http")
        if isinstance(error, socket.gaierror):
            return _name_lookup_failed(provider, error)
        if isinstance(error, httpx2.ProxyError | aiohttp.ClientHttpProxyError):
            status = re.match(r"\d{3}", str(error))
            return proxy_refuses(provider, int(status[0]) if status else 0)
    if wants_tls(" ".join(str(error) for error in _chain(cause))):
        return _wrong_scheme(provider, "https")
    return _no_connection(provider, cause, sent)


def wants_tls(message: str) -> bool:
    """Whether a response reports that plain HTTP was sent to a TLS port."""
    return _WANTS_TLS.search(message) is not None


def plain_to_tls(provider: Provider) -> Misconfigured:
    """The error for plain HTTP sent to a TLS port."""
    return _wrong_scheme(provider, "https")


def no_version(provider: Provider, message: str) -> WrongAddress:
    """The error for a missing core path of the API if the address has no version."""
    url = provider.shown_url.rstrip("/")
    return WrongAddress(
        msg("There is no OpenAI-compatible API at {url}: {message}", url=url, message=message),
        sentences(msg("Most of these addresses end in /v1."), new_address(provider, f"{url}/v1")),
    )


def web_page(provider: Provider, message: str) -> WrongAddress:
    """The error for an address that leads to a website instead of an API."""
    return WrongAddress(
        msg(
            "{url} is not the address of an API: it answers with {message}.",
            url=provider.shown_url.rstrip("/"),
            message=message,
        ),
        sentences(
            msg("Look up the API's address (base URL) in the provider's documentation."),
            new_address(provider, EXAMPLE_ADDRESS),
        ),
    )


def no_endpoint(provider: Provider, path: str, message: str) -> NotThere | None:
    """The error for an API path that does not exist; None if `path` names a single, possibly deleted object."""
    found = _ENDPOINT.search(path)
    if found is None:
        return None
    return NotThere(
        with_cause(
            msg(
                "There is no endpoint {path} at {url}: {message}",
                path=found[0],
                url=provider.shown_url.rstrip("/"),
                message=message,
            ),
            "setup",
        ),
        msg("Compare the address under Settings → Providers with the provider's documentation.")
        if provider.saved
        else msg("Compare {setting} with the provider's documentation.", setting=address_setting(provider)),
    )


def redirected(provider: Provider, url: str) -> WrongAddress:
    """The error for a redirect to another host, which would receive the key and the prompts."""
    parts = urlsplit(url)
    path = _CORE.sub("", parts.path)
    return WrongAddress(
        msg("{name} redirects requests to {host}.", name=provider.name, host=f"{parts.scheme}://{parts.netloc}"),
        sentences(
            msg("The key and the prompts are not sent there. If that server is the right one:"),
            new_address(provider, f"{parts.scheme}://{parts.netloc}{path}"),
        ),
    )


def leaves_host(provider: Provider, url: str) -> bool:
    """Whether a URL has a different scheme, host or port than the endpoint's address."""
    own, other = urlsplit(provider.base_url), urlsplit(url)
    return (own.scheme.lower(), own.hostname, _port(own)) != (other.scheme.lower(), other.hostname, _port(other))


def _port(parts: SplitResult) -> int | None:
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())


def proxy_refuses(provider: Provider, status: int) -> ProviderError:
    """The error for an error status from a proxy."""
    host = urlsplit(provider.base_url).hostname or provider.base_url
    proxy = _proxy_host(proxy_of(provider.base_url))
    if status == 407:
        return Misconfigured(
            msg("The proxy {proxy} asks for a user name and a password (407).", proxy=proxy),
            msg(
                "Set HTTPS_PROXY to http://user:password@host:port, or NO_PROXY to {host}, and restart Fabula.",
                host=host,
            ),
        )
    if 400 <= status < 500:
        return Misconfigured(
            msg(
                "The proxy {proxy} does not let you connect to {host} ({status}).",
                proxy=proxy,
                host=host,
                status=status,
            ),
            msg("Ask the proxy's administrator, or set NO_PROXY to {host} and restart Fabula.", host=host),
        )
    return Unavailable(
        msg(
            "The proxy {proxy} could not connect to {host} ({status}).",
            proxy=proxy,
            host=host,
            status=status or msg("no status"),
        ),
        msg("Fabula retries automatically; if it persists, check HTTPS_PROXY, or set NO_PROXY to {host}.", host=host),
        may_be_billed=False,
    )


def _untrusted_certificate(provider: Provider, error: ssl.SSLCertVerificationError) -> Misconfigured:
    host = urlsplit(provider.base_url).hostname or provider.base_url
    if error.verify_code in _EXPIRED:
        next_step = msg("Renew it on the server; if it has not expired, correct this machine's clock.")
    elif error.verify_code in _OTHER_NAME:
        next_step = msg("Set {setting} to the host name in the certificate.", setting=address_setting(provider))
    elif provider.saved:
        next_step = msg(
            "If you run the server or a proxy in between yourself, choose its CA certificate file "
            "under Settings → Providers."
        )
    else:
        next_step = msg(
            "If you run the server or a proxy in between yourself, set {setting} to its CA "
            "certificate file and restart Fabula.",
            setting=ca_setting(provider),
        )
    return Misconfigured(
        msg(
            "The certificate of {host} is not trusted: {verify_message}.",
            host=host,
            verify_message=error.verify_message,
        ),
        next_step,
    )


def _wrong_scheme(provider: Provider, actual: str) -> Misconfigured:
    configured = "http" if actual == "https" else "https"
    rest = provider.shown_url.partition("://")[2]
    return Misconfigured(
        msg(
            "The address of {name} begins with {configured}://, but {host} speaks {actual}.",
            name=provider.name,
            configured=configured,
            host=host_of(provider),
            actual=actual,
        ),
        new_address(provider, f"{actual}://{rest}"),
    )


def _name_lookup_failed(provider: Provider, error: socket.gaierror) -> ProviderError:
    proxy = proxy_of(provider.base_url)
    host = urlsplit(proxy or provider.base_url).hostname or provider.base_url
    if error.errno in _NO_SUCH_NAME:
        setting = "HTTPS_PROXY" if proxy else address_setting(provider)
        return Misconfigured(
            msg("There is no server named {host}.", host=host),
            msg("Check {setting} for typos. A host in a private network needs its VPN.", setting=setting),
        )
    return Unavailable(
        msg("The name {host} could not be looked up.", host=host),
        msg("Fabula retries automatically; check this machine's network."),
        may_be_billed=False,
    )


def _no_connection(provider: Provider, cause: BaseException | None, sent: bool) -> Unavailable:
    proxy = proxy_of(provider.base_url)
    if proxy and any(isinstance(error, ConnectionRefusedError) for error in _chain(cause)):
        return Unavailable(
            msg("The proxy {proxy} cannot be reached.", proxy=_proxy_host(proxy)),
            msg("Check HTTPS_PROXY and HTTP_PROXY, or unset them, and restart Fabula."),
            may_be_billed=False,
        )
    if provider.base_url.startswith("http://") and any(_disconnected(error) for error in _chain(cause)):
        return Unavailable(
            msg(
                "{name} cannot be reached at {base_url}: it closes the connection without an answer.",
                name=provider.name,
                base_url=provider.shown_url,
            ),
            msg("Fabula retries automatically. If the server speaks https, write https:// in its address."),
            may_be_billed=sent,
        )
    return Unavailable(
        msg("{name} cannot be reached at {base_url}.", name=provider.name, base_url=provider.shown_url),
        _REACHABLE if provider.capabilities.engine_api else _RUNNING,
        may_be_billed=sent,
    )


def _disconnected(error: BaseException) -> bool:
    disconnected = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError, aiohttp.ServerDisconnectedError)
    return isinstance(error, (ConnectionResetError, *disconnected))


def _proxy_host(proxy: str | None) -> str:
    """Host and port of a proxy, without its password."""
    return urlsplit(proxy or "").netloc.rpartition("@")[2] or msg("in between")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MAX_CHAIN):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
