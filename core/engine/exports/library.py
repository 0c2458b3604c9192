"""The exports in the engine's home directory: create, list, delete. Each has a folder with its record.

Each export is written by its own process (`make`), one after another and only on idle processor time.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from core.engine import child_processes, job_rules
from core.engine.bases import machine
from core.engine.exports import quantise, record
from core.engine.exports.record import ACTIVE, ExportRecord, ExportSpec
from core.engine.formats.unusable_model import UnusableModel
from core.engine.store import new_id
from core.message import msg

_log = logging.getLogger(__name__)
_ID = re.compile(r"export-[A-Za-z0-9]{1,40}")


class ExportLibrary:
    """The exports in one engine's home directory. Methods may be called from any thread.

    Attributes:
        root: the folder that holds them.
    """

    def __init__(self, home: Path, environ: Mapping[str, str], threads: int) -> None:
        self.root, self._threads = home / "exports", threads
        self._is_idle = job_rules.trainer_priority(environ) == "idle"
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._turn = threading.Lock()  # one at a time: each needs memory for a model
        self._stopping = False

    def start(self) -> None:
        """Start the exports over that an earlier engine left unfinished, and delete remains."""
        for folder in self.root.iterdir():
            found = record.read(folder)
            if found is None:  # killed before the record was written
                shutil.rmtree(folder, ignore_errors=True)
            elif found.state in ACTIVE:
                self._begin(found.id)

    def stop(self) -> None:
        """Stop all processes; unfinished exports start over at the next start."""
        with self._lock:
            self._stopping = True
            running = list(self._running.values())
        for process in running:
            process.kill()
            process.wait()

    def records(self) -> list[ExportRecord]:
        """All exports, oldest first."""
        found = [one for folder in self.root.iterdir() if (one := record.read(folder)) is not None]
        return sorted(found, key=lambda one: (one.created, one.id))

    def get(self, export_id: str) -> ExportRecord | None:
        """Return one export; None if there is none with this id."""
        return record.read(self.root / export_id) if _ID.fullmatch(export_id) else None

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

    def remove(self, export_id: str) -> None:
        """Cancel an export, or delete its files. Raises KeyError if there is no such export."""
        with self._lock:
            if self.get(export_id) is None:
                raise KeyError(export_id)
            process = self._running.pop(export_id, None)
            if process is not None:
                process.kill()
                process.wait()
            shutil.rmtree(self.root / export_id)

    def _begin(self, export_id: str) -> None:
        threading.Thread(target=self._make, args=(export_id,), name=export_id, daemon=True).start()

    def _make(self, export_id: str) -> None:
        """Run the process for one export, and mark it as failed if the process ends without a result."""
        folder = self.root / export_id
        with self._turn:
            with self._lock:
                wanted = self.get(export_id)
                if self._stopping or export_id in self._running or wanted is None or wanted.state not in ACTIVE:
                    return
                process = self._running[export_id] = self._start(folder)
            process.wait()
            with self._lock:
                ours = self._running.pop(export_id, None) is process
                found = self.get(export_id)
                if not ours or self._stopping or found is None or found.state not in ACTIVE:
                    return
                _log.error("%s ended with code %s; see %s", export_id, process.returncode, folder / "make.log")
                shutil.rmtree(folder / record.PARTIAL, ignore_errors=True)
                error = UnusableModel(
                    "export_died",
                    msg("The export ended unexpectedly (code {code}).", code=process.returncode),
                    msg("Try again; if it fails again, memory may be too small. The engine's home has its log."),
                )
                record.write(folder, replace(found, state="failed", error=error.message, error_code=error.code))

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        with (folder / "make.log").open("ab") as log:
            process = subprocess.Popen(
                child_processes.command("core.engine.exports.make", str(folder), str(os.getpid()), str(self._threads)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**child_processes.environment(), "OMP_WAIT_POLICY": "PASSIVE"},
                process_group=0,
            )
        if self._is_idle:
            child_processes.set_idle_priority(process.pid)
        return process


def _same(one: ExportSpec, other: ExportSpec) -> bool:
    return (one.model, one.form) == (other.model, other.form)
