"""Compares two evaluations row by row."""

from __future__ import annotations

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import EvaluationAnswer
from core.errors import FabulaError
from core.evaluation import scoring
from core.evaluation.evaluations import EvaluationView, get
from core.evaluation.scoring import EvaluationComparison
from core.message import msg


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
    return scoring.compare(tuned_evaluation.kind, _scores(store, tuned_evaluation), _scores(store, base_evaluation))


def _scores(store: Store, evaluation: EvaluationView) -> dict[str, float]:
    """Score of each answered row: 1 or 0 for labels, chrF (0 to 1) for texts."""
    query = select(
        EvaluationAnswer.row_key, EvaluationAnswer.correct, EvaluationAnswer.text, EvaluationAnswer.expected
    ).where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None))
    with store.reading() as session:
        rows = session.execute(query).all()
    if evaluation.kind == "label":
        return {key: float(bool(correct)) for key, correct, _, _ in rows}
    return {key: scoring.chrf(text or "", expected) for key, _, text, expected in rows}
