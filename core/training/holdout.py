"""The rows that a model is judged by: those that training has not learned from, the same ones for every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from core.dataset import datasets, splitting
from core.db.store import Store, in_chunks
from core.db.tables import Dataset, Row, VersionExample
from core.errors import NotFound
from core.message import msg
from core.training.evaluation_types import EvaluationView, HeldOut, HeldOutExample, Kind

PARTS: Mapping[str, tuple[str, ...]] = {
    "both": ("held_out", "validation"),
    "held_out": ("held_out",),
    "validation": ("validation",),
}
_HEAD = 1_000  # rows looked at to see whether the completions are labels
_LABELS_UP_TO = 40  # characters, as in the quality report
_ROWS_A_LABEL = 4


def held_out(store: Store, dataset_id: str, version_id: str | None = None) -> HeldOut:
    """The rows that there are to judge by.

    Raises:
        NotFound: no such data set.
    """
    with store.reading() as session:
        if session.get(Dataset, dataset_id) is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        if version_id is not None:
            counting = select(VersionExample.split, func.count()).where(VersionExample.version_id == version_id)
            counted = {part: n for part, n in session.execute(counting.group_by(VersionExample.split))}
            some: Select[Any] = (
                select(VersionExample.completion).where(VersionExample.version_id == version_id).limit(_HEAD)
            )
        else:
            rows = (Row.dataset_id == dataset_id, Row.state == "done")
            counted = {
                str(part): n
                for part, n in session.execute(select(Row.split, func.count()).where(*rows).group_by(Row.split))
            }
            some = select(Row.text).where(*rows).order_by(Row.position).limit(_HEAD)
        completions = [text or "" for text in session.scalars(some)]
    kind, labels = _kind(completions)
    return HeldOut(counted.get("validation", 0), counted.get("held_out", 0), kind, labels)


def examples(store: Store, evaluation: EvaluationView) -> Iterator[HeldOutExample]:
    """The rows of an evaluation, in order: the same ones every time, while the data set stays as it is."""
    settings = evaluation.settings
    return holdout_rows(
        store,
        evaluation.dataset_id,
        evaluation.version_id,
        parts=PARTS[str(settings["part"])],
        limit=int(settings["limit"]),
        seed=int(settings.get("seed", 0)),
    )


def holdout_rows(
    store: Store, dataset_id: str, version_id: str | None, *, parts: tuple[str, ...], limit: int, seed: int = 0
) -> Iterator[HeldOutExample]:
    """Rows that training does not learn from, in order.

    Where there are more than the limit, those with the lowest ranks (see `splitting.rank`) are taken: from all over the
    data set, and the same for every model.
    """
    with store.reading() as session:
        if version_id is not None:
            of_version = (VersionExample.version_id == version_id, VersionExample.split.in_(parts))
            keys = select(VersionExample.id, VersionExample.row_key).where(*of_version)
            whole: Select[Any] = select(
                VersionExample.row_key, VersionExample.column_values, VersionExample.prompt, VersionExample.completion
            )
            ids = _drawn(session, keys, limit, seed)
            for some in in_chunks(ids):
                rows = session.execute(whole.where(VersionExample.id.in_(some)).order_by(VersionExample.id))
                yield from (HeldOutExample(key, _strings(values), prompt, said) for key, values, prompt, said in rows)
            return
        dataset = session.get_one(Dataset, dataset_id)
        kept = (Row.dataset_id == dataset_id, Row.state == "done", Row.split.in_(parts))
        ids = _drawn(session, select(Row.id, Row.key).where(*kept), limit, seed)
        for some in in_chunks(ids):
            found = select(Row.key, Row.column_values, Row.text).where(Row.id.in_(some)).order_by(Row.id)
            for key, values, text in session.execute(found):
                yield HeldOutExample(key, _strings(values), datasets.prompt_of(dataset, values), text or "")


def _drawn(session: Session, keys: Select[int, str], limit: int, seed: int) -> list[int]:
    """Ids of at most `limit` rows, in order."""
    ranked = sorted((splitting.rank(key, seed), id_) for id_, key in session.execute(keys))
    return sorted(id_ for _, id_ in ranked[:limit])


def _kind(completions: list[str]) -> tuple[Kind, tuple[str, ...]]:
    """Labels are short, few, and come again and again (as in the quality report)."""
    said = [text.strip() for text in completions if text.strip()]
    different = sorted(set(said))
    if (
        said
        and median(len(text) for text in said) <= _LABELS_UP_TO
        and 2 <= len(different) <= len(said) / _ROWS_A_LABEL
    ):
        return "label", tuple(different)
    return "text", ()


def _strings(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}
