"""Streamed stories: reading, stopping and interruptions; always saved and billed."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import Spend, Story
from core.errors import FabulaError, ModelNotFound, ProviderError, StorageFull, StreamCut
from core.pricing.price_book import PriceBook
from core.providers import Client
from core.stories import arena, library, story_record, stream
from core.stories.billing import Bill, StoryBilling
from core.stories.stream import StoryStream, StreamRequest
from tests.support.fault_server import FaultServer, stalled, text
from tests.support.streamed_stories import STORY_REQUEST, StoryClient, write_story
from tests.support.waiting import WAIT_LIMIT_S, until


def _kept(store: Store) -> list[Story]:
    with store.reading() as session:
        return list(session.scalars(select(Story)))


def test_text_arrives_in_order_and_is_saved_with_its_request(store: Store) -> None:
    story = write_story(store, StoryClient("从前", "，有", "一位英雄。"))
    assert "".join(story) == story.text == "从前，有一位英雄。"
    (row,) = _kept(store)
    assert (row.id, row.text, row.prompt, row.finish_reason) == (story.id, story.text, STORY_REQUEST.prompt, "stop")
    assert row.parameters["stop"] == ["."] and row.completion_tokens == 3 and row.first_text_s == 0.4
    assert story.facts == story_record.StoryFacts(
        "writer-2026",
        0.4,
        3,
        40.0,
        "stop",
        stopped=False,
        cost_usd=Decimal(0),
        prompt_tokens=9,
        duration_s=3.4,
        requested_model="writer",
    )
    assert (row.model, row.requested_model, row.prompt_tokens, row.cost_usd) == ("writer-2026", "writer", 9, Decimal(0))


def test_many_small_pieces_are_gathered_to_few(store: Store) -> None:
    client = StoryClient(*["字"] * 500)
    story = write_story(store, client)
    pieces = list(story)
    assert "".join(pieces) == "字" * 500
    assert len(pieces) < 50


def test_before_the_first_word_a_story_tells_whether_the_model_thinks(store: Store) -> None:
    request = replace(STORY_REQUEST, endpoint="chat", stop=())
    with FaultServer(stalled("<think>Who is the hero?")) as server:
        story = StoryStream(LOCAL, StreamRequest(store, Client(server.provider()), request, PriceBook.load()))
        until(lambda: story.facts.has_thinking, "the thinking")
        assert story.text == "" and not story.done
        story.cancel()
        until(lambda: story.done, "the end")


def test_thinking_that_a_chat_template_has_opened_is_no_part_of_the_story_and_is_billed(store: Store) -> None:
    with FaultServer() as server:
        server.default = replace(text("Hm, a ", "knight.</th", "ink>\n\n", "Once ", "upon a time."), usage=False)
        request = replace(STORY_REQUEST, endpoint="chat", stop=())
        story = StoryStream(LOCAL, StreamRequest(store, Client(server.provider()), request, PriceBook.load()))
        list(story)
    (row,) = _kept(store)
    assert story.text == row.text == "Once upon a time."
    with store.reading() as session:
        (line,) = session.scalars(select(Spend))
    assert line.counted_completion_tokens is not None and line.counted_completion_tokens > 8  # with the thinking


def test_every_reader_gets_the_complete_story(store: Store) -> None:
    story = write_story(store, StoryClient("one ", "two"))
    assert "".join(story) == "".join(story) == "one two"


def test_stopping_ends_it_at_once_and_keeps_the_words(store: Store) -> None:
    client = StoryClient("从前", ...)
    story = write_story(store, client)
    assert next(iter(story)) == "从前"
    story.stop()
    assert story.done and client.made.closed.is_set()
    assert "".join(story) == "从前"  # and no error
    assert story.facts.stopped and story.facts.finish_reason is None
    (row,) = _kept(store)
    assert (row.text, row.finish_reason) == ("从前", None)
    story.stop()  # a second call has no effect


def test_a_stopped_story_ends_for_its_readers_though_it_cannot_be_saved_yet(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is busy for half a minute must not hold up the page."""
    free, client = threading.Event(), StoryClient("从前", ...)
    compute = StoryBilling.compute_bill

    def slow(self: StoryBilling, *seen: Any, **what: Any) -> Bill:
        assert free.wait(WAIT_LIMIT_S)
        return compute(self, *seen, **what)

    monkeypatch.setattr(StoryBilling, "compute_bill", slow)  # the first step of saving
    monkeypatch.setattr(stream, "STOP_S", 60)
    story = write_story(store, client)
    assert next(iter(story)) == "从前"
    story.cancel()  # returns at once
    assert story.stopping and not story.done and story.facts.stopped
    monkeypatch.setattr(stream, "STOP_S", 0)
    assert story.done and not story.stopping
    assert list(arena.updates([story], story.subscribers)) == [(0,)] and _kept(store) == []
    free.set()
    until(lambda: _kept(store), "the words on the shelf")


