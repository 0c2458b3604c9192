"""The composed stories that the packaged writers end on: whole, of every plot, the same each time."""

from __future__ import annotations

import re

import pytest

from core.dataset import presets
from data.storyteller import compose
from data.storyteller.make import WRITERS, instruction, training_lines

_POWER = {"zh": "super_power", "en": "gift"}


@pytest.mark.parametrize("language", WRITERS)
def test_a_composed_story_has_four_paragraphs_its_power_and_one_hero(language: str) -> None:
    names = re.compile(
        "名字叫做?(\\w{2,3})。|名叫(\\w{2,3})。" if language == "zh" else r"(?:named|name was|called) (\w+)\."
    )
    for row in compose.stories(language):
        paragraphs = row["story"].split("\n\n")
        assert len(paragraphs) == 4 and all(paragraphs), row
        assert "{" not in row["story"] and "  " not in row["story"] and row[_POWER[language]] in row["story"], row
        found = names.search(paragraphs[0])
        name = found and next(each for each in found.groups() if each)
        assert name and all(name in paragraph for paragraph in paragraphs[1:3]), row


@pytest.mark.parametrize("language", WRITERS)
def test_every_power_of_the_preset_is_told(language: str) -> None:
    column = next(one for one in presets.get(WRITERS[language].preset).recipe.columns if one.name == _POWER[language])
    assert set(column.values) <= {row[_POWER[language]] for row in compose.stories(language)}


@pytest.mark.parametrize("language", WRITERS)
def test_the_same_seed_composes_the_same_stories(language: str) -> None:
    assert compose.stories(language, 3) == compose.stories(language, 3) != compose.stories(language, 4)


def test_a_line_asks_as_the_data_set_page_asks() -> None:
    row = compose.stories("zh")[0]
    assert instruction(row) in training_lines([row], "zh")[0]


@pytest.mark.parametrize(("dynasty", "era"), [("唐", "唐朝"), ("南北朝", "南北朝"), ("五代", "五代")])
def test_an_era_has_its_suffix_once(dynasty: str, era: str) -> None:
    assert compose._era(dynasty) == era
