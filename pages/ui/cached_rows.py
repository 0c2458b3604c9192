"""Reads of a data set before training, shared by all visitors: quality, file format, token counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

from core.datasets import dataset_rows, datasets, export, jsonl, presets, versions
from core.datasets.importers import table_reader
from core.datasets.quality import quality_store
from core.datasets.quality.report import QualityReport
from core.finetuning.job_form import FileFormat
from core.generation import runs
from core.pricing import tokens
from core.providers import ModelInfo
from core.providers.registry import ENGINE
from pages.ui.background import BackgroundTask, RefreshedReport, shared_task
from pages.ui.cache import shared
from pages.ui.cached import quick, run_of, status, store

_SUGGESTED_FROM = 1_000  # rows read for suggestions
_MOST_SUGGESTIONS = 50  # a longer list is not helpful
_SHOWN_LINES = 2


@dataclass(frozen=True, slots=True)
class TrainingFormat:
    """How a data set is written for training: format, end of prompts, end of completions (None: as proposed)."""

    separator: str | None = None
    stop: str | None = None
    file_format: FileFormat = "completion"


@dataclass(frozen=True, slots=True)
class TrainingFilePreview:
    """How rows are written for training, and the first lines of that file."""

    plan: jsonl.Plan
    lines: tuple[str, ...]


@shared(ttl=60, max_entries=32)
def suggestions(dataset_id: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Columns of a data set with their values in order of appearance; "" if some rows have none."""
    recipe = datasets.recipe(store(), dataset_id)
    if recipe is not None:
        return tuple((column.name, column.values) for column in recipe.columns)
    values_by_column: dict[str, dict[str, None]] = {name: {} for name in datasets.summary(store(), dataset_id).columns}
    for row in dataset_rows.page(store(), dataset_id, limit=_SUGGESTED_FROM):
        for name, values in values_by_column.items():  # only prompt columns, not values that are merely stored
            values[row.values.get(name, "")] = None
    return tuple((name, tuple(values)[:_MOST_SUGGESTIONS]) for name, values in values_by_column.items())


@shared(ttl=60, max_entries=32)
def prompt_separator(dataset_id: str) -> str:
    """The separator between the columns of a data set's prompts."""
    return datasets.summary(store(), dataset_id).prompt_separator


@shared(max_entries=8)
def sample_size(name: str) -> int:
    """How many stories a sample has."""
    path = presets.DATA / "samples" / f"{name}.csv"
    return len(table_reader.read_table(path.read_bytes(), path.name).frame)


def quality_of(dataset_id: str) -> tuple[RefreshedReport[QualityReport], str]:
    """The quality report on a data set, and the fingerprint of its current rows.

    Raises:
        NotFound: the data set does not exist (any more).
    """
    return _quality(dataset_id), quality_store.fingerprint(store(), dataset_id)


@shared(max_entries=8)
def _quality(dataset_id: str) -> RefreshedReport[QualityReport]:
    ledger = store()
    return RefreshedReport(lambda progress: quality_store.dataset_report(ledger, dataset_id, progress))


@shared_task(
    max_entries=16,
    key=lambda dataset_id, version_id, rows, marks: (dataset_id, version_id, marks),
    version=lambda dataset_id, version_id, rows, marks: datasets.fingerprint(store(), dataset_id, version_id),
)
def written(
    dataset_id: str, version_id: str | None, rows: int, marks: TrainingFormat
) -> BackgroundTask[TrainingFilePreview]:
    """How a data set or version is written as a file; recomputed when a row is added, removed or edited."""
    chosen = export.Selection(store(), dataset_id, version_id)

    def look(row_seen: Callable[[], None]) -> TrainingFilePreview:
        plan = export.plan(chosen, marks.file_format, separator=marks.separator, stop=marks.stop, on_example=row_seen)
        return TrainingFilePreview(plan, tuple(islice(plan.lines(chosen.examples()), _SHOWN_LINES)))

    return BackgroundTask(look, rows)


def tokens_of(
    dataset_id: str, version_id: str | None, rows: int, marks: TrainingFormat, model: ModelInfo
) -> BackgroundTask[tokens.TokenCount]:
    """Tokens of one epoch of this training file for `model`, counted by its own tokenizer if the engine is running.

    While a run adds rows, the nearest vocabulary counts instead: each new row would cost the engine 200 requests.
    """
    own_tokenizer = model.provider == ENGINE and status().engine.state == "up" and not _grows(dataset_id, version_id)
    return _tokens_of(dataset_id, version_id, rows, marks, model.provider, model.id, own_tokenizer)


def _grows(dataset_id: str, version_id: str | None) -> bool:
    """True while a run adds rows. A version does not change."""
    if version_id is not None:
        return False
    _summary, run = run_of(dataset_id)
    return run is not None and run.state in runs.ACTIVE


@shared_task(
    max_entries=64,
    key=lambda dataset_id, version_id, rows, *rest: (dataset_id, version_id, *rest),
    version=lambda dataset_id, version_id, *rest: datasets.fingerprint(store(), dataset_id, version_id),
)
def _tokens_of(
    dataset_id: str,
    version_id: str | None,
    rows: int,
    marks: TrainingFormat,
    provider: str,
    model: str,
    own_tokenizer: bool,
) -> BackgroundTask[tokens.TokenCount]:
    chosen = export.Selection(store(), dataset_id, version_id)
    tokenizer_client = quick(provider) if own_tokenizer else None

    def count(row_seen: Callable[[], None]) -> tokens.TokenCount:
        plan = export.plan(chosen, marks.file_format, separator=marks.separator, stop=marks.stop)
        ask = None if tokenizer_client is None else partial(tokenizer_client.count_tokens, model)
        return export.count_tokens(plan, export.ProgressExamples(chosen.examples(), row_seen), model, ask)

    return BackgroundTask(count, rows, asks=own_tokenizer, provisional=lambda counted: counted.unanswered)


@shared(max_entries=64, key=lambda dataset_id: (dataset_id, datasets.fingerprint(store(), dataset_id)))
def parts(dataset_id: str) -> Mapping[str | None, int]:
    """Number of finished rows of a data set by split."""
    return datasets.split_counts(store(), dataset_id)


def version_list(dataset_id: str) -> list[versions.Version]:
    """Versions of a data set, the newest first."""
    return versions.list_versions(store(), dataset_id)
