"""Design: the form, an example prompt, the estimate with mode and budget, the Generate button, and a preview.

The preview writes three texts, which show whether the template works and make the estimate more accurate.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

import streamlit as st

from core.datasets import datasets, grid, recipes
from core.datasets.recipe import Recipe
from core.errors import BadRecipe, FabulaError
from core.generation import previewing, runs
from core.generation.previewing import PreviewRow, RunEstimate
from core.generation.run_progress import Mode
from core.model_profile import model_purpose
from core.model_profile.model_purpose import purpose_of
from core.model_profile.prompt_similarity import fixed_words
from core.pricing.budget import CENT, MAX_USD
from core.providers import ModelInfo, client
from pages.ui import cache, state
from pages.ui.background import BackgroundIterator
from pages.ui.components import cards, fields, models, prompt_warnings, views
from pages.ui.components.fields import DecimalInput
from pages.ui.components.money import local_price
from pages.ui.components.prompt_warnings import Remedy
from pages.ui.dataset import recipe_form
from pages.ui.i18n import (
    _,
    about,
    as_markdown,
    column_name,
    duration,
    in_language,
    n_,
    number,
    pair,
    percent,
    plain,
    usd,
)
from pages.ui.sign_in import current_actor


def show() -> None:
    """Render the whole section."""
    left, right = st.columns([3, 2], gap="medium")
    with left:
        shelf = st.container()
        recipe = recipe_form.form()
        with shelf, cards.show_errors():
            recipe_form.saved_recipes(recipe)
    with right:
        problem = _problem(recipe)
        _prompt_card(recipe, problem)
        _generate_card(recipe, problem)
        _preview_card(recipe, problem)


def _problem(recipe: Recipe) -> BadRecipe | None:
    """The grid's error; a missing model is handled elsewhere."""
    try:
        replace(recipe, provider=recipe.provider or "-", model=recipe.model or "-").check()
    except BadRecipe as problem:
        return problem
    return None


def _prompt_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """Render the prompt of one cell, as the model will read it."""
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Example prompt**"))
            st.button(
                _("Another example"),
                icon=":material/casino:",
                key="dataset_dice",
                on_click=recipe_form.draw_random_cell,
            )
        if problem is not None:
            st.text(recipe.template or _("The template is empty."))
            return
        if recipe.system.strip():
            st.caption(_("System text: {text}").format(text=plain(recipe.system.strip())))
        cell = recipe_form.random_cell(recipe)
        st.text(grid.render(recipe.template, cell))
        views.facts(pair(plain(column_name(name)), plain(value)) for name, value in cell.items())


def _generate_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """Render the whole card; `problem`: why the recipe cannot be run."""
    total = recipe.rows()
    mode: Mode = "live"
    budget = DecimalInput(None)
    with st.container(border=True):
        if problem is not None:
            cards.hint(problem)
        else:
            _size(recipe)
            if recipe.model:
                mode = _mode(recipe)
                guess = estimate(recipe, batch=mode == "batch")
                _estimate_facts(recipe, guess, mode)
                budget = _budget(guess)
            for warning in recipe.warnings():
                st.warning(as_markdown(warning), icon=":material/info:")
            _far_prompt(recipe)
        st.button(
            n_("Generate {n} row", "Generate {n} rows", total),
            type="primary",
            icon=":material/play_arrow:",
            disabled=problem is not None or budget.problem is not None or not recipe.model,
            key="dataset_generate",
            on_click=_generate,
            args=(recipe, mode, budget.value),
            width="stretch",
        )
        if not recipe.model:
            models.none_yet()


