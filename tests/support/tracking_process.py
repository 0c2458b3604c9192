"""A process that logs a job to real trackers as a worker does, for tests that kill it.

Arguments: the job's id, the length of its curve at each poll (`3,5`), and what happens afterwards: `hang` (until
killed), `end`.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from core.db.store import Store
from core.finetuning import jobs
from core.settings import Settings
from tests.support.fakes import FakeClient, FakeRegistry, remote_job

HEADER = "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"


def curve(steps: int) -> str:
    """Create a result file with a decreasing loss."""
    return HEADER + "".join(f"{n},{n * 60},{n},{2 / n:.4f},0.0,{1 - 0.5 / n:.4f}\n" for n in range(1, steps + 1))


def client(*lengths: int, ends: bool = True) -> FakeClient:
    """Create a provider whose job has this many steps at each poll, and ends with the last one."""
    made = FakeClient()
    last = remote_job("succeeded" if ends else "running")
    made.enqueue("job", *[remote_job("running")] * (len(lengths) - 1), last)
    made.enqueue("file_text", *[curve(length) for length in lengths])
    return made


class _Pause(threading.Event):
    """A pause that does not wait until all polls are done."""

    def __init__(self, looks: int, seen: FakeClient) -> None:
        super().__init__()
        self._looks, self._seen = looks, seen

    def wait(self, timeout: float | None = None) -> bool:
        if self._seen.count("file_text") >= self._looks:
            print("there", flush=True)
            return super().wait()
        return False


def main() -> None:
    """Run the job."""
    job_id, lengths, behaviour = sys.argv[1], [int(one) for one in sys.argv[2].split(",")], sys.argv[3]
    provider = client(*lengths, ends=behaviour == "end")
    registry: Any = FakeRegistry({"engine": provider})
    jobs.carry_out(Store.open(Settings.from_env()), registry, job_id, _Pause(len(lengths), provider))


if __name__ == "__main__":
    main()
