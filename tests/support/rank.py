"""`python -m tests.support.rank RANK SIZE STORE FOLDER…`: a process that trains jobs with others, without Ray."""

from __future__ import annotations

import argparse
from itertools import count
from pathlib import Path
from typing import get_args

from torch import distributed

from core.engine.launcher_settings import Shard
from core.engine.training.job_folder import JobSpec, Journal
from core.engine.training.trainer import failure, frozen
from core.engine.training.trainer.device import Device
from core.engine.training.trainer.on_ray import SilentJournal
from core.engine.training.trainer.ranks import ALONE, ProcessGroup
from core.engine.training.trainer.run import train


def main(rank: int, size: int, store: str, folders: list[Path], shard: Shard, stop_after: int | None) -> None:
    """Train the jobs of all folders, one after another; each stops after `stop_after` steps."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    ranks = ProcessGroup() if size > 1 else ALONE
    for folder in folders:
        journal = Journal(folder) if rank == 0 else SilentJournal(folder)
        steps = count(1)
        try:
            train(JobSpec.read(folder), journal, lambda: next(steps) == stop_after, ranks, shard)  # noqa: B023
        except Exception as exc:
            failure.report(journal, exc)
            raise
    distributed.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rank", type=int)
    parser.add_argument("size", type=int)
    parser.add_argument("store")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--shard", choices=get_args(Shard), default="never")
    parser.add_argument("--stop-after", type=int)
    parser.add_argument("--free", type=int, help="bytes of memory that seem to be free, without bitsandbytes")
    options = vars(parser.parse_args())
    if free := options.pop("free"):
        Device.free_bytes = lambda _: free  # type: ignore[method-assign, assignment]
        frozen.can_quantise = lambda: False
    main(**options)
