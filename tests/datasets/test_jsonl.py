"""Preparation of training data: findings, additions, rejections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.datasets import analysis, jsonl, presets
from core.datasets.importers import table_reader
from core.errors import BadTrainingFile

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures"
PAIRS = [("唐,隐形,轻松", "\n\n一位英雄。"), ("宋,飞行,努力", "\n\n两位英雄。")]


class Prepared(NamedTuple):
    """A training file in memory: its lines, and how they were written."""

    lines: tuple[str, ...]
    separator: str | None
    stop: str | None
    report: tuple[analysis.PreparationFinding, ...]


def prepare(pairs: Sequence[tuple[str, str]], *, separator: str | None = None, stop: str | None = None) -> Prepared:
    plan = jsonl.plan(pairs, separator=separator, stop=stop)
    return Prepared(tuple(plan.lines(pairs)), plan.separator, plan.stop, plan.report)


def prepare_chat(pairs: Sequence[tuple[str, str]], *, system: str = "") -> Prepared:
    plan = jsonl.plan(pairs, "chat", system=system)
    return Prepared(tuple(plan.lines(pairs)), plan.separator, plan.stop, plan.report)


def lines(prepared: Prepared) -> list[dict[str, str]]:
    return [json.loads(line) for line in prepared.lines]


def test_pairs_are_written_as_the_article_shows_them() -> None:
    prepared = prepare(PAIRS)
    assert lines(prepared)[0] == {"prompt": "唐,隐形,轻松 ->", "completion": " \n\n一位英雄。."}
    assert (prepared.separator, prepared.stop) == (" ->", ".")
    assert "唐" in prepared.lines[0]  # readable, not \\u escapes
    assert [f.kind for f in prepared.report] == ["pairs", "ending", "add_separator", "add_space", "add_stop"]


@pytest.mark.parametrize(
    ("completions", "stop"),
    [(["a", "b"], "."), (["a. b", "c"], " END"), (["a. b", "c END d"], "***"), (["1***2 END . x", "b"], "+++")],
)
def test_a_stop_that_no_completion_contains_is_proposed(completions: list[str], stop: str) -> None:
    prepared = prepare([(f"p{i}", c) for i, c in enumerate(completions)])
    assert prepared.stop == stop
    assert all(line["completion"].endswith(stop) for line in lines(prepared))


def test_a_stop_that_occurs_inside_is_refused_with_a_better_one() -> None:
    with pytest.raises(BadTrainingFile) as caught:
        prepare([("p", "one. two"), ("q", "three")], stop=".")
    assert "inside 1 completions" in caught.value.what
    assert "' END'" in caught.value.next_step


def test_a_separator_that_occurs_inside_is_refused_with_a_better_one() -> None:
    with pytest.raises(BadTrainingFile) as caught:
        prepare([("a -> b", "x"), ("c", "y")], separator=" ->")
    assert "inside 1 prompts" in caught.value.what and "###" in caught.value.next_step
    assert prepare([("a -> b", "x"), ("c", "y")]).separator == "\n\n###\n\n"


def test_when_every_usual_stop_occurs_one_must_be_given() -> None:
    everything = "".join(analysis.STOPS) + "x"
    with pytest.raises(BadTrainingFile, match="Every common stop"):
        prepare([("p", everything), ("q", everything + "y")])
    assert prepare([("p", everything), ("q", everything + "y")], stop="@end").stop == "@end"


def test_a_prepared_file_stays_as_it_is() -> None:
    once = prepare(PAIRS)
    second = prepare([(line["prompt"], line["completion"]) for line in lines(once)])
    assert second.lines == once.lines and (second.separator, second.stop) == (" ->", ".")
    assert "add_stop" not in [f.kind for f in second.report]


def test_duplicates_empty_and_over_long_pairs_are_left_out_and_told() -> None:
    pairs = [("p", "a"), ("p", "a"), ("q", "b"), ("r", " \n"), ("s", "x" * 10_001), ("p", "c")]
    findings = analysis.analyse(pairs)
    assert (findings.duplicates, findings.empty, findings.too_long) == ((1,), (3,), (4,))
    assert findings.longest == 10_002
    prepared = prepare(pairs)
    assert len(prepared.lines) == 3
    by_kind = {f.kind: (f.count, f.rows, str(f)) for f in prepared.report}
    assert by_kind["duplicates"] == (1, (2,), "1 pair is a duplicate; it is left out.")
    assert by_kind["empty"][1] == (4,) and by_kind["too_long"][1] == (5,)


@pytest.mark.parametrize("pairs", [[], [("p", "")], [("p", " "), ("q", "\n")]])
def test_nothing_to_train_on_is_said(pairs: list[tuple[str, str]]) -> None:
    for prepare_file in (prepare, prepare_chat):
        with pytest.raises(BadTrainingFile, match="no example to train on") as caught:
            prepare_file(pairs)
        assert caught.value.next_step


@pytest.mark.parametrize(
    ("pairs", "separator", "ending"),
    [
        ([("a ->", " x."), ("b ->", " y.")], " ->", "."),
        ([("a", "x"), ("b", " y")], "", ""),
        ([("same", "same")], "", ""),
        ([], "", ""),
    ],
)
def test_what_all_pairs_have_in_common(pairs: list[tuple[str, str]], separator: str, ending: str) -> None:
    findings = analysis.analyse(pairs)
    assert (findings.separator, findings.ending) == (separator, ending)


def test_chat_lines_have_system_user_and_assistant() -> None:
    prepared = prepare_chat(PAIRS, system="Tell a story.")
    assert json.loads(prepared.lines[0]) == {
        "messages": [
            {"role": "system", "content": "Tell a story."},
            {"role": "user", "content": "唐,隐形,轻松"},
            {"role": "assistant", "content": "一位英雄。"},
        ]
    }
    assert prepared.separator is None and prepared.stop is None
    assert len(json.loads(prepare_chat(PAIRS).lines[0])["messages"]) == 2


def test_each_thing_that_is_done_says_why() -> None:
    prepared = prepare([("a -> b", "one. two"), ("c", "three")])
    why = {finding.kind: finding.why for finding in prepared.report}
    assert "' ->' can't be used" in why["add_separator"] and "'.' can't be used: 1 completions" in why["add_stop"]
    free = {finding.kind: finding.why for finding in prepare(PAIRS).report}
    assert "use it as the stop" in free["add_stop"] and "can't be used" not in free["add_separator"]
    chat = jsonl.plan(PAIRS, "chat", system="Tell.").report
    assert [finding.kind for finding in chat if finding.why] == ["roles", "system"]


def test_a_plan_goes_through_pairs_twice_and_remembers_only_the_repeated() -> None:
    pairs = [("p", "a"), ("q", "b"), ("p", "a"), ("p", "a")]
    plan = jsonl.plan(iter(pairs))
    assert plan.findings.duplicates == (2, 3) and plan.findings.kept == 2 and len(plan.findings.repeated) == 1
    assert list(plan.pairs(iter(pairs))) == [("p ->", " a."), ("q ->", " b.")]


text = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(text, text), min_size=1))
def test_whatever_the_texts_each_line_ends_once_and_gives_its_text_back(pairs: list[tuple[str, str]]) -> None:
    try:
        prepared = prepare(pairs)
    except BadTrainingFile:
        return
    assert prepared.separator and prepared.stop
    given_pairs = {pair for pair in pairs if pair[1].strip()}
    assert len(prepared.lines) == len(given_pairs)
    for line in lines(prepared):
        assert line["prompt"].endswith(prepared.separator) and line["completion"].endswith(prepared.stop)
        assert prepared.stop not in line["completion"].removesuffix(prepared.stop)
        assert line["completion"].startswith(" ")


@pytest.mark.parametrize("name", ["ultraman_stories", "ultraman_stories_more"])
def test_the_samples_take_the_articles_marks(name: str) -> None:
    _check_stories((presets.DATA / "samples" / f"{name}.csv").read_bytes())


def test_the_articles_own_stories_take_the_articles_marks() -> None:
    path = FIXTURES / "ultraman_stories.csv"
    if not path.is_file():
        pytest.skip("the article's stories are not on this machine (../shared/fixtures)")
    _check_stories(path.read_bytes())


def _check_stories(data: bytes) -> None:
    frame = table_reader.read_table(data, "stories.csv").frame
    pairs = [(",".join(row[:-1]), row[-1]) for row in frame.itertuples(index=False, name=None)]
    prepared = prepare(pairs)
    assert (prepared.separator, prepared.stop) == (" ->", ".")
    assert len(prepared.lines) == len(pairs)
