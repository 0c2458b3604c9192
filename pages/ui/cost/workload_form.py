"""My workload: five numbers, three options, the break-even point and its sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import streamlit as st

from core.datasets import datasets
from core.pricing.price_book import PriceBook
from core.pricing.prices import ExchangeRate
from core.pricing.workload import Workload
from pages.ui import cached, state
from pages.ui.cost import cached_cost, workload_options
from pages.ui.cost.price_choice import currency_choice
from pages.ui.cost.workload_options import WorkloadOptions
from pages.ui.cost.workload_result import result
from pages.ui.lang import _, about, n_
from pages.ui.limited_fields import number_field

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


@dataclass(frozen=True, slots=True)
class WorkloadInput:
    """What the visitor has entered."""

    workload: Workload
    ways: WorkloadOptions
    currency: str
    rate: ExchangeRate


def show() -> None:
    """The whole part: inputs at the left, the answer at the right."""
    for key, value in _START.items():
        state.set_default(key, value)
    book = cached.prices()
    left, right = st.columns([2, 5], gap="large")
    with left:
        inputs = _inputs(book)
    with right:
        inputs.workload.validate()
        result(inputs.workload, inputs.ways, inputs.currency, inputs.rate)


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
    found = {one.id: one for one in cached.dataset_list() if one.done}
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
    measured = cached_cost.measured(dataset_id, datasets.fingerprint(cached.store(), dataset_id), model)
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
