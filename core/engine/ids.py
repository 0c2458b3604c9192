"""Ids and model names in OpenAI's format."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_letters + string.digits


def code(length: int) -> str:
    """Random letters and digits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def new(kind: str) -> str:
    """An id such as `file-…`, `ftjob-…`, `ftevent-…`, `ftckpt_…`; 24 random characters avoid collisions."""
    return f"{kind}_{code(24)}" if kind == "ftckpt" else f"{kind}-{code(24)}"


def tuned_model(base: str, suffix: str | None) -> str:
    """`ft:gemma-3-270m:fabula:ultraman:AbC123xy`; without a suffix its field is empty, as at OpenAI."""
    return f"ft:{base}:fabula:{suffix or ''}:{code(8)}"


def checkpoint_model(tuned_id: str, step: int) -> str:
    """The model id of a checkpoint."""
    return f"{tuned_id}:ckpt-step-{step}"
