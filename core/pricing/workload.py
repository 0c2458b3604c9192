"""Computes what a workload costs with a tuned model, a base model with a long prompt, or your own machine; when one
option breaks even with another; and how much each input changes that.

The model is linear: an initial cost, a cost per request and a cost per month of 30 days. Amounts are exact decimals in
one currency; None means unknown. If a part is unknown, so is the total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, Literal

from core.errors import FabulaError
from core.message import msg
from core.pricing.prices import MTOK, USD, ExchangeRate, Price, convert

HOURS_PER_MONTH = Decimal(24 * 30)
DAYS_PER_MONTH = Decimal(30)
_S_PER_HOUR = Decimal(3_600)
_S_PER_DAY = Decimal(86_400)
_MAX_REQUESTS = Decimal(1_000_000_000)  # per day
_MAX_TOKENS = 100_000_000  # per request
_MAX_TRAINED_TOKENS = 10**15
_MAX_EPOCHS = 1_000
_MAX_RANGE_FACTOR = 20  # chart range / last crossing; beyond this the crossing would not be visible

Way = Literal["tuned", "base", "local"]

SENSITIVITY_CHANGE = Decimal("0.2")  # a fifth
SENSITIVITY_INPUTS = (
    "requests_per_day",
    "prompt_tokens",
    "completion_tokens",
    "context_tokens",
    "training_tokens",
    "cached_share",
)


@dataclass(frozen=True, slots=True)
class Workload:
    """The daily workload of a model.

    Attributes:
        requests_per_day: one request per story.
        prompt_tokens: tokens of the short prompt for a tuned model.
        completion_tokens: tokens of the answer.
        context_tokens: additional examples or retrieved text that an untuned model needs in every prompt.
        training_tokens: tokens of the training file, per epoch.
        epochs: number of epochs.
        cached_share: share of `context_tokens` in the provider's cache, 0 to 1.
        batch: whether to use batches (answers within 24 h).
    """

    requests_per_day: Decimal
    prompt_tokens: int
    completion_tokens: int
    context_tokens: int = 0
    training_tokens: int = 0
    epochs: int = 3
    cached_share: Decimal = Decimal(0)
    batch: bool = False

    def validate(self) -> None:
        """Check that all values are in range.

        Raises:
            FabulaError: a value is out of range; `what` names it.
        """
        requests, tokens, share = self.requests_per_day, self.training_tokens, self.cached_share
        per_request = (self.prompt_tokens, self.completion_tokens, self.context_tokens)
        out_of_range = next((count for count in per_request if not 0 <= count <= _MAX_TOKENS), None)
        if requests.is_nan() or not 0 <= requests <= _MAX_REQUESTS:
            what = msg("{requests} stories a day is out of range.", requests=requests)
            raise FabulaError(what, msg("Enter a number from 0 to 1,000,000,000."))
        if out_of_range is not None:
            what = msg("{tokens} tokens per prompt or story is out of range.", tokens=out_of_range)
            raise FabulaError(what, msg("Enter a number from 0 to 100,000,000."))
        if not 0 <= tokens <= _MAX_TRAINED_TOKENS:
            what = msg("{training_tokens} tokens in a training file is out of range.", training_tokens=tokens)
            raise FabulaError(what, msg("Enter a number from 0 to 10^15."))
        if not 0 <= self.epochs <= _MAX_EPOCHS:
            what = msg("{epochs} epochs is out of range.", epochs=self.epochs)
            raise FabulaError(what, msg("Enter a number from 0 to 1,000."))
        if share.is_nan() or not 0 <= share <= 1:
            what = msg("A cached share of {share} is out of range.", share=share)
            raise FabulaError(what, msg("Enter a number from 0 to 1."))


@dataclass(frozen=True, slots=True)
class Machine:
    """Your own machine: cost per hour (electricity or rent), and the engine's generation and training speed.

    Attributes:
        per_hour: cost per hour in the currency of the comparison.
        tokens_per_s: generation speed with one request at a time.
        always_on: whether every hour of the month costs money; otherwise only busy hours do.
        training_tokens_per_s: measured by finished jobs; None if unknown.
    """

    per_hour: Decimal
    tokens_per_s: Decimal
    always_on: bool = False
    training_tokens_per_s: Decimal | None = None

    @property
    def per_mtok(self) -> Decimal | None:
        """Cost of generating a million tokens; None if the speed is unknown."""
        return self.per_hour * MTOK / (self.tokens_per_s * _S_PER_HOUR) if self.tokens_per_s > 0 else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One option. `price`: None if unknown; `machine`: set for `local`."""

    name: str
    way: Way
    price: Price | None = None
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """The cost of one option. `problem`: what is unknown or impossible, as a sentence.

    Attributes:
        per_request: cost per story, without hosting.
        upfront: cost of training.
        fixed_per_month: cost of hosting, or of a machine that is always on.
        requests_per_month: the workload's requests per month.
    """

    candidate: Candidate
    per_request: Decimal | None
    upfront: Decimal | None
    fixed_per_month: Decimal
    requests_per_month: Decimal
    problem: str | None = None

    @property
    def per_thousand(self) -> Decimal | None:
        """Cost per thousand stories, without training and hosting."""
        return None if self.per_request is None else self.per_request * 1_000

    @property
    def per_month(self) -> Decimal | None:
        """Cost per month for stories and hosting, without training."""
        return None if self.per_request is None else self.per_request * self.requests_per_month + self.fixed_per_month

    @property
    def slope(self) -> Decimal | None:
        """Cost per request including its share of the monthly hosting."""
        if self.per_request is None or (self.fixed_per_month and not self.requests_per_month):
            return None
        shared = self.fixed_per_month / self.requests_per_month if self.fixed_per_month else Decimal(0)
        return self.per_request + shared

    def total(self, requests: Decimal | int) -> Decimal | None:
        """Total cost of training and this many requests."""
        slope = self.slope
        return None if slope is None or self.upfront is None else self.upfront + slope * requests


