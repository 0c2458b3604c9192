"""The composed stories of the packaged writers' last training stage: complete, of every plot, deterministic."""

from __future__ import annotations

import math
import re
from collections import Counter

import pytest

from core.datasets import presets
from core.tours import composed_stories
from data.storyteller.make import WRITERS, instruction, training_lines

_POWER = {"zh": "super_power", "en": "gift"}


@pytest.mark.parametrize("language", WRITERS)
def test_a_composed_story_has_four_paragraphs_its_power_and_one_hero(language: str) -> None:
    names = re.compile(
        "名字叫做?(\\w{2,3})。|名叫(\\w{2,3})。" if language == "zh" else r"(?:named|name was|called) (\w+)\."
    )
    for row in composed_stories.stories(language):
        paragraphs = row["story"].split("\n\n")
        assert len(paragraphs) == 4 and all(paragraphs), row
        assert "{" not in row["story"] and "  " not in row["story"] and row[_POWER[language]] in row["story"], row
        found = names.search(paragraphs[0])
        name = found and next(each for each in found.groups() if each)
        assert name and all(name in paragraph for paragraph in paragraphs[1:3]), row


@pytest.mark.parametrize("language", WRITERS)
def test_every_power_of_the_preset_is_told(language: str) -> None:
    column = next(one for one in presets.get(WRITERS[language].preset).recipe.columns if one.name == _POWER[language])
    assert set(column.values) <= {row[_POWER[language]] for row in composed_stories.stories(language)}


@pytest.mark.parametrize("language", WRITERS)
def test_suggested_prompts_outside_the_grid_stay_unseen(language: str) -> None:
    unseen = {values for preset in presets.load() for values in preset.outside}
    assert unseen
    for row in composed_stories.stories(language):
        assert tuple(value for column, value in row.items() if column != "story") not in unseen


@pytest.mark.parametrize("language", WRITERS)
def test_every_job_is_the_hero_equally_often(language: str) -> None:
    hero = re.compile(
        "有一位([^，]+)，" if language == "zh" else r"(?:there was|there lived|There once was) (.+?) (?:named|whose)"
    )
    heroes = Counter(found[1] for row in composed_stories.stories(language) if (found := hero.search(row["story"])))
    assert max(heroes.values()) - min(heroes.values()) <= 1


@pytest.mark.parametrize("language", WRITERS)
def test_the_same_seed_composes_the_same_stories(language: str) -> None:
    assert (
        composed_stories.stories(language, 3)
        == composed_stories.stories(language, 3)
        != composed_stories.stories(language, 4)
    )


@pytest.mark.parametrize("language", WRITERS)
def test_stories_of_one_plot_are_different_and_leave_combinations_out(language: str) -> None:
    recipe = presets.get(WRITERS[language].preset).recipe
    values = {column.name: column.values for column in recipe.columns}
    rows = composed_stories.stories_of_one_plot(language, values, 100, held_out=3, seed=1)
    assert len({row["story"] for row in rows}) == 100
    assert len({row[_POWER[language]] for row in rows}) == 1
    cells = {tuple(row[name] for name in values) for row in rows}
    assert len(cells) == math.prod(len({row[name] for row in rows}) for name in values) - 3
    assert rows == composed_stories.stories_of_one_plot(language, values, 100, held_out=3, seed=1)


def test_a_line_asks_as_the_data_set_page_asks() -> None:
    row = composed_stories.stories("zh")[0]
    assert instruction(row) in training_lines([row], "zh")[0]


@pytest.mark.parametrize(("dynasty", "era"), [("唐", "唐朝"), ("南北朝", "南北朝"), ("五代", "五代")])
def test_an_era_has_its_suffix_once(dynasty: str, era: str) -> None:
    assert composed_stories._era(dynasty) == era


@pytest.mark.parametrize(
    "known",
    [
        "邓小平",
        "孙文",
        "马云",
        "陈云",
        "王明",
        "李安",
        "赵云",
        "谢安",
        "杨勇",
        "李鹏",
        "朱德",
        "林彪",
        "王小川",
        "王石",
        "唐小虎",
    ],
)
def test_no_hero_has_the_name_of_a_well_known_person(known: str) -> None:
    names = composed_stories._parts("zh")["names"]
    heroes = {family + given for family in names["family"] for given in (*names["male"], *names["female"])}
    assert known not in heroes
