"""Downloads a model's files: checks for free space first, resumes after an interruption, and verifies sizes and
checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2

from core.engine.bases import description, hub, machine
from core.engine.bases.hub import RemoteFile, RemoteModel
from core.engine.formats import hf_folder
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_TRIES = 5  # consecutive attempts without receiving a new byte
_PAUSE_S = 1.0  # doubled after each attempt
_TIMEOUT_S = 60.0
_BLOCK = 1 << 20
_NO_SUCH_RANGE = 416
_RETRIED = frozenset({408, _NO_SUCH_RANGE, 429, 500, 502, 503, 504})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_CHANGED = msg("Try again. If it happens again, the mirror or proxy is altering the file: use a different one.")

Progress = Callable[[int, int], None]


def download(model: RemoteModel, repo: str, folder: Path, on_progress: Progress) -> None:
    """Download all files of `model` into `folder`; complete files are not downloaded again.

    Args:
        on_progress: called with the number of bytes downloaded and the total for all files.

    Raises:
        UnusableModel: there is not enough memory or disk space, the hub refuses the request, the connection is lost, or
            a file does not match the hub's size or checksum.
        OSError: the disk became full despite the check.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(file.size or 0 for file in model.files)
    there = sum(_local_bytes(folder, file) for file in model.files)
    machine.check_memory(model.weight_bytes, machine.memory_bytes())
    converted = model.weight_bytes if any(file.path.endswith(".safetensors") for file in model.files) else 0
    machine.check_disk(total - there + converted, folder)
    with httpx2.Client(timeout=_TIMEOUT_S, follow_redirects=True) as client:
        for file in model.files:
            target = folder / file.path
            if target.exists():
                if _fault(file, target) is None:
                    continue
                target.unlink()  # damaged in the meantime, or the hub now has a different file
            others = sum(_local_bytes(folder, other) for other in model.files if other != file)
            _one(client, model, repo, file, target, _added_to(others, total, on_progress))


def _added_to(others: int, total: int, on_progress: Progress) -> Callable[[int], None]:
    """Convert one file's progress to the progress of the whole download."""
    return lambda done: on_progress(others + done, total)


def _local_bytes(folder: Path, file: RemoteFile) -> int:
    """Bytes of a file that have been downloaded so far."""
    for path in (folder / file.path, _partial(folder / file.path)):
        if path.exists():
            return path.stat().st_size
    return 0


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _one(
    client: httpx2.Client,
    model: RemoteModel,
    repo: str,
    file: RemoteFile,
    target: Path,
    on_progress: Callable[[int], None],
) -> None:
    """Download one file, with retries that resume where the previous attempt stopped."""
    partial, tries, pause = _partial(target), 0, _PAUSE_S
    if file.size is None or _size(partial) > file.size:
        partial.unlink(missing_ok=True)  # it may not be the start of this file
    while file.size is None or not partial.exists() or _size(partial) < file.size:
        before = _size(partial)
        try:
            _receive(client, model, repo, file, partial, on_progress)
            if file.size is None or _size(partial) >= file.size:
                break
        except httpx2.HTTPError as exc:
            cause: Exception | None = exc
        else:
            cause = None
        tries, pause = (1, _PAUSE_S) if _size(partial) > before else (tries + 1, pause * 2)
        if tries >= _TRIES:
            raise UnusableModel(
                "download_cut",
                msg("The download of {name} was interrupted.", name=file.path),
                msg("Check the network, then try again: it continues where it stopped."),
            ) from cause
        time.sleep(pause)
    if (fault := _fault(file, partial)) is not None:
        partial.unlink()  # so that a retry starts from the beginning
        raise fault
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, target)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(
    client: httpx2.Client,
    model: RemoteModel,
    repo: str,
    file: RemoteFile,
    partial: Path,
    on_progress: Callable[[int], None],
) -> None:
    """Request and store the missing part of a file."""
    start = _size(partial) if file.size is not None else 0
    headers = {**model.headers, **_range(start), "accept-encoding": "identity"}
    with client.stream("GET", file.url, headers=headers) as response:
        if response.status_code in (401, 403):
            raise hub.gated(repo, model.gated_at or file.url.partition("/resolve/")[0])
        if response.status_code in _RETRIED:
            if response.status_code == _NO_SUCH_RANGE:
                partial.unlink(missing_ok=True)
            raise httpx2.RemoteProtocolError(f"status {response.status_code}")
        if not response.is_success:
            raise hub.refused(response.status_code)
        continues = response.status_code == 206
        announced = _announced_size(response, start if continues else 0)
        if file.size is not None and announced not in (None, file.size):
            partial.unlink(missing_ok=True)
            raise _wrong_size(file, announced)
        with partial.open("ab" if continues else "wb") as out:
            for block in response.iter_raw():
                out.write(block)
                # a response that is too long must not fill the disk
                if file.size is not None and out.tell() > file.size:
                    partial.unlink()
                    raise _wrong_size(file, msg("more"))
                on_progress(out.tell())


def _range(start: int) -> Mapping[str, str]:
    return {"range": f"bytes={start}-"} if start else {}


def _announced_size(response: httpx2.Response, start: int) -> int | None:
    """The size of the whole file according to a response that starts at byte `start`; None if the response does not
    state it.

    Raises:
        RemoteProtocolError: the response starts at a different byte.
    """
    if (found := _CONTENT_RANGE.match(response.headers.get("content-range", ""))) is not None:
        if int(found[1]) != start:
            raise httpx2.RemoteProtocolError(f"asked for byte {start}, got byte {found[1]}")
        return int(found[2]) if found[2] != "*" else None
    length = response.headers.get("content-length", "")
    return start + int(length) if length.isdecimal() else None


def _fault(file: RemoteFile, path: Path) -> UnusableModel | None:
    """What is wrong with a downloaded file, or None if it matches the hub's data.

    Without a checksum, the size is compared if known, and weights and JSON files must be complete.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return _wrong_size(file, size)
    if not file.has_checksum:
        return None if _is_complete(file.path, path) else _incomplete(file)
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() == (file.sha256 or file.git_oid):
        return None
    return UnusableModel(
        "wrong_checksum",
        msg("The downloaded file {name} is damaged: its checksum does not match the hub's.", name=file.path),
        _CHANGED,
    )


def _is_complete(name: str, path: Path) -> bool:
    """Whether a file is complete, as far as its type can be checked."""
    try:
        if name.endswith(".safetensors"):
            hf_folder.check_weights(path)
        elif name.endswith(".gguf"):
            description.check_file(path)
        elif name.endswith(".json"):
            json.loads(path.read_text(encoding="utf-8"))
    except (UnusableModel, ValueError, RecursionError):
        return False
    return True


def _incomplete(file: RemoteFile) -> UnusableModel:
    return UnusableModel(
        "incomplete_download",
        msg("The downloaded file {name} is incomplete, and the hub has no checksum for it.", name=file.path),
        _CHANGED,
    )


def _wrong_size(file: RemoteFile, actual: object) -> UnusableModel:
    return UnusableModel(
        "wrong_size",
        msg("The hub announced {expected} bytes for {name}, but sent {actual}.",
            expected=file.size, name=file.path, actual=actual),
        _CHANGED,
    )  # fmt: skip