def test_whoever_presses_stop_has_not_left_the_page(store: Store) -> None:
    """Between two reruns of a page there is no reader for a moment, which can be long on a busy machine."""
    story = StoryStream(
        LOCAL,
        StreamRequest(store, StoryClient("从前", ...), STORY_REQUEST, PriceBook.load(), idle_timeout_s=0.01),  # type: ignore[arg-type]  # a fake client
    )
    with story.reading():
        until(lambda: story.text, "the first word")
    until(lambda: story.done, "the end: its reader has gone")
    assert story.facts.abandoned and story.facts.stopped
    story.cancel()
    assert not story.facts.abandoned and story.facts.stopped


def test_a_story_without_readers_is_written_and_saved(store: Store) -> None:
    story = write_story(store, StoryClient("nobody ", "looks"))
    until(lambda: story.done, "the end of the story")
    assert [row.text for row in _kept(store)] == ["nobody looks"]


@pytest.mark.parametrize(
    ("pieces", "text", "error"),
    [
        (("half a ", StreamCut("The stream was interrupted.", "Write it again.")), "half a ", StreamCut),
        ((ModelNotFound("There is no such model.", "Pick another."),), "", ModelNotFound),
        (("half", RuntimeError("a bug")), "half", ProviderError),
    ],
)
def test_an_error_is_raised_after_the_last_text(
    store: Store, pieces: tuple[object, ...], text: str, error: type[FabulaError]
) -> None:
    story = write_story(store, StoryClient(*pieces))
    read = []
    with pytest.raises(error):
        for piece in story:
            read.append(piece)
    assert "".join(read) == text
    assert isinstance(story.error, error) and story.facts.finish_reason is None
    assert [row.text for row in _kept(store)] == ([text] if text else [])


@pytest.mark.parametrize(
    ("provider", "cost"), [("engine", Decimal(0)), ("nobody-knows", None)], ids=["local", "unknown price"]
)
def test_tokens_and_cost_are_in_the_spend_ledger(store: Store, provider: str, cost: Decimal | None) -> None:
    story = write_story(store, StoryClient("a", "b", provider=provider))
    list(story)
    with store.reading() as session:
        (spent,) = session.scalars(select(Spend))
    assert (spent.page, spent.provider, spent.reference) == ("story", provider, story.id)
    assert (spent.prompt_tokens, spent.completion_tokens, spent.cost_usd) == (9, 2, cost)


def test_a_full_disk_is_reported_and_the_text_stays_on_the_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise StorageFull("The disk is full.", "Free some space.")

    monkeypatch.setattr(store, "session", full)
    story = write_story(store, StoryClient("kept in ", "memory"))
    with pytest.raises(StorageFull):
        list(story)
    assert story.text == "kept in memory"


def test_the_shelf_has_the_newest_first(store: Store) -> None:
    for words in ("first", "second", "third"):
        list(write_story(store, StoryClient(words)))
    assert [story.text for story in library.recent(store, 2)] == ["third", "second"]
    newest = library.recent(store, 1)[0]
    assert library.get(store, newest.id) == newest
    assert library.get(store, "nothing") is None


def test_every_story_has_an_id_of_its_own(store: Store) -> None:
    stories = [write_story(store, StoryClient("x")) for _number in range(3)]
    for told in stories:
        list(told)
    assert all(a.id != b.id for a, b in itertools.combinations(stories, 2))
