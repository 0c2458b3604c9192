"""The library: search and read saved stories; rate, edit, tag, delete and restore them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, Select, String, cast, func, or_, select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import Story, utcnow
from core.db.tables.story import NOT_IN_LIBRARY
from core.errors import FabulaError, NotFound
from core.message import msg
from core.ownership import edits, may, readable
from core.pricing import custom_prices, machine_time
from core.providers import CompletionRequest
from core.sanitize import storable

_OTHER_COLUMNS = ("tokens", "cost_usd", "tags")  # fields of `SavedStory` that are not just the column of that name
_CONTINUE_CHINESE = "\n\n下面是已经写好的开头。请从它中断的地方直接接着写完，不要重复已有的文字，也不要解释：\n\n"
_CONTINUE_ENGLISH = (
    "\n\nHere is how it begins. Go on exactly where it stops and bring it to its end; do not repeat any of it, and do "
    "not explain:\n\n"
)

MAX_STARS = 5
MAX_TAGS = 20
MAX_TAG_LENGTH = 40  # characters
MAX_TEXT_LENGTH = 1_000_000  # characters, about a novel


@dataclass(frozen=True, slots=True)
class SavedStory:
    """A story in the library.

    Attributes:
        created_at: when it was written (UTC).
        model: the name that the endpoint returned; requested_model: the one that was requested.
        text: the original text; edited_text: a person's edited version.
        cost_usd: the provider's charge, or for the engine the cost of machine time; None if unknown.
        first_text_s: seconds to the first text; duration_s: seconds in total.
    """

    id: str
    created_at: datetime
    provider: str
    model: str
    prompt: str
    text: str
    finish_reason: str | None
    tokens: int | None
    requested_model: str | None = None
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
    owner_id: str = ""
    sharing: str = "private"

    @property
    def final(self) -> str:
        """The text to show: the edited version if there is one, otherwise the original."""
        return self.text if self.edited_text is None else self.edited_text

    @property
    def partial(self) -> bool:
        """Whether the model did not finish the story."""
        return self.finish_reason in (None, "length")

    def request(self) -> CompletionRequest:
        """The request that produced the story."""
        parameters = self.parameters or {}
        return CompletionRequest(
            model=self.requested_model or self.model,
            prompt=self.prompt,
            system=str(parameters.get("system") or ""),
            endpoint="completion" if parameters.get("endpoint") == "completion" else "chat",
            temperature=float(parameters.get("temperature", 1.0)),
            top_p=float(parameters.get("top_p", 1.0)),
            max_tokens=int(parameters.get("max_tokens", 1024)),
            stop=tuple(str(stop) for stop in parameters.get("stop") or ()),
            seed=parameters.get("seed"),
        )


@dataclass(frozen=True, slots=True)
class StoryFilter:
    """Search filters. All given filters must match.

    Attributes:
        words: every word must appear in the text, the edit, the prompt or a tag.
        model: exact name.
        liked: thumbs up (True) or down (False).
        stars: minimum number of stars.
        tag: exact tag.
        edited: has an edited version; partial: the model did not finish it.
        round_id: belongs to this round or chain.
        reader: who searches, and finds what they may read; None: everything.
        owner_id: belongs to this person.
    """

    words: str = ""
    model: str | None = None
    liked: bool | None = None
    stars: int | None = None
    tag: str | None = None
    edited: bool | None = None
    partial: bool | None = None
    round_id: str | None = None
    reader: Actor | None = None
    owner_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoryPage:
    """One page of stories, newest first, and the total number of matches."""

    stories: tuple[SavedStory, ...]
    total: int


def recent(store: Store, limit: int = 20, reader: Actor | None = None) -> list[SavedStory]:
    """The newest stories in the library; `reader` as in `StoryFilter`."""
    return list(search(store, StoryFilter(reader=reader), limit=limit).stories)


def get(store: Store, story_id: str, reader: Actor | None = None) -> SavedStory | None:
    """One story, or None; also None if `reader` may not read it."""
    with store.reading() as session:
        row = session.get(Story, story_id)
        if row is None or row.deleted_at is not None or (reader is not None and not may(reader, "read", row)):
            return None
        return _to_view(row, custom_prices.machine_hour(store))


def search(store: Store, where: StoryFilter, *, offset: int = 0, limit: int | None = 20) -> StoryPage:
    """Stories that match `where`, newest first."""
    query, machine_hour = _filtered(select(Story), where), custom_prices.machine_hour(store)
    with store.reading() as session:
        total = session.scalar(_filtered(select(func.count(Story.id)), where)) or 0
        rows = session.scalars(query.order_by(Story.created_at.desc(), Story.id.desc()).offset(offset).limit(limit))
        return StoryPage(tuple(_to_view(row, machine_hour) for row in rows), total)


def models(store: Store, reader: Actor | None = None) -> list[str]:
    """All models with stories in the library, most stories first; `reader` as in `StoryFilter`."""
    query = (
        select(Story.model)
        .where(_in_library(), readable(reader, Story))
        .group_by(Story.model)
        .order_by(func.count().desc())
    )
    with store.reading() as session:
        return list(session.scalars(query))


def tags(store: Store, reader: Actor | None = None) -> list[str]:
    """All tags in use, sorted; `reader` as in `StoryFilter`."""
    in_use = (Story.tags.is_not(None), Story.deleted_at.is_(None), readable(reader, Story))
    with store.reading() as session:
        rows = session.scalars(select(Story.tags).where(*in_use))
        return sorted({tag for row in rows for tag in row or ()})


def _filtered(query: Select[Any], where: StoryFilter) -> Select[Any]:
    query = query.where(_in_library(), readable(where.reader, Story))
    for word in where.words.split():
        columns = (Story.text, Story.edited_text, Story.prompt)
        matches = [column.icontains(word, autoescape=True) for column in columns]
        query = query.where(or_(*matches, _tags_json().icontains(json.dumps(word)[1:-1], autoescape=True)))
    if where.model is not None:
        query = query.where(Story.model == where.model)
    if where.liked is not None:
        query = query.where(Story.liked.is_(where.liked))
    if where.stars is not None:
        query = query.where(Story.stars >= where.stars)
    if where.tag is not None:
        query = query.where(_tags_json().contains(json.dumps(where.tag), autoescape=True))
    if where.edited is not None:
        query = query.where(Story.edited_text.is_not(None) if where.edited else Story.edited_text.is_(None))
    if where.partial is not None:
        unfinished = Story.finish_reason.is_(None) | (Story.finish_reason == "length")
        query = query.where(unfinished if where.partial else ~unfinished)
    if where.owner_id is not None:
        query = query.where(Story.owner_id == where.owner_id)
    if where.round_id is not None:
        query = query.where(Story.round_id == where.round_id)
    return query


def _in_library() -> ColumnElement[bool]:
    return Story.deleted_at.is_(None) & (Story.step.is_(None) | Story.step.not_in(NOT_IN_LIBRARY))


def _tags_json() -> ColumnElement[str]:
    """The tags column as stored: JSON with non-ASCII characters escaped."""
    return cast(Story.tags, String)


def _to_view(row: Story, machine_hour: tuple[Decimal, str] | None) -> SavedStory:
    same = {name: getattr(row, name) for name in SavedStory.__dataclass_fields__ if name not in _OTHER_COLUMNS}
    cost_usd = machine_time.work_usd(machine_hour, row.provider, row.cost_usd, row.duration_s)
    return SavedStory(**same, tokens=row.completion_tokens, cost_usd=cost_usd, tags=tuple(row.tags or ()))


def continuation(request: CompletionRequest, text: str) -> CompletionRequest:
    """The request for the rest of `text`, which `request` produced.

    A completion model gets its own text appended to the prompt. A chat model gets an instruction in the language of
    the prompt, because not every endpoint accepts the beginning of an answer.
    """
    if request.endpoint == "completion":
        return replace(request, prompt=request.prompt + text)
    chinese = any("\u4e00" <= character <= "\u9fff" for character in request.prompt + text)
    return replace(request, prompt=request.prompt + (_CONTINUE_CHINESE if chinese else _CONTINUE_ENGLISH) + text)


@requires("editor")
@edits(story="story_id")
def rate(store: Store, actor: Actor, story_id: str, *, stars: int | None) -> None:
    """Give a story 1 to 5 stars, or clear the rating (None).

    Raises:
        NotAllowed: the actor is a viewer. FabulaError: not 1 to 5. NotFound: the story does not exist.
    """
    if stars is not None and not 1 <= stars <= MAX_STARS:
        raise FabulaError(
            msg("A story can't have {stars} stars.", stars=stars), msg("Enter 1 to {limit}.", limit=MAX_STARS)
        )
    _change(store, story_id, stars=stars)


@requires("editor")
@edits(story="story_id")
def like(store: Store, actor: Actor, story_id: str, liked: bool | None) -> None:
    """Set thumbs up (True), thumbs down (False) or neither (None).

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, story_id, liked=liked)


