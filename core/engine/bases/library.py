"""The library of base models in the engine's home directory: add, list, remove. Each base has a folder with its record.

The user's own files and folders stay where they are; the home directory holds converted files and downloads. Each base
is prepared by its own process (`prepare`); only a few run at the same time.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from core.engine import child_processes
from core.engine.bases import description, hub_request, record
from core.engine.bases.record import ACTIVE, BaseRecord, Source
from core.engine.formats import hf_folder
from core.engine.formats.unusable_model import UnusableModel
from core.engine.job_rules import context_limit
from core.engine.recorded_work import RecordedWork
from core.message import msg

_COMMIT_CHARS = 7  # git's usual abbreviation
_AT_ONCE = 2  # a download and a conversion; more would compete for the same processor cores and network connection
DOWNLOAD = "files"
"""Name of the subfolder for a download in its base's folder."""
ROOTS = "FABULA_ENGINE_BASE_FOLDERS"
"""Environment variable with the folders (separated as in PATH) from which bases may be added; any folder if unset."""


class IdTaken(ValueError):
    """Another model has this id."""


class AlreadyAdded(ValueError):
    """The model is in the library under another name or at another revision; `param` is the field that differs."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.message, self.param = message, param


class BaseLibrary(RecordedWork[BaseRecord]):
    """The base models in one engine's home directory.

    Attributes:
        context_limit: maximum tokens per request, for models whose context window is at least that large.
    """

    active = ACTIVE
    ids = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
    log_name = "prepare.log"

    def __init__(self, home: Path, environ: Mapping[str, str], threads: int) -> None:
        """Raises ValueError if FABULA_ENGINE_CONTEXT is malformed."""
        self.context_limit = context_limit(environ)
        super().__init__(home / "bases", at_once=_AT_ONCE)
        self._environ, self._threads = environ, threads
        self.roots = [Path(part).resolve() for part in environ.get(ROOTS, "").split(os.pathsep) if part]
        # two requests for one model must create a single record; acquired before `_lock`
        self._adding = threading.Lock()

    def ready(self) -> dict[str, BaseRecord]:
        """The bases that can be used, by id."""
        return {one.id: one for one in self.records() if one.state == "ready"}

    def disk_bytes(self, base_id: str) -> int:
        """Bytes that a base uses in the engine's home directory. Files that disappear during the scan are not
        counted.
        """
        total = 0
        for folder, _, names in os.walk(self.root / base_id):  # if a folder disappears, the walk skips it
            for name in names:
                with contextlib.suppress(OSError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def add_path(self, raw: str, base_id: str | None, taken: frozenset[str]) -> BaseRecord:
        """Add the user's GGUF file or folder, and prepare it in the background.

        Args:
            taken: ids of other models.

        Raises:
            UnusableModel: the path cannot be used.
            AlreadyAdded: it is in the library under another id.
            IdTaken: another model has this id.
        """
        path = self._checked_path(raw)
        source: Source = "folder" if path.is_dir() else "file"
        with self._adding:
            known = next((one for one in self.records() if (one.source, one.path) == (source, str(path))), None)
            if known is not None:
                return self._again(known, base_id)
            name = base_id or _id_from(path.name if source == "folder" else path.stem)
            draft = BaseRecord(self._free_id(name, taken), source, str(path), int(time.time()))
            return self._add(_described(draft, path, self.context_limit))

    def add_repo(
        self, source: Source, repo: str, revision: str, base_id: str | None, taken: frozenset[str]
    ) -> BaseRecord:
        """Download a model from a hub in the background, then prepare it; a second request returns the first one.

        Raises:
            UnusableModel: `repo` is neither a name such as `Qwen/Qwen3-0.6B` nor a URL of the hub.
            AlreadyAdded: it is in the library under another id, or at another revision and no id is given for this one.
            IdTaken: another model has this id.
        """
        wanted = hub_request.hub_model(source, repo, revision, self._environ)
        with self._adding:
            known = [one for one in self.records() if one.source == source and _same_name(one.repo, wanted.repo)]
            for one in known:
                if _is_at(one, wanted.revision):
                    return self._again(one, base_id)
            if known and base_id is None:
                raise _at_another_revision(known[0])
            name = self._free_id(base_id or _id_from(wanted.repo.rpartition("/")[2]), taken)
            return self._add(
                BaseRecord(
                    name, source, str(self.root / name / DOWNLOAD), int(time.time()), repo=wanted.repo,
                    revision=wanted.revision, asked_revision=wanted.revision,
                )
            )  # fmt: skip

    def _again(self, known: BaseRecord, base_id: str | None) -> BaseRecord:
        """Return the existing record when a model is added again."""
        if base_id not in (None, known.id):
            raise AlreadyAdded(
                msg(
                    "{origin} was already added as {id}. Use that name, or remove it first.",
                    origin=known.repo or known.path, id=known.id,
                ),
                "id",
            )  # fmt: skip
        return self.retry(known.id)

    def retry(self, base_id: str) -> BaseRecord:
        """Restart a failed base's preparation; return other bases unchanged. Raises KeyError if the id is unknown."""
        with self._lock:
            found = self.get(base_id)
            if found is None:
                raise KeyError(base_id)
            if found.state != "failed":
                return found
            found = replace(found, state="waiting", error="", error_code="", done=0, total=0)
            record.write(self.root / base_id, found)
        self._begin(base_id)
        return found

    def _checked_path(self, raw: str) -> Path:
        path = Path(raw).expanduser()
        if not path.is_absolute():
            raise UnusableModel(
                "relative_path",
                msg("{path} is not a full path.", path=raw),
                msg("Enter the full path, beginning with /."),
            )
        path = path.resolve()
        if self.roots and not any(path.is_relative_to(root) for root in self.roots):
            raise UnusableModel(
                "path_not_allowed",
                msg("Base models may only be added from {folders}.", folders=", ".join(map(str, self.roots))),
                msg("Copy the model there, or change {setting} and restart.", setting=ROOTS),
            )
        try:
            exists = path.is_file() or path.is_dir()  # reading a pipe or device would never end
            readable = exists and os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK)
        except PermissionError as exc:
            raise hf_folder.not_readable(path) from exc
        if not exists:
            raise _no_such_path(path)
        if not readable:
            raise hf_folder.not_readable(path)
        return path

    def _free_id(self, base_id: str, taken: frozenset[str]) -> str:
        if not self.ids.fullmatch(base_id):
            raise UnusableModel(
                "bad_id",
                msg("{id} cannot be a model's name.", id=repr(base_id)),
                msg("Use 1 to 64 letters (a-z), digits, dots, hyphens or underscores."),
            )
        if base_id in taken or (self.root / base_id).exists():
            raise IdTaken(base_id)
        return base_id

    def _add(self, one: BaseRecord) -> BaseRecord:
        with self._lock:
            try:
                (self.root / one.id).mkdir()
            except FileExistsError as exc:
                raise IdTaken(one.id) from exc
            record.write(self.root / one.id, one)
        self._begin(one.id)
        return one

    def _read(self, folder: Path) -> BaseRecord | None:
        return record.read(folder)

    def _start_process(self, folder: Path) -> subprocess.Popen[bytes]:
        return child_processes.start(
            folder / self.log_name, "core.engine.bases.prepare", str(folder), str(os.getpid()), str(self._threads),
            **hub_request.environment(self._environ),
        )  # fmt: skip

    def _fail(self, folder: Path, found: BaseRecord, code: int) -> None:
        error = UnusableModel(
            "preparation_died",
            msg("The preparation ended unexpectedly (code {code}).", code=code),
            msg("Try again; if it fails again, memory may be too small. The engine's home has its log."),
        )
        record.write(folder, replace(found, state="failed", error=error.message, error_code=error.code))


