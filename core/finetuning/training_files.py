"""Writes training files from a data set or a version. Rows are streamed (read twice), never all in memory."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.datasets import datasets, export
from core.db.store import Store
from core.errors import BadTrainingFile, NotFound, StorageFull
from core.finetuning.job_views import JobView
from core.message import msg


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """A file ready for upload.

    Attributes:
        sha256: of the file, hexadecimal.
        separator, stop: end of prompts and of completions; None for the chat format.
        validation: the validation file; None: the version has no validation examples.
    """

    path: Path
    sha256: str
    n_examples: int
    separator: str | None
    stop: str | None
    validation: Path | None = None


def write(store: Store, job: JobView, folder: Path) -> TrainingFile:
    """Write the job's training data as JSONL into `folder`. The same rows give the same bytes.

    Raises:
        NotFound: the data set does not exist.
        BadTrainingFile: it has no finished rows, or they changed while being read.
        StorageFull: the disk is full.
    """
    if job.dataset_id is None:
        raise NotFound(msg("The job has no data set."), msg("Choose a data set and submit again."))
    selection = export.Selection(store, job.dataset_id, job.version_id)
    if next(iter(selection.examples()), None) is None:
        datasets.summary(store, job.dataset_id)
        raise BadTrainingFile(
            msg("The data set has no finished rows to train on."), msg("Generate or load some first.")
        )
    if job.file_format == "chat":
        plan = export.plan(selection, "chat")
    else:
        plan = export.plan(selection, separator=job.separator, stop=job.stop)
    path, validation_path = folder / f"fabula-{job.id}.jsonl", folder / f"fabula-{job.id}-validation.jsonl"
    sha256, count = _write(path, export.jsonl_lines(selection, plan))
    _sha256, n_validation = _write(validation_path, export.jsonl_lines(selection, plan, "validation"))
    return TrainingFile(path, sha256, count, plan.separator, plan.stop, validation_path if n_validation else None)


def _write(path: Path, lines: Iterable[str]) -> tuple[str, int]:
    """Write the lines to `path`. Returns their SHA-256 and number."""
    digest, count = hashlib.sha256(), 0
    try:
        with path.open("wb") as file:
            for line in lines:
                content = line.encode()
                digest.update(content)
                file.write(content)
                count += 1
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise StorageFull(
            msg("The training file can't be written: {reason}.", reason=os.strerror(exc.errno)),
            msg("Free some space in the folder for temporary files. The job then continues."),
        ) from exc
    return digest.hexdigest(), count
