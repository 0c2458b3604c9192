"""Candidates for a new training, side by side before anything is paid: tokens, price, time, and what each call costs.

`compare` gives a table for one data set and version. Begin there. `job_form` makes the form of a candidate's job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, Final

from core.datasets import datasets, prompt_datasets, versions
from core.datasets.importers import table_reader
from core.db.store import Store
from core.engine.job_rules import TrainingMethod
from core.finetuning import hyperparameter_translation, job_cost, row_lengths
from core.finetuning.hyperparameter_translation import OldJob, Translation
from core.finetuning.job_form import FileFormat, JobForm, context_size, required_format
from core.finetuning.row_lengths import RowLengths
from core.finetuning.training_offers import Offer
from core.message import msg
from core.pricing import custom_prices, machine_time, tokens
from core.pricing.price_book import PriceBook, cost_of
from core.pricing.prices import ENGINE
from core.providers.schemas import TrainingDefaults

CALLS: Final = 1_000
"""The price of calls is for this many."""
_NAME_LENGTH = 190  # characters


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What the candidates are for.

    Attributes:
        name: of the new jobs; the candidate's model is added.
        version_id: None means all finished rows.
        validation_share: without a version, the share of the rows that is kept to compare models, 0 to 1.
        old: the job to repeat; None if there is none.
    """

    dataset_id: str
    version_id: str | None
    name: str
    old: OldJob | None = None
    validation_share: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingCandidate:
    """One model, and what training it on the data set would mean. None means unknown, never 0.

    Attributes:
        tokens: that are trained and billed, over all epochs; exact: whether the model's own vocabulary counted them.
        price_usd: of the training; on the engine 0, because there is no bill (`machine_usd` is its machine time).
        seconds: training time, with its source in `basis`.
        calls_usd: of `CALLS` calls with the mean lengths of the rows; calls_s: how long the engine works for them.
        hosting_usd: per hour in which the model is deployed.
        longest: tokens of the longest row; too_long: rows that are longer than the model reads (see `exact`).
        price_source, calls_source: where the prices are from.
    """

    offer: Offer
    file_format: FileFormat
    rows: int
    epochs: int
    tokens: int
    exact: bool
    price_usd: Decimal | None
    machine_usd: Decimal | None
    seconds: float | None
    basis: str
    rough: bool
    calls_usd: Decimal | None
    calls_s: float | None
    hosting_usd: Decimal | None
    prompt_tokens: int
    completion_tokens: int
    train_until: date | None
    callable_until: date | None
    longest: int
    too_long: int | None
    translation: Translation
    price_source: str
    calls_source: str

    @property
    def key(self) -> str:
        """Distinguishes the candidates of a table."""
        return self.offer.key

    @property
    def blocked(self) -> str:
        """Why its training can't be started now, and what to do; "" if it can."""
        if self.offer.reason:
            return self.offer.reason
        if self.too_long and self.exact:
            return msg(
                "Rows longer than the model reads ({context} tokens): {n}. The longest has {longest}. Shorten or "
                "remove them, or choose a model that reads more.",
                n=f"{self.too_long:,}",
                context=f"{self.offer.context or 0:,}",
                longest=f"{self.longest:,}",
            )
        return ""

    @property
    def caution(self) -> str:
        """What may go wrong although its training can be started; "" if nothing is known."""
        if not self.too_long or self.exact:
            return ""
        return msg(
            "Rows that are probably longer than the model reads ({context} tokens): {n}. Their tokens are estimated.",
            n=f"{self.too_long:,}",
            context=f"{self.offer.context or 0:,}",
        )


def compare(
    store: Store,
    book: PriceBook,
    data: TrainingData,
    offers: list[Offer],
    ask: Callable[[str, str], int] | None = None,
) -> list[TrainingCandidate]:
    """The candidates for a data set, those that can be started first, the lowest price first.

    Args:
        ask: counts a text with the tokenizer of an engine's model, given as (model, text).

    Raises:
        BadTrainingFile: the data set has no rows to train on.
        NotFound: the data set or version does not exist.
    """
    measured: dict[object, RowLengths] = {}
    usual = _usual_format(store, data.dataset_id)
    repeats_dpo = data.old is not None and data.old.method == "dpo"
    has_preferences = repeats_dpo and bool(datasets.preference_rows(store, data.dataset_id, data.version_id))
    found = []
    for offer in offers:
        file_format = required_format(offer.provider, offer.model) or usual
        own = ask is not None and offer.engine and offer.state == "ready"
        method: TrainingMethod = "dpo" if offer.engine and has_preferences else "supervised"
        key = (method, file_format, offer.model if own else tokens.encoding_of(offer.model))
        if key not in measured:
            counts = _counter(ask, offer.model) if own and ask is not None else None
            measured[key] = row_lengths.measure(
                store, data.dataset_id, data.version_id, file_format, offer.model, counts, method
            )
        found.append(_candidate(store, book, data, offer, file_format, measured[key], has_preferences))
    return sorted(found, key=_place)


