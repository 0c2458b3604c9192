"""Unexpected errors in background work of a page: shown as an error card, and logged with their traceback."""

from __future__ import annotations

import logging

from core.errors import FabulaError
from core.message import msg

FAILURE_KEPT_S = 3.0
"""How long a failure is shown before the same work is tried again: a hiccup must not stick, a fault must not spin."""
_log = logging.getLogger("fabula.pages")


def as_fabula_error(error: Exception, work: str) -> FabulaError:
    """`error` for a card: unchanged if it is a `FabulaError`, else a general sentence; `work` names it in the log."""
    if isinstance(error, FabulaError):
        return error
    _log.error(work, exc_info=error)
    fault = FabulaError(
        msg("Something went wrong while this part was loading."),
        msg("Try again in a few seconds. If it fails again, check Fabula's log."),
    )
    fault.__cause__ = error
    return fault
