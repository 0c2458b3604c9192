"""The quality of models (blind votes and evaluations) together with the cost of a story."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import func, select

from core.confidence_interval import wilson
from core.db.store import Store, in_chunks
from core.db.tables import Evaluation, Spend, Story, Vote
from core.pricing.machine_time import MachineTime
from core.pricing.price_book import PriceBook
from core.pricing.prices import ENGINE, USD

Kind = Literal["votes", "evaluation"]
Model = tuple[str, str]
"""(provider, model)"""

_MEASURES = ("accuracy", "overlap")  # evaluation metrics: labels, texts; 0 to 1, higher is better
_MAX_ROWS = 10_000  # newest rounds and evaluations that count


@dataclass(frozen=True, slots=True)
class Quality:
    """One model's quality by one measure.

    Attributes:
        kind: `votes`: share of its blind rounds that it won; `evaluation`: share of correct labels, or similarity to
            the expected texts (see `measure`).
        share, low, high: 0 to 1, with the 95 % interval.
        n: number of rounds or examples.
        cost_usd: average cost of a story in US dollars; None if unknown.
    """

    provider: str
    model: str
    kind: Kind
    measure: str
    share: float
    low: float
    high: float
    n: int
    cost_usd: Decimal | None

    @property
    def usd_per_preferred(self) -> Decimal | None:
        """Cost per winning story: cost per story / win share; None if unknown, or without wins."""
        if self.kind != "votes" or self.cost_usd is None or not self.share:
            return None
        return self.cost_usd / Decimal(str(self.share))


@dataclass(frozen=True, slots=True)
class Leader:
    """The best model by one measure.

    Attributes:
        rivals: models whose 95 % interval overlaps the leader's, so there is no clear winner.
        compared: number of models with this measure.
    """

    best: Quality
    rivals: tuple[Quality, ...]
    compared: int

    @property
    def clear(self) -> bool:
        """Whether the leader is significantly better than all other models."""
        return self.compared > 1 and not self.rivals


def leader(measured: Sequence[Quality]) -> Leader | None:
    """The best of the models with the same kind and measure as the first one; None if nothing was measured.

    Two models differ clearly if their 95 % intervals do not overlap, which is stricter than a test at 5 %.
    """
    if not measured:
        return None
    candidates = [
        quality for quality in measured if (quality.kind, quality.measure) == (measured[0].kind, measured[0].measure)
    ]
    best = max(candidates, key=lambda quality: quality.share)
    rivals = tuple(quality for quality in candidates if quality is not best and quality.high >= best.low)
    return Leader(best, rivals, len(candidates))


def qualities(store: Store, book: PriceBook, machine: MachineTime | None = None) -> list[Quality]:
    """All models with votes or evaluations: votes first, then best first.

    Args:
        machine: used for the cost of engine stories; None if unknown.
    """
    cost_per_story = _cost_per_story(store, book, machine)
    result = [*_by_votes(store, cost_per_story), *_by_evaluations(store, cost_per_story)]
    return sorted(result, key=lambda q: (q.kind != "votes", -q.share, q.model))


def blind_rounds(store: Store) -> dict[Model, tuple[int, int]]:
    """(rounds, wins) of every model in blind rounds with other models. A round without a winner is a win for no model.

    Stories that were deleted from the library still count.
    """
    query = (
        select(Vote.story_ids, Vote.winner_id)
        .where(Vote.blind.is_(True))
        .order_by(Vote.created_at.desc())
        .limit(_MAX_ROWS)
    )
    with store.reading() as session:
        votes = session.execute(query).all()
        ids = {story for order, _ in votes for story in order}
        models: dict[str, Model] = {}
        for chunk in in_chunks(sorted(ids)):
            rows = session.execute(select(Story.id, Story.provider, Story.model).where(Story.id.in_(chunk)))
            models.update({key: (provider, model) for key, provider, model in rows})
    result: dict[Model, tuple[int, int]] = {}
    for order, winner in votes:
        models_in_round = {models[story] for story in order if story in models}
        for model in models_in_round if len(models_in_round) > 1 else ():
            rounds, wins = result.get(model, (0, 0))
            result[model] = (rounds + 1, wins + (models.get(winner or "") == model))
    return result


def _by_votes(store: Store, cost_per_story: dict[Model, Decimal | None]) -> Iterable[Quality]:
    for model, (rounds, wins) in blind_rounds(store).items():
        low, high = wilson(wins, rounds)
        yield Quality(*model, "votes", "votes", wins / rounds, low, high, rounds, cost_per_story.get(model))


def _by_evaluations(store: Store, cost_per_story: dict[Model, Decimal | None]) -> Iterable[Quality]:
    """The newest finished evaluation of each model, if it has a measure from 0 to 1."""
    query = select(Evaluation).where(Evaluation.state == "done").order_by(Evaluation.created_at.desc()).limit(_MAX_ROWS)
    with store.reading() as session:
        # with examples in the prompt, a model is better than in the calls whose cost is known
        rows = [row for row in session.scalars(query) if row.settings.get("shots") is None]
    seen: set[Model] = set()
    for row in rows:
        measured = _measure(row.metrics)
        if measured is None or (row.provider, row.model) in seen:
            continue
        seen.add((row.provider, row.model))
        cost_usd = cost_per_story.get((row.provider, row.model))
        yield Quality(row.provider, row.model, "evaluation", *measured, cost_usd)


def _measure(metrics: dict[str, Any] | None) -> tuple[str, float, float, float, int] | None:
    """Name, value, interval and number of rows of the first available measure (see `core.finetuning`)."""
    for name in _MEASURES:
        interval = (metrics or {}).get(name)
        if isinstance(interval, dict) and 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1:
            return name, interval["value"], interval["low"], interval["high"], interval["n"]
    return None


def _cost_per_story(store: Store, book: PriceBook, machine: MachineTime | None) -> dict[Model, Decimal | None]:
    """Average cost per call by model: what was paid, otherwise average tokens at today's price."""
    query = (
        select(
            Spend.provider, Spend.model, Spend.cost_usd, func.count(), func.sum(Spend.prompt_tokens),
            func.sum(Spend.completion_tokens),
        )
        .where(Spend.page.in_(("story", "comparison", "dataset")), Spend.completion_tokens.is_not(None))
        .group_by(Spend.provider, Spend.model, Spend.cost_usd)
    )  # fmt: skip
    paid: dict[Model, list[tuple[Decimal | None, int, int, int]]] = {}
    with store.reading() as session:
        for provider, model, cost, calls, prompt, completion in session.execute(query):
            paid.setdefault((provider, model), []).append((cost, calls, int(prompt or 0), int(completion or 0)))
    return {key: _average(book, machine, key, groups) for key, groups in paid.items()}


def _average(
    book: PriceBook, machine: MachineTime | None, key: Model, groups: list[tuple[Decimal | None, int, int, int]]
) -> Decimal | None:
    if key[0] == ENGINE:
        return None if machine is None else _machine_time(machine, groups)
    known_costs = [(cost, calls) for cost, calls, _, _ in groups if cost is not None]
    if known_costs:
        return sum((cost * calls for cost, calls in known_costs), Decimal(0)) / sum(calls for _, calls in known_costs)
    price, calls = book.find(*key), sum(calls for _, calls, _, _ in groups)
    if price is None or price.currency != "USD" or not calls:
        return None
    prompt, completion = sum(g[2] for g in groups), sum(g[3] for g in groups)
    return price.call(prompt // calls, completion // calls)


def _machine_time(machine: MachineTime, groups: list[tuple[Decimal | None, int, int, int]]) -> Decimal | None:
    """Cost of the machine time of an average story, in US dollars; None if unknown or in another currency."""
    calls, completion_tokens = sum(g[1] for g in groups), sum(g[3] for g in groups)
    return machine.call(completion_tokens // calls) if calls and machine.currency == USD else None
