"""Votes on stories become a data set for preference training, in the format of the model that was voted on."""

from __future__ import annotations

from typing import Any

import pytest

from core.actor import LOCAL, Actor
from core.datasets import datasets, export
from core.datasets.preferences import PreferenceRow
from core.db.store import Store, new_id
from core.db.tables import Dataset, Story, Vote
from core.errors import BadTrainingFile
from core.evaluation import preference_data
from core.stories import vote_pairs
from tests.support.ledger_rows import put_dataset, put_job, put_story

_TUNED = "ft:tuned"


def _round(store: Store, number: int, *stories: dict[str, Any]) -> list[str]:
    return [
        put_story(store, 10 * number + place, round_id=f"r{number}", **story) for place, story in enumerate(stories)
    ]


def _vote(store: Store, round_id: str, stories: list[str], winner: str | None, actor: str = "local") -> None:
    with store.session() as session:
        session.add(Vote(id=new_id(), actor=actor, round_id=round_id, blind=True, story_ids=stories, winner_id=winner))


def test_several_people_decide_on_a_pair_together(store: Store) -> None:
    a, b, c = _round(store, 1, {"text": "a"}, {"text": "b"}, {"text": "c"})
    for person, winner in (("ann", a), ("ben", a), ("cleo", b)):
        _vote(store, "r1", [a, b, c], winner, person)
    d, e = _round(store, 2, {"text": "d"}, {"text": "e"})
    _vote(store, "r2", [d, e], d, "ann")
    _vote(store, "r2", [d, e], e, "ben")
    f, g = _round(store, 3, {"text": "same"}, {"text": "same "})
    _vote(store, "r3", [f, g], f)
    h, i = _round(store, 4, {"text": "h"}, {"text": "i"})
    _vote(store, "r4", [h, i], None)
    found = vote_pairs.from_votes(store, None)
    assert {(pair.preferred, pair.other) for pair in found.pairs} == {("a", "b"), ("a", "c"), ("b", "c")}
    assert (found.none, found.undecided, found.unusable) == (1, 1, 1)
    with store.session() as session:
        session.get_one(Story, a).sharing = "private"
    mine = vote_pairs.from_votes(store, Actor("zoe", "zoe", "viewer"))
    assert len(mine.pairs) < len(found.pairs) and mine.unusable > found.unusable


def test_the_data_set_has_the_columns_and_prompts_that_the_voted_model_was_trained_on(store: Store) -> None:
    trained = put_dataset(store, "d", 2, 1)
    with store.session() as session:
        session.get_one(Dataset, trained).prompt_separator = " / "
    put_job(store, status="succeeded", fine_tuned_model=_TUNED, dataset_id=trained)
    values = {"x": "d1", "y": "1"}
    for number, (good, bad) in enumerate([("g0", "b0"), ("g1", "b1")]):
        ids = _round(
            store, number,
            {"text": good, "model": "base", "prompt": "Write about d1.", "column_values": values},
            {"text": bad, "model": "m", "requested_model": _TUNED, "prompt": "d1 / 1 ->", "column_values": values},
        )  # fmt: skip
        _vote(store, f"r{number}", ids, ids[0])
    pairs = vote_pairs.from_votes(store, None).pairs
    assert {pair.prompt for pair in pairs} == {"d1 / 1"}  # without the separator of its training
    made = preference_data.save(store, LOCAL, "votes", pairs)
    summary = datasets.summary(store, made.dataset_id)
    assert (summary.columns, summary.prompt_separator, summary.done) == (("x", "y"), " / ", 2)
    rows = list(export.Selection(store, made.dataset_id, made.version_id).preferences())
    assert sorted(rows) == [PreferenceRow("d1 / 1", "g0", "b0"), PreferenceRow("d1 / 1", "g1", "b1")]
    assert set(preference_data.voted_models(store, made.dataset_id)) == {"base", _TUNED}


def test_a_prompt_that_is_not_the_joined_columns_is_kept_as_it_was_asked(store: Store) -> None:
    ids = _round(
        store, 1,
        *({"text": text, "prompt": "Write about d1.", "column_values": {"x": "d1", "y": "1"}} for text in ("g", "b")),
    )  # fmt: skip
    _vote(store, "r1", ids, ids[0])
    made = preference_data.save(store, LOCAL, "votes", vote_pairs.from_votes(store, None).pairs)
    assert datasets.summary(store, made.dataset_id).columns == ("prompt",)
    rows = list(export.Selection(store, made.dataset_id, made.version_id).preferences())
    assert rows == [PreferenceRow("Write about d1.", "g", "b")]


@pytest.mark.parametrize("systems", [("Be kind.", "Be kind."), ("Be kind.", "")])
def test_system_texts_are_kept(store: Store, systems: tuple[str, str]) -> None:
    for number, system in enumerate(systems):
        ids = _round(store, number, *({"text": text, "parameters": {"system": system}} for text in ("good", "bad")))
        _vote(store, f"r{number}", ids, ids[0])
    made = preference_data.save(store, LOCAL, "votes", vote_pairs.from_votes(store, None).pairs)
    selection = export.Selection(store, made.dataset_id, made.version_id)
    plan = export.preference_plan(selection, "chat")
    assert sum('"system"' in line for line in export.preference_lines_of(selection, plan)) == sum(map(bool, systems))


def test_no_votes_are_no_data_set(store: Store) -> None:
    with pytest.raises(BadTrainingFile, match="no pair"):
        preference_data.save(store, LOCAL, "votes", vote_pairs.from_votes(store, None).pairs)
