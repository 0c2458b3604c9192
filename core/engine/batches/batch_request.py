"""Parses the body of POST /v1/batches by OpenAI's rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from core.engine.api.errors import bad_value, missing_parameter
from core.engine.api.files import EXPIRY_S
from core.engine.api.job_request import parse_metadata
from core.engine.api.requests import integer, reject_unknown, required
from core.engine.chat_messages import is_missing
from core.message import msg

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")
WINDOW, WINDOW_S = "24h", 86400
_KNOWN = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"})


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A valid request. `output_expires_s`: after how many seconds the result files expire; None: never."""

    input_file_id: str
    endpoint: str
    metadata: dict[str, str] | None
    output_expires_s: int | None


def parse(body: Mapping[str, Any]) -> BatchRequest:
    """Parse a request body. Raises ApiError 400."""
    reject_unknown(body, _KNOWN)
    endpoint, window = required(body, "endpoint"), required(body, "completion_window")
    if endpoint not in ENDPOINTS:
        known = ", ".join(f"'{name}'" for name in ENDPOINTS)
        raise bad_value("endpoint", msg("'{name}' must be one of {known}.", name="endpoint", known=known))
    if window != WINDOW:
        raise bad_value("completion_window", msg("'completion_window' must be '{window}'.", window=WINDOW))
    return BatchRequest(
        required(body, "input_file_id"),
        endpoint,
        parse_metadata(body.get("metadata")),
        _expires_s(body.get("output_expires_after")),
    )


def _expires_s(value: object) -> int | None:
    if is_missing(value):
        return None
    prefix = "output_expires_after."
    if not isinstance(value, dict):
        raise bad_value("output_expires_after", msg("'{name}' must be an object.", name="output_expires_after"))
    reject_unknown(value, frozenset({"anchor", "seconds"}), prefix)
    if value.get("anchor") != "created_at":
        raise bad_value(f"{prefix}anchor", msg("'{name}' must be 'created_at'.", name=f"{prefix}anchor"))
    seconds = integer(value, "seconds", *EXPIRY_S, None, prefix)
    if seconds is None:
        raise missing_parameter(f"{prefix}seconds")
    return seconds
