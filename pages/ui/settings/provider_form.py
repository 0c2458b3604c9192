"""The dialog that adds or edits a provider. A key is written and never shown again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import streamlit as st

from core.errors import FabulaError
from core.providers import presets, saved
from core.providers.presets import ProviderPreset
from core.providers.saved import ProviderForm, SavedView
from core.secret_key import SecretKey
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.components.fields import text_field
from pages.ui.i18n import _, code, mark
from pages.ui.settings import provider_test
from pages.ui.sign_in import current_actor

_EXAMPLE_URL = "https://api.example.com/v1"
_OPEN = "settings_provider_dialog"  # "new", or the id of the edited provider; missing while closed
_NEW = "new"
_PRESET, _NAME, _URL = "settings_provider_preset", "settings_provider_name", "settings_provider_url"
_KEY, _NO_KEY = "settings_provider_key", "settings_provider_no_key"
_CA, _NO_CA, _MODELS = "settings_provider_ca", "settings_provider_no_ca", "settings_provider_models"
_PROBLEM = "settings_provider_problem"
_UNNAMED = {
    presets.OWN_SERVER: mark("Your own server (OpenAI-compatible)"),
    presets.CUSTOM: mark("Another OpenAI-compatible address"),
}


def begin(view: SavedView | None = None) -> None:
    """Open the dialog, empty or with a provider's values. Call only from a callback."""
    _forget()
    state.set_value(_OPEN, _NEW if view is None else view.id)
    if view is not None:
        state.set_value(_NAME, view.name)
        state.set_value(_URL, view.base_url)
        state.set_value(_MODELS, "\n".join(view.models))


def show(added: Mapping[str, SavedView], running: Collection[str]) -> None:
    """Render the dialog, if it is open. `running`: presets of servers that were found on this machine."""
    which = state.get(_OPEN)
    if which == _NEW:
        st.dialog(_("Add a provider"), icon=":material/add:", on_dismiss=_forget)(_body)(None, running)
    elif which in added:
        st.dialog(_("Edit the provider"), icon=":material/edit:", on_dismiss=_forget)(_body)(added[which], running)


def _body(view: SavedView | None, running: Collection[str]) -> None:
    if state.get(_OPEN) is None:  # saved
        st.rerun()
    if view is None:
        options = [preset.id for preset in presets.in_order(running)]
        st.selectbox(
            _("Provider"), options, index=None, format_func=_preset_name, key=_PRESET, on_change=_fill_from_preset,
            placeholder=_("Choose a provider"),
        )  # fmt: skip
        if state.get(_PRESET) is None:
            st.caption(_("A company's API, or a server of your own. Address and differences are filled in."))
            return
    preset = presets.find(str(state.get(_PRESET)) if view is None else view.preset)
    if view is None and preset.id == presets.CUSTOM:
        st.caption(
            _("Its prices are unknown until you set them on the cost page. A server on your own hardware costs nothing "
              "per token: choose “Your own server” for it.")
        )  # fmt: skip
    text_field(_("Name"), _NAME, saved.MAX_NAME)
    # A form sends all typed text together. Outside a form, a key stays in the browser if you leave its field with the
    # Tab key, because the button that reveals it is part of the field. Enter would press the first button of the row,
    # which is Cancel.
    with st.form("settings_provider_form", border=False, enter_to_submit=False):
        st.text_input(_("Address"), key=_URL, placeholder=_EXAMPLE_URL, help=_address_help(preset))
        if preset.capabilities.has_resource_address:
            st.caption(_("The address of your resource, as the portal shows it. Name your deployments under More."))
        if preset.alternative_url:
            st.caption(_("Accounts outside mainland China use {address}").format(address=code(preset.alternative_url)))
        _key_field(preset, view)
        with st.expander(_("More"), icon=":material/tune:"):
            _more(view)
        if (problem := state.get(_PROBLEM)) is not None:
            cards.error_card(problem)
        with st.container(horizontal=True, horizontal_alignment="right"):
            st.form_submit_button(_("Cancel"), key="settings_provider_cancel", on_click=_forget)
            st.form_submit_button(
                _("Save and test"), type="primary", icon=":material/check:", key="settings_provider_save",
                on_click=_save, args=(view,),
            )  # fmt: skip


