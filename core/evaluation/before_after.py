"""The before-and-after comparison: texts from a job's base and tuned models, for prompts that were not used in
training.

It shows the effect of one job and computes no score: `scoring.compare` compares the scores of two evaluations, and
`core.finetuning.job_comparison` compares the settings and curves of jobs. A job has at most one such comparison. It
starts automatically when an engine job succeeds; for paid providers, a person starts it. The worker runs it
(`before_after_runner`); pages start it, show it and add prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import conversation_rows
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import BeforeAfter, BeforeAfterAnswer, Story, TrainingJob, utcnow
from core.errors import FabulaError, NotFound
from core.finetuning.job_views import JobView
from core.message import msg
from core.ownership import edits
from core.pricing.prices import ENGINE

Side = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = ("base", "tuned")
ACTIVE = ("queued", "running", "stopping")
PENDING = ("waiting", "writing")  # states of answers that are not finished
_NO_MODEL = msg("This job has no model to compare yet.")


@dataclass(frozen=True, slots=True)
class SideAnswer:
    """One model's answer so far.

    Attributes:
        state: waiting, writing, done, stopped or failed; `reason`: why it failed.
        finish_reason: `stop` (complete), `length` (token limit reached), or None (not known).
    """

    state: str
    text: str = ""
    reason: str | None = None
    model: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None
    story_id: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """One prompt and both answers. `expected`: the text of the held-out row, if the prompt comes from one."""

    position: int
    prompt: str
    expected: str | None
    base: SideAnswer
    tuned: SideAnswer

    @property
    def finished(self) -> bool:
        """Whether both answers are finished."""
        return all(side.state not in PENDING for side in (self.base, self.tuned))


@dataclass(frozen=True, slots=True)
class BeforeAfterView:
    """The before-and-after comparison of one job.

    Attributes:
        state: queued, running, stopping, stopped, done or failed.
        source: see `holdout.PromptChoice`; None if the prompts have not been chosen yet.
        reason: why it failed, or what it waits for while active.
    """

    id: str
    job_id: str
    state: str
    source: str | None
    settings: dict[str, Any]
    reason: str | None
    pairs: tuple[AnswerPair, ...]
    finished_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether the worker still has work to do for it."""
        return self.state in ACTIVE


def get(store: Store, job_id: str) -> BeforeAfterView | None:
    """The before-and-after comparison of a job; None if not started."""
    with store.reading() as session:
        comparison = session.scalar(select(BeforeAfter).where(BeforeAfter.job_id == job_id))
        if comparison is None:
            return None
        model_names = select(TrainingJob.base_model, TrainingJob.fine_tuned_model).where(TrainingJob.id == job_id)
        models_by_side: dict[str, str | None] = dict(zip(SIDES, session.execute(model_names).one(), strict=True))
        answers = select(BeforeAfterAnswer, Story).outerjoin(Story, Story.id == BeforeAfterAnswer.story_id)
        answers = answers.where(BeforeAfterAnswer.before_after_id == comparison.id).order_by(BeforeAfterAnswer.position)
        prompts: dict[int, BeforeAfterAnswer] = {}
        sides: dict[tuple[int, str], SideAnswer] = {}
        for answer, story in session.execute(answers):
            prompts[answer.position] = answer
            sides[answer.position, answer.side] = _to_side_answer(answer, story, models_by_side[answer.side])
        pairs = [
            AnswerPair(
                position,
                conversation_rows.texts(row.prompt, "")[0],
                row.expected,
                sides[position, "base"],
                sides[position, "tuned"],
            )
            for position, row in prompts.items()
        ]
        return BeforeAfterView(
            comparison.id,
            job_id,
            comparison.state,
            comparison.source,
            dict(comparison.settings or {}),
            comparison.reason,
            tuple(pairs),
            comparison.finished_at,
        )


def any_active(store: Store) -> bool:
    """Whether any comparison is active."""
    with store.reading() as session:
        return session.scalar(select(BeforeAfter.id).where(BeforeAfter.state.in_(ACTIVE)).limit(1)) is not None


