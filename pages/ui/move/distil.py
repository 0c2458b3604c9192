"""Write a data set with an old model: opens the list of prompts on the data-set page, with what is known filled in."""

from __future__ import annotations

import streamlit as st

from core.datasets import datasets
from core.datasets.datasets import MAX_NAME
from core.migrate import old_prompts
from core.migrate.tunes import Tune
from pages.ui import cache, state
from pages.ui.i18n import _
from pages.ui.sign_in import current_actor

_FORM = "dataset_prompts"  # prefix of the fields of `dataset.prompt_list_form`


def button(archive_id: str, tune: Tune, provider: str) -> None:
    """Render the button; nothing if the model is not known, or can't be called from here.

    Args:
        provider: id of the account in the registry; "" if its key is not stored, or for a folder.
    """
    is_first = tune.dataset_id is None
    if tune.model is None or (not provider and not is_first):
        return
    label = _("Write a new data set with the old model") if is_first else _("Write more data with the old model")
    if st.button(
        label, icon=":material/edit_note:", key="move_distil", type="primary" if is_first else "secondary",
        disabled=not provider,
    ):  # fmt: skip
        _open(archive_id, tune, provider)
    if not provider:
        st.caption(_("To call the old model, add its provider and the key of its account under Settings."))


def _open(archive_id: str, tune: Tune, provider: str) -> None:
    """Open the list of prompts on the data-set page with the old model, its system text and its parameters."""
    store = cache.store()
    known = old_prompts.of(store, current_actor(), cache.settings(), archive_id, tune.id)
    system = known.system
    if not system and tune.dataset_id is not None:
        system = datasets.system_message(store, tune.dataset_id)
    state.set_value("dataset_part", "design")
    state.set_value("dataset_source", "list")
    state.set_value(f"{_FORM}_model", f"{provider}/{known.called or tune.model}")
    state.set_value(f"{_FORM}_system", system)
    for name, value in known.parameters.items():
        state.set_value(f"{_FORM}_{name}", value)
    state.set_value(f"{_FORM}_name", (tune.model or tune.id)[:MAX_NAME])
    st.switch_page("dataset.py")
