"""What one archived model can be trained on again: candidates side by side, and several started at once."""

from __future__ import annotations

import streamlit as st

from core.migrate import retraining
from core.migrate.tunes import Tune
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.i18n import _
from pages.ui.training import candidate_table

_SHOWN = "move_candidates_shown"  # the tuned model whose candidates are shown


def is_shown(tune: Tune) -> bool:
    """Whether the candidates of this model are on the page."""
    return bool(state.get(_SHOWN) == tune.id)


def button(tune: Tune) -> None:
    """Render the button that shows the candidates of a tuned model with a data set, or hides them."""
    shown = is_shown(tune)
    st.button(
        _("Hide the candidates") if shown else _("Compare candidates"), icon=":material/compare_arrows:",
        key="move_candidates", on_click=state.set_value, args=(_SHOWN, "" if shown else tune.id),
    )  # fmt: skip


def show(archive_id: str, tune: Tune) -> None:
    """Render the candidates if they are to be shown."""
    if not is_shown(tune):
        return
    st.subheader(_("Train again: candidates"), anchor=False)
    st.caption(
        _(
            "Nothing is paid before you confirm. OpenAI is not listed: it takes no new jobs from 2027-01-06, and its "
            "tuned models stop on 2027-01-14."
        )
    )
    with cards.show_errors():
        candidate_table.show(retraining.data_of(cache.store(), archive_id, tune.id))
