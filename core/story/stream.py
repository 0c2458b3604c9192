"""A story as it is written: a plain `Iterator[str]`, about ten pieces a second, kept whatever happens to its reader.

A thread of its own reads the model's stream, so that a slow or reloaded page loses nothing: the words are saved as
they come, and a reader that returns gets the text so far at once and the rest as it arrives. Where it is asked to
(`leave_s`), a story that nobody reads any more is stopped: no tokens are paid for nobody.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial

from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost.price_book import PriceBook
from core.cost.spend import Page
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import utcnow
from core.db.tables.story import COMPARISON
from core.errors import FabulaError, ProviderError, StorageFull
from core.message import msg
from core.providers import Client, CompletionRequest, StreamFacts, parameters
from core.providers.inline_thinking import without_thinking
from core.sanitize import SurrogateJoiner, storable
from core.story import error_explanation
from core.story.billing import Bill, StoryBilling
from core.story.continuation import continuation
from core.story.library import KeptStory as KeptStory
from core.story.library import get as get
from core.story.library import recent as recent
from core.story.reader_count import ReaderCount
from core.story.story_facts import StoryFacts as StoryFacts
from core.story.story_record import StoryPlacement as StoryPlacement
from core.story.story_record import StoryRecord
from core.story.subscribers import Subscribers as Subscribers

TICK_S = 0.125  # eight updates a second read as a steady flow; each sends the whole text to the browser again
_REST_S = 0.06  # between reads of the model's stream: half a tick, so that nobody sees it
_AT_ONCE_S = 0.001  # a piece that took longer was waited for: nothing more lies ready
_log = logging.getLogger("fabula.story")
_SAVE_S = 2.0  # what a power cut may take: two seconds of words
STOP_S = 3.0  # a stopped story that is not saved by then is told as stopped; saving goes on


class StoryStream:
    """One story being written. Iterate for its words; `stop()` ends it and keeps what has come.

    Iterating again starts from the first word. When the model's stream ends with an error, iteration raises it after
    the last word that came.
    """

    def __init__(
        self,
        store: Store,
        actor: Actor,
        client: Client,
        request: CompletionRequest,
        book: PriceBook,
        *,
        place: StoryPlacement | None = None,
        leave_s: float | None = None,
        subscribers: Subscribers | None = None,
        asked: CompletionRequest | None = None,
        save_s: float = _SAVE_S,
    ) -> None:
        self.place = place or StoryPlacement()
        self.request = replace(request, prompt=storable(request.prompt), system=storable(request.system))
        self.provider = client.provider.id
        self.asked = asked or self.request  # of a story that goes on, how it began
        self._record = StoryRecord(store, actor, self.provider, self.asked, self.place)
        self.id = self._record.id
        self._store, self._client, self._book, self._save_s = store, client, book, save_s
        self._words: list[str] = [self._record.before] if self._record.before else []
        self._written = ""  # by the model, with its thinking; known at the end
        self._subscribers = subscribers or Subscribers()
        self._version = 0
        self._done = self._stopped = self._left = False
        self._stopped_at: float | None = None  # by a clock that is never set back
        self._ended_at: datetime | None = None
        self._reserved = self._sent = False
        self._error: FabulaError | None = None
        self._joined = SurrogateJoiner()
        page: Page = "comparison" if self.place.step == COMPARISON else "story"
        self._billing = StoryBilling(store, actor, book, self.provider, self.request, self.id, page)
        self._bill = Bill(None, None)
        self._upstream = client.stream(self.request)  # nothing is sent before it is read
        self._readers = ReaderCount(leave_s, self._leave)
        threading.Thread(target=self._read, name=f"story-{self.id}", daemon=True).start()

    def __iter__(self) -> Iterator[str]:
        """Words as they come, gathered to one piece a tick."""
        seen = 0
        with self.read():
            while True:
                with self._subscribers:
                    self._subscribers.wait_for_words(partial(self._beyond, seen))
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

    def _beyond(self, seen: int) -> bool:
        return self._done or len(self._words) > seen

    def read(self) -> contextlib.AbstractContextManager[None]:
        """Somebody reads, for the length of the block."""
        return self._readers.one()

    def hold(self, seconds: float) -> None:
        """Do not stop it for want of a reader for so many seconds: its page is being loaded again."""
        if not self.done:
            self._readers.hold(seconds)

    @property
    def text(self) -> str:
        """The words that have come so far."""
        with self._subscribers:
            return "".join(self._words)

    @property
    def subscribers(self) -> Subscribers:
        """Is told of every piece."""
        return self._subscribers

    @property
    def version(self) -> int:
        """Grows with every piece, and once more at the end."""
        return self._version

    @property
    def done(self) -> bool:
        """Whether nothing more will come: it has ended and is saved, or was stopped a few seconds ago."""
        stopped_at = self._stopped_at
        return self._done or (stopped_at is not None and time.monotonic() - stopped_at > STOP_S)

    @property
    def stopping(self) -> bool:
        """Whether it was stopped and has not ended yet."""
        return self._stopped and not self.done

    @property
    def facts(self) -> StoryFacts:
        """What is known about the making of this story, now. What it costs is known at its end."""
        seen = self._upstream.facts
        return StoryFacts(
            model=seen.model,
            first_text_s=seen.first_text_s,
            tokens=self._bill.counted if seen.tokens is None else seen.tokens,
            tokens_per_s=seen.tokens_per_s,
            finish_reason=None if self._stopped else seen.finish_reason,
            stopped=self._stopped,
            cost_usd=self._bill.cost_usd,
            prompt_tokens=seen.prompt_tokens,
            counted=seen.tokens is None and self._bill.counted is not None,
            asked="" if seen.model == self.request.model else self.request.model,
            left=self._left,
            duration_s=seen.duration_s,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What its reader should know of how the model was asked: parameters that it does not take."""
        return parameters.notes(self._client.provider, self.request, stream=True)

    @property
    def error(self) -> FabulaError | None:
        """Why the stream ended early, if it did."""
        return self._error

    @property
    def ended_at(self) -> datetime | None:
        """When the last word or the error came (UTC); None: not yet."""
        return self._ended_at

    def stop(self) -> None:
        """End the story here, in any state of its request; returns when it is `done`."""
        self.cancel()
        while not self.done:
            with self._subscribers:
                self._subscribers.wait_for(lambda: self._done, timeout=TICK_S)

    def cancel(self) -> None:
        """`stop`, without waiting until the words are saved. Whoever calls it has not left the page."""
        with self._subscribers:
            self._left = False
            if self._done:
                return
            self._stopped = True
            self._stopped_at = self._stopped_at or time.monotonic()
        self._upstream.close()

    def _leave(self) -> None:
        with self._subscribers:
            if self._done or self._stopped:
                return
            self._stopped = self._left = True
            self._stopped_at = time.monotonic()
        self._upstream.close()

    # --- the reading thread ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        error: FabulaError | None = None
        try:
            self._billing.reserve()
            self._reserved = True
            with self._subscribers:
                self._sent = not self._stopped
            saved = asked = time.monotonic()
            for piece in self._upstream if self._sent else ():
                came = time.monotonic()
                self._add(self._joined.feed(piece))
                if self._stopped:
                    break
                if came - saved > self._save_s:
                    with contextlib.suppress(StorageFull):  # it is saved again at the end, and told then
                        self._record.keep(self.text, self.facts, None)
                    saved = came
                if came - asked > _AT_ONCE_S:
                    time.sleep(_REST_S)  # several pieces read at one go take less work than as many waited for
                asked = time.monotonic()
        except FabulaError as failure:
            error = failure
            with contextlib.suppress(FabulaError):
                error = error_explanation.explain(
                    self._store, self._book, self._client.provider, self.request.model, failure
                )
        except Exception as failure:  # a closed connection answers in many ways; a bug must still end the story
            error = ProviderError(msg("The stream was interrupted."), msg("Write it again; the text so far is kept."))
            error.__cause__ = failure
        self._add(self._joined.rest())
        self._leave_out_thinking()
        self._finish(None if self._stopped else error)

    def _add(self, piece: str) -> None:
        if not piece:
            return
        with self._subscribers:
            self._words.append(piece)
            self._version += 1
            self._subscribers.notify_waiting()

    def _leave_out_thinking(self) -> None:
        """A chat template may open the thinking: the stream tells only by its closing mark. Its tokens are billed."""
        with self._subscribers:
            self._written = "".join(self._words)[len(self._record.before) :]
            told = self._written if self._client.provider.kind == "engine" else without_thinking(self._written)
            if told != self._written:
                self._words = [word for word in (self._record.before, told) if word]
                self._version += 1

    def _save(self, error: FabulaError | None) -> None:
        """The words and what they took, in one transaction; where the database is gone, in a rescue file."""
        seen, written = self._upstream.facts, self._written
        unheard = self._sent and (self._stopped or (error is not None and _may_be_billed(error)))
        self._bill = self._billing.bill(seen, written, unheard=unheard)
        story = self._record.entry(self.text, self.facts, error) if self.text else {}
        entry = {"kind": "story" if story else "spend", **story, "spend": self._billing.entry(seen, self._bill)}
        rescue_files.write_or_keep(self._store, partial(self._settle, seen, written, error), entry)

    def _settle(self, seen: StreamFacts, written: str, error: FabulaError | None, session: Session) -> None:
        self._record.keep_in(session, self.text, self.facts, error, over=True)
        self._billing.settle(session, seen, written, self._bill)

    def _finish(self, error: FabulaError | None) -> None:
        """Save, account, and let the readers go, also when saving fails."""
        try:
            if self._reserved or self.text:
                self._save(error)
        except FabulaError as failure:
            error = error or failure
        except Exception as failure:  # a bug must not look like a story that was saved
            _log.exception("The story %s could not be saved.", self.id)
            lost = FabulaError(msg("The story could not be saved."), msg("Copy its text now; the log has the details."))
            lost.__cause__ = failure
            error = error or lost
        finally:
            self._upstream.close()
            self._readers.forget()
            with self._subscribers:
                self._error = error
                self._ended_at = utcnow()
                self._done = True
                self._version += 1
                self._subscribers.notify_all()