@requires("editor")
@edits(job="job.id")
def start(store: Store, actor: Actor, job: JobView) -> str:
    """Start the comparison of a job, or return the existing one. Returns its id.

    Raises:
        FabulaError: the job has no model, or no data set.
    """
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise FabulaError(_NO_MODEL, msg("Wait until it has finished."))
    if job.dataset_id is None:
        raise FabulaError(msg("This job has no data set to take prompts from."), msg("Train on a data set instead."))
    with store.session() as session:
        advisory_lock(session, "before_after")
        return _get_or_create(session, job.id, actor.id)


def start_after_training(session: Session, job: TrainingJob) -> None:
    """Start the before/after comparison for a job that has just succeeded, if inference costs nothing (engine only)."""
    if job.provider == ENGINE and job.status == "succeeded" and job.fine_tuned_model and job.dataset_id is not None:
        _get_or_create(session, job.id, job.created_by)


@requires("editor")
@edits(job="job_id")
def stop(store: Store, actor: Actor, job_id: str) -> None:
    """Stop the comparison; finished answers are kept. Raises NotFound if there is none."""
    with store.session() as session:
        comparison = get_row(session, job_id)
        if comparison.state == "running":
            comparison.state = "stopping"
        elif comparison.state == "queued":
            finish(session, comparison, "stopped")


@requires("editor")
@edits(job="job_id")
def retry(store: Store, actor: Actor, job_id: str) -> None:
    """Retry failed and stopped answers; finished ones are kept. Raises NotFound if there is none."""
    with store.session() as session:
        comparison = get_row(session, job_id)
        if comparison.state in ACTIVE:
            return
        unfinished = select(BeforeAfterAnswer).where(
            BeforeAfterAnswer.before_after_id == comparison.id, BeforeAfterAnswer.state != "done"
        )
        for answer in session.scalars(unfinished):
            if answer.story_id is not None:
                session.execute(update(Story).where(Story.id == answer.story_id).values(deleted_at=utcnow()))
            answer.state, answer.reason, answer.story_id = "waiting", None, None
        comparison.state, comparison.reason, comparison.finished_at = "queued", None, None


def finish(session: Session, comparison: BeforeAfter, state: str, reason: str | None = None) -> None:
    """Record how a comparison ended. Unfinished answers become `stopped`."""
    comparison.state, comparison.reason, comparison.finished_at = state, reason, utcnow()
    pending = BeforeAfterAnswer.state.in_(PENDING)
    session.execute(
        update(BeforeAfterAnswer)
        .where(BeforeAfterAnswer.before_after_id == comparison.id, pending)
        .values(state="stopped")
    )


def to_dicts(view: BeforeAfterView | None) -> list[dict[str, Any]]:
    """The pairs as JSON-compatible dictionaries for an export."""
    return [
        {
            "prompt": pair.prompt,
            "expected": pair.expected,
            **{
                side: {"model": answer.model, "state": answer.state, "text": answer.text, "reason": answer.reason}
                for side, answer in (("base", pair.base), ("tuned", pair.tuned))
            },
        }
        for pair in (view.pairs if view is not None else ())
    ]


def _get_or_create(session: Session, job_id: str, actor_id: str) -> str:
    before_after_id = session.scalar(select(BeforeAfter.id).where(BeforeAfter.job_id == job_id))
    if before_after_id is None:
        before_after_id = new_id()
        session.add(BeforeAfter(id=before_after_id, job_id=job_id, created_by=actor_id))
    return before_after_id


def get_row(session: Session, job_id: str) -> BeforeAfter:
    """The database row of a job's comparison. Raises NotFound if there is none."""
    comparison = session.scalar(select(BeforeAfter).where(BeforeAfter.job_id == job_id))
    if comparison is None:
        raise NotFound(msg("This job has no comparison yet."), msg("Start one."))
    return comparison


def _to_side_answer(answer: BeforeAfterAnswer, story: Story | None, model: str | None) -> SideAnswer:
    if story is None:  # not started, or empty: empty stories are not stored
        return SideAnswer(answer.state, reason=answer.reason, model=model or "", story_id=answer.story_id)
    return SideAnswer(
        answer.state,
        story.text,
        answer.reason,
        story.model,
        story.finish_reason,
        story.completion_tokens,
        story.cost_usd,
        story.id,
    )
