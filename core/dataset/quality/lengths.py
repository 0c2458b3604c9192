"""How long the texts are, and which are unlike the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

_FAR = 3.5  # modified z-score of an outlier (B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers", 1993)
_TO_SIGMA = 0.6745  # makes the median absolute deviation of a normal distribution its standard deviation (as there)
_TIGHTEST = 0.1  # lengths within a tenth of each other are alike, however little the rest vary
_FEWEST = 10  # texts that it takes to say what is usual
_BINS = 30  # bars at most


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram: lengths from `low` to below `high`, and how many texts have them."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class Lengths:
    """The lengths of all texts, in characters or tokens.

    Attributes:
        ids, values: of the rows, in one order.
        shortest, lower, median, upper, longest: minimum, 5th percentile, median, 95th percentile, maximum; None
            when there is no text.
        short, long: ids of the rows that are far from the others, on a scale of ratios.
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
        """All of them together."""
        return int(self.values.sum())

    def between(self, low: int, high: int) -> tuple[int, ...]:
        """Ids of the rows with lengths from `low` to below `high`."""
        return tuple(self.ids[(self.values >= low) & (self.values < high)].tolist())

    def bins(self, most: int = _BINS) -> tuple[Bin, ...]:
        """A histogram in whole numbers, all bars equally wide."""
        if not len(self.values):
            return ()
        low, high = int(self.values.min()), int(self.values.max()) + 1
        width = _round_width(-(-(high - low) // most))
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
    short, long = _far(rows, numbers)
    return Lengths(rows, numbers, shortest, lower, median, upper, longest, short, long)


def _far(rows: Numbers, numbers: Numbers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Outliers by the modified z-score of the logarithm: half as long is as unusual as twice as long."""
    if len(numbers) < _FEWEST:
        return (), ()
    logs = np.log(np.maximum(numbers, 1))
    away = logs - np.median(logs)
    deviation = max(float(np.median(np.abs(away))), _TIGHTEST * _TO_SIGMA)
    score = _TO_SIGMA * away / deviation
    return tuple(rows[score < -_FAR].tolist()), tuple(rows[score > _FAR].tolist())


def _round_width(width: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …: bars that begin at numbers which people read easily."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= width:
                return factor * step
        step *= 10
