"""Before and after: what the base and the tuned model of a job write for prompts that training has not seen.

A job has one comparison at most. The engine's jobs get theirs when they have succeeded; at a provider that is paid, a
person asks for it. The worker does it (`core.before_after_runner`); pages start it, watch it, and ask one more prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor
from core.cost import tokens
from core.cost.price_book import PriceBook, cost_of
from core.cost.prices import ENGINE
from core.dataset.generation.response_classification import storable
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Comparison, ComparisonAnswer, Story, TrainingJob, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.training.job_views import JobView
from core.training.unseen_prompts import PromptChoice

Side = Literal["base", "tuned"]
SIDES: tuple[Side, ...] = ("base", "tuned")
ACTIVE = ("queued", "running", "stopping")
OPEN = ("waiting", "writing")  # of an answer that is still to come
MOST_PROMPTS = 20  # of one job, those that people add included
_LONGEST_PROMPT = 20_000  # characters
_NO_MODEL = msg("This job has no model to compare yet.")


@dataclass(frozen=True, slots=True)
class SideAnswer:
    """What one model wrote so far.

    Attributes:
        state: waiting, writing, done, stopped or failed; `reason` says why it failed.
        finish_reason: `stop`: complete; `length`: stopped at the token limit; None: not known.
    """

    state: str
    text: str = ""
    reason: str | None = None
    model: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None
    story_id: str | None = None


_WAITING = SideAnswer("waiting")


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """One prompt and both answers. `expected`: the text of the row that was kept from training, where it is one."""

    position: int
    prompt: str
    expected: str | None
    base: SideAnswer
    tuned: SideAnswer

    @property
    def finished(self) -> bool:
        """Whether both models have said what they will say."""
        return all(side.state not in OPEN for side in (self.base, self.tuned))


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """The comparison of one job.

    Attributes:
        state: queued, running, stopping, stopped, done or failed.
        source: see `unseen_prompts.PromptChoice`; None: the prompts are not chosen yet.
        reason: why it failed; while it is active, what it waits for.
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
        """Whether more will happen to it by itself."""
        return self.state in ACTIVE


def get(store: Store, job_id: str) -> ComparisonView | None:
    """The comparison of a job; None: nobody has asked for one."""
    with store.reading() as session:
        one = session.scalar(select(Comparison).where(Comparison.job_id == job_id))
        if one is None:
            return None
        models = select(TrainingJob.base_model, TrainingJob.fine_tuned_model).where(TrainingJob.id == job_id)
        asked: dict[str, str | None] = dict(zip(SIDES, session.execute(models).one(), strict=True))
        answers = select(ComparisonAnswer, Story).outerjoin(Story, Story.id == ComparisonAnswer.story_id)
        answers = answers.where(ComparisonAnswer.comparison_id == one.id).order_by(ComparisonAnswer.position)
        prompts: dict[int, ComparisonAnswer] = {}
        sides: dict[tuple[int, str], SideAnswer] = {}
        for answer, story in session.execute(answers):
            prompts[answer.position] = answer
            sides[answer.position, answer.side] = _side(answer, story, asked[answer.side])
        pairs = [
            AnswerPair(position, row.prompt, row.expected, sides[position, "base"], sides[position, "tuned"])
            for position, row in prompts.items()
        ]
        return ComparisonView(
            one.id, job_id, one.state, one.source, dict(one.settings or {}), one.reason, tuple(pairs), one.finished_at
        )


def any_active(store: Store) -> bool:
    """Whether the models of any job are being compared now."""
    with store.reading() as session:
        return session.scalar(select(Comparison.id).where(Comparison.state.in_(ACTIVE)).limit(1)) is not None


def start(store: Store, actor: Actor, job: JobView) -> str:
    """Have a job's models compared; its id. A job that has a comparison keeps it.

    Raises:
        FabulaError: the job has no model, or no data set.
    """
    if job.status != "succeeded" or job.fine_tuned_model is None:
        raise FabulaError(_NO_MODEL, msg("Wait until it has finished."))
    if job.dataset_id is None:
        raise FabulaError(msg("This job has no data set to take prompts from."), msg("Train on a data set instead."))
    with store.session() as session:
        advisory_lock(session, "comparisons")
        return _made(session, job.id, actor.id)


def begin_with(session: Session, job: TrainingJob) -> None:
    """Have the models of a job that has just succeeded compared, where asking costs nothing: at the engine."""
    if job.provider == ENGINE and job.status == "succeeded" and job.fine_tuned_model and job.dataset_id is not None:
        _made(session, job.id, job.created_by)


def ask(store: Store, actor: Actor, job: JobView, prompt: str) -> int:
    """Ask both models one more prompt; its place among the pairs, from 0.

    Raises:
        FabulaError: the prompt is empty or too long, or there are too many already; or as `start` says.
    """
    words = storable(prompt).strip()
    if not words or len(words) > _LONGEST_PROMPT:
        raise FabulaError(
            msg("A prompt needs 1 to {value} characters.", value=f"{_LONGEST_PROMPT:,}"),
            msg("Change it and try again."),
        )
    comparison_id = start(store, actor, job)
    with store.session() as session:
        advisory_lock(session, "comparisons")
        one = session.get_one(Comparison, comparison_id)
        if _count(session, comparison_id) >= MOST_PROMPTS:
            raise FabulaError(
                msg("A job can have {value} prompts.", value=MOST_PROMPTS), msg("Write more on the story page.")
            )
        position = next_position(session, comparison_id)
        add_pair(session, comparison_id, position, words, None)
        if one.state not in ACTIVE:
            one.state, one.reason, one.finished_at = "queued", None, None
        return position


