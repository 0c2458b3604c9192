"""Data sets: create, list and read them.

`loading` makes them from existing rows, `row_query` filters and exports rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update

from core.actor import Actor
from core.datasets import grid_store, row_query
from core.datasets.loading import Source, Split, from_frame, load_sample, new_dataset, parse_split
from core.datasets.recipe import Recipe
from core.datasets.row_query import (
    RowFilter,
    RowView,
    TrainingExamples,
    csv_line,
    csv_lines,
    examples,
    join_values,
    prompt_of,
    to_csv,
)
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import BadRecipe, NotFound
from core.message import msg
from core.sanitize import storable

__all__ = [
    "DatasetSummary",
    "RowView",
    "Source",
    "Split",
    "TrainingExamples",
    "chat_system",
    "create",
    "csv_line",
    "csv_lines",
    "examples",
    "fingerprint",
    "from_frame",
    "join_values",
    "list_datasets",
    "load_sample",
    "parse_split",
    "prompt_of",
    "recipe",
    "rows",
    "set_chat_system",
    "split_counts",
    "summary",
    "to_csv",
    "total_characters",
]

_MAX_SYSTEM_CHARACTERS = 20_000  # characters; it is part of every example
_SAMPLED_ROWS = 1_000  # rows


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A data set and its rows by state. `pending` includes rows in flight."""

    id: str
    name: str
    source: str
    columns: tuple[str, ...]
    prompt_separator: str
    created_at: datetime
    total: int
    done: int
    failed: int
    pending: int
    excluded: int


def create(store: Store, actor: Actor, recipe: Recipe) -> str:
    """Create a data set to be generated. Returns its id immediately, however large the grid is.

    The first rows are created here, in chunks; a run creates the others when it gets to them.

    Raises:
        BadRecipe: the recipe is invalid.
        StorageFull: the disk is full.
    """
    recipe.check()
    dataset_id = new_dataset(store, actor, recipe.name, "recipe", [c.name for c in recipe.columns], recipe.to_dict())
    for _ in range(0, min(recipe.rows(), grid_store.INITIAL_ROWS), grid_store.CHUNK):
        with store.session() as session:
            grid_store.fill(session, dataset_id, recipe)
    return dataset_id


def list_datasets(store: Store) -> list[DatasetSummary]:
    """All data sets, newest first."""
    return _summaries(store, None)


def summary(store: Store, dataset_id: str) -> DatasetSummary:
    """One data set.

    Raises:
        NotFound: it does not exist (any more).
    """
    summaries = _summaries(store, dataset_id)
    if not summaries:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    return summaries[0]


def recipe(store: Store, dataset_id: str) -> Recipe | None:
    """The recipe of a data set; None if it was loaded.

    Raises:
        NotFound: it does not exist (any more).
    """
    with store.reading() as session:
        try:
            return grid_store.recipe_of(session, dataset_id)
        except BadRecipe:
            return None


def rows(
    store: Store,
    dataset_id: str,
    *,
    states: Sequence[str] | None = None,
    newest: bool = False,
    limit: int = 50,
    offset: int = 0,
) -> list[RowView]:
    """Rows in grid order, or the most recently changed first. Only cells that already have a row."""
    where = RowFilter(states=None if states is None else tuple(states))
    return row_query.page(store, dataset_id, where, newest=newest, limit=limit, offset=offset)


def split_counts(store: Store, dataset_id: str) -> dict[str | None, int]:
    """Finished rows by split: held out, training, validation; None: undecided, so used for training."""
    done = select(Row.split, func.count()).where(Row.dataset_id == dataset_id, Row.state == "done").group_by(Row.split)
    with store.reading() as session:
        return {split: count for split, count in session.execute(done)}


def chat_system(store: Store, dataset_id: str) -> str:
    """The system text that begins every conversation of a chat file: the one that was set, or else the recipe's.

    Raises:
        NotFound: no such data set.
    """
    with store.reading() as session:
        row = session.execute(select(Dataset.chat_system, Dataset.recipe).where(Dataset.id == dataset_id)).first()
        if row is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        custom, recipe_data = row
        return custom if custom is not None else str((recipe_data or {}).get("system", ""))


def set_chat_system(store: Store, actor: Actor, dataset_id: str, text: str) -> None:
    """Set the system text of a data set's chat files; "": none."""
    with store.session() as session:
        statement = update(Dataset).where(Dataset.id == dataset_id)
        session.execute(statement.values(chat_system=storable(text.strip())[:_MAX_SYSTEM_CHARACTERS]))


def fingerprint(store: Store, dataset_id: str, version_id: str | None = None) -> str:
    """A value that changes when a finished row is added, removed or edited, or the system text changes.

    For a version it changes only with the system text. Cheap enough to call on every rerun.
    """
    done = select(func.count(), func.max(Row.updated_at)).where(Row.dataset_id == dataset_id, Row.state == "done")
    with store.reading() as session:
        system = session.scalar(select(Dataset.chat_system).where(Dataset.id == dataset_id))
        if version_id is not None:
            return f"{version_id}:{system}"
        count, newest = session.execute(done).one()
        return f"{dataset_id}:{count}:{newest.isoformat() if newest else ''}:{system}"


def total_characters(store: Store, dataset_id: str) -> int:
    """Approximate number of characters of all finished texts, from the first thousand: the size of an export."""
    done = (Row.dataset_id == dataset_id, Row.state == "done")
    sample = select(func.length(Row.text).label("long")).where(*done).limit(_SAMPLED_ROWS).subquery()
    with store.reading() as session:
        count = session.scalar(select(func.count()).select_from(Row).where(*done)) or 0
        return round(count * float(session.scalar(select(func.avg(sample.c.long))) or 0))


def _summaries(store: Store, dataset_id: str | None) -> list[DatasetSummary]:
    query = select(
        Dataset.id, Dataset.name, Dataset.source, Dataset.columns, Dataset.prompt_separator, Dataset.created_at
    )
    if dataset_id is not None:
        query = query.where(Dataset.id == dataset_id)
    with store.reading() as session:
        rows = session.execute(query.order_by(Dataset.created_at.desc(), Dataset.id.desc())).all()
        counts_by_id = grid_store.counts(session, None if dataset_id is None else [dataset_id])
    summaries = []
    for id_, name, source, columns, separator, created_at in rows:
        if (counts := counts_by_id.get(id_)) is not None:
            values = (counts.total, counts.done, counts.failed, counts.pending, counts.excluded)
            summaries.append(DatasetSummary(id_, name, source, tuple(columns), separator, created_at, *values))
    return summaries
