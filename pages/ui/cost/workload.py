"""My workload: five numbers, three options, the break-even point and its sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import pandas as pd
import streamlit as st

from core.charts.cost import BreakEvenLabels, break_even
from core.datasets import datasets
from core.pricing import shutdown, workload
from core.pricing.price_book import PriceBook
from core.pricing.prices import ExchangeRate, convert
from core.pricing.workload import BreakEven, Candidate, Costs, Effect, Workload
from pages.ui import cache, state, visible
from pages.ui.components import shutdown_notes
from pages.ui.components.fields import number_field
from pages.ui.components.money import as_float, money
from pages.ui.cost import cached_cost, workload_options
from pages.ui.cost.price_choice import currency_choice, say_rate
from pages.ui.cost.workload_options import WorkloadOptions
from pages.ui.i18n import _, about, as_markdown, duration, mark, n_, number, plain

_START = {
    "work_requests": 1_000,
    "work_prompt": 15,  # 宋,发射激光,艰难 and its separator
    "work_story": 260,  # a Chinese story of 300 characters, in the sample stories
    "work_context": 1_500,  # five of those stories as examples
    "work_file": 130_000,  # the tokens of the sample stories
    "work_epochs": 4,
    "work_cached": 0,
    "work_batch": False,
    "work_rent": False,
}

_S_PER_DAY = 86_400
_INPUT_NAMES = {
    "requests_per_day": mark("Stories per day"),
    "prompt_tokens": mark("Tokens per short prompt"),
    "completion_tokens": mark("Tokens per story"),
    "context_tokens": mark("Tokens of examples or context"),
    "training_tokens": mark("Tokens in the training file"),
    "cached_share": mark("Share read from the cache"),
}


@dataclass(frozen=True, slots=True)
class WorkloadInput:
    """What the visitor has entered."""

    workload: Workload
    ways: WorkloadOptions
    currency: str
    rate: ExchangeRate


def show() -> None:
    """Render the whole section: inputs on the left, the result on the right."""
    for key, value in _START.items():
        state.set_default(key, value)
    book = cache.prices()
    left, right = st.columns([2, 5], gap="large")
    with left:
        inputs = _inputs(book)
    with right:
        inputs.workload.validate()
        _result(inputs.workload, inputs.ways, inputs.currency, inputs.rate)


def _inputs(book: PriceBook) -> WorkloadInput:
    _from_dataset()
    _count(_("Stories per day"), "work_requests", most=10**9)
    _count(_("Tokens per story"), "work_story")
    _count(_("Tokens per short prompt"), "work_prompt", help=_("A tuned model needs no more than this"))
    _count(
        _("Tokens of examples or context"), "work_context",
        help=_("Added to every prompt of an untuned model: few-shot examples or retrieved text"),
    )  # fmt: skip
    _count(_("Tokens in the training file"), "work_file", most=10**12)
    options = workload_options.pickers(book)
    with st.popover(_("More"), icon=":material/tune:", width="stretch"):
        _count(_("Epochs"), "work_epochs", most=1_000)
        st.slider(
            _("Share of the context read from the provider's cache"), 0, 100, step=5, format="%d %%", key="work_cached",
            persist_state="session",
        )  # fmt: skip
        st.toggle(_("Batch: results can take up to a day"), key="work_batch", persist_state="session")
        currency, rate = currency_choice("work")
    workload = Workload(
        requests_per_day=Decimal(_typed("work_requests")),
        prompt_tokens=_typed("work_prompt"),
        completion_tokens=_typed("work_story"),
        context_tokens=_typed("work_context"),
        training_tokens=_typed("work_file"),
        epochs=_typed("work_epochs"),
        cached_share=Decimal(_typed("work_cached")) / 100,
        batch=bool(state.get("work_batch")),
    )
    return WorkloadInput(workload, options, currency, rate)


def _count(label: str, key: str, *, most: int = 10**8, help: str | None = None) -> None:
    number_field(label, key, 0, most, _START[key], help=help, persist_state="session")


def _typed(key: str) -> int:
    """A number from its field; an empty field counts as its default."""
    value = state.get(key)
    return int(_START[key] if value is None else value)


def _from_dataset() -> None:
    """Fill in prompt, story and file from a data set, counted with the tokenizer of the model to tune."""
    found = {one.id: one for one in visible.dataset_list() if one.done}
    if not found:
        st.caption(_("Create a data set to measure these numbers."))
        return
    st.selectbox(
        _("Measure a data set"),
        list(found),
        index=None,
        format_func=lambda key: found[key].name,
        key="work_dataset",
        placeholder=_("Choose one"),
        on_change=_measure,
    )
    counted = state.get("work_measured")
    if counted:
        st.caption(counted)


def _measure() -> None:
    dataset_id = state.get("work_dataset")
    if dataset_id is None:
        return
    model = workload_options.model_to_tune()
    measured = cached_cost.measured(dataset_id, datasets.fingerprint(cache.store(), dataset_id), model)
    if measured is None:
        return
    state.set_value("work_prompt", measured.mean_prompt_tokens)
    state.set_value("work_story", measured.mean_completion_tokens)
    state.set_value("work_file", measured.total)
    sentence = n_("Measured on {n} example", "Measured on {n} examples", measured.examples)
    exact = _("counted exactly") if measured.exact else _("approximate: counted with a similar tokenizer")
    state.set_value(
        "work_measured",
        _("{measured}: {tokens} tokens, {exact}.").format(measured=sentence, tokens=about(measured.total), exact=exact),
    )


def _result(work: Workload, options: WorkloadOptions, currency: str, rate: ExchangeRate) -> None:
    """Render the results, to the right of the inputs."""
    local = _in_currency(options.local, options.machine_currency, currency, rate)
    found = [workload.costs(work, option, currency, rate) for option in (options.tuned, options.base, local)]
    tuned, base = found[0], found[1]
    against = [workload.break_even(tuned, base), workload.break_even(tuned, found[2])]
    st.markdown(_answer(tuned, base, against[0]))
    if found[2].slope is not None:
        st.markdown(_answer(tuned, found[2], against[1]))
    _last_day(tuned, against[0])
    _chart(found, against, currency)
    _table(found, currency)
    currencies = [cost.candidate.price.currency for cost in found if cost.candidate.price is not None]
    say_rate([*currencies, options.machine_currency or currency], currency, rate)
    for cost in found:
        if cost.problem is not None and not (cost.candidate.way == "local" and cost.candidate.machine is None):
            st.caption(f":material/help: **{plain(cost.candidate.name)}**: {as_markdown(cost.problem)}")
    if options.machine_currency is None:
        st.caption(_("Enter the cost per hour of this machine to compare it."))
    elif local.machine is None:
        st.caption(_("Measure the speed of this machine, or enter it, to compare it."))
    _sensitivity(work, options, currency, rate)


def _in_currency(local: Candidate, theirs: str | None, currency: str, rate: ExchangeRate) -> Candidate:
    """The machine with its cost per hour in the currency of the comparison."""
    if local.machine is None or theirs is None:
        return local
    per_hour = convert(local.machine.per_hour, theirs, currency, rate)
    return replace(local, machine=None if per_hour is None else replace(local.machine, per_hour=per_hour))


def _answer(mine: Costs, other: Costs, crossing: BreakEven) -> str:
    names = {"mine": plain(mine.candidate.name), "other": plain(other.candidate.name)}
    if crossing.outcome == "at":
        if crossing.days is None:
            return _("**{mine}** breaks even with {other} after **{n} stories**.").format(
                n=number(crossing.requests), **names
            )
        return _("**{mine}** breaks even with {other} after **{n} stories**: {time} at your rate.").format(
            n=number(crossing.requests), time=_days_in_words(crossing.days), **names
        )
    if crossing.outcome == "until":
        return _("**{mine}** is cheaper than {other} for the first **{n} stories**, then more expensive.").format(
            n=number(crossing.requests), **names
        )
    if crossing.outcome == "at_once":
        return _("**{mine}** is cheaper than {other} from the first story.").format(**names)
    if crossing.outcome == "never":
        return _("**{mine}** never breaks even with {other}: each story costs as much or more.").format(**names)
    return _("Break-even of **{mine}** with {other}: unknown, a price is missing.").format(**names)


def _last_day(tuned: Costs, crossing: BreakEven) -> None:
    """Whether the tuned model can be used for long enough to break even."""
    price = tuned.candidate.price
    found = None if price is None else shutdown_notes.last_day(price.provider, price.model, price.base_model)
    if price is None or found is None:
        return
    last, notice = found.day, shutdown.notice(found.day, cached_cost.now().date())
    name, left = plain(tuned.candidate.name), (last - cached_cost.now().date()).days
    if notice is not None:
        shutdown_notes.line(f"{name} · {shutdown_notes.sentence(notice, price.model)}")
    if left < 0:
        return
    if crossing.days is not None and crossing.outcome == "at" and crossing.days > left:
        st.warning(
            _("{name} will be shut down on {day}, before it breaks even.").format(name=name, day=last),
            icon=":material/event_busy:",
        )
    elif notice is None:
        st.caption(_(":material/event: {name} can be used until {day}.").format(name=name, day=last))


def _days_in_words(days: Decimal) -> str:
    """A number of days in words: "3 weeks"."""
    if days < 2:
        return duration(float(days) * _S_PER_DAY)
    if days < 21:
        return _("{n} days").format(n=number(float(days)))
    if days < 120:
        return _("{n} weeks").format(n=number(float(days) / 7))
    if days < 1_000:
        return _("{n} months").format(n=number(float(days) / 30))
    return _("{n} years").format(n=number(float(days) / 365))


def _chart(found: Sequence[Costs], against: Sequence[BreakEven], currency: str) -> None:
    priced = [cost for cost in found if cost.total(1) is not None]
    if not priced:
        return
    words = BreakEvenLabels(
        requests=_("Stories"),
        total=_("Total cost ({currency})").format(currency=currency),
        way=_("Option"),
        crossings=tuple(
            _("{n} stories").format(n=number(one.requests)) if one.requests is not None else "" for one in against
        ),
    )
    most = workload.chart_range(priced, list(against))
    st.vega_lite_chart(
        break_even(found, against, most, words),
        alt=_("Total cost of {n} options against the number of stories").format(n=len(priced)),
        key="work_chart",
    )


def _table(found: Sequence[Costs], currency: str) -> None:
    frame = pd.DataFrame(
        {
            "way": [cost.candidate.name for cost in found],
            "each": [as_float(cost.per_request) for cost in found],
            "thousand": [as_float(cost.per_thousand) for cost in found],
            "month": [as_float(cost.per_month) for cost in found],
            "hosting": [as_float(cost.fixed_per_month) for cost in found],
            "upfront": [as_float(cost.upfront) for cost in found],
        }
    )
    if not frame["hosting"].any():
        frame = frame.drop(columns="hosting")
    st.dataframe(
        frame,
        hide_index=True,
        column_config={
            "way": st.column_config.TextColumn(_("Option"), pinned=True),
            "each": st.column_config.NumberColumn(_("Per story"), format="%.6f", help=currency),
            "thousand": st.column_config.NumberColumn(_("Per 1,000 stories"), format="%.4f", help=currency),
            "month": st.column_config.NumberColumn(_("Per month"), format="%.2f", help=_("30 days, including hosting")),
            "hosting": st.column_config.NumberColumn(_("Hosting per month"), format="%.2f", help=currency),
            "upfront": st.column_config.NumberColumn(_("Training, once"), format="%.4f", help=currency),
        },
        placeholder=_("unknown"),
        alt=_("Cost of each option, in {currency}").format(currency=currency),
    )


def _sensitivity(work: Workload, options: WorkloadOptions, currency: str, rate: ExchangeRate) -> None:
    def both(changed: Workload) -> tuple[Costs, Costs]:
        return (
            workload.costs(changed, options.tuned, currency, rate),
            workload.costs(changed, options.base, currency, rate),
        )

    in_days, effects = workload.sensitivity(work, both)
    if not effects:
        return
    st.markdown(
        _("**Sensitivity (±20 %)**: time to break even")
        if in_days
        else _("**Sensitivity (±20 %)**: monthly difference")
    )
    for effect in effects:
        lower, higher = _outcomes(effect, in_days, currency)
        st.markdown(_("- {input}: {low} to {high}").format(input=_(_INPUT_NAMES[effect.input]), low=lower, high=higher))


def _outcomes(effect: Effect, in_days: bool, currency: str) -> tuple[str, str]:
    """Both results in words, the smaller one first; never breaking even comes last."""
    outcomes = sorted(one for one in (effect.lower, effect.higher) if one is not None)
    texts = [_days_in_words(one) if in_days else money(one, currency) for one in outcomes]
    texts += [_("never")] * (2 - len(texts))
    return texts[0], texts[1]
