"""A story as it is written: a plain `Iterator[str]`, about ten pieces a second, kept whatever happens to its reader.

A thread of its own reads the model's stream, so that a slow or reloaded page loses nothing: the words are saved as
they come, and a reader that returns gets the text so far at once and the rest as it arrives. Where it is asked to
(`leave_s`), a story that nobody reads any more is stopped: no tokens are paid for nobody.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from core.actor import Actor
from core.cost.book import PriceBook
from core.db.store import Store, new_id
from core.db.tables import Story
from core.errors import FabulaError, ProviderError, StorageFull
from core.providers import Client, CompletionRequest
from core.story import trouble
from core.story.facts import Facts as Facts
from core.story.going_on import continuation
from core.story.news import News as News
from core.story.shelf import KeptStory as KeptStory
from core.story.shelf import get as get
from core.story.shelf import recent as recent
from core.story.till import LONGEST_NAME, Bill, Till
from core.text import Joined, storable

TICK_S = 0.1  # ten updates a second read as a steady flow; each update sends the whole text to the browser again
_SAVE_S = 2.0  # what a power cut may take: two seconds of words
_ARRIVE_S = 3.0  # a first reader comes within a page's drawing; later it does not come at all
_LONGEST_WORD = 30  # characters of a reason that the table takes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a story belongs.

    Attributes:
        round_id: the round of stories from one prompt, side by side; or the chain that it is a step of.
        step: of a chain: its name.
        column_values: what filled the columns of the prompt.
        goes_on: the story that this is the rest of: its id, and its text so far.
    """

    round_id: str | None = None
    step: str | None = None
    column_values: dict[str, str] | None = None
    goes_on: tuple[str, str] | None = None


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
        place: Place | None = None,
        leave_s: float | None = None,
        news: News | None = None,
        asked: CompletionRequest | None = None,
    ) -> None:
        self.place = place or Place()
        self.id = self.place.goes_on[0] if self.place.goes_on else new_id()
        self.request = replace(request, prompt=storable(request.prompt), system=storable(request.system))
        self.asked = asked or self.request  # what the shelf remembers: of a story that goes on, how it began
        self.provider = client.provider.id
        self._store, self._actor, self._client, self._book = store, actor, client, book
        self._words: list[str] = [self.place.goes_on[1]] if self.place.goes_on else []
        self._news = news or News()
        self._version = 0
        self._done = self._stopped = self._left = False
        self._error: FabulaError | None = None
        self._joined = Joined()
        self._till = Till(store, actor, book, self.provider, self.request, self.id)
        self._bill = Bill(None, None)
        self._leave_s, self._readers = leave_s, 0
        self._upstream = client.stream(self.request)  # nothing is sent before it is read
        self._began = time.monotonic()
        threading.Thread(target=self._read, name=f"story-{self.id}", daemon=True).start()
        if leave_s is not None:
            self._look_for_readers(max(leave_s, _ARRIVE_S))

    def __iter__(self) -> Iterator[str]:
        """Words as they come, gathered to one piece a tick."""
        seen = 0
        with self.read():
            while True:
                with self._news:
                    self._news.await_words(partial(self._beyond, seen))
                    piece, done = "".join(self._words[seen:]), self._done
                    seen = len(self._words)
                if piece:
                    yield piece
                if done:
                    break
                with self._news:
                    self._news.wait_for(lambda: self._done, timeout=TICK_S)
        if self._error is not None:
            raise self._error

    def _beyond(self, seen: int) -> bool:
        return self._done or len(self._words) > seen

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Somebody reads, for the length of the block."""
        with self._news:
            self._readers += 1
        try:
            yield
        finally:
            with self._news:
                self._readers -= 1
            if self._leave_s is not None and not self._done:
                self._look_for_readers(self._leave_s)

    @property
    def text(self) -> str:
        """The words that have come so far."""
        with self._news:
            return "".join(self._words)

    @property
    def news(self) -> News:
        """Is told of every piece."""
        return self._news

    @property
    def version(self) -> int:
        """Grows with every piece, and once more at the end."""
        return self._version

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._done

    @property
    def facts(self) -> Facts:
        """What is known about the making of this story, now. What it costs is known at its end."""
        seen = self._upstream.facts
        return Facts(
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
        )

    @property
    def error(self) -> FabulaError | None:
        """Why the stream ended early, if it did."""
        return self._error

    def stop(self) -> None:
        """End the story here and keep its words; returns when they are saved, or after two seconds."""
        with self._news:
            if self._done:
                return
            self._stopped = True
        self._upstream.close()
        with self._news:
            self._news.wait_for(lambda: self._done, timeout=_SAVE_S)

    # --- readers that leave ----------------------------------------------------------------------------------------

    def _look_for_readers(self, after_s: float) -> None:
        timer = threading.Timer(after_s, self._leave)
        timer.daemon = True
        timer.start()

    def _leave(self) -> None:
        with self._news:
            if self._done or self._stopped or self._readers:
                return
            self._stopped = self._left = True
        self._upstream.close()

    # --- the reading thread ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        error: FabulaError | None = None
        try:
            self._till.reserve()
            saved = time.monotonic()
            for piece in self._upstream:
                self._add(self._joined.feed(piece))
                if self._stopped:
                    break
                if time.monotonic() - saved > _SAVE_S:
                    with contextlib.suppress(StorageFull):  # it is saved again at the end, and told then
                        self._keep(None)
                    saved = time.monotonic()
        except FabulaError as failure:
            error = failure
            with contextlib.suppress(FabulaError):
                error = trouble.explained(self._store, self._book, self._client.provider, self.request.model, failure)
        except Exception as failure:  # a closed connection answers in many ways; a bug must still end the story
            error = ProviderError("The stream broke off.", "Write it again; the words so far are kept.")
            error.__cause__ = failure
        self._add(self._joined.rest())
        self._finish(None if self._stopped else error)

    def _add(self, piece: str) -> None:
        if not piece:
            return
        with self._news:
            self._words.append(piece)
            self._version += 1
            self._news.came()

    def _finish(self, error: FabulaError | None) -> None:
        """Save, account, and let the readers go, also when saving fails."""
        try:
            seen, written = self._upstream.facts, self._written()
            self._bill = self._till.bill(seen, written)
            self._keep(error, over=True)
            self._till.settle(seen, written, self._bill)
        except FabulaError as failure:
            error = error or failure
        finally:
            self._upstream.close()
            with self._news:
                self._error = error
                self._done = True
                self._version += 1
                self._news.notify_all()

    # --- the shelf -------------------------------------------------------------------------------------------------

    def _written(self) -> str:
        """What this stream has brought, without what it goes on from."""
        text = self.text
        return text[len(self.place.goes_on[1]) :] if self.place.goes_on else text

    def _keep(self, error: FabulaError | None, *, over: bool = False) -> None:
        """Write the words so far to the shelf; `over`: and what they took. A story without a word is not kept."""
        if not (text := self.text):
            return
        with self._store.session() as session:
            row = session.get(Story, self.id)
            if row is None:
                row = Story(
                    id=self.id,
                    actor=self._actor.id,
                    provider=self.provider,
                    asked_model=self.asked.model[:LONGEST_NAME],
                    prompt=self.asked.prompt,
                    parameters=_parameters(self.asked),
                    round_id=self.place.round_id,
                    step=self.place.step,
                    column_values=self.place.column_values,
                )
                session.add(row)
            before = row.completion_tokens, row.cost_usd, row.duration_s
            facts = self.facts
            row.model = storable(facts.model)[:LONGEST_NAME]
            row.text = text
            row.finish_reason = storable(facts.finish_reason)[:_LONGEST_WORD] if facts.finish_reason else None
            row.first_text_s = row.first_text_s if self.place.goes_on else facts.first_text_s
            row.error = storable(f"{error.what} {error.next_step}".strip()) if error is not None else None
            row.prompt_tokens = facts.prompt_tokens
            if self.place.goes_on is None:
                row.completion_tokens, row.cost_usd = facts.tokens, facts.cost_usd
                row.duration_s = time.monotonic() - self._began
            elif over:  # once
                row.completion_tokens = _sum(before[0], facts.tokens)
                row.cost_usd = _sum(before[1], facts.cost_usd)
                row.duration_s = _sum(before[2], time.monotonic() - self._began)


def write(
    store: Store,
    actor: Actor,
    client: Client,
    request: CompletionRequest,
    book: PriceBook,
    *,
    place: Place | None = None,
    leave_s: float | None = None,
    news: News | None = None,
) -> StoryStream:
    """Begin a story. Errors of the provider, and of budgets, come out of the iteration, not out of this call.

    Args:
        place: the round or chain that it belongs to, and its columns.
        leave_s: stop it so many seconds after its last reader has gone; None: it is written to its end.
        news: told of every piece; one for several stories that are read together.
    """
    return StoryStream(store, actor, client, request, book, place=place, leave_s=leave_s, news=news)


def go_on(
    store: Store,
    actor: Actor,
    client: Client,
    kept: KeptStory,
    book: PriceBook,
    *,
    leave_s: float | None = None,
    news: News | None = None,
) -> StoryStream:
    """Have the rest of a partial story written, by the model that began it; it stays one story on the shelf."""
    request = kept.request()
    place = Place(kept.round_id, kept.step, kept.column_values, goes_on=(kept.id, kept.text))
    more = continuation(request, kept.text)
    return StoryStream(store, actor, client, more, book, place=place, leave_s=leave_s, news=news, asked=request)


def _parameters(request: CompletionRequest) -> dict[str, Any]:
    return {
        "endpoint": request.endpoint,
        "system": request.system,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": list(request.stop),
        "seed": request.seed,
    }


def _sum(before: Any, now: Any) -> Any:
    """Both together; unknown when one of them is."""
    return None if before is None or now is None else before + now
