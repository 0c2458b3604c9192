"""Data sets: made from a recipe, a table or a sample; listed, read, exported."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import pandas as pd
from sqlalchemy import Select, func, insert, select

from core.actor import Actor
from core.dataset import grid, matrix, presets
from core.dataset.intake import importing
from core.dataset.recipe import Recipe
from core.dataset.writing.outcomes import storable
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadFile, BadRecipe, NotFound
from core.text import cell

Source = Literal["recipe", "sample", "upload", "chat"]
Split = Literal["held_out", "train", "validation"]
_LONGEST_NAME = 200  # characters, as the table has it
_ROLES = "roles.json"  # beside the samples: which column is what, where it is not "the last one is the completion"
# What files call the three parts (Hugging Face's and scikit-learn's words among them) → ours.
_SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("held_out", "heldout", "held out", "held-out", "test", "eval"), "held_out"),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}


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
    for _ in range(0, min(recipe.rows(), matrix.AT_ONCE), matrix.CHUNK):
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
    *,
    split_column: str | None = None,
    other_columns: Sequence[str] = (),
) -> str:
    """A data set from a table: one row each, done; a row without a completion is excluded, not lost.

    Args:
        prompt_columns: make the prompt, in this order.
        completion_column: the text to learn.
        split_column: says of each row whether it is held out, or which part it belongs to; empty is undecided.
        other_columns: kept with each row, but no part of its prompt.

    Raises:
        BadFile: a column is not there, there are no rows, or the split column has a word that is none.
    """
    columns = [str(c) for c in prompt_columns]
    others = [str(c) for c in other_columns if c not in (*columns, completion_column, split_column)]
    have = [str(c) for c in frame.columns]
    for column in (*columns, *others, completion_column, *([split_column] if split_column is not None else [])):
        if column not in have:
            raise BadFile(f"There is no column {column!r}.", f"Choose among: {', '.join(have)}.")
    if not columns or completion_column in columns:
        raise BadFile(
            "At least one column must make the prompt, and the completion cannot be one of them.", "Choose again."
        )
    if frame.empty:
        raise BadFile("There are no rows.", "Choose a file that has some.")
    splits = [None] * len(frame) if split_column is None else [split_of(_cell(v)) for v in frame[split_column]]
    seen: Counter[tuple[str, ...]] = Counter()
    with store.session() as session:  # all or nothing: half a file would look like the whole
        dataset_id = _insert(store, actor, name, source, columns, None)
        for start in range(0, len(frame), matrix.CHUNK):
            part = frame.iloc[start : start + matrix.CHUNK]
            named = part[[*columns, *others, completion_column]].itertuples(index=False, name=None)
            rows = [
                {
                    **_row(dataset_id, i, dict(zip(columns, map(_cell, values), strict=False)), _cell(text), seen),
                    "column_values": dict(zip((*columns, *others), map(_cell, values), strict=True)),
                    "split": splits[i],
                }
                for i, (*values, text) in enumerate(named, start)
            ]
            session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
    return dataset_id


def split_of(word: str) -> Split | None:
    """Which part a word of a file means; None for an empty one.

    Raises:
        BadFile: it means none.
    """
    if not word.strip():
        return None
    try:
        return _SPLIT_WORDS[word.strip().lower()]
    except KeyError:
        raise BadFile(
            f"The split column says {word.strip()[:50]!r}, which is none of train, validation and held_out.",
            "Choose another column, or none; an empty cell leaves a row undecided.",
        ) from None


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
    names = [str(column) for column in frame.columns]
    roles = json.loads(path.with_name(_ROLES).read_text(encoding="utf-8")).get(name, {})
    completion, split = roles.get("completion", names[-1]), roles.get("split")
    columns = roles.get("prompt", [column for column in names if column not in (completion, split)])
    others = [column for column in names if column not in (*columns, completion, split)]
    return from_frame(
        store, actor, name, frame, columns, completion, "sample", split_column=split, other_columns=others
    )


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


@dataclass(frozen=True, slots=True)
class Examples:
    """Finished rows to learn from, as (prompt, completion): read anew whenever they are gone through, never held.

    Rows that are held out, or kept for validation, are not among them.

    Raises:
        NotFound: when gone through: the data set is not there (any more).
    """

    store: Store
    dataset_id: str

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with self.store.reading() as session:
            columns = _columns(session.get(Dataset, self.dataset_id))
            learned = _done(self.dataset_id).where(Row.split.is_(None) | (Row.split == "train"))
            for values, text, _split in session.execute(learned):
                yield prompt_of(columns, values), text or ""


def examples(store: Store, dataset_id: str) -> list[tuple[str, str]]:
    """`Examples`, all at once: for data sets that fit into memory."""
    return list(Examples(store, dataset_id))


def prompt_of(columns: Sequence[str], values: Mapping[str, Any]) -> str:
    """The prompt that a row is learned by: its values, joined by commas (S3)."""
    return ",".join(str(values.get(column, "")) for column in columns)


def parts(store: Store, dataset_id: str) -> dict[str | None, int]:
    """How many finished rows are held out, for training, for validation; None: undecided, so learned from."""
    done = select(Row.split, func.count()).where(Row.dataset_id == dataset_id, Row.state == "done").group_by(Row.split)
    with store.reading() as session:
        return {split: count for split, count in session.execute(done)}


def fingerprint(store: Store, dataset_id: str) -> str:
    """Changes when a finished row comes, goes or is edited; cheap enough to ask at every rerun."""
    done = select(func.count(), func.max(Row.updated_at)).where(Row.dataset_id == dataset_id, Row.state == "done")
    with store.reading() as session:
        count, newest = session.execute(done).one()
        return f"{dataset_id}:{count}:{newest.isoformat() if newest else ''}"


def to_csv(store: Store, dataset_id: str) -> str:
    """Finished rows as CSV like the article's: an index without a name, the columns, then the story.

    Cells that a spreadsheet would take for a formula get a `'` in front. Where rows are held out or have been given a
    part, a last column `split` says so.
    """
    return "".join(csv_lines(store, dataset_id))


def csv_lines(store: Store, dataset_id: str) -> Iterator[str]:
    """`to_csv`, line by line, for files larger than memory."""
    with store.reading() as session:
        columns = _columns(session.get(Dataset, dataset_id))
        first = session.execute(_done(dataset_id).limit(1)).first()
        columns += [name for name in (first[0] if first else ()) if name not in columns]
        divided = _done(dataset_id).where(Row.split.is_not(None)).limit(1)
        ending = ["split"] if session.execute(divided).first() and "split" not in columns else []
        yield csv_line(["", *columns, "story" if "story" not in columns else "completion", *ending])
        for index, (values, text, split) in enumerate(session.execute(_done(dataset_id))):
            cells = [str(values.get(c, "")) for c in columns]
            yield csv_line([str(index), *cells, text or "", *([split or ""] if ending else [])])


def csv_line(cells: Sequence[str]) -> str:
    """One line of CSV, with its end; no cell of it is a formula."""
    line = io.StringIO()
    csv.writer(line).writerow([cell(c) for c in cells])  # its own line end makes it quote both CR and LF in cells
    return line.getvalue().removesuffix("\r\n") + "\n"


def _done(dataset_id: str) -> Select[tuple[dict[str, Any], str | None, str | None]]:
    query = select(Row.column_values, Row.text, Row.split).where(Row.dataset_id == dataset_id, Row.state == "done")
    return query.order_by(Row.position, Row.id).execution_options(yield_per=1_000)


def _columns(dataset: Dataset | None) -> list[str]:
    if dataset is None:
        raise NotFound("This data set is not there any more.", "Choose another one.")
    return list(dataset.columns)


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
