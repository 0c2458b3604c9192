"""Retried provider calls: how often, with which pauses, for which errors, and with which notes."""

from __future__ import annotations

import pytest

from core.errors import BadRequest, FabulaError, ModelNotFound, RateLimited, Refused, ServerError, Unavailable
from core.retrying import RetryPolicy, call_with_retries

_AWAY = Unavailable("It is away.", "Wait.")


class Calls:
    """A call that fails with the listed errors, then succeeds; records pauses and notes."""

    def __init__(self, *failures: FabulaError) -> None:
        self.failures, self.made = list(failures), 0
        self.pauses, self.notes = list[float](), list[str | None]()

    def __call__(self) -> str:
        self.made += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    def go(self, policy: RetryPolicy | None = None) -> str:
        return call_with_retries(self, pause=self.pauses.append, note=self.notes.append, policy=policy or RetryPolicy())


@pytest.mark.parametrize(
    ("failures", "pauses", "notes"),
    [
        ([], [], []),
        ([_AWAY], [2], ["It is away.", None]),
        ([_AWAY] * 6, [2, 4, 8, 16, 30, 30], ["It is away."] * 6 + [None]),
        ([RateLimited("Slow down.", "", 50.0)], [50], ["Slow down.", None]),
        ([RateLimited("Slow down.", "", 120.0)], [120], ["Slow down.", None]),
        ([RateLimited("Slow down.", "", 0.5)], [2], ["Slow down.", None]),
        ([ServerError("It broke.", "Wait."), _AWAY], [2, 4], ["It broke.", "It is away.", None]),
    ],
)
def test_it_is_repeated_after_growing_pauses(
    failures: list[FabulaError], pauses: list[float], notes: list[str | None]
) -> None:
    calls = Calls(*failures)
    assert calls.go() == "answer"
    assert (calls.pauses, calls.notes) == (pauses, notes)


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("It cannot be used."),
        ModelNotFound("There is no such model."),
        Refused("The key is wrong."),
        RateLimited("Slow down.", "", 121.0),
        FabulaError("Another."),
    ],
)
def test_what_waiting_does_not_help_is_raised_at_once(error: FabulaError) -> None:
    calls = Calls(error)
    with pytest.raises(type(error)) as caught:
        calls.go()
    assert caught.value is error and calls.made == 1 and not calls.pauses and not calls.notes


def test_the_last_error_is_raised_when_the_tries_are_used_up() -> None:
    calls = Calls(*[_AWAY] * 12)
    with pytest.raises(Unavailable):
        calls.go()
    assert calls.made == 12 and len(calls.pauses) == 11 and 180 < sum(calls.pauses) < 300


def test_a_policy_sets_the_pauses() -> None:
    calls = Calls(*[_AWAY] * 4)
    assert calls.go(RetryPolicy(tries=5, first_pause_s=1.0, longest_pause_s=3.0)) == "answer"
    assert calls.pauses == [1, 2, 3, 3]


def test_a_pause_that_raises_ends_it() -> None:
    calls = Calls(_AWAY)

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_with_retries(calls, pause=stop, note=calls.notes.append)
    assert calls.made == 1
