"""Quality of the rows in the ledger: read in a stream, measured once for each state that they are in."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from core.dataset.quality.measure import report
from core.dataset.quality.report import QualityReport, QualityRow
from core.dataset.recipe import Recipe
from core.db.store import Store
from core.db.tables import Dataset, Row
from core.errors import NotFound
from core.message import msg

_AT_ONCE = 500  # rows fetched at a time, each page by its own short query: no reader is held open while measuring
_JUDGED = ("done", "failed")
_REMEMBERED = 4  # data sets, each with its newest report; one of 100,000 rows takes about 30 MB
_reports: OrderedDict[tuple[str, str], tuple[str, QualityReport]] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class RowText:
    """A row behind a figure. `reason` says why it failed or was excluded."""

    id: int
    values: dict[str, str]
    text: str
    state: str
    reason: str | None


def of(store: Store, dataset_id: str, progress: Callable[[int, int], None] | None = None) -> QualityReport:
    """The report on a data set; the one that is there already when no row has changed since.

    Args:
        progress: is told from time to time how many rows of how many have been read; may raise to end it.

    Raises:
        NotFound: no such data set.
    """
    key, as_now = (store.url, dataset_id), fingerprint(store, dataset_id)
    with _lock:
        known = _reports.get(key)
        if known is not None and known[0] == as_now:
            _reports.move_to_end(key)
            return known[1]
    made = _measure(store, dataset_id, progress)
    with _lock:
        _reports[key] = as_now, made
        _reports.move_to_end(key)
        while len(_reports) > _REMEMBERED:
            _reports.popitem(last=False)
    return made


def fingerprint(store: Store, dataset_id: str) -> str:
    """Changes whenever a row comes, changes or is left out. Read from an index, not from the rows.

    Raises:
        NotFound: no such data set.
    """
    counted = select(Row.state, func.count(), func.max(Row.updated_at)).where(Row.dataset_id == dataset_id)
    with store.reading() as session:
        if session.get(Dataset, dataset_id) is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        states = session.execute(counted.group_by(Row.state).order_by(Row.state)).all()
    judged = [f"{state} {count} {at}" for state, count, at in states if state in (*_JUDGED, "excluded")]
    return hashlib.sha256("\n".join(judged).encode()).hexdigest()


def texts_of(store: Store, row_ids: Sequence[int]) -> list[RowText]:
    """These rows, in this order; ids that are not there (any more) are left out."""
    query = select(Row.id, Row.column_values, Row.text, Row.state, Row.reason)
    found: dict[int, RowText] = {}
    with store.reading() as session:
        for start in range(0, len(row_ids), _AT_ONCE):
            part = list(row_ids[start : start + _AT_ONCE])
            for row_id, values, text, state, reason in session.execute(query.where(Row.id.in_(part))):
                found[row_id] = RowText(row_id, _strings(values), text or "", state, reason)
    return [found[row_id] for row_id in row_ids if row_id in found]


def _measure(store: Store, dataset_id: str, progress: Callable[[int, int], None] | None) -> QualityReport:
    with store.reading() as session:
        dataset = session.get_one(Dataset, dataset_id)
        columns = list(dataset.columns)
        recipe = None if dataset.recipe is None else Recipe.from_dict(dataset.recipe)
        judged = select(func.count()).where(Row.dataset_id == dataset_id, Row.state.in_(_JUDGED))
        total = session.scalar(judged) or 0
    return report(
        _rows(store, dataset_id),
        columns,
        grid={column.name: column.values for column in recipe.columns} if recipe else None,
        repeats=recipe.repeats if recipe else None,
        model=recipe.model if recipe else "",
        progress=None if progress is None else lambda read: progress(read, total),
    )


def _rows(store: Store, dataset_id: str) -> Iterator[QualityRow]:
    """Finished and failed rows in the order of their places."""
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
        .limit(_AT_ONCE)
    )
    after = (-1, -1)
    while True:
        later = (Row.position > after[0]) | ((Row.position == after[0]) & (Row.id > after[1]))
        with store.reading() as session:
            page = session.execute(query.where(Row.position >= after[0], later)).all()
        if not page:
            return
        after = (page[-1][0], page[-1][1])
        for _, row_id, values, prompt, text, state, finish_reason, counted, edited in page:
            if state in _JUDGED:
                tokens = None if edited else counted
                yield QualityRow(row_id, _strings(values), prompt, text or "", state, finish_reason, tokens)


def _strings(values: dict[str, object]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}
