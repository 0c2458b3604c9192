"""How sure one can be of a share that was counted. Pure."""

from __future__ import annotations

from math import sqrt

_Z = 1.959963984540054  # the normal distribution's 97.5 % point: intervals of 95 %


def wilson(right: float, n: int) -> tuple[float, float]:
    """The 95 % interval of the share `right / n`, after E. B. Wilson (1927); from 0 to 1 where nothing was counted.

    Right also for few things, and for shares near 0 and 1, where the usual interval is not.
    """
    if n <= 0:
        return 0.0, 1.0
    share, z2 = right / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # rounding must not put the share itself outside
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))
