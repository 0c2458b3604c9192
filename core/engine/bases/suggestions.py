"""Base models worth trying, from `data/bases.csv`: a short list with a date and a source for each row.

The packaged base is not in the list, because it is already here. Sizes come from the model cards and configurations.
Whether a model fits is computed for the engine's machine.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from core.engine.bases import machine
from core.engine.bases.machine import Shape

_FILE = Path(__file__).parents[3] / "data" / "bases.csv"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One model on Hugging Face.

    Attributes:
        shape: the model's figures, with its own context length.
        download_bytes: size of its weights.
        gated: whether its terms must first be accepted on its page.
        source, as_of: where the figures come from, and when they were recorded (ISO date).
    """

    repo: str
    shape: Shape
    download_bytes: int
    licence: str
    gated: bool
    source: str
    as_of: str

    def serving_bytes(self, limit: int) -> int:
        """Estimated memory for serving it with at most `limit` tokens of context."""
        shape = replace(self.shape, context=min(limit, self.shape.context))
        return machine.serving_bytes(2 * shape.parameters, shape)

    @property
    def training_bytes(self) -> int:
        """Estimated memory for training it."""
        return machine.training_bytes(self.shape)


@cache
def every() -> tuple[Suggestion, ...]:
    """All suggestions, smallest first."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_suggestion(row) for row in csv.DictReader(file))


def fitting(memory_bytes: int, limit: int, training_memory_bytes: int | None) -> list[Suggestion]:
    """The suggestions that can be both served (with at most `limit` tokens) in `memory_bytes` and trained in
    `training_memory_bytes` (see `machine.training_memory_bytes`).
    """
    served = [one for one in every() if one.serving_bytes(limit) <= memory_bytes]
    return [one for one in served if training_memory_bytes is None or one.training_bytes <= training_memory_bytes]


def _suggestion(row: dict[str, str]) -> Suggestion:
    shape = Shape(*(int(row[name]) for name in ("parameters", "layers", "width", "key_width", "context")))
    return Suggestion(
        row["repo"], shape, int(row["download_bytes"]), row["licence"], row["gated"] == "yes", row["source"],
        row["as_of"],
    )  # fmt: skip
