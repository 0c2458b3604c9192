"""curl, with the commands of OpenAI's documentation: only the address and the key differ."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, EMBEDDING, INSTRUCT, KEY, TRAINED, URL, WEATHER, method

_JSON = '-H "Content-Type: application/json" '
_FUNCTION = {"name": "get_current_weather", "description": "The current weather", "parameters": WEATHER}


def _curl(command: str, folder: Path | None = None) -> str:
    """Run a command of the documentation; return what it prints."""
    words = shlex.split(command.replace("https://api.openai.com/v1", URL).replace("$OPENAI_API_KEY", KEY))
    done = subprocess.run([*words, "-sS", "--fail-with-body"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _call(path: str, body: dict[str, Any] | None = None, options: str = "") -> Any:
    """Call a path as the documentation does: with a body, or with GET."""
    data = "" if body is None else f"-d {shlex.quote(json.dumps(body))}"
    command = f'curl https://api.openai.com/v1/{path} {_JSON} -H "Authorization: Bearer $OPENAI_API_KEY" {data}'
    printed = _curl(f"{command} {options}")
    return printed if (body or {}).get("stream") or "/content" in path else json.loads(printed)


@method("models")
def models() -> None:
    listed = json.loads(_curl('curl https://api.openai.com/v1/models -H "Authorization: Bearer $OPENAI_API_KEY"'))
    assert CHAT in {model["id"] for model in listed["data"]}
    assert _call(f"models/{CHAT}")["object"] == "model"


@method("chat")
def chat() -> None:
    messages = [
        {"role": "developer", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello!"},
    ]
    answer = _call("chat/completions", {"model": CHAT, "messages": messages, "max_completion_tokens": 8})
    assert answer["choices"][0]["message"]["content"]
    lines = _call("chat/completions", {"model": CHAT, "messages": messages, "stream": True, "max_tokens": 8})
    assert lines.startswith("data: {")
    assert lines.rstrip().endswith("data: [DONE]")


@method("structured output")
def structured() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "weather", "strict": True, "schema": WEATHER}}
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = _call("chat/completions", {"model": CHAT, "messages": messages, "response_format": form, "temperature": 0})
    _methods.is_weather(answer["choices"][0]["message"]["content"])


@method("tools")
def tools() -> None:
    body = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "What is the weather like in Boston today?"}],
        "tools": [{"type": "function", "function": _FUNCTION}],
        "tool_choice": {"type": "function", "function": {"name": "get_current_weather"}},
        "temperature": 0,
    }
    call = _call("chat/completions", body)["choices"][0]["message"]["tool_calls"][0]
    assert call["function"]["name"] == "get_current_weather"
    _methods.is_weather(call["function"]["arguments"])


@method("completions")
def completions() -> None:
    body = {"model": INSTRUCT, "prompt": "Say this is a test", "max_tokens": 7, "temperature": 0}
    assert _call("completions", body)["object"] == "text_completion"


@method("embeddings")
def embeddings() -> None:
    body = {"input": "The food was delicious and the waiter...", "model": EMBEDDING, "encoding_format": "float"}
    assert _call("embeddings", body)["data"][0]["object"] == "embedding"


@method("responses")
def responses() -> None:
    body: dict[str, Any] = {"model": CHAT, "input": "Tell me a bedtime story.", "max_output_tokens": 16}
    made = _call("responses", body)
    assert made["output"][0]["content"][0]["text"]
    assert _call(f"responses/{made['id']}")["id"] == made["id"]
    lines = _call("responses", {**body, "instructions": "You are a helpful assistant.", "stream": True})
    assert lines.startswith("event: response.created")
    assert _call(f"responses/{made['id']}", options="-X DELETE")["deleted"]


def _upload(rows: list[dict[str, Any]] | None, purpose: str) -> str:
    path = _methods.training_file(rows)
    command = 'curl https://api.openai.com/v1/files -H "Authorization: Bearer $OPENAI_API_KEY"'
    made = json.loads(_curl(f'{command} -F purpose="{purpose}" -F file="@{path.name}"', path.parent))
    return str(made["id"])


@method("files")
def files() -> None:
    file_id = _upload(None, "fine-tune")
    assert file_id in {file["id"] for file in _call("files")["data"]}
    assert _call(f"files/{file_id}")["filename"] == "stories.jsonl"
    assert _call(f"files/{file_id}/content").startswith('{"messages"')
    assert _call(f"files/{file_id}", options="-X DELETE")["deleted"]


@method("fine-tuning")
def fine_tuning() -> None:
    method_of = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 5}}}
    made = _call(
        "fine_tuning/jobs", {"training_file": _upload(None, "fine-tune"), "model": TRAINED, "method": method_of}
    )
    job = _methods.ended(lambda: _call(f"fine_tuning/jobs/{made['id']}"))
    assert _call("fine_tuning/jobs?limit=2&metadata[key]=value", options="-g")["object"] == "list"
    assert _call(f"fine_tuning/jobs/{made['id']}/events")["data"]
    assert _call(f"fine_tuning/jobs/{made['id']}/checkpoints")["data"]
    assert _call(f"models/{job['fine_tuned_model']}", options="-X DELETE")["deleted"]


@method("fine-tuning cancel")
def fine_tuning_cancel() -> None:
    made = _call("fine_tuning/jobs", {"training_file": _upload(None, "fine-tune"), "model": TRAINED})
    assert _call(f"fine_tuning/jobs/{made['id']}/cancel", options="-X POST")["status"] == "cancelled"


@method("uploads")
def uploads() -> None:
    path = _methods.training_file()
    size = path.stat().st_size
    made = _call("uploads", {"purpose": "fine-tune", "filename": "a.jsonl", "bytes": size, "mime_type": "text/jsonl"})
    command = f'curl https://api.openai.com/v1/uploads/{made["id"]}/parts -H "Authorization: Bearer $OPENAI_API_KEY"'
    part = json.loads(_curl(f'{command} -F data="@{path.name}"', path.parent))
    done = _call(f"uploads/{made['id']}/complete", {"part_ids": [part["id"]]})
    assert done["file"]["bytes"] == size


@method("batches")
def batches() -> None:
    body = {"model": CHAT, "messages": [{"role": "user", "content": "Hello world!"}], "max_tokens": 4}
    row = {"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    order = {
        "input_file_id": _upload([row], "batch"),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    made = _call("batches", order)
    over = ("completed", "failed", "expired", "cancelled")
    done = _methods.wait_for(lambda: _call(f"batches/{made['id']}"), lambda batch: batch["status"] in over)
    assert done["status"] == "completed"
    assert json.loads(_call(f"files/{done['output_file_id']}/content"))["custom_id"] == "request-1"
    assert _call("batches?limit=2")["data"][0]["id"] == made["id"]


if __name__ == "__main__":
    version = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    _methods.run("curl", version)
