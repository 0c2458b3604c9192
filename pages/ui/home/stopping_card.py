"""The models in use that stop soon, on the home page: also without a channel for alerts."""

from __future__ import annotations

from datetime import date

import streamlit as st

from core.db.tables import utcnow
from core.migrate import guard
from core.migrate.guard import StoppingModel
from core.pricing.shutdown import SOON_DAYS
from pages.ui import cache, visible
from pages.ui.cache import shared
from pages.ui.components import shutdown_notes
from pages.ui.i18n import _, code, listed, n_
from pages.ui.sign_in import current_actor

_READ_S = 60  # days pass slowly
_MOST_NAMES, _MOST_DAYS = 3, 3


def show() -> None:
    """Render one line for each day on which models in use stop; nothing if there are none."""
    today = utcnow().date()
    by_day = guard.by_day(_readable(_in_use(today)))
    if not by_day:
        return
    with st.container(border=True, key="home_stopping", gap="xsmall"):
        for day, models in list(by_day.items())[:_MOST_DAYS]:
            left = (day - today).days
            words = n_("{n} model in use stops", "{n} models in use stop", len(models))
            when = _("today") if left == 0 else n_("in {n} day", "in {n} days", left)
            names = listed(code(one) for one in models[:_MOST_NAMES])
            if len(models) > _MOST_NAMES:
                names = _("{names} and {n} more").format(names=names, n=f"{len(models) - _MOST_NAMES:,}")
            st.markdown(
                f":material/event_busy: **{words}** "
                + _("{when}, on {day}: {names}").format(when=when, day=day.isoformat(), names=names)
            )
        shutdown_notes.way_to_move()


def _readable(found: tuple[StoppingModel, ...]) -> list[StoppingModel]:
    """The models that this visitor may know: all of them for an admin, otherwise those that are offered to them."""
    if current_actor().has("admin") or not found:
        return list(found)
    offered = {info.id for info in visible.models().found}
    return [one for one in found if one.model in offered]


@shared(ttl=_READ_S, max_entries=4)
def _in_use(today: date) -> tuple[StoppingModel, ...]:
    now = utcnow()
    return tuple(one for one in guard.in_use(cache.store(), cache.prices(), now, SOON_DAYS) if one.day >= today)
