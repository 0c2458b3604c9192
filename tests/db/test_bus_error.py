"""A memory-mapped file that is truncated ends the process (SIGBUS): the log shows it, and commits are safe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from core.datasets import datasets
from core.db.store import Store
from core.settings import Settings
from tests.support.stores import create_dataset

_PATIENCE_S = 120
_ROOT = Path(__file__).resolve().parents[2]
_CUT = """
import os, sys
from core import logs
from core.db.store import Store
from core.settings import Settings
from tests.support.stores import create_dataset

logs.configure()
store = Store.open(Settings.from_env({"FABULA_HOME": sys.argv[1]}))
create_dataset(store, "first")
os.truncate(sys.argv[1] + "/fabula.db-shm", 0)  # the index of the write-ahead log, which SQLite keeps mapped
create_dataset(store, "second")
"""


def test_a_bus_error_is_named_in_the_log_and_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    python = [sys.executable, "-c", _CUT, str(home)]
    ended = subprocess.run(python, cwd=_ROOT, capture_output=True, text=True, timeout=_PATIENCE_S, env=os.environ)
    assert ended.returncode == -signal.SIGBUS
    assert "Fatal Python error: Bus error" in ended.stderr and "in create" in ended.stderr
    store = Store.open(Settings.from_env({"FABULA_HOME": str(home)}))
    assert [found.name for found in datasets.list_datasets(store)] == ["first"]
    create_dataset(store, "third")
    store.close()
