"""Together: OpenAI's API for text, and its own API for fine-tuning, which this module maps to OpenAI's terms.

Source: Together's OpenAPI document (github.com/togethercomputer/openapi, `openapi.yaml`, MIT). Differences: files go to
`/files/upload`, jobs to `/fine-tunes` with a learning rate instead of a multiplier; a tuned model is trained further
through `from_checkpoint`; there are metrics instead of a result file, and no metadata.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from openai.types import Model

from core.providers.client import Client
from core.providers.errors import cannot_pause, not_an_api_answer, translate_errors, without_key
from core.providers.finetuning import find_job_by_file, open_with_progress
from core.providers.metric_parser import metrics
from core.providers.schemas import JobRequest, ModelInfo, Provider, RemoteCheckpoint, RemoteEvent, RemoteJob

Json = Mapping[str, Any]

LEARNING_RATE = 1e-5  # for a multiplier of 1: Together's default
METRICS = "metrics:"
"""Prefix of the id of a pseudo result file."""
STATUSES = {"completed": "succeeded", "error": "failed", "cancel_requested": "running", "user_error": "failed"}
"""Together's words for a job's state → OpenAI's."""
_TEXT = frozenset({"chat", "language", "code"})
# Together's metric names → column names of a result file.
_COLUMNS = {
    "train/global_step": "step",
    "global_step": "step",
    "train/loss": "train_loss",
    "eval/loss": "valid_loss",
    "train/token_accuracy": "train_accuracy",
    "eval/token_accuracy": "valid_accuracy",
}


