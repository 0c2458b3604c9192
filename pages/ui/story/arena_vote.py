"""The vote on a round: choose the best story, then show the winner and the names; and the ranking of the models."""

from __future__ import annotations

import streamlit as st

from core.pricing import quality
from core.pricing.quality import Quality
from core.stories import arena, exports, vote_pairs
from core.stories.arena import LETTERS, Round
from pages.ui import cache, state
from pages.ui.components import cards, shutdown_notes
from pages.ui.i18n import _, code, label, listed, n_, number, percent
from pages.ui.sign_in import current_actor
from pages.ui.training import vote_training


def vote_of(round_: Round) -> tuple[bool, str | None]:
    """Whether this visitor has voted on the round, and for which story; None means for none of them."""
    return arena.get_vote(cache.store(), current_actor(), round_.id)


def heading(round_: Round, place: int, winner: str | None) -> str:
    """The heading of a pane: its letter if names are or were hidden, and a mark for the winner; may be ""."""
    best = f":green-badge[:material/trophy: {_('Your choice')}]" if round_.displayed[place].id == winner else ""
    return " ".join(part for part in (letter(round_, place), best) if part)


def letter(round_: Round, place: int) -> str:
    """What a story is called while the names are hidden, and beside its name afterwards; "" in other rounds."""
    return f"**{LETTERS[place]}**" if round_.blind else ""


def button(round_: Round, place: int) -> None:
    """Render the vote button of one pane, below it and of the same width."""
    story = round_.displayed[place]
    if story.text:
        name = LETTERS[place] if round_.blind else label(story.facts.model)
        st.button(
            _("{name} is best").format(name=name), icon=":material/trophy:", type="primary", width="stretch", wrap=True,
            key=f"story_vote_{place}", on_click=_cast, args=(round_, story.id),
        )  # fmt: skip


def none_button(round_: Round) -> None:
    """Render the button that prefers none of the stories, below all panes."""
    st.button(
        _("None of them"), icon=":material/block:", width="stretch", key="story_vote_none", on_click=_cast,
        args=(round_, None),
    )  # fmt: skip


def chosen(round_: Round, winner: str | None) -> None:
    """Render the choice and the names after the vote."""
    best = next((story for story in round_.stories if story.id == winner), None)
    lines = [
        _("You chose none of them.") if best is None else _("You chose {model}.").format(model=code(best.facts.model))
    ]
    if round_.blind:
        names = [f"**{LETTERS[place]}** {code(story.facts.model)}" for place, story in enumerate(round_.displayed)]
        lines.append(" · ".join(names))
    st.success("\n\n".join(lines), icon=":material/trophy:" if best else ":material/block:")


def tally() -> None:
    """Render the ranking of the models after all blind rounds, and the preference pairs."""
    found = arena.standings(cache.store())
    if not found:
        with cards.empty(
            _("No blind votes yet. Write with two models, hide their names, and vote."),
            icon=":material/how_to_vote:",
        ):
            st.button(_("Compare models"), type="primary", key="story_first_vote", on_click=_compare)
    else:
        _table(found)
    _pairs()


def _table(found: list[arena.Standing]) -> None:
    st.markdown(_leader(found))
    st.table(
        {
            _("Model"): [code(one.model) for one in found],
            _("Rounds"): [number(one.rounds) for one in found],
            _("Preferred"): [number(one.wins) for one in found],
            _("Share"): [percent(one.share, 0) for one in found],
            _("95 % interval"): [f"{percent(one.low, 0)} – {percent(one.high, 0)}" for one in found],
        },
        border="horizontal",
        alt=_("Ranking after all blind rounds"),
    )
    shutdown_notes.show_all((one.provider, one.model, None) for one in found)
    st.caption(_("Only blind rounds between different models count. The cost page shows the result next to prices."))


def _leader(found: list[arena.Standing]) -> str:
    """The best model, by the rule of the cost page: only if the 95 % intervals do not overlap."""
    measured = [
        Quality(one.provider, one.model, "votes", "votes", one.share, one.low, one.high, one.rounds, None)
        for one in found
    ]
    first = quality.leader(measured)
    assert first is not None  # at least one model has votes
    facts = {
        "model": code(first.best.model),
        "share": percent(first.best.share, 0),
        "rounds": n_("{n} blind round", "{n} blind rounds", first.best.n),
    }
    if first.clear:
        return _("Best so far: {model}, preferred in {share} of {rounds} (95 % interval: {low} to {high}).").format(
            low=percent(first.best.low, 0), high=percent(first.best.high, 0), **facts
        )
    others = listed(code(one.model) for one in first.rivals)
    return _(
        "No clear winner yet: {model} was preferred in {share} of {rounds}, but the 95 % interval overlaps with "
        "{others}. More blind rounds narrow it."
    ).format(others=others, **facts)


def _pairs() -> None:
    """Render preferred and other stories, as lines for preference training."""
    votes = vote_pairs.from_votes(cache.store(), current_actor())
    found = votes.pairs
    if not found:
        return
    st.markdown(
        n_("**{n} pair for preference training (DPO)**", "**{n} pairs for preference training (DPO)**", len(found))
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        vote_training.button(votes, key="story_pairs_train", primary=True)
        for form, label in (("openai", _("For OpenAI")), ("trl", _("For TRL"))):
            st.download_button(
                label,
                "".join(exports.preferences(found, "trl" if form == "trl" else "openai")),
                f"preferences_{form}.jsonl",
                "application/jsonl",
                icon=":material/download:",
                key=f"story_pairs_{form}",
                on_click="ignore",
            )
    vote_training.left_out(votes)


def _cast(round_: Round, winner: str | None) -> None:
    with cards.keep_errors():
        order = [story.id for story in round_.displayed if story.text]
        arena.cast_vote(cache.store(), current_actor(), round_.id, order, winner, blind=round_.blind)


def _compare() -> None:
    state.set_value("story_part", "write")
    state.set_value("story_compare", True)
    state.set_value("story_blind", True)
