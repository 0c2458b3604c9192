"""Scores of answers with confidence intervals, the metrics of an evaluation, and the comparison of two. Pure.

Intervals are 95 % confidence intervals; shares use Wilson's (`core.confidence_interval`). Two models that answered the
same rows are compared row by row: with McNemar's exact test (1947) and Tango's score interval for right or wrong
answers, and a paired bootstrap (Koehn, 2004) for differences of other scores.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from core import confidence_interval
from core.errors import FabulaError
from core.message import from_json, msg, percent, to_json

_RESAMPLES = 2_000  # the ends of the interval then vary by less than a tenth of its width
_CHRF_N = 6  # characters; M. Popović, "chrF" (2015): n up to 6, recall counts twice as much
_CHRF_BETA = 2.0
_CHRF_MAX_CHARS = 2_000  # longer texts are cut
_LABEL_EDGES = " \t\r\n.。!！?？,，;；:：'\"“”‘’「」*`#->"  # characters that models put around a label


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % confidence interval, from `n` rows."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label: `n` rows have it, `right` of them were answered with it. None means undefined (division by zero)."""

    label: str
    n: int
    right: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """The results of an evaluation. Shares are 0 to 1.

    Attributes:
        n: rows that were answered.
        accuracy: share of correct labels; None for texts.
        exact: share of answers that match the expected text, ignoring white space.
        loss: nats per token on rows kept from training; if None, `loss_note` gives the reason.
        labels, confusion: set if the answers are labels; answers that are not a label are counted under "".
        overlap: similarity to the expected texts (chrF); None for labels.
        quality: for texts, measures of the data set report where known: `characters`, `distinct_2`, `grave` (share of
            rows with a problem), `adherence` (share of requested column values that appear in the texts).
        cost_usd: the provider's charge; None if the price is unknown. 0 on the engine, see `writing_s`.
        writing_s: seconds with requests in flight; None if not recorded.
    """

    n: int
    accuracy: Interval | None
    exact: Interval | None
    loss: float | None
    loss_note: str
    labels: tuple[LabelScore, ...]
    confusion: Mapping[str, Mapping[str, int]]
    overlap: Interval | None
    quality: Mapping[str, float]
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    writing_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The metrics as JSON-compatible data."""
        cost = None if self.cost_usd is None else str(self.cost_usd)
        return {**asdict(self), "cost_usd": cost, "loss_note": to_json(self.loss_note)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Metrics:
        """The inverse of `to_dict`."""
        values = dict(data)
        for name in ("accuracy", "exact", "overlap"):
            values[name] = None if values[name] is None else Interval(**values[name])
        values["labels"] = tuple(LabelScore(**label) for label in values["labels"])
        values["loss_note"] = from_json(values["loss_note"]) or ""
        values["cost_usd"] = None if values["cost_usd"] is None else Decimal(values["cost_usd"])
        return cls(**values)


def normalize_label(text: str) -> str:
    """Normalise an answer to a label: first line, NFKC, case-folded, without punctuation around it."""
    first = next((line for line in unicodedata.normalize("NFKC", text).splitlines() if line.strip(_LABEL_EDGES)), "")
    return " ".join(first.strip(_LABEL_EDGES).casefold().split())


def normalize_text(text: str) -> str:
    """Normalise a text: NFKC, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def remove_stop(text: str, stop: object) -> str:
    """A text from the training file without the stop at its end, if it has one."""
    return text.removesuffix(stop) if isinstance(stop, str) and stop else text


def wilson(right: int, n: int, comparisons: int = 1) -> Interval | None:
    """The share `right / n` with its Wilson interval; None if there are no rows."""
    if n <= 0:
        return None
    return Interval(right / n, *confidence_interval.wilson(right, n, comparisons), n)


def mean(scores: Sequence[float], seed: int = 0, comparisons: int = 1) -> Interval | None:
    """The mean of scores with a bootstrap interval (see `difference`); None if there are no scores."""
    if not scores:
        return None
    values = np.asarray(scores, dtype=np.float64)
    low, high = _bootstrap(values, seed, comparisons)
    return Interval(float(values.mean()), low, high, len(values))


