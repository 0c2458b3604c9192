"""Converts rows to the JSON objects of OpenAI's API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from core.engine.api.models import Model
from core.engine.store import CheckpointRow, Event, File, Job
from core.engine.training.job_queue import QueuePosition
from core.message import Message, to_json

Json = dict[str, Any]
OWNER = "fabula"


def page(items: Sequence[Json], more: bool) -> Json:
    """One page of a list, as OpenAI returns it."""
    return {
        "object": "list",
        "data": list(items),
        "has_more": more,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
    }


def file(row: File, size: int) -> Json:
    """A file object; `size` is the current size in bytes (result files grow)."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": size,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def job(row: Job, queue_position: QueuePosition | None = None) -> Json:
    """A fine_tuning.job object; fields that OpenAI's API does not have are under `fabula`. `queue_position` is None
    unless the job is waiting.
    """
    hyperparameters = {
        "n_epochs": row.n_epochs,
        "batch_size": row.batch_size,
        "learning_rate_multiplier": row.learning_rate_multiplier,
        **({} if row.beta is None else {"beta": row.beta}),
    }
    return {
        "id": row.id,
        "object": "fine_tuning.job",
        "created_at": row.created_at,
        "finished_at": row.finished_at,
        "estimated_finish": row.estimated_finish,
        "model": row.model,
        "fine_tuned_model": row.fine_tuned_model,
        "organization_id": OWNER,
        "status": row.status,
        "error": json.loads(row.error) if row.error else None,
        "hyperparameters": hyperparameters,
        "method": {"type": row.method, row.method: {"hyperparameters": hyperparameters}},
        "training_file": row.training_file,
        "validation_file": row.validation_file,
        "result_files": [row.result_file] if row.result_file else [],
        "trained_tokens": row.trained_tokens,
        "seed": row.seed,
        "suffix": row.suffix,
        "user_provided_suffix": row.suffix,
        "integrations": json.loads(row.integrations) if row.integrations else [],
        "metadata": json.loads(row.metadata) if row.metadata else None,
        "fabula": {
            "training_seconds": round(row.training_s, 3),
            "hyperparameters": json.loads(row.options),
            "queue_position": queue_position.position if queue_position is not None else None,
            "estimated_start": queue_position.estimated_start if queue_position is not None else None,
        },
    }


def event(row: Event) -> Json:
    """A fine_tuning.job.event object."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.event",
        "created_at": row.created_at,
        "level": row.level,
        "message": row.message,
        "type": row.type,
        "data": json.loads(row.data),
    }


def checkpoint(row: CheckpointRow) -> Json:
    """A fine_tuning.job.checkpoint object."""
    return {
        "id": row.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": row.created_at,
        "fine_tuning_job_id": row.job_id,
        "fine_tuned_model_checkpoint": row.model,
        "step_number": row.step,
        "metrics": json.loads(row.metrics),
    }


def model(
    row: Model,
    not_trainable: str | None,
    context: int | None,
    parallel: int,
    training: Mapping[str, float | None] | None,
) -> Json:
    """A model object; fields that OpenAI's API does not have are under `fabula`."""
    return {
        "id": row.id,
        "object": "model",
        "created": row.created,
        "owned_by": OWNER,
        "fabula": {
            "base": row.base,
            "format": row.format,
            **({"alias_of": row.alias_of} if row.alias_of is not None else {}),
            "job": row.job,
            "step": row.step,
            "not_trainable": not_trainable,
            **({"not_trainable_message": to_json(not_trainable)} if isinstance(not_trainable, Message) else {}),
            "context": context,
            "parallel": parallel,
            "training": training,
        },
    }
