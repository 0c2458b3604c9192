"""Confidence intervals of a proportion, and of the difference of two proportions; a bound for a mean that is watched
while values arrive. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, exp, inf, log, log1p, sqrt
from statistics import NormalDist

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution, for 95 % intervals
_BISECTIONS = 60  # more precise than a float needs
_ERROR = 0.025  # of the lower end of a 95 % interval
_BETS = tuple(part / 40 for part in range(1, 40))  # shares of the capital; fewer find small differences later


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


def lower_bound_at_any_time(total: float, n: int) -> float:
    """A lower bound for the mean of values between 0 and 1, from the sum of the first `n` of them.

    With a probability of 97.5 %, the bound is never above the mean, however often it is looked at: `wilson` holds for
    one look only. It bets against the mean being `m` or less. Each bet risks the share `q` of a capital of 1 on every
    value; if the mean is at most `m`, the average capital exceeds 1 / 0.025 at any time with a probability of at most
    2.5 % (Ville's inequality). A value in between counts as that part of a won and of a lost bet, which is less than
    betting on the value itself would give (weighted means), so the bound holds for it too.

    I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting", Journal of the Royal
    Statistical Society B 86 (2024): the capital process with diversified bets, here with bets `q / m`.
    """
    if total <= 0:
        return 0.0
    needed = log(len(_BETS) / _ERROR)

    def excess(mean: float) -> float:
        logs = [total * log1p(bet * (1 - mean) / mean) + (n - total) * log1p(-bet) for bet in _BETS]
        most = max(logs)
        return most + log(sum(exp(value - most) for value in logs)) - needed

    return _zero_of(excess, 0.0, total / n)


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
