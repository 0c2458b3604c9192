"""Trains jobs on a Ray cluster: one Ray job per attempt, started, watched and stopped by the engine."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from core.engine import json_file, launcher_settings
from core.engine.launcher_settings import Shard
from core.engine.training import attempts
from core.engine.training.attempts import FAILED, Attempt, HomeFull, ProgressMissing, SharedJob
from core.engine.training.job_context import JobFailed, describe_error
from core.engine.training.launcher import LauncherUnavailable
from core.engine.training.ray_cluster import Capacity, ClusterJob, RayCluster
from core.engine.training.shared_storage import SharedStorage, StorageRefused, StorageUnreachable
from core.message import Message, msg, with_cause

_MAX_JOBS = 16  # threads; the cluster's size decides how many of them have a job
_LOOK_S = 2.0  # between two questions to the cluster about a job
_CAPACITY_S = 30.0  # between two questions about its size, also after one without an answer
_POLL_S = 0.25
_KILL_S = 15.0  # Ray waits 3 s between SIGTERM and SIGKILL
_ENDED = {"succeeded": 0, "paused": 0, "failed": 1}  # statuses in state.json after which a trainer does nothing more


class JobsApi(Protocol):
    """What a launcher needs of `core.engine.training.ray_cluster.RayCluster`."""

    def submit(self, submission_id: str, command: list[str]) -> None: ...

    def find(self, submission_id: str) -> ClusterJob | None: ...

    def stop(self, submission_id: str) -> None: ...

    def capacity(self) -> Capacity: ...


class RayLauncher:
    """Starts trainers on a cluster.

    Args:
        cluster: the cluster.
        storage: what the engine shares with every node.
        workers: processes per job, each with a GPU if the cluster has any.
        cpus: processors per process.
        shard: whether a base model's layers are split over them.
        node_gb: what copies of base models from a bucket take on a node's disk, at most; None for half of the disk.
    """

    max_jobs = _MAX_JOBS

    def __init__(
        self,
        cluster: JobsApi,
        storage: SharedStorage,
        workers: int = 1,
        cpus: int = 1,
        shard: Shard = "auto",
        node_gb: int | None = None,
    ) -> None:
        self._cluster, self._storage, self._workers, self._cpus = cluster, storage, workers, cpus
        self._shard, self._node_gb = shard, node_gb
        self._capacity: tuple[float, Capacity] | None = None
        self._failed_at = -math.inf

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> RayLauncher:
        """The launcher of the settings."""
        return cls(
            RayCluster(launcher_settings.dashboard_address(environ[launcher_settings.LAUNCHER]) or ""),
            attempts.storage_of(environ[launcher_settings.STORAGE].strip()),
            launcher_settings.count(environ, launcher_settings.WORKERS),
            launcher_settings.count(environ, launcher_settings.CPUS),
            launcher_settings.shard(environ),
            launcher_settings.node_gb(environ),
        )

    def at_once(self) -> int:
        """See `Launcher`. A cluster that was not measured yet, or is too small so far, trains one."""
        return 1 if self._capacity is None else min(_MAX_JOBS, max(1, self._fitting(self._capacity[1])))

    def has_room(self, running: int) -> bool:
        """See `Launcher`. A job that is alone starts in any case: a cluster may grow when it is asked for more."""
        if running == 0:
            return True
        if self._failed_just_now():  # a question may take seconds, and others wait for it
            return False
        try:
            capacity = self._measured()
        except LauncherUnavailable:
            self._failed_at = time.monotonic()
            return False
        return running < self._fitting(capacity)

    def launch(self, folder: Path) -> RayTrainer:
        """See `Launcher`."""
        job = SharedJob(self._storage, folder)
        capacity = self._measured()
        self._end_left_over(job)
        try:
            attempt = self._running(job) or job.prepare()
        except ProgressMissing as exc:
            raise JobFailed(
                msg(
                    "The job's progress is not on the shared storage {folder}. Nothing was started. Check that the "
                    "storage is mounted, then resume the job.",
                    folder=self._storage.place,
                ),
                "insufficient_storage",
            ) from exc
        except StorageUnreachable as exc:
            raise LauncherUnavailable(
                msg(
                    "The shared storage does not answer: {error} The job waits; saved progress is kept.",
                    error=exc.args[0],
                )
            ) from exc
        except HomeFull as exc:
            raise describe_error(exc) from exc
        except OSError as exc:
            raise self._storage_failed(exc) from exc
        if not attempt.submitted:
            self._submit(job, attempt, capacity)
        shortage = None if self._fitting(capacity) else self._too_small(capacity)
        return RayTrainer(self._cluster, job, attempt.number, shortage)

    def abandon(self, folder: Path) -> None:
        """See `Launcher`. The cluster is not asked, because it may be gone."""
        job = SharedJob(self._storage, folder)
        attempt = job.current()
        if attempt is None or attempt.ended or attempt.stop_requested:
            return
        if job.is_there(attempt.number):
            job.request_stop(attempt.number)
        job.record(replace(attempt, stop_requested=True))

    def forget(self, folder: Path) -> None:
        """See `Launcher`."""
        job = SharedJob(self._storage, folder)
        attempt = job.current() or Attempt(0, ended=True)  # the first one may have been prepared in part
        if attempt.deleted or not folder.is_dir():
            return
        if not attempt.ended:  # the engine was killed before it ended the attempt
            job.leave_running(attempt.number)
        job.delete()
        job.record(replace(attempt, ended=True, deleted=True))

    def end_left_over(self, folder: Path) -> bool:
        """See `Launcher`."""
        job = SharedJob(self._storage, folder)
        if self._failed_just_now():
            return not job.left_running()
        try:
            self._end_left_over(job)
        except LauncherUnavailable:
            self._failed_at = time.monotonic()
            raise
        return True

    def _end_left_over(self, job: SharedJob) -> None:
        for number in job.left_running():
            self._cluster.stop(submission_id(job, number))
            job.has_ended(number)

    def _failed_just_now(self) -> bool:
        return time.monotonic() - self._failed_at < _CAPACITY_S

    def _running(self, job: SharedJob) -> Attempt | None:
        """The attempt that an engine before this one has started; None if it has ended or is lost."""
        attempt = job.current()
        if attempt is None or attempt.ended:
            return None
        found = self._cluster.find(submission_id(job, attempt.number))
        if found is None:  # never submitted, or the cluster is another one by now
            return None if attempt.submitted else attempt
        finished = job.state(attempt.number).get("status") == "succeeded"
        return replace(attempt, submitted=True) if finished or not found.has_ended else None

    def _submit(self, job: SharedJob, attempt: Attempt, capacity: Capacity) -> None:
        command = ["python", "-m", "core.engine.training.trainer.on_ray", shlex.quote(job.location(attempt.number))]
        command += ["--workers", str(self._workers), "--cpus", str(self._cpus), "--shard", self._shard]
        command += [] if self._node_gb is None else ["--node-gb", str(self._node_gb)]
        command += ["--gpu"] if capacity.gpus else []
        try:
            self._cluster.submit(submission_id(job, attempt.number), command)
        except RuntimeError as exc:
            raise JobFailed(
                msg(
                    "The Ray cluster refused the job: {error}. Nothing is lost; resume the job when this is fixed.",
                    error=exc,
                ),
                "training_failed",
            ) from exc
        job.record(replace(attempt, submitted=True))

    def _measured(self) -> Capacity:
        if self._capacity is None or time.monotonic() - self._capacity[0] > _CAPACITY_S:
            self._capacity = time.monotonic(), self._cluster.capacity()
        return self._capacity[1]

    def _fitting(self, capacity: Capacity) -> int:
        """How many jobs fit into the cluster at once. A process with a GPU takes its processors as well."""
        by_cpus = capacity.cpus // (self._workers * self._cpus)
        return min(by_cpus, capacity.gpus // self._workers) if capacity.gpus else by_cpus

    def _too_small(self, capacity: Capacity) -> Message:
        if 0 < capacity.gpus < self._workers:
            return msg(
                "The job needs {needed} GPUs and the Ray cluster has {there}. The job waits for more; add nodes, or "
                "set FABULA_RAY_WORKERS to a smaller number.",
                needed=self._workers,
                there=capacity.gpus,
            )
        return msg(
            "The job needs {needed} processors and the Ray cluster has {there}. The job waits for more; add nodes, or "
            "set FABULA_RAY_WORKERS or FABULA_RAY_CPUS to a smaller number.",
            needed=self._workers * self._cpus,
            there=capacity.cpus,
        )

    def _storage_failed(self, exc: OSError) -> JobFailed:
        if isinstance(exc, StorageRefused):
            return describe_error(exc)
        message = msg(
            "The shared storage {folder} is full or cannot be written: {error}. The job's last checkpoint is kept. "
            "Free some space there, then resume the job.",
            folder=self._storage.place,
            error=exc.strerror or exc,
        )
        return JobFailed(with_cause(message, "storage"), "insufficient_storage")


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
        self._code = -1 if self._code is None else self._code

    def close(self) -> None:
        """See `Trainer`. An attempt that has ended is not looked at again; one that has not goes on."""
        if self._code is None:
            return
        self._job.record(Attempt(self.number, submitted=True, ended=True))
        if self._code != 0:  # its other processes may be waiting for one that is gone
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
