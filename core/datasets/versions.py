"""Versions: immutable snapshots of a data set, split for training. Equal snapshots are one version."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.datasets import dataset_rows, splitting
from core.datasets.dataset_rows import require_dataset
from core.datasets.grid_store import CHUNK
from core.datasets.splitting import Split
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Dataset, DatasetVersion, Row, VersionExample
from core.errors import BadTrainingFile, NotFound
from core.message import msg
from core.ownership import reads
from core.sanitize import storable

_MAX_NOTE = 1_000
_MAX_LABEL = 100  # characters; a longer completion is not a label
_SplitRows = list[tuple[int, Split]]  # row ids in order, with their split
_SPLIT_PRIORITY: tuple[Split, ...] = ("train", "validation", "held_out")  # for copies, the last of these wins


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a data set. `number` counts within the data set, from 1.

    Attributes:
        sha256: hash of its examples, with rejected answers, and of their splits.
        n_train, n_validation, n_held_out: number of examples per split.
        validation_share, seed: how the data was split.
    """

    id: str
    dataset_id: str
    number: int
    note: str
    sha256: str
    n_train: int
    n_validation: int
    n_held_out: int
    validation_share: float
    seed: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class VersionExamples:
    """Examples of one split of a version as (prompt, completion).

    Each iteration streams them from the database again.
    """

    store: Store
    version_id: str
    split: Split

    def __iter__(self) -> Iterator[tuple[str, str]]:
        query = select(VersionExample.prompt, VersionExample.completion).where(
            VersionExample.version_id == self.version_id, VersionExample.split == self.split
        )
        with self.store.reading() as session:
            ordered = query.order_by(VersionExample.position).execution_options(yield_per=CHUNK)
            yield from ((prompt, completion) for prompt, completion in session.execute(ordered))


@requires("editor")
@reads(dataset="dataset_id")
def freeze(
    store: Store, actor: Actor, dataset_id: str, *, validation_share: float = 0.0, seed: int = 0, note: str = ""
) -> str:
    """Save the finished rows as a version, split for training. Returns its id.

    The same rows and split give the same version. Rows with a split from a file or a user keep it: held-out rows are
    never used for training. The others are split by cell (see `splitting`). Rows with the same content get the same
    split: an undecided copy of a row with a split follows it, and undecided copies stay together. So do preferences
    with the same prompt.

    Args:
        validation_share: share of the undecided rows, 0 to 0.9.
        seed: a different seed selects different rows.
        note: a note; an existing equal version keeps its own.

    Raises:
        NotFound: the data set does not exist.
        BadTrainingFile: no rows would be left for training.
        FabulaError: the share is out of bounds.
        StorageFull: the disk is full; nothing is saved.
    """
    with store.reading() as session:  # the slow part, without blocking other writers
        dataset = require_dataset(session, dataset_id)
        split_rows = _split_rows(session, dataset, validation_share, seed)
        split_counts = Counter(split for _id, split in split_rows)
        if not split_counts["train"]:
            raise BadTrainingFile(
                msg("No rows would be left to train on."), msg("Generate or load rows that are not held out.")
            )
        sha256 = _sha256(_examples(session, dataset, split_rows))
    with store.session() as session:  # one transaction: a partial version would be wrong
        advisory_lock(session, "dataset_versions")
        equal_version = select(DatasetVersion.id).where(
            DatasetVersion.dataset_id == dataset_id, DatasetVersion.sha256 == sha256
        )
        if (existing := session.scalar(equal_version)) is not None:
            return existing
        version = DatasetVersion(
            id=new_id(),
            dataset_id=dataset_id,
            number=_next_number(session, dataset_id),
            note=storable(note.strip())[:_MAX_NOTE],
            sha256=sha256,
            settings={"validation_share": validation_share, "seed": seed, "held_out": split_counts["held_out"]},
            n_train=split_counts["train"],
            n_validation=split_counts["validation"],
            created_by=actor.id,
        )
        session.add(version)
        session.flush()
        version.sha256 = _write(session, dataset, split_rows, version.id)  # differs if a row has just been edited
        return version.id


def list_versions(store: Store, dataset_id: str) -> list[Version]:
    """All versions of a data set, newest first."""
    query = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id)
    with store.reading() as session:
        return [_view(version) for version in session.scalars(query.order_by(DatasetVersion.number.desc()))]


def get(store: Store, version_id: str) -> Version:
    """One version.

    Raises:
        NotFound: it does not exist.
    """
    with store.reading() as session:
        version = session.get(DatasetVersion, version_id)
        if version is None:
            raise NotFound(msg("This version no longer exists."), msg("Choose another one."))
        return _view(version)


def examples(store: Store, version_id: str, split: Split = "train") -> VersionExamples:
    """The examples of one split; can be iterated repeatedly."""
    return VersionExamples(store, version_id, split)


def _next_number(session: Session, dataset_id: str) -> int:
    last = select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset_id)
    return (session.scalar(last) or 0) + 1


