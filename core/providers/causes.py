"""Why an endpoint cannot be reached, read from what the transport raised: each cause with what to do about it.

What repeating cannot cure (a name that does not exist, a certificate that is not trusted, a proxy that refuses) is
`Misconfigured`; what may pass is `Unavailable`, which is tried again.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp
import httpx2

from core.errors import Misconfigured, ProviderError, Unavailable
from core.providers.addresses import address_setting, host_of, proxy_of
from core.providers.shapes import Provider

EVERYWHERE = ("/chat/completions", "/completions", "/models")
"""Paths of the calls that every OpenAI-shaped API has."""
_MOST = 12  # exceptions in a chain
_NO_SUCH_NAME = {getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_NODATA")} - {None}
# OpenSSL's words for an answer that is no TLS: plain HTTP, most of all
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
_EXPIRED, _OTHER_NAME = {10}, {62, 64}  # X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH
# a TLS alert where the head of an answer should be, and what nginx, Apache and Go answer to plain HTTP on a TLS port
_WANTS_TLS = re.compile(
    r"\\x15\\x03|plain HTTP request was sent to HTTPS port|speaking plain HTTP to an SSL|HTTP request to an HTTPS", re.I
)


def unreachable(provider: Provider, cause: BaseException | None = None, *, sent: bool = True) -> ProviderError:
    """No connection, or one that broke before the answer was there.

    Args:
        provider: the endpoint.
        cause: what the transport raised; its own causes are looked at too.
        sent: the endpoint may have the request, and bill it.
    """
    for error in _chain(cause):
        if isinstance(error, aiohttp.ClientConnectorError):
            continue  # a copy, without the details, of the cause that follows
        if isinstance(error, ssl.SSLCertVerificationError):
            return _certificate(provider, error)
        if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
            return _other_scheme(provider, "http")
        if isinstance(error, socket.gaierror):
            return _name(provider, error)
        if isinstance(error, httpx2.ProxyError | aiohttp.ClientHttpProxyError):
            status = re.match(r"\d{3}", str(error))
            return proxy_refuses(provider, int(status[0]) if status else 0)
    if wants_tls(" ".join(str(error) for error in _chain(cause))):
        return _other_scheme(provider, "https")
    return _no_answer(provider, cause, sent)


def wants_tls(words: str) -> bool:
    """Whether an answer says that plain HTTP was spoken to a port for TLS."""
    return _WANTS_TLS.search(words) is not None


def plain_to_tls(provider: Provider) -> Misconfigured:
    """Plain HTTP was spoken to a port for TLS."""
    return _other_scheme(provider, "https")


def no_version(provider: Provider, words: str) -> Misconfigured:
    """A call that every OpenAI-shaped API has is missing, at an address without a version."""
    url = provider.base_url.rstrip("/")
    return Misconfigured(
        f"There is no OpenAI-compatible API at {url}: {words}",
        f"Most of these addresses end in /v1: set {address_setting(provider)} to {url}/v1 and restart Fabula.",
    )


def proxy_refuses(provider: Provider, status: int) -> ProviderError:
    """The proxy in between answered with an error of its own."""
    host = urlsplit(provider.base_url).hostname or provider.base_url
    proxy = _shown(proxy_of(provider.base_url))
    if status == 407:
        return Misconfigured(
            f"The proxy {proxy} asks for a user name and a password (407).",
            f"Set HTTPS_PROXY to http://user:password@host:port, or NO_PROXY to {host}, and restart Fabula.",
        )
    if 400 <= status < 500:
        return Misconfigured(
            f"The proxy {proxy} does not let you connect to {host} ({status}).",
            f"Ask the proxy's administrator, or set NO_PROXY to {host} and restart Fabula.",
        )
    return Unavailable(
        f"The proxy {proxy} could not connect to {host} ({status or 'no status'}).",
        f"Fabula retries automatically; if it persists, check HTTPS_PROXY, or set NO_PROXY to {host}.",
        may_be_billed=False,
    )


def _certificate(provider: Provider, error: ssl.SSLCertVerificationError) -> Misconfigured:
    host = urlsplit(provider.base_url).hostname or provider.base_url
    if error.verify_code in _EXPIRED:
        next_step = "Renew it on the server; if it has not expired, correct this machine's clock."
    elif error.verify_code in _OTHER_NAME:
        next_step = f"Set {address_setting(provider)} to the name that the certificate is for."
    else:
        next_step = (
            "If the server or a proxy in between is your own: set SSL_CERT_FILE to a file with its "
            "authority's certificate and restart Fabula."
        )
    return Misconfigured(f"The certificate of {host} is not trusted: {error.verify_message}.", next_step)


def _other_scheme(provider: Provider, spoken: str) -> Misconfigured:
    written = "http" if spoken == "https" else "https"
    rest = provider.base_url.partition("://")[2]
    return Misconfigured(
        f"The address of {provider.name} begins with {written}://, but {host_of(provider)} speaks {spoken}.",
        f"Set {address_setting(provider)} to {spoken}://{rest} and restart Fabula.",
    )


def _name(provider: Provider, error: socket.gaierror) -> ProviderError:
    proxy = proxy_of(provider.base_url)
    host = urlsplit(proxy or provider.base_url).hostname or provider.base_url
    if error.errno in _NO_SUCH_NAME:
        setting = "HTTPS_PROXY" if proxy else address_setting(provider)
        return Misconfigured(
            f"There is no server named {host}.",
            f"Look for a typing error in {setting}; a name of a private network needs its VPN.",
        )
    return Unavailable(
        f"The name {host} could not be looked up.",
        "Fabula retries automatically; check this machine's network.",
        may_be_billed=False,
    )


def _no_answer(provider: Provider, cause: BaseException | None, sent: bool) -> Unavailable:
    proxy = proxy_of(provider.base_url)
    if proxy and any(isinstance(error, ConnectionRefusedError) for error in _chain(cause)):
        return Unavailable(
            f"The proxy {_shown(proxy)} cannot be reached.",
            "Check HTTPS_PROXY and HTTP_PROXY, or unset them, and restart Fabula.",
            may_be_billed=False,
        )
    if provider.base_url.startswith("http://") and any(_hung_up(error) for error in _chain(cause)):
        return Unavailable(
            f"{provider.name} cannot be reached at {provider.base_url}: it closes the connection without an answer.",
            "Fabula retries automatically. If the server speaks https, write https:// in its address.",
            may_be_billed=sent,
        )
    return Unavailable(
        f"{provider.name} cannot be reached at {provider.base_url}.",
        "Check the address and the network; the engine may still be starting.",
        may_be_billed=sent,
    )


def _hung_up(error: BaseException) -> bool:
    disconnected = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError, aiohttp.ServerDisconnectedError)
    return isinstance(error, (ConnectionResetError, *disconnected))


def _shown(proxy: str | None) -> str:
    """A proxy's name and port, without its password."""
    return urlsplit(proxy or "").netloc.rpartition("@")[2] or "in between"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MOST):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
