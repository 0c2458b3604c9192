"""Data sets from rows that exist: a table that was read, or a sample that ships with the studio."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, pairwise
from typing import Any, Literal

import pandas as pd
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.dataset import grid, presets
from core.dataset.completed_rows import join_values
from core.dataset.generation.response_classification import storable
from core.dataset.grid_store import CHUNK
from core.dataset.importers import table_reader
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadFile, NotFound
from core.message import msg

Source = Literal["recipe", "sample", "upload", "chat", "examples"]
Split = Literal["held_out", "train", "validation"]
LONGEST_NAME = 190  # characters; the table has room for 200, and a number may follow
_LONGEST_SEPARATOR = 20  # characters, as the table has room for
_ROLES = "roles.json"  # beside the samples: which column is what, where it is not "the last one is the completion"
# What files call the three parts (Hugging Face's and scikit-learn's words among them) → ours.
_SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("held_out", "heldout", "held out", "held-out", "test", "eval"), "held_out"),
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}


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
) -> str:
    """A data set from a table: one row each, done; a row without a completion is excluded, not lost.

    Args:
        prompt_columns: make the prompt, in this order.
        completion_column: the text to learn.
        split_column: says of each row whether it is held out, or which part it belongs to; empty is undecided.
        other_columns: kept with each row, but no part of its prompt.
        separator: stands between the columns of a prompt; at most 20 characters. An empty cell adds none.

    Raises:
        BadFile: a column is not there, there are no rows, or the split column has a word that is none.
    """
    columns = [str(c) for c in prompt_columns]
    others = [str(c) for c in other_columns if c not in (*columns, completion_column, split_column)]
    have = [str(c) for c in frame.columns]
    for column in (*columns, *others, completion_column, *([split_column] if split_column is not None else [])):
        if column not in have:
            raise BadFile(
                msg("There is no column {column}.", column=repr(column)),
                msg("Choose among: {have}.", have=", ".join(have)),
            )
    if not columns or completion_column in columns:
        raise BadFile(
            msg("Choose at least one prompt column; it can't be the completion column."), msg("Choose again.")
        )
    if frame.empty:
        raise BadFile(msg("There are no rows."), msg("Choose a file that has examples."))
    splits = [None] * len(frame) if split_column is None else [split_of(_cell(v)) for v in frame[split_column]]
    seen: Counter[tuple[str, ...]] = Counter()
    with store.session() as session:  # all or nothing: half a file would look like the whole
        dataset_id = new_dataset(store, actor, name, source, columns, None, separator[:_LONGEST_SEPARATOR])
        for start in range(0, len(frame), CHUNK):
            part = frame.iloc[start : start + CHUNK]
            named = part[[*columns, *others, completion_column]].itertuples(index=False, name=None)
            rows = [
                {
                    **_row(dataset_id, i, dict(zip(columns, map(_cell, values), strict=False)), _cell(text), seen),
                    "prompt": join_values(map(_cell, values[: len(columns)]), separator),
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
            msg(
                "The split column says {text}, which is none of train, validation and held_out.",
                text=repr(word.strip()[:50]),
            ),
            msg("Choose another column, or none; an empty cell leaves a row undecided."),
        ) from None


def load_sample(
    store: Store,
    actor: Actor,
    name: str,
    limit: int | None = None,
    *,
    seed: int = 0,
) -> str:
    """A data set from the stories that ship with the studio.

    Args:
        limit: how many rows to take; None takes all. They are spread over the whole grid: the sample is cut into as
            many stretches, and one row is drawn from each.
        seed: of the draws; the same seed takes the same rows.

    Raises:
        NotFound: there is no such sample.
    """
    sample = _read_sample(name)
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


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample's table, and which of its columns make the prompt, the completion and the split; others are kept."""

    frame: pd.DataFrame
    columns: list[str]
    completion: str
    split: str | None
    others: list[str]


def _read_sample(name: str) -> _Sample:
    path = presets.DATA / "samples" / f"{name}.csv"
    if not name.replace("_", "").isalnum() or not path.is_file():
        raise NotFound(msg("There is no sample called {name}.", name=name), msg("Choose one from the list."))
    frame = table_reader.read_table(path.read_bytes(), path.name).frame
    names = [str(column) for column in frame.columns]
    roles = json.loads(path.with_name(_ROLES).read_text(encoding="utf-8")).get(name, {})
    completion, split = roles.get("completion", names[-1]), roles.get("split")
    columns = roles.get("prompt", [column for column in names if column not in (completion, split)])
    labels = roles.get("labels", [])  # of the sample, not of a data set made from it
    others = [column for column in names if column not in (*columns, *labels, completion, split)]
    return _Sample(frame, columns, completion, split, others)


def new_dataset(
    store: Store,
    actor: Actor,
    name: str,
    source: str,
    columns: list[str],
    recipe_dict: dict[str, Any] | None,
    separator: str = ",",
) -> str:
    """A data set without rows; its id."""
    dataset_id = new_id()
    with store.session() as session:
        session.add(
            Dataset(
                id=dataset_id,
                name=own_name(session, name),
                source=source,
                columns=columns,
                prompt_separator=separator,
                recipe=recipe_dict,
                created_by=actor.id,
            )
        )
    return dataset_id


def own_name(session: Session, name: str) -> str:
    """The name, as far as the table has room for it; with a number where another data set is called so.

    Two of one name could not be told apart, in no list and by no widget.
    """
    wanted = storable(name.strip())[:LONGEST_NAME] or "data set"
    taken = set(session.scalars(select(Dataset.name).where(Dataset.name.startswith(wanted, autoescape=True))))
    names = chain([wanted], (f"{wanted} ({n})" for n in count(2)))
    return next(free for free in names if free not in taken)


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
        "state": "excluded" if blank else "done",
        "reason": msg("The completion is empty.") if blank else None,
        "text": text,
        "updated_at": utcnow(),
    }


def _cell(value: object) -> str:
    return "" if value is None or value != value else storable(str(value))  # NaN is the one that differs from itself
