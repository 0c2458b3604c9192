"""The table of tuned models: what each was trained on, when it goes dark, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pandas as pd
import streamlit as st

from core.migrate import tunes
from core.migrate.tunes import LostFile, Tune
from pages.ui.components import models
from pages.ui.i18n import _, as_markdown, localized, mark, n_
from pages.ui.training import job_labels

STATE_NAMES = {
    "found": mark("Found"),
    "archived": mark("Archived"),
    "data": mark("Data set ready"),
    "retrained": mark("Retrained"),
    "compared": mark("Compared"),
    "switched": mark("Switched"),
}
_METHODS = {
    "supervised": mark("Supervised"),
    "dpo": mark("Preferences (DPO)"),
    "reinforcement": mark("Reinforcement"),
}
_SHOWN_ROWS = 12
_HEIGHT = 480  # pixels
_NAME = 130  # pixels: on a phone, state and last day fit beside it
_MOST_LOST = 20


def show(listed: Sequence[Tune], today: date, *, usage: bool) -> None:
    """Render the table. `usage`: whether calls and dollars are known."""
    notes = ["" if one.reason is None else localized(one.reason) for one in listed]
    columns = {
        "model": [models.own_name(one.model or one.id) for one in listed],
        "state": [_(STATE_NAMES[one.state]) for one in listed],
        "dark": [one.dark_on for one in listed],
        "left": [one.days_left(today) for one in listed],
        **({"note": notes} if any(notes) else {}),
        "rows": [one.trained_rows for one in listed],
        "tokens": [one.trained_tokens for one in listed],
        **(
            {
                "used": [one.last_used for one in listed],
                "calls": [one.calls for one in listed],
                "usd": [None if one.usd is None else float(one.usd) for one in listed],
            }
            if usage
            else {}
        ),
        "base": [one.base_model for one in listed],
        "method": [_(_METHODS[one.method]) if one.method in _METHODS else one.method for one in listed],
        "status": [job_labels.status_word(one.status) for one in listed],
        "id": [one.model or one.id for one in listed],
    }
    st.dataframe(
        pd.DataFrame(columns),
        hide_index=True,
        height="content" if len(listed) <= _SHOWN_ROWS else _HEIGHT,
        column_config={
            "model": st.column_config.TextColumn(_("Model"), width=_NAME, pinned=True),
            "state": st.column_config.TextColumn(_("State"), help=_states()),
            "dark": st.column_config.DateColumn(_("Stops on"), format="YYYY-MM-DD"),
            "left": st.column_config.NumberColumn(_("Days left")),
            "base": st.column_config.TextColumn(_("Base model")),
            "method": st.column_config.TextColumn(_("Method")),
            "rows": st.column_config.NumberColumn(
                _("Rows"), format="localized", help=_("Rows to train on; known once archived.")
            ),
            "tokens": st.column_config.NumberColumn(_("Tokens"), format="localized", help=_("Billed training tokens.")),
            "used": st.column_config.DateColumn(_("Last used"), format="YYYY-MM-DD", help=_("In the last 180 days.")),
            "calls": st.column_config.NumberColumn(_("Calls"), format="localized", help=_("In the last 30 days.")),
            "usd": st.column_config.NumberColumn(
                _("Cost (USD)"), format="%.2f", help=_("In the last 30 days, at list prices.")
            ),
            "status": st.column_config.TextColumn(_("Job")),
            "id": st.column_config.TextColumn(_("Model id"), width=340),
            "note": st.column_config.TextColumn(_("What is missing, and what to do"), width=360),
        },
        placeholder="",
        alt=_("Tuned models"),
    )


def lost(files: Sequence[LostFile]) -> None:
    """Render the files that could not be archived."""
    if not files:
        return
    title = n_("{n} file could not be archived", "{n} files could not be archived", len(files))
    with st.expander(title, icon=":material/warning:", key="move_lost"):
        for one in files[:_MOST_LOST]:
            st.markdown(f"- {as_markdown(one.reason or one.filename)}")
        if len(files) > _MOST_LOST:
            st.caption(_("and {n} more").format(n=len(files) - _MOST_LOST))
        st.caption(_("The table names the models that need them, and what can still be done."))


def _states() -> str:
    return " → ".join(_(STATE_NAMES[one]) for one in tunes.STATES)
