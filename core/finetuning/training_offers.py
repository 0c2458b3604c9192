"""Which models could be trained: the engine's, and those of providers; each that can't be trained now has a reason.

Nothing is left out silently: a model that does not fit, or whose provider has no key, is an offer with a reason.
`data/tunable_models.csv` lists models of providers that do not report which of theirs can be trained.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from statistics import median
from typing import Final, Literal

from core import packaged_models
from core.db.store import Store
from core.errors import FabulaError
from core.finetuning import job_cost
from core.finetuning.job_form import context_size
from core.message import msg, sentences
from core.pricing.price_book import PriceBook
from core.pricing.prices import ENGINE, price_list, tuned_base
from core.providers import Client, ModelInfo, Registry, engine_bases
from core.providers.capabilities import Training
from core.providers.engine_bases import EngineBase, EngineBases, SuggestedBase
from core.providers.presets import all_presets
from core.providers.schemas import TrainingDefaults

OfferState = Literal["ready", "to_add", "no_key", "unfit"]
ADD_KEY: Final = msg("Add a key under Settings → Providers.")
_FILE = Path(__file__).parents[2] / "data" / "tunable_models.csv"
_REFERENCE = "-Reference"


@dataclass(frozen=True, slots=True)
class ProviderModel:
    """A model that a provider trains.

    Attributes:
        provider: the provider's name in the price lists.
        train_until, callable_until: last days, if announced.
        source, checked: where this is from, and the day it was read.
    """

    provider: str
    model: str
    context: int | None
    train_until: date | None
    callable_until: date | None
    source: str
    checked: date


@dataclass(frozen=True, slots=True)
class EngineView:
    """What the engine reports.

    Attributes:
        training_speeds: tokens per second of the latest training steps, by base model.
        packaged_speed: of the packaged base; None if unknown.
    """

    models: tuple[ModelInfo, ...]
    bases: EngineBases
    training_speeds: Mapping[str, float]
    packaged_speed: float | None


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that could be trained. None means unknown.

    Attributes:
        state: ready; to_add: the engine has to download it first; no_key: the provider is not set up; unfit: it can't
            be trained here.
        reason: why it is not ready, and what to do; "" if it is.
        trainer: the API of its jobs.
        parameters, defaults: of an engine's base.
        tokens_per_s: how fast the engine writes with it; training_tokens_per_s, scaled_tokens_per_s: how fast it
            trains, as measured with it, and as scaled from the packaged base.
        note: what to know before training it.
        source: where context and last days are from.
    """

    provider: str
    provider_name: str
    model: str
    state: OfferState
    reason: str = ""
    trainer: Training = "openai"
    context: int | None = None
    parameters: int | None = None
    defaults: TrainingDefaults | None = None
    tokens_per_s: float | None = None
    training_tokens_per_s: float | None = None
    scaled_tokens_per_s: float | None = None
    train_until: date | None = None
    callable_until: date | None = None
    note: str = ""
    source: str = ""

    @property
    def engine(self) -> bool:
        """Whether Fabula's engine trains it."""
        return self.provider == ENGINE

    @property
    def key(self) -> str:
        """Distinguishes offers."""
        return f"{self.provider}/{self.model}"


