"""Side-by-side stories: concurrent reading, separate ends, votes, and stopping stories without readers."""

from __future__ import annotations

import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from core.actor import LOCAL, Actor
from core.db.store import Store
from core.db.tables import Spend, Story
from core.errors import FabulaError, ModelNotFound, NotFound, OverBudget, Refused
from core.pricing import budget
from core.stories import arena, library, stream, vote_pairs
from core.stories.arena import RoundEntry
from core.stories.story_record import same_model
from core.stories.stream import StoryStream, StreamRequest
from tests.support import fault_server
from tests.support.fakes import FakeRegistry
from tests.support.fault_server import FaultServer
from tests.support.streamed_stories import BOOK, ROUND_REQUEST, StoryClient, finished_round, round_entries, start_round
from tests.support.waiting import until

_VIEWER = Actor("guest", "A guest", "viewer")


def test_four_stories_are_written_concurrently_and_saved(store: Store) -> None:
    clients = [StoryClient("a", ...), StoryClient("b", ...), StoryClient("c", ...), StoryClient("d", ...)]
    round_ = start_round(store, *clients)
    seen: set[int] = set()
    for changed in arena.updates(round_.stories, round_.subscribers, tick_s=0.001):
        seen |= {i for i in changed if round_.stories[i].text}
        if seen == {0, 1, 2, 3}:
            break  # all have text and none has ended
    assert not any(story.done for story in round_.stories)
    round_.stop()
    assert round_.done
    saved = library.search(store, library.StoryFilter(round_id=round_.id)).stories
    assert {story.text for story in saved} == set("abcd") and all(story.partial for story in saved)


def test_one_that_fails_leaves_the_others_alone(store: Store) -> None:
    round_ = start_round(store, StoryClient(ModelNotFound("Gone.", "Pick another.")), StoryClient("fine"))
    for _ in arena.updates(round_.stories, round_.subscribers):
        pass
    bad, good = round_.stories
    assert isinstance(bad.error, ModelNotFound) and good.error is None and good.text == "fine"


def test_updates_polls_while_there_is_no_text(store: Store) -> None:
    round_ = start_round(store, StoryClient(...))
    beats = arena.updates(round_.stories, round_.subscribers, tick_s=0.001, poll_s=0.001)
    next(beats)  # the current state
    assert [next(beats) for _ in range(3)] == [(), (), ()]
    round_.stop()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "no model"),
        (round_entries(*"abcde"), "Up to 4"),
        ([RoundEntry("a", replace(ROUND_REQUEST, prompt=" \n"))], "prompt is empty"),
    ],
)
def test_invalid_rounds_are_rejected_before_sending(store: Store, entries: list[RoundEntry], words: str) -> None:
    with pytest.raises(FabulaError, match=words):
        arena.start_round(store, LOCAL, FakeRegistry(), entries, BOOK)  # type: ignore[arg-type]  # a fake


def test_the_order_is_mixed_only_where_names_are_hidden(store: Store) -> None:
    orders = {
        tuple(start_round(store, *(StoryClient("x") for _ in range(4)), blind=True, seed=n).order) for n in range(6)
    }
    assert len(orders) > 1 and all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert start_round(store, StoryClient("x"), StoryClient("y")).order == [0, 1]


@pytest.mark.parametrize(("seed", "next_seed"), [(None, None), (0, 1), (41, 42), (2**31 - 1, 0), (2**40, 0), (-5, -4)])
def test_rerun_uses_the_next_seed(seed: int | None, next_seed: int | None) -> None:
    request = replace(ROUND_REQUEST, seed=seed, temperature=0.3, stop=("END",))
    assert arena.with_next_seed(request) == replace(request, seed=next_seed)


def test_rerun_entries_have_the_same_models_and_values(store: Store) -> None:
    entries = [replace(entry, column_values={"hero": "唐"}) for entry in round_entries("m0", "m1")]
    registry = FakeRegistry({"m0": StoryClient("a"), "m1": StoryClient("b")})
    for name, client in registry.clients.items():
        client.provider = replace(client.provider, id=name)
    round_ = arena.start_round(store, LOCAL, registry, entries, BOOK)  # type: ignore[arg-type]  # a fake
    assert arena.rerun_entries(round_.stories) == tuple(entries)


# --- votes ------------------------------------------------------------------------------------------------------------


def test_names_are_hidden_until_a_vote_is_possible(store: Store) -> None:
    assert not finished_round(store, "a", "b", blind=False).names_hidden
    both = finished_round(store, "a", "b")
    assert both.names_hidden and both.can_vote
    one = start_round(store, StoryClient("a"), StoryClient(ModelNotFound("m1 is not there.", "")), blind=True)
    for _ in arena.updates(one.stories, one.subscribers):
        pass
    assert not one.can_vote and not one.names_hidden


