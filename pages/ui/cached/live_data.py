"""Reads that change often: data sets, runs, jobs. All viewers within the cache time share one read."""

from __future__ import annotations

import streamlit as st

from core.datasets import datasets, heatmap
from core.datasets.datasets import DatasetSummary
from core.datasets.heatmap import HeatMap
from core.finetuning import jobs, lineage
from core.finetuning.jobs import JobView
from core.generation import runs
from core.generation.batch import batch_store
from core.generation.runs import RunProgress
from core.model_profile import training_prompts
from core.model_profile.training_prompts import TrainingHistory
from core.pricing import machine_time
from pages.ui.cached.provider_models import forget_status
from pages.ui.cached.studio import FRESH_S, store, where

_LARGE_HEAT_S = 10  # 300,000 rows are counted in about a second, in the background


def dataset_list() -> list[DatasetSummary]:
    """All data sets, the newest first."""
    return list(_dataset_list(where()))


@st.cache_resource(ttl=FRESH_S, max_entries=4)
def _dataset_list(studio: str) -> tuple[DatasetSummary, ...]:
    return tuple(datasets.list_datasets(store()))


def run_of(dataset_id: str) -> tuple[DatasetSummary, RunProgress | None]:
    """A data set and its newest run.

    Raises:
        NotFound: the data set does not exist (any more).
    """
    return _run_of(dataset_id, where())


@st.cache_resource(ttl=FRESH_S, max_entries=64)
def _run_of(dataset_id: str, studio: str) -> tuple[DatasetSummary, RunProgress | None]:
    return datasets.summary(store(), dataset_id), runs.latest(store(), dataset_id)


def run_seconds(run_id: str) -> float | None:
    """How long the engine has worked on a run; None: unknown, or another provider writes it."""
    return _run_seconds(run_id, where())


@st.cache_resource(ttl=FRESH_S, max_entries=64)
def _run_seconds(run_id: str, studio: str) -> float | None:
    return machine_time.engine_seconds(store(), [run_id]).get(run_id)


def job_list() -> list[JobView]:
    """All jobs, the newest first, without their results (`cached_curves.curve` has those)."""
    return list(_job_list(where()))


@st.cache_resource(ttl=FRESH_S, max_entries=4)
def _job_list(studio: str) -> tuple[JobView, ...]:
    return tuple(jobs.list_jobs(store()))


def refresh() -> None:
    """Clear every cached poll, so that an action is visible immediately."""
    forget_status()
    for poll in (_dataset_list, _run_of, _run_seconds, _job_list, _heat, _large_heat, _batches_of):
        poll.clear()


def job_of(model: str) -> JobView | None:
    """The job that produced a tuned model, or one of its checkpoints; None if it is not in the ledger."""
    return lineage.job_that_made(store(), model)


def training_of(provider: str, model: str) -> TrainingHistory | None:
    """What a model in the ledger was trained on; None: its job is not in the ledger."""
    job = job_of(model)
    return None if job is None or job.provider != provider else _training_of(job.id, where())


@st.cache_resource(max_entries=32, ttl=60)
def _training_of(job_id: str, studio: str) -> TrainingHistory:
    return training_prompts.of_job(store(), jobs.get(store(), job_id, results=False))


def heat_map(dataset_id: str, rows: int, pair: tuple[int, int] | None) -> HeatMap:
    """The map of a data set with `rows` rows; `pair`: the chosen columns across and down.

    Raises:
        NotFound: the data set does not exist (any more).
    """
    poll = _heat if rows <= heatmap.MAX_SQUARES else _large_heat
    return poll(dataset_id, pair, where())


@st.cache_resource(ttl=FRESH_S, max_entries=16)
def _heat(dataset_id: str, pair: tuple[int, int] | None, studio: str) -> HeatMap:
    return heatmap.draw(store(), dataset_id, pair)


@st.cache_resource(ttl=_LARGE_HEAT_S, max_entries=16, refresh_mode="background")
def _large_heat(dataset_id: str, pair: tuple[int, int] | None, studio: str) -> HeatMap:
    return heatmap.draw(store(), dataset_id, pair)


def batches_of(run_id: str) -> tuple[batch_store.BatchView, ...]:
    """The batches of a run, the newest first."""
    return _batches_of(run_id, where())


@st.cache_resource(ttl=FRESH_S, max_entries=16)
def _batches_of(run_id: str, studio: str) -> tuple[batch_store.BatchView, ...]:
    return batch_store.batches_of_run(store(), run_id)
