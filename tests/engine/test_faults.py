"""Faults: kill -9, a full disk, disconnected clients, a port in use, missing packages."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.fine_tuning.job_create_params import Method

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from starlette.types import Message

from core.engine.api.requests import EventStream
from core.engine.formats.gguf_file import ModelCard
from core.engine.job_rules import PARALLEL
from core.engine.serving import generate, llama
from core.engine.serving.llama_http import ServerAddress
from tests.support.engine_process import (
    DEADLINE_S,
    ROOT,
    TINY,
    TOKEN,
    EngineUnderTest,
    finished,
    pairs,
    poll,
    running,
    steps,
    upload,
)
from tests.support.tiny_gemma import write_tiny_gemma

# --- kill -9 ----------------------------------------------------------------------------------------------------------


def test_kill_9_in_the_middle_of_training_loses_nothing(tmp_path: Path) -> None:
    engine = EngineUnderTest(tmp_path / "home")
    engine.start()
    client = engine.client()
    file_id = upload(client, pairs(6))
    method: Method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 8, "batch_size": 1}}}
    job = client.fine_tuning.jobs.create(model=TINY, training_file=file_id, method=method, metadata={"a": "b"})
    result = poll(lambda: client.fine_tuning.jobs.retrieve(job.id).result_files)[0]
    poll(lambda: len(steps(client.files.content(result).text)) >= 8)
    waiting = client.fine_tuning.jobs.create(model=TINY, training_file=file_id, method=method)
    client.fine_tuning.jobs.cancel(waiting.id)
    last = upload(client, pairs(3))
    engine.kill()  # kill immediately: everything above was acknowledged

    engine.start()
    client = engine.client()
    assert client.files.content(last).read() == pairs(3)
    assert client.fine_tuning.jobs.retrieve(waiting.id).status == "cancelled"
    ended = finished(client, job.id)
    assert ended.status == "succeeded", ended.error
    assert ended.metadata == {"a": "b"}
    assert ended.result_files == [result]
    assert steps(client.files.content(result).text) == list(range(1, 49))
    events = [event for event in client.fine_tuning.jobs.list_events(job.id) if event.type == "metrics"]
    numbers = [int(event.data["step"]) for event in events if isinstance(event.data, dict)]
    assert numbers == list(range(48, 0, -1))
    assert len({checkpoint.step_number for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id)}) == 8
    engine.stop()


def _in_training(client: openai.OpenAI) -> tuple[str, str]:
    """A job that has taken its first steps of 120, and the id of its result file."""
    method: Method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 20, "batch_size": 1}}}
    job = client.fine_tuning.jobs.create(model=TINY, training_file=upload(client, pairs(6)), method=method)
    result = poll(lambda: client.fine_tuning.jobs.retrieve(job.id).result_files)[0]
    poll(lambda: len(steps(client.files.content(result).text)) >= 2)
    return job.id, result


def test_a_graceful_stop_goes_on_at_the_next_start_too(tmp_path: Path) -> None:
    engine = EngineUnderTest(tmp_path / "home")
    engine.start()
    job_id, result = _in_training(engine.client())
    engine.stop()
    before = len((engine.home / "jobs" / job_id / "metrics.jsonl").read_text().splitlines())
    engine.start()
    client = engine.client()
    ended = finished(client, job_id)
    assert ended.status == "succeeded", ended.error
    assert steps(client.files.content(result).text) == list(range(1, 121))
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job_id)]
    assert f"Resuming from step {before} of 120." in messages
    engine.stop()


def test_a_stopping_engine_ends_its_training_while_requests_are_answered(tmp_path: Path) -> None:
    engine = EngineUnderTest(tmp_path / "home")
    engine.start()
    job_id, _ = _in_training(engine.client())
    folder = engine.home / "jobs" / job_id
    with _half_an_upload(engine) as (connection, rest):
        assert engine.process is not None
        engine.process.terminate()
        poll(lambda: _trainer_ended(folder))
        connection.sendall(rest)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert engine.process.wait(DEADLINE_S) in (0, -signal.SIGTERM)
    assert json.loads((folder / "state.json").read_text())["status"] == "paused"


@contextmanager
def _half_an_upload(engine: EngineUnderTest) -> Iterator[tuple[socket.socket, bytes]]:
    """A request that the engine is reading: its connection, and the rest of its body."""
    request = engine.http().build_request("POST", "/v1/files", data={"purpose": "fine-tune"}, files={"file": pairs(2)})
    body = request.read()
    headers = {**request.headers, "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((request.url.host, request.url.port or 80), DEADLINE_S) as connection:
        connection.sendall(f"POST {request.url.path} HTTP/1.1\r\n{head}\r\n".encode() + body[:-20])
        poll(lambda: any((engine.home / "files" / "incoming").iterdir()))
        yield connection, body[-20:]


def _trainer_ended(folder: Path) -> bool:
    """Whether no trainer has the lock of this job."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_the_remains_of_cut_uploads_are_swept_at_the_start(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "files" / "incoming").mkdir(parents=True)
    (home / "files" / "incoming" / "file-half").write_bytes(b"half")
    (home / "files" / "file-never-acknowledged").write_bytes(b"whole")
    with running(home) as engine:
        file_id = upload(engine.client(), pairs(1))
    assert [path.name for path in (home / "files").rglob("*") if path.is_file()] == [file_id]


