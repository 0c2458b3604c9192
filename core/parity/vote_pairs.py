"""Pairs of answers from the blind votes on a parity card, for preference training (DPO)."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import ParityVote
from core.evaluation import judge_rows
from core.evaluation.evaluations import EvaluationView
from core.ownership import reads
from core.stories.vote_pairs import PreferencePair, VotePairs

_MAX_ROWS = 10_000


@requires("viewer")
@reads(dataset="new.dataset_id", model="old.model")
@reads(model="new.model")
def from_parity_votes(store: Store, actor: Actor, old: EvaluationView, new: EvaluationView) -> VotePairs:
    """The answer that most people preferred on each row, with the other one.

    A row with as many votes for either answer, or only ties, is undecided; one with an empty answer gives no pair. The
    pairs count as private, because their prompts are rows of a data set.
    """
    balance: Counter[str] = Counter()
    with store.reading() as session:
        of_pair = (ParityVote.old_id == old.id, ParityVote.new_id == new.id)
        for key, choice in session.execute(select(ParityVote.row_key, ParityVote.choice).where(*of_pair)):
            balance[key] += {"new": 1, "old": -1}.get(choice, 0)
    found, system = list[PreferencePair](), str(new.settings.get("system") or "")
    rows = {row.key: row for row in judge_rows.pairs(store, old.id, new.id, _MAX_ROWS) if row.key in balance}
    for key, row in rows.items():
        if not balance[key] or not row.old.strip() or not row.new.strip():
            continue
        sides = ((row.new, new.model), (row.old, old.model))
        (preferred, writer), (other, other_writer) = sides if balance[key] > 0 else sides[::-1]
        found.append(PreferencePair(row.prompt, preferred, other, writer, other_writer, system=system, private=True))
    undecided = sum(not n for n in balance.values())
    return VotePairs(tuple(found), 0, undecided, len(balance) - undecided - len(found))
