"""Evaluations in the ledger: one model judged on rows that it has not learned from (`holdout`). The worker does it
(see `evaluation_run`); pages start it, watch it and compare two of them."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.dataset import datasets
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Evaluation, EvaluationAnswer, utcnow
from core.errors import BadTrainingFile, FabulaError, NotFound
from core.message import msg
from core.training.evaluation_types import ACTIVE, AnswerView, EvaluationForm, EvaluationView, Kind, Metrics
from core.training.holdout import PARTS, held_out
from core.training.job_views import JobView

__all__ = [
    "ACTIVE",
    "AnswerView",
    "EvaluationForm",
    "EvaluationView",
    "Kind",
    "Metrics",
    "answers",
    "form_for",
    "get",
    "list_evaluations",
    "of_job",
    "retry",
    "start",
    "start_pair",
    "stop",
]

_MOST_ROWS = 10_000


def form_for(job: JobView, *, model: str | None = None, base: bool = False, limit: int = 200) -> EvaluationForm:
    """An evaluation that asks as the job's training file did.

    Args:
        model: a checkpoint's; by default the model that the job made.
        base: ask its base model instead, for comparison.

    Raises:
        FabulaError: the job has no data set, or no model yet.
    """
    asked = job.base_model if base else model or job.fine_tuned_model
    if job.dataset_id is None or asked is None:
        raise FabulaError(msg("This job has no model to judge yet."), msg("Wait until it has finished."))
    return EvaluationForm(
        dataset_id=job.dataset_id,
        provider=job.provider,
        model=asked,
        job_id=None if base else job.id,
        version_id=job.version_id,
        limit=limit,
        separator=job.separator,
        stop=job.stop,
        file_format=job.file_format,
    )


def start(store: Store, actor: Actor, form: EvaluationForm) -> str:
    """Put an evaluation into the ledger; its id. The same one again, while the first goes on, is the first.

    Raises:
        NotFound: the data set is not there.
        BadTrainingFile: no row is kept from training.
        FabulaError: the limit is out of bounds.
    """
    if not 1 <= form.limit <= _MOST_ROWS:
        raise FabulaError(
            msg("The number of rows must be between 1 and {value}.", value=f"{_MOST_ROWS:,}"),
            msg("Choose another one."),
        )
    there = held_out(store, form.dataset_id, form.version_id)
    total = sum(getattr(there, part) for part in PARTS[form.part])
    if not total:
        raise BadTrainingFile(
            msg("No rows are kept from training, so the model cannot be evaluated."),
            msg("Train on a version of the data set that has validation rows."),
        )
    system = form.system
    if system is None:
        system = datasets.chat_system(store, form.dataset_id) if form.file_format == "chat" else ""
    settings = asdict(form) | {"system": system, "labels": list(there.labels)}
    with store.session() as session:
        advisory_lock(session, "evaluations")
        alike = select(Evaluation).where(
            Evaluation.state.in_(ACTIVE), Evaluation.provider == form.provider, Evaluation.model == form.model
        )
        for one in session.scalars(alike):
            if one.settings == settings:
                return one.id
        made = Evaluation(
            id=new_id(),
            job_id=form.job_id,
            dataset_id=form.dataset_id,
            version_id=form.version_id,
            provider=form.provider,
            model=form.model,
            kind=form.kind or there.kind,
            settings=settings,
            total=min(total, form.limit),
            created_by=actor.id,
        )
        session.add(made)
        return made.id


def start_pair(store: Store, actor: Actor, job: JobView, limit: int = 200) -> tuple[str, str]:
    """Judge the model that a job made and the one it started from, on the same rows: (tuned, base).

    Raises:
        FabulaError: see `form_for` and `start`.
    """
    tuned, base = form_for(job, limit=limit), form_for(job, base=True, limit=limit)
    return start(store, actor, tuned), start(store, actor, base)


def stop(store: Store, actor: Actor, evaluation_id: str) -> None:
    """Ask for an end within the requests that are under way; answers stay. NotFound: no such evaluation."""
    with store.session() as session:
        one = _one(session, evaluation_id)
        if one.state == "running":
            one.state = "stopping"
        elif one.state == "queued":
            one.state, one.finished_at = "stopped", utcnow()


def retry(store: Store, actor: Actor, evaluation_id: str) -> None:
    """Ask again for what is missing. Answers that are there are kept. NotFound: no such evaluation."""
    with store.session() as session:
        one = _one(session, evaluation_id)
        if one.state not in ACTIVE:
            session.execute(
                delete(EvaluationAnswer).where(
                    EvaluationAnswer.evaluation_id == one.id, EvaluationAnswer.text.is_(None)
                )
            )
            one.state, one.reason, one.finished_at, one.metrics = "queued", None, None, None


def get(store: Store, evaluation_id: str) -> EvaluationView:
    """One evaluation. Raises NotFound."""
    with store.reading() as session:
        one = _one(session, evaluation_id)
        return _view(one, _counts(session, [one.id]).get(one.id, (0, 0, 0)))


def list_evaluations(
    store: Store, job_id: str | None = None, dataset_id: str | None = None
) -> tuple[EvaluationView, ...]:
    """Evaluations, the newest first; of one job's model, or on one data set, if given."""
    query = select(Evaluation).order_by(Evaluation.created_at.desc(), Evaluation.id.desc())
    if job_id is not None:
        query = query.where(Evaluation.job_id == job_id)
    if dataset_id is not None:
        query = query.where(Evaluation.dataset_id == dataset_id)
    with store.reading() as session:
        found = session.scalars(query).all()
        counts = _counts(session, [one.id for one in found])
        return tuple(_view(one, counts.get(one.id, (0, 0, 0))) for one in found)


