"""/v1/uploads: a file in parts becomes a normal file, whole and in the order that was asked for, or none at all."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from openai import OpenAI

from core.engine.home_files import FileReport, compare_files
from tests.support.engine_process import TINY, EngineUnderTest, pairs, poll, running

_CONTENT = pairs(40)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("uploads") / "home") as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


def _create(client: OpenAI, **given: Any) -> Any:
    asked = {"bytes": 6, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", **given}
    return client.uploads.create(**asked)


def _parts(client: OpenAI, upload_id: str, *contents: bytes) -> list[str]:
    return [client.uploads.parts.create(upload_id, data=content).id for content in contents]


@pytest.mark.parametrize("md5", [None, hashlib.md5(_CONTENT).hexdigest()])
def test_a_file_in_chunks_trains_like_any_other(
    engine: EngineUnderTest, client: OpenAI, tmp_path: Path, md5: str | None
) -> None:
    path = tmp_path / "stories.jsonl"
    path.write_bytes(_CONTENT)
    options: Any = {} if md5 is None else {"md5": md5}
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=100, **options
    )
    assert (done.status, done.bytes, done.filename) == ("completed", len(_CONTENT), "stories.jsonl")
    assert done.expires_at == done.created_at + 3600
    assert done.file is not None
    assert client.files.retrieve(done.file.id) == done.file
    assert client.files.content(done.file.id).read() == _CONTENT
    job = client.fine_tuning.jobs.create(model=TINY, training_file=done.file.id)
    client.fine_tuning.jobs.cancel(job.id)
    assert compare_files(engine.home) == FileReport((), ())


def test_the_order_of_completion_counts_and_a_file_may_expire(client: OpenAI) -> None:
    upload = _create(client, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
    first, _, last = _parts(client, upload.id, b"def", b"xyz", b"abc")
    done = client.uploads.complete(upload.id, part_ids=[last, first])
    assert done.file is not None
    assert client.files.content(done.file.id).read() == b"abcdef"
    assert done.file.expires_at == upload.created_at + 3600
    for again in (
        lambda: client.uploads.complete(upload.id, part_ids=[last, first]),
        lambda: client.uploads.cancel(upload.id),
        lambda: client.uploads.parts.create(upload.id, data=b"abc"),
    ):
        with pytest.raises(openai.BadRequestError) as over:
            again()
        assert over.value.code == "upload_ended"


@pytest.mark.parametrize(
    ("order", "md5", "param", "code"),
    [
        ([0], None, "part_ids", "size_mismatch"),
        ([0, 1, 2], None, "part_ids", "size_mismatch"),
        ([0, 0], None, "part_ids", "invalid_value"),
        ([0, "part_nothing"], None, "part_ids[1]", "part_not_found"),
        ([], None, "part_ids", "missing_required_parameter"),
        ([1, 0], hashlib.md5(b"abcdef").hexdigest(), "md5", "invalid_value"),
        ([0, 1], "abc", "md5", "invalid_value"),
    ],
)
def test_what_does_not_fit_is_refused_and_can_be_completed_afterwards(
    client: OpenAI, order: list[Any], md5: str | None, param: str, code: str
) -> None:
    upload = _create(client)
    parts = _parts(client, upload.id, b"abc", b"def", b"ghi")
    part_ids = [parts[one] if isinstance(one, int) else one for one in order]
    asked: Any = {"part_ids": part_ids} if md5 is None else {"part_ids": part_ids, "md5": md5}
    with pytest.raises(openai.BadRequestError) as refused:
        client.uploads.complete(upload.id, **asked)
    assert (refused.value.param, refused.value.code) == (param, code)
    done = client.uploads.complete(upload.id, part_ids=parts[:2], md5=hashlib.md5(b"abcdef").hexdigest().upper())
    assert done.status == "completed"


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [
        ({"bytes": 0}, 400, "bytes"),
        ({"bytes": None}, 400, "bytes"),
        ({"bytes": (512 << 20) + 1}, 400, "bytes"),
        ({"bytes": (200 << 20) + 1, "purpose": "batch"}, 413, "bytes"),
        ({"purpose": "assistants"}, 400, "purpose"),
        ({"filename": ""}, 400, "filename"),
        ({"mime_type": None}, 400, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, 400, "expires_after[seconds]"),
        ({"parts": 3}, 400, "parts"),
    ],
)
def test_an_upload_that_cannot_become_a_file_is_refused(
    engine: EngineUnderTest, given: dict[str, Any], status: int, param: str
) -> None:
    asked = {"bytes": 6, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", **given}
    with engine.http() as http:
        answer = http.post("/v1/uploads", json=asked)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_parts_that_are_no_parts(engine: EngineUnderTest, client: OpenAI) -> None:
    upload = _create(client)
    with engine.http() as http:
        path = f"/v1/uploads/{upload.id}/parts"
        assert http.post(path, files={"file": b"abc"}).json()["error"]["param"] == "data"
        assert http.post(path, json={"data": "abc"}).json()["error"]["code"] == "invalid_form"
        large = http.post(path, headers={"content-type": "multipart/form-data; boundary=a"}, content=bytes(65 << 20))
        assert (large.status_code, large.json()["error"]["code"]) == (413, "file_too_large")
        assert http.post("/v1/uploads/upload_nothing/parts", files={"data": b"a"}).status_code == 404
    cancelled = client.uploads.cancel(upload.id)
    assert (cancelled.status, cancelled.file) == ("cancelled", None)
    assert compare_files(engine.home) == FileReport((), ())


def test_an_upload_survives_kill_9_and_expires(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        client = engine.client()
        kept, late = _create(client), _create(client)
        (first,) = _parts(client, kept.id, b"abc")
        _parts(client, late.id, b"abc")
        engine.kill()
        (engine.home / "uploads" / "part_cut_off").write_bytes(b"a")
        with closing(sqlite3.connect(engine.home / "engine.db")) as database, database:
            database.execute("UPDATE uploads SET expires_at = ? WHERE id = ?", (int(time.time()), late.id))
        engine.start()
        client = engine.client()
        (last,) = _parts(client, kept.id, b"def")
        assert client.uploads.complete(kept.id, part_ids=[first, last]).status == "completed"
        with pytest.raises(openai.BadRequestError) as over:
            client.uploads.parts.create(late.id, data=b"def")
        assert "expired" in over.value.message
        assert list((engine.home / "uploads").iterdir()) == []

        _parts(client, _create(client).id, b"abc")
        with closing(sqlite3.connect(engine.home / "engine.db")) as database, database:
            database.execute("UPDATE uploads SET expires_at = 1 WHERE status = 'pending'")
        poll(lambda: not list((engine.home / "uploads").iterdir()))
        assert compare_files(engine.home) == FileReport((), ())
