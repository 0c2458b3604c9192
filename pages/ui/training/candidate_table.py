"""Candidates for a training side by side: the table, the choice of several, and how each one's settings are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from core.datasets import datasets
from core.db.store import new_id
from core.db.tables import utcnow
from core.errors import FabulaError
from core.finetuning import candidates, training_offers
from core.finetuning.candidates import TrainingCandidate, TrainingData
from core.finetuning.training_offers import EngineView, Offer
from core.pricing import custom_prices
from core.pricing.prices import ENGINE
from pages.ui import background, cache, state
from pages.ui.background import BackgroundTask, shared_task
from pages.ui.cache import shared
from pages.ui.components import cards
from pages.ui.dataset import training_file
from pages.ui.i18n import _, as_markdown, code, duration, label, localized, mark, n_, number, usd
from pages.ui.training import cached_training, candidate_confirm, job_form

CHOSEN = "candidates_chosen"
_ENGINE_S = 10.0  # how long the engine's answer is used for the table
_SHOWN_ROWS = 12
_HEIGHT = 480  # pixels
_STATES = {
    "ready": mark("Ready"),
    "to_add": mark("Add it first"),
    "no_key": mark("Needs a key"),
    "unfit": mark("Can't be trained here"),
    "too_long": mark("Rows too long"),
}
_SETTINGS = {
    "n_epochs": mark("Epochs"),
    "batch_size": mark("Batch size"),
    "learning_rate_multiplier": mark("Learning rate multiplier"),
    "lora_rank": mark("LoRA rank"),
    "lora_alpha": mark("LoRA alpha"),
    "beta": mark("Beta"),
}


def show(data: TrainingData) -> None:
    """Render the table, the choice, and the button that leads to the confirmation."""
    with cards.show_errors():
        found = background.wait_for_task(_compared(data))
        if found is None:
            return
        _table(found)
        chosen = _choice(found)
        _actions(data, chosen)
        for one in chosen:
            _details(one)
        candidate_confirm.show(data, chosen)


# --- what is compared -------------------------------------------------------------------------------------------------


@shared(ttl=_ENGINE_S, max_entries=4)
def _engine() -> EngineView | FabulaError:
    """What the engine reports, or why it does not answer."""
    try:
        view = training_offers.read_engine(cache.store(), cache.quick(ENGINE))
        return replace(view, packaged_speed=view.packaged_speed or cached_training.packaged_training_speed())
    except FabulaError as problem:
        return problem


def _compared(data: TrainingData) -> BackgroundTask[list[TrainingCandidate]]:
    """The candidates, shared by all visitors; computed again when rows, offers or prices change."""
    engine, book = _engine(), cache.prices()
    offers = training_offers.list_offers(cache.registry(), book, engine, utcnow().date())
    prices = (book.own, custom_prices.machine_hour(cache.store()))
    return _comparing(data, tuple(offers), isinstance(engine, EngineView), repr(prices))


@shared_task(
    max_entries=16,
    key=lambda data, offers, asks, prices: (repr(data), offers, asks, prices),
    version=lambda data, offers, asks, prices: datasets.fingerprint(cache.store(), data.dataset_id, data.version_id),
)
def _comparing(
    data: TrainingData, offers: Sequence[Offer], asks: bool, prices: str
) -> BackgroundTask[list[TrainingCandidate]]:
    store, book = cache.store(), cache.prices()
    count = cache.quick(ENGINE).count_tokens if asks else None
    rows = sum(training_file.parts(data.dataset_id).values())

    def compare(row_seen: Callable[[], None]) -> list[TrainingCandidate]:
        return candidates.compare(store, book, data, list(offers), count)

    return BackgroundTask(compare, rows, asks=asks)


# --- the table --------------------------------------------------------------------------------------------------------


def _table(found: Sequence[TrainingCandidate]) -> None:
    notes = [localized(one.blocked or one.caution or one.offer.note) for one in found]
    st.dataframe(
        pd.DataFrame(
            {
                "model": [one.offer.model.rpartition("/")[2] for one in found],
                "state": [
                    _(_STATES["unfit" if one.blocked and not one.offer.reason else one.offer.state]) for one in found
                ],
                "provider": [localized(one.offer.provider_name) for one in found],
                "price": [_plain(candidate_confirm.price(one)) for one in found],
                "time": [_time(one) for one in found],
                "calls": [_calls(one) for one in found],
                "last": [one.callable_until for one in found],
                "note": notes,
                "train": [one.train_until for one in found],
                "tokens": [one.tokens for one in found],
                "context": [one.offer.context for one in found],
                "long": [one.too_long for one in found],
            }
        ),
        hide_index=True,
        height="content" if len(found) <= _SHOWN_ROWS else _HEIGHT,
        column_config=_columns(found),
        placeholder="–",
        alt=_("Candidates for a training"),
    )


def _columns(found: Sequence[TrainingCandidate]) -> dict[str, Any]:
    config: Any = st.column_config
    longest = number(max((one.longest for one in found), default=0))
    return {
        "model": config.TextColumn(_("Model"), width=190),
        "provider": config.TextColumn(_("Provider"), width=105),
        "state": config.TextColumn(_("State"), width=125),
        "price": config.TextColumn(
            _("Price to train"), width=110,
            help=_("Training tokens at list price. Choose a model to see the source. The engine has no bill."),
        ),
        "time": config.TextColumn(
            _("Time"), width=110,
            help=_("From measured training steps or earlier jobs on the model. ~: scaled from this machine's speed."),
        ),
        "calls": config.TextColumn(
            _("1,000 calls"), width=225,
            help=_(
                "With the mean prompt and answer of these rows, at the price of the tuned model. On the engine: the "
                "machine time of the answers."
            ),
        ),
        "last": config.DateColumn(
            _("Callable until"), format="YYYY-MM-DD", width=110,
            help=_("As announced by the provider. Empty: no day is announced; on the engine there is none."),
        ),
        "train": config.DateColumn(
            _("Trainable until"), format="YYYY-MM-DD", width=115,
            help=_("As announced by the provider. At Azure, training ends on this day or later."),
        ),
        "tokens": config.NumberColumn(
            _("Training tokens"), format="localized", width=120,
            help=_("Tokens of the rows × epochs, counted as in the estimate of a new job."),
        ),
        "context": config.NumberColumn(
            _("Reads at most"), format="localized", width=105,
            help=_("The most tokens that a row can have. The longest row here has {n}.").format(n=longest),
        ),
        "long": config.NumberColumn(_("Too long"), width=80, help=_("Rows that are longer than the model reads.")),
        "note": config.TextColumn(_("What to know, and what to do"), width=360),
    }  # fmt: skip


def _time(one: TrainingCandidate) -> str:
    return f"~ {duration(one.seconds)}" if one.rough and one.seconds is not None else duration(one.seconds)


def _calls(one: TrainingCandidate) -> str:
    """The price of calls as plain text; for a model that must be deployed, also that of an hour."""
    if one.offer.engine and one.calls_usd is None:
        return _("unknown") if one.calls_s is None else _("{time} of work").format(time=duration(one.calls_s))
    calls = usd(one.calls_usd)
    if one.hosting_usd is not None:
        calls = _("{price} + {hour} an hour").format(price=calls, hour=usd(one.hosting_usd))
    return _plain(calls)


def _plain(amount: str) -> str:
    """An amount for a table, which shows no Markdown."""
    return amount.replace("\\", "")


# --- the choice -------------------------------------------------------------------------------------------------------


def _choice(found: Sequence[TrainingCandidate]) -> list[TrainingCandidate]:
    """The candidates that were picked among those that can be started."""
    ready = {one.key: one for one in found if not one.blocked}
    if not ready:
        st.caption(_("None of them can be trained now. The last column says what to do."))
        return []
    picked = [key for key in state.get(CHOSEN) or () if key in ready]
    if picked != list(state.get(CHOSEN) or ()):
        state.set_value(CHOSEN, picked)
    st.pills(
        _("Train on"), list(ready), selection_mode="multi", key=CHOSEN,
        format_func=lambda key: f"{label(ready[key].offer.model)} · {candidate_confirm.price(ready[key])}",
    )  # fmt: skip
    return [ready[key] for key in ready if key in (state.get(CHOSEN) or ())]


def _actions(data: TrainingData, chosen: Sequence[TrainingCandidate]) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            n_("Train {n} model", "Train {n} models", len(chosen)) if chosen else _("Train"), type="primary",
            icon=":material/model_training:", key="candidates_train", disabled=not chosen,
            on_click=state.set_value, args=(candidate_confirm.REQUEST, new_id()),
        )  # fmt: skip
        if len(chosen) == 1 and st.button(_("Change its settings"), icon=":material/tune:", key="candidates_edit"):
            job_form.fill(candidates.job_form(data, chosen[0]))
            state.set_value("training_part", "new")
            st.switch_page("training.py")


def _details(one: TrainingCandidate) -> None:
    """Render how the settings of a candidate's job were made, and the source of each figure."""
    with st.expander(_("Settings and sources: {model}").format(model=label(one.offer.model)), icon=":material/tune:"):
        automatic = _("automatic")
        st.dataframe(
            pd.DataFrame(
                {
                    "name": [_(_SETTINGS[each.name]) for each in one.translation.settings],
                    "old": [each.old or "–" for each in one.translation.settings],
                    "new": [
                        f"{each.value:g}" if each.value is not None
                        else f"{automatic} ({each.automatic})" if each.automatic else automatic
                        for each in one.translation.settings
                    ],
                    "why": [localized(each.reason) for each in one.translation.settings],
                    "source": [each.source for each in one.translation.settings],
                }
            ),
            hide_index=True,
            height="content",
            column_config={
                "name": st.column_config.TextColumn(_("Setting"), width=170),
                "old": st.column_config.TextColumn(_("Old job"), width=80),
                "new": st.column_config.TextColumn(_("New job"), width=170),
                "why": st.column_config.TextColumn(_("Why"), width=520),
                "source": st.column_config.TextColumn(_("Source"), width=260),
            },
            alt=_("Settings of the new job"),
        )  # fmt: skip
        for sentence in one.translation.left_out:
            st.markdown(f":material/info: {as_markdown(localized(sentence))}")
        for sentence in _sources(one):
            st.caption(sentence)


def _sources(one: TrainingCandidate) -> list[str]:
    """Where the figures of a candidate are from, as Markdown."""
    shown = [_("Time: {basis}").format(basis=as_markdown(localized(one.basis)))]
    for name, source in (
        (_("Price to train"), one.price_source),
        (_("1,000 calls"), one.calls_source),
        (_("Dates and limits"), one.offer.source),
    ):
        if source:
            shown.append(f"{name}: {code(source)}")
    means = _("A call: {prompt} tokens of prompt and {answer} of answer, the mean of {rows}.")
    rows = n_("{n} row", "{n} rows", one.rows)
    shown.append(means.format(prompt=number(one.prompt_tokens), answer=number(one.completion_tokens), rows=rows))
    return shown
