"""Rows and prompts that training has not seen: held-out rows, the same for every model, and prompts for before and
after, from held-out rows, otherwise from unused cells of the grid, otherwise from values outside the grid."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import Any, Literal

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from core.datasets import dataset_rows, datasets, export, presets, splitting
from core.datasets.dataset_rows import require_dataset
from core.db.store import Store, in_chunks
from core.db.tables import Dataset, Row, VersionExample
from core.errors import NotFound
from core.finetuning.job_views import JobView
from core.message import msg
from core.pricing import tokens

Kind = Literal["label", "text"]
Part = Literal["both", "held_out", "validation"]
PARTS: Mapping[str, tuple[str, ...]] = {
    "both": ("held_out", "validation"),
    "held_out": ("held_out",),
    "validation": ("validation",),
}
_SAMPLE_ROWS = 1_000  # rows inspected to detect labels
_MAX_LABEL_CHARS = 40  # the same limit as in the quality report
_MIN_ROWS_PER_LABEL = 4

Source = Literal["held_out", "grid", "preset", "none"]

PROMPTS = 3  # enough to compare, few enough to read
_CANDIDATES = 60  # rows or cells to consider; some may have been in the training data
_SEED = 7  # so that a job always gets the same cells
_MAX_VALUES = 200  # per column; with more values it is free text, not a grid
_LENGTH_SAMPLE = 50  # training texts used to estimate the answer length
_LENGTH_FACTOR = 1.5  # times the longest of them
_MIN_TOKENS = 16  # enough for a label in any script
_MAX_TOKENS = 600  # sample stories have up to 400; an untuned base model rarely stops


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Number and kind of the rows that training does not use. `labels`: all labels of the data set, if any."""

    validation: int
    held_out: int
    kind: Kind
    labels: tuple[str, ...]

    @property
    def usable(self) -> int:
        """The number of rows that can be used for an evaluation."""
        return self.validation + self.held_out


@dataclass(frozen=True, slots=True)
class HeldOutExample:
    """One row that training has not used."""

    key: str
    values: Mapping[str, str]
    prompt: str
    expected: str


def held_out(store: Store, dataset_id: str, version_id: str | None = None) -> HeldOut:
    """Number and kind of the rows kept from training.

    Raises:
        NotFound: the data set does not exist.
    """
    with store.reading() as session:
        require_dataset(session, dataset_id)
        if version_id is not None:
            query = select(VersionExample.split, func.count()).where(VersionExample.version_id == version_id)
            counts = {part: n for part, n in session.execute(query.group_by(VersionExample.split))}
            sample: Select[Any] = (
                select(VersionExample.completion).where(VersionExample.version_id == version_id).limit(_SAMPLE_ROWS)
            )
        else:
            rows = (Row.dataset_id == dataset_id, Row.state == "done")
            counts = {
                str(part): n
                for part, n in session.execute(select(Row.split, func.count()).where(*rows).group_by(Row.split))
            }
            sample = select(Row.text).where(*rows).order_by(Row.position).limit(_SAMPLE_ROWS)
        completions = [text or "" for text in session.scalars(sample)]
    kind, labels = _kind(completions)
    return HeldOut(counts.get("validation", 0), counts.get("held_out", 0), kind, labels)


def holdout_rows(
    store: Store, dataset_id: str, version_id: str | None, *, parts: tuple[str, ...], limit: int, seed: int = 0
) -> Iterator[HeldOutExample]:
    """Rows that training does not use, in order.

    If there are more than `limit`, the rows with the lowest ranks (see `splitting.rank`) are taken: a random sample
    that is the same for every model.
    """
    with store.reading() as session:
        if version_id is not None:
            in_version = (VersionExample.version_id == version_id, VersionExample.split.in_(parts))
            keys = select(VersionExample.id, VersionExample.row_key).where(*in_version)
            columns: Select[Any] = select(
                VersionExample.row_key, VersionExample.column_values, VersionExample.prompt, VersionExample.completion
            )
            ids = _sample_ids(session, keys, limit, seed)
            for chunk in in_chunks(ids):
                rows = session.execute(columns.where(VersionExample.id.in_(chunk)).order_by(VersionExample.id))
                yield from (
                    HeldOutExample(key, _strings(values), prompt, completion)
                    for key, values, prompt, completion in rows
                )
            return
        dataset = session.get_one(Dataset, dataset_id)
        in_parts = (Row.dataset_id == dataset_id, Row.state == "done", Row.split.in_(parts))
        ids = _sample_ids(session, select(Row.id, Row.key).where(*in_parts), limit, seed)
        for chunk in in_chunks(ids):
            query = select(Row.key, Row.column_values, Row.text).where(Row.id.in_(chunk)).order_by(Row.id)
            for key, values, text in session.execute(query):
                yield HeldOutExample(key, _strings(values), dataset_rows.prompt_of(dataset, values), text or "")


@dataclass(frozen=True, slots=True)
class UnseenPrompt:
    """One prompt in the data set's format. `expected`: the text of the held-out row, if it comes from one."""

    prompt: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """Up to `PROMPTS` prompts, and limits for their answers.

    Attributes:
        source: source of the first prompts: `held_out` rows, unused cells of the `grid`, values of a `preset`. Missing
            prompts come from the next source. `none`: training has seen all possible prompts.
        max_tokens: per answer, estimated from training texts.
        kind: `label` or `text`, as for an evaluation.
    """

    source: Source
    prompts: tuple[UnseenPrompt, ...]
    max_tokens: int
    kind: Kind


