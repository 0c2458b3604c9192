"""A judge model compares the stored answers of two evaluations, each row in both orders.

A judge is an evaluation of kind `judge` (`core.evaluation.judge_rows`): the worker runs it, each answer is saved when
it arrives, and budgets apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import select

from core.actor import Actor, requires
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Evaluation, EvaluationAnswer
from core.errors import FabulaError
from core.evaluation import evaluations, judge_rows, scoring
from core.evaluation.evaluations import ACTIVE, EvaluationView
from core.evaluation.judge_rows import INSTRUCTIONS, JUDGE, ORDERS
from core.evaluation.scoring import Interval
from core.message import msg
from core.ownership import reads
from core.parity import preference
from core.parity.preference import JudgeResult, Preferred
from core.parity.row_scores import JsonAnswers
from core.pricing import tokens
from core.pricing.price_book import PriceBook, cost_of

MAX_INSTRUCTIONS = 4_000
"""Characters of the instructions."""
_MAX_TOKENS = 1_000  # of a verdict with its reason; thinking models need several hundred
_USUAL_TOKENS = 40  # of a verdict, for the estimate
_MAX_ROWS = 2_000
_SAMPLE = 50  # rows whose tokens are counted for an estimate


@dataclass(frozen=True, slots=True)
class JudgeEstimate:
    """What a judge would cost. `usd`: expected; `most_usd`: if every reply is as long as allowed; None: unknown."""

    calls: int
    usd: Decimal | None
    most_usd: Decimal | None


@requires("editor")
@reads(dataset="new.dataset_id", model="model")
@reads(model="old.model")
@reads(model="new.model")
def start(
    store: Store,
    actor: Actor,
    old: EvaluationView,
    new: EvaluationView,
    provider: str,
    model: str,
    *,
    limit: int = 200,
    instructions: str = INSTRUCTIONS,
) -> str:
    """Start a judge on the rows that both evaluations have answered. Returns its id; that of an active one if equal.

    Raises:
        FabulaError: they have no rows in common, or the instructions are empty or too long.
    """
    instructions = instructions.strip()
    if not 0 < len(instructions) <= MAX_INSTRUCTIONS:
        raise FabulaError(
            msg("The instructions must have 1 to {limit} characters.", limit=f"{MAX_INSTRUCTIONS:,}"),
            msg("Change them, then start again."),
        )
    limit = max(1, min(limit, _MAX_ROWS))
    rows = judge_rows.pairs(store, old.id, new.id, limit)
    if not rows or old.dataset_id != new.dataset_id:
        raise FabulaError(
            msg("There are no rows that both models have answered."), msg("Evaluate both models on the same rows.")
        )
    settings = {
        "old_id": old.id, "new_id": new.id, "old_model": old.model, "new_model": new.model, "limit": limit,
        "instructions": instructions, "response_format": judge_rows.RESPONSE_FORMAT, "max_tokens": _MAX_TOKENS,
        "temperature": 0.0, "seed": 0, "file_format": "chat", "part": "both",
    }  # fmt: skip
    with store.session() as session:
        advisory_lock(session, "evaluations")
        active = select(Evaluation).where(Evaluation.state.in_(ACTIVE), Evaluation.kind == JUDGE)
        for one in session.scalars(active):
            if (one.provider, one.model, one.settings) == (provider, model, settings):
                return one.id
        judge = Evaluation(
            id=new_id(), dataset_id=new.dataset_id, version_id=new.version_id, provider=provider, model=model,
            kind=JUDGE, settings=settings, total=len(ORDERS) * sum(not row.identical for row in rows),
            created_by=actor.id,
        )  # fmt: skip
        session.add(judge)
        return judge.id


def any_active(store: Store, dataset_id: str | None) -> bool:
    """Whether a judge works on answers to rows of this data set."""
    active = select(Evaluation.id).where(Evaluation.kind == JUDGE, Evaluation.state.in_(ACTIVE))
    with store.reading() as session:
        return session.scalar(active.where(Evaluation.dataset_id == dataset_id).limit(1)) is not None


def example_prompt(store: Store, old: EvaluationView, new: EvaluationView, instructions: str) -> str:
    """What the judge would read about the first row; "" if there is none."""
    rows = judge_rows.pairs(store, old.id, new.id, 1)
    return judge_rows.prompt(rows[0], 1, instructions, "0123456789ab") if rows else ""


def estimate(
    store: Store, book: PriceBook, old: EvaluationView, new: EvaluationView, provider: str, model: str, limit: int
) -> JudgeEstimate:
    """The calls and the cost of a judge, from the lengths of up to 50 rows."""
    found = judge_rows.pairs(store, old.id, new.id, max(1, min(limit, _MAX_ROWS)))
    rows = [row for row in found if not row.identical]
    sample = [judge_rows.prompt(row, 1, INSTRUCTIONS, "0123456789ab") for row in rows[:_SAMPLE]]
    calls = len(ORDERS) * len(rows)
    if not sample:
        return JudgeEstimate(0, Decimal(0), Decimal(0))
    per_call = tokens.count(sample, model).tokens // len(sample)
    usual, most = (cost_of(book, provider, model, per_call, count) for count in (_USUAL_TOKENS, _MAX_TOKENS))
    return JudgeEstimate(calls, None if usual is None else calls * usual, None if most is None else calls * most)


def find(store: Store, old: EvaluationView, new: EvaluationView) -> EvaluationView | None:
    """The newest judge of these two evaluations; None if there is none."""
    found = evaluations.list_evaluations(store, dataset_id=new.dataset_id, judges=True)
    ids = (old.id, new.id)
    return next((one for one in found if (one.settings["old_id"], one.settings["new_id"]) == ids), None)


def result(store: Store, judge: EvaluationView, margin: float) -> JudgeResult:
    """What a judge has decided so far. `margin`: the accepted loss, 0 to 1."""
    settings = judge.settings
    query = select(EvaluationAnswer.row_key, EvaluationAnswer.text).where(EvaluationAnswer.evaluation_id == judge.id)
    with store.reading() as session:
        replies = {key: text for key, text in session.execute(query)}
    pairs = judge_rows.pairs(store, str(settings["old_id"]), str(settings["new_id"]), int(settings["limit"]))
    identical = sum(pair.identical for pair in pairs)
    found = read_replies(replies)
    ties: list[Preferred] = ["tie"] * identical
    return JudgeResult(
        provider=judge.provider,
        model=judge.model,
        instructions=str(settings["instructions"]),
        preference=preference.decide([*found.choices, *ties], margin),
        unparsable=found.unparsable,
        missing=judge.total - judge.answered,
        disagreeing=found.disagreeing,
        identical=identical,
        first=found.first,
        own_answers=judge.model in (settings["old_model"], settings["new_model"]),
    )


@dataclass(frozen=True, slots=True)
class ReadReplies:
    """The verdicts in a judge's replies; see `JudgeResult`. `choices`: of the rows with two verdicts."""

    choices: list[Preferred]
    disagreeing: int
    unparsable: int
    first: Interval | None


