"""Everything that can be asked of one endpoint."""

from __future__ import annotations

from core.providers.finetuning import FineTuning
from core.providers.generation import Generation


class Client(Generation, FineTuning):
    """One endpoint: text, models, files and fine-tuning. Safe to share between threads and event loops."""
