"""The dialog that removes a provider. It lists what uses the provider."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core.jobs import provider_use
from core.jobs.provider_use import ProviderUse
from core.providers import saved
from core.providers.saved import SavedView
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.i18n import _, listed, n_, plain
from pages.ui.settings import provider_test
from pages.ui.sign_in import current_actor

_OPEN = "settings_provider_removal"
_MOST_NAMES = 5


def begin(provider_id: str) -> None:
    """Open the dialog. Call only from a callback."""
    state.set_value(_OPEN, provider_id)


def show(added: Mapping[str, SavedView]) -> None:
    """Render the dialog, if it is open."""
    if (provider_id := state.get(_OPEN)) in added:
        st.dialog(_("Remove the provider?"), icon=":material/delete:", on_dismiss=_close)(_body)(added[provider_id])


def _body(view: SavedView) -> None:
    if state.get(_OPEN) is None:
        st.rerun()
    st.markdown(_("**{name}** and its key are deleted.").format(name=plain(view.name)))
    used = provider_use.of(cache.store(), view.id)
    if used.any:
        st.warning(_in_words(used), icon=":material/warning:")
    else:
        st.caption(_("Nothing uses it now. Rows, stories and costs so far are kept."))
    with st.container(horizontal=True, horizontal_alignment="right"):
        st.button(_("Cancel"), key="settings_removal_cancel", on_click=_close)
        st.button(
            _("Remove"), type="primary", icon=":material/delete:", key="settings_removal_confirm",
            on_click=_remove, args=(view.id,),
        )  # fmt: skip


def _in_words(used: ProviderUse) -> str:
    parts = []
    if used.runs:
        words = n_("{n} unfinished run uses it", "{n} unfinished runs use it", len(used.runs))
        parts.append(f"{words}: {_named(used.runs)}.")
    if used.training_jobs:
        words = n_("{n} training job uses it", "{n} training jobs use it", len(used.training_jobs))
        parts.append(f"{words}: {_named(used.training_jobs)}.")
        parts.append(_("A training job may continue at the provider and be billed. To prevent that, cancel it first."))
    if used.evaluations:
        parts.append(n_("{n} evaluation uses it.", "{n} evaluations use it.", used.evaluations))
    if used.batches:
        parts.append(
            n_("{n} batch is at the provider. Its answers can't be collected any more; its maximum cost counts.",
               "{n} batches are at the provider. Their answers can't be collected any more; their maximum cost counts.",
               used.batches)
        )  # fmt: skip
    stops = _(
        "They stop at their next request. Rows and texts written so far are kept; another provider can write the rest."
    )
    return "\n\n".join((*parts, stops))


def _named(names: tuple[str, ...]) -> str:
    shown = [plain(name) for name in names[:_MOST_NAMES]]
    return listed(shown if len(names) <= _MOST_NAMES else [*shown, "…"])


def _remove(provider_id: str) -> None:
    with cards.keep_errors():
        saved.remove(cache.store(), current_actor(), provider_id)
        state.notify(":material/delete:", _("Provider removed."))
    provider_test.forget(provider_id)
    _close()
    cache.forget_models(provider_id)


def _close() -> None:
    state.drop(_OPEN)
