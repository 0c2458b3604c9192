"""Data sets: created from a recipe, an imported table or a sample that ships with Fabula; listed and summarised.

`dataset_rows` reads and changes their rows, `export` writes them to files.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, count, pairwise
from typing import Any, Literal

import pandas as pd
from sqlalchemy import func, insert, select, update
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import grid, grid_store
from core.datasets.dataset_rows import join_values, require_dataset
from core.datasets.grid_store import CHUNK
from core.datasets.presets import read_sample
from core.datasets.recipe import Recipe
from core.datasets.splitting import parse_split
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, VersionExample, utcnow
from core.errors import BadFile, BadRecipe, NotFound
from core.message import listed, msg
from core.ownership import edits, first_sharing, is_private_model, reads
from core.sanitize import storable

_MAX_SYSTEM_CHARACTERS = 20_000  # characters; it is part of every example
_SAMPLED_ROWS = 1_000  # rows
Source = Literal["recipe", "prompts", "sample", "upload", "chat", "examples", "votes"]
MAX_NAME = 190  # characters; the column holds 200, and a number may be appended
_MAX_SEPARATOR = 20  # characters, the size of the column


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A data set, its rows by state, and whose it is. `pending` includes rows in flight."""

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
    owner_id: str
    sharing: str


@requires("editor")
@reads(model="recipe.model")
def create(store: Store, actor: Actor, recipe: Recipe) -> str:
    """Create a data set to be generated. Returns its id immediately, however large the grid is.

    The first rows are created here, in chunks; a run creates the others when it gets to them. A data set of a private
    model is private at first.

    Raises:
        BadRecipe: the recipe is invalid.
        StorageFull: the disk is full.
    """
    recipe.check()
    with store.reading() as session:
        private = is_private_model(session, recipe.model)
    columns = [column.name for column in recipe.columns]
    dataset_id = new_dataset(store, actor, recipe.name, "recipe", columns, recipe.to_dict(), private=private)
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
        NotFound: it does not exist.
    """
    summaries = _summaries(store, dataset_id)
    if not summaries:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    return summaries[0]


def recipe(store: Store, dataset_id: str) -> Recipe | None:
    """The recipe of a data set, which was generated from a grid or from a list of prompts; None if it was loaded.

    Raises:
        NotFound: it does not exist.
    """
    with store.reading() as session:
        try:
            return grid_store.recipe_of(session, dataset_id)
        except BadRecipe:
            return None


def grid_recipe(store: Store, dataset_id: str) -> Recipe | None:
    """The recipe of a data set that was generated from a grid; None for any other.

    Raises:
        NotFound: it does not exist.
    """
    found = recipe(store, dataset_id)
    return None if found is None or found.listed else found


def split_counts(store: Store, dataset_id: str) -> dict[str | None, int]:
    """Finished rows by split: held out, training, validation; None means undecided, so used for training."""
    done = select(Row.split, func.count()).where(Row.dataset_id == dataset_id, Row.state == "done").group_by(Row.split)
    with store.reading() as session:
        return {split: count for split, count in session.execute(done)}


def preference_rows(store: Store, dataset_id: str, version_id: str | None = None) -> int:
    """Finished rows, or rows of a version, that have an answer which was not preferred."""
    if version_id is not None:
        query = select(func.count()).where(
            VersionExample.version_id == version_id, VersionExample.rejected.is_not(None)
        )
    else:
        done = (Row.dataset_id == dataset_id, Row.state == "done")
        query = select(func.count()).where(*done, Row.rejected.is_not(None))
    with store.reading() as session:
        return session.scalar(query) or 0


def system_message(store: Store, dataset_id: str) -> str:
    """The system text that begins every conversation in a chat file: the one that was set, otherwise the recipe's.

    Raises:
        NotFound: no such data set.
    """
    with store.reading() as session:
        dataset = require_dataset(session, dataset_id)
        return (
            str((dataset.recipe or {}).get("system", "")) if dataset.system_message is None else dataset.system_message
        )


@requires("editor")
@edits(dataset="dataset_id")
def set_system_message(store: Store, actor: Actor, dataset_id: str, text: str) -> None:
    """Set the system text of a data set's chat files; "" removes it."""
    with store.session() as session:
        statement = update(Dataset).where(Dataset.id == dataset_id)
        session.execute(statement.values(system_message=storable(text.strip())[:_MAX_SYSTEM_CHARACTERS]))