def job_form(data: TrainingData, candidate: TrainingCandidate) -> JobForm:
    """The form of a candidate's job, with the translated hyperparameters and the estimate."""
    return JobForm(
        dataset_id=data.dataset_id,
        name=f"{data.name} · {candidate.offer.model}"[:_NAME_LENGTH],
        provider=candidate.offer.provider,
        base_model=candidate.offer.model,
        suffix=candidate.translation.suffix,
        method=candidate.translation.method,
        file_format=candidate.file_format,
        version_id=data.version_id,
        validation_share=data.validation_share,
        estimated_usd=candidate.price_usd,
        estimated_s=candidate.seconds,
        **candidate.translation.values,
    )


def as_json(candidate: TrainingCandidate) -> Mapping[str, Any]:
    """A candidate for JSON: figures, reasons and sources; amounts as text, unknown ones as null."""
    record = asdict(candidate)
    record["can_start"], record["blocked"] = not candidate.blocked, str(candidate.blocked)
    return record


def total_usd(chosen: list[TrainingCandidate]) -> tuple[Decimal, int]:
    """The sum of the known prices of several candidates, and how many prices are unknown."""
    known = [one.price_usd for one in chosen if one.price_usd is not None]
    return sum(known, Decimal(0)), len(chosen) - len(known)


def _counter(ask: Callable[[str, str], int], model: str) -> Callable[[str], int]:
    return lambda text: ask(model, text)


def _usual_format(store: Store, dataset_id: str) -> FileFormat:
    """The format that the form of a new job proposes for this data set."""
    source = datasets.summary(store, dataset_id).source
    return "chat" if source in (table_reader.CHAT, prompt_datasets.SOURCE) else "completion"


def _place(candidate: TrainingCandidate) -> tuple[bool, bool, Decimal, float, str]:
    price = candidate.price_usd
    seconds = float("inf") if candidate.seconds is None else candidate.seconds
    return bool(candidate.blocked), price is None, price or Decimal(0), seconds, candidate.key


def _candidate(
    store: Store,
    book: PriceBook,
    data: TrainingData,
    offer: Offer,
    file_format: FileFormat,
    lengths: RowLengths,
    has_preferences: bool,
) -> TrainingCandidate:
    defaults = offer.defaults or TrainingDefaults(None, None, 0.0)
    translation = hyperparameter_translation.translate(
        data.old or OldJob(),
        offer.trainer,
        engine=offer.engine,
        defaults=None if offer.defaults is None else defaults,
        rows=lengths.rows,
        has_preferences=has_preferences,
    )
    estimate = job_cost.estimate(
        store,
        book,
        offer.provider,
        offer.model,
        tokens=lengths.tokens,
        epochs=translation.values.get("n_epochs"),
        examples=lengths.rows,
        speed=offer.training_tokens_per_s,
        rough_speed=offer.scaled_tokens_per_s,
        validation_tokens=_validation_tokens(store, data, lengths.tokens),
    )
    tuned, training = book.find(offer.provider, f"ft:{offer.model}"), book.training_price(offer.provider, offer.model)
    context = offer.context or context_size(offer.model)
    hour = custom_prices.machine_hour(store)
    calls_s = _engine_seconds(offer, lengths)
    calls_usd = cost_of(book, offer.provider, f"ft:{offer.model}", lengths.prompt_tokens, lengths.completion_tokens)
    if offer.engine:
        calls_usd = machine_time.work_usd(hour, ENGINE, None, calls_s)
    elif calls_usd is not None:
        calls_usd *= CALLS
    return TrainingCandidate(
        offer=replace(offer, context=context),
        file_format=file_format,
        rows=lengths.rows,
        epochs=estimate.epochs,
        tokens=estimate.trained_tokens,
        exact=lengths.exact,
        price_usd=estimate.cost_usd,
        machine_usd=machine_time.work_usd(hour, ENGINE, None, estimate.seconds) if offer.engine else None,
        seconds=estimate.seconds,
        basis=estimate.basis,
        rough=estimate.rough,
        calls_usd=calls_usd,
        calls_s=calls_s,
        hosting_usd=None if tuned is None or tuned.local else tuned.hosting_per_hour,
        prompt_tokens=lengths.prompt_tokens,
        completion_tokens=lengths.completion_tokens,
        train_until=offer.train_until or estimate.train_until,
        callable_until=offer.callable_until or estimate.callable_until,
        longest=lengths.longest,
        too_long=None if context is None else lengths.longer_than(context),
        translation=translation,
        price_source="" if training is None or offer.engine else f"{training.source}, {training.checked}",
        calls_source="" if tuned is None or offer.engine else f"{tuned.source}, {tuned.checked}",
    )


def _validation_tokens(store: Store, data: TrainingData, trained: int) -> int:
    """Tokens of a version's validation rows, by their number. Without a version, those rows are among the counted."""
    if data.version_id is None:
        return 0
    version = versions.get(store, data.version_id)
    return round(trained * version.n_validation / max(1, version.n_train))


def _engine_seconds(offer: Offer, lengths: RowLengths) -> float | None:
    """Seconds that the engine writes for `CALLS` answers, one after another; None if its speed is unknown."""
    if not offer.engine or not offer.tokens_per_s:
        return None
    return CALLS * lengths.completion_tokens / offer.tokens_per_s
