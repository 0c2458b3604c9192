"""Blind votes of people: random order, once per person and row, and what they prefer."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from sqlalchemy import select

from core import ownership
from core.actor import LOCAL, Actor
from core.datasets import datasets, export, versions
from core.db.store import Store
from core.db.tables import ParityVote
from core.errors import FabulaError, NotAllowed, NotFound
from core.evaluation import evaluations, preference_data
from core.evaluation.evaluations import EvaluationForm, EvaluationView
from core.ownership import Thing
from core.parity import vote_pairs, votes
from core.parity.votes import Place
from core.providers import CompletionRequest
from tests.support.fakes import BASE
from tests.support.scripted_evaluation import ScriptedModel, go

MARGIN = 0.05

Pair = tuple[EvaluationView, EvaluationView]
_PEOPLE = [Actor(name, name, "viewer") for name in ("ann", "ben", "cleo")]


@pytest.fixture
def pair(store: Store, form: EvaluationForm) -> Pair:
    """Evaluations with 24 rows, answered `old answer` and `new answer`."""
    ids = [
        evaluations.start(store, LOCAL, replace(form, model=model, system="Be brief.")) for model in (BASE, "new-model")
    ]
    for evaluation_id, text in zip(ids, ("old answer", "new answer"), strict=True):
        go(store, evaluation_id, ScriptedModel(functools.partial(_say, text)))
    found = evaluations.get(store, ids[0]), evaluations.get(store, ids[1])
    with pytest.raises(NotAllowed):  # the data set is still private
        votes.next_ballot(store, _PEOPLE[0], *found)
    ownership.share(store, LOCAL, Thing("dataset", form.dataset_id), "team_read")
    return found


def _say(text: str, request: CompletionRequest) -> str:
    return text


def _vote_for(store: Store, person: Actor, pair: Pair, text: str, rows: int) -> list[str]:
    """Vote on so many rows for the side that shows the text. Returns the left answers."""
    lefts = []
    for _ in range(rows):
        ballot = votes.next_ballot(store, person, *pair)
        assert ballot is not None and {ballot.left, ballot.right} == {"old answer", "new answer"}
        lefts.append(ballot.left)
        place: Place = "tie" if text == "tie" else "left" if ballot.left == text else "right"
        votes.cast(store, person, *pair, ballot.row_key, place)
    return lefts


def test_each_person_votes_once_on_each_row_in_random_order(store: Store, pair: Pair) -> None:
    ann, ben, cleo = _PEOPLE
    lefts = _vote_for(store, ann, pair, "new answer", 24)
    assert {"old answer", "new answer"} == set(lefts)  # the side of a model can't be learned
    assert votes.next_ballot(store, ann, *pair) is None
    first = votes.next_ballot(store, ben, *pair)
    assert first is not None and first == votes.next_ballot(store, ben, *pair) and (first.voted, first.total) == (0, 24)
    votes.cast(store, ben, *pair, first.row_key, "tie")
    votes.cast(store, ben, *pair, first.row_key, "left")  # too late
    with store.reading() as session:
        assert session.scalars(select(ParityVote.choice).where(ParityVote.actor == "ben")).all() == ["tie"]
    after = votes.next_ballot(store, cleo, *pair)
    assert after is not None and after.row_key != first.row_key  # rows with fewer votes come first
    with pytest.raises(NotFound):
        votes.cast(store, ann, *pair, "no row", "left")


def test_a_row_counts_once_however_many_people_voted(store: Store, pair: Pair) -> None:
    assert votes.result(store, *pair, MARGIN) is None
    ann, ben, cleo = _PEOPLE
    _vote_for(store, ann, pair, "new answer", 24)
    _vote_for(store, ben, pair, "new answer", 24)
    _vote_for(store, cleo, pair, "old answer", 24)
    found = votes.result(store, *pair, MARGIN)
    assert found is not None and found.preference is not None
    assert (found.people, found.votes) == (3, 72)
    assert (found.preference.wins, found.preference.ties, found.preference.losses) == (24, 0, 0)
    assert votes.result(store, pair[1], pair[0], MARGIN) is None


def test_the_answers_that_most_people_preferred_become_a_data_set_to_train_on(store: Store, pair: Pair) -> None:
    ann, ben, _cleo = _PEOPLE
    _vote_for(store, ann, pair, "new answer", 24)
    _vote_for(store, ben, pair, "old answer", 3)
    _vote_for(store, ben, pair, "tie", 1)
    found = vote_pairs.from_parity_votes(store, ann, *pair)
    assert (len(found.pairs), found.undecided, found.unusable) == (21, 3, 0)
    made = preference_data.save(store, LOCAL, "votes", found.pairs)
    version = versions.get(store, made.version_id)
    assert (version.n_train, version.n_validation) == (19, 2)
    assert preference_data.voted_models(store, made.dataset_id) == ("new-model", BASE)
    chosen = export.Selection(store, made.dataset_id, made.version_id)
    assert datasets.system_message(store, made.dataset_id) == "Be brief."
    assert {(row.preferred, row.rejected) for row in chosen.preferences()} == {("new answer", "old answer")}


def test_votes_that_balance_are_ties(store: Store, pair: Pair) -> None:
    ann, ben, _cleo = _PEOPLE
    _vote_for(store, ann, pair, "new answer", 24)
    _vote_for(store, ben, pair, "old answer", 24)
    found = votes.result(store, *pair, MARGIN)
    assert found is not None and found.preference is not None and found.preference.ties == 24
    with pytest.raises(FabulaError, match="can't be compared"):
        votes.next_ballot(store, ann, pair[0], pair[0])
