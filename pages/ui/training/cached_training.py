"""What the training page reads, shared between visitors; in the manner of `pages.ui.cached`, which it builds on.

Everything about a job is kept by its id and the moment when its provider was last heard, so that a page with many
jobs, or with a curve of a million steps, reads each of them once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from typing import Any, Literal

import pandas as pd
import streamlit as st

from core.charts import common as charts
from core.charts.common import Axis, CurveLabels, CurveView, Mark, Spec
from core.dataset import datasets
from core.db.tables import utcnow
from core.training import checking, checkpoints, compare, jobs, lineage, preflight, reading, results, versus
from core.training.checkpoints import CheckpointView
from core.training.compare import Comparison
from core.training.evaluating import EvaluationView
from core.training.filecheck import FileCheck
from core.training.form import JobForm
from core.training.jobs import JobView
from core.training.lineage import Family
from core.training.preflight import Preflight
from core.training.reading import Observation
from core.training.results import Results
from core.training.versus import Versus
from pages.ui import cached
from pages.ui.beside import Beside

_SPARKS = 40  # values of the small curve in the list
_ACCOUNT_S = 300  # whether an account may train does not change by the minute
_FRESH_S = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """A job's curve in a few figures, for lists. None: not known."""

    steps: int
    loss: float | None
    accuracy: float | None
    best_accuracy: float | None
    sparks: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart that is ready to be shown: its specification, and its rows apart, as Streamlit sends them."""

    spec: Spec
    rows: pd.DataFrame

    @classmethod
    def of(cls, spec: Spec) -> Drawn:
        """Take the rows out of a specification, once, so that a rerun has nothing to turn into a table."""
        rows = pd.DataFrame(spec["data"]["values"])
        return cls({name: value for name, value in spec.items() if name != "data"}, rows)

    def whole(self) -> Spec:
        """The specification with its rows inside, for a file."""
        values = self.rows.astype(object).where(self.rows.notna(), None).to_dict("records")
        return {**self.spec, "data": {"values": values}}


@dataclass(frozen=True, slots=True)
class Figures:
    """A curve in numbers. None: not known."""

    steps: int
    tokens: int | None
    first_loss: float | None
    last_loss: float | None
    first_accuracy: float | None
    last_accuracy: float | None

    @classmethod
    def of(cls, read: Results) -> Figures:
        """The numbers of a curve."""
        loss, accuracy = "training_loss", "training_token_accuracy"
        ends = (read.first(loss), read.last(loss), read.first(accuracy), read.last(accuracy))
        return cls(read.steps, read.trained_tokens, *ends)


@dataclass(frozen=True, slots=True)
class CurveSource:
    """A curve and a key that changes when it does, for charts that are drawn once and shown many times.

    Attributes:
        key: tells this curve, as it is now, from every other.
        results: for figures and words.
        frame: with the columns that `core.charts.common.AXES` names, as far as they are known.
        axes: what it can be drawn over.
        figures: first and last known values; a long column is not searched at every rerun.
        marks: steps to point out.
    """

    key: str
    results: Results
    frame: pd.DataFrame
    axes: tuple[Axis, ...]
    figures: Figures
    marks: tuple[Mark, ...] = ()

    @classmethod
    def of(cls, key: str, read: Results, frame: pd.DataFrame, marks: tuple[Mark, ...] = ()) -> CurveSource:
        """A curve with what is known of it."""
        return cls(key, read, frame, charts.axes(frame), Figures.of(read), marks)

    def marked(self, marks: Sequence[Mark]) -> CurveSource:
        """The same curve with these steps pointed out."""
        return replace(self, marks=tuple(marks))


def where() -> str:
    """Tells caches of one studio from those of another."""
    return hashlib.sha256(repr(astuple(cached.settings())).encode()).hexdigest()


# --- jobs -----------------------------------------------------------------------------------------------------------


def summary(job: JobView) -> Summary:
    """The few figures of a job's curve."""
    return _summary(job.id, job.updated_at, where(), job)


