"""Caches shared by all visitors: `shared`, which keeps one result of a function for all of them, and common reads.

Nothing that belongs to one visitor is cached here. Ten viewers of a run cost one poll. Reads used by only one page are
in its package (`cost/cached_cost`, `dataset/training_file`, `training/cached_training`).
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from functools import update_wrapper
from typing import Any, Generic, Literal, ParamSpec, TypeVar

import streamlit as st

from core.datasets import datasets, heatmap
from core.datasets.datasets import DatasetSummary
from core.datasets.heatmap import HeatMap
from core.db.store import Store
from core.db.tables import utcnow
from core.errors import FabulaError, StorageFull
from core.file_storage import FileStorage, StoredFile
from core.finetuning import job_views, lineage
from core.finetuning.job_views import JobView
from core.generation import run_progress
from core.generation.batch import batch_store
from core.generation.run_progress import RunProgress
from core.jobs.system_status import Status, collect
from core.message import msg
from core.model_profile import model_purpose
from core.model_profile.model_purpose import TrainingHistory
from core.pricing import custom_prices, machine_time
from core.pricing.price_book import PriceBook
from core.pricing.price_csv import PriceEntry
from core.providers import Client, ModelInfo, Registry, RetryPolicy
from core.providers.model_lists import ModelLists
from core.providers.registry import ENGINE
from core.providers.schemas import Endpoint
from core.settings import Settings
from core.shared_files import PRICES, storage

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("fabula.pages")
_RefreshMode = Literal["foreground", "background"]

POLL_S = 1.0  # rows and steps arrive about once a second; a second's delay still feels live
FRESH_S = 0.8  # shorter than a poll: each poll reads again, and simultaneous polls of all viewers read once
_MODELS_S = 5  # a model appears at most this long after its job ends
_VERSION_S = 5  # an update is noticed at most this long after it
ENDPOINT_WAIT_S = 3.0
"""A page does not wait longer for an unreachable endpoint; it shows an error."""
_LARGE_HEAT_S = 10  # 300,000 rows are counted in about a second, in the background


# --- the studio -------------------------------------------------------------------------------------------------------


class SharedFunction(Generic[P, T]):
    """A function whose results are shared by all visitors of a studio; made by `shared`."""

    def __init__(
        self,
        function: Callable[P, T],
        key: Callable[..., Hashable] | None,
        ttl: float | None,
        max_entries: int,
        refresh_mode: _RefreshMode,
    ) -> None:
        def compute(key: str, _args: Any, _kwargs: Any) -> T:
            result: T = function(*_args, **_kwargs)
            return result

        own = inspect.signature(compute)
        update_wrapper(compute, function)  # Streamlit tells caches apart by module, qualified name and source code,
        compute.__signature__ = own  # type: ignore[attr-defined]  # and reads from the signature what to hash
        update_wrapper(self, function)
        self._key = key
        self._cached: Any = st.cache_resource(
            ttl=ttl, max_entries=max_entries, refresh_mode=refresh_mode, show_spinner=False
        )(compute)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._cached(*self._arguments(args, kwargs))
        return result

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Drop the result for these arguments, or all results if there are no arguments."""
        if args or kwargs:
            self._cached.clear(*self._arguments(args, kwargs))
        else:
            self._cached.clear()

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        key = (args, tuple(sorted(kwargs.items()))) if self._key is None else self._key(*args, **kwargs)
        return f"{where()} {key!r}", args, kwargs  # one text: Streamlit takes a millisecond to hash an object


def shared(
    *,
    max_entries: int,
    ttl: float | None = None,
    key: Callable[..., Hashable] | None = None,
    refresh_mode: _RefreshMode = "foreground",
) -> Callable[[Callable[P, T]], SharedFunction[P, T]]:
    """Share the results of a function between all visitors. All get the same object, so it must not be modified.

    Each studio (database, home folder) has its own results. The function finds the studio in the environment.

    Args:
        max_entries: maximum number of results kept; the oldest is dropped.
        ttl: seconds until a result is computed again; None means never.
        key: computes from the arguments, at every call, what distinguishes results: an id and a time of change instead
            of a large object, the language of the page. None means the arguments themselves. Keys with the same
            `repr` are the same.
        refresh_mode: `background`: after `ttl` the old result is returned while a new one is computed.
    """

    def decorate(function: Callable[P, T]) -> SharedFunction[P, T]:
        return SharedFunction(function, key, ttl, max_entries, refresh_mode)

    return decorate


