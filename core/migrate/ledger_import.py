"""Makes data sets, versions and jobs of what is archived, each once, and says what is missing.

A data set and the mark that it was made are one transaction, and so are a job and its mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Final, NamedTuple

import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.actor import Actor, on_behalf_of
from core.datasets import conversation_rows, datasets, versions
from core.datasets.importers import column_mapping, conversation_lines, table_reader
from core.db.tables import AccountArchive, ArchivedFile, ArchivedTune
from core.errors import BadFile, BadTrainingFile
from core.finetuning.job_views import FINISHED
from core.message import msg, sentences
from core.migrate import completions, job_import, remote_objects
from core.migrate.calls import Calls
from core.migrate.workspace import Workspace

_SPLIT: Final = "split"
_TRAINABLE: Final = ("supervised", "dpo")  # whose rows have an answer to learn
_Contents = tuple[str | None, ...]  # SHA-256 of the training file, and of the validation file if there is one


def take(calls: Calls, workspace: Workspace) -> None:
    """Settle every tuned model whose files are settled.

    Raises:
        Stopped: the work should stop.
        StorageFull: the disk is full; nothing is lost.
    """
    with calls.store.reading() as session:
        account = session.get_one(AccountArchive, calls.archive_id)
        ids = session.scalars(
            select(ArchivedTune.id)
            .where(
                ArchivedTune.archive_id == calls.archive_id,
                ArchivedTune.state == "found",
                ArchivedTune.details_stored.is_(True),
            )
            .order_by(ArchivedTune.created_at, ArchivedTune.id)  # a model before those trained further from it
        ).all()
    importer = _Import(calls, workspace, account)
    for tune_id in ids:
        calls.check()
        importer.settle(tune_id)


class _Made(NamedTuple):
    """What was made of files: a data set, its version, and the number of rows to train on."""

    dataset_id: str
    version_id: str | None
    rows: int | None


@dataclass(slots=True)
class _Import:
    """The import of one account."""

    calls: Calls
    workspace: Workspace
    account: AccountArchive
    made: dict[_Contents, _Made] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up which data sets were made earlier, by the contents of their files."""
        of_account = ArchivedFile.archive_id == self.account.id
        hashes = select(ArchivedFile.remote_id, ArchivedFile.sha256).where(of_account, ArchivedFile.state == "stored")
        tunes = select(
            ArchivedTune.training_file,
            ArchivedTune.validation_file,
            ArchivedTune.dataset_id,
            ArchivedTune.version_id,
            ArchivedTune.trained_rows,
        ).where(ArchivedTune.archive_id == self.account.id, ArchivedTune.dataset_id.is_not(None))
        with self.calls.store.reading() as session:
            by_id = {file_id: sha256 for file_id, sha256 in session.execute(hashes)}
            for training, validation, dataset_id, version_id, rows in session.execute(tunes):
                contents = tuple(by_id[one] for one in (training, validation) if one in by_id)
                self.made[contents] = _Made(str(dataset_id), version_id, rows)

    def settle(self, tune_id: int) -> None:
        """Make what can be made of one tuned model, and record it."""
        store = self.calls.store
        with store.reading() as session:
            tune = session.get_one(ArchivedTune, tune_id)
            files = _files_by_id(session, tune)
        problems: list[str] = []
        if tune.dataset_id is None:
            problems += self._make_dataset(tune, files)
        problems += [
            msg("{file} is missing: no curve.", file=files[one].filename)
            for one in tune.result_files
            if files[one].state != "stored"
        ]
        with store.session() as session:
            tune = session.get_one(ArchivedTune, tune_id)
            if tune.job_id is None:
                tune.job_id = job_import.find(session, self.account, tune)
            if tune.job_id is None and tune.status in FINISHED:
                tune.job_id = job_import.make(session, self.workspace, self.account, tune, files)
            elif tune.job_id is None and tune.status != remote_objects.NO_JOB:
                problems.append(
                    msg("The job has not ended ({status}). List and archive again when it has.", status=tune.status)
                )
            tune.state = "archived" if tune.dataset_id is None else "data"
            tune.reason = sentences(*problems) if problems else None

    @property
    def _actor(self) -> Actor:
        return on_behalf_of(self.account.created_by)

    # --- data sets ---

    def _make_dataset(self, tune: ArchivedTune, files: Mapping[str, ArchivedFile]) -> list[str]:
        """Make a data set of the training and validation file, or find the one of the same files. Returns problems."""
        training = files.get(tune.training_file or "")
        validation = files.get(tune.validation_file or "")
        lost: list[str] = []
        if training is None or training.state != "stored":
            lost, training, validation = [_lost_training(tune, training)], completions.stored_of(files, tune), None
            if training is None:
                return lost
            lost.append(msg("The data set has the model's stored chat completions instead."))
        elif tune.method not in _TRAINABLE:
            return [
                msg(
                    "Fabula can't repeat training by “{method}”. Its files and its job are archived.",
                    method=tune.method,
                )
            ]
        if validation is not None and validation.state != "stored":
            lost.append(msg("{file} is missing: the data set has no validation rows.", file=validation.filename))
            validation = None
        contents = tuple(one.sha256 for one in (training, validation) if one is not None)
        if contents in self.made:
            self._link(tune.id, self.made[contents])
            return lost
        try:
            frame, source, mapping, notes = self._read(training, validation)
            self.made[contents] = self._save(tune, training, frame, source, mapping)
        except (BadFile, BadTrainingFile) as exc:
            return [*lost, sentences(msg("{file} is archived, but is no data set.", file=training.filename), exc.what)]
        return [*lost, *notes]

    def _read(
        self, training: ArchivedFile, validation: ArchivedFile | None
    ) -> tuple[pd.DataFrame, Any, column_mapping.ColumnMapping, list[str]]:
        """The rows of both files as one table, and what was left out. With a validation file, the table has a split;
        without one, later jobs may keep rows from training.
        """
        stored = [one for one in (training, validation) if one is not None]
        if conversation_lines.needed([self.workspace.file(one.remote_id) for one in stored]):
            return self._read_conversations(training, validation)
        parts, notes = list[tuple[pd.DataFrame, str]](), list[str]()
        chat = True
        for file, split in ((training, "train"), (validation, "validation")):
            if file is None:
                continue
            imported = table_reader.read_table(self.workspace.file(file.remote_id), file.filename)
            chat = chat and imported.source == table_reader.CHAT
            if imported.cut_short is not None:
                notes.append(imported.cut_short)
            if imported.left_out:
                notes.append(
                    msg("{file}: rows that can't be used: {rows}.", file=file.filename, rows=f"{imported.left_out:,}")
                )
            parts.append((imported.frame, split))
        mapping = replace(column_mapping.guess(parts[0][0]), split=None if validation is None else _SPLIT)
        if validation is not None:
            parts = [(part.assign(**{_SPLIT: split}), split) for part, split in parts]
        frame = pd.concat([part for part, _split in parts], ignore_index=True).fillna("")
        for column in (*mapping.prompts, mapping.completion):
            if column not in frame:
                raise BadFile(msg("There is no column {column}.", column=repr(column)), "")
        return frame, (table_reader.CHAT if chat else "upload"), mapping, notes

    def _read_conversations(
        self, training: ArchivedFile, validation: ArchivedFile | None
    ) -> tuple[pd.DataFrame, Any, column_mapping.ColumnMapping, list[str]]:
        """The rows of both files as conversations with all their messages and tools; see `_read`."""
        parts, notes = list[pd.DataFrame](), list[str]()
        for file, split in ((training, "train"), (validation, "validation")):
            if file is None:
                continue
            found = conversation_lines.read(self.workspace.file(file.remote_id), file.filename)
            left_out = msg("{file}: rows that can't be used: {rows}.", file=file.filename, rows=f"{found.left_out:,}")
            rewritten = msg(
                "{file}: rows with `functions` were rewritten to `tools`: {rows}.",
                file=file.filename,
                rows=f"{found.rewritten:,}",
            )
            notes += [found.cut_short] if found.cut_short is not None else []
            notes += [sentences(left_out, found.first)] if found.left_out else []
            notes += [rewritten] if found.rewritten else []
            parts.append(found.frame if validation is None else found.frame.assign(**{_SPLIT: split}))
        frame = pd.concat(parts, ignore_index=True).fillna("")
        mapping = column_mapping.ColumnMapping(
            (conversation_rows.COLUMN,), conversation_lines.COMPLETION, None if validation is None else _SPLIT
        )
        return frame, table_reader.CHAT, mapping, notes

    def _save(
        self,
        tune: ArchivedTune,
        training: ArchivedFile,
        frame: pd.DataFrame,
        source: Any,
        mapping: column_mapping.ColumnMapping,
    ) -> _Made:
        store, actor = self.calls.store, self._actor
        with store.session():  # one transaction: a data set without its mark would be made twice
            columns = [str(column) for column in frame.columns]
            dataset_id = datasets.from_frame(
                store,
                actor,
                _dataset_name(tune, training),
                frame,
                mapping.prompts,
                mapping.completion,
                source,
                split_column=mapping.split,
                other_columns=mapping.others(columns),
                separator=mapping.separator,
                rejected_column=mapping.rejected,
                private=True,
            )
            if system := column_mapping.shared_system(frame, mapping):
                datasets.set_system_message(store, actor, dataset_id, system)
            version_id = versions.freeze(store, actor, dataset_id, note=_origin(self.account, training))
            made = _Made(dataset_id, version_id, versions.get(store, version_id).n_train)
            self._link(tune.id, made)
        return made

    def _link(self, tune_id: int, made: _Made) -> None:
        with self.calls.store.session() as session:
            tune = session.get_one(ArchivedTune, tune_id)
            tune.dataset_id, tune.version_id, tune.trained_rows = made.dataset_id, made.version_id, made.rows


