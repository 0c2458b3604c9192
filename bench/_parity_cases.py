"""Comparisons whose true verdict is known, to measure how often `core.parity` gives it. Pure.

A case is made from counts of rows, not from chance, so that its truth does not depend on luck: a model that loses 10
points on 200 rows loses exactly 20 rows more than it gains. Cases near a limit are left out, because there both
verdicts are defensible.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from core.parity import report
from core.parity.row_scores import ComparedRow
from core.parity.verdict import DEFAULT_MARGIN, Outcome

Truth = Literal["equal", "better", "worse", "worse at one label", "too few rows"]

_LABELS = ("billing", "refunds", "delivery", "account", "other")
_ACCEPTED: dict[Truth, frozenset[Outcome]] = {
    "equal": frozenset({"as_good"}),
    "better": frozenset({"better"}),
    "worse": frozenset({"worse"}),
    "worse at one label": frozenset({"worse_part", "worse"}),
    "too few rows": frozenset({"undecided"}),
}
_NOT_WORSE: frozenset[Outcome] = frozenset({"as_good", "better"})


@dataclass(frozen=True, slots=True)
class ParityCase:
    """Rows that two models answered, and what is true of the new one.

    Attributes:
        label: for `worse at one label`: the label.
        loses_10_points: the new model is worse by at least 10 points, on 200 rows or more.
    """

    truth: Truth
    rows: list[ComparedRow]
    label: str | None = None
    loses_10_points: bool = False


def parity_verdicts_right(of_each: int = 100, seed: int = 17) -> dict[str, float]:
    """Judge so many cases of each truth.

    Returns the numbers `parity_cases` and `equal_when_worse` (must be 0), and the share `parity_verdicts_right`.
    A verdict on `worse at one label` is right only if it names that label.
    """
    judged = right = called_equal = 0
    for case in cases(of_each, seed):
        verdict = report.compare(case.rows, "old", "new", task="label", margin=DEFAULT_MARGIN).verdict
        judged += 1
        named = case.label is None or [part.name for part in verdict.worse_parts] == [case.label]
        right += named and verdict.outcome in _ACCEPTED[case.truth]
        called_equal += case.loses_10_points and verdict.outcome in _NOT_WORSE
    return {"parity_cases": judged, "parity_verdicts_right": right / judged, "equal_when_worse": called_equal}


def cases(of_each: int = 100, seed: int = 17) -> Iterator[ParityCase]:
    """So many cases of each of the five truths; the same for a seed."""
    chance = random.Random(seed)
    for _ in range(of_each):
        yield _equal(chance)
        yield _better(chance)
        yield _worse(chance)
        yield _worse_at_one_label(chance)
        yield _too_few_rows(chance)


def _equal(chance: random.Random) -> ParityCase:
    """At most 2 % of the rows differ, as many in each direction: the limit of 5 points is far away."""
    n = chance.choice((200, 300, 500, 1_000))
    differing = chance.randint(0, n // 100)
    return ParityCase("equal", _rows(chance, n, gained=differing, lost=differing))


def _better(chance: random.Random) -> ParityCase:
    """Gains 8 to 20 points, and loses at most a few rows."""
    n = chance.choice((200, 300, 500))
    lost = chance.randint(0, n // 50)
    return ParityCase("better", _rows(chance, n, gained=lost + _points(chance, n, 8, 20), lost=lost))


def _worse(chance: random.Random) -> ParityCase:
    """Loses 10 to 25 points, over all labels."""
    n = chance.choice((200, 300, 500))
    gained = chance.randint(0, n // 50)
    lost = gained + _points(chance, n, 10, 25)
    return ParityCase("worse", _rows(chance, n, gained=gained, lost=lost), loses_10_points=True)


def _worse_at_one_label(chance: random.Random) -> ParityCase:
    """Loses 50 to 100 % of one of five labels and nothing else; the total may fall or, with gains elsewhere, not."""
    n = chance.choice((200, 300, 500))
    label = chance.choice(_LABELS)
    of_label = n // len(_LABELS)
    lost = chance.randint(of_label // 2, of_label)
    gained = chance.choice((0, lost // 2))
    rows = _rows(chance, n, gained=gained, lost=lost, lost_at=label)
    return ParityCase("worse at one label", rows, label, loses_10_points=lost - gained >= n / 10)


def _too_few_rows(chance: random.Random) -> ParityCase:
    """1 to 40 rows of which at most one differs: neither 5 points less nor equality can be shown."""
    n = chance.randint(1, 40)
    gained, lost = chance.choice(((0, 0), (1, 0), (0, 1)))
    return ParityCase("too few rows", _rows(chance, n, gained=gained, lost=lost))


def _points(chance: random.Random, n: int, least: int, most: int) -> int:
    """So many points of `n` rows, as rows."""
    return -(-n * chance.randint(least, most) // 100)


def _rows(chance: random.Random, n: int, *, gained: int, lost: int, lost_at: str | None = None) -> list[ComparedRow]:
    """Labels with exact numbers of rows that only one model answers correctly; the old one is right at 85 to 100 %.

    Args:
        lost_at: the label of all lost rows, and of no gained one; None spreads them over all labels.
    """
    expected = [_LABELS[number % len(_LABELS)] for number in range(n)]
    order = chance.sample(range(n), n)
    may_lose = [number for number in order if lost_at in (None, expected[number])]
    lost_rows = set(may_lose[:lost])
    may_gain = [number for number in order if number not in lost_rows and expected[number] != lost_at]
    gained_rows = set(may_gain[:gained])
    both_wrong = set(may_gain[gained : gained + n * chance.randint(0, 5) // 100])
    rows = []
    for number, label in enumerate(expected):
        old_right = number not in gained_rows and number not in both_wrong
        new_right = number not in lost_rows and number not in both_wrong
        old, new = (_answer(chance, label, right=right) for right in (old_right, new_right))
        rows.append(ComparedRow(str(number), f"question {number}", label, old, new))
    return rows


def _answer(chance: random.Random, label: str, *, right: bool) -> str:
    """A label as models write it."""
    written = label if right else chance.choice([other for other in _LABELS if other != label])
    return chance.choice((written, written.title(), f" {written}.", f"{written}\nBecause of the question."))
