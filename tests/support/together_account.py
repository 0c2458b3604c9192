"""A Together account over real HTTP, in the shapes of Together's API reference (docs.together.ai/reference): jobs under
`/fine-tunes` without pages, ISO times, events, checkpoints, metrics, files with `FileType` and `LineCount`.
"""

from __future__ import annotations

from typing import Any

from core.providers import Provider
from tests.support.openai_account import KEY, OpenAIAccount, training_lines

_BASE = "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference"


class TogetherAccount(OpenAIAccount):
    """Use as `with TogetherAccount() as account:`."""

    def provider(self, key: str = KEY) -> Provider:
        return Provider("together", "together", "Together", self.url, key)

    def add_tune(self, number: int, rows: int = 4, method: str | None = "sft", **values: Any) -> dict[str, Any]:
        """Add a finished job with training file, metrics, events and a checkpoint."""
        training, job_id = f"file-train{number}", f"ft-{number:04d}"
        if "training_file" not in values:
            self.add_file(training, training_lines(number, rows))
            self.files[0] |= {"Processed": True, "FileType": "jsonl", "LineCount": rows}
        job = {
            "id": job_id,
            "status": "completed",
            "created_at": f"2026-05-17T17:{number:02d}:45.123Z",
            "updated_at": f"2026-05-17T18:{number:02d}:23.456Z",
            "user_id": "user_0123",
            "owner_address": "owner@example.com",
            "total_price": 1500,
            "token_count": 850_000,
            "events": [],
            "model": _BASE,
            "model_output_name": f"acme/Meta-Llama-3.1-8B-Instruct-Reference-intents-{number}",
            "n_epochs": 3,
            "batch_size": 8,
            "learning_rate": 1e-5,
            "training_method": {"method": method},
            "training_type": {"type": "Lora", "lora_r": 8, "lora_alpha": 16},
            "training_file": training,
            "suffix": "intents",
            **values,
        }
        self.jobs.insert(0, job)
        self.events[job_id] = [
            {
                "object": "fine-tune-event",
                "created_at": f"2026-05-17T17:{number:02d}:5{step}Z",
                "message": f"Step {step}",
                "type": "epoch_complete",
                "step": step,
                "hash": f"{number}-{step}",
                "level": None,
            }
            for step in (1, 2, 3)
        ]
        checkpoint = {"step": 2, "created_at": "2026-05-17T18:00:00Z", "path": "s3://x", "checkpoint_type": "final"}
        self.checkpoints[job_id] = [checkpoint]
        return job

    def answer(self, path: str, query: dict[str, str]) -> object:
        """Together's own paths."""
        parts = path.strip("/").split("/")
        if path == "/files":
            return {"data": self.files}
        if path == "/models":
            return [{"id": _BASE, "object": "model", "type": "chat"}]
        if parts[0] != "fine-tunes":
            return None
        if len(parts) == 1:
            return {"data": self.jobs}
        if not any(job["id"] == parts[1] for job in self.jobs):
            return None
        if parts[2:] == ["metrics"]:
            train = {"train/global_step": 1, "train/loss": 2.5}
            return {"metrics": [train, {"train/global_step": 2, "train/loss": 1.5}, {"eval/loss": 1.4}]}
        held = {"events": self.events, "checkpoints": self.checkpoints}[parts[2]]
        return {"data": held[parts[1]]}