def _files_by_id(session: Session, tune: ArchivedTune) -> dict[str, ArchivedFile]:
    own = completions.file_id(tune.model) if tune.model else None
    named = [one for one in (tune.training_file, tune.validation_file, *tune.result_files, own) if one]
    mine = (ArchivedFile.archive_id == tune.archive_id, ArchivedFile.remote_id.in_(named))
    return {file.remote_id: file for file in session.scalars(select(ArchivedFile).where(*mine))}


def _lost_training(tune: ArchivedTune, training: ArchivedFile | None) -> str:
    """The training file is lost: what can still be done."""
    name = training.filename if training is not None else (tune.training_file or "?")
    if tune.model is None:
        return msg("The training file {file} is missing, and the job made no model.", file=name)
    if tune.dark_on is None:
        return msg(
            "The training file {file} is missing. While {model} still answers, write a new data set with it.",
            file=name,
            model=tune.model,
        )
    return msg(
        "The training file {file} is missing. {model} answers until {day}: write a new data set with it before.",
        file=name,
        model=tune.model,
        day=tune.dark_on.isoformat(),
    )


def _dataset_name(tune: ArchivedTune, training: ArchivedFile) -> str:
    return PurePath(training.filename).stem or tune.remote_id


def _origin(account: AccountArchive, training: ArchivedFile) -> str:
    return f"{account.name}: {training.remote_id} ({training.filename}), SHA-256 {training.sha256}"
