"""Controls of a run: pause or resume, raise its budget, write missing rows, extend the grid, train, download."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_DOWN, Decimal

import streamlit as st

from core.datasets import datasets, export, grid_store, prompt_datasets
from core.datasets.datasets import DatasetSummary
from core.datasets.recipe import Recipe, parse_values
from core.errors import FabulaError
from core.generation import run_progress, runs
from core.generation.run_progress import RunProgress
from core.message import msg
from core.pricing.budget import CENT, MAX_USD
from pages.ui import cache, state
from pages.ui.components import cards, fields
from pages.ui.components.fields import number_field
from pages.ui.dataset.run_settings import estimate
from pages.ui.i18n import _, n_, usd
from pages.ui.sign_in import current_actor

_STEP = Decimal("0.5")  # US dollars: proposed amounts are rounded up to multiples of this
_ROOM = Decimal("1.1")  # the remaining rows may be longer than the previous ones
_RAISE_OPEN = "dataset_raise"

_MORE_REPEATS = 2  # proposed number of repeats
_EXTEND_BUDGET = "dataset_top_up_budget"
_EXTENSIONS = "dataset_extensions"  # how many times this visitor has extended a grid


_GENERATED = ("recipe", prompt_datasets.SOURCE)  # data sets whose rows a run writes


def is_active(progress: RunProgress | None) -> bool:
    """True while a run is active or about to start."""
    return progress is not None and progress.state in run_progress.ACTIVE


def show(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """Render one row of buttons: pause or resume, write more, train, download."""
    open_run = progress is not None and (is_active(progress) or progress.state == "paused")
    with st.container(horizontal=True, vertical_alignment="center"):
        if open_run and progress is not None:
            _pause_buttons(progress)
        else:
            _write_buttons(summary, progress)
        if summary.source == "recipe":
            _extend(summary, "live" if progress is None else progress.mode)
        if summary.done:
            _use_buttons(summary, ready=not open_run, main=progress is None or not is_capped(progress))


def _pause_buttons(progress: RunProgress) -> None:
    if progress.state == "waiting":
        st.button(
            _("Resume now"), icon=":material/play_arrow:", type="primary", key="dataset_resume", on_click=cards.act,
            args=(runs.resume, progress.run_id),
        )  # fmt: skip
        st.button(
            _("Don't wait"), icon=":material/stop:", key="dataset_stop", on_click=cards.act,
            args=(runs.request_stop, progress.run_id),
            help=_("Ends the run. Written rows are kept; you can write the rest later, or with another model."),
        )  # fmt: skip
        return
    if progress.state == "paused":
        st.button(
            _("Resume"),
            icon=":material/play_arrow:",
            type="primary",
            key="dataset_resume",
            on_click=cards.act,
            args=(runs.resume, progress.run_id),
        )
    else:
        st.button(
            _("Pause"),
            icon=":material/pause:",
            key="dataset_pause",
            disabled=progress.state in ("pausing", "stopping"),
            on_click=cards.act,
            args=(runs.request_pause, progress.run_id),
        )
    st.button(
        _("Stop"),
        icon=":material/stop:",
        key="dataset_stop",
        disabled=progress.state == "stopping",
        on_click=cards.act,
        args=(runs.request_stop, progress.run_id),
    )
    if progress.budget_usd is not None:
        _raise_limit(progress)


def _write_buttons(summary: DatasetSummary, progress: RunProgress | None) -> None:
    """Render one button for missing rows and one for failed rows, because they cost different amounts."""
    if progress is None and summary.source not in _GENERATED:
        return
    capped = progress is not None and is_capped(progress)
    if progress is not None and capped:
        _raise_limit(progress)
    if summary.pending > (progress.remaining if progress is not None and capped else 0):
        label = n_("Resume ({n} left)", "Resume ({n} left)", summary.pending)
        if summary.pending == summary.total:
            label = n_("Write {n} row", "Write {n} rows", summary.pending)
        _start(label, "continue", ":material/play_arrow:", summary.id, progress)
    if summary.failed:
        label = n_("Retry {n} failed", "Retry {n} failed", summary.failed)
        _start(label, "retry", ":material/replay:", summary.id, progress)


def _start(label: str, key: str, icon: str, dataset_id: str, last: RunProgress | None) -> None:
    """Render a button for a run of the same kind; if the last run had a budget, a new one must be entered first."""
    mode = "live" if last is None else last.mode
    if last is None or last.budget_usd is None:
        st.button(label, icon=icon, key=f"dataset_{key}", on_click=_begin, args=(dataset_id, key, mode, None))
        return
    with st.popover(label, icon=icon):
        amount = _next_run_limit(last, key)
        st.button(label, key=f"dataset_{key}", on_click=_begin, args=(dataset_id, key, mode, amount))


def _use_buttons(summary: DatasetSummary, *, ready: bool, main: bool) -> None:
    if st.button(
        _("Train on this"),
        icon=":material/model_training:",
        type="primary" if ready and main else "secondary",
        key="dataset_train",
        disabled=not ready,
    ):
        state.set_value("training_dataset", summary.id)
        state.set_value("training_part", "new")
        st.switch_page("training.py")
    st.download_button(
        _("Download CSV"),
        data=lambda: export.to_csv(cache.store(), summary.id).encode("utf-8-sig"),
        file_name=f"{summary.name}.csv",
        mime="text/csv",
        icon=":material/download:",
        key="dataset_csv",
        on_click="ignore",
    )


def _begin(dataset_id: str, key: str, mode: run_progress.Mode, amount: str | None) -> None:
    with cards.keep_errors():
        budget = _dollars(amount) if amount else None
        if key == "retry":
            runs.retry_failed(cache.store(), current_actor(), dataset_id, budget_usd=budget, mode=mode)
        else:
            runs.enqueue(cache.store(), current_actor(), dataset_id, budget_usd=budget, retry_failed=False, mode=mode)


def is_capped(progress: RunProgress) -> bool:
    """True if the run stopped at its budget and has rows left."""
    has_limit = progress.budget_usd is not None and progress.remaining > 0
    return has_limit and progress.state == "stopped" and progress.reason is not None


def _raise_limit(progress: RunProgress) -> None:
    """Raise the limit of a run. A stopped run continues; what it has spent still counts."""
    over = is_capped(progress)
    popover = st.popover(
        _("Raise the budget"), icon=":material/savings:", key=_RAISE_OPEN, on_change="rerun",
        type="primary" if over else "secondary",
    )  # fmt: skip
    if not popover.open or progress.budget_usd is None:
        return
    with popover:
        least = progress.budget_usd
        amount = f"dataset_more_budget_{progress.run_id}_{least}"  # raised in another tab: start from the new value
        _amount(amount, _projected_limit(progress) if over else progress.budget_usd, least)
        st.button(
            _("Resume") if over else _("Set"),
            key="dataset_set_budget",
            type="primary" if over else "secondary",
            on_click=_raise,
            args=(progress.run_id, amount, least, over),
        )


def _next_run_limit(last: RunProgress, button: str) -> str:
    """Ask for the budget of a new run after a run with a budget; returns the key of the input field."""
    left = (last.budget_usd or Decimal(0)) - (last.max_usd or Decimal(0))
    amount = f"dataset_{button}_budget_{last.run_id}"
    _amount(amount, left if left >= CENT else last.budget_usd or CENT, CENT)
    return amount


def _dollars(amount: str, least: Decimal = CENT) -> Decimal:
    """The typed amount, to the cent.

    Raises:
        FabulaError: nothing was typed, or it is not an amount of at least `least`.
    """
    amount_usd = fields.read_decimal(amount, least, MAX_USD)
    if amount_usd is None:
        raise FabulaError(msg("No amount entered."), msg("Enter the maximum cost in US dollars."))
    return amount_usd.quantize(CENT)


def _amount(key: str, proposed: Decimal, least: Decimal) -> None:
    state.set_default(key, f"{max(proposed.quantize(CENT, ROUND_DOWN), least):.2f}")
    fields.decimal_field(_("Spending limit (US dollars)"), key, least, MAX_USD)


def _projected_limit(progress: RunProgress) -> Decimal:
    """The projected cost of the run's rows, rounded up to a multiple of `_STEP`."""
    budget = progress.budget_usd or Decimal(0)
    projected = max((progress.projected_usd or Decimal(0)) * _ROOM, budget + CENT)
    return (projected / _STEP).to_integral_value(ROUND_CEILING) * _STEP


