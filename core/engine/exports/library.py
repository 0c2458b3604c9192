"""The exports in the engine's home directory: create, list, delete. Each has a folder with its record.

Each export is written by its own process (`make`), one after another and only on idle processor time.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from core.engine import child_processes, job_rules
from core.engine.bases import machine
from core.engine.exports import quantise, record
from core.engine.exports.record import ACTIVE, ExportRecord, ExportSpec
from core.engine.formats.unusable_model import UnusableModel
from core.engine.recorded_work import RecordedWork
from core.engine.store import new_id
from core.message import msg

_log = logging.getLogger(__name__)


class ExportLibrary(RecordedWork[ExportRecord]):
    """The exports in one engine's home directory. Each needs memory for a model, so one is written at a time."""

    active = ACTIVE
    ids = re.compile(r"export-[A-Za-z0-9]{1,40}")
    log_name = "make.log"

    def __init__(self, home: Path, environ: Mapping[str, str], threads: int) -> None:
        super().__init__(home / "exports", at_once=1)
        self._threads = threads
        self._is_idle = job_rules.trainer_priority(environ) == "idle"

    def start(self) -> None:
        """Start the exports over that an earlier engine left unfinished, and delete remains.

        A folder whose record can't be read is kept: its files may be a finished export.
        """
        for folder in self.root.iterdir():
            if not (folder / record.FILE).exists() and not (folder / record.FILES).exists():
                shutil.rmtree(folder, ignore_errors=True)  # killed before the record was written
            elif self._read(folder) is None:
                _log.error("The record of the export in %s can't be read. The folder is kept.", folder)
        super().start()

    def file(self, export: ExportRecord, name: str) -> Path | None:
        """Path of a finished file; None if the export has none with this name."""
        return self.root / export.id / record.FILES / name if name in dict(export.files) else None

    def add(self, spec: ExportSpec, adapter: Path, estimate: int) -> ExportRecord:
        """Export a model in the background. If it was already exported in this form, return that export; one that
        failed starts over.

        Args:
            adapter: is copied, so that the model may be deleted meanwhile.

        Raises:
            UnusableModel: there is not enough space, or this machine can't write the form.
            OSError: the adapter is missing, or the disk is full.
        """
        quantise.check_available(spec.form)
        with self._lock:
            known = next((one for one in self.records() if _same(one.spec, spec)), None)
            if known is not None and known.state != "failed":
                return known
            machine.check_disk(estimate, self.root)
            export_id = known.id if known is not None else new_id("export")
            folder = self.root / export_id
            folder.mkdir(exist_ok=True)
            shutil.copyfile(adapter, folder / record.ADAPTER)
            found = ExportRecord(export_id, spec, int(time.time()), estimate)
            record.write(folder, found)
        self._begin(export_id)
        return found

    def _read(self, folder: Path) -> ExportRecord | None:
        return record.read(folder)

    def _start_process(self, folder: Path) -> subprocess.Popen[bytes]:
        process = child_processes.start(
            folder / self.log_name, "core.engine.exports.make", str(folder), str(os.getpid()), str(self._threads),
            **child_processes.PASSIVE_THREADS,
        )  # fmt: skip
        if self._is_idle:
            child_processes.set_idle_priority(process.pid)
        return process

    def _fail(self, folder: Path, found: ExportRecord, code: int) -> None:
        shutil.rmtree(folder / record.PARTIAL, ignore_errors=True)
        error = UnusableModel(
            "export_died",
            msg("The export ended unexpectedly (code {code}).", code=code),
            msg("Try again; if it fails again, memory may be too small. The engine's home has its log."),
        )
        record.write(folder, replace(found, state="failed", error=error.message, error_code=error.code))


def _same(one: ExportSpec, other: ExportSpec) -> bool:
    return (one.model, one.form) == (other.model, other.form)
