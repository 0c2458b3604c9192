"""Adherence: does a text contain the values that its cell asked for? Measured for columns with literal values.

A value that occurs in nearly every text, requested or not, shows nothing. Neither does a value that is never written
out ("light-hearted" describes a manner; the word does not occur in the story). So a column counts as literal only if
its value occurs in at least half of the texts, and clearly more often than in texts with another value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.datasets.quality.units import normalize

LITERAL_FROM = 0.5  # share of texts that must contain the value; below it, a missing value means nothing
ABOVE_CHANCE = 0.2  # and by how much this share must exceed the one in texts with another value
MAX_VALUES = 200  # a column with more values is free text, not a dimension of the grid
_MAX_VALUE_CHARACTERS = 60  # characters; a longer value is a sentence, which texts do not repeat


@dataclass(frozen=True, slots=True)
class ValueShare:
    """One value of a column: how many texts it was requested for, and the ids of those that lack it."""

    value: str
    requested: int
    missing: tuple[int, ...]

    @property
    def found(self) -> int:
        """Number of texts that contain it."""
        return self.requested - len(self.missing)


@dataclass(frozen=True, slots=True)
class Adherence:
    """One column.

    Attributes:
        column: its name.
        literal: True if its values are written out in the texts, so that a missing one is a problem.
        share: share of the texts that contain the requested value; None if not measured.
        chance: how often a value occurs in texts with another value, in a sample; None if there is only one value.
        values: the same by value, the lowest share first.
        missing: ids of the rows without their value; empty unless `literal`.
    """

    column: str
    literal: bool
    share: float | None
    chance: float | None
    values: tuple[ValueShare, ...]
    missing: tuple[int, ...]


class AdherenceCollector:
    """Counts, text by text, how often the values of one column occur."""

    def __init__(self, column: str) -> None:
        self.column = column
        self._requested: Counter[str] = Counter()
        self._missing: dict[str, list[int]] = {}
        self._is_free_text = False

    def add(self, row_id: int, value: str, text: str) -> None:
        """Count `text`, which is normalized (`normalize`) and was requested with `value`."""
        if self._is_free_text or not value.strip():
            return
        self._requested[value] += 1
        if len(self._requested) > MAX_VALUES or len(value) > _MAX_VALUE_CHARACTERS:
            self._is_free_text = True
            self._missing.clear()
        elif normalize(value).strip() not in text:
            self._missing.setdefault(value, []).append(row_id)

    def result(self, sample: Sequence[tuple[Mapping[str, str], str]]) -> Adherence:
        """The result; `sample` are normalized texts with their values, to estimate how often values occur by chance."""
        total = self._requested.total()
        if self._is_free_text or not total:
            return Adherence(self.column, False, None, None, (), ())
        values = [ValueShare(value, n, tuple(self._missing.get(value, ()))) for value, n in self._requested.items()]
        values.sort(key=lambda item: item.found / item.requested)
        share, chance = sum(item.found for item in values) / total, self._chance(sample)
        literal = share >= LITERAL_FROM and (chance is None or share >= chance + ABOVE_CHANCE)
        missing = tuple(sorted(row for item in values for row in item.missing)) if literal else ()
        return Adherence(self.column, literal, share, chance, tuple(values), missing)

    def _chance(self, sample: Sequence[tuple[Mapping[str, str], str]]) -> float | None:
        needles = [(value, normalize(value).strip()) for value in self._requested]
        pairs = hits = 0
        for values, text in sample:
            own_value = normalize(values.get(self.column, "")).strip()
            for _, needle in needles:
                if needle not in own_value and own_value not in needle:  # 魏 inside 北魏 is not by chance
                    pairs += 1
                    hits += needle in text
        return hits / pairs if pairs else None
