"""The sample stories follow docs/sample_stories.md: the complete grid, one hero and one power each, and distinct
wording.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from bench import samples

_ROOT = Path(__file__).parents[2]
_SAMPLES = _ROOT / "data" / "samples"
_ARTICLE = _ROOT.parent / "shared" / "fixtures" / "seed_article.md"
_GRIDS = {
    "ultraman_stories": {
        "dynasty": ("唐", "宋", "元", "明", "清", "汉", "魏", "晋", "南北朝"),
        "super_power": ("隐形", "飞行", "读心术", "瞬间移动", "不死之身", "喷火"),
        "story_type": ("轻松", "努力", "艰难"),
    },
    "ultraman_stories_more": {
        "dynasty": ("秦", "五代", "隋"),
        "super_power": ("龙卷风", "冰冻大海", "流星火雨"),
        "story_type": ("轻松", "努力", "艰难", "勇敢", "辛苦"),
    },
    "everyday_heroes": {
        "hero": (
            *("a baker", "a bus driver", "a nurse", "a teacher"),
            *("a farmer", "a librarian", "a mail carrier", "a fisherman"),
        ),
        "gift": (
            *("flying", "invisibility", "super speed", "super strength", "healing"),
            *("mind reading", "talking to animals", "stopping time", "shrinking", "glowing"),
        ),
        "mood": ("funny", "warm", "exciting", "mysterious", "hopeful"),
    },
}
_CHINESE = ("ultraman_stories", "ultraman_stories_more")
_REPEATS = {"ultraman_stories": 3, "ultraman_stories_more": 3, "everyday_heroes": 1}
_NAMED = re.compile("(?:名字叫做|叫做|名叫|名字叫|叫)([\u4e00-\u9fff]{2,3})[。，]")


def _load(name: str) -> pd.DataFrame:
    return pd.read_csv(_SAMPLES / f"{name}.csv", index_col=0)


@pytest.mark.parametrize("name", _GRIDS)
def test_every_combination_of_the_grid_has_its_stories(name: str) -> None:
    frame, grid = _load(name), _GRIDS[name]
    assert list(frame.columns) == [*grid, "plot", "story"]
    assert list(frame.index) == list(range(len(frame)))
    found = Counter(frame[list(grid)].itertuples(index=False, name=None))
    assert found == dict.fromkeys(itertools.product(*grid.values()), _REPEATS[name])


@pytest.mark.parametrize("name", _CHINESE)
def test_each_chinese_story_keeps_its_form(name: str) -> None:
    """Three to five paragraphs; one hero with the same name throughout; the power is decisive."""
    for row in _load(name).itertuples():
        paragraphs = row.story.split("\n\n")
        assert 150 <= len(re.sub(r"\s", "", row.story)) <= 300, row.Index
        assert 3 <= len(paragraphs) <= 5, row.Index
        assert row.story.count("奥特曼") >= 2 and row.story.count(row.super_power) >= 2, row.Index
        assert row.dynasty in paragraphs[0], row.Index
        hero = _NAMED.search(paragraphs[0])
        assert hero is not None and hero[1] in paragraphs[-1], row.Index
        assert row.story == row.story.strip() and row.story[-1] in "。！？”", row.Index
        assert not re.search("[A-Za-z]", row.story), row.Index


def test_each_english_story_keeps_its_form() -> None:
    for row in _load("everyday_heroes").itertuples():
        assert 80 <= len(row.story.split()) <= 150, row.Index
        assert 3 <= len(row.story.split("\n\n")) <= 5, row.Index
        assert row.story.lower().count(row.gift) >= 2, row.Index
        assert row.hero.removeprefix("a ") in row.story.split("\n\n")[0], row.Index
        assert row.story.isascii() and row.story == row.story.strip() and row.story[-1] in '.!?"', row.Index


@pytest.mark.parametrize("names", [_CHINESE, ("everyday_heroes",)], ids=["chinese", "english"])
def test_stories_share_patterns_but_none_is_another_one(names: tuple[str, ...]) -> None:
    stories = [story for name in names for story in samples.read(_SAMPLES / f"{name}.csv")]
    nearest = [similarity for similarity, _other in samples.nearest(stories)]
    assert statistics.median(nearest) <= 0.15
    assert max(nearest) <= 0.45


def test_the_excerpt_of_curies_results_is_what_the_article_prints() -> None:
    lines = (_SAMPLES / "curie_2023_excerpt.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 28
    assert lines[0] == (
        "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy"
    )
    assert lines[1] == "1,625,1,0.8805545861742778,0.0,0.75"
    assert lines[-1] == "1857,1229945,1857,0.14050147435694596,0.0,0.9556650246305419"


@pytest.mark.skipif(not _ARTICLE.exists(), reason="the article is not on this machine")
def test_the_excerpt_is_printed_in_the_article_line_by_line() -> None:
    article = _ARTICLE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(article) if line.startswith("step,elapsed_tokens"))
    printed = itertools.takewhile(lambda line: not line.startswith("```"), article[start:])
    rows = [line for line in printed if line and line != "..."]
    assert (_SAMPLES / "curie_2023_excerpt.csv").read_text(encoding="utf-8").splitlines() == rows
