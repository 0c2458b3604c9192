"""The library: every story that a person asked for, found again. What people think of it: `core.story.feedback`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, String, cast, func, or_, select

from core.cost import custom_prices, machine_time
from core.db.store import Store
from core.db.tables import Story
from core.db.tables.story import NOT_ON_THE_SHELF
from core.providers import CompletionRequest


@dataclass(frozen=True, slots=True)
class KeptStory:
    """A story in the library. `text` is as it was written; `edited_text` a person's own version of it.

    `model` is what the endpoint said it was, `asked_model` what was asked for. `cost_usd` is its bill, or on the engine
    the time of this machine; None: unknown.
    """

    id: str
    at: datetime
    provider: str
    model: str
    prompt: str
    text: str
    finish_reason: str | None
    tokens: int | None
    asked_model: str | None = None
    parameters: dict[str, Any] | None = None
    prompt_tokens: int | None = None
    cost_usd: Decimal | None = None
    first_text_s: float | None = None
    duration_s: float | None = None
    error: str | None = None
    edited_text: str | None = None
    stars: int | None = None
    liked: bool | None = None
    tags: tuple[str, ...] = ()
    column_values: dict[str, str] | None = None
    round_id: str | None = None
    step: str | None = None

    @property
    def final(self) -> str:
        """The text as it shall be read: the person's version, where there is one."""
        return self.text if self.edited_text is None else self.edited_text

    @property
    def partial(self) -> bool:
        """Whether the model has not finished it."""
        return self.finish_reason in (None, "length")

    def request(self) -> CompletionRequest:
        """The request that began it."""
        given = self.parameters or {}
        return CompletionRequest(
            model=self.asked_model or self.model,
            prompt=self.prompt,
            system=str(given.get("system") or ""),
            endpoint="completion" if given.get("endpoint") == "completion" else "chat",
            temperature=float(given.get("temperature", 1.0)),
            top_p=float(given.get("top_p", 1.0)),
            max_tokens=int(given.get("max_tokens", 1024)),
            stop=tuple(str(stop) for stop in given.get("stop") or ()),
            seed=given.get("seed"),
        )


@dataclass(frozen=True, slots=True)
class StoryFilter:
    """Which stories to look at. Every part that is given narrows it.

    Attributes:
        words: all of them stand in the text, the edit, the prompt or a tag.
        model: by its exact name; provider of it.
        liked: thumbs up (True) or down (False).
        stars: at least so many.
        tag: has this tag.
        edited, partial: has been edited; has not been finished.
        round_id: of this round or chain.
    """

    words: str = ""
    model: str | None = None
    liked: bool | None = None
    stars: int | None = None
    tag: str | None = None
    edited: bool | None = None
    partial: bool | None = None
    round_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoryPage:
    """Some stories, newest first, and how many there are in all."""

    stories: tuple[KeptStory, ...]
    total: int


def recent(store: Store, limit: int = 20) -> list[KeptStory]:
    """The newest stories in the library."""
    return list(search(store, StoryFilter(), limit=limit).stories)


def get(store: Store, story_id: str) -> KeptStory | None:
    """One story, or None."""
    with store.reading() as session:
        row = session.get(Story, story_id)
        return None if row is None or row.deleted_at is not None else _kept(row, custom_prices.machine_hour(store))


def get_many(store: Store, ids: Sequence[str]) -> list[KeptStory]:
    """Stories by their ids, in that order; those that are not there (any more) are left out."""
    found = (get(store, story_id) for story_id in ids)
    return [story for story in found if story is not None]


def search(store: Store, where: StoryFilter, *, offset: int = 0, limit: int | None = 20) -> StoryPage:
    """The stories that `where` leaves, newest first."""
    query, hour = _narrowed(select(Story), where), custom_prices.machine_hour(store)
    with store.reading() as session:
        total = session.scalar(_narrowed(select(func.count(Story.id)), where)) or 0
        rows = session.scalars(query.order_by(Story.at.desc(), Story.id.desc()).offset(offset).limit(limit))
        return StoryPage(tuple(_kept(row, hour) for row in rows), total)


def models(store: Store) -> list[str]:
    """Every model that has a story here, those with the most first."""
    query = select(Story.model).where(_shown()).group_by(Story.model).order_by(func.count().desc())
    with store.reading() as session:
        return list(session.scalars(query))


def tags(store: Store) -> list[str]:
    """Every tag that a story has, in order."""
    with store.reading() as session:
        rows = session.scalars(select(Story.tags).where(Story.tags.is_not(None), Story.deleted_at.is_(None)))
        return sorted({tag for row in rows for tag in row or ()})


def _narrowed(query: Select[Any], where: StoryFilter) -> Select[Any]:
    query = query.where(_shown())
    for word in where.words.split():
        places = (Story.text, Story.edited_text, Story.prompt)
        said = [place.icontains(word, autoescape=True) for place in places]
        query = query.where(or_(*said, _tags().icontains(json.dumps(word)[1:-1], autoescape=True)))
    if where.model is not None:
        query = query.where(Story.model == where.model)
    if where.liked is not None:
        query = query.where(Story.liked.is_(where.liked))
    if where.stars is not None:
        query = query.where(Story.stars >= where.stars)
    if where.tag is not None:
        query = query.where(_tags().contains(json.dumps(where.tag), autoescape=True))
    if where.edited is not None:
        query = query.where(Story.edited_text.is_not(None) if where.edited else Story.edited_text.is_(None))
    if where.partial is not None:
        unfinished = Story.finish_reason.is_(None) | (Story.finish_reason == "length")
        query = query.where(unfinished if where.partial else ~unfinished)
    if where.round_id is not None:
        query = query.where(Story.round_id == where.round_id)
    return query


def _shown() -> ColumnElement[bool]:
    return Story.deleted_at.is_(None) & (Story.step.is_(None) | Story.step.not_in(NOT_ON_THE_SHELF))


def _tags() -> ColumnElement[str]:
    """The tags as they lie in the table: JSON, letters beyond ASCII escaped."""
    return cast(Story.tags, String)


def _kept(row: Story, hour: tuple[Decimal, str] | None) -> KeptStory:
    return KeptStory(
        id=row.id,
        at=row.at,
        provider=row.provider,
        model=row.model,
        prompt=row.prompt,
        text=row.text,
        finish_reason=row.finish_reason,
        tokens=row.completion_tokens,
        asked_model=row.asked_model,
        parameters=row.parameters,
        prompt_tokens=row.prompt_tokens,
        cost_usd=machine_time.work_usd(hour, row.provider, row.cost_usd, row.duration_s),
        first_text_s=row.first_text_s,
        duration_s=row.duration_s,
        error=row.error,
        edited_text=row.edited_text,
        stars=row.stars,
        liked=row.liked,
        tags=tuple(row.tags or ()),
        column_values=row.column_values,
        round_id=row.round_id,
        step=row.step,
    )
