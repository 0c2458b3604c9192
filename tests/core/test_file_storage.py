"""Shared files in a folder and in a bucket: the same contract, whole files only, and a sentence for each fault."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core import bucket_storage
from core.bucket_storage import BucketStorage
from core.errors import BadFile, StorageFull
from core.file_storage import MAX_NAME, FileStorage, FolderStorage
from tests.support import s3_server
from tests.support.s3_server import S3Server
from tests.support.waiting import until

_WHEN = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileStorage:
    """An empty storage, once of each kind."""
    if request.param == "folder":
        return FolderStorage(tmp_path / "files")
    return BucketStorage(f"s3://{request.getfixturevalue('bucket')}/a/prefix")


def _content(files: FileStorage, name: str) -> bytes | None:
    found = files.find(name)
    return None if found is None else found.load()


def test_a_file_is_found_replaced_and_deleted(files: FileStorage) -> None:
    assert files.find("prices.csv") is None
    files.unlink("prices.csv")  # nothing to delete
    files.write_bytes("prices.csv", b"one", _WHEN)
    first = files.find("prices.csv")
    assert first is not None and first.load() == b"one" and first.modified == _WHEN
    assert files.find("prices.csv") == first
    files.write_bytes("prices.csv", b"two", datetime(2026, 11, 2, tzinfo=UTC))
    second = files.find("prices.csv")
    assert second is not None and second != first and second.load() == b"two"
    files.write_bytes("more/names.txt", b"")
    assert _content(files, "more/names.txt") == b""
    assert files.find("more") is None  # a folder is no file
    files.unlink("prices.csv")
    assert files.find("prices.csv") is None
    files.reach()


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../prices.csv", "a/../../prices.csv", "a/./b", "/etc/passwd", "//host/share", "a//b", "a/",
        "~/prices.csv", ".hidden", "a/.hidden", "a\\..\\b", "C:\\prices.csv", "s3://other/prices.csv", "a?versionId=1",
        "a#b", "a%2e%2e", "a\x00b", "a\nb", "a b", "prices.csv.part", "字.csv", "a" * (MAX_NAME + 1),
    ],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(files: FileStorage, name: str, tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_bytes(b"outside")
    for act in (lambda: files.find(name), lambda: files.write_bytes(name, b"x"), lambda: files.unlink(name)):
        with pytest.raises(BadFile, match="can't be used as a file name"):
            act()
    assert (tmp_path / "prices.csv").read_bytes() == b"outside"


def test_readers_see_whole_files_only(files: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_storage, "_OLD_S", -1.0)
    versions = [letter * 300_000 for letter in (b"a", b"b")]
    files.write_bytes("prices.csv", versions[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(_content(files, "prices.csv") or b"")

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        files.write_bytes("prices.csv", versions[number % 2])
    done.set()
    reader.join()
    assert seen <= set(versions)


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_written_file_is_private_and_leaves_nothing_else(tmp_path: Path) -> None:
    FolderStorage(tmp_path / "home").write_bytes("prices.csv", b"x")
    [path] = (tmp_path / "home").iterdir()
    assert path.name == "prices.csv" and stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("number", "what", "next_step"),
    [(errno.ENOSPC, "No space left", "Free some space"), (errno.EACCES, "Permission denied", "write permission")],
)
def test_a_failed_write_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str, next_step: str
) -> None:
    files = FolderStorage(tmp_path)
    files.write_bytes("prices.csv", b"earlier")

    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageFull) as caught:
        files.write_bytes("prices.csv", b"later")
    assert what in caught.value.what and "unchanged" in caught.value.next_step and next_step in caught.value.next_step
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("prices.csv", b"earlier")]


def test_a_shared_folder_that_is_not_mounted_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    files = FolderStorage(tmp_path / "mount", shared=True)
    for act in (lambda: files.find("prices.csv"), lambda: files.write_bytes("prices.csv", b"x"), files.reach):
        with pytest.raises(StorageFull, match="does not exist"):
            act()
    assert not (tmp_path / "mount").exists()


# --- a bucket ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read is old immediately."""
    monkeypatch.setattr(bucket_storage, "_OLD_S", -1.0)


