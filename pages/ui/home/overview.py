"""Four cards in workflow order, each with its latest figure and one next step; recent activity."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import streamlit as st

from core.db.tables import utcnow
from core.pricing.budget import month_start
from core.pricing.prices import ENGINE
from core.stories import library
from pages.ui import cache, state, visible
from pages.ui.components import cards, views
from pages.ui.components.money import total_spent
from pages.ui.cost import cached_cost
from pages.ui.i18n import _, ago, n_, number, pair, percent, plain
from pages.ui.sign_in import current_actor
from pages.ui.training import cached_training, job_labels, job_list
from pages.ui.training.job_labels import STATUSES

_LOOK_S = 3.0  # figures of a whole stage change slowly
_RECENT = 6  # lines of recent activity


@dataclass(frozen=True, slots=True)
class Card:
    """One stage of the workflow: its figure, a sentence about it, and the next step.

    The button opens `part` of that page, with `opened`: the id of the data set or job that the sentence is about.
    """

    title: str
    icon: str
    label: str
    figure: str
    sentence: str
    step: str
    page: str
    part: tuple[str, str] | None = None
    opened: str | None = None


def show() -> None:
    """Render all four cards; they are updated while the worker runs."""
    busy = cache.status().worker
    st.fragment(run_every=_LOOK_S if busy.running or busy.queued else None)(_cards)()


def _cards() -> None:
    with cards.show_errors(), st.grid(4, min_column_width=240):
        for card in (_dataset(), _training(), _cost(), _story()):
            with st.container(border=True, height="stretch"):
                st.markdown(f"{card.icon} **{card.title}**")
                views.metric(card.label, card.figure)
                st.caption(plain(card.sentence))
                st.space("stretch")
                if st.button(card.step, key=f"home_{card.page}", width="stretch"):
                    _go(card)


def _go(card: Card) -> None:
    if card.part is not None:
        state.set_value(*card.part)
    if card.opened is not None and card.page == "dataset":
        state.set_value("dataset_open", card.opened)
    elif card.opened is not None:
        job_list.open_from_elsewhere(card.opened)
    st.switch_page(f"{card.page}.py")


def _dataset() -> Card:
    found = visible.dataset_list()
    ready = sum(one.done for one in found)
    if not found:
        sentence, step, part = _("No data set yet."), _("Design a grid"), "design"
    elif found[0].done < found[0].total:
        sentence = _("{name}: {done} of {total}").format(
            name=found[0].name, done=number(found[0].done), total=number(found[0].total)
        )
        step, part = _("View the run"), "rows"
    else:
        sentence = n_("{n} data set", "{n} data sets", len(found))
        step, part = _("View the rows"), "rows"
    return Card(
        _("Data set"), ":material/grid_view:", _("Rows ready"), number(ready), sentence, step, "dataset",
        ("dataset_part", part), found[0].id if found else None,
    )  # fmt: skip


def _training() -> Card:
    """The newest job, and the accuracy of the newest job that has measured one."""
    found = visible.job_list()
    measured = next((job for job in found if cached_training.summary(job).headline is not None), None)
    figure = cached_training.summary(measured).headline if measured is not None else None
    if not found:
        sentence, step, part = _("No job yet."), _("Train a model"), "new"
    else:
        sentence = pair(found[0].name, _(STATUSES.get(found[0].status, found[0].status)))
        if left := job_labels.time_left(found[0], utcnow()):
            sentence += f" · {left}"
        step, part = (_("View the curve") if found[0].finished else _("View progress")), "jobs"
        if measured is not None and measured.id != found[0].id:
            sentence += " · " + _("accuracy of {job}").format(job=measured.name)
    return Card(
        _("Training"), ":material/model_training:", job_labels.named(_("Token accuracy"), figure),
        "–" if figure is None else percent(figure.value), sentence, step, "training", ("training_part", part),
        found[0].id if found else None,
    )  # fmt: skip


def _cost() -> Card:
    lines = cached_cost.by_period((month_start(utcnow()),), cached_cost.tomorrow())
    calls = sum(line.calls for line in lines)
    sentence = n_("{n} call", "{n} calls", calls)
    on_engine = sum(line.unknown for line in lines if line.provider == ENGINE)
    if on_engine and on_engine == calls:
        sentence = _("{calls}, all of them machine time").format(calls=sentence)
    elif unknown := sum(line.unknown for line in lines):
        sentence = _("{calls}, {unknown} of them with an unknown cost").format(calls=sentence, unknown=number(unknown))
    return Card(
        _("Cost"), ":material/payments:", _("Spent this month"), total_spent(lines), sentence,
        _("Compare prices"), "cost",
    )  # fmt: skip


def _story() -> Card:
    found = library.recent(cache.store(), 1, current_actor())
    if not found:
        return Card(
            _("Story"), ":material/auto_stories:", _("Last story"), "–", _("No stories yet."),
            _("Write a story"), "story", ("story_part", "write"),
        )  # fmt: skip
    text = found[0].text.strip()
    first_line = text.partition("\n")[0]  # empty for a story that has not started
    return Card(
        _("Story"), ":material/auto_stories:", _("Characters in the last story"), number(len(text)),
        first_line[:40] + ("…" if len(first_line) > 40 else ""), _("Write another"), "story", ("story_part", "write"),
    )  # fmt: skip


def recent_activity() -> None:
    """Render a few lines; nothing if there is no activity."""
    lines: list[tuple[datetime, str, str]] = []
    for one in visible.dataset_list()[:_RECENT]:
        rows = n_("{n} row", "{n} rows", one.total)
        lines.append((one.created_at, ":material/grid_view:", f"{plain(one.name)} · {rows}"))
    for job in visible.job_list()[:_RECENT]:
        status = _(STATUSES.get(job.status, job.status))
        lines.append((job.updated_at, ":material/model_training:", f"{plain(job.name)} · {status}"))
    for story in library.recent(cache.store(), _RECENT, current_actor()):
        if first := story.text.strip().partition("\n")[0]:
            lines.append((story.created_at, ":material/auto_stories:", plain(first[:60])))
    if not lines:
        return
    now = utcnow()
    st.markdown(_("**Recent activity**"))
    with st.container(gap="xxsmall"):
        for time, icon, words in sorted(lines, reverse=True)[:_RECENT]:
            st.caption(f"{icon} {words} · {ago(time, now)}")