def _size(recipe: Recipe) -> None:
    total = recipe.rows()
    st.markdown(
        _("**{cells}** × {repeats} = **{rows}**").format(
            cells=n_("{n} cell", "{n} cells", total // recipe.repeats),
            repeats=n_("{n} repeat", "{n} repeats", recipe.repeats),
            rows=n_("{n} row", "{n} rows", total),
        )
    )


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


def _far_prompt(recipe: Recipe) -> None:
    """Warn if the template is far from the model's training prompts."""
    if not recipe.model:
        return
    writer = prompt_warnings.model_of(recipe.provider, recipe.model)
    text = f"{fixed_words(recipe.template)}\n{recipe.system}"
    prompt_warnings.far_prompt(writer, text, "dataset_model", _own_preset(writer))


def _own_preset(writer: ModelInfo) -> Remedy | None:
    """The preset that a packaged writer was trained on, one click away."""
    language = purpose_of(writer).language
    if language is None:
        return None
    preset = model_purpose.presets_of(language)[0]
    words = _("Use its grid: {preset}").format(preset=in_language(preset.names))
    return Remedy(words, ":material/grid_on:", "dataset_use_preset", recipe_form.use_preset, (preset.id,))


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


def _generate(recipe: Recipe, mode: Mode, budget_usd: Decimal | None) -> None:
    with cards.keep_errors():
        store = cache.store()
        dataset_id = datasets.create(store, current_actor(), recipe)
        if (saved := recipe_form.saved_version(recipe)) is not None:
            recipes.set_source_recipe(store, current_actor(), dataset_id, saved)
        runs.enqueue(store, current_actor(), dataset_id, budget_usd=budget_usd, mode=mode)
        state.set_value("dataset_open", dataset_id)
        state.set_value("dataset_part", "rows")


# --- preview ----------------------------------------------------------------------------------------------------------

_PREVIEW = 3  # enough to see whether the template works, few enough to wait for


@dataclass(frozen=True, slots=True)
class Preview:
    """Preview stories of `subject`, as they arrive."""

    subject: Recipe
    gathering: BackgroundIterator[previewing.PreviewRow]


def _preview_card(recipe: Recipe, problem: BadRecipe | None) -> None:
    """Render the whole card; `problem`: why the recipe cannot be run."""
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.markdown(_("**Preview**"))
            running = _running()
            with st.container(width="content"), views.one_of((True, False), running):
                _preview_button(recipe, running, possible=problem is None and bool(recipe.model))
        st.fragment(run_every=cache.POLL_S if running else None)(_preview_texts)(running)


def _preview_button(recipe: Recipe, running: bool, *, possible: bool) -> None:
    """Write or Stop, each with its own key, so that a late click never triggers the other button."""
    if running:
        st.button(_("Stop"), icon=":material/stop:", key="dataset_preview_stop", on_click=_forget_preview)
    else:
        st.button(
            _("Write {n}").format(n=_PREVIEW), icon=":material/visibility:", key="dataset_preview",
            disabled=not possible, on_click=_preview_now, args=(recipe,),
        )  # fmt: skip


def _running() -> bool:
    shown: Preview | None = state.studio().preview
    return shown is not None and not shown.gathering.done


def _preview_now(recipe: Recipe) -> None:
    if _running():  # double click
        return
    with cards.keep_errors():
        state.studio().preview = _start_preview(recipe)


def _forget_preview() -> None:
    studio = state.studio()
    if studio.preview is not None:
        studio.preview.gathering.stop()
        studio.preview = None


def _start_preview(recipe: Recipe) -> Preview:
    client = cache.client(recipe.provider)
    seed, store, book = state.studio().grid.draw, cache.store(), cache.prices()
    actor = current_actor()  # `make` runs in a thread

    def make(stop: threading.Event) -> Iterator[previewing.PreviewRow]:
        return previewing.preview(store, actor, client, recipe, _PREVIEW, seed, book=book, stop=stop)

    return Preview(recipe, BackgroundIterator(make, expected=min(_PREVIEW, recipe.rows())))


def _preview_texts(was_running: bool) -> None:
    shown = state.studio().preview
    if shown is None:
        st.caption(_("Preview three texts of this grid before you generate all of them. Nothing is saved."))
        return
    gathering = shown.gathering
    if was_running and gathering.done:
        st.rerun()
    if not gathering.done:
        st.progress(
            len(gathering.items) / gathering.expected,
            text=_("{done} of {total} written").format(done=len(gathering.items), total=gathering.expected),
        )
    for row in gathering.items:
        _preview_row(row)
    views.parameter_notes(views.rejected_parameters(shown.subject))
    if gathering.error is not None:
        cards.error_card(gathering.error, "dataset_preview_ask_budget")


def _preview_row(row: previewing.PreviewRow) -> None:
    """Render one text with its column values, and the reason if it is unfinished."""
    views.facts(plain(value) for value in row.values.values())
    if text := row.text.strip():
        st.text(text)
    if row.reason:
        st.caption(f":orange[:material/warning: {as_markdown(row.reason)}]")


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
