"""Data sets: made from a recipe, a table or a sample; listed, read, exported."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import pandas as pd
from sqlalchemy import Select, insert, select

from core.actor import Actor
from core.dataset import grid, importing, matrix, presets
from core.dataset.outcomes import storable
from core.dataset.recipe import Recipe
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadFile, BadRecipe, NotFound

Source = Literal["recipe", "sample", "upload", "chat"]
_AT_ONCE = 5_000  # rows that `create` waits for, a quarter of a second; the run puts the rest of the grid in its place
_FORMULA = tuple("=+-@\t\r＝＋－＠")  # what a spreadsheet takes for a formula (OWASP, "CSV injection")
_LONGEST_NAME = 200  # characters, as the table has it


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """A data set and its rows by state. `pending` counts those on their way too."""

    id: str
    name: str
    source: str
    columns: tuple[str, ...]
    created_at: datetime
    total: int
    done: int
    failed: int
    pending: int
    excluded: int


@dataclass(frozen=True, slots=True)
class RowView:
    """One row as people see it. `reason` says why it failed or was excluded; its text, if any, is kept."""

    id: int
    position: int
    repeat: int
    values: dict[str, str]
    prompt: str
    state: str
    reason: str | None
    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    updated_at: datetime


def create(store: Store, actor: Actor, recipe: Recipe) -> str:
    """A data set that is to be written. Returns at once however large the grid is.

    The first rows are put into the ledger here, in chunks; a run puts the others there as it comes to them.

    Raises:
        BadRecipe: the recipe cannot be run.
        StorageFull: no room.
    """
    recipe.check()
    dataset_id = _insert(store, actor, recipe.name, "recipe", [c.name for c in recipe.columns], recipe.to_dict())
    for _ in range(0, min(recipe.rows(), _AT_ONCE), matrix.CHUNK):
        with store.session() as session:
            matrix.fill(session, dataset_id, recipe)
    return dataset_id


def from_frame(
    store: Store,
    actor: Actor,
    name: str,
    frame: pd.DataFrame,
    prompt_columns: Sequence[str],
    completion_column: str,
    source: Source = "upload",
) -> str:
    """A data set from a table: one row each, done; a row without a completion is excluded, not lost.

    Raises:
        BadFile: a column is not there, or there are no rows.
    """
    columns = [str(c) for c in prompt_columns]
    have = [str(c) for c in frame.columns]
    for column in (*columns, completion_column):
        if column not in have:
            raise BadFile(f"There is no column {column!r}.", f"Choose among: {', '.join(have)}.")
    if not columns or completion_column in columns:
        raise BadFile(
            "At least one column must make the prompt, and the completion cannot be one of them.", "Choose again."
        )
    if frame.empty:
        raise BadFile("There are no rows.", "Choose a file that has some.")
    seen: Counter[tuple[str, ...]] = Counter()
    with store.session() as session:  # all or nothing: half a file would look like the whole
        dataset_id = _insert(store, actor, name, source, columns, None)
        for start in range(0, len(frame), matrix.CHUNK):
            part = frame.iloc[start : start + matrix.CHUNK]
            rows = [
                _row(dataset_id, start + i, dict(zip(columns, map(_cell, values), strict=True)), _cell(text), seen)
                for i, (*values, text) in enumerate(
                    part[[*columns, completion_column]].itertuples(index=False, name=None)
                )
            ]
            session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
    return dataset_id


def load_sample(store: Store, actor: Actor, name: str, limit: int | None = None) -> str:
    """A data set from the stories that ship with the studio; `limit` takes that many, spread over the whole grid.

    Raises:
        NotFound: there is no such sample.
    """
    path = presets.DATA / "samples" / f"{name}.csv"
    if not name.replace("_", "").isalnum() or not path.is_file():
        raise NotFound(f"There is no sample called {name}.", "Choose one of the list.")
    frame = importing.read_table(path.read_bytes(), path.name).frame
    if limit is not None and 0 < limit < len(frame):
        frame = frame.iloc[[i * len(frame) // limit for i in range(limit)]]
    *columns, completion = frame.columns
    return from_frame(store, actor, name, frame, columns, completion, "sample")


def list_datasets(store: Store) -> list[DatasetSummary]:
    """All data sets, the newest first."""
    return _summaries(store, None)


def summary(store: Store, dataset_id: str) -> DatasetSummary:
    """One data set.

    Raises:
        NotFound: it is not there (any more).
    """
    found = _summaries(store, dataset_id)
    if not found:
        raise NotFound("This data set is not there any more.", "Choose another one.")
    return found[0]


def recipe(store: Store, dataset_id: str) -> Recipe | None:
    """The recipe that the data set grows from; None when it was loaded.

    Raises:
        NotFound: it is not there (any more).
    """
    with store.reading() as session:
        try:
            return matrix.recipe_of(session, dataset_id)
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
    """Some rows: in the order of the grid, or the latest changed first. Only those that are in the ledger already."""
    query = select(Row).where(Row.dataset_id == dataset_id)
    if states is not None:
        query = query.where(Row.state.in_(states))
    query = query.order_by(Row.updated_at.desc(), Row.id.desc()) if newest else query.order_by(Row.position, Row.id)
    with store.reading() as session:
        return [_view(row) for row in session.scalars(query.limit(limit).offset(offset))]


def examples(store: Store, dataset_id: str) -> list[tuple[str, str]]:
    """Finished rows as (prompt, completion); the prompt is the column values, joined by commas (S3)."""
    with store.reading() as session:
        columns = _columns(session.get(Dataset, dataset_id))
        found = session.execute(_done(dataset_id))
        return [(",".join(str(values.get(c, "")) for c in columns), text or "") for values, text in found]


def to_csv(store: Store, dataset_id: str) -> str:
    """Finished rows as CSV like the article's: an index without a name, the columns, then the story.

    Cells that a spreadsheet would take for a formula get a `'` in front.
    """
    return "".join(csv_lines(store, dataset_id))


def csv_lines(store: Store, dataset_id: str) -> Iterator[str]:
    """`to_csv`, line by line, for files larger than memory."""
    with store.reading() as session:
        columns = _columns(session.get(Dataset, dataset_id))
        yield _csv_line(["", *columns, "story" if "story" not in columns else "completion"])
        for index, (values, text) in enumerate(session.execute(_done(dataset_id))):
            yield _csv_line([str(index), *(str(values.get(c, "")) for c in columns), text or ""])


def safe_cell(text: str) -> str:
    """`text`, so that no spreadsheet runs it."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _done(dataset_id: str) -> Select[tuple[dict[str, Any], str | None]]:
    query = select(Row.column_values, Row.text).where(Row.dataset_id == dataset_id, Row.state == "done")
    return query.order_by(Row.position, Row.id).execution_options(yield_per=1_000)


