"""Finished rows on their way out: as pairs to learn from, and as CSV."""

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
    """Finished rows to learn from, as (prompt, completion): read anew whenever they are gone through, never held.

    Rows that are held out, or kept for validation, are not among them.

    Raises:
        NotFound: when gone through: the data set is not there (any more).
    """

    store: Store
    dataset_id: str

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with self.store.reading() as session:
            dataset = _known(session.get(Dataset, self.dataset_id))
            learned = _done(self.dataset_id).where(Row.split.is_(None) | (Row.split == "train"))
            for values, text, _split in session.execute(learned):
                yield prompt_of(dataset, values), text or ""


def examples(store: Store, dataset_id: str) -> list[tuple[str, str]]:
    """`TrainingExamples`, all at once: for data sets that fit into memory."""
    return list(TrainingExamples(store, dataset_id))


def prompt_of(dataset: Dataset, values: Mapping[str, Any]) -> str:
    """The prompt that a row of a data set is learned by: its values, joined by commas (S3), or as the data set says."""
    return join_values((str(values.get(column, "")) for column in dataset.columns), dataset.prompt_separator)


def join_values(values: Iterable[str], separator: str) -> str:
    """The values of the columns of a prompt as one text; an empty one adds no separator."""
    return separator.join(value for value in values if value.strip())


def to_csv(store: Store, dataset_id: str) -> str:
    """Finished rows as CSV like the article's: an index without a name, the columns, then the story.

    Cells that a spreadsheet would take for a formula get a `'` in front. Where rows are held out or have been given a
    part, a last column `split` says so.
    """
    return "".join(csv_lines(store, dataset_id))


def csv_lines(store: Store, dataset_id: str) -> Iterator[str]:
    """`to_csv`, line by line, for files larger than memory."""
    with store.reading() as session:
        columns = list(_known(session.get(Dataset, dataset_id)).columns)
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
    csv.writer(line).writerow([safe_cell(c) for c in cells])  # its own line end makes it quote both CR and LF in cells
    return line.getvalue().removesuffix("\r\n") + "\n"


def _done(dataset_id: str) -> Select[tuple[dict[str, Any], str | None, str | None]]:
    query = select(Row.column_values, Row.text, Row.split).where(Row.dataset_id == dataset_id, Row.state == "done")
    return query.order_by(Row.position, Row.id).execution_options(yield_per=1_000)


def _known(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
    return dataset
