"""Lets a job that waits for something else (a provider, the user, another job) release its slot in the worker."""

from __future__ import annotations


class RetryLater(Exception):
    """Resume this job after `seconds`, possibly in another worker.

    Raise it only when everything the job needs is in the ledger.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nothing to do for {seconds} s")
        self.seconds = seconds
