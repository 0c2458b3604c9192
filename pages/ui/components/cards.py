"""Cards for errors and empty states, notices, and undo of the last action."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, cast

import streamlit as st

from core import errors
from core.actor import Actor
from core.db.store import Store
from core.jobs import engine_supervisor
from core.pricing.budget import Scope
from pages.ui import cache, state
from pages.ui.components import budget_notes
from pages.ui.i18n import _, as_markdown, mark, sentences
from pages.ui.sign_in import current_actor

_HEADLINES: tuple[tuple[type[errors.FabulaError], str, str], ...] = (
    (errors.EngineMissing, ":material/memory:", mark("The engine is not installed")),
    (errors.ModelNotFound, ":material/search_off:", mark("Model not found")),
    (errors.RateLimited, ":material/hourglass_top:", mark("Rate limit reached")),
    (errors.Unavailable, ":material/cloud_off:", mark("The provider is not responding")),
    (errors.Misconfigured, ":material/settings_ethernet:", mark("The connection is not set up correctly")),
    (errors.Refused, ":material/key_off:", mark("The provider rejected the request")),
    (errors.StreamCut, ":material/content_cut:", mark("The stream was interrupted")),
    (errors.PromptTooLong, ":material/content_cut:", mark("The prompt is too long")),
    (errors.BadRequest, ":material/block:", mark("The provider could not process this request")),
    (errors.ProviderError, ":material/cloud_off:", mark("The provider answered with an error")),
    (
        errors.StorageFull,
        ":material/storage:",
        mark("Fabula cannot save: the disk is full or read-only, or the database is lost or unavailable"),
    ),
    (errors.BadFile, ":material/description:", mark("This file can't be used yet")),
    (errors.BadRecipe, ":material/grid_off:", mark("This grid cannot be generated yet")),
    (errors.OverBudget, ":material/savings:", mark("This would exceed a budget")),
    (errors.NotFound, ":material/search_off:", mark("No longer available")),
    (errors.NotAllowed, ":material/lock:", mark("You may not do this")),
    (errors.ChangedMeanwhile, ":material/group:", mark("Changed by someone else")),
)
_SAVED_IS_SAFE = mark("Everything saved so far is kept; paid requests stop until Fabula can save again.")


P = ParamSpec("P")


def error_card(error: errors.FabulaError, key: str | None = None) -> None:
    """Render an error: what happened, what to do, and what is safe if data is at risk. Every page uses this card.

    Args:
        key: with it, a person whom a budget has stopped also gets a button that asks the admins for more.
    """
    icon, headline = next(
        ((icon, headline) for kind, icon, headline in _HEADLINES if isinstance(error, kind)),
        (":material/error:", mark("Something went wrong")),
    )
    lines = [f"**{_(headline)}**", as_markdown(error.what)]
    # only views of a run can tell what was kept; elsewhere, nothing may have run yet
    if isinstance(error, errors.StorageFull):
        lines.append(_(_SAVED_IS_SAFE))
    if error.next_step:
        lines.append(f":material/arrow_forward: {as_markdown(error.next_step)}")
    st.error("\n\n".join(lines), icon=icon)
    if key is not None and isinstance(error, errors.OverBudget) and error.scope is not None:
        budget_notes.ask_button(key, cast(Scope, error.scope), missing_usd=error.missing_usd)


def hint(error: errors.FabulaError) -> None:
    """Render an error as one line of small text, where a card is too large."""
    st.caption(f":material/info: {sentences(as_markdown(error.what), as_markdown(error.next_step))}")


@contextmanager
def keep_errors() -> Iterator[None]:
    """For callbacks, which run before rendering: store the error and show its card at the top of the page."""
    try:
        yield
    except errors.FabulaError as error:
        state.studio().problem = error
    finally:
        cache.refresh()


def act(action: Callable[Concatenate[Store, Actor, P], object], *args: P.args, **kwargs: P.kwargs) -> None:
    """For callbacks: run a core action for this visitor, with `keep_errors`."""
    with keep_errors():
        action(cache.store(), current_actor(), *args, **kwargs)


@contextmanager
def show_errors() -> Iterator[None]:
    """Show a `FabulaError` as a card, in place. Every other error is a bug and is raised."""
    try:
        yield
    except errors.FabulaError as error:
        error_card(error)


def engine_missing_card() -> None:
    """Render what to install if the engine's packages are missing."""
    with st.container(border=True):
        st.markdown(f":material/memory: **{_('The engine is not installed')}**")
        st.markdown(
            _(
                "You need it to write and train on this machine. Everything else works without it: "
                "grids, files, prices, charts."
            )
        )
        st.code(engine_supervisor.INSTALL, language="bash")
        st.caption(_("The engine then starts within 30 seconds. Or add a provider under Settings → Providers."))


@contextmanager
def empty(sentence: str, *, icon: str) -> Iterator[None]:
    """An empty state: one sentence, and below it the button that the block renders."""
    with st.container(border=True, horizontal_alignment="center", gap="small"):
        st.space("small")
        st.markdown(f"## :gray[{icon}]", text_alignment="center", anchors=False)
        st.markdown(sentence, text_alignment="center")
        yield
        st.space("small")


def draw_page_if_left() -> None:
    """In a fragment: rerun the whole page if the last click left a notice or an error (see below)."""
    studio = state.studio()
    if studio.notice is not None or studio.problem is not None:
        st.rerun()


def show_last_action() -> None:
    """Show the notice of the last click as a toast, or the card of its error.

    The placeholder is rendered even without a card: it clears the previous run's card immediately, even if this run
    lasts as long as a story is being written.
    """
    studio, place = state.studio(), st.empty()
    if studio.notice is not None:
        (icon, sentence), studio.notice = studio.notice, None
        st.toast(sentence, icon=icon)
    if studio.problem is not None:
        problem, studio.problem = studio.problem, None
        st.toast(as_markdown(problem.what), icon=":material/error:", duration="long")  # the card may be out of view
        with place.container():
            error_card(problem, "problem_ask_budget")


@dataclass(frozen=True)
class Undo:
    """The action in the visitor's language, its page, and the function that reverts it."""

    sentence: str
    act: Callable[[], object]
    page: str


def offer_undo(icon: str, sentence: str, act: Callable[[], object], *, page: str = "dataset") -> None:
    """Show a notice, and offer undo until the next action."""
    state.notify(icon, sentence)
    state.studio().undo = Undo(sentence, act, page)


def undo_button(page: str = "dataset") -> None:
    """Show the undo button on the page where the action was taken."""
    last: Undo | None = state.studio().undo
    if last is not None and last.page == page:
        st.button(
            _("Undo: {what}").format(what=last.sentence),
            icon=":material/undo:",
            type="tertiary",
            key=f"{page}_undo",
            on_click=_undo,
        )


def forget_undo() -> None:
    """Discard the undo, because another data set was opened."""
    state.studio().undo = None


def _undo() -> None:
    studio = state.studio()
    last: Undo | None = studio.undo
    studio.undo, studio.table = None, studio.table + 1
    if last is not None:
        with keep_errors():
            last.act()
            state.notify(":material/undo:", _("Undone"))