def test_a_vote_counts_once_a_person_and_moves_with_them(store: Store) -> None:
    round_ = finished_round(store, "one", "two")
    order = [story.id for story in round_.displayed]
    arena.cast_vote(store, LOCAL, round_.id, order, order[0], blind=True)
    arena.cast_vote(store, LOCAL, round_.id, order, order[1], blind=True)
    assert arena.get_vote(store, LOCAL, round_.id) == (True, order[1])
    assert sum(one.wins for one in arena.standings(store)) == 1
    arena.cast_vote(store, LOCAL, round_.id, order, None, blind=True)
    assert [one.wins for one in arena.standings(store)] == [0, 0]


def test_models_stand_by_share_with_an_interval_and_open_rounds_do_not_count(store: Store) -> None:
    for blind in (True, True, True, False):
        round_ = finished_round(store, "good", "bad", blind=blind)
        ids = {story.text: story.id for story in round_.stories}
        arena.cast_vote(store, LOCAL, round_.id, list(ids.values()), ids["good"], blind=blind)
    best, worst = arena.standings(store)
    assert (best.model, best.rounds, best.wins, best.share) == ("m0", 3, 3, 1.0)
    assert (best.low, best.high) == (pytest.approx(0.4385, abs=1e-3), pytest.approx(1.0))  # Wilson, 3 of 3
    assert (worst.model, worst.wins) == ("m1", 0)


@pytest.mark.parametrize("wrong", ["foreign winner", "foreign story", "one story"])
def test_a_vote_on_something_else_is_refused(store: Store, wrong: str) -> None:
    round_, other = finished_round(store, "one", "two"), finished_round(store, "three", "four")
    order = [story.id for story in round_.displayed]
    winner = order[0]
    if wrong == "foreign winner":
        winner = other.stories[0].id
    elif wrong == "foreign story":
        order[1] = other.stories[0].id
    else:
        order = order[:1]
    with pytest.raises((FabulaError, NotFound)):
        arena.cast_vote(store, LOCAL, round_.id, order, winner, blind=True)


def test_pairs_take_the_edit_of_the_winner_and_leave_equal_texts_out(store: Store) -> None:
    round_ = finished_round(store, "good", "bad", "good")
    ids = [story.id for story in round_.stories]
    arena.cast_vote(store, LOCAL, round_.id, ids, ids[0], blind=True)
    assert [(pair.preferred, pair.other) for pair in vote_pairs.from_votes(store, None).pairs] == [("good", "bad")]
    library.edit(store, LOCAL, ids[0], "better")
    assert [(pair.preferred, pair.other) for pair in vote_pairs.from_votes(store, None).pairs] == [
        ("better", "bad"),
        ("better", "good"),
    ]
    library.delete(store, LOCAL, ids[1])
    assert [(pair.preferred, pair.other) for pair in vote_pairs.from_votes(store, None).pairs] == [("better", "good")]


# --- model and cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "returned", "same"),
    [
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", True),
        ("gpt-4", "gpt-4-0613", True),
        ("Writer", "writer", True),
        ("qwen", "models/qwen", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4", "gpt-4.1", False),
        ("ft:a:b:c:1", "ft:a:b:c:2", False),
        ("storyteller", "gemma-3-270m", False),
    ],
)
def test_a_dated_name_is_the_same_model_and_another_name_is_not(asked: str, returned: str, same: bool) -> None:
    assert same_model(asked, returned) is same


def _read(store: Store, client: Any, *, idle_timeout_s: float = 0.0) -> StoryStream:
    """A story that stops soon after its last reader has left; it waits for the first, even on a busy machine."""
    story = StreamRequest(store, client, ROUND_REQUEST, BOOK, idle_timeout_s=idle_timeout_s, first_reader_s=240.0)
    return StoryStream(LOCAL, story)


def test_a_page_that_is_left_stops_the_request_and_keeps_the_words(store: Store) -> None:
    client = StoryClient("half a ", ...)
    story = _read(store, client)
    with story.reading():
        until(lambda: story.text != "", "the first words")
    until(lambda: story.done, "the end")
    assert client.made.closed.is_set() and story.facts.abandoned and story.facts.stopped
    assert [(s.text, s.finish_reason) for s in library.recent(store)] == [("half a ", None)]


def test_a_reader_that_returns_in_time_continues_reading(store: Store) -> None:
    client = StoryClient("half a ", ...)
    story = _read(store, client, idle_timeout_s=240.0)
    with story.reading():
        pass
    with story.reading():
        assert not story.done
    story.stop()


def _unread(store: Store) -> StoryStream:
    """A story in the middle of its text, which stops as soon as it has no reader."""
    return _read(store, StoryClient("half a ", ...))


def test_a_held_story_is_written_on_and_stopped_when_the_time_is_over(store: Store) -> None:
    story = _unread(store)
    with story.reading():
        until(lambda: story.text != "", "the first words")
        story.keep_alive(240.0)
        story.keep_alive(0.0)
    assert story._readers._count and not story.done
    story.stop()
    other = _unread(store)
    other.keep_alive(0.0)
    until(lambda: other.done, "the end")
    assert other.facts.abandoned


