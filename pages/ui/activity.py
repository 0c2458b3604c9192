"""Recent activity of all stages, newest first."""

from __future__ import annotations

from datetime import datetime

import streamlit as st

from core.db.tables import utcnow
from core.stories import library
from pages.ui import cached
from pages.ui.lang import _, ago, n_, plain
from pages.ui.training.job_view import STATUSES

_SHOWN = 6


def show() -> None:
    """Draw a few lines; nothing if there is no activity."""
    lines: list[tuple[datetime, str, str]] = []
    for one in cached.dataset_list()[:_SHOWN]:
        rows = n_("{n} row", "{n} rows", one.total)
        lines.append((one.created_at, ":material/grid_view:", f"{plain(one.name)} · {rows}"))
    for job in cached.job_list()[:_SHOWN]:
        status = _(STATUSES.get(job.status, job.status))
        lines.append((job.updated_at, ":material/model_training:", f"{plain(job.name)} · {status}"))
    for story in library.recent(cached.store(), _SHOWN):
        if first := story.text.strip().partition("\n")[0]:
            lines.append((story.at, ":material/auto_stories:", plain(first[:60])))
    if not lines:
        return
    now = utcnow()
    st.markdown(_("**Recent activity**"))
    with st.container(gap="xxsmall"):
        for time, icon, words in sorted(lines, reverse=True)[:_SHOWN]:
            st.caption(f"{icon} {words} · {ago(time, now)}")
