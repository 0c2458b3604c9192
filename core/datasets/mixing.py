"""Mixes several data sets into one by share, sampling evenly from their cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import conversation_rows, dataset_rows, splitting, versions
from core.datasets.datasets import unique_name
from core.datasets.grid_store import CHUNK
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadTrainingFile, NotFound
from core.message import msg
from core.ownership import first_sharing, reads

_MAX_KEY = 64  # characters, the size of the column
_COPIED_COLUMNS = (
    Row.id,
    Row.dataset_id,
    Row.key,
    Row.repeat,
    Row.column_values,
    Row.text,
    Row.rejected,
    Row.finish_reason,
    Row.split,
)
_PROMPT = "prompt"  # the only column of a mix of data sets with different columns

Shares = Sequence[tuple[str, float]]
"""Data set ids with their shares; shares are relative to their sum."""


@dataclass(frozen=True, slots=True)
class MixPart:
    """One data set in a mix.

    Attributes:
        share: its share of the mix, 0 to 1.
        rows: the same share as a number of rows.
        available: its finished rows that are not held out.
        held_out: its held-out rows; they are copied, stay held out, and do not count towards the share.
    """

    dataset_id: str
    name: str
    share: float
    rows: int
    available: int
    held_out: int


def plan(store: Store, parts: Shares, size: int | None = None) -> tuple[MixPart, ...]:
    """The number of rows that a mix would take from each part. Shares are apportioned by largest remainders.

    Args:
        parts: at least two data sets, each once.
        size: rows of the mix, without held-out ones; None means the maximum without repeating a row.

    Raises:
        NotFound: a data set does not exist.
        BadTrainingFile: this mix is not possible; `next_step` says what is.
    """
    with store.reading() as session:
        return _plan(session, parts, size)


@requires("editor")
@reads(dataset="parts[].0")
def mix(store: Store, actor: Actor, name: str, parts: Shares, seed: int = 0, size: int | None = None) -> str:
    """Create a data set from rows of others. Returns its id. The same arguments select the same rows.

    The rows are copies: finished, with their original prompt, and a key that begins with the id of their data set.
    Held-out rows stay held out.

    Raises:
        NotFound, BadTrainingFile: see `plan`.
        StorageFull: the disk is full; nothing is saved.
    """
    with store.reading() as session:  # the slow part, without blocking other writers
        plan_parts = _plan(session, parts, size)
        sources = {part.dataset_id: session.get_one(Dataset, part.dataset_id) for part in plan_parts}
        selected = sorted(
            pair for part in plan_parts for pair in _sample(session, sources[part.dataset_id], part, seed)
        )
    access = first_sharing(private=any(one.sharing == "private" for one in sources.values()))
    with store.session() as session:  # one transaction: a partial mix would have wrong shares
        first = next(iter(sources.values()))
        prompt_format = (first.columns, first.prompt_separator)
        same_format = all((source.columns, source.prompt_separator) == prompt_format for source in sources.values())
        dataset_id = new_id()
        session.add(
            Dataset(
                id=dataset_id,
                name=unique_name(session, name.strip() or " + ".join(part.name for part in plan_parts)),
                source="mix",
                columns=list(first.columns) if same_format else [_PROMPT],
                prompt_separator=first.prompt_separator,
                mix_sources={
                    "seed": seed,
                    "size": sum(p.rows for p in plan_parts),
                    "parts": [asdict(p) for p in plan_parts],
                },
                created_by=actor.id,
                **access,
            )
        )
        session.flush()
        for start in range(0, len(selected), CHUNK):
            ids = [id_ for _rank, id_ in selected[start : start + CHUNK]]
            by_id = {row.id: row for row in session.execute(select(*_COPIED_COLUMNS).where(Row.id.in_(ids)))}
            rows = [
                _copy(by_id[id_], dataset_id, position, sources[by_id[id_].dataset_id], same_format)
                for position, id_ in enumerate(ids, start)
            ]
            session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
        return dataset_id


def _plan(session: Session, parts: Shares, size: int | None) -> tuple[MixPart, ...]:
    ids = [dataset_id for dataset_id, _share in parts]
    if len(set(ids)) < 2 or len(set(ids)) != len(ids):
        raise BadTrainingFile(
            msg("Choose at least two data sets to mix, each of them once."), msg("Choose other data sets.")
        )
    if any(not share > 0 for _id, share in parts):
        raise BadTrainingFile(
            msg("Give each data set of the mix a share above 0."), msg("Raise it, or leave the data set out.")
        )
    columns = session.scalars(select(Dataset.columns).where(Dataset.id.in_(ids)))
    if len({conversation_rows.holds(one) for one in columns}) > 1:
        raise BadTrainingFile(
            msg("A data set of conversations can be mixed with others of conversations only."),
            msg("Choose other data sets."),
        )
    total_share, mix_parts = sum(share for _id, share in parts), []
    for dataset_id, share in parts:
        name = session.scalar(select(Dataset.name).where(Dataset.id == dataset_id))
        if name is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        available, held_out = (_count(session, dataset_id, where) for where in (_trainable(), Row.split == "held_out"))
        if not available:
            raise BadTrainingFile(
                msg("{name} has no finished rows to learn from.", name=name),
                msg("Generate rows for it first, or leave it out."),
            )
        mix_parts.append(MixPart(dataset_id, name, share / total_share, 0, available, held_out))
    max_rows = min(int(part.available / part.share + 1e-9) for part in mix_parts)
    total = max_rows if size is None else size
    if total < 1 or total > max_rows:
        raise BadTrainingFile(
            msg("With these shares, a mix can have 1 to {max_rows} rows without repeats.", max_rows=f"{max_rows:,}"),
            msg("Use fewer rows, or give the smallest data set a smaller share."),
        )
    rows = splitting.apportion([share for _id, share in parts], total)
    return tuple(
        MixPart(p.dataset_id, p.name, p.share, n, p.available, p.held_out) for p, n in zip(mix_parts, rows, strict=True)
    )


def _trainable() -> ColumnElement[bool]:
    """SQL condition: rows that may be used for training."""
    return Row.split.is_(None) | (Row.split != "held_out")


def _count(session: Session, dataset_id: str, where: ColumnElement[bool]) -> int:
    done = select(func.count()).where(Row.dataset_id == dataset_id, Row.state == "done", where)
    return session.scalar(done) or 0


def _sample(session: Session, source: Dataset, part: MixPart, seed: int) -> list[tuple[int, int]]:
    """Selected rows of one part as (rank in the mix, id): its share, evenly from its cells, and all held-out rows."""
    query = select(Row.id, Row.key, Row.column_values, Row.text, Row.split)
    query = query.where(Row.dataset_id == source.id, Row.state == "done").order_by(Row.position, Row.id)
    selected, candidates = list[tuple[int, int]](), list[tuple[int, int]]()
    keys, cells, labels = list[str](), list[tuple[str, ...]](), list[str]()
    for id_, key, values, text, split in session.execute(query.execution_options(yield_per=CHUNK)):
        ranked = (splitting.rank(f"{source.id}:{key}", seed), id_)
        if split == "held_out":
            selected.append(ranked)
            continue
        candidates.append(ranked)
        keys.append(key)
        cells.append(versions.cell_of(source, key, values))
        labels.append(versions.label_of(text or ""))
    chosen = splitting.choose(keys, splitting.strata(cells, labels), part.rows, seed)
    return selected + [ranked for ranked, is_chosen in zip(candidates, chosen, strict=True) if is_chosen]


def _key(dataset_id: str, key: str) -> str:
    """A row's key in a mix: the id of its data set, then its key there, hashed if too long."""
    max_length = _MAX_KEY - len(dataset_id) - 1
    return f"{dataset_id}:{key if len(key) <= max_length else sha256(key.encode()).hexdigest()[:max_length]}"


def _copy(row: Any, dataset_id: str, position: int, source: Dataset, same_format: bool) -> dict[str, Any]:
    prompt = dataset_rows.prompt_of(source, row.column_values)
    return {
        "dataset_id": dataset_id,
        "key": _key(source.id, row.key),
        "position": position,
        "repeat": row.repeat,
        "column_values": row.column_values if same_format else {**row.column_values, _PROMPT: prompt},
        "prompt": prompt,
        "state": "done",
        "text": row.text,
        "rejected": row.rejected,
        "finish_reason": row.finish_reason,
        "split": row.split,
        "updated_at": utcnow(),
    }
