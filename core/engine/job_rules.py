"""What a fine-tuning job may ask for. Pure, and it needs no package.

The engine refuses what breaks these rules; the studio's form says so before anything is sent. Bounds and lengths are
OpenAI's own (API reference, "Create fine-tuning job").
"""

from __future__ import annotations

import re
from typing import Final

N_EPOCHS: Final = (1, 50)
BATCH_SIZE: Final = (1, 256)
LEARNING_RATE_MULTIPLIER: Final = (1e-4, 100.0)
SEED: Final = (0, 2**31 - 1)
LONGEST_SUFFIX: Final = 64
"""Characters."""

_SUFFIX = re.compile(rf"[A-Za-z0-9._-]{{1,{LONGEST_SUFFIX}}}")


def is_suffix(text: str) -> bool:
    """Whether `text` can be part of a model's name: ASCII letters, digits, dots, hyphens and underscores."""
    return _SUFFIX.fullmatch(text) is not None
