"""Every bench starts when it is run as in `make bench`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_BENCHES = sorted(path.stem for path in (_ROOT / "bench").glob("[!_]*.py"))
_NEEDS_THE_ENGINE = {"train", "train_gpu", "dpo", "serve", "storyteller", "samples", "tour", "conformance", "move"}
_DEADLINE_S = 300  # two busy cores


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that `make` considers ready, with the Python that runs the tests."""
    folder = tmp_path_factory.mktemp("venv")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for name in ("run", "dev", "bench"):
        (folder / f".ready-{name}").touch()
    return folder


def _outside_make() -> dict[str, str]:
    """The environment without the variables of `make test`: a nested make prints its folder and flags."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


def test_make_bench_runs_all_of_them() -> None:
    listed = re.search(r"^BENCHES \?= (.*)$", (_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed is not None
    assert sorted([*listed[1].split(), "blind_reading"]) == _BENCHES  # this one needs a human reader


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("name", _BENCHES)
def test_a_bench_imports_everything_and_starts(name: str, venv: Path, tmp_path: Path) -> None:
    if name in _NEEDS_THE_ENGINE:
        pytest.importorskip("torch", reason="requirements-engine.txt is not installed")
    made = subprocess.run(
        ["make", "bench", f"VENV={venv}", f"BENCHES={name}", "BENCH_FLAGS=--smoke"],
        cwd=_ROOT,
        env={**_outside_make(), "FABULA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert made.stdout.splitlines()[0] == f"== {name}"
    assert json.loads(made.stdout.splitlines()[-1]) == {}
