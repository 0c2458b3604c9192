"""Removes prompts from a job's comparison of its base and tuned model, and restores them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, update

from core.actor import Actor
from core.db.store import Store, advisory_lock
from core.db.tables import BeforeAfterAnswer, Story, utcnow
from core.errors import FabulaError, NotFound
from core.evaluation import before_after
from core.evaluation.before_after import AnswerPair, Side, SideAnswer
from core.message import msg


@dataclass(frozen=True, slots=True)
class RemovedPair:
    """A removed pair with the previous state of its comparison, for `restore`."""

    job_id: str
    pair: AnswerPair
    state: str
    reason: str | None


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
        advisory_lock(session, "comparisons")
        comparison = before_after.get_row(session, job_id)
        removed = RemovedPair(job_id, pair, comparison.state, comparison.reason)
        answers = list(
            session.scalars(select(BeforeAfterAnswer).where(BeforeAfterAnswer.comparison_id == comparison.id))
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


def restore(store: Store, actor: Actor, removed: RemovedPair) -> None:
    """Restore a removed pair, at the end if its position is taken."""
    pair = removed.pair
    with store.session() as session:
        advisory_lock(session, "comparisons")
        comparison = before_after.get_row(session, removed.job_id)
        same_position = (BeforeAfterAnswer.comparison_id == comparison.id, BeforeAfterAnswer.position == pair.position)
        taken = session.scalar(select(func.count()).where(*same_position))
        position = before_after.next_position(session, comparison.id) if taken else pair.position
        sides: dict[Side, SideAnswer] = {"base": pair.base, "tuned": pair.tuned}
        before_after.add_pair(session, comparison.id, position, pair.prompt, pair.expected, sides)
        ids = [side.story_id for side in sides.values()]
        session.execute(update(Story).where(Story.id.in_(ids)).values(deleted_at=None))
        if comparison.state not in before_after.ACTIVE:
            comparison.state, comparison.reason = removed.state, removed.reason
