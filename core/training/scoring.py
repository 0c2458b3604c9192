"""How good answers are, and how sure one can be of it. Pure.

Intervals are of 95 %; those of shares are Wilson's (`core.statistics`). Two models that answered the same rows are
compared row by row: McNemar's exact test (1947) for right and wrong, a paired bootstrap (Koehn, 2004) for the
difference of any score.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core import statistics

_RESAMPLES = 2_000  # the interval's ends then move by less than a tenth of its width
_CHRF_N = 6  # characters; M. Popović, "chrF" (2015): n up to 6, recall counts twice as much
_CHRF_BETA = 2.0
_CHRF_LONGEST = 2_000  # characters of a text that are compared
_EDGE = " \t\r\n.。!！?？,，;；:：'\"“”‘’「」*`#->"  # what models put around a label


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and where it lies with 95 % confidence, from `n` rows."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label: `n` rows have it, `right` of them were answered with it. None: never answered, or never there."""

    label: str
    n: int
    right: int
    precision: float | None
    recall: float | None


def normalize_label(text: str) -> str:
    """An answer as a label: its first line, without what stands around it, in one form of every character."""
    first = next((line for line in unicodedata.normalize("NFKC", text).splitlines() if line.strip(_EDGE)), "")
    return " ".join(first.strip(_EDGE).casefold().split())


def normalize_text(text: str) -> str:
    """An answer as a text: all white space alike, in one form of every character."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def wilson(right: int, n: int) -> Interval | None:
    """The share `right / n`; None without rows."""
    if n <= 0:
        return None
    return Interval(right / n, *statistics.wilson(right, n), n)


def mean(scores: Sequence[float], seed: int = 0) -> Interval | None:
    """The mean of scores, its interval by bootstrap; None without scores."""
    if not scores:
        return None
    values = np.asarray(scores, dtype=np.float64)
    low, high = _bootstrap(values, seed)
    return Interval(float(values.mean()), low, high, len(values))


def difference(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Interval | None:
    """The mean of `one - other` over the same rows, its interval by paired bootstrap; None without rows.

    Raises:
        ValueError: they are not of the same length.
    """
    if len(one) != len(other):
        raise ValueError("the same rows must be scored on both sides")
    return mean([a - b for a, b in zip(one, other, strict=True)], seed)


def mcnemar(only_one: int, only_other: int) -> float:
    """How likely a difference at least as large is by chance, from the rows that just one of the two got right.

    The exact two-sided binomial test with a half; 1.0 where there are no such rows.
    """
    n, fewer = only_one + only_other, min(only_one, only_other)
    if not n:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n)) if n < 1_000 else _normal(fewer, n)


def chrf(answer: str, expected: str) -> float:
    """How near a text comes to another, by their runs of 1 to 6 characters (0 to 1): chrF2, spaces left out.

    It needs no words, and so measures Chinese as well as English.
    """
    one, other = ("".join(text.split())[:_CHRF_LONGEST] for text in (normalize_text(answer), normalize_text(expected)))
    if not one or not other:
        return float(one == other)
    precision, recall, orders = 0.0, 0.0, 0
    for n in range(1, _CHRF_N + 1):
        mine, theirs = _grams(one, n), _grams(other, n)
        if not mine or not theirs:
            break
        shared = sum((mine & theirs).values())
        precision, recall, orders = precision + shared / mine.total(), recall + shared / theirs.total(), orders + 1
    precision, recall, b2 = precision / orders, recall / orders, _CHRF_BETA**2
    return 0.0 if precision + recall == 0 else (1 + b2) * precision * recall / (b2 * precision + recall)


def label_scores(pairs: Sequence[tuple[str, str]]) -> tuple[LabelScore, ...]:
    """For each label, from (expected, answered) pairs of plain labels; the most frequent first."""
    there, given = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    right = Counter(one for one, other in pairs if one == other)
    return tuple(
        LabelScore(
            label=label,
            n=n,
            right=right[label],
            precision=right[label] / given[label] if given[label] else None,
            recall=right[label] / n,
        )
        for label, n in sorted(there.items(), key=lambda item: (-item[1], item[0]))
    )


def confusion(pairs: Sequence[tuple[str, str]]) -> Mapping[str, Mapping[str, int]]:
    """expected → answered → rows. Answers that are no label of the data are one, under ""."""
    known = {expected for expected, _ in pairs}
    table: dict[str, dict[str, int]] = {}
    for expected, answered in pairs:
        line = table.setdefault(expected, {})
        name = answered if answered in known else ""
        line[name] = line.get(name, 0) + 1
    return table


def distinct(texts: Sequence[str], n: int = 2) -> float | None:
    """Share of different ones among all runs of `n` characters (distinct-n, Li and others, 2016); None without any."""
    grams: Counter[str] = Counter()
    for text in texts:
        grams += _grams("".join(text.split()), n)
    return len(grams) / grams.total() if grams else None


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))


def _bootstrap(values: np.ndarray, seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    means = [float(values[random.integers(0, len(values), len(values))].mean()) for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _normal(fewer: int, n: int) -> float:
    """The same by the normal distribution, with continuity correction: exact sums of thousands of terms are slow."""
    return min(1.0, math.erfc(max(0.0, (n / 2 - fewer - 0.5) / math.sqrt(n / 4)) / math.sqrt(2)))
