"""Providers that were added on the settings page: their rows in the ledger, with encrypted keys.

A saved key is never shown again. It is bound to the provider's address and certificates: if those are changed in the
database, the key cannot be decrypted, so it is never sent to another host.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.address_rules import UNRESTRICTED, AddressRules
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import SavedProvider
from core.errors import FabulaError, Misconfigured, NotFound
from core.message import msg
from core.providers import presets, provider_ids
from core.providers.azure import api_address
from core.providers.capabilities import Capabilities
from core.providers.endpoint_setup import check_setup
from core.providers.generation import MAX_MODELS
from core.providers.schemas import Provider
from core.secret_key import SecretKey
from core.settings import Settings

MAX_NAME = 60
"""Maximum number of characters in a provider's name."""
_MAX_CERTIFICATE_BYTES = 100_000
_LOCK = "providers"  # ids and names are chosen under this lock, one at a time


@dataclass(frozen=True, slots=True)
class ProviderForm:
    """What a user enters.

    Attributes:
        preset: id of a preset.
        api_key: "" if the server needs none; None (when editing) to keep the saved one.
        certificates: PEM of the server's own certificate authority; "" to trust only the system's authorities.
        models: models to offer instead of the server's own list; empty for that list.
    """

    preset: str
    name: str
    base_url: str
    api_key: str | None = ""
    certificates: str = ""
    models: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ProviderForm({self.preset!r}, {self.name!r})"  # without the key


@dataclass(frozen=True, slots=True)
class SavedView:
    """A saved provider without its key. For `found` see `core.jobs.provider_probe`; None if not tested yet."""

    id: str
    preset: str
    name: str
    base_url: str
    has_key: bool
    certificates: str
    models: tuple[str, ...]
    found: Mapping[str, Any] | None
    created_at: datetime
    revision: str


def list_saved(store: Store) -> list[SavedView]:
    """All saved providers, the oldest first."""
    with store.reading() as session:
        return [_view(row) for row in session.scalars(select(SavedProvider).order_by(SavedProvider.created_at))]


def rules_of(settings: Settings) -> AddressRules:
    """Return the address rules for saved providers: in team mode, they must not lead into the server's network."""
    return AddressRules(restricted=settings.mode == "team", allowed=settings.internal_servers)


def provider_of(row: SavedProvider, key: SecretKey, rules: AddressRules) -> Provider:
    """Create the endpoint for a row.

    Raises:
        Misconfigured: its key cannot be decrypted.
    """
    preset = presets.find(row.preset)
    api_key = key.decrypt(row.encrypted_key, _context(row), row.name) if row.encrypted_key else ""
    return Provider(
        id=row.id,
        kind=preset.kind,
        name=row.name,
        base_url=_api_url(preset, row.base_url),
        api_key=api_key,
        specific=_capabilities(preset, row.found),
        certificates=row.certificates,
        models=tuple(row.models),
        saved=True,
        address_rules=rules,
    )


@requires("admin")
def add(
    store: Store,
    actor: Actor,
    key: SecretKey,
    form: ProviderForm,
    taken: Collection[str] = (),
    rules: AddressRules = UNRESTRICTED,
) -> str:
    """Save a provider and return its id: the preset's id, with a number if a provider has or had that id.

    Args:
        taken: ids used by providers from the environment.
        rules: see `rules_of`. They are checked again for every request.

    Raises:
        FabulaError: the name is empty or taken.
        Misconfigured: the address, key or certificates are invalid.
        StorageFull: the provider cannot be saved.
    """
    preset, certificates = presets.find(form.preset), _checked_certificates(form.certificates)
    api_key = (form.api_key or "").strip()
    name, base_url = _checked_name(form.name), form.base_url.strip()
    _check_endpoint(preset, name, base_url, api_key, rules)
    with store.session() as session:
        advisory_lock(session, _LOCK)
        _check_unique(session, name, None)
        row = SavedProvider(
            id=provider_ids.free_id(session, preset.id, taken),
            preset=preset.id,
            name=name,
            base_url=base_url,
            certificates=certificates,
            models=_checked_models(form.models),
            revision=new_id(),
            created_by=actor.id,
        )
        row.encrypted_key = key.encrypt(api_key, _context(row)) if api_key else ""
        session.add(row)
        return row.id


@requires("admin")
def edit(
    store: Store,
    actor: Actor,
    key: SecretKey,
    provider_id: str,
    form: ProviderForm,
    rules: AddressRules = UNRESTRICTED,
) -> None:
    """Change a provider; its preset stays the same.

    If `api_key` is None the saved key is kept, unless the host or the CA file changes: then the key must be entered
    again, so that a person who does not know it cannot send it to another server.

    Raises:
        NotFound: the provider was removed.
        FabulaError, Misconfigured, StorageFull: see `add`.
    """
    certificates, name, base_url = _checked_certificates(form.certificates), _checked_name(form.name), form.base_url
    base_url = base_url.strip()
    with store.session() as session:
        advisory_lock(session, _LOCK)
        row = _row(session, provider_id)
        preset = presets.find(row.preset)
        if form.api_key is not None:
            api_key = form.api_key.strip()
        elif not row.encrypted_key:
            api_key = ""
        else:
            _check_same_server(row, name, base_url, certificates)
            api_key = key.decrypt(row.encrypted_key, _context(row), row.name)
        _check_endpoint(preset, name, base_url, api_key, rules)
        _check_unique(session, name, provider_id)
        row.name, row.base_url, row.certificates = name, base_url, certificates
        row.models, row.revision, row.found = _checked_models(form.models), new_id(), None
        row.encrypted_key = key.encrypt(api_key, _context(row)) if api_key else ""