def _raise(run_id: str, amount: str, least: Decimal, go_on: bool) -> None:
    with cards.keep_errors():
        runs.raise_budget(cache.store(), current_actor(), run_id, _dollars(amount, least))
        if go_on:
            runs.resume(cache.store(), current_actor(), run_id)
        state.set_value(_RAISE_OPEN, False)


def _extend(summary: DatasetSummary, mode: run_progress.Mode) -> None:
    """Render the popover for a data set with a recipe; `mode`: how its rows are written."""
    # After each use the popover has a new key and is therefore closed. Setting its value is not enough: a request that
    # the browser sent before it received the new value would open it again.
    key = f"dataset_top_up_{state.get(_EXTENSIONS, 0)}"
    popover = st.popover(_("Write more"), icon=":material/add:", key=key, on_change="rerun")
    recipe = datasets.recipe(cache.store(), summary.id) if popover.open else None
    if recipe is not None:  # rendered while it is open: the panel around it is rendered every second
        with popover:
            _extend_form(summary.id, recipe, mode)


def _extend_form(dataset_id: str, recipe: Recipe, mode: run_progress.Mode) -> None:
    st.markdown(f"**{_('More rows for each cell')}**")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        more = number_field(_("More repeats"), "dataset_more_repeats", 1, 1_000, _MORE_REPEATS, width=140)
        _extend_button(dataset_id, recipe, grid_store.more_repeats(recipe, more), "repeats", mode)
    st.divider()
    st.markdown(f"**{_('More values')}**")
    values_by_column = {column.name: column.values for column in recipe.columns}
    column = str(st.selectbox(_("Column"), list(values_by_column), key="dataset_more_column"))
    text = st.text_area(
        _("New values"),
        placeholder=_("one per line, or separated by commas"),
        height=90,
        key="dataset_more_values",
    )
    values = parse_values(str(text), values_by_column[column])
    try:
        grown = grid_store.with_values(recipe, column, values) if values else None
    except FabulaError as error:
        grown = None
        cards.hint(error)
    _extend_button(dataset_id, recipe, grown, "values", mode)
    if _priced(recipe):
        fields.decimal_field(_("Spending limit (US dollars)"), _EXTEND_BUDGET, CENT, MAX_USD, placeholder=_("no limit"))


