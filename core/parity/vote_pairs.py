"""Pairs of answers from the blind votes on a parity card, for preference training (DPO)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import select

from core.actor import Actor, requires
from core.datasets import conversation_rows
from core.datasets.conversation_rows import AskedConversation
from core.datasets.importers import preference_lines
from core.db.store import Store
from core.db.tables import ParityVote
from core.evaluation import evaluations, judge_rows
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
    asked = _conversations(store, new, rows)
    for key, row in rows.items():
        if not balance[key] or not row.old.strip() or not row.new.strip():
            continue
        sides = ((row.new, new.model), (row.old, old.model))
        (preferred, writer), (other, other_writer) = sides if balance[key] > 0 else sides[::-1]
        pair = PreferencePair(row.prompt, preferred, other, writer, other_writer, system=system, private=True)
        found.append(_with_conversation(pair, asked[key]) if key in asked else pair)
    undecided = sum(not n for n in balance.values())
    return VotePairs(tuple(found), 0, undecided, len(balance) - undecided - len(found))


def _conversations(store: Store, evaluation: EvaluationView, keys: Collection[str]) -> dict[str, AskedConversation]:
    """What the models were asked on these rows; nothing if the rows of the data set are plain prompts."""
    if not evaluation.settings.get("conversations") or not keys:
        return {}
    rows = evaluations.examples(store, evaluation)
    return {row.key: conversation_rows.asked(row.prompt) for row in rows if row.key in keys}


def _with_conversation(pair: PreferencePair, asked: AskedConversation) -> PreferencePair:
    """A pair with all that was asked, as a data set of preferences keeps it."""
    context: dict[str, object] = {"messages": asked.messages}
    if asked.tools:
        context["tools"] = json.loads(asked.tools)
    if asked.parallel_tool_calls is not None:
        context["parallel_tool_calls"] = asked.parallel_tool_calls
    answers = [conversation_rows.message_of(text, tools=bool(asked.tools)) for text in (pair.preferred, pair.other)]
    kept = preference_lines.dumps(context, answers if any("tool_calls" in one for one in answers) else ())
    return replace(pair, prompt=preference_lines.prompt_of(asked.messages) or pair.prompt, conversation=kept)
