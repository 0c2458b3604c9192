"""Feedback on stories in the library: stars, thumbs, edits and tags; and deleting and restoring stories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Story, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.sanitize import storable
from core.stories import library

MAX_STARS = 5
MAX_TAGS = 20
MAX_TAG_LENGTH = 40  # characters
MAX_TEXT_LENGTH = 1_000_000  # characters, about a novel


def rate(store: Store, actor: Actor, story_id: str, *, stars: int | None) -> None:
    """Give a story 1 to 5 stars, or clear the rating (None).

    Raises:
        FabulaError: not 1 to 5, or the actor is a viewer. NotFound: the story does not exist.
    """
    if stars is not None and not 1 <= stars <= MAX_STARS:
        raise FabulaError(
            msg("A story can't have {stars} stars.", stars=stars), msg("Enter 1 to {limit}.", limit=MAX_STARS)
        )
    _change(store, actor, story_id, stars=stars)


def like(store: Store, actor: Actor, story_id: str, liked: bool | None) -> None:
    """Set thumbs up (True), thumbs down (False) or neither (None).

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, actor, story_id, liked=liked)


def edit(store: Store, actor: Actor, story_id: str, text: str | None) -> None:
    """Save a person's edited version next to the original text. None, or the original text, removes the edit.

    Raises:
        FabulaError: empty or too long, or the actor is a viewer. NotFound: as `rate`.
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
    saved = library.get(store, story_id)
    _change(store, actor, story_id, edited_text=None if saved is not None and text == saved.text else text)


def tag(store: Store, actor: Actor, story_id: str, tags: Sequence[str]) -> None:
    """Set the tags of a story. Duplicates and surrounding white space are removed; the order is kept.

    Raises:
        FabulaError: too many or too long, or the actor is a viewer. NotFound: as `rate`.
    """
    clean = list(dict.fromkeys(" ".join(storable(name).split()) for name in tags))
    clean = [name for name in clean if name]
    if len(clean) > MAX_TAGS:
        raise FabulaError(msg("A story can have up to {limit} tags.", limit=MAX_TAGS), msg("Leave some out."))
    if any(len(name) > MAX_TAG_LENGTH for name in clean):
        raise FabulaError(
            msg("A tag can have up to {limit} characters.", limit=MAX_TAG_LENGTH), msg("Choose a shorter one.")
        )
    _change(store, actor, story_id, tags=clean or None)


def delete(store: Store, actor: Actor, story_id: str) -> None:
    """Delete a story from the library; `restore` undoes this.

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, actor, story_id, deleted_at=utcnow())


def restore(store: Store, actor: Actor, story_id: str) -> None:
    """Restore a deleted story.

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, actor, story_id, include_deleted=True, deleted_at=None)


def _change(store: Store, actor: Actor, story_id: str, *, include_deleted: bool = False, **values: Any) -> None:
    if actor.role == "viewer":
        raise FabulaError(msg("Visitors can read stories but not change them."), msg("Ask someone who has permission."))
    with store.session() as session:
        row = session.get(Story, story_id)
        if row is None or (row.deleted_at is not None and not include_deleted):
            raise NotFound(msg("This story no longer exists."), msg("Choose another one."))
        for name, value in values.items():
            setattr(row, name, value)
