"""All jobs, newest first: a click opens one, several are compared; the URL contains the open jobs.

The selection only changes when this visitor ticks a row, follows a link, or starts a job. A job started by another
visitor only appears in the list.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.db.tables import utcnow
from core.finetuning import lineage
from core.finetuning.job_views import JobView
from core.pricing.price_book import PriceBook
from pages.ui import cache, state, visible
from pages.ui.components import models, shutdown_notes
from pages.ui.i18n import PERCENT_FORMAT, _, ago, duration, language, table_percent
from pages.ui.training import cached_training, job_labels
from pages.ui.training.cached_training import JobTable

OPEN = "training_open"  # ids of the open jobs
_SHOWN = "training_shown"  # id of the job below the list while no row is ticked
_ADDRESS = "jobs"  # query parameter
_DRAWN = "training_list_drawn"  # a new number re-renders the list with the open jobs selected
_FEW = 6  # rows that need no scrolling
_HEIGHT = 260  # px
_SEARCHED = 9  # number of jobs from which the search field is shown
_MOST_COMPARED = 8
_LEAST_NEEDED = ("took", "tokens", "dataset", "provider")  # priority of columns if not all fit
_WIDE = 1_215  # px for all columns: the table at 1440 px or more, minus the checkboxes
_NAME = 170  # px, minimum


def open_jobs(*ids: str) -> None:
    """Open these jobs in the next run."""
    _open(ids)
    state.keep_in_address(_ADDRESS, ",".join(ids))


def open_from_elsewhere(*ids: str) -> None:
    """For buttons on other pages, before they switch to the training page: open these jobs there."""
    state.set_value("training_part", "jobs")
    _open(ids)


def unfinished(ids: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Name and status of those of these jobs that have not ended. Does not depend on the visitor."""
    return tuple((one.name, one.status) for one in cache.job_list() if one.id in ids and not one.finished)


def _open(ids: Sequence[str]) -> None:
    state.set_value(OPEN, tuple(ids))
    state.set_value(_DRAWN, int(state.get(_DRAWN, 0)) + 1)


def show(found: Sequence[JobView]) -> list[JobView]:
    """The list. Returns the open jobs, at least one, in list order."""
    _from_address(found)
    listed = _searched(found)
    if not listed:
        st.caption(_("No job matches."))
        return _open_now(found)
    table = _shared(listed)
    columns = _fitting(table.empty)
    event = st.dataframe(
        table.data,
        hide_index=True,
        height="content" if len(listed) <= _FEW else _HEIGHT,
        on_select="rerun",
        selection_mode="multi-row",
        selection_default={"selection": {"rows": _rows(listed), "columns": [], "cells": []}},
        key=f"training_list_{_digest(listed)}_{state.get(_DRAWN, 0)}",
        column_order=list(columns),
        column_config=columns,
        placeholder="–",
        alt=_("Training jobs"),
    )
    picked = [listed[row] for row in event.selection.rows if row < len(listed)][:_MOST_COMPARED]
    ids = tuple(job.id for job in picked)
    hidden = not picked and any(job.id in state.get(OPEN, ()) for job in found if job not in listed)
    if not hidden:  # a search that hides an open job does not close it
        state.set_value(OPEN, ids)
        state.keep_in_address(_ADDRESS, ",".join(ids))
    opened = _open_now(found)
    shutdown_notes.show_all(  # an open job has a note of its own
        (job.provider, job.fine_tuned_model or job.base_model, job.base_model) for job in listed if job not in opened
    )
    return opened


def _open_now(found: Sequence[JobView]) -> list[JobView]:
    """The ticked jobs; without any, the last shown job, or on a first visit the newest one."""
    by_id = {job.id: job for job in found}
    ticked = set(state.get(OPEN) or ())
    opened = [job for job in found if job.id in ticked] or [by_id.get(str(state.get(_SHOWN)), found[0])]
    state.set_value(_SHOWN, opened[0].id)
    return opened


def _from_address(found: Sequence[JobView]) -> None:
    """Open the jobs in the URL; deleted jobs are left out."""
    address = st.query_params.get(_ADDRESS)
    if address is None or state.get(OPEN) is not None:
        return
    ids = {job.id for job in found}
    state.set_value(OPEN, tuple(one for one in address.split(",") if one in ids))


def _searched(found: Sequence[JobView]) -> list[JobView]:
    """The jobs whose name, model, state or provider contains the search text."""
    if len(found) < _SEARCHED:
        return list(found)
    word = st.text_input(
        _("Search"), key="training_search", placeholder=_("name, model, state"), label_visibility="collapsed",
        icon=":material/search:", width=320, persist_state="session",
    )  # fmt: skip
    query = (word or "").casefold().strip()
    if not query:
        return list(found)
    return [
        job
        for job in found
        if any(
            query in text.casefold()
            for text in (job.name, job.base_model, job.provider, job_labels.status(job), job.fine_tuned_model or "")
        )
    ]


