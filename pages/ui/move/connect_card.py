"""The card that connects an account, or reads downloaded files. A key that is typed here is used in memory and stored
nowhere, unless the person wants that.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from core.errors import FabulaError, Misconfigured
from core.message import msg
from core.migrate import accounts
from core.migrate.sources import AccountForm
from core.pricing.prices import price_list
from core.providers import Provider, azure, presets, saved
from core.providers.capabilities import Kind
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.components.fields import text_field
from pages.ui.dataset.importing import MAX_FILE_MB
from pages.ui.i18n import _, n_
from pages.ui.move import saved_key
from pages.ui.sign_in import current_actor

_SOURCE, _PROVIDER, _COMPANY = "move_source", "move_provider", "move_company"
_KEY, _ADMIN_KEY, _URL, _RESOURCE = "move_key", "move_admin_key", "move_url", "move_resource"
_RESOURCE_EXAMPLE = "https://my-resource.openai.azure.com"
_ACCOUNT, _FILES = "account", "files"
_TYPED = ""
_LONGEST = 500  # characters; OpenAI's keys have about 170
_COMPATIBLE = "compatible"  # id of the provider from OPENAI_API_KEY with another address
_COMPANIES: dict[str, Kind] = {"openai": "openai", "azure": "azure", "together": "together"}  # by price list
_FILE_TYPES = ["zip", "jsonl", "ndjson", "json", "csv"]


def show() -> None:
    """Render the card."""
    with st.container(border=True, key="move_connect"):
        st.subheader(_("Connect an account"), anchor=False)
        names = {_ACCOUNT: _("An account"), _FILES: _("Downloaded files")}
        chosen = st.segmented_control(
            _("Source"), list(names), format_func=names.__getitem__, key=_SOURCE, default=_ACCOUNT, required=True
        )
        if chosen == _FILES:
            _files()
        else:
            _account()


def _account() -> None:
    st.caption(
        _(
            "Fabula only reads: it lists your fine-tuning jobs, files and models, and downloads what belongs to "
            "them. Nothing in the account is changed or deleted."
        )
    )
    names = _providers()
    chosen = _TYPED
    if names:
        options = [*names, _TYPED]
        chosen = str(
            st.selectbox(
                _("Account"), options, key=_PROVIDER, width=360,
                format_func=lambda one: names.get(one, _("Enter a key")),
            )
            or _TYPED
        )  # fmt: skip
    company = "openai"
    if chosen == _TYPED:
        titles = {one: presets.find(one).name for one in _COMPANIES}
        company = st.segmented_control(
            _("Provider"), list(titles), format_func=titles.__getitem__, key=_COMPANY, default="openai", required=True
        )
        if company == "azure":
            text_field(_("Address of the resource"), _RESOURCE, _LONGEST, width=480, placeholder=_RESOURCE_EXAMPLE)
        _key_field(_("API key"), _KEY)
        saved_key.toggle()
    if company == "openai" and price_list(chosen or "openai") not in ("azure", "together"):
        _more(chosen)
    st.button(
        _("List tuned models"), icon=":material/search:", type="primary", key="move_list", on_click=_connect,
        args=(chosen,),
    )  # fmt: skip


def _key_field(label: str, key: str) -> None:
    """Render the field of a key. Streamlit ignores a password that is left with Tab, so the field names Enter."""
    placeholder = _("Paste the key, then press Enter")
    text_field(label, key, _LONGEST, type="password", width=480, autocomplete="off", placeholder=placeholder)


def _more(chosen: str) -> None:
    """Render what only accounts at OpenAI have."""
    with st.expander(_("More options"), key="move_more"):
        _key_field(_("Admin key (optional)"), _ADMIN_KEY)
        st.caption(_("Only an admin key may read usage: calls, dollars and the last use of each model."))
        if chosen == _TYPED:
            state.set_default(_URL, accounts.OPENAI_URL)
            text_field(_("Address"), _URL, _LONGEST, width=480)


def _files() -> None:
    """Render the upload of downloaded files."""
    st.caption(
        _(
            "A ZIP file that Fabula wrote, or files that you downloaded: training files, results, jobs, events and "
            "checkpoints. Each is recognised by its content."
        )
    )
    files = st.file_uploader(
        _("ZIP, JSONL, JSON or CSV files"), type=_FILE_TYPES, accept_multiple_files=True, key="move_files",
        max_upload_size=MAX_FILE_MB,
    )  # fmt: skip
    st.caption(_("For larger files: `python -m core.migrate archive --folder PATH`"))
    if files:
        st.button(
            n_("Read {n} file", "Read {n} files", len(files)), icon=":material/search:", type="primary",
            key="move_read", on_click=_connect_files, args=(files,),
        )  # fmt: skip


def _providers() -> dict[str, str]:
    """The providers of this installation that can have fine-tuning jobs, with their names."""
    registry = cache.registry()
    found = {}
    for provider_id in registry.ids():
        if provider_id == _COMPATIBLE or price_list(provider_id) in _COMPANIES:
            with suppress(FabulaError):  # its key cannot be decrypted, which the settings page says
                found[provider_id] = registry.provider(provider_id).name
    return found


def _connect(chosen: str) -> None:
    """Connect the chosen account, then forget the typed keys."""
    typed = {name: str(state.get(name) or "").strip() for name in (_KEY, _ADMIN_KEY)}
    with cards.keep_errors():
        provider = _typed_provider(typed[_KEY]) if chosen == _TYPED else cache.registry().provider(chosen)
        stored = chosen != _TYPED
        if not stored and provider.api_key and saved_key.is_wanted():
            provider, stored = saved_key.save(provider), True
        form = AccountForm(provider, stored=stored, admin_key=typed[_ADMIN_KEY])
        _open(accounts.connect(cache.store(), current_actor(), form))
        for name in (_KEY, _ADMIN_KEY):
            state.set_value(name, "")


def _typed_provider(key: str) -> Provider:
    """The account whose key was entered.

    Raises:
        Misconfigured: an Azure resource has no address.
    """
    company = str(state.get(_COMPANY) or "openai")
    preset = presets.find(company)
    url = preset.base_url
    if company == "openai":
        url = str(state.get(_URL) or "").strip() or url
    elif company == "azure":
        if not (resource := str(state.get(_RESOURCE) or "").strip()):
            raise Misconfigured(msg("There is no address."), msg("Enter the address of the resource."))
        url = azure.api_address(resource)
    rules = saved.rules_of(cache.settings())
    return Provider(company, _COMPANIES[company], preset.name, url, key, address_rules=rules)


def _connect_files(files: Sequence[UploadedFile]) -> None:
    """Store the uploaded files, and list what is in them."""
    with cards.keep_errors():
        named = [(file.name, file) for file in files]
        _open(accounts.connect_upload(cache.store(), current_actor(), cache.settings(), named))


def _open(archive_id: str) -> None:
    state.set_value("move_account", archive_id)
    state.set_value("move_adding", False)
