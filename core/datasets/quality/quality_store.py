"""The quality of the rows in the database. Rows are read as a stream and measured again only after a change."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from core.datasets.dataset_rows import require_dataset, text_values
from core.datasets.quality.measure import report
from core.datasets.quality.report import QualityReport, QualityRow
from core.datasets.recipe import Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row

_CHUNK = 500  # rows per query: short queries, so that no read transaction stays open while measuring
_MEASURED = ("done", "failed")
_MAX_CACHED = 4  # cached reports; one of 100,000 rows takes about 30 MB
_reports: OrderedDict[tuple[str, str], tuple[str, QualityReport]] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class RowText:
    """A row of a finding. `reason`: why it failed or was excluded."""

    id: int
    values: dict[str, str]
    text: str
    state: str
    reason: str | None


def dataset_report(store: Store, dataset_id: str, progress: Callable[[int, int], None] | None = None) -> QualityReport:
    """The quality report of a data set; cached until a row changes.

    Args:
        progress: called after each block with the number of rows read and the total; may raise to cancel.

    Raises:
        NotFound: no such data set.
    """
    key, current = (store.url, dataset_id), fingerprint(store, dataset_id)
    with _lock:
        cached = _reports.get(key)
        if cached is not None and cached[0] == current:
            _reports.move_to_end(key)
            return cached[1]
    result = _measure(store, dataset_id, progress)
    with _lock:
        _reports[key] = current, result
        _reports.move_to_end(key)
        while len(_reports) > _MAX_CACHED:
            _reports.popitem(last=False)
    return result


def fingerprint(store: Store, dataset_id: str) -> str:
    """A hash that changes when a row is added, changed or excluded. Read from an index, not from the rows.

    Raises:
        NotFound: no such data set.
    """
    query = select(Row.state, func.count(), func.max(Row.updated_at)).where(Row.dataset_id == dataset_id)
    with store.reading() as session:
        require_dataset(session, dataset_id)
        states = session.execute(query.group_by(Row.state).order_by(Row.state)).all()
    lines = [
        f"{state} {count} {updated_at}" for state, count, updated_at in states if state in (*_MEASURED, "excluded")
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def row_texts(store: Store, row_ids: Sequence[int]) -> list[RowText]:
    """These rows, in this order; missing ids are skipped."""
    query = select(Row.id, Row.column_values, Row.text, Row.state, Row.reason)
    by_id: dict[int, RowText] = {}
    with store.reading() as session:
        for start in range(0, len(row_ids), _CHUNK):
            chunk = list(row_ids[start : start + _CHUNK])
            for row_id, values, text, state, reason in session.execute(query.where(Row.id.in_(chunk))):
                by_id[row_id] = RowText(row_id, text_values(values), text or "", state, reason)
    return [by_id[row_id] for row_id in row_ids if row_id in by_id]


def _measure(store: Store, dataset_id: str, progress: Callable[[int, int], None] | None) -> QualityReport:
    with store.reading() as session:
        dataset = session.get_one(Dataset, dataset_id)
        columns = list(dataset.columns)
        recipe = None if dataset.recipe is None else Recipe.from_dict(dataset.recipe)
        has_grid = recipe is not None and not recipe.listed
        query = select(func.count()).where(Row.dataset_id == dataset_id, Row.state.in_(_MEASURED))
        total = session.scalar(query) or 0
    return report(
        _rows(store, dataset_id),
        columns,
        types={column.name: column.type for column in recipe.columns} if recipe and has_grid else None,
        grid={column.name: column.values for column in recipe.columns} if recipe and has_grid else None,
        repeats=recipe.repeats if recipe else None,
        model=recipe.model if recipe else "",
        progress=None if progress is None else lambda read: progress(read, total),
    )


def _rows(store: Store, dataset_id: str) -> Iterator[QualityRow]:
    """Finished and failed rows in order of position."""
    query = (
        select(
            Row.position,
            Row.id,
            Row.column_values,
            Row.prompt,
            Row.text,
            Row.state,
            Row.finish_reason,
            Row.completion_tokens,
            Row.original_text.is_not(None),
        )
        .where(Row.dataset_id == dataset_id)
        .order_by(Row.position, Row.id)
        .limit(_CHUNK)
    )
    after = (-1, -1)
    while True:
        next_rows = (Row.position > after[0]) | ((Row.position == after[0]) & (Row.id > after[1]))
        with store.reading() as session:
            page = session.execute(query.where(Row.position >= after[0], next_rows)).all()
        if not page:
            return
        after = (page[-1][0], page[-1][1])
        for _, row_id, values, prompt, text, state, finish_reason, completion_tokens, edited in page:
            if state in _MEASURED:
                tokens = None if edited else completion_tokens
                yield QualityRow(row_id, text_values(values), prompt, text or "", state, finish_reason, tokens)
