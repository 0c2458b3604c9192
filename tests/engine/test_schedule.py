"""Learning rates over a job, and the end of jobs that no longer get better. Pure."""

from __future__ import annotations

import math

import pytest

from core.engine.training.trainer.schedule import best, learning_rate, stops_early
from core.engine.training_options import Schedule

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ("constant", 0.0, [1.0, 1.0, 1.0, 1.0]),
        ("constant", 0.5, [0.5, 1.0, 1.0, 1.0]),
        ("linear", 0.5, [0.5, 1.0, 1.0, 0.5]),
        ("cosine", 0.5, [0.5, 1.0, 1.0, 0.5]),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule: Schedule, warmup: float, expected: list[float]) -> None:
    rates = [learning_rate(1.0, step, 4, warmup=warmup, schedule=schedule) for step in range(1, 5)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 3.1], 1, True),
        ([3.0, 3.1], 2, False),
        ([3.0, 3.1, 2.9], 2, False),
        ([3.0, 3.0, 3.0], 2, True),
        ([3.0, 3.1, 3.2], None, False),
        ([NAN, 3.0], 1, False),
        ([3.0, NAN], 1, True),
        ([NAN, NAN], 1, True),
        ([NAN], 1, False),
    ],
)
def test_a_job_ends_after_epochs_without_a_lower_loss(losses: list[float], patience: int | None, stops: bool) -> None:
    assert stops_early(losses, patience) is stops


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        ([2.0, 1.0, 1.0], 1),  # the first of equals
        ([NAN, 2.0, 1.0], 2),
        ([2.0, NAN, 3.0], 0),
        ([3.0, NAN, 2.0, NAN], 2),
        ([INF, 2.0, -INF], 1),
        ([NAN, NAN, NAN], 2),  # the last
        ([INF, NAN], 1),
    ],
)
def test_the_lowest_loss_is_the_best_and_never_one_that_is_no_number(losses: list[float], index: int) -> None:
    assert best(losses) == index