def mean_score(scores: Sequence[float], comparisons: int = 1) -> Interval | None:
    """The mean of scores from 0 to 1, with Wilson's interval if all are 0 or 1, else with a bootstrap interval.

    Args:
        comparisons: how many means must hold together with 95 % confidence.
    """
    if set(scores) <= {0.0, 1.0}:
        return wilson(int(sum(scores)), len(scores), comparisons)
    return mean(scores, comparisons=comparisons)


def difference(one: Sequence[float], other: Sequence[float], seed: int = 0, *, comparisons: int = 1) -> Interval | None:
    """The mean of `one - other` over the same rows, for scores from 0 to 1; None if there are no rows.

    Right and wrong answers (1 and 0) get Tango's score interval, other scores a paired bootstrap interval. A bootstrap
    interval is too narrow where few rows differ, so it is at least as wide as a score interval of equal rows.

    Args:
        comparisons: how many differences must hold together with 95 % confidence.

    Raises:
        ValueError: the lengths differ.
    """
    if len(one) != len(other):
        raise ValueError("the same rows must be scored on both sides")
    pairs = list(zip(one, other, strict=True))
    if set(one) | set(other) <= {0.0, 1.0} and pairs:
        gained, lost, n = pairs.count((1, 0)), pairs.count((0, 1)), len(pairs)
        low, high = confidence_interval.paired_difference(gained, lost, n, comparisons)
        return Interval((gained - lost) / n, low, high, n)
    found = mean([a - b for a, b in pairs], seed, comparisons)
    if found is None:
        return None
    least, _ = confidence_interval.paired_difference(0, 0, found.n, comparisons)
    low = max(-1.0, min(found.low, found.value + least))
    high = min(1.0, max(found.high, found.value - least))
    return Interval(found.value, low, high, found.n)


def mcnemar(only_one: int, only_other: int) -> float:
    """The p-value of McNemar's test, from the numbers of rows that only one of the two models got right.

    Exact two-sided binomial test with p = 0.5; 1.0 if there are no such rows.
    """
    n, fewer = only_one + only_other, min(only_one, only_other)
    if not n:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n)) if n < 1_000 else _normal_approximation(fewer, n)


def chrf(answer: str, expected: str) -> float:
    """chrF2: similarity of two texts by character n-grams (n = 1 to 6), 0 to 1, ignoring white space.

    Works for Chinese as well as English, because it needs no word boundaries.
    """
    answer_text, expected_text = (
        "".join(text.split())[:_CHRF_MAX_CHARS] for text in (normalize_text(answer), normalize_text(expected))
    )
    if not answer_text or not expected_text:
        return float(answer_text == expected_text)
    precision, recall, orders = 0.0, 0.0, 0
    for n in range(1, _CHRF_N + 1):
        answer_grams, expected_grams = _grams(answer_text, n), _grams(expected_text, n)
        if not answer_grams or not expected_grams:
            break
        shared = sum((answer_grams & expected_grams).values())
        precision, recall, orders = (
            precision + shared / answer_grams.total(),
            recall + shared / expected_grams.total(),
            orders + 1,
        )
    precision, recall, b2 = precision / orders, recall / orders, _CHRF_BETA**2
    return 0.0 if precision + recall == 0 else (1 + b2) * precision * recall / (b2 * precision + recall)


def label_scores(pairs: Sequence[tuple[str, str]]) -> tuple[LabelScore, ...]:
    """Scores per label from (expected, answered) pairs of normalised labels, most frequent first."""
    expected_counts, answered_counts = (
        Counter(expected for expected, _ in pairs),
        Counter(answered for _, answered in pairs),
    )
    right = Counter(expected for expected, answered in pairs if expected == answered)
    return tuple(
        LabelScore(
            label=label,
            n=n,
            right=right[label],
            precision=right[label] / answered_counts[label] if answered_counts[label] else None,
            recall=right[label] / n,
        )
        for label, n in sorted(expected_counts.items(), key=lambda item: (-item[1], item[0]))
    )


