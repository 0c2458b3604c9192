"""Versions: what a data set was at one moment, split for training, kept as it was. Equal ones are one version."""

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

from core.actor import Actor
from core.dataset import datasets, splitting
from core.dataset.datasets import Split
from core.dataset.generation.response_classification import storable
from core.dataset.grid_store import CHUNK
from core.db.store import Store, advisory_lock, new_id
from core.db.tables import Dataset, DatasetVersion, Row, VersionExample
from core.errors import BadTrainingFile, NotFound
from core.message import msg

_LONGEST_NOTE = 1_000
_LONGEST_LABEL = 100  # characters: a longer completion is no label
_Chosen = list[tuple[int, Split]]  # ids of rows, in order, and the part that each belongs to
_KEPT_AWAY: tuple[Split, ...] = ("train", "validation", "held_out")  # the later, the further from training


@dataclass(frozen=True, slots=True)
class Version:
    """One version. `number` counts within its data set, from 1.

    Attributes:
        sha256: of its examples with their parts.
        n_train, n_validation, n_held_out: how many examples each part has.
        validation_share, seed: how it was split.
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
    """Examples of one part of a version as (prompt, completion), read anew each time they are gone through."""

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


def freeze(
    store: Store, actor: Actor, dataset_id: str, *, validation_share: float = 0.0, seed: int = 0, note: str = ""
) -> str:
    """Keep the finished rows as they are now, split; the id of the version. The same rows and split are the same one.

    Rows that a file or a person has given a part keep it: what is held out is never learned from. The others are
    split by cell (see `splitting`). Rows that say the same are in one part: an undecided copy of a row that has a part
    follows it, and copies among the undecided stay together.

    Args:
        validation_share: of the undecided rows, 0 to 0.9.
        seed: another one draws other rows.
        note: what is worth remembering about it; an equal version that is there already keeps its own.

    Raises:
        NotFound: the data set is not there (any more).
        BadTrainingFile: nothing would be left to train on.
        FabulaError: the share is out of bounds.
        StorageFull: no room; nothing is kept.
    """
    with store.reading() as session:  # the long part, while others write
        dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise NotFound(msg("This data set no longer exists."), msg("Choose another one."))
        chosen = _chosen(session, dataset, validation_share, seed)
        counted = Counter(part for _id, part in chosen)
        if not counted["train"]:
            raise BadTrainingFile(
                msg("No rows would be left to train on."), msg("Generate or load rows that are not held out.")
            )
        sha256 = _sha256(_examples(session, dataset, chosen))
    with store.session() as session:  # all or nothing: half a version would be a wrong one
        advisory_lock(session, "dataset_versions")
        alike = select(DatasetVersion.id).where(
            DatasetVersion.dataset_id == dataset_id, DatasetVersion.sha256 == sha256
        )
        if (twin := session.scalar(alike)) is not None:
            return twin
        last = select(func.max(DatasetVersion.number)).where(DatasetVersion.dataset_id == dataset_id)
        version = DatasetVersion(
            id=new_id(),
            dataset_id=dataset_id,
            number=(session.scalar(last) or 0) + 1,
            note=storable(note.strip())[:_LONGEST_NOTE],
            sha256=sha256,
            settings={"validation_share": validation_share, "seed": seed, "held_out": counted["held_out"]},
            n_train=counted["train"],
            n_validation=counted["validation"],
            created_by=actor.id,
        )
        session.add(version)
        session.flush()
        version.sha256 = _write(session, dataset, chosen, version.id)  # another one, if a row has just been edited
        return version.id


def list_versions(store: Store, dataset_id: str) -> list[Version]:
    """All versions of a data set, the newest first."""
    query = select(DatasetVersion).where(DatasetVersion.dataset_id == dataset_id)
    with store.reading() as session:
        return [_view(version) for version in session.scalars(query.order_by(DatasetVersion.number.desc()))]


def get(store: Store, version_id: str) -> Version:
    """One version.

    Raises:
        NotFound: it is not there (any more).
    """
    with store.reading() as session:
        version = session.get(DatasetVersion, version_id)
        if version is None:
            raise NotFound(msg("This version no longer exists."), msg("Choose another one."))
        return _view(version)


def examples(store: Store, version_id: str, split: Split = "train") -> VersionExamples:
    """The examples of one part, to be gone through as often as needed."""
    return VersionExamples(store, version_id, split)


def _chosen(session: Session, dataset: Dataset, share: float, seed: int) -> _Chosen:
    """Every finished row with its part, in the order of the data set."""
    query = select(Row.id, Row.key, Row.column_values, Row.text, Row.split)
    query = query.where(Row.dataset_id == dataset.id, Row.state == "done").order_by(Row.position, Row.id)
    chosen: _Chosen = []
    free = list[_Free]()
    decided: dict[str, Split] = {}
    for place, (id_, key, values, text, part) in enumerate(session.execute(query.execution_options(yield_per=CHUNK))):
        says = _said(datasets.prompt_of(dataset, values), text or "")
        chosen.append((id_, part or "train"))
        if part is None:
            free.append(_Free(place, key, cell_of(dataset, key, values), label_of(text or ""), says))
        else:
            decided[says] = max(decided.get(says, part), part, key=_KEPT_AWAY.index)
    for row in free:
        chosen[row.place] = (chosen[row.place][0], decided.get(row.says, "train"))
    free = [row for row in free if row.says not in decided]
    strata = splitting.strata([row.cell for row in free], [row.label for row in free])
    keys, says_of = [row.key for row in free], [row.says for row in free]
    for row, keep in zip(free, splitting.split(keys, strata, share=share, seed=seed, alike=says_of), strict=True):
        if keep:
            chosen[row.place] = (chosen[row.place][0], "validation")
    return chosen


class _Free(NamedTuple):
    """A row that nobody has given a part: where it stands, and what decides about it."""

    place: int
    key: str
    cell: tuple[str, ...]
    label: str
    says: str


def _said(prompt: str, text: str) -> str:
    """The same for two rows that say the same: a longer text, whatever it was asked by; a label, for one prompt."""
    bare = text.strip()
    return label_of(f"{prompt}\x1f{bare}") if len(bare) <= _LONGEST_LABEL else label_of(bare)


def cell_of(dataset: Dataset, key: str, values: dict[str, Any]) -> tuple[str, ...]:
    """The cell of a row; of a mix, each part has cells of its own."""
    cell = tuple(str(values.get(column, "")) for column in dataset.columns)
    return (key.split(":")[0], *cell) if dataset.source == "mix" else cell


def label_of(text: str) -> str:
    """What stands for a completion where rows are grouped by it: itself where it is short, else a hash."""
    return text if len(text) <= _LONGEST_LABEL else hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _examples(session: Session, dataset: Dataset, chosen: _Chosen) -> Iterator[dict[str, Any]]:
    """The rows as a version keeps them, in order, a few at a time."""
    for start in range(0, len(chosen), CHUNK):
        part = dict(chosen[start : start + CHUNK])
        query = select(Row.id, Row.key, Row.column_values, Row.text).where(Row.id.in_(list(part)))
        found = {row.id: row for row in session.execute(query)}
        for position, id_ in enumerate(part, start):
            row = found[id_]
            yield {
                "split": part[id_],
                "row_key": row.key,
                "column_values": row.column_values,
                "prompt": datasets.prompt_of(dataset, row.column_values),
                "completion": row.text or "",
                "position": position,
            }


def _sha256(found: Iterable[dict[str, Any]]) -> str:
    made = hashlib.sha256()
    for example in found:
        made.update(_canonical(example))
    return made.hexdigest()


def _canonical(example: dict[str, Any]) -> bytes:
    return json.dumps(list(example.values()), ensure_ascii=False, sort_keys=True).encode()


def _write(session: Session, dataset: Dataset, chosen: _Chosen, version_id: str) -> str:
    """Put the examples into the ledger; their SHA-256."""
    made, waiting = hashlib.sha256(), list[dict[str, Any]]()
    for example in _examples(session, dataset, chosen):
        made.update(_canonical(example))
        waiting.append({"version_id": version_id, **example})
        if len(waiting) == CHUNK:
            _insert(session, waiting)
            waiting = []
    _insert(session, waiting)
    return made.hexdigest()


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
