"""The parity card of two finished evaluations: their answers are stored, so it needs neither model."""

from __future__ import annotations

from sqlalchemy import select

from core.db.store import Store
from core.db.tables import EvaluationAnswer
from core.evaluation import evaluations
from core.parity import report
from core.parity.report import ParityReport
from core.parity.row_scores import ComparedRow
from core.parity.verdict import DEFAULT_MARGIN


def compare_evaluations(
    store: Store, old_id: str, new_id: str, *, distilled: bool = False, margin: float = DEFAULT_MARGIN
) -> ParityReport:
    """Compare two evaluations on the rows that both have tried to answer.

    Args:
        old_id: the evaluation of the model that is replaced.
        distilled: the old model wrote the expected texts, so its answers count as right.
        margin: the loss that the user accepts, 0 to 1.

    Raises:
        NotFound: one of them does not exist.
        FabulaError: they have no rows in common.
        ValueError: the margin is not between 0 and 1.
    """
    old, new = evaluations.get(store, old_id), evaluations.get(store, new_id)
    query = select(
        EvaluationAnswer.row_key, EvaluationAnswer.prompt, EvaluationAnswer.expected, EvaluationAnswer.text
    ).order_by(EvaluationAnswer.id)
    with store.reading() as session:
        answered = {
            row_key: text
            for row_key, _prompt, _expected, text in session.execute(
                query.where(EvaluationAnswer.evaluation_id == old_id)
            )
        }
        rows = [
            ComparedRow(row_key, prompt, None if distilled else expected, answered[row_key], text)
            for row_key, prompt, expected, text in session.execute(
                query.where(EvaluationAnswer.evaluation_id == new_id)
            )
            if row_key in answered
        ]
    return report.compare(rows, old.model, new.model, margin=margin)
