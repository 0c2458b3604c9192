"""Validates an endpoint's configuration: address, key and proxy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from core.errors import Misconfigured
from core.message import msg, sentences
from core.providers.schemas import Provider

EXAMPLE_ADDRESS = msg("one like https://api.example.com/v1")
"""Placeholder for `new_address` if the correct address is unknown."""

# provider id → the setting that holds its address or key (see `Registry.from_settings`)
_ADDRESS: Mapping[str, str] = {
    "engine": "FABULA_ENGINE_URL",
    "openai": "OPENAI_BASE_URL",
    "compatible": "OPENAI_BASE_URL",
    "azure": "AZURE_OPENAI_ENDPOINT",
    "together": "TOGETHER_BASE_URL",
}
_KEY: Mapping[str, str] = {
    "engine": "FABULA_ENGINE_TOKEN",
    "openai": "OPENAI_API_KEY",
    "compatible": "OPENAI_API_KEY",
    "azure": "AZURE_OPENAI_API_KEY",
    "together": "TOGETHER_API_KEY",
}
_ONE_CALL = re.compile(r"/(?:chat/completions|completions|responses|embeddings|models)(?=$|[/?#])", re.I)
# A mistyped scheme, possibly after quotes: https//, https：//, //
_SCHEME = re.compile(r"^[\"'“‘]*(?:(?:https?|ftp|wss?)?[:：]?/{1,2})?", re.I)
_QUOTES = "\"'`"
_VERSION = re.compile(r"/v\d+\w*(?:/|$)")


def address_setting(provider: Provider) -> str:
    """Name of the setting that holds an endpoint's address."""
    return msg("its address") if provider.saved else _ADDRESS.get(provider.id, msg("its address"))


def ca_setting(provider: Provider) -> str:
    """The setting that names certificate authorities for an endpoint of the environment."""
    return "FABULA_ENGINE_CA_FILE" if provider.id == "engine" else "SSL_CERT_FILE"


def new_address(provider: Provider, address: str) -> str:
    """The next step for the user: where to change the address, and to what."""
    if provider.saved:
        return msg(
            "Set the address of {name} to {address} under Settings → Providers.", name=provider.name, address=address
        )
    return msg("Set {setting} to {address} and restart Fabula.", setting=address_setting(provider), address=address)


def host_of(provider: Provider) -> str:
    """The server's host and port, without credentials."""
    parts = urlsplit(provider.base_url)
    return parts.netloc.rpartition("@")[2] or provider.shown_url


def has_version(provider: Provider) -> bool:
    """Whether the address contains an API version: `/v1`, `/v1beta/openai`, `/api/paas/v4`."""
    return _VERSION.search(urlsplit(provider.base_url).path) is not None


def check_setup(provider: Provider) -> None:
    """Check address and key before a request is sent.

    Raises:
        Misconfigured: the address or key is invalid.
    """
    error = _address_error(provider) or _inside_error(provider) or _key_error(provider)
    if error is not None:
        raise error


def _address_error(provider: Provider) -> Misconfigured | None:
    url = provider.shown_url
    scheme, separator, _ = url.partition("://")
    rest = _SCHEME.sub("", url).rstrip("\"'”’")
    if not separator:
        return Misconfigured(
            msg("The address of {name}, {url}, does not start with http:// or https://.", name=provider.name, url=url),
            sentences(new_address(provider, f"https://{rest}"), msg("Write http:// for a server without TLS.")),
        )
    if scheme.lower() not in ("http", "https"):
        return Misconfigured(
            msg("The address of {name} begins with {scheme}://.", name=provider.name, scheme=scheme),
            new_address(provider, f"https://{rest}"),
        )
    if not _is_web_address(url):
        return Misconfigured(
            msg("The address of {name}, {url}, is not a web address.", name=provider.name, url=url),
            new_address(provider, EXAMPLE_ADDRESS),
        )
    if (call := _ONE_CALL.search(url)) is not None:
        return Misconfigured(
            msg(
                "The address of {name} ends in {call}: that is a single endpoint, not the base URL.",
                name=provider.name,
                call=call[0],
            ),
            new_address(provider, _api_address(provider, url[: call.start()])),
        )
    if (extra := re.search(r"[?#]", url)) is not None:
        return Misconfigured(
            msg(
                "The address of {name}, {url}, contains a {extra}; API addresses don't.",
                name=provider.name,
                url=url,
                extra=extra[0],
            ),
            new_address(provider, _api_address(provider, url[: extra.start()])),
        )
    return None


def _inside_error(provider: Provider) -> Misconfigured | None:
    """The error for an address that needs no look-up to be known as one inside the server's network."""
    host = urlsplit(provider.base_url).hostname or ""
    return inside(provider) if provider.address_rules.refuses_host(host) else None


def inside(provider: Provider) -> Misconfigured:
    """The error for an address that the team's address rules do not allow. See `core.address_rules`."""
    return Misconfigured(
        msg("The address of {name} leads into the server's own network. Nothing was sent.", name=provider.name),
        msg(
            "Use an address on the internet, or have {host} added to the server's setting `FABULA_INTERNAL_SERVERS`.",
            host=urlsplit(provider.base_url).hostname or provider.shown_url,
        ),
    )


def _api_address(provider: Provider, url: str) -> str:
    """The suggested address; for Azure the resource, because its portal shows the address of a single call."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if provider.capabilities.has_resource_address else url


def _is_web_address(url: str) -> bool:
    try:
        parts: SplitResult = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and not re.search(r"[\s\x00-\x1f]", url)
    except ValueError:  # an invalid port
        return False


def _key_error(provider: Provider) -> Misconfigured | None:
    key = provider.api_key
    bad_char = next((c for c in key if not "!" <= c <= "~" or c in _QUOTES), None)
    if bad_char is None or (bad_char == " " and provider.capabilities.spaces_in_key):
        return None
    if bad_char == " ":
        what = msg("The key of {name} contains a space; API keys don't.", name=provider.name)
    elif bad_char.isprintable():
        what = msg(
            "The key of {name} contains the character {bad_char}; API keys don't.",
            name=provider.name,
            bad_char=bad_char,
        )
    else:
        what = msg(
            "The key of {name} contains a line break or a control character; API keys don't.", name=provider.name
        )
    if provider.saved:
        return Misconfigured(
            what, msg("Copy the key again, alone on one line, and enter it under Settings → Providers.")
        )
    setting = _KEY.get(provider.id, msg("its key"))
    return Misconfigured(
        what, msg("Copy the key again, alone on one line: set {setting} and restart Fabula.", setting=setting)
    )
