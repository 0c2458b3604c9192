"""Serving with vLLM itself, on a processor (`make vllmtest`): texts and probabilities beside those of llama.cpp."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from core.engine.serve_settings import PROGRAM

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
if shutil.which(PROGRAM) is None:
    pytest.skip(f"there is no program {PROGRAM} in the PATH; `make vllmtest` installs it", allow_module_level=True)

from openai import BadRequestError, InternalServerError, NotFoundError, OpenAI

from tests.support import process_tree
from tests.support.engine_process import TINY, EngineUnderTest, finished, pairs, poll, running, upload
from tests.support.tiny_folders import FAMILIES

PROMPTS = ("唐,隐形,1 ->", "the hero", "Once upon a time 12,345 🦸")
ASKED: Any = [{"role": "user", "content": "一个英雄"}]
FORM: Any = {
    "type": "object",
    "properties": {"mood": {"enum": ["glad", "sad"]}, "age": {"type": "integer", "minimum": 1, "maximum": 90}},
    "required": ["mood", "age"],
}
TOOL: Any = {"type": "function", "function": {"name": "note_mood", "parameters": FORM}}
NEAR = 0.02  # of a log-probability; llama.cpp keeps keys and values as float16
ARGUMENTS = "--dtype float32 --enforce-eager"
SIZES = {"num_attention_heads": 2, "num_key_value_heads": 1}  # vLLM's attention on processors needs heads of 32 or more


def _environ(serve: str, *arguments: str) -> dict[str, str]:
    """Of an engine. Each test begins without settings, so every start needs them."""
    return {
        "FABULA_ENGINE_SERVE": serve,
        "FABULA_VLLM_ARGS": " ".join((ARGUMENTS, *arguments)),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }


@contextmanager
def _serving(home: Path, serve: str = PROGRAM, *arguments: str) -> Iterator[EngineUnderTest]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in _environ(serve, *arguments).items():
            patched.setenv(name, value)
        with running(home) as engine:
            yield engine


def _tuned(client: OpenAI, base: str, **more: Any) -> str:
    hyperparameters: Any = {"n_epochs": 3, "learning_rate_multiplier": 5, **more}
    job = client.fine_tuning.jobs.create(
        model=base, training_file=upload(client, pairs(6)), seed=1, hyperparameters=hyperparameters
    )  # fmt: skip
    done = finished(client, job.id)
    assert done.status == "succeeded" and done.fine_tuned_model, done.error
    return done.fine_tuned_model


@dataclass(frozen=True)
class _Told:
    """What a server says about a prompt: each token and its log-probability, and what follows."""

    tokens: list[str]
    logprobs: list[float | None]
    text: str

    @classmethod
    def by(cls, client: OpenAI, model: str, prompt: str) -> _Told:
        """Ask an engine."""
        asked: Any = {"model": model, "prompt": prompt, "temperature": 0}
        read = client.completions.create(**asked, max_tokens=0, echo=True, logprobs=2).choices[0]
        text = client.completions.create(**asked, max_tokens=6).choices[0].text
        assert read.logprobs is not None and read.logprobs.tokens and read.logprobs.token_logprobs
        return cls(read.logprobs.tokens, list(read.logprobs.token_logprobs), text)


def _assert_alike(ours: _Told, theirs: _Told) -> None:
    assert ours.tokens == theirs.tokens
    assert ours.logprobs[0] is theirs.logprobs[0] is None
    assert ours.logprobs[1:] == pytest.approx(theirs.logprobs[1:], abs=NEAR)
    # llama.cpp may also drop the characters before a part of one that a random model writes
    assert ours.text == theirs.text or "\ufffd" in ours.text


@pytest.mark.parametrize("family", ["gemma3", "qwen2", "qwen3", "llama2", "llama3", "mistral", "phi3", "smollm2"])
def test_a_base_from_a_folder_and_its_tuned_model_are_those_of_llama_cpp(family: str, tmp_path: Path) -> None:
    tiny = FAMILIES[family]
    folder = replace(tiny, sizes={**SIZES, **tiny.sizes}).write(tmp_path / "model")
    with _serving(tmp_path / "home", "llama") as engine:
        client = engine.client(strict=False)
        with engine.http() as http:
            base = http.post("/fabula/v1/bases", json={"source": "folder", "path": str(folder)}).json()["id"]
            poll(lambda: http.get(f"/fabula/v1/bases/{base}").json()["state"] == "ready")
        models = (base, _tuned(client, base))
        theirs = {(model, prompt): _Told.by(client, model, prompt) for model in models for prompt in PROMPTS}
    with _serving(tmp_path / "home") as engine:
        client = engine.client(strict=False)
        for (model, prompt), told in theirs.items():
            _assert_alike(_Told.by(client, model, prompt), told)
        assert theirs[models[0], PROMPTS[0]] != theirs[models[1], PROMPTS[0]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm") / "home"


@pytest.fixture(scope="module")
def tuned(home: Path) -> str:
    with _serving(home, "llama") as engine:
        return _tuned(engine.client(strict=False), TINY)


@pytest.fixture(scope="module")
def engine(home: Path, tuned: str) -> Iterator[EngineUnderTest]:
    with _serving(home) as started:
        yield started


@pytest.fixture(params=["base", "tuned"])
def model(request: pytest.FixtureRequest, tuned: str) -> str:
    return TINY if request.param == "base" else tuned


@pytest.fixture
def client(engine: EngineUnderTest) -> OpenAI:
    return engine.client(strict=False)


def _complete(client: OpenAI, model: str, **more: Any) -> Any:
    return client.completions.create(**{"model": model, "prompt": PROMPTS[0], "max_tokens": 8, **more})


def test_a_stream_is_the_text_and_ends_at_its_limit(client: OpenAI, model: str) -> None:
    whole = _complete(client, model, temperature=0)
    chunks = list(_complete(client, model, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 8
    assert whole.choices[0].finish_reason == "length"


def test_a_seed_repeats_an_answer_and_parameters_have_an_effect(client: OpenAI, tuned: str) -> None:
    asked: Any = {"temperature": 1, "top_p": 0.9, "seed": 5}
    assert len({_complete(client, tuned, **asked).choices[0].text for _ in range(2)}) == 1
    assert len({choice.text for choice in _complete(client, tuned, temperature=2, n=4).choices}) > 1
    with_bias = _complete(client, tuned, temperature=0, logit_bias={"7": 100})
    assert with_bias.choices[0].text == "\n" * 8
    assert _complete(client, tuned, temperature=1, top_p=0).choices[0].text == (
        _complete(client, tuned, temperature=0).choices[0].text
    )


def test_a_stop_string_ends_the_text(client: OpenAI, tuned: str) -> None:
    whole = _complete(client, tuned, temperature=0).choices[0].text
    cut = _complete(client, tuned, temperature=0, stop=whole[3:5]).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(whole[3:5])], "stop")


def test_answers_follow_a_schema_and_calls_the_tools(client: OpenAI, model: str) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "mood", "schema": FORM}}
    made = client.chat.completions.create(model=model, messages=ASKED, response_format=form, max_tokens=200)
    answer = json.loads(made.choices[0].message.content or "")
    assert answer["mood"] in ("glad", "sad") and 1 <= answer["age"] <= 90
    called = client.chat.completions.create(
        model=model, messages=ASKED, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=130
    )
    calls: Any = called.choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["mood"] in ("glad", "sad") for call in calls] == [True]
    free = client.chat.completions.create(model=model, messages=ASKED, tools=[TOOL], max_tokens=20)
    assert free.choices[0].finish_reason in ("length", "stop", "tool_calls")


def test_eighty_requests_for_two_models_are_answered_together(client: OpenAI, tuned: str) -> None:
    with ThreadPoolExecutor(80) as threads:
        made = list(threads.map(lambda n: _complete(client, (TINY, tuned)[n % 2], temperature=0), range(80)))
    assert {one.usage.completion_tokens for one in made} == {8}
    assert len({one.choices[0].text for one in made}) == 2


def test_a_batch_is_answered(client: OpenAI, tuned: str) -> None:
    lines = [
        json.dumps({"custom_id": str(n), "method": "POST", "url": "/v1/completions",
                    "body": {"model": tuned, "prompt": f"唐 {n}", "max_tokens": 5}})
        for n in range(100)
    ]  # fmt: skip
    file = client.files.create(file=("lines.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    poll(lambda: client.batches.retrieve(batch.id).status == "completed")
    counts = client.batches.retrieve(batch.id).request_counts
    assert counts is not None and (counts.completed, counts.failed) == (100, 0)


def test_a_prompt_beyond_the_context_is_refused(client: OpenAI, model: str) -> None:
    with pytest.raises(BadRequestError, match="512 tokens") as caught:
        _complete(client, model, prompt=[7] * 600)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("name", ["VLLM::EngineCor", "vllm serve"])
def test_whatever_is_killed_the_next_request_is_answered(
    client: OpenAI, engine: EngineUnderTest, tuned: str, name: str
) -> None:
    _complete(client, tuned)
    for pid in _processes(engine, name):
        os.kill(pid, signal.SIGKILL)
    poll(lambda: not _processes(engine, name))
    assert _complete(client, tuned).choices[0].text  # waits until it has been started again


def test_a_killed_engine_takes_its_server_with_it_and_a_deleted_model_is_unloaded(
    engine: EngineUnderTest, home: Path, tuned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in _environ(PROGRAM).items():
        monkeypatch.setenv(name, value)
    _complete(engine.client(), tuned)
    pids = process_tree.family(engine.process.pid if engine.process else 0)[1:]
    assert _processes(engine, "VLLM::")
    engine.kill()
    poll(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
    engine.start()
    client = engine.client()
    _complete(client, tuned)
    (config,) = (home / "vllm").glob("*/adapter_config.json")
    client.models.delete(tuned)
    poll(lambda: not config.parent.exists())
    with pytest.raises(NotFoundError):
        _complete(client, tuned)
    assert _complete(client, TINY).choices[0].text


@contextmanager
def _server(folder: Path, log: Path, environ: dict[str, str]) -> Iterator[str]:
    """A vLLM server that runs already; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PROGRAM, "serve", str(folder), "--port", str(port), "--host", "127.0.0.1", "--max-model-len", "512"]
    command += ["--served-model-name", "mine", "--enable-lora", "--max-lora-rank", "8", *ARGUMENTS.split()]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **environ}, stdout=output, stderr=output)
    try:
        address = f"http://127.0.0.1:{port}"
        poll(lambda: _is_healthy(address) or process.poll() is not None)
        assert process.poll() is None, log.read_text()[-2000:]
        yield address
    finally:
        process.terminate()
        process.wait()