def _split_rows(session: Session, dataset: Dataset, share: float, seed: int) -> _SplitRows:
    """All finished rows with their split, in data set order."""
    query = select(Row.id, Row.key, Row.column_values, Row.text, Row.split, Row.rejected)
    query = query.where(Row.dataset_id == dataset.id, Row.state == "done").order_by(Row.position, Row.id)
    split_rows: _SplitRows = []
    undecided = list[_UndecidedRow]()
    decided: dict[str, Split] = {}
    for row_index, (id_, key, values, text, split, rejected) in enumerate(
        session.execute(query.execution_options(yield_per=CHUNK))
    ):
        prompt = dataset_rows.prompt_of(dataset, values)
        content = _content_key(prompt, text or "") if rejected is None else label_of(prompt)
        split_rows.append((id_, split or "train"))
        if split is None:
            undecided.append(
                _UndecidedRow(row_index, key, cell_of(dataset, key, values), label_of(text or ""), content)
            )
        else:
            decided[content] = max(decided.get(content, split), split, key=_SPLIT_PRIORITY.index)
    for row in undecided:
        split_rows[row.row_index] = (split_rows[row.row_index][0], decided.get(row.content, "train"))
    undecided = [row for row in undecided if row.content not in decided]
    strata = splitting.strata([row.cell for row in undecided], [row.label for row in undecided])
    keys, contents = [row.key for row in undecided], [row.content for row in undecided]
    for row, is_validation in zip(
        undecided, splitting.split(keys, strata, share=share, seed=seed, content=contents), strict=True
    ):
        if is_validation:
            split_rows[row.row_index] = (split_rows[row.row_index][0], "validation")
    return split_rows


class _UndecidedRow(NamedTuple):
    """A row without a split, with the data that decides its split."""

    row_index: int
    key: str
    cell: tuple[str, ...]
    label: str
    content: str


def _content_key(prompt: str, text: str) -> str:
    """Equal for rows with the same content: the text, and for a short label also the prompt."""
    stripped = text.strip()
    return label_of(f"{prompt}\x1f{stripped}") if len(stripped) <= _MAX_LABEL else label_of(stripped)


def cell_of(dataset: Dataset, key: str, values: dict[str, Any]) -> tuple[str, ...]:
    """The cell of a row; in a mix, each part has its own cells."""
    cell = tuple(str(values.get(column, "")) for column in dataset.columns)
    return (key.split(":")[0], *cell) if dataset.source == "mix" else cell


def label_of(text: str) -> str:
    """A completion as a label for grouping: the text if short, otherwise its hash."""
    return text if len(text) <= _MAX_LABEL else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _examples(session: Session, dataset: Dataset, split_rows: _SplitRows) -> Iterator[dict[str, Any]]:
    """The rows in the format of a version, in order, read in chunks."""
    for start in range(0, len(split_rows), CHUNK):
        chunk = dict(split_rows[start : start + CHUNK])
        query = select(Row.id, Row.key, Row.column_values, Row.text, Row.rejected).where(Row.id.in_(list(chunk)))
        rows = {row.id: row for row in session.execute(query)}
        for position, id_ in enumerate(chunk, start):
            row = rows[id_]
            yield {
                "split": chunk[id_],
                "row_key": row.key,
                "column_values": row.column_values,
                "prompt": dataset_rows.prompt_of(dataset, row.column_values),
                "completion": row.text or "",
                "position": position,
                "rejected": row.rejected,
            }


def _sha256(examples: Iterable[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(_canonical(example))
    return digest.hexdigest()


def _canonical(example: dict[str, Any]) -> bytes:
    """What is hashed. An example without a rejected answer has the same hash as before there were any."""
    hashed = [value for name, value in example.items() if name != "rejected" or value is not None]
    return json.dumps(hashed, ensure_ascii=False, sort_keys=True).encode()


def _write(session: Session, dataset: Dataset, split_rows: _SplitRows, version_id: str) -> str:
    """Insert the examples. Returns their SHA-256."""
    digest, pending = hashlib.sha256(), list[dict[str, Any]]()
    for example in _examples(session, dataset, split_rows):
        digest.update(_canonical(example))
        pending.append({"version_id": version_id, **example})
        if len(pending) == CHUNK:
            _insert(session, pending)
            pending = []
    _insert(session, pending)
    return digest.hexdigest()


def _insert(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(VersionExample.__table__), list(rows))  # type: ignore[arg-type]  # typed as FromClause


def _view(version: DatasetVersion) -> Version:
    return Version(
        id=version.id,
        dataset_id=version.dataset_id,
        number=version.number,
        note=version.note,
        sha256=version.sha256,
        n_train=version.n_train,
        n_validation=version.n_validation,
        n_held_out=int(version.settings.get("held_out", 0)),
        validation_share=float(version.settings.get("validation_share", 0)),
        seed=int(version.settings.get("seed", 0)),
        created_at=version.created_at,
    )
