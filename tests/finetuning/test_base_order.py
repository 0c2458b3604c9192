"""Suggested base models: their training time here, and their order."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from core.finetuning.base_order import REASONABLE_S, in_order, typical_training_s
from core.packaged_models import PARAMETERS


@dataclass(frozen=True)
class _Base:
    parameters: int


_SIZES = [135, 270, 600, 1_000, 1_700, 4_000]  # millions of parameters


@pytest.mark.parametrize(
    ("packaged_speed", "expected"),
    [
        (None, [135, 270, 600, 1_000, 1_700, 4_000]),  # unknown: the smallest first
        (150.0, [600, 270, 135, 1_000, 1_700, 4_000]),  # two cores: the packaged base needs about an hour
        (15.0, [135, 270, 600, 1_000, 1_700, 4_000]),  # nothing trains in time: the fastest first
        (5_000.0, [4_000, 1_700, 1_000, 600, 270, 135]),
    ],
)
def test_what_trains_in_a_reasonable_time_comes_first_the_largest_at_the_top(
    packaged_speed: float | None, expected: list[int]
) -> None:
    bases = [_Base(millions * 10**6) for millions in _SIZES]
    assert [base.parameters // 10**6 for base in in_order(bases, packaged_speed)] == expected


def test_a_model_with_twice_the_parameters_takes_twice_as_long() -> None:
    small, large = (typical_training_s(factor * PARAMETERS, 150.0) or 0.0 for factor in (1, 2))
    assert small == pytest.approx(4_020, rel=0.01)  # 600,000 tokens, and the start
    assert large == pytest.approx(2 * small, rel=0.01)
    assert typical_training_s(PARAMETERS, None) is None
    assert small < REASONABLE_S
