"""Mixes (R5): several data sets become one, each with its share, drawn evenly from its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select
from sqlalchemy.orm import Session

from core.actor import Actor
from core.dataset import datasets, splitting, versions
from core.dataset.grid_store import CHUNK
from core.dataset.loading import own_name
from core.db.store import Store, new_id
from core.db.tables import Dataset, Row, utcnow
from core.errors import BadTrainingFile, NotFound
from core.message import msg

_LONGEST_KEY = 64  # characters, as the table has it
_COPIED = (Row.id, Row.dataset_id, Row.key, Row.repeat, Row.column_values, Row.text, Row.finish_reason, Row.split)
_PROMPT = "prompt"  # the one column of a mix of data sets whose columns differ

Shares = Sequence[tuple[str, float]]
"""Ids of data sets, each with its share; shares count in proportion to their sum."""


@dataclass(frozen=True, slots=True)
class Part:
    """One data set in a mix.

    Attributes:
        share: of the mix, 0 to 1; rows: how many rows that is.
        available: how many finished rows it has that are not held out.
        held_out: rows that are held out there; they come along, stay held out, and count for no share.
    """

    dataset_id: str
    name: str
    share: float
    rows: int
    available: int
    held_out: int


def plan(store: Store, parts: Shares, size: int | None = None) -> tuple[Part, ...]:
    """How many rows a mix would take from each part. Shares are met exactly, by largest remainders.

    Args:
        parts: two data sets or more, each once.
        size: rows of the mix without those held out; None: as many as there are without taking a row twice.

    Raises:
        NotFound: a data set is not there (any more).
        BadTrainingFile: it cannot be mixed so; `next_step` says what can.
    """
    with store.reading() as session:
        return _plan(session, parts, size)


def mix(store: Store, actor: Actor, name: str, parts: Shares, seed: int = 0, size: int | None = None) -> str:
    """A new data set of rows of others; its id. The same arguments draw the same rows.

    Its rows are copies: finished, with the prompt that they have where they come from, and a key that begins with the
    id of that data set. What is held out there is held out here.

    Raises:
        NotFound, BadTrainingFile: see `plan`.
        StorageFull: no room; nothing is kept.
    """
    with store.reading() as session:  # the long part, while others write
        planned = _plan(session, parts, size)
        sources = {part.dataset_id: session.get_one(Dataset, part.dataset_id) for part in planned}
        drawn = sorted(pair for part in planned for pair in _drawn(session, sources[part.dataset_id], part, seed))
    with store.session() as session:  # all or nothing: half a mix would have other shares
        first = next(iter(sources.values()))
        written = (first.columns, first.prompt_separator)
        shared = all((source.columns, source.prompt_separator) == written for source in sources.values())
        dataset_id = new_id()
        session.add(
            Dataset(
                id=dataset_id,
                name=own_name(session, name.strip() or " + ".join(part.name for part in planned)),
                source="mix",
                columns=list(first.columns) if shared else [_PROMPT],
                prompt_separator=first.prompt_separator,
                parts={"seed": seed, "size": sum(p.rows for p in planned), "parts": [asdict(p) for p in planned]},
                created_by=actor.id,
            )
        )
        session.flush()
        for start in range(0, len(drawn), CHUNK):
            ids = [id_ for _rank, id_ in drawn[start : start + CHUNK]]
            found = {row.id: row for row in session.execute(select(*_COPIED).where(Row.id.in_(ids)))}
            rows = [
                _copy(found[id_], dataset_id, position, sources[found[id_].dataset_id], shared)
                for position, id_ in enumerate(ids, start)
            ]
            session.execute(insert(Row.__table__), rows)  # type: ignore[arg-type]  # a Table, typed as FromClause
        return dataset_id


def _plan(session: Session, parts: Shares, size: int | None) -> tuple[Part, ...]:
    ids = [dataset_id for dataset_id, _share in parts]
    if len(set(ids)) < 2 or len(set(ids)) != len(ids):
        raise BadTrainingFile(
            msg("Choose at least two data sets to mix, each of them once."), msg("Choose other data sets.")
        )
    if any(not share > 0 for _id, share in parts):
        raise BadTrainingFile(
            msg("Give each data set of the mix a share above 0."), msg("Raise it, or leave the data set out.")
        )
    whole, found = sum(share for _id, share in parts), []
    for dataset_id, share in parts:
        name = session.scalar(select(Dataset.name).where(Dataset.id == dataset_id))
        if name is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        available, held_out = (_count(session, dataset_id, where) for where in (_learned(), Row.split == "held_out"))
        if not available:
            raise BadTrainingFile(
                msg("{name} has no finished rows to learn from.", name=name),
                msg("Generate rows for it first, or leave it out."),
            )
        found.append(Part(dataset_id, name, share / whole, 0, available, held_out))
    most = min(int(part.available / part.share + 1e-9) for part in found)
    total = most if size is None else size
    if total < 1 or total > most:
        raise BadTrainingFile(
            msg("With these shares, a mix can have 1 to {most} rows without repeats.", most=f"{most:,}"),
            msg("Use fewer rows, or give the smallest data set a smaller share."),
        )
    rows = splitting.apportion([share for _id, share in parts], total)
    return tuple(
        Part(p.dataset_id, p.name, p.share, n, p.available, p.held_out) for p, n in zip(found, rows, strict=True)
    )


def _learned() -> ColumnElement[bool]:
    """Rows that may be learned from."""
    return Row.split.is_(None) | (Row.split != "held_out")


def _count(session: Session, dataset_id: str, where: ColumnElement[bool]) -> int:
    done = select(func.count()).where(Row.dataset_id == dataset_id, Row.state == "done", where)
    return session.scalar(done) or 0


def _drawn(session: Session, source: Dataset, part: Part, seed: int) -> list[tuple[int, int]]:
    """Rows of one part as (where they stand in the mix, id): its share evenly from its cells, and all held out."""
    query = select(Row.id, Row.key, Row.column_values, Row.text, Row.split)
    query = query.where(Row.dataset_id == source.id, Row.state == "done").order_by(Row.position, Row.id)
    drawn, learned = list[tuple[int, int]](), list[tuple[int, int]]()
    keys, cells, labels = list[str](), list[tuple[str, ...]](), list[str]()
    for id_, key, values, text, split in session.execute(query.execution_options(yield_per=CHUNK)):
        placed = (splitting.rank(f"{source.id}:{key}", seed), id_)
        if split == "held_out":
            drawn.append(placed)
            continue
        learned.append(placed)
        keys.append(key)
        cells.append(versions.cell_of(source, key, values))
        labels.append(versions.label_of(text or ""))
    taken = splitting.choose(keys, splitting.strata(cells, labels), part.rows, seed)
    return drawn + [placed for placed, take in zip(learned, taken, strict=True) if take]


def _key(source: str, key: str) -> str:
    """A row's key in a mix: where it comes from, then its key there, or a hash of that where it is too long."""
    room = _LONGEST_KEY - len(source) - 1
    return f"{source}:{key if len(key) <= room else sha256(key.encode()).hexdigest()[:room]}"


def _copy(row: Any, dataset_id: str, position: int, source: Dataset, shared: bool) -> dict[str, Any]:
    prompt = datasets.prompt_of(source, row.column_values)
    return {
        "dataset_id": dataset_id,
        "key": _key(source.id, row.key),
        "position": position,
        "repeat": row.repeat,
        "column_values": row.column_values if shared else {**row.column_values, _PROMPT: prompt},
        "prompt": prompt,
        "state": "done",
        "text": row.text,
        "finish_reason": row.finish_reason,
        "split": row.split,
        "updated_at": utcnow(),
    }
