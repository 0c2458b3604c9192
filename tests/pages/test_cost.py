"""The cost page through the frame: prices, a workload, and spending, in normal and failure cases."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pandas as pd
import pytest
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store, new_id
from core.db.tables import Evaluation, Spend, Story, TrainingJob, Vote
from core.finetuning import job_cost, job_views
from core.pricing import budget, bundled_prices, custom_prices, machine_time, spend
from core.pricing.comparison import compare
from core.pricing.machine_time import Speed
from core.settings import Settings
from pages.ui import cache
from pages.ui.components.money import local_price
from pages.ui.cost import cached_cost, price_choice, price_list, spending
from tests.support.app_pages import click, field, trouble, visit, words
from tests.support.price_address import price_server


def _table(at: AppTest, index: int = 0, by: str = "model") -> object:
    return at.dataframe[index].value.set_index(by)


def _trained(store: Store, *, tokens: int, seconds: float) -> str:
    """A finished job of the engine on its base."""
    started = datetime(2026, 11, 1, 8, tzinfo=UTC)
    with store.session() as session:
        session.add(TrainingJob(
            id="job", name="job", provider="engine", base_model="gemma-3-270m", status="succeeded",
            trained_tokens=tokens, training_s=seconds, created_by="local", cost_usd=Decimal(0), created_at=started,
            updated_at=started, finished_at=started + timedelta(seconds=seconds), n_examples=1, hyperparameters={},
            file_format="completion",
        ))  # fmt: skip
    return "job"


def _bars(at: AppTest) -> set[str]:
    """Names of the models in the price chart."""
    return set(convert_arrow_bytes_to_pandas_df(at.get("vega_lite_chart")[0].proto.data.data)["model"])


def _captions(at: AppTest) -> str:
    return "\n".join(caption.value for caption in at.caption)


# --- prices ---------------------------------------------------------------------------------------------------------


def test_the_page_opens_on_models_that_can_be_used_today(store: Store) -> None:
    at = visit("cost")
    table = at.dataframe[0].value
    assert {"gpt-6-luna", "claude-haiku-5-5", "gemini-3.8-flash", "gemma-3-270m"} <= set(table["model"])
    assert not any("retired" in note for note in table["note"])
    assert field(at, "cost_baseline").value == ("openai", "gpt-6-luna")


def test_every_model_of_the_first_comparison_has_a_price(store: Store) -> None:
    book = cache.prices()
    found = {key: book.find(*key) for key in price_choice._TODAY}
    assert not [key for key, price in found.items() if price is None or price.output_per_mtok is None]


def test_the_article_comes_out_with_its_sources_in_one_click(store: Store) -> None:
    at = click(visit("cost"), "cost_2023")
    assert "cost_2023" not in {button.key for button in at.button}
    table = at.dataframe[0].value.set_index("model")
    assert table.loc["ft:davinci", "multiple"] == 60 and table.loc["ft:curie", "multiple"] == 6
    assert "**60 ×**" in words(at)
    assert "Bundled price list (no network used): base models from genai-prices" in _captions(at)
    assert "6 rows were last checked over three months ago" in _captions(at)
    assert "stopped 2024-01-04" in table.loc["ft:curie", "note"]
    assert table.loc["gpt-3.5-turbo", "note"] == "price until 2023-06-13"  # the model is still available


@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_no_price_of_any_list_is_shown_as_another_or_as_nothing(store: Store, unit: int) -> None:
    book = cache.prices()
    for provider in price_choice.list_names(book):
        found = compare(book, ("openai", "gpt-4o-mini"), unit, prices=book.rows([provider]))
        shown = price_list._format(found, unit)
        for line in found:
            for amount in (line.input, line.cached_input, line.output, line.training):
                assert not amount or float(shown % amount) == pytest.approx(float(amount), rel=0.005), line.model


def _measured(store: Store, rate: str = "10", day: int = 29) -> None:
    found = Speed(Decimal(rate), "gemma-3-270m", datetime(2026, 11, day, 12, tzinfo=UTC))
    machine_time.save(store, LOCAL, found)


@pytest.mark.parametrize(
    ("hour", "currency", "speeds", "output"),
    [
        ("0.036", "USD", ["10"], Decimal(1)),
        ("0.36", "CNY", ["40", "10"], Decimal(10)),  # the newest measurement is used
        ("0.036", "USD", [], None),  # unknown until the speed has been measured
        ("0", "USD", [], Decimal(0)),
    ],
)
def test_the_engines_price_is_its_hour_over_the_speed_that_was_measured(
    store: Store, hour: str, currency: str, speeds: list[str], output: Decimal | None
) -> None:
    custom_prices.set_machine_hour(store, LOCAL, hour, currency)
    for day, rate in enumerate(speeds, 1):
        _measured(store, rate, day)
    (price,) = price_choice.here(cache.prices())
    training = Decimal(0) if hour == "0" else None  # no job with a measured training speed
    assert (price.output_per_mtok, price.training_per_mtok, price.currency) == (output, training, currency)


def test_training_is_priced_by_the_speed_of_finished_jobs(store: Store) -> None:
    custom_prices.set_machine_hour(store, LOCAL, "0.036")
    _measured(store, "10")
    _trained(store, tokens=10_000, seconds=100 + job_cost.STARTUP_S)
    (price,) = price_choice.here(cache.prices())
    assert (price.output_per_mtok, price.training_per_mtok) == (1, Decimal("0.1"))


def test_a_workload_trains_at_the_speed_of_finished_jobs(store: Store) -> None:
    custom_prices.set_machine_hour(store, LOCAL, "0.036")
    _measured(store, "10")
    _trained(store, tokens=10_000, seconds=100 + job_cost.STARTUP_S)  # 100 tokens/s: $0.10 per 1M
    table = visit("cost", cost_part="workload", work_file=1_000_000, work_epochs=2).dataframe[0].value
    assert table.set_index("way").loc["This machine", "upfront"] == pytest.approx(0.2)


def test_without_a_price_of_an_hour_the_engine_is_unknown_in_table_chart_and_workload(store: Store) -> None:
    at = visit("cost", cost_lists=["engine", "openai"])
    row = at.dataframe[0].value.set_index("model").loc["gemma-3-270m"]
    assert row[["input", "output", "training", "multiple"]].isna().all()
    assert "gemma-3-270m" not in _bars(at)
    ways = visit("cost", cost_part="workload").dataframe[0].value.set_index("way")
    assert pd.isna(ways.loc["This machine", "each"])


@pytest.mark.parametrize(
    ("hour", "job_cost", "story_cost"),
    [
        (None, None, None),
        (("0.36", "USD"), Decimal("0.01"), Decimal("0.001")),
        (("0", "USD"), Decimal(0), Decimal(0)),
        (("6.8012", "CNY"), Decimal(100) / 3_600, Decimal(10) / 3_600),
    ],
)
def test_spent_has_the_machine_time_of_jobs_and_stories(
    store: Store, hour: tuple[str, str] | None, job_cost: Decimal | None, story_cost: Decimal | None
) -> None:
    if hour is not None:
        custom_prices.set_machine_hour(store, LOCAL, *hour)
    job_id = _trained(store, tokens=10_000, seconds=100)
    with store.session() as session:
        session.add(Story(
            id="s", actor="local", provider="engine", model="m", prompt="p", parameters={}, text="t", duration_s=10.0,
        ))  # fmt: skip
    for reference in (job_id, "s"):
        _spend(store, "0", reference, provider="engine")
    table = visit("cost", cost_part="spent").dataframe[1].value
    found = {name: None if pd.isna(spent) else spent for name, spent in zip(table["name"], table["spent"], strict=True)}
    assert found == {name: cost and pytest.approx(float(cost)) for name, cost in (("job", job_cost), ("p", story_cost))}
    assert set(table["took"]) == {"2 min", "10 s"} and pd.Timestamp("2026-11-01T08:00:00Z") in list(table["began"])
    shown = job_views.get(store, job_id).cost_usd
    assert shown == (job_cost if job_cost is None else pytest.approx(job_cost))


def test_the_comparison_with_2023_has_a_way_back(store: Store) -> None:
    at = visit("cost")
    before = [field(at, key).value for key in ("cost_lists", "cost_baseline", "cost_unit")]
    click(at, "cost_2023")
    assert field(at, "cost_lists").value == ["engine", "openai-2023"]
    click(at, "cost_today")
    assert [field(at, key).value for key in ("cost_lists", "cost_baseline", "cost_unit")] == before


def test_the_speed_of_the_last_request_is_no_measurement(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = cache.status()
    status = replace(seen, engine=replace(seen.engine, tokens_per_s=3.0))
    monkeypatch.setattr(cache, "status", lambda: status)
    custom_prices.set_machine_hour(store, LOCAL, "0.036")
    (price,) = price_choice.here(cache.prices())
    assert price.output_per_mtok is None
    assert field(visit("cost", cost_part="workload"), "work_speed").value == ""


def test_an_hour_with_a_price_is_the_same_on_every_page(store: Store) -> None:
    _spend(store, "0", provider="engine", model="gemma-3-270m", tokens=1_000)
    with store.session() as session:
        for model in ("gemma-3-270m", "other"):
            session.add(Story(
                id=model, actor="local", provider="engine", model=model, prompt="p", parameters={}, text="t",
            ))  # fmt: skip
    with store.session() as session:
        session.add(
            Vote(id="v", actor="local", round_id="r", blind=True, story_ids=["gemma-3-270m", "other"], winner_id=None)
        )
    before = visit("cost", cost_lists=["engine", "openai"], cost_unit=1_000)
    assert pd.isna(before.dataframe[0].value.set_index("model").loc["gemma-3-270m", "output"])
    assert pd.isna(before.dataframe[1].value.set_index("model").loc["gemma-3-270m", "each"])
    custom_prices.set_machine_hour(store, LOCAL, "0.036")
    _measured(store, "10")
    cached_cost.forget()
    at = visit("cost", cost_lists=["engine", "openai"], cost_unit=1_000)
    priced = at.dataframe[0].value.set_index("model").loc["gemma-3-270m"]
    assert priced["output"] == 0.001 and pd.isna(priced["training"]) and "machine time" in priced["note"]
    assert at.dataframe[1].value.set_index("model").loc["gemma-3-270m", "each"] == 0.001
    assert "Measured on 2026-11-29: 10.0 tokens/s" in _captions(at)
    assert "free" not in local_price() and local_price(3_600) == "machine time: \\$0.0360"


def test_the_month_ends_with_its_last_day_also_when_midnight_comes_while_it_is_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC), *[datetime(2026, 12, 1, tzinfo=UTC)] * 9])
    monkeypatch.setattr(cached_cost, "utcnow", lambda: next(clock))
    found = spending.choose_period()
    assert (found.name, found.since, found.until, len(found.starts)) == (
        "2026-11", datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC), 30,
    )  # fmt: skip


def test_base_stands_beside_tuned_and_its_last_day_is_told(store: Store) -> None:
    table = visit("cost", cost_lists=["openai"]).dataframe[0].value.set_index("model")
    tuned = table.loc["ft:gpt-4o-mini-2024-07-18"]
    assert (tuned["over_base"], tuned["cached"], tuned["training"]) == (2, 0.00015, 0.003)
    assert "2027-01-14" in tuned["note"] and "no training after 2027-01-06" in tuned["note"]
    assert table.loc["gpt-4o-mini", "output"] == 0.0006


@pytest.mark.parametrize(
    ("kinds", "there", "gone"),
    [
        (["tuned"], "ft:gpt-4.1-2025-04-14", "gpt-4o-mini"),
        (["usable"], "gpt-4o-mini", "ft:gpt-3.5-turbo-0125"),
        (["trainable", "tuned"], "ft:gpt-4.1-2025-04-14", "ft:gpt-3.5-turbo-0125"),
        (["cached"], "gpt-4o-mini", "ft:davinci-002"),
        (["batch"], "gpt-4o-mini", "ft:davinci-002"),
    ],
)
def test_models_are_filtered_by_what_they_can_do(store: Store, kinds: list[str], there: str, gone: str) -> None:
    models = set(visit("cost", cost_lists=["openai"], cost_kinds=kinds).dataframe[0].value["model"])
    assert there in models and gone not in models


def test_prices_can_be_compared_by_training_and_per_million(store: Store) -> None:
    at = visit(
        "cost", cost_lists=["openai-2023"], cost_side="training", cost_unit=1_000_000,
        cost_baseline=("openai-2023", "ft:curie"),
    )  # fmt: skip
    table = at.dataframe[0].value.set_index("model")
    assert (table.loc["ft:davinci", "multiple"], table.loc["ft:davinci", "training"]) == (10, 30)
    assert "**10 ×**" in words(at)


def test_another_currency_is_shown_at_a_stated_rate(store: Store) -> None:
    at = visit("cost", cost_lists=["openai-2023", "dashscope"], cost_currency="CNY", cost_unit=1_000_000)
    table = at.dataframe[0].value.set_index("model")
    assert table.loc["ft:qwen3-32b", "output"] == 8 and "currency" not in table
    assert table.loc["gpt-3.5-turbo", "output"] == pytest.approx(13.6024)
    assert "European Central Bank, 2026-05-08" in _captions(at) and "¥" in words(at)
    field(at, "cost_rate").set_value("7.0").run()
    assert at.dataframe[0].value.set_index("model").loc["gpt-3.5-turbo", "output"] == 14
    field(at, "cost_currency").set_value("USD").run()
    assert at.dataframe[0].value.set_index("model").loc["ft:qwen3-32b", "output"] == pytest.approx(8 / 7)


def test_a_search_without_a_hit_says_what_to_do(store: Store) -> None:
    at = visit("cost", cost_search="no such model")
    assert "No model name matches." in words(at) and not at.dataframe


def test_a_list_without_such_a_model_says_so_and_shows_no_other(store: Store) -> None:
    filters: list[dict[str, Any]] = [
        {"cost_lists": ["voyageai"]},
        {"cost_lists": ["openai-2023"], "cost_kinds": ["cached"]},
    ]
    for state in filters:
        at = visit("cost", **state)
        assert "No model in these lists matches the filters." in words(at) and not at.dataframe and not trouble(at)


def test_newer_prices_are_fetched_when_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled_prices, "URL", "http://127.0.0.1:9/none")  # offline
    at = click(visit("cost", cost_lists=["openai"]), "cost_fetch")
    assert "The prices of 2026-11-10 remain in use" in at.warning[0].value.replace("\\", "") and not at.exception
    models = [{"id": "gpt-4o-mini", "match": {"equals": "gpt-4o-mini"}, "prices": {"input_mtok": 1, "output_mtok": 9}}]
    newer = [{"id": "openai", "name": "OpenAI", "api_pattern": "x", "models": models}]
    with price_server(json.dumps(newer).encode()) as address:
        monkeypatch.setattr(bundled_prices, "URL", address.url)
        click(at, "cost_fetch")
    assert at.dataframe[0].value.set_index("model").loc["gpt-4o-mini", "output"] == 0.009
    assert "from genai-prices, fetched just now" in _captions(at) and not at.warning
    click(at, "cost_packaged")
    assert at.dataframe[0].value.set_index("model").loc["gpt-4o-mini", "output"] == 0.0006
    assert "no network used" in _captions(at)


def test_every_list_together_is_one_table(store: Store) -> None:
    at = visit("cost")
    every = list(field(at, "cost_lists").options)
    assert len(every) > 40
    at = visit("cost", cost_lists=["openai-2023", "openai", "openrouter", "together", "aws", "google"])
    assert len(at.dataframe[0].value) > 900
    assert "are in the table only" in _captions(at)


def test_an_own_price_of_a_model_that_no_list_has_shows_up_at_once(store: Store) -> None:
    at = visit(
        "cost", cost_lists=["openai-2023"], cost_own=True, cost_own_provider="openai", cost_own_model="house-7b",
        cost_own_kind="output", cost_own_amount="0.15", cost_unit=1_000_000,
    )  # fmt: skip
    click(at, "cost_own_set")
    line = at.dataframe[0].value.set_index("model").loc["house-7b"]
    assert (line["output"], "your price" in line["note"]) == (0.15, True)
    assert "house-7b" in _bars(at)


def test_own_prices_of_a_provider_without_a_list_are_compared_on_opening(store: Store) -> None:
    custom_prices.set_price(store, LOCAL, provider="acme", model="house-7b", kind="output", amount="0.15")
    at = visit("cost", cost_unit=1_000_000)
    line = at.dataframe[0].value.set_index("model").loc["house-7b"]
    assert (line["output"], line["provider"]) == (0.15, "acme")
    assert "house-7b" in _bars(at)


def test_an_amount_that_can_be_read_in_two_ways_is_asked_for_again(store: Store) -> None:
    at = visit(
        "cost", cost_own=True, cost_own_provider="openai", cost_own_model="gpt-4o-mini", cost_own_kind="output",
        cost_own_amount="0,15",
    )  # fmt: skip
    click(at, "cost_own_set")
    assert "is ambiguous" in trouble(at) and "0.15" in trouble(at)
    assert custom_prices.list_custom(store) == [] and field(at, "cost_own_amount").value == "0,15"


def test_an_own_price_is_set_marked_and_taken_back(store: Store) -> None:
    at = visit(
        "cost", cost_lists=["openai"], cost_own=True, cost_own_provider="openai", cost_own_model="gpt-4o-mini",
        cost_own_kind="output", cost_own_amount="0.9",
    )  # fmt: skip
    click(at, "cost_own_set")
    assert next(
        at.expander[n] for n in range(len(at.expander)) if "Your own prices" in at.expander[n].label
    ).proto.expanded
    table = at.dataframe[0].value.set_index("model")
    assert table.loc["gpt-4o-mini", "output"] == 0.0009 and "your price" in table.loc["gpt-4o-mini", "note"]
    assert "**gpt-4o-mini** · openai: Output 0.9 USD / 1M tokens" in words(at).replace("\\", "")
    made = custom_prices.list_custom(store)[0]
    click(at, f"cost_own_remove_{made.id}")
    assert at.dataframe[0].value.set_index("model").loc["gpt-4o-mini", "output"] == 0.0006
    assert custom_prices.list_custom(store) == []


@pytest.mark.parametrize(
    ("typed", "hint", "refused"),
    [
        ({"amount": "cheap"}, "is not a number", "“cheap” is not a price for gpt"),
        ({"amount": "-1"}, "Enter a number from 0 to 100000.", "Enter a number from 0 to 100,000."),
        ({"amount": "100001"}, "Enter a number from 0 to 100000.", "Enter a number from 0 to 100,000."),
        ({"amount": "100.5", "unit": "ktok"}, "Enter a number from 0 to 100.", "Enter a number from 0 to 100."),
        (
            {"amount": "2", "kind": "batch_factor"},
            "Enter a number from 0 to 1.",
            "Enter a number from 0 to 1.",
        ),
        ({"amount": ""}, "", "The price has no amount."),
        ({"model": ""}, "", "A price needs a provider and a model."),
        (
            {"model": "m" * 201},
            "The text has 201 characters; the limit is 200. Shorten it.",
            "The model's name has 201 characters; the limit is 200.",
        ),
    ],
)
def test_what_cannot_be_a_price_is_told_with_what_is_allowed(
    store: Store, typed: dict[str, str], hint: str, refused: str
) -> None:
    form = {"provider": "openai", "model": "gpt-4o-mini", "kind": "output", "amount": "0.4"} | typed
    at = visit("cost", cost_own=True, **{f"cost_own_{name}": value for name, value in form.items()})
    assert hint in _captions(at).replace("\\", "")
    click(at, "cost_own_set")
    assert refused in trouble(at).replace("\\", "")
    assert custom_prices.list_custom(store) == []


def test_a_broken_price_file_is_told_and_the_other_parts_work(store: Store) -> None:
    home = Settings.from_env().home
    (home / "prices.csv").write_text("model,price\nm,1\n", encoding="utf-8")
    at = visit("cost")
    assert "has no column" in trouble(at)
    assert not visit("cost", cost_part="spent").error


def test_names_that_look_like_markup_are_text(store: Store) -> None:
    custom_prices.set_price(store, LOCAL, provider="p", model="![x](http://evil/a.png)", kind="output", amount="1")
    at = visit("cost", cost_lists=["p"], cost_own=True, cost_baseline=("p", "![x](http://evil/a.png)"))
    assert not any("![x](" in text.value for text in at.markdown)


# --- my workload ----------------------------------------------------------------------------------------------------


def test_a_workload_is_answered_in_a_sentence(store: Store) -> None:
    at = visit("cost", cost_part="workload")
    assert "breaks even with gpt" in words(at) and "23,371 stories**: 3 weeks" in words(at)
    table = at.dataframe[0].value.set_index("way")
    assert table.loc["tuned gpt-4o-mini", "upfront"] == 1.56
    assert table.loc["gpt-4o-mini", "thousand"] == pytest.approx(0.38325)
    assert table["each"].isna()["This machine"]
    assert "Sensitivity (±20 %)" in words(at) and "16 days to 6 weeks" in words(at)
    field(at, "work_context").set_value(0).run()
    assert "never breaks even" in words(at)


def test_the_articles_reasoning_can_be_repeated(store: Store) -> None:
    at = visit(
        "cost", cost_part="workload", work_tuned=("openai-2023", "ft:curie"),
        work_base=("openai-2023", "gpt-3.5-turbo"), work_file=1_229_945, work_epochs=1, work_prompt=15,
        work_story=500, work_context=6_000,
    )  # fmt: skip
    table = at.dataframe[0].value.set_index("way")
    assert table.loc["tuned curie", "upfront"] == pytest.approx(3.689835)
    assert "breaks even with gpt-3.5-turbo" in words(at)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"work_requests": 100}, "will be shut down on 2027-01-14, before it breaks even"),
        ({"work_requests": 10_000_000}, "Stops on 2027-01-14, 53 days left."),
        ({"work_tuned": ("openai-2023", "ft:curie")}, "Stopped on 2024-01-04"),
    ],
)
def test_a_model_that_will_not_be_there_is_told(
    store: Store, state: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_cost, "now", lambda: datetime(2026, 11, 22, tzinfo=UTC))
    at = visit("cost", cost_part="workload", **state)
    assert says in words(at)


def test_without_a_rate_the_answer_names_no_time(store: Store) -> None:
    at = visit("cost", cost_part="workload", work_requests=0)
    assert "breaks even with gpt-4o-mini after **23,371 stories**." in words(at)


def test_this_machine_counts_once_its_hour_has_a_price(store: Store) -> None:
    at = visit("cost", cost_part="workload", work_speed="40")
    assert "Enter the cost per hour of this machine" in _captions(at)
    field(at, "work_hour").set_value("0.036").run()
    assert custom_prices.machine_hour(store) == (Decimal("0.036"), "USD")
    table = at.dataframe[0].value.set_index("way")
    assert table.loc["This machine", "each"] == pytest.approx(0.000065)
    assert pd.isna(table.loc["This machine", "upfront"])
    assert "training speed of this machine is unknown until a job has finished" in _captions(at)
    assert "\\$0.2500 per 1M tokens written" in _captions(at)


@pytest.mark.parametrize(
    ("typed", "kept"),
    [("0,15", None), ("1,5", None), ("0，15", None), ("15 cents", None), ("1,000", "1000"), ("0.15", "0.15")],
)
def test_a_comma_never_makes_an_hour_a_hundred_times_dearer(store: Store, typed: str, kept: str | None) -> None:
    at = visit("cost", cost_part="workload", work_speed="40")
    field(at, "work_hour").set_value(typed).run()
    hour = custom_prices.machine_hour(store)
    assert (hour and hour[0]) == (None if kept is None else Decimal(kept))
    assert (typed in trouble(at)) == (kept is None)


@pytest.mark.parametrize(
    ("key", "state"),
    [
        ("work_speed", {"cost_part": "workload"}),
        ("cost_rate", {}),
        ("cost_budget_amount", {"cost_part": "spent", "cost_budgets": True}),
    ],
)
def test_every_decimal_field_asks_what_a_comma_means(store: Store, key: str, state: dict[str, Any]) -> None:
    at = visit("cost", **state, **{key: "1,5"})
    assert "is ambiguous" in _captions(at)


def test_a_budget_with_an_unclear_comma_is_not_set(store: Store) -> None:
    at = visit("cost", cost_part="spent", cost_budgets=True, cost_budget_amount="0,15")
    click(at, "cost_budget_set")
    assert budget.budgets(store) == [] and "ambiguous" in trouble(at)


def test_this_machines_hour_can_be_in_yuan_and_is_converted_at_the_stated_rate(store: Store) -> None:
    at = visit("cost", cost_part="workload", work_speed="40")
    field(at, "work_hour_currency").set_value("CNY").run()
    assert custom_prices.machine_hour(store) is None and not trouble(at)  # no amount yet
    field(at, "work_hour").set_value("0.036").run()
    assert custom_prices.machine_hour(store) == (Decimal("0.036"), "CNY")
    assert "¥0.2500 per 1M tokens written" in _captions(at)
    assert "Converted at 6.8012 yuan per US dollar" in _captions(at)
    table = at.dataframe[0].value.set_index("way")
    assert table.loc["This machine", "each"] == pytest.approx(0.000065 / 6.8012)
    field(at, "work_hour_currency").set_value("USD").run()
    assert custom_prices.machine_hour(store) == (Decimal("0.036"), "USD")
    assert "Converted" not in _captions(at)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"work_tuned": ("together", "ft:Qwen/Qwen3-8B")}, "A price needed for this is unknown"),
        ({"work_batch": True, "work_base": ("openai-2023", "gpt-3.5-turbo")}, "No batch price is known"),
        ({"work_tuned": ("azure", "ft:o4-mini-2025-04-16")}, "The training price is unknown"),
    ],
)
def test_what_is_unknown_is_said(store: Store, state: dict[str, Any], says: str) -> None:
    at = visit("cost", cost_part="workload", **state)
    assert says in _captions(at)
    assert ": unknown, a price is missing" in words(at)


def test_numbers_are_measured_from_a_data_set(store: Store) -> None:
    made = datasets.load_sample(store, LOCAL, "ultraman_stories_more")
    at = visit("cost", cost_part="workload")
    field(at, "work_dataset").set_value(made).run()
    assert "Measured on" in _captions(at) and "counted exactly" in _captions(at)
    assert field(at, "work_story").value > 100
    assert field(at, "work_file").value > 10_000


# --- spent ----------------------------------------------------------------------------------------------------------


def _spend(
    store: Store,
    cost: str | None,
    reference: str = "r",
    *,
    provider: str = "openai",
    model: str = "m",
    tokens: int = 20,
) -> None:
    with store.session() as session:
        spend.record(
            session, LOCAL, "story", provider=provider, model=model, reference=reference, prompt_tokens=10,
            completion_tokens=tokens, cost_usd=None if cost is None else Decimal(cost),
        )  # fmt: skip


def test_an_empty_month_says_so_and_budgets_can_be_set_already(store: Store) -> None:
    at = visit("cost", cost_part="spent", cost_budgets=True, cost_budget_amount="20")
    assert "No calls this month" in words(at)
    click(at, "cost_budget_set")
    assert [one.amount_usd for one in budget.budgets(store)] == [20]
    click(at, "cost_budget_remove_month_")
    assert budget.budgets(store) == []


def test_the_month_stands_against_its_budget(store: Store) -> None:
    for cost in ("1.5", "0.5", None):
        _spend(store, cost)
    budget.set_budget(store, LOCAL, "month", Decimal(8))
    at = visit("cost", cost_part="spent")
    assert "**$2.00** of **$8.00** spent this month, $6.00 left" in words(at)
    assert {metric.label: metric.value for metric in at.metric}["Calls with an unknown cost"] == "1"
    assert at.dataframe[0].value.iloc[0]["spent"] == 2
    assert at.dataframe[1].value.iloc[0]["calls"] == 3


@pytest.mark.parametrize(
    ("known", "unknown", "sentence", "cell"),
    [
        ((), ("0.5",), "**unknown** of **$8.00** spent this month, $7.50 left", None),
        ((), ("0.5", "0.25"), "**unknown** of **$8.00** spent this month, $7.25 left", None),
        ((), (None,), "**unknown** of **$8.00** spent this month, $8.00 left", None),
        (("2",), ("0.5",), "**$2.00** of **$8.00** spent this month, $5.50 left", 2),
    ],
)
def test_an_unknown_cost_is_not_shown_as_zero(
    store: Store, known: tuple[str, ...], unknown: tuple[str | None, ...], sentence: str, cell: float | None
) -> None:
    """`unknown`: the highest possible costs, which count against the budget."""
    for cost in known:
        _spend(store, cost)
    for most in unknown:
        with store.session() as session:
            spend.record(
                session, LOCAL, "dataset", provider="openai", model="m", reference="r",
                estimated_usd=None if most is None else Decimal(most),
            )  # fmt: skip
    budget.set_budget(store, LOCAL, "month", Decimal(8))
    at = visit("cost", cost_part="spent")
    assert sentence in words(at)
    at_most = sum(Decimal(most or 0) for most in unknown)
    assert (f"at their highest possible cost, ${at_most:.4f} together" in words(at)) is bool(at_most)
    assert {metric.label: metric.value for metric in at.metric}["Calls with an unknown cost"] == str(len(unknown))
    spent = [None if pd.isna(value) else value for value in at.dataframe[0].value["spent"]]
    assert spent == ([cell] if cell else []) + [None]


def test_a_budget_of_nothing_is_a_budget(store: Store) -> None:
    _spend(store, "2")
    budget.set_budget(store, LOCAL, "month", Decimal(0))
    said = words(visit("cost", cost_part="spent"))
    assert "**$2.00** of **$0** spent this month, $0 left" in said and "No budget" not in said
    assert "This budget blocks every paid request." in said


def test_a_budget_without_an_amount_says_what_is_missing(store: Store) -> None:
    _spend(store, "2")
    at = visit("cost", cost_part="spent", cost_budgets=True)
    click(at, "cost_budget_set")
    assert "The budget has no amount." in trouble(at)
    assert budget.budgets(store) == []


def test_an_earlier_month_and_all_time_can_be_chosen_and_the_export_follows(store: Store) -> None:
    _spend(store, "2")
    assert "cost_period" not in visit("cost", cost_part="spent").session_state  # nothing to choose from
    now = datetime.now(UTC)
    before = (now.replace(day=1) - timedelta(days=1)).replace(day=3)
    with store.session() as session:
        made = spend.record(
            session, LOCAL, "story", provider="openai", model="old", reference="o", prompt_tokens=1, cost_usd=Decimal(5)
        )
        session.get_one(Spend, made).created_at = before
    budget.set_budget(store, LOCAL, "month", Decimal(8))
    cached_cost.forget()
    at = visit("cost", cost_part="spent")
    assert "**$2.00** of **$8.00** spent this month" in words(at)
    field(at, "cost_period").set_value(f"{before:%Y-%m}").run()
    assert f"Spent in {before:%Y-%m}: **$5.00**" in words(at) and "No budget" not in words(at)
    assert list(at.dataframe[0].value["model"]) == ["old"] and len(at.dataframe[1].value) == 1
    field(at, "cost_period").set_value("all").run()
    assert f"Spent since {before:%Y-%m}: **$7.00**" in words(at)
    assert len(at.dataframe[0].value) == 2
    assert at.get("download_button")[0].proto.label == "Download every call as CSV"


@pytest.mark.parametrize(("cost", "charts"), [("0", 0), ("0.01", 1)])
def test_a_month_that_cost_nothing_has_no_empty_chart(store: Store, cost: str, charts: int) -> None:
    _spend(store, cost)
    at = visit("cost", cost_part="spent")
    assert len(at.get("vega_lite_chart")) == charts and len(at.dataframe) == 2


def test_a_cost_that_nobody_knows_is_unknown_in_every_table(store: Store) -> None:
    _spend(store, None)
    at = visit("cost", cost_part="spent")
    assert at.dataframe[0].value["spent"].isna().all() and at.dataframe[1].value["spent"].isna().all()
    assert "Spent this month: **unknown**. No budget is set." in words(at)


# --- quality and price -------------------------------------------------------------------------------------------


def test_quality_stands_beside_price(store: Store) -> None:
    assert "No votes or evaluations yet" in _captions(visit("cost"))
    ids = []
    with store.session() as session:
        for model in ("good", "thrifty"):
            story = Story(
                id=new_id(), actor="local", provider="openai", model=model, prompt="p", parameters={}, text="t"
            )
            session.add(story)
            ids.append(story.id)
            spend.record(
                session, LOCAL, "story", provider="openai", model=model, reference="s", prompt_tokens=1,
                completion_tokens=1, cost_usd=Decimal("0.3") if model == "good" else Decimal("0.01"),
            )  # fmt: skip
        for winner in (ids[0], ids[0], ids[1]):
            session.add(
                Vote(id=new_id(), actor="local", round_id=new_id(), blind=True, story_ids=ids, winner_id=winner)
            )
        session.add(
            Evaluation(
                id=new_id(), dataset_id="d", provider="openai", model="dark", kind="label", settings={}, state="done",
                total=9, metrics={"accuracy": {"value": 0.5, "low": 0.23, "high": 0.77, "n": 9}}, created_by="local",
            )
        )  # fmt: skip
    cached_cost.forget()
    at = visit("cost")
    assert "No clear winner yet: **good** has 66.7 % of 3 blind rounds" in words(at)
    assert "**thrifty** may be as good" in words(at)
    assert "1 result is not in the chart" in _captions(at)
    table = at.dataframe[-1].value.set_index("model")
    assert table.loc["good", "preferred"] == pytest.approx(0.45) and table.loc["good", "each"] == pytest.approx(0.3)
    assert pd.isna(table.loc["dark", "preferred"]) and table.loc["dark", "interval"] == "23 % – 77 %"
    at = visit("cost", locale="zh-CN")
    assert not at.exception