@requires("editor")
@edits(story="story_id")
def edit(store: Store, actor: Actor, story_id: str, text: str | None) -> None:
    """Save a person's edited version next to the original text. None, or the original text, removes the edit.

    Raises:
        FabulaError: empty or too long. NotAllowed, NotFound: as `rate`.
    """
    if text is not None:
        text = storable(text)
        if not text.strip():
            raise FabulaError(msg("The story can't be empty."), msg("Delete the story instead."))
        if len(text) > MAX_TEXT_LENGTH:
            raise FabulaError(
                msg("The edited text has {text} characters.", text=f"{len(text):,}"),
                msg("Keep it below {limit}.", limit=f"{MAX_TEXT_LENGTH:,}"),
            )
    saved = get(store, story_id)
    _change(store, story_id, edited_text=None if saved is not None and text == saved.text else text)


@requires("editor")
@edits(story="story_id")
def tag(store: Store, actor: Actor, story_id: str, tags: Sequence[str]) -> None:
    """Set the tags of a story. Duplicates and surrounding white space are removed; the order is kept.

    Raises:
        FabulaError: too many or too long. NotAllowed, NotFound: as `rate`.
    """
    clean = list(dict.fromkeys(" ".join(storable(name).split()) for name in tags))
    clean = [name for name in clean if name]
    if len(clean) > MAX_TAGS:
        raise FabulaError(msg("A story can have up to {limit} tags.", limit=MAX_TAGS), msg("Leave some out."))
    if any(len(name) > MAX_TAG_LENGTH for name in clean):
        raise FabulaError(
            msg("A tag can have up to {limit} characters.", limit=MAX_TAG_LENGTH), msg("Choose a shorter one.")
        )
    _change(store, story_id, tags=clean or None)


@requires("editor")
@edits(story="story_id")
def delete(store: Store, actor: Actor, story_id: str) -> None:
    """Delete a story from the library; `restore` undoes this.

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, story_id, deleted_at=utcnow())


@requires("editor")
@edits(story="story_id")
def restore(store: Store, actor: Actor, story_id: str) -> None:
    """Restore a deleted story.

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, story_id, include_deleted=True, deleted_at=None)


def _change(store: Store, story_id: str, *, include_deleted: bool = False, **values: Any) -> None:
    with store.session() as session:
        row = session.get(Story, story_id)
        if row is None or (row.deleted_at is not None and not include_deleted):
            raise NotFound(msg("This story no longer exists."), msg("Choose another one."))
        for name, value in values.items():
            setattr(row, name, value)
