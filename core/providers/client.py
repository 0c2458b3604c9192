"""Everything that can be asked of one endpoint."""

from __future__ import annotations

from core.providers.batches import Batches
from core.providers.finetuning import FineTuning


class Client(Batches, FineTuning):
    """One endpoint: text, live or in batches, models, files, tuning. Safe to share between threads and event loops."""
