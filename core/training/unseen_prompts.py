"""Prompts that a job's training has not seen, to try its model on: rows kept from training, else cells of the grid that
no row has, else values outside the grid."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from sqlalchemy import select

from core.cost import tokens
from core.dataset import datasets, export, presets
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import NotFound
from core.message import msg
from core.training import holdout
from core.training.evaluation_types import Kind
from core.training.job_views import JobView

Source = Literal["held_out", "grid", "preset", "none"]

PROMPTS = 3  # enough to see a pattern, few enough to read
_CANDIDATES = 60  # rows or cells that are looked at: repeats of a cell may have been learned from
_SEED = 7  # the same cells whenever a job's prompts are chosen
_MOST_VALUES = 200  # of a column: with more it is free text, and the columns are no grid
_LENGTH_FROM = 50  # training texts from which the length of an answer is taken
_ROOM = 1.5  # times the longest of them
_FEWEST_TOKENS = 16  # a label in any script, and a word around it
_MOST_TOKENS = 600  # a story of the samples has up to 400; an untrained base seldom finds an end


@dataclass(frozen=True, slots=True)
class UnseenPrompt:
    """One prompt as the data set's rows have it. `expected` is the text of the row kept from training, if it is one."""

    prompt: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """Up to `PROMPTS` prompts, and what their answers are like.

    Attributes:
        source: where the first ones come from: `held_out` rows, free cells of the `grid`, values of a `preset`. What is
            missing comes from the next source. `none`: training has seen all prompts that there are.
        max_tokens: of an answer, from the longest of some training texts.
        kind: `label` or `text`, as for an evaluation.
    """

    source: Source
    prompts: tuple[UnseenPrompt, ...]
    max_tokens: int
    kind: Kind


def choose(store: Store, job: JobView, seen: Callable[[], None] = lambda: None) -> PromptChoice:
    """The prompts for a job: the same ones every time, while its data set stays as it is.

    Args:
        store: the ledger.
        job: whose data set to choose from.
        seen: called once for each training example that was looked at.

    Raises:
        NotFound: the data set is not there any more.
    """
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and train again."))
    kind = holdout.held_out(store, job.dataset_id, job.version_id).kind
    learned = export.Selection(store, job.dataset_id, job.version_id)
    texts = [text for _prompt, text in islice(iter(learned.examples()), _LENGTH_FROM)]
    longest = max((tokens.count([text], job.base_model).tokens for text in texts), default=0)
    room = max(_FEWEST_TOKENS, min(_MOST_TOKENS, int(longest * _ROOM)))
    chosen: list[UnseenPrompt] = []
    best: Source = "none"
    sources = [(source, list(some)) for source, some in _sources(store, job.dataset_id, job.version_id)]
    left = {one.prompt.strip() for _source, some in sources for one in some} - {""}
    for prompt, _text in export.ProgressExamples(learned.examples(), seen):
        left.discard(prompt.strip())
    for source, some in sources:
        for one in some:
            if len(chosen) < PROMPTS and one.prompt.strip() in left:
                chosen.append(one)
                left.discard(one.prompt.strip())  # each prompt once
                best = source if best == "none" else best
    return PromptChoice(best, tuple(chosen), room, kind)


def _sources(store: Store, dataset_id: str, version_id: str | None) -> Iterator[tuple[Source, Iterable[UnseenPrompt]]]:
    """Where prompts may come from, the best first: a row kept from training has an expected answer too."""
    kept = holdout.holdout_rows(store, dataset_id, version_id, parts=holdout.PARTS["both"], limit=_CANDIDATES)
    yield "held_out", [UnseenPrompt(one.prompt, one.expected) for one in kept]
    with store.reading() as session:
        dataset = session.get_one(Dataset, dataset_id)
    yield "grid", (UnseenPrompt(datasets.prompt_of(dataset, cell)) for cell in _cells(store, dataset))
    for preset in presets.load():
        if [column.name for column in preset.recipe.columns] == dataset.columns:
            yield "preset", (UnseenPrompt(_joined(dataset, values)) for values in preset.outside)


def _cells(store: Store, dataset: Dataset) -> Iterator[dict[str, str]]:
    """Cells of the grid in random order: of the recipe's, or of the one that the rows' values make."""
    values = _values(store, dataset)
    if len(values) < 2 or not all(values.values()):
        return
    draw, seen = random.Random(_SEED), set[tuple[str, ...]]()
    for _ in range(_CANDIDATES):
        cell = tuple(draw.choice(some) for some in values.values())
        if cell not in seen:
            seen.add(cell)
            yield dict(zip(values, cell, strict=True))


def _values(store: Store, dataset: Dataset) -> dict[str, list[str]]:
    """The values of each column, in order; none where the columns are no grid."""
    recipe = datasets.recipe(store, dataset.id)
    if recipe is not None:
        return {column.name: list(column.values) for column in recipe.columns}
    found: dict[str, dict[str, None]] = {column: {} for column in dataset.columns}
    rows, query = 0, select(Row.column_values).where(Row.dataset_id == dataset.id, Row.state == "done")
    with store.reading() as session:
        for cell in session.scalars(query.order_by(Row.position)):
            rows += 1
            for column, some in found.items():
                some[str(cell.get(column, ""))] = None
                if len(some) > _MOST_VALUES:
                    return {}
    repeated = all(2 * len(some) <= rows for some in found.values())  # else the values are texts, each of its own
    return {column: list(some) for column, some in found.items()} if repeated else {}


def _joined(dataset: Dataset, values: Iterable[str]) -> str:
    return datasets.prompt_of(dataset, dict(zip(dataset.columns, values, strict=False)))
