"""The providers of this studio: what each can do; add, test, edit, remove."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core.errors import FabulaError
from core.providers import saved
from core.providers.registry import ENGINE
from core.providers.saved import SavedView
from pages.ui import cache
from pages.ui.components import cards
from pages.ui.i18n import _, as_markdown, code, localized, sentences
from pages.ui.settings import local_servers_card, provider_form, provider_removal, provider_test


def card() -> None:
    """Render a card with every provider, the servers found on this machine, and the dialogs."""
    added = {view.id: view for view in _saved()}
    with st.container(border=True, key="settings_providers"):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.subheader(_("Providers"), anchor=False, width="content")
            st.button(
                _("Add a provider"), type="primary", icon=":material/add:", key="settings_provider_add",
                on_click=provider_form.begin,
            )  # fmt: skip
        running = local_servers_card.show(added.values())
        for provider_id in cache.registry().ids():
            with st.container(border=True, gap="small", key=f"settings_provider_{provider_id}"):
                _provider(provider_id, added)
    provider_form.show(added, running)
    provider_removal.show(added)


def _saved() -> list[SavedView]:
    try:
        return saved.list_saved(cache.store())
    except FabulaError as problem:
        cards.error_card(problem)
        return []


def _provider(provider_id: str, added: Mapping[str, SavedView]) -> None:
    from_environment = provider_id in cache.registry().environment_ids()
    view = None if from_environment else added.get(provider_id)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        with st.container(gap=None, width="content"):
            st.markdown(_title(provider_id, view, hides=from_environment and provider_id in added))
            st.caption(_address(provider_id, view))
        with st.container(horizontal=True, gap="small", width="content"):
            provider_test.button(provider_id)
            if view is not None:
                st.button(
                    _("Edit"), icon=":material/edit:", key=f"settings_edit_{provider_id}",
                    on_click=provider_form.begin, args=(view,),
                )  # fmt: skip
                st.button(
                    _("Remove"), icon=":material/delete:", key=f"settings_remove_{provider_id}",
                    on_click=provider_removal.begin, args=(provider_id,),
                )  # fmt: skip
    if not provider_test.show(provider_id, view) and provider_id != ENGINE:  # the engine's own card gives the reason
        _missing_models(provider_id)


def _missing_models(provider_id: str) -> None:
    """Render why a provider's models are not offered, and a button to ask again."""
    problem = cache.models().problems.get(provider_id)
    if problem is None:
        return
    st.error(sentences(as_markdown(problem.what), as_markdown(problem.next_step)), icon=":material/error:")
    st.button(
        _("Try again"), icon=":material/refresh:", key=f"settings_again_{provider_id}",
        on_click=cache.forget_models, args=(provider_id,),
    )  # fmt: skip


def _title(provider_id: str, view: SavedView | None, *, hides: bool) -> str:
    name = _("The engine") if provider_id == ENGINE else view.name if view is not None else _name(provider_id)
    badge = ""
    if provider_id != ENGINE and view is None:
        badge = " " + _(":gray-badge[:material/terminal: from the environment]")
    if hides:
        badge += " " + _(":orange-badge[:material/visibility_off: hides an added one]")
    return f"**{as_markdown(name)}**{badge}"


def _name(provider_id: str) -> str:
    try:
        return localized(cache.registry().provider(provider_id).name)
    except FabulaError:
        return provider_id


def _address(provider_id: str, view: SavedView | None) -> str:
    if view is not None:
        parts = [code(view.base_url), _("with a key") if view.has_key else _("without a key")]
        if view.certificates:
            parts.append(_("own CA file"))
        return " · ".join(parts)
    try:
        return code(cache.registry().provider(provider_id).shown_url)
    except FabulaError as problem:  # the engine is not running
        return as_markdown(problem.what)
