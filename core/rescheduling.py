"""Work that waits for others (a provider, a person, another piece of work) gives its place in the worker back."""

from __future__ import annotations


class RetryLater(Exception):
    """Nothing can be done for `seconds`: the piece is taken up again then, perhaps by another worker.

    Everything that it needs is in the ledger when this is raised.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"nothing to do for {seconds} s")
        self.seconds = seconds
