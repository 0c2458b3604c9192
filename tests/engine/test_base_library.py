"""The set of base models: one record per model, whoever asks for it and however often, and reads while files go."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine.bases import description, record
from core.engine.bases.library import AlreadyAdded, BaseLibrary, IdTaken
from core.engine.bases.record import BaseRecord
from core.engine.formats.unusable_model import UnusableModel
from tests.support.tiny_folders import FAMILIES
from tests.support.tiny_models import TinyModel
from tests.support.waiting import at_once

_REPO, _COMMIT = "tiny/model", "c" * 40
_MEET_S = 0.5  # how long a thread waits for another one at the same place


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the bases whose preparation was started; no process is."""
    started: list[str] = []
    monkeypatch.setattr(BaseLibrary, "_begin", lambda _, base_id: started.append(base_id))
    return started


@pytest.fixture
def library(tmp_path: Path, begun: list[str]) -> BaseLibrary:
    return BaseLibrary(tmp_path / "home", {}, 1)


def _add(
    library: BaseLibrary, repo: str = _REPO, revision: str = "", base_id: str | None = None, **_: Any
) -> BaseRecord:
    return library.add_repo("huggingface", repo, revision, base_id, frozenset())


def _meet_after_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that look for a known record wait for each other, so that none has added one when the others look."""
    records, meeting = BaseLibrary.records, threading.Barrier(2)

    def looked(library: BaseLibrary) -> list[BaseRecord]:
        found = records(library)
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(_MEET_S)
        return found

    monkeypatch.setattr(BaseLibrary, "records", looked)


def test_two_requests_for_a_repository_at_once_are_one_record_and_one_download(
    library: BaseLibrary, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _meet_after_looking(patch)
        first, second = at_once(2, lambda: _add(library))
    assert first == second
    assert begun == ["model"]
    assert [one.id for one in library.records()] == ["model"]


def test_two_requests_for_a_file_at_once_are_one_record(
    library: BaseLibrary, begun: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = TinyModel("qwen3").write(tmp_path / "tiny.gguf")
    with monkeypatch.context() as patch:
        _meet_after_looking(patch)
        first, second = at_once(2, lambda: library.add_path(str(path), None, frozenset()))
    assert first == second
    assert begun == ["tiny"]


@pytest.mark.parametrize("repo", [_REPO, "Tiny/Model", "https://huggingface.co/tiny/model/tree/main"])
def test_another_spelling_of_a_repository_is_the_same_model(repo: str, library: BaseLibrary, begun: list[str]) -> None:
    assert _add(library, repo) == _add(library)
    assert len(begun) == 1


@pytest.mark.parametrize(
    ("first", "second", "param"),
    [
        ({}, {"base_id": "other"}, "id"),
        ({"base_id": "one"}, {"base_id": "other"}, "id"),
        ({}, {"revision": "v1"}, "revision"),
        ({"revision": "v1"}, {"revision": "v2"}, "revision"),
        ({"revision": "v1"}, {}, "revision"),
        ({}, {"repo": "https://huggingface.co/tiny/model/tree/v1"}, "revision"),
    ],
)
def test_another_name_or_revision_of_a_known_model_is_never_ignored(
    first: dict[str, str], second: dict[str, str], param: str, library: BaseLibrary, begun: list[str]
) -> None:
    known = _add(library, **first)
    with pytest.raises(AlreadyAdded) as refused:
        _add(library, **second)
    assert refused.value.param == param
    assert known.id in refused.value.message
    assert len(begun) == 1


def test_another_revision_under_its_own_name_is_another_model(library: BaseLibrary, begun: list[str]) -> None:
    _add(library)
    tagged = _add(library, revision="v1", base_id="tagged")
    assert (tagged.id, tagged.revision) == ("tagged", "v1")
    assert begun == ["model", "tagged"]
    with pytest.raises(IdTaken):
        _add(library, revision="v2", base_id="tagged")


def test_the_commit_of_a_known_model_is_that_model(library: BaseLibrary) -> None:
    known = replace(_add(library), state="ready", revision=_COMMIT)
    record.write(library.root / known.id, known)
    assert _add(library, revision=_COMMIT) == known
    assert _add(library, revision=_COMMIT[:10]) == known
    assert _add(library) == known


def test_another_name_for_a_known_file_is_refused(library: BaseLibrary, tmp_path: Path) -> None:
    path = str(TinyModel("qwen3").write(tmp_path / "tiny.gguf"))
    known = library.add_path(path, None, frozenset())
    with pytest.raises(AlreadyAdded) as refused:
        library.add_path(path, "other", frozenset())
    assert refused.value.param == "id"
    assert library.add_path(path, "tiny", frozenset()) == known


def test_disk_use_is_told_while_files_and_folders_disappear(
    library: BaseLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = library.root / _add(library).id
    (folder / "files").mkdir()
    for name in ("one.part", "files/two", "three"):
        (folder / name).write_bytes(bytes(1000))
    kept = library.disk_bytes("model") - 2000
    real = os.lstat

    def vanishing(path: Any, **options: Any) -> os.stat_result:
        """As `os.lstat`, after a download has renamed its file, and another request has removed a folder."""
        (folder / "one.part").unlink(missing_ok=True)
        shutil.rmtree(folder / "files", ignore_errors=True)
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", vanishing)
    monkeypatch.setattr(Path, "stat", lambda path, **options: vanishing(path))
    assert library.disk_bytes("model") == kept
    assert library.disk_bytes("never there") == 0


def test_two_removals_at_once_are_one(library: BaseLibrary) -> None:
    _add(library)

    def remove() -> str:
        try:
            library.remove("model")
        except KeyError:
            return "there is none"
        return "removed"

    assert sorted(at_once(2, remove)) == ["removed", "there is none"]
    with pytest.raises(KeyError):
        library.retry("model")


@pytest.mark.parametrize(
    ("error", "code"),
    [(FileNotFoundError(2, "gone"), "no_such_path"), (OSError(5, "Input/output error"), "not_readable")],
)
def test_a_model_that_disappears_or_fails_while_it_is_read_is_refused(
    error: OSError, code: str, library: BaseLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = FAMILIES["llama3"].write(tmp_path / "folder")

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(description, "describe_folder", fails)
    with pytest.raises(UnusableModel) as refused:
        library.add_path(str(folder), None, frozenset())
    assert refused.value.code == code
    assert refused.value.next_step
    assert not library.records()
