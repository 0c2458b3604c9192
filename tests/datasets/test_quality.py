"""The quality report as a pure function: each figure, on rows where the answer is known."""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.datasets.quality import similarity, texts, units
from core.datasets.quality.measure import report
from core.datasets.quality.report import REASONS, Kind, QualityFinding, QualityReport, QualityRow, verdict
from core.datasets.quality.similarity import HashSample
from core.datasets.recipe import ColumnType

_SAMPLES = Path(__file__).parents[2] / "data" / "samples"
_FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "ultraman_stories.csv"
_COLUMNS = ("dynasty", "super_power", "story_type")
_HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 3_000)]


def _story(seed: int, characters: int = 200) -> str:
    """Chinese characters in an order that is unique to the seed."""
    drawn = random.Random(seed).choices(_HAN, k=characters)
    return "".join(drawn) + "。"


def _words(seed: int, words: int = 120) -> str:
    random_ = random.Random(seed)
    return " ".join("".join(random_.choices("abcdefghijklmnop", k=5)) for _ in range(words)) + "."


def _row(number: int, text: str, **more: object) -> QualityRow:
    fields: dict[str, object] = {"values": {}, "prompt": f"Write number {number}.", **more}
    return QualityRow(number, text=text, **fields)  # type: ignore[arg-type]  # the fields' own types


def _report(texts_: Sequence[str], columns: Sequence[str] = ()) -> QualityReport:
    return report([_row(i, text) for i, text in enumerate(texts_, start=1)], columns)


def _found(made: QualityReport, kind: Kind) -> tuple[int, ...]:
    return tuple(row for finding in made.find(kind) for row in finding.rows)


def _sample(path: Path) -> list[QualityRow]:
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    rows = [{column: line[column] for column in _COLUMNS} for line in found]
    return [
        QualityRow(i, v, ",".join(v.values()), f["story"]) for i, (v, f) in enumerate(zip(rows, found, strict=True))
    ]


# --- units ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("。！?…", 0),
        ("hello world", 2),
        ("don't stop", 3),
        ("一位英雄", 4),
        ("一位hero出现 了", 6),
        ("3 个 apples", 3),
        ("สวัสดี", 6),
        ("naïve café", 2),
        ("가나다 라마", 2),
        ("a\0b", 2),
        ("\U0010fffd\ue000", 0),
    ],
)
def test_a_chinese_character_and_an_english_word_are_a_unit_each(text: str, count: int) -> None:
    assert units.block([text]).counts.tolist() == [count]


def test_units_of_a_text_do_not_hang_on_its_neighbours() -> None:
    alone, among = units.block(["一位 hero"]), units.block(["x y z", "", "一位 hero", "尾"])
    assert among.counts.tolist() == [3, 0, 3, 1]
    assert among.hashes[among.row == 2].tolist() == alone.hashes.tolist()


def test_equal_units_have_equal_hashes_and_others_have_not() -> None:
    hashes = units.block(["ab ba ab 我 你 我"]).hashes.tolist()
    assert hashes[0] == hashes[2] and hashes[3] == hashes[5]
    assert len(set(hashes)) == 4


def test_ngrams_never_reach_over_the_end_of_a_text() -> None:
    hashes, row = units.ngrams(units.block(["a b", "c", "d e f"]), 2)
    assert row.tolist() == [0, 2, 2] and len(set(hashes.tolist())) == 3


@given(st.lists(st.text(max_size=40), max_size=12))
def test_any_text_can_be_measured(texts_: list[str]) -> None:
    block = units.block([units.normalize(text) for text in texts_])
    signed = similarity.signatures(block)
    assert signed.shape == (len(texts_), similarity.PERMUTATIONS)
    assert len(block.hashes) == block.counts.sum() == len(block.row)


# --- duplicates -----------------------------------------------------------------------------------------------------


