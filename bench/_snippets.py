"""Executes the programs that the page Move shows for each SDK (`core.migrate.snippets`), for `bench.conformance`.

Each program runs as it is shown, with the packages that its SDK needs in an environment of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench._engine import RunningEngine
from core.migrate import snippets
from core.migrate.snippets import TOKEN_VARIABLE, Snippet
from tests.support.client_environment import NoClient, node_with, python_with

_PROGRAM_S = 600.0  # imports and one answer
_LAST_CHARS = 300  # of an error


def run_all(engine: RunningEngine, model: str, packages: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Run every program, and return what happened by SDK: `answered`, or the error.

    Args:
        packages: the packages of each SDK; none for one that needs nothing.
    """
    results = {}
    for one in snippets.snippets(f"{engine.url}/v1", model):
        if one.sdk in packages:
            results[one.sdk] = _run(one, engine, packages[one.sdk])
            print(f"{one.sdk}: {results[one.sdk]}", flush=True)
    return results


def _run(snippet: Snippet, engine: RunningEngine, packages: tuple[str, ...]) -> str:
    program = engine.home / ("program.mjs" if snippet.language == "javascript" else "program")
    try:
        if snippet.language == "javascript":
            program = node_with(*packages) / "snippet.mjs"
            command = ["node", str(program)]
        elif snippet.language == "bash":
            command = ["bash", str(program)]
        else:
            command = [str(python_with(*packages) if packages else Path(sys.executable)), str(program)]
    except NoClient as exc:
        return str(exc)
    program.write_text(snippet.code, encoding="utf-8")
    environ = {**os.environ, TOKEN_VARIABLE: engine.token}
    done = subprocess.run(
        command, env=environ, cwd=program.parent, capture_output=True, text=True, check=False, timeout=_PROGRAM_S
    )
    if done.returncode == 0 and done.stdout.strip():
        return "answered"
    return f"code {done.returncode}: {(done.stderr or done.stdout).strip()[-_LAST_CHARS:]}"