@st.cache_resource(max_entries=4096)
def _summary(job_id: str, heard: datetime, where: str, _job: JobView) -> Summary:
    read = cached.curve(_job)
    losses = read.frame["training_loss"].dropna()
    few = losses.iloc[:: max(1, len(losses) // _SPARKS)]
    return Summary(
        steps=read.steps,
        loss=read.last("training_loss"),
        accuracy=read.last("training_token_accuracy"),
        best_accuracy=read.best_accuracy(),
        sparks=tuple(float(value) for value in few),
    )


def shared_table(seen: int, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table that many look at: made anew when `seen` changes, and every few seconds, as it tells times."""
    return _shared_table(seen, where(), make)


@st.cache_resource(ttl=_FRESH_S, max_entries=32)
def _shared_table(seen: int, where: str, _make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    return _make()


def source(job: JobView) -> CurveSource:
    """The curve of one job, with epochs and time where they can be told."""
    return _source(job.id, job.updated_at, where(), job)


@st.cache_resource(max_entries=8)
def _source(job_id: str, heard: datetime, where: str, _job: JobView) -> CurveSource:
    read = cached.curve(_job)
    found = CurveSource.of(f"{job_id} {heard}", read, reading.with_axes(read, _job))
    tokens = found.figures.tokens or _job.trained_tokens  # today's files do not count them; their provider does
    return replace(found, figures=replace(found.figures, tokens=tokens))


def chain_source(chain: Sequence[JobView]) -> CurveSource:
    """One continuous curve of a chain of jobs; where each begins is marked with its name."""
    return _chain(tuple((job.id, job.updated_at) for job in chain), where(), tuple(chain))


@st.cache_resource(max_entries=8)
def _chain(key: tuple[tuple[str, datetime], ...], where: str, _chain: tuple[JobView, ...]) -> CurveSource:
    frame = reading.curve_frame([(job, cached.curve(job)) for job in _chain])
    frame = frame.drop(columns=["step", "elapsed_tokens"])
    frame = frame.rename(columns={"total_step": "step", "total_tokens": "elapsed_tokens"})
    begins = frame.drop_duplicates("job")
    names = {job.id: job.name for job in _chain}
    marks = tuple(
        Mark(int(step), names.get(str(job), str(job)), "part")
        for step, job in zip(begins["step"], begins["job"], strict=True)
    )
    return CurveSource.of(f"chain {key}", Results(frame, skipped=0), frame, marks)


def observations(source: CurveSource, points: tuple[CheckpointView, ...] = ()) -> tuple[Observation, ...]:
    """What a curve says, in words."""
    return _observations(source.key, len(points), source.results, points)


@st.cache_resource(max_entries=64)
def _observations(key: str, n: int, _read: Results, _points: tuple[CheckpointView, ...]) -> tuple[Observation, ...]:
    return reading.observations(_read, _points)


_Which = Literal["loss", "accuracy"]


def curve_chart(which: _Which, source: CurveSource, view: CurveView, labels: CurveLabels) -> Drawn:
    """A curve's chart, drawn once for all who look at it in this way."""
    return _curve_chart(which, source.key, source.marks, view, labels, source)


@st.cache_resource(max_entries=64)
def _curve_chart(
    which: _Which, key: str, marks: tuple[Mark, ...], view: CurveView, labels: CurveLabels, _source: CurveSource
) -> Drawn:
    draw = charts.loss_chart if which == "loss" else charts.accuracy_chart
    return Drawn.of(draw(_source.frame, view, labels, marks))


def drawn(key: tuple[Any, ...], draw: Callable[[], Spec]) -> Drawn:
    """Any other chart, drawn once for each `key`."""
    return _drawn(repr(key), where(), draw)


@st.cache_resource(max_entries=32)
def _drawn(key: str, where: str, _draw: Callable[[], Spec]) -> Drawn:
    return Drawn.of(_draw())


def points(job: JobView) -> tuple[CheckpointView, ...]:
    """A job's checkpoints by step."""
    return _points(job.id, job.updated_at, where())


@st.cache_resource(max_entries=256)
def _points(job_id: str, heard: datetime, where: str) -> tuple[CheckpointView, ...]:
    return checkpoints.list_checkpoints(cached.store(), job_id)


def family(job: JobView) -> Family:
    """Everything that is connected with a job."""
    return _family(job.id, where())


@st.cache_resource(ttl=_FRESH_S, max_entries=16)
def _family(job_id: str, where: str) -> Family:
    return lineage.family(cached.store(), job_id)


def compared(opened: Sequence[JobView], names: Mapping[str, str]) -> Comparison:
    """Jobs side by side, under names that tell them apart; made anew every few seconds, as it tells times."""
    named = tuple(replace(job, name=names[job.id]) for job in opened)
    return _compared(tuple((job.id, job.updated_at, job.name) for job in named), where(), named)


@st.cache_resource(ttl=_FRESH_S, max_entries=16)
def _compared(key: tuple[tuple[str, datetime, str], ...], where: str, _named: tuple[JobView, ...]) -> Comparison:
    return compare.compare(_named, [cached.curve(job) for job in _named], utcnow())


def last_event(job: JobView) -> datetime | None:
    """When the provider of a job last told something new; None: never yet."""
    return _last_event(job.id, job.updated_at, where())


@st.cache_resource(max_entries=256)
def _last_event(job_id: str, heard: datetime, where: str) -> datetime | None:
    return jobs.last_event(cached.store(), job_id)


def results_text(job_id: str) -> str:
    """A job's results file as it came."""
    return jobs.get(cached.store(), job_id).results_csv or ""


def read_file(file_id: str, text: str) -> CurveSource:
    """The curve of a results file that a visitor uploaded; the visitor keeps it, not this cache."""
    read = results.parse(text)
    return CurveSource.of(f"file {file_id}", read, reading.with_axes(read))


def against(tuned: EvaluationView, base: EvaluationView) -> Versus:
    """Two evaluations, row by row.

    Raises:
        FabulaError: they have no row in common.
    """
    return _against(tuned.id, tuned.finished_at, base.id, base.finished_at, where())


@st.cache_resource(max_entries=64)
def _against(tuned: str, tuned_at: datetime | None, base: str, base_at: datetime | None, where: str) -> Versus:
    return versus.versus(cached.store(), tuned, base)


# --- a new job ------------------------------------------------------------------------------------------------------


def account(provider: str, model: str) -> Preflight:
    """Whether the account may train this model, and for how long the result can be called.

    Raises:
        FabulaError: the provider is not set up.
    """
    return _account(provider, model, where())


@st.cache_resource(ttl=_ACCOUNT_S, max_entries=64)
def _account(provider: str, model: str, where: str) -> Preflight:
    return preflight.preflight(cached.store(), cached.client(provider), cached.prices(), model, utcnow())


def file_check(form: JobForm, rows: int) -> Beside[FileCheck]:
    """The whole file that this form would send, looked at; anew when a row has come, gone or been edited.

    Raises:
        FabulaError: it cannot be written so.
    """
    as_now = form.version_id or datasets.fingerprint(cached.store(), form.dataset_id)
    marks = (form.file_format, form.separator, form.stop)
    return _file_check(as_now, marks, (form.provider, form.base_model), rows, where(), form)


@st.cache_resource(max_entries=16)
def _file_check(
    as_now: str, marks: tuple[Any, ...], model: tuple[str, str], rows: int, where: str, _form: JobForm
) -> Beside[FileCheck]:
    store = cached.store()

    def look(seen: Callable[[], None]) -> FileCheck:
        told = 0

        def count(lines: int) -> None:
            nonlocal told
            while told < min(lines, rows):
                told += 1
                seen()

        return checking.check_form(store, _form, seen=count)

    return Beside(look, rows)
