"""What pages read, shared between visitors: clients and reference data for long, polls for about a second.

Nothing here belongs to one visitor. Ten viewers of a run cost one poll.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path

import streamlit as st

from core.cost import own, tokens
from core.cost.book import PriceBook
from core.cost.overlay import Entry
from core.dataset import datasets, export, heatmap, jsonl, presets, quality, runs, versions
from core.dataset.batch import batching
from core.dataset.datasets import DatasetSummary
from core.dataset.heatmap import HeatMap
from core.dataset.intake import importing
from core.dataset.runs import RunProgress
from core.db.store import Store
from core.db.tables import utcnow
from core.errors import FabulaError, StorageFull
from core.providers import Client, ModelInfo, Patience, Registry
from core.providers.registry import ENGINE
from core.settings import Settings
from core.status import Status, look
from core.training import jobs, results
from core.training.form import FileFormat
from core.training.jobs import JobView
from pages.ui.beside import Beside
from pages.ui.dataset.quality_job import Board

POLL_S = 1.0  # rows and steps come about once a second; a second's delay still feels live
_FRESH_S = 0.8  # below a poll, so that each poll looks anew, but all viewers' polls of that moment look once
_MODELS_S = 5  # a model appears when its job ends: soon enough to feel true
_QUICK = Patience(total_s=3.0, tries=1)  # a page does not wait for an endpoint that is not there; it says so
_QUICK_TIMEOUT_S = 3.0


def settings() -> Settings:
    """Where things are, from the environment."""
    return Settings.from_env()


def _where() -> str:
    """Tells caches of one studio from those of another (tests have many)."""
    return _digest(settings())


def _digest(settings: Settings) -> str:
    """A key of all fields that shows none of them."""
    return hashlib.sha256(repr(astuple(settings)).encode()).hexdigest()


def store() -> Store:
    """The ledger."""
    return _store(settings())


@st.cache_resource(hash_funcs={Settings: _digest}, max_entries=4)
def _store(settings: Settings) -> Store:
    return Store.open(settings)


def registry() -> Registry:
    """The providers that this studio can reach, with the worker's patience."""
    return _registry(settings(), os.environ.get("OPENAI_BASE_URL", ""), bool(os.environ.get("OPENAI_API_KEY")))


@st.cache_resource(hash_funcs={Settings: _digest}, max_entries=4)
def _registry(settings: Settings, base_url: str, has_key: bool) -> Registry:
    return Registry.from_settings(settings, os.environ)


def client(provider: str) -> Client:
    """The client of one provider."""
    return registry().get(provider)


@st.cache_resource(max_entries=2)
def _book(mine: str, day: str, home: str, _entries: tuple[Entry, ...]) -> PriceBook:
    return PriceBook.load(Path(home), own=_entries)


def prices() -> PriceBook:
    """The price book, with the prices that people of this studio have set."""
    entries = tuple(own.entries(store()))
    return _book(repr(entries), utcnow().date().isoformat(), str(settings().home), entries)


# --- models and engine ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Models:
    """What every provider offers now, and why one of them offers nothing."""

    found: tuple[ModelInfo, ...]
    problems: Mapping[str, FabulaError]


def models() -> Models:
    """Models of all providers, the engine's first."""
    return _models(tuple(registry().ids()), _where())


@st.cache_resource(ttl=_MODELS_S, max_entries=4, refresh_mode="background")
def _models(providers: tuple[str, ...], where: str) -> Models:
    found: list[ModelInfo] = []
    problems: dict[str, FabulaError] = {}
    for provider in providers:
        try:
            found += _quick(provider).models()
        except FabulaError as problem:
            problems[provider] = problem
    return Models(tuple(found), problems)


def forget_models() -> None:
    """Ask for the models anew at the next run."""
    _models.clear()


def ask_models(provider: str) -> list[ModelInfo]:
    """What one provider offers, asked now.

    Raises:
        FabulaError: why it does not answer.
    """
    return _quick(provider).models()


def _quick(provider: str) -> Client:
    return Client(registry().provider(provider), patience=_QUICK, timeout=_QUICK_TIMEOUT_S)


def status() -> Status:
    """How engine, worker and providers are now."""
    return _status(_where(), bool(os.environ.get("OPENAI_API_KEY")))


@st.cache_resource(ttl=POLL_S, max_entries=4)
def _status(where: str, has_key: bool) -> Status:
    try:
        ledger = store()
    except StorageFull:
        ledger = None
    return look(settings(), ledger)


