"""Azure OpenAI: OpenAI's API under `/openai/v1`, with a few ways of its own.

Source: Microsoft Learn, "Customize a model with fine-tuning" (REST). The key is in an `api-key` header; a file is
imported after it was uploaded, and a job wants it `processed`; examples are conversations; a tuned model is called
`<base>.ft-<job>` and answers only once it is deployed; the results file has `validation_mean_token_accuracy`.
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
from core.providers.intent_lookup import by_file
from core.providers.schemas import JobRequest, RemoteJob

_IMPORTED_IN_S = 300.0  # a file of half a gigabyte
_LOOK_S = 2.0
_IMPORTING = frozenset({"uploaded", "pending", "running", "notRunning"})


class Azure(Client):
    """One Azure OpenAI resource; `base_url` ends in `/openai/v1`."""

    wait: Callable[[float], None] = staticmethod(time.sleep)

    def upload(
        self, path: Path, purpose: str = "fine-tune", on_progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Upload, and wait until Azure has imported the file.

        Raises:
            BadFile: it cannot be read here.
            BadTrainingFile: Azure could not import it.
            ProviderError: it could not be uploaded.
        """
        file_id = super().upload(path, purpose, on_progress)
        for _ in range(int(_IMPORTED_IN_S / _LOOK_S)):
            file = self._patiently(lambda: self._sdk().files.retrieve(file_id))
            if file.status not in _IMPORTING:
                break
            self.wait(_LOOK_S)
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
        """Create a job, exactly one POST; see `FineTuning.create_job`. Azure trains on W&B's behalf for nobody."""
        return super().create_job(replace(request, integrations=()), intent_id)

    def find_job(self, intent_id: str) -> RemoteJob | None:
        """By our mark; a version of the API that keeps no marks still names the file, which is ours alone."""
        return super().find_job(intent_id) or by_file(self, intent_id)

    def pause(self, job_id: str) -> RemoteJob:
        """Azure calls it so too; where it does not know pausing, it says so.

        Raises:
            ProviderError: it cannot be paused.
        """
        try:
            return super().pause(job_id)
        except NotThere as exc:
            raise cannot_pause(self.provider) from exc
