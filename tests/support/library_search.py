"""Library stories, and searches with their expected results, for every kind of database."""

from __future__ import annotations

from core.db.store import Store
from core.stories import library
from core.stories.library import StoryFilter
from tests.support.ledger_rows import put_story


def found_stories(store: Store, where: StoryFilter) -> list[str]:
    return sorted(story.id for story in library.search(store, where).stories)


SHELVED: tuple[dict[str, object], ...] = (
    {"text": "一位英雄", "liked": True, "stars": 3},
    {"edited_text": "100% mine", "liked": False, "finish_reason": None},
    {"model": "other", "prompt": "another prompt", "tags": ["英雄", 'a"b'], "stars": 5},
)
SOUGHT: tuple[tuple[StoryFilter, list[str]], ...] = (
    (StoryFilter(), ["s1", "s2", "s3"]),
    (StoryFilter(words="英雄"), ["s1", "s3"]),
    (StoryFilter(words="英雄 OTHER"), ["s3"]),
    (StoryFilter(words="100%"), ["s2"]),
    (StoryFilter(words="_"), []),
    (StoryFilter(model="other"), ["s3"]),
    (StoryFilter(liked=True), ["s1"]),
    (StoryFilter(liked=False), ["s2"]),
    (StoryFilter(stars=4), ["s3"]),
    (StoryFilter(tag="英雄"), ["s3"]),
    (StoryFilter(tag="英"), []),
    (StoryFilter(edited=True), ["s2"]),
    (StoryFilter(partial=True), ["s2"]),
    (StoryFilter(partial=False), ["s1", "s3"]),
)


def put_stories(store: Store) -> None:
    for number, values in enumerate(SHELVED, start=1):
        put_story(store, number, **values)