def _digest(listed: Sequence[JobView]) -> int:
    """A key of the list: a selection is only valid for the same list."""
    return zlib.crc32(" ".join(job.id for job in listed).encode())


def _rows(listed: Sequence[JobView]) -> list[int]:
    open_ids = set(state.get(OPEN) or ())
    return [row for row, job in enumerate(listed) if job.id in open_ids]


def _shared(listed: Sequence[JobView]) -> JobTable:
    """The list as a table, cached for all visitors."""
    datasets = {one.id: one.name for one in visible.dataset_list()}
    version = hash(
        (
            tuple((job.id, job.updated_at, job.status, job.cost_usd) for job in listed),
            tuple(datasets.items()),
            language(),
            utcnow().date(),
        )
    )
    return cached_training.shared_table(version, lambda: (_table(listed, datasets), _empty(listed)))


def _table(listed: Sequence[JobView], datasets: Mapping[str, str]) -> pd.DataFrame:
    chains = lineage.chains_of(cache.job_list())
    book = cache.prices()
    return pd.DataFrame([_record(job, chains.get(job.id, (job,)), datasets, book) for job in listed])


def _record(job: JobView, chain: Sequence[JobView], datasets: Mapping[str, str], book: PriceBook) -> dict[str, object]:
    curve, now = cached_training.summary(job), utcnow()
    model = job.fine_tuned_model or job.base_model
    notice = shutdown_notes.notice_of(job.provider, model, job.base_model, book=book)
    return {
        "name": models.own_name(job.name),  # an archived job has the name of its model
        "status": job_labels.status(job),
        "verdict": cached_training.words(job),
        "eta": None if job.finished else job_labels.time_left(job, now, short=True) or _("unknown"),
        "curve": list(curve.sparks),
        "loss": curve.loss and curve.loss.value,
        "accuracy": curve.accuracy and table_percent(curve.accuracy.value),
        "held_out": curve.held_out_accuracy and table_percent(curve.held_out_accuracy.value),
        "tokens": job.trained_tokens or curve.tokens,
        "cost": None if job.cost_usd is None else float(job.cost_usd),
        "took": duration(trained) if (trained := job.training_s(now)) is not None else None,
        "base": shutdown_notes.with_date(job_labels.base_and_chain(chain), notice),
        "provider": models.provider_name(job.provider),
        "dataset": datasets.get(job.dataset_id or ""),
        "when": ago(job.created_at, now),
    }


def _empty(listed: Sequence[JobView]) -> frozenset[str]:
    """The columns to omit: the time left if every job has ended, and the provider if all jobs have the same one."""
    empty = {
        "eta": all(job.finished for job in listed),
        "provider": len({job.provider for job in listed}) == 1,
        "held_out": all(cached_training.summary(job).held_out_accuracy is None for job in listed),
    }
    return frozenset(name for name, is_empty in empty.items() if is_empty)


def _fitting(empty: frozenset[str]) -> dict[str, Any]:
    """The columns that have content and fit; the name gets the remaining width."""
    columns = {name: column for name, column in _columns().items() if name not in empty}

    def left() -> int:
        return _WIDE - sum(int(column["width"]) for name, column in columns.items() if name != "name")

    for name in _LEAST_NEEDED:
        if left() < _NAME:
            columns.pop(name, None)
    columns["name"]["width"] = max(_NAME, left())
    return columns


def _columns() -> dict[str, Any]:
    """Titles, formats and widths (px); an unknown cost is empty, not 0.

    The name gets the remaining width (`_fitting`).
    """
    config: Any = st.column_config
    smoothed = _("The end of the smoothed curve, or the last step of a run with fewer than 20 steps.")
    accuracy = f"{_('Token accuracy')}. {smoothed}"
    held_out = f"{_('Token accuracy')}. {_('The last measurement on the validation rows.')}"
    return {
        "name": config.TextColumn(_("Job")),
        "status": config.TextColumn(_("Status"), width=85),
        "when": config.TextColumn(_("Submitted"), width=120),
        "verdict": config.TextColumn(_("Progress"), width=240),
        "eta": config.TextColumn(_("Time left"), width=85),
        "curve": config.LineChartColumn(_("Curve"), width=75),
        "loss": config.NumberColumn(_("Loss"), format="%.3f", help=smoothed, width=75),
        "accuracy": config.NumberColumn(_("Accuracy"), format=PERCENT_FORMAT, help=accuracy, width=85),
        "held_out": config.NumberColumn(_("Held out"), format=PERCENT_FORMAT, help=held_out, width=85),
        "tokens": config.NumberColumn(_("Tokens"), format="localized", width=70),
        "cost": config.NumberColumn(_("Cost, USD"), format="%.4f", width=80),
        "took": config.TextColumn(_("Training time"), help=_("Excludes queueing and pauses."), width=85),
        "base": config.TextColumn(_("Base model"), width=110),
        "provider": config.TextColumn(_("Provider"), width=75),
        "dataset": config.TextColumn(_("Data set"), width=85),
    }
