"""The sample stories are what we say they are: the whole grid, each its own plot, none of them from a template."""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from bench import samples

_ROOT = Path(__file__).parents[1]
_SAMPLES = _ROOT / "data" / "samples"
_ARTICLE = _ROOT.parent / "shared" / "fixtures" / "seed_article.md"
_GRIDS = {
    "ultraman_stories": (
        ("唐", "宋", "元", "明", "清", "汉", "魏", "晋", "南北朝"),
        ("隐形", "飞行", "读心术", "瞬间移动", "不死之身", "喷火"),
        ("轻松", "努力", "艰难"),
    ),
    "ultraman_stories_more": (
        ("秦", "五代", "隋"),
        ("龙卷风", "冰冻大海", "流星火雨"),
        ("轻松", "努力", "艰难", "勇敢", "辛苦"),
    ),
}
_ROWS = {"ultraman_stories": 162, "ultraman_stories_more": 27}
_GRAM = 5


def _load(name: str) -> pd.DataFrame:
    return pd.read_csv(_SAMPLES / f"{name}.csv", index_col=0)


def _grams(story: str) -> frozenset[str]:
    text = re.sub(r"\s", "", story)
    return frozenset(text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1))


def _nearest(stories: list[str]) -> list[float]:
    """For each story, its Jaccard similarity (over character 5-grams) to the one most like it."""
    return [similarity for similarity, _other in samples.nearest_of([_grams(story) for story in stories])]


@pytest.mark.parametrize("name", _GRIDS)
def test_the_grid_is_covered_one_story_a_combination(name: str) -> None:
    frame = _load(name)
    assert list(frame.columns) == ["dynasty", "super_power", "story_type", "story"]
    assert list(frame.index) == list(range(_ROWS[name]))
    found = list(frame[["dynasty", "super_power", "story_type"]].itertuples(index=False, name=None))
    whole = set(itertools.product(*_GRIDS[name]))
    assert set(found) <= whole
    assert len(set(found)) == len(found) == _ROWS[name]
    if len(whole) == _ROWS[name]:
        assert set(found) == whole
    else:  # a choice from the second grid: every value is used
        assert [set(values) for values in zip(*found, strict=True)] == [set(values) for values in _GRIDS[name]]


@pytest.mark.parametrize("name", _GRIDS)
def test_each_story_has_its_length_its_hero_and_its_power(name: str) -> None:
    for row in _load(name).itertuples():
        length = len(re.sub(r"\s", "", row.story))
        assert 200 <= length <= 450, (row.Index, length)
        assert "奥特曼" in row.story, row.Index
        assert row.super_power in row.story, (row.Index, row.super_power)
        assert row.story == row.story.strip(), row.Index
        assert row.story[-1] in "。！？”’…」』）", (row.Index, row.story[-5:])


@pytest.mark.parametrize("name", _GRIDS)
def test_plots_differ(name: str) -> None:
    nearest = _nearest(list(_load(name)["story"]))
    assert statistics.median(nearest) <= 0.08
    assert max(nearest) <= 0.30


def test_plots_differ_across_both_files() -> None:
    stories = [story for name in _GRIDS for story in _load(name)["story"]]
    assert max(_nearest(stories)) <= 0.30


def test_no_sentence_is_told_twice() -> None:
    """What a template program would leave behind: the same sentence, or the same opening, in many stories."""
    sentences: Counter[str] = Counter()
    openings: Counter[str] = Counter()
    for name in _GRIDS:
        for story in _load(name)["story"]:
            sentences.update({s for s in re.split(r"[。！？\n“”]", story) if len(s) >= 12})
            openings[story[:6]] += 1
    assert [sentence for sentence, count in sentences.items() if count > 1] == []
    assert max(openings.values()) <= 2


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