def _key_field(preset: ProviderPreset, view: SavedView | None) -> None:
    kept = view is not None and view.has_key
    st.text_input(
        _("Key"), type="password", key=_KEY, autocomplete="new-password",
        placeholder=_("Saved. Leave empty to keep it.") if kept else "",
        help=_("Stored encrypted, sent to this address only, and never shown again."),
    )  # fmt: skip
    if kept:
        st.checkbox(_("Remove the saved key"), key=_NO_KEY)
    elif preset.self_hosted:
        st.caption(_("A server on this machine usually needs none."))


def _more(view: SavedView | None) -> None:
    st.text_area(
        _("Models to offer, one per line"), key=_MODELS, height=110,
        help=_("Empty: the server's own list. Name them if the server has no list, or a very long one."),
    )  # fmt: skip
    st.file_uploader(
        _("CA certificate file (PEM)"), type=["pem", "crt", "cer"], key=_CA,
        help=_("For a server with a certificate of your own authority. It is trusted for this provider only."),
    )  # fmt: skip
    if view is not None and view.certificates:
        st.checkbox(_("Remove the saved CA file"), key=_NO_CA)


def _save(view: SavedView | None) -> None:
    state.drop(_PROBLEM)
    try:
        provider_id = _saved(view)
    except FabulaError as problem:
        state.set_value(_PROBLEM, problem)
        return
    _forget()
    cache.forget_models(provider_id)
    provider_test.start(provider_id)


def _saved(view: SavedView | None) -> str:
    key, rules, typed = SecretKey(cache.settings()), saved.rules_of(cache.settings()), str(state.get(_KEY) or "")
    upload = state.get(_CA)
    certificates = upload.getvalue().decode("ascii", "replace") if upload is not None else ""
    if upload is None and view is not None and not state.get(_NO_CA):
        certificates = view.certificates
    form = ProviderForm(
        preset=str(state.get(_PRESET)) if view is None else view.preset,
        name=str(state.get(_NAME) or ""),
        base_url=str(state.get(_URL) or ""),
        api_key=typed or ("" if view is None or state.get(_NO_KEY) else None),
        certificates=certificates,
        models=tuple(str(state.get(_MODELS) or "").splitlines()),
    )
    if view is None:
        return saved.add(cache.store(), current_actor(), key, form, cache.registry().environment_ids(), rules)
    saved.edit(cache.store(), current_actor(), key, view.id, form, rules)
    return view.id


def _fill_from_preset() -> None:
    if state.get(_PRESET) is None:  # cleared
        return
    preset = presets.find(str(state.get(_PRESET)))
    state.set_value(_NAME, "" if preset.id in _UNNAMED else free_name(preset.name))
    state.set_value(_URL, preset.base_url)


def free_name(name: str) -> str:
    """The name, with a number appended if a provider already has it."""
    taken = {view.name.casefold() for view in saved.list_saved(cache.store())}
    numbered = (f"{name} {number}" for number in range(2, len(taken) + 3))
    return name if name.casefold() not in taken else next(one for one in numbered if one.casefold() not in taken)


def _preset_name(preset_id: str) -> str:
    return _(_UNNAMED[preset_id]) if preset_id in _UNNAMED else presets.find(preset_id).name


def _address_help(preset: ProviderPreset) -> str:
    return _("From {source}, {day}").format(source=preset.source, day=preset.checked)


def _forget() -> None:
    """Close the dialog, and discard what was typed, especially the key."""
    for key in (_OPEN, _PRESET, _NAME, _URL, _KEY, _NO_KEY, _CA, _NO_CA, _MODELS, _PROBLEM):
        state.drop(key)
