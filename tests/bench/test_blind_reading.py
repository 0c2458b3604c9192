"""The blind reading: the stories that a reader gets, and how verdicts are evaluated."""

from __future__ import annotations

from typing import Any

import pytest

from bench import blind_reading, storyteller

WRITTEN: list[dict[str, Any]] = [
    {"part": part, "hero": f"{part} {at}", "gift": "flying", "finish": "stop", "story": f"{part} story {at}."}
    for part in ("grid", "outside", "english")
    for at in range(20)
]
ARTICLE = [f"secret {at}" for at in range(40)]


def _verdicts(nonsense: dict[int, str]) -> dict[int, dict[str, Any]]:
    drawn = blind_reading.draw(WRITTEN, ARTICLE)
    return {one.n: {"n": one.n, "retell": "A hero wins.", "nonsense": nonsense.get(one.n, "")} for one in drawn}


def test_a_reading_has_the_same_stories_each_time_and_no_hint_of_their_source() -> None:
    drawn = blind_reading.draw(WRITTEN, ARTICLE)
    assert drawn == blind_reading.draw(WRITTEN, ARTICLE)
    assert [one.n for one in drawn] == list(range(1, 76))
    assert {part: sum(one.part == part for one in drawn) for part in blind_reading.DRAWN} == blind_reading.DRAWN
    text = blind_reading.reading(drawn)
    assert "row " not in text and "outside 1," not in text and text.count("\n## ") == 75


@pytest.mark.parametrize(
    ("verdict", "passed"),
    [
        ({"retell": "A baker flies.", "nonsense": ""}, True),
        ({"retell": "A baker flies.", "nonsense": "The bread was Tuesday."}, False),
        ({"retell": " ", "nonsense": ""}, False),
    ],
)
def test_a_story_passes_that_can_be_retold_and_makes_sense(verdict: dict[str, Any], passed: bool) -> None:
    assert blind_reading.passes(verdict) is passed


def test_the_document_has_our_stories_with_verdicts_and_only_rows_of_the_article() -> None:
    drawn = blind_reading.draw(WRITTEN, ARTICLE)
    first = next(one for one in drawn if one.part == "grid")
    verdicts = _verdicts({first.n: "The bread was Tuesday."})
    text = blind_reading.to_markdown(drawn, verdicts)
    assert "The reader stopped at: The bread was Tuesday." in text and first.text in text
    assert "secret" not in text and text.count("- row ") == 30
    assert blind_reading.shares(drawn, verdicts) == {"grid": 0.933, "outside": 1.0, "english": 1.0, "article": 1.0}


def test_a_missing_verdict_is_an_error() -> None:
    with pytest.raises(KeyError):
        blind_reading.shares(blind_reading.draw(WRITTEN, ARTICLE), {})


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("他有飞行的能力。" * 2, "zh", False),
        ("怪兽来到了城市，它不停地大叫，奥特曼想要推倒它。" * 3, "zh", True),
        ("She had the gift of flying. " * 3, "en", False),
        ("One day she flew over the old bridge and saw a small boat there. " * 3, "en", True),
    ],
)
def test_a_loop_is_a_long_stretch_three_times(text: str, language: str, found: bool) -> None:
    assert storyteller.loops(text, language) is found