def _is_healthy(address: str) -> bool:
    try:
        return httpx2.get(f"{address}/health", timeout=10, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def test_a_server_that_runs_already_is_joined_with_its_key_and_says_what_it_cannot_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = replace(FAMILIES["qwen3"], sizes={**SIZES, **FAMILIES["qwen3"].sizes}).write(tmp_path / "model")
    (tmp_path / "key").write_text("a-key")
    monkeypatch.setenv("FABULA_VLLM_KEY_FILE", str(tmp_path / "key"))
    with _serving(tmp_path / "home", "llama") as engine:
        client = engine.client(strict=False)
        with engine.http() as http:
            http.post("/fabula/v1/bases", json={"source": "folder", "path": str(folder), "id": "mine"})
            poll(lambda: http.get("/fabula/v1/bases/mine").json()["state"] == "ready")
        small, large = _tuned(client, "mine", lora_rank=8), _tuned(client, "mine", lora_rank=16)
    key = {"VLLM_API_KEY": "a-key"}
    with _server(folder, tmp_path / "log", {**key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}) as address:
        with _serving(tmp_path / "home", address) as engine:
            client = engine.client()
            assert _complete(client, "mine").usage.completion_tokens and _complete(client, small).choices
            with pytest.raises(InternalServerError, match=r"rank.* 16 .*8"):
                _complete(client, large)
            assert _complete(client, small).choices
        (tmp_path / "key").write_text("another-key")
        with (
            _serving(tmp_path / "home", address) as engine,
            pytest.raises(InternalServerError, match="refused the key"),
        ):
            _complete(engine.client(), "mine")
        (tmp_path / "key").write_text("a-key")
    with _server(folder, tmp_path / "log", key) as address, _serving(tmp_path / "home", address) as engine:
        assert _complete(engine.client(), "mine").choices
        with pytest.raises(InternalServerError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            _complete(engine.client(), small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("--no-such-option 1", "no-such-option"), ("--max-model-len 100000", "max_model_len")],
)
def test_why_a_server_does_not_start_is_said(arguments: str, message: str, tmp_path: Path) -> None:
    says_why = pytest.raises(InternalServerError, match=message)
    with _serving(tmp_path / "home", PROGRAM, arguments) as engine, says_why:
        _complete(engine.client(), TINY)


def _processes(engine: EngineUnderTest, text: str) -> list[int]:
    """The engine's processes with `text` in their command lines, which vLLM replaces by titles."""
    assert engine.process is not None
    found = {pid: process_tree.command_line(pid) for pid in process_tree.family(engine.process.pid)}
    return [pid for pid, line in found.items() if text in line and "vllm_child" not in line]
