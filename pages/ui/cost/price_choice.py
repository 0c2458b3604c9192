"""The controls for a price comparison: price lists, baseline, unit and search; more filters and the currency in a
popover.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import streamlit as st

from core import packaged_models
from core.db.tables import utcnow
from core.pricing import machine_time
from core.pricing.comparison import Side
from core.pricing.price_book import PriceBook
from core.pricing.prices import ENGINE, USD, YUAN, ExchangeRate, Key, Price, unknown_price
from pages.ui import cache, state, visible
from pages.ui.components import fields, models, shutdown_notes
from pages.ui.cost import cached_cost
from pages.ui.i18n import _, mark

ARTICLE = "openai-2023"
TODAY = "today"
OWN = "own"
UNITS = {1_000: mark("1k"), 1_000_000: mark("1M")}
_BASELINES: tuple[Key, ...] = ((ARTICLE, "gpt-3.5-turbo"), ("openai", "gpt-6-luna"), ("openai", "gpt-4o-mini"))
_TODAY: tuple[Key, ...] = (
    ("openai", "ft:gpt-4o-mini-2024-07-18"),
    ("openai", "ft:gpt-4.1-mini-2025-04-14"),
    ("openai", "gpt-6-luna"),
    ("openai", "gpt-6.1-terra"),
    ("openai", "gpt-6.1-sol"),
    ("anthropic", "claude-haiku-5-5"),
    ("anthropic", "claude-sonnet-5-5"),
    ("google", "gemini-3.1-flash-lite"),
    ("google", "gemini-3.8-flash"),
    ("deepseek", "deepseek-v4-flash"),
    ("mistral", "mistral-small-latest"),
    ("dashscope", "ft:qwen3-8b"),
    ("dashscope", "ft:qwen3-32b"),
    ("zhipuai", "GLM-5.3-Flash"),
)
"""A first comparison: tuned models that can still be used, and each large provider's small and medium model."""
_FIRST = (ENGINE, ARTICLE, "openai", "azure", "anthropic", "google", "deepseek", "mistral", "together")
_CHINESE = ("dashscope", "dashscope-intl", "zhipuai", "moonshotai")
_PROPER = {
    "azure": "Azure",
    "anthropic": "Anthropic",
    "google": "Google",
    "deepseek": "DeepSeek",
    "mistral": "Mistral",
    "together": "Together",
    "dashscope": "DashScope",
    "dashscope-intl": "DashScope (Singapore)",
    "zhipuai": "Zhipu",
    "moonshotai": "Moonshot",
}
_KINDS = {
    "tuned": mark("Tuned models"),
    "trainable": mark("Can be tuned"),
    "cached": mark("Has a cached price"),
    "batch": mark("Has a batch price"),
    "usable": mark("Still available"),
}
_LISTS_OF_TODAY = [ENGINE, TODAY, OWN]
_LISTS_OF_2023 = [ENGINE, ARTICLE]
_FEW_MODELS = 12  # more would hide the others in the chart
_BEFORE = "cost_before_2023"
_RATES = (Decimal("0.01"), Decimal(1_000))  # yuan per US dollar: accepted range


@dataclass(frozen=True, slots=True)
class PriceChoice:
    """What the visitor compares, and how. `prices` is empty if no model in the lists matches the filters."""

    unit: int
    baseline: Key
    prices: tuple[Price, ...]
    search: str
    side: Side
    currency: str
    rate: ExchangeRate


