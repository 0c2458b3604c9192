"""`python -m core.engine.bases.prepare FOLDER ENGINE_PID`downloads, converts and checks one base model.

The process writes its progress to the folder's record, which the engine reads. Every step can be repeated: a download
resumes where it stopped, and a conversion starts over. The process exits when the engine exits.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from core.engine import child_processes
from core.engine.bases import check, description, download, hub, llama_probe, machine, record
from core.engine.bases.record import BaseRecord, State
from core.engine.formats import folder_converter, gguf_file, hf_folder
from core.engine.formats.base_config import UntrainableModel
from core.engine.formats.unusable_model import UnusableModel
from core.engine.job_rules import CONTEXT, context_limit
from core.engine.serving import chat
from core.message import msg

GGUF = "model.gguf"
_PROGRESS_S = 0.5  # how often progress is written
_PER_MILLE = 1000


class Preparation:
    """The preparation of one record's base model."""

    def __init__(self, folder: Path, threads: int) -> None:
        found = record.read(folder)
        if found is None:
            raise SystemExit(f"there is no record in {folder}")
        self.folder, self.record, self._threads, self._written_at = folder, found, threads, 0.0

    def run(self) -> None:
        """Run all steps; afterwards the record is `ready` or `failed`."""
        try:
            self._steps()
            self._save(replace(self.record, state="ready", done=0, total=0, error="", error_code=""))
        except UnusableModel as exc:
            self._save(replace(self.record, state="failed", error=exc.message, error_code=exc.code))
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = UnusableModel(
                "disk_full",
                msg("The disk of the engine's home is full."),
                msg("Free some space, then try again: a download continues where it stopped."),
            )
            self._save(replace(self.record, state="failed", error=message.message, error_code=message.code))

    def _steps(self) -> None:
        if self.record.repo:
            self._download()
        if self.record.folder:
            self._convert()
        self._state("checking")
        card = gguf_file.model_card(Path(self.record.gguf))
        self._save(replace(self.record, chat=chat.format_for(card) is not None))
        with llama_probe.loaded(Path(self.record.gguf), self._threads) as probe:
            if self.record.folder:
                check.check_tokenizer(probe, Path(self.record.folder))
                self._save(replace(self.record, not_trainable=self._not_trainable(probe)))

    def _download(self) -> None:
        """Download the model, and determine whether it is a GGUF file or a folder."""
        self._state("downloading")
        folder = Path(self.record.path)
        remote = hub.look_up(self.record.source, self.record.repo, self.record.revision)
        self._save(
            replace(
                self.record,
                revision=remote.revision,
                licence=remote.licence,
                no_checksum=not remote.has_checksums,
            )
        )
        download.download(remote, self.record.repo, folder, self._update)
        if files := sorted(folder.glob("*.gguf")):
            described = description.describe_file(self.record, files[0], context_limit(os.environ))
            self._save(replace(described, licence=remote.licence or described.licence))
        else:
            source = hf_folder.open_folder(folder)
            self._save(description.describe_folder(self.record, source, context_limit(os.environ)))

    def _convert(self) -> None:
        """Write the GGUF file that is served."""
        source, target = hf_folder.open_folder(Path(self.record.folder)), self.folder / GGUF
        machine.check_disk(2 * source.parameters, self.folder)
        self._state("converting", total=_PER_MILLE)
        keys = folder_converter.convert(source, target, lambda share: self._update(int(share * _PER_MILLE), _PER_MILLE))
        values = keys.values
        self._save(
            replace(
                self.record,
                gguf=str(target),
                architecture=keys.architecture,
                layers=values["block_count"],
                width=values["embedding_length"],
                key_width=keys.key_width,
                context=min(self.record.context, values["context_length"]),
            )
        )

    def _not_trainable(self, probe: llama_probe.LlamaProbe) -> str:
        """Why the trainer cannot use the folder; "" if it can."""
        if machine.training_bytes(self.record.shape(CONTEXT)) > machine.memory_bytes():
            return ""  # it cannot be compared here; jobs that would run on this machine are refused
        try:
            check.check_training(probe, Path(self.record.folder), self._threads)
        except UntrainableModel as exc:
            return str(exc)
        return ""

    def _state(self, state: State, total: int = 0) -> None:
        self._save(replace(self.record, state=state, done=0, total=total))

    def _update(self, done: int, total: int) -> None:
        """Record progress; written to disk at most twice per second."""
        self.record = replace(self.record, done=done, total=total)
        if time.monotonic() - self._written_at >= _PROGRESS_S:
            self._save(self.record)

    def _save(self, changed: BaseRecord) -> None:
        self.record, self._written_at = changed, time.monotonic()
        record.write(self.folder, changed)


def main(arguments: list[str]) -> None:
    """Prepare the base in the folder `arguments[0]` for the engine with the process id `arguments[1]`."""
    folder, engine_pid, threads = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    child_processes.exit_with(engine_pid)
    Preparation(folder, threads).run()


if __name__ == "__main__":
    main(sys.argv[1:])
