"""Evaluations: one model scored on rows that it was not trained on (`holdout`).

Pages start, show and compare them; the worker runs them (`evaluation_run`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import conversation_rows, datasets
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Evaluation, EvaluationAnswer, utcnow
from core.errors import BadTrainingFile, FabulaError, NotFound
from core.evaluation import holdout, judge_rows
from core.evaluation.few_shot import PromptExample
from core.evaluation.holdout import PARTS, HeldOutExample, Kind, Part
from core.evaluation.judge_rows import JUDGE
from core.evaluation.scoring import Metrics
from core.finetuning.job_views import JobView
from core.message import msg
from core.ownership import edits, reads

ACTIVE = ("queued", "running", "stopping")
_OTHER = ("answered", "failed", "correct", "metrics")  # fields of `EvaluationView` that are not columns


@dataclass(frozen=True, slots=True)
class EvaluationForm:
    """What to evaluate, and how.

    Attributes:
        dataset_id, version_id: source of the rows; if version_id is None, the rows that the data set itself holds out.
        provider, model: the model to evaluate; job_id: the job that made it, None for a base model.
        part: held-out rows, validation rows, or both.
        kind: `label` (a few short answers) or `text`; None means detected from the rows.
        limit: maximum number of rows; a random sample, the same for every model.
        max_tokens: maximum tokens per answer; None means chosen from the expected texts.
        separator, stop, file_format: the training file's values, so that prompts have the same form.
        system: system prompt; None means the one in the data set's chat files, and none for other formats.
        shots: number of examples in the prompt, if the model is prompted for the task (`few_shot`); None if it is asked
            as in training. `file_format` then names the endpoint of an engine's model.
        examples: these examples.
    """

    dataset_id: str
    provider: str
    model: str
    job_id: str | None = None
    version_id: str | None = None
    part: Part = "both"
    kind: Kind | None = None
    limit: int = 200
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    separator: str | None = None
    stop: str | None = None
    file_format: str = "completion"
    system: str | None = None
    shots: int | None = None
    examples: tuple[PromptExample, ...] = ()


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """One evaluation. `answered`, `failed` and `correct` count rows; `reason`: why it failed or waits."""

    id: str
    job_id: str | None
    dataset_id: str
    version_id: str | None
    provider: str
    model: str
    kind: str
    settings: Mapping[str, Any]
    state: str
    reason: str | None
    total: int
    answered: int
    failed: int
    correct: int
    metrics: Metrics | None
    created_at: datetime
    finished_at: datetime | None
    created_by: str

    @property
    def active(self) -> bool:
        """Whether the worker still has work to do for it."""
        return self.state in ACTIVE

    @property
    def shots(self) -> int | None:
        """Number of examples in the prompt; None if the model is asked as in training (see `EvaluationForm`)."""
        shots = self.settings.get("shots")
        return None if shots is None else int(shots)


@dataclass(frozen=True, slots=True)
class AnswerView:
    """A model's answer to one row. `correct`: None for texts, and if there is no answer (see `reason`)."""

    id: int
    prompt: str
    expected: str
    text: str | None
    correct: bool | None
    reason: str | None


_MAX_ROWS = 10_000


def form_for(job: JobView, *, model: str | None = None, base: bool = False, limit: int = 200) -> EvaluationForm:
    """The form for an evaluation with the prompt format of the job's training file.

    Args:
        model: name of a checkpoint; by default the job's model.
        base: evaluate the job's base model instead.

    Raises:
        FabulaError: the job has no data set, or no model yet.
    """
    model_to_evaluate = job.base_model if base else model or job.fine_tuned_model
    if job.dataset_id is None or model_to_evaluate is None:
        raise FabulaError(msg("This job has no model to evaluate yet."), msg("Wait until it has finished."))
    return EvaluationForm(
        dataset_id=job.dataset_id,
        provider=job.provider,
        model=model_to_evaluate,
        job_id=None if base else job.id,
        version_id=job.version_id,
        limit=limit,
        separator=job.separator,
        stop=job.stop,
        file_format=job.file_format,
    )


