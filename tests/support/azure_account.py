"""An Azure OpenAI resource over real HTTP: OpenAI's fine-tuning API under `/openai/v1`, with what Azure does otherwise.

Shapes: Microsoft Learn, "Models - List" (`deprecation`, `capabilities`, `lifecycle_status`) and "Deployments - List"
of 2022-12-01. Keys come in `api-key`. Results are plain CSV with Azure's column names.
"""

from __future__ import annotations

from email.message import Message
from typing import Any

from core.providers import Provider
from tests.support.openai_account import KEY, OpenAIAccount

STOPS_S = 1_823_472_000  # 2027-10-14
_BASE = "gpt-4.1-mini-2025-04-14"


class AzureAccount(OpenAIAccount):
    """Use as `with AzureAccount() as account:`."""

    prefix = "/openai/v1"

    def __init__(self) -> None:
        super().__init__()
        self.models = [_model(_BASE)]
        self.deployments: list[dict[str, Any]] | None = []  # None: this resource does not list them

    def provider(self, key: str = KEY) -> Provider:
        return Provider("azure", "azure", "Azure OpenAI", self.url, key)

    def add_tune(self, number: int, rows: int = 4, method: str | None = "supervised", **values: Any) -> dict[str, Any]:
        """Add a finished job, whose model is listed and has a deployment."""
        model = f"{_BASE}.ft-{number:032x}"
        job = super().add_tune(number, rows, method, **{"model": _BASE, "fine_tuned_model": model, **values})
        self.models.append(_model(model))
        if self.deployments is not None:
            shown = {"id": f"intents-{number}", "model": model, "status": "succeeded", "object": "deployment"}
            self.deployments.append(shown)
        return job

    def key_of(self, headers: Message) -> str:
        """Azure's own header."""
        return headers.get("api-key") or ""

    def answer(self, path: str, query: dict[str, str]) -> object:
        """The deployments, which are not below `/v1`."""
        if path == "/openai/deployments" and query.get("api-version") == "2022-12-01" and self.deployments is not None:
            return {"object": "list", "data": self.deployments}
        return None


def _model(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "status": "succeeded",
        "created_at": 1_744_000_000,
        "capabilities": {"fine_tune": ".ft-" not in name, "inference": True, "chat_completion": True},
        "lifecycle_status": "generally-available",
        "deprecation": {"fine_tune": 1_807_660_800, "inference": STOPS_S},
    }
