"""Rows that were not used in training: held-out and validation rows, the same for every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from core.datasets import dataset_rows, splitting
from core.datasets.dataset_rows import require_dataset
from core.db.store import Store, in_chunks
from core.db.tables import Dataset, Row, VersionExample

Kind = Literal["label", "text"]
Part = Literal["both", "held_out", "validation"]
PARTS: Mapping[str, tuple[str, ...]] = {
    "both": ("held_out", "validation"),
    "held_out": ("held_out",),
    "validation": ("validation",),
}
_SAMPLE_ROWS = 1_000  # rows inspected to detect labels
_MAX_LABEL_CHARS = 40  # the same limit as in the quality report
_MIN_ROWS_PER_LABEL = 4
_MAX_TRAINING_ROWS = 5_000  # of which examples are chosen


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Number and kind of the rows not used in training. `labels`: all labels of the data set, if any."""

    validation: int
    held_out: int
    kind: Kind
    labels: tuple[str, ...]

    @property
    def usable(self) -> int:
        """The number of rows that can be used for an evaluation."""
        return self.validation + self.held_out


@dataclass(frozen=True, slots=True)
class HeldOutExample:
    """One row that was not used in training."""

    key: str
    values: Mapping[str, str]
    prompt: str
    expected: str


def held_out(store: Store, dataset_id: str, version_id: str | None = None) -> HeldOut:
    """Number and kind of the rows kept from training.

    Raises:
        NotFound: the data set does not exist.
    """
    with store.reading() as session:
        require_dataset(session, dataset_id)
        if version_id is not None:
            query = select(VersionExample.split, func.count()).where(VersionExample.version_id == version_id)
            counts = {part: n for part, n in session.execute(query.group_by(VersionExample.split))}
            sample: Select[Any] = (
                select(VersionExample.completion).where(VersionExample.version_id == version_id).limit(_SAMPLE_ROWS)
            )
        else:
            rows = (Row.dataset_id == dataset_id, Row.state == "done")
            counts = {
                str(part): n
                for part, n in session.execute(select(Row.split, func.count()).where(*rows).group_by(Row.split))
            }
            sample = select(Row.text).where(*rows).order_by(Row.position).limit(_SAMPLE_ROWS)
        completions = [text or "" for text in session.scalars(sample)]
    kind, labels = _kind(completions)
    return HeldOut(counts.get("validation", 0), counts.get("held_out", 0), kind, labels)


def holdout_rows(
    store: Store, dataset_id: str, version_id: str | None, *, parts: tuple[str, ...], limit: int, seed: int = 0
) -> Iterator[HeldOutExample]:
    """Rows that are not used in training, in order.

    If there are more than `limit`, the rows with the lowest ranks (see `splitting.rank`) are taken: a random sample
    that is the same for every model.
    """
    with store.reading() as session:
        if version_id is not None:
            in_version = (VersionExample.version_id == version_id, VersionExample.split.in_(parts))
            keys = select(VersionExample.id, VersionExample.row_key).where(*in_version)
            columns: Select[Any] = select(
                VersionExample.row_key, VersionExample.column_values, VersionExample.prompt, VersionExample.completion
            )
            ids = _sample_ids(session, keys, limit, seed)
            for chunk in in_chunks(ids):
                rows = session.execute(columns.where(VersionExample.id.in_(chunk)).order_by(VersionExample.id))
                yield from (
                    HeldOutExample(key, dataset_rows.text_values(values), prompt, completion)
                    for key, values, prompt, completion in rows
                )
            return
        dataset = session.get_one(Dataset, dataset_id)
        split = Row.split.in_(parts) | Row.split.is_(None) if "train" in parts else Row.split.in_(parts)
        in_parts = (Row.dataset_id == dataset_id, Row.state == "done", split)
        ids = _sample_ids(session, select(Row.id, Row.key).where(*in_parts), limit, seed)
        for chunk in in_chunks(ids):
            query = select(Row.key, Row.column_values, Row.text).where(Row.id.in_(chunk)).order_by(Row.id)
            for key, values, text in session.execute(query):
                yield HeldOutExample(
                    key, dataset_rows.text_values(values), dataset_rows.prompt_of(dataset, values), text or ""
                )


def training_rows(
    store: Store, dataset_id: str, version_id: str | None, *, limit: int = _MAX_TRAINING_ROWS, seed: int = 0
) -> Iterator[HeldOutExample]:
    """Rows that a model may learn from: never held-out or validation rows; at most `limit`, a random sample."""
    return holdout_rows(store, dataset_id, version_id, parts=("train",), limit=limit, seed=seed)


def _sample_ids(session: Session, keys: Select[int, str], limit: int, seed: int) -> list[int]:
    """Ids of at most `limit` sampled rows, in order."""
    ranked = sorted((splitting.rank(key, seed), id_) for id_, key in session.execute(keys))
    return sorted(id_ for _, id_ in ranked[:limit])


def _kind(completions: list[str]) -> tuple[Kind, tuple[str, ...]]:
    """Detect labels: few different short texts that repeat often (as in the quality report)."""
    texts = [text.strip() for text in completions if text.strip()]
    labels = sorted(set(texts))
    if (
        texts
        and median(len(text) for text in texts) <= _MAX_LABEL_CHARS
        and 2 <= len(labels) <= len(texts) / _MIN_ROWS_PER_LABEL
    ):
        return "label", tuple(labels)
    return "text", ()
