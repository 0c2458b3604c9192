"""The last day of a model wherever one is shown or chosen: a few words in lists, and a note with a link to Move.

Under a table of several models, one note names them all. The dates come from `core.pricing.shutdown`. Nothing is
rendered for models of the engine, and for those with more than `shutdown.SOON_DAYS` left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import date

import streamlit as st

from core.actor import Actor
from core.db.tables import utcnow
from core.errors import FabulaError
from core.pricing import shutdown, stopped_models
from core.pricing.price_book import PriceBook
from core.pricing.prices import ENGINE
from core.pricing.shutdown import Notice, Shutdown
from core.providers import ModelInfo
from pages.ui import cache
from pages.ui.cache import shared
from pages.ui.i18n import _, as_markdown, code, listed, n_, sentences
from pages.ui.sign_in import current_actor

_ANNOUNCED_S = 5  # as long as the list of models, whose dates it has
_NEXT_STEP_S = 30
_MOST_NAMES = 3  # in a note about several models


def notice_of(provider: str, model: str, base: str | None = None, *, book: PriceBook | None = None) -> Notice | None:
    """The notice about a model; None if there is nothing to say.

    Args:
        base: the model it was tuned from, if its name does not say so.
        book: the prices, for callers that ask about many models.
    """
    found = last_day(provider, model, base, book=book)
    return None if found is None else shutdown.notice(found.day, utcnow().date())


def last_day(provider: str, model: str, base: str | None = None, *, book: PriceBook | None = None) -> Shutdown | None:
    """When a model stops, even if that is far away; None if no date is known. Arguments: see `notice_of`."""
    if provider == ENGINE:
        return None
    return shutdown.of(model, base, _announced(provider), book or cache.prices(), provider)


def with_date(label: str, notice: Notice | None) -> str:
    """A label for a list of models, with the date if there is one to say: after the name, because lists are narrow."""
    if notice is None:
        return label
    name, _dot, rest = label.partition(" · ")
    return " · ".join(part for part in (name, words(notice), rest) if part)


def words(notice: Notice) -> str:
    """A model's last day in two words, for lists and tables."""
    template = _("stopped {day}") if notice.kind == "dark" else _("stops {day}")
    return template.format(day=notice.day.isoformat())


def of_info(info: ModelInfo, book: PriceBook | None = None) -> Notice | None:
    """The notice about a model that a provider offers."""
    return notice_of(info.provider, info.id, info.base, book=book)


def show(provider: str, model: str, base: str | None = None) -> None:
    """Render what a person has to know about a model's last day; nothing if there is nothing to say."""
    notice = notice_of(provider, model, base)
    if notice is not None:
        line(sentence(notice, model))


def show_all(models: Iterable[tuple[str, str, str | None]]) -> None:
    """Render the same for several models, with one line for each last day and one link; nothing if there is nothing to
    say.

    Args:
        models: provider, model and base of each; the base is None if it is unknown, or the name says it.
    """
    book = cache.prices()
    by_notice: dict[Notice, list[str]] = {}
    for provider, model, base in dict.fromkeys(models):
        notice = notice_of(provider, model, base, book=book)
        if notice is not None and model not in by_notice.setdefault(notice, []):
            by_notice[notice].append(model)
    if not by_notice:
        return
    said = sorted(by_notice.items(), key=lambda one: one[0].day)
    line("  \n:material/event_busy: ".join(f"{_names(names)} · {_about(notice, names)}" for notice, names in said))


def named(provider: str, model: str, *, book: PriceBook | None = None) -> str:
    """A model's name for a table or list, with its last day if there is one to say."""
    return with_date(model, notice_of(provider, model, book=book))


def _names(models: list[str]) -> str:
    names = listed(code(one) for one in models[:_MOST_NAMES])
    more = len(models) - _MOST_NAMES
    return _("{names} and {n} more").format(names=names, n=f"{more:,}") if more > 0 else names


def _about(notice: Notice, models: list[str]) -> str:
    """The notice about these models; what to do instead of a stopped one is said only if it is the only one."""
    if notice.kind == "soon" or len(models) == 1:
        return sentence(notice, models[0])
    return words(notice)


def gone(provider: str, model: str) -> bool:
    """Render that a model which was chosen earlier has stopped, so that another one is chosen; False if it has not."""
    notice = notice_of(provider, model)
    if notice is None or notice.kind != "dark":
        return False
    line(f"{code(model)} · {sentence(notice, model)}")
    return True


def sentence(notice: Notice, model: str) -> str:
    """The notice in a sentence or two, in Markdown."""
    day = notice.day.isoformat()
    if notice.kind == "soon":
        if notice.days_left == 0:
            return _("Stops today, {day}.").format(day=day)
        left = n_("{n} day left", "{n} days left", notice.days_left)
        return _("Stops on {day}, {left}.").format(day=day, left=left)
    kept = _("Stopped on {day}. Its answers, curves and data here are kept.").format(day=day)
    with suppress(FabulaError):
        return sentences(kept, as_markdown(_next_step(model, current_actor(), utcnow().date())))
    return kept


def line(text: str) -> None:
    """Render a sentence about a model that stops, with the way to Move."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(f":material/event_busy: {text}", width="content")
        way_to_move()


def way_to_move() -> None:
    """Render the link to Move; for people who can't use that page, who can."""
    if current_actor().has("admin"):
        st.page_link("move.py", label=_("Open Move"), icon=":material/move_to_inbox:", width="content")
    else:
        st.caption(_("Admins can archive and replace models on the page Move."), width="content")


@shared(ttl=_ANNOUNCED_S, max_entries=32)
def _announced(provider: str) -> Mapping[str, date]:
    """The dates that a provider names for its models, and those of archived accounts."""
    listed = {info.id: info.shutdown for info in cache.models().found if info.provider == provider}
    with cache.store().reading() as session:
        archived = stopped_models.announced(session)
    return archived | {model: day for model, day in listed.items() if day is not None}


@shared(ttl=_NEXT_STEP_S, max_entries=64, key=lambda model, reader, today: (model, reader.id, today))
def _next_step(model: str, reader: Actor, today: date) -> str:
    with cache.store().reading() as session:
        return stopped_models.next_step(session, cache.prices(), model, today, reader)
