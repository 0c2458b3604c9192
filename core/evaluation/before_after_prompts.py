"""The prompts of before and after of a job: added by a person or with their answers, removed and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db.store import Store, advisory_lock
from core.db.tables import BeforeAfter, BeforeAfterAnswer, Story, utcnow
from core.errors import FabulaError, NotFound
from core.evaluation import before_after
from core.evaluation.before_after import ACTIVE, SIDES, AnswerPair, Side, SideAnswer, start
from core.finetuning.job_views import JobView
from core.message import msg
from core.sanitize import storable

MAX_PROMPTS = 20  # per job, including prompts that people add
_MAX_PROMPT_CHARS = 20_000  # characters
_WAITING = SideAnswer("waiting")


@dataclass(frozen=True, slots=True)
class RemovedPair:
    """A removed pair with the previous state of its comparison, for `restore`."""

    job_id: str
    pair: AnswerPair
    state: str
    reason: str | None


@requires("editor")
def add_prompt(store: Store, actor: Actor, job: JobView, prompt: str) -> int:
    """Add a prompt for both models to answer. Returns its position, from 0.

    Raises:
        FabulaError: the prompt is empty or too long, there are too many prompts, or see `start`.
    """
    text = storable(prompt).strip()
    if not text or len(text) > _MAX_PROMPT_CHARS:
        raise FabulaError(
            msg("A prompt needs 1 to {limit} characters.", limit=f"{_MAX_PROMPT_CHARS:,}"),
            msg("Change it and try again."),
        )
    before_after_id = start(store, actor, job)
    with store.session() as session:
        advisory_lock(session, "before_after")
        comparison = session.get_one(BeforeAfter, before_after_id)
        if _count_prompts(session, before_after_id) >= MAX_PROMPTS:
            raise FabulaError(
                msg("A job can have up to {limit} prompts.", limit=MAX_PROMPTS), msg("Write more on the story page.")
            )
        position = next_position(session, before_after_id)
        add_pair(session, before_after_id, position, text, None)
        if comparison.state not in ACTIVE:
            comparison.state, comparison.reason, comparison.finished_at = "queued", None, None
        return position


@requires("editor")
def add_answered_prompt(
    store: Store, actor: Actor, job: JobView, prompt: str, answers: Mapping[Side, SideAnswer]
) -> int | None:
    """Add a prompt that both models have already answered on another page.

    Args:
        answers: `state`, `reason` and `story_id` of each side are used.

    Returns:
        Its position, or None if the job already has `MAX_PROMPTS` prompts.

    Raises:
        FabulaError: see `start`.
    """
    before_after_id = start(store, actor, job)
    with store.session() as session:
        advisory_lock(session, "before_after")
        if _count_prompts(session, before_after_id) >= MAX_PROMPTS:
            return None
        position = next_position(session, before_after_id)
        add_pair(session, before_after_id, position, storable(prompt), None, answers)
        return position


@requires("editor")
def remove(store: Store, actor: Actor, job_id: str, position: int) -> RemovedPair:
    """Remove a prompt and both answers from a job's comparison; `restore` undoes this.

    The cost stays in the spend ledger. A failed or stopped comparison becomes done if all other answers are complete.

    Raises:
        NotFound: the prompt does not exist.
        FabulaError: it is still being answered.
    """
    view = before_after.get(store, job_id)
    pair = next((pair for pair in view.pairs if pair.position == position), None) if view is not None else None
    if view is None or pair is None:
        raise NotFound(msg("This prompt no longer exists."), msg("Reload the page."))
    with store.session() as session:
        advisory_lock(session, "before_after")
        comparison = before_after.get_row(session, job_id)
        removed = RemovedPair(job_id, pair, comparison.state, comparison.reason)
        answers = list(
            session.scalars(select(BeforeAfterAnswer).where(BeforeAfterAnswer.before_after_id == comparison.id))
        )
        for answer in (answer for answer in answers if answer.position == position):
            if answer.state in before_after.PENDING:
                raise FabulaError(msg("This prompt is still being answered."), msg("Stop first, then remove it."))
            session.execute(update(Story).where(Story.id == answer.story_id).values(deleted_at=utcnow()))
            session.delete(answer)
        if comparison.state in ("failed", "stopped") and all(
            answer.state == "done" for answer in answers if answer.position != position
        ):
            comparison.state, comparison.reason = "done", None
        return removed


@requires("editor")
def restore(store: Store, actor: Actor, removed: RemovedPair) -> None:
    """Restore a removed pair, at the end if its position is taken."""
    pair = removed.pair
    with store.session() as session:
        advisory_lock(session, "before_after")
        comparison = before_after.get_row(session, removed.job_id)
        same_position = (
            BeforeAfterAnswer.before_after_id == comparison.id,
            BeforeAfterAnswer.position == pair.position,
        )
        taken = session.scalar(select(func.count()).where(*same_position))
        position = next_position(session, comparison.id) if taken else pair.position
        sides: dict[Side, SideAnswer] = {"base": pair.base, "tuned": pair.tuned}
        add_pair(session, comparison.id, position, pair.prompt, pair.expected, sides)
        ids = [side.story_id for side in sides.values()]
        session.execute(update(Story).where(Story.id.in_(ids)).values(deleted_at=None))
        if comparison.state not in before_after.ACTIVE:
            comparison.state, comparison.reason = removed.state, removed.reason


def next_position(session: Session, before_after_id: str) -> int:
    """The position after the last prompt of a comparison."""
    last = session.scalar(
        select(func.max(BeforeAfterAnswer.position)).where(BeforeAfterAnswer.before_after_id == before_after_id)
    )
    return 0 if last is None else last + 1


def add_pair(
    session: Session,
    before_after_id: str,
    position: int,
    prompt: str,
    expected: str | None,
    answers: Mapping[Side, SideAnswer] = MappingProxyType({}),
) -> None:
    """Add a prompt with its existing answers; a side without an answer waits for one."""
    for side in SIDES:
        answer = answers.get(side, _WAITING)
        session.add(
            BeforeAfterAnswer(
                before_after_id=before_after_id, position=position, side=side, prompt=prompt, expected=expected,
                state=answer.state, reason=answer.reason, story_id=answer.story_id,
            )
        )  # fmt: skip


def _count_prompts(session: Session, before_after_id: str) -> int:
    """The number of prompts of a comparison."""
    mine = BeforeAfterAnswer.before_after_id == before_after_id
    return session.scalar(select(func.count(BeforeAfterAnswer.position.distinct())).where(mine)) or 0
