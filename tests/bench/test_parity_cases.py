"""The cases with a known truth: the verdicts on them are right, and a wrong verdict would be noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import _parity_cases
from core.parity import verdict
from core.parity.verdict import Verdict


def test_the_verdicts_on_cases_with_a_known_truth_are_right() -> None:
    found = _parity_cases.parity_verdicts_right(of_each=8)
    assert found["parity_cases"] == 40 and found["equal_when_worse"] == 0
    assert found["parity_verdicts_right"] >= 0.95


def test_a_verdict_that_is_always_equal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = verdict.decide

    def always_equal(*scores: object) -> Verdict:
        return replace(decide(*scores), outcome="as_good")  # type: ignore[arg-type]  # passed on unchanged

    monkeypatch.setattr(verdict, "decide", always_equal)
    found = _parity_cases.parity_verdicts_right(of_each=4)
    assert found["parity_verdicts_right"] == 0.2 and found["equal_when_worse"] >= 4
