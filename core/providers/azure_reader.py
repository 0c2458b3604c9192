"""Reads everything about fine-tuning from an Azure OpenAI resource. Never writes.

Jobs, events, checkpoints and files are OpenAI's, under `/openai/v1` (Microsoft Learn, "Fine-tuning" of the v1 API). Two
things differ: the list of models has `deprecation.inference`, the Unix time at which a model's deployments stop
("Models - List"), and a tuned model answers under the name of its deployment ("Deployments - List" of 2022-12-01, the
last version of the data plane that has it; newer resources may answer 404).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from core.errors import BadRequest, Refused
from core.message import msg
from core.providers.account_reader import AccountReader, Object, Page

_DEPLOYMENTS_VERSION = "2022-12-01"


class AzureReader(AccountReader):
    """The read-only client of one resource, with one GET per call."""

    company = "azure"
    _deployments: Mapping[str, list[str]] | None = None

    @property
    def usage_note(self) -> str | None:
        """Azure has no usage by model in this API."""
        return msg("{name} doesn't report usage by model.", name=self.provider.name)

    def jobs(self, after: str | None = None, limit: int = 100) -> Page:
        """A page of jobs, newest first, each with the names of its model's deployments."""
        page = super().jobs(after, limit)
        names = self._deployment_names()
        return Page(
            tuple(
                {**job, "provider": self.company, "deployments": names.get(str(job.get("fine_tuned_model")), [])}
                for job in page.objects
            ),
            page.next,
        )

    def models(self) -> tuple[Object, ...]:
        """All models, with the day on which their deployments stop as `shutdown_date`."""
        return tuple(
            {**one, "shutdown_date": one.get("shutdown_date") or _day(one.get("deprecation"))}
            for one in super().models()
        )

    def _deployment_names(self) -> Mapping[str, list[str]]:
        """The deployments by model; empty if the resource does not list them."""
        if self._deployments is None:
            found: dict[str, list[str]] = defaultdict(list)
            url = f"{self.provider.base_url.rstrip('/').removesuffix('/v1')}/deployments"
            try:
                listed = self._objects(self._get(url, {"api-version": _DEPLOYMENTS_VERSION}))
            except (BadRequest, Refused):
                listed = ()
            for one in listed:
                if isinstance(one.get("model"), str) and isinstance(one.get("id"), str):
                    found[one["model"]].append(one["id"])
            self._deployments = dict(found)
        return self._deployments


def _day(deprecation: Any) -> str | None:
    at = deprecation.get("inference") if isinstance(deprecation, Mapping) else None
    if not isinstance(at, int | float) or isinstance(at, bool) or not 0 < at < 4e9:
        return None
    return datetime.fromtimestamp(at, UTC).date().isoformat()