def controls(book: PriceBook) -> PriceChoice:
    """Render the lists in one row; baseline, unit, search and a popover with the rest in the next row."""
    names = list_names(book)
    found = rows(book, _lists(names))
    kinds = state.get("cost_kinds") or []
    prices = tuple(price for price in found if all(_matches(kind, price, book) for kind in kinds))
    keys = [price.key for price in prices or found or book.rows([ARTICLE])]
    if state.get("cost_baseline") not in keys:
        state.set_value("cost_baseline", _first_baseline(keys, prices or found))
    labels = {
        key: shutdown_notes.with_date(
            f"{key[1]} · {names.get(key[0], key[0])}", shutdown_notes.notice_of(*key, book=book)
        )
        for key in keys
    }
    with st.container(horizontal=True, vertical_alignment="bottom"):
        baseline = st.selectbox(
            _("Baseline (1 ×)"),
            keys,
            format_func=labels.__getitem__,
            key="cost_baseline",
            width=380,
            persist_state="session",
        )
        state.set_default("cost_unit", 1_000)
        unit = st.segmented_control(
            _("Price per"),
            list(UNITS),
            format_func=lambda unit: _("{unit} tokens").format(unit=_(UNITS[unit])),
            required=True,
            key="cost_unit",
            persist_state="session",
        )
        search = st.text_input(
            _("Search"), key="cost_search", placeholder=_("Part of a model name"), width=240, persist_state="session"
        )
        with st.popover(_("More"), icon=":material/tune:"):
            side, currency, rate = _more()
    return PriceChoice(unit or 1_000, baseline or keys[0], prices, (search or "").strip().lower(), side, currency, rate)


def _lists(names: Mapping[str, str]) -> list[str]:
    """The lists to compare, with a button for the article's prices."""
    options = {TODAY: _("In use today"), OWN: _("Your own prices"), **names}
    state.set_default("cost_lists", _default_lists())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.multiselect(
            _("Price lists"),
            list(options),
            format_func=options.__getitem__,
            key="cost_lists",
            placeholder=_("Choose price lists"),
            persist_state="session",
        )
        if chosen == _LISTS_OF_2023:
            st.button(_("Back to today's prices"), icon=":material/undo:", key="cost_today", on_click=_back_to_today)
        elif ARTICLE not in chosen:
            st.button(
                _("Compare with 2023"), icon=":material/history:", key="cost_2023", on_click=_compare_with_2023,
                help=_("Prices from the 2023 article: tuned davinci cost 60 times as much as gpt-3.5-turbo."),
            )  # fmt: skip
    return chosen or [TODAY]


def _default_lists() -> list[str]:
    """The lists compared by default: today's models, and those of added providers that offer only a few."""
    offered = Counter(info.provider for info in visible.models().found)
    added = [name for name in cache.registry().ids() if name != ENGINE and 0 < offered[name] <= _FEW_MODELS]
    return [*_LISTS_OF_TODAY, *added]


def _compare_with_2023() -> None:
    state.set_value(_BEFORE, {key: state.get(key) for key in ("cost_lists", "cost_baseline", "cost_unit")})
    state.set_value("cost_lists", list(_LISTS_OF_2023))
    state.set_value("cost_baseline", _BASELINES[0])
    state.set_value("cost_unit", 1_000)


def _back_to_today() -> None:
    """Restore the lists, baseline and unit from before the comparison with 2023, or the defaults."""
    before = state.get(_BEFORE) or {"cost_lists": _default_lists()}
    for key, value in before.items():
        state.set_value(key, value)


def show_own() -> None:
    """Add the person's own prices to the compared lists. Call only from a callback."""
    lists = state.get("cost_lists") or []
    if OWN not in lists:
        state.set_value("cost_lists", [*lists, OWN])


def _first_baseline(keys: Sequence[Key], prices: Sequence[Price]) -> Key:
    """A well-known model, otherwise the first that has a price: multiples of a free model are undefined."""
    baseline = next((key for key in _BASELINES if key in keys), None)
    return baseline or next((price.key for price in prices if price.output_per_mtok), keys[0])


def rows(book: PriceBook, lists: Sequence[str]) -> list[Price]:
    """The prices of these lists, each model once."""
    found = here(book) if ENGINE in lists else []
    if TODAY in lists:
        usable = (price for key in _TODAY if (price := book.find(*key)) is not None)
        found += [price for price in usable if not book.ended(price)]
    if OWN in lists:
        found += [book.find(*price.key) or price for price in book.own if price.provider != ENGINE]
    for name in lists:
        if name in cache.registry().ids() and name != ENGINE:
            found += _offered(book, name)
    found += book.rows([name for name in lists if name not in (ENGINE, TODAY, OWN)])
    return list({price.key: price for price in reversed(found)}.values())[::-1]


