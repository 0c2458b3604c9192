"""The choice to save a typed key as a provider, so that the account's old models can be compared with new ones."""

from __future__ import annotations

from contextlib import suppress

import streamlit as st

from core.errors import FabulaError
from core.providers import Provider, account, saved
from core.providers.saved import ProviderForm
from core.secret_key import SecretKey
from pages.ui import cache, state
from pages.ui.i18n import _
from pages.ui.settings import provider_form
from pages.ui.sign_in import current_actor

_KEEP = "move_keep"


def toggle() -> None:
    """Render the choice, and what it means."""
    if st.toggle(_("Save the key"), key=_KEEP):
        st.caption(_("The key is stored encrypted, as a provider. You can compare the old models with new ones."))
    else:
        st.caption(_("The key stays in memory and is not stored. After a restart, enter it again to continue."))


def is_wanted() -> bool:
    """Whether the person wants the key to be saved."""
    return bool(state.get(_KEEP))


def save(typed: Provider) -> Provider:
    """The provider of this installation with this address and key; it is added if there is none.

    Raises:
        FabulaError: it cannot be saved.
    """
    registry, same = cache.registry(), account.of(typed)
    for provider_id in registry.ids():
        with suppress(FabulaError):  # the engine is not running, or a key cannot be decrypted
            if account.of(found := registry.provider(provider_id)) == same:
                return found
    form = ProviderForm(typed.id, provider_form.free_name(typed.name), typed.base_url, typed.api_key)
    key = SecretKey(cache.settings())
    added = saved.add(cache.store(), current_actor(), key, form, registry.environment_ids(), typed.address_rules)
    cache.forget_models(added)
    return registry.provider(added)
