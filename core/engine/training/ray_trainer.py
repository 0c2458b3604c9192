"""One run of a job's trainer on a Ray cluster, as the engine watches it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from core.engine import json_file
from core.engine.training.attempts import FAILED, Attempt, SharedJob
from core.engine.training.launcher import LauncherUnavailable
from core.engine.training.ray_cluster import JobsApi
from core.engine.training.shared_storage import StorageRefused, StorageUnreachable
from core.message import Message, msg

_LOOK_S = 2.0  # between two questions to the cluster about a job
_POLL_S = 0.25
_KILL_S = 15.0  # Ray waits 3 s between SIGTERM and SIGKILL
_KILLED = -1
_ENDED = {"succeeded": 0, "paused": 0, "failed": 1}  # statuses in state.json after which a trainer does nothing more


class RayTrainer:
    """One attempt on the cluster; a `core.engine.training.launcher.Trainer`.

    Its journal says whether it has finished, failed or paused, and the cluster whether it is still running. While the
    cluster does not answer, the attempt counts as running.
    """

    outlives_engine = True

    def __init__(self, cluster: JobsApi, job: SharedJob, number: int, shortage: Message | None = None) -> None:
        self._cluster, self._job, self.number = cluster, job, number
        self.trouble = self._shortage = shortage
        self._code: int | None = None
        self._looked_at = self._read_at = self._collected_at = -math.inf
        self._has_all = False
        self._end = ""
        self._failure: Mapping[str, Any] | None = None

    @property
    def code(self) -> int | None:
        """See `Trainer`."""
        if self._code is None:
            self._look()
        return self._code

    def collect(self) -> None:
        """See `Trainer`."""
        is_soon = time.monotonic() - self._collected_at < self._job.storage.poll_s
        if self._has_all or (self._code is None and is_soon):
            return
        self._job.collect(self.number)
        self._collected_at = time.monotonic()
        if self._failure is not None:
            json_file.write(self._job.home / "state.json", {**self._failure, "status": "failed"})

    def request_stop(self) -> None:
        """See `Trainer`."""
        self._job.request_stop(self.number)

    def wait(self, timeout_s: float) -> bool:
        """See `Trainer`."""
        deadline = time.monotonic() + timeout_s
        while self.code is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.code is not None

    def kill(self) -> None:
        """See `Trainer`. If the cluster does not answer, `RayLauncher.end_left_over` ends the attempt later."""
        if self._stop_on_cluster():
            self.wait(_KILL_S)
        self._code = _KILLED if self._code is None else self._code

    def close(self) -> None:
        """See `Trainer`. An attempt that has ended is not looked at again; one that has not goes on."""
        if self._code is None:
            return
        self._job.record(Attempt(self.number, submitted=True, ended=True))
        if self._code not in (0, _KILLED):  # its other processes may be waiting for one that is gone
            self._stop_on_cluster()

    def _stop_on_cluster(self) -> bool:
        try:
            self._cluster.stop(submission_id(self._job, self.number))
        except (LauncherUnavailable, RuntimeError):
            self._job.leave_running(self.number)
            return False
        return True

    def last_log_line(self) -> str:
        """See `Trainer`."""
        return self._job.last_log_line(self.number) or self._end

    def _look(self) -> None:
        if time.monotonic() - self._read_at < self._job.storage.poll_s:
            return
        self._read_at = time.monotonic()
        trouble: Message | None = None
        try:
            state = self._job.state(self.number)
        except OSError as exc:
            self.trouble = trouble = self._cannot_read(exc)
            if not isinstance(exc, StorageRefused):
                return
            state = {}  # the trainer may be refused as well, and have ended
        if state.get("status") in _ENDED:
            self._ends(_ENDED[state["status"]])
            return
        if state.get("status"):
            self._shortage = None
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        self._looked_at = time.monotonic()
        try:
            found = self._cluster.find(submission_id(self._job, self.number))
        except LauncherUnavailable as exc:
            self.trouble = exc.message
            return
        self.trouble = trouble or self._shortage
        if found is None:
            self._end = msg("the Ray cluster no longer knows the job: its head node was restarted")
            self._ends(1)
        elif found.has_ended:
            self._end, self._failure = _brief(found.message), _failure(found.message)
            self._ends(0 if found.succeeded else 1)

    def _ends(self, code: int) -> None:
        """The trainer has ended; what it has written is needed before that counts."""
        self._code = code
        try:
            self.collect()
            self._has_all = True
        except StorageUnreachable as exc:
            self._code = None
            self.trouble = self._cannot_read(exc)
        except OSError:
            return  # of the engine's disk, or a refusal: the next `collect` raises it

    def _cannot_read(self, exc: OSError) -> Message:
        return msg(
            "The shared storage {folder} cannot be read: {error}. The job goes on; its progress is shown later.",
            folder=self._job.storage.place,
            error=exc.strerror or exc,
        )


def submission_id(job: SharedJob, number: int) -> str:
    """The id of an attempt on the cluster; submitting it twice starts it once."""
    return f"{job.home.name}-{number}"


def _brief(message: str) -> str:
    """Ray's message about the end of a job, without the log that it quotes."""
    return message.partition("\n")[0].partition(", last available logs")[0]


def _failure(message: str) -> Mapping[str, Any] | None:
    """The failed state that a trainer could only write to its log; None if there is none."""
    line = message.rpartition(FAILED)[2].partition("\n")[0] if FAILED in message else ""
    try:
        failure = json.loads(line)
    except ValueError:
        return None
    return failure if isinstance(failure, dict) else None
