"""The engine's API of aliases, as its clients call it, without an engine."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit


class AliasApi:
    """Replaces `core.providers.client.Client`. `models` are the targets by alias; a test may change them."""

    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    def engine_call(self, method: str, path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
        if method == "POST" and body is not None:
            self.models[body["id"]] = body["model"]
        elif method == "DELETE":
            del self.models[unquote(urlsplit(path).path.rpartition("/")[2])]
        return {"data": [{"id": alias, "model": model, "status": "active"} for alias, model in self.models.items()]}