@cache
def tunable_models() -> tuple[ProviderModel, ...]:
    """The rows of `data/tunable_models.csv`."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_tunable(row) for row in csv.DictReader(file))


def list_offers(registry: Registry, book: PriceBook, engine: EngineView | FabulaError, today: date) -> list[Offer]:
    """All models that could be trained, without those of accounts that close to fine-tuning, such as OpenAI's.

    Args:
        engine: what the engine reports, or why it does not answer.
    """
    local = [*_engine_offers(engine)] if isinstance(engine, EngineView) else [_no_engine(engine)]
    return [*local, *_hosted(registry, book, today)]


def read_engine(store: Store, client: Client, *, measure: Callable[[], float] | None = None) -> EngineView:
    """Ask the engine for its models, bases and speeds.

    Args:
        measure: gives a rough training speed of this machine, if the engine runs on it (`measure_rough_speed`).

    Raises:
        FabulaError: it does not answer.
    """
    reported = client.engine_call("GET", "/health").get("training_speeds")
    items = reported.items() if isinstance(reported, Mapping) else ()
    speeds = {str(model): float(speed) for model, speed in items if isinstance(speed, int | float) and speed > 0}
    packaged = speeds.get(packaged_models.BASE)
    if packaged is None and (jobs := job_cost.measured_speeds(store, ENGINE, packaged_models.BASE)):
        packaged = median(jobs)
    if packaged is None and measure is not None:
        packaged = measure()
    return EngineView(tuple(client.models()), engine_bases.listed(client), speeds, packaged)


# --- the engine -------------------------------------------------------------------------------------------------------


def _no_engine(error: FabulaError) -> Offer:
    reason = sentences(error.what, error.next_step)
    return Offer(
        ENGINE, msg("The engine"), packaged_models.BASE, "unfit", reason, parameters=packaged_models.PARAMETERS
    )


def _engine_offers(engine: EngineView) -> Iterator[Offer]:
    here = {base.id: base for base in engine.bases.bases}
    for model in engine.models:
        if not model.is_tuned:
            yield _installed(engine, model, here.get(model.id))
    for one in engine.bases.suggested:
        size = _gigabytes(one.download_bytes)
        reason = msg("Add it first under Settings → Base models ({size} GB to download).", size=size)
        yield _suggested(engine, one, "to_add", reason)
    for one in engine.bases.too_large:
        yield _suggested(engine, one, "unfit", _too_big(one, engine.bases))


def _installed(engine: EngineView, model: ModelInfo, base: EngineBase | None) -> Offer:
    parameters = packaged_models.PARAMETERS if model.id == packaged_models.BASE else base.parameters if base else None
    reason: str = ""
    if model.not_trainable is not None:
        reason = msg("Can write, but can't be fine-tuned: {reason}.", reason=model.not_trainable)
    return Offer(
        ENGINE,
        msg("The engine"),
        model.id,
        "unfit" if reason else "ready",
        reason,
        context=model.context,
        parameters=parameters,
        defaults=model.training,
        tokens_per_s=base.tokens_per_s if base is not None else engine.bases.packaged_tokens_per_s,
        training_tokens_per_s=engine.training_speeds.get(model.id),
        scaled_tokens_per_s=packaged_models.scaled_speed(engine.packaged_speed, parameters or 0),
    )


def _suggested(engine: EngineView, one: SuggestedBase, state: OfferState, reason: str) -> Offer:
    return Offer(
        ENGINE,
        msg("The engine"),
        one.repo,
        state,
        reason,
        context=one.context,
        parameters=one.parameters,
        tokens_per_s=one.tokens_per_s,
        scaled_tokens_per_s=packaged_models.scaled_speed(engine.packaged_speed, one.parameters),
        source=one.source,
    )


def _too_big(one: SuggestedBase, bases: EngineBases) -> str:
    memory = bases.training_memory_bytes
    if memory is not None and one.training_bytes > memory:
        return msg(
            "Training needs about {needed} GB of memory; the engine's machine has {available} GB.",
            needed=_gigabytes(one.training_bytes),
            available=_gigabytes(memory),
        )
    return msg(
        "Writing needs about {needed} GB of memory; the engine's machine has {available} GB.",
        needed=_gigabytes(one.serving_bytes),
        available=_gigabytes(bases.memory_bytes),
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f}"


# --- providers --------------------------------------------------------------------------------------------------------


def _hosted(registry: Registry, book: PriceBook, today: date) -> Iterator[Offer]:
    companies = set[str]()
    for provider_id in registry.ids():
        if provider_id == ENGINE:
            continue
        companies.add(price_list(provider_id))
        yield from _of_provider(registry, book, provider_id, today)
    for preset in all_presets():
        if preset.id not in companies:
            for one in tunable_models():
                if one.provider == preset.id:
                    yield _hosted_offer(one, preset.id, preset.name, preset.capabilities.training, "no_key", ADD_KEY)


def _of_provider(registry: Registry, book: PriceBook, provider_id: str, today: date) -> Iterator[Offer]:
    company = price_list(provider_id)
    listed = {one.model: one for one in tunable_models() if one.provider == company}
    for model in _priced(book, {provider_id, company}):
        listed.setdefault(model, ProviderModel(company, model, context_size(model), None, None, "", today))
    try:
        provider = registry.provider(provider_id)
    except FabulaError as exc:  # its key can't be decrypted
        for one in listed.values():
            yield _hosted_offer(one, provider_id, provider_id, "openai", "unfit", sentences(exc.what, exc.next_step))
        return
    if provider.capabilities.training_closed is not None:
        return
    for one in listed.values():
        state: OfferState = "ready"
        reason: str = ""
        if one.train_until is not None and one.train_until < today:
            state, reason = "unfit", msg("The announced last day for training has passed: {day}.", day=one.train_until)
        yield _hosted_offer(one, provider_id, provider.name, provider.capabilities.training, state, reason)


def _priced(book: PriceBook, providers: Collection[str]) -> list[str]:
    """The models of these providers that have a price for training."""
    rows = (one for one in (*book.own, *book.overlay) if one.provider in providers)
    return list(
        dict.fromkeys(
            one.base_model or tuned_base(one.model) or one.model for one in rows if one.training_per_mtok is not None
        )
    )


def _hosted_offer(
    one: ProviderModel, provider: str, name: str, trainer: Training, state: OfferState, reason: str
) -> Offer:
    note = ""
    if trainer == "azure":
        note = msg("A tuned model must be deployed before it can be called, which is billed by the hour.")
    elif trainer == "together" and one.model.endswith(_REFERENCE):
        note = msg("Together can't host every model whose name ends in -Reference: check before you train.")
    return Offer(
        provider,
        name,
        one.model,
        state,
        reason,
        trainer,
        one.context,
        train_until=one.train_until,
        callable_until=one.callable_until,
        note=note,
        source=one.source,
    )


def _tunable(row: Mapping[str, str]) -> ProviderModel:
    days = {name: date.fromisoformat(row[name]) if row[name] else None for name in ("train_until", "callable_until")}
    context = int(row["context"]) if row["context"] else None
    return ProviderModel(
        row["provider"], row["model"], context, source=row["source"], checked=date.fromisoformat(row["checked"]), **days
    )
