"""What a workload costs in each of several ways: a tuned model, a base model with a long prompt, your own machine.

Everything is linear: an amount up front, an amount for each request, an amount for each month. Times are months of 30
days. Amounts are exact decimals in one currency; None is unknown, and an unknown part makes the whole unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Literal

from core.cost.currency import USD, ExchangeRate, convert
from core.cost.prices import MTOK, Price
from core.errors import FabulaError
from core.message import msg

HOURS_PER_MONTH = Decimal(24 * 30)
DAYS_PER_MONTH = Decimal(30)
_S_PER_HOUR = Decimal(3_600)
_S_PER_DAY = Decimal(86_400)
_MOST_REQUESTS = Decimal(1_000_000_000)  # a day: more than any provider serves
_MOST_TOKENS = 100_000_000  # of one request: no model reads a hundredth of that
_MOST_TRAINED = 10**15
_MOST_EPOCHS = 1_000
_MOST_PAST = 20  # times a crossing: further right it could not be told from the start of a chart

Way = Literal["tuned", "base", "local"]


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of a model, day by day.

    Attributes:
        requests_per_day: one request writes one story.
        prompt_tokens: of the short prompt, which a tuned model needs.
        completion_tokens: of the answer.
        context_tokens: examples or retrieved text that an untuned model needs besides, in every prompt.
        training_tokens: of the training file, read once.
        epochs: how often training reads it.
        cached_share: of `context_tokens`, what the provider finds in its cache, 0 to 1.
        batch: the answers may take a day.
    """

    requests_per_day: Decimal
    prompt_tokens: int
    completion_tokens: int
    context_tokens: int = 0
    training_tokens: int = 0
    epochs: int = 3
    cached_share: Decimal = Decimal(0)
    batch: bool = False

    def check(self) -> None:
        """See that nothing is negative or absurd.

        Raises:
            FabulaError: something is; `what` names it.
        """
        requests, share = self.requests_per_day, self.cached_share
        if requests.is_nan() or not 0 <= requests <= _MOST_REQUESTS:
            raise FabulaError(
                msg("{requests} stories a day is out of range.", requests=requests),
                msg("Enter a number from 0 to 1,000,000,000."),
            )
        for tokens in (self.prompt_tokens, self.completion_tokens, self.context_tokens):
            if not 0 <= tokens <= _MOST_TOKENS:
                raise FabulaError(
                    msg("{tokens} tokens per prompt or story is out of range.", tokens=tokens),
                    msg("Enter a number from 0 to 100,000,000."),
                )
        if not 0 <= self.training_tokens <= _MOST_TRAINED:
            raise FabulaError(
                msg(
                    "{training_tokens} tokens in a training file is out of range.", training_tokens=self.training_tokens
                ),
                msg("Enter a number from 0 to 10^15."),
            )
        if not 0 <= self.epochs <= _MOST_EPOCHS:
            raise FabulaError(
                msg("{epochs} epochs is out of range.", epochs=self.epochs), msg("Enter a number from 0 to 1,000.")
            )
        if share.is_nan() or not 0 <= share <= 1:
            raise FabulaError(
                msg("A cached share of {share} is out of range.", share=share), msg("Enter a number from 0 to 1.")
            )


@dataclass(frozen=True, slots=True)
class Machine:
    """Your own machine: what an hour costs (electricity or rent), and how fast the engine writes and trains on it.

    Attributes:
        per_hour: in the currency of the comparison.
        tokens_per_s: written by one request at a time.
        always_on: rented by the month, busy or not; otherwise an hour costs only while it works.
        training_tokens_per_s: as finished jobs took; None: no job has finished, the training speed is unknown.
    """

    per_hour: Decimal
    tokens_per_s: Decimal
    always_on: bool = False
    training_tokens_per_s: Decimal | None = None

    @property
    def per_mtok(self) -> Decimal | None:
        """What a million written tokens cost while it works; None when its speed is not known."""
        return self.per_hour * MTOK / (self.tokens_per_s * _S_PER_HOUR) if self.tokens_per_s > 0 else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to do the work. `price` is None where it is unknown; `machine` is set for the way `local`."""

    name: str
    way: Way
    price: Price | None = None
    machine: Machine | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What one candidate costs. `problem` says in a sentence what is unknown or impossible.

    Attributes:
        per_request: for one story, without hosting.
        upfront: for training.
        fixed_per_month: for hosting, or a machine that always runs.
        requests_per_month: of the workload.
    """

    candidate: Candidate
    per_request: Decimal | None
    upfront: Decimal | None
    fixed_per_month: Decimal
    requests_per_month: Decimal
    problem: str | None = None

    @property
    def per_thousand(self) -> Decimal | None:
        """For a thousand stories, without training and hosting."""
        return None if self.per_request is None else self.per_request * 1_000

    @property
    def per_month(self) -> Decimal | None:
        """For a month's stories and hosting, without training."""
        return None if self.per_request is None else self.per_request * self.requests_per_month + self.fixed_per_month

    @property
    def slope(self) -> Decimal | None:
        """What each further request adds in the long run, hosting shared among a month's requests."""
        if self.per_request is None or (self.fixed_per_month and not self.requests_per_month):
            return None
        shared = self.fixed_per_month / self.requests_per_month if self.fixed_per_month else Decimal(0)
        return self.per_request + shared

    def total(self, requests: Decimal | int) -> Decimal | None:
        """Training and everything after it, for so many requests."""
        slope = self.slope
        return None if slope is None or self.upfront is None else self.upfront + slope * requests


