"""Candidates side by side: what fits, what it costs, why it can't start; and the figures of an estimate."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest

from core import packaged_models
from core.actor import LOCAL
from core.datasets import datasets, export, versions
from core.db.store import Store
from core.engine.bases import suggestions
from core.errors import EngineMissing
from core.finetuning import candidates, job_cost, row_lengths, training_offers
from core.finetuning.candidates import TrainingCandidate, TrainingData
from core.finetuning.hyperparameter_translation import OldJob
from core.finetuning.training_offers import EngineView, Offer
from core.pricing import custom_prices
from core.pricing.price_book import PriceBook
from core.pricing.price_csv import PriceEntry
from core.providers import ModelInfo, Provider, Registry
from core.providers.engine_bases import EngineBase, EngineBases, SuggestedBase
from core.providers.schemas import TrainingDefaults

_TODAY = date(2026, 12, 1)
_MEMORY = 8_000_000_000
_AZURE = Provider("azure", "azure", "Azure OpenAI", "http://x/openai/v1", "k")
_TOGETHER = Provider("together", "together", "Together", "http://x/v1", "k")
_OPENAI = Provider("openai", "openai", "OpenAI", "http://x/v1", "k")


@pytest.fixture
def data(store: Store) -> TrainingData:
    rows = pd.DataFrame(
        {"prompt": ["Where is my order?", "Refund please", "x " * 300], "story": ["order", "refund", "other"]}
    )
    dataset_id = datasets.from_frame(store, LOCAL, "intents", rows, ["prompt"], "story", "chat")
    version_id = versions.freeze(store, LOCAL, dataset_id)
    return TrainingData(dataset_id, version_id, "intents", OldJob(hyperparameters={"n_epochs": 3}))


def _book(*own: PriceEntry) -> PriceBook:
    return PriceBook.load(own=own)


def _engine(**changes: Any) -> EngineView:
    suggested, too_large = list[SuggestedBase](), list[SuggestedBase]()
    fitting = suggestions.fitting(_MEMORY, 4_096, _MEMORY)
    for one in suggestions.every():
        (suggested if one in fitting else too_large).append(
            SuggestedBase(
                one.repo, one.shape.parameters, 4_096, one.shape.context, one.licence, one.gated, one.download_bytes,
                one.serving_bytes(4_096), one.training_bytes, 20.0, one.source, one.as_of,
            )
        )  # fmt: skip
    packaged = ModelInfo(
        packaged_models.BASE, "engine", None, "both", None, context=4_096, training=TrainingDefaults(16, 32.0, 1e-3)
    )
    tuned = ModelInfo("ft:x", "engine", packaged_models.BASE, "both", None)
    view = EngineView(
        (packaged, tuned),
        EngineBases((), tuple(suggested), _MEMORY, 10**11, 40.0, tuple(too_large), _MEMORY),
        {},
        150.0,
    )
    return replace(view, **changes)


def _base(model: str, training_bytes: int) -> EngineBase:
    return EngineBase(
        model, "huggingface", f"acme/{model}", "ready", None, "", "llama", "", 10**9, 4_096, 8_192, 1, 1, 1,
        training_bytes, 10.0, "", False, 0,
    )  # fmt: skip


def _found(store: Store, data: TrainingData, *providers: Provider, **more: Any) -> dict[str, TrainingCandidate]:
    book = more.get("book") or _book()
    offers = training_offers.list_offers(Registry(providers), book, more.get("engine") or _engine(), _TODAY)
    return {one.key: one for one in candidates.compare(store, book, data, offers, more.get("ask"))}


def test_every_model_is_listed_and_each_that_is_not_ready_says_why(store: Store, data: TrainingData) -> None:
    engine = _engine()
    big = ModelInfo("big", "engine", None, "both", None, not_trainable="it needs 24.0 GB and this machine has 8.0 GB")
    engine = replace(
        engine, models=(*engine.models, big), bases=replace(engine.bases, bases=(_base("big", 3 * _MEMORY),))
    )
    found = _found(store, data, _OPENAI, _TOGETHER, engine=engine)
    states = {key: one.offer.state for key, one in found.items()}
    assert {key.partition("/")[0] for key in states} == {"engine", "azure", "together"}  # OpenAI's accounts close
    assert states["engine/gemma-3-270m"] == "ready" and "engine/ft:x" not in states
    assert states["azure/gpt-4.1-mini-2025-04-14"] == "no_key"
    assert states["together/Qwen/Qwen3-8B"] == "ready"
    assert states["engine/Qwen/Qwen3-0.6B"] == "to_add"
    assert states["engine/Qwen/Qwen3-4B"] == states["engine/big"] == "unfit"
    assert "24.0 GB" in found["engine/big"].blocked and "8.0 GB" in found["engine/big"].blocked
    assert "Settings → Providers" in found["azure/gpt-4.1-mini-2025-04-14"].blocked
    assert all(one.blocked for one in found.values() if one.offer.state != "ready")


def test_those_that_can_start_come_first_and_the_lowest_price_first(store: Store, data: TrainingData) -> None:
    price = PriceEntry(
        "ft:gpt-4.1-nano-2025-04-14", "azure", "training", Decimal(1), "USD", "my contract", _TODAY,
        base_model="gpt-4.1-nano-2025-04-14",
    )  # fmt: skip
    found = list(_found(store, data, _AZURE, _TOGETHER, book=_book(price)).values())
    ready = [one for one in found if not one.blocked]
    assert found[: len(ready)] == ready
    assert ready[0].key == "engine/gemma-3-270m" and ready[0].price_usd == 0 and ready[0].machine_usd is None
    known = [one.price_usd for one in ready if one.price_usd is not None]
    assert known == sorted(known)
    assert [one.price_usd for one in ready[len(known) :]] == [None, None]  # Azure's other two models
    nano = next(one for one in ready if one.offer.model == "gpt-4.1-nano-2025-04-14")
    assert nano.price_usd == Decimal(nano.tokens) / 1_000_000
    assert "my contract" in nano.price_source


def test_an_unknown_price_stays_unknown(store: Store, data: TrainingData) -> None:
    found = _found(store, data, _AZURE)
    azure = found["azure/gpt-4.1-2025-04-14"]
    assert (azure.price_usd, azure.calls_usd, azure.seconds) == (None, None, None)
    assert candidates.total_usd([azure, found["engine/gemma-3-270m"]]) == (Decimal(0), 1)
    assert candidates.job_form(data, azure).estimated_usd is None
    shown = candidates.as_json(azure)
    assert (shown["price_usd"], shown["can_start"]) == (None, True)


def test_the_last_days_of_azure_are_those_of_its_retirement_schedule(store: Store, data: TrainingData) -> None:
    azure = _found(store, data, _AZURE)["azure/gpt-4.1-2025-04-14"]
    assert (azure.train_until, azure.callable_until) == (date(2027, 4, 14), date(2027, 10, 14))
    assert "learn.microsoft.com" in azure.offer.source and "deployed" in azure.offer.note
    late = training_offers.list_offers(Registry([_AZURE]), _book(), _engine(), date(2027, 4, 15))
    assert {one.state for one in late if one.provider == "azure"} == {"unfit"}


def test_tokens_are_those_of_the_new_job_s_estimate(store: Store, data: TrainingData) -> None:
    found = _found(store, data, _AZURE)
    selection = export.Selection(store, data.dataset_id, data.version_id)
    plan = export.plan(selection, "chat")
    count = export.count_tokens(plan, selection.examples(), "gpt-4.1-2025-04-14")
    azure = found["azure/gpt-4.1-2025-04-14"]
    assert (azure.tokens, azure.epochs, azure.exact) == (3 * count.tokens, 3, True)
    lengths = row_lengths.measure(store, data.dataset_id, data.version_id, "chat", "gpt-4.1-2025-04-14")
    assert lengths.rows == 3 and sum(lengths.of_rows) == count.tokens
    assert lengths.longest == azure.longest > 300

    asked: list[str] = []

    def ask(model: str, text: str) -> int:
        asked.append(model)
        return 1_000

    own = _found(store, data, ask=ask)["engine/gemma-3-270m"]
    assert set(asked) == {"gemma-3-270m"} and len(asked) == 3
    assert (own.tokens, own.exact) == (3 * (3_000 + 3 * export.CHAT_TOKENS), True)


def test_rows_that_are_longer_than_the_model_reads_block_it(store: Store, data: TrainingData) -> None:
    engine = _engine()
    packaged = replace(engine.models[0], context=100)
    short = replace(engine, models=(packaged,))
    counted = _found(store, data, engine=short, ask=lambda model, text: len(text))["engine/gemma-3-270m"]
    assert (counted.too_long, counted.exact, counted.caution) == (1, True, "")
    assert "(100 tokens): 1." in counted.blocked
    estimated = _found(store, data, engine=short)["engine/gemma-3-270m"]  # the tokenizer did not answer
    assert (estimated.too_long, estimated.exact, estimated.blocked) == (1, False, "")
    assert "probably longer than the model reads (100 tokens): 1." in estimated.caution
    whole = _found(store, data)["engine/gemma-3-270m"]
    assert (whole.too_long, whole.blocked) == (0, "")
    unknown = _found(store, data, _TOGETHER)["together/Qwen/Qwen3-8B"]
    assert (unknown.offer.context, unknown.too_long, unknown.blocked) == (None, None, "")


def test_together_bills_one_epoch_unless_told_otherwise_and_validation_rows(store: Store, data: TrainingData) -> None:
    split = versions.freeze(store, LOCAL, data.dataset_id, validation_share=0.34)
    found = versions.get(store, split)
    assert (found.n_train, found.n_validation) == (2, 1)
    every = _found(store, replace(data, version_id=split), _TOGETHER, _AZURE)
    together, azure = every["together/Qwen/Qwen3-8B"], next(one for key, one in every.items() if "azure/" in key)
    assert azure.epochs == together.epochs == 3
    rows = row_lengths.measure(store, data.dataset_id, split, together.file_format, together.offer.model)
    assert together.tokens == 3 * (rows.tokens + round(rows.tokens / 2))
    assert azure.tokens % 3 == 0 and azure.tokens < together.tokens
    chosen = [job_cost.estimate(store, _book(), one, "m", tokens=10, epochs=None, validation_tokens=4)
              for one in ("together", "together-2", "azure")]  # fmt: skip
    assert [(one.epochs, one.trained_tokens) for one in chosen] == [(1, 14), (1, 14), (3, 30)]


def test_machine_time_is_priced_once_an_hour_has_a_price(store: Store, data: TrainingData) -> None:
    custom_prices.set_machine_hour(store, LOCAL, "3.6")
    own = _found(store, data)["engine/gemma-3-270m"]
    assert own.seconds is not None and own.rough
    assert own.price_usd == 0 and own.machine_usd == Decimal("0.001") * Decimal(str(own.seconds))
    assert own.calls_s == 1_000 * own.completion_tokens / 40.0
    assert own.calls_usd == Decimal("0.001") * Decimal(str(own.calls_s))


def test_an_engine_that_does_not_answer_leaves_the_providers(store: Store, data: TrainingData) -> None:
    offers = training_offers.list_offers(
        Registry([_AZURE]), _book(), EngineMissing("The engine is not installed.", "Install it."), _TODAY
    )
    engine = next(one for one in offers if one.engine)
    assert (engine.state, engine.reason) == ("unfit", "The engine is not installed. Install it.")
    assert sum(one.state == "ready" for one in offers) == 3


def test_a_candidate_s_form_has_the_translated_values(store: Store, data: TrainingData) -> None:
    found = _found(
        store, replace(data, old=OldJob(hyperparameters={"n_epochs": 2, "batch_size": 64}, suffix="new")), _AZURE
    )
    azure = candidates.job_form(data, found["azure/gpt-4.1-2025-04-14"])
    assert (azure.n_epochs, azure.batch_size, azure.suffix, azure.file_format) == (2, 64, "new", "chat")
    engine = candidates.job_form(data, found["engine/gemma-3-270m"])
    assert (engine.n_epochs, engine.batch_size, engine.version_id) == (2, 32, data.version_id)
    assert engine.name == "intents · gemma-3-270m"
    engine.validate()


def test_models_of_a_file_are_dated_and_have_a_source() -> None:
    for one in training_offers.tunable_models():
        assert one.source.startswith("https://") and one.checked.year >= 2026
        assert isinstance(Offer("p", "P", one.model, "ready").key, str)