@dataclass(frozen=True, slots=True)
class BreakEven:
    """When one option has compensated for its higher initial cost.

    Attributes:
        outcome: `at`: cheaper from `requests` on; `at_once`: never more expensive; `until`: cheaper up to `requests`;
            `never`: never cheaper; `unknown`.
        days: time to reach `requests`; None if the workload has no requests.
    """

    outcome: Literal["at", "at_once", "until", "never", "unknown"]
    requests: int | None = None
    days: Decimal | None = None


def costs(workload: Workload, candidate: Candidate, currency: str = USD, rate: ExchangeRate | None = None) -> Costs:
    """The cost of the workload with one option, in `currency`.

    A tuned model uses the short prompt and is trained once. A base model uses prompt and context, without training.
    Your own machine uses the short prompt and is trained once, at its measured speed.
    """
    requests_per_month = workload.requests_per_day * DAYS_PER_MONTH
    if candidate.way == "local":
        return _local(workload, candidate, requests_per_month)
    price = candidate.price
    if price is None:
        unknown = msg("The price is unknown. Set your own price.")
        return Costs(candidate, None, None, Decimal(0), requests_per_month, unknown)
    tuned = candidate.way == "tuned"
    context = 0 if tuned else workload.context_tokens
    per_request = price.call(
        workload.prompt_tokens + context,
        workload.completion_tokens,
        cached_tokens=int((context * workload.cached_share).to_integral_value(ROUND_FLOOR)),
        batch=workload.batch,
    )
    upfront = _training(price, workload) if tuned else Decimal(0)
    hosting = price.hosting_per_hour or Decimal(0)
    amounts = (per_request, upfront, hosting * HOURS_PER_MONTH)
    converted = [convert(amount, price.currency, currency, rate) for amount in amounts]
    problem = _problem(price, workload, per_request, upfront, converted=converted[2] is not None)
    return Costs(candidate, converted[0], converted[1], converted[2] or Decimal(0), requests_per_month, problem)


def break_even(dearer_start: Costs, other: Costs) -> BreakEven:
    """The number of requests after which the first option has cost no more than the second."""
    slope, other_slope = dearer_start.slope, other.slope
    if slope is None or other_slope is None or dearer_start.upfront is None or other.upfront is None:
        return BreakEven("unknown")
    extra_upfront = dearer_start.upfront - other.upfront
    saved_per_request = other_slope - slope
    if extra_upfront <= 0 and saved_per_request >= 0:
        return BreakEven("at_once")
    if extra_upfront >= 0 and saved_per_request <= 0:
        return BreakEven("never")
    rounding = ROUND_CEILING if extra_upfront > 0 else ROUND_FLOOR
    requests = int((extra_upfront / saved_per_request).to_integral_value(rounding))
    requests_per_month = dearer_start.requests_per_month
    return BreakEven(
        "at" if extra_upfront > 0 else "until",
        requests,
        requests * DAYS_PER_MONTH / requests_per_month if requests_per_month else None,
    )


