"""How good a model was found, beside what a story of it costs: blind votes and evaluations, as far as there are any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import func, select

from core.cost.currency import USD
from core.cost.machine_time import MachineTime
from core.cost.price_book import PriceBook
from core.cost.prices import ENGINE
from core.db.store import Store, in_chunks
from core.db.tables import Evaluation, Spend, Story, Vote
from core.statistics import wilson

Kind = Literal["votes", "evaluation"]
Model = tuple[str, str]
"""(provider, model)"""

_MEASURES = ("accuracy", "overlap")  # of an evaluation: of labels, of texts; 0 to 1, more is better
_NEWEST = 10_000  # rounds and calls looked at: older ones say little about what a model is now


@dataclass(frozen=True, slots=True)
class Quality:
    """One model's quality by one measure.

    Attributes:
        kind: `votes`: share of the blind rounds with it that it won; `evaluation`: share of right labels, or how near
            texts come to the expected ones (`measure` names it).
        share, low, high: 0 to 1, with its 95 % interval.
        n: rounds, or examples.
        cost_usd: what a story of it costs on average; None where that is not known.
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
        """What a story that wins its round costs: as many stories as it takes to win one. None: unknown, or no win."""
        if self.kind != "votes" or self.cost_usd is None or not self.share:
            return None
        return self.cost_usd / Decimal(str(self.share))


@dataclass(frozen=True, slots=True)
class Leader:
    """The best model by one measure. `rivals` are those whose 95 % interval overlaps the leader's: no clear winner.

    `compared`: how many models were measured in this way; with one there is nothing to be best of.
    """

    best: Quality
    rivals: tuple[Quality, ...]
    compared: int

    @property
    def clear(self) -> bool:
        """Whether the difference to every other model is larger than chance explains."""
        return self.compared > 1 and not self.rivals


def leader(found: Sequence[Quality]) -> Leader | None:
    """The best of the models that share the first one's kind and measure; None where nothing was measured.

    Two models differ clearly where their 95 % intervals do not overlap, a stricter rule than a test at 5 %.
    """
    if not found:
        return None
    alike = [one for one in found if (one.kind, one.measure) == (found[0].kind, found[0].measure)]
    best = max(alike, key=lambda one: one.share)
    rivals = tuple(one for one in alike if one is not best and one.high >= best.low)
    return Leader(best, rivals, len(alike))


def qualities(store: Store, book: PriceBook, machine: MachineTime | None = None) -> list[Quality]:
    """Every model that was voted on or evaluated: those with votes first, the best first.

    Args:
        machine: what an hour of this machine costs; a story of the engine costs its machine time. None: unknown.
    """
    each = _cost_of_a_story(store, book, machine)
    found = [*_by_votes(store, each), *_by_evaluations(store, each)]
    return sorted(found, key=lambda q: (q.kind != "votes", -q.share, q.model))


def blind_rounds(store: Store) -> dict[Model, tuple[int, int]]:
    """(rounds, wins) of every model that was in a blind round with another model; one without a winner nobody won.

    What was written counts also after the story was taken out of the library.
    """
    query = select(Vote.order, Vote.winner).where(Vote.blind.is_(True)).order_by(Vote.at.desc()).limit(_NEWEST)
    with store.reading() as session:
        votes = session.execute(query).all()
        ids = {story for order, _ in votes for story in order}
        models: dict[str, Model] = {}
        for some in in_chunks(sorted(ids)):
            rows = session.execute(select(Story.id, Story.provider, Story.model).where(Story.id.in_(some)))
            models.update({key: (provider, model) for key, provider, model in rows})
    found: dict[Model, tuple[int, int]] = {}
    for order, winner in votes:
        there = {models[story] for story in order if story in models}
        for model in there if len(there) > 1 else ():
            rounds, wins = found.get(model, (0, 0))
            found[model] = (rounds + 1, wins + (models.get(winner or "") == model))
    return found


def _by_votes(store: Store, each: dict[Model, Decimal | None]) -> Iterable[Quality]:
    for model, (rounds, wins) in blind_rounds(store).items():
        low, high = wilson(wins, rounds)
        yield Quality(*model, "votes", "votes", wins / rounds, low, high, rounds, each.get(model))


def _by_evaluations(store: Store, each: dict[Model, Decimal | None]) -> Iterable[Quality]:
    """The newest finished evaluation of each model that has a measure from 0 to 1."""
    query = select(Evaluation).where(Evaluation.state == "done").order_by(Evaluation.created_at.desc()).limit(_NEWEST)
    with store.reading() as session:
        rows = session.scalars(query).all()
    seen: set[Model] = set()
    for row in rows:
        measured = _measure(row.metrics)
        if measured is None or (row.provider, row.model) in seen:
            continue
        seen.add((row.provider, row.model))
        cost = each.get((row.provider, row.model))
        yield Quality(row.provider, row.model, "evaluation", *measured, cost)


def _measure(metrics: dict[str, Any] | None) -> tuple[str, float, float, float, int] | None:
    """Name, value, both ends of its interval, and rows, as `core.training`'s evaluations write them down."""
    for name in _MEASURES:
        found = (metrics or {}).get(name)
        if isinstance(found, dict) and 0 <= found["low"] <= found["value"] <= found["high"] <= 1:
            return name, found["value"], found["low"], found["high"], found["n"]
    return None


def _cost_of_a_story(store: Store, book: PriceBook, machine: MachineTime | None) -> dict[Model, Decimal | None]:
    """The average call of each model that wrote: by what was paid, or else its average tokens at today's price."""
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
    known = [(cost, calls) for cost, calls, _, _ in groups if cost is not None]
    if known:
        return sum((cost * calls for cost, calls in known), Decimal(0)) / sum(calls for _, calls in known)
    price, calls = book.find(*key), sum(calls for _, calls, _, _ in groups)
    if price is None or price.currency != "USD" or not calls:
        return None
    prompt, completion = sum(g[2] for g in groups), sum(g[3] for g in groups)
    return price.call(prompt // calls, completion // calls)


def _machine_time(machine: MachineTime, groups: list[tuple[Decimal | None, int, int, int]]) -> Decimal | None:
    """US dollars of this machine's time for an average story; None where it is unknown or in another currency."""
    calls, written = sum(g[1] for g in groups), sum(g[3] for g in groups)
    return machine.call(written // calls) if calls and machine.currency == USD else None