def fingerprint(store: Store, dataset_id: str, version_id: str | None = None) -> str:
    """A value that changes when a finished row is added, removed or edited, or the system text changes.

    For a version, it changes only when the system text does. This is cheap enough to call on every rerun.
    """
    done = select(func.count(), func.max(Row.updated_at)).where(Row.dataset_id == dataset_id, Row.state == "done")
    with store.reading() as session:
        system = session.scalar(select(Dataset.system_message).where(Dataset.id == dataset_id))
        if version_id is not None:
            return f"{version_id}:{system}"
        count, newest = session.execute(done).one()
        return f"{dataset_id}:{count}:{newest.isoformat() if newest else ''}:{system}"


def total_characters(store: Store, dataset_id: str) -> int:
    """Approximate number of characters of all finished texts, estimated from the first thousand: the export's size."""
    done = (Row.dataset_id == dataset_id, Row.state == "done")
    sample = select(func.length(Row.text).label("long")).where(*done).limit(_SAMPLED_ROWS).subquery()
    with store.reading() as session:
        count = session.scalar(select(func.count()).select_from(Row).where(*done)) or 0
        return round(count * float(session.scalar(select(func.avg(sample.c.long))) or 0))


def _summaries(store: Store, dataset_id: str | None) -> list[DatasetSummary]:
    query = select(
        Dataset.id,
        Dataset.name,
        Dataset.source,
        Dataset.columns,
        Dataset.prompt_separator,
        Dataset.created_at,
        Dataset.owner_id,
        Dataset.sharing,
    )
    if dataset_id is not None:
        query = query.where(Dataset.id == dataset_id)
    with store.reading() as session:
        rows = session.execute(query.order_by(Dataset.created_at.desc(), Dataset.id.desc())).all()
        counts_by_id = grid_store.counts(session, None if dataset_id is None else [dataset_id])
    summaries = []
    for id_, name, source, columns, separator, created_at, owner_id, sharing in rows:
        if (counts := counts_by_id.get(id_)) is not None:
            values = (counts.total, counts.done, counts.failed, counts.pending, counts.excluded)
            summaries.append(
                DatasetSummary(id_, name, source, tuple(columns), separator, created_at, *values, owner_id, sharing)
            )
    return summaries


@requires("editor")
def from_frame(
    store: Store,
    actor: Actor,
    name: str,
    frame: pd.DataFrame,
    prompt_columns: Sequence[str],
    completion_column: str,
    source: Source = "upload",
    *,
    split_column: str | None = None,
    other_columns: Sequence[str] = (),
    separator: str = ",",
    rejected_column: str | None = None,
    private: bool = False,
) -> str:
    """Create a data set from a table, with one finished row per table row.

    Rows without one are kept, but excluded.

    Args:
        prompt_columns: the columns of the prompt, in this order.
        completion_column: the text to learn.
        split_column: the split of each row; empty means undecided.
        other_columns: kept with each row, but not part of the prompt.
        separator: joins the columns of a prompt; at most 20 characters. Empty cells add none.
        rejected_column: the answer that was not preferred to the text; rows with an empty cell have none.
        private: whether only its owner may read it at first.

    Raises:
        BadFile: a column is missing, there are no rows, or the split column has an unknown value.
    """
    columns = [str(c) for c in prompt_columns]
    named = [c for c in (split_column, rejected_column) if c is not None]
    others = [str(c) for c in other_columns if c not in (*columns, completion_column, *named)]
    _check_table(frame, columns, completion_column, [*others, *named])
    splits = [None] * len(frame) if split_column is None else [parse_split(_cell(v)) for v in frame[split_column]]
    rejected = [None] * len(frame) if rejected_column is None else [_cell(v) or None for v in frame[rejected_column]]
    repeats: Counter[tuple[str, ...]] = Counter()
    with store.session() as session:  # one transaction: a partial import would look complete
        dataset_id = new_dataset(store, actor, name, source, columns, None, separator[:_MAX_SEPARATOR], private=private)
        for start in range(0, len(frame), CHUNK):
            chunk = frame.iloc[start : start + CHUNK]
            records = chunk[[*columns, *others, completion_column]].itertuples(index=False, name=None)
            rows = [
                {
                    **_table_row(
                        dataset_id, i, dict(zip(columns, map(_cell, values), strict=False)), _cell(text), repeats
                    ),
                    "prompt": join_values(map(_cell, values[: len(columns)]), separator),
                    "column_values": dict(zip((*columns, *others), map(_cell, values), strict=True)),
                    "split": splits[i],
                    "rejected": rejected[i],
                }
                for i, (*values, text) in enumerate(records, start)
            ]
            session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
    return dataset_id