def settings() -> Settings:
    """The settings from the environment."""
    return Settings.from_env()


def shared_files() -> FileStorage:
    """The files that all processes share: price lists, and the prompts of presenter mode."""
    return storage(settings())


_hashed: tuple[Settings, str] | None = None


def where() -> str:
    """A cache key that differs between studios (tests have many): a hash, so that no secret is in it."""
    global _hashed
    known, now = _hashed, settings()
    if known is None or known[0] is not now:  # a page asks dozens of times
        _hashed = known = now, hashlib.sha256(repr(astuple(now)).encode()).hexdigest()
    return known[1]


def as_fabula_error(error: Exception, work: str) -> FabulaError:
    """`error` for a card: unchanged if it is a `FabulaError`, else a general sentence; `work` names it in the log."""
    if isinstance(error, FabulaError):
        return error
    _log.error(work, exc_info=error)
    fault = FabulaError(
        msg("Something went wrong while this part was loading."),
        msg("Try again in a few seconds. If it fails again, check Fabula's log."),
    )
    fault.__cause__ = error
    return fault


@shared(max_entries=4)
def store() -> Store:
    """The ledger."""
    return Store.open(settings())


@shared(max_entries=4, ttl=_VERSION_S)
def check_version() -> None:
    """Check that no newer version of Fabula has migrated the ledger since this server opened it.

    Raises:
        NewerDatabase: one has.
        StorageFull: the database is unavailable.
    """
    store().check_version()


@shared(
    max_entries=4,
    key=lambda: (os.environ.get("OPENAI_BASE_URL", ""), bool(os.environ.get("OPENAI_API_KEY"))),
)
def registry() -> Registry:
    """The providers of this studio, with the worker's retry limits."""
    return Registry.from_settings(settings(), os.environ, store)


def client(provider: str) -> Client:
    """The client of one provider."""
    return registry().get(provider)


def prices() -> PriceBook:
    """The price book, including custom prices."""
    return _price_book(tuple(custom_prices.entries(store())), shared_files().find(PRICES))


@shared(max_entries=2, key=lambda entries, own: (repr(entries), own and own.version, utcnow().date().isoformat()))
def _price_book(entries: tuple[PriceEntry, ...], own: StoredFile | None) -> PriceBook:
    return PriceBook.load(shared_files(), own=entries)


# --- models and status ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfferedModels:
    """The models that every provider offers, and errors by provider."""

    found: tuple[ModelInfo, ...]
    problems: Mapping[str, FabulaError]


@shared(ttl=_MODELS_S, max_entries=4, refresh_mode="background", key=lambda: registry().revision())
def models() -> OfferedModels:
    """Models of all providers, the engine's first. `ModelLists` decides when a provider that failed is asked again."""
    found: list[ModelInfo] = []
    problems: dict[str, FabulaError] = {}
    for provider in registry().ids():
        try:
            found += model_lists().of(registry().provider(provider), quick(provider).models)
        except Exception as problem:
            problems[provider] = as_fabula_error(problem, f"asking {provider} for its models")
    return OfferedModels(tuple(found), problems)


@shared(max_entries=4)
def model_lists() -> ModelLists:
    """The providers' latest responses to requests for their models."""
    return ModelLists()


def forget_models(provider: str | None = None) -> None:
    """Ask this provider for its models again; None means all providers, including those whose failure would be kept."""
    registry().refresh()
    model_lists().forget(provider)
    models.clear()
    _endpoint.clear()


def quick(provider: str) -> Client:
    """A client for pages: one attempt with a short timeout."""
    policy = RetryPolicy(total_s=ENDPOINT_WAIT_S, tries=1)
    return registry().client(provider, retry_policy=policy, timeout=ENDPOINT_WAIT_S)


