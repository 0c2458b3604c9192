"""Confidence interval of a proportion. Pure."""

from __future__ import annotations

from math import sqrt

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution, for 95 % intervals


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of the proportion `successes / n` (E. B. Wilson, 1927); (0, 1) if `n` is 0.

    Unlike the normal approximation, it is also valid for small `n` and for proportions near 0 and 1.
    """
    if n <= 0:
        return 0.0, 1.0
    proportion, z2 = successes / n, _Z * _Z
    middle = (proportion + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * sqrt(proportion * (1 - proportion) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # rounding must not exclude the proportion itself
    return min(proportion, max(0.0, middle - half)), max(proportion, min(1.0, middle + half))
