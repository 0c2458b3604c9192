"""Curves and their charts, shared between visitors; based on `pages.ui.cached`.

A curve is parsed again only when its results file has changed, not at every poll of its job, which keeps the page fast
even with a million steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import streamlit as st

from core.charts import training_curve
from core.charts.training_curve import CurveLabels, CurveMark
from core.charts.vega_lite import CurveView, Spec
from core.finetuning import curve_analysis, job_views, jobs, results
from core.finetuning.checkpoints import CheckpointView
from core.finetuning.curve_analysis import Observation
from core.finetuning.jobs import JobView
from core.finetuning.results import Results
from pages.ui import cached
from pages.ui.cached import where
from pages.ui.training.curve_source import CurveSource, RenderedChart

_Mark = tuple[str, int, str]
"""Tells a results file from what it was before: whether its job has ended, its length, how it ends."""


def curve(job: JobView) -> Results:
    """A job's curve so far; do not modify it."""
    return _curve(job.id, _mark(job), where())


@st.cache_resource(max_entries=16)
def _curve(job_id: str, mark: _Mark, where: str) -> Results:
    return results.parse(jobs.get(cached.store(), job_id).results_csv or "")


def _mark(job: JobView) -> _Mark:
    if job.finished:
        return (f"{job.status} {job.updated_at}", 0, "")
    return _mark_now(job.id, job.updated_at, where())


@st.cache_resource(max_entries=256)
def _mark_now(job_id: str, heard: datetime, where: str) -> _Mark:
    return ("", *job_views.results_tail(cached.store(), job_id))


def source(job: JobView) -> CurveSource:
    """The curve of one job, with epochs and time if known."""
    return _source(job.id, _mark(job), where(), job)


@st.cache_resource(max_entries=8)
def _source(job_id: str, mark: _Mark, where: str, _job: JobView) -> CurveSource:
    read = curve(_job)
    found = CurveSource.of(f"{job_id} {mark}", read, curve_analysis.with_axes(read, _job))
    tokens = found.figures.tokens or _job.trained_tokens  # today's files do not contain them; the provider reports them
    return replace(found, figures=replace(found.figures, tokens=tokens), examples=_job.n_examples)


def chain_source(chain: Sequence[JobView]) -> CurveSource:
    """One continuous curve of a chain of jobs; where each begins is marked with its name."""
    return _chain(tuple((job.id, _mark(job)) for job in chain), where(), tuple(chain))


@st.cache_resource(max_entries=8)
def _chain(key: tuple[tuple[str, _Mark], ...], where: str, _chain: tuple[JobView, ...]) -> CurveSource:
    frame = curve_analysis.curve_frame([(job, curve(job)) for job in _chain])
    frame = frame.drop(columns=["step", "elapsed_tokens"])
    frame = frame.rename(columns={"total_step": "step", "total_tokens": "elapsed_tokens"})
    begins = frame.drop_duplicates("job")
    names = {job.id: job.name for job in _chain}
    marks = tuple(
        CurveMark(int(step), names.get(str(job), str(job)), "part")
        for step, job in zip(begins["step"], begins["job"], strict=True)
    )
    return CurveSource.of(f"chain {key}", Results(frame, skipped=0), frame, marks)


def observations(source: CurveSource, points: tuple[CheckpointView, ...] = ()) -> tuple[Observation, ...]:
    """Observations about a curve, in words."""
    return _observations(source.key, len(points), source.examples, source.results, points)


@st.cache_resource(max_entries=64)
def _observations(
    key: str, n: int, examples: int | None, _read: Results, _points: tuple[CheckpointView, ...]
) -> tuple[Observation, ...]:
    return curve_analysis.observations(_read, _points, examples)


_Which = Literal["loss", "accuracy"]


def curve_chart(which: _Which, source: CurveSource, view: CurveView, labels: CurveLabels) -> RenderedChart:
    """A curve's chart, built once for all visitors with the same view."""
    return _curve_chart(which, source.key, source.marks, view, labels, source)


@st.cache_resource(max_entries=64)
def _curve_chart(
    which: _Which, key: str, marks: tuple[CurveMark, ...], view: CurveView, labels: CurveLabels, _source: CurveSource
) -> RenderedChart:
    draw = training_curve.loss_chart if which == "loss" else training_curve.accuracy_chart
    return RenderedChart.of(draw(_source.frame, view, labels, marks))


def cached_chart(key: tuple[Any, ...], draw: Callable[[], Spec]) -> RenderedChart:
    """Any other chart, drawn once per `key`."""
    return _drawn(repr(key), where(), draw)


@st.cache_resource(max_entries=32)
def _drawn(key: str, where: str, _draw: Callable[[], Spec]) -> RenderedChart:
    return RenderedChart.of(_draw())


def read_file(file_id: str, text: str) -> CurveSource:
    """The curve of a results file that a visitor uploaded; stored in the session, not in this cache."""
    read = results.parse(text)
    return CurveSource.of(f"file {file_id}", read, curve_analysis.with_axes(read))
