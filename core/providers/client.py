"""The client with all calls to one endpoint."""

from __future__ import annotations

from core.providers.batches import Batches
from core.providers.finetuning import FineTuning


class Client(Batches, FineTuning):
    """One endpoint: completions, batches, models, files, fine-tuning. Safe to share between threads and event loops."""