def _offered(book: PriceBook, provider: str) -> list[Price]:
    """The models that a provider of this studio offers now; prices that are in no list are unknown."""
    offered = (info.id for info in visible.models().found if info.provider == provider)
    return [book.find(provider, model) or unknown_price(provider, model, book.today) for model in offered]


def here(book: PriceBook) -> list[Price]:
    """Prices of the engine's models from machine time; unknown while the machine has no cost per hour."""
    models = list(cache.status().engine.models) or [packaged_models.BASE]
    local = [price for model in models if (price := book.find(ENGINE, model)) is not None]
    machine = cached_cost.machine()
    if machine is None:
        return [machine_time.unpriced(price) for price in local]
    return [machine.priced(price, cached_cost.training_speed(price.model)) for price in local]


def list_names(book: PriceBook) -> dict[str, str]:
    """Every price list with its name, the most requested first."""
    names = {ENGINE: _("This machine"), ARTICLE: _("OpenAI in 2023"), "openai": _("OpenAI today")}
    custom_providers = sorted({price.provider for price in book.own})
    configured = {name: models.provider_name(name) for name in cache.registry().ids() if name != ENGINE}
    configured = {name: title for name, title in configured.items() if name not in (*_FIRST, *_CHINESE)}
    more = [name for name in cached_cost.providers() if name not in (*_FIRST, *_CHINESE)]
    return {
        name: (names | _PROPER | configured).get(name, name)
        for name in dict.fromkeys((ENGINE, *configured, *_FIRST, *_CHINESE, *custom_providers, *more))
    }


def _more() -> tuple[Side, str, ExchangeRate]:
    sides: dict[Side, str] = {"output": _("Output"), "input": _("Input"), "training": _("Training")}
    state.set_default("cost_side", "output")
    side = st.segmented_control(
        _("Compare by"), list(sides), format_func=sides.__getitem__, required=True, key="cost_side",
        persist_state="session",
    )  # fmt: skip
    st.pills(
        _("Show only"), list(_KINDS), format_func=lambda kind: _(_KINDS[kind]), selection_mode="multi",
        key="cost_kinds", persist_state="session",
    )  # fmt: skip
    currency, rate = currency_choice("cost")
    return side or "output", currency, rate


def currency_choice(page: str) -> tuple[str, ExchangeRate]:
    """The display currency, and the exchange rate with its date."""
    state.set_default("cost_currency", USD)
    currency = st.segmented_control(
        _("Currency"), [USD, YUAN.currency], required=True, key="cost_currency", persist_state="session"
    )
    fields.default_decimal("cost_rate", YUAN.per_usd)
    rate = fields.decimal_field(_("Yuan per US dollar"), "cost_rate", *_RATES, persist=True).value
    if rate is None or rate == YUAN.per_usd:
        st.caption(_("Reference rate of the European Central Bank, {day}").format(day=YUAN.day))
        return str(currency), YUAN
    return str(currency), ExchangeRate(YUAN.currency, rate, _("entered by you"), utcnow().date())


def say_rate(theirs: Iterable[str], currency: str, rate: ExchangeRate) -> None:
    """Render the exchange rate and its source, if amounts were converted."""
    if any(one != currency and one in (USD, rate.currency) for one in theirs):
        source = _("Reference rate of the European Central Bank, {day}").format(day=rate.day)
        st.caption(
            _(":material/currency_exchange: Converted at {rate} yuan per US dollar ({source}).").format(
                rate=f"{rate.per_usd:f}", source=source if rate is YUAN else _("entered by you")
            )
        )


def _matches(kind: str, price: Price, book: PriceBook) -> bool:
    if kind == "tuned":
        return price.base_model is not None
    if kind == "trainable":
        return book.training_price(*price.key) is not None and not book.ended(price)
    if kind == "cached":
        return price.cached_input_per_mtok is not None
    if kind == "batch":
        return price.batch_output_per_mtok is not None
    return not book.ended(price) and not book.price_expired(price)
