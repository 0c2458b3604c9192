"""The parts of the price page: what to compare, the answer as a sentence, bars, and the table with its sources."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

import pandas as pd
import streamlit as st

from core import charts
from core.cost.book import Key, PriceLine, compare
from core.cost.prices import ENGINE, Price
from pages.ui import cached, state
from pages.ui.lang import _, plain, usd

_ARTICLE = "openai-2023"
_BASELINE: Key = (_ARTICLE, "gpt-3.5-turbo")
_LISTS = (ENGINE, _ARTICLE, "openai", "anthropic", "google", "deepseek", "mistral", "zhipuai", "moonshotai")
_UNITS = {1_000: "1k", 1_000_000: "1M"}
_MOST_BARS = 24  # more bars than that cannot be read at a glance; the table has them all


@dataclass(frozen=True, slots=True)
class Choice:
    """What the visitor compares."""

    unit: int
    baseline: Key
    prices: tuple[Price, ...]
    search: str


def controls() -> Choice:
    """Lists, unit, baseline and search, in one row."""
    names = _list_names()
    state.first("cost_lists", [ENGINE, _ARTICLE])
    chosen = st.pills(
        _("Price lists"),
        list(names),
        format_func=names.__getitem__,
        selection_mode="multi",
        key="cost_lists",
        persist_state="session",
    )
    prices = _prices(chosen or [_ARTICLE])
    keys = [(price.provider, price.model) for price in prices]
    if state.get("cost_baseline") not in keys:
        state.put("cost_baseline", _BASELINE if _BASELINE in keys else keys[0])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        baseline = st.selectbox(
            _("Baseline: counts as 1 ×"),
            keys,
            format_func=lambda key: f"{key[1]} · {names.get(key[0], key[0])}",
            key="cost_baseline",
            width=380,
            persist_state="session",
        )
        state.first("cost_unit", 1_000)
        unit = st.segmented_control(
            _("Price per"),
            list(_UNITS),
            format_func=lambda unit: _("{unit} tokens").format(unit=_UNITS[unit]),
            required=True,
            key="cost_unit",
            persist_state="session",
        )
        search = st.text_input(
            _("Search"), key="cost_search", placeholder=_("Part of a model's name"), width=240, persist_state="session"
        )
    return Choice(unit=unit or 1_000, baseline=baseline or _BASELINE, prices=prices, search=(search or "").strip())


def lines(choice: Choice) -> list[PriceLine]:
    """The comparison, cheapest first; the baseline stays in, whatever is searched for."""
    found = compare(cached.prices(), choice.baseline, choice.unit, prices=choice.prices)
    wanted = choice.search.lower()
    return (
        [line for line in found if wanted in line.model.lower() or (line.is_baseline and wanted)] if wanted else found
    )


def answer(lines: list[PriceLine], choice: Choice) -> None:
    """The comparison in one sentence: the dearest against the baseline, and what this machine asks."""
    known = [line for line in lines if line.multiple is not None and not line.is_baseline]
    if not known:
        return
    dearest = max(known, key=lambda line: line.multiple or Decimal(0))
    st.markdown(
        _(
            "**{dearest}** costs **{multiple} ×** as much as **{baseline}**: {price} against {base} for {unit} tokens."
        ).format(
            dearest=plain(dearest.model),
            multiple=charts.times(dearest.multiple).removesuffix(" ×"),
            baseline=plain(choice.baseline[1]),
            price=usd(dearest.output),
            base=usd(next((line.output for line in lines if line.is_baseline), None)),
            unit=_UNITS[choice.unit],
        )
    )


def chart(lines: list[PriceLine], choice: Choice) -> None:
    """Sorted bars with the multiples written at them; nothing where all is free or unknown."""
    names = _list_names()
    shown = [line for line in lines if line.output][:_MOST_BARS]
    if not shown:
        return
    words = charts.PriceLabels(
        price=_("US dollars for {unit} tokens written").format(unit=_UNITS[choice.unit]),
        model=_("Model"),
        multiple=_("Multiple"),
        provider=_("Price list"),
        description=_("Price of the models per {unit} tokens").format(unit=_UNITS[choice.unit]),
    )
    named = [replace(line, provider=names.get(line.provider, line.provider)) for line in shown]
    st.vega_lite_chart(charts.price_bars(named, words), alt=words.description, key="cost_chart")


def table(lines: list[PriceLine], choice: Choice) -> None:
    """Every row with its source and the day on which it was checked."""
    names, unit = _list_names(), _UNITS[choice.unit]
    frame = pd.DataFrame(
        {
            "model": [line.model for line in lines],
            "provider": [names.get(line.provider, line.provider) for line in lines],
            "multiple": [_float(line.multiple) for line in lines],
            "input": [_float(line.input) for line in lines],
            "output": [_float(line.output) for line in lines],
            "training": [_float(line.training) for line in lines],
            "currency": [line.price.currency for line in lines],
            "note": [_note(line) for line in lines],
            "checked": [line.price.checked for line in lines],
            "source": [_("this machine") if line.price.local else line.price.source for line in lines],
        }
    )
    if set(frame["currency"]) == {"USD"}:
        frame = frame.drop(columns="currency")
    money = "%.4f" if choice.unit == 1_000 else "%.2f"
    st.dataframe(
        frame,
        hide_index=True,
        height="content" if len(frame) <= 15 else 560,
        column_config={
            "model": st.column_config.TextColumn(_("Model"), pinned=True),
            "provider": st.column_config.TextColumn(_("Price list")),
            "multiple": st.column_config.NumberColumn(_("Multiple"), format="%.3g ×"),
            "input": st.column_config.NumberColumn(_("Input per {unit}").format(unit=unit), format=money),
            "output": st.column_config.NumberColumn(_("Output per {unit}").format(unit=unit), format=money),
            "training": st.column_config.NumberColumn(_("Training per {unit}").format(unit=unit), format=money),
            "currency": st.column_config.TextColumn(_("Currency"), width="small"),
            "source": st.column_config.TextColumn(_("Source")),
            "checked": st.column_config.DateColumn(_("Checked"), format="YYYY-MM-DD"),
            "note": st.column_config.TextColumn(_("Note")),
        },
        placeholder=_("unknown"),
        alt=_("Prices with their multiples, sources and dates"),
    )


def _prices(lists: list[str]) -> tuple[Price, ...]:
    book = cached.prices()
    rows = book.rows([name for name in lists if name != ENGINE])
    here = [book.find(ENGINE, "gemma-3-270m")] if ENGINE in lists else []
    return tuple([*(price for price in here if price is not None), *rows])


def _list_names() -> dict[str, str]:
    own = {ENGINE: _("This machine"), _ARTICLE: _("OpenAI in 2023"), "openai": _("OpenAI today")}
    proper = {"anthropic": "Anthropic", "google": "Google", "deepseek": "DeepSeek", "mistral": "Mistral"}
    proper |= {"zhipuai": "Zhipu", "moonshotai": "Moonshot"}
    return {name: (own | proper)[name] for name in _LISTS}


def _note(line: PriceLine) -> str:
    if line.ended:
        return _("retired on {day}").format(day=line.price.valid_until)
    if line.price.valid_until is not None:
        return _("until {day}").format(day=line.price.valid_until)
    return _("not checked for three months") if line.stale else ""


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
