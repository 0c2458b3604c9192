"""Finds a job at an endpoint without metadata: by its training file, whose name contains the intent id."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from core.providers.errors import translate_errors
from core.providers.finetuning import NEWEST
from core.providers.schemas import RemoteJob

if TYPE_CHECKING:
    from core.providers.client import Client


def training_file_name(intent_id: str) -> str:
    """Name under which the training file of an intent is uploaded."""
    return f"fabula-{intent_id}.jsonl"


def find_job_by_file(client: Client, intent_id: str) -> RemoteJob | None:
    """The job that was created with a file of this name (all uploads of an intent share it); None: there is none."""
    with translate_errors(client.provider):  # iteration fetches further pages
        file_ids = {
            file_id for file_id, name in islice(client.files(), NEWEST) if name == training_file_name(intent_id)
        }
        if not file_ids:
            return None
        return next((job for job in islice(client.jobs(), NEWEST) if job.training_file in file_ids), None)