def _jaccard(one: str, other: str) -> float:
    a, b = ({text[i : i + 5] for i in range(len(text))} for text in (one, other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("changes", [0, 1, 5, 10, 20, 60])
def test_a_signature_estimates_the_jaccard_likeness(changes: int) -> None:
    gaps = []
    for seed in range(12):
        one = _story(seed, 300)[:-1]
        other = list(one)
        for place in random.Random(seed).sample(range(300), changes):
            other[place] = "Ω"
        signed = similarity.signatures(units.block([one, "".join(other)]))
        estimate = similarity.estimated_similarity(signed, np.array([0]), np.array([1]))[0]
        gaps.append(estimate - _jaccard(one, "".join(other)))
    assert abs(float(np.mean(gaps))) < 0.05 and max(map(abs, gaps)) < 0.16  # four standard errors


@pytest.mark.parametrize("make", [_story, _words])
def test_exact_and_near_copies_are_found_and_others_are_not(make: object) -> None:
    assert callable(make)
    originals: list[str] = [make(seed) for seed in range(40)]
    near = originals[7].replace(originals[7][30:33], "改了它", 1)
    result = _report([*originals, f"  {originals[3]}\n", near, originals[3]])
    assert _found(result, "exact") == (41, 43)
    assert _found(result, "near") == (42,)
    assert [(one.rows, one.exact) for one in result.clusters] == [((4, 41, 43), True), ((8, 42), False)]
    assert result.clusters[1].similarity >= similarity.NEAR_DUPLICATE


def test_case_width_and_punctuation_make_no_difference() -> None:
    result = _report(["The hero came home, at last, to rest.", "THE HERO CAME HOME AT LAST TO REST", _words(1)])
    assert _found(result, "near") == (2,) and not _found(result, "exact")


def test_texts_without_letters_are_only_ever_exact_copies() -> None:
    result = _report(["！！！", "？？？", "！！！", "", ""])
    assert _found(result, "exact") == (3, 5) and not _found(result, "near")


def test_a_thousand_copies_are_one_cluster() -> None:
    result = _report([_story(1)] * 1_000)
    assert [len(one.rows) for one in result.clusters] == [1_000]
    assert len(_found(result, "exact")) == 999


def test_the_same_rows_give_the_same_report() -> None:
    rows = [_story(seed % 9) for seed in range(50)]
    assert [f.rows for f in _report(rows).findings] == [f.rows for f in _report(rows).findings]


# --- single texts ---------------------------------------------------------------------------------------------------

_REFUSALS = (
    "I'm sorry, but I can't assist with that request.",
    "I’m sorry, but I cannot write this story.",
    "Sorry, I am unable to create that content.",
    "I cannot fulfill this request.",
    "I can't help with that.",
    "Unfortunately, I cannot provide a story about this.",
    "As an AI language model, I do not have powers.",
    "I must decline to write this.",
    "很抱歉，我无法满足您的要求。",
    "抱歉，我不能创作这样的内容。",
    "对不起，作为一个人工智能助手，我无法提供这类内容。",
    "非常抱歉，但我无法为您写这个故事。",
    "作为一个AI语言模型，我没有情感。",
    "我无法提供这样的故事。",
    "“抱歉，我无法生成这段内容。”",
)
_STORIES = (
    "对不起，我来晚了，英雄说。",
    "抱歉地笑了笑，他飞上天空，无法停下。",
    "I'm sorry for what I did, said the hero, and flew on.",
    "I cannot believe it, he cried, and saved the city.",
    "我不能放弃！他喊道，怪兽倒下了。",
    "作为一名唐朝的英雄，他从不后退。",
    "As a hero of the Tang, he never turned back.",
    "一位宋朝的英雄。" + "他说：很抱歉，我无法满足您的要求。" * 3,
)


@pytest.mark.parametrize(("text", "refuses"), [*((t, True) for t in _REFUSALS), *((t, False) for t in _STORIES)])
def test_refusals_are_told_from_heroes_who_apologise(text: str, refuses: bool) -> None:
    assert texts.is_refusal(units.normalize(text)) is refuses


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("一位{dynasty}朝的英雄", "{dynasty}"),
        ("Dear {{ name }}, welcome", "{{ name }}"),
        ("his {super power} grew", "{super power}"),
        ("the end<|im_end|>", "<|im_end|>"),
        ("[INST] tell me", "[INST]"),
        ("over.</s>", "</s>"),
        ("<start_of_turn>user", "<start_of_turn>"),
        ('{"a": 1}', None),
        ("x = {1, 2, 3}", None),
        ("a < b and [sic]", None),
        ("plain", None),
    ],
)
def test_what_is_left_of_a_template_is_found(text: str, left: str | None) -> None:
    assert texts.template_leftover(text, ["dynasty"]) == left