def of_job(store: Store, job: JobView) -> tuple[EvaluationView, ...]:
    """Evaluations of a job's models, and of its base on the same rows, the newest first."""
    found = list_evaluations(store, dataset_id=job.dataset_id) if job.dataset_id else ()
    mine = [
        one
        for one in found
        if one.job_id == job.id
        or (one.job_id is None and (one.provider, one.model) == (job.provider, job.base_model)
            and one.version_id == job.version_id)
    ]  # fmt: skip
    return tuple(mine)


def answers(
    store: Store, evaluation_id: str, *, wrong_only: bool = False, limit: int = 200, after: int = 0
) -> tuple[AnswerView, ...]:
    """Answers in the order in which they came; `after` is the id of the last one that was seen."""
    query = select(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == evaluation_id, EvaluationAnswer.id > after)
    if wrong_only:
        query = query.where(EvaluationAnswer.right.is_(False) | EvaluationAnswer.text.is_(None))
    with store.reading() as session:
        rows = session.scalars(query.order_by(EvaluationAnswer.id).limit(limit))
        return tuple(AnswerView(r.id, r.prompt, r.expected, r.text, r.right, r.reason) for r in rows)


def _one(session: Session, evaluation_id: str) -> Evaluation:
    one = session.get(Evaluation, evaluation_id)
    if one is None:
        raise NotFound(msg("This evaluation no longer exists."), msg("Choose another one."))
    return one


def _counts(session: Session, ids: list[str]) -> dict[str, tuple[int, int, int]]:
    """Answered, failed, right, for each evaluation."""
    answered, right = func.count(EvaluationAnswer.text), func.count().filter(EvaluationAnswer.right.is_(True))
    query = select(EvaluationAnswer.evaluation_id, func.count(), answered, right).where(
        EvaluationAnswer.evaluation_id.in_(ids)
    )
    rows = session.execute(query.group_by(EvaluationAnswer.evaluation_id))
    return {id_: (said, whole - said, good) for id_, whole, said, good in rows}


def _view(one: Evaluation, counts: tuple[int, int, int]) -> EvaluationView:
    answered, failed, right = counts
    return EvaluationView(
        id=one.id,
        job_id=one.job_id,
        dataset_id=one.dataset_id,
        version_id=one.version_id,
        provider=one.provider,
        model=one.model,
        kind=one.kind,
        settings=dict(one.settings),
        state=one.state,
        reason=one.reason,
        total=one.total,
        answered=answered,
        failed=failed,
        right=right,
        metrics=None if one.metrics is None else Metrics.from_dict(one.metrics),
        created_at=one.created_at,
        finished_at=one.finished_at,
        created_by=one.created_by,
    )
