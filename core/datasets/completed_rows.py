"""Finished rows as training pairs and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select

from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import NotFound
from core.message import msg
from core.sanitize import safe_cell


@dataclass(frozen=True, slots=True)
class TrainingExamples:
    """Finished rows as (prompt, completion) pairs for training. Iterating reads them as a stream, each time again.

    Rows that are held out or used for validation are not included.

    Raises:
        NotFound: on iteration: the data set does not exist (any more).
    """

    store: Store
    dataset_id: str

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with self.store.reading() as session:
            dataset = _require(session.get(Dataset, self.dataset_id))
            training = _finished_rows(self.dataset_id).where(Row.split.is_(None) | (Row.split == "train"))
            for values, text, _split in session.execute(training):
                yield prompt_of(dataset, values), text or ""


def examples(store: Store, dataset_id: str) -> list[tuple[str, str]]:
    """`TrainingExamples` as a list, for data sets that fit in memory."""
    return list(TrainingExamples(store, dataset_id))


def prompt_of(dataset: Dataset, values: Mapping[str, Any]) -> str:
    """The training prompt of a row: its values, joined by the data set's separator (by default a comma)."""
    return join_values((str(values.get(column, "")) for column in dataset.columns), dataset.prompt_separator)


def join_values(values: Iterable[str], separator: str) -> str:
    """Column values joined to one text; empty values add no separator."""
    return separator.join(value for value in values if value.strip())


def to_csv(store: Store, dataset_id: str) -> str:
    """Finished rows as CSV in the article's format: an unnamed index, the columns, then the story.

    Cells that a spreadsheet would interpret as a formula are prefixed with `'`. If rows have a split, a last column
    `split` is added.
    """
    return "".join(csv_lines(store, dataset_id))


def csv_lines(store: Store, dataset_id: str) -> Iterator[str]:
    """`to_csv` line by line, for files larger than memory."""
    with store.reading() as session:
        columns = list(_require(session.get(Dataset, dataset_id)).columns)
        first = session.execute(_finished_rows(dataset_id).limit(1)).first()
        columns += [name for name in (first[0] if first else ()) if name not in columns]
        with_split = _finished_rows(dataset_id).where(Row.split.is_not(None)).limit(1)
        split_column = ["split"] if session.execute(with_split).first() and "split" not in columns else []
        yield csv_line(["", *columns, "story" if "story" not in columns else "completion", *split_column])
        for index, (values, text, split) in enumerate(session.execute(_finished_rows(dataset_id))):
            cells = [str(values.get(c, "")) for c in columns]
            yield csv_line([str(index), *cells, text or "", *([split or ""] if split_column else [])])


def csv_line(cells: Sequence[str]) -> str:
    """One line of CSV, including the line end; formulas are escaped."""
    line = io.StringIO()
    # With "\r\n" as line end it quotes both CR and LF in cells.
    csv.writer(line).writerow([safe_cell(c) for c in cells])
    return line.getvalue().removesuffix("\r\n") + "\n"


def _finished_rows(dataset_id: str) -> Select[tuple[dict[str, Any], str | None, str | None]]:
    query = select(Row.column_values, Row.text, Row.split).where(Row.dataset_id == dataset_id, Row.state == "done")
    return query.order_by(Row.position, Row.id).execution_options(yield_per=1_000)


def _require(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    return dataset