_LONG_PROMPT = "请写一个关于唐朝英雄的三百字故事,情节要跌宕起伏。"


@pytest.mark.parametrize(
    ("text", "prompt", "echo"),
    [
        ("唐,隐形,轻松 ->一位英雄", "唐,隐形,轻松", True),
        (
            "请写一个关于唐朝英雄的三百字故事,情节要跌宕起伏。好的:从前",
            "请写一个关于唐朝英雄的三百字故事,情节要跌宕起伏。",
            True,
        ),
        (
            "good. 请写一个关于唐朝英雄的三百字故事,情节要跌宕起伏。",
            "请写一个关于唐朝英雄的三百字故事,情节要跌宕起伏。",
            True,
        ),
        ("the tang hero, that is the hero of the tang", "hero of the tang", False),
        ("一位英雄", "唐", False),
        ("anything", "", False),
    ],
)
def test_an_echo_says_its_prompt_again(text: str, prompt: str, echo: bool) -> None:
    assert texts.echoes_prompt(text, prompt) is echo


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("完。", True),
        ("End.\n", True),
        ("”他说。”", True),
        ("(end)", True),
        ("走到了", False),
        ("and then", False),
        ("", False),
    ],
)
def test_a_text_ends_like_a_sentence_or_not(text: str, whole: bool) -> None:
    assert texts.ends_complete(text) is whole


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("一位唐朝的英雄", "han"),
        ("a hero of the Tang", "latin"),
        ("彼は英雄になりました", "kana"),
        ("영웅이 왔다", "hangul"),
        ("герой пришёл", "cyrillic"),
        ("جاء البطل", "arabic"),
        ("英雄 came home today 他很高兴啊朋友们", "mixed"),
        ("奥特曼用了 AI", "han"),
        ("123 !!", None),
    ],
)
def test_a_language_is_told_by_its_letters(text: str, language: str | None) -> None:
    assert texts.language(units.block([text]).scripts[0, 1:].tolist()) == language


def test_a_stop_at_the_end_is_no_collision() -> None:
    assert texts.stops_inside("One. Two.") == ["."]
    assert texts.stops_inside("One.") == []
    assert texts.stops_inside("a *** b END") == ["***"]


# --- the whole report -----------------------------------------------------------------------------------------------


def test_every_fault_is_found_with_its_row() -> None:
    good = {number: _story(number) for number in range(1, 101)}
    faults: Mapping[int, tuple[Kind, QualityRow]] = {
        101: ("empty", _row(101, "  \n")),
        102: ("refusal", _row(102, "很抱歉，我无法满足您的要求。")),
        103: ("leftover", _row(103, _story(103) + "{dynasty}。")),
        104: (
            "echo",
            _row(104, _LONG_PROMPT + _story(104), prompt=_LONG_PROMPT),
        ),
        105: ("looping", _row(105, "他飞了起来。" * 40)),
        106: ("cut", _row(106, _story(106), finish_reason="length")),
        107: ("unended", _row(107, _story(107)[:-1])),
        108: ("language", _row(108, _words(108))),
        109: ("short", _row(109, "他来了。")),
        110: ("long", _row(110, _story(110, 3_000))),
        111: ("refusal", _row(111, _story(111), finish_reason="content_filter")),
    }
    result = report([*(_row(i, text) for i, text in good.items()), *(row for _, row in faults.values())], ["dynasty"])
    for number, (kind, _) in faults.items():
        assert number in _found(result, kind), kind
    flagged = {row for finding in result.findings for row in finding.rows}
    assert not flagged & set(good)
    assert [f.serious for f in result.findings] == sorted((f.serious for f in result.findings), reverse=True)
    assert result.verdict.level == "look" and result.verdict.serious == 7


