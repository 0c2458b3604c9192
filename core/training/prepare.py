"""From a data set to a training file."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from core.dataset import datasets, jsonl
from core.db.store import Store
from core.errors import BadTrainingFile, NotFound, StorageFull
from core.training.views import JobView


@dataclass(frozen=True, slots=True)
class TrainingFile:
    """A file ready for upload.

    Attributes:
        sha256: of its bytes, hexadecimal.
        separator, stop: what prompts and completions end with; None in the chat format.
    """

    path: Path
    sha256: str
    n_examples: int
    separator: str | None
    stop: str | None


def write(store: Store, job: JobView, folder: Path) -> TrainingFile:
    """Write the finished rows of the job's data set as JSONL into `folder`. The same rows give the same bytes.

    Raises:
        NotFound: the data set is not there any more.
        BadTrainingFile: it has no finished rows.
        StorageFull: there is no room for the file.
    """
    if job.dataset_id is None:
        raise NotFound("The job has no data set.", "Choose a data set and submit again.")
    examples = datasets.examples(store, job.dataset_id)
    if not examples:
        raise BadTrainingFile("The data set has no finished rows to train on.", "Generate or load some first.")
    if job.file_format == "chat":
        prepared = jsonl.prepare_chat(examples)
    else:
        prepared = jsonl.prepare(examples, separator=job.separator, stop=job.stop)
    content = "".join(f"{line}\n" for line in prepared.lines).encode()
    path = folder / f"fabula-{job.id}.jsonl"
    try:
        path.write_bytes(content)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise StorageFull(
            f"The training file cannot be written: {os.strerror(exc.errno)}.",
            "Free some space in the folder for temporary files; the job then goes on.",
        ) from exc
    return TrainingFile(
        path, hashlib.sha256(content).hexdigest(), len(prepared.lines), prepared.separator, prepared.stop
    )
