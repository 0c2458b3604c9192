"""Finds out what the files of a folder are: the ZIP file that Fabula writes, or downloads of any names. Tolerant.

Downloads are recognised by their content: job objects, events and checkpoints as an API sends them (one, a list, or
one a line), training files by their first line, results by their header, plain or base64. A job finds its files by the
id in their names, otherwise in its own folder if there is only one there. A training file without a job is a data set.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.errors import BadRequest, Refused
from core.finetuning.results import plain_text
from core.message import msg
from core.migrate import remote_objects
from core.migrate.folder_entries import Entry
from core.migrate.remote_objects import NO_JOB, Object

_MANIFEST: Final = "manifest.json"  # as `core.migrate.zip_file` writes it
_MAX_JSON_BYTES = 64_000_000  # job objects, events; a list of 10,000 jobs has about 20 MB
_HEAD_BYTES = 1_000_000  # of a training file, which is recognised by its first line
_MAX_RESULTS_BYTES = 64_000_000
_TRAINING, _RESULTS = "fine-tune", "fine-tune-results"
_ROW_KEYS = ({"messages"}, {"prompt", "completion"}, {"input", "preferred_output"}, {"conversations"}, {"text"})
_MAX_ID = 150


@dataclass(slots=True)
class FolderContents:
    """What is in a folder, as an API would list it.

    Attributes:
        jobs, events, checkpoints: objects as the API sent them; events and checkpoints by job, the newest first.
        files: file objects.
        entries: where each file's bytes are, by its id.
        ignored: names of files that are none of these.
    """

    jobs: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, list[Object]] = field(default_factory=dict)
    checkpoints: dict[str, list[Object]] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)


def read(entries: Sequence[Entry]) -> FolderContents:
    """Recognise all files of a folder."""
    contents = FolderContents()
    rest = _read_archives(contents, entries)
    loose = _Loose(contents)
    for entry in rest:
        loose.add(entry)
    loose.finish()
    return contents


# --- archives that Fabula wrote ---------------------------------------------------------------------------------------


def _read_archives(contents: FolderContents, entries: Sequence[Entry]) -> list[Entry]:
    """Take the archives with a manifest. Returns the other files."""
    rest = list(entries)
    for entry in entries:
        manifest = _json(entry) if entry.base_name == _MANIFEST else None
        if isinstance(manifest, Mapping) and isinstance(manifest.get("files"), list) and "tunes" in manifest:
            prefix = f"{entry.folder}/" if entry.folder else ""
            inside = {one.name.removeprefix(prefix): one for one in rest if one.name.startswith(prefix)}
            rest = [one for one in rest if not one.name.startswith(prefix)]
            _read_archive(contents, manifest, inside)
    return rest


def _read_archive(contents: FolderContents, manifest: Mapping[str, Any], inside: Mapping[str, Entry]) -> None:
    for one in _objects(manifest["files"]):
        entry = inside.get(str(one.get("path")))
        if entry is not None and one.get("id"):
            name = str(one.get("name") or entry.base_name)
            _add_file(contents, str(one["id"]), entry, str(one.get("purpose") or _TRAINING), name)
    for name, entry in inside.items():
        if name.startswith("jobs/") and entry.base_name == "job.json":
            job = _json(entry)
            if isinstance(job, Mapping) and isinstance(job.get("id"), str):
                _add_job(contents, job)
                folder = name.removesuffix("job.json")
                for held, part in ((contents.events, "events"), (contents.checkpoints, "checkpoints")):
                    lines = inside.get(f"{folder}{part}.jsonl")
                    held[job["id"]] = [] if lines is None else list(reversed(_lines(lines)))


# --- downloads of any names -------------------------------------------------------------------------------------------


class _Loose:
    """Collects files that no manifest describes."""

    def __init__(self, contents: FolderContents) -> None:
        self._contents = contents
        self._jobs: list[tuple[dict[str, Any], str]] = []  # with their folders
        self._objects: list[tuple[Object, Entry]] = []  # events and checkpoints
        self._named: dict[str, str] = {}  # file ids by the names that file objects give
        self._files: dict[str, list[Entry]] = {_TRAINING: [], _RESULTS: []}
        self._empty: list[Entry] = []  # of which only a job can say what they are

    def add(self, entry: Entry) -> None:
        """Take one file."""
        if not entry.size:
            self._empty.append(entry)
            return
        try:
            kind, objects = _recognise(entry)
        except (BadRequest, Refused):  # damaged, or not readable
            kind, objects = None, ()
        if kind is not None:
            self._files[kind].append(entry)
        elif not objects:
            self._contents.ignored.append(entry.name)
        for one in objects:
            if one.get("object") == "file" and one.get("id"):
                self._named[str(one.get("filename"))] = str(one["id"])
            elif _is_job(one):
                self._jobs.append((dict(one), entry.folder))
            else:
                self._objects.append((one, entry))

    def finish(self) -> None:
        """Find the files of each job; training files that no job has become jobs of their own."""
        contents = self._contents
        folders = [folder for _job, folder in self._jobs]
        for job, folder in self._jobs:
            alone = folders.count(folder) == 1
            named = [str(job[name]) for name in ("training_file", "validation_file") if job.get(name)]
            for file_id in named:
                self._take(file_id, _TRAINING, folder, alone=alone and len(named) == 1)
            results = remote_objects.texts(job.get("result_files"))
            for file_id in results:
                self._take(file_id, _RESULTS, folder, alone=alone and len(results) == 1)
            _add_job(contents, job)
        self._add_details({str(job["id"]): folder for job, folder in self._jobs}, folders)
        for entry in self._files[_TRAINING]:
            self._add_data(entry)
        contents.ignored += [entry.name for entry in (*self._files[_RESULTS], *self._empty)]

    def _take(self, file_id: str, kind: str, folder: str, *, alone: bool) -> None:
        """Give a job's file its bytes, if they are here."""
        waiting = self._files[kind]
        wanted = {name for name, one in self._named.items() if one == file_id}
        found = [one for one in waiting if file_id in one.name or one.base_name in wanted]
        if not found and alone:
            near = [one for one in waiting if one.folder == folder]
            found = near if len(near) == 1 else []
        if not found:
            waiting = self._empty
            found = [one for one in waiting if file_id in one.name or one.base_name in wanted]
        if found and file_id not in self._contents.entries:
            waiting.remove(found[0])
            _add_file(self._contents, file_id, found[0], kind, found[0].base_name)

    def _add_details(self, jobs: Mapping[str, str], folders: Sequence[str]) -> None:
        """Events and checkpoints by their job: checkpoints name it; for events it is in the path, or alone there."""
        held: dict[str, dict[str, list[Object]]] = {"events": defaultdict(list), "checkpoints": defaultdict(list)}
        for one, entry in self._objects:
            job_id = str(one.get("fine_tuning_job_id") or "")
            if job_id not in jobs:
                near = [found for found, folder in jobs.items() if folder == entry.folder]
                in_path = [found for found in jobs if found in entry.name]
                job_id = (in_path or (near if len(near) == 1 else [""]))[0]
            if job_id:
                held["checkpoints" if "step_number" in one else "events"][job_id].append(one)
        for name, target in (("events", self._contents.events), ("checkpoints", self._contents.checkpoints)):
            for job_id, found in held[name].items():
                target[job_id] = sorted(found, key=_time, reverse=True)

    def _add_data(self, entry: Entry) -> None:
        """A training file without a job: a data set; with the only results in its folder, also a curve."""
        file_id = _id_of(entry)
        _add_file(self._contents, file_id, entry, _TRAINING, entry.base_name)
        near = [one for one in self._files[_RESULTS] if one.folder == entry.folder]
        alone = sum(one.folder == entry.folder for one in self._files[_TRAINING]) == 1
        results = near if alone and len(near) == 1 else []
        for one in results:
            self._files[_RESULTS].remove(one)
            _add_file(self._contents, _id_of(one), one, _RESULTS, one.base_name)
        job = {
            "id": f"data:{file_id}"[:_MAX_ID],
            "object": "fine_tuning.job",
            "status": "succeeded" if results else NO_JOB,
            "training_file": file_id,
            "result_files": [_id_of(one) for one in results],
            "created_at": entry.modified,
            "finished_at": entry.modified if results else None,
        }
        _add_job(self._contents, job)


