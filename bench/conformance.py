"""Tries outside clients on the engine, changing only `base_url` and key: `python -m bench.conformance`.

Each client runs in an environment of its own (`.venv-clients`; made on first use, `--newest` makes it again) and calls
one engine, one client after the other. The programs are in `bench/conformance_clients`. `--write-docs` puts the latest
result of each client into docs/engine.md. `--snippets` executes the code that the page Move shows for each SDK instead.
The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import _smoke, _snippets
from bench._conformance_engine import conformance_engine
from bench._conformance_table import (
    ClientResult,
    MethodResult,
    as_markdown,
    as_text,
    figures,
    in_document,
    own_line,
    restored,
    stored,
)
from bench._engine import RunningEngine
from bench.conformance_clients._methods import CHAT
from core import packaged_models
from tests.support.client_environment import NoClient, forget, node_with, python_with

_ROOT = Path(__file__).resolve().parents[1]
_PROGRAMS = _ROOT / "bench" / "conformance_clients"
_DOCUMENT = _ROOT / "docs" / "engine.md"
_RESULTS = _ROOT / ".venv-clients" / "results.json"
_CLIENT_S = 3600  # for all methods of one client


@dataclass(frozen=True)
class Client:
    """An outside client.

    Attributes:
        program: its program's file; `.mjs` runs with Node, `.py` with the environment's Python.
        requirements: packages of its environment; none: our own Python runs the program.
    """

    name: str
    program: str
    requirements: tuple[str, ...] = ()


# The newest versions of the Node packages need Node 22; these are the last ones for Node 20.
_OPENAI_NODE, _VERCEL = ("openai@^6", "zod"), ("ai@^6", "@ai-sdk/openai@^3", "zod")
_LLAMA_INDEX = ("llama-index-llms-openai-like", "llama-index-embeddings-openai-like")
CLIENTS = (
    Client("openai-python", "openai_now.py", ("openai",)),
    Client("openai-python of 2023", "openai_of_2023.py", ("openai==0.27.0", "numpy")),
    Client("OpenAI Node SDK", "openai_node.mjs", _OPENAI_NODE),
    Client("LiteLLM", "litellm_client.py", ("litellm",)),
    Client("langchain-openai", "langchain_client.py", ("langchain-openai",)),
    Client("LlamaIndex", "llama_index_client.py", _LLAMA_INDEX),
    Client("Instructor", "instructor_client.py", ("instructor",)),
    Client("Pydantic AI", "pydantic_ai_client.py", ("pydantic-ai-slim[openai]",)),
    Client("Vercel AI SDK", "vercel_ai.mjs", _VERCEL),
    Client("llm", "llm_client.py", ("llm",)),
    Client("DSPy", "dspy_client.py", ("dspy",)),
    Client("W&B sync", "wandb_client.py", ("wandb", "openai", "numpy", "pandas")),
    Client("curl", "curl_client.py"),
)
# The SDKs of the page Move, with the packages that their code needs.
SNIPPET_PACKAGES = {
    "OpenAI Python": ("openai",),
    "OpenAI Node": _OPENAI_NODE,
    "curl": (),
    "LangChain": ("langchain-openai",),
    "LlamaIndex": _LLAMA_INDEX,
    "Vercel AI SDK": _VERCEL,
    "LiteLLM": ("litellm",),
}


def main() -> None:
    """Run the clients, then print the table and one line of JSON."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the engine does not keep running
    chosen = [client for client in CLIENTS if not options.clients or client.name in options.clients]
    results: list[ClientResult] = []
    if options.snippets:
        with tempfile.TemporaryDirectory() as folder, conformance_engine(Path(folder), options.model) as engine:
            print(json.dumps(_snippets.run_all(engine, CHAT, SNIPPET_PACKAGES)))
        return
    with tempfile.TemporaryDirectory() as folder, conformance_engine(Path(folder), options.model) as engine:
        for client in chosen:
            if options.newest:
                forget(*client.requirements)
            print(f"{client.name}:", flush=True)
            results.append(tried(client, engine, Path(folder), options.methods))
            _keep(results[-1], only_some=bool(options.methods))
    print("\n" + as_text(results))
    if options.write_docs:
        _DOCUMENT.write_text(in_document(_DOCUMENT.read_text("utf-8"), as_markdown(_kept())), encoding="utf-8")
    print(json.dumps(figures(results)))


def _keep(result: ClientResult, *, only_some: bool) -> None:
    """Keep a client's latest result, so that the table can be written without trying all clients again."""
    kept = {one.client: one for one in _kept()}
    earlier = kept.get(result.client)
    kept[result.client] = earlier.updated(result) if only_some and earlier is not None else result
    _RESULTS.write_text(stored(list(kept.values())), encoding="utf-8")


def _kept() -> list[ClientResult]:
    """The latest result of each client, in the order of `CLIENTS`."""
    results = restored(_RESULTS.read_text("utf-8")) if _RESULTS.is_file() else []
    names = [client.name for client in CLIENTS]
    return sorted((one for one in results if one.client in names), key=lambda one: names.index(one.client))


def tried(client: Client, engine: RunningEngine, home: Path, methods: Sequence[str] = ()) -> ClientResult:
    """Run a client's program, or only some of its methods, and read its lines.

    Args:
        home: the program's home directory, for the client's caches and settings.
    """
    url, date = f"{engine.url}/v1", datetime.now(UTC).date().isoformat()
    try:
        command = _command(client)
    except NoClient as exc:
        return ClientResult(client.name, "", (), str(exc), date)
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "HOME": str(home), "PYTHONIOENCODING": "utf-8"}
    # OPENAI_API_BASE is the older name
    environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": engine.token}
    version, seen = "", []
    with subprocess.Popen(
        [*command, *methods], cwd=_ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        limit = threading.Timer(_CLIENT_S, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            for row in filter(None, map(own_line, process.stdout)):
                version = row.get("version", version)
                if "method" in row:
                    seen.append(MethodResult(row["method"], row["error"], row["own"]))
                    print(f"  {row['seconds']:>6.1f} s  {row['method']}: {row['error'] or 'passed'}", flush=True)
        except BaseException:  # the bench itself is being stopped
            process.kill()
            raise
        finally:
            limit.cancel()
    error = f"it ended with code {process.returncode}" if process.returncode else None
    return ClientResult(client.name, version, tuple(seen), error, date)


def _command(client: Client) -> list[str]:
    """The command that runs a client's program. Raises NoClient."""
    if client.program.endswith(".mjs"):
        folder = node_with(*client.requirements)
        for script in _PROGRAMS.glob("*.mjs"):  # Node looks for packages next to the script
            shutil.copy(script, folder)
        return [shutil.which("node") or "node", str(folder / client.program)]
    python = python_with(*client.requirements) if client.requirements else Path(sys.executable)
    return [str(python), "-m", f"bench.conformance_clients.{Path(client.program).stem}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", nargs="*", choices=[client.name for client in CLIENTS], help="only these")
    parser.add_argument("--methods", nargs="*", default=[], help="only these methods; the others keep their results")
    parser.add_argument("--model", default=packaged_models.BASE, help="chat model; tiny-gemma: a fast random one")
    parser.add_argument("--newest", action="store_true", help="install the clients again")
    parser.add_argument("--snippets", action="store_true", help="execute the code of the page Move instead")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/engine.md")
    return _smoke.parse(parser, start=_all_programs_are_there)


def _all_programs_are_there() -> None:
    missing = [client.program for client in CLIENTS if not (_PROGRAMS / client.program).is_file()]
    if missing:
        raise FileNotFoundError(", ".join(missing))


if __name__ == "__main__":
    main()
