"""The library, votes and story costs on a real PostgreSQL."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from core import ownership
from core.actor import LOCAL, Actor
from core.db.store import Store
from core.ownership import Thing
from core.pricing import spend_history
from core.settings import Settings
from core.stories import arena, library, vote_pairs
from core.stories.library import StoryFilter
from tests.support.ledger_rows import put_story
from tests.support.library_search import SHELVED, SOUGHT, found_stories, put_stories
from tests.support.streamed_stories import StoryClient, finished_round, write_story
from tests.support.waiting import WAIT_LIMIT_S


@pytest.fixture
def settings(on_postgres: Settings) -> Settings:
    return on_postgres


def test_stories_can_be_searched_as_on_sqlite(store: Store) -> None:
    put_stories(store)
    for where, ids in SOUGHT:
        assert found_stories(store, where) == ids, where
    assert library.search(store, StoryFilter(), offset=1, limit=1).total == len(SHELVED)
    assert library.models(store) == ["writer", "other"] and library.tags(store) == ['a"b', "英雄"]


def test_feedback_is_saved_and_can_be_cleared(store: Store) -> None:
    put_story(store, 1, tags=["x"])
    library.rate(store, LOCAL, "s1", stars=4)
    library.like(store, LOCAL, "s1", True)
    library.edit(store, LOCAL, "s1", "mine\0")
    library.tag(store, LOCAL, "s1", ["字", "字"])
    saved = library.get(store, "s1")
    assert saved is not None and (saved.stars, saved.liked, saved.final, saved.tags) == (4, True, "mine", ("字",))
    library.delete(store, LOCAL, "s1")
    assert library.get(store, "s1") is None and library.tags(store) == []
    library.restore(store, LOCAL, "s1")
    assert library.get(store, "s1") == saved


def test_a_story_is_saved_with_its_exact_cost(store: Store) -> None:
    story = write_story(store, StoryClient("从前\0", "，😀", provider="openai"))
    assert "".join(story) == "从前，😀"
    saved = library.recent(store)[0]
    assert (saved.text, saved.finish_reason, saved.tokens) == ("从前，😀", "stop", 2)
    now = datetime.now(UTC)
    (month,) = spend_history.months(store, now)
    (work,) = spend_history.by_reference(store, month, now + timedelta(days=1))
    assert work.reference == saved.id and work.name == saved.prompt
    assert spend_history.export(store, month, now + timedelta(days=1)).count(b"\n") == 2
    (line,) = spend_history.by_period(store, [month], now + timedelta(days=1))
    assert (line.calls, line.unknown) == (1, 1)  # the price of “writer” is unknown


def test_ten_people_vote_at_once_and_each_has_one_vote(store: Store) -> None:
    round_ = finished_round(store, "a", "b")
    ids = [story.id for story in round_.displayed]
    for story_id in ids:
        ownership.share(store, LOCAL, Thing("story", story_id), "team_read")

    def vote(name: str) -> None:
        for winner in (ids[1], ids[0]):
            arena.cast_vote(store, Actor(name, name, "editor"), round_.id, ids, winner, blind=True)

    threads = [threading.Thread(target=vote, args=(f"p{n}",)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=WAIT_LIMIT_S)
    best, other = arena.standings(store)
    assert (best.rounds, best.wins, other.wins) == (10, 10, 0)
    assert len(vote_pairs.from_votes(store, None).pairs) == 1
