"""Azure OpenAI: OpenAI's API under `/openai/v1`, with a few differences.

Source: Microsoft Learn, "Customize a model with fine-tuning" (REST). The key is sent in an `api-key` header. An
uploaded file is imported asynchronously and must be `processed` before a job can use it. Examples must be
conversations. A tuned model is named `<base>.ft-<job>` and must be deployed before use. The result file has the column
`validation_mean_token_accuracy`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from core.errors import BadTrainingFile, NotThere
from core.message import msg
from core.providers.client import Client
from core.providers.errors import cannot_pause
from core.providers.finetuning import find_job_by_file
from core.providers.schemas import JobRequest, RemoteJob

_IMPORT_TIMEOUT_S = 300.0  # enough for a file of 500 MB
_POLL_S = 2.0
_IMPORTING = frozenset({"uploaded", "pending", "running", "notRunning"})


def api_address(endpoint: str) -> str:
    """The resource's address as shown in the portal, plus the path of its OpenAI-compatible API."""
    root = endpoint.rstrip("/")
    return root if root.endswith("/v1") else f"{root.removesuffix('/openai')}/openai/v1"


class Azure(Client):
    """One Azure OpenAI resource; `base_url` ends in `/openai/v1`."""

    wait: Callable[[float], None] = staticmethod(time.sleep)

    def upload(
        self, path: Path, purpose: str = "fine-tune", on_progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Upload the file and wait until Azure has imported it.

        Raises:
            BadFile: the local file cannot be read.
            BadTrainingFile: Azure could not import the file.
            ProviderError: the upload failed.
        """
        file_id = super().upload(path, purpose, on_progress)
        for _ in range(int(_IMPORT_TIMEOUT_S / _POLL_S)):
            file = self._with_retries(lambda: self._sdk().files.retrieve(file_id))
            if file.status not in _IMPORTING:
                break
            self.wait(_POLL_S)
        if str(file.status) in ("error", "failed"):
            raise BadTrainingFile(
                msg(
                    "{name} could not import the file: {reason}",
                    name=self.provider.name,
                    reason=file.status_details or msg("it gives no reason."),
                ),
                msg("Fix the lines listed in the file, then submit again."),
            )
        return file_id

    def create_job(self, request: JobRequest, intent_id: str) -> RemoteJob:
        """Create a job with exactly one POST; see `FineTuning.create_job`. Azure has no integrations such as W&B."""
        return super().create_job(replace(request, integrations=()), intent_id)

    def job(self, job_id: str) -> RemoteJob:
        """Return the current state of the job. A failed job has no billable tokens.

        Source: Microsoft Learn, "Cost management for fine-tuning": "You aren't charged for time spent in queue, failed
        jobs, jobs canceled prior to training beginning, or data safety checks."
        """
        job = super().job(job_id)
        return replace(job, trained_tokens=0) if job.status == "failed" else job

    def find_job(self, intent_id: str) -> RemoteJob | None:
        """Find a job by its metadata or, because some API versions drop the metadata, by its training file."""
        return super().find_job(intent_id) or find_job_by_file(self, intent_id)

    def pause(self, job_id: str) -> RemoteJob:
        """Pause the job, if this API version supports it.

        Raises:
            ProviderError: the job cannot be paused.
        """
        try:
            return super().pause(job_id)
        except NotThere as exc:
            raise cannot_pause(self.provider) from exc
