"""Confidence intervals of a proportion, and of the difference of two proportions. Pure."""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, inf, sqrt
from statistics import NormalDist

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution, for 95 % intervals
_BISECTIONS = 60  # more precise than a float needs


def wilson(successes: float, n: int, comparisons: int = 1) -> tuple[float, float]:
    """The 95 % Wilson score interval of the proportion `successes / n` (E. B. Wilson, 1927); (0, 1) if `n` is 0.

    Unlike the normal approximation, it is also valid for small `n` and for proportions near 0 and 1.

    Args:
        comparisons: see `paired_difference`.
    """
    if n <= 0:
        return 0.0, 1.0
    z = _z(comparisons)
    proportion, z2 = successes / n, z * z
    middle = (proportion + z2 / (2 * n)) / (1 + z2 / n)
    half = z * sqrt(proportion * (1 - proportion) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # rounding must not exclude the proportion itself
    return min(proportion, max(0.0, middle - half)), max(proportion, min(1.0, middle + half))


def paired_difference(gained: int, lost: int, n: int, comparisons: int = 1) -> tuple[float, float]:
    """The 95 % score interval of the difference of two proportions that were measured on the same `n` rows.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17 (1998). Also valid if no row differs, where a bootstrap would find an interval of width 0.

    Args:
        gained: rows that are successes of the first one only.
        lost: rows that are successes of the second one only.
        comparisons: how many intervals must hold together with 95 % confidence (Bonferroni); each is wider then.

    Raises:
        ValueError: there are no rows, or fewer than `gained + lost`.
    """
    if n <= 0 or min(gained, lost) < 0 or gained + lost > n:
        raise ValueError("there must be rows, and no more differing rows than rows")
    z = _z(comparisons)

    def statistic(difference: float) -> float:
        linear = -gained - lost + (2 * n - gained + lost) * difference
        constant = -lost * difference * (1 - difference)
        share = (sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)  # of lost rows, most likely
        variance = n * (2 * share + difference * (1 - difference))
        distance = gained - lost - n * difference
        return distance / sqrt(variance) if variance > 0 else copysign(inf, distance) if distance else 0.0

    value = (gained - lost) / n
    low = _zero_of(lambda difference: statistic(difference) - z, -1.0, value)
    high = _zero_of(lambda difference: statistic(difference) + z, value, 1.0)
    return low, high


def _z(comparisons: int) -> float:
    """How many standard deviations an interval reaches to each side."""
    return _Z if comparisons == 1 else NormalDist().inv_cdf(1 - 0.025 / comparisons)


def _zero_of(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is 0, between `low` and `high`."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
