"""Which inputs of a workload matter most: each a fifth less and a fifth more, all others as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from core.cost.workload import BreakEven, Costs, Workload, break_even

CHANGE = Decimal("0.2")
INPUTS = ("requests_per_day", "prompt_tokens", "completion_tokens", "context_tokens", "training_tokens", "cached_share")


@dataclass(frozen=True, slots=True)
class Effect:
    """What happens to the outcome when one input is a fifth lower, and a fifth higher.

    `lower` and `higher` are days until it pays back, or None: it never does. Where it does not pay back as things
    are, they are the difference in cost per month between the two ways.
    """

    input: str
    lower: Decimal | None
    higher: Decimal | None


Both = Callable[[Workload], tuple[Costs, Costs]]
"""Both ways of doing a workload: the one that has to pay back, and the other."""


def effects(workload: Workload, both: Both, most: int = 3) -> tuple[bool, list[Effect]]:
    """The `most` inputs that move the outcome furthest; and whether the outcome is in days (or else money a month)."""
    in_days = _meets(both(workload)).outcome == "at"
    measure = _days if in_days else _per_month
    found = []
    for name in INPUTS:
        value = getattr(workload, name)
        if not value:
            continue
        lower, higher = (measure(both(_with(workload, name, 1 + change))) for change in (-CHANGE, CHANGE))
        if lower != higher:
            found.append(Effect(name, lower, higher))
    return in_days, sorted(found, key=_spread, reverse=True)[:most]


def _with(workload: Workload, name: str, factor: Decimal) -> Workload:
    scaled: Any = getattr(workload, name) * factor
    if name == "cached_share":
        scaled = min(scaled, Decimal(1))
    elif name != "requests_per_day":
        scaled = round(scaled)
    return replace(workload, **{name: scaled})


def _meets(costs: tuple[Costs, Costs]) -> BreakEven:
    return break_even(*costs)


def _days(costs: tuple[Costs, Costs]) -> Decimal | None:
    found = _meets(costs)
    return Decimal(0) if found.outcome == "at_once" else found.days


def _per_month(costs: tuple[Costs, Costs]) -> Decimal | None:
    mine, theirs = costs[0].per_month, costs[1].per_month
    return None if mine is None or theirs is None else mine - theirs


def _spread(effect: Effect) -> Decimal:
    if effect.lower is None or effect.higher is None:
        return Decimal("Infinity")  # this input decides whether it breaks even at all
    return abs(effect.higher - effect.lower)
