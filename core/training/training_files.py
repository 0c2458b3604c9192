"""From a data set, or one of its versions, to training files. Rows are read twice, and never held all at once."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.dataset import datasets, export
from core.db.store import Store
from core.errors import BadTrainingFile, NotFound, StorageFull
from core.message import msg
from core.training.job_views import JobView


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """A file ready for upload.

    Attributes:
        sha256: of its bytes, hexadecimal.
        separator, stop: what prompts and completions end with; None in the chat format.
        validation: the file with the validation examples of the version; None: there are none.
    """

    path: Path
    sha256: str
    n_examples: int
    separator: str | None
    stop: str | None
    validation: Path | None = None


def write(store: Store, job: JobView, folder: Path) -> TrainingFile:
    """Write what the job learns from as JSONL into `folder`. The same rows give the same bytes.

    Raises:
        NotFound: the data set is not there any more.
        BadTrainingFile: it has no finished rows, or they changed meanwhile.
        StorageFull: there is no room for the file.
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
        made = export.plan(selection, "chat")
    else:
        made = export.plan(selection, separator=job.separator, stop=job.stop)
    path, kept_back = folder / f"fabula-{job.id}.jsonl", folder / f"fabula-{job.id}-validation.jsonl"
    sha256, count = _write(path, export.jsonl_lines(selection, made))
    _sha256, n_validation = _write(kept_back, export.jsonl_lines(selection, made, "validation"))
    return TrainingFile(path, sha256, count, made.separator, made.stop, kept_back if n_validation else None)


def _write(path: Path, lines: Iterable[str]) -> tuple[str, int]:
    """SHA-256 and number of the lines, written to `path`."""
    made, count = hashlib.sha256(), 0
    try:
        with path.open("wb") as file:
            for line in lines:
                content = line.encode()
                made.update(content)
                file.write(content)
                count += 1
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise StorageFull(
            msg("The training file cannot be written: {reason}.", reason=os.strerror(exc.errno)),
            msg("Free some space in the folder for temporary files; the job then continues."),
        ) from exc
    return made.hexdigest(), count
