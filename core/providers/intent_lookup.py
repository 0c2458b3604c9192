"""Finding a job at an endpoint that keeps no metadata: by its training file, which carries our mark in its name."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from core.providers.errors import translated
from core.providers.finetuning import NEWEST
from core.providers.schemas import RemoteJob

if TYPE_CHECKING:
    from core.providers.client import Client


def file_name(intent_id: str) -> str:
    """What the training file of this intent is called when it is uploaded."""
    return f"fabula-{intent_id}.jsonl"


def by_file(client: Client, intent_id: str) -> RemoteJob | None:
    """The job that trains on a file of that name; None: there is none. Every upload of an intent has the same name."""
    with translated(client.provider):  # later pages are fetched here
        mine = {file_id for file_id, name in islice(client.files(), NEWEST) if name == file_name(intent_id)}
        if not mine:
            return None
        return next((job for job in islice(client.jobs(), NEWEST) if job.training_file in mine), None)
