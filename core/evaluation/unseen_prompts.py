"""Chooses prompts that training has not seen: held-out rows, otherwise unused cells of the grid, otherwise values
outside the grid."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from sqlalchemy import select

from core.datasets import datasets, export, presets
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import NotFound
from core.evaluation import holdout
from core.evaluation.evaluation_types import Kind
from core.finetuning.job_views import JobView
from core.message import msg
from core.pricing import tokens

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


def choose(store: Store, job: JobView, on_example: Callable[[], None] = lambda: None) -> PromptChoice:
    """Choose prompts for a job. The result is the same every time unless the data set changes.

    Args:
        on_example: called once for each training example read, for progress.

    Raises:
        NotFound: the data set does not exist.
    """
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and train again."))
    kind = holdout.held_out(store, job.dataset_id, job.version_id).kind
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


def _sources(store: Store, dataset_id: str, version_id: str | None) -> Iterator[tuple[Source, Iterable[UnseenPrompt]]]:
    """Sources of prompts, best first; held-out rows also have an expected answer."""
    held_out = holdout.holdout_rows(store, dataset_id, version_id, parts=holdout.PARTS["both"], limit=_CANDIDATES)
    yield "held_out", [UnseenPrompt(row.prompt, row.expected) for row in held_out]
    with store.reading() as session:
        dataset = session.get_one(Dataset, dataset_id)
    yield "grid", (UnseenPrompt(datasets.prompt_of(dataset, cell)) for cell in _cells(store, dataset))
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
    return datasets.prompt_of(dataset, dict(zip(dataset.columns, values, strict=False)))