def keep(store: Store, actor: Actor, job: JobView, prompt: str, answers: Mapping[Side, SideAnswer]) -> int | None:
    """Add a prompt that both models have answered already, on another page; its position.

    A job that has `MOST_PROMPTS` already gets no more: None.

    Args:
        store: the ledger.
        actor: who asked.
        job: whose models have answered.
        prompt: what they were asked.
        answers: `state`, `reason` and `story_id` of each side.

    Raises:
        FabulaError: as `start` says.
    """
    comparison_id = start(store, actor, job)
    with store.session() as session:
        advisory_lock(session, "comparisons")
        if _count(session, comparison_id) >= MOST_PROMPTS:
            return None
        position = next_position(session, comparison_id)
        add_pair(session, comparison_id, position, storable(prompt), None, answers)
        return position


def next_position(session: Session, comparison_id: str) -> int:
    """The position behind the last prompt of a comparison."""
    last = session.scalar(
        select(func.max(ComparisonAnswer.position)).where(ComparisonAnswer.comparison_id == comparison_id)
    )
    return 0 if last is None else last + 1


def add_pair(
    session: Session,
    comparison_id: str,
    position: int,
    prompt: str,
    expected: str | None,
    answers: Mapping[Side, SideAnswer] = MappingProxyType({}),
) -> None:
    """A prompt with the answers that there are; without one, a side waits for it."""
    for side in SIDES:
        said = answers.get(side, _WAITING)
        session.add(
            ComparisonAnswer(
                comparison_id=comparison_id, position=position, side=side, prompt=prompt, expected=expected,
                state=said.state, reason=said.reason, story_id=said.story_id,
            )
        )  # fmt: skip


def stop(store: Store, actor: Actor, job_id: str) -> None:
    """End it where it is; what is written stays. NotFound: the job has no comparison."""
    with store.session() as session:
        one = of_job(session, job_id)
        if one.state == "running":
            one.state = "stopping"
        elif one.state == "queued":
            end(session, one, "stopped")


def retry(store: Store, actor: Actor, job_id: str) -> None:
    """Write what failed or was stopped again; finished answers stay. NotFound: the job has no comparison."""
    with store.session() as session:
        one = of_job(session, job_id)
        if one.state in ACTIVE:
            return
        again = select(ComparisonAnswer).where(
            ComparisonAnswer.comparison_id == one.id, ComparisonAnswer.state != "done"
        )
        for answer in session.scalars(again):
            if answer.story_id is not None:
                session.execute(update(Story).where(Story.id == answer.story_id).values(deleted_at=utcnow()))
            answer.state, answer.reason, answer.story_id = "waiting", None, None
        one.state, one.reason, one.finished_at = "queued", None, None


def end(session: Session, one: Comparison, state: str, reason: str | None = None) -> None:
    """Write down how a comparison ended; answers that nobody writes any more are stopped."""
    one.state, one.reason, one.finished_at = state, reason, utcnow()
    open_ = ComparisonAnswer.state.in_(OPEN)
    session.execute(
        update(ComparisonAnswer).where(ComparisonAnswer.comparison_id == one.id, open_).values(state="stopped")
    )


def estimate_usd(book: PriceBook, job: JobView, choice: PromptChoice) -> Decimal | None:
    """What having both models of a job answer the chosen prompts costs at most; None: a price is not known."""
    total = Decimal(0)
    for model in (job.base_model, job.fine_tuned_model or ""):
        for one in choice.prompts:
            read = tokens.count([one.prompt], model).tokens
            cost = cost_of(book, job.provider, model, read, choice.max_tokens)
            if cost is None:
                return None
            total += cost
    return total


def to_dicts(view: ComparisonView | None) -> list[dict[str, Any]]:
    """The pairs as an export has them."""
    return [
        {
            "prompt": pair.prompt,
            "expected": pair.expected,
            **{
                side: {"model": said.model, "state": said.state, "text": said.text, "reason": said.reason}
                for side, said in (("base", pair.base), ("tuned", pair.tuned))
            },
        }
        for pair in (view.pairs if view is not None else ())
    ]


def _made(session: Session, job_id: str, actor_id: str) -> str:
    there = session.scalar(select(Comparison.id).where(Comparison.job_id == job_id))
    if there is None:
        there = new_id()
        session.add(Comparison(id=there, job_id=job_id, created_by=actor_id))
    return there


def _count(session: Session, comparison_id: str) -> int:
    """How many prompts a comparison has."""
    mine = ComparisonAnswer.comparison_id == comparison_id
    return session.scalar(select(func.count(ComparisonAnswer.position.distinct())).where(mine)) or 0


def of_job(session: Session, job_id: str) -> Comparison:
    """The row of a job's comparison. NotFound: it has none."""
    one = session.scalar(select(Comparison).where(Comparison.job_id == job_id))
    if one is None:
        raise NotFound(msg("This job has no comparison yet."), msg("Start one."))
    return one


def _side(answer: ComparisonAnswer, story: Story | None, asked: str | None) -> SideAnswer:
    if story is None:  # not begun, or without a word: such a story is not stored
        return SideAnswer(answer.state, reason=answer.reason, model=asked or "", story_id=answer.story_id)
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