def test_leaving_closes_the_connection_at_the_provider(store: Store) -> None:
    with FaultServer(fault_server.held()) as server:
        client = server.registry().get("fault")
        story = _read(store, client)
        server.wait_for(lambda s: s.flying == 1)
        with story.reading():
            pass
        until(lambda: story.done, "the end, though the server has not answered")
        assert story.facts.abandoned and not story.text


_PAID = replace(ROUND_REQUEST, model="gpt-4o-mini", endpoint="chat", max_tokens=1000)


def _paid(store: Store, actor: Actor, *pieces: object) -> stream.StoryStream:
    client = StoryClient(*pieces, provider="openai")
    client.made.facts = replace(client.made.facts, model="gpt-4o-mini-2024-07-18")
    story = StoryStream(actor, StreamRequest(store, client, _PAID, BOOK))  # type: ignore[arg-type]  # a fake
    until(lambda: story.done, "the end")
    return story


def test_a_paid_story_is_reserved_settled_and_priced_by_its_own_count_when_it_is_stopped(store: Store) -> None:
    story = _paid(store, LOCAL, "a", "b")
    with store.reading() as session:
        (spent,) = session.scalars(select(Spend))
    assert spent.cost_usd == story.facts.cost_usd and spent.completion_tokens == 2
    assert spent.estimated_usd is not None and spent.cost_usd is not None and spent.estimated_usd > spent.cost_usd > 0


def test_a_request_that_is_refused_before_its_first_word_costs_nothing(store: Store) -> None:
    client = StoryClient(ModelNotFound("Gone.", "Pick another."), provider="openai")
    story = StoryStream(LOCAL, StreamRequest(store, client, _PAID, BOOK))  # type: ignore[arg-type]  # a fake
    until(lambda: story.done, "the end")
    with store.reading() as session:
        assert session.scalars(select(Spend)).all() == []
    assert story.facts.cost_usd == Decimal(0)


def test_a_budget_stops_a_story_before_anything_is_sent(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.0000001"))
    story = _paid(store, LOCAL, "never")
    assert isinstance(story.error, OverBudget) and story.text == ""


def test_a_visitor_writes_here_for_nothing_and_elsewhere_only_within_a_budget(store: Store) -> None:
    assert isinstance(_paid(store, _VIEWER, "never").error, Refused)
    free = StoryStream(_VIEWER, StreamRequest(store, StoryClient("free"), ROUND_REQUEST, BOOK))  # type: ignore[arg-type]  # a fake
    assert "".join(free) == "free"
    budget.set_budget(store, LOCAL, "month", Decimal(1))
    assert _paid(store, _VIEWER, "paid").text == "paid"


# --- continuation
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["completion", "chat"])
def test_a_continued_story_is_one_story(store: Store, endpoint: str) -> None:
    request = replace(ROUND_REQUEST, endpoint=endpoint)  # type: ignore[arg-type]  # both are endpoints
    first = StoryStream(LOCAL, StreamRequest(store, StoryClient("从前，有", RuntimeError("cut")), request, BOOK))  # type: ignore[arg-type]
    until(lambda: first.done, "the cut")
    (saved,) = library.recent(store)
    assert saved.partial and saved.error and saved.request() == first.request
    client = StoryClient("一位", "英雄。")
    more = stream.continue_story(store, LOCAL, client, saved, BOOK)  # type: ignore[arg-type]  # a fake
    assert "".join(more) == "从前，有一位英雄。"
    assert more.request.prompt.endswith("从前，有") and more.request.prompt != saved.prompt
    (continued,) = library.recent(store)
    assert (continued.id, continued.text, continued.prompt) == (saved.id, "从前，有一位英雄。", saved.prompt)
    assert continued.finish_reason == "stop" and continued.error is None and continued.tokens == (saved.tokens or 0) + 2


def test_stories_from_elsewhere_fit_the_table(store: Store) -> None:
    client = StoryClient("x\0\ud800y")
    client.made.facts = replace(client.made.facts, model="m" * 500)
    story = StoryStream(LOCAL, StreamRequest(store, client, replace(ROUND_REQUEST, prompt="p\0\udfff"), BOOK))  # type: ignore[arg-type]
    assert "".join(story) == "x\ufffdy"
    with store.reading() as session:
        (row,) = session.scalars(select(Story))
    assert len(row.model) == 200 and row.prompt == "p?"


def test_threads_end_with_their_stories(store: Store) -> None:
    story = StoryStream(LOCAL, StreamRequest(store, StoryClient("x"), ROUND_REQUEST, BOOK))  # type: ignore[arg-type]  # a fake
    list(story)
    until(lambda: not any(t.name == f"story-{story.id}" for t in threading.enumerate()), "the end of its thread")
