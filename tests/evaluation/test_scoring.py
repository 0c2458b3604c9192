"""Evaluation metrics: known values, bounds, and small samples."""

from __future__ import annotations

from math import log, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import confidence_interval
from core.evaluation import scoring


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),  # Newcombe 1998, and statsmodels' proportion_confint(method="wilson")
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilsons_interval_has_its_published_values(right: int, n: int, low: float, high: float) -> None:
    interval = scoring.wilson(right, n)
    assert interval is not None
    assert (round(interval.low, 4), round(interval.high, 4)) == (low, high)
    assert scoring.wilson(0, 0) is None


@pytest.mark.parametrize(
    ("one", "other", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (10, 0, 0.001953125), (0, 10, 0.001953125), (8, 2, 0.109375)],
)
def test_mcnemars_test_gives_exact_p_values(one: int, other: int, p: float) -> None:
    assert scoring.mcnemar(one, other) == pytest.approx(p)


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 200), (0, 0, 1), (12, 2, 50), (3, 20, 200), (0, 9, 14)])
def test_the_ends_of_the_interval_are_where_the_score_test_rejects(gained: int, lost: int, n: int) -> None:
    found = confidence_interval.paired_difference(gained, lost, n)
    assert found[0] <= (gained - lost) / n <= found[1]
    for end in found:
        if -1 < end < 1:
            # the restricted maximum likelihood estimate of the share of lost rows, by brute force
            shares = [k / 20_000 for k in range(1, 20_000) if k / 20_000 + end > 0 and 2 * k / 20_000 + end < 1]
            share = max(shares, key=lambda lost_share: _likelihood(gained, lost, n, lost_share, end))
            z = (gained - lost - n * end) / sqrt(n * (2 * share + end * (1 - end)))
            assert abs(z) == pytest.approx(1.96, abs=0.02)


def _likelihood(gained: int, lost: int, n: int, lost_share: float, difference: float) -> float:
    both = 1 - 2 * lost_share - difference
    return gained * log(lost_share + difference) + lost * log(lost_share) + (n - gained - lost) * log(both)


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 0), (3, 3, 5), (-1, 0, 5)])
def test_impossible_counts_are_refused(gained: int, lost: int, n: int) -> None:
    with pytest.raises(ValueError, match="rows"):
        confidence_interval.paired_difference(gained, lost, n)


def test_equal_scores_on_few_rows_do_not_prove_much() -> None:
    few, many = (scoring.difference([0.7] * n, [0.7] * n) for n in (5, 500))
    assert few is not None and few.low < -0.3
    assert many is not None and many.low == pytest.approx(-0.0076, abs=0.001)


def test_mcnemars_test_of_many_rows_is_near_the_exact_one() -> None:
    assert scoring.mcnemar(480, 540) == pytest.approx(0.0647, abs=0.002)
    assert scoring.mcnemar(0, 5_000) == pytest.approx(0)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("飞行", "飞行"),
        (" 飞行。\n因为…", "飞行"),
        ("**Refund**", "refund"),
        ("  Card  Lost .", "card lost"),
        ("\n\n", ""),
        ("", ""),
        ("“退款”", "退款"),
        ("ＡＢＣ", "abc"),
    ],
)
def test_labels_are_normalized(answer: str, label: str) -> None:
    assert scoring.normalize_label(answer) == label


def test_a_difference_is_seen_row_by_row() -> None:
    found = scoring.difference([1, 1, 1, 0] * 25, [0, 1, 1, 0] * 25)
    assert found is not None and found.value == 0.25 and 0.15 < found.low < 0.25 < found.high < 0.35
    assert scoring.difference([], []) is None
    with pytest.raises(ValueError, match="same rows"):
        scoring.difference([1], [])


@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ("同一个故事", "同一个故事", 1, 1),
        ("abc", "xyz", 0, 0),
        ("", "", 1, 1),
        ("", "a", 0, 0),
        ("唐朝的英雄", "唐朝英雄", 0.3, 0.99),
    ],
)
def test_how_near_texts_are(one: str, other: str, low: float, high: float) -> None:
    assert low <= scoring.chrf(one, other) <= high


def test_labels_have_precision_and_recall() -> None:
    pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("c", "nonsense")]
    scores = {one.label: one for one in scoring.label_scores(pairs)}
    assert (scores["a"].precision, scores["a"].recall) == (1, 0.5)
    assert (scores["b"].precision, scores["b"].recall) == (0.5, 1)
    assert (scores["c"].precision, scores["c"].recall) == (None, 0)
    assert scoring.confusion(pairs) == {"a": {"a": 1, "b": 1}, "b": {"b": 1}, "c": {"": 1}}


def test_distinct_is_the_share_of_different_character_pairs() -> None:
    assert scoring.distinct(["aaaa"]) == pytest.approx(1 / 3)
    assert scoring.distinct(["ab", "cd"]) == 1
    assert scoring.distinct([""]) is None


@given(st.text(max_size=50), st.text(max_size=50))
def test_scores_are_shares(one: str, other: str) -> None:
    assert 0 <= scoring.chrf(one, other) <= 1 + 1e-9
    scoring.normalize_label(one)


@given(st.integers(0, 200), st.integers(1, 200))
def test_an_interval_holds_its_share(right: int, n: int) -> None:
    interval = scoring.wilson(min(right, n), n)
    assert interval is not None and 0 <= interval.low <= interval.value <= interval.high <= 1
