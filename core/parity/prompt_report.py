"""Tune or prompt, from stored evaluations: those of a trial (`core.evaluation.prompt_trials`) and of a tuned model.

The answers are stored, so no model is asked again; the tuned model may be one that no longer answers.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from statistics import median

from sqlalchemy import select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import EvaluationAnswer, TrainingJob
from core.evaluation import evaluations, scoring
from core.evaluation.evaluations import EvaluationForm, EvaluationView
from core.evaluation.prompt_trials import StartedTrial
from core.finetuning import job_views
from core.finetuning.job_views import JobView
from core.ownership import reads
from core.parity import row_scores, tune_or_prompt
from core.parity.from_evaluations import usage_of
from core.parity.prompt_variants import Measured, TrainingCosts
from core.parity.row_scores import Task
from core.parity.tune_or_prompt import TuneOrPrompt
from core.parity.verdict import DEFAULT_MARGIN
from core.pricing.price_book import PriceBook
from core.pricing.prices import USD
from core.pricing.workload import HOURS_PER_MONTH


@requires("editor")
@reads(dataset="trial.dataset_id", version="trial.version_id", model="model")
def start_tuned(store: Store, actor: Actor, trial: StartedTrial, provider: str, model: str) -> str:
    """Evaluate a tuned model on the rows of a trial, as it was trained. Returns the evaluation's id.

    A model that a job here has made is asked in the format of its training file, any other model with chat messages and
    the data set's system message. An evaluation that exists is used.

    Raises:
        FabulaError: see `evaluations.start`.
    """
    return evaluations.start(store, actor, form_of(store, trial, provider, model), once=True)


def form_of(store: Store, trial: StartedTrial, provider: str, model: str) -> EvaluationForm:
    """The evaluation of a tuned model on the rows of a trial."""
    job = job_of(store, provider, model)
    form = EvaluationForm(
        trial.dataset_id, provider, model, version_id=trial.version_id, limit=trial.limit, seed=trial.seed,
        file_format="chat",
    )  # fmt: skip
    if job is None:
        return form
    return EvaluationForm(
        trial.dataset_id, provider, model, job_id=job.id, version_id=trial.version_id, limit=trial.limit,
        seed=trial.seed, file_format=job.file_format, separator=job.separator, stop=job.stop,
    )  # fmt: skip


def job_of(store: Store, provider: str, model: str) -> JobView | None:
    """The job here, trained or archived, that made a model."""
    query = select(TrainingJob.id).where(TrainingJob.provider == provider, TrainingJob.fine_tuned_model == model)
    with store.reading() as session:
        job_id = session.scalar(query.order_by(TrainingJob.created_at.desc()).limit(1))
    return None if job_id is None else job_views.get(store, job_id, results=False)


def report(
    store: Store,
    book: PriceBook,
    trial: StartedTrial,
    tuned: EvaluationView | None = None,
    *,
    margin: float = DEFAULT_MARGIN,
    calls_per_month: int = 10_000,
) -> TuneOrPrompt:
    """The result of a trial, compared with a tuned model's evaluation on the same rows if there is one.

    Raises:
        ValueError: the margin is not between 0 and 1.
    """
    task = _task(store, trial.evaluations[0])
    return tune_or_prompt.compare(
        [_measured(store, one, task) for one in trial.evaluations],
        None if tuned is None else _measured(store, tuned, task),
        TrainingCosts(calls_per_month=calls_per_month, usd=None) if tuned is None
        else _training(store, book, tuned, calls_per_month),
        task=task,
        margin=margin,
        instruction=trial.instruction,
        examples=trial.examples,
    )  # fmt: skip


def _training(store: Store, book: PriceBook, tuned: EvaluationView, calls_per_month: int) -> TrainingCosts:
    job, price = job_of(store, tuned.provider, tuned.model), book.find(tuned.provider, tuned.model)
    per_hour = price.hosting_per_hour if price is not None and price.currency == USD else None
    return TrainingCosts(
        usd=None if job is None else job.cost_usd,
        hosting_usd_per_month=(per_hour or Decimal(0)) * HOURS_PER_MONTH,
        calls_per_month=calls_per_month,
    )


def _task(store: Store, evaluation: EvaluationView) -> Task:
    if evaluation.kind == "label":
        return "label"
    return row_scores.task_of([row.expected for row in evaluations.examples(store, evaluation)])


def _measured(store: Store, evaluation: EvaluationView, task: Task) -> Measured:
    query = select(EvaluationAnswer).where(
        EvaluationAnswer.evaluation_id == evaluation.id, EvaluationAnswer.text.is_not(None)
    )
    with store.reading() as session:
        answers = list(session.scalars(query.order_by(EvaluationAnswer.id)))
    stop = evaluation.settings.get("stop")
    scores, labels = {}, {}
    for one in answers:
        expected = scoring.remove_stop(one.expected, stop).strip()
        scores[one.row_key] = row_scores.score(task, one.text, expected)
        if task == "label":
            labels[one.row_key] = (scoring.normalize_label(expected), scores[one.row_key] == 1.0)
    given = Counter(scoring.normalize_label(one.text or "") for one in answers) if task == "label" else Counter()
    usage = usage_of(store, evaluation)
    seconds = [one.seconds for one in answers if one.seconds is not None]
    return Measured(
        model=evaluation.model,
        shots=evaluation.shots,
        asked=evaluation.total,
        scores=scores,
        labels=labels,
        cut_off=sum(not (one.text or "").strip() and one.finish_reason == "length" for one in answers),
        most_frequent=max(given.values(), default=0),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        usd_per_call=None if usage.usd_per_1000 is None else usage.usd_per_1000 / 1_000,
        seconds=median(seconds) if seconds else None,
    )
