"""Measures bespokelabs-curator for comparison, in a separate virtual environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench._runs import IN_FLIGHT

_PACKAGE = "bespokelabs-curator"
_MOST_S = 1_200  # time limit for installing it, or for one measurement

# Script that runs in curator's own interpreter, without our packages.
_SCRIPT = """
import json, os, sys, time
from importlib.resources import files

# tiktoken would download its vocabularies; litellm, which curator needs, has them in its package
os.environ["TIKTOKEN_CACHE_DIR"] = str(files("litellm.litellm_core_utils.tokenizers"))

from bespokelabs import curator

url, requests, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Writer(curator.LLM):
    def prompt(self, row):
        return row["prompt"]

    def parse(self, row, response):
        return {"prompt": row["prompt"], "story": response}


limits = {
    "base_url": url + "/v1",
    "api_key": "key",
    "max_concurrent_requests": in_flight,
    "max_requests_per_minute": 10_000_000,
    "max_tokens_per_minute": 10_000_000_000,
    "require_all_responses": True,
}
writer = Writer(model_name="gpt-4o-mini", backend="openai", backend_params=limits)
rows = [{"prompt": f"Tell story number {number}."} for number in range(requests)]
wall, cpu = time.perf_counter(), time.process_time()
written = writer(rows)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
data = getattr(written, "dataset", written)
assert len(data) == requests, len(data)
print(json.dumps({"rps": requests / wall, "cpu_us": cpu / requests * 1e6, "wall_s": wall}))
"""


def python(venv: Path) -> str | None:
    """Return the interpreter of curator's environment, created if missing; None and the reason if that fails."""
    interpreter = venv / "bin" / "python"
    try:
        if not (venv / "ready").is_file():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=_MOST_S)
            install = [str(interpreter), "-m", "pip", "install", "--quiet", _PACKAGE]
            subprocess.run(install, check=True, timeout=_MOST_S)
            (venv / "ready").touch()
        check = [str(interpreter), "-c", "from bespokelabs import curator"]
        subprocess.run(check, check=True, timeout=_MOST_S, capture_output=True)
    except (subprocess.SubprocessError, OSError) as exc:
        print(f"curator is left out: {exc}")
        return None
    return str(interpreter)


def measure(interpreter: str, url: str, home: Path, requests: int) -> dict[str, float]:
    """Measure curator's requests per second and CPU time per request."""
    home.mkdir(parents=True, exist_ok=True)
    quiet = {"CURATOR_CACHE_DIR": str(home), "CURATOR_DISABLE_CACHE": "1", "TELEMETRY_ENABLED": "false"}
    environment = {**os.environ, **quiet, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "key"}
    command = [interpreter, "-c", _SCRIPT, url, str(requests), str(IN_FLIGHT)]
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=_MOST_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"curator ended with code {done.returncode}: {done.stderr[-2000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
