"""A judge model compares the stored answers of two evaluations, each row in both orders.

A judge is an evaluation of kind `judge` (`core.evaluation.judge_rows`): the worker runs it, each answer is saved when
it arrives, and budgets apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

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
_MESSAGE_TOKENS = 12  # that a chat template adds, at most
_SOME_CODE = "0123456789ab"  # as long as a real one


@dataclass(frozen=True, slots=True)
class JudgeEstimate:
    """What a judge would cost. `usd`: expected; `most_usd`: if every reply is as long as allowed; None: unknown.

    `calls`: 0 if it has already judged all rows.
    """

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
    """Start a judge on the rows that both evaluations have answered. Returns its id.

    A judge with the same settings is used, also one that has ended: no verdict is paid twice, and only those that are
    missing are requested.

    Raises:
        FabulaError: they have no rows in common, or the instructions are empty or too long.
    """
    instructions = instructions.strip()
    if not 0 < len(instructions) <= MAX_INSTRUCTIONS:
        raise FabulaError(
            msg("The instructions must have 1 to {limit} characters.", limit=f"{MAX_INSTRUCTIONS:,}"),
            msg("Change them, then start again."),
        )
    settings = _settings(old, new, limit, instructions)
    rows = judge_rows.pairs(store, old.id, new.id, settings["limit"])
    if not rows or old.dataset_id != new.dataset_id:
        raise FabulaError(
            msg("There are no rows that both models have answered."), msg("Evaluate both models on the same rows.")
        )
    wanted = judge_rows.judged_keys(rows)
    with store.session() as session:
        advisory_lock(session, "evaluations")
        judge = _same(session, provider, model, settings)
        if judge is None:
            judge = Evaluation(
                id=new_id(), dataset_id=new.dataset_id, version_id=new.version_id, provider=provider, model=model,
                kind=JUDGE, settings=settings, total=len(wanted), created_by=actor.id,
            )  # fmt: skip
            session.add(judge)
        elif judge.state not in ACTIVE and not wanted <= (answered := _answered(session, judge.id)):
            judge.total = len(wanted | answered)  # the models may have answered more rows since
            evaluations.queue_missing(session, judge)
        return judge.id


def _settings(old: EvaluationView, new: EvaluationView, limit: int, instructions: str) -> dict[str, Any]:
    return {
        "old_id": old.id, "new_id": new.id, "old_model": old.model, "new_model": new.model,
        "limit": max(1, min(limit, _MAX_ROWS)), "instructions": instructions,
        "response_format": judge_rows.RESPONSE_FORMAT, "max_tokens": _MAX_TOKENS,
        "temperature": 0.0, "seed": 0, "file_format": "chat", "part": "both",
    }  # fmt: skip


def _same(session: Session, provider: str, model: str, settings: Mapping[str, Any]) -> Evaluation | None:
    """The newest judge with these settings."""
    same = (Evaluation.kind == JUDGE, Evaluation.provider == provider, Evaluation.model == model)
    newest_first = session.scalars(select(Evaluation).where(*same).order_by(Evaluation.created_at.desc()))
    return next((one for one in newest_first if one.settings == settings), None)


def _answered(session: Session, judge_id: str) -> set[str]:
    """The keys of the replies that have arrived."""
    replied = (EvaluationAnswer.evaluation_id == judge_id, EvaluationAnswer.text.is_not(None))
    return set(session.scalars(select(EvaluationAnswer.row_key).where(*replied)))


def any_active(store: Store, dataset_id: str | None) -> bool:
    """Whether a judge works on answers to rows of this data set."""
    active = select(Evaluation.id).where(Evaluation.kind == JUDGE, Evaluation.state.in_(ACTIVE))
    with store.reading() as session:
        return session.scalar(active.where(Evaluation.dataset_id == dataset_id).limit(1)) is not None


def example_prompt(store: Store, old: EvaluationView, new: EvaluationView, instructions: str) -> str:
    """What the judge would read about the first row; "" if there is none."""
    rows = judge_rows.pairs(store, old.id, new.id, 1)
    return judge_rows.prompt(rows[0], 1, instructions, _SOME_CODE) if rows else ""


def estimate(
    store: Store,
    book: PriceBook,
    old: EvaluationView,
    new: EvaluationView,
    provider: str,
    model: str,
    limit: int,
    instructions: str = INSTRUCTIONS,
) -> JudgeEstimate:
    """The calls of a judge and their cost, without the verdicts that it has already given."""
    settings = _settings(old, new, limit, instructions.strip())
    with store.reading() as session:
        known = _same(session, provider, model, settings)
        answered = set() if known is None else _answered(session, known.id)
    prompts = [
        judge_rows.prompt(row, order, settings["instructions"], _SOME_CODE)
        for row in judge_rows.pairs(store, old.id, new.id, settings["limit"])
        for order in ORDERS
        if not row.identical and judge_rows.judged_key(row.key, order) not in answered
    ]
    added = tokens.count([judge_rows.RESPONSE_FORMAT], model).tokens + _MESSAGE_TOKENS
    rough = 1.0 if tokens.encoding_of(model) is not None else tokens.ROUGH
    read = [ceil(rough * (length + added)) for length in tokens.lengths(prompts, model)]
    usd, most_usd = (
        _total([cost_of(book, provider, model, length, written) for length in read])
        for written in (_USUAL_TOKENS, _MAX_TOKENS)
    )
    return JudgeEstimate(len(prompts), usd, most_usd)


def _total(costs: Sequence[Decimal | None]) -> Decimal | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None


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
    identical, wanted = sum(pair.identical for pair in pairs), judge_rows.judged_keys(pairs)
    replies = {key: text for key, text in replies.items() if key in wanted}
    found = read_replies(replies)
    ties: list[Preferred] = ["tie"] * identical
    return JudgeResult(
        provider=judge.provider,
        model=judge.model,
        instructions=str(settings["instructions"]),
        preference=preference.decide([*found.choices, *ties], margin),
        unparsable=found.unparsable,
        missing=len(wanted) - sum(text is not None for text in replies.values()),
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
