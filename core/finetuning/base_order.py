"""Which base models to suggest first: those that train here in a reasonable time. Pure.

Times are estimated for a typical data set from the packaged base's training speed: a model with twice as many
parameters takes twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from core import packaged_models
from core.engine import job_rules
from core.finetuning.job_cost import STARTUP_S, training_s

TYPICAL_EXAMPLES = 1_000
REASONABLE_S = 4 * 3600
"""A training that is over on the same day; a longer one is suggested later."""
_TOKENS_PER_EXAMPLE = 200  # prompt and text of the English sample stories


class Sized(Protocol):
    """A model with a known number of parameters."""

    @property
    def parameters(self) -> int:
        """The parameter count of the language model."""


Base = TypeVar("Base", bound=Sized)


def typical_training_s(parameters: int, packaged_speed: float | None) -> float | None:
    """Seconds to train on `TYPICAL_EXAMPLES` with automatic settings; None if the speed is unknown.

    Args:
        parameters: the model's parameter count.
        packaged_speed: training speed of the packaged base here, in tokens per second.
    """
    speed = packaged_models.scaled_speed(packaged_speed, parameters)
    if speed is None:
        return None
    tokens = TYPICAL_EXAMPLES * _TOKENS_PER_EXAMPLE * job_rules.automatic(TYPICAL_EXAMPLES).n_epochs
    return training_s(tokens, speed, STARTUP_S)


def in_order(bases: Sequence[Base], packaged_speed: float | None) -> list[Base]:
    """Models that train within `REASONABLE_S` first, largest first because they write best; then the rest, fastest
    first.

    If the speed is unknown, the smallest come first.
    """

    def place(base: Base) -> tuple[bool, int]:
        seconds = typical_training_s(base.parameters, packaged_speed)
        slow = seconds is None or seconds > REASONABLE_S
        return slow, base.parameters if slow else -base.parameters

    return sorted(bases, key=place)
