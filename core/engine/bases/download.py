"""Downloads the files of a model: continues after a cut, checks every checksum, and asks for free space first."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx2

from core.engine.bases import hub, machine
from core.engine.bases.hub import RemoteFile, RemoteModel
from core.engine.formats.unusable_model import UnusableModel
from core.message import msg

_TRIES = 5  # without a new byte in between
_PAUSE_S = 1.0  # doubled after every try
_TIMEOUT_S = 60.0
_BLOCK = 1 << 20
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})

Progress = Callable[[int, int], None]


def download(model: RemoteModel, repo: str, folder: Path, on_progress: Progress) -> None:
    """Download all files of `model` into `folder`; complete ones are skipped.

    Args:
        on_progress: called with the bytes that are there and the bytes of all files.

    Raises:
        UnusableModel: no memory or disk for it, the hub refuses it, the line is cut, or a checksum is wrong.
        OSError: the disk is full all the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for file in model.files)
    there = sum(_local_bytes(folder, file) for file in model.files)
    machine.check_memory(model.weight_bytes, machine.memory_bytes())
    converted = model.weight_bytes if any(file.path.endswith(".safetensors") for file in model.files) else 0
    machine.check_disk(total - there + converted, folder)
    with httpx2.Client(timeout=_TIMEOUT_S, follow_redirects=True) as client:
        for file in model.files:
            target = folder / file.path
            if target.exists():
                continue
            others = sum(_local_bytes(folder, other) for other in model.files if other != file)
            _one(client, model, repo, file, target, _added_to(others, total, on_progress))


def _added_to(others: int, total: int, on_progress: Progress) -> Callable[[int], None]:
    """Progress of all files from that of one file."""
    return lambda done: on_progress(others + done, total)


def _local_bytes(folder: Path, file: RemoteFile) -> int:
    """Bytes of a file that are there, complete or not."""
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
    """Download one file, with retries that continue where the last one stopped."""
    partial, tries, pause = _partial(target), 0, _PAUSE_S
    while not partial.exists() or partial.stat().st_size < file.size or not file.size:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            _receive(client, model, repo, file, partial, on_progress)
            if partial.stat().st_size >= file.size:
                break
        except httpx2.HTTPError as exc:
            cause: Exception | None = exc
        else:
            cause = None
        gained = partial.exists() and partial.stat().st_size > before
        tries, pause = (1, _PAUSE_S) if gained else (tries + 1, pause * 2)
        if tries >= _TRIES:
            raise UnusableModel(
                "download_cut",
                msg("The download of {name} was cut off.", name=file.path),
                msg("Check the network, then try again: it continues where it stopped."),
            ) from cause
        time.sleep(pause)
    _check(file, partial)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, target)


def _receive(
    client: httpx2.Client,
    model: RemoteModel,
    repo: str,
    file: RemoteFile,
    partial: Path,
    on_progress: Callable[[int], None],
) -> None:
    """One request, for what is missing of a file."""
    start = partial.stat().st_size if partial.exists() else 0
    headers = {**model.headers, **_range(start), "accept-encoding": "identity"}
    with client.stream("GET", file.url, headers=headers) as response:
        if response.status_code in (401, 403):
            raise hub.gated(repo, model.gated_at or file.url.partition("/resolve/")[0])
        if response.status_code in _RETRIED:
            raise httpx2.RemoteProtocolError(f"status {response.status_code}")
        if not response.is_success:
            raise hub.refused(response.status_code)
        continues = response.status_code == 206
        with partial.open("ab" if continues else "wb") as out:
            for block in response.iter_raw():
                out.write(block)
                on_progress(out.tell())


def _range(start: int) -> Mapping[str, str]:
    return {"range": f"bytes={start}-"} if start else {}


def _check(file: RemoteFile, partial: Path) -> None:
    """Raise UnusableModel for a wrong checksum or length; the file is deleted, so a retry starts at its beginning."""
    size = partial.stat().st_size
    expected = file.sha256 or file.git_oid
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with partial.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    if (expected and digest.hexdigest() != expected) or (file.size and size != file.size):
        partial.unlink()
        raise UnusableModel(
            "wrong_checksum",
            msg("The downloaded file {name} is damaged: its checksum is not the hub's.", name=file.path),
            msg("Try again. If it happens again, the mirror or proxy changes the file: use another one."),
        )
