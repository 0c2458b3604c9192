"""Prices: the comparison as a sentence, a bar chart, the table with its sources, the date of the prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pandas as pd
import streamlit as st

from core.charts import cost
from core.charts.cost import format_multiple
from core.errors import FabulaError
from core.pricing import bundled_prices
from core.pricing.comparison import PriceLine, compare
from core.pricing.price_book import PriceBook
from core.pricing.prices import USD, Price, convert
from pages.ui import cache, state
from pages.ui.components import cards, shutdown_notes
from pages.ui.components.money import as_float, money
from pages.ui.cost import cached_cost, custom_prices_form, quality_view, workload_options
from pages.ui.cost.price_choice import UNITS, PriceChoice, controls, list_names, say_rate
from pages.ui.i18n import _, ago, as_markdown, n_, plain, sentences
from pages.ui.sign_in import current_actor

_MOST_BARS = 300  # the table lists all
_BARS_IN_SIGHT = 24  # more rows than this scroll
_BARS_HEIGHT = 620  # px
_MOST_DIGITS = 8
_NAME, _SHORT, _AMOUNT, _LONG_TITLE, _TEXT = 205, 95, 120, 160, 260  # px of columns: “0.0008822” and headings fit


def show() -> None:
    """Render the whole section."""
    book = cache.prices()
    choice = controls(book)
    found = lines(book, choice)
    if not choice.prices:
        with cards.empty(_("No model in these lists matches the filters."), icon=":material/filter_alt_off:"):
            st.caption(_("Choose another price list, or remove filters under More."))
    elif not found:
        with cards.empty(_("No model name matches."), icon=":material/search:"):
            st.caption(_("Shorten the search, or add a price list."))
    else:
        answer(found, choice)
        bars(found, choice, list_names(book))
        table(book, found, choice)
        usable = (line for line in found if not line.ended)  # the table says when the others stopped
        shutdown_notes.show_all((line.provider, line.model, line.price.base_model) for line in usable)
        _machine(found)
        say_rate((line.price.currency for line in found if not line.price.local), choice.currency, choice.rate)
    _date_of_prices(sum(line.stale for line in found))
    custom_prices_form.show(book)
    quality_view.show()


def lines(book: PriceBook, choice: PriceChoice) -> list[PriceLine]:
    """The comparison, cheapest first; a search never hides the baseline."""
    found = compare(
        book,
        choice.baseline,
        choice.unit,
        prices=choice.prices,
        side=choice.side,
        currency=choice.currency,
        rate=choice.rate,
    )
    if not choice.search:
        return found
    hits = [line for line in found if choice.search in line.model.lower() or line.is_baseline]
    return [] if all(line.is_baseline for line in hits) and choice.search not in choice.baseline[1].lower() else hits


def answer(found: Sequence[PriceLine], choice: PriceChoice) -> None:
    """Render the comparison in one sentence: the most expensive model against the baseline."""
    priced = [line for line in found if line.multiple is not None and not line.is_baseline]
    base = next((line for line in found if line.is_baseline), None)
    if not priced or base is None:
        return
    most_expensive = max(priced, key=lambda line: line.multiple or Decimal(0))
    st.markdown(
        _(
            "**{most_expensive}** costs **{multiple} ×** as much as **{baseline}**: {price} vs. {base} per {unit} "
            "tokens."
        ).format(
            most_expensive=plain(most_expensive.model),
            multiple=format_multiple(most_expensive.multiple).removesuffix(" ×"),
            baseline=plain(choice.baseline[1]),
            price=money(getattr(most_expensive, choice.side), most_expensive.currency),
            base=money(getattr(base, choice.side), base.currency),
            unit=_(UNITS[choice.unit]),
        )
    )


def bars(found: Sequence[PriceLine], choice: PriceChoice, names: dict[str, str]) -> None:
    """Render sorted bars with their multiples, or a sentence if every price is 0 or unknown."""
    priced = [line for line in found if getattr(line, choice.side) and line.currency == choice.currency]
    shown = priced[:_MOST_BARS]
    shown += [line for line in priced[_MOST_BARS:] if line.is_baseline]
    if not shown:
        st.caption(_("None of these models has a price of this kind. See the table for other prices."))
        return
    title = {"output": _("written"), "input": _("read"), "training": _("trained on")}[choice.side]
    words = cost.PriceLabels(
        price=_("{currency} per {unit} tokens {side} (log scale)").format(
            currency={USD: _("US dollars"), "CNY": _("yuan")}.get(choice.currency, choice.currency),
            unit=_(UNITS[choice.unit]),
            side=title,
        ),
        model=_("Model"),
        multiple=_("Multiple"),
        provider=_("Price list"),
        own=_("your price"),
        machine=_("machine time"),
        retired=_("retired"),
        price_expired=_("old price"),
    )
    named = [replace(line, provider=names.get(line.provider, line.provider)) for line in shown]
    high = len(shown) > _BARS_IN_SIGHT
    with st.container(height=_BARS_HEIGHT if high else "content", border=high):
        st.vega_lite_chart(
            cost.price_bars(named, words, choice.side),
            alt=_("Model prices per {unit} tokens").format(unit=_(UNITS[choice.unit])),
            key="cost_chart",
        )
    if len(priced) > len(shown):
        st.caption(
            n_("{n} more expensive model is in the table only.",
               "{n} more expensive models are in the table only.",
               len(priced) - len(shown))
        )  # fmt: skip


def table(book: PriceBook, found: Sequence[PriceLine], choice: PriceChoice) -> None:
    """Render every row with its source and the day on which it was checked."""
    frame = _frame(book, found, choice)
    st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(frame) <= 15 else 560,
        column_config=_columns(_(UNITS[choice.unit]), _format(found, choice.unit)),
        placeholder=_("unknown"),
        alt=_("Prices with their multiples, sources and dates"),
    )


def _frame(book: PriceBook, found: Sequence[PriceLine], choice: PriceChoice) -> pd.DataFrame:
    """The rows, without columns that are empty or have the same value everywhere."""
    names = list_names(book)
    columns = {
        "model": [line.model for line in found],
        "multiple": [as_float(line.multiple) for line in found],
        "provider": [names.get(line.provider, line.provider) for line in found],
        "over_base": [as_float(_over_base(book, line)) for line in found],
        "input": [as_float(line.input) for line in found],
        "cached": [as_float(line.cached_input) for line in found],
        "output": [as_float(line.output) for line in found],
        "training": [as_float(line.training) for line in found],
        "hosting": [as_float(line.hosting_per_hour) for line in found],
        "speech": [as_float(_speech(line, choice)) for line in found],
        "currency": [line.currency for line in found],
        "note": [_note(book, line) for line in found],
        "checked": [line.price.checked for line in found],
        "source": [_source(line.price) for line in found],
    }
    frame = pd.DataFrame(columns)
    if set(frame["currency"]) == {choice.currency}:
        frame = frame.drop(columns="currency")
    return frame.drop(
        columns=[name for name in ("over_base", "cached", "hosting", "speech") if frame[name].isna().all()]
    )


def _columns(unit: str, amount: str) -> dict[str, Any]:
    """How the columns are shown; `unit`: of tokens, `amount`: format of a price per unit."""
    return {
        "model": st.column_config.TextColumn(_("Model"), pinned=True, width=_NAME),
        "provider": st.column_config.TextColumn(_("Price list"), width=_AMOUNT),
        "multiple": st.column_config.NumberColumn(_("Multiple"), format="%.3g ×", width=_SHORT),
        "over_base": st.column_config.NumberColumn(
            _("vs. its base"),
            format="%.3g ×",
            width=_AMOUNT,
            help=_("Output price of the tuned model ÷ that of its base model"),
        ),
        "input": st.column_config.NumberColumn(_("Input per {unit}").format(unit=unit), format=amount, width=_AMOUNT),
        "cached": st.column_config.NumberColumn(
            _("Cached input per {unit}").format(unit=unit), format=amount, width=_LONG_TITLE
        ),
        "output": st.column_config.NumberColumn(_("Output per {unit}").format(unit=unit), format=amount, width=_AMOUNT),
        "training": st.column_config.NumberColumn(
            _("Training per {unit}").format(unit=unit), format=amount, width=_AMOUNT
        ),
        "hosting": st.column_config.NumberColumn(_("Hosting per hour"), format="%.2f", width=_AMOUNT),
        "speech": st.column_config.NumberColumn(_("Speech per 1M characters"), format="%.2f", width=_LONG_TITLE),
        "currency": st.column_config.TextColumn(_("Currency"), width=_SHORT),
        "source": st.column_config.TextColumn(_("Source"), width=_TEXT),
        "checked": st.column_config.DateColumn(_("Checked"), format="YYYY-MM-DD", width=_AMOUNT),
        "note": st.column_config.TextColumn(_("Note"), width=_TEXT),
    }


def _machine(found: Sequence[PriceLine]) -> None:
    """Explain how the prices of this machine's models are computed, if its hourly cost is set."""
    machine = cached_cost.machine()
    if machine is None or not any(line.price.local for line in found):
        return
    st.caption(
        _(
            ":material/memory: This machine: {hour} per hour. Engine prices are machine time: output "
            "is based on the measured speed, training on finished jobs. Input is not included."
        ).format(hour=money(machine.per_hour, machine.currency))
    )
    workload_options.machine_speed()


