"""/v1/batches: every line of a file is answered once, behind the requests of people, also after kill -9."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from openai import OpenAI
from openai.types import Batch
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from core.db.store import Store
from core.engine.api.errors import disk_full
from core.engine.api.files import Files
from core.engine.batches import batch_store as engine_batch_store
from core.engine.batches import input_file
from core.engine.batches import runner as batch_runner
from core.engine.batches.batch_store import StoredBatch
from core.engine.batches.runner import BatchRunner
from core.engine.home_files import FileReport, compare_files
from core.engine.serving.priority import LINES, Priority, Slots, in_background
from core.engine.store import EngineStore
from core.generation.batch import batch_store
from core.providers import Provider, Registry
from core.providers import client as client_of_provider
from tests.support import batch_runs
from tests.support.engine_process import TINY, TOKEN, EngineUnderTest, jsonl, poll, running, upload

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_ENDED = ("completed", "failed", "expired", "cancelled")
_LONG: Any = {"max_tokens": 480, "temperature": 1, "logit_bias": {"1": -100, "6": -100}}  # never ends by itself

Line = dict[str, Any]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    with running(tmp_path_factory.mktemp("batches") / "home") as started:
        yield started


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client()


def text(custom_id: object, **body: object) -> Line:
    """A line that asks for a completion."""
    given = {"model": TINY, "prompt": "ab", "max_tokens": 3, "temperature": 0, **body}
    return {"custom_id": custom_id, "method": "POST", "url": TEXT, "body": given}


def send(client: OpenAI, content: bytes, endpoint: Any = TEXT, **given: Any) -> Batch:
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **given)


def ended(client: OpenAI, batch_id: str) -> Batch:
    """Wait for the batch to end and return it."""

    def look() -> Batch | None:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in _ENDED else None

    return poll(look)


def results(client: OpenAI, file_id: str | None) -> list[Line]:
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def counts(batch: Batch) -> tuple[int, int, int]:
    assert batch.request_counts is not None
    return batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed


def answered(engine: EngineUnderTest, batch_id: str, least: int) -> None:
    """Wait until the batch has this many answers."""
    poll(lambda: counts(engine.client().batches.retrieve(batch_id))[1] >= least, 0.01)


def faults(batch: Batch) -> list[tuple[int | None, str | None]]:
    return [(one.line, one.code) for one in (batch.errors.data or [])] if batch.errors else []


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "body", "kind"),
    [
        (TEXT, {"prompt": "ab", "max_tokens": 3}, "text_completion"),
        (CHAT, {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 3}, "chat.completion"),
        ("/v1/responses", {"input": "ab", "max_output_tokens": 16}, "response"),
    ],
)
def test_a_batch_answers_as_its_endpoint_does(client: OpenAI, endpoint: str, body: Line, kind: str) -> None:
    lines = [{"custom_id": f"n{n}", "method": "POST", "url": endpoint, "body": {"model": TINY, **body}} for n in (1, 2)]
    sent = send(client, jsonl(lines), endpoint, metadata={"run": "7"})
    assert (sent.object, sent.status, sent.endpoint, sent.completion_window) == ("batch", "validating", endpoint, "24h")
    assert sent.expires_at == sent.created_at + 86400
    batch = ended(client, sent.id)
    assert (batch.status, counts(batch), batch.errors, batch.error_file_id) == ("completed", (2, 2, 0), None, None)
    assert (batch.metadata, batch.model) == ({"run": "7"}, TINY)
    assert None not in (batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    answers = results(client, batch.output_file_id)
    assert [line["custom_id"] for line in answers] == ["n1", "n2"]
    assert [line["response"]["status_code"] for line in answers] == [200, 200]
    assert {line["response"]["body"]["object"] for line in answers} == {kind}
    assert all(line["error"] is None and line["id"].startswith("batch_req_") for line in answers)
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(line["response"]["body"]["usage"]["total_tokens"] for line in answers)
    file = client.files.retrieve(str(batch.output_file_id))
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert client.batches.list(limit=1).data[0].id == batch.id


def test_one_lines_error_is_in_the_error_file_and_an_alias_is_a_model(engine: EngineUnderTest, client: OpenAI) -> None:
    with engine.http() as http:
        http.post("/fabula/v1/aliases", json={"id": "gpt-4o-mini", "model": TINY})
    lines = [
        text("alias", model="gpt-4o-mini"),
        text("unknown model", model="gpt-5"),
        text("too long", prompt="ab" * 600),
        text("unknown parameter", best_off=2),
        text("last"),
    ]
    batch = ended(client, send(client, jsonl(lines)).id)
    assert (batch.status, counts(batch), batch.model) == ("completed", (5, 2, 3), None)
    answers = {line["custom_id"]: line["response"]["body"] for line in results(client, batch.output_file_id)}
    assert list(answers) == ["alias", "last"]
    assert answers["alias"]["model"] == "gpt-4o-mini"
    assert answers["alias"]["choices"] == answers["last"]["choices"]
    failed = {line["custom_id"]: line["response"] for line in results(client, batch.error_file_id)}
    assert {name: (one["status_code"], one["body"]["error"]["code"]) for name, one in failed.items()} == {
        "unknown model": (404, "model_not_found"),
        "too long": (400, "context_length_exceeded"),
        "unknown parameter": (400, "unknown_parameter"),
    }


# --- files that are wrong -------------------------------------------------------------------------------------------


_BROKEN: Mapping[str, tuple[bytes, str]] = {
    "not JSON": (b'{"custom_id": "c", \n', "invalid_json_line"),
    "not UTF-8": (b'{"custom_id": "\xff"}\n', "invalid_json_line"),
    "a lone surrogate": (b'{"custom_id": "\\ud800"}\n', "invalid_json_line"),
    "nested too deep": (b"[" * 100_000 + b"\n", "invalid_json_line"),
    "a list": (b"[]\n", "invalid_json_line"),
    "no custom_id": (jsonl([text(None)]), "missing_required_parameter"),
    "a number as custom_id": (jsonl([text(3)]), "invalid_custom_id"),
    "wrong method": (jsonl([{**text("c1"), "method": "GET"}]), "invalid_method"),
    "wrong url": (jsonl([{**text("c2"), "url": CHAT}]), "invalid_url"),
    "no body": (jsonl([{**text("c3"), "body": None}]), "invalid_body"),
    "streamed": (jsonl([text("c4", stream=True)]), "unsupported_parameter"),
}


def test_broken_lines_are_named_and_the_rest_runs(client: OpenAI) -> None:
    content = jsonl([text("first")]) + b"\n" + b"".join(raw for raw, _ in _BROKEN.values()) + jsonl([text("last")])
    batch = ended(client, send(client, content).id)
    codes = [code for _, code in _BROKEN.values()]
    assert (batch.status, faults(batch)) == ("completed", list(enumerate(codes, start=3)))
    assert counts(batch) == (len(codes) + 2, 2, len(codes))
    assert [line["custom_id"] for line in results(client, batch.output_file_id)] == ["first", "last"]
    errors = results(client, batch.error_file_id)
    assert [line["error"]["code"] for line in errors] == codes
    assert errors[0]["error"]["message"].startswith("Line 3: ")
    assert all(line["response"] is None for line in errors)
    assert errors[-1]["custom_id"] == "c4"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\n \n", [(None, "empty_file")]),
        (b"one\ntwo\n", [(1, "invalid_json_line"), (2, "invalid_json_line")]),
        (jsonl([text("a"), text("b"), text("a"), text("a")]), [(3, "duplicate_custom_id"), (4, "duplicate_custom_id")]),
        (b"1\n" * (input_file.MAX_LINES + 1), [(None, "too_many_tasks")]),
    ],
    ids=["empty", "nothing but broken lines", "duplicates", "too many"],
)
def test_a_file_that_cannot_run_fails_before_anything_runs(
    client: OpenAI, content: bytes, expected: list[tuple[int | None, str]]
) -> None:
    batch = ended(client, send(client, content).id)
    assert (batch.status, faults(batch)) == ("failed", expected)
    assert (batch.output_file_id, batch.error_file_id, counts(batch)) == (None, None, (0, 0, 0))
    assert batch.failed_at is not None


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"input_file_id": "file-nothing"}, "input_file_id", "file_not_found"),
        ({"input_file_id": "training"}, "input_file_id", "invalid_value"),
        ({"input_file_id": None}, "input_file_id", "missing_required_parameter"),
        ({"endpoint": "/v1/moderations"}, "endpoint", "invalid_value"),
        ({"completion_window": "7d"}, "completion_window", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
        ({"output_expires_after": 7200}, "output_expires_after", "invalid_value"),
        ({"output_expires_after": {"anchor": "now", "seconds": 7200}}, "output_expires_after.anchor", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            "output_expires_after.seconds",
            "invalid_value",
        ),
        ({"priority": 1}, "priority", "unknown_parameter"),
    ],
)
def test_a_batch_that_cannot_be_created_is_refused(
    engine: EngineUnderTest, client: OpenAI, change: Line, param: str, code: str
) -> None:
    if change.get("input_file_id") == "training":
        change = {"input_file_id": upload(client, b'{"prompt": "a", "completion": "b"}\n')}
    body = {"input_file_id": "file-nothing", "endpoint": TEXT, "completion_window": "24h", **change}
    with engine.http() as http:
        answer = http.post("/v1/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["param"], answer.json()["error"]["code"]) == (400, param, code)


def test_batches_that_are_not_there_or_over(client: OpenAI) -> None:
    done = ended(client, send(client, jsonl([text("a")])).id)
    with pytest.raises(openai.ConflictError) as over:
        client.batches.cancel(done.id)
    assert over.value.code == "invalid_batch_status"
    for call in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call("batch_nothing")
    with pytest.raises(openai.BadRequestError):
        client.batches.list(after="batch_nothing")


# --- meanwhile ------------------------------------------------------------------------------------------------------


def test_a_person_is_answered_while_a_batch_runs_and_a_cancelled_batch_keeps_its_answers(
    engine: EngineUnderTest, client: OpenAI
) -> None:
    sent = send(client, jsonl([text("short"), *(text(f"n{n}", n=8, **_LONG) for n in range(400))]))
    client.files.delete(sent.input_file_id)  # the batch has its own copy
    answered(engine, sent.id, 1)
    person = engine.client(strict=False)  # the SDK's type does not allow null as finish_reason
    stream = person.completions.create(model=TINY, prompt="ab", stream=True, **_LONG)
    assert "".join(chunk.choices[0].text for chunk in stream)
    assert client.batches.retrieve(sent.id).status == "in_progress"

    cancelled = client.batches.cancel(sent.id)
    assert cancelled.status in ("cancelling", "cancelled")
    batch = ended(client, sent.id)
    total, completed, failed = counts(batch)
    assert (batch.status, total, failed) == ("cancelled", 401, 0)
    kept = [line["custom_id"] for line in results(client, batch.output_file_id)]
    assert 1 <= len(kept) == completed < total  # usually the short one; on a busy machine, a long one may overtake it
    left = results(client, batch.error_file_id)
    assert {line["error"]["code"] for line in left} == {"batch_cancelled"}
    assert sorted([*kept, *(line["custom_id"] for line in left)]) == sorted(["short", *(f"n{n}" for n in range(400))])
    assert client.batches.cancel(sent.id).status == "cancelled"
    assert compare_files(engine.home) == FileReport((), ())


def test_the_data_set_page_writes_its_grid_as_a_batch_of_the_engine(engine: EngineUnderTest, store: Store) -> None:
    provider = Provider("engine", "engine", "Engine", engine.url, TOKEN)
    assert client_of_provider.supports_batch(provider)
    recipe = batch_runs.recipe(rows=6, provider="engine", model=TINY, max_tokens=5000)  # over the tiny model's context
    run_id = batch_runs.queue(store, recipe)
    progress = batch_runs.execute(store, Registry([provider]), run_id)
    rows = batch_runs.rows(store, run_id)
    # a random model ends few texts before the token limit; those that it does not end count as failed
    assert (progress.state, {row.finish_reason for row in rows} <= {"stop", "length"}) == ("done", True)
    assert all(row.completion_tokens for row in rows)
    (batch,) = batch_store.batches_of_run(store, run_id)
    assert (batch.state, batch.remote_status, batch.completed + batch.failed) == ("done", "completed", 6)


def test_kill_9_loses_no_line_and_answers_none_twice_and_the_window_ends(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        client = engine.client()
        sent = send(client, jsonl([text(f"n{n}", max_tokens=40) for n in range(60)] + [text("n60", model="x")]))
        endless = send(client, jsonl([text("short"), *(text(f"n{n}", n=8, **_LONG) for n in range(400))]))
        answered(engine, sent.id, 20)
        engine.kill()
        engine.start()
        client = engine.client()
        batch = ended(client, sent.id)
        assert (batch.status, counts(batch)) == ("completed", (61, 60, 1))
        assert [line["custom_id"] for line in results(client, batch.output_file_id)] == [f"n{n}" for n in range(60)]
        assert [line["custom_id"] for line in results(client, batch.error_file_id)] == ["n60"]

        answered(engine, endless.id, 1)
        with closing(sqlite3.connect(engine.home / "engine.db")) as database, database:
            database.execute("UPDATE batches SET expires_at = ? WHERE id = ?", (int(time.time()), endless.id))
        late = ended(client, endless.id)
        assert (late.status, counts(late)[2]) == ("expired", 0)
        assert late.expired_at is not None
        assert results(client, late.output_file_id)[0]["custom_id"] == "short"
        assert {line["error"]["code"] for line in results(client, late.error_file_id)} == {"batch_expired"}
        assert compare_files(engine.home) == FileReport((), ())


def test_a_line_stays_one_line_however_it_is_split() -> None:
    said = "".join(map(chr, (*range(32), 0x85, 0x2028, 0x2029))) + "唐"
    line = engine_batch_store.result_line("n", {"text": said}, None)
    assert line.splitlines() == [line] and "唐" in line
    assert json.loads(line)["response"]["text"] == said


# --- disk -----------------------------------------------------------------------------------------------------------


def in_process(home: Path, *lines: Line) -> tuple[BatchRunner, EngineStore]:
    """A runner with one checked batch of these lines, whose one endpoint has no space for the first answer."""
    (home / "files").mkdir(parents=True)
    store = EngineStore(home / "engine.db")
    files = Files(home, store)
    files.remove_leftovers()
    given = files.write_lines("requests.jsonl", "batch", [json.dumps(line) for line in lines], None)
    assert given is not None
    attempts = itertools.count()

    async def endpoint(_: Request) -> Response:
        if next(attempts) == 0:
            raise disk_full()
        return JSONResponse({"choices": [{"text": "a" * 500_000}]})

    runner = BatchRunner(store, files, home / "batches", {TEXT: endpoint}, Priority())
    runner.keep_input("batch_1", given.id)
    batch = StoredBatch("batch_1", 1, int(time.time()) + 86400, "validating", TEXT, given.id, None, 0)
    store.add(batch)
    engine_batch_store.start(store, batch, input_file.check(runner.copy_of(batch.id), TEXT))
    return runner, store


def run_until(runner: BatchRunner, store: EngineStore, *statuses: str) -> StoredBatch:
    """Run until the batch has one of these statuses."""

    async def run() -> StoredBatch:
        runner.start()
        while (batch := store.select(StoredBatch, "1")[0]).status not in statuses:
            await asyncio.sleep(0.01)
        await runner.stop()
        return batch

    return asyncio.run(run())


def test_a_full_disk_fails_no_line_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "_LOOK_S", 0.01)
    runner, store = in_process(tmp_path, text("a"), text("b"))
    real_close, attempts = engine_batch_store.close, itertools.count()

    def close(*given: Any, **values: Any) -> None:
        if next(attempts) < 2:
            raise sqlite3.OperationalError("database or disk is full")
        real_close(*given, **values)

    monkeypatch.setattr(engine_batch_store, "close", close)
    batch = run_until(runner, store, "completed")
    assert (batch.total, batch.completed, batch.failed) == (2, 2, 0)
    stored = {path.name for path in (tmp_path / "files").iterdir() if path.is_file()}
    assert stored == {batch.input_file_id, batch.output_file_id}
    assert not list((tmp_path / "batches").iterdir())
    assert (tmp_path / "engine.db").stat().st_size < 500_000


def test_a_batch_that_could_not_be_checked_within_its_window_has_expired(tmp_path: Path) -> None:
    runner, store = in_process(tmp_path, text("a"))
    store.update(StoredBatch, "batch_1", status="validating", total=0, expires_at=1)
    batch = run_until(runner, store, "completed", "expired")
    assert (batch.status, batch.completed_at) == ("expired", None)


@pytest.mark.parametrize("n_ticks", range(4))
def test_news_while_the_engine_stops_do_not_keep_it_from_stopping(tmp_path: Path, n_ticks: int) -> None:
    runner, _ = in_process(tmp_path, text("a"))

    async def nothing_to_do() -> bool:
        return False

    async def settled(n_ticks: int = 10) -> None:
        for _ in range(n_ticks):
            await asyncio.sleep(0)

    async def stopped() -> None:
        news = asyncio.Event()
        loop = asyncio.create_task(runner._loop(nothing_to_do, news))
        await settled()
        news.set()
        await settled(n_ticks)
        loop.cancel()
        await settled()
        assert loop.cancelled()

    asyncio.run(stopped())


def test_copies_of_input_files_that_no_batch_needs_are_deleted_at_the_start(tmp_path: Path) -> None:
    runner, store = in_process(tmp_path, text("a"))
    store.update(StoredBatch, "batch_1", status="failed")
    runner.copy_of("batch_2").write_bytes(b"half a copy")
    run_until(runner, store, "failed")
    assert not list((tmp_path / "batches").iterdir())


# --- turns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_lines", "beside_people"), [(LINES, 1), (48, 6)])
def test_lines_start_only_as_far_as_people_leave_room(n_lines: int, beside_people: int) -> None:
    async def turns() -> None:
        priority, over, begun = Priority(), asyncio.Event(), list[int]()
        priority.lines = n_lines

        async def line(number: int) -> None:
            async with priority.turn():
                begun.append(number)
                await over.wait()

        async def settled() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        with priority.request():
            lines = [asyncio.create_task(line(number)) for number in range(n_lines + 1)]
            await settled()
            assert len(begun) == beside_people
        await settled()
        assert len(begun) == n_lines
        over.set()
        await asyncio.gather(*lines)
        assert len(begun) == n_lines + 1

    asyncio.run(turns())


@pytest.mark.parametrize(("parallel", "for_lines"), [(4, 3), (64, 48)])
def test_lines_never_take_a_models_last_slots(parallel: int, for_lines: int) -> None:
    async def slots() -> None:
        all_slots, priority = Slots(parallel), Priority()

        async def line(n_streams: int) -> None:
            async with priority.turn():
                assert in_background()
                await asyncio.gather(*(hold() for _ in range(n_streams)))

        async def hold() -> None:
            async with all_slots.one():
                held.append(in_background())
                await over.wait()

        held, over = list[bool](), asyncio.Event()
        batch = asyncio.create_task(line(2 * parallel))
        while len(held) < for_lines:
            await asyncio.sleep(0)
        person = asyncio.create_task(hold())
        while len(held) < for_lines + 1:
            await asyncio.sleep(0)
        assert held == [*[True] * for_lines, False]
        over.set()
        await asyncio.gather(batch, person)

    asyncio.run(slots())
