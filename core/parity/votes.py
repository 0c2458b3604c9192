"""Blind votes of people on the stored answers of two evaluations.

Each person sees a row once, with both answers in random order and without the models' names. The order depends on the
person and the row, so that it is the same after a reload.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, select

from core.actor import Actor, requires
from core.db.store import Store, advisory_lock
from core.db.tables import ParityVote
from core.errors import FabulaError, NotFound
from core.evaluation import judge_rows
from core.evaluation.evaluations import EvaluationView
from core.evaluation.judge_rows import JudgedPair
from core.message import msg
from core.ownership import reads
from core.parity import preference
from core.parity.preference import Preferred, VoteResult

Place = Literal["left", "right", "tie"]

_MAX_ROWS = 200  # a random sample; more is tedious for people


@dataclass(frozen=True, slots=True)
class Ballot:
    """One row to vote on. `voted`: rows on which this person has voted, of `total`."""

    row_key: str
    prompt: str
    left: str
    right: str
    voted: int
    total: int


@requires("viewer")
@reads(dataset="new.dataset_id", model="old.model")
@reads(model="new.model")
def next_ballot(store: Store, actor: Actor, old: EvaluationView, new: EvaluationView) -> Ballot | None:
    """The next row for this person: one with the fewest votes; None after the last one. Equal answers are left out."""
    rows = _rows(store, old, new)
    with store.reading() as session:
        votes = session.execute(select(ParityVote.row_key, ParityVote.actor).where(*_pair(old, new))).all()
    mine = {key for key, person in votes if person == actor.id}
    counts = Counter(key for key, _person in votes)
    remaining = [row for row in rows if row.key not in mine]
    if not remaining:
        return None
    row = min(remaining, key=lambda one: counts[one.key])  # the first of them, in the sample's order
    left, right = (row.old, row.new) if _old_is_left(actor, row.key) else (row.new, row.old)
    return Ballot(row.key, row.prompt, left, right, len(rows) - len(remaining), len(rows))


@requires("viewer")
@reads(dataset="new.dataset_id", model="old.model")
@reads(model="new.model")
def cast(store: Store, actor: Actor, old: EvaluationView, new: EvaluationView, row_key: str, place: Place) -> None:
    """Save a vote. A second vote of the same person on a row changes nothing.

    Raises:
        NotFound: the row is not one of those to vote on.
    """
    if row_key not in {row.key for row in _rows(store, old, new)}:
        raise NotFound(msg("This row no longer exists. Nothing was saved."), msg("Vote on the next one."))
    choice: Preferred = "tie"
    if place != "tie":
        choice = "old" if (place == "left") == _old_is_left(actor, row_key) else "new"
    with store.session() as session:
        advisory_lock(session, f"parity votes {old.id} {new.id}")
        mine = (ParityVote.row_key == row_key, ParityVote.actor == actor.id)
        if session.scalar(select(ParityVote.id).where(*_pair(old, new), *mine)) is None:
            session.add(ParityVote(old_id=old.id, new_id=new.id, row_key=row_key, actor=actor.id, choice=choice))


def result(store: Store, old: EvaluationView, new: EvaluationView, margin: float) -> VoteResult | None:
    """What people prefer; None if there are no votes. `margin`: the accepted loss, 0 to 1.

    A row counts once: for the model with more of its votes, and as a tie if both have equally many.
    """
    with store.reading() as session:
        votes = session.execute(
            select(ParityVote.row_key, ParityVote.actor, ParityVote.choice).where(*_pair(old, new))
        ).all()
    if not votes:
        return None
    balance: Counter[str] = Counter()
    for row_key, _actor, choice in votes:
        balance[row_key] += {"new": 1, "old": -1, "tie": 0}[choice]
    choices: list[Preferred] = ["new" if n > 0 else "old" if n < 0 else "tie" for n in balance.values()]
    return VoteResult(len({actor for _, actor, _ in votes}), len(votes), preference.decide(choices, margin))


def check_pair(old: EvaluationView, new: EvaluationView) -> None:
    """Check that two evaluations can be compared.

    Raises:
        FabulaError: they are not on the same data set.
    """
    if old.dataset_id != new.dataset_id or old.id == new.id:
        raise FabulaError(msg("These two evaluations can't be compared."), msg("Ask for a new link."))


def _rows(store: Store, old: EvaluationView, new: EvaluationView) -> list[JudgedPair]:
    check_pair(old, new)
    return [row for row in judge_rows.pairs(store, old.id, new.id, _MAX_ROWS) if not row.identical]


def _pair(old: EvaluationView, new: EvaluationView) -> tuple[ColumnElement[bool], ...]:
    return ParityVote.old_id == old.id, ParityVote.new_id == new.id


def _old_is_left(actor: Actor, row_key: str) -> bool:
    return hashlib.sha256(f"{actor.id} {row_key}".encode()).digest()[0] % 2 == 0