@requires("admin")
def remove(store: Store, actor: Actor, provider_id: str) -> None:
    """Delete a provider and its key. Runs that use it stop at their next request; their rows are kept.

    Its id is never used again, so that no data is attributed to another provider.

    Raises:
        NotFound: it has already been removed.
    """
    with store.session() as session:
        advisory_lock(session, _LOCK)
        row = _row(session, provider_id)
        provider_ids.remember_removed(session, row, actor.id)
        session.delete(row)


@requires("editor")
def save_findings(store: Store, actor: Actor, provider_id: str, revision: str, found: Mapping[str, Any]) -> None:
    """Save a test's findings, unless the provider was edited or removed after the test began."""
    with store.session() as session:
        row = session.get(SavedProvider, provider_id)
        if row is not None and row.revision == revision:
            row.found, row.revision = dict(found), new_id()


def _capabilities(preset: presets.ProviderPreset, found: Mapping[str, Any] | None) -> Capabilities:
    """Combine the preset's known capabilities with a test's findings."""
    answers = {check: answer for check, answer, _note in (found or {}).get("findings", ())}
    batches = answers.get("batches")
    if preset.capabilities.batches is not None or batches not in ("yes", "no"):
        return preset.capabilities
    return replace(preset.capabilities, batches=batches == "yes")


def _view(row: SavedProvider) -> SavedView:
    return SavedView(
        id=row.id,
        preset=row.preset,
        name=row.name,
        base_url=row.base_url,
        has_key=bool(row.encrypted_key),
        certificates=row.certificates,
        models=tuple(row.models),
        found=row.found,
        created_at=row.created_at,
        revision=row.revision,
    )


def _row(session: Session, provider_id: str) -> SavedProvider:
    row = session.get(SavedProvider, provider_id)
    if row is None:
        raise NotFound(
            msg("The provider {provider_id} was removed.", provider_id=provider_id), msg("Add it as a new provider.")
        )
    return row


def _context(row: SavedProvider) -> str:
    """The data that an encrypted key is bound to."""
    return "\n".join(("provider", row.id, row.base_url, row.certificates))


def _api_url(preset: presets.ProviderPreset, base_url: str) -> str:
    return api_address(base_url) if preset.capabilities.has_resource_address else base_url


def _origin(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:  # not a valid URL, so it counts as an origin of its own
        return url, ""
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower()


def _check_same_server(row: SavedProvider, name: str, base_url: str, certificates: str) -> None:
    """Raise Misconfigured if a saved key would be sent to a server other than the one it was entered for."""
    if _origin(row.base_url) != _origin(base_url):
        raise Misconfigured(
            msg("The address of {name} now points to a different host.", name=name),
            msg("Enter the key again: a saved key is only sent to the host that it was entered for."),
        )
    if row.certificates != certificates:
        raise Misconfigured(
            msg("The CA file of {name} has changed.", name=name),
            msg("Enter the key again: with another CA file, another server could receive it."),
        )


def _checked_name(name: str) -> str:
    shown = " ".join(name.split())
    if not shown:
        raise FabulaError(msg("The provider has no name."), msg("Enter one, for example the company's."))
    if len(shown) > MAX_NAME:
        raise FabulaError(
            msg("The name has {count} characters.", count=len(shown)), msg("Use at most {limit}.", limit=MAX_NAME)
        )
    return shown


def _check_unique(session: Session, name: str, own_id: str | None) -> None:
    for other_id, other in session.execute(select(SavedProvider.id, SavedProvider.name)):
        if other_id != own_id and other.casefold() == name.casefold():
            raise FabulaError(
                msg("There is a provider named {name} already.", name=other),
                msg("Choose another name, or edit that one."),
            )


def _check_endpoint(
    preset: presets.ProviderPreset, name: str, base_url: str, api_key: str, rules: AddressRules
) -> None:
    """Check the address and key as before a request, and that the address contains no unfilled placeholder.

    Raises:
        Misconfigured: one of them is invalid.
    """
    if not base_url:
        raise Misconfigured(msg("The provider has no address."), msg("Enter one; most end in /v1."))
    placeholder = re.search("<[^>]*>?", base_url)
    if placeholder is not None:
        raise Misconfigured(
            msg("The address of {name} still contains {part}.", name=name, part=placeholder[0]),
            msg("Replace it, for example with the name of your resource."),
        )
    url = _api_url(preset, base_url)
    check_setup(
        Provider(preset.id, preset.kind, name, url, api_key, preset.capabilities, saved=True, address_rules=rules)
    )
    if "@" in urlsplit(base_url).netloc:  # checked last: `check_setup` refuses what `urlsplit` cannot parse
        raise Misconfigured(
            msg("The address of {name} contains a user name or password.", name=name),
            msg("Enter the address without it; the key has its own field."),
        )


def _checked_certificates(pem: str) -> str:
    """Check PEM certificates by loading them, and return them.

    Raises:
        Misconfigured: the text does not contain valid certificates.
    """
    pem = pem.strip()
    if not pem:
        return ""
    try:
        if len(pem) > _MAX_CERTIFICATE_BYTES or "PRIVATE KEY" in pem:
            raise ValueError
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, TypeError, ValueError) as exc:  # TypeError: not ASCII, as in a binary (DER) file
        raise Misconfigured(
            msg("The CA file contains no certificates in PEM format."),
            msg("Choose the file that begins with -----BEGIN CERTIFICATE-----, without a private key."),
        ) from exc
    return pem


def _checked_models(models: Collection[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in models if name.strip()))
    if len(names) > MAX_MODELS:
        raise FabulaError(
            msg("{count} models are too many to offer.", count=f"{len(names):,}"),
            msg("List the ones that you use, at most {limit}.", limit=MAX_MODELS),
        )
    return names