def choose_prompts(store: Store, job: JobView, on_example: Callable[[], None] = lambda: None) -> PromptChoice:
    """Choose prompts for a job. The result is the same every time unless the data set changes.

    Args:
        on_example: called once for each training example read, for progress.

    Raises:
        NotFound: the data set does not exist.
    """
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and train again."))
    kind = held_out(store, job.dataset_id, job.version_id).kind
    training_rows = export.Selection(store, job.dataset_id, job.version_id)
    texts = [text for _prompt, text in islice(iter(training_rows.examples()), _LENGTH_SAMPLE)]
    longest = max((tokens.count([text], job.base_model).tokens for text in texts), default=0)
    max_tokens = max(_MIN_TOKENS, min(_MAX_TOKENS, int(longest * _LENGTH_FACTOR)))
    chosen: list[UnseenPrompt] = []
    first_source: Source = "none"
    sources = [(source, list(prompts)) for source, prompts in _sources(store, job.dataset_id, job.version_id)]
    unseen = {item.prompt.strip() for _source, prompts in sources for item in prompts} - {""}
    for prompt, _text in export.ProgressExamples(training_rows.examples(), on_example):
        unseen.discard(prompt.strip())
    for source, prompts in sources:
        for item in prompts:
            if len(chosen) < PROMPTS and item.prompt.strip() in unseen:
                chosen.append(item)
                unseen.discard(item.prompt.strip())  # no duplicates
                first_source = source if first_source == "none" else first_source
    return PromptChoice(first_source, tuple(chosen), max_tokens, kind)


def _sample_ids(session: Session, keys: Select[int, str], limit: int, seed: int) -> list[int]:
    """Ids of at most `limit` sampled rows, in order."""
    ranked = sorted((splitting.rank(key, seed), id_) for id_, key in session.execute(keys))
    return sorted(id_ for _, id_ in ranked[:limit])


def _kind(completions: list[str]) -> tuple[Kind, tuple[str, ...]]:
    """Detect labels: few different short texts that repeat often (as in the quality report)."""
    texts = [text.strip() for text in completions if text.strip()]
    labels = sorted(set(texts))
    if (
        texts
        and median(len(text) for text in texts) <= _MAX_LABEL_CHARS
        and 2 <= len(labels) <= len(texts) / _MIN_ROWS_PER_LABEL
    ):
        return "label", tuple(labels)
    return "text", ()


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}


def _sources(store: Store, dataset_id: str, version_id: str | None) -> Iterator[tuple[Source, Iterable[UnseenPrompt]]]:
    """Sources of prompts, best first; held-out rows also have an expected answer."""
    held_out = holdout_rows(store, dataset_id, version_id, parts=PARTS["both"], limit=_CANDIDATES)
    yield "held_out", [UnseenPrompt(row.prompt, row.expected) for row in held_out]
    with store.reading() as session:
        dataset = session.get_one(Dataset, dataset_id)
    yield "grid", (UnseenPrompt(dataset_rows.prompt_of(dataset, cell)) for cell in _cells(store, dataset))
    for preset in presets.load():
        if [column.name for column in preset.recipe.columns] == dataset.columns:
            yield "preset", (UnseenPrompt(_prompt_from_values(dataset, values)) for values in preset.outside)


def _cells(store: Store, dataset: Dataset) -> Iterator[dict[str, str]]:
    """Random cells of the grid, which comes from the recipe or from the values in the rows."""
    values = _values(store, dataset)
    if len(values) < 2 or not all(values.values()):
        return
    rng, seen = random.Random(_SEED), set[tuple[str, ...]]()
    for _ in range(_CANDIDATES):
        cell = tuple(rng.choice(options) for options in values.values())
        if cell not in seen:
            seen.add(cell)
            yield dict(zip(values, cell, strict=True))


def _values(store: Store, dataset: Dataset) -> dict[str, list[str]]:
    """The values of each column, in order; empty if the columns are not a grid."""
    recipe = datasets.recipe(store, dataset.id)
    if recipe is not None:
        return {column.name: list(column.values) for column in recipe.columns}
    values_by_column: dict[str, dict[str, None]] = {column: {} for column in dataset.columns}
    rows, query = 0, select(Row.column_values).where(Row.dataset_id == dataset.id, Row.state == "done")
    with store.reading() as session:
        for cell in session.scalars(query.order_by(Row.position)):
            rows += 1
            for column, values in values_by_column.items():
                values[str(cell.get(column, ""))] = None
                if len(values) > _MAX_VALUES:
                    return {}
    repeated = all(2 * len(values) <= rows for values in values_by_column.values())  # otherwise free text
    return {column: list(values) for column, values in values_by_column.items()} if repeated else {}


def _prompt_from_values(dataset: Dataset, values: Iterable[str]) -> str:
    return dataset_rows.prompt_of(dataset, dict(zip(dataset.columns, values, strict=False)))
