"""What a prompted base model or a tuned model did on the rows, and how the base compares with the tuned one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from core.evaluation import scoring
from core.evaluation.scoring import Interval
from core.parity import verdict
from core.parity.verdict import ComparedPart
from core.pricing.workload import BreakEven, Candidate, Costs, break_even


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model did on the rows, from an evaluation.

    Attributes:
        shots: number of examples in the prompt; None for the tuned model.
        asked: rows that it was sent.
        scores: by row key, 0 to 1, for the rows that it answered.
        labels: by row key, the expected label and whether the answer was right; empty for other tasks.
        cut_off: empty answers that ended at the token limit.
        most_frequent: how often it gave its most frequent answer; 0 for tasks other than labels.
        prompt_tokens, completion_tokens: mean per call; None if not reported.
        usd_per_call: None if unknown. seconds: median per call.
    """

    model: str
    shots: int | None
    asked: int
    scores: Mapping[str, float]
    labels: Mapping[str, tuple[str, bool]]
    cut_off: int = 0
    most_frequent: int = 0
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    usd_per_call: Decimal | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """One line of the report: the base with a number of examples, or the tuned model (`shots` is None).

    Attributes:
        difference: its score minus the tuned model's on the rows that both answered; None for the tuned model.
        worse_parts: labels at which it is significantly worse than the tuned model.
        break_even: from how many calls on the tuned model has cost less, training included.
    """

    model: str
    shots: int | None
    asked: int
    answered: int
    score: Interval | None
    difference: Interval | None
    worse_parts: tuple[ComparedPart, ...]
    prompt_tokens: float | None
    completion_tokens: float | None
    usd_per_call: Decimal | None
    seconds: float | None
    break_even: BreakEven | None

    @property
    def usd_per_thousand(self) -> Decimal | None:
        """Cost of 1,000 calls; None if unknown."""
        return None if self.usd_per_call is None else 1_000 * self.usd_per_call


@dataclass(frozen=True, slots=True)
class TrainingCosts:
    """What the tuned model costs beside its calls.

    Attributes:
        usd: price of the training; None if unknown.
        hosting_usd_per_month: of a deployment that is paid by the hour.
        calls_per_month: how often the model is called.
    """

    usd: Decimal | None
    hosting_usd_per_month: Decimal = Decimal(0)
    calls_per_month: int = 10_000


def variant_of(one: Measured, tuned: Measured | None, training: TrainingCosts, comparisons: int) -> Variant:
    """A line of the report.

    Args:
        tuned: None for the tuned model itself, and if there is none.
        comparisons: how many variants are compared, with the tuned model or with each other: their intervals hold
            together with 95 % confidence.
    """
    difference: Interval | None = None
    worse_parts: tuple[ComparedPart, ...] = ()
    crossing: BreakEven | None = None
    if tuned is not None:
        shared = [key for key in one.scores if key in tuned.scores]
        difference = scoring.difference(
            [one.scores[key] for key in shared], [tuned.scores[key] for key in shared], comparisons=comparisons
        )
        rows = [{one.labels[key][0]: (tuned.labels[key][1], one.labels[key][1])} for key in shared if key in one.labels]
        worse_parts = verdict.significantly_worse(verdict.parts_of(rows))
        crossing = _break_even(one, tuned, training)
    return Variant(
        model=one.model,
        shots=one.shots,
        asked=one.asked,
        answered=len(one.scores),
        score=scoring.mean_score(list(one.scores.values()), comparisons if tuned is None else 1),
        difference=difference,
        worse_parts=worse_parts,
        prompt_tokens=one.prompt_tokens,
        completion_tokens=one.completion_tokens,
        usd_per_call=one.usd_per_call,
        seconds=one.seconds,
        break_even=crossing,
    )


def _break_even(one: Measured, tuned: Measured, training: TrainingCosts) -> BreakEven:
    """From how many calls on the tuned model has cost less, training included."""
    calls = Decimal(training.calls_per_month)
    trained = Costs(
        Candidate(tuned.model, "tuned"), tuned.usd_per_call, training.usd, training.hosting_usd_per_month, calls
    )
    return break_even(trained, Costs(Candidate(one.model, "base"), one.usd_per_call, Decimal(0), Decimal(0), calls))
