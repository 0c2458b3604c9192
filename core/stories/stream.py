"""A story while it is being written: a plain `Iterator[str]` with about eight updates per second.

A separate thread reads the model's stream and saves the text as it arrives, so a slow or reloaded page loses nothing: a
reader that comes back gets the text so far immediately and the rest as it arrives. With `idle_timeout_s`, a story
without readers is stopped, so that no tokens are paid for text that is never read.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from sqlalchemy.orm import Session

from core import metrics
from core.actor import Actor, requires
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import utcnow
from core.db.tables.story import COMPARISON
from core.errors import FabulaError, ProviderError, StorageFull
from core.message import msg, with_cause
from core.ownership import edits, reads
from core.pricing.price_book import PriceBook
from core.pricing.spend import Page
from core.providers import Client, CompletionRequest, StreamFacts, parameters
from core.providers.inline_thinking import without_thinking
from core.sanitize import SurrogateJoiner, storable
from core.stories import error_explanation
from core.stories.billing import Bill, StoryBilling
from core.stories.library import SavedStory, continuation
from core.stories.readers import FIRST_READER_S, ReaderCount, Subscribers
from core.stories.story_record import StoryFacts, StoryPlacement, StoryRecord

TICK_S = 0.125  # eight updates per second look smooth; each one sends the whole text to the browser again
_READ_PAUSE_S = 0.06  # pause between reads of the model's stream: half a tick, too short to notice
_BUFFERED_S = 0.001  # a piece that arrives faster was already buffered
_log = logging.getLogger("fabula.story")
_SAVE_S = 2.0  # a power cut loses at most this much text
STOP_S = 3.0  # after this, a stopped story counts as done even if it is still being saved


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a `StoryStream` writes, for whom, and how it is read.

    Attributes:
        client: the client of the provider that writes it.
        request: the request that is sent.
        book: the prices used for its reservation and its cost.
        placement: the round or chain that it belongs to, and its column values.
        idle_timeout_s: stop this many seconds after the last reader has left; None means always write to the end.
        subscribers: notified of every piece; shared by stories that are read together. None means its own.
        original_request: for a continued story, the request that started it; None means `request`.
        save_s: seconds between saves of the text so far, for readers in other processes.
        first_reader_s: with `idle_timeout_s`, minimum time to wait for the first reader.
    """

    store: Store
    client: Client
    request: CompletionRequest
    book: PriceBook
    placement: StoryPlacement = field(default_factory=StoryPlacement)
    idle_timeout_s: float | None = None
    subscribers: Subscribers | None = None
    original_request: CompletionRequest | None = None
    save_s: float = _SAVE_S
    first_reader_s: float = FIRST_READER_S


