"""Text lengths, and outliers among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

_OUTLIER = 3.5  # modified z-score (B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers", 1993)
_TO_SIGMA = 0.6745  # converts the median absolute deviation of a normal distribution to its standard deviation (ibid.)
_MIN_DEVIATION = 0.1  # minimum standard deviation of the logarithm, so that small differences are never outliers
_MIN_TEXTS = 10  # minimum number of texts to detect outliers
_MAX_BINS = 30  # maximum number of bars


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram: `count` texts with lengths from `low` up to, but not including, `high`."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class Lengths:
    """The lengths of all texts, in characters or tokens.

    Attributes:
        ids, values: row ids and their lengths, in the same order.
        shortest, lower, median, upper, longest: minimum, 5th percentile, median, 95th percentile, maximum; None if
            there is no text.
        short, long: ids of outliers, on a logarithmic scale.
    """

    ids: Numbers
    values: Numbers
    shortest: int | None
    lower: int | None
    median: int | None
    upper: int | None
    longest: int | None
    short: tuple[int, ...]
    long: tuple[int, ...]

    @property
    def total(self) -> int:
        """The sum of all lengths."""
        return int(self.values.sum())

    def between(self, low: int, high: int) -> tuple[int, ...]:
        """Ids of the rows with lengths from `low` up to, but not including, `high`."""
        return tuple(self.ids[(self.values >= low) & (self.values < high)].tolist())

    def bins(self, max_bins: int = _MAX_BINS) -> tuple[Bin, ...]:
        """A histogram with integer bounds and bars of equal width."""
        if not len(self.values):
            return ()
        low, high = int(self.values.min()), int(self.values.max()) + 1
        width = _round_width(-(-(high - low) // max_bins))
        low -= low % width
        counts = np.bincount((self.values - low) // width)
        return tuple(Bin(low + i * width, low + (i + 1) * width, count) for i, count in enumerate(counts.tolist()))


def measure(ids: Sequence[int], values: Sequence[int]) -> Lengths:
    """The lengths `values` of the rows `ids`."""
    rows, numbers = np.asarray(ids, dtype=np.int64), np.asarray(values, dtype=np.int64)
    if not len(numbers):
        return Lengths(rows, numbers, None, None, None, None, None, (), ())
    shortest, lower, median, upper, longest = (
        int(value) for value in np.percentile(numbers, [0, 5, 50, 95, 100], method="nearest")
    )
    short, long = _outliers(rows, numbers)
    return Lengths(rows, numbers, shortest, lower, median, upper, longest, short, long)


def _outliers(rows: Numbers, numbers: Numbers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Outliers by the modified z-score of the logarithm: half the length is as unusual as twice the length."""
    if len(numbers) < _MIN_TEXTS:
        return (), ()
    logs = np.log(np.maximum(numbers, 1))
    deviation = logs - np.median(logs)
    scale = max(float(np.median(np.abs(deviation))), _MIN_DEVIATION * _TO_SIGMA)
    score = _TO_SIGMA * deviation / scale
    return tuple(rows[score < -_OUTLIER].tolist()), tuple(rows[score > _OUTLIER].tolist())


def _round_width(width: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …, so that bars begin at round numbers."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= width:
                return factor * step
        step *= 10