def test_what_other_tools_upload_is_read(s3: S3Server, bucket: str) -> None:
    s3.put(f"{bucket}/prices.csv", b"uploaded")
    found = BucketStorage(f"s3://{bucket}").find("prices.csv")
    assert found is not None and found.load() == b"uploaded"
    assert abs((datetime.now(UTC) - found.modified).total_seconds()) < 3600


def test_prefixes_are_apart(bucket: str) -> None:
    one, other = BucketStorage(f"s3://{bucket}/team"), BucketStorage(f"s3://{bucket}/team2")
    one.write_bytes("prices.csv", b"one")
    assert other.find("prices.csv") is None and BucketStorage(f"s3://{bucket}/team/").find("prices.csv") is not None


@pytest.mark.usefixtures("at_once")
def test_another_host_sees_a_change(bucket: str) -> None:
    here, there = BucketStorage(f"s3://{bucket}"), BucketStorage(f"s3://{bucket}")
    assert there.find("prices.csv") is None
    here.write_bytes("prices.csv", b"one")
    assert _content(there, "prices.csv") == b"one"
    here.write_bytes("prices.csv", b"two")
    assert _content(there, "prices.csv") == b"two"
    here.unlink("prices.csv")
    assert there.find("prices.csv") is None


def test_a_change_is_noticed_without_waiting_for_the_network(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = BucketStorage(f"s3://{bucket}"), BucketStorage(f"s3://{bucket}")
    here.write_bytes("prices.csv", b"one")
    assert _content(there, "prices.csv") == b"one"
    here.write_bytes("prices.csv", b"two")
    assert _content(there, "prices.csv") == b"one"  # read a moment ago
    monkeypatch.setattr(bucket_storage, "FRESH_S", -1.0)
    until(lambda: _content(there, "prices.csv") == b"two", "the change is seen")


@pytest.mark.usefixtures("at_once")
def test_while_the_bucket_is_away_the_last_content_stays_in_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = S3Server()
    s3_server.reachable(monkeypatch, server.address)
    url = f"s3://{server.new_bucket()}"
    files = BucketStorage(url)
    files.write_bytes("prices.csv", b"known")
    server.stop()
    with caplog.at_level(logging.WARNING):
        assert _content(files, "prices.csv") == b"known"
    assert "can't be reached" in caplog.text and "stays in use" in caplog.text
    with pytest.raises(StorageFull, match="can't be reached"):  # nothing is known of it: not the same as no file
        files.find("stage_prompts.txt")
    with pytest.raises(StorageFull, match="can't be reached"):
        BucketStorage(url).find("prices.csv")


def _actions(files: BucketStorage) -> Iterator[Any]:
    yield from (lambda: files.find("prices.csv"), lambda: files.write_bytes("prices.csv", b"x"), files.reach)


def test_a_missing_bucket_is_named(s3: S3Server, bucket: str) -> None:
    files = BucketStorage(f"s3://{bucket}-other")
    for act in _actions(files):
        with pytest.raises(StorageFull) as caught:
            act()
        assert caught.value.what == f"The bucket {bucket}-other does not exist."
        assert "FABULA_FILES_URL" in caught.value.next_step


def test_refused_access_is_named(s3: S3Server, bucket: str) -> None:
    files = BucketStorage(f"s3://{bucket}")
    with s3.refusing():
        for act in _actions(files):
            with pytest.raises(StorageFull) as caught:
                act()
            assert "was refused" in caught.value.what and "s3:PutObject" in caught.value.next_step
            assert s3_server.SECRET not in caught.value.what
    assert files.find("prices.csv") is None


def test_missing_credentials_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageFull, match="no credentials"):
        BucketStorage(f"s3://{bucket}").find("prices.csv")


def test_a_full_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server.failing(507, "XMinioStorageFull") as address:
        s3_server.reachable(monkeypatch, address)
        with pytest.raises(StorageFull, match=r"is full \(XMinioStorageFull\)") as caught:
            BucketStorage("s3://bucket").write_bytes("prices.csv", b"x")
    assert "unchanged" in caught.value.next_step