def _recognise(entry: Entry) -> tuple[str | None, Sequence[Object]]:
    """The purpose of a training or results file, or the API objects in a file; neither for any other file."""
    head = entry.read(_HEAD_BYTES)
    first = _first_line(head)
    parsed = _parsed(first)
    if isinstance(parsed, Mapping) and any(keys <= parsed.keys() for keys in _ROW_KEYS):
        return _TRAINING, ()
    if _is_results(entry, head):
        return _RESULTS, ()
    if head.lstrip()[:1] in (b"{", b"["):
        found = _json(entry)
        listed = found.get("data") if isinstance(found, Mapping) and isinstance(found.get("data"), list) else found
        many = listed if isinstance(listed, list) else [found] if isinstance(found, Mapping) else _lines(entry)
        return None, [one for one in _objects(many) if _is_job(one) or _is_detail(one) or one.get("object") == "file"]
    return None, ()


def _is_results(entry: Entry, head: bytes) -> bool:
    """Whether a file has the header of a results file, plain or in base64."""
    if not head or entry.size > _MAX_RESULTS_BYTES or b"\0" in head:
        return False
    text = head.decode("utf-8-sig", "replace")
    if len(head) < entry.size:
        text = text[: len(text) // 4 * 4] if "," not in text[:4_000] else text
    names = {name.strip().strip('"').lower() for name in plain_text(text).split("\n", 1)[0].split(",")}
    return "step" in names and len(names) > 1


def _is_job(one: Object) -> bool:
    return isinstance(one.get("id"), str) and (
        one.get("object") == "fine_tuning.job" or {"training_file", "model", "status"} <= one.keys()
    )


def _is_detail(one: Object) -> bool:
    return one.get("object") in ("fine_tuning.job.event", "fine_tuning.job.checkpoint") or (
        "step_number" in one and "fine_tuned_model_checkpoint" in one
    )


# --- parts ------------------------------------------------------------------------------------------------------------


def _add_job(contents: FolderContents, job: Mapping[str, Any]) -> None:
    if not any(one["id"] == job["id"] for one in contents.jobs):
        contents.jobs.append(dict(job))


def _add_file(contents: FolderContents, file_id: str, entry: Entry, purpose: str, name: str) -> None:
    if file_id in contents.entries:
        return
    contents.entries[file_id] = entry
    contents.files.append(
        {
            "id": file_id,
            "object": "file",
            "purpose": purpose,
            "filename": name,
            "bytes": entry.size,
            "created_at": entry.modified,
        }
    )


def _time(one: Object) -> float:
    """When an object was made, in Unix seconds; 0 if unknown."""
    at = remote_objects.moment(one.get("created_at"))
    return 0.0 if at is None else at.timestamp()


def _id_of(entry: Entry) -> str:
    """An id for a file that has none: its name, or the end of a long one."""
    return entry.name[-_MAX_ID:]


def _first_line(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    return next((line for line in text.splitlines() if line.strip()), "")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _json(entry: Entry) -> Any:
    """A whole JSON file; None if it is too large or no JSON."""
    if entry.size > _MAX_JSON_BYTES:
        return None
    return _parsed(entry.read(_MAX_JSON_BYTES).decode("utf-8-sig", "replace"))


def _lines(entry: Entry) -> list[Object]:
    """The objects in a file of JSON lines."""
    text = "" if entry.size > _MAX_JSON_BYTES else entry.read(_MAX_JSON_BYTES).decode("utf-8-sig", "replace")
    return list(_objects(_parsed(line) for line in text.split("\n") if line.strip()))


def _objects(values: Iterable[Any]) -> Iterator[Object]:
    return (one for one in values if isinstance(one, Mapping))


def ignored_note(contents: FolderContents) -> str | None:
    """Which files are left out; None if there are none."""
    names = contents.ignored
    if not names:
        return None
    return msg(
        "Files left out, because they can't be read, or are no jobs, training files or results: {n} ({names}).",
        n=f"{len(names):,}",
        names=", ".join(names[:5]) + (", …" if len(names) > 5 else ""),
    )
