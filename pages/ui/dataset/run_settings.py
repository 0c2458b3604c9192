"""The cost, the time and the budget of a run before it starts; the same for a grid and a list of prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

import streamlit as st

from core.datasets.recipe import Recipe
from core.errors import FabulaError
from core.generation import previewing
from core.generation.previewing import PreviewRow, RunEstimate
from core.generation.run_progress import Mode
from core.pricing.budget import CENT, MAX_USD
from core.providers import client
from pages.ui import cache, state
from pages.ui.components import fields, views
from pages.ui.components.fields import DecimalInput
from pages.ui.components.money import local_price
from pages.ui.i18n import _, about, duration, n_, number, percent, usd


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run is to be executed: live or as a batch, and within which budget."""

    mode: Mode = "live"
    budget: DecimalInput = field(default_factory=lambda: DecimalInput(None))


def choose(recipe: Recipe) -> RunSettings:
    """Render the estimate of a runnable recipe, and the choice of its mode and budget."""
    mode = _mode(recipe)
    guess = estimate(recipe, batch=mode == "batch")
    _estimate_facts(recipe, guess, mode)
    return RunSettings(mode, _budget(guess))


def estimate(recipe: Recipe, *, batch: bool = False) -> RunEstimate:
    """The estimate for a runnable recipe; a preview of it replaces the guess.

    Args:
        batch: whether to use the price of a batch, which takes up to a day.
    """
    speed = cache.status().engine.tokens_per_s
    listed = (m.parallel for m in cache.models().found if (m.provider, m.id) == (recipe.provider, recipe.model))
    return previewing.estimate_run(
        recipe, cache.prices(), _previewed(recipe), speed, parallel=next(listed, None), batch=batch
    )


def _previewed(recipe: Recipe) -> list[PreviewRow]:
    preview = state.studio().preview
    if preview is None or preview.subject != recipe:
        return []
    return [row for row in preview.gathering.items if row.completion_tokens]


def _estimate_facts(recipe: Recipe, guess: RunEstimate, mode: Mode) -> None:
    """Render the estimate in one line."""
    fewest, most = previewing.request_range(recipe, batch=mode == "batch")
    if mode == "batch" and not guess.local:
        time = _("done within a day")
    elif guess.seconds is None:
        time = _("time: known after a preview")
    else:
        time = _("about {time}").format(time=duration(guess.seconds))
    views.facts(
        (
            n_("{n} request", "{n} requests", most)
            if fewest == most
            else _("{fewest} to {most} requests").format(fewest=number(fewest), most=number(most)),
            _("about {tokens} tokens").format(tokens=about(guess.tokens)),
            local_price(guess.seconds) if guess.local else _price(guess),
            time,
        )
    )


def _price(guess: RunEstimate) -> str:
    return _("price unknown") if guess.usd is None else usd(guess.usd)


def _mode(recipe: Recipe) -> Mode:
    """Live, or as a batch if the provider supports it."""
    try:
        provider = cache.registry().provider(recipe.provider)
        if not client.supports_batch(provider):
            return "live"
    except FabulaError:  # it was removed a moment ago, so its models are still in the list
        return "live"
    later = _within_a_day(recipe) if provider.capabilities.billed else _("In the background, as a batch")
    state.set_default("dataset_mode", "live")
    chosen = st.segmented_control(
        _("When"),
        ["live", "batch"],
        format_func={"live": _("Now"), "batch": later}.__getitem__,
        required=True,
        label_visibility="collapsed",
        key="dataset_mode",
        persist_state="session",
    )
    return "batch" if chosen == "batch" else "live"


def _within_a_day(recipe: Recipe) -> str:
    """The choice of a batch at a provider that bills, with its share of the price if both prices are known."""
    live, batch = estimate(recipe).usd, estimate(recipe, batch=True).usd
    if live and batch:
        return _("Within a day, at {share} of the price").format(share=percent(float(batch / live), 0))
    return _("Within a day, as a batch")


def _budget(guess: RunEstimate) -> DecimalInput:
    """The budget of the run; not shown if writing is free."""
    if guess.local:
        return DecimalInput(None)
    amount = fields.decimal_field(
        _("Spending limit (US dollars)"),
        "dataset_budget",
        CENT,
        MAX_USD,
        placeholder=_("No limit"),
        disabled=guess.usd is None,
        help=_("The run stops before the next row could exceed this. Rows already written are kept."),
        persist=True,
    )
    if guess.usd is None:
        st.caption(_("This model's price is unknown, so a limit can't be enforced."))
        return DecimalInput(None)
    return amount if amount.value is None else DecimalInput(amount.value.quantize(CENT))