def _format(found: Sequence[PriceLine], unit: int) -> str:
    """Enough decimals to show three significant digits of every price, so that none looks like 0."""
    amounts = [
        amount.normalize()
        for line in found
        for amount in (line.input, line.cached_input, line.output, line.training)
        if amount
    ]
    needed = [min(-int(amount.as_tuple().exponent), 2 - amount.adjusted()) for amount in amounts]
    return f"%.{min(max([4 if unit == 1_000 else 2, *needed]), _MOST_DIGITS)}f"


def _over_base(book: PriceBook, line: PriceLine) -> Decimal | None:
    """A tuned model's output price divided by its base model's, if both are known in the same currency."""
    base = book.find(line.provider, line.price.base_model) if line.price.base_model and not line.price.local else None
    if base is None or base.currency != line.price.currency or not base.output_per_mtok:
        return None
    tuned_price = line.price.output_per_mtok
    return None if tuned_price is None else tuned_price / base.output_per_mtok


def _speech(line: PriceLine, choice: PriceChoice) -> Decimal | None:
    return convert(line.price.speech_per_mchar, line.price.currency, line.currency, choice.rate)


def _source(price: Price) -> str:
    """Where a price is from."""
    if price.local:
        return _("this machine")
    return _("your price") if price.own else price.source