@requires("editor")
@reads(dataset="form.dataset_id", version="form.version_id", job="form.job_id", model="form.model")
def start(store: Store, actor: Actor, form: EvaluationForm, *, once: bool = False) -> str:
    """Start an evaluation and return its id. If an identical one is active, its id is returned instead.

    Args:
        once: an identical evaluation that has ended is used too, so that no answer is paid twice; if answers are
            missing, they are requested.

    Raises:
        NotFound: the data set does not exist.
        BadTrainingFile: no rows were kept from training.
        FabulaError: the limit is out of range.
    """
    if not 1 <= form.limit <= _MAX_ROWS:
        raise FabulaError(
            msg("The number of rows must be between 1 and {limit}.", limit=f"{_MAX_ROWS:,}"),
            msg("Choose another one."),
        )
    held_out_rows = holdout.held_out(store, form.dataset_id, form.version_id)
    total = sum(getattr(held_out_rows, part) for part in PARTS[form.part])
    if not total:
        raise BadTrainingFile(
            msg("All rows are used for training, so the model can't be evaluated."),
            msg("Train on a version of the data set that has validation rows."),
        )
    settings = _settings(store, form, held_out_rows.labels)
    with store.session() as session:
        advisory_lock(session, "evaluations")
        if (existing := _identical(session, form, settings, once=once)) is not None:
            if existing.state not in ACTIVE and existing.state != "done":
                queue_missing(session, existing)
            return existing.id
        evaluation = Evaluation(
            id=new_id(),
            job_id=form.job_id,
            dataset_id=form.dataset_id,
            version_id=form.version_id,
            provider=form.provider,
            model=form.model,
            kind=form.kind or held_out_rows.kind,
            settings=settings,
            total=min(total, form.limit),
            created_by=actor.id,
        )
        session.add(evaluation)
        return evaluation.id


@requires("editor")
@reads(job="job.id", dataset="job.dataset_id")
def start_pair(store: Store, actor: Actor, job: JobView, limit: int = 200) -> tuple[str, str]:
    """Evaluate a job's model and its base model on the same rows. Returns both ids: (tuned, base).

    Raises:
        FabulaError: see `form_for` and `start`.
    """
    tuned, base = form_for(job, limit=limit), form_for(job, base=True, limit=limit)
    return start(store, actor, tuned), start(store, actor, base)


@requires("editor")
@edits(evaluation="evaluation_id")
def stop(store: Store, actor: Actor, evaluation_id: str) -> None:
    """Stop an evaluation and its requests in flight; answers are kept. Raises NotFound if it does not exist."""
    with store.session() as session:
        evaluation = _get_row(session, evaluation_id)
        if evaluation.state == "running":
            evaluation.state = "stopping"
        elif evaluation.state == "queued":
            evaluation.state, evaluation.finished_at = "stopped", utcnow()


@requires("editor")
@edits(evaluation="evaluation_id")
def retry(store: Store, actor: Actor, evaluation_id: str) -> None:
    """Retry the missing answers; existing ones are kept. Raises NotFound if it does not exist."""
    with store.session() as session:
        evaluation = _get_row(session, evaluation_id)
        if evaluation.state not in ACTIVE:
            queue_missing(session, evaluation)


def queue_missing(session: Session, evaluation: Evaluation) -> None:
    """Queue an evaluation that has ended, for the rows without an answer."""
    session.execute(
        delete(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_(None))
    )
    evaluation.state, evaluation.reason, evaluation.finished_at, evaluation.metrics = "queued", None, None, None


def get(store: Store, evaluation_id: str) -> EvaluationView:
    """One evaluation. Raises NotFound."""
    with store.reading() as session:
        evaluation = _get_row(session, evaluation_id)
        return _view(evaluation, _counts(session, [evaluation.id]).get(evaluation.id, (0, 0, 0)))


def list_evaluations(
    store: Store,
    job_id: str | None = None,
    dataset_id: str | None = None,
    *,
    judges: bool = False,
    prompted: bool = False,
) -> tuple[EvaluationView, ...]:
    """Evaluations, newest first, optionally of one job's model or on one data set.

    Args:
        judges: those of kind `judge`.
        prompted: those of prompted models (`EvaluationForm.shots`) instead of the others.
    """
    query = select(Evaluation).order_by(Evaluation.created_at.desc(), Evaluation.id.desc())
    query = query.where((Evaluation.kind == JUDGE) if judges else (Evaluation.kind != JUDGE))
    if job_id is not None:
        query = query.where(Evaluation.job_id == job_id)
    if dataset_id is not None:
        query = query.where(Evaluation.dataset_id == dataset_id)
    with store.reading() as session:
        rows = [row for row in session.scalars(query) if (row.settings.get("shots") is not None) == prompted]
        counts = _counts(session, [row.id for row in rows])
        return tuple(_view(row, counts.get(row.id, (0, 0, 0))) for row in rows)


def list_for_job(store: Store, job: JobView) -> tuple[EvaluationView, ...]:
    """Evaluations of a job's models, and of its base model on the same rows, newest first."""
    return of_job(_on_dataset(store, job), job)


def list_on_same_rows(store: Store, job: JobView) -> tuple[EvaluationView, ...]:
    """Evaluations of any model on the rows of the job's evaluations, newest first."""
    return tuple(one for one in _on_dataset(store, job) if one.version_id == job.version_id)


def _on_dataset(store: Store, job: JobView) -> tuple[EvaluationView, ...]:
    return list_evaluations(store, dataset_id=job.dataset_id) if job.dataset_id else ()