def test_failed_rows_count_for_their_ending_only() -> None:
    rows = [_row(1, _story(1), finish_reason="stop"), _row(2, _story(2), state="failed", finish_reason="length")]
    result = report(rows, [])
    assert result.total == 1 and not result.find("cut")
    assert {one.name: one.rows for one in result.endings} == {"stop": (1,), "length": (2,)}


def test_texts_that_never_end_like_sentences_are_not_cut_off() -> None:
    assert not _report([_story(seed)[:-1] for seed in range(20)]).find("unended")


def test_a_data_set_in_two_languages_has_no_wrong_one() -> None:
    result = _report([_story(seed) if seed % 2 else _words(seed) for seed in range(40)])
    assert not result.find("language")
    assert {one.name: len(one.rows) for one in result.languages} == {"han": 20, "latin": 20}


def test_a_value_that_stands_in_the_text_is_asked_for_and_a_mood_is_not() -> None:
    rows = [
        _row(i, f"{power}的英雄。{_story(i)}", values={"power": power, "mood": mood, "note": f"free text {i}" * 9})
        for i, (power, mood) in enumerate([("隐形", "轻松"), ("喷火", "艰难")] * 20)
    ]
    rows.append(_row(99, _story(99), values={"power": "喷火", "mood": "轻松", "note": ""}))
    result = report(rows, ["power", "mood", "note"])
    power, mood, note = result.adherence
    assert power.literal and power.missing == (99,) and power.chance == 0
    assert [(v.value, v.requested, v.missing) for v in power.values] == [("喷火", 21, (99,)), ("隐形", 20, ())]
    assert not mood.literal and mood.share == 0 and not mood.missing
    assert note.share is None
    assert [(f.detail, f.rows) for f in result.find("missing")] == [("power", (99,))]


@pytest.mark.parametrize(
    ("column_type", "literal", "missing"),
    [("auto", False, ()), ("style", False, ()), ("word", True, tuple(range(20)))],
)
def test_a_word_that_no_text_contains_is_missing_only_if_its_column_says_that_it_is_a_word(
    column_type: ColumnType, literal: bool, missing: tuple[int, ...]
) -> None:
    rows = [_row(i, _story(i), values={"power": "隐形"}) for i in range(20)]
    result = report(rows, ["power"], types={"power": column_type})
    (power,) = result.adherence
    assert (power.literal, power.share, power.missing) == (literal, 0.0, missing)
    assert [finding.rows for finding in result.find("missing")] == ([missing] if missing else [])


def test_a_style_that_some_texts_name_is_not_missing_in_the_others() -> None:
    rows = [_row(i, _story(i) + ("隐形" if i else ""), values={"power": "隐形"}) for i in range(20)]
    (guessed,), (style,) = (report(rows, ["power"], types=types).adherence for types in ({}, {"power": "style"}))  # type: ignore[arg-type]
    assert (guessed.missing, style.missing) == ((0,), ())


def test_a_column_of_words_is_measured_even_with_a_value_of_its_own_in_every_row() -> None:
    rows = [_row(i, f"{_story(i)}{'' if i == 7 else f'hero-{i}'}", values={"hero": f"hero-{i}"}) for i in range(250)]
    (guessed,), (word,) = (report(rows, ["hero"], types=types).adherence for types in ({}, {"hero": "word"}))  # type: ignore[arg-type]
    assert (guessed.share, guessed.missing) == (None, ())
    assert (word.share, word.missing) == (249 / 250, (7,))


def test_a_value_that_stands_in_every_text_shows_nothing() -> None:
    rows = [_row(i, f"明清之间。{_story(i)}", values={"dynasty": "明" if i % 2 else "清"}) for i in range(40)]
    (dynasty,) = report(rows, ["dynasty"]).adherence
    assert dynasty.share == 1.0 and dynasty.chance == 1.0 and not dynasty.literal


