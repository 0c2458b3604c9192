"""What pages read, shared between visitors: clients and reference data for long, polls for about a second.

Nothing here belongs to one visitor. Ten viewers of a run cost one poll.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

import streamlit as st

from core.cost import tokens
from core.cost.book import PriceBook
from core.dataset import datasets, importing, jsonl, presets, runs
from core.dataset.datasets import DatasetSummary
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


@st.cache_resource(max_entries=1)
def _book(home: Path, day: str) -> PriceBook:
    return PriceBook.load(home)


def prices() -> PriceBook:
    """The price book, with the person's own rows."""
    return _book(settings().home, utcnow().date().isoformat())


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
    """All jobs with their results, the newest first."""
    return list(_job_list(_where()))


@st.cache_resource(ttl=_FRESH_S, max_entries=4)
def _job_list(where: str) -> tuple[JobView, ...]:
    return tuple(jobs.list_jobs(store(), results=True))


def look_again() -> None:
    """What has just been done shall be seen at once: forget every poll."""
    for poll in (_status, _dataset_list, _run_of, _job_list):
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


@st.cache_data(max_entries=64)
def _curve(text: str) -> results.Results:
    return results.parse(text)


def curve(job: JobView) -> results.Results:
    """A job's curve so far."""
    return _curve(job.results_csv or "")


# --- data sets on their way to training ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marks:
    """How a data set is written for training: format, end of prompts, end of completions (None: as proposed)."""

    separator: str | None = None
    stop: str | None = None
    file_format: FileFormat = "completion"


@st.cache_data(max_entries=8)
def prepared(dataset_id: str, done: int, marks: Marks) -> jsonl.Prepared:
    """What preparation makes of a data set; it is prepared again when another number of its rows is done."""
    examples = datasets.examples(store(), dataset_id)
    if marks.file_format == "chat":
        return jsonl.prepare_chat(examples)
    return jsonl.prepare(examples, separator=marks.separator, stop=marks.stop)


@st.cache_data(max_entries=16)
def training_tokens(dataset_id: str, done: int, marks: Marks, model: str) -> int:
    """Tokens of the prepared file, read once."""
    return tokens.count(list(prepared(dataset_id, done, marks).lines), model).tokens


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
