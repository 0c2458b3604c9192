"""Evaluations of the model that a job's model replaces, and the parity card of two evaluations.

The answers of evaluations are stored, so a card needs neither model: it can also be made after the old one is gone.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import EvaluationAnswer
from core.evaluation import evaluations, scoring
from core.finetuning.job_views import JobView
from core.ownership import reads
from core.parity import report
from core.parity.report import ParityReport
from core.parity.row_scores import ComparedRow
from core.parity.verdict import DEFAULT_MARGIN


@requires("editor")
@reads(job="job.id", dataset="job.dataset_id", model="model")
def start(store: Store, actor: Actor, job: JobView, provider: str, model: str, limit: int) -> str:
    """Evaluate the model that a job's model replaces, on the rows of the job's evaluation. Returns the evaluation's id.

    A model of another provider gets the prompts as chat messages, without the separators of the job's training file.

    Raises:
        FabulaError: see `evaluations.start`.
    """
    form = replace(evaluations.form_for(job, limit=limit), provider=provider, model=model, job_id=None)
    if provider != job.provider:
        form = replace(form, file_format="chat", separator=None, stop=None)
    return evaluations.start(store, actor, form)


def compare_evaluations(
    store: Store, old_id: str, new_id: str, *, distilled: bool = False, margin: float = DEFAULT_MARGIN
) -> ParityReport:
    """Compare two evaluations on the rows that both have answered.

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
    stop = new.settings.get("stop") or old.settings.get("stop")  # no answer has it, but an expected text may
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
            ComparedRow(
                row_key,
                prompt,
                None if distilled else scoring.remove_stop(expected, stop),
                answered[row_key],
                text,
            )
            for row_key, prompt, expected, text in session.execute(
                query.where(EvaluationAnswer.evaluation_id == new_id)
            )
            if row_key in answered
        ]
    return report.compare(rows, old.model, new.model, margin=margin)