def test_coverage_counts_cells_of_the_grid_and_names_those_without_a_row() -> None:
    grid = {"a": ("x", "y"), "b": ("1", "2", "3")}
    rows = [
        _row(i, _story(i), values={"a": a, "b": b}) for i, (a, b) in enumerate([("x", "1"), ("x", "1"), ("y", "3")])
    ]
    covered = report(rows, ["a", "b"], grid=grid, repeats=2).coverage
    assert (covered.expected, covered.filled, covered.per_cell) == (6, 2, 2)
    assert covered.missing == (("x", "2"), ("x", "3"), ("y", "1"), ("y", "2"))
    assert covered.by_pair("b", "a") == [
        ("1", "x", 2), ("1", "y", 0), ("2", "x", 0), ("2", "y", 0), ("3", "x", 0), ("3", "y", 1),
    ]  # fmt: skip
    assert covered.rows_of({"a": "x"}) == (0, 1) and covered.rows_of({"b": "2"}) == ()


def test_a_column_of_free_text_makes_no_cells() -> None:
    rows = [_row(i, _story(i), values={"topic": f"t{i % 3}", "question": f"question {i}"}) for i in range(30)]
    covered = report(rows, ["topic", "question"]).coverage
    assert covered.columns == ("topic",) and covered.filled == covered.expected == 3


def test_lengths_lead_to_their_rows() -> None:
    result = _report(["一" * n + "。" for n in (10, 20, 30)]).characters
    assert (result.shortest, result.median, result.longest, result.total) == (11, 21, 31, 63)
    assert result.between(20, 30) == (2,)
    assert sum(b.count for b in result.bins()) == 3
    assert all(result.between(b.low, b.high) for b in result.bins() if b.count)


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=60))
def test_every_length_is_in_one_bar(values: list[int]) -> None:
    result = texts.measure_lengths(range(len(values)), values)
    bins = result.bins()
    assert sum(b.count for b in bins) == len(values) and len(bins) <= 32
    assert sorted(row for b in bins for row in result.between(b.low, b.high)) == list(range(len(values)))


def test_tokens_of_the_provider_are_taken_and_others_are_counted() -> None:
    result = report([_row(1, "一位英雄。", tokens=77), _row(2, "a hero came.")], [], model="gpt-4o")
    assert result.tokens.values.tolist()[0] == 77 and 2 < result.tokens.values.tolist()[1] < 7
    assert result.tokens_exact and not report([_row(1, "a hero.")], [], model="storyteller").tokens_exact


def test_distinct_n_is_the_share_of_different_runs() -> None:
    assert _report(["a b a b"]).diversity.distinct == (2 / 4, 2 / 3, 1.0)
    assert _report([""]).diversity.distinct == (None, None, None)


def test_texts_of_a_cell_are_compared_with_each_other() -> None:
    rows = [
        *(_row(i, _story(1), values={"a": "same"}) for i in range(3)),
        *(_row(i, _story(i), values={"a": "other"}) for i in range(3, 6)),
    ]
    spread = report(rows, ["a"]).diversity
    assert spread.highest == 1.0
    assert [one.cell for one in spread.cells] == [("same",), ("other",)]
    assert spread.cells[0].rows == (0, 1, 2) and spread.cells[1].highest < 0.1


def test_common_openings_are_named_with_their_rows() -> None:
    result = _report([f"\n\n从前有一位英雄，{_story(i)}" for i in range(5)] + [_story(i) for i in range(10, 15)])
    assert [(one.text, one.rows) for one in result.diversity.openings] == [("从前有一位英雄，", (1, 2, 3, 4, 5))]


def test_a_classification_is_judged_by_its_prompts() -> None:
    labels = ("refund", "delivery", "login")
    rows = [_row(i, labels[i % 3], prompt=_words(i, 12), values={"message": _words(i, 12)}) for i in range(60)]
    rows.append(_row(98, "login", prompt=rows[0].prompt))  # has the label refund above
    rows.append(_row(99, "refund", prompt=rows[3].prompt))
    result = report(rows, ["message"])
    assert result.task == "labels"
    assert {one.name: len(one.rows) for one in result.labels} == {"refund": 21, "delivery": 20, "login": 21}
    assert _found(result, "conflict") == (98,)
    assert _found(result, "exact") == (98, 99)
    assert not result.adherence and not result.stops and not result.find("short")


def test_one_answer_to_every_prompt_is_no_classification() -> None:
    result = _report(["好。"] * 30)
    assert result.task == "texts" and len(_found(result, "exact")) == 29