def _extend_button(dataset_id: str, recipe: Recipe, grown: Recipe | None, key: str, mode: run_progress.Mode) -> None:
    """Render the button with the number of rows, and next to it their expected cost."""
    added = grown.rows() - recipe.rows() if grown is not None else 0
    st.button(
        n_("Write {n} more", "Write {n} more", added) if added else _("Write the new rows"),
        icon=":material/add:",
        key=f"dataset_more_{key}_go",
        disabled=added <= 0,
        on_click=_grow,
        args=(dataset_id, grown, mode),
    )
    if grown is not None and added > 0:
        cost = _extension_cost(recipe, grown)
        if cost != 0:
            st.caption(_("price unknown") if cost is None else _("about {cost}").format(cost=usd(cost)))


def _extension_cost(recipe: Recipe, grown: Recipe) -> Decimal | None:
    """The expected cost of the added rows."""
    with_them, without = estimate(grown).usd, estimate(recipe).usd
    return None if with_them is None or without is None else max(with_them - without, Decimal(0))


def _priced(recipe: Recipe) -> bool:
    """Whether this model costs money, so that a limit is useful."""
    return estimate(recipe).usd not in (None, Decimal(0))


def _grow(dataset_id: str, grown: Recipe | None, mode: run_progress.Mode) -> None:
    if grown is None:
        return
    with cards.keep_errors():
        budget = fields.read_decimal(_EXTEND_BUDGET, CENT, MAX_USD)
        growth = grid_store.grow(cache.store(), current_actor(), dataset_id, grown)
        runs.enqueue(cache.store(), current_actor(), dataset_id, budget_usd=budget, retry_failed=False, mode=mode)
        state.set_value("dataset_more_values", "")
        state.set_value(_EXTENSIONS, state.get(_EXTENSIONS, 0) + 1)  # closes the popover: the rows appear in its place
        sentence = n_(
            "{n} row added; existing rows are kept", "{n} rows added; existing rows are kept", growth.new_rows
        )
        state.notify(":material/add:", sentence)
