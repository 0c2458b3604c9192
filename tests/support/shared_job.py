"""A job that an engine has prepared for training on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.engine.training.attempts import SharedJob
from core.engine.training.shared_storage import SharedStorage


def prepared_job(storage: SharedStorage, tmp_path: Path) -> SharedJob:
    """A job in an engine's home below `tmp_path`, which has not been started yet."""
    home = tmp_path / "home" / "jobs" / "ftjob-1"
    home.mkdir(parents=True)
    for name in ("train.npz", "base.gguf"):
        (home / name).write_bytes(name.encode())
    spec: dict[str, Any] = {"train": str(home / "train.npz"), "valid": None, "start_adapter": None, "base_folder": None}
    spec |= {"base_gguf": str(home / "base.gguf"), "weights_dir": str(tmp_path / "home/models/base-123"), "seed": 7}
    (home / "job.json").write_text(json.dumps(spec))
    return SharedJob(storage, home)
