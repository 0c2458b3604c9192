"""Retries of provider calls: how often, with which pauses, for which errors, and with which notes."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from core.errors import BadRequest, FabulaError, ModelNotFound, RateLimited, Refused, ServerError, Unavailable
from core.providers.retry import BACKGROUND, RetryPolicy, call_with_retries, interruptible_pause

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

    def note(self, error: FabulaError | None) -> None:
        self.notes.append(error.what if error else None)

    def go(self, policy: RetryPolicy = BACKGROUND) -> str:
        return call_with_retries(self, pause=self.pauses.append, note=self.note, policy=policy)


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
    assert calls.go(RetryPolicy(tries=5, base_s=1.0, cap_s=3.0, jitter=False)) == "answer"
    assert calls.pauses == [1, 2, 3, 3]


def test_a_pause_that_raises_ends_it() -> None:
    calls = Calls(_AWAY)

    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_with_retries(calls, pause=stop, note=calls.note)
    assert calls.made == 1


def test_a_policy_without_a_limit_goes_on() -> None:
    calls = Calls(*[_AWAY] * 100)
    assert calls.go(replace(BACKGROUND, tries=None)) == "answer"
    assert calls.pauses[-1] == BACKGROUND.cap_s


@pytest.mark.parametrize(
    ("tries", "retry_after_s", "wait_s"), [(1, None, 2), (4, None, 16), (5, None, 30), (2_000, None, 30), (1, 90.0, 90)]
)
def test_a_wait_without_jitter_is_its_bound_or_the_longer_one_that_the_server_asks_for(
    tries: int, retry_after_s: float | None, wait_s: float
) -> None:
    assert RetryPolicy(base_s=2.0, cap_s=30.0, jitter=False).wait_s(tries, retry_after_s) == wait_s


def test_an_interruptible_pause_ends_when_the_job_is_stopped() -> None:
    stopping, checks = threading.Event(), list[int]()
    stopping.set()  # each wait returns at once

    def check() -> None:
        checks.append(1)
        if len(checks) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interruptible_pause(stopping, check)(3_600.0)
    assert len(checks) == 3


def test_an_interruptible_pause_has_the_asked_length() -> None:
    waits = list[float]()

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    interruptible_pause(Clock(), lambda: None)(1.7)
    assert sum(waits) == pytest.approx(1.7) and max(waits) <= 0.5
