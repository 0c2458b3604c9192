"""The verdict on a new model: better, as good, worse, worse in one part, or not decided yet. Pure.

"As good" is a test of non-inferiority (FDA, "Non-Inferiority Clinical Trials", 2016): the 95 % confidence interval of
the difference must lie above the loss that the user accepts. No difference that is merely not significant is called
equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

from core.evaluation import scoring
from core.evaluation.scoring import Interval
from core.message import msg

Outcome = Literal["better", "as_good", "worse", "worse_part", "undecided"]

DEFAULT_MARGIN = 0.05
"""The loss that is accepted unless the user chooses another one: 5 points."""
_PART_ALPHA = 0.05  # for all parts together
_MOST_ROWS = 10_000  # the largest number of rows that a sentence asks for


@dataclass(frozen=True, slots=True)
class ComparedPart:
    """One label, or one field of JSON objects: `n` rows have it.

    Attributes:
        old_right, new_right: how many of them each model answered correctly.
        lost, gained: rows that only the old, or only the new model answered correctly.
    """

    name: str
    n: int
    old_right: int
    new_right: int
    lost: int
    gained: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison shows.

    Attributes:
        difference: new minus old, -1 to 1.
        margin: the loss that the user accepts, 0 to 1.
        worse_parts: parts in which the new model is significantly worse, worst first.
        rows_needed: for `undecided`: about how many rows would decide; None if more than 10,000.
        sentence: the verdict in words.
    """

    outcome: Outcome
    difference: Interval
    margin: float
    worse_parts: tuple[ComparedPart, ...]
    rows_needed: int | None
    sentence: str


def decide(
    new: Sequence[float], old: Sequence[float], parts: Sequence[ComparedPart] = (), margin: float = DEFAULT_MARGIN
) -> Verdict:
    """Decide from the scores (0 to 1) of the same rows.

    Raises:
        ValueError: there are no rows, the numbers of rows differ, or the margin is not between 0 and 1.
    """
    if not 0 < margin < 1:
        raise ValueError("the margin must be between 0 and 1")
    difference = scoring.difference(new, old)
    if difference is None:
        raise ValueError("there are no rows to compare")
    worse_parts = significantly_worse(parts)
    needed = None
    if difference.high < 0:
        outcome: Outcome = "worse"
    elif worse_parts:
        outcome = "worse_part"
    elif difference.low > 0:
        outcome = "better"
    elif difference.low >= -margin:
        outcome = "as_good"
    else:
        outcome, needed = "undecided", rows_needed(difference, margin)
    sentence = _SENTENCES[outcome](difference, worse_parts, needed)
    return Verdict(outcome, difference, margin, worse_parts, needed, sentence)


def significantly_worse(parts: Sequence[ComparedPart]) -> tuple[ComparedPart, ...]:
    """The parts in which the new model is worse; the one with the most lost rows comes first.

    McNemar's exact test, with Holm's correction (1979) for the number of parts.
    """
    tested = sorted((scoring.mcnemar(part.gained, part.lost), part.name, part) for part in parts if part.lost)
    found = []
    for number, (p_value, _name, part) in enumerate(tested):
        if p_value > _PART_ALPHA / (len(parts) - number):
            break
        if part.lost > part.gained:
            found.append(part)
    return tuple(sorted(found, key=lambda part: (part.gained - part.lost, part.name)))


def parts_of(rows: Sequence[Mapping[str, tuple[bool, bool]]]) -> tuple[ComparedPart, ...]:
    """Parts from rows that give, by part, whether the old and the new model answered it correctly."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        for name, (old, new) in row.items():
            count = counts.setdefault(name, [0, 0, 0, 0, 0])
            for number, one in enumerate((True, old, new, old and not new, new and not old)):
                count[number] += one
    return tuple(ComparedPart(name, *count) for name, count in counts.items())


def rows_needed(difference: Interval, margin: float) -> int | None:
    """About how many rows would show that the model is as good, or worse: the width falls with the square root.

    None if more than 10,000.
    """
    half = (difference.high - difference.low) / 2
    needed = ceil(difference.n * (half / max(abs(difference.value + margin), margin / 4)) ** 2)
    needed = max(needed, difference.n + 1)
    rounded = ceil(needed / 50) * 50
    return rounded if rounded <= _MOST_ROWS else None


def _better(difference: Interval, _parts: Sequence[ComparedPart], _needed: int | None) -> str:
    return msg(
        "Better by {low} to {high} points on {n} rows (95 % confidence).",
        low=points(floor, difference.low),
        high=points(ceil, difference.high),
        n=f"{difference.n:,}",
    )


def _as_good(difference: Interval, _parts: Sequence[ComparedPart], _needed: int | None) -> str:
    return msg(
        "As good within {points} points on {n} rows (95 % confidence).",
        points=max(1, ceil(-100 * difference.low)),
        n=f"{difference.n:,}",
    )


def _worse(difference: Interval, parts: Sequence[ComparedPart], _needed: int | None) -> str:
    low, high = points(floor, -difference.high), points(ceil, -difference.low)
    n = f"{difference.n:,}"
    if not parts:
        return msg("Worse by {low} to {high} points on {n} rows (95 % confidence).", low=low, high=high, n=n)
    return msg(
        "Worse by {low} to {high} points on {n} rows (95 % confidence), most at {part}: {wrong} of {of} wrong.",
        low=low,
        high=high,
        n=n,
        part=parts[0].name,
        wrong=f"{parts[0].n - parts[0].new_right:,}",
        of=f"{parts[0].n:,}",
    )


def _worse_part(difference: Interval, parts: Sequence[ComparedPart], _needed: int | None) -> str:
    return msg(
        "Worse at {part}: {wrong} of {of} wrong; the old model had {old_wrong} wrong.",
        part=parts[0].name,
        wrong=f"{parts[0].n - parts[0].new_right:,}",
        of=f"{parts[0].n:,}",
        old_wrong=f"{parts[0].n - parts[0].old_right:,}",
    )


def _undecided(difference: Interval, _parts: Sequence[ComparedPart], needed: int | None) -> str:
    n, low, high = f"{difference.n:,}", f"{100 * difference.low:+.0f}", f"{100 * difference.high:+.0f}"
    if needed is None:
        return msg(
            "Not decided: on {n} rows the difference is between {low} and {high} points.", n=n, low=low, high=high
        )
    return msg(
        "Not decided: on {n} rows the difference is between {low} and {high} points. Compare about {needed} rows.",
        n=n,
        low=low,
        high=high,
        needed=f"{needed:,}",
    )


_SENTENCES = {
    "better": _better,
    "as_good": _as_good,
    "worse": _worse,
    "worse_part": _worse_part,
    "undecided": _undecided,
}


def points(rounded: Callable[[float], int], share: float) -> str:
    """A share in whole points; below one point in tenths, because a difference was found."""
    value = round(100 * share, 6)  # 7.000000000000001 is not 8 when rounded up
    return f"{rounded(value)}" if value >= 1 else f"{max(1, rounded(10 * value)) / 10}"
