"""Serving with vLLM: the engine's API on a server that answers in vLLM's shapes (vLLM itself: `test_vllm_real.py`)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from openai import APIStatusError, BadRequestError, InternalServerError, NotFoundError, OpenAI

from core.engine import serve_settings
from core.engine.api.errors import ApiError
from core.engine.api.models import ModelCatalogue
from core.engine.bases.library import BaseLibrary
from core.engine.bases.record import BaseRecord
from core.engine.formats import gguf_file, weights
from core.engine.serve_settings import VllmSettings
from core.engine.serving import vllm_log
from core.engine.serving.llama import BaseModel
from core.engine.serving.vllm_folders import VllmFolders
from core.engine.store import EngineStore
from tests.support import tls_proxy
from tests.support.engine_process import (
    ROOT,
    TINY,
    EngineUnderTest,
    finished,
    pairs,
    poll,
    running,
    upload,
)
from tests.support.tiny_models import TinyModel
from tests.support.vllm_server import FakeVllm, Reply, serving

ASKED: Any = [{"role": "user", "content": "一个英雄"}]
BOS, EOS, TURN_END = 2, 1, 6
KEY = "a-key-of-vllm"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"FABULA_ENGINE_SERVE": " Llama "}, None),
        ({"FABULA_ENGINE_SERVE": "vllm"}, VllmSettings(None)),
        (
            {"FABULA_ENGINE_SERVE": "VLLM", "FABULA_VLLM_ARGS": "--dtype half --x 'a b'"},
            VllmSettings(None, "", ("--dtype", "half", "--x", "a b")),
        ),
        ({"FABULA_ENGINE_SERVE": "http://gpu:8000/v1/"}, VllmSettings("http://gpu:8000")),
        ({"FABULA_ENGINE_SERVE": "https://gpu"}, VllmSettings("https://gpu")),
    ],
)
def test_the_settings_name_what_generates_texts(environ: dict[str, str], expected: VllmSettings | None) -> None:
    assert serve_settings.vllm(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"FABULA_ENGINE_SERVE": "tgi"}, "FABULA_ENGINE_SERVE: 'tgi'"),
        ({"FABULA_ENGINE_SERVE": "http://gpu:8000/api"}, "neither 'llama'"),
        ({"FABULA_ENGINE_SERVE": "http://user:secret@gpu"}, "neither 'llama'"),
        ({"FABULA_ENGINE_SERVE": "vllm", "FABULA_VLLM_ARGS": "'open"}, "FABULA_VLLM_ARGS"),
        ({"FABULA_ENGINE_SERVE": "http://gpu", "FABULA_VLLM_KEY_FILE": "/no/such/file"}, "FABULA_VLLM_KEY_FILE"),
    ],
)
def test_a_malformed_setting_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve_settings.vllm(environ)


def test_without_the_program_the_engine_says_what_is_missing(tmp_path: Path) -> None:
    environ = {**os.environ, "FABULA_ENGINE_SERVE": "vllm", "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "core.engine", "--no-auth", "--port", "0", "--home", str(tmp_path / "home")]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 3
    assert "needs the program vllm in the PATH" in ended.stderr


# --- a server that runs already ---------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def port() -> int:
    return _free_port()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[EngineUnderTest]:
    """An engine that joins the server at `port`."""
    root = tmp_path_factory.mktemp("vllm")
    (root / "key").write_text(KEY + "\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FABULA_ENGINE_SERVE", f"http://127.0.0.1:{port}")
        patched.setenv("FABULA_VLLM_KEY_FILE", str(root / "key"))
        patched.setenv("FABULA_TRAINER_PRIORITY", "normal")
        with running(root / "home") as started:
            yield started


@pytest.fixture
def vllm(port: int, engine: EngineUnderTest) -> Iterator[FakeVllm]:
    """The server; the engine finds a new one, without adapters, for each test."""
    state = FakeVllm(TINY, "/models/tiny", key=KEY)
    with serving(state, port):
        poll(lambda: _answers(engine))
        state.requests.clear()
        yield state


def _answers(engine: EngineUnderTest) -> bool:
    """After a server was gone, one request may fail before the engine looks at it again."""
    try:
        return bool(engine.client().completions.create(model=TINY, prompt="a", max_tokens=1))
    except InternalServerError:
        return False


@pytest.fixture
def client(engine: EngineUnderTest, vllm: FakeVllm) -> OpenAI:
    return engine.client(strict=False)


def _complete(client: OpenAI, **more: Any) -> Any:
    return client.completions.create(**{"model": TINY, "prompt": "奥特曼", "max_tokens": 8, **more})


def test_a_prompt_is_sent_as_the_tokens_of_llama_cpp(client: OpenAI, vllm: FakeVllm, engine: EngineUnderTest) -> None:
    made = _complete(client, temperature=0.5, top_p=0, presence_penalty=1, logit_bias={"7": 5}, seed=11, n=2)
    assert [choice.text for choice in made.choices] == ["Once upon a time"] * 2
    assert {choice.finish_reason for choice in made.choices} == {"stop"}
    with engine.http() as http:
        n_tokens = http.post("/fabula/v1/tokenize", json={"model": TINY, "text": "奥特曼"}).json()["tokens"]
    first, second = vllm.requests
    assert first["prompt"][0] == BOS and len(first["prompt"]) == n_tokens + 1 == made.usage.prompt_tokens
    assert made.usage.completion_tokens == 10  # four tokens and the one that ends the text, twice
    assert (first["seed"], second["seed"]) == (11, 12)
    assert (first["temperature"], first["presence_penalty"], first["max_tokens"]) == (0.5, 1, 8)
    assert 0 < first["top_p"] < 0.001 and first["top_k"] == -1 and first["logit_bias"] == {"7": 5}
    assert EOS in first["stop_token_ids"] and "stop" not in first


def test_without_a_limit_an_answer_may_fill_the_context(client: OpenAI, vllm: FakeVllm) -> None:
    client.chat.completions.create(model=TINY, messages=ASKED)
    (asked,) = vllm.requests
    assert asked["max_tokens"] == 512 - len(asked["prompt"])
    assert TURN_END in asked["stop_token_ids"] and "seed" not in asked


def test_a_stream_has_the_pieces_and_the_usage(client: OpenAI, vllm: FakeVllm) -> None:
    vllm.replies.append(Reply(("Once", " upon", " a", " time"), "length"))
    chunks = list(_complete(client, stream=True, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(texts) == "Once upon a time" and len(texts) >= 4
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 4


@pytest.mark.parametrize(
    ("stop", "text"), [(" upon a", "Once"), ("e up", "Onc"), (["time", "n a"], "Once upo"), ("never", None)]
)
def test_stop_strings_end_a_text_as_with_llama_cpp(client: OpenAI, stop: Any, text: str | None) -> None:
    choice = _complete(client, stop=stop).choices[0]
    assert (choice.text, choice.finish_reason) == (text or "Once upon a time", "stop")


def test_tokens_have_log_probabilities(client: OpenAI, vllm: FakeVllm) -> None:
    reply = Reply(("英雄", "<0xE9>", "A"))  # the second is part of a character
    shown = ["英雄", "bytes:\\xe9", "A"]
    vllm.replies.append(reply)
    found = _complete(client, logprobs=2).choices[0].logprobs
    assert found.tokens == shown and found.token_logprobs == [-0.5] * 3
    assert found.top_logprobs[0] == {"\n": -0.25, "英雄": -0.5}
    assert vllm.requests[0]["logprobs"] == 2
    vllm.replies.append(reply)
    chat = client.chat.completions.create(model=TINY, messages=ASKED, logprobs=True, top_logprobs=1)
    content = chat.choices[0].logprobs and chat.choices[0].logprobs.content
    assert content and [(one.token, bytes(one.bytes or ())) for one in content] == list(
        zip(shown, ("英雄".encode(), b"\xe9", b"A"), strict=True)
    )
    assert [(top.token, top.logprob) for top in content[0].top_logprobs] == [("\n", -0.25)]


def test_an_echo_begins_with_the_prompt_and_its_probabilities(client: OpenAI, vllm: FakeVllm) -> None:
    vllm.replies.append(Reply(("A", "B")))
    choice = _complete(client, echo=True, logprobs=1).choices[0]
    assert choice.text == "奥特曼AB"
    assert choice.logprobs.tokens == ["奥特曼", "A", "B"]  # without the token that begins every text
    assert choice.logprobs.token_logprobs[0] is None


def test_a_schema_becomes_a_grammar(client: OpenAI, vllm: FakeVllm) -> None:
    vllm.replies.append(Reply(('{"a":', "1}")))
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"a": {"const": 1}}}}}
    made = client.chat.completions.create(model=TINY, messages=ASKED, response_format=form)
    assert made.choices[0].message.content == '{"a":1}'
    assert vllm.requests[0]["structured_outputs"]["grammar"].startswith("root ::=")


def test_a_call_of_a_tool_follows_its_grammar_after_its_marker(client: OpenAI, vllm: FakeVllm) -> None:
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    vllm.replies.append(Reply(("Well. ", call)))
    made = client.chat.completions.create(model=TINY, messages=ASKED, tools=[TOOL])
    calls: Any = made.choices[0].message.tool_calls
    assert [(one.function.name, one.function.arguments) for one in calls] == [("get_weather", '{"city": "Oslo"}')]
    asked = vllm.requests[0]
    form = json.loads(asked["structured_outputs"]["structural_tag"])["format"]
    assert form["triggers"] == ["<tool_call>"]
    (tag,) = form["tags"]
    root, *_ = tag["content"]["grammar"].splitlines()
    assert tag["begin"] == "<tool_call>" and root.startswith("root ::= ")
    client.chat.completions.create(model=TINY, messages=ASKED, tools=[TOOL], tool_choice="required")
    assert "grammar" in vllm.requests[1]["structured_outputs"]


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        ((400, "temperature must be lower"), 400, None, "temperature must be lower"),
        ((400, "This model's maximum context length is 5 tokens."), 400, "context_length_exceeded", "5 tokens"),
        ((400, "Failed to convert the grammar from GBNF"), 400, None, "FABULA_ENGINE_SERVE=llama"),
        ((429, "Too many requests"), 503, "engine_unavailable", "overloaded"),
        ((500, "CUDA out of memory."), 503, "engine_unavailable", "CUDA out of memory"),
        ((503, "EngineDeadError"), 503, "engine_unavailable", "EngineDeadError"),
    ],
)
def test_refusals_have_the_engines_form(
    client: OpenAI, vllm: FakeVllm, error: tuple[int, str], status: int, code: str | None, message: str
) -> None:
    vllm.replies.append(Reply((), error=error))
    with pytest.raises(APIStatusError, match=message) as caught:
        _complete(client)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert _complete(client).choices[0].text == "Once upon a time"


@pytest.mark.parametrize("reply", [Reply(("Once",), None), Reply(("Once",), None, (500, "out of memory"))])
def test_an_answer_that_breaks_off_is_an_error_and_the_text_arrives(
    client: OpenAI, vllm: FakeVllm, reply: Reply
) -> None:
    vllm.replies.append(reply)
    texts = []
    with pytest.raises(Exception, match=r"stopped working|cannot be reached"):
        for chunk in _complete(client, stream=True, stop="ce u"):
            texts.append(chunk.choices[0].text)
    assert "".join(texts) == "Once"


def test_a_prompt_that_is_too_long_for_the_server_is_refused(client: OpenAI, vllm: FakeVllm) -> None:
    with pytest.raises(BadRequestError, match="512 tokens") as caught:
        _complete(client, prompt=[7] * 600)
    assert caught.value.code == "context_length_exceeded"
    assert not vllm.requests


def test_embeddings_stay_with_llama_cpp(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model=TINY, input="a")
    assert caught.value.code == "model_not_supported"  # as without vLLM: this base is not made for them


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (FakeVllm("another-model", key=KEY), "serves another-model, not tiny-gemma"),
        (FakeVllm(TINY, key="another key"), "FABULA_VLLM_KEY_FILE"),
        (None, "cannot be reached"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_and_found_again(
    engine: EngineUnderTest, port: int, state: FakeVllm | None, message: str
) -> None:
    client = engine.client()
    with serving(FakeVllm(TINY, key=KEY), port):
        poll(lambda: _answers(engine))
    if state is None:
        with pytest.raises(InternalServerError, match=message) as caught:
            _complete(client)
    else:
        with serving(state, port):
            poll(lambda: not _answers(engine))
            with pytest.raises(InternalServerError, match=message) as caught:
                _complete(client)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
    with serving(FakeVllm(TINY, key=KEY), port):
        assert poll(lambda: _answers(engine))


# --- tuned models -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(engine: EngineUnderTest) -> str:
    """A model that was trained without a vLLM server: tokens are counted by llama.cpp."""
    client = engine.client(strict=False)
    more: Any = {"n_epochs": 1, "lora_rank": 8}
    job = client.fine_tuning.jobs.create(
        model=TINY, training_file=upload(client, pairs(4)), hyperparameters=more, suffix="v"
    )
    done = finished(client, job.id)
    assert done.status == "succeeded" and done.fine_tuned_model
    return done.fine_tuned_model


def test_an_adapter_is_loaded_once_and_again_after_a_restart(
    tuned: str, client: OpenAI, vllm: FakeVllm, port: int
) -> None:
    for _ in range(2):
        assert _complete(client, model=tuned).choices[0].text == "Once upon a time"
    (name,) = vllm.loads
    assert {asked["model"] for asked in vllm.requests} == {name}
    folder = Path(vllm.adapters[name])
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == 8 and "q_proj" in config["target_modules"]
    _complete(client)
    assert vllm.requests[-1]["model"] == TINY
    vllm.adapters.clear()  # restarted, so quickly that no request failed
    assert _complete(client, model=tuned, echo=True, logprobs=1).choices[0].text.endswith("Once upon a time")
    assert vllm.loads == [name, name]


@pytest.mark.parametrize("is_tuned", [False, True])
def test_a_request_without_a_token_yet_survives_a_crash(
    tuned: str, client: OpenAI, vllm: FakeVllm, is_tuned: bool
) -> None:
    model = tuned if is_tuned else TINY
    assert _complete(client, model=model).choices[0].text == "Once upon a time"
    vllm.replies.append(Reply((), None))
    assert _complete(client, model=model).choices[0].text == "Once upon a time"
    assert len(vllm.requests) == 3 and len(vllm.loads) == 2 * is_tuned


def test_a_request_that_meets_a_server_which_is_about_to_end_is_sent_again(client: OpenAI, vllm: FakeVllm) -> None:
    assert _complete(client).choices[0].text == "Once upon a time"
    vllm.healthy = False
    vllm.replies.append(Reply((), error=(500, "EngineCore encountered an issue.")))
    assert _complete(client).choices[0].text == "Once upon a time"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates_adapters": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ({"max_lora_rank": 4}, "LoRA rank 8 is greater than max_lora_rank 4"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_is_an_error_with_the_reason(
    tuned: str, client: OpenAI, vllm: FakeVllm, changes: dict[str, Any], message: str
) -> None:
    for name, value in changes.items():
        setattr(vllm, name, value)
    with pytest.raises(InternalServerError, match=message) as caught:
        _complete(client, model=tuned)
    assert caught.value.status_code == 503
    assert _complete(client).choices[0].text == "Once upon a time"


def test_a_deleted_model_is_unloaded_and_its_folder_deleted(tuned: str, client: OpenAI, vllm: FakeVllm) -> None:
    _complete(client, model=tuned)
    ((name, path),) = vllm.adapters.items()
    client.models.delete(tuned)
    poll(lambda: name not in vllm.adapters and not Path(path).exists())
    with pytest.raises(APIStatusError) as caught:
        _complete(client, model=tuned)
    assert caught.value.code == "model_not_found"


def test_an_adapter_that_was_made_for_another_base_is_refused(
    tuned: str, engine: EngineUnderTest, tmp_path: Path
) -> None:
    file = TinyModel("qwen3").write(tmp_path / "other.gguf")
    other = BaseModel("other", file, gguf_file.model_card(file))
    adapter = next((engine.home / "adapters").glob(f"*{tuned.rpartition(':')[2]}*"))
    folders = VllmFolders(tmp_path / "home")
    with pytest.raises(ApiError) as caught:
        folders.of_adapter(other, adapter)
    assert caught.value.status == 503 and "does not fit this base model" in str(caught.value)
    assert folders.adapters(adapter) == []


def test_a_server_behind_https_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, certificate = tls_proxy.authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    with (
        serving(FakeVllm(TINY, "/models/tiny")) as plain,
        tls_proxy.running(certificate, urlsplit(plain).port or 0) as address,
    ):
        monkeypatch.setenv("FABULA_ENGINE_SERVE", address)
        with running(tmp_path / "home") as engine:
            assert _complete(engine.client()).choices[0].text == "Once upon a time"


def test_the_lines_of_a_batch_are_answered_together(client: OpenAI, vllm: FakeVllm) -> None:
    vllm.together = threading.Barrier(20)  # each answer waits until twenty are asked for
    lines = [
        json.dumps({"custom_id": str(n), "method": "POST", "url": "/v1/completions",
                    "body": {"model": TINY, "prompt": "a", "max_tokens": 9}})
        for n in range(40)
    ]  # fmt: skip
    file = client.files.create(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    poll(lambda: client.batches.retrieve(batch.id).status == "completed")
    counts = client.batches.retrieve(batch.id).request_counts
    assert counts is not None and (counts.completed, counts.failed) == (40, 0)


def test_a_removed_base_leaves_no_converted_folder(
    client: OpenAI, vllm: FakeVllm, engine: EngineUnderTest, tmp_path: Path
) -> None:
    home, file = engine.home, TinyModel("qwen3").write(tmp_path / "mine.gguf")
    with engine.http() as http:
        base = http.post("/fabula/v1/bases", json={"source": "file", "path": str(file)}).json()["id"]
        poll(lambda: http.get(f"/fabula/v1/bases/{base}").json()["state"] == "ready")
        record = json.loads((home / "bases" / base / "record.json").read_text())
        written = [weights.cache_dir(Path(record["gguf"]), home), weights.vllm_dir(Path(record["gguf"]), home)]
        for folder in written:
            folder.mkdir(parents=True)
        assert http.delete(f"/fabula/v1/bases/{base}").status_code == 200
        assert not any(folder.exists() for folder in written)


def test_a_removed_base_leaves_the_converted_folder_of_another_base_with_the_same_file(tmp_path: Path) -> None:
    file = TinyModel("qwen3").write(tmp_path / "mine.gguf")
    environ = {"FABULA_ENGINE_MODELS": f"same={file}"}
    models = ModelCatalogue(tmp_path, environ, EngineStore(tmp_path / "engine.db"), BaseLibrary(tmp_path, {}, 1))
    assert models.converted(BaseRecord("mine", "file", str(file), 0, gguf=str(file))) == []
    alone = TinyModel("qwen3").write(tmp_path / "alone.gguf")
    assert len(models.converted(BaseRecord("alone", "file", str(alone), 0, gguf=str(alone)))) == 2
    assert models.converted(BaseRecord("gone", "file", "", 0)) == []


# --- a server that the engine starts ----------------------------------------------------------------------------------


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program `vllm` writes what it was started with."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.support.vllm_server "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("VLLM_TEST_NOTE", str(tmp_path / "note"))
    monkeypatch.setenv("FABULA_ENGINE_SERVE", "vllm")
    return tmp_path / "note"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_started_server_is_started_again_and_ends_with_the_engine(
    note: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABULA_VLLM_ARGS", "--gpu-memory-utilization 0.5")
    with running(tmp_path / "home") as engine:
        client = engine.client()
        assert _complete(client).choices[0].text == "Once upon a time"
        first = json.loads(note.read_text())
        assert first["arguments"][-2:] == ["--gpu-memory-utilization", "0.5"] and "--enable-lora" in first["arguments"]
        assert first["environ"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
        watcher = int(Path(f"/proc/{first['pid']}/stat").read_text().rpartition(")")[2].split()[1])  # ends with it
        os.kill(first["pid"], signal.SIGKILL)
        poll(lambda: not _is_running(watcher))
        assert _complete(client).choices[0].text == "Once upon a time"  # the first request waits for the next server
        last = json.loads(note.read_text())["pid"]
        assert last != first["pid"] and _is_running(last)
        engine.kill()
        poll(lambda: not _is_running(last))


def test_a_server_is_replaced_when_another_base_is_asked_for(note: Path, tmp_path: Path) -> None:
    engine = EngineUnderTest(tmp_path / "home")
    engine.models += f",other={TinyModel('qwen3').write(tmp_path / 'other.gguf')}"
    engine.start()
    try:
        client = engine.client()
        pids = []
        for model in (TINY, "other", TINY):
            assert client.completions.create(model=model, prompt="a", max_tokens=9).choices[0].text
            started = json.loads(note.read_text())
            assert model in started["arguments"]
            pids.append(started["pid"])
        assert len(set(pids)) == 3
        poll(lambda: [_is_running(pid) for pid in pids] == [False, False, True])
    finally:
        engine.stop()


def test_a_base_that_is_removed_while_its_server_starts_stops_the_start(
    note: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABULA_VLLM_ARGS", "--slow")
    file = TinyModel("qwen3").write(tmp_path / "mine.gguf")
    with running(tmp_path / "home") as engine, engine.http() as http, ThreadPoolExecutor() as threads:
        base = http.post("/fabula/v1/bases", json={"source": "file", "path": str(file)}).json()["id"]
        poll(lambda: http.get(f"/fabula/v1/bases/{base}").json()["state"] == "ready")
        asked = threads.submit(engine.client().completions.create, model=base, prompt="a", max_tokens=1)
        poll(note.exists)
        pid = json.loads(poll(note.read_text))["pid"]
        assert http.delete(f"/fabula/v1/bases/{base}").status_code == 200
        with pytest.raises(NotFoundError):
            asked.result()
        poll(lambda: not _is_running(pid))


def test_a_server_that_does_not_start_is_an_error_with_its_last_line(
    note: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABULA_VLLM_ARGS", "--fail")
    with running(tmp_path / "home") as engine, pytest.raises(InternalServerError, match="no GPU was found") as caught:
        _complete(engine.client())
    assert caught.value.status_code == 503


_WORKER = "(Worker pid=7) ERROR 12-01 17:08:27 [multiproc_executor.py:1063] "
_INITIALISED = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((), "–"),
        (("vllm serve: error: argument --dtype: invalid choice: 'x'",), "vllm serve: error: argument --dtype: "),
        (
            (
                _WORKER + "Traceback (most recent call last):",
                _WORKER + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.",
                "(EngineCore pid=6) ERROR 12-01 17:08:27 [core.py:1510] RuntimeError: Worker failed with error 'CUDA'",
                _INITIALISED,
                "/usr/lib/python3/multiprocessing/resource_tracker.py:254: UserWarning: 1 leaked shared_memory object",
                "  warnings.warn('resource_tracker: There appear to be %d '",
            ),
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.",
        ),
        (
            (
                "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
                "  Value error, max_model_len (9) is greater than 8. [type=value_error, input_value=Args()]",
                "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
            ),
            "max_model_len (9) is greater than 8.",
        ),
        (
            ("(APIServer pid=9) WARNING 12-01 17:08:15 [utils.py:255] OSError: too many open files", "Killed"),
            "Killed",
        ),
    ],
)
def test_the_reason_of_an_end_is_the_first_cause(lines: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("\n".join(lines))
    assert vllm_log.reason(tmp_path / "server.log").startswith(reason)