def endpoint_of(info: ModelInfo) -> str:
    """Which endpoint a model answers on."""
    if info.format is not None:
        return "completion" if info.format == "completion" else "chat"
    return _quick(info.provider).endpoint(info.id)


def trainable() -> list[ModelInfo]:
    """Models that a job can start from: the engine's own, and what OpenAI still tunes."""
    book = prices()
    return [m for m in models().found if m.provider == ENGINE or book.training_price(m.provider, m.id) is not None]


# --- polls ---------------------------------------------------------------------------------------------------------


def dataset_list() -> list[DatasetSummary]:
    """All data sets, the newest first."""
    return list(_dataset_list(_where()))


@st.cache_resource(ttl=_FRESH_S, max_entries=4)
def _dataset_list(where: str) -> tuple[DatasetSummary, ...]:
    return tuple(datasets.list_datasets(store()))


def run_of(dataset_id: str) -> tuple[DatasetSummary, RunProgress | None]:
    """A data set and its newest run.

    Raises:
        NotFound: the data set is not there (any more).
    """
    return _run_of(dataset_id, _where())


@st.cache_resource(ttl=_FRESH_S, max_entries=64)
def _run_of(dataset_id: str, where: str) -> tuple[DatasetSummary, RunProgress | None]:
    return datasets.summary(store(), dataset_id), runs.latest(store(), dataset_id)


def job_list() -> list[JobView]:
    """All jobs, the newest first, without their results (`curve` has those)."""
    return list(_job_list(_where()))


@st.cache_resource(ttl=_FRESH_S, max_entries=4)
def _job_list(where: str) -> tuple[JobView, ...]:
    return tuple(jobs.list_jobs(store()))


def look_again() -> None:
    """What has just been done shall be seen at once: forget every poll."""
    for poll in (_status, _dataset_list, _run_of, _job_list, _heat, _large_heat, _batches_of):
        poll.clear()


def job_of(model: str) -> JobView | None:
    """The job that made a tuned model, or one of its checkpoints; None when it is not in the ledger."""
    made = model.split(":ckpt-step-")[0]
    return next((job for job in jobs.list_jobs(store()) if job.fine_tuned_model == made), None)


def training_of(job_id: str | None) -> tuple[int, int] | None:
    """Step and number of steps of a job that the engine trains now; None when it does not, or does not say."""
    training = status().engine.training
    if job_id is None or not training or not training.get("total_steps"):
        return None
    job = jobs.get(store(), job_id)
    if job.remote_id != training.get("job"):
        return None
    return int(training.get("step") or 0), int(training["total_steps"])


def curve(job: JobView) -> results.Results:
    """A job's curve so far, shared between visitors: not to be changed."""
    return _curve(job.id, job.updated_at, _where())


@st.cache_resource(max_entries=16)
def _curve(job_id: str, heard: datetime, where: str) -> results.Results:
    return results.parse(jobs.get(store(), job_id).results_csv or "")


# --- data sets on their way to training ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marks:
    """How a data set is written for training: format, end of prompts, end of completions (None: as proposed)."""

    separator: str | None = None
    stop: str | None = None
    file_format: FileFormat = "completion"