def read_replies(replies: Mapping[str, str | None]) -> ReadReplies:
    """Read a judge's replies, by `judge_rows.judged_key`; None if a request got no reply. Pure.

    A reply must be a JSON object whose `winner` is exactly `A`, `B` or `tie`; nothing else is guessed at.
    """
    parsed = JsonAnswers()
    verdicts = {key: _winner(text, parsed) for key, text in replies.items()}
    choices: list[Preferred] = []
    disagreeing = 0
    for key, one in verdicts.items():
        row_key, order = key.rsplit("/", 1)
        other = verdicts.get(f"{row_key}/2")
        if order != "1" or one is None or other is None:
            continue
        first, second = _choice(one, 1), _choice(other, 2)
        disagreeing += first != second
        choices.append(first if first == second else "tie")
    given = [one for one in verdicts.values() if one in ("A", "B")]
    unparsable = sum(text is not None and verdicts[key] is None for key, text in replies.items())
    return ReadReplies(choices, disagreeing, unparsable, scoring.wilson(given.count("A"), len(given)))


def _winner(reply: str | None, parsed: JsonAnswers) -> str | None:
    value = parsed.parse(reply).value
    found = value.get("winner") if isinstance(value, dict) else None
    return found if found in ("A", "B", "tie") else None


def _choice(won: str, order: int) -> Preferred:
    if won == "tie":
        return "tie"
    return "old" if (won == "A") == (order == 1) else "new"