def test_llama_cpp_leaves_when_its_engine_died_before_it_was_up(tmp_path: Path) -> None:
    orders = {"model": str(write_tiny_gemma(tmp_path / "tiny.gguf")), "adapter": None, "key": "k", "parallel": 1}
    read, write = os.pipe()
    command = [sys.executable, "-m", "core.engine.serving.llama_child"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=write, stderr=subprocess.DEVNULL) as child:
        os.close(write)
        os.close(read)  # its output is never read
        assert child.stdin is not None
        child.stdin.write(json.dumps({**orders, "context": 512, "cache_mib": 0, "threads": 1}).encode() + b"\n")
        child.stdin.close()
        try:
            assert child.wait(DEADLINE_S) == 1
        finally:
            child.kill()


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits a process's files through prlimit")
def test_a_full_disk_is_said_in_words_and_nothing_is_lost(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        assert engine.process is not None
        client = engine.client()
        file_id = upload(client, pairs(2))
        # A limit on file size acts like a full disk and needs no privileges.
        unlimited = resource.prlimit(engine.process.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        for act in (
            lambda: upload(client, pairs(200)),
            lambda: client.fine_tuning.jobs.create(model=TINY, training_file=file_id),
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                act()
            assert caught.value.status_code == 507
            assert caught.value.code == "insufficient_storage"
            assert "disk is full" in caught.value.message
        *_, last = client.responses.create(model=TINY, input="a", max_output_tokens=1, stream=True)
        assert last.type == "response.failed" and last.response.error is not None
        assert "disk is full" in last.response.error.message
        assert client.files.content(file_id).read() == pairs(2)
        assert list((engine.home / "files" / "incoming").iterdir()) == []
        assert list((engine.home / "jobs").iterdir()) == []
        resource.prlimit(engine.process.pid, resource.RLIMIT_FSIZE, unlimited)
        later = client.fine_tuning.jobs.create(model=TINY, training_file=file_id)
        assert client.fine_tuning.jobs.cancel(later.id).status == "cancelled"
        assert [file.id for file in client.files.list()] == [file_id]


# --- memory, and a child that is killed -------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits a process's memory through prlimit")
def test_training_without_enough_memory_fails_in_words_and_works_once_there_is_enough(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        assert engine.process is not None
        client = engine.client()
        file_id = upload(client, pairs(2))
        method: Method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1}}}
        # PyTorch alone takes more address space; the trainer inherits the limit, the engine keeps what it has
        unlimited = resource.prlimit(engine.process.pid, resource.RLIMIT_AS, (800 * 2**20, resource.RLIM_INFINITY))
        job = finished(client, client.fine_tuning.jobs.create(model=TINY, training_file=file_id, method=method).id)
        assert job.status == "failed" and job.error is not None and job.error.message
        assert "use a smaller batch_size" in job.error.message.lower()
        resource.prlimit(engine.process.pid, resource.RLIMIT_AS, unlimited)
        job = finished(client, client.fine_tuning.jobs.create(model=TINY, training_file=file_id, method=method).id)
        assert job.status == "succeeded"


def test_llama_cpp_killed_in_the_middle_of_a_stream_cuts_it_and_is_started_again(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        assert engine.process is not None
        client, pid = engine.client(), engine.process.pid
        # on a busy machine, the whole answer may be on its way before the kill: then once more
        seen, error = next(found for _ in range(20) if (found := _killed_in_a_stream(client, pid))[1] is not None)
        assert isinstance(error, openai.APIError)
        assert seen and not [chunk for chunk in seen if chunk.choices and chunk.choices[0].finish_reason]
        answer = poll(lambda: _completed(client))
        assert answer.choices[0].finish_reason in ("stop", "length")


def _killed_in_a_stream(client: openai.OpenAI, pid: int) -> tuple[list[ChatCompletionChunk], Exception | None]:
    """Kill llama.cpp after two chunks of a stream; return what arrived, and how the stream failed, if it did."""
    poll(lambda: _completed(client))
    stream = client.chat.completions.create(
        model=TINY, messages=[{"role": "user", "content": "a"}], max_tokens=400, stream=True, seed=1
    )
    seen = [next(stream), next(stream)]
    for child in _llama_children(pid):
        os.kill(child, signal.SIGKILL)
    try:
        seen += stream
    except Exception as exc:
        return seen, exc
    return seen, None


def _llama_children(engine_pid: int) -> list[int]:
    children = Path(f"/proc/{engine_pid}/task/{engine_pid}/children").read_text().split()
    return [int(pid) for pid in children if b"llama_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _completed(client: openai.OpenAI) -> ChatCompletion | None:
    try:
        return client.chat.completions.create(
            model=TINY, messages=[{"role": "user", "content": "a"}], max_tokens=4, seed=1
        )
    except openai.InternalServerError:  # llama.cpp is starting
        return None


# --- disconnected clients ---------------------------------------------------------------------------------------------


def test_a_client_that_leaves_stops_the_generation_upstream() -> None:
    asyncio.run(_leave_in_the_middle())


async def _leave_in_the_middle() -> None:
    async with _endless_llama() as (backend, gone):
        sent: list[Message] = []
        leaving = asyncio.Event()

        async def events() -> AsyncIterator[bytes]:
            async for piece in generate.stream_chunks(backend, {"prompt": "a"}):
                yield piece.text.encode()

        async def receive() -> Message:
            await leaving.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) == 5:
                leaving.set()

        await EventStream(events())({"type": "http"}, receive, send)  # type: ignore[arg-type]  # as an ASGI server
        await asyncio.wait_for(gone.wait(), DEADLINE_S)
        assert [message["type"] for message in sent[:2]] == ["http.response.start", "http.response.body"]
        assert backend.slots._all._value == PARALLEL


@asynccontextmanager
async def _endless_llama() -> AsyncIterator[tuple[llama.Backend, asyncio.Event]]:
    """A llama.cpp server that never ends its response, and the event that its client has disconnected."""
    gone = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                event = b'data: {"content": "a", "stop": false, "tokens_predicted": 1, "tokens_evaluated": 2}\n\n'
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            gone.set()
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = ServerAddress("127.0.0.1", server.sockets[0].getsockname()[1], "key")
    card = ModelCard("gemma3", 512, 400, 2, 1, "")
    async with server:
        process = None
        yield llama.Backend(llama.BaseModel("a", Path("a"), card), process, address, {}), gone  # type: ignore[arg-type]  # unused


# --- starting ---------------------------------------------------------------------------------------------------------


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Start an engine that is expected to fail."""
    command = [sys.executable, "-m", "core.engine", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FABULA_")}
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **environ}, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_port_that_is_taken_is_named(tmp_path: Path, taken: int) -> None:
    ended = run("--port", str(taken), "--home", str(tmp_path), FABULA_ENGINE_TOKEN=TOKEN)
    assert ended.returncode == 4
    assert ended.stderr == f"Port {taken} on 127.0.0.1 is taken by another program. Choose another with --port.\n"


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "words"),
    [
        ((), {}, 2, "FABULA_ENGINE_TOKEN is not set"),
        (("--no-auth", "--host", "0.0.0.0"), {}, 2, "--no-auth is only allowed on a loopback address, not on 0.0.0.0"),
        (("--no-auth", "--home", "/proc/fabula"), {}, 5, "cannot write to its home /proc/fabula"),
        (("--no-auth", "--port", "70000"), {}, 2, "There is no port 70000"),
        (("--no-auth",), {"FABULA_ENGINE_MODELS": "a=/nowhere.gguf"}, 2, "there is no file /nowhere.gguf"),
        (("--no-auth",), {"FABULA_ENGINE_CONTEXT": "32k"}, 2, "FABULA_ENGINE_CONTEXT: '32k' is not a whole number"),
        (("--no-auth",), {"FABULA_TRAINER_PRIORITY": "low"}, 2, "FABULA_TRAINER_PRIORITY: 'low' is neither 'idle' nor"),
        (("--no-auth",), {"FABULA_ENGINE_CORS_ORIGINS": "me"}, 2, "FABULA_ENGINE_CORS_ORIGINS: 'me' is not an origin"),
        (("--no-auth",), {"FABULA_ENGINE_CORS_ORIGINS": "*"}, 2, "FABULA_ENGINE_CORS_ORIGINS=* is not allowed"),
        (("--no-auth",), {"FABULA_RESULTS_BASE64": "maybe"}, 2, "FABULA_RESULTS_BASE64: 'maybe' is neither 1 nor 0"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], code: int, words: str
) -> None:
    home = () if "--home" in arguments else ("--home", str(tmp_path))
    ended = run("--port", "0", *home, *arguments, **environ)
    assert (ended.returncode, words in ended.stderr) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_missing_packages_are_named_with_what_to_install(tmp_path: Path) -> None:
    script = (
        "import importlib.util, sys; real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'xllamacpp' else real(name, *rest)\n"
        "from core.engine.__main__ import main; main(['--no-auth', '--home', sys.argv[1]])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3
    assert f"(xllamacpp). Install them: {sys.executable} -m pip install -r requirements-engine.txt" in ended.stderr


def test_two_engines_never_share_a_home(tmp_path: Path) -> None:
    with running(tmp_path / "home") as engine:
        ended = run("--no-auth", "--port", "0", "--home", str(engine.home))
    assert ended.returncode == 5
    assert "Another engine is using" in ended.stderr


def test_without_a_token_only_this_machine_gets_in(tmp_path: Path) -> None:
    with running(tmp_path / "home", None, "--no-auth", "--no-warm-up") as engine:
        assert engine.client(token="anything").models.list().data
        with engine.http() as http:
            port = http.base_url.port
            for headers in (
                {"host": f"localhost:{port}"},
                {"host": "LOCALHOST"},
                {"host": f"[::1]:{port}"},
                {"host": f"127.0.0.1:{port}", "origin": f"http://127.0.0.1:{port}", "sec-fetch-site": "same-origin"},
                {"sec-fetch-site": "none"},
            ):
                assert http.get("/v1/models", headers=headers).status_code == 200, headers
            for headers in (
                {"host": "evil.example"},
                {"host": f"localhost.evil.example:{port}"},
                {"host": f"evil.example:{port}@localhost"},
                {"host": "x@localhost"},
                {"host": f"x:y@127.0.0.1:{port}"},
                {"host": "127.0.0.1.evil.example"},
                {"host": "evil-localhost"},
                {"host": "localhost."},
                {"host": "localhost:http"},
                {"host": "[::1].evil.example"},
                {"host": "127.1"},
                {"host": "0.0.0.0"},
                {"host": ""},
                {"origin": "https://evil.example"},
                {"origin": "http://localhost:3000"},
                {"origin": "http://localhost"},
                {"origin": "null"},
                {"origin": ""},
                {"host": f"127.0.0.1:{port}", "origin": f"http://localhost:{port}"},
                {"host": f"127.0.0.1:{port}", "origin": f"https://127.0.0.1:{port}"},
                {"host": f"127.0.0.1:{port}", "origin": f"http://127.0.0.1:{port}.evil.example"},
                {"sec-fetch-site": "cross-site"},
                {"sec-fetch-site": "same-site"},
            ):
                answer = http.get("/v1/models", headers=headers)
                assert (answer.status_code, json.loads(answer.text)["error"]["code"]) == (401, "invalid_api_key"), (
                    headers
                )
        with socket.create_connection(("127.0.0.1", port or 0), timeout=DEADLINE_S) as nameless:
            nameless.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")  # HTTP/1.0 needs no Host
            assert nameless.recv(4096).startswith(b"HTTP/1.1 401 ")
