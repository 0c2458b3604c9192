"""Prompts that a person removes from a job's comparison of its base and its tuned model, and their way back."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select, update

from core.actor import Actor
from core.db.store import Store, advisory_lock
from core.db.tables import ComparisonAnswer, Story, utcnow
from core.errors import FabulaError, NotFound
from core.message import msg
from core.training import before_after
from core.training.before_after import AnswerPair, Side, SideAnswer


@dataclass(frozen=True, slots=True)
class RemovedPair:
    """A pair that was removed from a comparison, with the comparison's state before, so that it can be restored."""

    job_id: str
    pair: AnswerPair
    state: str
    reason: str | None


def remove(store: Store, actor: Actor, job_id: str, position: int) -> RemovedPair:
    """Remove a prompt and both answers from a job's comparison; `restore` brings them back.

    What they cost stays in the spend ledger. A comparison that has failed or was stopped is done when all other answers
    are complete.

    Raises:
        NotFound: there is no such prompt.
        FabulaError: a model is still to answer it.
    """
    view = before_after.get(store, job_id)
    pair = next((pair for pair in view.pairs if pair.position == position), None) if view is not None else None
    if view is None or pair is None:
        raise NotFound(msg("This prompt no longer exists."), msg("Reload the page."))
    with store.session() as session:
        advisory_lock(session, "comparisons")
        one = before_after.of_job(session, job_id)
        before = RemovedPair(job_id, pair, one.state, one.reason)
        answers = list(session.scalars(select(ComparisonAnswer).where(ComparisonAnswer.comparison_id == one.id)))
        for answer in (answer for answer in answers if answer.position == position):
            if answer.state in before_after.OPEN:
                raise FabulaError(msg("This prompt is still being answered."), msg("Stop first, then remove it."))
            session.execute(update(Story).where(Story.id == answer.story_id).values(deleted_at=utcnow()))
            session.delete(answer)
        if one.state in ("failed", "stopped") and all(
            answer.state == "done" for answer in answers if answer.position != position
        ):
            one.state, one.reason = "done", None
        return before


def restore(store: Store, actor: Actor, removed: RemovedPair) -> None:
    """Bring back a pair that was removed; behind the others where its position was taken since."""
    pair = removed.pair
    with store.session() as session:
        advisory_lock(session, "comparisons")
        one = before_after.of_job(session, removed.job_id)
        mine = (ComparisonAnswer.comparison_id == one.id, ComparisonAnswer.position == pair.position)
        taken = session.scalar(select(func.count()).where(*mine))
        position = before_after.next_position(session, one.id) if taken else pair.position
        sides: dict[Side, SideAnswer] = {"base": pair.base, "tuned": pair.tuned}
        before_after.add_pair(session, one.id, position, pair.prompt, pair.expected, sides)
        ids = [side.story_id for side in sides.values()]
        session.execute(update(Story).where(Story.id.in_(ids)).values(deleted_at=None))
        if one.state not in before_after.ACTIVE:
            one.state, one.reason = removed.state, removed.reason
