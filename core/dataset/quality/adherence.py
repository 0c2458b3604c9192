"""Do the texts do what their cell asked for? Measured where a column's values are written out in the text.

A value that stands in nearly every text, asked for or not, shows nothing, and neither does one that is never written
out ("light-hearted" is a manner, not a word of the story). So a column counts as literal only if its own value stands
in at least half of the texts, and clearly more often than in texts of other values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.dataset.quality.units import normalize

LITERAL_FROM = 0.5  # share of texts that must have the value; below it, its absence says nothing about one text
ABOVE_CHANCE = 0.2  # and this much more often than texts that were asked for another value
MOST_VALUES = 200  # a column with more is no dimension of a grid but free text
_LONGEST_VALUE = 60  # characters; a longer one is a sentence, which no text repeats


@dataclass(frozen=True, slots=True)
class ValueShare:
    """One value of a column: how many texts were asked for it, and the ids of those where it does not stand."""

    value: str
    asked: int
    missing: tuple[int, ...]

    @property
    def found(self) -> int:
        """Texts where it stands."""
        return self.asked - len(self.missing)


@dataclass(frozen=True, slots=True)
class Adherence:
    """One column.

    Attributes:
        column: its name.
        literal: whether its values are written out in the texts, so that a missing one is a fault.
        share: of the texts, how many have the value that was asked for; None when it was not measured.
        chance: how often a value stands in texts that were asked for another one, in a sample; None: one value only.
        values: the same by value, the worst first.
        missing: ids of the rows without their value; empty unless `literal`.
    """

    column: str
    literal: bool
    share: float | None
    chance: float | None
    values: tuple[ValueShare, ...]
    missing: tuple[int, ...]


class AdherenceCollector:
    """Collects, text by text, whether one column's values stand in it."""

    def __init__(self, column: str) -> None:
        self.column = column
        self._asked: Counter[str] = Counter()
        self._missing: dict[str, list[int]] = {}
        self._free = False

    def add(self, row_id: int, value: str, text: str) -> None:
        """`text` is `normalize` and was asked to have `value`."""
        if self._free or not value.strip():
            return
        self._asked[value] += 1
        if len(self._asked) > MOST_VALUES or len(value) > _LONGEST_VALUE:
            self._free = True
            self._missing.clear()
        elif normalize(value).strip() not in text:
            self._missing.setdefault(value, []).append(row_id)

    def result(self, sample: Sequence[tuple[Mapping[str, str], str]]) -> Adherence:
        """The figures; `sample` are texts (`normalize`) with their values, to see what chance alone would find."""
        asked = self._asked.total()
        if self._free or not asked:
            return Adherence(self.column, False, None, None, (), ())
        values = [ValueShare(value, n, tuple(self._missing.get(value, ()))) for value, n in self._asked.items()]
        values.sort(key=lambda one: one.found / one.asked)
        share, chance = sum(one.found for one in values) / asked, self._chance(sample)
        literal = share >= LITERAL_FROM and (chance is None or share >= chance + ABOVE_CHANCE)
        missing = tuple(sorted(row for one in values for row in one.missing)) if literal else ()
        return Adherence(self.column, literal, share, chance, tuple(values), missing)

    def _chance(self, sample: Sequence[tuple[Mapping[str, str], str]]) -> float | None:
        looked_for = [(value, normalize(value).strip()) for value in self._asked]
        pairs = hits = 0
        for values, text in sample:
            own = normalize(values.get(self.column, "")).strip()
            for _, words in looked_for:
                if words not in own and own not in words:  # 魏 inside 北魏 is no chance
                    pairs += 1
                    hits += words in text
        return hits / pairs if pairs else None
