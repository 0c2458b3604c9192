"""The audit log, for admins: who did what, with filters and a CSV export."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import streamlit as st

from core.actor import Actor
from core.db.store import Store
from core.db.tables import utcnow
from core.people import audit
from core.people.audit import AuditFilter
from pages.ui import cache
from pages.ui.components import cards
from pages.ui.components.fields import text_field
from pages.ui.i18n import _, mark, n_
from pages.ui.sign_in import current_actor, is_team

_DAYS = {"week": 7, "month": 31, "year": 366, "all": None}
_PERIODS = {"week": mark("Last 7 days"), "month": mark("Last 31 days"), "year": mark("Last year"), "all": mark("All")}
_MOST = 200  # entries in the table; the file has all of them
_LONGEST_SEARCH = 100  # characters


def card() -> None:
    """The card; nothing in local mode, and for people who are not admins."""
    if not is_team() or not current_actor().has("admin"):
        return
    shown = st.expander(_("Audit log"), icon=":material/history:", key="settings_audit", on_change="rerun")
    if shown.open:
        with shown, cards.show_errors():
            _log(cache.store(), current_actor())


def _log(store: Store, actor: Actor) -> None:
    where = _filter(store, actor)
    found = audit.search(store, actor, where, _MOST)
    if not found:
        st.caption(_("No entries."))
        return
    st.dataframe(
        pd.DataFrame(
            {
                "at": [line.at for line in found],
                "person": [line.person for line in found],
                "action": [line.action for line in found],
                "arguments": [line.arguments for line in found],
                "changes": [line.changes for line in found],
                "origin": [line.origin for line in found],
            }
        ),
        hide_index=True,
        height="content" if len(found) <= 12 else 440,
        column_config={
            "at": st.column_config.DatetimeColumn(_("Time (UTC)"), format="YYYY-MM-DD HH:mm:ss", pinned=True),
            "person": st.column_config.TextColumn(_("Person")),
            "action": st.column_config.TextColumn(_("Action")),
            "arguments": st.column_config.TextColumn(_("Arguments"), width=260),
            "changes": st.column_config.TextColumn(_("Old and new values"), width=260),
            "origin": st.column_config.TextColumn(_("Address and browser")),
        },
        alt=_("Audit log"),
    )
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(n_("The newest {n} entry", "The newest {n} entries", len(found)) if len(found) == _MOST else "")
        st.download_button(
            _("Download as CSV"), data=lambda: audit.export(store, actor, where), file_name="fabula_audit.csv",
            mime="text/csv", icon=":material/download:", key="settings_audit_export", on_click="ignore",
        )  # fmt: skip


def _filter(store: Store, actor: Actor) -> AuditFilter:
    members = audit.people(store, actor)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = text_field(
            _("Search"), "settings_audit_words", _LONGEST_SEARCH, placeholder=_("A name, an id, an e-mail address"),
            width=280,
        )  # fmt: skip
        person = st.selectbox(
            _("Person"), ["", *members], format_func=lambda one: members.get(one, _("All")),
            key="settings_audit_person", width=220,
        )  # fmt: skip
        action = st.selectbox(
            _("Action"), ["", *audit.actions(store, actor)], format_func=lambda name: name or _("All"),
            key="settings_audit_action", width=260,
        )  # fmt: skip
        period = st.selectbox(
            _("Period"), list(_PERIODS), format_func=lambda name: _(_PERIODS[name]), key="settings_audit_period",
            width=160,
        )  # fmt: skip
    days = _DAYS[str(period)]
    since = None if days is None else utcnow() - timedelta(days=days)
    return AuditFilter(person or None, action or None, since, words or "")
