"""Training on a few examples: suitable hyperparameters, a data set and job made from them, and progress.

`core.datasets.example_pairs` checks the pairs. The result is an ordinary data set and job, also on other pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import pandas as pd
from sqlalchemy import select

from core import packaged_models
from core.actor import Actor, requires
from core.datasets import datasets
from core.datasets.example_pairs import ExamplePair, check
from core.db.store import Store, advisory_lock
from core.db.tables import Dataset, Row, TrainingJob
from core.engine import job_rules
from core.errors import FabulaError
from core.finetuning import job_views, jobs
from core.finetuning.job_form import FileFormat, JobForm
from core.finetuning.job_views import FINISHED, JobView
from core.message import msg
from core.ownership import reads
from core.pricing import tokens
from core.providers import CompletionRequest, ModelInfo
from core.providers.registry import ENGINE

SOURCE: Literal["examples"] = "examples"
"""`Dataset.source` of data sets made here; identifies these jobs."""
OWN_SUFFIX = "my-examples"
"""Model suffix for a person's own examples. Samples use their id."""
PROMPT, ANSWER = "prompt", "answer"
_MAX_ANSWER_TOKENS = 160  # labels, short texts and fields are much shorter; an untuned base model may not stop
_MARKUP_TOKENS = 10  # added by the chat template per example
_SEED = 7
_EXAMPLES_SEEN = 100  # over all epochs; fewer than the engine's default, which is for longer texts
_SMALL_SET = 12  # below the engine's default: see docs/decisions.md, "A dozen examples"


@dataclass(frozen=True, slots=True)
class ExampleHyperparameters:
    """Hyperparameters for a small set of examples, and the reason as a sentence."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    reason: str


@dataclass(frozen=True, slots=True)
class Phase:
    """The progress of a job.

    Attributes:
        key: preparing, queued (another job is training), starting, loading (base weights), training, saving, paused,
            or the final status of the job.
        step, steps: current and total training steps; 0 before training.
        share: progress from 0 to 1; left_s: seconds until the end, or None if unknown.
    """

    key: str
    step: int
    steps: int
    share: float
    left_s: float | None


def suggest_hyperparameters(n_examples: int) -> ExampleHyperparameters:
    """Hyperparameters for few examples: each is seen several times, but not so often that it is memorised."""
    auto = job_rules.automatic(n_examples, examples_seen=_EXAMPLES_SEEN, small_set=_SMALL_SET)
    return ExampleHyperparameters(
        n_epochs=auto.n_epochs,
        batch_size=auto.batch_size,
        learning_rate_multiplier=1.0,
        reason=(
            msg(
                "Each example is used {epochs} times. About {total} uses in total are enough to learn a format or a "
                "set of labels; more would make the model repeat the examples.",
                epochs=auto.n_epochs,
                total=_EXAMPLES_SEEN,
            )
        ),
    )


def count_tokens(pairs: Sequence[ExamplePair], model: str = packaged_models.BASE) -> int:
    """The approximate number of tokens in one epoch over the pairs."""
    texts = [text for pair in pairs for text in pair]
    return tokens.count(texts, model).tokens + _MARKUP_TOKENS * len(pairs) if texts else 0


def base_model(models: Sequence[ModelInfo]) -> ModelInfo | None:
    """The engine's base model, preferably the packaged one; None if the engine has none."""
    untuned = [model for model in models if model.provider == ENGINE and model.base in (None, model.id)]
    return min(untuned, key=lambda model: model.id != packaged_models.BASE, default=None)


@requires("editor")
@reads(model="base")
def train(
    store: Store,
    actor: Actor,
    pairs: Sequence[ExamplePair],
    *,
    name: str,
    suffix: str,
    base: str,
    file_format: FileFormat = "chat",
    expected_s: float | None = None,
) -> str:
    """Create a data set from the pairs and submit a training job. Returns the job id.

    If an unfinished job with the same pairs exists, its id is returned, so a second click starts nothing.

    Raises:
        FabulaError: the pairs can't be trained on, with the first reason.
        StorageFull: the disk is full.
    """
    usable = _usable(pairs)
    hyperparameters = suggest_hyperparameters(len(usable))
    with store.session() as session:  # one transaction: no data set without its job
        advisory_lock(session, "examples")
        running = newest_job(store, actor)
        if running is not None and not running.finished and pairs_of(store, running.dataset_id) == usable:
            return running.id
        frame = pd.DataFrame(usable, columns=[PROMPT, ANSWER])
        dataset_id = datasets.from_frame(store, actor, name, frame, [PROMPT], ANSWER, SOURCE)
        form = JobForm(
            dataset_id=dataset_id, name=datasets.summary(store, dataset_id).name, provider=ENGINE, base_model=base,
            suffix=suffix, n_epochs=hyperparameters.n_epochs, batch_size=hyperparameters.batch_size,
            learning_rate_multiplier=hyperparameters.learning_rate_multiplier, seed=_SEED, file_format=file_format,
            estimated_s=expected_s,
        )  # fmt: skip
        return jobs.submit(store, actor, form)


