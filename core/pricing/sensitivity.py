"""Sensitivity analysis of a workload: each input 20 % lower and 20 % higher, with all others unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from core.pricing.workload import BreakEven, Costs, Workload, break_even

CHANGE = Decimal("0.2")
INPUTS = ("requests_per_day", "prompt_tokens", "completion_tokens", "context_tokens", "training_tokens", "cached_share")


@dataclass(frozen=True, slots=True)
class Effect:
    """The outcome with one input 20 % lower (`lower`) and 20 % higher (`higher`).

    Days until break-even (None: never). If the unchanged workload does not break even, the difference in monthly cost
    between the two options.
    """

    input: str
    lower: Decimal | None
    higher: Decimal | None


CostPair = Callable[[Workload], tuple[Costs, Costs]]
"""Computes the costs of two options for a workload: the one with the higher initial cost, and the other."""


def effects(workload: Workload, costs_of: CostPair, limit: int = 3) -> tuple[bool, list[Effect]]:
    """The `limit` inputs with the largest effect, and whether outcomes are in days (otherwise money per month)."""
    in_days = _break_even(costs_of(workload)).outcome == "at"
    measure = _days if in_days else _per_month
    result = []
    for name in INPUTS:
        value = getattr(workload, name)
        if not value:
            continue
        lower, higher = (measure(costs_of(_scale_input(workload, name, 1 + change))) for change in (-CHANGE, CHANGE))
        if lower != higher:
            result.append(Effect(name, lower, higher))
    return in_days, sorted(result, key=_spread, reverse=True)[:limit]


def _scale_input(workload: Workload, name: str, factor: Decimal) -> Workload:
    scaled: Any = getattr(workload, name) * factor
    if name == "cached_share":
        scaled = min(scaled, Decimal(1))
    elif name != "requests_per_day":
        scaled = round(scaled)
    return replace(workload, **{name: scaled})


def _break_even(costs: tuple[Costs, Costs]) -> BreakEven:
    return break_even(*costs)


def _days(costs: tuple[Costs, Costs]) -> Decimal | None:
    result = _break_even(costs)
    return Decimal(0) if result.outcome == "at_once" else result.days


def _per_month(costs: tuple[Costs, Costs]) -> Decimal | None:
    first, second = costs[0].per_month, costs[1].per_month
    return None if first is None or second is None else first - second


def _spread(effect: Effect) -> Decimal:
    if effect.lower is None or effect.higher is None:
        return Decimal("Infinity")  # this input decides whether it breaks even at all
    return abs(effect.higher - effect.lower)
