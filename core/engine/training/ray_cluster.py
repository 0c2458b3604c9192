"""A Ray cluster's Jobs API, through Ray's own client. The only module of the engine that imports `ray`.

Ray never repeats a job: it runs once, and ends with its cluster.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from core.engine.training.launcher import LauncherUnavailable
from core.message import msg

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")

_CODE = Path(__file__).parents[2]  # the package `core`, which runs on the cluster
_TIMEOUT_S = (5, 15)  # to connect, and between two parts of an answer; the engine stops within 20 s
_STATE_TIMEOUT_S = 10
_NOT_FOUND = "status code 404"
# of a proxy, or of a head that has no agent for jobs yet; Ray's own refusals have status 400 or 500
_TRY_AGAIN = re.compile(r"status code (408|429|502|503|504)\b|try again later")
_MAX_NODES = 10_000  # the most that Ray lists; without a limit it lists 100
_MAX_ERROR_CHARS = 200  # Ray quotes whole pages


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """A job as the cluster sees it; `message` says how it ended."""

    has_ended: bool
    succeeded: bool
    message: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the cluster's living nodes have in all."""

    cpus: int
    gpus: int


class JobsApi(Protocol):
    """What launcher and trainers need of `RayCluster`."""

    def submit(self, submission_id: str, command: list[str]) -> None: ...

    def find(self, submission_id: str) -> ClusterJob | None: ...

    def stop(self, submission_id: str) -> None: ...

    def capacity(self) -> Capacity: ...


class RayCluster:
    """Submits, observes and stops jobs.

    Every method raises LauncherUnavailable if the cluster does not answer, or answers with an error.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def submit(self, submission_id: str, command: Sequence[str]) -> None:
        """Start a job, unless there is one with this id.

        Raises:
            RuntimeError: the cluster refuses the job.
        """
        environment = {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0", "OMP_WAIT_POLICY": "PASSIVE"}
        runtime: Mapping[str, Any] = {"py_modules": [str(_CODE)], "env_vars": environment}

        def start(client: JobSubmissionClient) -> RuntimeError | None:
            try:
                client.submit_job(entrypoint=" ".join(command), submission_id=submission_id, runtime_env=dict(runtime))
            except RuntimeError as exc:
                if self._find(client, submission_id) is not None:
                    return None
                if _TRY_AGAIN.search(str(exc)):  # it may still start; then the next call finds it
                    raise
                return exc
            return None

        if (refusal := self._call(start)) is not None:
            raise refusal

    def find(self, submission_id: str) -> ClusterJob | None:
        """The job with this id; None if the cluster does not know it."""
        return self._call(lambda client: self._find(client, submission_id))

    def stop(self, submission_id: str) -> None:
        """End a job: SIGTERM, then SIGKILL. Nothing happens if there is none."""

        def stop(client: JobSubmissionClient) -> None:
            if self._find(client, submission_id) is not None:
                client.stop_job(submission_id)

        self._call(stop)

    def capacity(self) -> Capacity:
        """Processors and GPUs of the cluster."""

        def measure(_: JobSubmissionClient) -> Capacity:
            from ray.util.state import list_nodes

            nodes = list_nodes(
                self.address, filters=[("state", "=", "ALIVE")], limit=_MAX_NODES, timeout=_STATE_TIMEOUT_S
            )
            sums = [sum((node.resources_total or {}).get(name, 0) for node in nodes) for name in ("CPU", "GPU")]
            return Capacity(int(sums[0]), int(sums[1]))

        return self._call(measure)

    @staticmethod
    def _find(client: JobSubmissionClient, submission_id: str) -> ClusterJob | None:
        from ray.job_submission import JobStatus

        try:
            found = client.get_job_info(submission_id)
        except RuntimeError as exc:
            if _NOT_FOUND in str(exc):
                return None
            raise
        return ClusterJob(found.status.is_terminal(), found.status == JobStatus.SUCCEEDED, found.message or "")

    def _call(self, use: Callable[[JobSubmissionClient], T]) -> T:
        import requests
        from ray.exceptions import AuthenticationError
        from ray.util.state.exception import RayStateApiException

        try:
            return use(_client(self.address))
        except AuthenticationError as exc:
            raise LauncherUnavailable(
                msg(
                    "The Ray cluster at {address} refuses the engine's token. The job waits. Set RAY_AUTH_MODE=token "
                    "and RAY_AUTH_TOKEN_PATH for the engine.",
                    address=self.address,
                )
            ) from exc
        except (OSError, requests.RequestException, RayStateApiException) as exc:
            raise LauncherUnavailable(
                msg(
                    "The Ray cluster at {address} does not answer. The job waits for it; saved progress is kept.",
                    address=self.address,
                )
            ) from exc
        except RuntimeError as exc:  # Ray's client, for any status that is not a success
            raise LauncherUnavailable(
                msg(
                    "The Ray cluster at {address} answers with an error: {error}. The job waits; saved progress is "
                    "kept.",
                    address=self.address,
                    error=str(exc)[:_MAX_ERROR_CHARS],
                )
            ) from exc


def _client(address: str) -> JobSubmissionClient:
    """A client whose requests have a time limit, which Ray's own have not."""
    # Ray prefers its own variables to the argument
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_API_SERVER_ADDRESS": address})
    from ray.job_submission import JobSubmissionClient

    class TimedClient(JobSubmissionClient):  # type: ignore[misc]  # ray is optional, so its classes are unknown here
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, timeout=_TIMEOUT_S, **options)

    return TimedClient(address)