class Together(Client):
    """One Together account."""

    def upload(
        self, path: Path, purpose: str = "fine-tune", on_progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Upload the file at `path`; see `FineTuning.upload`."""
        with open_with_progress(path, on_progress) as file:
            body = {"purpose": purpose, "file_name": path.name}

            def call() -> str:
                answer = self._sdk().post(
                    "/files/upload",
                    cast_to=object,
                    body=body,
                    files=[("file", (path.name, file))],
                    options={"headers": {"Content-Type": "multipart/form-data"}},
                )
                return str(self._object(answer)["id"])

            return self._once(call)

    def create_job(self, request: JobRequest, intent_id: str) -> RemoteJob:
        """Create a job with exactly one POST; see `FineTuning.create_job`."""
        body: dict[str, Any] = {"training_file": request.training_file, **self._starting_point(request.model)}
        if request.n_epochs is not None:
            body |= {"n_epochs": request.n_epochs, "n_checkpoints": request.n_epochs}
        if request.validation_file is not None:
            body |= {"validation_file": request.validation_file, "n_evals": request.n_epochs or 1}
        if request.learning_rate_multiplier is not None:
            body["learning_rate"] = request.learning_rate_multiplier * LEARNING_RATE
        for name, value in (
            ("batch_size", request.batch_size),
            ("suffix", request.suffix),
            ("random_seed", request.seed),
        ):
            if value is not None:
                body[name] = value
        return self._once(lambda: self._remote_job(self._sdk().post("/fine-tunes", cast_to=object, body=body)))

    def find_job(self, intent_id: str) -> RemoteJob | None:
        """Find a job by its training file, whose name contains the intent id."""
        return find_job_by_file(self, intent_id)

    def job(self, job_id: str) -> RemoteJob:
        return self._with_retries(lambda: self._remote_job(self._sdk().get(f"/fine-tunes/{job_id}", cast_to=object)))

    def jobs(self) -> Iterator[RemoteJob]:
        items = self._list("/fine-tunes")
        with translate_errors(self.provider):
            return iter([self._remote_job(item) for item in items])

    def files(self) -> Iterator[tuple[str, str]]:
        items = self._list("/files")
        with translate_errors(self.provider):
            return iter([(str(item["id"]), str(item.get("filename") or "")) for item in items])

    def cancel(self, job_id: str) -> RemoteJob:
        path = f"/fine-tunes/{job_id}/cancel"
        return self._once(lambda: self._remote_job(self._sdk().post(path, cast_to=object)))

    def pause(self, job_id: str) -> RemoteJob:
        raise cannot_pause(self.provider)

    def resume(self, job_id: str) -> RemoteJob:
        raise cannot_pause(self.provider)

    def events(self, job_id: str, after: str | None = None) -> list[RemoteEvent]:
        items = self._list(f"/fine-tunes/{job_id}/events")
        with translate_errors(self.provider):
            events = sorted((_event(item, self.provider) for item in items), key=lambda item: item.at)
        ids = [item.id for item in events]
        return events[ids.index(after) + 1 :] if after in ids else events

    def checkpoints(self, job_id: str) -> list[RemoteCheckpoint]:
        items = self._list(f"/fine-tunes/{job_id}/checkpoints")
        if not items:
            return []
        model = self.job(job_id).fine_tuned_model or job_id
        with translate_errors(self.provider):
            checkpoints = [
                RemoteCheckpoint(
                    id=f"{job_id}:{item['step']}",
                    step=int(item["step"]),
                    model=f"{model}:{item['step']}",
                    created_at=timestamp(item.get("created_at")),
                    metrics={},
                )
                for item in items
            ]
        return sorted(checkpoints, key=lambda item: item.step)

    def file_text(self, file_id: str) -> str:
        """Content of a file; for a job's metrics, a result file generated from them."""
        if not file_id.startswith(METRICS):
            return super().file_text(file_id)
        path = f"/fine-tunes/{file_id.removeprefix(METRICS)}/metrics"
        answer = self._with_retries(lambda: self._object(self._sdk().get(path, cast_to=object)))
        with translate_errors(self.provider):
            return metrics_csv([item for item in answer.get("metrics") or () if isinstance(item, Mapping)])

    def models(self) -> list[ModelInfo]:
        """The text models; Together returns them as a plain list."""
        items = [item for item in self._list("/models") if item.get("type") in _TEXT]
        with translate_errors(self.provider):
            return self._text_models([Model.construct(**item) for item in items])

    def _starting_point(self, model: str) -> dict[str, Any]:
        """Where training starts: a base model, or a checkpoint of the job that produced a tuned model."""
        name, _, step = model.partition(":")
        for job in self.jobs():
            if job.fine_tuned_model == name:
                return {"model": job.model, "from_checkpoint": f"{job.id}:{step}" if step else job.id}
        return {"model": model}

    def _list(self, path: str) -> Sequence[Json]:
        def call() -> Sequence[Json]:
            answer = self._sdk().get(path, cast_to=object)
            data = answer.get("data") if isinstance(answer, Mapping) else answer
            if not isinstance(data, list):
                raise not_an_api_answer(self.provider)
            return [item for item in data if isinstance(item, Mapping)]

        return self._with_retries(call)

    def _object(self, answer: object) -> Json:
        if not isinstance(answer, Mapping):
            raise not_an_api_answer(self.provider)
        return answer

    def _remote_job(self, answer: object) -> RemoteJob:
        job = self._object(answer)
        status = str(job["status"])
        progress = job.get("progress") or {}
        left_s = progress.get("seconds_remaining") if progress.get("estimate_available") else None
        ended = status in ("completed", "error", "cancelled", "user_error")
        errors = (event for event in job.get("events") or () if "error" in str(event.get("level")))
        messages = [without_key(str(event.get("message") or ""), self.provider) for event in errors]
        return RemoteJob(
            id=str(job["id"]),
            status=STATUSES.get(status, status),
            model=str(job.get("model") or ""),
            fine_tuned_model=job.get("model_output_name") if status == "completed" else None,
            error=messages[-1] if messages and STATUSES.get(status) == "failed" else None,
            # `token_count` covers the whole job; a job that ended early is billed only for its completed steps
            # (Together, "Understanding refunds when canceling fine-tuning jobs"), whose number Together does not report
            trained_tokens=job.get("token_count") if status == "completed" else None,
            estimated_finish=None if left_s is None else datetime.now(UTC) + timedelta(seconds=float(left_s)),
            result_files=(f"{METRICS}{job['id']}",) if status not in ("pending", "queued") else (),
            training_file=str(job.get("training_file") or ""),
            validation_file=job.get("validation_file") or None,
            created_at=timestamp(job.get("created_at")),
            finished_at=timestamp(job.get("updated_at")) if ended else None,
            seed=job.get("random_seed"),
            hyperparameters={name: job[name] for name in ("n_epochs", "batch_size", "learning_rate") if name in job},
            intent=None,
        )


def _event(event: Json, provider: Provider) -> RemoteEvent:
    at = timestamp(event.get("created_at")) or datetime.fromtimestamp(0, UTC)
    fallback_key = f"{event.get('created_at')} {event.get('type')} {event.get('step')} {event.get('message')}"
    level = str(event.get("level") or "info").lower().removeprefix("legacy_i").removeprefix("legacy_")
    return RemoteEvent(
        id=str(event.get("hash") or hashlib.blake2b(fallback_key.encode(), digest_size=12).hexdigest()),
        at=at,
        level=level,
        message=without_key(str(event.get("message") or ""), provider),
        type="message",
        data={},
    )


def metrics_csv(records: Sequence[Json]) -> str:
    """Write metrics as a result file; the records of one step are merged into one line."""
    names = tuple(dict.fromkeys(_COLUMNS.values()))
    lines: dict[float, dict[str, float]] = {}
    for record in records:
        values = metrics({_COLUMNS[name]: value for name, value in record.items() if name in _COLUMNS})
        if "step" in values:
            lines.setdefault(values["step"], {}).update(values)
    rows = (",".join(_cell(line.get(name)) for name in names) for _, line in sorted(lines.items()))
    return "".join(f"{row}\n" for row in (",".join(names), *rows))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def timestamp(iso: object) -> datetime | None:
    """Parse an ISO 8601 time; without a time zone it is taken as UTC."""
    if not isinstance(iso, str) or not iso:
        return None
    moment = datetime.fromisoformat(iso)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