def test_equal_stories_of_one_prompt_are_no_labels() -> None:
    assert report([_row(i, "好。", prompt="say it") for i in range(30)], []).task == "texts"


@pytest.mark.parametrize(
    ("total", "grave", "level"),
    [
        (0, 0, "few"),
        (9, 0, "few"),
        (100, 0, "good"),
        (100, 2, "good"),
        (100, 3, "look"),
        (100, 10, "look"),
        (100, 11, "poor"),
    ],
)
def test_the_verdict_goes_by_the_share_of_rows_that_should_not_be_learnt(total: int, grave: int, level: str) -> None:
    rows = tuple(range(grave))
    twice = [
        QualityFinding("near", rows),
        QualityFinding("refusal", rows),
        QualityFinding("short", tuple(range(total // 10))),
    ]
    assert verdict(total, twice).level == level
    assert verdict(total, twice).serious == grave


def test_many_rows_with_something_lesser_are_worth_a_look() -> None:
    assert verdict(100, [QualityFinding("missing", tuple(range(10)), "power")]).level == "good"
    assert verdict(100, [QualityFinding("missing", tuple(range(11)), "power")]).level == "look"


def test_every_kind_of_finding_has_a_reason_in_a_sentence() -> None:
    assert set(Kind.__args__) <= set(REASONS)  # type: ignore[attr-defined]  # what Literal keeps its values in
    assert all(re.fullmatch(r"[A-Z].*\.", reason) for reason in REASONS.values())


def test_nothing_at_all_can_be_reported_on() -> None:
    result = report([], ["a"])
    assert result.total == 0 and result.verdict.level == "few" and not result.findings
    assert result.characters.bins() == () and result.coverage.filled == 0


def test_rows_are_read_once_and_progress_is_told() -> None:
    told: list[int] = []
    report((_row(i, _story(i, 20)) for i in range(600)), [], progress=told.append)
    assert told == [256, 512, 600]


def test_a_sample_does_not_hang_on_the_order() -> None:
    one, other = HashSample(10), HashSample(10)
    for i in range(200):
        one.offer(i, f"text {i}", {})
        other.offer(199 - i, f"text {199 - i}", {})
    assert one.texts() == other.texts() and len(one.texts()) == 10


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.text(max_size=60), st.sampled_from(["done", "failed"]), st.text(max_size=9), st.text(max_size=9)),
        max_size=25,
    )
)
def test_any_rows_make_a_report_whose_figures_lead_to_rows(rows: list[tuple[str, str, str, str]]) -> None:
    given_ = [QualityRow(i, {"a": value}, prompt, text, state) for i, (text, state, value, prompt) in enumerate(rows)]
    result = report(given_, ["a"])
    done = {row.id for row in given_ if row.state == "done"}
    assert result.total == len(done)
    assert all(set(finding.rows) <= done and finding.rows for finding in result.findings)
    assert all(set(one.rows) <= done for one in (*result.languages, *result.stops, *result.labels))
    assert set(result.coverage.rows_of({})) <= done


# --- real stories ---------------------------------------------------------------------------------------------------


def test_the_samples_are_good() -> None:
    result = report(_sample(_SAMPLES / "ultraman_stories.csv"), _COLUMNS)
    assert result.verdict.level == "good" and not result.verdict.serious
    assert {one.column: one.literal for one in result.adherence} == {
        "dynasty": True, "super_power": True, "story_type": False,
    }  # fmt: skip
    assert result.coverage.filled == result.coverage.expected == 162


@pytest.mark.skipif(not _FIXTURE.is_file(), reason="the article's own stories are not part of the project")
def test_the_articles_stories_are_alike_and_some_lack_their_power() -> None:
    result = report(_sample(_FIXTURE), _COLUMNS)
    assert result.total == 464 and result.coverage.filled == 155
    assert 180 < (result.characters.shortest or 0) < 200 and (result.characters.longest or 0) < 570
    power = next(one for one in result.adherence if one.column == "super_power")
    assert power.literal and 40 < len(power.missing) < 80
    distinct = result.diversity.distinct[1]
    assert distinct is not None and distinct < 0.2  # these stories are similar; Fabula's own have 0.5
