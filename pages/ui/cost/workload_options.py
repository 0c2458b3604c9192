"""The options for a workload: a tuned model, an untuned one with a long prompt, this machine at its measured speed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import streamlit as st

from core import packaged_models
from core.errors import FabulaError
from core.generation import speed_measurement
from core.message import msg
from core.pricing import custom_prices, machine_time
from core.pricing.price_book import PriceBook
from core.pricing.price_csv import MAX_PER_HOUR
from core.pricing.prices import ENGINE, USD, Key, tuned_base
from core.pricing.workload import Candidate, Machine
from pages.ui import cache, state
from pages.ui.components import cards, fields, shutdown_notes
from pages.ui.components.money import money
from pages.ui.cost import cached_cost
from pages.ui.cost.price_choice import list_names
from pages.ui.i18n import _, number, plain
from pages.ui.sign_in import current_actor

_TUNED: Key = ("openai", "ft:gpt-4o-mini-2024-07-18")
_FASTEST = Decimal(1_000_000)  # tokens per second
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_BASE: Key = ("openai", "gpt-4o-mini")
_LISTS = ("openai", "openai-2023", "azure", "anthropic", "google", "deepseek", "mistral", "together", "dashscope",
          "dashscope-intl", "zhipuai", "moonshotai")  # fmt: skip


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """The options to compare. `machine_currency`: currency of this machine's cost per hour; None if no cost is set."""

    tuned: Candidate
    base: Candidate
    local: Candidate
    machine_currency: str | None


def pickers(book: PriceBook) -> WorkloadOptions:
    """Render two model pickers and the cost of this machine."""
    names = list_names(book)
    prices = [*book.rows([name for name in {*_LISTS, *(price.provider for price in book.own)} if name != "engine"])]
    tuned = sorted(price.key for price in prices if price.base_model is not None)
    base = sorted(price.key for price in prices if price.base_model is None)
    tuned_key = _pick(book, _("Tuned model"), "work_tuned", tuned, _TUNED, names)
    base_key = _pick(book, _("Untuned model with the long prompt"), "work_base", base, _BASE, names)
    machine, currency = _machine()
    return WorkloadOptions(
        tuned=Candidate(_short(tuned_key), "tuned", book.find(*tuned_key)),
        base=Candidate(_short(base_key), "base", book.find(*base_key)),
        local=Candidate(_("This machine"), "local", machine=machine),
        machine_currency=currency,
    )


def model_to_tune() -> str:
    """The base of the chosen tuned model; its tokenizer is used."""
    model = (state.get("work_tuned") or _TUNED)[1]
    return tuned_base(model) or model


def _pick(book: PriceBook, label: str, key: str, keys: list[Key], first: Key, names: Mapping[str, str]) -> Key:
    if state.get(key) not in keys:
        state.set_value(key, first if first in keys else keys[0])
    labels = {
        one: shutdown_notes.with_date(
            f"{one[1].removeprefix('ft:')} · {names.get(one[0], one[0])}",
            shutdown_notes.notice_of(*one, book=book),
        )
        for one in keys
    }
    chosen = st.selectbox(label, keys, format_func=labels.__getitem__, key=key, persist_state="session")
    return chosen or first


def _short(key: Key) -> str:
    """The name without vendor and date, to fit at the end of a line."""
    model = _DATE.sub("", key[1].rsplit("/", 1)[-1])
    return _("tuned {model}").format(model=model.removeprefix("ft:")) if key[1].startswith("ft:") else model


def _machine() -> tuple[Machine | None, str | None]:
    """Electricity or rent per hour, and the measured speed or a value to try."""
    hour, measured = cached_cost.hour(), cached_cost.speed()
    with st.container(border=True, gap="small"):
        st.markdown(f":material/memory: **{_('This machine')}**")
        _hour(hour)
        fields.default_decimal("work_speed", None)
        # a new measurement replaces the typed value
        if measured is not None and state.get("work_speed_of") != measured.measured_at:
            fields.put_decimal("work_speed", round(measured.tokens_per_s, 1))
            state.set_value("work_speed_of", measured.measured_at)
        cost_per_hour = fields.decimal_field(
            _("Tokens per second"), "work_speed", Decimal(0), _FASTEST, placeholder=_("not measured yet"), persist=True
        )
        machine_speed()
        rented = st.toggle(_("Rented: also costs when idle"), key="work_rent", persist_state="session")
        measured_speed = measured.tokens_per_s if measured is not None else None
        writing = None if cost_per_hour.problem is not None else cost_per_hour.value or measured_speed
        machine = None
        if hour is not None and writing:
            machine = Machine(hour[0], writing, rented, cached_cost.training_speed(_engine_base()))
        if machine is not None and hour is not None and machine.per_mtok is not None:
            st.caption(_("= {amount} per 1M tokens written").format(amount=money(machine.per_mtok, hour[1])))
    return machine, hour[1] if hour else None


def _engine_base() -> str:
    """The base model that the engine trains."""
    models = cache.status().engine.models
    return speed_measurement.base_model(models) if models else packaged_models.BASE


def _hour(hour: tuple[Decimal, str] | None) -> None:
    fields.default_decimal("work_hour", hour[0] if hour else None)
    state.set_default("work_hour_currency", hour[1] if hour else USD)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        fields.decimal_field(
            _("Cost per hour"), "work_hour", Decimal(0), MAX_PER_HOUR, placeholder=_("electricity or rent"),
            on_change=_say_hour, help=_("A 100 W machine uses 0.1 kWh per hour."),
        )  # fmt: skip
        st.selectbox(
            _("Currency"), custom_prices.CURRENCIES, key="work_hour_currency", label_visibility="collapsed", width=100,
            on_change=_say_hour,
        )  # fmt: skip


def _say_hour() -> None:
    with cards.keep_errors():
        amount = fields.read_decimal("work_hour", Decimal(0), MAX_PER_HOUR)
        if amount is None and cached_cost.hour() is None:  # a currency was chosen before an amount
            return
        if amount is None:
            raise FabulaError(msg("The cost per hour was not changed."), msg("Type 0 if it costs nothing."))
        currency = str(state.get("work_hour_currency") or USD)
        custom_prices.set_machine_hour(cache.store(), current_actor(), f"{amount:f}", currency)
    cached_cost.forget()


def machine_speed() -> None:
    """Render one line with the newest measurement, and the button. Call it once per page."""
    speed, engine = cached_cost.speed(), cache.status().engine
    with st.container(horizontal=True, vertical_alignment="center"):
        if speed is None:
            st.caption(_("Speed of this machine: not measured yet"))
        else:
            st.caption(
                _("Measured on {day}: {rate} tokens/s with {model}").format(
                    day=f"{speed.measured_at:%Y-%m-%d}", rate=number(speed.tokens_per_s, 1), model=plain(speed.model)
                )
            )
        pressed = st.button(
            _("Measure"), icon=":material/speed:", key="cost_measure", disabled=not engine.models,
            help=_("Generates a few hundred tokens on the engine. Takes about 10 seconds."),
        )  # fmt: skip
    if engine.training is not None:
        st.caption(_("A training job is running. A speed measured now would be too low."))
    if pressed:
        _measure(engine.models)


def _measure(models: tuple[str, ...]) -> None:
    """Measure while the page waits; leaving the page cancels the measurement."""
    with cards.show_errors(), st.spinner(_("Measuring, about 10 seconds"), show_time=True):
        found = speed_measurement.measure(current_actor(), cache.client(ENGINE), speed_measurement.base_model(models))
        machine_time.save(cache.store(), current_actor(), found)
        cached_cost.forget()
        st.rerun()
