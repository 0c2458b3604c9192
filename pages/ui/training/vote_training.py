"""From votes to a training job: saves the pairs as a data set and opens the dialog for a new job with it."""

from __future__ import annotations

import streamlit as st

from core.db.tables import utcnow
from core.evaluation import preference_data
from core.stories.vote_pairs import VotePairs
from pages.ui import cache, state
from pages.ui.components import cards
from pages.ui.i18n import _, listed, n_
from pages.ui.sign_in import current_actor


def button(votes: VotePairs, *, key: str, primary: bool) -> None:
    """Render the button that trains a model on these votes."""
    if st.button(
        _("Train on these votes"), icon=":material/model_training:", type="primary" if primary else "secondary",
        key=key, disabled=not votes.pairs,
        help=_("Saves the pairs as a data set and opens the form of a new job. Nothing is trained yet."),
    ):  # fmt: skip
        with cards.show_errors():
            _open(votes)


def left_out(votes: VotePairs) -> None:
    """Render the votes that give no pair, and why."""
    found = (
        n_("{n} vote for none of the stories", "{n} votes for none of the stories", votes.none) if votes.none else "",
        n_(
            "{n} pair with as many votes for either answer",
            "{n} pairs with as many votes for either answer",
            votes.undecided,
        )
        if votes.undecided
        else "",
        n_(
            "{n} pair with equal, empty or deleted answers",
            "{n} pairs with equal, empty or deleted answers",
            votes.unusable,
        )
        if votes.unusable
        else "",
    )
    if any(found):
        st.caption(_("Not used: {parts}.").format(parts=listed(part for part in found if part)))


def _open(votes: VotePairs) -> None:
    name = _("Votes {day}").format(day=f"{utcnow():%Y-%m-%d}")
    saved = preference_data.save(cache.store(), current_actor(), name, votes.pairs)
    cache.refresh()
    state.set_value("training_dataset", saved.dataset_id)
    state.set_value(f"training_version_{saved.dataset_id}", saved.version_id)
    state.set_value("training_part", "new")
    sentence = n_("Data set created from {n} pair.", "Data set created from {n} pairs.", len(votes.pairs))
    state.notify(":material/how_to_vote:", sentence)
    st.switch_page("training.py")
