"""`python -m core.engine.training.trainer.on_ray ATTEMPT --workers N`: the entry point of a Ray job.

It runs on the cluster and trains the job in the folder ATTEMPT with one process per worker (`TorchTrainer`). Ray
repeats nothing: if a process dies, this program ends with code 1, and the engine decides what comes next.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from core.engine import json_file
from core.engine.event_log import read_state
from core.engine.launcher_settings import Shard
from core.engine.training import attempts
from core.engine.training.job_folder import JobSpec, Journal, Status
from core.engine.training.trainer import device, failure
from core.engine.training.trainer.ranks import ALONE, ProcessGroup, Ranks
from core.engine.training.trainer.run import train
from core.message import sentences, to_json

_LOG = "trainer.log"
_FAILURE = "failure.json"
# Ray's own memory monitor, and PyTorch's allocators
_NO_MEMORY = re.compile(r"OutOfMemory|out of memory|running low on memory|MemoryError", re.IGNORECASE)
_LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset) by peer|socket", re.IGNORECASE)
_LOG_CHARS = 160  # Ray explains in a paragraph what may have happened to a process; the first sentences say what did
_TIMEOUT_S = 1800  # for one step of the slowest process, including the conversion of a base model


def main(arguments: list[str] | None = None) -> int:
    """Train; return 0 if the job is finished, paused or has failed for a reason that is in its journal."""
    parser = argparse.ArgumentParser(prog="python -m core.engine.training.trainer.on_ray")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--shard", choices=get_args(Shard), default="auto")
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args(arguments)
    try:
        _fit(options)
    except Exception as exc:  # Ray's errors wrap those of its processes in many ways
        return _explain(options.folder, exc)
    return 0


def _fit(options: argparse.Namespace) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(log_to_driver=False)
    folder: Path = options.folder
    trainer = TorchTrainer(
        train_rank,
        train_loop_config={"folder": str(folder), "cpus": options.cpus, "shard": options.shard},
        scaling_config=ScalingConfig(
            num_workers=options.workers, use_gpu=options.gpu, resources_per_worker=_resources(options)
        ),
        torch_config=TorchConfig(backend="nccl" if options.gpu else "gloo", timeout_s=_TIMEOUT_S),
        run_config=RunConfig(name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=0)),
    )
    trainer.fit()


def _resources(options: argparse.Namespace) -> dict[str, float]:
    return {"CPU": options.cpus, **({"GPU": 1} if options.gpu else {})}


def train_rank(config: Mapping[str, Any]) -> None:
    """One process of the job; Ray calls it in each worker."""
    from torch import distributed

    folder = Path(config["folder"])
    ranks: Ranks = ProcessGroup() if distributed.get_world_size() > 1 else ALONE
    journal: Journal = Journal(folder) if ranks.rank == 0 else SilentJournal(folder)
    if ranks.rank == 0:
        os.close(os.open(folder / attempts.CLAIM, os.O_CREAT | os.O_EXCL))  # this attempt has not run before
    try:
        spec = replace(JobSpec.read(folder), threads=config["cpus"])
        train(spec, journal, _stop_request(folder), ranks, config["shard"])
    except Exception as exc:
        if not _is_lost_peer(exc):  # then the process that is gone knows the reason, or its node has failed
            if ranks.rank == 0:
                failure.report(journal, exc)
            else:
                error, next_step = failure.describe(exc)
                message = to_json(sentences(error, next_step))
                json_file.write(folder / _FAILURE, {"error": error, "next_step": next_step, "message": message})
        raise


class SilentJournal(Journal):
    """The journal of the processes that write nothing."""

    def event(self, message: str, level: str = "info", **data: Any) -> None:
        """Nothing is written."""

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def checkpoint(self, row: Mapping[str, Any]) -> None:
        """Nothing is written."""

    def state(self, status: Status, *, now: bool = False, **figures: Any) -> None:
        """Nothing is written."""

    def rewind(self, step: int) -> None:
        """Nothing is written."""

    def sync(self) -> None:
        """Nothing is written."""


def _stop_request(folder: Path) -> Callable[[], bool]:
    """True once the engine has asked for a stop, or has begun a newer attempt."""
    return lambda: (folder / attempts.STOP).exists() or not attempts.is_newest(folder)


def _is_lost_peer(exc: Exception) -> bool:
    """Whether an error only says that another process has gone."""
    from torch import distributed

    if device.is_out_of_memory(exc):
        return False
    return isinstance(exc, distributed.DistError) or (
        isinstance(exc, RuntimeError) and _LOST_PEER.search(str(exc)) is not None
    )


def _explain(folder: Path, exc: Exception) -> int:
    """Say why the attempt has ended, in its state if the job cannot go on and otherwise in its log."""
    text = f"{type(exc).__name__}: {exc}"
    print(text, file=sys.stderr)
    journal = Journal(folder)
    if read_state(folder).get("status") != "failed":
        if (folder / _FAILURE).exists():
            journal.state("failed", now=True, **json.loads((folder / _FAILURE).read_text(encoding="utf-8")))
        elif _NO_MEMORY.search(text):
            failure.report(journal, MemoryError(text))
    with contextlib.suppress(OSError), (folder / _LOG).open("a", encoding="utf-8") as log:
        log.write(f"{_last_words(text)}\n")
    return 1


def _last_words(text: str) -> str:
    """The beginning of the line of an error that names its cause: the last one that is neither indented nor empty."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith((" ", "\t"))]
    return (lines[-1] if lines else text)[:_LOG_CHARS]


if __name__ == "__main__":
    sys.exit(main())
