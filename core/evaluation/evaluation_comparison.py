"""Compares two evaluations row by row: does fine-tuning help?"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import EvaluationAnswer
from core.errors import FabulaError
from core.evaluation import scoring
from core.evaluation.evaluations import EvaluationView, get
from core.evaluation.scoring import Interval
from core.message import msg, percent


@dataclass(frozen=True, slots=True)
class EvaluationComparison:
    """Two models on the same `n` rows. `p_value`: for labels (McNemar); None for texts, which use the interval."""

    n: int
    tuned: Interval
    base: Interval
    difference: Interval
    p_value: float | None
    sentence: str


def compare_evaluations(store: Store, tuned_id: str, base_id: str) -> EvaluationComparison:
    """Compare two evaluations on the rows that both have answered.

    Raises:
        NotFound: one of them does not exist.
        FabulaError: they have no rows in common or are of different kinds.
    """
    tuned_evaluation, base_evaluation = get(store, tuned_id), get(store, base_id)
    if tuned_evaluation.kind != base_evaluation.kind:
        raise FabulaError(
            msg("The two evaluations are of different kinds."), msg("Evaluate both models on the same rows.")
        )
    tuned_scores, base_scores = _scores(store, tuned_evaluation), _scores(store, base_evaluation)
    shared = [key for key in tuned_scores if key in base_scores]
    if not shared:
        raise FabulaError(
            msg("The two evaluations have no rows in common."), msg("Evaluate both models on the same rows.")
        )
    tuned_values, base_values = [tuned_scores[key] for key in shared], [base_scores[key] for key in shared]
    difference = scoring.difference(tuned_values, base_values)
    interval = _share if tuned_evaluation.kind == "label" else scoring.mean
    tuned, base = interval(tuned_values), interval(base_values)
    assert difference is not None and tuned is not None and base is not None
    p_value = None
    if tuned_evaluation.kind == "label":
        discordant = [
            sum(1 for a, b in zip(tuned_values, base_values, strict=True) if (a, b) == pair)
            for pair in ((1, 0), (0, 1))
        ]
        p_value = scoring.mcnemar(*discordant)
    return EvaluationComparison(
        len(shared),
        tuned,
        base,
        difference,
        p_value,
        _sentence(tuned_evaluation.kind, len(shared), tuned, base, difference),
    )


def _scores(store: Store, evaluation: EvaluationView) -> dict[str, float]:
    """Score of each answered row: 1 or 0 for labels, chrF (0 to 1) for texts."""
    query = select(
        EvaluationAnswer.row_key, EvaluationAnswer.correct, EvaluationAnswer.text, EvaluationAnswer.expected
    ).where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None))
    with store.reading() as session:
        rows = session.execute(query).all()
    if evaluation.kind == "label":
        return {key: float(bool(right)) for key, right, _, _ in rows}
    return {key: scoring.chrf(text or "", expected) for key, _, text, expected in rows}


def _share(scores: list[float]) -> Interval | None:
    return scoring.wilson(int(sum(scores)), len(scores))


def _sentence(kind: str, n: int, tuned: Interval, base: Interval, difference: Interval) -> str:
    """The comparison in words; "no clear difference" if the interval contains 0."""
    if kind == "label":
        if difference.low > 0:
            return msg(
                "Fine-tuning helped: {tuned} correct instead of {base}, on {n} held-out rows.",
                tuned=percent(tuned.value, 0),
                base=percent(base.value, 0),
                n=f"{n:,}",
            )
        if difference.high < 0:
            return msg(
                "Fine-tuning made it worse: {tuned} correct instead of {base}, on {n} held-out rows.",
                tuned=percent(tuned.value, 0),
                base=percent(base.value, 0),
                n=f"{n:,}",
            )
        return msg(
            "No clear difference: {tuned} correct, base model {base}, on {n} rows. Use more rows to find out.",
            tuned=percent(tuned.value, 0),
            base=percent(base.value, 0),
            n=f"{n:,}",
        )
    if difference.low > 0:
        return msg(
            "Fine-tuning helped: the texts are closer to the expected ones ({tuned} instead of {base}).",
            tuned=f"{tuned.value:.2f}",
            base=f"{base.value:.2f}",
        )
    if difference.high < 0:
        return msg(
            "Fine-tuning made it worse: the texts are further from the expected ones ({tuned} instead of {base}).",
            tuned=f"{tuned.value:.2f}",
            base=f"{base.value:.2f}",
        )
    return msg(
        "No clear difference: {tuned}, base model {base}, on {n} rows. Use more rows to find out.",
        tuned=f"{tuned.value:.2f}",
        base=f"{base.value:.2f}",
        n=f"{n:,}",
    )
