"""A story as it is written: a plain `Iterator[str]`, about ten pieces a second, kept whatever happens to its reader.

A thread of its own reads the model's stream, so that a slow, closed or reloaded page loses nothing: the words are saved
as they come, and a reader that returns gets the text so far at once and the rest as it arrives.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import select

from core.actor import Actor
from core.cost import spend
from core.cost.book import PriceBook, cost_of
from core.db.store import Store, new_id
from core.db.tables import Story
from core.errors import FabulaError, ProviderError, StorageFull
from core.providers import Client, CompletionRequest

TICK_S = 0.1  # ten updates a second read as a steady flow; each update sends the whole text to the browser again
_SAVE_S = 2.0  # what a power cut may take: two seconds of words


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a story's making. None: not known (yet).

    Attributes:
        model: the model as the endpoint named it.
        first_text_s: seconds from sending to the first words.
        tokens: completion tokens; tokens_per_s: their rate once the first has come.
        finish_reason: `stop`, `length`, …; None while writing, and when stopped by hand or cut.
        stopped: a person stopped it; the text is partial.
        cost_usd: what it cost; None when the price is unknown.
    """

    model: str
    first_text_s: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    finish_reason: str | None = None
    stopped: bool = False
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True)
class KeptStory:
    """A story on the shelf."""

    id: str
    at: datetime
    provider: str
    model: str
    prompt: str
    text: str
    finish_reason: str | None
    tokens: int | None


class StoryStream:
    """One story being written. Iterate for its words; `stop()` ends it and keeps what has come.

    Iterating again starts from the first word. When the model's stream ends with an error, iteration raises it after
    the last word that came.
    """

    def __init__(self, store: Store, actor: Actor, client: Client, request: CompletionRequest, book: PriceBook) -> None:
        self.id = new_id()
        self.request = request
        self._store, self._actor, self._client, self._book = store, actor, client, book
        self._words: list[str] = []
        self._news = threading.Condition()
        self._done = False
        self._stopped = False
        self._error: FabulaError | None = None
        self._upstream = client.stream(request)  # nothing is sent before it is read
        self._began = time.monotonic()
        threading.Thread(target=self._read, name=f"story-{self.id}", daemon=True).start()

    def __iter__(self) -> Iterator[str]:
        """Words as they come, gathered to one piece a tick."""
        seen = 0
        while True:
            with self._news:
                while not self._done and len(self._words) == seen:
                    self._news.wait()
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

    @property
    def text(self) -> str:
        """The words that have come so far."""
        with self._news:
            return "".join(self._words)

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._done

    @property
    def facts(self) -> Facts:
        """What is known about the making of this story, now."""
        seen = self._upstream.facts
        return Facts(
            model=seen.model,
            first_text_s=seen.first_text_s,
            tokens=seen.tokens,
            tokens_per_s=seen.tokens_per_s,
            finish_reason=None if self._stopped else seen.finish_reason,
            stopped=self._stopped,
            cost_usd=cost_of(self._book, self._client.provider.id, seen.model, seen.prompt_tokens, seen.tokens),
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

    # --- the reading thread ----------------------------------------------------------------------------------------

    def _read(self) -> None:
        error: FabulaError | None = None
        try:
            saved = time.monotonic()
            for piece in self._upstream:
                with self._news:
                    self._words.append(piece)
                    self._news.notify_all()
                    stopped = self._stopped
                if stopped:
                    break
                if time.monotonic() - saved > _SAVE_S:
                    with contextlib.suppress(StorageFull):  # it is saved again at the end, and told then
                        self._keep()
                    saved = time.monotonic()
        except FabulaError as failure:
            error = failure
        except Exception as failure:  # a closed connection answers in many ways; a bug must still end the story
            error = ProviderError("The stream broke off.", "Write it again; the words so far are kept.")
            error.__cause__ = failure
        self._finish(None if self._stopped else error)

    def _finish(self, error: FabulaError | None) -> None:
        """Save, account, and let the readers go, also when saving fails."""
        try:
            self._keep()
            self._account()
        except FabulaError as failure:
            error = error or failure
        finally:
            self._upstream.close()
            with self._news:
                self._error = error
                self._done = True
                self._news.notify_all()

    def _keep(self) -> None:
        """Write the words so far to the shelf. A story without a word is not kept."""
        if not (text := self.text):
            return
        with self._store.session() as session:
            row = session.get(Story, self.id)
            if row is None:
                row = Story(
                    id=self.id,
                    actor=self._actor.id,
                    provider=self._client.provider.id,
                    model=self.request.model,
                    prompt=self.request.prompt,
                    parameters=_parameters(self.request),
                )
                session.add(row)
            facts = self.facts
            row.text = text
            row.finish_reason = facts.finish_reason
            row.completion_tokens = facts.tokens
            row.first_text_s = facts.first_text_s
            row.duration_s = time.monotonic() - self._began

    def _account(self) -> None:
        seen = self._upstream.facts
        if not self.text:
            return
        with self._store.session() as session:
            spend.record(
                session,
                self._actor,
                "story",
                provider=self._client.provider.id,
                model=seen.model,
                reference=self.id,
                prompt_tokens=seen.prompt_tokens,
                completion_tokens=seen.tokens,
                cost_usd=self.facts.cost_usd,
            )


def write(store: Store, actor: Actor, client: Client, request: CompletionRequest, book: PriceBook) -> StoryStream:
    """Begin a story. Errors of the provider come out of the iteration, not out of this call."""
    return StoryStream(store, actor, client, request, book)


def recent(store: Store, limit: int = 20) -> list[KeptStory]:
    """The newest stories on the shelf."""
    with store.reading() as session:
        rows = session.scalars(select(Story).order_by(Story.at.desc(), Story.id.desc()).limit(limit))
        return [_kept(row) for row in rows]


def get(store: Store, story_id: str) -> KeptStory | None:
    """One story, or None."""
    with store.reading() as session:
        row = session.get(Story, story_id)
        return None if row is None else _kept(row)


def _kept(row: Story) -> KeptStory:
    return KeptStory(
        id=row.id,
        at=row.at,
        provider=row.provider,
        model=row.model,
        prompt=row.prompt,
        text=row.text,
        finish_reason=row.finish_reason,
        tokens=row.completion_tokens,
    )


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
