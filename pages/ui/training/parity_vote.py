"""Blind votes on a parity card: the page that a person opens by a link, and the result on the card.

The page shows a prompt and both answers in random order. It names no model, before or after the vote.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import streamlit as st

from core.errors import FabulaError
from core.evaluation import evaluations
from core.evaluation.evaluations import EvaluationView
from core.message import msg
from core.parity import vote_pairs, votes
from core.parity.preference import VoteResult
from core.parity.votes import Ballot, Place
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.i18n import _, as_markdown, n_, number
from pages.ui.sign_in import current_actor
from pages.ui.training import vote_training
from pages.ui.training.evaluation_results import share

_IN_ADDRESS = "vote"
_KEY = "training_vote"
_ANSWER_HEIGHT = 320  # pixels
_LONG = 300  # characters: longer answers scroll, so that the buttons stay in sight


def opened() -> bool:
    """Whether this page was opened by a link to vote."""
    return bool(st.query_params.get(_IN_ADDRESS))


def show() -> None:
    """Render the next row to vote on, or that there is none left."""
    st.button(_("Close"), icon=":material/close:", type="tertiary", key=f"{_KEY}_close", on_click=_close)
    with cards.show_errors():
        old, new = _pair(str(st.query_params.get(_IN_ADDRESS, "")))
        ballot = votes.next_ballot(cache.store(), current_actor(), old, new)
        st.subheader(_("Which answer is better?"))
        if ballot is None:
            st.success(_("You have voted on all rows. Thank you."), icon=":material/how_to_vote:")
            return
        _ballot(old, new, ballot)


def on_card(old: EvaluationView, new: EvaluationView, margin: float) -> VoteResult | None:
    """Render the result of the votes and the link to vote. Returns the result; None if there are no votes."""
    found = votes.result(cache.store(), old, new, margin)
    if found is not None and found.preference is not None:
        said = as_markdown(found.preference.sentence)
        st.markdown(":material/how_to_vote: " + _("**Blind votes:** {verdict}").format(verdict=said))
        facts = [
            _("difference {share}").format(share=share(found.preference.difference)),
            n_("{n} vote", "{n} votes", found.votes),
            n_("{n} person", "{n} people", found.people),
        ]
        st.caption(" · ".join(facts))
        pairs = vote_pairs.from_parity_votes(cache.store(), current_actor(), old, new)
        vote_training.button(pairs, key=f"{_KEY}_train", primary=False)
        vote_training.left_out(pairs)
    with st.popover(_("Vote blind"), icon=":material/how_to_vote:", key=f"{_KEY}_link"):
        st.caption(
            _("People of your team who may read the data set can open this link. They see each prompt with both "
              "answers in random order, without names; equal answers are left out.")
        )  # fmt: skip
        address = _address(old, new)
        st.code(address, language=None, wrap_lines=True)
        st.link_button(_("Open"), address, icon=":material/open_in_new:")
    return found


def _ballot(old: EvaluationView, new: EvaluationView, ballot: Ballot) -> None:
    st.progress(
        ballot.voted / ballot.total,
        _("{n} of {total} rows").format(n=number(ballot.voted), total=number(ballot.total)),
    )
    st.code(ballot.prompt, language=None, wrap_lines=True)
    long = max(len(ballot.left), len(ballot.right)) > _LONG
    for column, title, text in zip(
        st.columns(2), (_("Left answer"), _("Right answer")), (ballot.left, ballot.right), strict=True
    ):
        with column, st.container(border=True, height=_ANSWER_HEIGHT if long else "content"):
            st.markdown(f"**{title}**")
            st.code(text or _("(empty)"), language=None, wrap_lines=True)
    with st.container(horizontal=True):
        for place, title, key in (
            ("left", _("Left is better"), "Left"),
            ("tie", _("Equally good"), "Down"),
            ("right", _("Right is better"), "Right"),
        ):
            st.button(
                title, key=f"{_KEY}_{place}", shortcut=key, on_click=_cast, args=(old, new, ballot.row_key, place)
            )


def _close() -> None:
    state.keep_in_address(_IN_ADDRESS, None)


def _cast(old: EvaluationView, new: EvaluationView, row_key: str, place: Place) -> None:
    with cards.keep_errors():
        votes.cast(cache.store(), current_actor(), old, new, row_key, place)


def _pair(named: str) -> tuple[EvaluationView, EvaluationView]:
    """The evaluations that a link names.

    Raises:
        NotFound: one of them does not exist.
        FabulaError: the link is not complete.
    """
    old_id, point, new_id = named.partition(".")
    if not point:
        raise FabulaError(msg("This link is not complete."), msg("Ask for a new link."))
    return evaluations.get(cache.store(), old_id), evaluations.get(cache.store(), new_id)


def _address(old: EvaluationView, new: EvaluationView) -> str:
    here = urlsplit(st.context.url or "")
    return f"{here._replace(query='', fragment='').geturl()}?{_IN_ADDRESS}={old.id}.{new.id}"
