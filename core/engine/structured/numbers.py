"""Grammars for numbers within bounds. Pure; expressions are GBNF."""

from __future__ import annotations

_MOST = 10**15 - 1  # the largest number that a grammar writes: every such number is exact in a float
_FRACTION = '("." [0-9]{1,15})?'


def whole_numbers(low: int | None, high: int | None) -> str | None:
    """An expression for the whole numbers from `low` to `high`; None if there are none."""
    least, most = _clamped(low, high)
    if least > most:
        return None
    parts = []
    if least < 0:
        parts.append(f'"-" ({_digits(max(1, -most), -least)})')
    if most >= 0:
        parts.append(f"({_digits(max(0, least), most)})")
    return " | ".join(parts)


def real_numbers(low: int | None, high: int | None, *, above: bool = False, below: bool = False) -> str | None:
    """An expression for the decimal numbers from `low` to `high`; None if there are none.

    Args:
        above: whether `low` itself is excluded; `below`: whether `high` is.
    """
    least, most = _clamped(low, high)
    parts = []
    if most > 0 or (most == 0 and least == 0):
        parts += _magnitudes(max(0, least), most, above and least >= 0, below)
    elif most == 0 and not below:
        parts.append('"0"')
    if least < 0:
        negative = _magnitudes(max(0, -most), -least, most > 0 or below, above)
        parts += [f'"-" ({part})' for part in negative]
    return " | ".join(parts) or None


def _clamped(low: int | None, high: int | None) -> tuple[int, int]:
    return max(-_MOST, -_MOST if low is None else low), min(_MOST, _MOST if high is None else high)


def _magnitudes(low: int, high: int, above: bool, below: bool) -> list[str]:
    """Expressions for the numbers from `low` to `high`, both at least 0."""
    if low > high or (low == high and (above or below)):
        return []
    if low == high:
        return [f'"{low}" ("." "0"{{1,15}})?']
    parts = [f'"{low}" "." [0-9]{{0,14}} [1-9]'] if above else [f'"{low}" {_FRACTION}']
    if high - low > 1:
        parts.append(f"({_digits(low + 1, high - 1)}) {_FRACTION}")
    return parts if below else [*parts, f'"{high}" ("." "0"{{1,15}})?']


def _digits(low: int, high: int) -> str:
    """An expression for the whole numbers from `low` to `high`, both at least 0, without leading zeros."""
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (length - 1) if length > 1 else 0)
        last = min(high, 10**length - 1)
        parts.append(_same_length(str(first), str(last)))
    return " | ".join(parts)


def _same_length(low: str, high: str) -> str:
    """An expression for the numbers from `low` to `high`, which have equally many digits."""
    if low == high:
        return f'"{low}"'
    if len(low) == 1:
        return f"[{low}-{high}]"
    first, last, rest = int(low[0]), int(high[0]), len(low) - 1
    if first == last:
        return f'"{first}" ({_same_length(low[1:], high[1:])})'
    parts = []
    if low[1:] != "0" * rest:
        parts.append(f'"{first}" ({_same_length(low[1:], "9" * rest)})')
        first += 1
    if high[1:] != "9" * rest:
        parts.append(f'"{last}" ({_same_length("0" * rest, high[1:])})')
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}] [0-9]{{{rest}}}")
    return " | ".join(parts)
