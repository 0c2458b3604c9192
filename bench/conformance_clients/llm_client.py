"""Simon Willison's `llm` command, with the models in its `extra-openai-models.yaml`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import CHAT, INSTRUCT, KEY, URL, WEATHER, method

_HOME = Path(tempfile.mkdtemp())
_SHARED = f"  api_base: {URL}\n  api_key_name: fabula\n"
_MODELS = f"""
- model_id: chat
  model_name: {CHAT}
  supports_schema: true
  supports_tools: true
{_SHARED}
- model_id: responses
  model_name: {CHAT}
  responses: true
  supports_schema: true
  supports_tools: true
{_SHARED}
- model_id: completion
  model_name: {INSTRUCT}
  completion: true
{_SHARED}
"""
_FUNCTION = 'def get_weather(city: str) -> str:\n    "The weather of a city."\n    return "21 degrees in " + city\n'


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LLM_USER_PATH": str(_HOME)}
    return subprocess.run(
        ["llm", *arguments], env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def _llm(*arguments: str) -> str:
    """Run the command; return what it prints."""
    done = _run(*arguments)
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1:]
    return done.stdout


@method("chat")
def chat() -> None:
    options = ["-o", "max_tokens", "8", "-o", "temperature", "0"]
    streamed = _llm("-m", "chat", *options, "Say this is a test.")
    assert streamed.strip()
    assert _llm("-m", "chat", "--no-stream", *options, "Say this is a test.") == streamed
    assert _llm("-c", *options, "Again.").strip()  # the same conversation


@method("system prompt")
def system_prompt() -> None:
    assert _llm("-m", "chat", "-s", "Be brief.", "-o", "max_tokens", "8", "Say this is a test.").strip()


@method("structured output")
def structured() -> None:
    options = ["-o", "temperature", "0", "--schema", json.dumps(WEATHER)]
    _methods.is_weather(_llm("-m", "chat", *options, "What is the weather in Paris?"))


@method("tools")
def tools() -> None:
    """The packaged base calls the function again and again; `llm` ends such a chain with an error."""
    limits = ["--chain-limit", "2", "-o", "max_tokens", "40", "-o", "temperature", "0"]
    done = _run("-m", "chat", "--functions", _FUNCTION, "--td", *limits, "What is the weather in Paris?")
    assert done.returncode == 0 or "Chain limit" in done.stderr, done.stderr.strip().splitlines()[-1:]
    assert "Tool call: get_weather(" in done.stderr, done.stderr
    assert "21 degrees in" in done.stderr, done.stderr


@method("completions")
def completions() -> None:
    assert _llm("-m", "completion", "-o", "max_tokens", "8", "The sky is").strip()


@method("responses")
def responses() -> None:
    options = ["-o", "temperature", "0"]
    _methods.is_weather(
        _llm("-m", "responses", *options, "--schema", json.dumps(WEATHER), "What is the weather in Paris?")
    )
    assert _llm("-m", "responses", *options, "-o", "max_tokens", "16", "Say this is a test.").strip()


if __name__ == "__main__":
    (_HOME / "extra-openai-models.yaml").write_text(_MODELS, encoding="utf-8")
    (_HOME / "keys.json").write_text(json.dumps({"fabula": KEY}), encoding="utf-8")
    _methods.run("llm")
