"""Training on a handful of examples: the settings for so few, a real data set and job from them, and how it goes.

`core.dataset.example_pairs` checks the pairs first. The job is one like any other, on all other pages too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import pandas as pd
from sqlalchemy import select

from core import packaged_models
from core.actor import Actor
from core.cost import tokens
from core.dataset import datasets
from core.dataset.example_pairs import ExamplePair, check
from core.db.store import Store, advisory_lock
from core.db.tables import Dataset, Row, TrainingJob
from core.errors import FabulaError
from core.message import msg
from core.providers import CompletionRequest, ModelInfo
from core.providers.registry import ENGINE
from core.training import jobs
from core.training.job_form import FileFormat, JobForm
from core.training.job_views import FINISHED, JobView

SOURCE: Literal["examples"] = "examples"
"""The source of a data set that was made here: tells these jobs from others."""
OWN = "my-examples"
"""The suffix of a model trained on a person's own examples; that of a sample is the sample's id."""
PROMPT, ANSWER = "prompt", "answer"
_LONGEST_ANSWER = 160  # tokens; labels, short texts and fields end long before, an untuned base never
_MARKUP_TOKENS = 10  # that the chat template adds to an example
_SEED = 7
_SEEN = 100  # examples that are learned from in all, at least
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 8
_FEW = 12  # examples; of fewer, every step learns from one: with batches of 4 there would be too few steps
_BATCH = 4


@dataclass(frozen=True, slots=True)
class ExampleHyperparameters:
    """Hyper-parameters for so few examples, and why, in a sentence."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float
    reason: str


@dataclass(frozen=True, slots=True)
class Phase:
    """Where a job of these is.

    Attributes:
        key: preparing, queued (another job trains), starting, loading (the base weights), training, saving, paused, or
            the job's own end.
        step, steps: of the training; 0 of 0 before it.
        share: how much is done, 0 to 1; left_s: seconds to the end, None: not known.
    """

    key: str
    step: int
    steps: int
    share: float
    left_s: float | None


def settings(n_examples: int) -> ExampleHyperparameters:
    """How to train on so few: each example is seen several times, but not so often that it is learned by heart."""
    epochs = min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, math.ceil(_SEEN / max(1, n_examples))))
    return ExampleHyperparameters(
        n_epochs=epochs,
        batch_size=1 if n_examples < _FEW else _BATCH,
        learning_rate_multiplier=1.0,
        reason=(
            msg(
                "Each example is read {epochs} times: about {value} readings are enough to learn a form or a set of "
                "labels. More would make the model repeat the examples.",
                epochs=epochs,
                value=_SEEN,
            )
        ),
    )


def n_tokens(pairs: Sequence[ExamplePair], model: str = packaged_models.BASE) -> int:
    """About how many tokens one pass over the pairs has."""
    texts = [text for pair in pairs for text in pair]
    return tokens.count(texts, model).tokens + _MARKUP_TOKENS * len(pairs) if texts else 0


def base_model(models: Sequence[ModelInfo]) -> ModelInfo | None:
    """The engine's untuned model to start from, the packaged one if it is there; None: the engine offers none."""
    untuned = [model for model in models if model.provider == ENGINE and model.base in (None, model.id)]
    return min(untuned, key=lambda model: model.id != packaged_models.BASE, default=None)


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
    """Make a data set of the pairs and submit a job that trains on it; the id of the job.

    The same pairs again, while their job goes on, are that job: a second click trains nothing twice.

    Raises:
        FabulaError: the pairs can't be trained on; the first reason.
        StorageFull: no room.
    """
    checked = check(pairs)
    blocking = next((finding for finding in checked.findings if finding.blocking), None)
    if blocking is not None:
        raise FabulaError(blocking.sentence, msg("Nothing was started. Change the examples and train again."))
    chosen = settings(len(checked.pairs))
    with store.session() as session:  # one transaction: no data set without its job
        advisory_lock(session, "examples")
        running = newest(store, actor)
        if running is not None and not running.finished and pairs_of(store, running.dataset_id) == checked.pairs:
            return running.id
        frame = pd.DataFrame(checked.pairs, columns=[PROMPT, ANSWER])
        dataset_id = datasets.from_frame(store, actor, name, frame, [PROMPT], ANSWER, SOURCE)
        form = JobForm(
            dataset_id=dataset_id,
            name=datasets.summary(store, dataset_id).name,
            provider=ENGINE,
            base_model=base,
            suffix=suffix,
            n_epochs=chosen.n_epochs,
            batch_size=chosen.batch_size,
            learning_rate_multiplier=chosen.learning_rate_multiplier,
            seed=_SEED,
            file_format=file_format,
            estimated_s=expected_s,
        )
        return jobs.submit(store, actor, form)


def newest(store: Store, actor: Actor) -> JobView | None:
    """The job that the actor last started from examples; None: there is none."""
    query = (
        select(TrainingJob.id)
        .join(Dataset, Dataset.id == TrainingJob.dataset_id)
        .where(Dataset.source == SOURCE, TrainingJob.created_by == actor.id)
        .order_by(TrainingJob.created_at.desc(), TrainingJob.id.desc())
        .limit(1)
    )
    with store.reading() as session:
        found = session.scalar(query)
    return None if found is None else jobs.get(store, found, results=False)


def pairs_of(store: Store, dataset_id: str | None) -> tuple[ExamplePair, ...]:
    """The pairs of a data set that was made here, in their order; of one that is gone, none."""
    query = select(Row.prompt, Row.text).where(Row.dataset_id == dataset_id, Row.state == "done")
    with store.reading() as session:
        return tuple(ExamplePair(prompt, text or "") for prompt, text in session.execute(query.order_by(Row.position)))


def phase(job: JobView, training: Mapping[str, Any] | None, now: datetime) -> Phase:
    """Where the job is, for a progress bar.

    Args:
        training: what the engine says of the job that trains now: `job`, `step`, `total_steps` (its health).
        now: UTC.
    """
    left = job.eta_s(now)
    if job.finished:
        return Phase(job.status, 0, 0, 1.0, None)
    if job.waiting or job.status == "paused":
        return Phase(_before_training(job, training), 0, 0, 0.0, left)
    mine = training is not None and training.get("job") == job.remote_id
    step, steps = (int(training.get(name) or 0) for name in ("step", "total_steps")) if training and mine else (0, 0)
    ended = job.estimated_finish is not None and job.estimated_finish <= now
    if not mine and ended:  # at the engine; its model is on the way here
        return Phase("saving", 0, 0, 1.0, left)
    if not steps or not step:
        return Phase("loading", step, steps, 0.0, left)
    return Phase("saving" if step >= steps else "training", step, steps, min(1.0, step / steps), left)


def _before_training(job: JobView, training: Mapping[str, Any] | None) -> str:
    """The phase of a job that is not being trained. One is queued only while another job is in front of it."""
    if job.status != "queued":
        return "paused" if job.status == "paused" else "preparing"
    other = training is not None and training.get("job") not in (None, job.remote_id)
    return "queued" if other or (job.queue_position or 1) > 1 else "starting"


def unfinished(job: JobView | None) -> bool:
    """Whether the job is still on its way."""
    return job is not None and job.status not in FINISHED


def requests(job: JobView, prompt: str) -> tuple[CompletionRequest, CompletionRequest]:
    """The base and the tuned model, asked the same; without randomness, so that the answers can be repeated.

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
        max_tokens=_LONGEST_ANSWER,
        stop=(job.stop,) if job.stop else (),
    )
    return replace(tuned, model=job.base_model), tuned
