"""`python -m tests.support.rank RANK SIZE STORE FOLDER…`: a process that trains jobs with others, without Ray."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import distributed

from core.engine.training.job_folder import JobSpec, Journal
from core.engine.training.trainer.on_ray import SilentJournal
from core.engine.training.trainer.ranks import ALONE, ProcessGroup
from core.engine.training.trainer.run import train


def main(rank: int, size: int, store: str, folders: list[Path]) -> None:
    """Train the jobs of all folders, one after another."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    ranks = ProcessGroup() if size > 1 else ALONE
    for folder in folders:
        journal = Journal(folder) if rank == 0 else SilentJournal(folder)
        train(JobSpec.read(folder), journal, lambda: False, ranks)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], [Path(name) for name in sys.argv[4:]])