def _note(book: PriceBook, line: PriceLine) -> str:
    """When the model can be used, who set the price, how old it is, and the note in its list."""
    until, price_until = line.price.valid_until, line.price.price_until
    notice = shutdown_notes.notice_of(line.price.provider, line.price.model, line.price.base_model, book=book)
    notes = [
        shutdown_notes.words(notice) if notice is not None else "",
        _("until {day}").format(day=until) if until is not None and notice is None else "",
        _("price until {day}").format(day=price_until) if price_until is not None and not line.ended else "",
        _("no training after {day}").format(day=line.price.training_until)
        if line.price.training_until is not None and not line.ended
        else "",
        _("machine time") if line.price.local and line.price.own else _("your price") if line.price.own else "",
        _("last checked over three months ago") if line.stale and not (line.ended or line.price_expired) else "",
        line.price.note,
    ]
    return " · ".join(note for note in notes if note)


def _date_of_prices(stale: int) -> None:
    """Render one line with its button. `stale`: how many of the shown rows were last checked over three months ago."""
    now = bundled_prices.current(cache.shared_files())
    if now.fetched is None:
        line = _("Bundled price list (no network used): base models from {source}, {day}.").format(
            source=now.source, day=now.day
        )
    else:
        line = _("Base model prices from {source}, fetched {time}.").format(
            source=now.source, time=ago(now.fetched, cached_cost.now())
        )
    if stale:
        old = n_(
            "{n} row was last checked over three months ago.",
            "{n} rows were last checked over three months ago.",
            stale,
        )
        line = sentences(line, old)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f":material/info: {line}", width="content")
        pressed = st.button(
            _("Fetch newer prices"), icon=":material/sync:", type="tertiary", key="cost_fetch",
            help=_("Downloads the price list once. Your own prices and Fabula's price file still override it."),
        )  # fmt: skip
        if now.fetched is not None:
            st.button(
                _("Use the bundled prices"), icon=":material/undo:", type="tertiary", key="cost_packaged",
                on_click=_forget,
            )  # fmt: skip
    if pressed:
        _fetch()


def _fetch() -> None:
    try:
        with st.spinner(_("Fetching prices")):
            bundled_prices.fetch(current_actor(), cached_cost.now(), cache.shared_files())
    except FabulaError as problem:
        st.warning(sentences(as_markdown(problem.what), as_markdown(problem.next_step)), icon=":material/cloud_off:")
        return
    cached_cost.forget()
    state.notify(":material/sync:", _("Now using the newest prices."))
    st.rerun()


def _forget() -> None:
    with cards.keep_errors():
        bundled_prices.use_packaged(current_actor(), cache.shared_files())
        state.notify(":material/undo:", _("Now using the bundled prices."))
    cached_cost.forget()