def _check_table(frame: pd.DataFrame, columns: Sequence[str], completion_column: str, others: Sequence[str]) -> None:
    """Raise BadFile unless a data set can be made from these columns."""
    existing = [str(c) for c in frame.columns]
    for column in (*columns, *others, completion_column):
        if column not in existing:
            raise BadFile(
                msg("There is no column {column}.", column=repr(column)),
                msg("Choose one of: {columns}.", columns=listed(existing)),
            )
    if not columns or completion_column in columns:
        raise BadFile(
            msg("Choose at least one prompt column; it can't be the completion column."), msg("Choose again.")
        )
    if frame.empty:
        raise BadFile(msg("There are no rows."), msg("Choose a file that has examples."))


@requires("editor")
def load_sample(
    store: Store,
    actor: Actor,
    name: str,
    limit: int | None = None,
    *,
    seed: int = 0,
) -> str:
    """Create a data set from the stories that ship with Fabula.

    Args:
        limit: number of rows; None means all. They are spread over the whole grid: the sample is divided into `limit`
            ranges, and one row is drawn from each.
        seed: seed of the draw; the same seed selects the same rows.

    Raises:
        NotFound: there is no such sample.
    """
    sample = read_sample(name)
    frame, draw = sample.frame, random.Random(seed)
    if limit is not None and 0 < limit < len(frame):
        ends = [i * len(frame) // limit for i in range(limit + 1)]
        frame = frame.iloc[[draw.randrange(start, end) for start, end in pairwise(ends)]]
    return from_frame(
        store,
        actor,
        name,
        frame,
        sample.columns,
        sample.completion,
        "sample",
        split_column=sample.split,
        other_columns=sample.others,
    )


@requires("editor")
def new_dataset(
    store: Store,
    actor: Actor,
    name: str,
    source: str,
    columns: list[str],
    recipe_dict: dict[str, Any] | None,
    separator: str = ",",
    *,
    private: bool = False,
) -> str:
    """Create a data set without rows. Returns its id."""
    dataset_id, access = new_id(), first_sharing(private=private)
    with store.session() as session:
        session.add(
            Dataset(
                id=dataset_id,
                name=unique_name(session, name),
                source=source,
                columns=columns,
                prompt_separator=separator,
                recipe=recipe_dict,
                created_by=actor.id,
                **access,
            )
        )
    return dataset_id


def unique_name(session: Session, name: str) -> str:
    """The name, shortened to the column's size, with a number appended if another data set has the same name.

    Data sets must be distinguishable in lists and widgets.
    """
    base = storable(name.strip())[:MAX_NAME] or "data set"
    taken = set(session.scalars(select(Dataset.name).where(Dataset.name.startswith(base, autoescape=True))))
    names = chain([base], (f"{base} ({n})" for n in count(2)))
    return next(candidate for candidate in names if candidate not in taken)


def _table_row(
    dataset_id: str, position: int, values: dict[str, str], text: str, repeats: Counter[tuple[str, ...]]
) -> dict[str, Any]:
    """A row of a table; rows with equal values are repeats of one cell."""
    cell = tuple(values.values())
    repeat = repeats[cell]
    repeats[cell] += 1
    blank = not text.strip()
    return {
        "dataset_id": dataset_id,
        "key": grid.loaded_key(values, repeat),
        "position": position,
        "repeat": repeat,
        "column_values": values,
        "state": "excluded" if blank else "done",
        "reason": msg("The completion is empty.") if blank else None,
        "text": text,
        "updated_at": utcnow(),
    }


def _cell(value: object) -> str:
    return "" if value is None or value != value else storable(str(value))  # NaN is not equal to itself
