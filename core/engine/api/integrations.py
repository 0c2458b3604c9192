"""Parses `integrations` of a fine-tuning job. Weights & Biases is the only one, as at OpenAI."""

from __future__ import annotations

from typing import Any

from core.engine.api.errors import ApiError, bad_value
from core.engine.api.requests import reject_unknown, required
from core.engine.chat_messages import is_missing
from core.message import msg

_PARAM = "integrations"
_MAX_TAGS, _MAX_TAG = 50, 64


def parse(value: object) -> list[dict[str, Any]]:
    """Return the integrations as the job object shows them. Raises ApiError 400."""
    if is_missing(value):
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise bad_value(_PARAM, msg("'{name}' must be a list of objects.", name=_PARAM))
    if len(value) > 1:
        raise bad_value(_PARAM, msg("A job can have one integration."))
    return [_wandb(value[0])]


def _wandb(integration: dict[str, Any]) -> dict[str, Any]:
    prefix = f"{_PARAM}[0]."
    if integration.get("type") != "wandb":
        message = msg("'{name}' must be 'wandb': this engine has no other integration.", name=f"{prefix}type")
        raise ApiError(400, message, param=f"{prefix}type", code="unsupported_parameter")
    reject_unknown(integration, frozenset({"type", "wandb"}), prefix)
    prefix += "wandb."
    given = integration.get("wandb")
    if not isinstance(given, dict):
        raise bad_value(prefix[:-1], msg("'{name}' must be an object.", name=prefix[:-1]))
    reject_unknown(given, frozenset({"project", "name", "entity", "tags"}), prefix)
    texts = {f"{prefix}{name}": given.get(name) for name in ("project", "name", "entity")}
    project = required(texts, f"{prefix}project")
    name, entity = (
        None if is_missing(texts[key]) else required(texts, key) for key in (f"{prefix}name", f"{prefix}entity")
    )
    return {
        "type": "wandb",
        "wandb": {"project": project, "name": name, "entity": entity, "tags": _tags(given.get("tags"), prefix)},
    }


def _tags(value: object, prefix: str) -> list[str]:
    if is_missing(value):
        return []
    is_valid = isinstance(value, list) and all(isinstance(tag, str) and 1 <= len(tag) <= _MAX_TAG for tag in value)
    if not isinstance(value, list) or not is_valid or len(value) > _MAX_TAGS:
        message = msg(
            "'{name}' must be a list of at most {maximum} texts of 1 to {length} characters.",
            name=f"{prefix}tags",
            maximum=_MAX_TAGS,
            length=_MAX_TAG,
        )
        raise bad_value(f"{prefix}tags", message)
    return value