def _may_be_billed(error: FabulaError) -> bool:
    """Also of an error that was explained further (see `error_explanation.explain`), by what it was before."""
    return bool(getattr(error, "may_be_billed", False))


def write(
    store: Store,
    actor: Actor,
    client: Client,
    request: CompletionRequest,
    book: PriceBook,
    *,
    place: StoryPlacement | None = None,
    leave_s: float | None = None,
    subscribers: Subscribers | None = None,
    save_s: float = _SAVE_S,
) -> StoryStream:
    """Begin a story. Errors of the provider, and of budgets, come out of the iteration, not out of this call.

    Args:
        place: the round or chain that it belongs to, and its columns.
        leave_s: stop it so many seconds after its last reader has gone; None: it is written to its end.
        subscribers: told of every piece; one for several stories that are read together.
        save_s: how often the words so far are saved, for readers in other processes.
    """
    return StoryStream(
        store, actor, client, request, book, place=place, leave_s=leave_s, subscribers=subscribers, save_s=save_s
    )


def go_on(
    store: Store,
    actor: Actor,
    client: Client,
    kept: KeptStory,
    book: PriceBook,
    *,
    leave_s: float | None = None,
    subscribers: Subscribers | None = None,
) -> StoryStream:
    """Have the rest of a partial story written, by the model that began it; it stays one story in the library."""
    request = kept.request()
    place = StoryPlacement(kept.round_id, kept.step, kept.column_values, goes_on=(kept.id, kept.text))
    more = continuation(request, kept.text)
    return StoryStream(
        store, actor, client, more, book, place=place, leave_s=leave_s, subscribers=subscribers, asked=request
    )