def _columns(dataset: Dataset | None) -> list[str]:
    if dataset is None:
        raise NotFound("This data set is not there any more.", "Choose another one.")
    return list(dataset.columns)


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([safe_cell(c) for c in cells])  # its own line end makes it quote both CR and LF in cells
    return line.getvalue().removesuffix("\r\n") + "\n"


def _insert(
    store: Store, actor: Actor, name: str, source: str, columns: list[str], recipe_dict: dict[str, Any] | None
) -> str:
    dataset_id = new_id()
    named = storable(name.strip())[:_LONGEST_NAME] or "data set"
    with store.session() as session:
        session.add(
            Dataset(
                id=dataset_id,
                name=named,
                source=source,
                columns=columns,
                recipe=recipe_dict,
                created_by=actor.id,
            )
        )
    return dataset_id


def _row(
    dataset_id: str, position: int, values: dict[str, str], text: str, seen: Counter[tuple[str, ...]]
) -> dict[str, Any]:
    """A row of a table; equal values are repeats of one cell."""
    cell = tuple(values.values())
    repeat = seen[cell]
    seen[cell] += 1
    blank = not text.strip()
    return {
        "dataset_id": dataset_id,
        "key": grid.loaded_key(values, repeat),
        "position": position,
        "repeat": repeat,
        "column_values": values,
        "prompt": ",".join(cell),
        "state": "excluded" if blank else "done",
        "reason": "The completion is empty." if blank else None,
        "text": text,
        "updated_at": utcnow(),
    }


def _cell(value: object) -> str:
    return "" if value is None or value != value else storable(str(value))  # NaN is the one that differs from itself


def _summaries(store: Store, dataset_id: str | None) -> list[DatasetSummary]:
    query = select(Dataset.id, Dataset.name, Dataset.source, Dataset.columns, Dataset.created_at)
    if dataset_id is not None:
        query = query.where(Dataset.id == dataset_id)
    with store.reading() as session:
        found = session.execute(query.order_by(Dataset.created_at.desc(), Dataset.id.desc())).all()
        counted = matrix.counts(session, None if dataset_id is None else [dataset_id])
    summaries = []
    for id_, name, source, columns, created_at in found:
        if (c := counted.get(id_)) is not None:
            counts = (c.total, c.done, c.failed, c.pending, c.excluded)
            summaries.append(DatasetSummary(id_, name, source, tuple(columns), created_at, *counts))
    return summaries


def _view(row: Row) -> RowView:
    return RowView(
        id=row.id,
        position=row.position,
        repeat=row.repeat,
        values={str(name): str(value) for name, value in row.column_values.items()},
        prompt=row.prompt,
        state=row.state,
        reason=row.reason,
        text=row.text,
        finish_reason=row.finish_reason,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        cost_usd=row.cost_usd,
        updated_at=row.updated_at,
    )
