"""Runs a real engine process on a tiny model for tests: start, call with the official SDK, kill, restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.support.tiny_gemma import write_tiny_gemma

ROOT = Path(__file__).parents[2]
TOKEN = "a token for tests"
TINY = "tiny-gemma"
DEADLINE_S = 600.0  # generous: the trainer only gets idle CPU time, and a busy machine has little
OVER = ("succeeded", "failed", "cancelled")

T = TypeVar("T")


class EngineUnderTest:
    """Runs `python -m core.engine` on `home` with the tiny model; `base` may be another model file.

    Attributes:
        models: FABULA_ENGINE_MODELS of the next start.
        module: the program that is started.
    """

    module = "core.engine"

    def __init__(self, home: Path, base: Path | None = None, *arguments: str) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        if base is None:
            base = home.parent / "tiny.gguf"
            if not base.exists():
                write_tiny_gemma(base)
        self.models = f"{TINY}={base}"
        self._arguments = arguments or ("--no-warm-up",)
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the engine and wait for its first line of output."""
        environ = {**os.environ, "FABULA_ENGINE_TOKEN": TOKEN, "FABULA_ENGINE_MODELS": self.models}
        command = [sys.executable, "-m", self.module, "--port", "0", "--home", str(self.home), *self._arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Fabula engine"), line
        self.url = line.split()[-1]
        poll(self._answers)

    def stop(self) -> None:
        """Stop the engine with SIGTERM."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """Kill the engine with kill -9."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def client(self, *, strict: bool = True, token: str = TOKEN) -> OpenAI:
        """A client from the official SDK; `strict` rejects every response that does not match OpenAI's schema."""
        return OpenAI(
            base_url=self.url, api_key=token, max_retries=0, timeout=DEADLINE_S, _strict_response_validation=strict
        )

    def http(self) -> httpx2.Client:
        """A plain HTTP client with the right token, for requests that the SDK would not send."""
        root = self.url.removesuffix("/v1")
        headers = {"authorization": f"Bearer {TOKEN}"}
        return httpx2.Client(base_url=root, headers=headers, timeout=DEADLINE_S, trust_env=False)

    def _answers(self) -> bool:
        try:
            return self.http().get("/health").status_code == 200
        except httpx2.TransportError:
            assert self.process is not None
            assert self.process.poll() is None, "the engine ended"
            return False


@contextmanager
def running(home: Path, base: Path | None = None, *arguments: str) -> Iterator[EngineUnderTest]:
    """Run an engine for the duration of a block."""
    engine = EngineUnderTest(home, base, *arguments)
    engine.start()
    try:
        yield engine
    finally:
        assert engine.process is not None
        if engine.process.poll() is None:
            engine.stop()


def poll(look: Callable[[], T | None], every_s: float = 0.1) -> T:
    """Poll until there is a result; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(every_s)
    return seen


def pairs(count: int, length: int = 8) -> bytes:
    """Create a training file of `count` small prompt/completion lines."""
    lines = ({"prompt": f"唐,隐形,{n} ->", "completion": f" {'英雄' * length}{n}。"} for n in range(count))
    return jsonl(list(lines))


def chats(count: int) -> bytes:
    """Create a training file of `count` small conversations."""
    return jsonl(
        [
            {"messages": [{"role": "user", "content": f"唐 {n}"}, {"role": "assistant", "content": f"英雄 {n}。"}]}
            for n in range(count)
        ]
    )


def preferences(count: int) -> bytes:
    """Create a training file of `count` small preferences."""

    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return jsonl(
        [
            {
                "input": {"messages": [{"role": "user", "content": f"唐 {n}"}]},
                "preferred_output": answer(f"英雄 {n}。"),
                "non_preferred_output": answer(f"怪兽 {n}！怪兽！"),
            }
            for n in range(count)
        ]
    )


def jsonl(rows: Sequence[object]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def upload(client: OpenAI, content: bytes, name: str = "stories.jsonl") -> str:
    """Upload a training file and return its id."""
    return client.files.create(file=(name, content), purpose="fine-tune").id


def finished(client: OpenAI, job_id: str) -> FineTuningJob:
    """Wait for the job to end and return it. Use a non-strict client: the SDK's type lacks `paused`."""

    def look() -> FineTuningJob | None:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in OVER else None

    return poll(look)


def steps(csv: str) -> list[int]:
    """The step column of a result file."""
    return [int(line.split(",")[0]) for line in csv.splitlines()[1:]]
