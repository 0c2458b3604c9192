"""Cached reads shared by all visitors: clients and reference data for a long time, polls for about a second.

Nothing here belongs to one visitor. Ten viewers of a run cost one poll.
"""

from pages.ui.cached.dataset_rows import (
    TrainingFilePreview,
    TrainingFormat,
    parts,
    prompt_separator,
    quality_of,
    sample_size,
    suggestions,
    tokens_of,
    version_list,
    written,
)
from pages.ui.cached.live_data import (
    batches_of,
    dataset_list,
    heat_map,
    job_list,
    job_of,
    refresh,
    run_of,
    run_seconds,
    training_of,
)
from pages.ui.cached.provider_models import (
    OfferedModels,
    ask_models,
    endpoint_of,
    forget_models,
    models,
    status,
    trainable,
)
from pages.ui.cached.studio import POLL_S, client, prices, registry, settings, store, where

__all__ = [
    "POLL_S",
    "OfferedModels",
    "TrainingFilePreview",
    "TrainingFormat",
    "ask_models",
    "batches_of",
    "client",
    "dataset_list",
    "endpoint_of",
    "forget_models",
    "heat_map",
    "job_list",
    "job_of",
    "models",
    "parts",
    "prices",
    "prompt_separator",
    "quality_of",
    "refresh",
    "registry",
    "run_of",
    "run_seconds",
    "sample_size",
    "settings",
    "status",
    "store",
    "suggestions",
    "tokens_of",
    "trainable",
    "training_of",
    "version_list",
    "where",
    "written",
]
