"""The card that connects an account. A key that is typed here is used in memory and stored nowhere."""

from __future__ import annotations

from contextlib import suppress

import streamlit as st

from core.errors import FabulaError
from core.migrate import accounts
from core.migrate.sources import AccountForm
from core.pricing.prices import price_list
from core.providers import Provider, saved
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.components.fields import text_field
from pages.ui.i18n import _
from pages.ui.sign_in import current_actor

_PROVIDER, _KEY, _ADMIN_KEY, _URL = "move_provider", "move_key", "move_admin_key", "move_url"
_TYPED = ""
_LONGEST = 500  # characters; OpenAI's keys have about 170
_FROM_ENVIRONMENT = ("openai", "compatible")  # the latter: OPENAI_API_KEY with another address


def show() -> None:
    """Render the card."""
    with st.container(border=True, key="move_connect"):
        st.subheader(_("Connect your OpenAI account"), anchor=False)
        st.caption(
            _(
                "Fabula only reads: it lists your fine-tuning jobs, files and models, and downloads what belongs to "
                "them. Nothing at OpenAI is changed or deleted."
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
        if chosen == _TYPED:
            text_field(_("API key"), _KEY, _LONGEST, type="password", width=480, autocomplete="off")
            st.caption(_("The key stays in memory and is not stored. After a restart, enter it again to continue."))
        with st.expander(_("More options"), key="move_more"):
            text_field(_("Admin key (optional)"), _ADMIN_KEY, _LONGEST, type="password", width=480, autocomplete="off")
            st.caption(_("Only an admin key may read usage: calls, dollars and the last use of each model."))
            if chosen == _TYPED:
                state.set_default(_URL, accounts.OPENAI_URL)
                text_field(_("Address"), _URL, _LONGEST, width=480)
        st.button(
            _("List tuned models"), icon=":material/search:", type="primary", key="move_list", on_click=_connect,
            args=(chosen,),
        )  # fmt: skip


def _providers() -> dict[str, str]:
    """The providers of this installation that can be an account of OpenAI, with their names."""
    registry = cache.registry()
    found = {}
    for provider_id in registry.ids():
        if provider_id in _FROM_ENVIRONMENT or price_list(provider_id) == "openai":
            with suppress(FabulaError):  # its key cannot be decrypted, which the settings page says
                found[provider_id] = registry.provider(provider_id).name
    return found


def _connect(chosen: str) -> None:
    """Connect the chosen account, then forget the typed keys."""
    typed = {name: str(state.get(name) or "") for name in (_KEY, _ADMIN_KEY, _URL)}
    with cards.keep_errors():
        if chosen == _TYPED:
            url = typed[_URL].strip() or accounts.OPENAI_URL
            rules = saved.rules_of(cache.settings())
            provider = Provider("openai", "openai", "OpenAI", url, typed[_KEY].strip(), address_rules=rules)
        else:
            provider = cache.registry().provider(chosen)
        form = AccountForm(provider, stored=chosen != _TYPED, admin_key=typed[_ADMIN_KEY])
        archive_id = accounts.connect(cache.store(), current_actor(), form)
        state.set_value("move_account", archive_id)
        state.set_value("move_adding", False)
        for name in (_KEY, _ADMIN_KEY):
            state.set_value(name, "")
