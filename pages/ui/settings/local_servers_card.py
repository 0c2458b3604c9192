"""Model servers that run on this machine, offered with one click."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from core.errors import FabulaError
from core.jobs import local_servers
from core.jobs.local_servers import LocalServer
from core.providers import saved
from core.providers.saved import ProviderForm, SavedView
from core.secret_key import SecretKey
from pages.ui import cache
from pages.ui.cache import settings, shared
from pages.ui.components import cards
from pages.ui.i18n import _, n_
from pages.ui.settings import provider_form, provider_test
from pages.ui.sign_in import current_actor

_LOOK_AGAIN_S = 10


def show(added: Iterable[SavedView]) -> tuple[str, ...]:
    """One line for each server that runs here and is not used yet; returns their presets."""
    found = _found((*(view.base_url for view in added), *_environment_addresses()))
    for server in found:
        with st.container(
            border=True, horizontal=True, horizontal_alignment="distribute", vertical_alignment="center",
            key=f"settings_local_{server.preset.id}",
        ):  # fmt: skip
            words = n_("is running here with {n} model.", "is running here with {n} models.", len(server.models))
            st.markdown(f":material/dns: **{server.preset.name}** {words}", width="content")
            st.button(
                _("Use it"), icon=":material/link:", key=f"settings_use_{server.preset.id}",
                on_click=_use, args=(server,),
            )  # fmt: skip
    return tuple(server.preset.id for server in found)


@shared(ttl=_LOOK_AGAIN_S, max_entries=8)
def _found(used: tuple[str, ...]) -> tuple[LocalServer, ...]:
    return tuple(local_servers.find(settings(), used))


def _environment_addresses() -> Iterable[str]:
    registry = cache.registry()
    for provider_id in registry.environment_ids():
        try:
            yield registry.provider(provider_id).base_url
        except FabulaError:  # the engine is not running
            continue


def _use(server: LocalServer) -> None:
    with cards.keep_errors():
        form = ProviderForm(server.preset.id, provider_form.free_name(server.preset.name), server.base_url)
        taken = cache.registry().environment_ids()
        added = saved.add(cache.store(), current_actor(), SecretKey(cache.settings()), form, taken)
        cache.forget_models(added)
        provider_test.start(added)
