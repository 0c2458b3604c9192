"""Chains (outline → story → title), splitting into sentences, and text to speech."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from sqlalchemy import select

from core.actor import LOCAL, Actor
from core.db.store import Store
from core.db.tables import Spend
from core.errors import (
    BadRequest,
    FabulaError,
    ModelNotFound,
    NotAllowed,
    NotFound,
    OverBudget,
    RateLimited,
    Refused,
    StreamCut,
    Unavailable,
)
from core.pricing import budget
from core.pricing.price_book import PriceBook
from core.providers import CompletionRequest, RetryPolicy
from core.providers.speech import MAX_CHARACTERS, Speech, SpeechRequest
from core.stories import chain, library, read_aloud
from core.stories.chain import Chain
from core.stories.read_aloud import parts, sentences
from tests.support import fault_server
from tests.support.fakes import FakeClient, FakeStream
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

_IDEA = CompletionRequest(model="writer", prompt="一只{outline}猫", max_tokens=500, stop=(".",))
_SPOKEN = SpeechRequest("tts-1", "alloy", "一句话。")
_ONCE = RetryPolicy(total_s=1, tries=1)


def _client(*texts: object) -> FakeClient:
    client = FakeClient()
    client.enqueue("stream", *(t if isinstance(t, Exception) else FakeStream((str(t),), "writer") for t in texts))
    return client


def test_each_step_streams_and_reads_the_ones_before(store: Store) -> None:
    client = _client("提纲", "故事", "题目")
    texts = {step.name: "".join(step) for step in chain.stream_chain(client, _IDEA)}
    assert texts == {"outline": "提纲", "story": "故事", "title": "题目"}
    requests = [request for _, request in client.sent]
    assert "一只{outline}猫" in requests[0].prompt and requests[0].max_tokens == 300 and requests[0].stop == ()
    assert "提纲" in requests[1].prompt and requests[1].max_tokens == 500
    assert "故事" in requests[2].prompt and requests[2].max_tokens == 40


def test_an_unread_step_is_read_before_the_next_one(store: Store) -> None:
    client = _client("提纲", "故事", "题目")
    assert [step.name for step in chain.stream_chain(client, _IDEA)] == list(chain.STEPS)
    assert "提纲" in client.sent[1][1].prompt


def test_the_language_of_the_idea_is_the_language_of_the_steps() -> None:
    english = CompletionRequest(model="m", prompt="a cat")
    assert "Write an outline" in chain.step_request(english, "outline", {}).prompt
    assert "提纲" in chain.step_request(_IDEA, "outline", {}).prompt


def _to_its_end(written: Chain) -> None:
    while (story := written.advance()) is not None:
        until(lambda: story.done, "the end of a step")


def test_a_chain_on_the_page_keeps_each_step_as_a_story(store: Store) -> None:
    client = _client("提纲", "故事", "题目")
    written = Chain(store, LOCAL, client, _IDEA, PriceBook.load())  # type: ignore[arg-type]  # a fake
    _to_its_end(written)
    assert written.done and written.advance() is None
    saved = library.search(store, library.StoryFilter(round_id=written.id)).stories
    assert {story.step: story.text for story in saved} == {"outline": "提纲", "story": "故事", "title": "题目"}


def _cut() -> FakeStream:
    return FakeStream(("半", StreamCut("Cut.", "Again.")), "writer")


@pytest.mark.parametrize("how", ["cut", "empty"])
def test_a_failed_step_ends_the_chain_and_keeps_its_text(store: Store, how: str) -> None:
    client = _client("提纲")
    client._queues["stream"].append(_cut() if how == "cut" else FakeStream((), "writer"))
    written = Chain(store, LOCAL, client, _IDEA, PriceBook.load())  # type: ignore[arg-type]  # a fake
    _to_its_end(written)
    assert written.done and list(written.steps) == ["outline", "story"]


def test_a_chain_that_is_stopped_goes_no_further(store: Store) -> None:
    client = FakeClient()
    client.enqueue("stream", FakeStream(("半", ...), "writer"))
    written = Chain(store, LOCAL, client, _IDEA, PriceBook.load())  # type: ignore[arg-type]  # a fake
    first = written.advance()
    assert first is not None
    until(lambda: first.text == "半", "the first word")
    written.stop()
    assert written.done and written.advance() is None and [s.text for s in library.recent(store)] == ["半"]


def test_a_chain_stopped_between_steps_starts_no_step_until_it_is_continued(store: Store) -> None:
    client = _client("提纲", "故事", "题目")
    written = Chain(store, LOCAL, client, _IDEA, PriceBook.load())  # type: ignore[arg-type]  # a fake
    first = written.advance()
    assert first is not None
    until(lambda: first.done, "the end of the first step")
    assert not written.done
    written.stop()
    assert written.done and written.advance() is None and written.paused_after("outline")
    written.continue_step("outline")
    assert not written.done and not written.paused_after("outline")
    _to_its_end(written)
    assert [story.text for story in written.steps.values()] == ["提纲", "故事", "题目"]


def test_a_partial_step_is_continued_and_the_next_steps_follow(store: Store) -> None:
    client = _client("提纲")
    client.enqueue("stream", _cut(), FakeStream(("篇",), "writer"), FakeStream(("题目",), "writer"))
    written = Chain(store, LOCAL, client, _IDEA, PriceBook.load())  # type: ignore[arg-type]  # a fake
    _to_its_end(written)
    assert list(written.steps) == ["outline", "story"]
    written.continue_step("story")
    _to_its_end(written)
    assert [story.text for story in written.steps.values()] == ["提纲", "半篇", "题目"]
    assert "半篇" in client.sent[-1][1].prompt
    saved = library.search(store, library.StoryFilter(round_id=written.id)).stories
    assert sorted((str(story.step), story.text) for story in saved) == [
        ("outline", "提纲"), ("story", "半篇"), ("title", "题目"),
    ]  # fmt: skip


def test_a_deleted_step_cannot_be_continued(store: Store) -> None:
    client = FakeClient()
    client.enqueue("stream", _cut())
    written = Chain(store, LOCAL, client, _IDEA, PriceBook.load())  # type: ignore[arg-type]  # a fake
    _to_its_end(written)
    library.delete(store, LOCAL, written.steps["outline"].id)
    with pytest.raises(NotFound):
        written.continue_step("outline")


# --- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "over", "found"),
    [
        ("从前。有一天！他说：“走吧！”然后", True, ["从前。", "有一天！", "他说：“走吧！”", "然后"]),
        ("从前。有一天", False, ["从前。"]),
        ('It was 3.5 m. "Go!" he said. End', True, ["It was 3.5 m.", '"Go!"', "he said.", "End"]),
        ("It was 3.", False, []),
        ("It was 3. ", False, ["It was 3."]),
        ("Line one\nLine two\n", False, ["Line one", "Line two"]),
        ("Wait... what?!", True, ["Wait...", "what?!"]),
        ("……\n。。", True, []),
        ("", True, []),
    ],
)
def test_a_text_is_cut_where_a_voice_would_pause(text: str, over: bool, found: list[str]) -> None:
    assert sentences(text, complete=over) == found


@pytest.mark.parametrize("size", [1, 2, 7])
def test_sentences_do_not_change_while_text_is_added(size: int) -> None:
    text = "从前。有一天！It was 3.5 m. Then? 完"
    seen: list[str] = []
    for at in range(0, len(text) + size, size):
        now = sentences(text[:at], complete=False)
        assert now[: len(seen)] == seen
        seen = now


def test_parts_are_complete_sentences_within_the_limit() -> None:
    text = "一二三。" * 10 + "长" * 25 + "。"
    found = parts(text, max_chars=12)
    assert all(len(part) <= 12 for part in found)
    assert "".join(found).replace(" ", "") == text
    assert parts("。。。") == []


# --- text to speech
# ------------------------------------------------------------------------------------------------------------


def _speech(server: FaultServer) -> Speech:
    return Speech(server.provider(), retry_policy=_ONCE)


def test_an_endpoint_reads_a_story_part_by_part_and_the_ledger_knows(store: Store) -> None:
    with FaultServer() as server:
        server.enqueue(*(fault_server.raw(sound, "audio/mpeg") for sound in (b"one", b"two")))
        text = "第一句。" * 600 + "第二句。" * 600  # 4,800 characters: two requests
        request = SpeechRequest("tts-1", "alloy", text, speed=1.25)
        read = read_aloud.read_aloud(store, LOCAL, _speech(server), request, "s1", PriceBook.load())
        assert list(read) == [b"one", b"two"]
        sent = [seen.body for seen in server.requests]
        assert all(len(body["input"]) <= MAX_CHARACTERS for body in sent)
        assert (sent[0]["model"], sent[0]["voice"], sent[0]["speed"]) == ("tts-1", "alloy", 1.25)
    with store.reading() as session:
        assert [(s.page, s.cost_usd) for s in session.scalars(select(Spend))] == [("story", None)] * 2


def test_sound_with_a_known_price_is_paid_by_the_character_within_the_budget(store: Store) -> None:
    budget.set_budget(store, LOCAL, "month", Decimal("0.001"))
    with FaultServer() as server:
        server.enqueue(fault_server.raw(b"one", "audio/mpeg"), fault_server.unauthorized())
        speech = Speech(replace(server.provider(), id="openai"), retry_policy=_ONCE)
        for text, ends in (("字" * 60, None), ("字" * 6, Refused), ("字" * 60, OverBudget)):
            read = read_aloud.read_aloud(store, LOCAL, speech, replace(_SPOKEN, text=text), "s1", PriceBook.load())
            if ends is None:
                assert list(read) == [b"one"]
            else:
                with pytest.raises(ends):
                    list(read)
        assert len(server.requests) == 2
    with store.reading() as session:  # rejected requests cost nothing
        assert [s.cost_usd for s in session.scalars(select(Spend))] == [Decimal("0.0009")]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (fault_server.error(404, "The model does not exist", "model_not_found"), ModelNotFound),
        (fault_server.unauthorized(), Refused),
        (fault_server.raw(b"{}"), BadRequest),
        (fault_server.raw(b'{"error": {"message": "Slow down", "code": 429}}'), RateLimited),
        (fault_server.raw(b'{"error": {"message": "No balance", "code": "1113"}}'), Refused),
        (fault_server.raw(b'{"error": {"message": "Overloaded", "code": 503}}'), Unavailable),
        (fault_server.raw(b"", "audio/mpeg"), BadRequest),
        (fault_server.html(), FabulaError),
        (fault_server.drop(), FabulaError),
    ],
)
def test_an_endpoint_that_does_not_speak_says_why(answer: fault_server.Answer, error: type[FabulaError]) -> None:
    with FaultServer() as server:
        server.enqueue(answer)
        with pytest.raises(error):
            _speech(server).speak(_SPOKEN)


def test_text_without_sentences_is_not_sent(store: Store) -> None:
    book = PriceBook.load()
    with FaultServer() as server:
        speech = _speech(server)
        with pytest.raises(BadRequest):
            speech.speak(SpeechRequest("m", "v", "x" * (MAX_CHARACTERS + 1)))
        with pytest.raises(FabulaError):
            list(read_aloud.read_aloud(store, LOCAL, speech, SpeechRequest("m", "v", " 。"), "s", book))
        with pytest.raises(NotAllowed):
            list(read_aloud.read_aloud(store, Actor("g", "g", "viewer"), speech, _SPOKEN, "s", book))
        budget.set_budget(store, LOCAL, "month", Decimal(1))
        with pytest.raises(OverBudget):  # its price is unknown
            list(read_aloud.read_aloud(store, LOCAL, speech, _SPOKEN, "s", book))
        assert server.requests == []


def test_a_step_is_written_again_with_other_settings_and_the_steps_after_it_by_the_same_model(store: Store) -> None:
    first, second = _client("提纲", "故事", "题目"), _client("另一个故事", "另一个题目")
    written = Chain(store, LOCAL, first, _IDEA, PriceBook.load())  # type: ignore[arg-type]  # a fake
    _to_its_end(written)
    request = replace(written.steps["story"].original_request, model="other", temperature=0.3, max_tokens=900)
    written.retry("story", request, second)  # type: ignore[arg-type]
    assert list(written.steps) == ["outline", "story"]
    _to_its_end(written)
    assert [story.text for story in written.steps.values()] == ["提纲", "另一个故事", "另一个题目"]
    story, title = (request for _, request in second.sent)
    assert (story.max_tokens, title.max_tokens, title.model, title.temperature) == (900, 40, "other", 0.3)
    assert "另一个故事" in title.prompt and len(library.recent(store)) == 5