def of_job(found: Iterable[EvaluationView], job: JobView) -> tuple[EvaluationView, ...]:
    """Those of a job's models, and of its base model on the same rows."""
    return tuple(
        one
        for one in found
        if one.job_id == job.id
        or (one.job_id is None and (one.provider, one.model) == (job.provider, job.base_model)
            and one.version_id == job.version_id)
    )  # fmt: skip


def examples(store: Store, evaluation: EvaluationView) -> Iterator[HeldOutExample]:
    """The rows of an evaluation, in order. They are the same every time unless the data set changes."""
    settings = evaluation.settings
    if evaluation.kind == JUDGE:
        return judge_rows.read(store, evaluation.id, settings)
    rows = holdout.holdout_rows(
        store,
        evaluation.dataset_id,
        evaluation.version_id,
        parts=PARTS[str(settings["part"])],
        limit=int(settings["limit"]),
        seed=int(settings.get("seed", 0)),
    )
    return map(_to_ask, rows) if settings.get("conversations") else rows


def _to_ask(row: HeldOutExample) -> HeldOutExample:
    prompt, expected = conversation_rows.to_ask(row.prompt, row.expected)
    return replace(row, prompt=prompt, expected=expected)


def answers(
    store: Store, evaluation_id: str, *, wrong_only: bool = False, limit: int = 200, after: int = 0
) -> tuple[AnswerView, ...]:
    """Answers in order of arrival. `after`: continue after this answer id."""
    query = select(EvaluationAnswer).where(EvaluationAnswer.evaluation_id == evaluation_id, EvaluationAnswer.id > after)
    if wrong_only:
        query = query.where(EvaluationAnswer.correct.is_(False) | EvaluationAnswer.text.is_(None))
    with store.reading() as session:
        rows = session.scalars(query.order_by(EvaluationAnswer.id).limit(limit))
        return tuple(AnswerView(r.id, r.prompt, r.expected, r.text, r.correct, r.reason) for r in rows)


def _system(store: Store, form: EvaluationForm) -> str:
    """The system prompt: the form's, or that of the chat file."""
    if form.system is not None:
        return form.system
    return datasets.system_message(store, form.dataset_id) if form.file_format == "chat" else ""


def _settings(store: Store, form: EvaluationForm, labels: Iterable[str]) -> dict[str, Any]:
    """What is stored of a form; a model that is asked as in training has no settings of a prompt."""
    settings = asdict(form) | {"system": _system(store, form), "labels": list(labels)}
    if conversation_rows.holds(datasets.summary(store, form.dataset_id).columns):
        settings |= {"conversations": True, "file_format": "chat", "separator": None, "stop": None}
    if form.shots is None:
        del settings["shots"], settings["examples"]
    else:
        settings["examples"] = list(settings["examples"])  # as JSON gives it back
    return settings


def _identical(session: Session, form: EvaluationForm, settings: Mapping[str, Any], *, once: bool) -> Evaluation | None:
    """The newest evaluation with the same settings that is active, or with `once` in any state."""
    query = select(Evaluation).where(Evaluation.provider == form.provider, Evaluation.model == form.model)
    if not once:
        query = query.where(Evaluation.state.in_(ACTIVE))
    newest_first = session.scalars(query.order_by(Evaluation.created_at.desc(), Evaluation.id))
    return next((one for one in newest_first if one.settings == settings), None)


def _get_row(session: Session, evaluation_id: str) -> Evaluation:
    evaluation = session.get(Evaluation, evaluation_id)
    if evaluation is None:
        raise NotFound(msg("This evaluation no longer exists."), msg("Choose another one."))
    return evaluation


def _counts(session: Session, ids: list[str]) -> dict[str, tuple[int, int, int]]:
    """The numbers of answered, failed and correct rows, by evaluation id."""
    answered, correct = func.count(EvaluationAnswer.text), func.count().filter(EvaluationAnswer.correct.is_(True))
    query = select(EvaluationAnswer.evaluation_id, func.count(), answered, correct).where(
        EvaluationAnswer.evaluation_id.in_(ids)
    )
    rows = session.execute(query.group_by(EvaluationAnswer.evaluation_id))
    return {id_: (answered, total - answered, correct) for id_, total, answered, correct in rows}


def _view(evaluation: Evaluation, counts: tuple[int, int, int]) -> EvaluationView:
    same = {name: getattr(evaluation, name) for name in EvaluationView.__dataclass_fields__ if name not in _OTHER}
    answered, failed, correct = counts
    metrics = None if evaluation.metrics is None else Metrics.from_dict(evaluation.metrics)
    return EvaluationView(**same, answered=answered, failed=failed, correct=correct, metrics=metrics)