class StoryStream:
    """One story being written, in its own thread.

    Iterate over it to get the text; `stop()` ends it and keeps that text.

    Each iteration starts from the beginning. If the model's stream ends with an error, or a budget does not allow the
    request, iteration raises it after the last text.

    Args:
        actor: who asks for the story and pays for it.
        story: what to write, and how it is read.
    """

    @requires("viewer")
    @reads("story.store", model="story.request.model")
    def __init__(self, actor: Actor, story: StreamRequest) -> None:
        client, request = story.client, story.request
        self.placement = story.placement
        self.request = replace(request, prompt=storable(request.prompt), system=storable(request.system))
        self.provider = client.provider.id
        self.original_request = story.original_request or self.request
        self._actor = actor
        self._record = StoryRecord(story.store, actor, self.provider, self.original_request, self.placement)
        self.id = self._record.id
        self._store, self._client, self._book, self._save_s = story.store, client, story.book, story.save_s
        self._words: list[str] = [self._record.previous_text] if self._record.previous_text else []
        self._written = ""  # the model's text with its thinking; known at the end
        self._subscribers = story.subscribers or Subscribers()
        self._version = 0
        self._done = self._stopped = self._abandoned = False
        self._stopped_at: float | None = None  # time.monotonic()
        self._ended_at: datetime | None = None
        self._reserved = self._sent = False
        self._error: FabulaError | None = None
        self._joiner = SurrogateJoiner()
        page: Page = "comparison" if self.placement.step == COMPARISON else "story"
        self._billing = StoryBilling(story.store, actor, story.book, self.provider, self.request, self.id, page)
        self._bill = Bill(None, None)
        self._upstream = client.stream(self.request)  # the request is sent on first read
        self._readers = ReaderCount(story.idle_timeout_s, self._abandon, story.first_reader_s)
        threading.Thread(target=self._run, name=f"story-{self.id}", daemon=True).start()

    def __iter__(self) -> Iterator[str]:
        """Text as it arrives, one piece per tick."""
        seen = 0
        with self.reading():
            while True:
                with self._subscribers:
                    self._subscribers.wait_for_words(partial(self._has_new_text, seen))
                    piece, done = "".join(self._words[seen:]), self._done
                    seen = len(self._words)
                if piece:
                    yield piece
                if done:
                    break
                with self._subscribers:
                    self._subscribers.wait_for(lambda: self._done, timeout=TICK_S)
        if self._error is not None:
            raise self._error

    def _has_new_text(self, seen: int) -> bool:
        return self._done or len(self._words) > seen

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Count as a reader for the duration of the block."""
        return self._readers.reading()

    def keep_alive(self, seconds: float) -> None:
        """Don't stop for lack of readers for this many seconds, because the page is being reloaded."""
        if not self.done:
            self._readers.keep_alive(seconds)

    @property
    def text(self) -> str:
        """The text so far."""
        with self._subscribers:
            return "".join(self._words)

    @property
    def subscribers(self) -> Subscribers:
        """Notified of every new piece."""
        return self._subscribers

    @property
    def version(self) -> int:
        """Increases with every piece, and once more at the end."""
        return self._version

    @property
    def done(self) -> bool:
        """Whether the story has ended and is saved, or was stopped more than `STOP_S` ago."""
        stopped_at = self._stopped_at
        return self._done or (stopped_at is not None and time.monotonic() - stopped_at > STOP_S)

    @property
    def stopping(self) -> bool:
        """Whether the story was asked to stop and has not ended yet."""
        return self._stopped and not self.done

    @property
    def facts(self) -> StoryFacts:
        """Current facts about the generation. The cost is known at the end."""
        seen = self._upstream.facts
        return StoryFacts(
            model=seen.model,
            first_text_s=seen.first_text_s,
            tokens=self._bill.counted_tokens if seen.tokens is None else seen.tokens,
            tokens_per_s=seen.tokens_per_s,
            finish_reason=None if self._stopped else seen.finish_reason,
            stopped=self._stopped,
            cost_usd=self._bill.cost_usd,
            prompt_tokens=seen.prompt_tokens,
            counted_locally=seen.tokens is None and self._bill.counted_tokens is not None,
            requested_model="" if seen.model == self.request.model else self.request.model,
            abandoned=self._abandoned,
            duration_s=seen.duration_s,
            has_thinking=seen.has_thinking,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the reader: parameters that the model does not support and were not sent."""
        return parameters.notes(self._client.provider, self.request, stream=True)

    @property
    def error(self) -> FabulaError | None:
        """The error that ended the stream early, or None."""
        return self._error

    @property
    def ended_at(self) -> datetime | None:
        """When the story ended or failed (UTC); None if it has not."""
        return self._ended_at

    def stop(self) -> None:
        """Stop the story at any point of its request; returns when it is `done`."""
        self.cancel()
        while not self.done:
            with self._subscribers:
                self._subscribers.wait_for(lambda: self._done, timeout=TICK_S)

    def cancel(self) -> None:
        """Ask the story to stop without waiting until it is saved. Does not count as abandoned."""
        with self._subscribers:
            self._abandoned = False
            if self._done:
                return
            self._stopped = True
            self._stopped_at = self._stopped_at or time.monotonic()
        self._upstream.close()

    def _abandon(self) -> None:
        with self._subscribers:
            if self._done or self._stopped:
                return
            self._stopped = self._abandoned = True
            self._stopped_at = time.monotonic()
        self._upstream.close()

    # --- the reading thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: FabulaError | None = None
        try:
            self._billing.reserve()
            self._reserved = True
            with self._subscribers:
                self._sent = not self._stopped
            last_saved = last_read = time.monotonic()
            for piece in self._upstream if self._sent else ():
                received_at = time.monotonic()
                self._add(self._joiner.feed(piece))
                if self._stopped:
                    break
                if received_at - last_saved > self._save_s:
                    with contextlib.suppress(StorageFull):  # saved again at the end, where an error is reported
                        self._record.save(self.text, self.facts, None)
                    last_saved = received_at
                if received_at - last_read > _BUFFERED_S:
                    time.sleep(_READ_PAUSE_S)  # let pieces gather: one read for several is cheaper
                last_read = time.monotonic()
        except FabulaError as failure:
            error = failure
            with contextlib.suppress(FabulaError):
                error = error_explanation.explain(
                    self._store, self._book, self._client.provider, self.request.model, failure, reader=self._actor
                )
        except Exception as failure:  # closed connections raise many types; a bug must still end the story
            error = ProviderError(
                with_cause(msg("The stream was interrupted."), "interrupted"),
                msg("Write it again. The text so far is kept."),
            )
            error.__cause__ = failure
        self._add(self._joiner.flush())
        self._remove_thinking()
        self._finish(None if self._stopped else error)

    def _add(self, piece: str) -> None:
        if not piece:
            return
        with self._subscribers:
            self._words.append(piece)
            self._version += 1
            self._subscribers.notify_waiting()

    def _remove_thinking(self) -> None:
        """Remove thinking that shows only a closing mark, because the chat template opened it. It is billed."""
        with self._subscribers:
            self._written = "".join(self._words)[len(self._record.previous_text) :]
            inline = self._client.provider.capabilities.inline_thinking
            visible = without_thinking(self._written) if inline else self._written
            if visible != self._written:
                self._words = [text for text in (self._record.previous_text, visible) if text]
                self._version += 1

    def _save(self, error: FabulaError | None) -> None:
        """Save text and cost in one transaction, or in a rescue file if the database is not available."""
        seen, written = self._upstream.facts, self._written
        no_response = self._sent and (self._stopped or (error is not None and _may_be_billed(error)))
        self._bill = self._billing.compute_bill(seen, written, no_response=no_response)
        story = self._record.rescue_entry(self.text, self.facts, error) if self.text else {}
        entry = {"kind": "story" if story else "spend", **story, "spend": self._billing.rescue_entry(seen, self._bill)}
        rescue_files.write_or_rescue(self._store, partial(self._settle, seen, written, error), entry)
        metrics.tokens_used(seen.prompt_tokens, seen.tokens)

    def _settle(self, seen: StreamFacts, written: str, error: FabulaError | None, session: Session) -> None:
        self._record.save_in(session, self.text, self.facts, error, final=True)
        self._billing.settle(session, seen, written, self._bill)

    def _finish(self, error: FabulaError | None) -> None:
        """Save, settle the cost, and release the readers even if saving fails."""
        try:
            if self._reserved or self.text:
                self._save(error)
        except FabulaError as failure:
            error = error or failure
        except Exception as failure:  # a bug must not look like a saved story
            _log.exception("The story %s could not be saved.", self.id)
            lost = FabulaError(msg("The story could not be saved."), msg("Copy its text now; the log has the details."))
            lost.__cause__ = failure
            error = error or lost
        finally:
            self._upstream.close()
            self._readers.close()
            with self._subscribers:
                self._error = error
                self._ended_at = utcnow()
                self._done = True
                self._version += 1
                self._subscribers.notify_all()


def _may_be_billed(error: FabulaError) -> bool:
    """Whether the failed request may be billed; also for errors from `error_explanation.explain`."""
    return bool(getattr(error, "may_be_billed", False))


@requires("viewer")
@edits(story="saved.id")
def continue_story(
    store: Store,
    actor: Actor,
    client: Client,
    saved: SavedStory,
    book: PriceBook,
    *,
    idle_timeout_s: float | None = None,
    subscribers: Subscribers | None = None,
) -> StoryStream:
    """Continue a partial story with the model that started it. It remains one story in the library."""
    original_request = saved.request()
    placement = StoryPlacement(saved.round_id, saved.step, saved.column_values, continues=(saved.id, saved.text))
    request = StreamRequest(
        store, client, continuation(original_request, saved.text), book, placement=placement,
        idle_timeout_s=idle_timeout_s, subscribers=subscribers, original_request=original_request,
    )  # fmt: skip
    return StoryStream(actor, request)
