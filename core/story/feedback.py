"""What people think of a story in the library: stars, thumbs, an edit, tags; and that it shall go, or come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.actor import Actor
from core.db.store import Store
from core.db.tables import Story, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.sanitize import storable
from core.story import library

MOST_STARS = 5
MOST_TAGS = 20
LONGEST_TAG = 40  # characters
LONGEST_TEXT = 1_000_000  # characters of an edit: a novel


def rate(store: Store, actor: Actor, story_id: str, *, stars: int | None) -> None:
    """Give a story 1 to 5 stars, or take them away (None).

    Raises:
        FabulaError: not 1 to 5; or the actor may only look. NotFound: it is not there (any more).
    """
    if stars is not None and not 1 <= stars <= MOST_STARS:
        raise FabulaError(
            msg("{stars} is not a possible number of stars.", stars=stars), msg("Enter 1 to {value}.", value=MOST_STARS)
        )
    _change(store, actor, story_id, stars=stars)


def like(store: Store, actor: Actor, story_id: str, liked: bool | None) -> None:
    """Thumb up, down, or neither (None).

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, actor, story_id, liked=liked)


def edit(store: Store, actor: Actor, story_id: str, text: str | None) -> None:
    """Keep a person's version beside the text as written; None, or the same text, takes it away.

    Raises:
        FabulaError: empty or too long; or the actor may only look. NotFound: as `rate`.
    """
    if text is not None:
        text = storable(text)
        if not text.strip():
            raise FabulaError(msg("The story can't be empty."), msg("Delete the story instead."))
        if len(text) > LONGEST_TEXT:
            raise FabulaError(
                msg("The edited text has {text} characters.", text=f"{len(text):,}"),
                msg("Keep it below {value}.", value=f"{LONGEST_TEXT:,}"),
            )
    kept = library.get(store, story_id)
    _change(store, actor, story_id, edited_text=None if kept is not None and text == kept.text else text)


def tag(store: Store, actor: Actor, story_id: str, given: Sequence[str]) -> None:
    """Set the tags of a story: each once, without white space around, in the order given.

    Raises:
        FabulaError: too many or too long; or the actor may only look. NotFound: as `rate`.
    """
    clean = list(dict.fromkeys(" ".join(storable(word).split()) for word in given))
    clean = [word for word in clean if word]
    if len(clean) > MOST_TAGS:
        raise FabulaError(msg("A story can have up to {value} tags.", value=MOST_TAGS), msg("Leave some out."))
    if any(len(word) > LONGEST_TAG for word in clean):
        raise FabulaError(
            msg("A tag can have up to {value} characters.", value=LONGEST_TAG), msg("Choose a shorter one.")
        )
    _change(store, actor, story_id, tags=clean or None)


def delete(store: Store, actor: Actor, story_id: str) -> None:
    """Take a story out of the library; `restore` brings it back.

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, actor, story_id, deleted_at=utcnow())


def restore(store: Store, actor: Actor, story_id: str) -> None:
    """Bring a deleted story back.

    Raises:
        FabulaError, NotFound: as `rate`.
    """
    _change(store, actor, story_id, also_deleted=True, deleted_at=None)


def _change(store: Store, actor: Actor, story_id: str, *, also_deleted: bool = False, **values: Any) -> None:
    if actor.role == "viewer":
        raise FabulaError(
            msg("Visitors can read the stories, not change them."), msg("Ask someone who has permission.")
        )
    with store.session() as session:
        row = session.get(Story, story_id)
        if row is None or (row.deleted_at is not None and not also_deleted):
            raise NotFound(msg("This story no longer exists."), msg("Choose another one."))
        for name, value in values.items():
            setattr(row, name, value)
