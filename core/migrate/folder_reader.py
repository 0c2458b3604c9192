"""Reads a folder of downloaded files, or a ZIP file, as if it were an account. See `folder_contents`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from core import file_permissions
from core.errors import NotThere, Refused
from core.message import msg, sentences
from core.migrate import folder_contents, folder_entries
from core.migrate.remote_objects import Object
from core.migrate.workspace import folder_of, storage_errors
from core.providers.account_reader import Page
from core.settings import Settings

_PAGE = 500  # jobs in one transaction
_BLOCK = 1 << 20


class FolderReader:
    """The reader of one folder. Its files are recognised when it is made.

    Raises:
        Misconfigured: the folder is not there, or can't be read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents = folder_contents.read(folder_entries.list_entries(root))

    company = "openai"

    @property
    def usage_note(self) -> str:
        """Why usage is unknown, and which files are left out."""
        ignored = folder_contents.ignored_note(self._contents)
        unknown = msg("A folder has no usage.")
        return unknown if ignored is None else sentences(unknown, ignored)

    def jobs(self, after: str | None = None, limit: int = _PAGE) -> Page:
        """A page of jobs.

        Raises:
            Refused: the folder is not there any more.
        """
        if not self._root.exists():
            raise Refused(
                msg("The folder {path} is not there any more.", path=self._root),
                msg("What is archived is safe. Put the folder back, then continue."),
            )
        jobs = self._contents.jobs
        begin = next((n for n, one in enumerate(jobs, 1) if one["id"] == after), 0)
        page = jobs[begin : begin + limit]
        return Page(tuple(page), str(page[-1]["id"]) if begin + limit < len(jobs) else None)

    def events(self, job_id: str, after: str | None = None) -> Page:
        """A job's events, newest first."""
        return Page(tuple(self._contents.events.get(job_id, ())), None)

    def checkpoints(self, job_id: str, after: str | None = None) -> Page:
        """A job's checkpoints, newest first."""
        return Page(tuple(self._contents.checkpoints.get(job_id, ())), None)

    def files(self, after: str | None = None) -> Page:
        """All files that belong to fine-tuning."""
        return Page(tuple(self._contents.files), None)

    def models(self) -> tuple[Object, ...]:
        """A folder has no list of models."""
        return ()

    def completions(self, model: str, after: str | None = None) -> Page:
        """A folder has no list of stored completions."""
        return Page((), None)

    def completion_messages(self, completion_id: str, after: str | None = None) -> Page:
        """A folder has none."""
        return Page((), None)

    def download(self, file_id: str, write: Callable[[bytes], object], start: int = 0) -> None:
        """Pass a file's content to `write`, block by block. It is never cut off, so `start` is 0.

        Raises:
            NotThere: it is not in the folder.
            BadRequest, Refused: it can't be read.
        """
        entry = self._contents.entries.get(file_id)
        if entry is None:
            raise NotThere(msg("{file} is not in the folder.", file=file_id))
        entry.copy(write)

    def close(self) -> None:
        """There is nothing to close."""


def save_upload(settings: Settings, files: Sequence[tuple[str, BytesIO]]) -> Path:
    """Store uploaded files in a folder of their own, which is the same for the same files. Returns it.

    Raises:
        StorageFull: they can't be stored.
    """
    named = {(name, hashlib.file_digest(_from_start(file), "sha256").hexdigest()): file for name, file in files}
    digest = hashlib.sha256("".join(f"{name}\0{content}\n" for name, content in sorted(named)).encode())
    folder = folder_of(settings) / "uploads" / digest.hexdigest()[:24]
    taken = set[str]()
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for (name, content), file in sorted(named.items(), key=lambda one: one[0]):
            path = folder / _free_name(Path(name).name.lstrip(".") or "file", content, taken)
            part = path.with_name(f".{path.name}.part")
            with open(part, "wb", opener=file_permissions.private_opener) as target:
                _from_start(file)
                while block := file.read(_BLOCK):
                    target.write(block)
            os.replace(part, path)
    return folder


def _free_name(name: str, content: str, taken: set[str]) -> str:
    """A name for an uploaded file; the second one of the same name gets the start of its hash in front of it.

    Upper and lower case count as the same, as on some disks.
    """
    for found in (name, f"{content[:8]} {name}", f"{content} {name}"):
        if found.casefold() not in taken:
            break
    taken.add(found.casefold())
    return found


def _from_start(file: BytesIO) -> BytesIO:
    file.seek(0)
    return file