def confusion(pairs: Sequence[tuple[str, str]]) -> Mapping[str, Mapping[str, int]]:
    """Confusion matrix: expected → answered → rows. Answers that are not a known label are counted under ""."""
    known = {expected for expected, _ in pairs}
    table: dict[str, dict[str, int]] = {}
    for expected, answered in pairs:
        row = table.setdefault(expected, {})
        name = answered if answered in known else ""
        row[name] = row.get(name, 0) + 1
    return table


def distinct(texts: Sequence[str], n: int = 2) -> float | None:
    """distinct-n of characters (Li et al., 2016): share of distinct n-grams; None if there are none."""
    grams: Counter[str] = Counter()
    for text in texts:
        grams += _grams("".join(text.split()), n)
    return len(grams) / grams.total() if grams else None


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))


def _bootstrap(values: np.ndarray, seed: int, comparisons: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    means = [float(values[random.integers(0, len(values), len(values))].mean()) for _ in range(_RESAMPLES)]
    tail = 2.5 / comparisons
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _normal_approximation(fewer: int, n: int) -> float:
    """Normal approximation with continuity correction, because the exact sum is slow for large `n`."""
    return min(1.0, math.erfc(max(0.0, (n / 2 - fewer - 0.5) / math.sqrt(n / 4)) / math.sqrt(2)))


@dataclass(frozen=True, slots=True)
class EvaluationComparison:
    """Two models on the same `n` rows. `p_value`: for labels (McNemar); None for texts, which use the interval."""

    n: int
    tuned: Interval
    base: Interval
    difference: Interval
    p_value: float | None
    sentence: str


def compare(kind: str, tuned_scores: Mapping[str, float], base_scores: Mapping[str, float]) -> EvaluationComparison:
    """Compare the scores of two models, by row key, on the rows that both have answered.

    Args:
        kind: `label` (scores 1 or 0), or `text`.

    Raises:
        FabulaError: they have no rows in common.
    """
    shared = [key for key in tuned_scores if key in base_scores]
    if not shared:
        raise FabulaError(
            msg("The two evaluations have no rows in common."), msg("Evaluate both models on the same rows.")
        )
    tuned_values, base_values = [tuned_scores[key] for key in shared], [base_scores[key] for key in shared]
    margin = difference(tuned_values, base_values)
    interval = _share if kind == "label" else mean
    tuned, base = interval(tuned_values), interval(base_values)
    assert margin is not None and tuned is not None and base is not None
    p_value = None
    if kind == "label":
        right = list(zip(tuned_values, base_values, strict=True))
        p_value = mcnemar(right.count((1, 0)), right.count((0, 1)))
    return EvaluationComparison(
        len(shared), tuned, base, margin, p_value, _sentence(kind, len(shared), tuned, base, margin)
    )


def _share(scores: Sequence[float]) -> Interval | None:
    return wilson(int(sum(scores)), len(scores))


def _sentence(kind: str, n: int, tuned: Interval, base: Interval, difference: Interval) -> str:
    """The comparison in words; "no clear difference" if the interval contains 0."""
    label, rows = kind == "label", f"{n:,}"
    new, old = (percent(one.value, 0) if label else f"{one.value:.2f}" for one in (tuned, base))
    if difference.low > 0 and label:
        return msg(
            "Fine-tuning helped: {tuned} correct instead of {base}, on {n} held-out rows.", tuned=new, base=old, n=rows
        )
    if difference.low > 0:
        return msg(
            "Fine-tuning helped: the texts are closer to the expected ones ({tuned} instead of {base}).",
            tuned=new,
            base=old,
        )
    if difference.high < 0 and label:
        return msg(
            "Fine-tuning made it worse: {tuned} correct instead of {base}, on {n} held-out rows.",
            tuned=new,
            base=old,
            n=rows,
        )
    if difference.high < 0:
        return msg(
            "Fine-tuning made it worse: the texts are further from the expected ones ({tuned} instead of {base}).",
            tuned=new,
            base=old,
        )
    if label:
        return msg(
            "No clear difference: {tuned} correct, base model {base}, on {n} rows. Use more rows to find out.",
            tuned=new,
            base=old,
            n=rows,
        )
    return msg(
        "No clear difference: {tuned}, base model {base}, on {n} rows. Use more rows to find out.",
        tuned=new,
        base=old,
        n=rows,
    )
