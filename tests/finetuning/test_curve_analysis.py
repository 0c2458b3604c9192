"""Observations about curves, and one curve for a chain of jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import pytest

from core.finetuning.checkpoints import CheckpointView
from core.finetuning.curve_analysis import curve_frame, observations, with_axes
from core.finetuning.job_views import JobView
from core.finetuning.results import Figure, Results, parse
from tests.support.fakes import MOMENT

_FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "curie_results.csv"


def curve(
    loss: Callable[[int], float],
    *,
    steps: int = 200,
    accuracy: float = 0.8,
    valid: Mapping[int, float] = MappingProxyType({}),
) -> Results:
    lines = ["step,elapsed_tokens,elapsed_examples,training_loss,training_token_accuracy,validation_loss"]
    for n in range(1, steps + 1):
        jitter = 0.005 * math.sin(n * 12.9898)
        lines.append(f"{n},{n * 10},{n * 2},{loss(n) + jitter:.5f},{accuracy},{valid.get(n, '')}")
    return parse("\n".join(lines) + "\n")


def falling(n: int) -> float:
    return 0.5 + 2 * math.exp(-n / 60)


@pytest.mark.parametrize(
    ("results", "kinds", "expected", "step"),
    [
        (curve(falling), ["good"], "The model is learning", None),
        (curve(lambda n: falling(n) if n < 100 else falling(100) + (n - 100) * 0.02), ["divergence"], "lower", 100),
        (curve(lambda n: 3 / n if n < 150 else 0.027), ["good"], "The model is learning", None),
        (curve(falling, valid={50: 1.0, 100: 0.9, 150: 0.95, 200: 1.1}), ["overfitting"], "step 100", 100),
        (curve(falling, valid={50: 1.0, 100: 0.9, 200: 0.92}), ["gap", "good"], "on held-out rows", None),
        (curve(falling, valid={100: 0.7, 200: 0.6}), ["good"], "The model is learning", None),
        (curve(falling, accuracy=0.99), ["memorised", "good"], "may have memorised", 200),
        (curve(lambda n: 0.5 + 2 * math.exp(-n / 5)), ["plateau", "good"], "Fewer epochs", 101),
        (curve(falling, steps=5), ["short"], "Steps so far: 5.", 5),
        (parse(""), [], "", None),
    ],
)
def test_observations_of_a_curve(results: Results, kinds: list[str], expected: str, step: int | None) -> None:
    found = observations(results)
    assert [one.kind for one in found] == kinds
    if kinds:
        assert expected in found[0].sentence and found[0].step == step


@pytest.mark.parametrize(
    ("accuracies", "held_out", "examples", "says"),
    [
        (
            [0.4, 0.9, 1.0, 1.0, 1.0, 1.0],
            None,
            9,
            "100 % of the training tokens correctly after 6 steps on 9 examples",
        ),
        ([0.5] * 5 + [1.0] * 10, None, 27, "correctly after 15 steps on 27 examples"),
        ([1.0] * 40, None, None, "correctly after 40 steps: it has probably memorised"),
        ([1.0] * 40, None, 5_000, "correctly after 40 steps: it has probably memorised"),
        ([1.0] * 400, None, 120, "correctly after 400 steps on 120 examples"),
        ([1.0] * 400, None, 5_000, "predicts 100 % of the training tokens correctly: it may have memorised"),
        ([1.0] * 400, 0.61, 5_000, "but only 61.0 % of the held-out tokens"),
        ([1.0] * 6, 0.5, 27, "but only 50.0 % of the held-out tokens"),
        ([1.0] * 400, 0.99, 5_000, None),  # it generalises
        ([0.6] * 400, 0.3, 20, None),
        ([1.0, 1.0], None, 9, None),  # two batches can be a coincidence
        ([0.98] * 40, None, 27, None),  # below the threshold
        ([], None, 9, None),
    ],
)
def test_memorised_examples_are_reported(
    accuracies: list[float], held_out: float | None, examples: int | None, says: str | None
) -> None:
    lines = ["step,training_loss,training_token_accuracy,validation_token_accuracy"]
    for n, accuracy in enumerate(accuracies, start=1):
        last = held_out if held_out is not None and n == len(accuracies) else ""
        lines.append(f"{n},{2 / n:.4f},{accuracy},{last}")
    found = observations(parse("\n".join(lines) + "\n"), examples=examples)
    memorised = [one.sentence for one in found if one.kind == "memorised"]
    assert len(memorised) == (0 if says is None else 1)
    assert says is None or says in memorised[0]
    assert not (memorised and any(one.kind == "short" for one in found))


def test_accuracy_alone_is_enough_to_tell_that_examples_are_memorised() -> None:
    lines = "".join(f"{n},1.0\n" for n in range(1, 9))
    (found,) = observations(parse(f"step,train_mean_token_accuracy\n{lines}"))
    assert "probably memorised" in found.sentence


def test_the_better_checkpoint_is_named() -> None:
    results = curve(falling, valid={50: 1.0, 100: 0.9, 150: 0.95, 200: 1.1})
    checkpoints = [CheckpointView(f"c{n}", "j", n, f"m:{n}", {"valid_loss": 1.0}, None) for n in (50, 100, 150)]
    assert "Use the checkpoint of step 100." in observations(results, checkpoints)[0].sentence
    assert checkpoints[0].loss() == Figure(1.0, "held_out")


@pytest.mark.skipif(not _FIXTURE.exists(), reason="the whole results file of 2023 is not on this machine")
def test_the_articles_curve_learns_from_75_to_94_percent() -> None:
    found = observations(parse(_FIXTURE.read_text(encoding="utf-8")))
    good = next(one for one in found if one.kind == "good")
    assert "from 75.0 % to 94.3 % (smoothed)" in good.sentence


def job(id: str, **values: object) -> JobView:
    base = JobView(
        id, None, id, "engine", "gemma-3-270m", None, {"batch_size": 2}, None, "completion", None, None, "succeeded",
        None, None, None, None, None, None, 100, None, None, None, MOMENT, MOMENT, MOMENT + timedelta(seconds=90),
    )  # fmt: skip
    base = replace(base, trained_s=60.0)
    return replace(base, **values)  # type: ignore[arg-type]  # any of its fields


def test_axes_are_epochs_and_seconds_where_they_can_be_known() -> None:
    frame = with_axes(curve(falling), job("a"))
    assert frame["epoch"].iloc[-1] == 4 and frame["seconds"].iloc[-1] == 60
    without = with_axes(parse("step,train_loss\n1,2\n50,1\n"), job("a"))
    assert without["epoch"].iloc[-1] == 1 and without["seconds"].iloc[0] == pytest.approx(60 / 50)
    assert with_axes(curve(falling))["epoch"].isna().all()


def test_a_chain_is_one_continuous_curve() -> None:
    frame = curve_frame([(job("a"), curve(falling)), (job("b"), curve(falling, steps=50)), (job("c"), parse(""))])
    assert list(frame["total_step"]) == list(range(1, 251))
    assert frame["total_tokens"].iloc[-1] == 2_500 and frame["epoch"].iloc[-1] == 5
    assert frame["seconds"].is_monotonic_increasing and frame["seconds"].iloc[-1] == 120
    assert list(frame["job"].unique()) == ["a", "b"] and frame["part"].iloc[-1] == 1
    assert curve_frame([]).empty
