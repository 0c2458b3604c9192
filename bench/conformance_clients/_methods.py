"""The methods of one outside client: each is a small program; one JSON line per method says whether it worked.

The client's own environment runs this module, so it imports only the standard library. The address and the key are in
OPENAI_BASE_URL and OPENAI_API_KEY; every other line of a program is what one writes for OpenAI, model names included
(they are aliases, see `bench._conformance_engine`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

CHAT, INSTRUCT, EMBEDDING = "gpt-4o-mini", "gpt-3.5-turbo-instruct", "text-embedding-3-small"
TRAINED = "gpt-4o-mini-2024-07-18"
"""The model that jobs train: a tiny one, so that a job takes seconds."""
URL, KEY = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("OPENAI_API_KEY", "")
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
"""Parameters of the function that all clients offer as a tool."""

_TRAINING_S = 1800  # for one job; generous, because training only uses idle processor time
_OVER = ("succeeded", "failed", "cancelled")
_METHODS: dict[str, Callable[[], None]] = {}

T = TypeVar("T")


class ClientsOwn(Exception):
    """The client cannot do this with any server but OpenAI's; the message is the reason."""


def method(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a program under the name of what it uses. It raises an exception if that does not work."""

    def register(program: Callable[[], None]) -> Callable[[], None]:
        _METHODS[name] = program
        return program

    return register


def run(package: str, client_version: str = "") -> None:
    """Run the registered methods, or those whose names are the arguments; print the version first."""
    print(json.dumps({"version": client_version or version(package)}), flush=True)
    for name, program in _METHODS.items():
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        result: dict[str, Any] = {"method": name, "error": None, "own": False}
        started = time.monotonic()
        try:
            program()
        except ClientsOwn as exc:
            result |= {"error": str(exc), "own": True}
        except BaseException as exc:
            traceback.print_exc()
            result["error"] = _phrase(exc)
        print(json.dumps({**result, "seconds": round(time.monotonic() - started, 1)}), flush=True)


def _phrase(exc: BaseException) -> str:
    """The exception in one line; for an assertion without a message, the line that failed."""
    text = " ".join(str(exc).split())
    if not text and exc.__traceback__ is not None:
        text = traceback.extract_tb(exc.__traceback__)[-1].line or ""
    return f"{type(exc).__name__}: {text}"[:300]


def conversations(count: int = 10) -> list[dict[str, Any]]:
    """Training examples in the chat format."""
    return [
        {"messages": [{"role": "user", "content": f"hero {n}"}, {"role": "assistant", "content": f"the hero {n}."}]}
        for n in range(count)
    ]


def training_file(rows: list[dict[str, Any]] | None = None) -> Path:
    """Write a training file and return its path; 10 short conversations if no rows are given."""
    path = Path(tempfile.mkdtemp()) / "stories.jsonl"
    lines = (json.dumps(row) + "\n" for row in rows or conversations())
    path.write_text("".join(lines), encoding="utf-8")
    return path


def wait_for(look: Callable[[], T], over: Callable[[T], bool]) -> T:
    """Look until `over`.

    Raises:
        TimeoutError: half an hour has passed.
    """
    deadline = time.monotonic() + _TRAINING_S
    while not over(seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not over after {_TRAINING_S} s: {seen}")
        time.sleep(0.5)
    return seen


def ended(look: Callable[[], Any]) -> Any:
    """Look until the job has ended; return it. It must have succeeded."""
    job = wait_for(look, lambda job: status(job) in _OVER)
    assert status(job) == "succeeded", f"the job ended as {status(job)}"
    return job


def status(job: Any) -> str:
    """The status of a job, an object or a dict."""
    return str(job["status"] if isinstance(job, dict) else job.status)


def is_weather(arguments: str | dict[str, Any]) -> None:
    """Check arguments of a call against `WEATHER`."""
    called = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert set(called) == {"city", "unit"}, called
    assert isinstance(called["city"], str), called
    assert called["unit"] in ("C", "F"), called