@shared(ttl=POLL_S, max_entries=4, key=lambda: bool(os.environ.get("OPENAI_API_KEY")))
def status() -> Status:
    """The current state of engine, worker and providers."""
    ledger, providers = None, Registry.from_settings(settings(), os.environ)
    with suppress(StorageFull):
        ledger, providers = store(), registry()
    return collect(settings(), ledger, providers)


def endpoint_of(info: ModelInfo) -> Endpoint:
    """The endpoint that a model supports."""
    if info.format is not None:
        return "completion" if info.format == "completion" else "chat"
    return _endpoint(info.provider, info.id)


@shared(ttl=_MODELS_S, max_entries=256)
def _endpoint(provider: str, model: str) -> Endpoint:
    return quick(provider).endpoint(model)


def trainable() -> list[ModelInfo]:
    """Models that a job can start from: the engine's models, and those that OpenAI still fine-tunes."""
    book = prices()
    return [m for m in models().found if m.provider == ENGINE or book.training_price(m.provider, m.id) is not None]


# --- data sets, runs and jobs: what changes often ---------------------------------------------------------------------


@shared(ttl=FRESH_S, max_entries=4)
def dataset_list() -> tuple[DatasetSummary, ...]:
    """All data sets, newest first."""
    return tuple(datasets.list_datasets(store()))


@shared(ttl=FRESH_S, max_entries=64)
def run_of(dataset_id: str) -> tuple[DatasetSummary, RunProgress | None]:
    """A data set and its newest run.

    Raises:
        NotFound: the data set does not exist.
    """
    return datasets.summary(store(), dataset_id), run_progress.latest(store(), dataset_id)


@shared(ttl=FRESH_S, max_entries=64)
def run_seconds(run_id: str) -> float | None:
    """How long the engine has worked on a run; None if unknown, or if another provider writes it."""
    return machine_time.engine_seconds(store(), [run_id]).get(run_id)


@shared(ttl=FRESH_S, max_entries=16)
def batches_of(run_id: str) -> tuple[batch_store.BatchView, ...]:
    """The batches of a run, newest first."""
    return batch_store.batches_of_run(store(), run_id)


@shared(ttl=FRESH_S, max_entries=4)
def job_list() -> tuple[JobView, ...]:
    """All jobs, newest first, without their results (`cached_curves.curve` has those)."""
    return tuple(job_views.list_jobs(store()))


def job_of(model: str) -> JobView | None:
    """The job that produced a tuned model, or one of its checkpoints; None if it is not in the ledger."""
    return lineage.job_that_made(store(), model)


def training_of(provider: str, model: str) -> TrainingHistory | None:
    """What a model in the ledger was trained on; None if its job is not in the ledger."""
    job = job_of(model)
    return None if job is None or job.provider != provider else _training_of(job.id)


@shared(ttl=60, max_entries=32)
def _training_of(job_id: str) -> TrainingHistory:
    return model_purpose.training_history(store(), job_views.get(store(), job_id, results=False))


def heat_map(dataset_id: str, rows: int, pair: tuple[int, int] | None) -> HeatMap:
    """The map of a data set with `rows` rows; `pair`: the chosen columns across and down.

    Raises:
        NotFound: the data set does not exist.
    """
    return (_heat if rows <= heatmap.MAX_SQUARES else _large_heat)(dataset_id, pair)


@shared(ttl=FRESH_S, max_entries=16)
def _heat(dataset_id: str, pair: tuple[int, int] | None) -> HeatMap:
    return heatmap.draw(store(), dataset_id, pair)


@shared(ttl=_LARGE_HEAT_S, max_entries=16, refresh_mode="background")
def _large_heat(dataset_id: str, pair: tuple[int, int] | None) -> HeatMap:
    return heatmap.draw(store(), dataset_id, pair)


_POLLS = (status, dataset_list, run_of, run_seconds, job_list, _heat, _large_heat, batches_of)


def refresh() -> None:
    """Clear every cached poll, so that an action is visible immediately."""
    for poll in _POLLS:
        poll.clear()