@dataclass(frozen=True, slots=True)
class BreakEven:
    """When one way has made up for its higher cost at the start.

    `outcome`: `at` a number of requests; `at_once`: it is never dearer; `until` a number of requests it is cheaper,
    then dearer; `never`: it is never cheaper; `unknown`. `days`: at the workload's rate; None without requests.
    """

    outcome: Literal["at", "at_once", "until", "never", "unknown"]
    requests: int | None = None
    days: Decimal | None = None


def costs(workload: Workload, candidate: Candidate, currency: str = USD, rate: ExchangeRate | None = None) -> Costs:
    """What the workload costs done this way, in `currency`.

    A tuned model gets the short prompt and is trained once; a base gets prompt and context and no training; your own
    machine gets the short prompt and is trained once, at its measured training speed.
    """
    month = workload.requests_per_day * DAYS_PER_MONTH
    if candidate.way == "local":
        return _local(workload, candidate, month)
    price = candidate.price
    if price is None:
        return Costs(candidate, None, None, Decimal(0), month, msg("The price is unknown. Set your own price."))
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
    shown = [convert(amount, price.currency, currency, rate) for amount in amounts]
    problem = _missing(price, workload, per_request, upfront, converted=shown[2] is not None)
    return Costs(candidate, shown[0], shown[1], shown[2] or Decimal(0), month, problem)


def break_even(dearer_start: Costs, other: Costs) -> BreakEven:
    """After how many requests the first has cost no more than the second."""
    mine, theirs = dearer_start.slope, other.slope
    if mine is None or theirs is None or dearer_start.upfront is None or other.upfront is None:
        return BreakEven("unknown")
    more = dearer_start.upfront - other.upfront
    saved = theirs - mine
    if more <= 0 and saved >= 0:
        return BreakEven("at_once")
    if more >= 0 and saved <= 0:
        return BreakEven("never")
    rounding = ROUND_CEILING if more > 0 else ROUND_FLOOR
    requests = int((more / saved).to_integral_value(rounding))
    month = dearer_start.requests_per_month
    return BreakEven("at" if more > 0 else "until", requests, requests * DAYS_PER_MONTH / month if month else None)


def horizon(found: list[Costs], crossings: list[BreakEven]) -> int:
    """How many requests a chart should show: a month's, where the crossings are neither beyond nor lost in it."""
    month = max((int(cost.requests_per_month) for cost in found), default=0)
    last = max((crossing.requests or 0 for crossing in crossings), default=0)
    return max(min(month, _MOST_PAST * last) if last else month, 2 * last, 10)


def _training(price: Price, workload: Workload) -> Decimal | None:
    tokens = workload.training_tokens * workload.epochs
    if tokens == 0 or price.training_per_mtok is None:
        return Decimal(0) if tokens == 0 else None
    return tokens * price.training_per_mtok / MTOK


def _local(workload: Workload, candidate: Candidate, month: Decimal) -> Costs:
    machine = candidate.machine
    if machine is None or machine.tokens_per_s <= 0:
        return Costs(
            candidate, None, None, Decimal(0), month, msg("The speed of this machine has not been measured yet.")
        )
    busy_s = workload.requests_per_day * workload.completion_tokens / machine.tokens_per_s
    problem = msg("This machine can't write that many stories in a day.") if busy_s > _S_PER_DAY else None
    each = machine.per_hour / _S_PER_HOUR / machine.tokens_per_s
    if machine.always_on:
        return Costs(candidate, Decimal(0), Decimal(0), machine.per_hour * HOURS_PER_MONTH, month, problem)
    upfront = _local_training(workload, machine)
    if upfront is None and problem is None:
        problem = msg("The training speed of this machine is unknown until a job has finished on it.")
    return Costs(candidate, each * workload.completion_tokens, upfront, Decimal(0), month, problem)


def _local_training(workload: Workload, machine: Machine) -> Decimal | None:
    """The machine time of training; None where no job has shown how fast it is."""
    tokens = workload.training_tokens * workload.epochs
    if tokens == 0 or machine.per_hour == 0:
        return Decimal(0)
    if not machine.training_tokens_per_s:
        return None
    return machine.per_hour * tokens / (machine.training_tokens_per_s * _S_PER_HOUR)


def _missing(
    price: Price, workload: Workload, per_request: Decimal | None, upfront: Decimal | None, *, converted: bool
) -> str | None:
    """Why an amount is not known, in a sentence; None when all are."""
    if not converted:
        return msg("Its prices are in {currency}, which has no exchange rate here.", currency=price.currency)
    if per_request is None and workload.batch and price.call(1, 1) is not None:
        return msg("No batch price is known for this model.")
    if per_request is None:
        return msg("A price needed for this is unknown. Set your own price.")
    if upfront is None:
        return msg("The training price is unknown. Set your own price.")
    return None
