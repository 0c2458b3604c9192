"""The library: search, feedback, edits, safe deletion, and export to training data."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from core.actor import LOCAL, Actor
from core.db.store import Store
from core.db.tables import TrainingJob
from core.errors import BadRequest, FabulaError, ModelNotFound, NotFound
from core.file_storage import FolderStorage
from core.pricing.price_book import PriceBook
from core.providers import Provider
from core.stories import error_explanation, exports, library, prompt_suggestions
from core.stories.library import SavedStory, StoryFilter
from core.stories.story_record import StoryFacts, StoryUsage, count_usage
from core.stories.vote_pairs import PreferencePair
from tests.support.ledger_rows import put_story
from tests.support.library_search import SOUGHT, found_stories, put_stories

_VIEWER = Actor("guest", "A guest", "viewer")
_AT = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
_NASTY = '<script>alert(1)</script> ![x](http://example.com/x.png) "quoted" & <img src=http://example.com/y onerror=z>'
_STORY = SavedStory("1", _AT, "engine", "writer", "宋,飞行 ->", "从前。", "stop", 3, stars=2)


@pytest.mark.parametrize(("where", "ids"), SOUGHT)
def test_stories_can_be_searched(store: Store, where: StoryFilter, ids: list[str]) -> None:
    put_stories(store)
    assert found_stories(store, where) == ids
    assert library.search(store, where, limit=0).total == len(ids)


def test_the_shelf_knows_its_models_and_tags(store: Store) -> None:
    put_story(store, 1, model="b", tags=["y", "x"])
    put_story(store, 2, model="a")
    put_story(store, 3, model="a", tags=["x"])
    assert library.models(store) == ["a", "b"] and library.tags(store) == ["x", "y"]


def test_feedback_is_saved_and_can_be_cleared(store: Store) -> None:
    story = put_story(store, 1)
    library.rate(store, LOCAL, story, stars=4)
    library.like(store, LOCAL, story, True)
    library.tag(store, LOCAL, story, [" a  b ", "a b", "", "c"])
    library.edit(store, LOCAL, story, "mine\0")
    saved = library.get(store, story)
    assert saved is not None
    assert (saved.stars, saved.liked, saved.tags, saved.edited_text, saved.text) == (
        4,
        True,
        ("a b", "c"),
        "mine",
        "story 1",
    )
    library.rate(store, LOCAL, story, stars=None)
    library.like(store, LOCAL, story, None)
    library.tag(store, LOCAL, story, [])
    library.edit(store, LOCAL, story, "story 1")  # the original text removes the edit
    saved = library.get(store, story)
    assert saved is not None
    assert (saved.stars, saved.liked, saved.tags, saved.edited_text) == (None, None, (), None)


def test_a_deleted_story_is_hidden_until_it_is_restored(store: Store) -> None:
    story = put_story(store, 1)
    library.delete(store, LOCAL, story)
    assert library.get(store, story) is None and found_stories(store, StoryFilter()) == []
    with pytest.raises(NotFound):
        library.like(store, LOCAL, story, True)
    library.restore(store, LOCAL, story)
    assert found_stories(store, StoryFilter()) == [story]


@pytest.mark.parametrize("wrong", ["stars", "empty", "long", "tags", "tag", "viewer", "gone"])
def test_invalid_feedback_is_rejected_with_a_message(store: Store, wrong: str) -> None:
    story = put_story(store, 1)
    with pytest.raises(FabulaError) as caught:
        match wrong:
            case "stars":
                library.rate(store, LOCAL, story, stars=6)
            case "empty":
                library.edit(store, LOCAL, story, " \0\n")
            case "long":
                library.edit(store, LOCAL, story, "x" * (library.MAX_TEXT_LENGTH + 1))
            case "tags":
                library.tag(store, LOCAL, story, [str(n) for n in range(library.MAX_TAGS + 1)])
            case "tag":
                library.tag(store, LOCAL, story, ["x" * (library.MAX_TAG_LENGTH + 1)])
            case "viewer":
                library.like(store, _VIEWER, story, True)
            case "gone":
                library.like(store, LOCAL, "nothing", True)
    assert caught.value.what and caught.value.next_step


# --- exports ----------------------------------------------------------------------------------------------------------


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "onerror", "action")]


def test_a_printed_page_holds_the_words_and_nothing_that_runs_or_loads() -> None:
    nasty = replace(_STORY, text=_NASTY, prompt=_NASTY, model=_NASTY)
    page = exports.page([nasty], f"</title>{_NASTY}", '"><script>')
    seen = _Seen()
    seen.feed(page)
    assert seen.links == [] and not {"script", "img", "link", "iframe", "object"} & set(seen.tags)
    assert "default-src 'none'" in page and "&lt;script&gt;" in page


def test_markdown_holds_the_words_and_no_markup() -> None:
    text = exports.markdown([replace(_STORY, text=_NASTY + "\n- one\n# two\n```"), _STORY])
    assert "\\!\\[x\\](http" in text and "\\<script\\>" in text and "\n\\- one" in text and "\n\\# two" in text
    assert text.count("\n## ") == 1 and text.startswith("## ")


def test_a_table_holds_everything_and_no_formula() -> None:
    story = replace(_STORY, text="=HYPERLINK(1)", cost_usd=Decimal("0.0001"), tags=("a",), column_values={"a": "b"})
    (row,) = csv.DictReader(io.StringIO(exports.as_csv([story]).removeprefix("\ufeff")))
    assert row["text"] == "'=HYPERLINK(1)" and row["cost_usd"] == "0.0001" and row["completion_tokens"] == "3"
    assert json.loads(row["column_values"]) == {"a": "b"} and row["edited_text"] == ""
    (line,) = exports.jsonl([story])
    assert json.loads(line)["text"] == "=HYPERLINK(1)" and json.loads(line)["tags"] == ["a"]


def test_pairs_are_written_as_each_trainer_reads_them() -> None:
    pair = PreferencePair("讲", "好", "坏")
    (openai,) = map(json.loads, exports.preferences([pair]))
    assert openai == {
        "input": {"messages": [{"role": "user", "content": "讲"}]},
        "preferred_output": [{"role": "assistant", "content": "好"}],
        "non_preferred_output": [{"role": "assistant", "content": "坏"}],
    }
    (trl,) = map(json.loads, exports.preferences([pair], "trl"))
    assert trl == {"prompt": "讲", "chosen": "好", "rejected": "坏"}


@pytest.mark.parametrize(
    ("values", "columns", "first"),
    [
        (({"a": "1"}, {"a": "2"}), ["a"], {"a": "1", "story": "edit"}),
        (({"a": "1"}, {"b": "2"}), ["prompt"], {"prompt": "宋,飞行 ->", "story": "edit"}),
        ((None, {"a": "2"}), ["prompt"], {"prompt": "宋,飞行 ->", "story": "edit"}),
        (({"story": "1"}, {"story": "2"}), ["prompt"], {"prompt": "宋,飞行 ->", "story": "edit"}),
    ],
)
def test_liked_stories_become_examples_with_their_edits(
    values: tuple[dict[str, str] | None, ...], columns: list[str], first: dict[str, str]
) -> None:
    stories = [replace(_STORY, column_values=given, edited_text="edit") for given in values]
    assert exports.examples(stories) == (columns, [first, exports.examples(stories)[1][1]])


# --- models that no longer exist
# ---------------------------------------------------------------------------------------------

_OPENAI = Provider("openai", "openai", "OpenAI", "https://api.openai.com/v1", "")
_ENGINE = Provider("engine", "engine", "The engine", "http://x/v1", "")


def _gone(store: Store, provider: Provider, model: str, now: datetime) -> ModelNotFound:
    error = error_explanation.explain(
        store, PriceBook.load(now=now), provider, model, ModelNotFound("Not found.", "Choose."), now.date()
    )
    assert isinstance(error, ModelNotFound) and error.__cause__ is not None
    return error


def test_a_retired_model_has_a_date_and_a_replacement(store: Store) -> None:
    error = _gone(store, _OPENAI, "ft:gpt-4o-mini-2024-07-18:me:x:1", datetime(2028, 1, 1, tzinfo=UTC))
    assert "stopped on 2027-01-14" in error.what and "Choose another model" in error.next_step


def test_a_deleted_model_has_its_last_use_and_a_replacement(store: Store) -> None:
    put_story(store, 1, model="ft:base:fabula:a:1", created_at=_AT)
    with store.session() as session:
        for number, name in enumerate(("ft:base:fabula:a:1", "ft:base:fabula:b:2")):
            session.add(
                TrainingJob(
                    id=f"j{number}", dataset_id="d", name=name, provider="engine", base_model="base",
                    hyperparameters={}, file_format="completion", fine_tuned_model=name, created_by="local",
                )
            )  # fmt: skip
    error = _gone(store, _ENGINE, "ft:base:fabula:a:1", _AT)
    assert "2026-01-02 03:04" in error.what and "ft:base:fabula:b:2" in error.next_step


def test_a_model_that_was_never_here_says_so(store: Store) -> None:
    assert "never been used" in _gone(store, _ENGINE, "nobody", _AT).what


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("This model's maximum context length is 4096 tokens", "longer than"),
        ("The response was filtered due to content management policy", "content filter"),
        ("Something else", "Something else"),
    ],
)
def test_long_and_filtered_prompts_have_a_next_step(store: Store, said: str, words: str) -> None:
    error = error_explanation.explain(store, PriceBook.load(), _OPENAI, "m", BadRequest(said, "Change it."))
    assert isinstance(error, BadRequest) and words in error.what and error.next_step


# --- prompts for presenter mode ---------------------------------------------------------------------------------------


def test_prepared_prompts_are_normalized(home: Path) -> None:
    assert prompt_suggestions.load_presenter_prompts(FolderStorage(home)) == []
    prompt_suggestions.save_presenter_prompts(
        FolderStorage(home), LOCAL, [" one ", "", "two", "one", "x" * (prompt_suggestions.MAX_PROMPT_LENGTH + 1)]
    )
    assert prompt_suggestions.load_presenter_prompts(FolderStorage(home)) == [
        "one",
        "two",
        "x" * prompt_suggestions.MAX_PROMPT_LENGTH,
    ]
    with pytest.raises(FabulaError):
        prompt_suggestions.save_presenter_prompts(FolderStorage(home), _VIEWER, [])
    assert len(prompt_suggestions.normalize_prompts(str(n) for n in range(99))) == prompt_suggestions.MAX_PROMPTS


# --- tokens used so far -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (StoryFacts("gpt-4o"), StoryUsage(2, 4, counted_locally=True)),
        (StoryFacts("gpt-4o", tokens=9), StoryUsage(2, 9, counted_locally=True)),
        (StoryFacts("gpt-4o", tokens=9, counted_locally=True), StoryUsage(2, 4, counted_locally=True)),
        (StoryFacts("gpt-4o", prompt_tokens=7), StoryUsage(7, 4, counted_locally=True)),
        (StoryFacts("gpt-4o", prompt_tokens=0, tokens=0), StoryUsage(0, 0, counted_locally=False)),
        (StoryFacts("gpt-4o", prompt_tokens=7, tokens=9), StoryUsage(7, 9, counted_locally=False)),
    ],
)
def test_tokens_are_the_endpoints_where_it_has_sent_them_else_our_own_count(
    known: StoryFacts, expected: StoryUsage
) -> None:
    assert count_usage(known, "Hello there", "Once upon a time") == expected
