"""Tune or prompt: verdicts on cases whose truth is known, their costs, and what is said beside them."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest

from core.parity import tune_or_prompt
from core.parity.prompt_variants import Measured, TrainingCosts
from core.parity.tune_or_prompt import TuneOrPrompt

LABELS = ("billing", "refunds", "delivery", "account")


def measured(
    right: list[bool], shots: int | None = None, usd: str | None = None, *, asked: int = 0, **more: int
) -> Measured:
    rows = {str(n): (LABELS[n % 4], one) for n, one in enumerate(right)}
    return Measured(
        model="base" if shots is not None else "tuned",
        shots=shots,
        asked=asked or len(right),
        scores={key: float(one) for key, (_label, one) in rows.items()},
        labels=rows,
        usd_per_call=None if usd is None else Decimal(usd),
        **more,
    )


def share(right: float, rows: int = 200) -> list[bool]:
    """A share of right answers, spread over the labels."""
    return [(n * 61) % rows < right * rows for n in range(rows)]


def compare(
    base: list[Measured], tuned: Measured | None, training: str | None = "100", *, calls: int = 10_000,
    margin: float = 0.05,
) -> TuneOrPrompt:  # fmt: skip
    costs = TrainingCosts(None if training is None else Decimal(training), calls_per_month=calls)
    return tune_or_prompt.compare(base, tuned, costs, task="label", margin=margin)


@pytest.mark.parametrize(
    ("shares", "tuned", "outcome", "best", "sentence"),
    [
        ((0.5, 0.7, 0.82), 0.94, "tune", 8, "Tune: the tuned model is 7 to 19 points better than the base with 8"),
        ((0.5, 0.94, 0.94), 0.94, "prompt", 3, "Do not tune: with 3 examples, the base is as good within 3 points on"),
        ((0.95, 0.5, 0.5), 0.94, "prompt", 0, "Do not tune: without examples, the base is as good within"),
        ((0.5, 0.5, 0.92), 0.94, "undecided", 8, "Too few rows to say: with 8 examples, the base is between -6 and +1"),
        ((0.5, 0.7, 0.94), None, "baseline", 8, "With 8 examples, the base gets 94.0 % right on 200 rows"),
        (
            (0.5, 0.7, 0.75),
            None,
            "baseline",
            8,
            "With 8 examples, the base gets 75.0 % right on 200 rows (95 % interval",
        ),
        (
            (0.1, 0.2, 0.3),
            None,
            "baseline",
            8,
            "A prompt is not enough for this base. With 8 examples, the base",
        ),
        ((0.5, 0.995, 1.0), None, "prompt", 3, "Do not tune. With 3 examples, the base gets 99.5 % right"),
    ],
)
def test_the_verdict(shares: tuple[float, ...], tuned: float | None, outcome: str, best: int, sentence: str) -> None:
    base = [measured(share(one), shots) for one, shots in zip(shares, (0, 3, 8), strict=True)]
    found = compare(base, None if tuned is None else measured(share(tuned)))
    assert (found.outcome, found.best) == (outcome, best)
    assert found.sentence.startswith(sentence), found.sentence


@pytest.mark.parametrize(
    ("base_usd", "tuned_usd", "training", "calls", "outcome", "ending"),
    [
        ("0.001", "0.0002", "32.80", 3_000, "prompt", "The prompt costs less for the first 41,000 calls."),
        ("0.001", "0.0002", "32.80", 20_000, "tune_to_save", "pays for itself after 41,000 calls, in about 62 days."),
        ("0.001", "0.001", "32.80", 20_000, "prompt", "The prompt costs no more per call."),
        ("0.001", "0.002", "0", 20_000, "prompt", "The prompt costs no more per call."),
        ("0.001", "0.0002", "0", 20_000, "tune_to_save", "The tuned model costs less from the first call."),
        (None, "0.0002", "0", 20_000, "prompt", "because a price is unknown."),
        ("0.001", None, "0", 20_000, "prompt", "because a price is unknown."),
        ("0.001", "0.0002", None, 20_000, "prompt", "because a price is unknown."),
    ],
)
def test_the_break_even_counts_training_and_the_longer_prompt(
    base_usd: str | None, tuned_usd: str | None, training: str | None, calls: int, outcome: str, ending: str
) -> None:
    found = compare([measured(share(0.94), 8, base_usd)], measured(share(0.94), None, tuned_usd), training, calls=calls)
    assert found.outcome == outcome and found.sentence.endswith(ending), found.sentence


def test_hosting_by_the_hour_counts_at_the_volume_of_calls() -> None:
    costs = TrainingCosts(Decimal(10), hosting_usd_per_month=Decimal(1_224), calls_per_month=1_000)
    base, tuned = measured(share(0.94), 8, "0.001"), measured(share(0.94), None, "0.0002")
    assert tune_or_prompt.compare([base], tuned, costs, task="label").sentence.endswith(
        "The prompt costs no more per call."
    )


def test_a_base_that_loses_ten_points_is_never_called_as_good() -> None:
    """However many prompts are tried."""
    chance = random.Random(7)
    for _ in range(60):
        tuned = [chance.random() < 0.9 for _ in range(200)]
        base = [measured([chance.random() < 0.8 for _ in range(200)], shots) for shots in (0, 3, 8)]
        assert compare(base, measured(tuned)).outcome not in ("prompt", "tune_to_save")


@pytest.mark.parametrize(("variants", "outcome"), [((0,), "prompt"), ((0, 3, 8), "baseline")])
def test_more_prompts_need_more_rows_before_one_of_them_is_enough(variants: tuple[int, ...], outcome: str) -> None:
    """80 right answers are enough for one prompt at a margin of 5 points, but not for one of three."""
    found = compare([measured([True] * 80, shots) for shots in variants], None)
    assert found.outcome == outcome
    low = found.variants[0].score
    assert low is not None and (low.low >= 0.95) == (outcome == "prompt")


def test_a_label_at_which_the_base_is_worse_is_named() -> None:
    tuned = [True] * 400
    base = [not (n % 4 == 1 and n < 44) for n in range(400)]  # 11 of 100 refunds
    found = compare([measured(base, 8)], measured(tuned))
    assert found.outcome == "worse_part"
    assert "not at refunds: 11 of 100 wrong, and 0 with the tuned model" in found.sentence


@pytest.mark.parametrize(
    ("base", "tuned", "outcome", "said"),
    [
        ([measured(share(0.9)[:20], 0, asked=200)], measured(share(0.9)), "unanswered", "base has answered 20 of 200"),
        ([measured([False] * 50, 0, cut_off=50)], measured(share(0.9)), "unanswered", "used up the token limit"),
        ([measured(share(0.9), 0)], measured([], asked=200), "unanswered", "tuned has answered 0 of 200"),
        ([measured([], 0, asked=200)], None, "unanswered", "base has answered 0 of 200"),
        (
            [measured(share(0.9), 0), measured([], 3, asked=200)],
            measured(share(0.9)), "prompt", "Rows without an answer are left out",
        ),
        ([measured([False] * 50, 0, most_frequent=50)], measured([False] * 50), "undecided", "same answer to 50 of 50"),
        ([measured([False] * 50, 0)], measured([False] * 50), "undecided", "wrong more often than right"),
    ],
)  # fmt: skip
def test_answers_that_say_nothing_are_named(
    base: list[Measured], tuned: Measured | None, outcome: str, said: str
) -> None:
    found = compare(base, tuned)
    assert found.outcome == outcome
    assert said in " ".join([found.sentence, *found.notes]), (found.sentence, found.notes)


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_an_impossible_margin_is_refused(margin: float) -> None:
    with pytest.raises(ValueError):
        compare([measured(share(0.9), 0)], None, margin=margin)