def chart_range(options: list[Costs], crossings: list[BreakEven]) -> int:
    """The number of requests for the chart's x axis: one month, adjusted so that the crossings are visible."""
    requests_per_month = max((int(cost.requests_per_month) for cost in options), default=0)
    last_crossing = max((crossing.requests or 0 for crossing in crossings), default=0)
    return max(
        min(requests_per_month, _MAX_RANGE_FACTOR * last_crossing) if last_crossing else requests_per_month,
        2 * last_crossing,
        10,
    )


def _training(price: Price, workload: Workload) -> Decimal | None:
    tokens = workload.training_tokens * workload.epochs
    if tokens == 0 or price.training_per_mtok is None:
        return Decimal(0) if tokens == 0 else None
    return tokens * price.training_per_mtok / MTOK


def _local(workload: Workload, candidate: Candidate, requests_per_month: Decimal) -> Costs:
    machine = candidate.machine
    if machine is None or machine.tokens_per_s <= 0:
        unmeasured = msg("The speed of this machine has not been measured yet.")
        return Costs(candidate, None, None, Decimal(0), requests_per_month, unmeasured)
    busy_s = workload.requests_per_day * workload.completion_tokens / machine.tokens_per_s
    problem = msg("This machine can't write that many stories in a day.") if busy_s > _S_PER_DAY else None
    usd_per_token = machine.per_hour / _S_PER_HOUR / machine.tokens_per_s
    if machine.always_on:
        return Costs(candidate, Decimal(0), Decimal(0), machine.per_hour * HOURS_PER_MONTH, requests_per_month, problem)
    upfront = _local_training(workload, machine)
    if upfront is None and problem is None:
        problem = msg("The training speed of this machine is unknown until a job has finished on it.")
    return Costs(
        candidate, usd_per_token * workload.completion_tokens, upfront, Decimal(0), requests_per_month, problem
    )


def _local_training(workload: Workload, machine: Machine) -> Decimal | None:
    """The cost of machine time for training; None if the training speed is unknown."""
    tokens = workload.training_tokens * workload.epochs
    if tokens == 0 or machine.per_hour == 0:
        return Decimal(0)
    if not machine.training_tokens_per_s:
        return None
    return machine.per_hour * tokens / (machine.training_tokens_per_s * _S_PER_HOUR)


def _problem(
    price: Price, workload: Workload, per_request: Decimal | None, upfront: Decimal | None, *, converted: bool
) -> str | None:
    """Why an amount is unknown, as a sentence; None if all are known."""
    if not converted:
        return msg("Its prices are in {currency}, which has no exchange rate here.", currency=price.currency)
    if per_request is None and workload.batch and price.call(1, 1) is not None:
        return msg("No batch price is known for this model.")
    if per_request is None:
        return msg("A price needed for this is unknown. Set your own price.")
    if upfront is None:
        return msg("The training price is unknown. Set your own price.")
    return None


@dataclass(frozen=True, slots=True)
class Effect:
    """The outcome with one input 20 % lower (`lower`) and 20 % higher (`higher`).

    Days until break-even (None if never). If the unchanged workload does not break even, the difference in monthly cost
    between the two options.
    """

    input: str
    lower: Decimal | None
    higher: Decimal | None


CostPair = Callable[[Workload], tuple[Costs, Costs]]
"""Computes the costs of two options for a workload: the one with the higher initial cost, and the other."""


def sensitivity(workload: Workload, costs_of: CostPair, limit: int = 3) -> tuple[bool, list[Effect]]:
    """The `limit` inputs with the largest effect, and whether outcomes are in days (otherwise money per month)."""
    in_days = break_even(*costs_of(workload)).outcome == "at"
    measure = _days if in_days else _per_month
    result = []
    for name in SENSITIVITY_INPUTS:
        value = getattr(workload, name)
        if not value:
            continue
        lower, higher = (
            measure(costs_of(_scale_input(workload, name, 1 + change)))
            for change in (-SENSITIVITY_CHANGE, SENSITIVITY_CHANGE)
        )
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


def _days(costs: tuple[Costs, Costs]) -> Decimal | None:
    result = break_even(*costs)
    return Decimal(0) if result.outcome == "at_once" else result.days


def _per_month(costs: tuple[Costs, Costs]) -> Decimal | None:
    first, second = costs[0].per_month, costs[1].per_month
    return None if first is None or second is None else first - second


def _spread(effect: Effect) -> Decimal:
    if effect.lower is None or effect.higher is None:
        return Decimal("Infinity")  # this input decides whether it breaks even at all
    return abs(effect.higher - effect.lower)