def _usable(pairs: Sequence[ExamplePair]) -> tuple[ExamplePair, ...]:
    """The pairs to train on.

    Raises:
        FabulaError: they can't be trained on.
    """
    checked = check(pairs)
    blocking = next((finding for finding in checked.findings if finding.blocking), None)
    if blocking is not None:
        raise FabulaError(blocking.sentence, msg("Nothing was started. Change the examples and train again."))
    return checked.pairs


@requires("viewer")
def newest_job(store: Store, actor: Actor) -> JobView | None:
    """The actor's newest job from examples; None if there is none."""
    query = (
        select(TrainingJob.id)
        .join(Dataset, Dataset.id == TrainingJob.dataset_id)
        .where(Dataset.source == SOURCE, TrainingJob.created_by == actor.id)
        .order_by(TrainingJob.created_at.desc(), TrainingJob.id.desc())
        .limit(1)
    )
    with store.reading() as session:
        found = session.scalar(query)
    return None if found is None else job_views.get(store, found, results=False)


def pairs_of(store: Store, dataset_id: str | None) -> tuple[ExamplePair, ...]:
    """The pairs of a data set created by `train`, in order; empty if it no longer exists."""
    query = select(Row.prompt, Row.text).where(Row.dataset_id == dataset_id, Row.state == "done")
    with store.reading() as session:
        return tuple(ExamplePair(prompt, text or "") for prompt, text in session.execute(query.order_by(Row.position)))


def phase(job: JobView, training: Mapping[str, Any] | None, now: datetime) -> Phase:
    """The progress of the job, for a progress bar.

    Args:
        training: the engine's health report for the job that is training: `job`, `step`, `total_steps`.
        now: UTC.
    """
    left_s = job.eta_s(now)
    if job.finished:
        return Phase(job.status, 0, 0, 1.0, None)
    if job.waiting or job.status == "paused":
        return Phase(_before_training(job, training), 0, 0, 0.0, left_s)
    is_current = training is not None and training.get("job") == job.remote_id
    step, steps = (
        (int(training.get(name) or 0) for name in ("step", "total_steps")) if training and is_current else (0, 0)
    )
    overdue = job.estimated_finish is not None and job.estimated_finish <= now
    if not is_current and overdue:  # training has ended on the engine; the model is being fetched
        return Phase("saving", 0, 0, 1.0, left_s)
    if not steps or not step:
        return Phase("loading", step, steps, 0.0, left_s)
    return Phase("saving" if step >= steps else "training", step, steps, min(1.0, step / steps), left_s)


def _before_training(job: JobView, training: Mapping[str, Any] | None) -> str:
    """The phase before training. A job counts as queued only while another job is ahead of it."""
    if job.status != "queued":
        return "paused" if job.status == "paused" else "preparing"
    other = training is not None and training.get("job") not in (None, job.remote_id)
    return "queued" if other or (job.queue_position or 1) > 1 else "starting"


def unfinished(job: JobView | None) -> bool:
    """Whether there is a job and it is not finished."""
    return job is not None and job.status not in FINISHED


def comparison_requests(job: JobView, prompt: str) -> tuple[CompletionRequest, CompletionRequest]:
    """Identical requests to the base and the tuned model, at temperature 0 so that answers are repeatable.

    Raises:
        FabulaError: there is no model yet.
    """
    if job.fine_tuned_model is None:
        raise FabulaError(msg("The model is not ready yet."), msg("Wait until training has finished."))
    tuned = CompletionRequest(
        model=job.fine_tuned_model,
        prompt=prompt.strip() + (job.separator or ""),
        endpoint="chat" if job.file_format == "chat" else "completion",
        temperature=0.0,
        max_tokens=_MAX_ANSWER_TOKENS,
        stop=(job.stop,) if job.stop else (),
    )
    return replace(tuned, model=job.base_model), tuned


def call_snippet(job: JobView, base_url: str) -> str:
    """A few lines of Python that call a job's model at `base_url`, with the prompt format it was trained on."""
    model = json.dumps(job.fine_tuned_model, ensure_ascii=False)
    call = (
        f"answer = client.chat.completions.create(\n    model={model},\n    temperature=0,\n"
        '    messages=[{"role": "user", "content": prompt}],\n)\nprint(answer.choices[0].message.content)'
    )
    if job.file_format != "chat":
        ends = f"prompt + {job.separator or ''!r}"
        call = (
            f"answer = client.completions.create(\n    model={model},\n    temperature=0,\n"
            f"    prompt={ends},\n    stop={[job.stop or '']!r},\n)\nprint(answer.choices[0].text)"
        )
    return (
        "import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base_url}", api_key=os.environ["FABULA_ENGINE_TOKEN"])\n{call}'
    )
