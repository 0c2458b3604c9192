"""Reads everything about fine-tuning from a Together account, in OpenAI's terms. Never writes.

Source: Together's API reference ("List all jobs", "List job events", "List checkpoints", "List all files"), as
`core.providers.together` uses it. Lists have no pages; there are metrics instead of a results file; times are ISO 8601.
Each mapped object keeps the one that was sent as `original`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx2

from core.message import msg
from core.providers.account_reader import AccountReader, Object, Page
from core.providers.errors import not_an_api_answer
from core.providers.together import METRICS, STATUSES, metrics_csv, timestamp

_WITHOUT_METRICS = ("pending", "queued")
_ENDED = ("completed", "error", "user_error", "cancelled")
_METHODS = {"sft": "supervised"}
_PARAMETERS = (
    "n_epochs",
    "batch_size",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "lora_r",
    "lora_alpha",
    "n_evals",
)


class TogetherReader(AccountReader):
    """The read-only client of one account, with one GET per call."""

    company = "together"

    @property
    def usage_note(self) -> str | None:
        """Together has no usage by model in this API."""
        return msg("{name} doesn't report usage by model.", name=self.provider.name)

    def jobs(self, after: str | None = None, limit: int = 0) -> Page:
        """All jobs."""
        return Page(tuple(_job(one) for one in self._listed("/fine-tunes") if one.get("id")), None)

    def events(self, job_id: str, after: str | None = None) -> Page:
        """All events of a job, newest first."""
        events = [_event(one) for one in self._listed(f"/fine-tunes/{quote(job_id, safe='')}/events")]
        return Page(tuple(sorted(events, key=lambda one: -float(one["created_at"] or 0))), None)

    def checkpoints(self, job_id: str, after: str | None = None) -> Page:
        """All checkpoints of a job, newest first."""
        found = self._listed(f"/fine-tunes/{quote(job_id, safe='')}/checkpoints")
        checkpoints = [_checkpoint(job_id, one) for one in found]
        return Page(tuple(sorted(checkpoints, key=lambda one: -int(one["step_number"] or 0))), None)

    def files(self, after: str | None = None) -> Page:
        """All files."""
        return Page(self._listed("/files"), None)

    def models(self) -> tuple[Object, ...]:
        """Together announces no dates in its list of models, so it is not read."""
        return ()

    def completions(self, model: str, after: str | None = None) -> Page:
        """Together stores no completions."""
        return Page((), None)

    def download(self, file_id: str, write: Callable[[bytes], object], start: int = 0) -> None:
        """Pass a file's content from `start` to `write`; for a job's metrics, a results file made from them.

        Raises:
            NotThere: the file is deleted.
            ProviderError: the endpoint refused, or the content is incomplete.
        """
        if not file_id.startswith(METRICS):
            return super().download(file_id, write, start)
        job_id = quote(file_id.removeprefix(METRICS), safe="")
        answer = self._json(f"/fine-tunes/{job_id}/metrics")
        found = answer.get("metrics") if isinstance(answer, Mapping) else None
        if not isinstance(found, list):
            raise not_an_api_answer(self.provider)
        write(metrics_csv([one for one in found if isinstance(one, Mapping)]).encode())
        return None

    def _listed(self, path: str) -> tuple[Object, ...]:
        answer = self._json(path)
        data = answer.get("data") if isinstance(answer, Mapping) else answer
        if not isinstance(data, list):
            raise not_an_api_answer(self.provider)
        return tuple(one for one in data if isinstance(one, dict))

    def _json(self, path: str) -> Any:
        return self._once(lambda: self._sdk().get(path, cast_to=httpx2.Response).json())


def _job(one: Object) -> dict[str, Any]:
    status = str(one.get("status"))
    method, kind = one.get("training_method"), one.get("training_type")
    name = str(method.get("method")) if isinstance(method, Mapping) else "sft"
    parameters = {**(kind if isinstance(kind, Mapping) else {}), **one}
    created, ended = _seconds(one.get("created_at")), _seconds(one.get("updated_at"))
    return {
        "id": str(one["id"]),
        "object": "fine_tuning.job",
        "provider": "together",
        "model": one.get("model"),
        "fine_tuned_model": one.get("model_output_name") if status == "completed" else None,
        "status": STATUSES.get(status, status),
        "method": {"type": _METHODS.get(name, name)},
        "hyperparameters": {key: parameters[key] for key in _PARAMETERS if parameters.get(key) is not None},
        "training_file": one.get("training_file") or None,
        "validation_file": one.get("validation_file") or None,
        "result_files": [] if status in _WITHOUT_METRICS else [f"{METRICS}{one['id']}"],
        "trained_tokens": one.get("token_count") if status == "completed" else None,
        "user_provided_suffix": one.get("suffix"),
        "seed": one.get("random_seed"),
        "error": _error(one) if STATUSES.get(status) == "failed" else None,
        "created_at": created,
        "finished_at": ended if status in _ENDED else None,
        "original": dict(one),
    }


def _error(one: Object) -> dict[str, str] | None:
    """The last event of a failed job that is an error."""
    events = one.get("events")
    words = [
        str(event.get("message"))
        for event in (events if isinstance(events, list) else ())
        if isinstance(event, Mapping) and "error" in str(event.get("level")) and event.get("message")
    ]
    return {"message": words[-1]} if words else None


def _event(one: Object) -> dict[str, Any]:
    parts = "\n".join(str(one.get(name)) for name in ("created_at", "type", "step", "message"))
    return {
        "id": str(one.get("hash") or hashlib.blake2b(parts.encode("utf-8", "replace"), digest_size=12).hexdigest()),
        "object": "fine_tuning.job.event",
        "created_at": _seconds(one.get("created_at")),
        "level": str(one.get("level") or "info").lower().removeprefix("legacy_i").removeprefix("legacy_"),
        "message": one.get("message"),
        "type": "message",
        "original": dict(one),
    }


def _checkpoint(job_id: str, one: Object) -> dict[str, Any]:
    step = one.get("step")
    return {
        "id": f"{job_id}:{step}",
        "object": "fine_tuning.job.checkpoint",
        "created_at": _seconds(one.get("created_at")),
        "fine_tuned_model_checkpoint": f"{job_id}:{step}",
        "fine_tuning_job_id": job_id,
        "step_number": step if isinstance(step, int) and not isinstance(step, bool) else None,
        "metrics": {},
        "original": dict(one),
    }


def _seconds(iso: object) -> float | None:
    try:
        at: datetime | None = timestamp(iso)
    except ValueError:
        return None
    return None if at is None else at.timestamp()
