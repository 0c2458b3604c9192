"""Limits of a fine-tuning job's parameters. Pure, without dependencies.

The engine enforces them; the app's form checks them before sending. They are OpenAI's (API reference, "Create
fine-tuning job").
"""

from __future__ import annotations

import re
from typing import Final

N_EPOCHS: Final = (1, 50)
BATCH_SIZE: Final = (1, 256)
LEARNING_RATE_MULTIPLIER: Final = (1e-4, 100.0)
SEED: Final = (0, 2**31 - 1)
MAX_SUFFIX_LENGTH: Final = 64
"""Characters."""

_SUFFIX = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_SUFFIX_LENGTH}}}")


def is_suffix(text: str) -> bool:
    """Whether `text` is a valid suffix of a model name: ASCII letters, digits, dots, hyphens and underscores."""
    return _SUFFIX.fullmatch(text) is not None