def _at_another_revision(known: BaseRecord) -> AlreadyAdded:
    revision = known.asked_revision or known.revision or hub_request.default_revision(known.source)
    return AlreadyAdded(
        msg(
            "{repo} was already added as {id}, at revision {revision}. Choose another name for this revision.",
            repo=known.repo,
            id=known.id,
            revision=revision,
        ),
        "revision",
    )


def _described(draft: BaseRecord, path: Path, limit: int) -> BaseRecord:
    """Fill in the draft with the figures of the file or folder."""
    try:
        if draft.source == "folder":
            return description.describe_folder(draft, hf_folder.open_folder(path), limit)
        return description.describe_file(draft, path, limit)
    except FileNotFoundError as exc:  # it was moved in the meantime
        raise _no_such_path(Path(exc.filename or path)) from exc
    except OSError as exc:
        raise UnusableModel(
            "not_readable",
            msg("{name} cannot be read: {reason}.", name=exc.filename or path, reason=exc.strerror or exc),
            msg("Check the disk, or copy the model to another one."),
        ) from exc


def _no_such_path(path: Path) -> UnusableModel:
    return UnusableModel(
        "no_such_path",
        msg("There is no file or folder {path} on the engine's machine.", path=path),
        msg("Check the spelling; the path is on the machine where the engine runs."),
    )


def _same_name(one: str, other: str) -> bool:
    """Compare ignoring case, because hubs' model names are case-insensitive."""
    return one.lower() == other.lower()


def _is_at(one: BaseRecord, revision: str) -> bool:
    """Whether a base is at a requested revision, given by the same name or by its commit."""
    commit = len(revision) >= _COMMIT_CHARS and one.revision.startswith(revision)
    return revision == one.asked_revision or commit


def _id_from(name: str) -> str:
    """Derive an id from the name of a file, folder or repository."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:64] or "model"
