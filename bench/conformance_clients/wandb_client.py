"""Weights & Biases: its sync of OpenAI's fine-tuning jobs, without a network connection (`WANDB_MODE=offline`)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import wandb
from openai import OpenAI
from wandb.integration.openai.fine_tuning import WandbLogger

from bench.conformance_clients import _methods
from bench.conformance_clients._methods import TRAINED, ClientsOwn, method

_FOLDER = Path(tempfile.mkdtemp())
os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(_FOLDER), "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}
os.environ["WANDB_BASE_URL"] = "http://127.0.0.1:9"  # nothing listens there: earlier runs are asked for even offline
WandbLogger._logged_in = True  # logging in needs W&B's server

_trained: list[str] = []


def _job() -> str:
    """A finished job with a validation file, trained once."""
    if not _trained:
        client, system = OpenAI(), {"role": "system", "content": "Be brief."}
        rows = [{"messages": [system, *row["messages"]]} for row in _methods.conversations()]  # the form it expects
        file_id = client.files.create(file=_methods.training_file(rows), purpose="fine-tune").id
        hyperparameters: Any = {"n_epochs": 1, "batch_size": 5}
        made = client.fine_tuning.jobs.create(
            model=TRAINED, training_file=file_id, validation_file=file_id, hyperparameters=hyperparameters
        )
        _methods.ended(lambda: client.fine_tuning.jobs.retrieve(made.id))
        _trained.append(made.id)
    return _trained[0]


def _logged() -> bytes:
    """What the runs have stored."""
    return b"".join(path.read_bytes() for path in _FOLDER.rglob("*.wandb"))


@method("sync")
def sync() -> None:
    told = WandbLogger.sync(fine_tune_job_id=_job(), project="stories", log_datasets=False)
    assert told.endswith("completed successfully")
    assert b"training_loss" in _logged()
    assert b"fine_tuned_model" in _logged()


@method("sync with data sets")
def sync_with_data() -> None:
    try:
        WandbLogger.sync(fine_tune_job_id=_job(), project="stories", overwrite=True)
    except TypeError as exc:
        assert "offline" in str(exc)
        raise ClientsOwn("W&B links data sets to a run only online") from exc


if __name__ == "__main__":
    _methods.run("wandb", wandb.__version__)