@st.cache_data(max_entries=32, ttl=60)
def suggestions(dataset_id: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Columns of a data set, each with the values it knows, in order of appearance."""
    recipe = datasets.recipe(store(), dataset_id)
    if recipe is not None:
        return tuple((column.name, column.values) for column in recipe.columns)
    seen: dict[str, dict[str, None]] = {name: {} for name in datasets.summary(store(), dataset_id).columns}
    for row in datasets.rows(store(), dataset_id, limit=_SUGGESTED_FROM):
        for name, value in row.values.items():
            seen.setdefault(name, {})[value] = None
    return tuple((name, tuple(values)[:_MOST_SUGGESTIONS]) for name, values in seen.items())


_SUGGESTED_FROM = 1_000  # rows looked at for suggestions
_MOST_SUGGESTIONS = 50  # a longer list is no help


@st.cache_data(max_entries=8)
def sample_size(name: str) -> int:
    """How many stories a sample has."""
    path = presets.DATA / "samples" / f"{name}.csv"
    return len(importing.read_table(path.read_bytes(), path.name).frame)


_LARGE_HEAT_S = 10  # 300,000 rows are counted in about a second, beside the page


def heat_map(dataset_id: str, rows: int, pair: tuple[int, int] | None) -> HeatMap:
    """The map of a data set of `rows` rows; `pair`: the columns across and down that were chosen.

    Raises:
        NotFound: the data set is not there (any more).
    """
    poll = _heat if rows <= heatmap.MOST_SQUARES else _large_heat
    return poll(dataset_id, pair, _where())


@st.cache_resource(ttl=_FRESH_S, max_entries=16)
def _heat(dataset_id: str, pair: tuple[int, int] | None, where: str) -> HeatMap:
    return heatmap.draw(store(), dataset_id, pair)


@st.cache_resource(ttl=_LARGE_HEAT_S, max_entries=16, refresh_mode="background")
def _large_heat(dataset_id: str, pair: tuple[int, int] | None, where: str) -> HeatMap:
    return heatmap.draw(store(), dataset_id, pair)


def quality_of(dataset_id: str) -> tuple[Board, str]:
    """Where the quality of a data set is measured, and the mark of the rows as they are now.

    Raises:
        NotFound: the data set is not there (any more).
    """
    return _board(dataset_id, _where()), quality.fingerprint(store(), dataset_id)


@st.cache_resource(max_entries=8)
def _board(dataset_id: str, where: str) -> Board:
    ledger = store()
    return Board(lambda progress: quality.of(ledger, dataset_id, progress))


@dataclass(frozen=True, slots=True)
class Written:
    """How rows are written for training, and the first lines of that file."""

    plan: jsonl.Plan
    lines: tuple[str, ...]


_SHOWN_LINES = 2


def written(dataset_id: str, version_id: str | None, rows: int, marks: Marks) -> Beside[Written]:
    """How a data set, or a version of it, is written; looked at anew when a row has come, gone or been edited."""
    as_now = version_id or datasets.fingerprint(store(), dataset_id)
    return _written(as_now, dataset_id, version_id, rows, marks, _where())


@st.cache_resource(max_entries=16)
def _written(
    as_now: str, dataset_id: str, version_id: str | None, rows: int, marks: Marks, where: str
) -> Beside[Written]:
    chosen = export.Selection(store(), dataset_id, version_id)

    def look(seen: Callable[[], None]) -> Written:
        plan = export.plan(chosen, marks.file_format, separator=marks.separator, stop=marks.stop, seen=seen)
        return Written(plan, tuple(islice(plan.lines(chosen.examples()), _SHOWN_LINES)))

    return Beside(look, rows)


def tokens_of(
    dataset_id: str, version_id: str | None, rows: int, marks: Marks, model: ModelInfo
) -> Beside[tokens.TokenCount]:
    """Tokens that `model` reads in one epoch of a file so written: by its own tokenizer where the engine is up.

    Raises:
        FabulaError: it cannot be written so.
    """
    as_now = version_id or datasets.fingerprint(store(), dataset_id)
    own = model.provider == ENGINE and status().engine.state == "up"
    return _tokens_of(as_now, dataset_id, version_id, rows, marks, model.provider, model.id, own, _where())


@st.cache_resource(max_entries=64)
def _tokens_of(
    as_now: str,
    dataset_id: str,
    version_id: str | None,
    rows: int,
    marks: Marks,
    provider: str,
    model: str,
    own: bool,
    where: str,
) -> Beside[tokens.TokenCount]:
    chosen = export.Selection(store(), dataset_id, version_id)
    asked = _quick(provider) if own else None

    def count(seen: Callable[[], None]) -> tokens.TokenCount:
        plan = export.plan(chosen, marks.file_format, separator=marks.separator, stop=marks.stop)
        ask = None if asked is None else partial(asked.count_tokens, model)
        return export.count_tokens(plan, export.Watched(chosen.examples(), seen), model, ask)

    return Beside(count, rows, asks=own)


def parts(dataset_id: str) -> dict[str | None, int]:
    """Finished rows of a data set by the part that they are in."""
    return _parts(datasets.fingerprint(store(), dataset_id), dataset_id)


@st.cache_data(max_entries=64)
def _parts(as_now: str, dataset_id: str) -> dict[str | None, int]:
    return datasets.parts(store(), dataset_id)


def version_list(dataset_id: str) -> list[versions.Version]:
    """Versions of a data set, the newest first."""
    return versions.list_versions(store(), dataset_id)


def batches_of(run_id: str) -> tuple[batching.BatchView, ...]:
    """The batches of a run, the newest first."""
    return _batches_of(run_id, _where())


@st.cache_resource(ttl=_FRESH_S, max_entries=16)
def _batches_of(run_id: str, where: str) -> tuple[batching.BatchView, ...]:
    return batching.of_run(store(), run_id)
